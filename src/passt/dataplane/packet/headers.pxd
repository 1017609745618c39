"""Wire layouts of Ethernet, IPv4, IPv6, TCP, UDP and ICMP headers (RFC 791, 8200, 9293, 768, 792, 4443).

Fields named `*_be` are in network byte order. All structures are packed; read them through the
field names only, never through a pointer to a field.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from passt.dataplane.base.externs cimport ntohs

cdef enum:
    ETH_ALEN = 6
    ETH_HLEN = 14
    ETH_MIN_FRAME = 60            # without FCS, IEEE 802.3
    MAX_IP_LEN = 65535
    MAX_FRAME = 14 + 40 + 65535   # IPv6 does not count its header in the packet's length (RFC 8200 3)
    ETHERTYPE_IP4 = 0x0800
    ETHERTYPE_ARP = 0x0806
    ETHERTYPE_IP6 = 0x86dd
    IP4_HLEN = 20
    IP6_HLEN = 40
    TCP_HLEN = 20
    UDP_HLEN = 8
    ICMP_HLEN = 8
    IP4_DF = 0x4000
    IP4_MF = 0x2000
    IP4_FRAGMENT = 0x3fff         # MF and offset
    IP4_OFFSET = 0x1fff
    IP6_MF = 1
    IP6_FRAGMENT = 0xfff9         # offset and M
    IP6_OFFSET = 0xfff8
    IP6_FRAGMENT_HLEN = 8
    NH_FRAGMENT = 44
    ECN_MASK = 3                  # of TOS and traffic class, RFC 3168
    ECN_CE = 3

cdef enum:
    TCP_FIN = 0x01
    TCP_SYN = 0x02
    TCP_RST = 0x04
    TCP_PSH = 0x08
    TCP_ACK = 0x10
    TCP_CWR = 0x80                # RFC 3168 6.1

cdef enum:
    ICMP_ECHO_REPLY = 0
    ICMP_UNREACHABLE = 3
    ICMP_ECHO_REQUEST = 8
    ICMP_TIME_EXCEEDED = 11
    ICMP_PARAMETER_PROBLEM = 12
    ICMP6_UNREACHABLE = 1
    ICMP6_TOO_BIG = 2
    ICMP6_TIME_EXCEEDED = 3
    ICMP6_PARAMETER_PROBLEM = 4
    # Codes of ICMP_UNREACHABLE and of ICMP6_UNREACHABLE (RFC 1812 5.2.7.1, RFC 4443 3.1)
    ICMP_NET_UNREACHABLE = 0
    ICMP_HOST_UNREACHABLE = 1
    ICMP_PROTOCOL_UNREACHABLE = 2
    ICMP_FRAGMENTATION_NEEDED = 4
    ICMP_PROHIBITED = 13
    ICMP6_NO_ROUTE = 0
    ICMP6_PROHIBITED = 1
    ICMP6_ADDRESS_UNREACHABLE = 3
    ICMP6_ECHO_REQUEST = 128
    ICMP6_ECHO_REPLY = 129
    ICMP6_ND_FIRST = 133          # router solicitation ... redirect (RFC 4861)
    ICMP6_ND_LAST = 137
    # Operations of ARP (RFC 826)
    ARP_REQUEST = 1
    ARP_REPLY = 2

cdef packed struct EthHdr:
    uint8_t dst[6]
    uint8_t src[6]
    uint16_t type_be

cdef packed struct ArpPkt:        # RFC 826, for IPv4 over Ethernet
    uint8_t kind[7]               # hardware, protocol, lengths, upper byte of the operation
    uint8_t op
    uint8_t sender_mac[6]
    uint8_t sender_ip[4]
    uint8_t target_mac[6]
    uint8_t target_ip[4]

cdef packed struct Ip4Hdr:
    uint8_t version_ihl
    uint8_t tos
    uint16_t tot_len_be
    uint16_t id_be
    uint16_t frag_be
    uint8_t ttl
    uint8_t protocol
    uint16_t csum_be
    uint8_t src[4]
    uint8_t dst[4]

cdef packed struct Ip6Hdr:
    uint32_t vtc_flow_be
    uint16_t payload_len_be
    uint8_t next_header
    uint8_t hop_limit
    uint8_t src[16]
    uint8_t dst[16]

cdef packed struct FragmentHdr:   # RFC 8200 4.5
    uint8_t next_header
    uint8_t reserved
    uint16_t offset_be            # in bytes, M in the lowest bit
    uint32_t id_be

cdef packed struct TcpHdr:
    uint16_t src_port_be
    uint16_t dst_port_be
    uint32_t seq_be
    uint32_t ack_be
    uint8_t data_offset           # upper nibble, in 32-bit words
    uint8_t flags
    uint16_t window_be
    uint16_t csum_be
    uint16_t urgent_be

cdef packed struct UdpHdr:
    uint16_t src_port_be
    uint16_t dst_port_be
    uint16_t len_be
    uint16_t csum_be

cdef packed struct IcmpHdr:       # the echo form, the same for both families
    uint8_t type
    uint8_t code
    uint16_t csum_be
    uint16_t id_be
    uint16_t seq_be

cdef packed struct IcmpErrorHdr:  # of error messages, the same for both families
    uint8_t type
    uint8_t code
    uint16_t csum_be
    uint32_t info_be


cdef inline size_t ip4_hdr_len(const Ip4Hdr *ip) noexcept nogil:
    return (ip.version_ihl & 0x0f) * 4


cdef inline size_t tcp_hdr_len(const TcpHdr *tcp) noexcept nogil:
    return (tcp.data_offset >> 4) * 4


cdef inline uint16_t load_be16(const uint8_t *p) noexcept nogil:
    return <uint16_t>((p[0] << 8) | p[1])


cdef inline uint32_t load_be32(const uint8_t *p) noexcept nogil:
    return <uint32_t>load_be16(p) << 16 | load_be16(p + 2)


cdef inline void store_be32(uint8_t *p, uint32_t value) noexcept nogil:
    p[0] = <uint8_t>(value >> 24)
    p[1] = <uint8_t>(value >> 16 & 0xff)
    p[2] = <uint8_t>(value >> 8 & 0xff)
    p[3] = <uint8_t>(value & 0xff)


cdef inline bint is_multicast4(const uint8_t *a) noexcept nogil:
    return (a[0] & 0xf0) == 0xe0


cdef inline bint is_zero(const uint8_t *p, size_t n) noexcept nogil:
    cdef size_t i
    for i in range(n):
        if p[i]:
            return False
    return True


cdef inline bint is_loopback6(const uint8_t *a) noexcept nogil:
    return is_zero(a, 15) and a[15] == 1


cdef inline bint is_mapped4(const uint8_t *a) noexcept nogil:
    """::ffff:0:0/96, RFC 4291 2.5.5.2."""
    return is_zero(a, 10) and a[10] == 0xff and a[11] == 0xff


cdef inline uint16_t eth_type(const EthHdr *eth) noexcept nogil:
    return ntohs(eth.type_be)
