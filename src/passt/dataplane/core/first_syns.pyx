"""SYNs that found no room, so that they are known when they are sent again.

A flood has a new tuple in each SYN; who means it sends the same one again, after a second (RFC 6298 2.1). So
where a newcomer would push out one that has hardly begun, the first SYN of a tuple is passed over, and the
next one is taken: a flood that does not repeat itself gets nothing more, and costs little.

Theory of operation. Tuples are kept as bits by a keyed hash, two of them for each, in two generations of two
seconds: none is forgotten within two seconds, all are after four. A tuple whose bits others have set is taken
too early, which does no harm. The memory, 128 KiB, is taken when it is first needed.
"""

from libc.stdint cimport int64_t, uint64_t

from passt.dataplane.base.externs cimport calloc, free, memset

cdef int64_t GENERATION_NS = 2000000000


cdef class FirstSyns:
    """None so far."""

    def __dealloc__(self):
        free(self.words[0])
        free(self.words[1])

    cdef bint is_repeated(self, uint64_t hash, int64_t now) noexcept nogil:
        """Whether a tuple was asked for lately; from now on it was. Without memory none was."""
        cdef uint64_t first = hash & (N_BITS - 1)
        cdef uint64_t second = (hash >> 32) & (N_BITS - 1)
        cdef bint found
        if not self.has_memory():
            return False
        self.begin_generation(now)
        found = self.has(0, hash) or self.has(1, hash)
        self.words[self.current][first >> 6] |= <uint64_t>1 << (first & 63)
        self.words[self.current][second >> 6] |= <uint64_t>1 << (second & 63)
        return found

    cdef bint has_memory(self) noexcept nogil:
        cdef int i
        for i in range(2):
            if self.words[i] == NULL:
                self.words[i] = <uint64_t *>calloc(N_WORDS, sizeof(uint64_t))
        return self.words[0] != NULL and self.words[1] != NULL

    cdef void begin_generation(self, int64_t now) noexcept nogil:
        """Forget what is too old."""
        if now - self.began_at < GENERATION_NS:
            return
        self.current ^= 1
        memset(self.words[self.current], 0, N_WORDS * sizeof(uint64_t))
        if now - self.began_at >= 2 * GENERATION_NS:
            memset(self.words[self.current ^ 1], 0, N_WORDS * sizeof(uint64_t))
        self.began_at = now

    cdef bint has(self, int generation, uint64_t hash) noexcept nogil:
        cdef uint64_t first = hash & (N_BITS - 1)
        cdef uint64_t second = (hash >> 32) & (N_BITS - 1)
        return ((self.words[generation][first >> 6] >> (first & 63)) & 1
                and (self.words[generation][second >> 6] >> (second & 63)) & 1)
