"""What the guest sent and the socket cannot have yet."""

from libc.stdint cimport uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.record cimport Flow
from passt.dataplane.flow.tcp cimport TcpConn
from passt.dataplane.packet.parse cimport TcpView
from passt.dataplane.base.externs cimport iovec


cdef enum:
    # How long a tuple is remembered after our FIN was the first one: the link neither delays nor
    # reorders by more. A new SYN ends it at once.
    TIME_WAIT_MS = 2000
    # How long a guest may take over what it says first.
    HELD_MS = 30000


cdef uint32_t clip_at_fin(const TcpConn *conn, uint32_t seq, uint32_t n) noexcept nogil
cdef void note_duplicate(TcpConn *conn, uint32_t seq, uint32_t n) noexcept nogil
cdef void keep_early(Core core, Flow *flow, const TcpView *tcp) noexcept nogil
cdef bint note_fin(Core core, TcpConn *conn, uint32_t fin) noexcept nogil
cdef void keep_rest(Core core, Flow *flow, const iovec *pieces, size_t n, size_t sent,
                    size_t total) noexcept nogil
cdef void close_hole(Core core, Flow *flow, bint is_full) noexcept nogil
cdef void hold(Core core, Flow *flow) noexcept nogil
cdef void end_held(Core core, Flow *flow, const char *why) noexcept nogil
cdef void hear_remote(Core core, Flow *flow) noexcept nogil
cdef bint drain_overflow(Core core, Flow *flow) noexcept nogil
cdef void accept_fin(Core core, Flow *flow) noexcept nogil
cdef void enter_time_wait(Core core, Flow *flow) noexcept nogil
