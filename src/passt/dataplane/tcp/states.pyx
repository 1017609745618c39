"""The states of a TCP connection towards the guest: the table of the legal transitions, and their one writer.

The states are those of RFC 9293 3.3.2, as our end of the guest's connection goes through them, and two of
ours: CONNECTING is a SYN_RECEIVED that withholds its SYN-ACK until connect(2) to the remote succeeds, HELD an
ESTABLISHED in which nothing passes until the policy has judged the guest's first bytes (`early_data`).
Against figure 5 of the RFC:

* There is no LISTEN: any SYN of the guest may open a connection.
* SYN_SENT does not go to SYN_RECEIVED (simultaneous open), nor SYN_RECEIVED to FIN_WAIT_1: our FIN follows
  the handshake.
* LAST_ACK goes to TIME_WAIT, from which the next timer takes it to CLOSED: a record ends in one place.

`set_state` holds each step against TRANSITIONS in a build with PASST_DEBUG=1. docs/tcp-states.md is printed
from the table (tools/gen_tcp_states.py).
"""

from libc.stdint cimport uint8_t

from passt.dataplane.base.assertions cimport PASST_ASSERT
from passt.dataplane.core.core cimport Core
from passt.dataplane.core.decisions cimport trace_state
from passt.dataplane.flow.record cimport (
    CLASS_HALF_OPEN_IN, CLASS_HALF_OPEN_OUT, CLASS_KEPT, CLASS_OVER, CLASS_UNUSED, Flow,
)
from passt.dataplane.flow.tcp cimport (
    N_TCP_STATES, TCP_CLOSED, TCP_CLOSE_WAIT, TCP_CLOSING, TCP_CONNECTING, TCP_ESTABLISHED, TCP_FIN_WAIT_1,
    TCP_FIN_WAIT_2, TCP_HELD, TCP_LAST_ACK, TCP_SYN_RECEIVED, TCP_SYN_SENT, TCP_TIME_WAIT,
)
from passt.dataplane.tcp.sequence cimport overflow_len


cdef struct State:
    const char *name              # as in RFC 9293
    uint8_t flow_class            # FlowClass of the flows in it


cdef struct Transition:
    uint8_t source
    uint8_t target
    const char *sections          # of RFC 9293
    const char *event


cdef enum:
    N_TRANSITIONS = 26

# By TcpState.
cdef State STATES[N_TCP_STATES]
STATES[:] = [
    State(b"CLOSED", CLASS_KEPT),
    State(b"CONNECTING", CLASS_HALF_OPEN_OUT),
    State(b"SYN_SENT", CLASS_HALF_OPEN_IN),
    State(b"SYN_RECEIVED", CLASS_HALF_OPEN_OUT),
    State(b"HELD", CLASS_HALF_OPEN_OUT),
    State(b"ESTABLISHED", CLASS_UNUSED),
    State(b"FIN_WAIT_1", CLASS_KEPT),
    State(b"FIN_WAIT_2", CLASS_KEPT),
    State(b"CLOSE_WAIT", CLASS_KEPT),
    State(b"CLOSING", CLASS_KEPT),
    State(b"LAST_ACK", CLASS_KEPT),
    State(b"TIME_WAIT", CLASS_OVER),
]

cdef const char *ABORTED = b"either end resets, the guest stops answering, or the program ends"

# Opening and closing in order, then what cuts a connection short.
cdef Transition TRANSITIONS[N_TRANSITIONS]
TRANSITIONS[:] = [
    Transition(TCP_CLOSED, TCP_CONNECTING, b"3.10.7.2", b"the guest sends a SYN, connect(2) begins"),
    Transition(TCP_CONNECTING, TCP_SYN_RECEIVED, b"3.10.7.2", b"connect(2) succeeds, a SYN-ACK leaves"),
    Transition(TCP_SYN_RECEIVED, TCP_ESTABLISHED, b"3.10.7.4", b"the guest acknowledges our SYN"),
    Transition(TCP_SYN_RECEIVED, TCP_HELD, b"3.10.7.4",
               b"the guest acknowledges our SYN, and its first bytes are to be judged"),
    Transition(TCP_HELD, TCP_ESTABLISHED, b"3.10.7.4", b"the guest's first bytes may pass"),
    Transition(TCP_CLOSED, TCP_SYN_SENT, b"3.10.1", b"accept(2) gives a client, a SYN leaves"),
    Transition(TCP_SYN_SENT, TCP_ESTABLISHED, b"3.10.7.3", b"the guest sends a SYN-ACK"),
    Transition(TCP_ESTABLISHED, TCP_FIN_WAIT_1, b"3.10.4", b"the remote ends its stream, our FIN leaves"),
    Transition(TCP_FIN_WAIT_1, TCP_FIN_WAIT_2, b"3.10.7.4", b"the guest acknowledges our FIN"),
    Transition(TCP_FIN_WAIT_1, TCP_CLOSING, b"3.10.7.4",
               b"the guest sends a FIN that does not acknowledge ours"),
    Transition(TCP_FIN_WAIT_2, TCP_TIME_WAIT, b"3.10.7.4", b"the guest sends a FIN"),
    Transition(TCP_CLOSING, TCP_TIME_WAIT, b"3.10.7.4", b"the guest acknowledges our FIN"),
    Transition(TCP_ESTABLISHED, TCP_CLOSE_WAIT, b"3.10.7.4", b"the guest sends a FIN"),
    Transition(TCP_CLOSE_WAIT, TCP_LAST_ACK, b"3.10.4", b"the remote ends its stream, our FIN leaves"),
    Transition(TCP_LAST_ACK, TCP_TIME_WAIT, b"3.10.7.4", b"the guest acknowledges our FIN"),
    Transition(TCP_TIME_WAIT, TCP_CLOSED, b"3.6.1, 3.10.8",
               b"the time is over, a SYN opens the tuple anew, or a new flow needs the record"),
    Transition(TCP_CONNECTING, TCP_CLOSED, b"3.5.3, 3.10.5",
               b"connect(2) fails, the guest resets or opens anew, or a new flow needs the record"),
    Transition(TCP_SYN_SENT, TCP_CLOSED, b"3.5.3, 3.8.3, 3.10.5",
               b"either end resets, the guest does not answer, or a new flow needs the record"),
    Transition(TCP_SYN_RECEIVED, TCP_CLOSED, b"3.5.3, 3.8.3, 3.10.5",
               b"as from SYN_SENT, or the guest opens anew"),
    Transition(TCP_HELD, TCP_CLOSED, b"3.5.3, 3.10.5",
               b"the first bytes may not pass or do not come, either resets, or a new flow needs the record"),
    Transition(TCP_ESTABLISHED, TCP_CLOSED, b"3.5.3, 3.8.3, 3.10.5", ABORTED),
    Transition(TCP_FIN_WAIT_1, TCP_CLOSED, b"3.5.3, 3.8.3, 3.10.5", ABORTED),
    Transition(TCP_FIN_WAIT_2, TCP_CLOSED, b"3.5.3, 3.8.3, 3.10.5", ABORTED),
    Transition(TCP_CLOSE_WAIT, TCP_CLOSED, b"3.5.3, 3.8.3, 3.10.5", ABORTED),
    Transition(TCP_CLOSING, TCP_CLOSED, b"3.5.3, 3.8.3, 3.10.5",
               b"as from ESTABLISHED, or a client opens the tuple anew"),
    Transition(TCP_LAST_ACK, TCP_CLOSED, b"3.5.3, 3.8.3, 3.10.5",
               b"as from ESTABLISHED, or a client opens the tuple anew"),
]


def transitions():
    """See states.pyi."""
    return [(state_name(each.source).decode(), state_name(each.target).decode(), each.sections.decode(),
             each.event.decode()) for each in TRANSITIONS]


cdef bint is_legal(uint8_t source, uint8_t target) noexcept nogil:
    """Whether TRANSITIONS has that step."""
    cdef int i
    for i in range(<int>N_TRANSITIONS):
        if TRANSITIONS[i].source == source and TRANSITIONS[i].target == target:
            return True
    return False


cdef const char *state_name(uint8_t state) noexcept nogil:
    """The RFC's name of a TcpState."""
    return STATES[state].name


cdef const char *tcp_state(const Flow *flow) noexcept nogil:
    return state_name(flow.body.tcp.state)


cdef void set_state(Core core, Flow *flow, uint8_t state) noexcept nogil:
    """The only writer of a connection's state."""
    PASST_ASSERT(is_legal(flow.body.tcp.state, state))
    flow.body.tcp.state = state
    # Data that the socket has not taken keeps the flow; `finish_turn` says when all is gone.
    if state == TCP_TIME_WAIT and overflow_len(flow):
        core.flows.classify(flow, CLASS_KEPT)
    else:
        core.flows.classify(flow, STATES[state].flow_class)
    if core.has_trace:
        trace_state(core, flow, state_name(state))
