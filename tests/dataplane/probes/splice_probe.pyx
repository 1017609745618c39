"""Bypassed connections without a kernel's sockets: what these do is scripted, the pipes are real.

Descriptors 1000 and 1001 stand for the sockets of one connection, the one that was accepted and the other.
"""

from collections import deque

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.table cimport FLOW_SPLICE_TCP, Flow
from passt.dataplane.link.link cimport Link
from passt.dataplane.sockets.pipe_pool cimport NO_PIPE
from passt.dataplane.base.memory_budget cimport Pool
from passt.dataplane.loop.reactor cimport Reactor
from passt.dataplane.sockets.sockets cimport Sockets
from passt.dataplane.bypass.tcp_bypass cimport on_splice_event
from passt.dataplane.base.stats cimport stats_as_dict
from passt.dataplane.base.externs cimport (
    EAGAIN, F_SETPIPE_SZ, fcntl, iovec, memcpy, read, write,
)
from passt.dataplane.turn cimport finish_flows, set_handlers

cdef enum:
    FIRST_FD = 1000


cdef class RelaySockets(Sockets):
    """*incoming* has by descriptor what its reads give, *taken* what was written to it.

    *room* says by descriptor how much the next writes take, nothing once that is used up.
    """

    cdef dict incoming
    cdef dict room
    cdef dict taken
    cdef readonly dict ends       # how the descriptor was closed

    def __init__(self, reactor):
        self.incoming = {FIRST_FD: deque(), FIRST_FD + 1: deque()}
        self.room = {FIRST_FD: deque(), FIRST_FD + 1: deque()}
        self.taken = {FIRST_FD: bytearray(), FIRST_FD + 1: bytearray()}
        self.ends = {}

    cdef ssize_t put(self, int fd, bytes data) noexcept:
        queue = self.room[fd]
        if not queue:
            return -EAGAIN
        n = min(queue.popleft(), len(data))
        self.taken[fd] += data[:n]
        return n

    cdef ssize_t receive(self, int fd, uint8_t *buf, size_t n) noexcept with gil:
        cdef bytes data
        if not self.incoming[fd]:
            return -EAGAIN
        data = self.incoming[fd].popleft()
        if <size_t>len(data) > n:
            self.incoming[fd].appendleft(data[n:])
            data = data[:n]
        memcpy(buf, <const char *>data, len(data))
        return len(data)

    cdef ssize_t send(self, int fd, iovec *pieces, size_t n) noexcept with gil:
        return self.put(fd, (<const char *>pieces[0].iov_base)[:pieces[0].iov_len])

    cdef ssize_t move(self, int from_fd, int to_fd, size_t n) noexcept with gil:
        cdef bytes data
        cdef bytearray room
        if from_fd >= FIRST_FD:
            if not self.incoming[from_fd]:
                return -EAGAIN
            data = self.incoming[from_fd].popleft()
            return write(to_fd, <const char *>data, len(data))
        queue = self.room[to_fd]
        if not queue:
            return -EAGAIN
        room = bytearray(min(<size_t>queue.popleft(), n))
        got = read(from_fd, <char *>room, len(room))
        self.taken[to_fd] += room[:got]
        return got

    cdef int shut_write(self, int fd) noexcept with gil:
        self.ends[fd] = "shut"
        return 0

    cdef int close(self, int fd) noexcept with gil:
        self.ends[fd] = "closed"
        return 0

    cdef int abort(self, int fd) noexcept with gil:
        self.ends[fd] = "reset"
        return 0

    cdef int watch(self, int fd, int op, uint32_t events, uint64_t tag) noexcept with gil:
        return 0

    cdef int take_error(self, int fd) noexcept with gil:
        return 0

    cdef void prepare_bulk(self, int fd) noexcept with gil:
        pass


cdef class Relay:
    """A connection that is open both ways; its halves are called 0 and 1 by the socket they read."""

    cdef Core core
    cdef readonly RelaySockets sockets
    cdef Flow *flow

    def __init__(self):
        self.sockets = RelaySockets(Reactor(4))
        self.core = Core(None, None, None, Link(), self.sockets, our_mac=bytes(6), mtu=1500, max_flows=2,
                         secret=bytes(16))
        set_handlers(self.core)

    def open(self):
        """Open the connection; there is one at a time."""
        self.flow = self.core.flows.alloc(FLOW_SPLICE_TCP)
        for side in range(2):
            self.flow.u.splice.halves[side].fd = FIRST_FD + side
            self.flow.u.splice.halves[side].pipe = NO_PIPE
        self.flow.u.splice.watched = True
        self.core.stats.flows_splice_tcp += 1

    def give(self, int side, *pieces):
        """Have the socket of *side* receive *pieces*, one for each read of it."""
        self.sockets.incoming[FIRST_FD + side].extend(pieces)

    def let(self, int side, *sizes):
        """Have the socket of *side* take as much with each of the next writes, then none."""
        self.sockets.room[FIRST_FD + side].extend(sizes)

    def taken(self, int side):
        """What was written to the socket of *side*."""
        return bytes(self.sockets.taken[FIRST_FD + side])

    def event(self, int side, uint32_t events):
        """Have the socket of *side* tell of *events*."""
        on_splice_event(self.core, self.flow, side, events)
        finish_flows(self.core)

    def use_up_pool(self):
        """Others hold all the memory that there is."""
        self.core.pool = Pool(0)

    def shrink_pipes(self, int size):
        """Have the next pipe be one of *size* bytes, as the kernel makes them beyond the user's limit."""
        cdef int pipe = self.core.bypass.pipes.take()
        fcntl(self.core.bypass.pipes.ends[pipe][1], F_SETPIPE_SZ, size)
        self.core.bypass.pipes.give_back(pipe, True)

    @property
    def held(self):
        """Bytes that either half holds, and whether it has a pipe."""
        return [(self.flow.u.splice.halves[side].n_held, self.flow.u.splice.halves[side].pipe != NO_PIPE)
                for side in range(2)]

    @property
    def n_idle_pipes(self):
        return self.core.bypass.pipes.n_idle

    def counters(self):
        return stats_as_dict(&self.core.stats)
