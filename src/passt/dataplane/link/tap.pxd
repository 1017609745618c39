"""The link to a tap device."""

from libc.stdint cimport uint8_t

from passt.dataplane.base.externs cimport iovec
from passt.dataplane.link.link cimport Link
from passt.dataplane.link.meta cimport TxMeta

cdef enum:
    RX_BATCH = 64                 # frames per batch at most: each needs a call


cdef class TapLink(Link):
    cdef int room                 # frames that the next batch may have
    cdef uint8_t *rx
    cdef uint8_t *pending         # frames that the device refused: 32-bit length, header, frame
    cdef size_t pending_start
    cdef size_t pending_end

    cdef bint keep_refused(self, const uint8_t *start, size_t n) noexcept nogil
    cdef ssize_t write_out(self, const iovec *pieces, int n) noexcept nogil
    cdef void put_header(self, uint8_t *start, const TxMeta *meta) noexcept nogil
