"""SYNs that found no room, so that they are known when they are sent again."""

from libc.stdint cimport int64_t, uint64_t

cdef enum:
    N_BITS = 1 << 19              # 20,000 SYNs a second set a twelfth of them in a generation
    N_WORDS = 8192


cdef class FirstSyns:
    cdef uint64_t *words[2]       # of this generation and of the one before, NULL: not needed so far
    cdef int current
    cdef int64_t began_at         # ns, when this generation did

    cdef bint is_repeated(self, uint64_t hash, int64_t now) noexcept nogil
    cdef bint has_memory(self) noexcept nogil
    cdef void begin_generation(self, int64_t now) noexcept nogil
    cdef bint has(self, int generation, uint64_t hash) noexcept nogil
