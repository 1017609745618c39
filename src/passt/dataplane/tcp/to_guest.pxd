"""TCP socket events, data to the guest, timers, the end of a turn."""

from libc.stdint cimport uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.record cimport Flow
from passt.dataplane.flow.tcp cimport TcpConn


cdef void on_socket(Core core, Flow *flow, int side, uint32_t events) noexcept nogil
cdef void note_readable(TcpConn *conn, uint32_t events) noexcept nogil
cdef void push_data(Core core, Flow *flow, bint probe) noexcept nogil
cdef ssize_t peek_payload(Core core, Flow *flow, uint32_t skip, uint32_t n) noexcept nogil
cdef void on_timer(Core core, Flow *flow) noexcept nogil
cdef void finish_turn(Core core, Flow *flow) noexcept nogil
cdef bint may_send_data(const TcpConn *conn) noexcept nogil
cdef void sync_peek_offset(Core core, Flow *flow) noexcept nogil
cdef void resend_first(Core core, Flow *flow) noexcept nogil
cdef void go_back(Core core, Flow *flow, uint32_t seq, bint slowly) noexcept nogil
cdef bint shorten_segments(Core core, Flow *flow, uint32_t mtu, uint32_t seq) noexcept nogil
cdef void resend_holes(Core core, Flow *flow, uint32_t budget) noexcept nogil
