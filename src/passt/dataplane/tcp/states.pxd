"""The states of a TCP connection towards the guest, their one writer, and what holds in them."""

from libc.stdint cimport uint8_t

from passt.dataplane.base.assertions cimport PASST_ASSERT
from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.record cimport CLASS_KEPT, CLASS_UNUSED, FLOW_TCP, Flow
from passt.dataplane.flow.tcp cimport (
    CONN_GUEST_FIN, CONN_HELD, CONN_HOST_EOF, N_TCP_STATES, TCP_CLOSED, TCP_CLOSE_WAIT, TCP_CLOSING,
    TCP_CONNECTING, TCP_ESTABLISHED, TCP_FIN_WAIT_1, TCP_FIN_WAIT_2, TCP_HELD, TCP_LAST_ACK,
    TCP_TIME_WAIT, TcpConn,
)
from passt.dataplane.tcp.sequence cimport seq_le, seq_lt


cdef const char *state_name(uint8_t state) noexcept nogil
cdef const char *tcp_state(const Flow *flow) noexcept nogil
cdef void set_state(Core core, Flow *flow, uint8_t state) noexcept nogil


cdef inline void note_used(Core core, Flow *flow) noexcept nogil:
    """Data passed on the connection: from now on it need not make room for another one (`make_room`)."""
    if flow.flow_class == CLASS_UNUSED:
        core.flows.classify(flow, CLASS_KEPT)


cdef inline void check_connection(const Flow *flow) noexcept nogil:
    """Assert what holds between two events of a turn, with nothing gathered: the order of the numbers."""
    cdef const TcpConn *conn = &flow.body.tcp
    PASST_ASSERT(flow.kind == FLOW_TCP)
    PASST_ASSERT(conn.state != TCP_CLOSED)
    PASST_ASSERT(conn.state < N_TCP_STATES)
    PASST_ASSERT(seq_le(conn.snd_una, conn.snd_nxt))
    PASST_ASSERT(seq_le(conn.snd_nxt, conn.snd_max))
    PASST_ASSERT(seq_le(conn.rcv_acked, conn.rcv_nxt))
    PASST_ASSERT(seq_le(conn.rcv_nxt, conn.rcv_adv))
    # Who has sent a FIN: the guest in the first four states, the remote in the next five.
    if conn.state in (TCP_CLOSE_WAIT, TCP_CLOSING, TCP_LAST_ACK, TCP_TIME_WAIT):
        PASST_ASSERT(conn.flags & CONN_GUEST_FIN)
    if conn.state in (TCP_FIN_WAIT_1, TCP_FIN_WAIT_2, TCP_CLOSING, TCP_LAST_ACK, TCP_TIME_WAIT):
        PASST_ASSERT(conn.flags & CONN_HOST_EOF)
    if conn.state == TCP_HELD:
        PASST_ASSERT(conn.flags & CONN_HELD)
    if conn.state in (TCP_CONNECTING, TCP_HELD, TCP_ESTABLISHED, TCP_FIN_WAIT_1, TCP_FIN_WAIT_2):
        PASST_ASSERT(not conn.flags & CONN_GUEST_FIN)
    if conn.store == NULL:
        return
    PASST_ASSERT(seq_le(conn.store.ranges[conn.store.n - 1].end, conn.rcv_adv))
    if conn.store.in_order:
        PASST_ASSERT(conn.store.ranges[0].end == conn.rcv_nxt - ((conn.flags & CONN_GUEST_FIN) != 0))
    else:
        PASST_ASSERT(seq_lt(conn.rcv_nxt, conn.store.ranges[0].start))
