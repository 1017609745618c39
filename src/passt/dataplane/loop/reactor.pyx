"""epoll and timers.

Some facts about epoll that the code relies on (epoll(7), fs/eventpoll.c): an edge-triggered entry
reports again with every new arrival, so nothing is lost as long as one reads until EAGAIN;
EPOLL_CTL_MOD polls the file anew, so it reports at once what is ready and, for a TCP socket that is
not writable, makes the kernel remember that someone waits for room; closing the last descriptor of
a file removes its entry. Events carry a 64-bit tag (kind, generation, index): an event for a flow
that ended earlier in the same turn has an old generation and is ignored.

Going to sleep and being woken costs more than the work of a small packet. So before a sleep the loop
polls for POLL_NS, as long as that finds events: in a request/response exchange each half arrives
within that time. Polling in vain stops it until 1, in a row of failures 3, 7 ... MAX_SKIP sleeps have
proved shorter than POLL_NS. So an idle process polls once, when its work ends, and then never: all
its sleeps are long. Other processes that wait for this CPU go first (sched_yield(2)): mostly that is the
peer itself, just woken by our frames, and there is nothing to find before it has run.
"""

from libc.stdint cimport INT64_MAX, int64_t, uint32_t, uint64_t

from passt.dataplane.base.externs cimport (
    CLOCK_MONOTONIC, EINTR, ENOSYS, EPERM, EPOLL_CLOEXEC, SYS_epoll_pwait2, clock_gettime, close,
    epoll_create1, epoll_ctl, epoll_event, epoll_wait, errno, sched_yield, syscall, timespec,
)
from passt.dataplane.loop.timers cimport TimerHeap

cdef enum:
    POLL_NS = 25000               # about what falling asleep and being woken costs
    MAX_SKIP = 255
    # Deadlines are met up to a millisecond late, so that many of them make one wake-up.
    GRAIN_NS = 1 << 20


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

    cdef int next_events(self, int64_t now, bint busy) noexcept nogil:
        """Fill `events`; sleeps until the next deadline, or not at all if *busy*. Returns their number."""
        cdef int n = self.poll_once()
        return self.wait(now) if n == 0 and not busy else n

    cdef int wait(self, int64_t now) noexcept nogil:
        """Fill `events` once there is something or the next deadline has come."""
        cdef int n = self.spin(now)
        return n if n else self.block(now)

    cdef int poll_once(self) noexcept nogil:
        """Fill `events` with what is there already."""
        self.slept = False
        return self.epoll(0)

    cdef int spin(self, int64_t now) noexcept nogil:
        """Go on looking for a moment, if that has been worth it lately; 0: better sleep."""
        cdef int64_t until = min(now + POLL_NS, self.timers.next_deadline())
        cdef int n
        self.slept = True
        if self.skip:
            return 0
        sched_yield()
        while now < until:
            n = self.epoll(0)
            if n:
                self.pause = 0
                return n
            now = self.clock()
        self.pause = min(2 * self.pause + 1, <uint32_t>MAX_SKIP)
        self.skip = self.pause
        return 0

    cdef int block(self, int64_t now) noexcept nogil:
        """Wait for events until the next deadline."""
        cdef int64_t deadline = self.timers.next_deadline()
        cdef int n
        self.slept = True
        if deadline == INT64_MAX:
            n = self.epoll(-1)
        else:
            n = self.epoll(max((deadline | (GRAIN_NS - 1)) + 1 - now, <int64_t>0))
        if self.skip and n > 0 and self.clock() - now < POLL_NS:
            self.skip -= 1
        return n

    cdef int epoll(self, int64_t delay) noexcept nogil:
        """One system call: wait for *delay* ns at most, for ever if negative."""
        cdef timespec timeout
        cdef int n
        if self.has_pwait2:
            timeout.tv_sec = delay // 1000000000
            timeout.tv_nsec = <long>(delay % 1000000000)
            n = <int>syscall(SYS_epoll_pwait2, self.epfd, self.events, EVENTS_PER_WAIT,
                             NULL if delay < 0 else &timeout, NULL, 8)
            if n >= 0 or errno == EINTR:
                return max(n, 0)
            # ENOSYS before Linux 5.11; EPERM from seccomp filters older than the call.
            if errno not in (ENOSYS, EPERM):
                return -errno
            self.has_pwait2 = False
        if delay > 0:
            delay = min((delay + 999999) // 1000000, <int64_t>3600000)
        n = epoll_wait(self.epfd, self.events, EVENTS_PER_WAIT, <int>max(delay, <int64_t>-1))
        return n if n >= 0 else (0 if errno == EINTR else -errno)
