"""Split frames from the guest into views; the only door through which their bytes come in.

Each function checks every length in its header against what is really there, then fills the view;
the verdict names the first contradiction. Trailing Ethernet padding is trimmed by the IP length.
"""

from libc.stdint cimport uint8_t, uint32_t

from passt.dataplane.packet.headers cimport (
    IP4_FRAGMENT, IP6_HLEN, TCP_HLEN, UDP_HLEN, Ip4Hdr, Ip6Hdr, TcpHdr, UdpHdr, ip4_hdr_len, load_be16,
    load_be32, tcp_hdr_len, IP4_DF, IP6_FRAGMENT, NH_FRAGMENT, FragmentHdr,
)
from passt.dataplane.base.stats cimport (
    DROP_BAD_LENGTH, DROP_BAD_VERSION, DROP_EXTENSION_HEADER, DROP_FRAGMENT, DROP_SHORT, VERDICT_OK, Verdict,
)
from passt.dataplane.base.externs cimport ntohl, ntohs

cdef enum:
    # IPv6 next-header values (IANA "IPv6 Extension Header Types", RFC 7045)
    NH_HOP_BY_HOP = 0
    NH_ROUTING = 43
    NH_AUTHENTICATION = 51
    NH_NONE = 59
    NH_DESTINATION = 60
    NH_MOBILITY = 135
    NH_HIP = 139
    NH_SHIM6 = 140
    OPTION_PAD1 = 0               # RFC 8200 4.2
    OPTION_ACTION = 0xc0          # what to do with an unknown option: 0 go on, else discard
    # A chain longer than this is no traffic of any real stack; it bounds the walk.
    MAX_EXTENSION_HEADERS = 16

cdef enum:
    TCPOPT_END = 0
    TCPOPT_NOP = 1
    TCPOPT_MSS = 2
    TCPOPT_WINDOW_SCALE = 3
    TCPOPT_SACK_PERMITTED = 4
    TCPOPT_SACK = 5
    TCPOPT_TIMESTAMPS = 8
    MAX_WINDOW_SCALE = 14         # RFC 7323 2.3
    DEFAULT_MSS = 536             # RFC 9293 3.7.1


cdef Verdict split_ip4(const uint8_t *p, size_t n, IpView *out) noexcept nogil:
    """Split an IPv4 packet of at most *n* bytes (RFC 791)."""
    cdef const Ip4Hdr *ip = <const Ip4Hdr *>p
    cdef size_t hdr_len, tot_len
    if n < sizeof(Ip4Hdr):
        return DROP_SHORT
    if ip.version_ihl >> 4 != 4:
        return DROP_BAD_VERSION
    hdr_len = ip4_hdr_len(ip)
    tot_len = ntohs(ip.tot_len_be)
    if hdr_len < sizeof(Ip4Hdr) or tot_len < hdr_len or tot_len > n:
        return DROP_BAD_LENGTH
    out.ip = p
    out.src = p + 12
    out.dst = p + 16
    out.addr_len = 4
    out.l4 = p + hdr_len
    out.l4_len = tot_len - hdr_len
    out.protocol = ip.protocol
    out.ttl = ip.ttl
    out.tos = ip.tos
    out.dont_fragment = ntohs(ip.frag_be) & IP4_DF != 0
    return DROP_FRAGMENT if ntohs(ip.frag_be) & IP4_FRAGMENT else VERDICT_OK


cdef Verdict split_ip6(const uint8_t *p, size_t n, IpView *out) noexcept nogil:
    """Split an IPv6 packet of at most *n* bytes and walk its extension headers (RFC 8200 4)."""
    cdef const Ip6Hdr *ip = <const Ip6Hdr *>p
    if n < sizeof(Ip6Hdr):
        return DROP_SHORT
    if p[0] >> 4 != 6:
        return DROP_BAD_VERSION
    out.l4_len = ntohs(ip.payload_len_be)
    if out.l4_len > n - IP6_HLEN:
        return DROP_BAD_LENGTH
    out.ip = p
    out.src = p + 8
    out.dst = p + 24
    out.addr_len = 16
    out.ttl = ip.hop_limit
    out.tos = <uint8_t>((load_be16(p) >> 4) & 0xff)
    out.l4 = p + IP6_HLEN
    out.dont_fragment = True
    return walk_extensions(out, ip.next_header, True)


cdef Verdict walk_extensions(IpView *out, uint8_t next_header, bint first) noexcept nogil:
    """Move *l4* past the extension headers that begin there with *next_header*, and name the protocol.

    *first*: the fixed header is right before it, where alone hop-by-hop options may be. A fragment
    header of a packet that is whole (RFC 6946) is passed over; at any other the walk ends with
    DROP_FRAGMENT.
    """
    cdef size_t length
    cdef Verdict verdict
    cdef int left_headers = MAX_EXTENSION_HEADERS
    while left_headers:
        left_headers -= 1
        if next_header == NH_FRAGMENT:
            length = sizeof(FragmentHdr)
            if out.l4_len < length:
                return DROP_SHORT
            if load_be16(out.l4 + 2) & IP6_FRAGMENT:
                return DROP_FRAGMENT
            out.dont_fragment = False
        elif next_header == NH_NONE or next_header == NH_HOP_BY_HOP and not first:
            return DROP_EXTENSION_HEADER
        elif is_extension(next_header):
            if out.l4_len < 2:
                return DROP_SHORT
            length = (<size_t>out.l4[1] + 1) * 8                  # RFC 6564 4
            if next_header == NH_AUTHENTICATION:
                length = (<size_t>out.l4[1] + 2) * 4              # RFC 4302 2.2
            if length > out.l4_len:
                return DROP_BAD_LENGTH
            verdict = judge_extension(out.l4, length, next_header)
            if verdict != VERDICT_OK:
                return verdict
        else:
            out.protocol = next_header
            return VERDICT_OK
        first = False
        next_header = out.l4[0]
        out.l4 += length
        out.l4_len -= length
    return DROP_EXTENSION_HEADER


cdef bint is_extension(uint8_t next_header) noexcept nogil:
    return next_header in (NH_HOP_BY_HOP, NH_ROUTING, NH_AUTHENTICATION, NH_DESTINATION, NH_MOBILITY, NH_HIP,
                           NH_SHIM6)


cdef Verdict judge_extension(const uint8_t *p, size_t length, uint8_t kind) noexcept nogil:
    """Whether a packet with this extension header of *length* bytes may go on.

    One that is to visit further nodes (RFC 8200 4.4, RFC 5095) may not: its destination is not where it
    is to end. Nor may one with an option that says so to those who do not know it (RFC 8200 4.2).
    """
    cdef size_t at = 2
    if kind == NH_ROUTING:
        return DROP_EXTENSION_HEADER if p[3] else VERDICT_OK
    if kind not in (NH_HOP_BY_HOP, NH_DESTINATION):
        return VERDICT_OK
    while at < length:
        if p[at] == OPTION_PAD1:
            at += 1
            continue
        if at + 2 > length or at + 2 + p[at + 1] > length:
            return DROP_BAD_LENGTH
        if p[at] & OPTION_ACTION:
            return DROP_EXTENSION_HEADER
        at += 2 + <size_t>p[at + 1]
    return VERDICT_OK


cdef Verdict split_tcp(const IpView *ip, TcpView *out) noexcept nogil:
    """Split a TCP segment (RFC 9293 3.1)."""
    cdef const TcpHdr *tcp = <const TcpHdr *>ip.l4
    cdef size_t hdr_len
    if ip.l4_len < TCP_HLEN:
        return DROP_SHORT
    hdr_len = tcp_hdr_len(tcp)
    if hdr_len < TCP_HLEN or hdr_len > ip.l4_len:
        return DROP_BAD_LENGTH
    out.src_port = ntohs(tcp.src_port_be)
    out.dst_port = ntohs(tcp.dst_port_be)
    out.seq = ntohl(tcp.seq_be)
    out.ack = ntohl(tcp.ack_be)
    out.flags = tcp.flags
    out.window = ntohs(tcp.window_be)
    out.options = ip.l4 + TCP_HLEN
    out.options_len = hdr_len - TCP_HLEN
    out.payload = ip.l4 + hdr_len
    out.payload_len = ip.l4_len - hdr_len
    return VERDICT_OK


cdef Verdict split_udp(const IpView *ip, UdpView *out) noexcept nogil:
    """Split a UDP datagram; bytes behind its length field are no part of it (RFC 768)."""
    cdef const UdpHdr *udp = <const UdpHdr *>ip.l4
    cdef size_t length
    if ip.l4_len < UDP_HLEN:
        return DROP_SHORT
    length = ntohs(udp.len_be)
    if length < UDP_HLEN or length > ip.l4_len:
        return DROP_BAD_LENGTH
    out.src_port = ntohs(udp.src_port_be)
    out.dst_port = ntohs(udp.dst_port_be)
    out.payload = ip.l4 + UDP_HLEN
    out.payload_len = length - UDP_HLEN
    return VERDICT_OK


cdef void read_tcp_options(const TcpView *tcp, TcpOptions *out) noexcept nogil:
    """Read the options of a SYN; a malformed option ends the list (RFC 9293 3.1, 3.2)."""
    cdef const uint8_t *p = tcp.options
    cdef size_t left = tcp.options_len
    cdef uint8_t kind, length
    out.mss = DEFAULT_MSS
    out.window_scale = -1
    out.sack_permitted = False
    out.timestamps = False
    while left:
        kind = p[0]
        if kind == TCPOPT_END:
            return
        if kind == TCPOPT_NOP:
            p += 1
            left -= 1
            continue
        if left < 2:
            return
        length = p[1]
        if length < 2 or length > left:
            return
        if kind == TCPOPT_MSS and length == 4:
            if load_be16(p + 2):
                out.mss = load_be16(p + 2)
        elif kind == TCPOPT_WINDOW_SCALE and length == 3:
            out.window_scale = min(<int>p[2], <int>MAX_WINDOW_SCALE)
        elif kind == TCPOPT_SACK_PERMITTED and length == 2:
            out.sack_permitted = True
        elif kind == TCPOPT_TIMESTAMPS and length == 10:
            out.timestamps = True
            out.ts_val = load_be32(p + 2)
        p += length
        left -= length


cdef bint read_timestamps(const TcpView *tcp, uint32_t *value, uint32_t *echo) noexcept nogil:
    """Read the first timestamps option (RFC 7323 3.2); False: there is none.

    A malformed option ends the list. The arrangement of RFC 7323 A is the one that is met.
    """
    cdef const uint8_t *p = tcp.options
    cdef size_t left = tcp.options_len
    while left >= 2 and p[0] != TCPOPT_END:
        if p[0] == TCPOPT_NOP:
            p += 1
            left -= 1
            continue
        if p[1] < 2 or p[1] > left:
            return False
        if p[0] == TCPOPT_TIMESTAMPS:
            if p[1] != 10:
                return False
            value[0] = load_be32(p + 2)
            echo[0] = load_be32(p + 6)
            return True
        left -= p[1]
        p += p[1]
    return False


cdef uint32_t read_sack(const TcpView *tcp, SackBlock *out) noexcept nogil:
    """Read the blocks of the first SACK option (RFC 2018 3), MAX_SACK_BLOCKS at most; returns how many.

    A malformed option ends the list of options.
    """
    cdef const uint8_t *p = tcp.options
    cdef size_t left = tcp.options_len
    cdef uint32_t i, n
    while left >= 2 and p[0] != TCPOPT_END:
        if p[0] == TCPOPT_NOP:
            p += 1
            left -= 1
            continue
        if p[1] < 2 or p[1] > left:
            return 0
        if p[0] == TCPOPT_SACK:
            if p[1] % 8 != 2:
                return 0
            n = min(<uint32_t>p[1] // 8, <uint32_t>MAX_SACK_BLOCKS)
            for i in range(n):
                out[i].start = load_be32(p + 2 + 8 * i)
                out[i].end = load_be32(p + 6 + 8 * i)
            return n
        left -= p[1]
        p += p[1]
    return 0
