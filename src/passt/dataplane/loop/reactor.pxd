"""epoll and timers."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from passt.dataplane.base.externs cimport epoll_event
from passt.dataplane.loop.timers cimport TimerHeap

cdef enum EventKind:
    EVENT_LINK = 1
    EVENT_FLOW = 2
    EVENT_LISTENER = 3
    EVENT_READER = 4
    EVENT_FAR = 8                 # the second socket of a flow that has two

cdef enum:
    EVENTS_PER_WAIT = 128
    GENERATION_MASK = 0xffffff


cdef inline uint64_t make_tag(uint32_t kind, uint32_t generation, uint32_t index) noexcept nogil:
    return (<uint64_t>kind << 56) | (<uint64_t>(generation & GENERATION_MASK) << 32) | index


cdef class Reactor:
    cdef int epfd
    cdef bint has_pwait2
    cdef bint slept               # nothing was there when `wait` was called
    cdef uint32_t skip            # short sleeps to come before the loop polls again
    cdef uint32_t pause           # the last value that `skip` started from
    cdef readonly TimerHeap timers
    cdef epoll_event events[EVENTS_PER_WAIT]

    cdef int64_t clock(self) noexcept nogil
    cdef int watch(self, int fd, int op, uint32_t events, uint64_t tag) noexcept nogil
    cdef int next_events(self, int64_t now, bint busy) noexcept nogil
    cdef int wait(self, int64_t now) noexcept nogil
    cdef int poll_once(self) noexcept nogil
    cdef int spin(self, int64_t now) noexcept nogil
    cdef int block(self, int64_t now) noexcept nogil
    cdef int epoll(self, int64_t delay) noexcept nogil
