"""The parts of a turn that concern flows: which translator gets an event, a timer, the end of the turn."""

from libc.stdint cimport uint32_t, uint64_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.table cimport (
    FLOW_DEAD, FLOW_PING, FLOW_SPLICE_TCP, FLOW_SPLICE_UDP, FLOW_TCP, FLOW_UDP, FLOW_UDP_PORT, NO_FLOW,
    Flow,
)
from passt.dataplane.ip.fragments cimport on_fragment_timer
from passt.dataplane.ping cimport on_ping_socket, on_ping_timer
from passt.dataplane.loop.reactor cimport EVENT_FAR
from passt.dataplane.bypass.tcp_bypass cimport finish_splice, on_splice_event
from passt.dataplane.bypass.udp_bypass cimport on_splice_timer
from passt.dataplane.tcp.to_guest cimport finish_turn, on_socket, on_timer
from passt.dataplane.udp.udp cimport on_udp_socket, on_udp_timer
from passt.dataplane.udp.to_guest cimport read_spliced


cdef void on_flow_event(Core core, uint64_t tag, uint32_t events) noexcept nogil:
    """An event of a flow's socket, or of its second one; one of a flow that has ended is ignored."""
    cdef Flow *flow = core.flows.at_tag(tag)
    if flow == NULL:
        return
    if flow.kind == FLOW_TCP:
        on_socket(core, flow, events)
    elif flow.kind == FLOW_UDP_PORT:
        on_udp_socket(core, flow)
    elif flow.kind == FLOW_PING:
        on_ping_socket(core, flow)
    elif flow.kind == FLOW_SPLICE_TCP:
        on_splice_event(core, flow, <uint32_t>(tag >> 56) == EVENT_FAR, events)
    elif flow.kind == FLOW_SPLICE_UDP:
        read_spliced(core, flow)


cdef void on_flow_timer(Core core, uint32_t index) noexcept nogil:
    """The flow's entry has left the timer heap."""
    cdef Flow *flow
    if index == core.fragment_timer:
        on_fragment_timer(core)
        return
    flow = &core.flows.flows[index]
    flow.armed = 0
    if flow.kind == FLOW_TCP:
        on_timer(core, flow)
    elif flow.kind == FLOW_UDP:
        on_udp_timer(core, flow)
    elif flow.kind == FLOW_PING:
        on_ping_timer(core, flow)
    elif flow.kind == FLOW_SPLICE_UDP:
        on_splice_timer(core, flow)


cdef void finish_flows(Core core) noexcept nogil:
    """Look once at each flow on the work list; what puts itself there again comes in the next turn."""
    cdef uint32_t index = core.flows.take_work()
    cdef Flow *flow
    while index != NO_FLOW:
        flow = &core.flows.flows[index]
        index = flow.next_work
        flow.has_work = False
        if flow.kind == FLOW_DEAD:
            core.flows.put_free(flow)
        elif flow.kind == FLOW_TCP:
            finish_turn(core, flow)
        elif flow.kind == FLOW_UDP_PORT:
            on_udp_socket(core, flow)
        elif flow.kind == FLOW_PING:
            on_ping_socket(core, flow)
        elif flow.kind == FLOW_SPLICE_TCP:
            finish_splice(core, flow)
        elif flow.kind == FLOW_SPLICE_UDP:
            read_spliced(core, flow)
