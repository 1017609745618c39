"""Internet checksum (RFC 1071) and pseudo-headers.

Sums are kept in host byte order over 16-bit words read as they lie in memory: RFC 1071 2(B) shows
that the folded result then has the right byte order when stored the same way. So `csum_fold`
returns a value to store unconverted in a `*_be` field.

The sum of many bytes is made of 64-bit words whose halves are added up apart, so that no carry is
lost and nothing depends on the addition before: the compiler makes vector code of that.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from passt.dataplane.base.externs cimport htonl, htons, memcpy, passt_sum_words


cdef enum:
    # From here on the wide sum is worth its beginning and end.
    WIDE_FROM = 64


cdef uint64_t csum_add(const uint8_t *data, size_t n, uint64_t total) noexcept nogil:
    """Add *n* bytes to the running sum *total*; only the last call for a message may have an odd *n*."""
    cdef uint32_t word = 0
    cdef uint16_t half = 0
    cdef size_t wide = n & ~<size_t>7
    if n >= WIDE_FROM:
        total += passt_sum_words(data, wide)
        data += wide
        n -= wide
    while n >= 4:
        memcpy(&word, data, 4)
        total += word
        data += 4
        n -= 4
    if n >= 2:
        memcpy(&half, data, 2)
        total += half
        data += 2
        n -= 2
    if n:
        half = 0
        memcpy(&half, data, 1)
        total += half
    return total


cdef uint16_t csum_fold(uint64_t total) noexcept nogil:
    """Fold to 16 bits and complement."""
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return <uint16_t>(~total & 0xffff)


cdef uint64_t pseudo4(const uint8_t *src, const uint8_t *dst, uint8_t protocol, uint32_t n) noexcept nogil:
    """Sum of the IPv4 pseudo-header (RFC 9293 3.1, RFC 768)."""
    cdef uint64_t total = csum_add(src, 4, 0)
    total = csum_add(dst, 4, total)
    return total + htons(protocol) + htons(<uint16_t>n)


cdef uint64_t pseudo6(const uint8_t *src, const uint8_t *dst, uint8_t protocol, uint32_t n) noexcept nogil:
    """Sum of the IPv6 pseudo-header (RFC 8200 8.1)."""
    cdef uint64_t total = csum_add(src, 16, 0)
    total = csum_add(dst, 16, total)
    return total + htonl(n) + htonl(protocol)
