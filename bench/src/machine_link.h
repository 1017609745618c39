/* The machine's link: how its frames leave and come. One of passt's socket, one of vhost-user. */
#ifndef BENCH_MACHINE_LINK_H
#define BENCH_MACHINE_LINK_H

#include <stddef.h>
#include <stdint.h>

#define MAX_HEAD 128u		/* bytes of a frame that are written, before its zeroes */

/* What the other end is asked to do with a frame (virtio 1.2, 5.1.6). */
struct offload {
	unsigned int csum_start, csum_offset;	/* 0, 0: its checksum is complete */
	unsigned int gso_type, gso_size;	/* 0, 0: it is one packet */
};

struct link {
	/* Give a place for the first bytes of a frame; n zeroes lie behind them already, at *zeroes. NULL: no room. */
	uint8_t *(*room)(struct link *link, size_t head, size_t n, const uint8_t **zeroes);
	/* The frame of the last room is complete. */
	void (*push)(struct link *link, const struct offload *offload);
	/* Hand over what was pushed; returns 0 while not all of it could be. */
	int (*flush)(struct link *link);
	/* Hand the frames that have come to on_frame, some of them; wait up to ms for the first one or for room. */
	void (*take)(struct link *link, int ms);
	/* Print what it counted, as members of a JSON object behind others. */
	void (*report)(const struct link *link);

	/* The first bytes of a frame, its headers at least, and the length of all of it. gso_size: that of a frame
	 * that was joined of several, else 0. */
	void (*on_frame)(void *who, const uint8_t *head, size_t n, unsigned int gso_size);
	void *who;

	int csum, tso4;		/* whether it takes checksums and segmentation off the guest's hands */
};

struct link *open_stream(const char *path);
/* size: entries of a ring; mtu: of the guest; offloads: whether those that the other end offers are acknowledged; in_pages: whether what
 * is sent lies in single pages. */
struct link *open_vhost(const char *path, unsigned int size, unsigned int mtu, int offloads, int in_pages);

#endif
