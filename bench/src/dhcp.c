/* DHCP exchanges, and a flood of control frames. */
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define CLIENT_PORT 68
#define SERVER_PORT 67
#define OPTIONS_AT 240
#define MESSAGE_MAX 1500
#define PACE_NS 50000000	/* between exchanges: a client does not ask all the time */
#define MAX_SECONDS 600

enum { DISCOVER = 1, OFFER = 2, REQUEST = 3, ACK = 5 };

static int open_client(void)
{
	struct sockaddr_in own = { .sin_family = AF_INET, .sin_port = htons(CLIENT_PORT) };
	struct timeval limit = { .tv_sec = 1 };
	int on = 1, fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &on, sizeof(on)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) < 0)
		die("socket");
	if (bind(fd, (struct sockaddr *)&own, sizeof(own)) < 0)
		die("bind to port 68");
	return fd;
}

/* A message of a type; *offer*, if given, is the one that a REQUEST takes. Returns its length. */
static size_t build(unsigned char *p, uint32_t xid, int type, const unsigned char *offer)
{
	static const unsigned char cookie[4] = { 99, 130, 83, 99 }, asked[] = { 55, 4, 1, 3, 6, 26 };
	static const unsigned char mac[6] = { 2, 0, 0, 0, 0, 5 };
	size_t n = OPTIONS_AT;

	memset(p, 0, 300);
	p[0] = p[1] = 1;
	p[2] = sizeof(mac);
	memcpy(p + 4, &xid, sizeof(xid));
	memcpy(p + 28, mac, sizeof(mac));
	memcpy(p + 236, cookie, sizeof(cookie));
	memcpy(p + n, (unsigned char[]){ 53, 1, (unsigned char)type }, 3);
	memcpy(p + n + 3, asked, sizeof(asked));
	n += 3 + sizeof(asked);
	if (offer) {
		memcpy(p + n, (unsigned char[]){ 50, 4 }, 2);
		memcpy(p + n + 2, offer + 16, 4);
		n += 6;
	}
	p[n] = 255;
	return 300;
}

static int type_of(const unsigned char *p, size_t len)
{
	size_t at = OPTIONS_AT;

	while (at + 2 < len && p[at] != 255) {
		if (p[at] == 53)
			return p[at + 2];
		at += p[at] ? 2u + p[at + 1] : 1u;
	}
	return 0;
}

static void send_to_server(int fd, const unsigned char *message, size_t len)
{
	struct sockaddr_in all = { .sin_family = AF_INET, .sin_port = htons(SERVER_PORT),
				   .sin_addr.s_addr = htonl(INADDR_BROADCAST) };

	if (sendto(fd, message, len, 0, (struct sockaddr *)&all, sizeof(all)) < 0 && errno != ENOBUFS)
		die("send");
}

/* Whether the answer of a type to xid comes, into *answer*, within the socket's time limit. */
static int await(int fd, uint32_t xid, int type, unsigned char *answer)
{
	for (;;) {
		ssize_t n = recv(fd, answer, MESSAGE_MAX, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return 0;
		if (n > OPTIONS_AT && !memcmp(answer + 4, &xid, sizeof(xid)) && type_of(answer, (size_t)n) == type)
			return 1;
	}
}

static void sleep_ns(uint64_t ns)
{
	struct timespec ts = { .tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u) };

	nanosleep(&ts, NULL);
}

/* load dhcp SECONDS: the time from DISCOVER to ACK */
int cmd_dhcp(int argc, char **argv)
{
	static struct hist hist;
	unsigned char message[MESSAGE_MAX], answer[MESSAGE_MAX];
	uint64_t start, end, before, lost = 0;
	uint32_t xid = 0x10000;
	double seconds;
	int fd;

	if (argc != 2)
		return 2;
	seconds = parse_number(argv[1], "SECONDS", 0.001, MAX_SECONDS);
	limit_arm(seconds + 3);
	fd = open_client();
	start = now_ns();
	end = start + (uint64_t)(seconds * 1e9);
	while ((before = now_ns()) < end) {
		send_to_server(fd, message, build(message, ++xid, DISCOVER, NULL));
		if (await(fd, xid, OFFER, answer)) {
			send_to_server(fd, message, build(message, xid, REQUEST, answer));
			if (await(fd, xid, ACK, answer))
				hist_add(&hist, now_ns() - before);
			else
				lost++;
		} else {
			lost++;
		}
		sleep_ns(PACE_NS);
	}
	hist_print(&hist, now_ns() - start, lost);
	return 0;
}

/* load dhcp-flood SECONDS RATE: DISCOVERs that nobody waits for, the dearest of control frames */
int cmd_dhcp_flood(int argc, char **argv)
{
	unsigned char message[MESSAGE_MAX];
	uint64_t start, end, sent = 0;
	double seconds, rate;
	int fd;

	if (argc != 3)
		return 2;
	seconds = parse_number(argv[1], "SECONDS", 0.001, MAX_SECONDS);
	rate = parse_number(argv[2], "RATE", 1, 1e6);
	limit_arm(seconds + 3);
	fd = open_client();
	say_listening();
	start = now_ns();
	end = start + (uint64_t)(seconds * 1e9);
	for (uint64_t now; (now = now_ns()) < end; ) {
		uint64_t due = start + (uint64_t)((double)sent * 1e9 / rate);

		if (due > now)
			sleep_ns(due - now);
		send_to_server(fd, message, build(message, (uint32_t)++sent, DISCOVER, NULL));
	}
	printf("{\"sent\": %llu}\n", (unsigned long long)sent);
	return 0;
}
