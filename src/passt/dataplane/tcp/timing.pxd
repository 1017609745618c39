"""The timestamps of a connection: its clock, what it echoes, what is too old."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.record cimport Flow
from passt.dataplane.flow.tcp cimport TcpConn
from passt.dataplane.packet.parse cimport TcpView

cdef enum:
    RTO_INITIAL_MS = 1000         # RFC 6298 2.1
    # Above the delayed acknowledgement of every common stack (Linux: 40 to 200 ms).
    RTO_MIN_MS = 200
    RTO_MAX_MS = 60000            # RFC 6298 2.5
    TIMESTAMPS_LEN = 12           # the option behind two NOPs (RFC 7323 A)


cdef void start_timestamps(Core core, Flow *flow) noexcept nogil
cdef void take_timestamps(Core core, Flow *flow, uint32_t stamp) noexcept nogil
cdef uint32_t push_timestamps(Core core, const TcpConn *conn, uint8_t *option) noexcept nogil
cdef void echo_syn(Core core, TcpConn *conn, const TcpView *tcp) noexcept nogil
cdef bint check_timestamps(Core core, Flow *flow, const TcpView *tcp) noexcept nogil
cdef void note_timestamp(Core core, TcpConn *conn, const TcpView *tcp) noexcept nogil
cdef void time_echo(Core core, TcpConn *conn) noexcept nogil
cdef void on_rtt(TcpConn *conn, int64_t sample) noexcept nogil
