/* Wires of user space: from a tap to passt's socket, as QEMU's would be; between two taps, with a delay. */
#include "frames.h"
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define FRAME_MAX 65550u
#define QUEUE 16384		/* frames under way in one direction */
#define PREFIX 4
#define BATCH 64

static int open_tap(const char *name)
{
	struct ifreq request = { .ifr_flags = IFF_TAP | IFF_NO_PI };
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);

	strncpy(request.ifr_name, name, IFNAMSIZ - 1);
	if (fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0)
		die(name);
	return fd;
}

/* Frames of the tap go out with their lengths, many at a time. A socket that is full stops the tap. */
static void tap_to_stream(int tap, int stream)
{
	static uint8_t out[BATCH * 2048 + FRAME_MAX + PREFIX];
	size_t n = 0;

	while (n < BATCH * 2048) {
		ssize_t got = read(tap, out + n + PREFIX, FRAME_MAX);

		if (got <= 0)
			break;
		put32(out + n, (uint32_t)got);
		n += PREFIX + (size_t)got;
	}
	if (n && send_all(stream, out, n) < 0)
		die("writing to the socket");
}

static void stream_to_tap(int stream, int tap)
{
	static uint8_t in[1 << 18];
	static size_t have;
	size_t at = 0;
	ssize_t n = recv(stream, in + have, sizeof(in) - have, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		fputs("load: bridge: the socket was closed\n", stderr);
		exit(1);
	}
	have += (size_t)n;
	while (have - at >= PREFIX && have - at - PREFIX >= get32(in + at)) {
		size_t length = get32(in + at);

		if (write(tap, in + at + PREFIX, length) < 0 && errno != EAGAIN && errno != EIO && errno != EINVAL)
			die("writing to the tap");
		at += PREFIX + length;
	}
	have -= at;
	memmove(in, in + at, have);
}

/* load bridge SOCKET TAP LIMIT: join a tap to passt's socket */
int cmd_bridge(int argc, char **argv)
{
	struct pollfd fds[2];

	if (argc != 4)
		return 2;
	limit_arm(parse_number(argv[3], "LIMIT", 0.001, 3600));
	fds[0] = (struct pollfd){ .fd = open_tap(argv[2]), .events = POLLIN };
	fds[1] = (struct pollfd){ .fd = connect_path(argv[1]), .events = POLLIN };
	say_listening();
	for (;;) {
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			die("poll");
		tap_to_stream(fds[0].fd, fds[1].fd);
		if (fds[1].revents)
			stream_to_tap(fds[1].fd, fds[0].fd);
	}
}

struct lane {
	int from, to;
	uint32_t head, tail;		/* of frames taken and given */
	struct {
		uint64_t at;
		size_t length;
		uint8_t *frame;
	} queue[QUEUE];
};

/* Take what has come and give what is due; returns when the next is due, 0: none. */
static uint64_t carry(struct lane *lane, uint64_t delay)
{
	static uint8_t frame[FRAME_MAX];
	uint64_t now = now_ns();
	ssize_t n;

	while (lane->head - lane->tail < QUEUE && (n = read(lane->from, frame, sizeof(frame))) > 0) {
		uint32_t at = lane->head++ % QUEUE;

		lane->queue[at].frame = malloc((size_t)n);
		if (!lane->queue[at].frame)
			die("memory");
		memcpy(lane->queue[at].frame, frame, (size_t)n);
		lane->queue[at].length = (size_t)n;
		lane->queue[at].at = now + delay;
	}
	for (; lane->tail != lane->head; lane->tail++) {
		uint32_t at = lane->tail % QUEUE;

		if (lane->queue[at].at > now)
			return lane->queue[at].at;
		if (write(lane->to, lane->queue[at].frame, lane->queue[at].length) < 0 && errno != EAGAIN && errno != EIO)
			die("writing to the tap");
		free(lane->queue[at].frame);
	}
	return 0;
}

/* load wire PID TAP_HERE TAP_THERE DELAY LIMIT: join a tap here to one in the network namespace of PID; each frame
 * takes DELAY ms. */
int cmd_wire(int argc, char **argv)
{
	static struct lane lanes[2];
	uint64_t delay;
	char path[64];
	int here, there, ns;

	if (argc != 6)
		return 2;
	delay = (uint64_t)(parse_number(argv[4], "DELAY", 0, 1000) * 1e6);
	limit_arm(parse_number(argv[5], "LIMIT", 0.001, 3600));
	here = open_tap(argv[2]);
	snprintf(path, sizeof(path), "/proc/%s/ns/net", argv[1]);
	ns = open(path, O_RDONLY | O_CLOEXEC);
	if (ns < 0 || setns(ns, CLONE_NEWNET) < 0)
		die(path);
	there = open_tap(argv[3]);
	lanes[0].from = lanes[1].to = here;
	lanes[0].to = lanes[1].from = there;
	say_listening();
	for (;;) {
		struct pollfd fds[2] = { { .fd = here, .events = POLLIN }, { .fd = there, .events = POLLIN } };
		uint64_t now, first = carry(&lanes[0], delay), second = carry(&lanes[1], delay);
		struct timespec wait = { 1, 0 };

		if (!first || (second && second < first))
			first = second;
		now = now_ns();
		if (first)
			wait = (struct timespec){ 0, first > now ? (long)(first - now) : 0 };
		if (ppoll(fds, 2, &wait, NULL) < 0 && errno != EINTR)
			die("poll");
	}
}
