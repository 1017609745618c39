"""Records and descriptors for new flows, if need be those of others.

Neither a full table nor the limit of open files may be a way to keep others out: a flood of connections
that never get beyond their handshake (RFC 4987) would hold both for minutes. So a new connection takes
the record of the one that has been in TIME-WAIT longest, or else that of a half-open one, which is reset
both ways: the oldest of the direction that has more of them. Descriptors are given up by half-open ones
only: in TIME-WAIT there is none left. Established connections are never touched, nor those in TIME-WAIT
with data that the remote has not taken; where there are only those the new one is refused.

A new flow of datagrams takes the place of the one unused for longest, or else that of a half-open
connection.
"""

from libc.stdint cimport uint8_t, uint32_t

from passt.dataplane.base.externs cimport EMFILE, ENFILE
from passt.dataplane.base.stats cimport DROP_FLOWS_FULL, count
from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.record cimport (
    CLASS_DATAGRAM, CLASS_HALF_OPEN_IN, CLASS_HALF_OPEN_OUT, CLASS_OVER, NO_FLOW, Flow, FlowClass,
)

cdef enum:
    # Records that had work to do are free only with the next turn, so one may not be enough.
    MAX_EVICTIONS = 4

# Ends one flow; False if there is none that may be ended.
ctypedef bint (*Evict)(Core core) noexcept nogil


cdef bint lacks_descriptor(int result) noexcept nogil:
    """Whether a call failed, with the negative errno *result*, because no file can be opened any more."""
    return result in (-EMFILE, -ENFILE)


cdef Flow *alloc(Core core, uint8_t kind, Evict evict) noexcept nogil:
    """A zeroed record, if need be one that *evict* makes free; NULL if that ends nobody any more."""
    cdef Flow *flow = core.flows.alloc(kind)
    cdef int left = MAX_EVICTIONS
    while flow == NULL and left and evict(core):
        left -= 1
        flow = core.flows.alloc(kind)
    return flow


cdef Flow *admit(Core core, uint8_t kind) noexcept nogil:
    """A zeroed record for a connection; NULL if the table is full of better ones."""
    return alloc(core, kind, evict_connection)


cdef Flow *admit_datagram(Core core, uint8_t kind) noexcept nogil:
    """A zeroed record for a flow of datagrams; NULL: counted drop."""
    cdef Flow *flow
    if core.flows.n_in_class[<int>CLASS_DATAGRAM] >= core.flows.max_datagram:
        crowd_out(core)
    flow = take_record(core, kind)
    if flow == NULL:
        count(&core.stats, DROP_FLOWS_FULL)
    return flow


cdef Flow *take_record(Core core, uint8_t kind) noexcept nogil:
    """A zeroed record for datagrams, if need be another flow's; NULL if connections have all of them."""
    return alloc(core, kind, evict_for_datagram)


cdef bint evict_for_datagram(Core core) noexcept nogil:
    """End the flow of datagrams unused for longest, else a half-open connection; False: there is neither."""
    return crowd_out(core) or evict_half_open(core)


cdef bint evict_connection(Core core) noexcept nogil:
    """End the connection whose loss does least harm; False if there is none."""
    cdef uint32_t index = core.flows.oldest[<int>CLASS_OVER]
    # One that came into TIME-WAIT in this turn has its socket until the turn ends, and so have all behind it.
    if index == NO_FLOW or core.flows.flows[index].fd >= 0:
        return evict_half_open(core)
    return end_oldest(core, CLASS_OVER)


cdef bint evict_half_open(Core core) noexcept nogil:
    """Reset the connection that has been half open for longest, which frees a descriptor; False: none is.

    It is one of the direction that has more of them: a flood one way does not push out those of the other.
    """
    if core.flows.n_in_class[<int>CLASS_HALF_OPEN_IN] > core.flows.n_in_class[<int>CLASS_HALF_OPEN_OUT]:
        return end_oldest(core, CLASS_HALF_OPEN_IN)
    return end_oldest(core, CLASS_HALF_OPEN_OUT)


cdef bint crowd_out(Core core) noexcept nogil:
    """End the flow of datagrams unused for longest; False if there is none."""
    return end_oldest(core, CLASS_DATAGRAM)


cdef bint end_oldest(Core core, FlowClass order) noexcept nogil:
    """End the flow that has been longest in a class; False if there is none."""
    cdef uint32_t index = core.flows.oldest[<int>order]
    cdef Flow *flow
    if index == NO_FLOW:
        return False
    flow = &core.flows.flows[index]
    core.stats.flows_evicted += 1
    core.handlers[flow.kind].end_flow(core, flow)
    return True
