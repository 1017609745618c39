"""Internet checksum (RFC 1071), pseudo-headers, and the checksums of packets from the guest."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from passt.dataplane.base.externs cimport iovec
from passt.dataplane.packet.parse cimport IpView


cdef uint64_t csum_add(const uint8_t *data, size_t n, uint64_t total) noexcept nogil
cdef uint64_t csum_pieces(const iovec *pieces, size_t offset, size_t n, uint64_t total) noexcept nogil
cdef uint16_t csum_fold(uint64_t total) noexcept nogil
cdef uint64_t pseudo4(const uint8_t *src, const uint8_t *dst, uint8_t protocol, uint32_t n) noexcept nogil
cdef uint64_t pseudo6(const uint8_t *src, const uint8_t *dst, uint8_t protocol, uint32_t n) noexcept nogil
cdef bint is_intact(const IpView *ip) noexcept nogil
cdef bint may_pass(const IpView *ip, const iovec *pieces, size_t offset) noexcept nogil
cdef bint has_intact_header(const IpView *ip) noexcept nogil
