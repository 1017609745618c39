"""The one class of the data plane that Python sees; its contract is in engine.pyi."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from passt.dataplane.base.externs cimport epoll_event
from passt.dataplane.core.core cimport Core
from passt.dataplane.link.link cimport Link
from passt.dataplane.loop.reactor cimport Reactor


cdef struct TurnTimes:
    # What `measure_turns` asked for: turns of the loop without the wait that each begins with.
    bint is_wanted
    uint64_t n                    # turns since
    int64_t cpu_at_ns             # of this thread, when the turn began
    int64_t longest_ns
    int64_t cpu_in_longest_ns     # of this thread in that one; for the rest it waited for a processor
    int64_t most_cpu_ns           # of this thread in any one


cdef class Engine:
    cdef Core core
    cdef Reactor reactor
    cdef uint32_t link_number     # how many there were; tells a late event apart
    cdef bint link_blocked        # when its descriptors were watched last
    cdef object on_end            # called when the link has ended; None: run() raises
    cdef bint stopping
    cdef dict readers             # fd -> callback
    cdef list due                 # heap of (deadline ns, id, callback)
    cdef long next_timer
    cdef uint32_t python_timer    # id of the heap entry that all Python timers share
    cdef TurnTimes turn_times

    cdef void watch_link(self, Link link, int op) except *
    cdef void end_link(self) except *
    cdef void drain_link(self, bint has_ended) except *
    cdef void must_watch(self, int fd, int op, uint32_t events, uint64_t tag) except *
    cdef void arm_python(self)
    cdef void raise_failure(self) except *
    cdef void note_turn(self) except *
    cdef void turn(self) except *
    cdef void dispatch(self, epoll_event *event) except *
    cdef void wake_waiting(self) noexcept
    cdef void on_link_event(self, int which, uint32_t events) except *
    cdef void read_link(self) noexcept
    cdef void fire_timers(self) except *
    cdef void fire_python(self) except *
