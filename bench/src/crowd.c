/* Many connections at once, by the kernel's own TCP: a server for all the floods, and who crowds at it. */
#include "load.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS 256
#define DATA_LEN (64u << 10)
#define AT_ONCE 64		/* connections that a crowd begins in one go */

enum service { ECHO, SOURCE, SINK, OTHER_ECHO, DATAGRAMS, LISTENERS = 8 };

static uint8_t data[DATA_LEN];

static void watch(int epfd, int fd, uint32_t kind, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.u64 = (uint64_t)kind << 32 | (uint32_t)fd };

	if (epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &event) < 0)
		die("epoll_ctl");
}

static void welcome(int epfd, int listener, uint32_t kind)
{
	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd < 0 && errno == EINTR)
			continue;
		if (fd < 0)
			return;			/* also for want of descriptors: it stays in the queue */
		if (kind == SINK)
			watch(epfd, fd, kind, 0);	/* tells of resets only */
		else
			watch(epfd, fd, kind, kind == SOURCE ? EPOLLOUT | EPOLLET : EPOLLIN);
	}
}

static void answer(int fd)
{
	ssize_t n = recv(fd, data, sizeof(data), MSG_DONTWAIT);

	if (n > 0)
		send(fd, data, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
	else if (n == 0 || (errno != EAGAIN && errno != EINTR))
		close(fd);
}

static void pour(int fd)
{
	ssize_t n;

	do
		n = send(fd, data, sizeof(data), MSG_DONTWAIT | MSG_NOSIGNAL);
	while (n > 0);
	if (n < 0 && errno != EAGAIN)
		close(fd);
}

static void answer_datagrams(int fd)
{
	union address from;

	for (int i = 0; i < EVENTS; i++) {
		socklen_t len = sizeof(from);
		ssize_t n = recvfrom(fd, data, sizeof(data), MSG_DONTWAIT, &from.any, &len);

		if (n < 0)
			return;
		sendto(fd, data, (size_t)n, MSG_DONTWAIT, &from.any, len);
	}
}

/* load serve PORT LIMIT [other]: any number of clients at a time. PORT echoes, by TCP and UDP; PORT + 1 sends all that
 * anybody takes; PORT + 2 accepts and never reads. With "other" PORT + 3 echoes as PORT does. */
int cmd_serve(int argc, char **argv)
{
	struct epoll_event events[EVENTS];
	char port[8];
	int epfd = epoll_create1(EPOLL_CLOEXEC), number;

	if (argc != 3 && argc != 4)
		return 2;
	number = (int)parse_number(argv[1], "PORT", 1, 65000);
	limit_arm(parse_number(argv[2], "LIMIT", 0.001, 3600));
	raise_nofile();
	for (uint32_t kind = ECHO; kind <= (argc == 4 ? OTHER_ECHO : SINK); kind++) {
		int fd;

		snprintf(port, sizeof(port), "%d", number + (int)kind);
		fd = listen_wildcard(port, SOCK_STREAM);
		if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
			die("fcntl");
		watch(epfd, fd, LISTENERS + kind, EPOLLIN);
	}
	watch(epfd, listen_wildcard(argv[1], SOCK_DGRAM), DATAGRAMS, EPOLLIN);
	if (argc == 4)
		watch(epfd, listen_wildcard(port, SOCK_DGRAM), DATAGRAMS, EPOLLIN);
	say_listening();
	for (;;) {
		int n = epoll_wait(epfd, events, EVENTS, -1);

		for (int i = 0; i < n; i++) {
			uint32_t kind = (uint32_t)(events[i].data.u64 >> 32);
			int fd = (int)(uint32_t)events[i].data.u64;

			if (kind >= LISTENERS)
				welcome(epfd, fd, kind - LISTENERS);
			else if (kind == DATAGRAMS)
				answer_datagrams(fd);
			else if (kind == SINK || events[i].events & (EPOLLERR | EPOLLHUP))
				close(fd);
			else if (kind == SOURCE)
				pour(fd);
			else
				answer(fd);
		}
	}
}

static int begin(int epfd, const union address *to, socklen_t len)
{
	int fd = socket(to->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return 0;
	if (connect(fd, &to->any, len) < 0 && errno != EINPROGRESS) {
		close(fd);
		return 0;
	}
	watch(epfd, fd, 0, EPOLLOUT | EPOLLET | EPOLLRDHUP);
	return 1;
}

/* load crowd ADDRESS PORT COUNT hold|write|read|come-and-go SECONDS: keep COUNT connections open, and do nothing with
 * them, or write or read what they take or give, or end each as soon as it is open. One that fails is begun anew. */
int cmd_crowd(int argc, char **argv)
{
	struct epoll_event events[EVENTS];
	uint64_t opened = 0, failed = 0, start = now_ns(), end;
	int epfd = epoll_create1(EPOLL_CLOEXEC), count, there = 0, most = 0;
	union address to;
	socklen_t len;
	double seconds;
	char mode;

	if (argc != 6 || !strchr("hwrc", argv[4][0]))
		return 2;
	len = parse_address(argv[1], argv[2], &to);
	count = (int)parse_number(argv[3], "COUNT", 1, 1000000);
	mode = argv[4][0];
	seconds = parse_number(argv[5], "SECONDS", 0.001, 600);
	limit_arm(seconds + 5);
	raise_nofile();
	end = start + (uint64_t)(seconds * 1e9);
	while (now_ns() < end) {
		int n;

		for (n = 0; n < AT_ONCE && there < count && begin(epfd, &to, len); n++)
			there++;
		most = there > most ? there : most;
		n = epoll_wait(epfd, events, EVENTS, 10);
		for (int i = 0; i < n; i++) {
			int fd = (int)(uint32_t)events[i].data.u64;
			int over = events[i].events & (EPOLLERR | EPOLLHUP | EPOLLRDHUP);

			failed += over != 0;
			opened += !over;
			if (over || mode == 'c') {
				close(fd);
				there--;
			} else if (mode == 'w') {
				while (send(fd, data, sizeof(data), MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
					;
			} else if (mode == 'r') {
				while (recv(fd, data, sizeof(data), MSG_DONTWAIT) > 0)
					;
			}
		}
	}
	printf("{\"sent\": %llu, \"refused\": %llu, \"opened\": %d, \"seconds\": %.6f}\n", (unsigned long long)opened,
	       (unsigned long long)failed, most, (double)(now_ns() - start) / 1e9);
	return 0;
}
