"""Internet checksum (RFC 1071) and pseudo-headers."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef uint64_t csum_add(const uint8_t *data, size_t n, uint64_t total) noexcept nogil
cdef uint16_t csum_fold(uint64_t total) noexcept nogil
cdef uint64_t pseudo4(const uint8_t *src, const uint8_t *dst, uint8_t protocol, uint32_t n) noexcept nogil
cdef uint64_t pseudo6(const uint8_t *src, const uint8_t *dst, uint8_t protocol, uint32_t n) noexcept nogil
