"""Views of a frame: each length checked once, then read freely."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from passt.dataplane.base.stats cimport Verdict


cdef struct IpView:
    # An IP packet: *src*, *dst* point at addr_len bytes; *l4* at l4_len bytes of payload.
    #
    # *protocol* is the one behind IPv6 extensions. *dont_fragment*: it may not be sent on in fragments
    # (IPv4 with DF, IPv6 that did not come in fragments itself). With DROP_FRAGMENT *l4* is what the
    # fragment holds, in IPv6 from its fragment header on.
    #
    # *mac* is the station that sent it, as far as one did, else the guest; `ingress.demux` sets it.
    const uint8_t *ip
    const uint8_t *mac
    const uint8_t *src
    const uint8_t *dst
    const uint8_t *l4
    size_t l4_len
    uint8_t addr_len
    uint8_t protocol
    uint8_t ttl
    uint8_t tos
    bint dont_fragment


cdef struct TcpView:
    const uint8_t *payload
    size_t payload_len
    const uint8_t *options
    size_t options_len
    uint32_t seq
    uint32_t ack
    uint16_t src_port
    uint16_t dst_port
    uint16_t window
    uint8_t flags


cdef struct TcpOptions:
    # Options of a SYN (RFC 9293 3.1, RFC 7323); *window_scale* -1: not offered.
    uint16_t mss
    int window_scale
    uint32_t ts_val
    bint sack_permitted
    bint timestamps


cdef enum:
    MAX_SACK_BLOCKS = 4           # as many as fit into a header (RFC 2018 3)


cdef struct SackBlock:
    uint32_t start
    uint32_t end


cdef struct UdpView:
    const uint8_t *payload
    size_t payload_len
    uint16_t src_port
    uint16_t dst_port


cdef Verdict split_ip4(const uint8_t *p, size_t n, IpView *out) noexcept nogil
cdef Verdict split_ip6(const uint8_t *p, size_t n, IpView *out) noexcept nogil
cdef Verdict walk_extensions(IpView *out, uint8_t next_header, bint first) noexcept nogil
cdef Verdict split_tcp(const IpView *ip, TcpView *out) noexcept nogil
cdef Verdict split_udp(const IpView *ip, UdpView *out) noexcept nogil
cdef void read_tcp_options(const TcpView *tcp, TcpOptions *out) noexcept nogil
cdef bint read_timestamps(const TcpView *tcp, uint32_t *value, uint32_t *echo) noexcept nogil
cdef uint32_t read_sack(const TcpView *tcp, SackBlock *out) noexcept nogil
