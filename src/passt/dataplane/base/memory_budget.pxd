"""Memory for what connections hold, out of one budget."""

from libc.stdint cimport uint64_t


cdef class Pool:
    cdef readonly size_t size    # bytes that may be out at once
    cdef size_t left             # of them, free
    cdef readonly uint64_t refusals

    cdef void *take(self, size_t n) noexcept nogil
    cdef void give(self, void *memory, size_t n) noexcept nogil
    cdef void *allocate(self, size_t n) noexcept nogil
