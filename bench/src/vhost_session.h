/* The front end's part of a vhost-user session: memory and rings are told to the other end. */
#ifndef BENCH_VHOST_SESSION_H
#define BENCH_VHOST_SESSION_H

#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <stddef.h>
#include <stdint.h>

#define F(name) (1ull << VIRTIO_##name)
#define F_PROTOCOL_FEATURES (1ull << 30)

/* A split ring as its driver sees it. All indices count on and on, modulo 2^16. */
struct queue {
	unsigned int size;
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	uint16_t avail_idx, published, last_used;
	int kick, call, event_idx;
	uint64_t kicks, calls;
};

/* Memory of the guest: all of it is one region, mapped here at base. */
struct memory {
	uint8_t *base;
	size_t size, used;
	uint64_t guest_address;
	int fd;
};

void memory_open(struct memory *memory, size_t size);
void *memory_take(struct memory *memory, size_t n, size_t alignment);
void queue_make(struct queue *queue, struct memory *memory, unsigned int size);
static inline uint64_t guest_address(const struct memory *memory, const void *at)
{
	return memory->guest_address + (uint64_t)((const uint8_t *)at - memory->base);
}

void queue_publish(struct queue *queue);	/* what was added is available; a kick if one is wanted */
void queue_no_calls(struct queue *queue);
void queue_want_call(struct queue *queue, uint16_t after);	/* when so many more chains are used */
void queue_drain_call(struct queue *queue);
uint16_t queue_used(const struct queue *queue);			/* so many chains are used and not looked at */

/* Agree on those of the wanted features that are offered; start both queues, 0 to receive. Returns the features. */
uint64_t session_start(int fd, uint64_t wanted, const struct memory *memory, struct queue queues[2]);

#endif
