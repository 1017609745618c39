"""TCP segments from the guest: new connections, the receiving half, acknowledgements.

Read `tcp.segments` first. In-order payload is not written segment by segment: pieces of one connection
that follow each other in a batch are gathered and written by one call (`flush_gather`), straight
from where the link received them. `rcv_nxt` moves when a piece is gathered; what the socket then
does not take goes to the store (`unsent_store`), and bytes that do not fit there are given back by moving
`rcv_nxt` back, before the guest has seen an acknowledgement of them. Payload that comes before its turn
goes to the store and is answered at once, each segment by one duplicate acknowledgement (RFC 5681 4.2);
a FIN before its turn is remembered.
"""

from libc.stdint cimport uint8_t, uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.key cimport SIDE_GUEST, FlowKey, fill_key
from passt.dataplane.flow.record cimport Flow
from passt.dataplane.flow.tcp cimport (
    CONN_ACK_NOW, CONN_FIN_EARLY, CONN_GUEST_FIN, CONN_HELD, CONN_HOST_EOF, CONN_PUSHED, CONN_RECOVERY,
    CONN_RTT_TIMED, CONN_SACK, CONN_TIMESTAMPS, CONN_WINDOW_STALE, TCP_CLOSING, TCP_CONNECTING, TCP_CLOSED,
    TCP_ESTABLISHED, TCP_FIN_WAIT_1, TCP_FIN_WAIT_2, TCP_LAST_ACK, TCP_SYN_RECEIVED, TCP_SYN_SENT,
    TCP_TIME_WAIT, TcpConn,
)
from passt.dataplane.packet.headers cimport ETH_ALEN, MAX_FRAME, TCP_ACK, TCP_FIN, TCP_PSH, TCP_RST, TCP_SYN
from passt.dataplane.packet.parse cimport IpView, TcpView, split_tcp
from passt.dataplane.base.assertions cimport PASST_ASSERT
from passt.dataplane.base.stats cimport (
    DROP_BAD_PORT, DROP_TCP_ACK, DROP_TCP_FLAGS, DROP_TCP_MEMORY, DROP_TCP_SEQUENCE,
    DROP_UNKNOWN_FLOW, VERDICT_OK, Verdict, count,
)
from passt.dataplane.base.externs cimport (
    EAGAIN, EFAULT, ENOBUFS, ENOMEM, IPPROTO_TCP, iovec, malloc, memcmp, memcpy,
)
from passt.dataplane.loop.timers cimport ms
from passt.dataplane.tcp.remote_acks cimport on_repeated
from passt.dataplane.core.station cimport follow_sender, move_flow, station_of
from passt.dataplane.flow.batches cimport MAX_GATHER
from passt.dataplane.tcp.early_data cimport (
    TIME_WAIT_MS, accept_fin, clip_at_fin, note_duplicate, close_hole, enter_time_wait, hold, keep_early,
    keep_rest, note_fin,
)
from passt.dataplane.tcp.challenge cimport challenge, may_answer
from passt.dataplane.tcp.segments cimport (
    consume_acked, end_connection, our_mss, reset_both, send_ack, send_reset, send_syn, set_timer,
    start_rtx, take_syn, update_window,
)
from passt.dataplane.tcp.to_guest cimport go_back, may_send_data, resend_first, resend_holes, sync_peek_offset
from passt.dataplane.tcp.keepalive cimport note_guest_alive, start_keep_alive
from passt.dataplane.tcp.open cimport open_connection
from passt.dataplane.tcp.scoreboard cimport advance_board, take_blocks
from passt.dataplane.tcp.sequence cimport CWND_OPEN, overflow_len, seq_le, seq_lt
from passt.dataplane.tcp.states cimport note_used, set_state
from passt.dataplane.tcp.unsent_store cimport store_end
from passt.dataplane.tcp.timing cimport check_timestamps, echo_syn, note_timestamp, on_rtt, time_echo

cdef enum:
    DUP_ACKS = 3                  # RFC 5681 3.2
    SYN_AGAIN_MS = 2              # Linux: TCP_TIMEOUT_MIN, two ticks
    MAX_REPEATED = 4 << 20        # bytes that a guest may have in flight, and repeats from another MAC


cdef void on_segment(Core core, const IpView *ip) noexcept nogil:
    """Take one segment whose IP header is checked."""
    cdef TcpView tcp
    cdef FlowKey key
    cdef Flow *flow
    cdef Verdict verdict = split_tcp(ip, &tcp)
    if verdict != VERDICT_OK:
        count(&core.stats, verdict)
        return
    if not tcp.src_port or not tcp.dst_port:
        count(&core.stats, DROP_BAD_PORT)
        return
    fill_key(&key, ip, IPPROTO_TCP, tcp.src_port, tcp.dst_port)
    flow = core.gather.flow
    if flow == NULL or memcmp(&key, &flow.keys[<int>SIDE_GUEST], sizeof(FlowKey)):
        flow = core.flows.find(&key, SIDE_GUEST)
    if flow != NULL and is_reuse(flow, &tcp, not memcmp(ip.mac, station_of(core, flow), ETH_ALEN)):
        end_connection(core, flow, flow.body.tcp.state != TCP_TIME_WAIT)
        flow = NULL
    if flow == NULL:
        if tcp.flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN) == TCP_SYN:
            open_connection(core, ip, &tcp, &key)
        else:
            count(&core.stats, DROP_UNKNOWN_FLOW)
            send_reset(core, ip, &tcp)
    elif flow.body.tcp.state == TCP_SYN_SENT:
        in_syn_sent(core, flow, ip, &tcp)
    elif flow.body.tcp.state == TCP_CONNECTING:
        in_connecting(core, flow, ip, &tcp)
    else:
        in_connection(core, flow, ip, &tcp)


cdef bint is_reuse(const Flow *flow, const TcpView *tcp, bint same_station) noexcept nogil:
    """A SYN that opens the tuple of a connection anew.

    In TIME-WAIT by its number (RFC 9293 3.6.1); where the handshake is not complete by any other number
    than before, if it is of the *same_station*: that has forgotten its first attempt. In later states it is
    challenged.
    """
    if tcp.flags & (TCP_SYN | TCP_ACK | TCP_RST) != TCP_SYN:
        return False
    if flow.body.tcp.state == TCP_TIME_WAIT:
        return seq_lt(flow.body.tcp.rcv_nxt - 1, tcp.seq)
    return (same_station and flow.body.tcp.state in (TCP_CONNECTING, TCP_SYN_RECEIVED)
            and tcp.seq != flow.body.tcp.irs)


cdef bint is_own(const TcpConn *conn, const TcpView *tcp) noexcept nogil:
    """Whether a segment that another station sends is one of the connection, which then is that station's.

    Its acknowledgement must be of what is in flight, or of all. It may repeat what came already: our
    acknowledgements of that went to where the guest was before.
    """
    if tcp.flags & (TCP_ACK | TCP_SYN | TCP_RST) != TCP_ACK:
        return False
    if seq_lt(tcp.ack, conn.snd_una) or seq_lt(conn.snd_max, tcp.ack):
        return False
    return seq_le(conn.rcv_nxt - <uint32_t>MAX_REPEATED, tcp.seq) and seq_le(tcp.seq, conn.rcv_adv)


cdef void in_syn_sent(Core core, Flow *flow, const IpView *ip, const TcpView *tcp) noexcept nogil:
    """The guest's answer to our SYN (RFC 9293 3.10.7.3).

    A wrong acknowledgement is most likely of an earlier connection of the tuple that the guest remembers.
    Our reset ends that (RFC 9293 3.5.1, figure 9), so the first SYN is soon repeated, as Linux does
    (net/ipv4/tcp_input.c, tcp_rcv_synsent_state_process).
    """
    cdef TcpConn *conn = &flow.body.tcp
    cdef bint ack_ok = tcp.flags & TCP_ACK and tcp.ack == conn.snd_nxt
    if tcp.flags & TCP_ACK and not ack_ok:
        count(&core.stats, DROP_TCP_ACK)
        send_reset(core, ip, tcp)
        if not conn.retries and not tcp.flags & TCP_RST:
            start_rtx(core, flow, ms(SYN_AGAIN_MS))
    elif tcp.flags & TCP_RST:
        if ack_ok:
            end_connection(core, flow, True)
        else:
            count(&core.stats, DROP_TCP_SEQUENCE)
    elif ack_ok and tcp.flags & TCP_SYN:
        follow_sender(core, flow, ip.mac)
        take_syn(core, flow, tcp)
        conn.snd_una = tcp.ack
        conn.sock_una = tcp.ack
        conn.snd_wl2 = tcp.ack
        conn.rtx_at = 0
        conn.retries = 0
        conn.backoff = 0
        set_state(core, flow, TCP_ESTABLISHED)
        start_keep_alive(core, flow)
        update_window(core, flow)
        conn.flags |= CONN_ACK_NOW
        core.flows.add_work(flow)
    else:
        count(&core.stats, DROP_TCP_FLAGS)


cdef void in_connecting(Core core, Flow *flow, const IpView *ip, const TcpView *tcp) noexcept nogil:
    """The host's socket is not connected yet: the guest may repeat its SYN or give up."""
    if tcp.flags & TCP_RST and tcp.seq == flow.body.tcp.rcv_nxt:
        end_connection(core, flow, True)
    elif tcp.flags & TCP_SYN and tcp.seq == flow.body.tcp.irs:
        follow_sender(core, flow, ip.mac)
        echo_syn(core, &flow.body.tcp, tcp)
    else:
        count(&core.stats, DROP_TCP_FLAGS)


cdef void in_connection(Core core, Flow *flow, const IpView *ip, const TcpView *tcp) noexcept nogil:
    """SYN-RECEIVED and all later states (RFC 9293 3.10.7.4), in the RFC's order of checks."""
    cdef TcpConn *conn = &flow.body.tcp
    if conn.state == TCP_SYN_RECEIVED and tcp.flags & TCP_SYN and tcp.seq == conn.irs:
        follow_sender(core, flow, ip.mac)
        echo_syn(core, conn, tcp)
        send_syn(core, flow)
        return
    if memcmp(ip.mac, station_of(core, flow), ETH_ALEN) and is_own(conn, tcp):
        move_flow(core, flow, ip.mac)
    note_guest_alive(core, flow, tcp)
    if not check_sequence(core, flow, tcp):
        return
    if not tcp.flags & TCP_ACK:
        count(&core.stats, DROP_TCP_FLAGS)
        return
    if conn.state == TCP_SYN_RECEIVED:
        if tcp.ack != conn.snd_nxt:
            count(&core.stats, DROP_TCP_ACK)
            send_reset(core, ip, tcp)
            return
        conn.rtx_at = 0
        conn.backoff = 0
        conn.snd_una = tcp.ack
        conn.sock_una = tcp.ack
        conn.snd_wnd = <uint32_t>tcp.window << conn.snd_wscale
        conn.max_wnd = max(conn.max_wnd, conn.snd_wnd)
        conn.snd_wl2 = tcp.ack
        if conn.flags & CONN_HELD:
            hold(core, flow)
        else:
            set_state(core, flow, TCP_ESTABLISHED)
        start_keep_alive(core, flow)
    if not take_ack(core, flow, tcp):
        return
    if tcp.payload_len and conn.state != TCP_TIME_WAIT:
        take_payload(core, flow, tcp)
    if tcp.flags & TCP_FIN and conn.state != TCP_CLOSED:
        take_fin(core, flow, tcp)
    if conn.state != TCP_CLOSED:
        core.flows.add_work(flow)


cdef bint check_sequence(Core core, Flow *flow, const TcpView *tcp) noexcept nogil:
    """RFC 9293 3.10.7.4, first to fourth, with the challenge ACKs of RFC 5961 3.2 and 4.2.

    A segment that starts exactly at the right edge passes, as in Linux: it is what a guest sends
    that has filled the window.
    """
    cdef TcpConn *conn = &flow.body.tcp
    cdef uint32_t seg_end = tcp.seq + <uint32_t>tcp.payload_len + ((tcp.flags & TCP_FIN) != 0)
    # A SYN is of a guest that has forgotten the connection, timestamps and all: it has to be challenged.
    cdef bint timed = conn.flags & CONN_TIMESTAMPS and not tcp.flags & (TCP_RST | TCP_SYN)
    if tcp.flags & TCP_RST and tcp.seq == conn.rcv_acked:
        # Exact by what the guest was told: where it knows no such connection, that is the number it takes.
        end_connection(core, flow, True)
        return False
    if timed and not check_timestamps(core, flow, tcp):
        return False
    if seq_lt(seg_end, conn.rcv_nxt) or seq_lt(conn.rcv_adv, tcp.seq):
        count(&core.stats, DROP_TCP_SEQUENCE)
        # Segments without data could be answered by such from there, without end (see `tcp.challenge`).
        if not tcp.flags & TCP_RST and (tcp.payload_len or tcp.flags & TCP_FIN or may_answer(core, flow)):
            if tcp.payload_len and seq_lt(seg_end, conn.rcv_nxt):
                note_duplicate(conn, tcp.seq, <uint32_t>tcp.payload_len)
                on_repeated(core, flow)
            answer_probe(core, flow)
        return False
    if tcp.flags & TCP_RST:
        if tcp.seq == conn.rcv_nxt:
            end_connection(core, flow, True)
            return False
        challenge(core, flow)
        return False
    if tcp.flags & TCP_SYN:
        challenge(core, flow)
        return False
    if timed:
        note_timestamp(core, conn, tcp)
    return True


cdef void answer_probe(Core core, Flow *flow) noexcept nogil:
    """Acknowledge a segment that brings nothing, with the window of now."""
    cdef TcpConn *conn = &flow.body.tcp
    conn.flags |= CONN_ACK_NOW
    if conn.rcv_adv - conn.rcv_nxt < our_mss(core, flow):
        conn.flags |= CONN_WINDOW_STALE
    core.flows.add_work(flow)


cdef bint take_ack(Core core, Flow *flow, const TcpView *tcp) noexcept nogil:
    """Fifth: the acknowledgement and the window; False if the segment is to be dropped."""
    cdef TcpConn *conn = &flow.body.tcp
    cdef uint32_t window = <uint32_t>tcp.window << conn.snd_wscale
    cdef uint32_t old_window = conn.snd_wnd
    cdef uint32_t news = 0        # bytes that are reported to have arrived
    if seq_lt(conn.snd_max, tcp.ack) or seq_lt(tcp.ack, conn.snd_una - conn.max_wnd):
        # It acknowledges what was never sent, or what was long ago (RFC 5961 5.2).
        count(&core.stats, DROP_TCP_ACK)
        challenge(core, flow)
        return False
    # An acknowledgement of new data is news whatever its number: the old window counted from the new
    # snd_una would lie too far right. RFC 9293 leaves that case out, Linux has it (tcp_may_update_window).
    if seq_lt(conn.snd_una, tcp.ack) or tcp.ack == conn.snd_una and (
            seq_lt(conn.snd_wl1, tcp.seq) or (conn.snd_wl1 == tcp.seq and seq_le(conn.snd_wl2, tcp.ack))):
        conn.snd_wnd = window
        conn.max_wnd = max(conn.max_wnd, window)
        conn.snd_wl1 = tcp.seq
        conn.snd_wl2 = tcp.ack
    conn.retries = 0              # the guest is there, whatever it says
    if tcp.options_len and conn.flags & CONN_SACK:
        news = take_blocks(core, conn, tcp)
    if seq_lt(conn.snd_una, tcp.ack):
        news += tcp.ack - conn.snd_una
        ack_advances(core, flow, tcp.ack)
    elif not old_window and conn.snd_wnd:
        window_opens(core, flow)
    elif (tcp.ack == conn.snd_una and conn.snd_una != conn.snd_max and window == old_window and window
            and not tcp.payload_len and not tcp.flags & TCP_FIN):
        core.stats.tcp_duplicate_acks += 1
        conn.dup_acks += conn.dup_acks < 255
        if conn.dup_acks == DUP_ACKS and not conn.flags & CONN_RECOVERY and conn.board == NULL:
            conn.flags |= CONN_RECOVERY
            conn.recover = conn.snd_max
            resend(core, flow)
    if conn.board != NULL:
        flush_gather(core)        # a repeated segment acknowledges, too
        if conn.board != NULL and may_send_data(conn):
            resend_holes(core, flow, news)
    return conn.state != TCP_CLOSED


cdef void resend(Core core, Flow *flow) noexcept nogil:
    """Repeat the first segment; it acknowledges too, so what was gathered must be stored before."""
    flush_gather(core)
    if flow.body.tcp.state != TCP_CLOSED:
        resend_first(core, flow)


cdef void window_opens(Core core, Flow *flow) noexcept nogil:
    """The window opened: bytes sent outside it have to be sent again from snd_una.

    That is a probe's byte. More is in flight only if the guest took back a window that it had offered
    (RFC 9293 3.8.6: it should not), as one does that is short of memory: then it may have dropped all of
    it or nothing, and its acknowledgements will tell. The long waits between probes end, too (3.8.6.1).
    """
    cdef TcpConn *conn = &flow.body.tcp
    conn.backoff = 0
    if conn.rtx_at and may_send_data(conn):
        start_rtx(core, flow, conn.rto)
    if conn.snd_max != conn.snd_una:
        go_back(core, flow, conn.snd_una, conn.snd_max - conn.snd_una > 1)


cdef void ack_advances(Core core, Flow *flow, uint32_t ack) noexcept nogil:
    """New data is acknowledged: take its time, go on with recovery, follow our FIN."""
    cdef TcpConn *conn = &flow.body.tcp
    cdef uint32_t gained = ack - conn.snd_una
    cdef bint fin_acked = conn.flags & CONN_HOST_EOF and ack == conn.fin_seq + 1
    conn.snd_una = ack
    if conn.board != NULL:
        advance_board(core, conn, ack - gained)
    if seq_lt(conn.snd_nxt, ack):
        conn.snd_nxt = ack        # sent before the retransmission moved snd_nxt back
        consume_acked(core, flow)
        sync_peek_offset(core, flow)
    conn.backoff = 0
    conn.dup_acks = 0
    if conn.flags & (CONN_RTT_TIMED | CONN_TIMESTAMPS) and seq_le(conn.rtt_seq, ack):
        if conn.flags & CONN_TIMESTAMPS:
            time_echo(core, conn)
        else:
            on_rtt(conn, core.now - conn.rtt_start)
    if conn.cwnd != CWND_OPEN:
        conn.cwnd = conn.cwnd + gained if conn.cwnd < 1 << 24 else <uint32_t>CWND_OPEN
    if conn.flags & CONN_RECOVERY:
        if not seq_lt(ack, conn.recover):
            conn.flags &= ~<uint32_t>CONN_RECOVERY
        elif conn.board == NULL:
            resend(core, flow)                # RFC 6582 3.2, partial acknowledgement
            if conn.state == TCP_CLOSED:
                return
    if conn.snd_una == conn.snd_max:
        conn.rtx_at = 0
    else:
        start_rtx(core, flow, conn.rto)
    if not fin_acked:
        return
    if conn.state == TCP_FIN_WAIT_1:
        set_state(core, flow, TCP_FIN_WAIT_2)
    elif conn.state == TCP_CLOSING:
        enter_time_wait(core, flow)
    elif conn.state == TCP_LAST_ACK:
        set_state(core, flow, TCP_TIME_WAIT)
        conn.rtx_at = core.now    # both sides are done: forget it with the next timers
        set_timer(core, flow)


cdef void take_payload(Core core, Flow *flow, const TcpView *tcp) noexcept nogil:
    """Seventh: gather payload in order; answer any other at once by a duplicate ACK (RFC 5681 4.2)."""
    cdef TcpConn *conn = &flow.body.tcp
    cdef const uint8_t *data = tcp.payload
    cdef uint32_t n = <uint32_t>tcp.payload_len
    cdef uint32_t old
    note_used(core, flow)
    cdef TcpView joined
    if core.gather.flow != flow or not has_gather_room(core, tcp) or seq_lt(conn.rcv_nxt, tcp.seq):
        flush_gather(core)        # from here on rcv_nxt is what really is stored
        if conn.state == TCP_CLOSED:
            return
    if conn.flags & CONN_GUEST_FIN:           # the flush may just have come to one that was early
        count(&core.stats, DROP_TCP_FLAGS)
        return
    if seq_lt(conn.rcv_nxt, tcp.seq):
        joined = tcp[0]
        joined.payload = payload_in_one(core, tcp)
        if joined.payload == NULL:
            count(&core.stats, DROP_TCP_MEMORY)
        else:
            keep_early(core, flow, &joined)
        return
    old = conn.rcv_nxt - tcp.seq
    if old:
        on_repeated(core, flow)
    if old >= n:
        note_duplicate(conn, tcp.seq, n)
        conn.flags |= CONN_ACK_NOW
        return
    data += old
    n = clip_at_fin(conn, conn.rcv_nxt, n - old)
    if not n:
        answer_probe(core, flow)
        return
    core.gather.flow = flow
    gather(core, data, n)
    conn.rcv_nxt += n
    # A quarter is used up, or it is less than a segment: time to look for more.
    if conn.rcv_adv - conn.rcv_nxt <= max(conn.rcv_room - conn.rcv_room // 4, <uint32_t>our_mss(core, flow)):
        conn.flags |= CONN_WINDOW_STALE
    conn.sock_polls = 0
    if conn.store != NULL:
        conn.flags |= CONN_ACK_NOW            # it closes a hole, or a part of one (RFC 5681 4.2)
    if tcp.flags & TCP_PSH:
        conn.flags |= CONN_PUSHED
    else:
        conn.flags &= ~<uint32_t>CONN_PUSHED


cdef bint has_gather_room(Core core, const TcpView *tcp) noexcept nogil:
    """Whether the payload at hand can be gathered, in however many pieces it lies."""
    cdef size_t n = 1
    cdef size_t behind, covered
    if core.gather.in_pieces != NULL:
        behind = <size_t>(tcp.payload - core.gather.head) + tcp.payload_len
        covered = core.gather.in_pieces.iov_len
        while covered < behind:
            covered += core.gather.in_pieces[n].iov_len
            n += 1
    return core.gather.n + n <= MAX_GATHER


cdef void gather(Core core, const uint8_t *data, size_t n) noexcept nogil:
    """Gather *n* bytes at *data*, or, of a frame in pieces, those that would be there if it lay in one."""
    cdef const iovec *piece = core.gather.in_pieces
    cdef size_t skip = 0
    cdef size_t part
    cdef iovec *out
    if piece != NULL:
        skip = <size_t>(data - core.gather.head)
        while skip >= piece.iov_len:
            skip -= piece.iov_len
            piece += 1
        data = <uint8_t *>piece.iov_base + skip
    while n:
        part = n if piece == NULL else min(n, piece.iov_len - skip)
        PASST_ASSERT(core.gather.n < MAX_GATHER)
        out = &core.gather.pieces[core.gather.n]
        out.iov_base = <void *>data
        out.iov_len = part
        core.gather.n += 1
        n -= part
        if n:
            piece += 1
            skip = 0
            data = <uint8_t *>piece.iov_base


cdef const uint8_t *payload_in_one(Core core, const TcpView *tcp) noexcept nogil:
    """Where the segment's payload lies as a whole; NULL if there is no memory for that."""
    cdef size_t done = 0
    cdef iovec part
    cdef uint32_t before = core.gather.n
    if core.gather.in_pieces == NULL:
        return tcp.payload
    if core.gather.joined == NULL:
        core.gather.joined = <uint8_t *>malloc(MAX_FRAME)
    if core.gather.joined == NULL:
        return NULL
    gather(core, tcp.payload, tcp.payload_len)
    while core.gather.n > before:
        core.gather.n -= 1
        part = core.gather.pieces[core.gather.n]
        done += part.iov_len
        memcpy(core.gather.joined + tcp.payload_len - done, part.iov_base, part.iov_len)
    return core.gather.joined


cdef void take_fin(Core core, Flow *flow, const TcpView *tcp) noexcept nogil:
    """Eighth: the guest will send no more."""
    cdef TcpConn *conn = &flow.body.tcp
    cdef uint32_t fin = tcp.seq + <uint32_t>tcp.payload_len
    flush_gather(core)
    if conn.state == TCP_CLOSED:
        return
    if conn.state == TCP_TIME_WAIT:
        start_rtx(core, flow, ms(TIME_WAIT_MS))
    if not conn.flags & CONN_GUEST_FIN and seq_lt(conn.rcv_nxt, tcp.seq):
        if not tcp.payload_len:   # else `keep_early` has done it
            if note_fin(core, conn, fin):
                note_duplicate(conn, fin, 1)      # the first block is what came last (RFC 2018 4)
            send_ack(core, flow)
        return
    conn.flags |= CONN_ACK_NOW
    if conn.flags & CONN_GUEST_FIN or fin != conn.rcv_nxt:
        return                    # repeated, or not all before it found room
    if fin != store_end(conn):
        count(&core.stats, DROP_TCP_FLAGS)    # data behind it came before
        return
    accept_fin(core, flow)


cdef void flush_gather(Core core) noexcept nogil:
    """Write the gathered pieces to their socket; keep or give back what it does not take."""
    cdef Flow *flow = core.gather.flow
    cdef size_t n = core.gather.n
    cdef size_t i
    cdef size_t total = 0
    cdef ssize_t sent
    if flow == NULL:
        return
    core.gather.flow = NULL
    core.gather.n = 0
    for i in range(n):
        total += core.gather.pieces[i].iov_len
    if overflow_len(flow) or flow.body.tcp.flags & CONN_HELD:
        sent = 0                  # bytes stored earlier go first
    else:
        sent = core.sockets.send(flow.fd, core.gather.pieces, n)
        if sent < 0 and sent in (-EAGAIN, -ENOBUFS, -ENOMEM):
            sent = 0
        if sent == -EFAULT:
            core.link.on_fault()
        if sent < 0:
            # The remote reset the connection, or does not read any more (EPIPE).
            flow.body.tcp.rcv_nxt -= <uint32_t>total
            reset_both(core, flow)
            return
    if <size_t>sent < total:
        core.stats.tcp_short_writes += not flow.body.tcp.flags & CONN_HELD
        keep_rest(core, flow, core.gather.pieces, n, <size_t>sent, total)
    if flow.body.tcp.store != NULL or flow.body.tcp.flags & CONN_FIN_EARLY:
        close_hole(core, flow, <size_t>sent < total)
