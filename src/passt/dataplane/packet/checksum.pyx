"""Internet checksum (RFC 1071), pseudo-headers, and the checksums of packets from the guest.

Sums are kept in host byte order over 16-bit words read as they lie in memory: RFC 1071 2(B) shows
that the folded result then has the right byte order when stored the same way. So `csum_fold`
returns a value to store unconverted in a `*_be` field.

The sum of many bytes is made of 64-bit words whose halves are added up apart, so that no carry is
lost and nothing depends on the addition before: the compiler makes vector code of that.

What the guest sends goes on as the payload of a socket, with new checksums that would make anything look
right. So a packet that came damaged (a guest may hand on one from elsewhere) has to be dropped here, as at
the end of a wire, unless the kernel has verified it (`RxFrame.unverified`).

A guest whose device promises to complete checksums leaves the pseudo-header's sum in the field instead
(virtio, VIRTIO_NET_HDR_F_NEEDS_CSUM). On a stream without virtio-net headers nothing says so; but there are
virtual machine monitors that leave the headers away and grant the feature all the same, and no damaged
packet is more likely to look so than to have a right checksum by chance.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from passt.dataplane.base.externs cimport (
    IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, htonl, htons, iovec, memcpy, ntohs,
    passt_sum_words,
)
from passt.dataplane.packet.headers cimport TCP_HLEN, UDP_HLEN, Ip4Hdr, TcpHdr, UdpHdr, ip4_hdr_len
from passt.dataplane.packet.parse cimport IpView


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


cdef uint64_t csum_pieces(const iovec *pieces, size_t offset, size_t n, uint64_t total) noexcept nogil:
    """Add *n* bytes from byte *offset* of *pieces* on, which have as many, to the running sum *total*."""
    cdef bint is_odd = False      # what comes next stands in the other half of its 16-bit word
    cdef size_t part
    cdef uint64_t sum
    while n:
        if offset >= pieces.iov_len:
            offset -= pieces.iov_len
        else:
            part = min(n, pieces.iov_len - offset)
            sum = csum_add(<const uint8_t *>pieces.iov_base + offset, part, 0)
            if is_odd:
                sum = swap16(<uint16_t>~csum_fold(sum))       # RFC 1071 2(B)
            total += sum
            is_odd ^= <int>(part & 1)
            n -= part
            offset = 0
        pieces += 1
    return total


cdef uint16_t swap16(uint16_t word) noexcept nogil:
    return <uint16_t>(word << 8 | word >> 8)


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


cdef bint is_intact(const IpView *ip) noexcept nogil:
    """Whether the checksum of the packet's message is right, as far as its protocol is known."""
    return is_intact_in(ip, NULL, 0)


cdef bint is_intact_in(const IpView *ip, const iovec *pieces, size_t offset) noexcept nogil:
    """As `is_intact`, of a message that lies at byte *offset* of *pieces*, if not NULL.

    Only its first bytes are where *ip* has them then. Who can change them meanwhile is the sender, who spoils
    its own.
    """
    cdef size_t n = ip.l4_len
    cdef uint64_t total = 0
    if ip.protocol == IPPROTO_UDP:
        if n < UDP_HLEN:
            return True           # to be dropped for its length
        n = min(n, <size_t>ntohs((<const UdpHdr *>ip.l4).len_be))
        if not (<const UdpHdr *>ip.l4).csum_be:
            return True           # RFC 768: none
    elif ip.protocol not in (IPPROTO_TCP, IPPROTO_ICMP, IPPROTO_ICMPV6):
        return True
    if ip.addr_len == 16:
        total = pseudo6(ip.src, ip.dst, ip.protocol, <uint32_t>n)
    elif ip.protocol != IPPROTO_ICMP:
        total = pseudo4(ip.src, ip.dst, ip.protocol, <uint32_t>n)
    total = csum_add(ip.l4, n, total) if pieces == NULL else csum_pieces(pieces, offset, n, total)
    return csum_fold(total) == 0


cdef bint may_pass(const IpView *ip, const iovec *pieces, size_t offset) noexcept nogil:
    """Whether the packet's message is intact (`is_intact_in`), or its checksum is left to be completed."""
    cdef uint16_t field
    cdef uint32_t n = <uint32_t>ip.l4_len
    cdef uint64_t total
    if is_intact_in(ip, pieces, offset):
        return True
    if ip.protocol == IPPROTO_UDP:
        field = (<const UdpHdr *>ip.l4).csum_be
        n = ntohs((<const UdpHdr *>ip.l4).len_be)
    elif ip.protocol == IPPROTO_TCP and n >= TCP_HLEN:
        field = (<const TcpHdr *>ip.l4).csum_be
    else:
        return False
    if ip.addr_len == 4:
        total = pseudo4(ip.src, ip.dst, ip.protocol, n)
    else:
        total = pseudo6(ip.src, ip.dst, ip.protocol, n)
    return field + csum_fold(total) == 0xffff     # the sum itself, not its complement


cdef bint has_intact_header(const IpView *ip) noexcept nogil:
    """Whether the checksum of an IPv4 header is right; IPv6 has none."""
    if ip.addr_len == 16:
        return True
    return csum_fold(csum_add(ip.ip, ip4_hdr_len(<const Ip4Hdr *>ip.ip), 0)) == 0
