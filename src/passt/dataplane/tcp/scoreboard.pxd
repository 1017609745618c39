"""What the guest selectively acknowledged, and the repetition of the rest."""

from libc.stdint cimport uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.tcp cimport SackBoard, SackRange, TcpConn
from passt.dataplane.packet.parse cimport TcpView


cdef uint32_t take_blocks(Core core, TcpConn *conn, const TcpView *tcp) noexcept nogil
cdef void advance_board(Core core, TcpConn *conn, uint32_t old_una) noexcept nogil
cdef void drop_board(Core core, TcpConn *conn) noexcept nogil
cdef uint32_t behind_run(const TcpConn *conn, uint32_t seq) noexcept nogil
cdef uint32_t gap_length(const TcpConn *conn, uint32_t seq) noexcept nogil
cdef uint32_t sacked_before(const TcpConn *conn, uint32_t seq) noexcept nogil
cdef void note_resent(TcpConn *conn, uint32_t seq, uint32_t n) noexcept nogil
cdef uint32_t sacked_bytes(const SackBoard *board) noexcept nogil
cdef uint32_t hole_start(const TcpConn *conn, uint32_t i) noexcept nogil
cdef bint is_lost(const TcpConn *conn, uint32_t i, uint32_t later) noexcept nogil
cdef bint is_lost_again(const TcpConn *conn, const SackRange *run) noexcept nogil
