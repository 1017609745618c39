"""One TCP connection towards the guest: its state writer, timers, segments and window."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.table cimport Flow, TcpConn, TcpStore
from passt.dataplane.packet.parse cimport IpView, TcpOptions, TcpView

cdef enum:
    CWND_OPEN = 0xffffffff

cdef enum WatchMode:
    WATCH_ADD = 0
    WATCH_CHANGE = 1


cdef inline int64_t ms(int64_t n) noexcept nogil:
    """Milliseconds as the nanoseconds that deadlines are kept in."""
    return n * 1000000


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
    cdef const TcpStore *store = flow.u.tcp.store
    return store.ranges[0].end - store.ranges[0].start if store != NULL and store.in_order else 0


cdef const char *state_name(uint8_t state) noexcept nogil
cdef void set_state(Core core, Flow *flow, uint8_t state) noexcept nogil
cdef uint32_t choose_isn(Core core, const Flow *flow) noexcept nogil
cdef uint16_t our_mss(Core core, const Flow *flow) noexcept nogil
cdef uint16_t mss_of(const Flow *flow, uint32_t mtu) noexcept nogil
cdef void take_syn(Core core, Flow *flow, const TcpView *tcp) noexcept nogil
cdef bint send_segment(Core core, Flow *flow, uint8_t flags, uint32_t seq,
                       uint32_t payload_len) noexcept nogil
cdef bint send_ack(Core core, Flow *flow) noexcept nogil
cdef bint send_syn(Core core, Flow *flow) noexcept nogil
cdef void send_reset(Core core, const IpView *ip, const TcpView *tcp) noexcept nogil
cdef size_t payload_place(const Flow *flow) noexcept nogil
cdef int watch(Core core, Flow *flow, uint32_t extra, WatchMode mode) noexcept nogil
cdef void update_window(Core core, Flow *flow) noexcept nogil
cdef void set_timer(Core core, Flow *flow) noexcept nogil
cdef void start_rtx(Core core, Flow *flow, int64_t delay) noexcept nogil
cdef void consume_acked(Core core, Flow *flow) noexcept nogil
cdef void end(Core core, Flow *flow, bint abort) noexcept nogil
cdef void end_all(Core core) noexcept nogil
cdef void reset_both(Core core, Flow *flow) noexcept nogil
