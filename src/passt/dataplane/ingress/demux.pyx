"""One frame from the guest goes to its translator, the responder, or a drop counter."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.ip.fragments cimport on_fragment
from passt.dataplane.packet.headers cimport (
    ARP_REPLY, ARP_REQUEST, ETH_ALEN, ETH_HLEN, ETHERTYPE_ARP, ETHERTYPE_IP4, ETHERTYPE_IP6, ICMP6_ND_FIRST,
    ICMP6_ND_LAST, IP4_DF, IP6_HLEN, TCP_SYN, UDP_HLEN, ArpPkt, EthHdr, Ip4Hdr, Ip6Hdr, TcpHdr, eth_type,
    is_loopback6, is_mapped4, is_multicast4, is_zero, load_be16,
)
from passt.dataplane.packet.parse cimport IpView, split_ip4, split_ip6
from passt.dataplane.ping cimport on_echo
from passt.dataplane.base.stats cimport (
    DROP_BAD_ADDRESS, DROP_BAD_CHECKSUM, DROP_DISABLED, DROP_ETHERTYPE, DROP_FRAGMENT, DROP_PROTOCOL,
    VERDICT_OK, Verdict, count,
)
from passt.dataplane.base.externs cimport (
    IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, htons, memcmp, memset,
)
from passt.dataplane.core.decisions cimport on_control
from passt.dataplane.core.guest cimport (
    CONTROL_ARP, CONTROL_ARP_GATEWAY, CONTROL_DHCP, CONTROL_DHCPV6, CONTROL_NDP, ControlKind,
)
from passt.dataplane.core.station cimport is_station, learn, learn_mac
from passt.dataplane.tcp.from_guest cimport flush_gather, on_segment
from passt.dataplane.ingress.packet_too_big cimport on_too_big
from passt.dataplane.link.meta cimport RxFrame
from passt.dataplane.packet.checksum cimport has_intact_header, may_pass
from passt.dataplane.udp.flows cimport on_datagram
from passt.dataplane.udp.from_guest cimport flush_out

cdef enum:
    PORT_DHCP_SERVER = 67         # RFC 2131
    PORT_DHCPV6_SERVER = 547      # RFC 8415


cdef void on_frame(Core core, const RxFrame *frame) noexcept nogil:
    """Take one frame of at least an Ethernet header."""
    cdef const EthHdr *eth = <const EthHdr *>frame.data
    cdef uint16_t kind = eth_type(eth)
    cdef IpView ip
    cdef RxFrame joined
    cdef Verdict verdict
    core.stats.frames_from_guest += 1
    core.stats.bytes_from_guest += frame.len
    if core.watch.active:
        core.watch.on_frame(frame.data, frame.len, False, frame.csum_start, frame.csum_offset, frame.gso_type,
                            frame.gso_size)
    if kind == ETHERTYPE_IP4:
        verdict = split_ip4(frame.data + ETH_HLEN, frame.len - ETH_HLEN, &ip)
    elif kind == ETHERTYPE_IP6:
        verdict = split_ip6(frame.data + ETH_HLEN, frame.len - ETH_HLEN, &ip)
    elif kind == ETHERTYPE_ARP:
        learn_from_arp(core, frame)
        on_control(core, kind_of_arp(core, frame), frame.data, frame.len)
        return
    else:
        verdict = DROP_ETHERTYPE
    ip.mac = frame.data + ETH_ALEN
    if not is_station(core, eth.src):
        ip.mac = core.guest.mac
    if frame.unverified and verdict in (VERDICT_OK, DROP_FRAGMENT) and not has_intact_header(&ip):
        verdict = DROP_BAD_CHECKSUM
    if verdict == DROP_FRAGMENT:
        if not on_fragment(core, &ip):
            return
        if is_control(core, &ip):
            count(&core.stats, DROP_FRAGMENT)             # RFC 6980; and no host sends DHCP in fragments
        else:
            memset(&joined, 0, sizeof(joined))
            on_packet(core, &ip, &joined, eth.src)
            # The data gathered from it must leave before its memory is used again.
            flush_gather(core)
            flush_out(core)
        return
    if verdict != VERDICT_OK:
        count(&core.stats, verdict)
        return
    if is_control(core, &ip):
        # A guest may have nothing else to say before it is spoken to. Its address is not the source's yet.
        learn_mac(core, eth.src)
        on_control(core, kind_of(&ip), frame.data, frame.len)
        return
    on_packet(core, &ip, frame, eth.src)


cdef void on_packet(Core core, const IpView *ip, const RxFrame *frame, const uint8_t *mac) noexcept nogil:
    """Take a whole packet from *mac*; of *frame* only the checksum and segmentation fields count."""
    if not is_plausible(ip):
        count(&core.stats, DROP_BAD_ADDRESS)
        return
    if not core.is_enabled(ip):
        learn_mac(core, mac)
        count(&core.stats, DROP_DISABLED)
        return
    if frame.unverified and not may_pass(ip, frame.pieces if frame.n_pieces else NULL, ip.l4 - frame.data):
        count(&core.stats, DROP_BAD_CHECKSUM)
        return
    learn(core, mac, ip.src, ip.addr_len)
    if ip.protocol == IPPROTO_TCP:
        core.gather.head = frame.data
        core.gather.in_pieces = frame.pieces if frame.n_pieces else NULL
        on_segment(core, ip)
    elif ip.protocol == IPPROTO_UDP:
        on_datagram(core, ip, frame)
    elif ip.protocol == (IPPROTO_ICMP if ip.addr_len == 4 else IPPROTO_ICMPV6):
        if not on_too_big(core, ip):
            on_echo(core, ip)
    else:
        count(&core.stats, DROP_PROTOCOL)


cdef bint is_tcp_data(const uint8_t *head) noexcept nogil:
    """Whether a frame, of which only HEAD_LEN bytes are at hand, has only data for TCP behind them."""
    cdef const EthHdr *eth = <const EthHdr *>head
    cdef const Ip4Hdr *ip4 = <const Ip4Hdr *>(head + ETH_HLEN)
    cdef const Ip6Hdr *ip6 = <const Ip6Hdr *>(head + ETH_HLEN)
    cdef const TcpHdr *tcp
    if eth_type(eth) == ETHERTYPE_IP4:
        if ip4.protocol != IPPROTO_TCP or ip4.frag_be & ~htons(IP4_DF):
            return False
        tcp = <const TcpHdr *>(head + ETH_HLEN + 4 * (ip4.version_ihl & 15))
    elif eth_type(eth) == ETHERTYPE_IP6:
        if ip6.next_header != IPPROTO_TCP:
            return False
        tcp = <const TcpHdr *>(head + ETH_HLEN + IP6_HLEN)
    else:
        return False
    return not tcp.flags & TCP_SYN


cdef void learn_from_arp(Core core, const RxFrame *frame) noexcept nogil:
    """Learn the sender's addresses of an ARP request or reply that it sent itself."""
    cdef const EthHdr *eth = <const EthHdr *>frame.data
    cdef const ArpPkt *arp = <const ArpPkt *>(frame.data + ETH_HLEN)
    if (frame.len >= ETH_HLEN + sizeof(ArpPkt) and not memcmp(arp.kind, b"\0\1\x08\0\6\4\0", 7)
            and arp.op in (ARP_REQUEST, ARP_REPLY) and not memcmp(arp.sender_mac, eth.src, ETH_ALEN)
            and not is_zero(arp.sender_ip, 4)):
        learn(core, eth.src, arp.sender_ip, 4)


cdef bint is_control(Core core, const IpView *ip) noexcept nogil:
    """Neighbour discovery is the responder's, whatever its addresses; DHCP and DHCPv6 where they are for us.

    A client renews at the address that the DHCP server had when the lease began.

    A server elsewhere, to which a relay agent in the guest may speak, is a host like any other.
    """
    if ip.protocol == IPPROTO_UDP and ip.l4_len >= UDP_HLEN:
        if ip.addr_len == 16:
            return load_be16(ip.l4 + 2) == PORT_DHCPV6_SERVER and (
                ip.dst[0] == 0xff or (ip.dst[0] == 0xfe and (ip.dst[1] & 0xc0) == 0x80))
        return load_be16(ip.l4 + 2) == PORT_DHCP_SERVER and (
            not memcmp(ip.dst, b"\xff\xff\xff\xff", 4) or not memcmp(ip.dst, core.our_ip4, 4)
            or was_ours(core, ip.dst))
    return (ip.protocol == IPPROTO_ICMPV6 and ip.addr_len == 16 and ip.l4_len > 0
            and ICMP6_ND_FIRST <= ip.l4[0] <= ICMP6_ND_LAST)


cdef bint was_ours(Core core, const uint8_t *address) noexcept nogil:
    """Whether an IPv4 address is one of those by which we spoke to the guest before."""
    cdef uint32_t i
    for i in range(core.n_former):
        if not memcmp(address, core.former_ip4[i], 4):
            return True
    return False


cdef ControlKind kind_of_arp(Core core, const RxFrame *frame) noexcept nogil:
    """The kind of an ARP frame, which may be short."""
    cdef const ArpPkt *arp = <const ArpPkt *>(frame.data + ETH_HLEN)
    if frame.len >= ETH_HLEN + sizeof(ArpPkt) and not memcmp(arp.target_ip, core.our_ip4, 4):
        return CONTROL_ARP_GATEWAY
    return CONTROL_ARP


cdef ControlKind kind_of(const IpView *ip) noexcept nogil:
    """The kind of a control frame (`is_control`) that is an IP packet."""
    if ip.protocol == IPPROTO_ICMPV6:
        return CONTROL_NDP
    return CONTROL_DHCP if ip.addr_len == 4 else CONTROL_DHCPV6


cdef bint is_plausible(const IpView *ip) noexcept nogil:
    """Addresses that a guest may use towards us: RFC 1122 3.2.1.3, RFC 4291 2.5.3, 2.5.5.2, 2.7."""
    cdef bint tcp = ip.protocol == IPPROTO_TCP
    if ip.addr_len == 4:
        if is_zero(ip.src, 4) or ip.src[0] == 127 or is_multicast4(ip.src) or is_zero(ip.dst, 4):
            return False
        return ip.dst[0] != 127 and not (tcp and ip.dst[0] >= 224)
    if is_zero(ip.src, 16) or is_loopback6(ip.src) or ip.src[0] == 0xff or is_mapped4(ip.src):
        return False
    if is_zero(ip.dst, 16) or is_loopback6(ip.dst) or is_mapped4(ip.dst):
        return False
    return not (tcp and ip.dst[0] == 0xff)
