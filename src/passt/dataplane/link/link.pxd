"""Links: how frames enter and leave, and the meaning of the virtio-net header."""

from libc.stdint cimport uint8_t, uint32_t

from passt.dataplane.base.stats cimport Stats
from passt.dataplane.base.externs cimport iovec
from passt.dataplane.link.meta cimport RxFrame, TxMeta
from passt.dataplane.observe.frame_observer cimport Watch

cdef enum LinkFeature:
    # What a link does itself on the way to the guest; the rest is done in software (`segmentation`).
    LINK_CSUM = 1
    LINK_TSO4 = 2
    LINK_TSO6 = 4
    LINK_USO4 = 8
    LINK_USO6 = 16

cdef enum:
    MAX_BATCH = 256               # frames per `read_batch`
    MAX_LINK_FDS = 16             # descriptors to watch, of one link
    HEADROOM = 18                 # link's own bytes before a frame; puts the IP header on 32 bytes
    MAX_PIECES = 64               # of a frame for `send_pieces`
    HEAD_LEN = 192                # of a frame in pieces: Ethernet, IP and TCP headers with all options


cdef class Link:
    cdef Stats *stats
    cdef Watch watch              # observers of frames, None before the engine has the link
    cdef int fds[MAX_LINK_FDS]    # that the engine watches for it; the link owns them
    cdef int n_fds                # 0: nobody is at the other end
    cdef uint32_t number          # of its events' tags, once the engine has it
    cdef uint32_t features
    cdef uint32_t max_frame
    cdef bint blocked             # the other end does not drain: do not read what would feed it
    cdef bint drained             # the last batch ended because nothing more was there
    cdef bint more                # frames are at hand for which the last batch had no room
    cdef int error                # nothing more can be read: an errno, or the link's own negative number
    cdef int broken               # errno, nothing more can be sent; 0 of either while the link lives
    cdef uint8_t *slot            # where the next frame to the guest is built
    cdef uint8_t *segment         # scratch of the software segmentation, allocated with first use
    cdef uint8_t *joined          # frames put together of pieces, allocated with first use
    cdef size_t n_joined          # bytes there
    cdef iovec *placed            # where the next payload is read to, `n_placed` pieces; 0: into the slot
    cdef int n_placed

    # What a link is made of; see the theory of operation.
    cdef uint32_t wanted_events(self, int which) noexcept nogil
    cdef bint on_event(self, int which, uint32_t events) noexcept nogil
    cdef int batch_room(self, bint slept) noexcept nogil
    cdef int read_batch(self, RxFrame *frames, int room) noexcept nogil
    cdef bint emit(self, uint8_t *frame, size_t n, const TxMeta *meta) noexcept nogil
    cdef void on_writable(self) noexcept nogil
    cdef void flush(self) noexcept nogil
    cdef void end_turn(self) noexcept nogil
    cdef str end_reason(self)
    cdef void release(self) noexcept nogil
    cdef void detach(self) noexcept nogil
    cdef bint send(self, size_t n, const TxMeta *meta) noexcept nogil
    cdef bint send_pieces(self, const iovec *pieces, size_t n, const TxMeta *meta) noexcept nogil
    cdef int place_payload(self, size_t place, uint32_t n) noexcept nogil
    cdef void unplace(self) noexcept nogil
    cdef bint send_placed(self, size_t n, const TxMeta *meta) noexcept nogil
    cdef void on_fault(self) noexcept nogil
    # What all links have.
    cdef void close_fds(self) noexcept nogil
    cdef bint put(self, uint8_t *frame, size_t n, const TxMeta *meta) noexcept nogil
    cdef bint join(self, RxFrame *frame) noexcept nogil
    cdef bint join_head(self, RxFrame *frame) noexcept nogil
    cdef void forget_joined(self) noexcept nogil
    cdef bint has_segment(self) noexcept nogil
    cdef bint send_segments(self, size_t n, const TxMeta *meta) noexcept nogil
