"""ICMP and ICMPv6 errors for the guest (RFC 792, RFC 1812 4.3.2, RFC 4443 2.4 and 3).

An error quotes the packet that it is about. The guest's own packet is gone when the host learns of the
error, so its IP header is made anew from the flow as the guest sees it: the guest finds its socket by
the addresses, the protocol and the ports in the quotation. Unknown fields get harmless values: no
options, identification 0, a time to live of 1 as the last router saw it.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.packet.checksum cimport csum_add, csum_fold, pseudo6
from passt.dataplane.flow.key cimport FlowKey
from passt.dataplane.packet.headers cimport (
    ETH_HLEN, ICMP6_PARAMETER_PROBLEM, ICMP6_TOO_BIG, ICMP_FRAGMENTATION_NEEDED, ICMP_HLEN,
    ICMP_PARAMETER_PROBLEM, ICMP_UNREACHABLE, IP4_DF, IP4_HLEN, IP6_HLEN, MAX_IP_LEN, IcmpErrorHdr, Ip4Hdr,
    Ip6Hdr, is_multicast4, is_zero,
)
from passt.dataplane.base.stats cimport DROP_BAD_ADDRESS, DROP_LINK_FULL, count
from passt.dataplane.base.externs cimport IPPROTO_ICMP, IPPROTO_ICMPV6, htonl, htons, memcpy, memmove, memset
from passt.dataplane.link.meta cimport TxMeta
from passt.dataplane.packet.build cimport mark_packet

cdef enum:
    ICMP4_ERROR_MAX = 576         # whole packet, RFC 1812 4.3.2.3
    ICMP6_ERROR_MAX = 1280        # whole packet, RFC 4443 2.4 (c)
    QUOTED_TTL = 1


cdef void push_icmp_error(Core core, const uint8_t *mac, const FlowKey *key, uint8_t protocol,
                          const uint8_t *quoted, size_t quoted_length, uint8_t type, uint8_t code,
                          uint32_t info, const uint8_t *offender) noexcept nogil:
    """Tell the guest of *key* (its own side of a flow), at *mac*, of an error about a packet that it sent.

    *quoted* is that packet behind its IP header: transport header and payload as the guest sent them;
    the quotation is cut to what an error may hold. It may lie in the link's slot. *type* and *code* are
    those of the family of *key*. *info* is in host byte order what the type has: the next-hop MTU
    (RFC 1191 4, RFC 4443 3.2) or the byte that is the problem (RFC 792, RFC 4443 3.4), else 0.
    *offender* has the 16 bytes of an address in a `FlowKey`: who reports it; NULL: the remote as the
    guest sees it. A full link, or an offender that no packet may come from, is a counted drop.
    """
    relay_icmp_error(core, mac, key, protocol, quoted, quoted_length, type, code, info, offender, 0)


cdef void relay_icmp_error(Core core, const uint8_t *mac, const FlowKey *key, uint8_t protocol,
                           const uint8_t *quoted, size_t quoted_length, uint8_t type, uint8_t code,
                           uint32_t info, const uint8_t *offender, uint8_t ttl) noexcept nogil:
    """As `push_icmp_error`, for an error that came to the host with *ttl*, 0: unknown."""
    cdef bint is_ip4 = key.addr_len == 4
    cdef const uint8_t *source = offender
    cdef uint32_t l3_len = IP4_HLEN if is_ip4 else IP6_HLEN
    cdef uint8_t *header = core.link.slot + ETH_HLEN + l3_len
    cdef uint32_t room = (ICMP4_ERROR_MAX if is_ip4 else ICMP6_ERROR_MAX) - 2 * l3_len - ICMP_HLEN
    cdef uint32_t taken = <uint32_t>min(quoted_length, <size_t>room)
    cdef uint32_t length = ICMP_HLEN + l3_len + taken
    cdef IcmpErrorHdr icmp
    cdef TxMeta meta
    if source == NULL:
        source = &key.remote[0]
    if core.link.blocked:
        count(&core.stats, DROP_LINK_FULL)
        return
    if not can_report(source, is_ip4):
        # There are no errors about what went to a group (RFC 1122 3.2.2, RFC 4443 2.4); that is no drop.
        if offender != NULL:
            count(&core.stats, DROP_BAD_ADDRESS)
        return
    memmove(header + ICMP_HLEN + l3_len, quoted, taken)
    fill_quoted_ip(header + ICMP_HLEN, key, protocol, min(quoted_length, <size_t>(MAX_IP_LEN - IP4_HLEN)))
    icmp.type = type
    icmp.code = code
    icmp.csum_be = 0
    icmp.info_be = htonl(info_word(is_ip4, type, code, info))
    memcpy(header, &icmp, ICMP_HLEN)
    core.push_ip(mac, source, key.guest, key.addr_len, IPPROTO_ICMP if is_ip4 else IPPROTO_ICMPV6, length)
    if ttl:
        mark_packet(core.link.slot + ETH_HLEN, is_ip4, 0, ttl)
    icmp.csum_be = csum_fold(csum_add(
        header, length, 0 if is_ip4 else pseudo6(source, key.guest, IPPROTO_ICMPV6, length)))
    memcpy(header, &icmp, ICMP_HLEN)
    memset(&meta, 0, sizeof(meta))
    meta.hdr_len = <uint16_t>(ETH_HLEN + l3_len + ICMP_HLEN)
    if core.send(ETH_HLEN + l3_len + length, &meta):
        core.stats.icmp_errors_to_guest += 1


cdef bint can_report(const uint8_t *source, bint is_ip4) noexcept nogil:
    """Whether a packet may come from *source* (RFC 1122 3.2.1.3, RFC 4291 2.5.2, 2.7)."""
    if is_ip4:
        return not is_zero(source, 4) and not is_multicast4(source) and source[0] < 240
    return not is_zero(source, 16) and source[0] != 0xff


cdef uint32_t info_word(bint is_ip4, uint8_t type, uint8_t code, uint32_t info) noexcept nogil:
    """The second word of the message: unused, an MTU or a pointer."""
    if not is_ip4:
        return info if type in (ICMP6_TOO_BIG, ICMP6_PARAMETER_PROBLEM) else 0
    if type == ICMP_PARAMETER_PROBLEM:
        return (info & 0xff) << 24                        # in the first byte, RFC 792
    if type == ICMP_UNREACHABLE and code == ICMP_FRAGMENTATION_NEEDED:
        return min(info, <uint32_t>0xffff)                # in the last two, RFC 1191 4
    return 0


cdef void fill_quoted_ip(uint8_t *header, const FlowKey *key, uint8_t protocol, size_t length) noexcept nogil:
    """Write the IP header of the guest's packet of *length* bytes behind it."""
    cdef Ip4Hdr *ip4 = <Ip4Hdr *>header
    cdef Ip6Hdr *ip6 = <Ip6Hdr *>header
    if key.addr_len == 4:
        ip4.version_ihl = 0x45
        ip4.tos = 0
        ip4.tot_len_be = htons(<uint16_t>(IP4_HLEN + length))
        ip4.id_be = 0
        ip4.frag_be = htons(IP4_DF)
        ip4.ttl = QUOTED_TTL
        ip4.protocol = protocol
        ip4.csum_be = 0
        memcpy(ip4.src, key.guest, 4)
        memcpy(ip4.dst, key.remote, 4)
        ip4.csum_be = csum_fold(csum_add(header, IP4_HLEN, 0))
        return
    ip6.vtc_flow_be = htonl(0x60000000)
    ip6.payload_len_be = htons(<uint16_t>length)
    ip6.next_header = protocol
    ip6.hop_limit = QUOTED_TTL
    memcpy(ip6.src, key.guest, 16)
    memcpy(ip6.dst, key.remote, 16)
