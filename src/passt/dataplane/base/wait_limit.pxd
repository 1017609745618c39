"""How long descriptors that somebody hostile has sent may keep us waiting."""


cdef int prepare_wait_limit() except -1
cdef void begin_limit() noexcept nogil
cdef void end_limit() noexcept nogil
cdef bint tell_event(int fd) noexcept nogil


cdef class WaitLimit:
    cdef unsigned int n_before
