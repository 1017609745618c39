"""The link to a tap device, with one system call for each frame.

Each frame has a virtio-net header in front (linux/if_tun.h, IFF_VNET_HDR), so the kernel on the other
side completes checksums and cuts segments. A device that refuses a frame blocks the link; a few frames are
kept until it is writable again.
"""

from libc.stdint cimport uint8_t, uint32_t

from passt.dataplane.base.assertions cimport PASST_ASSERT
from passt.dataplane.base.externs cimport (
    EAGAIN, EINTR, EIO, ENOBUFS, ENOMEM, TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_USO4, TUN_F_USO6,
    VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_ECN, errno, free, iovec, malloc, memcpy, memmove,
    memset, read, virtio_net_hdr, writev,
)
from passt.dataplane.base.stats cimport DROP_LINK_DOWN, DROP_LINK_FULL, DROP_OVERSIZE, DROP_SHORT, count
from passt.dataplane.link.link cimport (
    HEADROOM, LINK_CSUM, LINK_TSO4, LINK_TSO6, LINK_USO4, LINK_USO6, MAX_PIECES, Link,
)
from passt.dataplane.link.meta cimport RxFrame, TxMeta
from passt.dataplane.packet.headers cimport ETH_HLEN, MAX_FRAME

cdef enum:
    VNET_HLEN = 10
    # Receive memory. A batch ends when less than a whole frame's room is left, so small frames come
    # in many and large ones in cache-sized portions.
    RX_SIZE = 5 * 65664
    RX_STRIDE = 32
    # Frames kept for a device that refuses them. Tap devices rarely do; two TSO frames and the
    # acknowledgements of a turn fit.
    PENDING_SIZE = 4 * (HEADROOM + MAX_FRAME)


cdef class TapLink(Link):
    """A tap device with virtio-net headers of 10 bytes (linux/if_tun.h, IFF_VNET_HDR)."""

    def __cinit__(self, int fd, uint32_t offloads):
        self.fds[0] = fd
        self.n_fds = 1
        self.room = 1
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
        free(self.rx)
        free(self.pending)

    cdef int batch_room(self, bint slept) noexcept nogil:
        """Reading on until nothing is left costs a call more than needed where single frames come, as in a
        request/response exchange. So the batch grows only while frames come faster than turns.
        """
        if not slept:
            self.room = min(2 * self.room, <int>RX_BATCH)
        return self.room

    cdef int read_batch(self, RxFrame *frames, int room) noexcept nogil:
        cdef size_t position = HEADROOM - VNET_HLEN
        cdef virtio_net_hdr header
        cdef ssize_t n
        cdef int found = 0
        self.drained = False
        while found < room and position + VNET_HLEN + MAX_FRAME < RX_SIZE:
            n = read(self.fds[0], self.rx + position, RX_SIZE - position)
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
        if self.drained:
            self.room = max(found, 1)
        return found

    cdef str end_reason(self):
        return f"the guest's interface is gone: {Link.end_reason(self)}"

    cdef bint emit(self, uint8_t *frame, size_t n, const TxMeta *meta) noexcept nogil:
        cdef uint8_t *start = frame - VNET_HLEN
        cdef iovec whole
        cdef ssize_t result
        self.put_header(start, meta)
        if self.blocked:
            return self.keep_refused(start, n + VNET_HLEN)
        whole.iov_base = start
        whole.iov_len = n + VNET_HLEN
        result = self.write_out(&whole, 1)
        if result == 0:
            self.blocked = True
            self.stats.link_stalls += 1
            return self.keep_refused(start, n + VNET_HLEN)
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
            written = writev(self.fds[0], pieces, n)
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

    cdef bint keep_refused(self, const uint8_t *start, size_t n) noexcept nogil:
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
