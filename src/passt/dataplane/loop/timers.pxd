"""Indexed binary heap of deadlines."""

from libc.stdint cimport int32_t, int64_t, uint32_t


cdef inline int64_t ms(int64_t n) noexcept nogil:
    """Milliseconds as the nanoseconds that deadlines are kept in."""
    return n * 1000000


cdef struct HeapEntry:
    int64_t deadline             # CLOCK_MONOTONIC, nanoseconds
    uint32_t id


cdef class TimerHeap:
    cdef HeapEntry *heap
    cdef int32_t *place          # id -> position in heap + 1; 0: not in the heap
    cdef uint32_t n
    cdef uint32_t n_ids

    cdef void arm(self, uint32_t id, int64_t deadline) noexcept nogil
    cdef void cancel(self, uint32_t id) noexcept nogil
    cdef int64_t next_deadline(self) noexcept nogil
    cdef bint pop_due(self, int64_t now, uint32_t *id) noexcept nogil
    cdef void put(self, uint32_t position, HeapEntry entry) noexcept nogil
    cdef void sift_up(self, uint32_t position) noexcept nogil
    cdef void sift_down(self, uint32_t position) noexcept nogil
