"""Records and descriptors for new flows, if need be those of others.

Neither a full table nor the limit of open files may be a way to keep others out: a flood of connections that
never get beyond their handshake (RFC 4987), or are never used, would hold both for minutes. So a new
connection takes the record of the one that has been in TIME-WAIT longest, or else that of a half-open one, of
the direction that has more of them, or else of one that is open and never was used; of these, of the one that
`FlowTable.expendable` names. Descriptors are given up by the last two: in TIME-WAIT there is none left.
Connections on which data passed are never touched, nor those in TIME-WAIT with data that the remote has not
taken.

As nobody takes from these, they may not take everything: the connections of one crowd may be CROWD_FACTOR
times as many as there are descriptors left, so a fifth is out of its reach, and where k remotes are crowded,
one part in 4 k + 1. How many are left, the number of the newcomer's descriptor tells, as the kernel gives the
lowest that is free (POSIX.1-2017, 2.14): so a crowd never gets one of the last. A newcomer to a crowd that is
too large takes the place of its oldest half-open or unused one, or else is refused.

Who makes room has had YOUNG_NS at least to be answered. In a flood that is faster a guest's SYN is passed
over, and taken when it is sent again (`first_syns`).

A new flow of datagrams takes the place of another one, in the order of their last use, or else that of a
half-open connection. Their sockets are half of the descriptors at most. When there is no descriptor for
either kind, flows of datagrams give theirs up as long as they have more than an eighth of all.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from passt.dataplane.base.externs cimport EMFILE, ENFILE
from passt.dataplane.base.stats cimport DROP_CROWD, DROP_FLOWS_FULL, count
from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.key cimport SIDE_GUEST, FlowKey
from passt.dataplane.flow.record cimport (
    CLASS_DATAGRAM, CLASS_HALF_OPEN_IN, CLASS_HALF_OPEN_OUT, CLASS_OVER, CLASS_UNUSED, NO_FLOW, Flow,
    FlowClass,
)

cdef enum:
    # Records that had work to do are free only with the next turn, so one may not be enough.
    MAX_EVICTIONS = 4
    CROWD_FACTOR = 4
    DATAGRAM_FLOOR = 8            # of the descriptors one part in that many is not taken from datagrams

cdef int64_t YOUNG_NS = 250000000       # more than the way to most remotes and back takes

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


cdef bint spare_for_connection(Core core) noexcept nogil:
    """Have a flow give its descriptor up for a connection; False: none may."""
    return evict_unused(core) or (has_more_than_floor(core) and crowd_out(core))


cdef bint spare_for_datagrams(Core core) noexcept nogil:
    """Have a flow give its descriptor up for a flow of datagrams; False: none may."""
    return (has_more_than_floor(core) and crowd_out(core)) or evict_unused(core) or crowd_out(core)


cdef bint has_more_than_floor(Core core) noexcept nogil:
    """Whether flows of datagrams have more descriptors than are always left to them."""
    return <uint64_t>core.n_datagram_sockets * DATAGRAM_FLOOR > core.descriptors


cdef void limit_datagram_sockets(Core core) noexcept nogil:
    """Before a flow of datagrams gets a socket: have others give theirs up if there are too many."""
    cdef int left = MAX_EVICTIONS
    # A socket that several flows share is closed with the last of them.
    while core.n_datagram_sockets >= core.max_datagram_sockets and left and crowd_out(core):
        left -= 1


cdef bint join_crowd(Core core, Flow *flow, int *fd) noexcept nogil:
    """Whether a new connection, whose keys are known, may have descriptor *fd*; else a counted drop.

    It is counted from now on. Its descriptor may be another one then.
    """
    cdef uint64_t left = max(core.descriptors, <uint64_t>fd[0] + 1) - <uint64_t>fd[0]
    cdef uint32_t oldest
    flow.crowd = core.flows.crowd_of(&flow.keys[<int>SIDE_GUEST], flow.inbound)
    if core.flows.n_connections[flow.crowd] >= CROWD_FACTOR * left:
        oldest = older(core, core.flows.crowds[<int>half_open(flow.inbound)][flow.crowd].oldest,
                       core.flows.crowds[<int>CLASS_UNUSED][flow.crowd].oldest)
        if not flow.inbound and is_young(core, oldest) and not is_repeated(core, &flow.keys[<int>SIDE_GUEST]):
            core.flows.full_until[flow.crowd] = core.flows.flows[oldest].opened_at + YOUNG_NS
            oldest = NO_FLOW
        if not end_flow(core, oldest):
            count(&core.stats, DROP_CROWD)
            return False
        # The new one may not stay beyond the crowd's reach while the old one's place is free.
        fd[0] = core.sockets.move_down(fd[0])
    flow.opened_at = core.now
    core.flows.count_connection(flow)
    return True


cdef bint is_full(Core core, const FlowKey *key) noexcept nogil:
    """Whether a SYN of the guest, for a connection with *key*, had better be sent again: a counted drop."""
    if core.now >= core.flows.full_until[core.flows.crowd_of(key, False)] or is_repeated(core, key):
        return False
    count(&core.stats, DROP_CROWD)
    return True


cdef bint is_early(Core core, const FlowKey *key) noexcept nogil:
    """Without a descriptor for a connection with *key*: whether its SYN had better be sent again."""
    return is_young(core, core.flows.expendable(half_open(more_come_in(core)))) and not is_repeated(core, key)


cdef bint is_young(Core core, uint32_t index) noexcept nogil:
    """Whether that is a connection that has hardly begun."""
    return index != NO_FLOW and core.now - core.flows.flows[index].opened_at < YOUNG_NS


cdef bint is_repeated(Core core, const FlowKey *key) noexcept nogil:
    return core.first_syns.is_repeated(core.flows.hash(key), core.now)


cdef uint32_t older(Core core, uint32_t one, uint32_t other) noexcept nogil:
    """That of two connections which is older; either may be none."""
    if one == NO_FLOW or other == NO_FLOW:
        return other if one == NO_FLOW else one
    return one if core.flows.flows[one].opened_at <= core.flows.flows[other].opened_at else other


cdef FlowClass half_open(bint inbound) noexcept nogil:
    return CLASS_HALF_OPEN_IN if inbound else CLASS_HALF_OPEN_OUT


cdef bint more_come_in(Core core) noexcept nogil:
    """Whether more connections are half open that come to listeners than such that the guest opens."""
    return core.flows.n_in_class[<int>CLASS_HALF_OPEN_IN] > core.flows.n_in_class[<int>CLASS_HALF_OPEN_OUT]


cdef bint evict_for_datagram(Core core) noexcept nogil:
    """End a flow of datagrams, else a connection not used yet; False: there is neither."""
    return crowd_out(core) or evict_unused(core)


cdef bint evict_connection(Core core) noexcept nogil:
    """End the connection whose loss does least harm; False if there is none."""
    cdef uint32_t index = core.flows.classes[<int>CLASS_OVER].oldest
    # One that came into TIME-WAIT in this turn has its socket until the turn ends, and so have all behind it.
    if index == NO_FLOW or core.flows.flows[index].fd >= 0:
        return evict_unused(core)
    return end_flow(core, index)


cdef bint evict_unused(Core core) noexcept nogil:
    """End a connection that is half open, else one that never was used, for its descriptor; False: none is.

    It is one of the direction that has more of them: a flood one way does not push out those of the other.
    """
    return (end_flow(core, core.flows.expendable(half_open(more_come_in(core))))
            or end_flow(core, core.flows.expendable(CLASS_UNUSED)))


cdef bint crowd_out(Core core) noexcept nogil:
    """End a flow of datagrams; False if there is none."""
    return end_flow(core, core.flows.expendable(CLASS_DATAGRAM))


cdef bint end_flow(Core core, uint32_t index) noexcept nogil:
    """End the flow with that index to make room; False if it is none."""
    cdef Flow *flow
    if index == NO_FLOW:
        return False
    flow = &core.flows.flows[index]
    core.stats.flows_evicted += 1
    core.why = b"evicted"
    core.handlers[flow.kind].make_way(core, flow)
    core.why = NULL
    return True
