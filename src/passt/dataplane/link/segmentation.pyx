"""Checksums and segmentation in software, for links that do not do them.

A frame with a virtio-net segmentation request is cut into frames of `gso_size` payload bytes each,
as the kernel would do it: lengths, sequence numbers, flags and checksums are set for every one.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from passt.dataplane.packet.checksum cimport csum_add, csum_fold, pseudo4, pseudo6
from passt.dataplane.packet.headers cimport (
    ETH_HLEN, ETHERTYPE_IP4, IP4_DF, TCP_CWR, TCP_FIN, TCP_PSH, EthHdr, Ip4Hdr, Ip6Hdr, TcpHdr, UdpHdr,
    eth_type,
)
from passt.dataplane.base.externs cimport (
    IPPROTO_TCP, IPPROTO_UDP, VIRTIO_NET_HDR_GSO_UDP_L4, htonl, htons, memcpy, ntohl, ntohs,
)
from passt.dataplane.link.meta cimport TxMeta


cdef void complete_csum(uint8_t *frame, size_t n, const TxMeta *meta) noexcept nogil:
    """Finish the checksum of a frame whose field holds the pseudo-header sum."""
    cdef uint16_t result
    if not meta.csum_start:
        return
    result = csum_fold(csum_add(frame + meta.csum_start, n - meta.csum_start, 0))
    if not result:
        result = 0xffff           # RFC 768: zero means no checksum; both are zero in ones' complement
    memcpy(frame + meta.csum_start + meta.csum_offset, &result, 2)


cdef void start_cut(Cut *cut, const uint8_t *headers, const TxMeta *meta, size_t payload) noexcept nogil:
    """Prepare to cut a frame with *headers* and *payload* bytes behind them, as *meta* says.

    The headers are at most MAX_HDR_LEN bytes, and none but the IPv4 header's options and the TCP options
    may stand between the fixed ones.
    """
    cdef Ip4Hdr *ip4 = <Ip4Hdr *>(cut.headers + ETH_HLEN)
    cdef Ip6Hdr *ip6 = <Ip6Hdr *>(cut.headers + ETH_HLEN)
    cdef TcpHdr *tcp = <TcpHdr *>(cut.headers + meta.csum_start)
    cdef UdpHdr *udp = <UdpHdr *>(cut.headers + meta.csum_start)
    cdef uint8_t protocol
    memcpy(cut.headers, headers, meta.hdr_len)
    cut.payload = payload
    cut.hdr_len = meta.hdr_len
    cut.size = meta.gso_size
    cut.l4_start = meta.csum_start
    cut.is_tcp = meta.gso_type != VIRTIO_NET_HDR_GSO_UDP_L4
    cut.is_ip4 = eth_type(<EthHdr *>cut.headers) == ETHERTYPE_IP4
    protocol = IPPROTO_TCP if cut.is_tcp else IPPROTO_UDP
    if cut.is_ip4:
        cut.id = ntohs(ip4.id_be)
        # The packets of one that may not be sent on in fragments need not be told apart (RFC 6864 4.1).
        cut.counts_id = not ntohs(ip4.frag_be) & IP4_DF
        ip4.tot_len_be = ip4.id_be = ip4.csum_be = 0
        cut.ip_sum = csum_add(<uint8_t *>ip4, meta.csum_start - ETH_HLEN, 0)
        cut.l4_sum = pseudo4(ip4.src, ip4.dst, protocol, 0)
    else:
        ip6.payload_len_be = 0
        cut.l4_sum = pseudo6(ip6.src, ip6.dst, protocol, 0)
    if cut.is_tcp:
        cut.seq = ntohl(tcp.seq_be)
        cut.flags = tcp.flags
        tcp.seq_be = 0
        tcp.flags = 0
        tcp.csum_be = 0
    else:
        udp.len_be = udp.csum_be = 0
    cut.l4_sum = csum_add(cut.headers + meta.csum_start, meta.hdr_len - meta.csum_start, cut.l4_sum)


cdef void push_segment(const Cut *cut, uint8_t *out, uint32_t offset, uint32_t n) noexcept nogil:
    """Write the headers of a segment whose *n* bytes of payload lie behind their place at *out* already.

    *offset* is where in the payload of the whole the segment begins.
    """
    cdef Ip4Hdr *ip4 = <Ip4Hdr *>(out + ETH_HLEN)
    cdef Ip6Hdr *ip6 = <Ip6Hdr *>(out + ETH_HLEN)
    cdef TcpHdr *tcp = <TcpHdr *>(out + cut.l4_start)
    cdef UdpHdr *udp = <UdpHdr *>(out + cut.l4_start)
    cdef uint32_t l4_len = cut.hdr_len - cut.l4_start + n
    cdef uint64_t total = csum_add(out + cut.hdr_len, n, cut.l4_sum)
    cdef uint16_t result
    memcpy(out, cut.headers, cut.hdr_len)
    if cut.is_ip4:
        ip4.tot_len_be = htons(<uint16_t>(cut.l4_start - ETH_HLEN + l4_len))
        ip4.id_be = htons(<uint16_t>(cut.id + (offset // cut.size if cut.counts_id else 0)))
        ip4.csum_be = csum_fold(cut.ip_sum + ip4.tot_len_be + ip4.id_be)
        total += htons(<uint16_t>l4_len)
    else:
        ip6.payload_len_be = htons(<uint16_t>l4_len)
        total += htonl(l4_len)
    if cut.is_tcp:
        tcp.seq_be = htonl(cut.seq + offset)
        tcp.flags = flags_of(cut, offset, n)
        total += <uint64_t>tcp.seq_be + htons(tcp.flags)
    else:
        udp.len_be = htons(<uint16_t>l4_len)
        total += udp.len_be
    result = csum_fold(total)
    if not result:
        result = 0xffff           # RFC 768: zero means no checksum; both are zero in ones' complement
    if cut.is_tcp:
        tcp.csum_be = result
    else:
        udp.csum_be = result


cdef uint8_t flags_of(const Cut *cut, uint32_t offset, uint32_t n) noexcept nogil:
    """The end of the data is said once, in the last segment, and a smaller window in the first (RFC 3168)."""
    cdef uint8_t flags = cut.flags
    if offset + n < cut.payload:
        flags &= <uint8_t>~(TCP_FIN | TCP_PSH)
    if offset:
        flags &= <uint8_t>~TCP_CWR
    return flags


cdef size_t cut_segment(const uint8_t *frame, size_t n, const TxMeta *meta, uint32_t offset,
                        uint8_t *out) noexcept nogil:
    """Write the segment whose payload starts at *offset* of the payload; returns its frame length.

    *out* has room for hdr_len + gso_size bytes. The checksum is complete.
    """
    cdef size_t payload = min(n - meta.hdr_len - offset, <size_t>meta.gso_size)
    cdef Cut cut
    start_cut(&cut, frame, meta, n - meta.hdr_len)
    memcpy(out + meta.hdr_len, frame + meta.hdr_len + offset, payload)
    push_segment(&cut, out, offset, <uint32_t>payload)
    return meta.hdr_len + payload
