/* passt's socket as the machine's link: each frame has its length in front. Frames are built in place and written
 * many at a time. */
#include "frames.h"
#include "load.h"
#include "machine_link.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX 4
#define MAX_FRAME (PREFIX + ETH + 65535u)
#define READ_SIZE (256u << 10)
#define OUT_SIZE ((256u << 10) + 2 * MAX_FRAME)

struct stream {
	struct link link;
	int fd;
	/* written: whole frames, what the socket did not take of them stays */
	uint8_t *out;
	size_t out_start, out_end, room;
	/* read */
	uint8_t *in;
	size_t in_start, in_end;
};

static uint8_t *room(struct link *link, size_t head, size_t n, const uint8_t **zeroes)
{
	struct stream *s = (struct stream *)link;
	uint8_t *p = s->out + s->out_end;

	if (s->out_end + PREFIX + head + n > OUT_SIZE)
		return NULL;
	/* A frame of that length lay here before: so did its zeroes. */
	if (get32(p) != head + n)
		memset(p + PREFIX + head, 0, n);
	put32(p, (uint32_t)(head + n));
	s->room = PREFIX + head + n;
	*zeroes = p + PREFIX + head;
	return p + PREFIX;
}

static void push(struct link *link, const struct offload *offload)
{
	struct stream *s = (struct stream *)link;

	(void)offload;
	s->out_end += s->room;
}

static int flush(struct link *link)
{
	struct stream *s = (struct stream *)link;

	while (s->out_start < s->out_end) {
		ssize_t n = send(s->fd, s->out + s->out_start, s->out_end - s->out_start,
				 MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == ENOBUFS))
			return 0;
		if (n < 0)
			die("writing frames");
		s->out_start += (size_t)n;
	}
	s->out_start = s->out_end = 0;
	return 1;
}

/* Read once, and take all whole frames. */
static void take(struct link *link, int ms)
{
	struct stream *s = (struct stream *)link;
	struct pollfd p = { .fd = s->fd, .events = (short)(POLLIN | (s->out_end ? POLLOUT : 0)) };
	ssize_t n;

	if (ms && poll(&p, 1, ms) < 0 && errno != EINTR)
		die("poll");
	memmove(s->in, s->in + s->in_start, s->in_end - s->in_start);
	s->in_end -= s->in_start;
	s->in_start = 0;
	n = recv(s->fd, s->in + s->in_end, READ_SIZE, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0)
		die("reading frames");
	if (!n) {
		fputs("load: machine: the socket was closed\n", stderr);
		exit(1);
	}
	s->in_end += (size_t)n;
	while (s->in_end - s->in_start >= PREFIX) {
		size_t len = get32(s->in + s->in_start);

		if (len > MAX_FRAME - PREFIX) {
			fprintf(stderr, "load: machine: a frame of %zu bytes\n", len);
			exit(1);
		}
		if (s->in_end - s->in_start < PREFIX + len)
			break;
		link->on_frame(link->who, s->in + s->in_start + PREFIX, len, 0);
		s->in_start += PREFIX + len;
	}
}

static void report(const struct link *link)
{
	(void)link;
}

struct link *open_stream(const char *path)
{
	struct stream *s = calloc(1, sizeof(*s));

	if (!s || !(s->out = calloc(1, OUT_SIZE)) || !(s->in = malloc(READ_SIZE + MAX_FRAME)))
		die("memory");
	s->link = (struct link){ .room = room, .push = push, .flush = flush, .take = take, .report = report };
	s->fd = connect_path(path);
	return &s->link;
}
