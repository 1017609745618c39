"""Acknowledging to the guest what the remote has acknowledged."""

from libc.stdint cimport uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.table cimport (
    CONN_FIN_EARLY, CONN_FOLLOW, CONN_GUEST_FIN, CONN_HOST_EOF, Flow, TcpConn,
)


cdef inline uint32_t ack_number(const TcpConn *conn) noexcept nogil:
    """What a segment to the guest acknowledges: everything that is in our hands, or what is in the remote's.

    Where something is missing, or either end has finished, it is everything whatever the policy: reports of
    data behind a hole, and a FIN's acknowledgement, must not leave a second hole before them.
    """
    if not conn.flags & CONN_FOLLOW or conn.store != NULL:
        return conn.rcv_nxt
    return conn.rcv_nxt if conn.flags & (CONN_GUEST_FIN | CONN_HOST_EOF | CONN_FIN_EARLY) else conn.far_acked


cdef void count_write(Core core, Flow *flow, uint32_t due) noexcept nogil
cdef bint follow(Core core, Flow *flow) noexcept nogil
cdef void on_far_ack(Core core, Flow *flow) noexcept nogil
cdef void on_lag_timeout(Core core, Flow *flow) noexcept nogil
cdef void on_repeated(Core core, Flow *flow) noexcept nogil
