/* TCP: request/response, connect/request/response, and a holder of idle connections.
 *
 * Servers serve one connection at a time with blocking calls, the shortest path that a server can
 * have: the measurement starts a server of its own, so nobody waits behind anybody else.
 */
#include "load.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BULK_LEN (128u << 10)	/* iperf3's */

static const double MAX_SECONDS = 3600;

static int accept_one(int listener)
{
	int fd;

	do
		fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	while (fd < 0 && (errno == EINTR || errno == ECONNABORTED));
	if (fd < 0)
		die("accept");
	return fd;
}

/* Answer each MESSAGE_LEN bytes with as many, until the client closes. */
static void serve_rr(int fd)
{
	char message[MESSAGE_LEN];

	while (recv_all(fd, message, sizeof(message)) > 0)
		if (send_all(fd, message, sizeof(message)) < 0)
			break;
	close(fd);
}

/* Answer one message and close first, so that TIME-WAIT stays on the server's side and the
 * client's ephemeral ports are free again at once. */
static void serve_crr(int fd)
{
	char message[MESSAGE_LEN];

	if (recv_all(fd, message, sizeof(message)) > 0)
		send_all(fd, message, sizeof(message));
	close(fd);
}

/* Keep the connection open until we end. */
static void serve_hold(int fd)
{
	(void)fd;
}

/* Take all that comes, until the client closes. */
static void serve_sink(int fd)
{
	static char data[BULK_LEN];

	while (recv(fd, data, sizeof(data), 0) > 0)
		;
	close(fd);
}

/* Send until the client closes. */
static void serve_source(int fd)
{
	static char data[BULK_LEN];

	while (send_all(fd, data, sizeof(data)) == 0)
		;
	close(fd);
}

static void (*service_named(const char *name))(int)
{
	if (!strcmp(name, "rr"))
		return serve_rr;
	if (!strcmp(name, "crr"))
		return serve_crr;
	if (!strcmp(name, "sink"))
		return serve_sink;
	if (!strcmp(name, "source"))
		return serve_source;
	return strcmp(name, "hold") ? NULL : serve_hold;
}

/* load tcp-server PORT rr|crr|sink|source|hold LIMIT */
int cmd_tcp_server(int argc, char **argv)
{
	void (*serve)(int) = argc == 4 ? service_named(argv[2]) : NULL;
	int listener;

	if (!serve)
		return 2;
	limit_arm(parse_number(argv[3], "LIMIT", 0.001, MAX_SECONDS));
	raise_nofile();
	listener = listen_wildcard(argv[1], SOCK_STREAM);
	say_listening();
	for (;;)
		serve(accept_one(listener));
}

/* load rr ADDRESS PORT SECONDS */
int cmd_rr(int argc, char **argv)
{
	static struct hist hist;
	char message[MESSAGE_LEN] = { 0 };
	uint64_t start, end, before, after;
	union address to;
	socklen_t len;
	double seconds;
	int fd;

	if (argc != 4)
		return 2;
	len = parse_address(argv[1], argv[2], &to);
	seconds = parse_number(argv[3], "SECONDS", 0.001, MAX_SECONDS);
	limit_arm(seconds + 3);
	fd = connect_to(&to, len, SOCK_STREAM);
	if (fd < 0)
		die("connect");
	before = start = now_ns();
	end = start + (uint64_t)(seconds * 1e9);
	while (before < end) {
		if (send_all(fd, message, sizeof(message)) < 0)
			die("send");
		if (recv_all(fd, message, sizeof(message)) <= 0)
			die("recv");
		after = now_ns();
		hist_add(&hist, after - before);
		before = after;
	}
	hist_print(&hist, before - start, 0);
	return 0;
}

/* One transaction; returns the nanoseconds from connect() to the whole response. The end of the
 * stream is waited for outside that time, so that each connection is over before the next. */
static uint64_t transact(const union address *to, socklen_t len)
{
	char message[MESSAGE_LEN] = { 0 };
	uint64_t before = now_ns(), after;
	int fd = connect_to(to, len, SOCK_STREAM);

	if (fd < 0)
		die("connect");
	if (send_all(fd, message, sizeof(message)) < 0)
		die("send");
	if (recv_all(fd, message, sizeof(message)) <= 0)
		die("recv");
	after = now_ns();
	if (recv_all(fd, message, 1) != 0)
		die("recv at the end of the stream");
	close(fd);
	return after - before;
}

/* load crr ADDRESS PORT SECONDS */
int cmd_crr(int argc, char **argv)
{
	static struct hist hist;
	uint64_t start, end;
	union address to;
	socklen_t len;
	double seconds;

	if (argc != 4)
		return 2;
	len = parse_address(argv[1], argv[2], &to);
	seconds = parse_number(argv[3], "SECONDS", 0.001, MAX_SECONDS);
	limit_arm(seconds + 3);
	start = now_ns();
	end = start + (uint64_t)(seconds * 1e9);
	while (now_ns() < end)
		hist_add(&hist, transact(&to, len));
	hist_print(&hist, now_ns() - start, 0);
	return 0;
}

/* load idle ADDRESS PORT COUNT LIMIT: open COUNT connections, say how many, hold them until
 * standard input ends. Fewer than COUNT is a result, not a failure: the caller judges. */
int cmd_idle(int argc, char **argv)
{
	int count, opened, error = 0;
	union address to;
	socklen_t len;
	char byte;

	if (argc != 5)
		return 2;
	len = parse_address(argv[1], argv[2], &to);
	count = (int)parse_number(argv[3], "COUNT", 1, 1000000);
	limit_arm(parse_number(argv[4], "LIMIT", 0.001, MAX_SECONDS));
	raise_nofile();
	for (opened = 0; opened < count && !error; opened++) {
		if (connect_to(&to, len, SOCK_STREAM) < 0) {
			error = errno;
			break;
		}
	}
	printf("{\"opened\": %d, \"error\": \"%s\"}\n", opened, error ? strerror(error) : "");
	fflush(stdout);
	while (read(STDIN_FILENO, &byte, 1) > 0)
		;
	return 0;
}
