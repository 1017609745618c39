/* A virtual machine without the machine: the guest's end of passt's socket, frame by frame.
 *
 *   load machine SOCKET GUEST GATEWAY PORT MTU SECONDS tcp-out|tcp-in|udp-out|udp-in|rr SIZE
 *
 * It speaks as much TCP as a connection over a link without loss needs to be fast, and not to be stuck where
 * there is some: a window of WINDOW bytes, MSS from the MTU, slow start and NewReno's recovery (RFC 5681,
 * RFC 6582), a retransmission timer; in-order receiving only, an acknowledgement per read and GATHER bytes,
 * as a guest's kernel sends them that joins what it receives. What it sends has complete checksums; what it
 * receives it believes. Frames are built in place and written many at a time, so that what is measured is the
 * program at the other end.
 *
 * It opens the connection or flow, to PORT at GATEWAY, which that program maps to the host's loopback.
 * "out" counts what was acknowledged (TCP), or sent (UDP, the sink has the count that matters), "in" what
 * arrived. SIZE is that of datagrams, and of requests and responses.
 */
#include "frames.h"
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#define PREFIX 4
#define WINDOW (4u << 20)
#define SCALE 8
#define GATHER (64u << 10)
#define READ_SIZE (256u << 10)
#define MAX_FRAME (PREFIX + ETH + 65535u)
#define SLOTS_SIZE (256u << 10)
#define RTO_NS 200000000u
#define SILENCE_NS 500000000u
#define GUEST_PORT 40000

struct guest {
	int fd;
	uint32_t address, gateway;		/* network order */
	uint16_t port;				/* of the server */
	unsigned int mtu, mss;
	/* written: whole frames, what the socket did not take of them stays */
	uint8_t *out;
	size_t out_start, out_end;
	/* read */
	uint8_t *in;
	size_t in_start, in_end;
	/* the connection */
	uint32_t snd_una, snd_nxt, snd_max, snd_wnd, cwnd, ssthresh, recover, rcv_nxt, rcv_acked;
	unsigned int snd_scale, dup_acks;
	int established, in_recovery, ack_now, reset, finished;
	uint64_t rto_at, rto_ns;
	uint64_t received, retransmits, last_ns, first_ns;
};

/* Length, Ethernet and IPv4 headers of a packet with n bytes behind them; returns where those begin. */
static uint8_t *push_headers(const struct guest *g, uint8_t *p, unsigned int protocol, size_t n)
{
	static const uint8_t ethernet[ETH] = { 0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55, 2, 0, 0, 0, 0, 1, 8, 0 };
	uint8_t *ip = p + PREFIX + ETH;

	put32(p, (uint32_t)(ETH + IP4 + n));
	memcpy(p + PREFIX, ethernet, ETH);
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

/* Write what is queued; returns 0 while the socket is full. */
static int flush(struct guest *g)
{
	while (g->out_start < g->out_end) {
		ssize_t n = send(g->fd, g->out + g->out_start, g->out_end - g->out_start,
				 MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == ENOBUFS))
			return 0;
		if (n < 0)
			die("writing frames");
		g->out_start += (size_t)n;
	}
	g->out_start = g->out_end = 0;
	return 1;
}

/* A segment with n zero bytes of payload (or n bytes of zeroes that lie there already). */
static void push_segment(struct guest *g, unsigned int flags, uint32_t seq, size_t n, int prepared)
{
	size_t options = flags & F_SYN ? 8 : 0;
	uint8_t *p = g->out + g->out_end, *tcp;
	uint32_t sum;

	tcp = p + PREFIX + ETH + IP4;
	if (!prepared) {
		push_headers(g, p, IPPROTO_TCP, TCP + options + n);
		put16(tcp, GUEST_PORT);
		put16(tcp + 2, g->port);
		tcp[12] = (uint8_t)((TCP + options) / 4 << 4);
		put16(tcp + 18, 0);
		memset(tcp + TCP + options, 0, n);
	}
	put32(tcp + 4, seq);
	put32(tcp + 8, flags & F_ACK ? g->rcv_nxt : 0);
	tcp[13] = (uint8_t)flags;
	put16(tcp + 14, flags & F_SYN ? 65535 : WINDOW >> SCALE);
	put16(tcp + 16, 0);
	if (options) {
		static const uint8_t scale[4] = { 1, 3, 3, SCALE };

		tcp[TCP] = 2;
		tcp[TCP + 1] = 4;
		put16(tcp + TCP + 2, g->mss);
		memcpy(tcp + TCP + 4, scale, 4);
	}
	sum = sum16(tcp, TCP + options, pseudo(g, IPPROTO_TCP, TCP + options + n));
	put16(tcp + 16, fold(sum));
	g->out_end += PREFIX + ETH + IP4 + TCP + options + n;
	g->rcv_acked = g->rcv_nxt;
	g->ack_now = 0;
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
		push_segment(g, F_ACK, g->snd_nxt, 0, 0);	/* a duplicate acknowledgement at once */
		return;
	}
	g->rcv_nxt += (uint32_t)n;
	g->received += n;
	if (tcp[13] & F_FIN) {
		g->rcv_nxt++;
		g->finished = g->ack_now = 1;
	}
	if (g->rcv_nxt - g->rcv_acked >= GATHER)
		push_segment(g, F_ACK, g->snd_nxt, 0, 0);
}

static void on_frame(struct guest *g, const uint8_t *frame, size_t n)
{
	const uint8_t *ip = frame + ETH;
	size_t len;

	if (n < ETH + IP4 || frame[12] != 8 || frame[13] || memcmp(ip + 16, &g->address, 4))
		return;
	len = get16(ip + 2);
	if (len > n - ETH || len < IP4 + UDP)
		return;
	if (ip[9] == IPPROTO_TCP && len >= IP4 + TCP) {
		on_segment(g, ip + IP4, len - IP4);
	} else if (ip[9] == IPPROTO_UDP && get16(ip + IP4 + 2) == GUEST_PORT) {
		g->received++;
	}
}

/* Read once, waiting up to ms, and take all whole frames. */
static void take(struct guest *g, int ms)
{
	struct pollfd p = { .fd = g->fd, .events = (short)(POLLIN | (g->out_end ? POLLOUT : 0)) };
	ssize_t n;

	if (ms && poll(&p, 1, ms) < 0 && errno != EINTR)
		die("poll");
	memmove(g->in, g->in + g->in_start, g->in_end - g->in_start);
	g->in_end -= g->in_start;
	g->in_start = 0;
	n = recv(g->fd, g->in + g->in_end, READ_SIZE, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0)
		die("reading frames");
	if (!n) {
		fputs("load: machine: the socket was closed\n", stderr);
		exit(1);
	}
	g->in_end += (size_t)n;
	while (g->in_end - g->in_start >= PREFIX) {
		size_t len = get32(g->in + g->in_start);

		if (len > MAX_FRAME - PREFIX) {
			fprintf(stderr, "load: machine: a frame of %zu bytes\n", len);
			exit(1);
		}
		if (g->in_end - g->in_start < PREFIX + len)
			break;
		on_frame(g, g->in + g->in_start + PREFIX, len);
		g->in_start += PREFIX + len;
	}
}

static void check_timer(struct guest *g)
{
	uint64_t now;

	if (!g->rto_at || (now = now_ns()) < g->rto_at)
		return;
	if (!g->established) {
		push_segment(g, F_SYN, g->snd_una, 0, 0);
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
	push_segment(g, F_SYN, g->snd_una, 0, 0);
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
	push_segment(g, F_ACK, g->snd_nxt, 0, 0);
	flush(g);
}

/* Fill the empty queue with what the windows let go. */
static void fill(struct guest *g)
{
	uint32_t window = g->snd_wnd < g->cwnd ? g->snd_wnd : g->cwnd;
	size_t whole = PREFIX + ETH + IP4 + TCP + g->mss;
	int prepared = 1;

	if (g->dup_acks >= 3) {
		push_segment(g, F_ACK, g->snd_una, g->mss, 0);
		g->dup_acks = 0;
		g->retransmits++;
		prepared = 0;
	}
	/* Before: nothing, and every slot holds the frame of last time. */
	while (g->snd_nxt + g->mss - g->snd_una <= window && g->out_end + whole <= SLOTS_SIZE) {
		push_segment(g, F_ACK, g->snd_nxt, g->mss, prepared && get32(g->out + g->out_end) == whole - PREFIX);
		g->snd_nxt += g->mss;
		if (lt(g->snd_max, g->snd_nxt))
			g->snd_max = g->snd_nxt;
		if (!g->rto_at)
			g->rto_at = now_ns() + g->rto_ns;
	}
}

static uint64_t tcp_out(struct guest *g, uint64_t end)
{
	uint32_t before;
	uint64_t total = 0;

	/* Prepare the slots; later only numbers and checksums change. */
	while (g->out_end + PREFIX + ETH + IP4 + TCP + g->mss <= SLOTS_SIZE)
		push_segment(g, F_ACK, 0, g->mss, 0);
	g->out_end = 0;
	while (now_ns() < end && !g->reset) {
		before = g->snd_una;
		if (!g->out_end)
			fill(g);
		take(g, flush(g) && g->snd_nxt + g->mss - g->snd_una <= g->snd_wnd && g->dup_acks < 3 &&
			g->snd_nxt + g->mss - g->snd_una <= g->cwnd ? 0 : 10);
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
			push_segment(g, F_ACK, g->snd_nxt, 0, 0);
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

		push_segment(g, F_ACK | F_PSH, g->snd_nxt, size, 0);
		g->snd_nxt += (uint32_t)size;
		g->snd_max = g->snd_nxt;
		flush(g);
		while (g->received < wanted && !g->reset && now_ns() < end + ns)
			take(g, 10);
		hist_add(&hist, now_ns() - before);
	}
	hist_print(&hist, now_ns() - start, 0);
}

static void push_datagram(struct guest *g, uint64_t sequence, size_t size, int prepared)
{
	uint8_t *p = g->out + g->out_end, *udp = p + PREFIX + ETH + IP4;
	uint32_t sum;

	if (!prepared) {
		push_headers(g, p, IPPROTO_UDP, UDP + size);
		put16(udp, GUEST_PORT);
		put16(udp + 2, g->port);
		put16(udp + 4, (unsigned int)(UDP + size));
		memset(udp + UDP, 0, size);
	}
	memcpy(udp + UDP, &sequence, sizeof(sequence));
	put16(udp + 6, 0);
	sum = sum16(udp, UDP + sizeof(sequence), pseudo(g, IPPROTO_UDP, UDP + size));
	put16(udp + 6, fold(sum) ? fold(sum) : 0xffff);
	g->out_end += PREFIX + ETH + IP4 + UDP + size;
}

static uint64_t udp_out(struct guest *g, uint64_t end, size_t size)
{
	uint64_t sequence = 0;
	int prepared = 0;

	while (now_ns() < end) {
		if (!g->out_end) {
			while (g->out_end + PREFIX + ETH + IP4 + UDP + size <= SLOTS_SIZE)
				push_datagram(g, sequence++, size, prepared);
			prepared = 1;
		}
		flush(g);
		take(g, g->out_end ? 10 : 0);
	}
	while (!flush(g))
		take(g, 10);
	return sequence;
}

static uint64_t udp_in(struct guest *g, uint64_t limit)
{
	push_datagram(g, 0, sizeof(uint64_t), 0);
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
		if (!g->received && !g->out_end)
			push_datagram(g, 0, sizeof(uint64_t), 0);	/* it may be that nobody listened yet */
		flush(g);
	}
	return g->received;
}

static int connect_machine(const char *path)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket");
	if (strlen(path) >= sizeof(name.sun_path)) {
		fprintf(stderr, "load: SOCKET must be shorter than %zu bytes\n", sizeof(name.sun_path));
		exit(2);
	}
	strcpy(name.sun_path, path);
	if (connect(fd, (const struct sockaddr *)&name, sizeof(name)) < 0)
		die(path);
	return fd;
}

int cmd_machine(int argc, char **argv)
{
	static struct guest g;
	uint64_t start, ns, count = 0;
	double seconds;
	size_t size;
	const char *mode;

	if (argc != 9)
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
	g.out = calloc(1, SLOTS_SIZE + 2 * MAX_FRAME);
	g.in = malloc(READ_SIZE + MAX_FRAME);
	if (!g.out || !g.in)
		die("memory");
	g.fd = connect_machine(argv[1]);
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
		printf("{\"%s\": %llu, \"seconds\": %.6f, \"retransmits\": %llu, \"reset\": %d}\n",
		       !strcmp(mode, "udp-out") ? "sent" : "received", (unsigned long long)count,
		       (double)ns / 1e9, (unsigned long long)g.retransmits, g.reset);
	}
	if (g.established && !g.reset) {
		push_segment(&g, F_RST | F_ACK, g.snd_nxt, 0, 0);
		flush(&g);
	}
	fflush(stdout);
	return 0;
}
