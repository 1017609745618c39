"""Arithmetic of sequence numbers, and the numbers that segments to the guest carry."""

from libc.stdint cimport int32_t, uint32_t

from passt.dataplane.flow.record cimport Flow
from passt.dataplane.flow.tcp cimport (
    CONN_FIN_EARLY, CONN_FOLLOW, CONN_GUEST_FIN, CONN_HOST_EOF, TcpConn, TcpStore,
)

cdef enum:
    CWND_OPEN = 0xffffffff


cdef inline bint seq_lt(uint32_t a, uint32_t b) noexcept nogil:
    """a < b in sequence space (RFC 9293 3.4)."""
    return <int32_t>(a - b) < 0


cdef inline bint seq_le(uint32_t a, uint32_t b) noexcept nogil:
    return <int32_t>(a - b) <= 0


cdef inline uint32_t acceptable_seq(const TcpConn *conn) noexcept nogil:
    """The number for a segment without payload: SND.NXT, but not behind the guest's window.

    There the guest would drop it, acknowledgement and all (RFC 9293 3.10.7.4, first check). It is the
    highest that was ever sent: where a retransmission has moved snd_nxt back, the guest is ahead of it.
    """
    cdef uint32_t edge = conn.snd_una + conn.snd_wnd
    return conn.snd_max if seq_le(conn.snd_max, edge) else edge


cdef inline uint32_t overflow_len(const Flow *flow) noexcept nogil:
    """Bytes that the guest saw acknowledged and that the socket has not taken yet."""
    cdef const TcpStore *store = flow.body.tcp.store
    return store.ranges[0].end - store.ranges[0].start if store != NULL and store.in_order else 0


cdef inline uint32_t ack_number(const TcpConn *conn) noexcept nogil:
    """What a segment to the guest acknowledges: everything that is in our hands, or what is in the remote's.

    Where something is missing, or either end has finished, it is everything whatever the policy: reports of
    data behind a hole, and a FIN's acknowledgement, must not leave a second hole before them.
    """
    if not conn.flags & CONN_FOLLOW or conn.store != NULL:
        return conn.rcv_nxt
    if conn.flags & (CONN_GUEST_FIN | CONN_HOST_EOF | CONN_FIN_EARLY):
        return conn.rcv_nxt
    return conn.remote_acked
