"""One TCP connection towards the guest: its timers, segments and window."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.record cimport Flow
from passt.dataplane.packet.parse cimport IpView, TcpView

cdef enum WatchMode:
    WATCH_ADD = 0
    WATCH_CHANGE = 1


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
cdef void end_connection(Core core, Flow *flow, bint abort) noexcept nogil
cdef void end_tcp(Core core, Flow *flow) noexcept nogil
cdef void make_way(Core core, Flow *flow) noexcept nogil
cdef void reset_both(Core core, Flow *flow) noexcept nogil
