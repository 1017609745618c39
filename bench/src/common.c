/* Clock, histogram, limits and socket set-up shared by the subcommands. */
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static size_t hist_index(uint64_t ns)
{
	unsigned int shift;

	if (ns < (1u << HIST_SUB_BITS))
		return ns;
	shift = 63 - (unsigned int)__builtin_clzll(ns) - HIST_SUB_BITS;
	return ((size_t)(shift + 1) << HIST_SUB_BITS) + (size_t)((ns >> shift) - (1u << HIST_SUB_BITS));
}

static double hist_middle_ns(size_t index)
{
	unsigned int shift;

	if (index < (1u << HIST_SUB_BITS))
		return (double)index;
	shift = (unsigned int)(index >> HIST_SUB_BITS) - 1;
	return (double)(((index & ((1u << HIST_SUB_BITS) - 1)) + (1u << HIST_SUB_BITS)) << shift)
	       + (double)(1ull << shift) / 2;
}

void hist_add(struct hist *h, uint64_t ns)
{
	h->bucket[hist_index(ns)]++;
	h->count++;
	h->sum_ns += ns;
	if (ns > h->max_ns)
		h->max_ns = ns;
}

double hist_percentile_us(const struct hist *h, double percent)
{
	uint64_t seen = 0, rank = (uint64_t)((double)h->count * percent / 100.0);

	for (size_t i = 0; i < HIST_BUCKETS; i++) {
		seen += h->bucket[i];
		if (seen > rank)
			return hist_middle_ns(i) / 1000.0;
	}
	return (double)h->max_ns / 1000.0;
}

void hist_print(const struct hist *h, uint64_t elapsed_ns, uint64_t lost)
{
	printf("{\"count\": %llu, \"lost\": %llu, \"seconds\": %.6f, \"mean_us\": %.3f, \"p50_us\": %.3f, "
	       "\"p90_us\": %.3f, \"p99_us\": %.3f, \"max_us\": %.3f}\n",
	       (unsigned long long)h->count, (unsigned long long)lost, (double)elapsed_ns / 1e9,
	       h->count ? (double)h->sum_ns / (double)h->count / 1000.0 : 0.0,
	       hist_percentile_us(h, 50), hist_percentile_us(h, 90), hist_percentile_us(h, 99),
	       (double)h->max_ns / 1000.0);
	fflush(stdout);
}

void die(const char *what)
{
	fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void on_limit(int signal_number)
{
	static const char text[] = "load: hard time limit reached\n";

	(void)signal_number;
	if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0)
		_exit(4);
	_exit(3);
}

void limit_arm(double seconds)
{
	struct itimerval timer = { .it_value = { .tv_sec = (time_t)seconds,
		.tv_usec = (suseconds_t)((seconds - (double)(time_t)seconds) * 1e6) } };

	signal(SIGALRM, on_limit);
	if (setitimer(ITIMER_REAL, &timer, NULL) < 0)
		die("setitimer");
}

double parse_number(const char *text, const char *name, double min, double max)
{
	char *end;
	double value = strtod(text, &end);

	if (end == text || *end || !(value >= min && value <= max)) {
		fprintf(stderr, "load: %s must be a number from %g to %g, not '%s'\n", name, min, max, text);
		exit(2);
	}
	return value;
}

void raise_nofile(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		die("getrlimit");
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
		die("setrlimit");
}

void say_listening(void)
{
	puts("listening");
	fflush(stdout);
}

static in_port_t parse_port(const char *text)
{
	return htons((uint16_t)parse_number(text, "PORT", 1, 65535));
}

socklen_t parse_address(const char *host, const char *port, union address *out)
{
	memset(out, 0, sizeof(*out));
	if (inet_pton(AF_INET, host, &out->in4.sin_addr) == 1) {
		out->in4.sin_family = AF_INET;
		out->in4.sin_port = parse_port(port);
		return sizeof(out->in4);
	}
	if (inet_pton(AF_INET6, host, &out->in6.sin6_addr) == 1) {
		out->in6.sin6_family = AF_INET6;
		out->in6.sin6_port = parse_port(port);
		return sizeof(out->in6);
	}
	fprintf(stderr, "load: ADDRESS must be an IPv4 or IPv6 address, not '%s'\n", host);
	exit(2);
}

static void set_no_delay(int fd)
{
	int on = 1;

	if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0)
		die("TCP_NODELAY");
}

int listen_wildcard(const char *port, int type)
{
	struct sockaddr_in6 any = { .sin6_family = AF_INET6, .sin6_port = parse_port(port) };
	int on = 1, off = 0, fd = socket(AF_INET6, type | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket");
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
	    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)) < 0)
		die("setsockopt");
	if (bind(fd, (struct sockaddr *)&any, sizeof(any)) < 0)
		die("bind");
	if (type == SOCK_STREAM) {
		set_no_delay(fd);	/* accepted sockets inherit it */
		if (listen(fd, SOMAXCONN) < 0)
			die("listen");
	}
	return fd;
}

int connect_to(const union address *to, socklen_t len, int type)
{
	int fd = socket(to->any.sa_family, type | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	if (type == SOCK_STREAM)
		set_no_delay(fd);
	if (connect(fd, &to->any, len) < 0) {
		int saved = errno;

		close(fd);
		errno = saved;
		return -1;
	}
	return fd;
}

int connect_path(const char *path)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	uint64_t end = now_ns() + 1000000000u;

	if (fd < 0)
		die("socket");
	if (strlen(path) >= sizeof(name.sun_path)) {
		fprintf(stderr, "load: SOCKET must be shorter than %zu bytes\n", sizeof(name.sun_path));
		exit(2);
	}
	strcpy(name.sun_path, path);
	/* Who has bound its name may not listen yet. */
	while (connect(fd, (const struct sockaddr *)&name, sizeof(name)) < 0) {
		if (errno != ECONNREFUSED || now_ns() > end)
			die(path);
		usleep(10000);
	}
	return fd;
}

int send_all(int fd, const void *data, size_t len)
{
	const char *p = data;

	while (len) {
		ssize_t n = send(fd, p, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

int recv_all(int fd, void *data, size_t len)
{
	char *p = data;

	while (len) {
		ssize_t n = recv(fd, p, len, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return (int)n;
		p += n;
		len -= (size_t)n;
	}
	return 1;
}
