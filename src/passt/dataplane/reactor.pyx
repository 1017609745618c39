"""epoll and timers.

Some facts about epoll that the code relies on (epoll(7), fs/eventpoll.c): an edge-triggered entry
reports again with every new arrival, so nothing is lost as long as one reads until EAGAIN;
EPOLL_CTL_MOD polls the file anew, so it reports at once what is ready and, for a TCP socket that is
not writable, makes the kernel remember that someone waits for room; closing the last descriptor of
a file removes its entry. Events carry a 64-bit tag (kind, generation, index): an event for a flow
that ended earlier in the same turn has an old generation and is ignored.
"""

from libc.stdint cimport INT64_MAX, int64_t, uint32_t, uint64_t

from passt.dataplane.sys cimport (
    CLOCK_MONOTONIC, EINTR, ENOSYS, EPERM, EPOLL_CLOEXEC, SYS_epoll_pwait2, clock_gettime, close,
    epoll_create1, epoll_ctl, epoll_event, epoll_wait, errno, syscall, timespec,
)
from passt.dataplane.timers cimport TimerHeap


cdef class Reactor:
    """One epoll instance and one heap of deadlines."""

    def __cinit__(self, uint32_t n_timers):
        self.epfd = epoll_create1(EPOLL_CLOEXEC)
        if self.epfd < 0:
            raise OSError(errno, "epoll_create1")
        self.has_pwait2 = True
        self.timers = TimerHeap(n_timers)

    def __dealloc__(self):
        if self.epfd >= 0:
            close(self.epfd)

    cdef int64_t clock(self) noexcept nogil:
        """CLOCK_MONOTONIC in nanoseconds."""
        cdef timespec t
        clock_gettime(CLOCK_MONOTONIC, &t)
        return t.tv_sec * 1000000000LL + t.tv_nsec

    cdef int watch(self, int fd, int op, uint32_t events, uint64_t tag) noexcept nogil:
        """epoll_ctl; 0 or a negative errno."""
        cdef epoll_event event
        event.events = events
        event.data.u64 = tag
        if epoll_ctl(self.epfd, op, fd, &event) < 0:
            return -errno
        return 0

    cdef int wait(self, int64_t now, bint busy) noexcept nogil:
        """Fill `events`; sleeps until the next deadline, or not at all if *busy*. Returns their number."""
        cdef int64_t delay
        cdef timespec timeout
        cdef timespec *limit = NULL
        cdef int n
        cdef int64_t deadline = self.timers.next_deadline()
        delay = 0 if busy or deadline <= now else deadline - now
        if self.has_pwait2:
            if busy or deadline != INT64_MAX:
                timeout.tv_sec = delay // 1000000000
                timeout.tv_nsec = <long>(delay % 1000000000)
                limit = &timeout
            n = <int>syscall(SYS_epoll_pwait2, self.epfd, self.events, EVENTS_PER_WAIT, limit, NULL, 8)
            if n >= 0 or errno == EINTR:
                return max(n, 0)
            # ENOSYS before Linux 5.11; EPERM from seccomp filters older than the call.
            if errno not in (ENOSYS, EPERM):
                return -errno
            self.has_pwait2 = False
        if not busy and deadline == INT64_MAX:
            delay = -1
        else:
            delay = min((delay + 999999) // 1000000, <int64_t>3600000)
        n = epoll_wait(self.epfd, self.events, EVENTS_PER_WAIT, <int>delay)
        return n if n >= 0 else (0 if errno == EINTR else -errno)
