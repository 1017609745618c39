"""What the guest selectively acknowledged, and the repetition of the rest."""

from libc.stdint cimport uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.table cimport Flow, TcpConn
from passt.dataplane.packet.parse cimport TcpView


cdef uint32_t take_blocks(Core core, TcpConn *conn, const TcpView *tcp) noexcept nogil
cdef void advance_board(Core core, TcpConn *conn, uint32_t old_una) noexcept nogil
cdef void drop_board(Core core, TcpConn *conn) noexcept nogil
cdef uint32_t behind_run(const TcpConn *conn, uint32_t seq) noexcept nogil
cdef uint32_t gap_length(const TcpConn *conn, uint32_t seq) noexcept nogil
cdef uint32_t sacked_before(const TcpConn *conn, uint32_t seq) noexcept nogil
cdef void note_resent(TcpConn *conn, uint32_t seq, uint32_t n) noexcept nogil
cdef void resend_holes(Core core, Flow *flow, uint32_t budget) noexcept nogil
