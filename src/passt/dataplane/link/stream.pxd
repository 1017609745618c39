"""The link to a virtual machine: frames with a length in front, on a stream socket."""

from libc.stdint cimport uint8_t, uint32_t

from passt.dataplane.link.link cimport Link
from passt.dataplane.base.externs cimport iovec
from passt.dataplane.link.meta cimport RxFrame, TxMeta

cdef enum StreamEnd:
    # Values of `Link.error` that are no errno.
    STREAM_CLOSED = -1            # end of file
    STREAM_BAD_LENGTH = -2        # `bad_length` says which


cdef class StreamLink(Link):
    cdef uint32_t bad_length
    cdef uint8_t *rx
    cdef size_t rx_start          # what comes next to be split
    cdef size_t rx_end
    cdef size_t n_received        # bytes of the last read
    cdef uint8_t *own_slot        # where frames are built that are copied, or cut, into the queue
    cdef uint8_t *out             # frames with their lengths, to be written
    cdef size_t out_start
    cdef size_t out_end
    cdef size_t n_queued          # frames there, the first may be written in part
    cdef size_t bytes_queued     # of these frames, whole and without their lengths
    cdef size_t rest              # bytes from out_start to the end of a frame that is written in part
    cdef uint32_t rest_len        # that frame's length

    cdef void attach(self, int fd) noexcept nogil
    cdef int split(self, RxFrame *frames, int room) noexcept nogil
    cdef bint receive(self) noexcept nogil
    cdef void read_ahead(self) noexcept nogil
    cdef bint has_room(self, size_t n) noexcept nogil
    cdef bint queue(self, const uint8_t *start, size_t n) noexcept nogil
    cdef void choose_slot(self, bint behind) noexcept nogil
    cdef void copy_slot_apart(self, size_t n) noexcept nogil
    cdef bint queue_built(self, size_t n) noexcept nogil
    cdef bint cut(self, const iovec *pieces, size_t payload, const TxMeta *meta) noexcept nogil
    cdef size_t write_out(self) noexcept nogil
    cdef void note_queued(self, size_t n_frames, size_t n) noexcept nogil
    cdef void note_written(self, size_t n) noexcept nogil
