"""Checksums of packets from the guest, where nobody has vouched for them.

What the guest sends goes on as the payload of a socket, with new checksums that would make anything look
right. So what came damaged (a guest may hand on what it has from elsewhere) has to be dropped here, as the
end of a wire would do it.

A guest whose device promises to complete checksums leaves the pseudo-header's sum in the field instead
(virtio, VIRTIO_NET_HDR_F_NEEDS_CSUM). On a stream without virtio-net headers nothing says so; but there are
virtual machine monitors that leave the headers away and grant the feature all the same, and no damaged
packet is more likely to look so than to have a right checksum by chance.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from passt.dataplane.packet.checksum cimport csum_add, csum_fold, pseudo4, pseudo6
from passt.dataplane.packet.headers cimport TCP_HLEN, UDP_HLEN, Ip4Hdr, TcpHdr, UdpHdr, ip4_hdr_len
from passt.dataplane.packet.parse cimport IpView
from passt.dataplane.base.externs cimport IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, ntohs


cdef bint is_intact(const IpView *ip) noexcept nogil:
    """Whether the checksum of the packet's message is right, as far as its protocol is known."""
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
    return csum_fold(csum_add(ip.l4, n, total)) == 0


cdef bint may_pass(const IpView *ip) noexcept nogil:
    """Whether the packet's message is intact, or its checksum is left to be completed."""
    cdef uint16_t field
    cdef uint32_t n = <uint32_t>ip.l4_len
    cdef uint64_t total
    if is_intact(ip):
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
