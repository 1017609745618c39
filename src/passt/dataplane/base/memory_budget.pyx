"""Memory for what connections hold, out of one budget.

Everything that a guest or a remote can make the data plane keep comes from here (what a socket did
not take at once, segments out of order), so together it never exceeds the pool's size, whatever the
number of connections. The other memory of an engine does not grow with what is sent to it: the flow
table, its hash heads and the timer heap have their full size from the start (their pages are touched
when used), the links' buffers are fixed. `Core.memory_ceiling` adds all of it up.

Callers must handle NULL, normally by not acknowledging the data, so that the sender repeats it.
"""

from passt.dataplane.base.assertions cimport PASST_ASSERT
from passt.dataplane.base.externs cimport free, malloc


cdef class Pool:
    """A budget of *size* bytes."""

    def __cinit__(self, size_t size):
        self.size = size
        self.left = size

    cdef void *take(self, size_t n) noexcept nogil:
        """*n* bytes, or NULL if the budget or the system has no more; `give` takes them back."""
        cdef void *memory = NULL
        if n <= self.left:
            memory = self.allocate(n)
        if memory == NULL:
            self.refusals += 1
            return NULL
        PASST_ASSERT(n <= self.left)
        self.left -= n
        return memory

    cdef void give(self, void *memory, size_t n) noexcept nogil:
        """Take back *n* bytes that `take` gave; NULL with 0 is nothing."""
        PASST_ASSERT(n <= self.size - self.left)
        free(memory)
        self.left += n

    cdef void *allocate(self, size_t n) noexcept nogil:
        """The system's memory; a class of its own for tests of its failure may replace this."""
        return malloc(n)
