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
    RX_BATCH = 64                 # frames per read_batch, of a link that needs a call for each
    MAX_BATCH = 256               # and of any
    MAX_PIECES = 64               # of a frame for `send_pieces`


cdef class Link:
    cdef Stats *stats
    cdef Watch watch              # whoever looks on, None before the engine has the link
    cdef uint32_t features
    cdef uint32_t max_frame
    cdef bint blocked             # the far side does not drain: do not read what would feed it
    cdef bint drained             # the last batch ended because nothing more was there
    cdef bint more                # frames are at hand for which the last batch had no room
    cdef int error                # errno that ended the link, 0 while it lives
    cdef uint8_t *slot            # where the next frame to the guest is built
    cdef uint8_t *segment         # scratch of the software segmentation, allocated with first use

    cdef int read_batch(self, RxFrame *frames, int room) noexcept nogil
    cdef bint emit(self, uint8_t *frame, size_t n, const TxMeta *meta) noexcept nogil
    cdef bint put(self, uint8_t *frame, size_t n, const TxMeta *meta) noexcept nogil
    cdef void on_writable(self) noexcept nogil
    cdef void flush(self) noexcept nogil
    cdef bint send(self, size_t n, const TxMeta *meta) noexcept nogil
    cdef bint has_segment(self) noexcept nogil
    cdef bint send_pieces(self, const iovec *pieces, size_t n, const TxMeta *meta) noexcept nogil
    cdef bint send_segments(self, size_t n, const TxMeta *meta) noexcept nogil


cdef class TapLink(Link):
    cdef int fd
    cdef uint8_t *rx
    cdef uint8_t *pending         # frames that the device refused: 32-bit length, header, frame
    cdef size_t pending_start
    cdef size_t pending_end

    cdef bint keep(self, const uint8_t *start, size_t n) noexcept nogil
    cdef ssize_t write_out(self, const iovec *pieces, int n) noexcept nogil
    cdef void put_header(self, uint8_t *start, const TxMeta *meta) noexcept nogil
