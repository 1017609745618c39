"""Bypassed connections without a kernel's sockets: what these do is scripted, the pipes are real.

Descriptors 1000 and 1001 stand for the sockets of one connection, the one that was accepted and the other.
The sockets are a Python object (`bypass/relay_kernel.py`); an event comes by a turn of the real `Engine`.
"""

from libc.stdint cimport uint32_t

from passt.dataplane.flow.bypass cimport SpliceHalf
from passt.dataplane.flow.record cimport FLOW_SPLICE_TCP, Flow
from passt.dataplane.sockets.pipe_pool cimport NO_PIPE
from passt.dataplane.base.memory_budget cimport Pool
from passt.dataplane.base.externs cimport F_SETPIPE_SZ, fcntl
from passt.dataplane.loop.reactor cimport EVENT_FAR, EVENT_FLOW, make_tag
from tests.dataplane.probes.scripted cimport Rig, ScriptedLink

cdef enum:
    FIRST_FD = 1000


cdef class Relay(Rig):
    """A connection that is open both ways; its halves are called 0 and 1 by the socket they read."""

    cdef Flow *flow

    def __init__(self, kernel):
        super().__init__(None, None, None, kernel, ScriptedLink(0), our_mac=bytes(6), mtu=1500, max_flows=2,
                         secret=bytes(16))

    def open(self):
        """Open the connection; there is one at a time."""
        self.flow = self.core.flows.alloc(FLOW_SPLICE_TCP)
        for side in range(2):
            self.flow.body.splice.halves[side].fd = FIRST_FD + side
            self.flow.body.splice.halves[side].pipe = NO_PIPE
        self.flow.body.splice.watched = True
        self.core.stats.flows_splice_tcp += 1

    def event(self, int side, uint32_t events):
        """Have the socket of *side* tell of *events*."""
        kind = EVENT_FAR if side else EVENT_FLOW
        self.turn_with([(make_tag(kind, self.flow.generation, self.flow.index), events)])

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
        cdef SpliceHalf *halves = self.flow.body.splice.halves
        return [(halves[side].n_held, halves[side].pipe != NO_PIPE) for side in range(2)]

    @property
    def n_idle_pipes(self):
        return self.core.bypass.pipes.n_idle
