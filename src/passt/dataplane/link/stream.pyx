"""The link to a virtual machine: QEMU's `-netdev stream`, frames with a length in front on a stream socket.

Theory of operation. Each frame has its length in front of it, 32 bits in network byte order that do not
count themselves; nothing else is on the stream, so it cannot be resynchronised after an impossible length:
the link ends then (`error`). There is no virtio-net header, hence checksums and segments are made
here, for the features that all of this link's users may therefore ask for.

From the guest: one recv(2) takes what there is, up to RX_SIZE, and the frames are handed on where they lie.
What follows the last whole frame is moved to the front before the next one. `more` says that one batch had
no room for all frames, so that the caller comes back before it waits.

A guest that sends much fills its socket, sleeps until we have taken most of that, and would be woken once
more by our answers. So after a large portion the next one is taken before the answers leave
(`read_ahead`).

To the guest: frames are put one behind the other in memory and written by one call at the end of the
turn (`flush`), or when there are FLUSH_AT bytes. Behind a large frame that needs no cutting the next one
is built where it will be written from (`choose_slot`); only small frames, and cut ones, are copied.
Bytes that the socket does not take stay, partly written frames included, and the link is `blocked` until
it is writable: nothing is read then that would feed it (see `link`). Frames that still come (most of
them acknowledgements) are kept while there is room. A frame counts as sent when its last byte was
written.

The link outlives its socket. While nobody is connected it is a blocked one that drops what it is given, so
connections wait for the next client as they wait for one that does not read.
"""

from libc.stdint cimport uint8_t, uint32_t

from passt.dataplane.packet.headers cimport (
    ETH_HLEN, ETH_MIN_FRAME, MAX_FRAME, load_be32, store_be32,
)
from passt.dataplane.link.link cimport LINK_CSUM, LINK_TSO4, LINK_TSO6, LINK_USO4, LINK_USO6, Link
from passt.dataplane.link.segmentation cimport Cut, complete_csum, push_segment, start_cut
from passt.dataplane.base.assertions cimport PASST_ASSERT, PASST_DEBUG_BUILD
from passt.dataplane.base.stats cimport DROP_LINK_DOWN, DROP_LINK_FULL, count
from passt.dataplane.base.wait_limit cimport begin_limit, end_limit
from passt.dataplane.base.externs cimport (
    EAGAIN, EINTR, ENOBUFS, ENOMEM, MSG_DONTWAIT, MSG_NOSIGNAL, SO_SNDBUF, SOL_SOCKET,
    VIRTIO_NET_HDR_GSO_NONE, errno, free, iovec, malloc, memcpy, memmove, memset, recv, send_bytes,
    setsockopt,
)
from passt.dataplane.link.meta cimport RxFrame, TxMeta

cdef enum:
    PREFIX = 4                    # bytes of the length
    # One read: enough to make the call cheap, and it stays in the processor's second cache until it has
    # been sent on. Behind it there is room for what is left of a frame.
    RX_SIZE = 256 << 10
    RX_ROOM = RX_SIZE + PREFIX + MAX_FRAME
    AHEAD_FROM = 64 << 10
    # Frames on their way. While the link is not blocked there are less than FLUSH_AT bytes of them, so
    # that one large frame in segments of the least size still fits. Each write wakes the machine, which
    # then takes the processor from us if it shares ours; so a write is about as much as the socket takes.
    OUT_SIZE = 1 << 20
    FLUSH_AT = 384 << 10
    # Behind a frame of this size the next one is built in place. A frame to be cut needs its headers kept, so
    # it is copied as it is cut, while it is in the processor's cache.
    IN_PLACE_FROM = 16 << 10
    IN_PLACE_ROOM = PREFIX + MAX_FRAME
    # What the kernel may hold for the guest, as far as net.core.wmem_max allows. A guest that reads in
    # large portions finds the next one there while we are woken.
    SOCKET_BUFFER = 1 << 20


cdef class StreamLink(Link):
    """One client at a time; `attach` and `detach` may follow each other as often as one likes."""

    def __cinit__(self):
        self.blocked = True
        self.features = LINK_CSUM | LINK_TSO4 | LINK_TSO6 | LINK_USO4 | LINK_USO6
        self.rx = <uint8_t *>malloc(RX_ROOM)
        self.out = <uint8_t *>malloc(OUT_SIZE)
        self.own_slot = self.slot
        if self.rx == NULL or self.out == NULL:
            raise MemoryError

    def __dealloc__(self):
        self.slot = self.own_slot     # for the base class, which frees it
        free(self.rx)
        free(self.out)

    cdef void attach(self, int fd) noexcept nogil:
        """Take ownership of a connected stream socket; there must be none."""
        cdef int size = SOCKET_BUFFER
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size))
        self.fds[0] = fd
        self.n_fds = 1
        self.blocked = False
        self.error = 0
        self.broken = 0
        self.more = False

    cdef void detach(self) noexcept nogil:
        """Close the socket; what was not written is dropped, half a frame that was read is forgotten."""
        Link.detach(self)
        self.rx_start = 0
        self.rx_end = 0
        self.n_received = 0
        self.stats.drops[<int>DROP_LINK_DOWN] += self.n_queued
        self.out_start = 0
        self.out_end = 0
        self.rest = 0
        self.n_queued = 0
        self.bytes_queued = 0
        self.slot = self.own_slot

    cdef str end_reason(self):
        if self.error == STREAM_CLOSED:
            return "it closed the connection"
        if self.error == STREAM_BAD_LENGTH and is_vhost_request(self.bad_length):
            return "it speaks vhost-user, which this passt does with the option --vhost-user"
        if self.error == STREAM_BAD_LENGTH:
            return (f"it sent a frame of {self.bad_length} bytes, where {<int>ETH_HLEN} to "
                    f"{<int>MAX_FRAME} are possible")
        return Link.end_reason(self)

    # From the guest

    cdef int read_batch(self, RxFrame *frames, int room) noexcept nogil:
        """Split what was read, or read once; see `Link.read_batch`.

        After an `error` there may still be frames that came before it.
        """
        cdef int found
        if not self.n_fds:
            self.drained = True
            return 0
        found = self.split(frames, room)
        if found == 0 and not self.error and self.receive():
            found = self.split(frames, room)
        return found

    cdef int split(self, RxFrame *frames, int room) noexcept nogil:
        """Find the whole frames of what was read, *room* at most."""
        cdef int found = 0
        cdef uint32_t length
        self.more = False
        while self.rx_end - self.rx_start >= PREFIX:
            length = load_be32(self.rx + self.rx_start)
            if length < ETH_HLEN or length > MAX_FRAME:
                self.bad_length = length
                self.error = STREAM_BAD_LENGTH
                break
            if self.rx_end - self.rx_start < PREFIX + length:
                break
            if found == room:
                self.more = True
                break
            memset(&frames[found], 0, sizeof(RxFrame))
            frames[found].data = self.rx + self.rx_start + PREFIX
            frames[found].len = length
            frames[found].unverified = True
            found += 1
            self.rx_start += PREFIX + length
        return found

    cdef bint receive(self) noexcept nogil:
        """Read once; False if there was nothing, or the stream has ended."""
        cdef ssize_t n = -1
        cdef size_t left = self.rx_end - self.rx_start
        if left and self.rx_start:
            memmove(self.rx, self.rx + self.rx_start, left)
        self.rx_start = 0
        self.rx_end = left
        while n < 0:
            begin_limit()         # a descriptor that came with the bytes is closed now
            n = recv(self.fds[0], self.rx + left, RX_ROOM - left, MSG_DONTWAIT)
            end_limit()
            if n >= 0 or errno == EINTR:
                continue
            self.drained = True
            if errno not in (EAGAIN, ENOBUFS, ENOMEM):
                self.error = errno
            elif self.broken:
                self.error = self.broken
            return False
        if n == 0:
            self.drained = True
            self.error = STREAM_CLOSED
            return False
        self.drained = <size_t>n < RX_ROOM - left
        self.rx_end += n
        self.n_received = n
        if PASST_DEBUG_BUILD:
            check_buffers(self)
        return True

    cdef void read_ahead(self) noexcept nogil:
        """At the end of a turn that has answers for a guest which sends much: take what has come since."""
        if self.n_received < AHEAD_FROM or self.out_start == self.out_end or self.error or not self.n_fds:
            return
        self.n_received = 0
        self.more = self.receive()

    cdef void end_turn(self) noexcept nogil:
        self.read_ahead()
        self.flush()

    # To the guest

    cdef bint send(self, size_t n, const TxMeta *meta) noexcept nogil:
        cdef iovec whole
        cdef TxMeta done
        if meta.gso_type != VIRTIO_NET_HDR_GSO_NONE:
            self.copy_slot_apart(n)
            whole.iov_base = self.slot + meta.hdr_len
            whole.iov_len = n - meta.hdr_len
            return self.cut(&whole, n - meta.hdr_len, meta)
        complete_csum(self.slot, n, meta)
        done = meta[0]
        done.csum_start = 0
        return self.put(self.slot, n, &done)

    cdef bint send_pieces(self, const iovec *pieces, size_t n, const TxMeta *meta) noexcept nogil:
        cdef size_t payload = 0
        cdef size_t i
        if meta.gso_type == VIRTIO_NET_HDR_GSO_NONE:
            return Link.send_pieces(self, pieces, n, meta)
        self.copy_slot_apart(meta.hdr_len)
        for i in range(n):
            payload += pieces[i].iov_len
        return self.cut(pieces, payload, meta)

    cdef bint emit(self, uint8_t *frame, size_t n, const TxMeta *meta) noexcept nogil:
        cdef bint is_slot = frame == self.slot
        cdef bint taken
        if is_slot and self.slot != self.own_slot:
            taken = self.queue_built(n)
        else:
            self.copy_slot_apart(MAX_FRAME)
            store_be32(frame - PREFIX, <uint32_t>n)
            taken = self.queue(frame - PREFIX, PREFIX + n)
        if is_slot:
            self.choose_slot(n >= IN_PLACE_FROM)
        return taken

    cdef void choose_slot(self, bint behind) noexcept nogil:
        """Have the next frame built *behind* what is queued, or where there is no room or need, apart."""
        self.slot = self.own_slot
        if behind and self.out_end + IN_PLACE_ROOM <= OUT_SIZE:
            self.slot = self.out + self.out_end + PREFIX

    cdef void copy_slot_apart(self, size_t n) noexcept nogil:
        """Move the *n* bytes at the slot away from behind the queue, which is about to grow there."""
        if self.slot != self.own_slot:
            memcpy(self.own_slot, self.slot, n)
            self.slot = self.own_slot

    cdef bint queue_built(self, size_t n) noexcept nogil:
        """Queue the frame of *n* bytes that was built behind the queue."""
        if not self.n_fds or self.broken:
            count(self.stats, DROP_LINK_DOWN)
            return False
        store_be32(self.slot - PREFIX, <uint32_t>n)
        self.note_queued(1, PREFIX + n)
        if self.out_end - self.out_start >= FLUSH_AT:
            self.flush()
        return True

    cdef bint cut(self, const iovec *pieces, size_t payload, const TxMeta *meta) noexcept nogil:
        """Queue the segments of a frame whose headers are at the slot; all of them, or none."""
        cdef size_t n_segments = (payload + meta.gso_size - 1) // meta.gso_size
        cdef size_t least = max(<size_t>meta.hdr_len, <size_t>ETH_MIN_FRAME)
        cdef size_t offset = 0
        cdef size_t used = 0          # of the first piece
        cdef size_t length, done, part
        cdef uint8_t *out
        cdef Cut cut
        if not self.has_room(payload + n_segments * (PREFIX + least)):
            return False
        start_cut(&cut, self.slot, meta, payload)
        out = self.out + self.out_end
        while offset < payload:
            length = min(<size_t>meta.gso_size, payload - offset)
            done = 0
            while done < length:
                part = min(length - done, pieces.iov_len - used)
                memcpy(out + PREFIX + meta.hdr_len + done, <uint8_t *>pieces.iov_base + used, part)
                done += part
                used += part
                if used == pieces.iov_len:
                    pieces += 1
                    used = 0
            push_segment(&cut, out + PREFIX, <uint32_t>offset, <uint32_t>length)
            offset += length
            length += meta.hdr_len
            if length < ETH_MIN_FRAME:
                memset(out + PREFIX + length, 0, ETH_MIN_FRAME - length)
                length = ETH_MIN_FRAME
            store_be32(out, <uint32_t>length)
            if self.watch is not None and self.watch.active:
                self.watch.on_frame(out + PREFIX, length, True, 0, 0, 0, 0)
            out += PREFIX + length
        self.note_queued(n_segments, <size_t>(out - self.out) - self.out_end)
        if self.out_end - self.out_start >= FLUSH_AT:
            self.flush()
        return True

    cdef bint has_room(self, size_t n) noexcept nogil:
        """See that the queue can take *n* bytes more; False is a counted drop."""
        if not self.n_fds or self.broken:
            count(self.stats, DROP_LINK_DOWN)
            return False
        if self.out_end + n > OUT_SIZE and self.out_start:
            self.out_end -= self.out_start
            memmove(self.out, self.out + self.out_start, self.out_end)
            self.out_start = 0
        if self.out_end + n > OUT_SIZE:
            count(self.stats, DROP_LINK_FULL)
            return False
        return True

    cdef bint queue(self, const uint8_t *start, size_t n) noexcept nogil:
        """Queue a frame with its length in front, *n* bytes together."""
        if not self.has_room(n):
            return False
        memcpy(self.out + self.out_end, start, n)
        self.note_queued(1, n)
        if self.out_end - self.out_start >= FLUSH_AT:
            self.flush()
        return True

    cdef void flush(self) noexcept nogil:
        """Write what is queued, unless the socket was full before."""
        if self.blocked or self.broken or self.out_start == self.out_end:
            return
        self.note_written(self.write_out())
        self.choose_slot(self.slot != self.own_slot)

    cdef void on_writable(self) noexcept nogil:
        if self.n_fds:
            self.blocked = False
            self.flush()

    cdef size_t write_out(self) noexcept nogil:
        """Write what is queued; returns the bytes written.

        Less than all means that the socket is full, or `broken`: the link is blocked from then on.
        """
        cdef size_t total = self.out_end - self.out_start
        cdef ssize_t written = -1
        while written < 0:
            written = send_bytes(self.fds[0], self.out + self.out_start, total, MSG_DONTWAIT | MSG_NOSIGNAL)
            if written >= 0 or errno == EINTR:
                continue
            if errno not in (EAGAIN, ENOBUFS, ENOMEM):
                self.broken = errno
                self.blocked = True
                return 0
            written = 0
        if <size_t>written < total:
            self.blocked = True
            self.stats.link_stalls += 1
        return <size_t>written

    cdef void note_queued(self, size_t n_frames, size_t n) noexcept nogil:
        """Account for frames that were put at the end of the queue, *n* bytes with their lengths."""
        self.out_end += n
        self.n_queued += n_frames
        self.bytes_queued += n - n_frames * PREFIX
        if PASST_DEBUG_BUILD:
            check_buffers(self)

    cdef void note_written(self, size_t n) noexcept nogil:
        """Account for *n* bytes of the queue that were written."""
        cdef size_t part
        if PASST_DEBUG_BUILD:
            check_buffers(self)
        if n == self.out_end - self.out_start:
            self.stats.frames_to_guest += self.n_queued
            self.stats.bytes_to_guest += self.bytes_queued
            self.out_start = self.out_end = 0
            self.n_queued = self.bytes_queued = self.rest = 0
            return
        while n:
            if not self.rest:
                self.rest_len = load_be32(self.out + self.out_start)
                self.rest = PREFIX + self.rest_len
            part = min(self.rest, n)
            self.out_start += part
            self.rest -= part
            n -= part
            if not self.rest:
                self.stats.frames_to_guest += 1
                self.stats.bytes_to_guest += self.rest_len
                self.n_queued -= 1
                self.bytes_queued -= self.rest_len


cdef bint is_vhost_request(uint32_t length) noexcept nogil:
    """Whether a length is the number of a request that a front end of vhost-user begins with.

    That has 32 bits as well, in the order of the machine, little-endian; GET_FEATURES is 1, SET_OWNER 3.
    """
    return length in (1 << 24, 3 << 24)


cdef void check_buffers(StreamLink link) noexcept nogil:
    """Assert that what was read and what is queued lie in their buffers, and the accounts agree."""
    PASST_ASSERT(link.rx_start <= link.rx_end)
    PASST_ASSERT(link.rx_end <= RX_ROOM)
    PASST_ASSERT(link.out_start <= link.out_end)
    PASST_ASSERT(link.out_end <= OUT_SIZE)
    PASST_ASSERT(link.rest <= link.out_end - link.out_start)
    PASST_ASSERT((link.n_queued == 0) == (link.out_start == link.out_end))
