/* The front end's part of a vhost-user session (QEMU's Vhost-user Protocol), and its rings (virtio 1.2, 2.7). */
#include "vhost_session.h"
#include "load.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define GUEST_BASE 0x100000000ull
#define VERSION 1u
#define IS_REPLY 4u
#define NEED_REPLY 8u
#define REPLY_ACK (1ull << 3)

enum {
	GET_FEATURES = 1, SET_FEATURES, SET_OWNER, SET_MEM_TABLE = 5, SET_VRING_NUM = 8, SET_VRING_ADDR,
	SET_VRING_BASE, SET_VRING_KICK = 12, SET_VRING_CALL, GET_PROTOCOL_FEATURES = 15, SET_PROTOCOL_FEATURES,
	SET_VRING_ENABLE = 18,
};

struct message {
	uint32_t request, flags, size;
	union {
		uint64_t number;
		struct { uint32_t index, value; } state;
		struct { uint32_t index, flags; uint64_t desc, used, avail, log; } addresses;
		struct { uint32_t n, padding; uint64_t guest_address, size, user_address, offset; } table;
	};
} __attribute__((packed));

/* Memory and rings */

void memory_open(struct memory *memory, size_t size)
{
	memory->fd = memfd_create("guest", MFD_CLOEXEC);
	if (memory->fd < 0 || ftruncate(memory->fd, (off_t)size) < 0)
		die("memory of the guest");
	memory->base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, memory->fd, 0);
	if (memory->base == MAP_FAILED)
		die("memory of the guest");
	memory->size = size;
	memory->used = 0;
	memory->guest_address = GUEST_BASE;
}

void *memory_take(struct memory *memory, size_t n, size_t alignment)
{
	size_t at = (memory->used + alignment - 1) / alignment * alignment;

	if (at + n > memory->size) {
		errno = ENOMEM;
		die("memory of the guest");
	}
	memory->used = at + n;
	return memory->base + at;
}

void queue_make(struct queue *queue, struct memory *memory, unsigned int size)
{
	queue->size = size;
	queue->desc = memory_take(memory, sizeof(struct vring_desc) * size, 4096);
	queue->avail = memory_take(memory, sizeof(uint16_t) * (3 + size), 64);
	queue->used = memory_take(memory, sizeof(uint16_t) * 3 + sizeof(struct vring_used_elem) * size, 4096);
	queue->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	queue->call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (queue->kick < 0 || queue->call < 0)
		die("eventfd");
}

static uint16_t *used_event(const struct queue *queue)
{
	return &queue->avail->ring[queue->size];
}

static const uint16_t *avail_event(const struct queue *queue)
{
	return (const uint16_t *)&queue->used->ring[queue->size];
}

void queue_publish(struct queue *queue)
{
	uint16_t before = queue->published;
	const uint64_t one = 1;
	int wanted;

	if (queue->avail_idx == before)
		return;
	queue->published = queue->avail_idx;
	__atomic_store_n(&queue->avail->idx, queue->avail_idx, __ATOMIC_RELEASE);
	/* The other end writes what it wants to hear, then looks for what is available: we the other way round. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (queue->event_idx)
		wanted = vring_need_event(__atomic_load_n(avail_event(queue), __ATOMIC_RELAXED),
					  queue->avail_idx, before);
	else
		wanted = !(__atomic_load_n(&queue->used->flags, __ATOMIC_RELAXED) & VRING_USED_F_NO_NOTIFY);
	if (!wanted)
		return;
	queue->kicks++;
	if (write(queue->kick, &one, sizeof(one)) < 0 && errno != EAGAIN)
		die("kick");
}

void queue_no_calls(struct queue *queue)
{
	if (!queue->event_idx)
		__atomic_store_n(&queue->avail->flags, VRING_AVAIL_F_NO_INTERRUPT, __ATOMIC_RELAXED);
}

void queue_want_call(struct queue *queue, uint16_t after)
{
	if (queue->event_idx)
		__atomic_store_n(used_event(queue), (uint16_t)(queue->last_used + after), __ATOMIC_RELAXED);
	else
		__atomic_store_n(&queue->avail->flags, 0, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

void queue_drain_call(struct queue *queue)
{
	uint64_t count;

	if (read(queue->call, &count, sizeof(count)) == sizeof(count))
		queue->calls++;
}

uint16_t queue_used(const struct queue *queue)
{
	return (uint16_t)(__atomic_load_n(&queue->used->idx, __ATOMIC_ACQUIRE) - queue->last_used);
}

/* Messages */

static void tell(int fd, uint32_t request, struct message *message, size_t size, int passed)
{
	union { struct cmsghdr align; char bytes[CMSG_SPACE(sizeof(int))]; } control = { 0 };
	struct iovec part = { message, offsetof(struct message, number) + size };
	struct msghdr header = { .msg_iov = &part, .msg_iovlen = 1 };

	message->request = request;
	message->flags |= VERSION;
	message->size = (uint32_t)size;
	if (passed >= 0) {
		struct cmsghdr *item = &control.align;

		header.msg_control = &control;
		header.msg_controllen = sizeof(control);
		item->cmsg_level = SOL_SOCKET;
		item->cmsg_type = SCM_RIGHTS;
		item->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(item), &passed, sizeof(passed));
	}
	if (sendmsg(fd, &header, MSG_NOSIGNAL) != (ssize_t)part.iov_len)
		die("writing to the back end");
}

static uint64_t answer(int fd, uint32_t request)
{
	struct message message;
	const size_t size = offsetof(struct message, number) + sizeof(uint64_t);
	int got = recv_all(fd, &message, size);

	if (got < 0)
		die("reading of the back end");
	if (!got || message.request != request || message.flags != (VERSION | IS_REPLY) ||
	    message.size != sizeof(uint64_t)) {
		fprintf(stderr, "load: machine: the back end %s request %u\n",
			got ? "gave a wrong answer to" : "closed the connection at", request);
		exit(1);
	}
	return message.number;
}

static uint64_t ask(int fd, uint32_t request)
{
	struct message message = { 0 };

	tell(fd, request, &message, 0, -1);
	return answer(fd, request);
}

static void tell_number(int fd, uint32_t request, uint64_t number, int passed)
{
	struct message message = { .number = number };

	tell(fd, request, &message, sizeof(message.number), passed);
}

static void tell_state(int fd, uint32_t request, uint32_t index, uint32_t value)
{
	struct message message = { .state = { index, value } };

	tell(fd, request, &message, sizeof(message.state), -1);
}

static void tell_memory(int fd, const struct memory *memory, int acknowledged)
{
	struct message message = { .flags = acknowledged ? NEED_REPLY : 0, .table = {
		1, 0, memory->guest_address, memory->size, (uint64_t)(uintptr_t)memory->base, 0 } };

	tell(fd, SET_MEM_TABLE, &message, sizeof(message.table), memory->fd);
	if (acknowledged && answer(fd, SET_MEM_TABLE)) {
		fputs("load: machine: the back end did not take the memory\n", stderr);
		exit(1);
	}
}

static void tell_queue(int fd, uint32_t index, const struct queue *queue)
{
	struct message message = { .addresses = { index, 0, (uint64_t)(uintptr_t)queue->desc,
		(uint64_t)(uintptr_t)queue->used, (uint64_t)(uintptr_t)queue->avail, 0 } };

	tell_state(fd, SET_VRING_NUM, index, queue->size);
	tell_state(fd, SET_VRING_BASE, index, 0);
	tell(fd, SET_VRING_ADDR, &message, sizeof(message.addresses), -1);
	tell_number(fd, SET_VRING_KICK, index, queue->kick);
	tell_number(fd, SET_VRING_CALL, index, queue->call);
}

uint64_t session_start(int fd, uint64_t wanted, const struct memory *memory, struct queue queues[2])
{
	struct message owner = { 0 };
	uint64_t features, protocol = 0;

	tell(fd, SET_OWNER, &owner, 0, -1);
	features = ask(fd, GET_FEATURES);
	if (features & F_PROTOCOL_FEATURES) {
		protocol = ask(fd, GET_PROTOCOL_FEATURES) & REPLY_ACK;
		tell_number(fd, SET_PROTOCOL_FEATURES, protocol, -1);
	}
	features &= wanted;
	tell_number(fd, SET_FEATURES, features, -1);
	tell_memory(fd, memory, protocol & REPLY_ACK ? 1 : 0);
	for (uint32_t i = 0; i < 2; i++) {
		queues[i].event_idx = features & (1ull << VIRTIO_RING_F_EVENT_IDX) ? 1 : 0;
		tell_queue(fd, i, &queues[i]);
	}
	if (features & F_PROTOCOL_FEATURES)
		for (uint32_t i = 0; i < 2; i++)
			tell_state(fd, SET_VRING_ENABLE, i, 1);
	return features;
}
