"""One TCP connection towards the guest: its timers, segments and window.

Before working on this file read RFC 9293 3.3 to 3.10, RFC 6298, RFC 7323, RFC 6528.

Theory of operation. The guest's TCP talks to an endpoint of ours (the states of RFC 9293 are those
of this endpoint); behind it stands one socket of the host that talks to the remote. Nothing is
buffered that the kernel can buffer:

* Data for the guest stays in the socket until the guest acknowledges it. It is read by peeking,
  `snd_nxt - sock_una` bytes into the receive queue, and dropped from the queue when `snd_una` moves
  (`sock_una` follows at the end of the turn). A retransmission is another peek.
* Data from the guest is written to the socket as it comes. The window that the guest is told ends
  where the socket's free send buffer ends, so a write does not come out short; should it all the
  same, the rest is kept in the connection's store, and so is data that comes before its turn
  (`unsent_store`). The right edge `rcv_adv` never moves left but by the rounding of the window scale
  (RFC 7323 2.4).
* Acknowledgements and window updates are decided once per turn, when all frames and events of
  the turn are in.

Options: MSS, SACK-permitted (`scoreboard`, `unsent_store`), and the window scale that the largest send buffer
asks for: tcp_wmem's maximum is the most that a window can ever promise (tcp(7)), and a larger scale would
only make the steps coarser. Timestamps (`timing`) wherever the guest has them: each segment
carries 12 bytes more, and what they cost is lost in the spread. With over without, both
builds in turn within one run of the bench's bulk sections (cubic), median and range of six rounds of a
second: out 1.01 [0.73-1.44], in 0.94 [0.88-1.17] at MTU 65520; out 1.09 [0.74-1.61], in 1.00 [0.88-1.17]
at MTU 1500. Instructions per byte, user and kernel, of pasta and the guest's iperf3 together (`perf stat
-e instructions:u,instructions:k` on both during `iperf3 -n 1G`, medians of five), out and in: 1.02 and
0.98 times those without at MTU 65520, 0.95 and 1.02 at 1500, where the five differ by 2 to 10 %. Of 0.5
per byte 0.002 to 0.003 are our own code's for the option. To repeat it, offer the option in
`push_syn_options` and take it in `take_syn` or not.

Data that we hold is acknowledged, except in dialogues over real networks: there only what the remote
has acknowledged (`remote_acks`).

Work happens in `from_guest` (segments), `to_guest` (socket events, data to the guest) and
their common end of turn; all of them change the state through `states.set_state` only.

Timers: a connection has up to four deadlines (retransmission or state, delayed acknowledgement,
another look at the send buffer, keep-alive) and one entry in the heap, armed for the earliest and
lazily: it may fire early, when the deadline has moved on, and is armed again.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.packet.checksum cimport csum_fold, pseudo4, pseudo6
from passt.dataplane.flow.record cimport Flow
from passt.dataplane.flow.tcp cimport (
    CONN_ACK_DELAYED, CONN_ACK_NOW, CONN_HELD, CONN_HOST_EOF, CONN_SACK, CONN_TIMESTAMPS, CONN_WANT_OUT,
    CONN_WINDOW_STALE, CONN_WRITE_SHUT, TCP_CLOSED, TCP_CONNECTING, TCP_SYN_RECEIVED, TCP_SYN_SENT,
    TCP_TIME_WAIT, TcpConn,
)
from passt.dataplane.base.siphash cimport siphash
from passt.dataplane.packet.headers cimport (
    ETH_HLEN, IP4_HLEN, IP6_HLEN, MAX_IP_LEN, TCP_ACK, TCP_FIN, TCP_HLEN, TCP_RST, TCP_SYN, TcpHdr,
)
from passt.dataplane.packet.parse cimport IpView, TcpOptions, TcpView, read_tcp_options
from passt.dataplane.ip.path_mtu cimport known_mtu
from passt.dataplane.loop.reactor cimport EVENT_FLOW, make_tag
from passt.dataplane.base.externs cimport (
    EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLLET, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP, IPPROTO_TCP,
    VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6, htonl, htons, memcpy, memset,
)
from passt.dataplane.core.decisions cimport note_ended
from passt.dataplane.core.station cimport station_of
from passt.dataplane.link.meta cimport TxMeta
from passt.dataplane.loop.timers cimport ms
from passt.dataplane.tcp.scoreboard cimport drop_board
from passt.dataplane.tcp.sequence cimport acceptable_seq, ack_number, overflow_len, seq_lt
from passt.dataplane.tcp.states cimport set_state
from passt.dataplane.tcp.unsent_store cimport drop_store, push_sack
from passt.dataplane.tcp.timing cimport TIMESTAMPS_LEN, push_timestamps, take_timestamps

cdef enum:
    MSS_OPTION_LEN = 4
    MAX_WINDOW = 65535
    # A frame of the largest size is cut into segments of this size at least (Linux: tcp_min_snd_mss).
    MIN_MSS = 48
    # With less room than this the guest is about to stop: have the kernel tell us of more. Two
    # segments at the largest MTU.
    LOW_WINDOW = 131072
    # A send buffer with room for less than the guest's segment is looked at again after 1, 2, 4 ... ms,
    # so that a window opens at the latest after twice the time that the buffer took to drain; a remote
    # that reads nothing for hours costs a wake-up in 17 minutes.
    POLL_SOCKET_MS = 1
    # What a guest may say before it is judged: ClientHellos take less than 2 KiB, heads of HTTP 8 at most.
    MAX_HELD = 16384
    MAX_POLLS = 20


cdef uint32_t choose_isn(Core core, const Flow *flow) noexcept nogil:
    """Initial sequence number: a clock of 4 us ticks plus a keyed hash of the tuple (RFC 6528 3)."""
    return <uint32_t>(core.now // 4000 + siphash(core.isn_key, <const uint8_t *>&flow.keys[0], 5))


cdef uint16_t our_mss(Core core, const Flow *flow) noexcept nogil:
    """The MSS that the guest is told: what fits its MTU (RFC 6691), or any packet if none is assigned."""
    cdef uint32_t mtu = core.mtu if core.mtu else MAX_IP_LEN
    return <uint16_t>(mtu - (IP4_HLEN if flow.keys[0].addr_len == 4 else IP6_HLEN) - TCP_HLEN)


cdef uint16_t path_mss(Core core, const Flow *flow) noexcept nogil:
    """The MSS that the way to the guest takes as far as is known."""
    cdef uint16_t mss = our_mss(core, flow)
    cdef uint32_t mtu = known_mtu(core, flow.keys[0].guest)
    return min(mss, mss_of(flow, mtu)) if mtu else mss


cdef uint16_t mss_of(const Flow *flow, uint32_t mtu) noexcept nogil:
    """The MSS for packets of *mtu* bytes, at least MIN_MSS (RFC 9293 3.7.1)."""
    cdef uint32_t headers = (IP4_HLEN if flow.keys[0].addr_len == 4 else IP6_HLEN) + TCP_HLEN
    return <uint16_t>(min(max(mtu, headers + MIN_MSS), <uint32_t>MAX_IP_LEN) - headers)


cdef void take_syn(Core core, Flow *flow, const TcpView *tcp) noexcept nogil:
    """Take the guest's sequence number, window and options from its SYN."""
    cdef TcpConn *conn = &flow.body.tcp
    cdef TcpOptions options
    read_tcp_options(tcp, &options)
    conn.irs = tcp.seq
    conn.rcv_nxt = tcp.seq + 1
    conn.rcv_acked = conn.rcv_nxt
    conn.rcv_adv = conn.rcv_nxt
    conn.snd_wnd = tcp.window
    conn.max_wnd = tcp.window
    conn.snd_wl1 = tcp.seq
    conn.mss = max(min(options.mss, path_mss(core, flow)), <uint16_t>MIN_MSS)
    if options.window_scale >= 0:
        conn.snd_wscale = <uint8_t>options.window_scale
        conn.rcv_wscale = core.sockets.window_scale
    if options.sack_permitted:
        conn.flags |= CONN_SACK
    if options.timestamps:
        take_timestamps(core, flow, options.ts_val)


cdef size_t options_place(const Flow *flow) noexcept nogil:
    """Where in the link's slot what follows the TCP header lies."""
    return ETH_HLEN + (IP4_HLEN if flow.keys[0].addr_len == 4 else IP6_HLEN) + TCP_HLEN


cdef size_t payload_place(const Flow *flow) noexcept nogil:
    """Where in the link's slot the payload of a data segment lies."""
    return options_place(flow) + (TIMESTAMPS_LEN if flow.body.tcp.flags & CONN_TIMESTAMPS else 0)


cdef uint32_t push_syn_options(Core core, const Flow *flow, bint is_answer, uint8_t *p) noexcept nogil:
    """MSS, window scale, SACK-permitted, timestamps (RFC 9293 3.2, RFC 7323 2.2 and 3.2, RFC 2018 2).

    Returns their length. A SYN of ours offers all of them, an answer the last three only where the
    guest's SYN did.
    """
    cdef uint16_t mss = our_mss(core, flow)
    cdef uint32_t n = MSS_OPTION_LEN
    p[0] = 2
    p[1] = MSS_OPTION_LEN
    p[2] = <uint8_t>(mss >> 8)
    p[3] = <uint8_t>(mss & 0xff)
    if not is_answer or flow.body.tcp.rcv_wscale:
        p[n] = 1
        p[n + 1] = 3
        p[n + 2] = 3
        p[n + 3] = core.sockets.window_scale
        n += 4
    if not is_answer or flow.body.tcp.flags & CONN_SACK:
        p[n] = 1
        p[n + 1] = 1
        p[n + 2] = 4
        p[n + 3] = 2
        n += 4
    if not is_answer or flow.body.tcp.flags & CONN_TIMESTAMPS:
        n += push_timestamps(core, &flow.body.tcp, p + n)
    return n


cdef uint16_t window_field(const TcpConn *conn, uint32_t ack, bint syn) noexcept nogil:
    """The window field for what `rcv_adv` promises; rounded down, so never more (RFC 7323 2.2, 2.3)."""
    cdef uint32_t window = conn.rcv_adv - ack
    if not syn:
        window >>= conn.rcv_wscale
    return <uint16_t>min(window, <uint32_t>MAX_WINDOW)


cdef bint push_tcp(Core core, const uint8_t *mac, const uint8_t *source, const uint8_t *destination,
                   size_t addr_len, TcpHdr *fields, uint32_t options_len, uint32_t payload_len,
                   uint16_t mss) noexcept nogil:
    """Put a segment out whose options and payload lie already behind the header's place in the slot."""
    cdef uint32_t l4_len = TCP_HLEN + options_len + payload_len
    cdef uint8_t *header = core.push_ip(mac, source, destination, addr_len, IPPROTO_TCP, l4_len)
    cdef TxMeta meta
    fields.data_offset = <uint8_t>(((TCP_HLEN + options_len) // 4) << 4)
    fields.urgent_be = 0
    if addr_len == 4:
        fields.csum_be = <uint16_t>~csum_fold(pseudo4(source, destination, IPPROTO_TCP, l4_len))
    else:
        fields.csum_be = <uint16_t>~csum_fold(pseudo6(source, destination, IPPROTO_TCP, l4_len))
    memcpy(header, fields, TCP_HLEN)
    memset(&meta, 0, sizeof(meta))
    meta.csum_start = <uint16_t>(header - core.link.slot)
    meta.csum_offset = 16
    meta.hdr_len = <uint16_t>(meta.csum_start + TCP_HLEN + options_len)
    if payload_len > mss:
        meta.gso_type = VIRTIO_NET_HDR_GSO_TCPV4 if addr_len == 4 else VIRTIO_NET_HDR_GSO_TCPV6
        meta.gso_size = mss
    if core.link.n_placed:
        return core.link.send_placed(meta.hdr_len + payload_len, &meta)
    return core.send(meta.hdr_len + payload_len, &meta)


cdef bint send_segment(Core core, Flow *flow, uint8_t flags, uint32_t seq,
                       uint32_t payload_len) noexcept nogil:
    """Send a segment with *payload_len* bytes that lie at `payload_place`; False if the link refused it.

    With ACK set it settles every acknowledgement that is due.
    """
    cdef TcpConn *conn = &flow.body.tcp
    cdef TcpHdr fields
    cdef uint32_t options_len = 0
    cdef uint32_t sack_len = 0
    cdef uint32_t ack = conn.rcv_nxt if flags & TCP_RST else ack_number(conn)
    cdef bint syn = (flags & TCP_SYN) != 0
    cdef uint8_t *options = core.link.slot + options_place(flow)
    if syn:
        options_len = push_syn_options(core, flow, (flags & TCP_ACK) != 0, options)
    else:
        if conn.flags & CONN_TIMESTAMPS:
            options_len = push_timestamps(core, conn, options)
        if not payload_len and conn.flags & CONN_SACK and flags & (TCP_ACK | TCP_RST) == TCP_ACK:
            # Only what carries no data reports (RFC 2018 4 is content): each early segment is answered. While
            # the acknowledgement lags nothing is behind a hole, and duplicates are not reported yet.
            sack_len = 0 if ack != conn.rcv_nxt else push_sack(conn, options + options_len)
            options_len += sack_len
    fields.src_port_be = htons(flow.keys[0].remote_port)
    fields.dst_port_be = htons(flow.keys[0].guest_port)
    fields.seq_be = htonl(seq)
    fields.ack_be = htonl(ack) if flags & TCP_ACK else 0
    fields.flags = flags
    fields.window_be = htons(window_field(conn, ack, syn))
    if not push_tcp(core, station_of(core, flow), flow.keys[0].remote, flow.keys[0].guest,
                    flow.keys[0].addr_len, &fields, options_len, payload_len, conn.mss):
        return False
    if flags & TCP_ACK:
        conn.rcv_acked = ack
        conn.remote_acked = ack
        conn.flags &= ~<uint32_t>(CONN_ACK_NOW | CONN_ACK_DELAYED)
        if ack == conn.rcv_nxt:
            conn.ack_at = 0
        if sack_len:
            conn.tell_start = conn.tell_end
    return True


cdef bint send_ack(Core core, Flow *flow) noexcept nogil:
    return send_segment(core, flow, TCP_ACK, acceptable_seq(&flow.body.tcp), 0)


cdef bint send_syn(Core core, Flow *flow) noexcept nogil:
    """Send or repeat our SYN or SYN-ACK, always with the same sequence number."""
    return send_segment(core, flow, TCP_SYN | (TCP_ACK if flow.body.tcp.state == TCP_SYN_RECEIVED else 0),
                        flow.body.tcp.iss, 0)


cdef void send_reset(Core core, const IpView *ip, const TcpView *tcp) noexcept nogil:
    """Answer a segment that belongs to no connection (RFC 9293 3.10.7.1)."""
    cdef TcpHdr fields
    if tcp.flags & TCP_RST:
        return
    memset(&fields, 0, sizeof(fields))
    fields.src_port_be = htons(tcp.dst_port)
    fields.dst_port_be = htons(tcp.src_port)
    if tcp.flags & TCP_ACK:
        fields.seq_be = htonl(tcp.ack)
        fields.flags = TCP_RST
    else:
        fields.ack_be = htonl(tcp.seq + <uint32_t>tcp.payload_len + ((tcp.flags & TCP_SYN) != 0)
                              + ((tcp.flags & TCP_FIN) != 0))
        fields.flags = TCP_RST | TCP_ACK
    core.stats.tcp_resets_sent += 1
    push_tcp(core, ip.mac, ip.dst, ip.src, ip.addr_len, &fields, 0, 0, MAX_WINDOW)


cdef int watch(Core core, Flow *flow, uint32_t extra, WatchMode mode) noexcept nogil:
    """Watch the socket, edge-triggered; 0 or a negative errno, the latter only for WATCH_ADD."""
    return core.sockets.watch(flow.fd, EPOLL_CTL_ADD if mode == WATCH_ADD else EPOLL_CTL_MOD,
                              EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLET | extra,
                              make_tag(EVENT_FLOW, flow.generation, flow.index))


cdef int64_t most_window(const TcpConn *conn) noexcept nogil:
    """The largest window that may be told: what its field can say, or what is left of MAX_HELD.

    The field's rounding must not keep a guest from sending the last of these bytes.
    """
    if not conn.flags & CONN_HELD:
        return <int64_t>MAX_WINDOW << conn.rcv_wscale
    return <int64_t>MAX_HELD + (1 << conn.rcv_wscale) - 1 - <uint32_t>(conn.rcv_nxt - conn.irs - 1)


cdef void update_window(Core core, Flow *flow) noexcept nogil:
    """Move the window's right edge to what can be stored now; ask to be told when there is too little.

    Small steps are saved up (RFC 9293 3.8.6.2.2), unless that would leave the guest with less than a
    segment. EPOLLOUT comes when a third of the buffer is free; asking for it while less is free also
    makes the kernel enlarge the buffer with the congestion window (net/ipv4/tcp_input.c,
    tcp_check_space). It is not asked for when a quarter is free or more: a socket that is writable
    already is reported at once, again and again. A small buffer, of which a third may be less than a
    segment of the guest, is polled ever more seldom.
    """
    cdef TcpConn *conn = &flow.body.tcp
    cdef int64_t total = 0
    cdef int64_t room = core.sockets.free_space(flow.fd, &total) - overflow_len(flow)
    cdef int64_t limit = most_window(conn)
    cdef int64_t window = min(room, limit)
    cdef int64_t segment = our_mss(core, flow)
    cdef int64_t open_now = <uint32_t>(conn.rcv_adv - conn.rcv_nxt)
    cdef int64_t step = window - open_now
    conn.flags &= ~<uint32_t>CONN_WINDOW_STALE
    if step > 0 and (step >= min(segment, window // 2) or open_now < segment <= window):
        conn.rcv_adv = conn.rcv_nxt + <uint32_t>window
        open_now = window
    conn.rcv_room = <uint32_t>open_now
    if room < min(<int64_t>LOW_WINDOW, total // 4) and not conn.flags & CONN_WANT_OUT:
        conn.flags |= CONN_WANT_OUT
        watch(core, flow, EPOLLOUT, WATCH_CHANGE)
    if open_now < min(<int64_t>LOW_WINDOW, total // 2, limit // 2):
        conn.sock_at = core.now + (ms(POLL_SOCKET_MS) << conn.sock_polls)
        conn.sock_polls += conn.sock_polls < MAX_POLLS
        set_timer(core, flow)
    elif not overflow_len(flow):
        conn.sock_at = 0


cdef void set_timer(Core core, Flow *flow) noexcept nogil:
    """Arm the flow's timer for its earliest deadline."""
    cdef TcpConn *conn = &flow.body.tcp
    cdef int64_t first = conn.rtx_at
    if conn.ack_at and (not first or conn.ack_at < first):
        first = conn.ack_at
    if conn.sock_at and (not first or conn.sock_at < first):
        first = conn.sock_at
    if conn.alive_at and (not first or conn.alive_at < first):
        first = conn.alive_at
    if first:
        core.arm(flow, first)


cdef void start_rtx(Core core, Flow *flow, int64_t delay) noexcept nogil:
    """(Re)start the retransmission timer."""
    flow.body.tcp.rtx_at = core.now + delay
    set_timer(core, flow)


cdef void consume_acked(Core core, Flow *flow) noexcept nogil:
    """Drop from the socket what the guest has acknowledged."""
    cdef TcpConn *conn = &flow.body.tcp
    cdef uint32_t upto = conn.snd_una
    cdef ssize_t got
    if conn.flags & CONN_HOST_EOF and seq_lt(conn.fin_seq, upto):
        upto = conn.fin_seq
    while flow.fd >= 0 and seq_lt(conn.sock_una, upto):
        got = core.sockets.consume(flow.fd, upto - conn.sock_una)
        if got <= 0:
            return
        conn.sock_una += <uint32_t>got


cdef void end_connection(Core core, Flow *flow, bint abort) noexcept nogil:
    """Forget the connection. The remote sees a reset if *abort*, or if data it was owed is lost."""
    cdef TcpConn *conn = &flow.body.tcp
    if flow.fd >= 0:
        note_ended(core, flow, why_ended(conn, abort))
        if abort or overflow_len(flow):
            core.sockets.abort(flow.fd)
        else:
            consume_acked(core, flow)         # closed with something unread it would send a reset
            core.sockets.close(flow.fd)
        flow.fd = -1
    drop_store(core, conn)
    drop_board(core, conn)
    if core.gather.flow == flow:
        core.gather.flow = NULL
        core.gather.n = 0
    core.disarm(flow)
    core.stats.flows_tcp -= 1
    set_state(core, flow, TCP_CLOSED)
    core.flows.release(flow)


cdef const char *why_ended(const TcpConn *conn, bint abort) noexcept nogil:
    """A word for how a connection ends."""
    if not abort:
        return b"finished"
    return b"refused" if conn.state in (TCP_CONNECTING, TCP_SYN_SENT) else b"reset"


cdef void end_tcp(Core core, Flow *flow) noexcept nogil:
    """End a connection for the engine's reasons: leave nobody with half a stream that looks whole.

    Where the guest had ended its stream and all of it is in the kernel's hands, the kernel delivers it.
    Any other remote sees a reset, and so does the guest, as far as the link takes it at once.
    """
    if flow.body.tcp.state != TCP_TIME_WAIT and not core.link.blocked:
        reset_guest(core, flow)
    end_connection(core, flow, not flow.body.tcp.flags & CONN_WRITE_SHUT)


cdef void make_way(Core core, Flow *flow) noexcept nogil:
    """End a connection because another one needs its record or its descriptor.

    A guest that was not answered yet is told nothing, so that its next SYN finds out whether there is room
    again: who opened this one may have nothing to do with those that took the room.
    """
    if flow.body.tcp.state == TCP_CONNECTING:
        end_connection(core, flow, True)
    else:
        end_tcp(core, flow)


cdef void reset_both(Core core, Flow *flow) noexcept nogil:
    """Reset the guest's side and the remote's."""
    reset_guest(core, flow)
    end_connection(core, flow, True)


cdef void reset_guest(Core core, Flow *flow) noexcept nogil:
    """Send the guest a reset: the connection has ended."""
    cdef TcpConn *conn = &flow.body.tcp
    core.stats.tcp_resets_sent += 1
    if conn.state == TCP_SYN_SENT:
        send_segment(core, flow, TCP_RST, conn.snd_max, 0)
    elif conn.state == TCP_CONNECTING:
        # The guest is in SYN-SENT, where only an acknowledging reset counts (RFC 9293 3.10.7.3).
        send_segment(core, flow, TCP_RST | TCP_ACK, 0, 0)
    else:
        # RFC 5961 3.2: it counts at exactly the number that the guest expects.
        send_segment(core, flow, TCP_RST | TCP_ACK, acceptable_seq(conn), 0)
