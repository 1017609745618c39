"""A reserve of empty pipes."""

from libc.stdint cimport int32_t, uint64_t

cdef enum:
    NO_PIPE = -1
    MAX_PIPES = 256               # in use at once; beyond that data is copied
    KEPT_PIPES = 16               # empty ones kept open, at most
    PIPE_SIZE = 1 << 18           # bytes asked for


cdef class PipePool:
    cdef int ends[MAX_PIPES][2]   # by number: where it is read, where it is written; -1: not open
    cdef int32_t idle[MAX_PIPES]  # stack of numbers of open, empty pipes
    cdef int32_t unused[MAX_PIPES]
    cdef int n_idle
    cdef int n_unused
    cdef int n_kept               # empty ones that stay open
    cdef uint64_t *n_open         # gauge

    cdef void fit(self, uint64_t descriptors) noexcept
    cdef int32_t take(self) noexcept nogil
    cdef void give_back(self, int32_t pipe, bint is_empty) noexcept nogil
    cdef void close_one(self, int32_t pipe) noexcept nogil
