"""The timestamps of a connection: its clock, what it echoes, what is too old.

Before working on this file read RFC 7323 3 to 5.

Theory of operation. The option is negotiated where the guest's SYN, or its answer to ours, has it. From then
on each segment carries our clock, in milliseconds from an offset of the connection's own, and the stamp of
the guest's that is due for an echo, `ts_recent`: that of the earliest segment not acknowledged yet. A
segment with a stamp before `ts_recent` was overtaken by later ones, by 4 GiB of them perhaps: it is
dropped and answered (PAWS), however well its numbers fit. After 24 days without news `ts_recent` says
nothing any more. What comes back of our clock is a sample of the round trip, one per window: RFC 6298 is
made for that many, and they count for repeated data as well.

A segment without the option is dropped without an answer (RFC 7323 3.2). Resets and SYN
are exempt from all this.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.record cimport Flow
from passt.dataplane.flow.tcp cimport CONN_ACK_NOW, CONN_RTT_TIMED, CONN_TIMESTAMPS, TcpConn
from passt.dataplane.base.siphash cimport siphash
from passt.dataplane.packet.headers cimport TCP_FIN, store_be32
from passt.dataplane.packet.parse cimport TcpView, read_timestamps
from passt.dataplane.base.stats cimport DROP_TCP_TIMESTAMP, count
from passt.dataplane.loop.timers cimport ms
from passt.dataplane.tcp.challenge cimport may_answer
from passt.dataplane.tcp.sequence cimport seq_le

cdef enum:
    VALID_S = 24 * 24 * 3600      # RFC 7323 5.5
    # A round trip is not longer than the longest time-out; what says so is no echo of ours.
    LONGEST_ECHO_MS = 60000


cdef inline uint32_t clock(Core core, const TcpConn *conn) noexcept nogil:
    """RFC 7323 5.4: it ticks in milliseconds and so wraps after 49 days."""
    return <uint32_t>(core.now // ms(1)) + conn.ts_offset


cdef inline uint32_t now_s(Core core) noexcept nogil:
    return <uint32_t>(core.now // ms(1000))


cdef inline bint in_order(Core core, const TcpConn *conn, uint32_t stamp) noexcept nogil:
    """The stamp is not before the one that is due for an echo, or that one is too old to tell."""
    return seq_le(conn.ts_recent, stamp) or now_s(core) - conn.ts_recent_at > <uint32_t>VALID_S


cdef inline void keep_timestamp(Core core, TcpConn *conn, uint32_t stamp) noexcept nogil:
    conn.ts_recent = stamp
    conn.ts_recent_at = now_s(core)


cdef void start_timestamps(Core core, Flow *flow) noexcept nogil:
    """Choose where the connection's clock begins, not to be guessed from others' (RFC 7323 5.4)."""
    # choose_isn takes the lower half of this hash.
    flow.body.tcp.ts_offset = <uint32_t>(siphash(core.isn_key, <const uint8_t *>&flow.keys[0], 5) >> 32)


cdef void take_timestamps(Core core, Flow *flow, uint32_t stamp) noexcept nogil:
    """The guest's SYN has the option: from now on all segments have."""
    flow.body.tcp.flags |= CONN_TIMESTAMPS
    flow.body.tcp.mss -= TIMESTAMPS_LEN          # an MSS counts no options (RFC 6691)
    start_timestamps(core, flow)
    keep_timestamp(core, &flow.body.tcp, stamp)


cdef uint32_t push_timestamps(Core core, const TcpConn *conn, uint8_t *option) noexcept nogil:
    """Write the option with two NOPs before it (RFC 7323 3.2, A); returns its length."""
    store_be32(option, 0x0101080a)
    store_be32(option + 4, clock(core, conn))
    store_be32(option + 8, conn.ts_recent)
    return TIMESTAMPS_LEN


cdef void echo_syn(Core core, TcpConn *conn, const TcpView *tcp) noexcept nogil:
    """The guest repeats its SYN: the answer is one to the later, so that its round trip comes out right."""
    if conn.flags & CONN_TIMESTAMPS and read_timestamps(tcp, &core.gather.ts_val, &core.gather.ts_ecr):
        if in_order(core, conn, core.gather.ts_val):
            keep_timestamp(core, conn, core.gather.ts_val)


cdef bint check_timestamps(Core core, Flow *flow, const TcpView *tcp) noexcept nogil:
    """RFC 7323 3.2 and 5.3, R1; False: the segment is to be dropped, and is answered if that is due."""
    if not read_timestamps(tcp, &core.gather.ts_val, &core.gather.ts_ecr):
        count(&core.stats, DROP_TCP_TIMESTAMP)
        return False
    if in_order(core, &flow.body.tcp, core.gather.ts_val):
        return True
    count(&core.stats, DROP_TCP_TIMESTAMP)
    # Segments without data could be answered by such from there, without end (see `tcp.challenge`).
    if tcp.payload_len or tcp.flags & TCP_FIN or may_answer(core, flow):
        flow.body.tcp.flags |= CONN_ACK_NOW
        core.flows.add_work(flow)
    return False


cdef void note_timestamp(Core core, TcpConn *conn, const TcpView *tcp) noexcept nogil:
    """The segment is acceptable: its stamp is echoed if it is the earliest (RFC 7323 4.3, 5.3 R3)."""
    if seq_le(tcp.seq, conn.rcv_acked) and in_order(core, conn, core.gather.ts_val):
        keep_timestamp(core, conn, core.gather.ts_val)


cdef void time_echo(Core core, TcpConn *conn) noexcept nogil:
    """New data is acknowledged: a sample of the round trip (RFC 7323 4.1), and when the next one is due."""
    cdef uint32_t elapsed = clock(core, conn) - core.gather.ts_ecr
    conn.rtt_seq = conn.snd_max
    if elapsed <= LONGEST_ECHO_MS:
        on_rtt(conn, ms(elapsed))


cdef void on_rtt(TcpConn *conn, int64_t sample) noexcept nogil:
    """Take a round-trip sample into the retransmission time-out (RFC 6298 2)."""
    cdef int64_t delta
    conn.flags &= ~<uint32_t>CONN_RTT_TIMED
    if not conn.srtt:
        conn.srtt = sample
        conn.rttvar = sample // 2
    else:
        delta = conn.srtt - sample
        conn.rttvar += ((-delta if delta < 0 else delta) - conn.rttvar) // 4
        conn.srtt -= delta // 8
    conn.rto = min(max(conn.srtt + 4 * conn.rttvar, ms(RTO_MIN_MS)), ms(RTO_MAX_MS))
