/* A virtual machine without the machine: the guest's end of passt's link, frame by frame.
 *
 *   load machine SOCKET GUEST GATEWAY PORT MTU SECONDS tcp-out|tcp-in|udp-out|udp-in|rr SIZE [LINK RING]
 *
 * It speaks as much TCP as a connection over a link without loss needs to be fast, and not to be stuck where
 * there is some: a window of WINDOW bytes, MSS from the MTU, slow start and NewReno's recovery (RFC 5681,
 * RFC 6582), a retransmission timer; in-order receiving only, an acknowledgement per read and GATHER bytes,
 * as a guest's kernel sends them that joins what it receives. What it sends has complete checksums, and is cut
 * to the MTU, unless the link takes that off it; what it receives it believes. Frames are built in place and
 * handed over many at a time, so that what is measured is the program at the other end.
 *
 * LINK is stream (passt's socket, stream_link.c), vhost or vhost-plain (vhost_link.c: with the offloads that the
 * other end offers, or without any), or vhost-pages (as vhost; what is sent lies in pages), with RING entries a ring.
 *
 * It opens the connection or flow, to PORT at GATEWAY, which that program maps to the host's loopback.
 * "out" counts what was acknowledged (TCP), or sent (UDP, the sink has the count that matters), "in" what
 * arrived. SIZE is that of datagrams, and of requests and responses.
 */
#include "frames.h"
#include "load.h"
#include "machine_link.h"

#include <arpa/inet.h>
#include <linux/virtio_net.h>
#include <stdlib.h>
#include <string.h>

#define WINDOW (4u << 20)
#define SCALE 8
#define GATHER (64u << 10)
#define BATCH (256u << 10)		/* bytes that are sent before the link is looked at */
#define MAX_PACKET 65535u
#define RTO_NS 200000000u
#define SILENCE_NS 500000000u
#define GUEST_PORT 40000

struct guest {
	struct link *link;
	uint32_t address, gateway;		/* network order */
	uint16_t port;				/* of the server */
	unsigned int mtu, mss;
	/* the connection */
	uint32_t snd_una, snd_nxt, snd_max, snd_wnd, cwnd, ssthresh, recover, rcv_nxt, rcv_acked;
	unsigned int snd_scale, dup_acks;
	int established, in_recovery, ack_now, reset, finished;
	uint64_t rto_at, rto_ns;
	uint64_t received, retransmits, last_ns, first_ns;
};

/* Ethernet and IPv4 headers of a packet with n bytes behind them; returns where those begin. */
static uint8_t *push_headers(const struct guest *g, uint8_t *p, unsigned int protocol, size_t n)
{
	static const uint8_t ethernet[ETH] = { 0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55, 2, 0, 0, 0, 0, 1, 8, 0 };
	uint8_t *ip = p + ETH;

	memcpy(p, ethernet, ETH);
	memset(ip, 0, IP4);
	ip[0] = 0x45;
	put16(ip + 2, (unsigned int)(IP4 + n));
	ip[6] = 0x40;
	ip[8] = 64;
	ip[9] = (uint8_t)protocol;
	memcpy(ip + 12, &g->address, 4);
	memcpy(ip + 16, &g->gateway, 4);
	put16(ip + 10, fold(sum16(ip, IP4, 0)));
	return ip + IP4;
}

/* The sum of the pseudo-header. */
static uint32_t pseudo(const struct guest *g, unsigned int protocol, size_t n)
{
	return sum16(&g->address, 4, sum16(&g->gateway, 4, protocol + (uint32_t)n));
}

static int flush(struct guest *g)
{
	return g->link->flush(g->link);
}

static void take(struct guest *g, int ms)
{
	g->link->take(g->link, ms);
}

/* A segment with n zero bytes of payload, in several packets if that is more than a segment. Returns 0 if the link
 * has no room. */
static int push_segment(struct guest *g, unsigned int flags, uint32_t seq, size_t n)
{
	size_t options = flags & F_SYN ? 8 : 0, head = TCP + options;
	struct offload offload = { 0 };
	const uint8_t *zeroes;
	uint8_t *p = g->link->room(g->link, ETH + IP4 + head, n, &zeroes), *tcp;

	if (!p)
		return 0;
	tcp = push_headers(g, p, IPPROTO_TCP, head + n);
	put16(tcp, GUEST_PORT);
	put16(tcp + 2, g->port);
	put32(tcp + 4, seq);
	put32(tcp + 8, flags & F_ACK ? g->rcv_nxt : 0);
	tcp[12] = (uint8_t)(head / 4 << 4);
	tcp[13] = (uint8_t)flags;
	put16(tcp + 14, flags & F_SYN ? 65535 : WINDOW >> SCALE);
	put32(tcp + 16, 0);
	if (options) {
		static const uint8_t scale[4] = { 1, 3, 3, SCALE };

		tcp[TCP] = 2;
		tcp[TCP + 1] = 4;
		put16(tcp + TCP + 2, g->mss);
		memcpy(tcp + TCP + 4, scale, 4);
	}
	if (g->link->csum) {
		put16(tcp + 16, (uint16_t)~fold(pseudo(g, IPPROTO_TCP, head + n)));
		offload.csum_start = ETH + IP4;
		offload.csum_offset = 16;
	} else {
		put16(tcp + 16, fold(sum16(zeroes, n, sum16(tcp, head, pseudo(g, IPPROTO_TCP, head + n)))));
	}
	if (n > g->mss) {
		offload.gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
		offload.gso_size = g->mss;
	}
	g->link->push(g->link, &offload);
	g->rcv_acked = g->rcv_nxt;
	g->ack_now = 0;
	return 1;
}

static void acknowledge(struct guest *g)
{
	if (!push_segment(g, F_ACK, g->snd_nxt, 0))
		g->ack_now = 1;
}

static int lt(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) < 0;
}

static void on_ack(struct guest *g, uint32_t ack, uint32_t window, size_t payload)
{
	uint32_t gained = ack - g->snd_una;

	g->snd_wnd = window << g->snd_scale;
	if (lt(g->snd_una, ack) && !lt(g->snd_max, ack)) {
		g->snd_una = ack;
		if (lt(g->snd_nxt, ack))
			g->snd_nxt = ack;
		g->dup_acks = 0;
		g->rto_ns = RTO_NS;
		g->rto_at = g->snd_una == g->snd_max ? 0 : now_ns() + g->rto_ns;
		if (g->in_recovery && !lt(ack, g->recover)) {
			g->in_recovery = 0;
			g->cwnd = g->ssthresh;
		} else if (g->in_recovery) {
			g->dup_acks = 3;	/* a partial one: the next hole is lost too */
		} else if (g->cwnd < WINDOW) {
			g->cwnd += g->cwnd < g->ssthresh ? gained :
				(uint32_t)((uint64_t)gained * g->mss / g->cwnd) + 1;
		}
	} else if (ack == g->snd_una && g->snd_una != g->snd_max && !payload && !g->in_recovery) {
		if (++g->dup_acks == 3) {
			uint32_t flight = g->snd_max - g->snd_una;

			g->ssthresh = flight / 2 > 2 * g->mss ? flight / 2 : 2 * g->mss;
			g->cwnd = g->ssthresh;
			g->recover = g->snd_max;
			g->in_recovery = 1;
		}
	}
}

static void on_segment(struct guest *g, const uint8_t *tcp, size_t n)
{
	size_t hdr = (size_t)(tcp[12] >> 4) * 4;
	uint32_t seq = get32(tcp + 4), ack = get32(tcp + 8);

	if (n < hdr || hdr < TCP || get16(tcp + 2) != GUEST_PORT)
		return;
	n -= hdr;
	if (tcp[13] & F_RST) {
		g->reset = 1;
		return;
	}
	if (tcp[13] & F_SYN) {
		g->rcv_nxt = seq + 1;
		g->snd_una = g->snd_nxt = g->snd_max = ack;
		g->snd_wnd = get16(tcp + 14);
		for (const uint8_t *o = tcp + TCP; o < tcp + hdr && *o; o += *o == 1 || !o[1] ? 1 : o[1])
			if (*o == 3)
				g->snd_scale = o[2];
		g->established = g->ack_now = 1;
		g->rto_at = 0;
		return;
	}
	on_ack(g, ack, get16(tcp + 14), n);
	if (!n && !(tcp[13] & F_FIN))
		return;
	if (seq != g->rcv_nxt) {
		acknowledge(g);		/* a duplicate one, at once */
		return;
	}
	g->rcv_nxt += (uint32_t)n;
	g->received += n;
	if (tcp[13] & F_FIN) {
		g->rcv_nxt++;
		g->finished = g->ack_now = 1;
	}
	if (g->rcv_nxt - g->rcv_acked >= GATHER)
		acknowledge(g);
}

/* A frame of the link; of a joined one each datagram counts. */
static void on_frame(void *who, const uint8_t *frame, size_t n, unsigned int gso_size)
{
	struct guest *g = who;
	const uint8_t *ip = frame + ETH;
	size_t len;

	if (n < ETH + IP4 || frame[12] != 8 || frame[13] || memcmp(ip + 16, &g->address, 4))
		return;
	len = get16(ip + 2);
	if (len > n - ETH || len < IP4 + UDP)
		return;
	if (ip[9] == IPPROTO_TCP && len >= IP4 + TCP)
		on_segment(g, ip + IP4, len - IP4);
	else if (ip[9] == IPPROTO_UDP && get16(ip + IP4 + 2) == GUEST_PORT)
		g->received += gso_size ? (len - IP4 - UDP + gso_size - 1) / gso_size : 1;
}

static void check_timer(struct guest *g)
{
	uint64_t now;

	if (!g->rto_at || (now = now_ns()) < g->rto_at)
		return;
	if (!g->established) {
		push_segment(g, F_SYN, g->snd_una, 0);
	} else {
		g->ssthresh = (g->snd_max - g->snd_una) / 2 > 2 * g->mss ? (g->snd_max - g->snd_una) / 2 : 2 * g->mss;
		g->cwnd = g->mss;
		g->snd_nxt = g->snd_una;
		g->in_recovery = 0;
		g->dup_acks = 0;
		g->retransmits++;
	}
	g->rto_ns *= 2;
	g->rto_at = now + g->rto_ns;
}

static void open_connection(struct guest *g)
{
	g->snd_una = 1000;
	g->ssthresh = WINDOW;
	g->rto_ns = RTO_NS;
	g->rto_at = now_ns() + RTO_NS;
	push_segment(g, F_SYN, g->snd_una, 0);
	while (!g->established && !g->reset) {
		flush(g);
		take(g, 10);
		check_timer(g);
	}
	if (g->reset) {
		fputs("load: machine: the connection was refused\n", stderr);
		exit(1);
	}
	g->cwnd = 10 * g->mss;
	acknowledge(g);
	flush(g);
}

/* How much goes in one frame: a segment, or as many as there can be in one packet that the link cuts. */
static uint32_t chunk(const struct guest *g)
{
	return g->link->tso4 ? (MAX_PACKET - IP4 - TCP) / g->mss * g->mss : g->mss;
}

/* How much of the next chunk the windows let go: all of it, or with TSO whole segments. */
static uint32_t allowed(const struct guest *g)
{
	uint32_t window = g->snd_wnd < g->cwnd ? g->snd_wnd : g->cwnd, used = g->snd_nxt - g->snd_una, n = chunk(g);

	if (window < used + g->mss)
		return 0;
	return window - used >= n ? n : (window - used) / g->mss * g->mss;
}

/* Send what the windows let go, up to a batch. */
static void fill(struct guest *g)
{
	size_t sent = 0;
	uint32_t n;

	if (g->dup_acks >= 3 && push_segment(g, F_ACK, g->snd_una, g->mss)) {
		g->dup_acks = 0;
		g->retransmits++;
	}
	while ((n = allowed(g)) && sent + n <= BATCH && push_segment(g, F_ACK, g->snd_nxt, n)) {
		sent += n;
		g->snd_nxt += n;
		if (lt(g->snd_max, g->snd_nxt))
			g->snd_max = g->snd_nxt;
		if (!g->rto_at)
			g->rto_at = now_ns() + g->rto_ns;
	}
}

static uint64_t tcp_out(struct guest *g, uint64_t end)
{
	uint64_t total = 0;
	int all = 1;

	while (now_ns() < end && !g->reset) {
		uint32_t before = g->snd_una;

		if (all)
			fill(g);
		all = flush(g);
		take(g, all && g->dup_acks < 3 && allowed(g) ? 0 : 10);
		all = flush(g);
		total += g->snd_una - before;
		check_timer(g);
	}
	return total;
}

static uint64_t tcp_in(struct guest *g, uint64_t end)
{
	while (now_ns() < end && !g->reset && !g->finished) {
		take(g, 100);
		if (g->rcv_nxt != g->rcv_acked || g->ack_now)
			acknowledge(g);
		flush(g);
	}
	return g->received;
}

/* Requests and responses of size bytes; prints by itself. */
static void round_trips(struct guest *g, uint64_t end, uint64_t ns, size_t size)
{
	static struct hist hist;
	uint64_t start = now_ns(), before;

	while ((before = now_ns()) < end && !g->reset) {
		uint64_t wanted = g->received + size;

		push_segment(g, F_ACK | F_PSH, g->snd_nxt, size);
		g->snd_nxt += (uint32_t)size;
		g->snd_max = g->snd_nxt;
		flush(g);
		while (g->received < wanted && !g->reset && now_ns() < end + ns)
			take(g, 10);
		hist_add(&hist, now_ns() - before);
	}
	hist_print(&hist, now_ns() - start, 0);
}

static int push_datagram(struct guest *g, uint64_t sequence, size_t size)
{
	const size_t numbered = UDP + sizeof(sequence);
	struct offload offload = { 0 };
	const uint8_t *zeroes;	/* they add nothing to a sum */
	uint8_t *p = g->link->room(g->link, ETH + IP4 + numbered, size - sizeof(sequence), &zeroes), *udp;

	if (!p)
		return 0;
	udp = push_headers(g, p, IPPROTO_UDP, UDP + size);
	put16(udp, GUEST_PORT);
	put16(udp + 2, g->port);
	put16(udp + 4, (unsigned int)(UDP + size));
	put16(udp + 6, 0);
	memcpy(udp + UDP, &sequence, sizeof(sequence));
	if (g->link->csum) {
		put16(udp + 6, (uint16_t)~fold(pseudo(g, IPPROTO_UDP, UDP + size)));
		offload.csum_start = ETH + IP4;
		offload.csum_offset = 6;
	} else {
		uint16_t sum = fold(sum16(udp, numbered, pseudo(g, IPPROTO_UDP, UDP + size)));

		put16(udp + 6, sum ? sum : 0xffff);
	}
	g->link->push(g->link, &offload);
	return 1;
}

static uint64_t udp_out(struct guest *g, uint64_t end, size_t size)
{
	uint64_t sequence = 0;
	int all = 1;

	while (now_ns() < end) {
		size_t sent = 0;

		while (all && sent < BATCH && push_datagram(g, sequence, size)) {
			sequence++;
			sent += size;
		}
		all = flush(g);
		take(g, all ? 0 : 10);
		all = flush(g);
	}
	while (!flush(g))
		take(g, 10);
	return sequence;
}

static uint64_t udp_in(struct guest *g, uint64_t limit)
{
	push_datagram(g, 0, sizeof(uint64_t));
	flush(g);
	while (now_ns() < limit) {
		uint64_t before = g->received, now;

		take(g, 100);
		now = now_ns();
		if (g->received != before) {
			g->last_ns = now;
			if (!g->first_ns)
				g->first_ns = now;
		} else if (g->first_ns && now - g->last_ns > SILENCE_NS) {
			break;
		}
		if (!g->received)
			push_datagram(g, 0, sizeof(uint64_t));	/* it may be that nobody listened yet */
		flush(g);
	}
	return g->received;
}

static struct link *open_link(int argc, char **argv, unsigned int mtu)
{
	const char *kind = argc > 9 ? argv[9] : "stream";
	unsigned int size;

	if (!strcmp(kind, "stream"))
		return open_stream(argv[1]);
	size = (unsigned int)parse_number(argv[10], "RING", 2, 32768);
	if ((size & (size - 1)) || (strcmp(kind, "vhost") && strcmp(kind, "vhost-plain") &&
				    strcmp(kind, "vhost-pages")))
		return NULL;
	return open_vhost(argv[1], size, mtu, strcmp(kind, "vhost-plain"), !strcmp(kind, "vhost-pages"));
}

int cmd_machine(int argc, char **argv)
{
	static struct guest g;
	uint64_t start, ns, count = 0;
	double seconds;
	size_t size;
	const char *mode;

	if (argc != 9 && argc != 11)
		return 2;
	if (inet_pton(AF_INET, argv[2], &g.address) != 1 || inet_pton(AF_INET, argv[3], &g.gateway) != 1)
		return 2;
	g.port = (uint16_t)parse_number(argv[4], "PORT", 1, 65535);
	g.mtu = (unsigned int)parse_number(argv[5], "MTU", 576, 65520);
	g.mss = g.mtu - IP4 - TCP;
	seconds = parse_number(argv[6], "SECONDS", 0.001, 3600);
	mode = argv[7];
	size = (size_t)parse_number(argv[8], "SIZE", sizeof(uint64_t), g.mtu - IP4 - UDP);
	limit_arm(seconds + 5);
	g.link = open_link(argc, argv, g.mtu);
	if (!g.link)
		return 2;
	g.link->on_frame = on_frame;
	g.link->who = &g;
	if (!strncmp(mode, "tcp", 3) || !strcmp(mode, "rr"))
		open_connection(&g);
	start = now_ns();
	ns = (uint64_t)(seconds * 1e9);
	if (!strcmp(mode, "tcp-out"))
		count = tcp_out(&g, start + ns);
	else if (!strcmp(mode, "tcp-in"))
		count = tcp_in(&g, start + ns);
	else if (!strcmp(mode, "udp-out"))
		count = udp_out(&g, start + ns, size);
	else if (!strcmp(mode, "udp-in"))
		count = udp_in(&g, start + ns + 2000000000u);
	else if (!strcmp(mode, "rr"))
		round_trips(&g, start + ns, ns, size);
	else
		return 2;
	if (strcmp(mode, "rr")) {
		ns = now_ns() - start;
		if (g.first_ns)
			ns = g.last_ns - g.first_ns;
		printf("{\"%s\": %llu, \"seconds\": %.6f, \"retransmits\": %llu, \"reset\": %d",
		       !strcmp(mode, "udp-out") ? "sent" : "received", (unsigned long long)count,
		       (double)ns / 1e9, (unsigned long long)g.retransmits, g.reset);
		g.link->report(g.link);
		puts("}");
	}
	if (g.established && !g.reset) {
		push_segment(&g, F_RST | F_ACK, g.snd_nxt, 0);
		flush(&g);
	}
	fflush(stdout);
	return 0;
}
