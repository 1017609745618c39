"""Fragments from the guest, and fragments to it.

From the guest: `packet.reassembly` puts them together; this module adds the counters, the time-out and the
test of the L4 checksum. Only reassembled packets need that test: a reused identification may have mixed two
packets, and nothing else shows it (RFC 4963).

To the guest: a packet that is larger than the link's MTU, or that of a path behind it (`path_mtu`), leaves
in fragments, as from any router or host (RFC 791 3.2, RFC 8200 4.5). Datagrams have no other way to
arrive: their sender knows the path to us only.
"""

from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.packet.checksum cimport csum_add, csum_fold, is_intact
from passt.dataplane.flow.key cimport FlowKey, fill_key
from passt.dataplane.packet.headers cimport (
    ETH_HLEN, ETH_MIN_FRAME, ICMP6_TIME_EXCEEDED, ICMP_TIME_EXCEEDED, IP4_HLEN, IP4_MF, IP6_FRAGMENT_HLEN,
    IP6_HLEN, IP6_MF, NH_FRAGMENT, FragmentHdr, Ip4Hdr, Ip6Hdr, is_multicast4,
)
from passt.dataplane.ip.icmp_error cimport push_icmp_error
from passt.dataplane.packet.reassembly cimport (
    FRAGMENT_BAD, FRAGMENT_COMPLETE, FRAGMENT_KEPT, FRAGMENT_NO_MEMORY, Assembly, FragmentResult,
)
from passt.dataplane.link.segmentation cimport complete_csum
from passt.dataplane.packet.parse cimport IpView, walk_extensions
from passt.dataplane.base.stats cimport (
    DROP_BAD_CHECKSUM, DROP_FRAGMENT, DROP_FRAGMENT_MEMORY, DROP_FRAGMENT_OVERLAP, DROP_FRAGMENT_TIME,
    VERDICT_OK, Verdict, count,
)
from passt.dataplane.base.externs cimport htonl, htons, memcpy, memset
from passt.dataplane.link.meta cimport TxMeta

cdef enum:
    REASSEMBLY_TIME_EXCEEDED = 1  # code of both families' time exceeded


cdef bint on_fragment(Core core, IpView *ip) noexcept nogil:
    """Take a fragment of the guest; True: *ip* is now the whole packet, good until the next fragment."""
    cdef uint64_t evicted = core.ip.reassembler.n_evicted
    cdef bint first = not core.ip.reassembler.n_used
    cdef FragmentResult result = core.ip.reassembler.add(ip, core.now)
    cdef Verdict verdict
    core.stats.drops[<int>DROP_FRAGMENT_MEMORY] += core.ip.reassembler.n_evicted - evicted
    if first and core.ip.reassembler.n_used:
        core.reactor.timers.arm(core.ip.fragment_timer, core.ip.reassembler.next_deadline())
    if result == FRAGMENT_KEPT:
        return False
    if result != FRAGMENT_COMPLETE:
        count(&core.stats, DROP_FRAGMENT if result == FRAGMENT_BAD else DROP_FRAGMENT_MEMORY
              if result == FRAGMENT_NO_MEMORY else DROP_FRAGMENT_OVERLAP)
        return False
    if ip.addr_len == 16:
        verdict = walk_extensions(ip, ip.protocol, False)
        if verdict != VERDICT_OK:
            count(&core.stats, verdict)
            return False
    if not is_intact(ip):
        count(&core.stats, DROP_BAD_CHECKSUM)
        return False
    core.stats.reassembled += 1
    return True


cdef void on_fragment_timer(Core core) noexcept nogil:
    """Drop packets not complete in time; tell the guest, if the first fragment was there (RFC 792)."""
    cdef Assembly *assembly = core.ip.reassembler.expired(core.now)
    cdef int64_t deadline
    cdef IpView ip
    cdef FlowKey key
    while assembly != NULL:
        count(&core.stats, DROP_FRAGMENT_TIME)
        if assembly.first_len and not assembly.spoiled and not was_to_group(assembly):
            ip.src = assembly.src
            ip.dst = assembly.dst
            ip.addr_len = assembly.addr_len
            fill_key(&key, &ip, 0, 0, 0)
            push_icmp_error(core, assembly.mac, &key,
                            assembly.protocol if assembly.addr_len == 4 else assembly.next_header,
                            assembly.data, assembly.first_len,
                            ICMP_TIME_EXCEEDED if assembly.addr_len == 4 else ICMP6_TIME_EXCEEDED,
                            REASSEMBLY_TIME_EXCEEDED, 0, NULL)
        core.ip.reassembler.drop(assembly)
        assembly = core.ip.reassembler.expired(core.now)
    deadline = core.ip.reassembler.next_deadline()
    if deadline != INT64_MAX:
        core.reactor.timers.arm(core.ip.fragment_timer, deadline)


cdef bint was_to_group(const Assembly *assembly) noexcept nogil:
    """Whether the packet goes to more than one: no error is sent about those (RFC 1122 3.2.2)."""
    if assembly.addr_len == 4:
        return is_multicast4(assembly.dst) or assembly.dst[0] >= 240
    return assembly.dst[0] == 0xff


cdef bint send_packet(Core core, size_t n, const TxMeta *meta, uint32_t limit) noexcept nogil:
    """Send the frame of *n* bytes at the link's slot, in fragments if its packet is larger than *limit*.

    Its headers are those that `Core.push_ip` writes for anything but TCP, without segmentation. False if
    the link took no part of it.
    """
    cdef uint8_t *slot = core.link.slot
    cdef bint is_ip4 = slot[ETH_HLEN] >> 4 == 4
    cdef uint32_t l3_len = IP4_HLEN if is_ip4 else IP6_HLEN
    cdef uint32_t extra = 0 if is_ip4 else IP6_FRAGMENT_HLEN
    cdef uint32_t payload = <uint32_t>(n - ETH_HLEN - l3_len)
    cdef uint32_t room = (limit - l3_len - extra) & ~<uint32_t>7
    cdef uint32_t offset = 0
    cdef uint32_t part, length
    cdef TxMeta done
    if n - ETH_HLEN <= limit:
        return core.send(n, meta)
    if not core.link.has_segment():
        return False
    if meta.csum_start:
        complete_csum(slot, n, meta)
    memset(&done, 0, sizeof(done))
    done.hdr_len = <uint16_t>(ETH_HLEN + l3_len + extra)
    core.packet_id += not is_ip4    # in IPv4 the packet has one
    while offset < payload:
        part = min(room, payload - offset)
        length = cut_fragment(core, is_ip4, offset, part, offset + part < payload)
        if length < ETH_MIN_FRAME:
            memset(core.link.segment + length, 0, ETH_MIN_FRAME - length)
            length = ETH_MIN_FRAME
        if not core.link.put(core.link.segment, length, &done):
            return offset > 0
        core.stats.fragments_to_guest += 1
        offset += part
    return True


cdef uint32_t cut_fragment(Core core, bint is_ip4, uint32_t offset, uint32_t n, bint more) noexcept nogil:
    """Build the fragment with *n* bytes from *offset* on of the slot's packet; returns its frame's length."""
    cdef const uint8_t *slot = core.link.slot
    cdef uint8_t *out = core.link.segment
    cdef uint32_t l3_len = IP4_HLEN if is_ip4 else IP6_HLEN
    cdef uint32_t start = ETH_HLEN + l3_len
    cdef Ip4Hdr *ip4 = <Ip4Hdr *>(out + ETH_HLEN)
    cdef Ip6Hdr *ip6 = <Ip6Hdr *>(out + ETH_HLEN)
    cdef FragmentHdr fragment
    memcpy(out, slot, start)
    if is_ip4:
        ip4.tot_len_be = htons(<uint16_t>(IP4_HLEN + n))
        ip4.frag_be = htons(<uint16_t>(offset >> 3 | (IP4_MF if more else 0)))
        ip4.csum_be = 0
        ip4.csum_be = csum_fold(csum_add(out + ETH_HLEN, IP4_HLEN, 0))
        memcpy(out + start, slot + start + offset, n)
        return start + n
    fragment.next_header = ip6.next_header
    fragment.reserved = 0
    fragment.offset_be = htons(<uint16_t>(offset | (IP6_MF if more else 0)))
    fragment.id_be = htonl(core.packet_id)
    ip6.next_header = NH_FRAGMENT
    ip6.payload_len_be = htons(<uint16_t>(IP6_FRAGMENT_HLEN + n))
    memcpy(out + start, &fragment, IP6_FRAGMENT_HLEN)
    memcpy(out + start + IP6_FRAGMENT_HLEN, slot + start + offset, n)
    return start + IP6_FRAGMENT_HLEN + n
