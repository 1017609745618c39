"""A packet as observers see it: its bytes, and what a filter can ask of it.

A frame is looked at once for all observers. What cannot be taken apart, since it is no IP packet or a
damaged one, has the kinds and ends that are known, so that a filter which asks for others leaves it out.
Only the first fragment of a packet could have ports; no fragment has any here.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from passt.dataplane.base.externs cimport (
    IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, memcpy, memset,
)
from passt.dataplane.base.stats cimport DROP_FRAGMENT, VERDICT_OK, Verdict
from passt.dataplane.flow.key cimport fill_key
from passt.dataplane.packet.checksum cimport csum_add, csum_fold
from passt.dataplane.packet.headers cimport (
    ETH_HLEN, ETHERTYPE_ARP, ETHERTYPE_IP4, ETHERTYPE_IP6, ICMP6_ECHO_REPLY, ICMP6_ECHO_REQUEST,
    ICMP_ECHO_REPLY, ICMP_ECHO_REQUEST, ICMP_HLEN, ArpPkt, EthHdr, eth_type, load_be16,
)
from passt.dataplane.packet.parse cimport IpView, split_ip4, split_ip6


cdef void look_at(SeenPacket *seen, const uint8_t *frame, size_t n, bint to_guest) noexcept nogil:
    """Fill *seen* with what there is to know of a frame of the link, at least an Ethernet header."""
    cdef uint16_t kind = eth_type(<const EthHdr *>frame)
    cdef Verdict verdict
    cdef IpView ip
    memset(seen, 0, sizeof(SeenPacket))
    memset(&ip, 0, sizeof(ip))
    seen.head = frame
    seen.head_len = n
    seen.to_guest = to_guest
    if kind == ETHERTYPE_IP4:
        seen.kinds = SEEN_IP4
        verdict = split_ip4(frame + ETH_HLEN, n - ETH_HLEN, &ip)
    elif kind == ETHERTYPE_IP6:
        seen.kinds = SEEN_IP6
        verdict = split_ip6(frame + ETH_HLEN, n - ETH_HLEN, &ip)
    else:
        if kind == ETHERTYPE_ARP:
            look_at_arp(seen, frame + ETH_HLEN, n - ETH_HLEN)
        return
    if verdict == VERDICT_OK:
        look_at_ip(seen, &ip)
    elif verdict == DROP_FRAGMENT:
        fill_ends(seen, &ip, 0, 0)
        # In IPv6 the fragment header names the protocol.
        seen.kinds |= kind_of(ip.protocol if ip.addr_len == 4 else ip.l4[0])


cdef void look_at_arp(SeenPacket *seen, const uint8_t *packet, size_t n) noexcept nogil:
    """Fill in the ends of an ARP packet (RFC 826)."""
    cdef const ArpPkt *arp = <const ArpPkt *>packet
    seen.kinds = SEEN_ARP
    if n >= sizeof(ArpPkt):
        seen.has_ends = True
        seen.key.addr_len = 4
        memcpy(seen.key.guest, arp.sender_ip, 4)
        memcpy(seen.key.remote, arp.target_ip, 4)


cdef void look_at_ip(SeenPacket *seen, IpView *ip) noexcept nogil:
    """Fill in protocol, ends and ports of a whole IP packet."""
    cdef uint16_t source = 0
    cdef uint16_t destination = 0
    seen.kinds |= kind_of(ip.protocol)
    if ip.l4_len >= ICMP_HLEN:
        if ip.protocol in (IPPROTO_TCP, IPPROTO_UDP):
            source, destination = load_be16(ip.l4), load_be16(ip.l4 + 2)
            seen.has_ports = seen.is_whole = True
        elif is_echo(ip):
            source = destination = load_be16(ip.l4 + 4)
            seen.is_whole = True
    fill_ends(seen, ip, source, destination)


cdef bint is_echo(const IpView *ip) noexcept nogil:
    """Whether a packet of at least ICMP_HLEN bytes is an echo request or reply."""
    return (ip.protocol in (IPPROTO_ICMP, IPPROTO_ICMPV6)
            and ip.l4[0] in (ICMP_ECHO_REQUEST, ICMP_ECHO_REPLY, ICMP6_ECHO_REQUEST, ICMP6_ECHO_REPLY))


cdef uint32_t kind_of(uint8_t protocol) noexcept nogil:
    if protocol == IPPROTO_TCP:
        return SEEN_TCP
    if protocol == IPPROTO_UDP:
        return SEEN_UDP
    if protocol == IPPROTO_ICMP:
        return SEEN_ICMP
    return SEEN_ICMP6 if protocol == IPPROTO_ICMPV6 else 0


cdef void fill_ends(SeenPacket *seen, IpView *ip, uint16_t source, uint16_t destination) noexcept nogil:
    if seen.to_guest:
        ip.src, ip.dst = ip.dst, ip.src
        source, destination = destination, source
    fill_key(&seen.key, ip, ip.protocol, source, destination)
    seen.has_ends = True


cdef void complete(SeenPacket *seen, uint16_t csum_start, uint16_t csum_offset) noexcept nogil:
    """Have a checksum filled in that was left to the device; *csum_start* 0: it is complete.

    A reader of a capture could not tell an unfinished checksum from a wrong one.
    """
    if csum_start and <size_t>csum_start + csum_offset + 2 <= seen.head_len:
        seen.csum = csum_fold(csum_add(seen.head + csum_start, seen.head_len - csum_start, 0)) or 0xffff
        seen.csum_at = <size_t>csum_start + csum_offset
