"""Records and descriptors for new flows, if need be those of others.

Neither a full table nor the limit of open files may be a way to keep others out: a flood of connections
that never get beyond their handshake (RFC 4987) would hold both for minutes. So a new connection takes
the record of the one that has been in TIME-WAIT longest, or else that of the oldest half-open one, which
is reset both ways. Descriptors are given up by half-open ones only: in TIME-WAIT there is none left, or
one that data still waits for. Established connections are never touched; where there are only those the
new one is refused.
"""

from libc.stdint cimport uint8_t, uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.table cimport CLASS_HALF_OPEN, CLASS_OVER, FLOW_SPLICE_TCP, NO_FLOW, Flow
from passt.dataplane.bypass.tcp_bypass cimport end_splice
from passt.dataplane.base.externs cimport EMFILE, ENFILE
from passt.dataplane.tcp.segments cimport end, reset_both

cdef enum:
    # Records that had work to do are free only with the next turn, so one may not be enough.
    MOST_EVICTIONS = 4


cdef bint lacks_descriptor(int result) noexcept nogil:
    """Whether a call failed, with the negative errno *result*, because no file can be opened any more."""
    return result in (-EMFILE, -ENFILE)


cdef Flow *admit(Core core, uint8_t kind) noexcept nogil:
    """A zeroed record for a connection; NULL if the table is full of better ones."""
    cdef Flow *flow = core.flows.alloc(kind)
    cdef int left = MOST_EVICTIONS
    while flow == NULL and left and evict(core):
        left -= 1
        flow = core.flows.alloc(kind)
    return flow


cdef bint evict(Core core) noexcept nogil:
    """End the connection that is missed least; False if there is none."""
    cdef uint32_t index = core.flows.oldest[<int>CLASS_OVER]
    if index == NO_FLOW or core.flows.flows[index].fd >= 0:
        return evict_half_open(core)
    core.stats.flows_evicted += 1
    end(core, &core.flows.flows[index], False)
    return True


cdef bint evict_half_open(Core core) noexcept nogil:
    """Reset the connection that has been half open for longest, which frees a descriptor; False: none is."""
    cdef uint32_t index = core.flows.oldest[<int>CLASS_HALF_OPEN]
    cdef Flow *flow
    if index == NO_FLOW:
        return False
    flow = &core.flows.flows[index]
    core.stats.flows_evicted += 1
    if flow.kind == FLOW_SPLICE_TCP:
        end_splice(core, flow, True)
    else:
        reset_both(core, flow)
    return True
