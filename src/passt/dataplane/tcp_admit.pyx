"""Records for new connections, if need be of others.

A full table must not be a way to keep others out: a flood of connections that never get beyond their
handshake (RFC 4987) would hold it for minutes. So a new connection takes the place of the one that has
been in TIME-WAIT longest, or else of the oldest half-open one, which is reset both ways. Established
connections are never touched; where there are only those the new one is refused.
"""

from libc.stdint cimport uint32_t

from passt.dataplane.core cimport Core
from passt.dataplane.flow cimport CLASS_HALF_OPEN, CLASS_OVER, FLOW_TCP, NO_FLOW, Flow
from passt.dataplane.tcp_conn cimport end, reset_both

cdef enum:
    # Records that had work to do are free only with the next turn, so one may not be enough.
    MOST_EVICTIONS = 4


cdef Flow *admit(Core core) noexcept nogil:
    """A zeroed record for a connection; NULL if the table is full of better ones."""
    cdef Flow *flow = core.flows.alloc(FLOW_TCP)
    cdef int left = MOST_EVICTIONS
    while flow == NULL and left and evict(core):
        left -= 1
        flow = core.flows.alloc(FLOW_TCP)
    return flow


cdef bint evict(Core core) noexcept nogil:
    """End the connection that is missed least; False if there is none."""
    cdef uint32_t index = core.flows.oldest[<int>CLASS_OVER]
    cdef Flow *flow
    if index != NO_FLOW and core.flows.flows[index].fd < 0:
        core.stats.flows_evicted += 1
        end(core, &core.flows.flows[index], False)
        return True
    index = core.flows.oldest[<int>CLASS_HALF_OPEN]
    if index == NO_FLOW:
        return False
    flow = &core.flows.flows[index]
    core.stats.flows_evicted += 1
    reset_both(core, flow)
    return True
