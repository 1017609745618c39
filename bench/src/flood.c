/* Floods of frames that need no answer: as many as a guest likes, through an interface of its own.
 *
 * Frames leave by a packet socket in batches and pass no queue but the interface's own, which is the link of
 * the program under test. All of a batch lie ready; only what differs from frame to frame is written anew.
 */
#include "frames.h"
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64
#define FRAME_MAX 1514
#define DATA_LEN 32		/* bytes of a datagram's payload */
#define FRAGMENT_LEN 64
#define DHCP_LEN 300
#define PORT_MIN 1024

struct flood {
	uint8_t mac[6], to[6];
	uint32_t source, target;	/* network order */
	uint8_t source6[16], target6[16];
	uint16_t port;
	uint64_t state;			/* of the random numbers */
	uint32_t number;		/* of the frame */
};

/* xorshift64 */
static uint32_t draw(struct flood *f)
{
	f->state ^= f->state << 13;
	f->state ^= f->state >> 7;
	f->state ^= f->state << 17;
	return (uint32_t)(f->state >> 16);
}

static unsigned int some_port(struct flood *f)
{
	return PORT_MIN + draw(f) % (65536 - PORT_MIN);
}

static void push_ethernet(const struct flood *f, uint8_t *p, unsigned int type)
{
	memcpy(p, f->to, 6);
	memcpy(p + 6, f->mac, 6);
	put16(p + 12, type);
}

/* Ethernet and IPv4 headers for n bytes; the checksum comes last, by end_ip4(). */
static uint8_t *push_ip4(const struct flood *f, uint8_t *p, unsigned int protocol, size_t n)
{
	uint8_t *ip = p + ETH;

	push_ethernet(f, p, ETHERTYPE_IP);
	memset(ip, 0, IP4);
	ip[0] = 0x45;
	put16(ip + 2, (unsigned int)(IP4 + n));
	ip[8] = 64;
	ip[9] = (uint8_t)protocol;
	memcpy(ip + 12, &f->source, 4);
	memcpy(ip + 16, &f->target, 4);
	return ip + IP4;
}

/* The header's checksum, and that of the n bytes behind it, whose field lies at offset at. */
static size_t end_ip4(uint8_t *p, size_t n, size_t at)
{
	uint8_t *ip = p + ETH, *l4 = ip + IP4;

	put16(ip + 10, 0);
	put16(ip + 10, fold(sum16(ip, IP4, 0)));
	if (at) {
		put16(l4 + at, 0);
		put16(l4 + at, fold(sum16(l4, n, sum16(ip + 12, 8, ip[9] + (uint32_t)n))));
	}
	return ETH + IP4 + n;
}

static size_t make_syn(struct flood *f, uint8_t *p)
{
	uint8_t *tcp = push_ip4(f, p, IPPROTO_TCP, TCP);

	memset(tcp, 0, TCP);
	put16(tcp, some_port(f));
	put16(tcp + 2, f->port);
	put32(tcp + 4, draw(f));
	tcp[12] = TCP / 4 << 4;
	tcp[13] = F_SYN;
	put16(tcp + 14, 65535);
	return end_ip4(p, TCP, 16);
}

/* A random host of 10.0.0.0/8, which nobody has here. */
static uint32_t some_host(struct flood *f)
{
	return htonl(10u << 24 | (draw(f) & 0xffffff));
}

static size_t make_syn_spread(struct flood *f, uint8_t *p)
{
	f->target = some_host(f);
	return make_syn(f, p);
}

static size_t make_syn_spoofed(struct flood *f, uint8_t *p)
{
	f->source = some_host(f);
	return make_syn(f, p);
}

static size_t push_datagram(struct flood *f, uint8_t *p, unsigned int from, unsigned int to, size_t n)
{
	uint8_t *udp = push_ip4(f, p, IPPROTO_UDP, UDP + n);

	put16(udp, from);
	put16(udp + 2, to);
	put16(udp + 4, (unsigned int)(UDP + n));
	return end_ip4(p, UDP + n, 6);
}

static size_t make_udp_ports(struct flood *f, uint8_t *p)
{
	return push_datagram(f, p, some_port(f), f->port, DATA_LEN);
}

static size_t make_udp_hosts(struct flood *f, uint8_t *p)
{
	f->target = some_host(f);
	return push_datagram(f, p, 5000, some_port(f), DATA_LEN);
}

static size_t make_udp_both(struct flood *f, uint8_t *p)
{
	f->target = some_host(f);
	return push_datagram(f, p, some_port(f), some_port(f), DATA_LEN);
}

static size_t make_ping(struct flood *f, uint8_t *p)
{
	uint8_t *icmp = push_ip4(f, p, IPPROTO_ICMP, UDP + DATA_LEN);

	memset(icmp, 0, UDP);
	icmp[0] = 8;
	put16(icmp + 4, draw(f));
	put16(icmp + 2, fold(sum16(icmp, UDP + DATA_LEN, 0)));
	return end_ip4(p, UDP + DATA_LEN, 0);
}

static size_t push_fragment(struct flood *f, uint8_t *p, unsigned int id, unsigned int offset)
{
	uint8_t *udp = push_ip4(f, p, IPPROTO_UDP, FRAGMENT_LEN);

	put16(p + ETH + 4, id);
	put16(p + ETH + 6, 0x2000 | offset / 8);
	memset(udp, 0, FRAGMENT_LEN);
	put16(udp, some_port(f));
	put16(udp + 2, f->port);
	put16(udp + 4, 4 * FRAGMENT_LEN);
	return end_ip4(p, FRAGMENT_LEN, 0);
}

/* The first fragment of a packet whose others never come. */
static size_t make_fragment_first(struct flood *f, uint8_t *p)
{
	return push_fragment(f, p, f->number++, 0);
}

/* Any but the first fragment, of any packet. */
static size_t make_fragment_ids(struct flood *f, uint8_t *p)
{
	return push_fragment(f, p, draw(f), FRAGMENT_LEN * (1 + draw(f) % 500));
}

/* Every other fragment of large packets, 32 packets at a time. */
static size_t make_fragment_holes(struct flood *f, uint8_t *p)
{
	uint32_t n = f->number++;

	return push_fragment(f, p, n / 16384 * 32 + n % 32, FRAGMENT_LEN * 2 * (n / 32 % 500));
}

static size_t make_arp(struct flood *f, uint8_t *p)
{
	uint8_t *arp = p + ETH;

	push_ethernet(f, p, ETHERTYPE_ARP);
	memcpy(arp, "\0\1\10\0\6\4\0\1", 8);
	memcpy(arp + 8, f->mac, 6);
	memcpy(arp + 14, &f->source, 4);
	memset(arp + 18, 0, 6);
	f->target = some_host(f);
	memcpy(arp + 24, &f->target, 4);
	return ETH + 28;
}

static size_t make_dhcp(struct flood *f, uint8_t *p)
{
	static const uint8_t options[] = { 99, 130, 83, 99, 53, 1, 1, 55, 4, 1, 3, 6, 26, 255 };
	uint8_t *dhcp = p + ETH + IP4 + UDP;
	size_t n;

	f->target = htonl(INADDR_BROADCAST);
	memset(dhcp, 0, DHCP_LEN);
	dhcp[0] = dhcp[1] = 1;
	dhcp[2] = 6;
	put32(dhcp + 4, draw(f));
	memcpy(dhcp + 28, f->mac, 6);
	put32(dhcp + 30, draw(f));	/* a client of its own */
	memcpy(dhcp + 236, options, sizeof(options));
	n = push_datagram(f, p, 68, 67, DHCP_LEN);
	memset(p + ETH + 12, 0, 4);
	return end_ip4(p, UDP + DHCP_LEN, 6) == n ? n : 0;
}

/* Ethernet and IPv6 headers, and the checksum of the n bytes behind them. */
static size_t wrap_ip6(const struct flood *f, uint8_t *p, const uint8_t *target, unsigned int protocol, size_t n,
		       size_t at)
{
	uint8_t *ip = p + ETH, *l4 = ip + IP6;

	push_ethernet(f, p, ETHERTYPE_IPV6);
	memset(ip, 0, IP6);
	ip[0] = 0x60;
	put16(ip + 4, (unsigned int)n);
	ip[6] = (uint8_t)protocol;
	ip[7] = 255;
	memcpy(ip + 8, f->source6, 16);
	memcpy(ip + 24, target, 16);
	put16(l4 + at, 0);
	put16(l4 + at, fold(sum16(l4, n, sum16(ip + 8, 32, protocol + (uint32_t)n))));
	return ETH + IP6 + n;
}

/* A neighbour solicitation for a random address of the prefix (RFC 4861 4.3). */
static size_t make_ndp(struct flood *f, uint8_t *p)
{
	uint8_t *icmp = p + ETH + IP6, target[16];

	memcpy(target, f->target6, 16);
	put32(target + 12, draw(f));
	memset(icmp, 0, 32);
	icmp[0] = 135;
	memcpy(icmp + 8, target, 16);
	icmp[24] = icmp[25] = 1;
	memcpy(icmp + 26, f->mac, 6);
	return wrap_ip6(f, p, target, IPPROTO_ICMPV6, 32, 2);
}

/* A SOLICIT of a client of its own (RFC 8415 16.2). */
static size_t make_dhcpv6(struct flood *f, uint8_t *p)
{
	static const uint8_t all[16] = { 0xff, 2, [13] = 1, [15] = 2 };
	uint8_t *udp = p + ETH + IP6, *message = udp + UDP;
	size_t n = UDP + 4 + 14 + 16;

	memset(udp, 0, n);
	put16(udp, 546);
	put16(udp + 2, 547);
	put16(udp + 4, (unsigned int)n);
	put32(message, 1u << 24 | (draw(f) & 0xffffff));
	memcpy(message + 4, "\0\1\0\12\0\3\0\1", 8);
	put32(message + 12, draw(f));
	memcpy(message + 18, "\0\3\0\14\0\0\0\1", 8);
	return wrap_ip6(f, p, all, IPPROTO_UDP, n, 6);
}

static const struct {
	const char *name;
	size_t (*make)(struct flood *f, uint8_t *p);	/* returns the frame's length */
} kinds[] = {
	{ "syn", make_syn },
	{ "syn-spread", make_syn_spread },
	{ "syn-spoofed", make_syn_spoofed },
	{ "udp-ports", make_udp_ports },
	{ "udp-hosts", make_udp_hosts },
	{ "udp-both", make_udp_both },
	{ "ping", make_ping },
	{ "fragment-first", make_fragment_first },
	{ "fragment-ids", make_fragment_ids },
	{ "fragment-holes", make_fragment_holes },
	{ "arp", make_arp },
	{ "dhcp", make_dhcp },
	{ "ndp", make_ndp },
	{ "dhcpv6", make_dhcpv6 },
};

int open_interface(const char *name, int protocol, uint8_t *mac)
{
	struct sockaddr_ll at = { .sll_family = AF_PACKET, .sll_protocol = htons((uint16_t)protocol) };
	struct ifreq request = { 0 };
	int on = 1, fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);

	if (fd < 0 || setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof(on)) < 0)
		die("packet socket");
	if (strlen(name) >= IFNAMSIZ) {
		fprintf(stderr, "load: INTERFACE must be shorter than %d bytes\n", IFNAMSIZ);
		exit(2);
	}
	strcpy(request.ifr_name, name);
	at.sll_ifindex = (int)if_nametoindex(name);
	if (!at.sll_ifindex || ioctl(fd, SIOCGIFHWADDR, &request) < 0)
		die(name);
	memcpy(mac, request.ifr_hwaddr.sa_data, 6);
	if (bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0)
		die(name);
	return fd;
}

/* How many frames may leave now, at a rate per second; 0: wait a little. */
static unsigned int allowance(uint64_t start, uint64_t now, double rate, uint64_t sent)
{
	double due;

	if (rate <= 0)
		return BATCH;
	due = (double)(now - start) / 1e9 * rate - (double)sent;
	return due >= BATCH ? BATCH : due < 1 ? 0 : (unsigned int)due;
}

/* load flood KIND INTERFACE SOURCE TARGET PORT RATE SECONDS [MAC]: SOURCE and TARGET are IPv4 addresses, RATE is
 * frames per second, 0: as many as there can be; MAC is whom they are for, else everybody. Prints how many the
 * interface took and refused. */
int cmd_flood(int argc, char **argv)
{
	static uint8_t frames[BATCH][FRAME_MAX];
	static struct mmsghdr messages[BATCH];
	static struct iovec pieces[BATCH];
	static const struct timespec moment = { .tv_nsec = 200000 };
	struct flood f = { .state = now_ns() | 1 };
	size_t (*make)(struct flood *, uint8_t *) = NULL;
	uint64_t start, now, end, sent = 0, refused = 0;
	uint32_t source, target;
	double rate, seconds;
	int fd;

	for (size_t i = 0; (argc == 8 || argc == 9) && i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (!strcmp(argv[1], kinds[i].name))
			make = kinds[i].make;
	if (!make || inet_pton(AF_INET, argv[3], &source) != 1 || inet_pton(AF_INET, argv[4], &target) != 1)
		return 2;
	f.port = (uint16_t)parse_number(argv[5], "PORT", 1, 65535);
	rate = parse_number(argv[6], "RATE", 0, 1e8);
	seconds = parse_number(argv[7], "SECONDS", 0.001, 3600);
	limit_arm(seconds + 5);
	memset(f.to, 0xff, 6);
	if (argc == 9 && sscanf(argv[8], "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", &f.to[0], &f.to[1], &f.to[2], &f.to[3],
				&f.to[4], &f.to[5]) != 6)
		return 2;
	inet_pton(AF_INET6, "fe80::bad", f.source6);
	inet_pton(AF_INET6, "2001:db8:100::", f.target6);
	fd = open_interface(argv[2], 0, f.mac);
	for (unsigned int i = 0; i < BATCH; i++) {
		pieces[i].iov_base = frames[i];
		messages[i].msg_hdr.msg_iov = &pieces[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	start = now_ns();
	end = start + (uint64_t)(seconds * 1e9);
	while ((now = now_ns()) < end) {
		unsigned int n = allowance(start, now, rate, sent + refused), done = 0;

		if (!n)
			nanosleep(&moment, NULL);
		for (unsigned int i = 0; i < n; i++) {
			f.source = source;
			f.target = target;
			pieces[i].iov_len = make(&f, frames[i]);
		}
		while (done < n) {
			int taken = sendmmsg(fd, messages + done, n - done, 0);

			if (taken < 0 && errno != ENOBUFS && errno != EINTR && errno != EAGAIN)
				die("sending frames");
			if (taken <= 0) {
				refused++;		/* the first of them, for want of room */
				done++;
			} else {
				sent += (uint64_t)taken;
				done += (unsigned int)taken;
			}
		}
	}
	printf("{\"sent\": %llu, \"refused\": %llu, \"seconds\": %.6f}\n", (unsigned long long)sent,
	       (unsigned long long)refused, (double)(now - start) / 1e9);
	return 0;
}
