/* Shared memory and rings as the machine's link: what the virtio-net driver of a Linux guest does, without the guest.
 *
 * Sent frames are chains of a descriptor for the virtio-net header and the frame's own headers, and one for each
 * piece of zeroes; in a table of their own (INDIRECT_DESC) if that is offered, as the driver does it. A piece has 8
 * pages, in which a kernel gathers what write(2) gives it, or one page, as sendfile(2) has them. Where the guest
 * computes checksums itself (no CSUM), its kernel gathers nothing: the whole frame is one buffer. Pages come from a
 * pool that is large enough for two batches of the machine, and go back to it in order: one batch is filled while
 * the other end has the other, and the cache holds about what it holds with passt's socket.
 *
 * Buffers to receive in are of one size each, from 1536 bytes to a page, as the lengths of frames were of late (the
 * driver's own rule), and a frame takes as many as it needs (MRG_RXBUF). After a budget of frames, as in the kernel,
 * the machine looks after its connection; when nothing has come it asks for a call and sleeps. Nobody looks
 * at payload.
 */
#include "frames.h"
#include "load.h"
#include "machine_link.h"
#include "vhost_session.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGE 4096u
#define POOL_BYTES (512u << 10)
#define MIN_POOL_FRAMES 8u
#define MAX_PARTS 20u		/* descriptors of a frame */
#define NET_HDR 12u
#define BUDGET 64u		/* frames at a time */
#define REFILL 32u		/* free buffers that are worth it */
#define MIN_BUFFER 1536u
#define LINE 64u
#define WEIGHT 64u		/* of the average length */
#define MAX_PAYLOAD 65536u
#define WRITTEN_PAGES 8u		/* in one piece: SKB_FRAG_PAGE_ORDER of Linux is 3 */

struct chain {
	unsigned int parts, pages;
	int done;
};

struct vhost {
	struct link link;
	int fd;
	struct memory memory;
	struct queue queues[2];		/* to receive, to transmit */
	int indirect;
	size_t piece;			/* bytes at most */
	/* transmit: slots of the ring and pages of the pool are taken and given back in order */
	struct chain *chains;		/* by the number of the first descriptor */
	struct vring_desc *tables;	/* MAX_PARTS for each */
	uint8_t *heads;			/* NET_HDR + MAX_HEAD for each */
	uint8_t *pool;
	uint32_t pool_pages;
	uint32_t first, next;		/* descriptors: the oldest one in flight, the next one to take; of 2^32 */
	uint32_t page_first, page_next;
	/* the frame that is being made */
	size_t head, zeroes;
	uint8_t *head_at, *zeroes_at;
	uint32_t frame_pages;
	int full;
	/* receive */
	uint8_t *pages;
	uint16_t *idle;			/* buffers that are not in the ring */
	unsigned int n_idle, average;
	uint64_t frames;
};

static struct queue *rx(struct vhost *v)
{
	return &v->queues[0];
}

static struct queue *tx(struct vhost *v)
{
	return &v->queues[1];
}

static void violated(const char *what)
{
	fprintf(stderr, "load: machine: the back end %s\n", what);
	exit(1);
}

/* Transmit */

static void reap_sent(struct vhost *v)
{
	struct queue *q = tx(v);

	for (uint16_t n = queue_used(q); n; n--) {
		uint32_t id = q->used->ring[q->last_used++ % q->size].id;

		if (id >= q->size || !v->chains[id].parts || v->chains[id].done)
			violated("used a chain that it did not have");
		v->chains[id].done = 1;
	}
	while (v->first != v->next && v->chains[v->first % q->size].done) {
		struct chain *chain = &v->chains[v->first % q->size];

		v->first += chain->parts;
		v->page_first += chain->pages;
		chain->parts = 0;
		v->full = 0;
	}
}

static uint8_t *room(struct link *link, size_t head, size_t n, const uint8_t **zeroes)
{
	struct vhost *v = (struct vhost *)link;
	size_t in_pool = v->link.csum ? n : NET_HDR + head + n;
	uint32_t wanted = (uint32_t)((in_pool + PAGE - 1) / PAGE), at = v->page_next % v->pool_pages, pages = wanted;
	unsigned int parts = v->indirect || !v->link.csum ? 1 : 1 + wanted;
	uint8_t *place;

	/* The pages of a frame follow each other. */
	if (at + wanted > v->pool_pages) {
		pages += v->pool_pages - at;
		at = 0;
	}
	for (int again = 0; ; again++) {
		if (v->next + parts - v->first <= tx(v)->size && v->page_next + pages - v->page_first <= v->pool_pages)
			break;
		if (again) {
			v->full = 1;
			return NULL;
		}
		reap_sent(v);
	}
	v->head = head;
	v->zeroes = n;
	v->frame_pages = pages;
	place = v->pool + (size_t)at * PAGE;
	v->head_at = v->link.csum ? v->heads + (size_t)(v->next % tx(v)->size) * (NET_HDR + MAX_HEAD) : place;
	*zeroes = v->zeroes_at = v->link.csum ? place : place + NET_HDR + head;
	return v->head_at + NET_HDR;
}

/* Fill the descriptors of the frame: in its table, or from the first one on. Returns how many. */
static unsigned int fill(struct vhost *v, struct vring_desc *table, uint32_t first, uint32_t size)
{
	size_t left = v->link.csum ? v->zeroes : 0, done = 0;
	unsigned int n;

	table[first % size] = (struct vring_desc){ guest_address(&v->memory, v->head_at),
		(uint32_t)(NET_HDR + v->head + v->zeroes - left), 0, 0 };
	for (n = 1; left; n++) {
		size_t part = left < v->piece ? left : v->piece;
		struct vring_desc *last = &table[(first + n - 1) % size];

		last->flags = VRING_DESC_F_NEXT;
		last->next = (uint16_t)((first + n) % size);
		table[(first + n) % size] = (struct vring_desc){
			guest_address(&v->memory, v->zeroes_at + done), (uint32_t)part, 0, 0 };
		left -= part;
		done += part;
	}
	return n;
}

static void push(struct link *link, const struct offload *offload)
{
	struct vhost *v = (struct vhost *)link;
	struct queue *q = tx(v);
	uint32_t slot = v->next % q->size;
	struct virtio_net_hdr_mrg_rxbuf header = { 0 };
	struct chain *chain = &v->chains[slot];

	if (offload->csum_offset) {
		header.hdr.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
		header.hdr.csum_start = (uint16_t)offload->csum_start;
		header.hdr.csum_offset = (uint16_t)offload->csum_offset;
	}
	if (offload->gso_size) {
		header.hdr.gso_type = (uint8_t)offload->gso_type;
		header.hdr.gso_size = (uint16_t)offload->gso_size;
		header.hdr.hdr_len = (uint16_t)v->head;
	}
	memcpy(v->head_at, &header, NET_HDR);
	chain->done = 0;
	chain->pages = v->frame_pages;
	if (v->indirect && v->link.csum && v->zeroes) {
		struct vring_desc *table = v->tables + (size_t)slot * MAX_PARTS;
		unsigned int n = fill(v, table, 0, MAX_PARTS);

		q->desc[slot] = (struct vring_desc){ guest_address(&v->memory, table),
			n * (uint32_t)sizeof(*table), VRING_DESC_F_INDIRECT, 0 };
		chain->parts = 1;
	} else {
		chain->parts = fill(v, q->desc, v->next, q->size);
	}
	v->next += chain->parts;
	v->page_next += chain->pages;
	q->avail->ring[q->avail_idx++ % q->size] = (uint16_t)slot;
}

static int flush(struct link *link)
{
	struct vhost *v = (struct vhost *)link;

	queue_publish(tx(v));
	return !v->full;
}

/* Receive */

static void refill(struct vhost *v)
{
	struct queue *q = rx(v);
	unsigned int length = v->average;

	if (v->n_idle <= (REFILL < q->size / 2 ? REFILL : q->size / 2))
		return;
	length = length < MIN_BUFFER - NET_HDR ? MIN_BUFFER : length > PAGE - NET_HDR ? PAGE : length + NET_HDR;
	length = (length + LINE - 1) / LINE * LINE;
	while (v->n_idle) {
		uint16_t id = v->idle[--v->n_idle];

		q->desc[id] = (struct vring_desc){ guest_address(&v->memory, v->pages + (size_t)id * PAGE), length,
			VRING_DESC_F_WRITE, 0 };
		q->avail->ring[q->avail_idx++ % q->size] = id;
	}
	queue_publish(q);
}

/* Take one buffer; returns its length, and where it is. */
static uint32_t take_buffer(struct vhost *v, const uint8_t **at)
{
	struct queue *q = rx(v);
	const struct vring_used_elem *element = &q->used->ring[q->last_used++ % q->size];

	if (element->id >= q->size || element->len > q->desc[element->id].len || v->n_idle == q->size)
		violated("used a buffer that it did not have");
	*at = v->pages + (size_t)element->id * PAGE;
	v->idle[v->n_idle++] = (uint16_t)element->id;
	return element->len;
}

static int receive(struct vhost *v)
{
	struct queue *q = rx(v);
	unsigned int taken = 0;

	for (uint16_t n = queue_used(q); n && taken < BUDGET; taken++) {
		struct virtio_net_hdr_mrg_rxbuf header;
		const uint8_t *first, *other;
		uint32_t length = take_buffer(v, &first);

		if (length < NET_HDR + ETH)
			violated("gave a frame without headers");
		memcpy(&header, first, NET_HDR);
		if (!header.num_buffers || header.num_buffers > n)
			violated("did not give all buffers of a frame at once");
		for (unsigned int i = 1; i < header.num_buffers; i++)
			length += take_buffer(v, &other);
		n = (uint16_t)(n - header.num_buffers);
		length -= NET_HDR;
		v->average = (v->average * (WEIGHT - 1) + length) / WEIGHT;
		v->frames++;
		v->link.on_frame(v->link.who, first + NET_HDR, length,
				 header.hdr.gso_type ? header.hdr.gso_size : 0);
	}
	if (taken)
		refill(v);
	return taken ? 1 : 0;
}

/* Sleep until a call, unless something has come. */
static void sleep_for(struct vhost *v, int ms)
{
	struct pollfd fds[3] = { { .fd = rx(v)->call, .events = POLLIN }, { .fd = v->fd, .events = POLLIN },
		{ .fd = tx(v)->call, .events = POLLIN } };
	uint16_t in_flight = (uint16_t)(tx(v)->avail_idx - tx(v)->last_used);

	queue_want_call(rx(v), 0);
	if (v->full)
		queue_want_call(tx(v), (uint16_t)(in_flight * 3 / 4));
	if (queue_used(rx(v)) || (v->full && queue_used(tx(v)) > in_flight * 3 / 4))
		return;
	if (poll(fds, v->full ? 3 : 2, ms) < 0 && errno != EINTR)
		die("poll");
	if (fds[1].revents)
		violated("closed the connection");
	for (int i = 0; i < 2; i++) {
		queue_drain_call(&v->queues[i]);
		queue_no_calls(&v->queues[i]);
	}
}

static void take(struct link *link, int ms)
{
	struct vhost *v = (struct vhost *)link;

	reap_sent(v);
	if (receive(v) || !ms)
		return;
	sleep_for(v, ms);
	reap_sent(v);
	receive(v);
}

static void report(const struct link *link)
{
	const struct vhost *v = (const struct vhost *)link;

	printf(", \"frames\": %llu, \"kicks\": [%llu, %llu], \"calls\": [%llu, %llu]",
	       (unsigned long long)v->frames,
	       (unsigned long long)v->queues[0].kicks, (unsigned long long)v->queues[1].kicks,
	       (unsigned long long)v->queues[0].calls, (unsigned long long)v->queues[1].calls);
}

/* How many pages two batches of frames with up to n bytes of payload take, and one frame more. */
static uint32_t pool_pages(unsigned int n)
{
	uint32_t frames = POOL_BYTES / n > MIN_POOL_FRAMES ? POOL_BYTES / n : MIN_POOL_FRAMES;

	return (frames + 1) * ((NET_HDR + MAX_HEAD + n + PAGE - 1) / PAGE);
}

struct link *open_vhost(const char *path, unsigned int size, unsigned int mtu, int offloads, int in_pages)
{
	const uint64_t usual = F(F_VERSION_1) | F(NET_F_MRG_RXBUF) | F(RING_F_EVENT_IDX) | F(RING_F_INDIRECT_DESC) |
			       F_PROTOCOL_FEATURES;
	const uint64_t all = F(NET_F_CSUM) | F(NET_F_GUEST_CSUM) | F(NET_F_HOST_TSO4) | F(NET_F_HOST_TSO6) |
			     F(NET_F_HOST_ECN) | F(NET_F_GUEST_TSO4) | F(NET_F_GUEST_TSO6) | F(NET_F_GUEST_ECN) |
			     1ull << 54 | 1ull << 55 | 1ull << 56;	/* GUEST_USO4, GUEST_USO6, HOST_USO */
	struct vhost *v = calloc(1, sizeof(*v));
	uint64_t features;

	if (!v || !(v->chains = calloc(size, sizeof(*v->chains))) || !(v->idle = calloc(size, sizeof(*v->idle))))
		die("memory");
	v->pool_pages = pool_pages(mtu);
	if (offloads && pool_pages(MAX_PAYLOAD) > v->pool_pages)
		v->pool_pages = pool_pages(MAX_PAYLOAD);
	memory_open(&v->memory, (size_t)size * (PAGE + 2048) + (v->pool_pages + 64) * PAGE);
	queue_make(rx(v), &v->memory, size);
	queue_make(tx(v), &v->memory, size);
	v->heads = memory_take(&v->memory, (size_t)size * (NET_HDR + MAX_HEAD), LINE);
	v->tables = memory_take(&v->memory, size * MAX_PARTS * sizeof(*v->tables), LINE);
	v->pool = memory_take(&v->memory, (size_t)v->pool_pages * PAGE, PAGE);
	v->pages = memory_take(&v->memory, (size_t)size * PAGE, PAGE);
	v->piece = in_pages ? PAGE : WRITTEN_PAGES * PAGE;
	v->fd = connect_path(path);
	features = session_start(v->fd, usual | (offloads ? all : 0), &v->memory, v->queues);
	if (!(features & F(F_VERSION_1)) || !(features & F(NET_F_MRG_RXBUF)))
		violated("does not offer VERSION_1 and MRG_RXBUF");
	v->indirect = features & F(RING_F_INDIRECT_DESC) ? 1 : 0;
	v->link = (struct link){ .room = room, .push = push, .flush = flush, .take = take, .report = report,
		.csum = features & F(NET_F_CSUM) ? 1 : 0, .tso4 = features & F(NET_F_HOST_TSO4) ? 1 : 0 };
	for (unsigned int i = 0; i < size; i++)
		v->idle[v->n_idle++] = (uint16_t)(size - 1 - i);
	queue_no_calls(rx(v));
	queue_no_calls(tx(v));
	refill(v);
	return &v->link;
}
