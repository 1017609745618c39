"""IP headers of packets to the guest."""

from libc.stdint cimport uint8_t, uint32_t

from passt.dataplane.base.externs cimport htonl
from passt.dataplane.packet.checksum cimport csum_add, csum_fold
from passt.dataplane.packet.headers cimport IP4_HLEN, Ip4Hdr, Ip6Hdr


cdef void mark_packet(uint8_t *ip, bint is_ip4, uint8_t tos, uint8_t ttl) noexcept nogil:
    """Put TOS and time to live (0: leave it) into the IP header that `Core.push_ip` wrote at *ip*."""
    cdef Ip4Hdr *ip4 = <Ip4Hdr *>ip
    cdef Ip6Hdr *ip6 = <Ip6Hdr *>ip
    if not is_ip4:
        ip6.vtc_flow_be = htonl(0x60000000 | <uint32_t>tos << 20)
        if ttl:
            ip6.hop_limit = ttl
        return
    ip4.tos = tos
    if ttl:
        ip4.ttl = ttl
    ip4.csum_be = 0
    ip4.csum_be = csum_fold(csum_add(ip, IP4_HLEN, 0))
