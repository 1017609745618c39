/* A hostile TCP of a guest: many connections that are held in ways no kernel would.
 *
 *   load grip KIND INTERFACE SOURCE TARGET PORT COUNT RATE SECONDS
 *
 * It speaks raw frames from SOURCE, an address that the guest's kernel does not have and so does not answer for.
 * Each of COUNT connections has a port of its own; one that ends is opened anew. What it does with them:
 *
 *   window0   never takes a byte: the window stays closed
 *   window1   takes one byte after the other
 *   sack      acknowledges nothing, and reports blocks at random, which it forgets again (RFC 2018 8)
 *   early     sends one byte in two, so that all of it must be kept
 *   silent    never acknowledges the SYN-ACK
 */
#include "frames.h"
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/ethernet.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FIRST_PORT 10000
#define MAX_COUNT 50000
#define BATCH 64
#define ROOM 128
#define BLOCKS 4
#define SCALE 7
#define AGAIN_NS 1000000000u	/* until a SYN is sent again */
#define SPAN 262144u		/* bytes over which early ones are spread */

enum state { CLOSED, ASKED, OPEN };

struct connection {
	enum state state;
	uint32_t snd_nxt, rcv_nxt, highest, early;
	uint64_t asked_at;
};

struct grip {
	uint8_t mac[6];
	uint32_t source, target;
	uint16_t port;
	int fd;
	uint64_t random, sent, opened, resets;
	struct connection *connections;
	unsigned int count, n_queued;
	struct mmsghdr messages[BATCH];
	struct iovec pieces[BATCH];
	uint8_t frames[BATCH][ROOM];
};

static uint32_t draw(struct grip *g)
{
	g->random ^= g->random << 13;
	g->random ^= g->random >> 7;
	g->random ^= g->random << 17;
	return (uint32_t)(g->random >> 16);
}

static void flush(struct grip *g)
{
	unsigned int done = 0;

	while (done < g->n_queued) {
		int n = sendmmsg(g->fd, g->messages + done, g->n_queued - done, 0);

		if (n < 0 && errno != ENOBUFS && errno != EINTR && errno != EAGAIN)
			die("sending frames");
		done += n > 0 ? (unsigned int)n : 1;
		g->sent += n > 0 ? (uint64_t)n : 0;
	}
	g->n_queued = 0;
}

/* A segment with options and n bytes of payload. */
static void push(struct grip *g, unsigned int index, unsigned int flags, uint32_t seq, unsigned int window,
		 const uint8_t *options, size_t n_options, size_t n)
{
	uint8_t *p = g->frames[g->n_queued], *ip = p + ETH, *tcp = ip + IP4;
	size_t length = TCP + n_options + n;

	memset(p, 0, ROOM);
	memset(p, 0xff, 6);
	memcpy(p + 6, g->mac, 6);
	put16(p + 12, ETHERTYPE_IP);
	ip[0] = 0x45;
	put16(ip + 2, (unsigned int)(IP4 + length));
	ip[8] = 64;
	ip[9] = IPPROTO_TCP;
	memcpy(ip + 12, &g->source, 4);
	memcpy(ip + 16, &g->target, 4);
	put16(ip + 10, fold(sum16(ip, IP4, 0)));
	put16(tcp, FIRST_PORT + index);
	put16(tcp + 2, g->port);
	put32(tcp + 4, seq);
	put32(tcp + 8, flags & F_ACK ? g->connections[index].rcv_nxt : 0);
	tcp[12] = (uint8_t)((TCP + n_options) / 4 << 4);
	tcp[13] = (uint8_t)flags;
	put16(tcp + 14, window);
	memcpy(tcp + TCP, options, n_options);
	put16(tcp + 16, fold(sum16(tcp, length, sum16(ip + 12, 8, IPPROTO_TCP + (uint32_t)length))));
	g->pieces[g->n_queued].iov_base = p;
	g->pieces[g->n_queued].iov_len = ETH + IP4 + length;
	if (++g->n_queued == BATCH)
		flush(g);
}

static void ask(struct grip *g, unsigned int index, uint64_t now)
{
	static const uint8_t options[] = { 2, 4, 5, 180, 4, 2, 1, 1, 3, 3, SCALE, 1 };
	struct connection *c = &g->connections[index];

	if (c->state == CLOSED)
		c->snd_nxt = draw(g);
	c->state = ASKED;
	c->asked_at = now;
	push(g, index, F_SYN, c->snd_nxt, 65535, options, sizeof(options), 0);
}

/* Blocks at random in what has come, or none: then all that was reported is forgotten. */
static void report(struct grip *g, unsigned int index)
{
	struct connection *c = &g->connections[index];
	uint32_t span = c->highest - c->rcv_nxt;
	uint8_t options[4 + 8 * BLOCKS] = { 1, 1, 5, 2 + 8 * BLOCKS };

	if (span < 16 || !(draw(g) & 7)) {
		push(g, index, F_ACK, c->snd_nxt, 1024, options, 0, 0);
		return;
	}
	for (unsigned int i = 0; i < BLOCKS; i++) {
		uint32_t start = c->rcv_nxt + 1 + draw(g) % (span - 2);

		put32(options + 4 + 8 * i, start);
		put32(options + 8 + 8 * i, start + 1 + draw(g) % (c->highest - start));
	}
	push(g, index, F_ACK, c->snd_nxt, 1024, options, sizeof(options), 0);
}

/* What the kind does of itself, once. */
static void act(struct grip *g, char kind, unsigned int index, uint64_t now)
{
	struct connection *c = &g->connections[index];

	if (c->state == CLOSED || (c->state == ASKED && now - c->asked_at > AGAIN_NS)) {
		ask(g, index, now);
	} else if (c->state == OPEN && kind == 's') {
		report(g, index);
	} else if (c->state == OPEN && kind == 'e') {
		c->early = c->early % SPAN + 2;
		push(g, index, F_ACK | F_PSH, c->snd_nxt + c->early, 1024, NULL, 0, 1);
	} else if (c->state == OPEN) {
		push(g, index, F_ACK, c->snd_nxt, kind == '1', NULL, 0, 0);
	}
}

static void on_segment(struct grip *g, char kind, const uint8_t *tcp, size_t n)
{
	unsigned int index = get16(tcp + 2) - FIRST_PORT;
	size_t hdr = (size_t)(tcp[12] >> 4) * 4;
	struct connection *c = &g->connections[index];
	uint32_t seq = get32(tcp + 4);

	if (index >= g->count || n < hdr || hdr < TCP)
		return;
	n -= hdr;
	if (tcp[13] & F_RST) {
		g->resets += c->state != CLOSED;
		c->state = CLOSED;
		return;
	}
	if (tcp[13] & F_SYN) {
		if (c->state != ASKED || kind == 'q')
			return;
		c->state = OPEN;
		c->rcv_nxt = c->highest = seq + 1;
		c->snd_nxt++;
		c->early = 0;
		g->opened++;
		push(g, index, F_ACK, c->snd_nxt, kind == '0' ? 0 : kind == '1' ? 1 : 1024, NULL, 0, 0);
		return;
	}
	if (c->state != OPEN || !n)
		return;
	if ((int32_t)(seq + n - c->highest) > 0)
		c->highest = seq + (uint32_t)n;
	if (kind == '1' && seq == c->rcv_nxt)
		c->rcv_nxt++;
	if (kind == '0' || kind == '1')
		push(g, index, F_ACK, c->snd_nxt, kind == '1', NULL, 0, 0);
}

/* Take what has come, up to a number of frames. */
static void take(struct grip *g, char kind)
{
	static uint8_t frame[1 << 17];

	for (unsigned int i = 0; i < 4 * BATCH; i++) {
		ssize_t n = recv(g->fd, frame, sizeof(frame), MSG_DONTWAIT);
		const uint8_t *ip = frame + ETH;
		size_t len;

		if (n < 0)
			return;
		if (n < ETH + IP4 + TCP || get16(frame + 12) != ETHERTYPE_IP || ip[9] != IPPROTO_TCP ||
		    memcmp(ip + 16, &g->source, 4) || ip[0] != 0x45)
			continue;
		len = get16(ip + 2);
		if (len >= IP4 + TCP && len <= (size_t)n - ETH)
			on_segment(g, kind, ip + IP4, len - IP4);
	}
}

static char letter_of(const char *kind)
{
	static const char *const names[] = { "window0", "window1", "sack", "early", "silent" };

	for (size_t i = 0; i < 5; i++)
		if (!strcmp(kind, names[i]))
			return "01seq"[i];
	return 0;
}

int cmd_grip(int argc, char **argv)
{
	static struct grip g;
	uint64_t start, now, end, acts = 0;
	double rate, seconds;
	char kind = argc == 9 ? letter_of(argv[1]) : 0;

	if (!kind || inet_pton(AF_INET, argv[3], &g.source) != 1 || inet_pton(AF_INET, argv[4], &g.target) != 1)
		return 2;
	g.port = (uint16_t)parse_number(argv[5], "PORT", 1, 65535);
	g.count = (unsigned int)parse_number(argv[6], "COUNT", 1, MAX_COUNT);
	rate = parse_number(argv[7], "RATE", 1, 1e7);
	seconds = parse_number(argv[8], "SECONDS", 0.001, 3600);
	limit_arm(seconds + 5);
	g.fd = open_interface(argv[2], ETH_P_ALL, g.mac);
	g.connections = calloc(g.count, sizeof(*g.connections));
	if (!g.connections)
		die("memory");
	g.random = now_ns() | 1;
	for (unsigned int i = 0; i < BATCH; i++) {
		g.messages[i].msg_hdr.msg_iov = &g.pieces[i];
		g.messages[i].msg_hdr.msg_iovlen = 1;
	}
	start = now_ns();
	end = start + (uint64_t)(seconds * 1e9);
	while ((now = now_ns()) < end) {
		struct pollfd p = { .fd = g.fd, .events = POLLIN };
		uint64_t due = (uint64_t)((double)(now - start) / 1e9 * rate);

		if (due > acts + BATCH)
			acts = due - BATCH;
		while (acts < due)
			act(&g, kind, (unsigned int)(acts++ % g.count), now);
		take(&g, kind);
		flush(&g);
		if (poll(&p, 1, 1) < 0 && errno != EINTR)
			die("poll");
	}
	printf("{\"sent\": %llu, \"refused\": 0, \"opened\": %llu, \"resets\": %llu, \"seconds\": %.6f}\n",
	       (unsigned long long)g.sent, (unsigned long long)g.opened, (unsigned long long)g.resets,
	       (double)(now - start) / 1e9);
	return 0;
}
