"""Bytes of the guest that no socket has yet, in order or not."""

from libc.stdint cimport uint8_t, uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.tcp cimport TcpConn
from passt.dataplane.base.externs cimport iovec


cdef uint32_t store_put(Core core, TcpConn *conn, uint32_t seq, const uint8_t *data, uint32_t n,
                        bint early) noexcept nogil
cdef bint store_has(TcpConn *conn, uint32_t seq, uint32_t n) noexcept nogil
cdef uint32_t store_end(const TcpConn *conn) noexcept nogil
cdef size_t store_gather(const TcpConn *conn, iovec *pieces, size_t most) noexcept nogil
cdef void drop_front(Core core, TcpConn *conn, uint32_t n) noexcept nogil
cdef void trim_store(Core core, TcpConn *conn, uint32_t upto) noexcept nogil
cdef void drop_store(Core core, TcpConn *conn) noexcept nogil
cdef uint32_t push_sack(const TcpConn *conn, uint8_t *option) noexcept nogil
