/* An innocent guest: small exchanges at a steady pace, old and new flows alike, each judged by itself.
 *
 * One of each kind begins at every tick: a request on an old TCP connection, a datagram of an old UDP flow, a new
 * connection with a request, a new UDP flow with a question. One that is not answered in time is lost. The old
 * flows were there before the first tick.
 */
#include "frames.h"
#include "load.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define TIME_LIMIT_NS 3000000000u	/* a SYN that was lost is repeated after 1 s, and after 3 s */
#define ASK_LIMIT_NS 1000000000u	/* of a datagram, which nobody repeats */
#define WARM_UP_NS 300000000u
#define MAX_TICKS 20000

enum kind { OLD_TCP, OLD_UDP, NEW_TCP, NEW_UDP, N_KINDS };

struct exchange {
	uint64_t start;
	int fd;
	int connecting, over;
	size_t got;
};

struct tally {
	struct hist hist;
	uint64_t asked, lost, resets;
};

static struct tally tallies[N_KINDS];
static struct exchange exchanges[N_KINDS][MAX_TICKS];
static unsigned int n_started[N_KINDS], n_judged[N_KINDS];
static union address to;
static socklen_t to_len;
static int epfd, old_fd[2];

static void watch(int fd, enum kind kind, unsigned int index, uint32_t events, int op)
{
	struct epoll_event event = { .events = events, .data.u64 = (uint64_t)kind << 32 | index };

	if (epoll_ctl(epfd, op, fd, &event) < 0)
		die("epoll_ctl");
}

static void finish(enum kind kind, struct exchange *x, int answered, int reset)
{
	if (x->over)
		return;
	x->over = 1;
	if (answered)
		hist_add(&tallies[kind].hist, now_ns() - x->start);
	else
		tallies[kind].lost++;
	tallies[kind].resets += (uint64_t)(reset != 0);
	if (kind >= NEW_TCP && x->fd >= 0)
		close(x->fd);
	x->fd = -1;
}

static void put_number(char *message, unsigned int index)
{
	memset(message, 0, MESSAGE_LEN);
	memcpy(message, &index, sizeof(index));
}

static void start_new(enum kind kind, unsigned int index)
{
	struct exchange *x = &exchanges[kind][index];
	char message[MESSAGE_LEN];

	x->fd = socket(to.any.sa_family, (kind == NEW_TCP ? SOCK_STREAM : SOCK_DGRAM) | SOCK_NONBLOCK | SOCK_CLOEXEC,
		       0);
	if (x->fd < 0)
		die("socket");
	if (connect(x->fd, &to.any, to_len) < 0 && errno != EINPROGRESS) {
		finish(kind, x, 0, 1);
		return;
	}
	x->connecting = kind == NEW_TCP;
	watch(x->fd, kind, index, x->connecting ? EPOLLOUT : EPOLLIN, EPOLL_CTL_ADD);
	put_number(message, index);
	if (kind == NEW_UDP && send(x->fd, message, sizeof(message), 0) < 0)
		finish(kind, x, 0, 1);
}

static void start(enum kind kind)
{
	unsigned int index = n_started[kind]++;
	struct exchange *x = &exchanges[kind][index];
	char message[MESSAGE_LEN];

	x->start = now_ns();
	x->fd = -1;
	tallies[kind].asked++;
	if (kind >= NEW_TCP) {
		start_new(kind, index);
		return;
	}
	put_number(message, index);
	if (old_fd[kind] < 0 || send(old_fd[kind], message, sizeof(message), MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		finish(kind, x, 0, 1);
}

/* Answers to the old flows carry the number of their question. */
static void on_old(enum kind kind)
{
	static char stream[MESSAGE_LEN];
	static size_t have;
	char datagram[MESSAGE_LEN];
	char *message = kind == OLD_TCP ? stream : datagram;
	unsigned int index;
	ssize_t n;

	for (;;) {
		if (kind == OLD_TCP)
			n = recv(old_fd[kind], stream + have, MESSAGE_LEN - have, MSG_DONTWAIT);
		else
			n = recv(old_fd[kind], datagram, MESSAGE_LEN, MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (kind == OLD_UDP && n < MESSAGE_LEN)
			continue;		/* an error of an earlier one */
		if (kind == OLD_TCP && n <= 0) {
			close(old_fd[kind]);
			old_fd[kind] = -1;
			for (unsigned int i = n_judged[kind]; i < n_started[kind]; i++)
				finish(kind, &exchanges[kind][i], 0, 1);
			return;
		}
		if (kind == OLD_TCP) {
			have += (size_t)n;
			if (have < MESSAGE_LEN)
				continue;
			have = 0;
		}
		memcpy(&index, message, sizeof(index));
		if (index < n_started[kind])
			finish(kind, &exchanges[kind][index], 1, 0);
	}
}

static void on_new(enum kind kind, unsigned int index)
{
	struct exchange *x = &exchanges[kind][index];
	char message[MESSAGE_LEN];
	ssize_t n;

	if (x->over)
		return;
	if (x->connecting) {
		int error = 0;
		socklen_t len = sizeof(error);

		getsockopt(x->fd, SOL_SOCKET, SO_ERROR, &error, &len);
		put_number(message, index);
		if (error || send(x->fd, message, sizeof(message), MSG_NOSIGNAL) < 0) {
			finish(kind, x, 0, 1);
			return;
		}
		x->connecting = 0;
		watch(x->fd, kind, index, EPOLLIN, EPOLL_CTL_MOD);
		return;
	}
	n = recv(x->fd, message, sizeof(message), MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n > 0)
		x->got += (size_t)n;
	if (n <= 0 || x->got >= MESSAGE_LEN)
		finish(kind, x, n > 0, n <= 0);
}

/* Give up what was not answered in time; all exchanges of a kind begin in order. */
static void expire(uint64_t now)
{
	for (int kind = 0; kind < N_KINDS; kind++) {
		uint64_t limit = kind == OLD_UDP || kind == NEW_UDP ? ASK_LIMIT_NS : TIME_LIMIT_NS;

		for (; n_judged[kind] < n_started[kind]; n_judged[kind]++) {
			struct exchange *x = &exchanges[kind][n_judged[kind]];

			if (!x->over && now - x->start < limit)
				break;
			finish((enum kind)kind, x, 0, 0);
		}
	}
}

static void open_old(void)
{
	char message[MESSAGE_LEN];

	for (int kind = OLD_TCP; kind <= OLD_UDP; kind++) {
		put_number(message, ~0u);
		old_fd[kind] = connect_to(&to, to_len, kind == OLD_TCP ? SOCK_STREAM : SOCK_DGRAM);
		if (old_fd[kind] < 0)
			die("connect");
		if (send_all(old_fd[kind], message, sizeof(message)) < 0 ||
		    recv_all(old_fd[kind], message, sizeof(message)) <= 0)
			die("the first exchange");
		watch(old_fd[kind], (enum kind)kind, 0, EPOLLIN, EPOLL_CTL_ADD);
	}
}

static void print_tallies(void)
{
	static const char *const names[N_KINDS] = { "old_tcp", "old_udp", "new_tcp", "new_udp" };

	for (int kind = 0; kind < N_KINDS; kind++) {
		const struct tally *t = &tallies[kind];

		printf("%s\"%s\": {\"asked\": %llu, \"lost\": %llu, \"resets\": %llu, \"p50_us\": %.1f, \"p99_us\": %.1f}",
		       kind ? ", " : "{", names[kind], (unsigned long long)t->asked, (unsigned long long)t->lost,
		       (unsigned long long)t->resets, hist_percentile_us(&t->hist, 50),
		       hist_percentile_us(&t->hist, 99));
	}
	puts("}");
}

/* load innocent ADDRESS PORT SECONDS TICK: says "listening" when the old flows are open, waits a moment for the flood
 * to begin, then starts an exchange of each kind every TICK ms for SECONDS. */
int cmd_innocent(int argc, char **argv)
{
	struct epoll_event events[64];
	uint64_t next, end, tick;
	double seconds;

	if (argc != 5)
		return 2;
	to_len = parse_address(argv[1], argv[2], &to);
	seconds = parse_number(argv[3], "SECONDS", 0.001, 600);
	tick = (uint64_t)(parse_number(argv[4], "TICK", 1, 1000) * 1e6);
	limit_arm(seconds + 15);
	raise_nofile();
	epfd = epoll_create1(EPOLL_CLOEXEC);
	if (epfd < 0)
		die("epoll_create1");
	open_old();
	say_listening();
	next = now_ns() + WARM_UP_NS;
	end = next + (uint64_t)(seconds * 1e9);
	for (;;) {
		uint64_t now = now_ns();
		int n, waiting = 0;

		for (; next <= now && next < end && n_started[0] < MAX_TICKS; next += tick)
			for (int kind = 0; kind < N_KINDS; kind++)
				start((enum kind)kind);
		now = now_ns();
		expire(now);
		for (int kind = 0; kind < N_KINDS; kind++)
			waiting += n_judged[kind] < n_started[kind];
		if (now >= end && !waiting)
			break;
		n = epoll_wait(epfd, events, 64, next < end && next > now ? (int)((next - now) / 1000000) + 1 : 10);
		for (int i = 0; i < n; i++) {
			enum kind kind = (enum kind)(events[i].data.u64 >> 32);

			if (kind <= OLD_UDP)
				on_old(kind);
			else
				on_new(kind, (unsigned int)events[i].data.u64);
		}
	}
	print_tallies();
	return 0;
}
