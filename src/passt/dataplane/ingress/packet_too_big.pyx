"""Packets of ours that a router on the guest's side could not pass on (RFC 1191, RFC 8201).

Theory of operation. Such a router tells the sender, which is a remote, and by the link that means us:
"fragmentation needed" or "packet too big", with the MTU of the next link and the packet's beginning. It is
believed if the quotation is one of a packet to a flow that lives, no longer than what we do send, and
for TCP of bytes that are on their way (RFC 5927 7). The worst that a guest can do by it is to get
smaller packets, which it can have more easily by its MTU and the options of its SYN.

Later datagrams go in fragments of that size, segments become smaller, and lost ones are sent again without
waiting for a time-out. The remote is not told: its kernel has nothing to do with the
path behind us.
"""

from libc.stdint cimport uint8_t, uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.key cimport SIDE_GUEST, FlowKey
from passt.dataplane.flow.record cimport FLOW_PING, FLOW_TCP, FLOW_UDP, Flow
from passt.dataplane.packet.headers cimport (
    ICMP6_ECHO_REPLY, ICMP6_TOO_BIG, ICMP_ECHO_REPLY, ICMP_FRAGMENTATION_NEEDED, ICMP_HLEN, ICMP_UNREACHABLE,
    IP4_HLEN, IP4_OFFSET, IP6_FRAGMENT_HLEN, IP6_HLEN, IP6_OFFSET, NH_FRAGMENT, Ip4Hdr, Ip6Hdr, load_be16,
    load_be32,
)
from passt.dataplane.packet.parse cimport IpView
from passt.dataplane.ip.path_mtu cimport limit_towards, note_mtu
from passt.dataplane.base.stats cimport (
    DROP_BAD_CHECKSUM, DROP_SHORT, DROP_TOO_BIG, DROP_UNKNOWN_FLOW, VERDICT_OK, Verdict, count,
)
from passt.dataplane.base.externs cimport (
    IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, memcmp, memcpy, memset, ntohs,
)
from passt.dataplane.packet.checksum cimport is_intact
from passt.dataplane.tcp.to_guest cimport shorten_segments

cdef enum:
    QUOTED_L4 = 8                 # of the message in the packet: ports and sequence number (RFC 792)
    MIN_MTU4 = 68               # every router passes this on (RFC 791 3.2)
    MIN_MTU6 = 1280             # RFC 8200 5; a message with less is ignored (RFC 8201 4)
    N_PLATEAUS = 9

# MTUs that links have, for the routers that do not tell (RFC 1191 7.1).
cdef uint32_t PLATEAUS[N_PLATEAUS]
PLATEAUS[:] = [32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296]


cdef struct Quotation:
    # The beginning of a packet of ours: *key* as its flow has it, *seq* if it is TCP's.
    FlowKey key
    uint32_t length               # of the whole packet
    uint32_t seq


cdef bint on_too_big(Core core, const IpView *ip) noexcept nogil:
    """Take a message about a packet that is too big for a link; False: it is another message."""
    cdef Quotation quoted
    cdef Flow *flow
    cdef uint32_t mtu
    cdef Verdict verdict
    if not is_too_big(ip):
        return False
    if not is_intact(ip):
        count(&core.stats, DROP_BAD_CHECKSUM)
        return True
    verdict = read_quotation(ip, &quoted)
    if verdict != VERDICT_OK:
        count(&core.stats, verdict)
        return True
    flow = core.flows.find(&quoted.key, SIDE_GUEST)
    if flow == NULL:
        count(&core.stats, DROP_UNKNOWN_FLOW)
        return True
    mtu = claimed_mtu(ip, quoted.length)
    if not mtu or not narrow(core, flow, mtu, quoted.seq):
        count(&core.stats, DROP_TOO_BIG)
    return True


cdef bint is_too_big(const IpView *ip) noexcept nogil:
    if ip.l4_len < ICMP_HLEN:
        return False
    if ip.addr_len == 4:
        return ip.l4[0] == ICMP_UNREACHABLE and ip.l4[1] == ICMP_FRAGMENTATION_NEEDED
    return ip.l4[0] == ICMP6_TOO_BIG


cdef uint32_t claimed_mtu(const IpView *ip, uint32_t length) noexcept nogil:
    """The MTU of the link that a packet of *length* bytes was too big for; 0: that cannot be."""
    cdef uint32_t mtu = load_be16(ip.l4 + 6) if ip.addr_len == 4 else load_be32(ip.l4 + 4)
    cdef int i
    if not mtu and ip.addr_len == 4:
        for i in range(N_PLATEAUS):
            if PLATEAUS[i] < length:
                return PLATEAUS[i]
    if mtu >= length or mtu < <uint32_t>(MIN_MTU4 if ip.addr_len == 4 else MIN_MTU6):
        return 0
    return mtu


cdef Verdict read_quotation(const IpView *ip, Quotation *out) noexcept nogil:
    """Find out which packet of ours is quoted, as far as its header and QUOTED_L4 bytes go."""
    cdef const uint8_t *p = ip.l4 + ICMP_HLEN
    cdef size_t n = ip.l4_len - ICMP_HLEN
    cdef size_t l3_len = IP4_HLEN if ip.addr_len == 4 else IP6_HLEN
    cdef uint8_t protocol
    if n < l3_len + QUOTED_L4:
        return DROP_SHORT
    memset(out, 0, sizeof(Quotation))
    out.key.addr_len = ip.addr_len
    if ip.addr_len == 4:
        if p[0] != 0x45 or load_be16(p + 6) & IP4_OFFSET:
            return DROP_TOO_BIG   # we send no options, and the ports are in the first fragment
        protocol = (<const Ip4Hdr *>p).protocol
        out.length = ntohs((<const Ip4Hdr *>p).tot_len_be)
        memcpy(out.key.remote, (<const Ip4Hdr *>p).src, 4)
        memcpy(out.key.guest, (<const Ip4Hdr *>p).dst, 4)
    else:
        if p[0] >> 4 != 6:
            return DROP_TOO_BIG
        protocol = (<const Ip6Hdr *>p).next_header
        out.length = IP6_HLEN + ntohs((<const Ip6Hdr *>p).payload_len_be)
        memcpy(out.key.remote, (<const Ip6Hdr *>p).src, 16)
        memcpy(out.key.guest, (<const Ip6Hdr *>p).dst, 16)
        if protocol == NH_FRAGMENT:
            l3_len += IP6_FRAGMENT_HLEN
            if n < l3_len + QUOTED_L4:
                return DROP_SHORT
            if load_be16(p + IP6_HLEN + 2) & IP6_OFFSET:
                return DROP_TOO_BIG
            protocol = p[IP6_HLEN]
    # The error goes to the sender of the packet.
    if memcmp(out.key.remote, ip.dst, ip.addr_len):
        return DROP_TOO_BIG
    return read_ports(p + l3_len, protocol, out)


cdef Verdict read_ports(const uint8_t *l4, uint8_t protocol, Quotation *out) noexcept nogil:
    """Complete the key by what the flow's protocol has: from us to the guest."""
    cdef bint is_ip4 = out.key.addr_len == 4
    out.key.proto = protocol
    if protocol in (IPPROTO_TCP, IPPROTO_UDP):
        out.key.remote_port = load_be16(l4)
        out.key.guest_port = load_be16(l4 + 2)
        out.seq = load_be32(l4 + 4)
        return VERDICT_OK
    if (protocol != (IPPROTO_ICMP if is_ip4 else IPPROTO_ICMPV6)
            or l4[0] != (ICMP_ECHO_REPLY if is_ip4 else ICMP6_ECHO_REPLY)):
        return DROP_TOO_BIG
    out.key.remote_port = out.key.guest_port = load_be16(l4 + 4)
    return VERDICT_OK


cdef bint narrow(Core core, Flow *flow, uint32_t mtu, uint32_t seq) noexcept nogil:
    """Limit the flow's packets to the guest to *mtu*; False: the quoted packet is not in flight."""
    if flow.kind == FLOW_TCP and not shorten_segments(core, flow, mtu, seq):
        return False
    note_mtu(core, flow.keys[0].guest, mtu)
    if flow.kind == FLOW_UDP:
        lower(&flow.body.udp.packet_limit, limit_towards(core, flow.keys[0].guest))
    elif flow.kind == FLOW_PING:
        lower(&flow.body.ping.packet_limit, limit_towards(core, flow.keys[0].guest))
    return True


cdef void lower(uint32_t *limit, uint32_t to) noexcept nogil:
    limit[0] = min(limit[0], to)           # no such message makes it larger (RFC 8201 4)
