"""Checksums and segmentation in software, for links that do not do them.

A frame with a virtio-net segmentation request is cut into frames of `gso_size` payload bytes each,
as the kernel would do it: lengths, sequence numbers, flags and checksums are set for every one.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from passt.dataplane.csum cimport csum_add, csum_fold, pseudo4, pseudo6
from passt.dataplane.headers cimport (
    ETH_HLEN, ETHERTYPE_IP4, TCP_FIN, TCP_PSH, EthHdr, Ip4Hdr, Ip6Hdr, TcpHdr, UdpHdr, eth_type,
)
from passt.dataplane.link cimport TxMeta
from passt.dataplane.sys cimport (
    IPPROTO_TCP, IPPROTO_UDP, VIRTIO_NET_HDR_GSO_UDP_L4, htonl, htons, memcpy, ntohl,
)


cdef void complete_csum(uint8_t *frame, size_t n, const TxMeta *meta) noexcept nogil:
    """Finish the checksum of a frame whose field holds the pseudo-header sum."""
    cdef uint16_t result
    if not meta.csum_start:
        return
    result = csum_fold(csum_add(frame + meta.csum_start, n - meta.csum_start, 0))
    if not result:
        result = 0xffff           # RFC 768: zero means no checksum; both are zero in ones' complement
    memcpy(frame + meta.csum_start + meta.csum_offset, &result, 2)


cdef size_t cut_segment(const uint8_t *frame, size_t n, const TxMeta *meta, uint32_t offset,
                        uint8_t *out) noexcept nogil:
    """Write the segment whose payload starts at *offset* of the payload; returns its frame length.

    *out* has room for hdr_len + gso_size bytes. The checksum is complete.
    """
    cdef size_t payload = n - meta.hdr_len - offset
    cdef bint last = payload <= meta.gso_size
    cdef Ip4Hdr *ip4 = <Ip4Hdr *>(out + ETH_HLEN)
    cdef Ip6Hdr *ip6 = <Ip6Hdr *>(out + ETH_HLEN)
    cdef TcpHdr *tcp = <TcpHdr *>(out + meta.csum_start)
    cdef UdpHdr *udp = <UdpHdr *>(out + meta.csum_start)
    cdef uint8_t protocol = IPPROTO_UDP if meta.gso_type == VIRTIO_NET_HDR_GSO_UDP_L4 else IPPROTO_TCP
    cdef uint32_t l4_len
    cdef uint16_t total
    if not last:
        payload = meta.gso_size
    memcpy(out, frame, meta.hdr_len)
    memcpy(out + meta.hdr_len, frame + meta.hdr_len + offset, payload)
    l4_len = <uint32_t>(meta.hdr_len - meta.csum_start + payload)
    if eth_type(<EthHdr *>out) == ETHERTYPE_IP4:
        ip4.tot_len_be = htons(<uint16_t>(meta.csum_start - ETH_HLEN + l4_len))
        ip4.csum_be = 0
        ip4.csum_be = csum_fold(csum_add(<uint8_t *>ip4, meta.csum_start - ETH_HLEN, 0))
        total = <uint16_t>~csum_fold(pseudo4(ip4.src, ip4.dst, protocol, l4_len))
    else:
        ip6.payload_len_be = htons(<uint16_t>l4_len)
        total = <uint16_t>~csum_fold(pseudo6(ip6.src, ip6.dst, protocol, l4_len))
    if protocol == IPPROTO_TCP:
        tcp.seq_be = htonl(ntohl(tcp.seq_be) + offset)
        if not last:
            tcp.flags &= <uint8_t>~(TCP_FIN | TCP_PSH)
        tcp.csum_be = total
    else:
        udp.len_be = htons(<uint16_t>l4_len)
        udp.csum_be = total
    complete_csum(out, meta.hdr_len + payload, meta)
    return meta.hdr_len + payload
