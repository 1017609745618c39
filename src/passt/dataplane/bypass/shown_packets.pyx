"""Packets made of what bypasses the link, for captures.

Theory of operation. Of a bypassed connection there are two streams of bytes and no packets. A capture is
shown what could have passed in the guest's namespace, between the guest's socket and ours: a handshake when
both sides are open; a segment for each piece that is read, before it is passed on; an acknowledgement when
ACK_EVERY bytes have gone one way and none came back with data; a FIN, acknowledged, for each end-of-file; a
reset by the remote for a connection that ends otherwise, and after a SYN for one that was refused. Checksums
are right, sequence numbers without gaps; there are no retransmissions, and the window is as large as can be.

The record of the connection has the sequence numbers, which begin when it is first shown. So a capture
that begins in the middle of a connection shows it from there on. What is in a pipe at that moment was read
before. Datagrams are shown as they are.

The addresses are those that the guest sees: ours, which is the remote's to it, is asked of the socket.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from passt.dataplane.base.externs cimport (
    IPPROTO_TCP, IPPROTO_UDP, htonl, htons, memcpy, memset, sockaddr_storage,
)
from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.bypass cimport SpliceConn
from passt.dataplane.flow.record cimport Flow
from passt.dataplane.observe.seen_packet cimport (
    SEEN_IP4, SEEN_IP6, SEEN_ON_BYPASS, SEEN_TCP, SEEN_UDP, SeenPacket,
)
from passt.dataplane.packet.checksum cimport csum_add, csum_fold, pseudo4, pseudo6
from passt.dataplane.packet.headers cimport (
    ETH_HLEN, ETHERTYPE_IP4, ETHERTYPE_IP6, IP4_DF, IP4_HLEN, IP6_HLEN, TCP_ACK, TCP_FIN, TCP_HLEN, TCP_PSH,
    TCP_RST, TCP_SYN, UDP_HLEN, EthHdr, Ip4Hdr, Ip6Hdr, TcpHdr, UdpHdr,
)
from passt.dataplane.sockets.socket_address cimport read_sockaddr

cdef enum:
    ACCEPTED = 0                  # halves: of who opened the connection,
    CONNECTED = 1                 # and of who took it
    MAX_HEADERS = 96              # Ethernet, IPv6, TCP with the options of a SYN
    HOPS = 64
    WINDOW = 0xffff
    SYN_OPTIONS = 8               # bytes: MSS, no-operation, window scale (RFC 9293 3.1, RFC 7323 2.2)
    MSS = 65475                   # of a loopback interface, whose MTU is 65,536
    WINDOW_SCALE = 14             # RFC 7323 2.3
    ACK_EVERY = 1 << 16


cdef int inner_side(const Flow *flow) noexcept nogil:
    """The half whose socket talks to the guest."""
    return CONNECTED if flow.inbound else ACCEPTED


cdef bint begin(Core core, const Flow *flow, SeenPacket *seen) noexcept nogil:
    """Fill *seen* with what all packets of the flow have; False: their addresses are not known."""
    cdef sockaddr_storage name
    cdef size_t n
    cdef bint is_tcp = flow.keys[0].proto == IPPROTO_TCP
    memset(seen, 0, sizeof(SeenPacket))
    seen.interface = SEEN_ON_BYPASS
    seen.key = flow.keys[0]
    seen.flow = flow
    if is_tcp or flow.inbound:
        if core.sockets.local_name(flow.body.splice.halves[inner_side(flow)].fd if is_tcp else flow.fd,
                                   &name) < 0:
            return False
        n = read_sockaddr(&name, seen.key.remote, &seen.key.remote_port)
        if not seen.key.remote_port:
            # A refused socket has forgotten its own end; the client's is all that is left.
            seen.key = flow.keys[0]
    else:
        # The socket is a listener's, of many addresses: the one that was asked is in the host's key.
        n = flow.keys[1].addr_len
        memcpy(seen.key.remote, flow.keys[1].guest, 16)
        seen.key.remote_port = core.listeners.states[flow.body.splice_udp.listener - 1].port
    seen.kinds = (SEEN_IP4 if n == 4 else SEEN_IP6) | (SEEN_TCP if is_tcp else SEEN_UDP)
    seen.has_ends = seen.has_ports = True
    return n != 0 and n == seen.key.addr_len


cdef bint is_wanted(Core core, const Flow *flow) noexcept nogil:
    """Whether a capture takes packets of this flow."""
    cdef SeenPacket seen
    return begin(core, flow, &seen) and core.watch.wants(&seen)


cdef bint begin_tcp(Core core, Flow *flow, SeenPacket *seen) noexcept nogil:
    """As `begin`, and see that the connection has sequence numbers; False: nobody wants to see it."""
    cdef SpliceConn *conn = &flow.body.splice
    cdef int side
    if not begin(core, flow, seen) or not core.watch.wants(seen):
        return False
    if not conn.is_shown:
        conn.is_shown = True
        for side in range(2):
            # Nobody relies on these numbers; they only tell connections of the same ends apart.
            conn.shown_next[side] = conn.shown_acked[1 - side] = (
                <uint32_t>core.now + (flow.index << 12) + (<uint32_t>side << 31))
    return True


cdef void show_handshake(Core core, Flow *flow) noexcept nogil:
    """The connection is open on both sides."""
    cdef SpliceConn *conn = &flow.body.splice
    cdef SeenPacket seen
    if begin_tcp(core, flow, &seen):
        show_segment(core, flow, &seen, ACCEPTED, TCP_SYN, NULL, 0)
        conn.shown_next[ACCEPTED] += 1
        show_segment(core, flow, &seen, CONNECTED, TCP_SYN | TCP_ACK, NULL, 0)
        conn.shown_next[CONNECTED] += 1
        show_segment(core, flow, &seen, ACCEPTED, TCP_ACK, NULL, 0)


cdef void show_data(Core core, Flow *flow, int side, const uint8_t *data, size_t n) noexcept nogil:
    """*n* bytes, at most COPY_SIZE, were read from the socket of *side*."""
    cdef SpliceConn *conn = &flow.body.splice
    cdef SeenPacket seen
    if not begin_tcp(core, flow, &seen):
        return
    show_segment(core, flow, &seen, side, TCP_PSH | TCP_ACK, data, n)
    conn.shown_next[side] += <uint32_t>n
    if conn.shown_next[side] - conn.shown_acked[1 - side] >= ACK_EVERY:
        show_segment(core, flow, &seen, 1 - side, TCP_ACK, NULL, 0)


cdef void show_fin(Core core, Flow *flow, int side) noexcept nogil:
    """The end-of-file of *side* is passed on."""
    cdef SeenPacket seen
    if begin_tcp(core, flow, &seen):
        show_segment(core, flow, &seen, side, TCP_FIN | TCP_ACK, NULL, 0)
        flow.body.splice.shown_next[side] += 1
        show_segment(core, flow, &seen, 1 - side, TCP_ACK, NULL, 0)


cdef void show_reset(Core core, Flow *flow) noexcept nogil:
    """The connection ends with a reset of both sides, or was never open."""
    cdef SeenPacket seen
    if not begin_tcp(core, flow, &seen):
        return
    if flow.body.splice.connecting:
        show_segment(core, flow, &seen, ACCEPTED, TCP_SYN, NULL, 0)
        flow.body.splice.shown_next[ACCEPTED] += 1
        show_segment(core, flow, &seen, CONNECTED, TCP_RST | TCP_ACK, NULL, 0)
    else:
        show_segment(core, flow, &seen, 1 - inner_side(flow), TCP_RST | TCP_ACK, NULL, 0)


cdef void show_segment(Core core, Flow *flow, SeenPacket *seen, int side, uint8_t flags, const uint8_t *data,
                       size_t n) noexcept nogil:
    """Show a segment that the end behind the socket of *side* sent."""
    cdef SpliceConn *conn = &flow.body.splice
    cdef uint8_t head[MAX_HEADERS]
    cdef size_t options_len = SYN_OPTIONS if flags & TCP_SYN else 0
    cdef TcpHdr *tcp
    cdef uint8_t *options
    cdef uint64_t total = 0
    seen.to_guest = side != inner_side(flow)
    tcp = <TcpHdr *>push_ip(head, seen, IPPROTO_TCP, TCP_HLEN + options_len + n, &total)
    tcp.src_port_be = htons(seen.key.remote_port if seen.to_guest else seen.key.guest_port)
    tcp.dst_port_be = htons(seen.key.guest_port if seen.to_guest else seen.key.remote_port)
    tcp.seq_be = htonl(conn.shown_next[side])
    tcp.ack_be = htonl(conn.shown_next[1 - side]) if flags & TCP_ACK else 0
    tcp.data_offset = <uint8_t>((TCP_HLEN + options_len) << 2)
    tcp.flags = flags
    tcp.window_be = htons(WINDOW)
    tcp.csum_be = 0
    tcp.urgent_be = 0
    if options_len:
        options = <uint8_t *>tcp + TCP_HLEN
        options[0], options[1], options[2], options[3] = 2, 4, MSS >> 8, MSS & 0xff
        options[4], options[5], options[6], options[7] = 1, 3, 3, WINDOW_SCALE
    if flags & TCP_ACK:
        conn.shown_acked[side] = conn.shown_next[1 - side]
    total = csum_add(<const uint8_t *>tcp, TCP_HLEN + options_len, total)
    tcp.csum_be = csum_fold(csum_add(data, n, total) if n else total)
    send(core, seen, head, <size_t>(<uint8_t *>tcp - head) + TCP_HLEN + options_len, data, n)


cdef void show_datagram(Core core, const Flow *flow, bint to_guest, const uint8_t *data,
                        size_t n) noexcept nogil:
    """A datagram of *n* bytes passes."""
    cdef uint8_t head[MAX_HEADERS]
    cdef SeenPacket seen
    cdef UdpHdr *udp
    cdef uint64_t total = 0
    if not begin(core, flow, &seen) or not core.watch.wants(&seen):
        return
    seen.to_guest = to_guest
    udp = <UdpHdr *>push_ip(head, &seen, IPPROTO_UDP, UDP_HLEN + n, &total)
    udp.src_port_be = htons(seen.key.remote_port if to_guest else seen.key.guest_port)
    udp.dst_port_be = htons(seen.key.guest_port if to_guest else seen.key.remote_port)
    udp.len_be = htons(<uint16_t>(UDP_HLEN + n))
    udp.csum_be = 0
    total = csum_add(<const uint8_t *>udp, UDP_HLEN, total)
    udp.csum_be = csum_fold(csum_add(data, n, total) if n else total) or 0xffff
    send(core, &seen, head, <size_t>(<uint8_t *>udp - head) + UDP_HLEN, data, n)


cdef void send(Core core, SeenPacket *seen, const uint8_t *head, size_t head_len, const uint8_t *data,
               size_t n) noexcept nogil:
    seen.head = head
    seen.head_len = head_len
    seen.rest = data
    seen.rest_len = n
    core.watch.show(seen)


cdef uint8_t *push_ip(uint8_t *out, const SeenPacket *seen, uint8_t protocol, size_t l4_len,
                      uint64_t *pseudo) noexcept nogil:
    """Write Ethernet and IP headers as a loopback interface has them; where the next header begins.

    *pseudo* becomes the sum of the pseudo-header.
    """
    cdef EthHdr *eth = <EthHdr *>out
    cdef Ip4Hdr *ip4 = <Ip4Hdr *>(out + ETH_HLEN)
    cdef Ip6Hdr *ip6 = <Ip6Hdr *>(out + ETH_HLEN)
    cdef const uint8_t *source = &seen.key.guest[0]
    cdef const uint8_t *destination = &seen.key.remote[0]
    if seen.to_guest:
        source, destination = destination, source
    memset(out, 0, ETH_HLEN + IP6_HLEN)
    if seen.key.addr_len == 4:
        eth.type_be = htons(ETHERTYPE_IP4)
        ip4.version_ihl = 0x45
        ip4.tot_len_be = htons(<uint16_t>(IP4_HLEN + l4_len))
        ip4.frag_be = htons(IP4_DF)
        ip4.ttl = HOPS
        ip4.protocol = protocol
        memcpy(ip4.src, source, 4)
        memcpy(ip4.dst, destination, 4)
        ip4.csum_be = csum_fold(csum_add(<const uint8_t *>ip4, IP4_HLEN, 0))
        pseudo[0] = pseudo4(source, destination, protocol, <uint32_t>l4_len)
        return out + ETH_HLEN + IP4_HLEN
    eth.type_be = htons(ETHERTYPE_IP6)
    ip6.vtc_flow_be = htonl(0x60000000)
    ip6.payload_len_be = htons(<uint16_t>l4_len)
    ip6.next_header = protocol
    ip6.hop_limit = HOPS
    memcpy(ip6.src, source, 16)
    memcpy(ip6.dst, destination, 16)
    pseudo[0] = pseudo6(source, destination, protocol, <uint32_t>l4_len)
    return out + ETH_HLEN + IP6_HLEN
