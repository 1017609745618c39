"""A packet capture: frames as they pass, into a file in pcap format."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t


cdef class Capture:
    cdef int fd
    cdef uint8_t *buffer
    cdef size_t start             # bytes of the buffer that are written already; records from there on to
    cdef size_t end
    cdef size_t head              # first bytes of the buffer that belong to a record begun already (pipes)
    cdef int64_t offset           # in the file, of what is at `start`; negative: it has no offsets
    cdef readonly uint64_t n_frames
    cdef readonly uint64_t n_lost  # frames for which the reader of a pipe was too slow
    cdef readonly int error       # errno that ended the capture, 0 while it goes on
    cdef object on_end

    cdef void add(self, const uint8_t *frame, size_t n, uint16_t csum_start, uint16_t csum_offset) \
        noexcept nogil
    cdef void flush(self) noexcept nogil
    cdef size_t next_record(self, size_t place) noexcept nogil
    cdef void give_up(self, int error) noexcept with gil
