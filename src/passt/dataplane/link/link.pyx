"""Links: how frames enter and leave.

Protocol code builds a frame at `Link.slot` and calls `send` with what a virtio-net header says:
checksum still to be completed, segmentation wanted. It always asks for the most; `send` lowers in
software what the link's `features` lack, and `put` has the link `emit` one frame and those who look
on see it as it travels. Memory in front of `slot` belongs to the link (virtio-net header, length
prefix), so a frame leaves in one system call without a copy.

Payload that lies elsewhere need not be copied behind the headers: `send_pieces` takes it in place.

A link that does not drain sets `blocked` and keeps a bounded number of frames; the engine watches
for writability and wakes the flows that wait. Nothing is counted as sent that was not taken.
"""

from libc.stdint cimport uint8_t, uint32_t

from passt.dataplane.packet.headers cimport ETH_HLEN, ETH_MIN_FRAME, MAX_FRAME
from passt.dataplane.link.segmentation cimport complete_csum, cut_segment
from passt.dataplane.base.assertions cimport PASST_ASSERT
from passt.dataplane.base.stats cimport DROP_LINK_DOWN, DROP_LINK_FULL, DROP_OVERSIZE, DROP_SHORT, count
from passt.dataplane.base.externs cimport (
    EAGAIN, EINTR, EIO, ENOBUFS, ENOMEM, TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_USO4, TUN_F_USO6,
    VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_ECN, VIRTIO_NET_HDR_GSO_NONE,
    VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6, close, errno, free, iovec,
    malloc, memcpy, memmove, memset, read, virtio_net_hdr, writev,
)
from passt.dataplane.link.meta cimport RxFrame, TxMeta

cdef enum:
    HEADROOM = 18                 # link's own bytes before a frame; puts the IP header on 32 bytes
    VNET_HLEN = 10
    SLOT_SIZE = HEADROOM + MAX_FRAME
    # Receive memory. A batch ends when less than a whole frame's room is left, so small frames come
    # in many and large ones in cache-sized portions.
    RX_SIZE = 5 * 65664
    RX_STRIDE = 32
    # Frames kept for a device that refuses them. Tap devices rarely do; two TSO frames and the
    # acknowledgements of a turn fit.
    PENDING_SIZE = 4 * SLOT_SIZE


cdef class Link:
    """Base of all links: memory to build frames in, and software in place of missing offloads."""

    def __cinit__(self):
        self.slot = <uint8_t *>malloc(SLOT_SIZE)
        if self.slot == NULL:
            raise MemoryError
        memset(self.slot, 0, SLOT_SIZE)
        self.slot += HEADROOM
        self.max_frame = MAX_FRAME

    def __dealloc__(self):
        if self.slot != NULL:
            free(self.slot - HEADROOM)
        if self.segment != NULL:
            free(self.segment - HEADROOM)

    cdef int read_batch(self, RxFrame *frames, int room) noexcept nogil:
        """Fill up to *room* frames; 0 when nothing is there or the link has ended (`error`)."""
        return 0

    cdef bint emit(self, uint8_t *frame, size_t n, const TxMeta *meta) noexcept nogil:
        """Put one frame out or keep it for later; False (and a counted drop) if neither is possible.

        HEADROOM bytes before *frame* may be overwritten.
        """
        return False

    cdef bint put(self, uint8_t *frame, size_t n, const TxMeta *meta) noexcept nogil:
        """Emit one frame; what is taken is shown to whoever looks on."""
        if not self.emit(frame, n, meta):
            return False
        if self.watch is not None and self.watch.active:
            self.watch.on_frame(frame, n, True, meta.csum_start, meta.csum_offset, meta.gso_type,
                                meta.gso_size)
        return True

    cdef void on_writable(self) noexcept nogil:
        """The far side drains again."""

    cdef void flush(self) noexcept nogil:
        """The turn ends: what was held back to leave together goes out now."""

    cdef bint send(self, size_t n, const TxMeta *meta) noexcept nogil:
        """Send the *n* bytes at `slot`; False if the link took no part of it."""
        cdef uint32_t need
        cdef TxMeta done
        if meta.gso_type != VIRTIO_NET_HDR_GSO_NONE:
            if meta.gso_type == VIRTIO_NET_HDR_GSO_TCPV4:
                need = LINK_TSO4
            elif meta.gso_type == VIRTIO_NET_HDR_GSO_TCPV6:
                need = LINK_TSO6
            else:
                need = LINK_USO4 | LINK_USO6
            if self.features & need != need:
                return self.send_segments(n, meta)
        elif meta.csum_start and not self.features & LINK_CSUM:
            complete_csum(self.slot, n, meta)
            done = meta[0]
            done.csum_start = 0
            return self.put(self.slot, n, &done)
        return self.put(self.slot, n, meta)

    cdef bint has_segment(self) noexcept nogil:
        """See that there is memory at `segment`; False is a counted drop."""
        if self.segment == NULL:
            self.segment = <uint8_t *>malloc(SLOT_SIZE)
            if self.segment == NULL:
                count(self.stats, DROP_LINK_FULL)
                return False
            self.segment += HEADROOM
        return True

    cdef bint send_pieces(self, const iovec *pieces, size_t n, const TxMeta *meta) noexcept nogil:
        """Send the headers at `slot` (meta.hdr_len bytes) with the *n* pieces as payload, MAX_PIECES at most.

        This one gathers them in the slot; a link that can do without a copy does. Whoever looks on does
        not see such a frame: `Core.send_pieces` gathers it then.
        """
        cdef size_t length = meta.hdr_len
        cdef size_t i
        for i in range(n):
            memcpy(self.slot + length, pieces[i].iov_base, pieces[i].iov_len)
            length += pieces[i].iov_len
        return self.send(length, meta)

    cdef bint send_segments(self, size_t n, const TxMeta *meta) noexcept nogil:
        """Cut the frame at `slot` into segments and send each.

        True as soon as the first one is taken: a later one that is refused is like one lost on a wire.
        """
        cdef TxMeta done = meta[0]
        cdef size_t payload = n - meta.hdr_len
        cdef uint32_t offset = 0
        cdef size_t length
        if not self.has_segment():
            return False
        done.gso_type = VIRTIO_NET_HDR_GSO_NONE
        done.gso_size = 0
        done.csum_start = 0
        while offset < payload:
            length = cut_segment(self.slot, n, meta, offset, self.segment)
            if length < ETH_MIN_FRAME:
                memset(self.segment + length, 0, ETH_MIN_FRAME - length)
                length = ETH_MIN_FRAME
            if not self.put(self.segment, length, &done):
                return offset > 0
            offset += meta.gso_size
        return True


cdef class TapLink(Link):
    """A tap device with virtio-net headers of 10 bytes (linux/if_tun.h, IFF_VNET_HDR)."""

    def __cinit__(self, int fd, uint32_t offloads):
        self.fd = fd
        self.rx = <uint8_t *>malloc(RX_SIZE)
        if self.rx == NULL:
            raise MemoryError
        # These bits say what we accept from the device; the kernel takes the same from a writer.
        if offloads & TUN_F_CSUM:
            self.features |= LINK_CSUM
        if offloads & TUN_F_TSO4:
            self.features |= LINK_TSO4
        if offloads & TUN_F_TSO6:
            self.features |= LINK_TSO6
        if offloads & TUN_F_USO4 and offloads & TUN_F_USO6:
            self.features |= LINK_USO4 | LINK_USO6

    def __dealloc__(self):
        if self.fd >= 0:
            close(self.fd)
        free(self.rx)
        free(self.pending)

    cdef int read_batch(self, RxFrame *frames, int room) noexcept nogil:
        cdef size_t position = HEADROOM - VNET_HLEN
        cdef virtio_net_hdr header
        cdef ssize_t n
        cdef int found = 0
        self.drained = False
        while found < room and position + VNET_HLEN + MAX_FRAME < RX_SIZE:
            n = read(self.fd, self.rx + position, RX_SIZE - position)
            if n < 0:
                if errno == EINTR:
                    continue
                if errno not in (EAGAIN, ENOBUFS, ENOMEM):
                    self.error = errno
                self.drained = True
                break
            if n < VNET_HLEN + ETH_HLEN:
                count(self.stats, DROP_SHORT)
                continue
            if n > VNET_HLEN + MAX_FRAME:
                count(self.stats, DROP_OVERSIZE)
                continue
            memcpy(&header, self.rx + position, VNET_HLEN)
            memset(&frames[found], 0, sizeof(RxFrame))
            frames[found].data = self.rx + position + VNET_HLEN
            frames[found].len = <uint32_t>(n - VNET_HLEN)
            frames[found].gso_type = header.gso_type & <uint8_t>~VIRTIO_NET_HDR_GSO_ECN
            frames[found].gso_size = header.gso_size
            if header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM:
                frames[found].csum_start = header.csum_start
                frames[found].csum_offset = header.csum_offset
            found += 1
            position += (<size_t>n + RX_STRIDE - 1) & ~<size_t>(RX_STRIDE - 1)
        return found

    cdef bint emit(self, uint8_t *frame, size_t n, const TxMeta *meta) noexcept nogil:
        cdef uint8_t *start = frame - VNET_HLEN
        cdef iovec whole
        cdef ssize_t result
        self.put_header(start, meta)
        if self.blocked:
            return self.keep(start, n + VNET_HLEN)
        whole.iov_base = start
        whole.iov_len = n + VNET_HLEN
        result = self.write_out(&whole, 1)
        if result == 0:
            self.blocked = True
            self.stats.link_stalls += 1
            return self.keep(start, n + VNET_HLEN)
        return result > 0

    cdef bint send_pieces(self, const iovec *pieces, size_t n, const TxMeta *meta) noexcept nogil:
        cdef iovec all_pieces[MAX_PIECES + 1]
        cdef uint32_t need = LINK_CSUM | (LINK_USO4 | LINK_USO6 if meta.gso_type else 0)
        cdef ssize_t result
        if self.blocked or self.features & need != need:
            return Link.send_pieces(self, pieces, n, meta)
        self.put_header(self.slot - VNET_HLEN, meta)
        all_pieces[0].iov_base = self.slot - VNET_HLEN
        all_pieces[0].iov_len = VNET_HLEN + meta.hdr_len
        memcpy(&all_pieces[1], pieces, n * sizeof(iovec))
        result = self.write_out(all_pieces, <int>n + 1)
        if result == 0:
            self.blocked = True
            self.stats.link_stalls += 1
            return Link.send_pieces(self, pieces, n, meta)
        return result > 0

    cdef void put_header(self, uint8_t *start, const TxMeta *meta) noexcept nogil:
        """Write the virtio-net header for *meta*."""
        cdef virtio_net_hdr header
        memset(&header, 0, sizeof(header))
        # The kernel puts hdr_len bytes into the linear part of its buffer; without it a large frame
        # would need one contiguous allocation of its whole size (drivers/net/tun.c, tun_alloc_skb).
        header.hdr_len = meta.hdr_len
        if meta.csum_start:
            header.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM
            header.csum_start = meta.csum_start
            header.csum_offset = meta.csum_offset
        header.gso_type = meta.gso_type
        header.gso_size = meta.gso_size
        memcpy(start, &header, VNET_HLEN)

    cdef ssize_t write_out(self, const iovec *pieces, int n) noexcept nogil:
        """Write one frame with its header: 1 sent, 0 not now, -1 counted drop."""
        cdef ssize_t written = -1
        while written < 0:
            written = writev(self.fd, pieces, n)
            if written >= 0 or errno == EINTR:
                continue
            if errno in (EAGAIN, ENOBUFS):
                return 0
            if errno == EIO:
                count(self.stats, DROP_LINK_DOWN)
            else:
                count(self.stats, DROP_LINK_FULL)
            return -1
        self.stats.frames_to_guest += 1
        self.stats.bytes_to_guest += <size_t>written - VNET_HLEN
        return 1

    cdef bint keep(self, const uint8_t *start, size_t n) noexcept nogil:
        """Keep a refused frame for `on_writable`; False if there is no room left."""
        cdef uint32_t length = <uint32_t>n
        PASST_ASSERT(self.pending_start <= self.pending_end)
        PASST_ASSERT(self.pending_end <= PENDING_SIZE)
        if self.pending == NULL:
            self.pending = <uint8_t *>malloc(PENDING_SIZE)
        if self.pending == NULL or self.pending_end + sizeof(uint32_t) + n > PENDING_SIZE:
            count(self.stats, DROP_LINK_FULL)
            return False
        memcpy(self.pending + self.pending_end, &length, sizeof(uint32_t))
        memcpy(self.pending + self.pending_end + sizeof(uint32_t), start, n)
        self.pending_end += sizeof(uint32_t) + n
        return True

    cdef void on_writable(self) noexcept nogil:
        cdef uint32_t length = 0
        cdef iovec whole
        while self.pending_start < self.pending_end:
            memcpy(&length, self.pending + self.pending_start, sizeof(uint32_t))
            whole.iov_base = self.pending + self.pending_start + sizeof(uint32_t)
            whole.iov_len = length
            if self.write_out(&whole, 1) == 0:
                self.pending_end -= self.pending_start
                memmove(self.pending, self.pending + self.pending_start, self.pending_end)
                self.pending_start = 0
                return
            self.pending_start += sizeof(uint32_t) + length
            PASST_ASSERT(self.pending_start <= self.pending_end)
        self.pending_start = 0
        self.pending_end = 0
        self.blocked = False
