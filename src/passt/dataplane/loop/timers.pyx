"""Indexed binary heap of deadlines: one entry per timer id.

Arming and cancelling cost O(log n) of the *armed* timers. Flows use their table index as id and arm
lazily: a deadline that moves away is only noted in the flow, the heap entry fires early, and the
flow arms it again (see `tcp.segments`). So acknowledging data costs no heap operation. The memory for all
ids is there from the start (its pages are touched when used), so that arming cannot fail.
"""

from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint32_t

from passt.dataplane.base.assertions cimport PASST_ASSERT, PASST_DEBUG_BUILD
from passt.dataplane.base.externs cimport calloc, free


cdef class TimerHeap:
    """Deadlines in nanoseconds for ids 0..n_ids-1; memory is touched only where used."""

    def __cinit__(self, uint32_t n_ids):
        self.n_ids = n_ids
        self.place = <int32_t *>calloc(n_ids, sizeof(int32_t))
        self.heap = <HeapEntry *>calloc(n_ids, sizeof(HeapEntry))
        if self.place == NULL or self.heap == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.heap)
        free(self.place)

    cdef void arm(self, uint32_t id, int64_t deadline) noexcept nogil:
        """Set the deadline of *id*, armed or not."""
        cdef HeapEntry entry
        cdef uint32_t position
        cdef int64_t before
        PASST_ASSERT(id < self.n_ids)
        entry.deadline = deadline
        entry.id = id
        if self.place[id]:
            position = <uint32_t>(self.place[id] - 1)
            before = self.heap[position].deadline
            self.heap[position].deadline = deadline
            if deadline < before:
                self.sift_up(position)
            else:
                self.sift_down(position)
        else:
            self.n += 1
            self.put(self.n - 1, entry)
            self.sift_up(self.n - 1)
        if PASST_DEBUG_BUILD:
            check_entry(self, id)

    cdef void cancel(self, uint32_t id) noexcept nogil:
        """Take *id* out, if it is in."""
        cdef uint32_t position
        PASST_ASSERT(id < self.n_ids)
        if not self.place[id]:
            return
        if PASST_DEBUG_BUILD:
            check_entry(self, id)
        position = <uint32_t>(self.place[id] - 1)
        self.place[id] = 0
        self.n -= 1
        if position != self.n:
            self.put(position, self.heap[self.n])
            self.sift_up(position)
            self.sift_down(<uint32_t>(self.place[self.heap[position].id] - 1))

    cdef int64_t next_deadline(self) noexcept nogil:
        """The earliest deadline, INT64_MAX if nothing is armed."""
        return self.heap[0].deadline if self.n else INT64_MAX

    cdef bint pop_due(self, int64_t now, uint32_t *id) noexcept nogil:
        """Take out one timer that is due at *now*; False if there is none."""
        if not self.n or self.heap[0].deadline > now:
            return False
        id[0] = self.heap[0].id
        self.cancel(id[0])
        return True

    cdef void put(self, uint32_t position, HeapEntry entry) noexcept nogil:
        PASST_ASSERT(position < self.n)
        self.heap[position] = entry
        self.place[entry.id] = <int32_t>position + 1

    cdef void sift_up(self, uint32_t position) noexcept nogil:
        cdef HeapEntry entry = self.heap[position]
        cdef uint32_t parent
        while position:
            parent = (position - 1) // 2
            if self.heap[parent].deadline <= entry.deadline:
                break
            self.put(position, self.heap[parent])
            position = parent
        self.put(position, entry)

    cdef void sift_down(self, uint32_t position) noexcept nogil:
        cdef HeapEntry entry = self.heap[position]
        cdef uint32_t child
        while True:
            child = 2 * position + 1
            if child >= self.n:
                break
            if child + 1 < self.n and self.heap[child + 1].deadline < self.heap[child].deadline:
                child += 1
            if self.heap[child].deadline >= entry.deadline:
                break
            self.put(position, self.heap[child])
            position = child
        self.put(position, entry)


cdef void check_entry(TimerHeap timers, uint32_t id) noexcept nogil:
    """Assert that *id* stands where it should: not before what is over it, not behind what is under it."""
    cdef uint32_t position = <uint32_t>(timers.place[id] - 1)
    cdef uint32_t child = 2 * position + 1
    PASST_ASSERT(position < timers.n)
    PASST_ASSERT(timers.heap[position].id == id)
    if position:
        PASST_ASSERT(timers.heap[(position - 1) // 2].deadline <= timers.heap[position].deadline)
    if child < timers.n:
        PASST_ASSERT(timers.heap[position].deadline <= timers.heap[child].deadline)
    if child + 1 < timers.n:
        PASST_ASSERT(timers.heap[position].deadline <= timers.heap[child + 1].deadline)
