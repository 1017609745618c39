"""Answers to control frames that were given before."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from passt.dataplane.core.guest cimport Guest
from passt.dataplane.core.neighbour_table cimport NeighbourTable

cdef enum:
    N_ANSWERS = 128
    MAX_QUESTION = 96             # bytes of a frame that is remembered: a solicitation has 86
    QUESTION_WORDS = 12           # of 8 bytes


cdef struct KnownAnswer:
    uint8_t question[MAX_QUESTION]   # zeroed behind its end
    uint8_t answer[MAX_QUESTION]
    uint32_t question_len         # bytes; 0: the place is free
    uint32_t answer_len
    int64_t used_at               # ns


cdef class KnownAnswers:
    cdef KnownAnswer *answers
    cdef uint64_t secret[2]

    cdef KnownAnswer *find(self, const uint8_t *frame, size_t n, const Guest *guest,
                           int64_t now) noexcept nogil
    cdef void keep(self, const uint8_t *frame, size_t n, const uint8_t *answer, size_t answer_len,
                   int64_t now) noexcept nogil
    cdef void forget_changed(self, NeighbourTable before, NeighbourTable after) noexcept nogil
    cdef KnownAnswer *place_of(self, const uint8_t *question) noexcept nogil
