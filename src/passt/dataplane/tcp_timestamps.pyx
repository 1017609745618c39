"""The timestamps of a connection: its clock, what it echoes, what is too old.

Before working on this file read RFC 7323 3 to 5.

Theory of operation. The option is negotiated where the guest's SYN or its answer to ours has it. From then
on each segment carries our clock, in milliseconds from an offset of the connection's own, and the guest's
stamp that is due for an echo, `ts_recent`: that of the earliest segment which is not acknowledged yet. A
segment whose stamp lies before `ts_recent` was overtaken by later ones, perhaps by 4 GiB of them: it is
dropped and answered (PAWS), however well its numbers fit. After 24 days without a stamp `ts_recent` says
nothing any more. What came back of our clock is a sample of the round trip, one per window.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from passt.dataplane.core cimport Core
from passt.dataplane.flow cimport CONN_ACK_NOW, CONN_TIMESTAMPS, Flow, TcpConn
from passt.dataplane.hash cimport siphash
from passt.dataplane.headers cimport TCP_FIN, store_be32
from passt.dataplane.parse cimport TcpOptions, TcpView, read_tcp_options, read_timestamps
from passt.dataplane.stats cimport DROP_TCP_TIMESTAMP, count
from passt.dataplane.tcp_challenge cimport may_answer
from passt.dataplane.tcp_conn cimport ms, seq_le
from passt.dataplane.tcp_from_sock cimport on_rtt

cdef enum:
    VALID_S = 24 * 24 * 3600      # RFC 7323 5.5
    LONGEST_ECHO_MS = 60000       # no sample of the round trip is longer than the longest time-out


cdef inline uint32_t clock(Core core, const TcpConn *conn) noexcept nogil:
    return <uint32_t>(core.now // ms(1)) + conn.ts_offset


cdef inline bint in_order(Core core, const TcpConn *conn) noexcept nogil:
    """The last segment's stamp is not before what came earlier."""
    return seq_le(conn.ts_recent, conn.ts_val) or core.now - conn.ts_recent_at > VALID_S * ms(1000)


cdef void start_timestamps(Core core, Flow *flow) noexcept nogil:
    """Choose where the connection's clock begins (RFC 7323 5.4): the same for each attempt at a tuple."""
    flow.u.tcp.ts_offset = <uint32_t>(siphash(core.isn_key, <const uint8_t *>&flow.keys[0], 5) >> 32)


cdef uint32_t push_timestamps(Core core, const TcpConn *conn, uint8_t *place) noexcept nogil:
    """Write the option (RFC 7323 3.2) with two NOPs before it; returns its length."""
    store_be32(place, 0x0101080a)
    store_be32(place + 4, clock(core, conn))
    store_be32(place + 8, conn.ts_recent)
    return TIMESTAMPS_LEN


cdef void echo_syn(Core core, TcpConn *conn, const TcpView *tcp) noexcept nogil:
    """A SYN is repeated: the answer is one to the later."""
    cdef TcpOptions options
    if conn.flags & CONN_TIMESTAMPS:
        read_tcp_options(tcp, &options)
        if options.timestamps and seq_le(conn.ts_recent, options.ts_val):
            conn.ts_recent = options.ts_val
            conn.ts_recent_at = core.now


cdef bint check_timestamps(Core core, Flow *flow, const TcpView *tcp) noexcept nogil:
    """RFC 7323 3.2 and 5.3, R1; False: the segment is to be dropped, answered or not is told by CONN_ACK_NOW."""
    cdef TcpConn *conn = &flow.u.tcp
    if not read_timestamps(tcp, &conn.ts_val, &conn.ts_ecr):
        count(&core.stats, DROP_TCP_TIMESTAMP)
        return False
    if in_order(core, conn):
        return True
    count(&core.stats, DROP_TCP_TIMESTAMP)
    if tcp.payload_len or tcp.flags & TCP_FIN or may_answer(core, flow):
        conn.flags |= CONN_ACK_NOW
        core.flows.add_work(flow)
    return False


cdef void note_timestamp(Core core, TcpConn *conn, const TcpView *tcp) noexcept nogil:
    """The segment is acceptable: is its stamp due for an echo (RFC 7323 4.3, 5.3 R3)?"""
    if seq_le(tcp.seq, conn.rcv_acked) and in_order(core, conn):
        conn.ts_recent = conn.ts_val
        conn.ts_recent_at = core.now


cdef void time_echo(Core core, TcpConn *conn) noexcept nogil:
    """What is acknowledged gives a sample of the round trip (RFC 7323 4.1); the next one is a window away."""
    cdef uint32_t elapsed = clock(core, conn) - conn.ts_ecr
    conn.rtt_seq = conn.snd_max
    if elapsed <= LONGEST_ECHO_MS:
        on_rtt(conn, ms(elapsed))
