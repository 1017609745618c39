"""The parts of a turn that concern flows: which translator gets an event, a timer, the end of the turn.

`set_handlers` fills the one table of handlers for each kind of flow; no other code chooses by kind what to
call.
"""

from libc.stdint cimport uint32_t, uint64_t

from passt.dataplane.base.assertions cimport PASST_ASSERT
from passt.dataplane.bypass.tcp_bypass cimport abort_splice, finish_splice, on_splice_event, splice_state
from passt.dataplane.bypass.udp_bypass cimport end_splice_udp, on_splice_timer, splice_udp_state
from passt.dataplane.core.core cimport Core, FlowAction, FlowEvent, FlowHandlers, FlowState
from passt.dataplane.base.externs cimport IPPROTO_TCP, IPPROTO_UDP
from passt.dataplane.core.listeners cimport Listener
from passt.dataplane.flow.batches cimport MAX_GATHER
from passt.dataplane.ingress.demux cimport is_tcp_data, on_frame
from passt.dataplane.link.link cimport MAX_BATCH
from passt.dataplane.link.meta cimport RxFrame
from passt.dataplane.tcp.from_guest cimport flush_gather
from passt.dataplane.udp.from_guest cimport flush_out
from passt.dataplane.flow.record cimport (
    FLOW_DEAD, FLOW_PING, FLOW_SPLICE_TCP, FLOW_SPLICE_UDP, FLOW_TCP, FLOW_UDP, FLOW_UDP_PORT, N_FLOW_KINDS,
    NO_FLOW, Flow, FlowKind,
)
from passt.dataplane.ip.fragments cimport on_fragment_timer
from passt.dataplane.loop.reactor cimport EVENT_FAR
from passt.dataplane.ping cimport end_ping, on_ping_socket, on_ping_timer
from passt.dataplane.tcp.accept cimport on_listener
from passt.dataplane.tcp.segments cimport end_tcp, make_way
from passt.dataplane.tcp.states cimport tcp_state
from passt.dataplane.tcp.to_guest cimport finish_turn, on_socket, on_timer
from passt.dataplane.udp.flows cimport end_udp, on_udp_timer
from passt.dataplane.udp.to_guest cimport read_listener, read_port, read_spliced

cdef enum:
    IN_PIECES_FROM = 4096         # bytes; a smaller frame is copied sooner than led along in pieces


cdef void set_handlers(Core core):
    """Fill the table of what is done with the flows of each kind."""
    cdef int kind
    for kind in range(<int>N_FLOW_KINDS):
        set_kind(core, <FlowKind>kind, no_event, nothing, nothing, nothing, active)
    # For each kind: event, timer, turn, end, state.
    set_kind(core, FLOW_TCP, on_socket, on_timer, finish_turn, end_tcp, tcp_state)
    core.handlers[<int>FLOW_TCP].make_way = make_way
    set_kind(core, FLOW_UDP, no_event, on_udp_timer, nothing, end_udp, active)
    set_kind(core, FLOW_UDP_PORT, as_turn, nothing, read_port, nothing, no_flow)
    set_kind(core, FLOW_PING, as_turn, on_ping_timer, on_ping_socket, end_ping, active)
    set_kind(core, FLOW_SPLICE_TCP, on_splice_event, nothing, finish_splice, abort_splice, splice_state)
    set_kind(core, FLOW_SPLICE_UDP, as_turn, on_splice_timer, read_spliced, end_splice_udp, splice_udp_state)


cdef void set_kind(Core core, FlowKind kind, FlowEvent event, FlowAction timer, FlowAction turn,
                   FlowAction end, FlowState state):
    cdef FlowHandlers *handlers = &core.handlers[<int>kind]
    handlers.on_event = event
    handlers.on_timer = timer
    handlers.on_turn = turn
    handlers.end_flow = end
    handlers.make_way = end
    handlers.state = state


cdef void no_event(Core core, Flow *flow, int side, uint32_t events) noexcept nogil:
    """This kind has no socket of its own."""


cdef void nothing(Core core, Flow *flow) noexcept nogil:
    """This kind has no such moment."""


cdef void as_turn(Core core, Flow *flow, int side, uint32_t events) noexcept nogil:
    """Every event is handled by reading the socket."""
    core.handlers[flow.kind].on_turn(core, flow)


cdef const char *no_flow(const Flow *flow) noexcept nogil:
    """A record that is no flow: users do not see it."""
    return NULL


cdef const char *active(const Flow *flow) noexcept nogil:
    return b"ACTIVE"


cdef int read_frames(Core core, int room) noexcept nogil:
    """Handle a batch of *room* frames at most, which are no more than MAX_BATCH; returns their number."""
    cdef RxFrame frames[MAX_BATCH]
    cdef int n, i
    n = core.link.read_batch(frames, room)
    for i in range(n):
        if frames[i].n_pieces and not may_stay_in_pieces(core, &frames[i]) and not core.link.join(&frames[i]):
            hand_on(core)
            core.link.join(&frames[i])
        if frames[i].len:
            on_frame(core, &frames[i])
    hand_on(core)
    return n


cdef bint may_stay_in_pieces(Core core, RxFrame *frame) noexcept nogil:
    """Whether *frame*, of which the head is joined then, is left where it is: large, and data for TCP."""
    return (frame.len >= IN_PIECES_FROM and frame.n_pieces <= MAX_GATHER
            and not core.watch.active and core.link.join_head(frame) and is_tcp_data(frame.data))


cdef void hand_on(Core core) noexcept nogil:
    """Send what was gathered of the frames so far: their memory is used again."""
    flush_gather(core)
    flush_out(core)
    core.link.forget_joined()


cdef void on_flow_event(Core core, uint64_t tag, uint32_t events) noexcept nogil:
    """An event of a flow's socket, or of its second one; one of a flow that has ended is ignored."""
    cdef Flow *flow = core.flows.at_tag(tag)
    if flow != NULL:
        core.handlers[flow.kind].on_event(core, flow, <uint32_t>(tag >> 56) == EVENT_FAR, events)


cdef void on_flow_timer(Core core, uint32_t index) noexcept nogil:
    """The flow's entry has left the timer heap."""
    cdef Flow *flow
    if index == core.ip.fragment_timer:
        on_fragment_timer(core)
        return
    flow = &core.flows.flows[index]
    PASST_ASSERT(flow.kind > FLOW_DEAD)
    flow.armed = 0
    core.handlers[flow.kind].on_timer(core, flow)


cdef void on_listener_event(Core core, uint32_t index) except *:
    """A listener is readable; one that was removed since is ignored."""
    cdef Listener listener = core.listeners.at(index)
    if listener is None:
        return
    if listener.protocol == IPPROTO_TCP:
        on_listener(core, index, listener.fd)
    elif listener.protocol == IPPROTO_UDP:
        read_listener(core, index, listener.fd, listener.in_namespace)


cdef void change_rule(Core core, Listener listener, object rule) except *:
    """What comes to a listener from now on goes where another rule says."""
    listener.rule = rule
    core.bypass.decisions.forget()


cdef void end_listener(Core core, Listener listener) except *:
    """Close a listener; UDP flows that use its socket end.

    They are looked for only if there are some, as a change of rules closes thousands of listeners at once.
    """
    cdef uint32_t i = 0
    cdef Flow *flow
    core.why = b"port closed"
    if listener.protocol == IPPROTO_UDP:
        while core.listeners.states[listener.index].n_flows and i < core.flows.top:
            flow = &core.flows.flows[i]
            i += 1
            if (flow.kind == FLOW_UDP and flow.body.udp.listener == listener.index + 1
                    or flow.kind == FLOW_SPLICE_UDP and flow.body.splice_udp.listener == listener.index + 1):
                core.handlers[flow.kind].end_flow(core, flow)
        PASST_ASSERT(core.listeners.states[listener.index].n_flows == 0)
    core.why = NULL
    core.bypass.decisions.forget()
    core.listeners.remove(listener)


cdef void finish_flows(Core core) noexcept nogil:
    """Look once at each flow on the work list; one that puts itself there again comes in the next turn."""
    cdef uint32_t index = core.flows.take_work()
    cdef Flow *flow
    while index != NO_FLOW:
        flow = &core.flows.flows[index]
        index = flow.next_work
        PASST_ASSERT(flow.has_work)
        flow.has_work = False
        if flow.kind == FLOW_DEAD:
            core.flows.put_free(flow)
        else:
            core.handlers[flow.kind].on_turn(core, flow)


cdef void end_flows(Core core) noexcept nogil:
    """The engine ends: end every flow."""
    cdef uint32_t i
    cdef Flow *flow
    for i in range(core.flows.top):
        flow = &core.flows.flows[i]
        core.handlers[flow.kind].end_flow(core, flow)
    PASST_ASSERT(core.flows.n_active == 0)
    PASST_ASSERT(core.pool.left == core.pool.size)
    PASST_ASSERT(core.bypass.pipes.n_open[0] == <uint64_t>core.bypass.pipes.n_idle)
