/* UDP: echo and round trip, and one-way floods in both directions with the receiver's count.
 *
 * Every datagram of a flood opens with its sequence number (64 bits, host order; both ends run on
 * one machine). "out": udp-source sends to udp-sink. "in": udp-pull greets udp-blast, which then
 * sends to the greeting's source address, so that no port needs to be forwarded.
 */
#include "load.h"

#include <errno.h>
#include <string.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define BATCH 32
#define MAX_DATAGRAM 65507
#define UDP_SEGMENT 103	/* linux/udp.h */
#define MOST_JOINED 44	/* the kernel takes 64, of 65507 bytes together */

static const double MAX_SECONDS = 3600;
static const int SILENCE_MS = 500;	/* a flood is over after this long without a datagram */
static const uint64_t SILENCE_NS = 500000000;

static char arena[BATCH][MAX_DATAGRAM + 1];
static struct mmsghdr messages[BATCH];
static struct iovec pieces[BATCH];

static void prepare_batch(size_t len)
{
	for (int i = 0; i < BATCH; i++) {
		pieces[i] = (struct iovec){ .iov_base = arena[i], .iov_len = len };
		messages[i].msg_hdr = (struct msghdr){ .msg_iov = &pieces[i], .msg_iovlen = 1 };
	}
}

static void set_receive_timeout(int fd, int ms)
{
	struct timeval tv = { .tv_sec = ms / 1000, .tv_usec = (ms % 1000) * 1000 };

	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)) < 0)
		die("SO_RCVTIMEO");
}

static void set_buffers(int fd)
{
	int len = 8 << 20;	/* cut by the kernel to net.core.rmem_max and wmem_max */

	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &len, sizeof(len)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &len, sizeof(len)) < 0)
		die("socket buffers");
}

/* load udp-echo PORT LIMIT */
int cmd_udp_echo(int argc, char **argv)
{
	union address from;
	int fd;

	if (argc != 3)
		return 2;
	limit_arm(parse_number(argv[2], "LIMIT", 0.001, MAX_SECONDS));
	fd = listen_wildcard(argv[1], SOCK_DGRAM);
	set_buffers(fd);
	say_listening();
	for (;;) {
		socklen_t from_len = sizeof(from);
		ssize_t n = recvfrom(fd, arena[0], MAX_DATAGRAM, 0, &from.any, &from_len);

		if (n >= 0)
			sendto(fd, arena[0], (size_t)n, 0, &from.any, from_len);
		else if (errno != EINTR && errno != ECONNREFUSED)
			die("recvfrom");
	}
}

/* Wait for the echo of datagram *sequence*; answers to older ones that were given up are
 * skipped. Returns 0 on time-out. */
static int await_echo(int fd, uint64_t sequence)
{
	uint64_t got;

	for (;;) {
		ssize_t n = recv(fd, arena[1], MAX_DATAGRAM, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == ECONNREFUSED))
			return 0;
		if (n < 0)
			die("recv");
		memcpy(&got, arena[1], sizeof(got));
		if (n >= (ssize_t)sizeof(got) && got == sequence)
			return 1;
	}
}

/* load udp-rt ADDRESS PORT SECONDS SIZE */
int cmd_udp_rt(int argc, char **argv)
{
	static struct hist hist;
	uint64_t start, end, before, sequence = 0, lost = 0;
	union address to;
	socklen_t len;
	double seconds;
	size_t size;
	int fd;

	if (argc != 5)
		return 2;
	len = parse_address(argv[1], argv[2], &to);
	seconds = parse_number(argv[3], "SECONDS", 0.001, MAX_SECONDS);
	size = (size_t)parse_number(argv[4], "SIZE", sizeof(sequence), MAX_DATAGRAM);
	limit_arm(seconds + 3);
	fd = connect_to(&to, len, SOCK_DGRAM);
	if (fd < 0)
		die("connect");
	set_buffers(fd);
	set_receive_timeout(fd, 200);
	start = now_ns();
	end = start + (uint64_t)(seconds * 1e9);
	while ((before = now_ns()) < end) {
		memcpy(arena[0], &sequence, sizeof(sequence));
		if (send(fd, arena[0], size, 0) < 0 && errno != ECONNREFUSED && errno != ENOBUFS)
			die("send");
		if (await_echo(fd, sequence))
			hist_add(&hist, now_ns() - before);
		else
			lost++;
		sequence++;
	}
	hist_print(&hist, now_ns() - start, lost);
	return 0;
}

struct tally {
	uint64_t received, bytes, first_ns, last_ns, highest;
};

static void tally_print(const struct tally *t)
{
	printf("{\"received\": %llu, \"bytes\": %llu, \"seconds\": %.6f, \"highest\": %llu}\n",
	       (unsigned long long)t->received, (unsigned long long)t->bytes,
	       (double)(t->last_ns - t->first_ns) / 1e9, (unsigned long long)t->highest);
	fflush(stdout);
}

/* Receive one batch and count it; returns the number of datagrams, 0 on time-out. */
static int tally_batch(int fd, struct tally *t)
{
	int n = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL);
	uint64_t sequence;

	if (n < 0 && (errno == EAGAIN || errno == EINTR || errno == ECONNREFUSED))
		return 0;
	if (n < 0)
		die("recvmmsg");
	t->last_ns = now_ns();
	if (!t->received)
		t->first_ns = t->last_ns;
	for (int i = 0; i < n; i++) {
		memcpy(&sequence, arena[i], sizeof(sequence));
		t->bytes += messages[i].msg_len;
		if (sequence > t->highest)
			t->highest = sequence;
	}
	t->received += (uint64_t)n;
	return n;
}

/* Count until SILENCE_MS pass without a datagram; the first one is waited for without end. */
static void tally_until_silence(int fd, struct tally *t)
{
	set_receive_timeout(fd, SILENCE_MS);
	while (tally_batch(fd, t) || !t->received || now_ns() - t->last_ns < SILENCE_NS)
		;
	tally_print(t);
}

/* load udp-sink PORT LIMIT */
int cmd_udp_sink(int argc, char **argv)
{
	struct tally tally = { 0 };
	int fd;

	if (argc != 3)
		return 2;
	limit_arm(parse_number(argv[2], "LIMIT", 0.001, MAX_SECONDS));
	fd = listen_wildcard(argv[1], SOCK_DGRAM);
	set_buffers(fd);
	prepare_batch(MAX_DATAGRAM);
	say_listening();
	tally_until_silence(fd, &tally);
	return 0;
}

static void sleep_until(uint64_t ns)
{
	struct timespec ts = { .tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u) };

	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
}

static void print_flood(uint64_t sent, uint64_t errors, uint64_t ns)
{
	printf("{\"sent\": %llu, \"errors\": %llu, \"seconds\": %.6f}\n", (unsigned long long)sent,
	       (unsigned long long)errors, (double)ns / 1e9);
	fflush(stdout);
}

/* Send datagrams of *size* bytes on connected *fd* for *seconds*; rate 0 means as fast as they go.
 * A paced flood sends what has fallen due once per millisecond. Prints what the kernel took. */
static void flood(int fd, size_t size, double seconds, double rate)
{
	uint64_t start = now_ns(), end = start + (uint64_t)(seconds * 1e9), now, sent = 0, errors = 0;

	prepare_batch(size);
	while ((now = now_ns()) < end) {
		uint64_t due = rate > 0 ? (uint64_t)((double)(now - start) / 1e9 * rate) : sent + BATCH;
		unsigned int batch = due - sent < BATCH ? (unsigned int)(due - sent) : BATCH;
		int n;

		if (!batch) {
			sleep_until(now + 1000000);
			continue;
		}
		for (unsigned int i = 0; i < batch; i++) {
			uint64_t sequence = sent + i;

			memcpy(arena[i], &sequence, sizeof(sequence));
		}
		n = sendmmsg(fd, messages, batch, 0);
		if (n > 0)
			sent += (uint64_t)n;
		else if (errno == ECONNREFUSED || errno == ENOBUFS || errno == EAGAIN || errno == EINTR)
			errors++;
		else
			die("sendmmsg");
	}
	print_flood(sent, errors, now_ns() - start);
}

/* The same without a pause, with many datagrams in each call, which the kernel cuts: one by one they cost their
 * sender as much as everybody else together, so that nothing but the sender would be measured. */
static void flood_joined(int fd, size_t size, double seconds)
{
	static char all[MAX_DATAGRAM];
	uint64_t start = now_ns(), end = start + (uint64_t)(seconds * 1e9), sent = 0, errors = 0;
	size_t n = MAX_DATAGRAM / size < MOST_JOINED ? MAX_DATAGRAM / size : MOST_JOINED;
	int segment = (int)size;

	if (setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof(segment)) < 0)
		die("UDP_SEGMENT");
	while (now_ns() < end) {
		for (size_t i = 0; i < n; i++) {
			uint64_t sequence = sent + i;

			memcpy(all + i * size, &sequence, sizeof(sequence));
		}
		if (send(fd, all, n * size, 0) >= 0)
			sent += n;
		else if (errno == ECONNREFUSED || errno == ENOBUFS || errno == EAGAIN || errno == EINTR)
			errors++;
		else
			die("send");
	}
	print_flood(sent, errors, now_ns() - start);
}

/* load udp-source ADDRESS PORT SIZE SECONDS RATE */
int cmd_udp_source(int argc, char **argv)
{
	double seconds, rate;
	union address to;
	socklen_t len;
	size_t size;
	int fd;

	if (argc != 6)
		return 2;
	len = parse_address(argv[1], argv[2], &to);
	size = (size_t)parse_number(argv[3], "SIZE", sizeof(uint64_t), MAX_DATAGRAM);
	seconds = parse_number(argv[4], "SECONDS", 0.001, MAX_SECONDS);
	rate = parse_number(argv[5], "RATE", 0, 1e9);
	limit_arm(seconds + 3);
	fd = connect_to(&to, len, SOCK_DGRAM);
	if (fd < 0)
		die("connect");
	set_buffers(fd);
	flood(fd, size, seconds, rate);
	return 0;
}

/* load udp-blast PORT SIZE SECONDS RATE LIMIT [joined] */
int cmd_udp_blast(int argc, char **argv)
{
	double seconds, rate;
	union address from;
	socklen_t from_len = sizeof(from);
	size_t size;
	char greeting[16];
	int fd;

	if (argc != 6 && (argc != 7 || strcmp(argv[6], "joined")))
		return 2;
	size = (size_t)parse_number(argv[2], "SIZE", sizeof(uint64_t), MAX_DATAGRAM);
	seconds = parse_number(argv[3], "SECONDS", 0.001, MAX_SECONDS);
	rate = parse_number(argv[4], "RATE", 0, 1e9);
	limit_arm(parse_number(argv[5], "LIMIT", 0.001, MAX_SECONDS));
	fd = listen_wildcard(argv[1], SOCK_DGRAM);
	set_buffers(fd);
	say_listening();
	if (recvfrom(fd, greeting, sizeof(greeting), 0, &from.any, &from_len) < 0)
		die("recvfrom");
	if (connect(fd, &from.any, from_len) < 0)
		die("connect");
	if (argc == 7)
		flood_joined(fd, size, seconds);
	else
		flood(fd, size, seconds, rate);
	return 0;
}

/* load udp-pull ADDRESS PORT LIMIT */
int cmd_udp_pull(int argc, char **argv)
{
	struct tally tally = { 0 };
	union address to;
	socklen_t len;
	int fd;

	if (argc != 4)
		return 2;
	len = parse_address(argv[1], argv[2], &to);
	limit_arm(parse_number(argv[3], "LIMIT", 0.001, MAX_SECONDS));
	fd = connect_to(&to, len, SOCK_DGRAM);
	if (fd < 0)
		die("connect");
	set_buffers(fd);
	set_receive_timeout(fd, 200);
	prepare_batch(MAX_DATAGRAM);
	do {	/* the greeting itself may be lost while the path is set up */
		if (send(fd, "hello", 5, 0) < 0 && errno != ECONNREFUSED && errno != ENOBUFS)
			die("send");
	} while (!tally_batch(fd, &tally));
	tally_until_silence(fd, &tally);
	return 0;
}

#define QUESTIONS 1024	/* under way at once; an answer that takes longer than these last is lost */

/* Close the socket of an earlier question; returns whether its answer had come. */
static int take_answer(int fd)
{
	char answer[64];
	ssize_t n = recv(fd, answer, sizeof(answer), MSG_DONTWAIT);

	close(fd);
	return n > 0;
}

/* load udp-ask ADDRESS PORT SECONDS RATE: send questions as a resolver does, each from a socket and
 * port of its own, and count those answered. */
int cmd_udp_ask(int argc, char **argv)
{
	static int asked[QUESTIONS];
	uint64_t start, end, now, sent = 0, answered = 0;
	char question[40] = { 0 };
	union address to;
	socklen_t len;
	double seconds, rate;

	if (argc != 5)
		return 2;
	len = parse_address(argv[1], argv[2], &to);
	seconds = parse_number(argv[3], "SECONDS", 0.001, MAX_SECONDS);
	rate = parse_number(argv[4], "RATE", 1, 1e6);
	limit_arm(seconds + 5);
	raise_nofile();
	start = now_ns();
	end = start + (uint64_t)(seconds * 1e9);
	while ((now = now_ns()) < end) {
		uint64_t due = (uint64_t)((double)(now - start) / 1e9 * rate);

		for (; sent < due; sent++) {
			int *slot = &asked[sent % QUESTIONS];

			if (sent >= QUESTIONS)
				answered += (uint64_t)take_answer(*slot);
			*slot = connect_to(&to, len, SOCK_DGRAM);
			if (*slot < 0)
				die("connect");
			if (send(*slot, question, sizeof(question), 0) < 0 && errno != ECONNREFUSED && errno != ENOBUFS)
				die("send");
		}
		sleep_until(now + 1000000);
	}
	sleep_until(now_ns() + 300000000);
	for (uint64_t i = sent > QUESTIONS ? sent - QUESTIONS : 0; i < sent; i++)
		answered += (uint64_t)take_answer(asked[i % QUESTIONS]);
	printf("{\"sent\": %llu, \"answered\": %llu}\n", (unsigned long long)sent, (unsigned long long)answered);
	fflush(stdout);
	return 0;
}
