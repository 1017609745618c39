"""Links: how frames enter and leave.

Protocol code builds a frame at `Link.slot` and calls `send` with what a virtio-net header says:
checksum still to be completed, segmentation wanted. It always asks for the most; `send` lowers in
software what the link's `features` lack, and `put` has the link `emit` one frame and shows it to the
observers as it travels. Memory in front of `slot` belongs to the link (virtio-net header, length
prefix), so a frame leaves in one system call without a copy. Payload that lies elsewhere need not be
copied behind the headers: `send_pieces` takes it in place, and payload that has to be read from a socket
first may go where the link says (`place_payload`), such as a guest's own memory.

A link that does not drain sets `blocked` and keeps a bounded number of frames; the engine wakes the
flows that wait when an event has ended that. Only what the link took counts as sent.

The contract. The engine and the translators know nothing of a link but this class; only
`Engine.attach_tap`, `Engine.attach_stream` and `Engine.attach_vhost` name others. So what a further
link implements is:

- `fds` and `n_fds`: the descriptors to watch, before `Engine.attach_link` gets the link. `wanted_events`
  tells the events of each; it is asked again after a turn in which `blocked` has changed. A link whose
  descriptors come and go while it is attached watches them itself, with tags of its `number` (`link.vhost`).
- `on_event`: descriptor *which* has *events*; returns whether there may be frames to read. A link that
  was `blocked` takes this as the moment to put out what it kept (`on_writable`), and may end the block.
- `read_batch`: fill `RxFrame`s with memory that stays as it is until the next batch. What lies in
  the guest's own memory is given as `pieces`, as the guest may change it at any time: `join` copies them
  into memory of ours before a translator looks, and nothing else has to know. Of large frames that carry
  data for TCP only the headers are copied (`join_head`), and the data goes to the socket from where it
  lies. `turn.read_frames` does this between link and translators. A link copies what it decides by itself
  (ring indices, descriptors). A batch is handed back, as virtio's used ring does, with the next
  `read_batch` or with `end_turn`.
- `emit`: put one frame out, or keep it; `send_pieces` where a copy can be saved. `flush` and `end_turn`: what
  was put out becomes visible, with one notification.
- `error` and `broken`: nothing more can be read, or sent. The engine reads on after `broken` until there
  is an `error`, asks for `end_reason`, the text for the user, and calls `detach`, after which another
  link may follow.
"""

import os

from libc.stdint cimport uint8_t, uint32_t

from passt.dataplane.packet.headers cimport ETH_HLEN, ETH_MIN_FRAME, MAX_FRAME
from passt.dataplane.link.segmentation cimport complete_csum, cut_segment
from passt.dataplane.base.stats cimport DROP_LINK_FULL, DROP_OVERSIZE, DROP_SHORT, count
from passt.dataplane.base.externs cimport (
    EPOLLIN, EPOLLOUT, VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6, close,
    free,
    iovec, malloc, memcpy, memset,
)
from passt.dataplane.link.meta cimport RxFrame, TxMeta

cdef enum:
    SLOT_SIZE = HEADROOM + MAX_FRAME
    # Frames in pieces that one batch may have; the engine hands the translators' data on when it is full.
    JOINED_SIZE = 4 * 65664
    JOINED_STRIDE = 32


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
        self.close_fds()
        free(self.joined)
        if self.slot != NULL:
            free(self.slot - HEADROOM)
        if self.segment != NULL:
            free(self.segment - HEADROOM)

    cdef uint32_t wanted_events(self, int which) noexcept nogil:
        """The epoll events to watch `fds` [*which*] for."""
        return EPOLLIN | (EPOLLOUT if self.blocked else 0)

    cdef bint on_event(self, int which, uint32_t events) noexcept nogil:
        """Take *events* of `fds` [*which*]; whether there may be frames to read, or the end."""
        if events & EPOLLOUT:
            self.on_writable()
        return events != EPOLLOUT

    cdef int batch_room(self, bint slept) noexcept nogil:
        """How many frames the next batch may have; *slept*: the loop waited for this event."""
        return MAX_BATCH

    cdef int read_batch(self, RxFrame *frames, int room) noexcept nogil:
        """Fill up to *room* frames; 0 when nothing is there or the link has ended (`error`)."""
        return 0

    cdef bint emit(self, uint8_t *frame, size_t n, const TxMeta *meta) noexcept nogil:
        """Put one frame out or keep it for later; False (and a counted drop) if neither is possible.

        HEADROOM bytes before *frame* may be overwritten.
        """
        return False

    cdef bint put(self, uint8_t *frame, size_t n, const TxMeta *meta) noexcept nogil:
        """Emit one frame; what is taken is shown to the observers."""
        if not self.emit(frame, n, meta):
            return False
        if self.watch is not None and self.watch.active:
            self.watch.on_frame(frame, n, True, meta.csum_start, meta.csum_offset, meta.gso_type,
                                meta.gso_size)
        return True

    cdef void on_writable(self) noexcept nogil:
        """The other end drains again."""

    cdef void flush(self) noexcept nogil:
        """The turn ends: what was held back to leave together goes out now."""

    cdef void end_turn(self) noexcept nogil:
        """The turn ends and all flows were looked at."""
        self.flush()

    cdef str end_reason(self):
        """Why the link has ended, for the user."""
        return os.strerror(self.error or self.broken)

    cdef void close_fds(self) noexcept nogil:
        cdef int i
        for i in range(self.n_fds):
            close(self.fds[i])
        self.n_fds = 0

    cdef void release(self) noexcept nogil:
        """The link was not attached after all: leave its descriptors to the caller."""
        self.n_fds = 0
        self.blocked = True

    cdef void detach(self) noexcept nogil:
        """Close the descriptors; what was not sent is dropped. Nothing can be sent from now on."""
        self.close_fds()
        self.blocked = True
        self.more = False
        self.error = 0
        self.broken = 0

    cdef bint join(self, RxFrame *frame) noexcept nogil:
        """Have the pieces of *frame* lie in one; False: this needs a `forget_joined` before.

        One that is longer than any, or for which there is no memory, becomes one of 0 bytes: counted drop.
        """
        cdef size_t length = 0
        cdef size_t i
        for i in range(frame.n_pieces):
            length += frame.pieces[i].iov_len
            if length > MAX_FRAME:
                break
        if self.joined == NULL:
            self.joined = <uint8_t *>malloc(JOINED_SIZE)
        if length < ETH_HLEN or length > MAX_FRAME or self.joined == NULL:
            count(self.stats, DROP_SHORT if length < ETH_HLEN else DROP_OVERSIZE)
            frame.n_pieces = 0
            frame.len = 0
            return True
        if self.n_joined + length > JOINED_SIZE:
            return False
        frame.data = self.joined + self.n_joined
        frame.len = <uint32_t>length
        length = 0
        for i in range(frame.n_pieces):
            memcpy(self.joined + self.n_joined + length, frame.pieces[i].iov_base, frame.pieces[i].iov_len)
            length += frame.pieces[i].iov_len
        self.n_joined += (length + JOINED_STRIDE - 1) & ~<size_t>(JOINED_STRIDE - 1)
        frame.n_pieces = 0
        return True

    cdef bint join_head(self, RxFrame *frame) noexcept nogil:
        """Have the first HEAD_LEN bytes of *frame*, which is longer, at its `data`; its pieces stay.

        False: there is no memory, or this needs a `forget_joined` before.
        """
        cdef size_t have = 0
        cdef size_t part
        cdef const iovec *piece = frame.pieces
        if self.joined == NULL:
            self.joined = <uint8_t *>malloc(JOINED_SIZE)
        if self.joined == NULL or self.n_joined + HEAD_LEN > JOINED_SIZE:
            return False
        frame.data = self.joined + self.n_joined
        while have < HEAD_LEN:
            part = min(HEAD_LEN - have, piece.iov_len)
            memcpy(self.joined + self.n_joined + have, piece.iov_base, part)
            have += part
            piece += 1
        self.n_joined += HEAD_LEN
        return True

    cdef void forget_joined(self) noexcept nogil:
        """The frames that were joined have been handed on."""
        self.n_joined = 0

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

        This one gathers them in the slot; a link that can do without a copy does. Observers do
        not see such a frame: `Core.send_pieces` gathers it then.
        """
        cdef size_t length = meta.hdr_len
        cdef size_t i
        for i in range(n):
            memcpy(self.slot + length, pieces[i].iov_base, pieces[i].iov_len)
            length += pieces[i].iov_len
        return self.send(length, meta)

    cdef int place_payload(self, size_t place, uint32_t n) noexcept nogil:
        """Say where *n* bytes of payload for the next frame, *place* bytes into it, are to be read to.

        The number of pieces, which are at `placed`; 0: into the slot, as this one says. The next call of this
        link is `send_placed` or `unplace`.
        """
        return 0

    cdef void unplace(self) noexcept nogil:
        """Nothing was read to `placed`."""

    cdef bint send_placed(self, size_t n, const TxMeta *meta) noexcept nogil:
        """Send the frame of *n* bytes whose headers are at `slot` and whose payload was read to `placed`."""
        return False

    cdef void on_fault(self) noexcept nogil:
        """The kernel could not read or write memory that this link gave it (EFAULT)."""

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
