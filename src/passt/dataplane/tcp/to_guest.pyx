"""TCP socket events, data to the guest, timers, the end of a turn.

Read `tcp.segments` first. Sockets are watched edge-triggered: CONN_READABLE stays set until a peek finds
nothing, so data that waits for the guest's window or for the link causes no events. Per turn and
connection at most TURN_BUDGET bytes go to the guest, then the others have their turn.
"""

from libc.stdint cimport int64_t, uint16_t, uint32_t

from passt.dataplane.core.decisions cimport note_ended
from passt.dataplane.base.assertions cimport PASST_DEBUG_BUILD
from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.record cimport CLASS_OVER, Flow
from passt.dataplane.flow.tcp cimport (
    CONN_ACK_DELAYED, CONN_ACK_NOW, CONN_ASKED, CONN_FOLLOW, CONN_GUEST_FIN, CONN_HELD, CONN_HOST_EOF,
    CONN_PUSHED, CONN_READABLE, CONN_READ_ON, CONN_RECOVERY, CONN_RTT_TIMED, CONN_STAMPED, CONN_TIMESTAMPS,
    CONN_WANT_OUT, CONN_WINDOW_STALE, TCP_CLOSED, TCP_CLOSE_WAIT, TCP_CLOSING, TCP_CONNECTING,
    TCP_ESTABLISHED, TCP_FIN_WAIT_1, TCP_HELD, TCP_LAST_ACK, TCP_SYN_RECEIVED, TCP_SYN_SENT, TCP_TIME_WAIT,
    SackBoard, SackRange, TcpConn,
)
from passt.dataplane.packet.headers cimport MAX_IP_LEN, TCP_ACK, TCP_FIN, TCP_PSH, ETH_HLEN
from passt.dataplane.base.externs cimport (
    EAGAIN, EFAULT, EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP,
)
from passt.dataplane.loop.timers cimport ms
from passt.dataplane.tcp.remote_acks cimport count_write, follow, on_remote_ack, on_lag_timeout
from passt.dataplane.core.station cimport doubt
from passt.dataplane.tcp.early_data cimport drain_overflow, end_held, hear_remote
from passt.dataplane.tcp.segments cimport (
    consume_acked, end_connection, mss_of, payload_place, reset_both, send_ack, send_segment, send_syn,
    set_timer, start_rtx, update_window,
)
from passt.dataplane.tcp.keepalive cimport on_keep_alive
from passt.dataplane.tcp.failed_connect cimport refuse
from passt.dataplane.tcp.open cimport on_connected
from passt.dataplane.tcp.scoreboard cimport (
    behind_run, drop_board, gap_length, hole_start, is_lost, is_lost_again, note_resent, sacked_before,
    sacked_bytes,
)
from passt.dataplane.tcp.sequence cimport CWND_OPEN, overflow_len, seq_le, seq_lt
from passt.dataplane.tcp.states cimport check_connection, note_used, set_state
from passt.dataplane.tcp.timing cimport RTO_INITIAL_MS, RTO_MAX_MS, TIMESTAMPS_LEN

cdef enum:
    MAX_RESEND = 1 << 20          # bytes that one acknowledgement can have repeated, and a segment more
    TURN_BUDGET = 1 << 20
    # Bytes in flight to the guest. The link has no delay: a few milliseconds' worth keeps it busy,
    # and the kernel walks what is in flight with every peek.
    MAX_IN_FLIGHT = 4 << 20
    # A guest that sent less than this, pushed, may wait for an answer on which the acknowledgement
    # can ride. It is only made to wait after PINGPONG questions were answered; a wait in vain ends that,
    # so that the waits of Nagle's algorithm do not add up. The delay is Linux' shortest
    # (TCP_DELACK_MIN; RFC 9293 3.8.6.3 allows 500 ms): with a much shorter one each sleep of ours
    # would program the CPU's timer anew, which costs more than the acknowledgement.
    ACK_AT_ONCE = 8192
    ACK_DELAY_MS = 40
    PINGPONG = 3
    SYN_RETRIES = 6               # as Linux' tcp_syn_retries; gives up after 123 s
    DATA_RETRIES = 15             # unanswered in a row, as Linux' tcp_retries2
    SLOW_START_SEGMENTS = 2
    NO_MEMORY_MS = 100            # between attempts to write while the system is short of memory


cdef void on_socket(Core core, Flow *flow, int side, uint32_t events) noexcept nogil:
    """An event of the connection's socket."""
    cdef TcpConn *conn = &flow.body.tcp
    cdef int error
    if conn.state == TCP_CONNECTING:
        if not events & (EPOLLOUT | EPOLLERR | EPOLLHUP):
            return
        error = core.sockets.take_error(flow.fd)
        if error or events & (EPOLLERR | EPOLLHUP):
            refuse(core, flow, error)
            return
        on_connected(core, flow)
        if conn.state != TCP_CLOSED and events & (EPOLLIN | EPOLLRDHUP):
            note_readable(conn, events)
        return
    if events & EPOLLERR and conn.flags & CONN_STAMPED:
        on_remote_ack(core, flow)
    # With the error queue in use an error that ends the connection is told from one that an ICMP message
    # left behind by the hang-up that comes with it (net/ipv4/tcp.c, tcp_poll).
    if (events & EPOLLERR and (events & EPOLLHUP or not conn.flags & CONN_STAMPED)
            and core.sockets.take_error(flow.fd)):
        reset_both(core, flow)
        return
    if events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP):
        note_readable(conn, events)
        core.flows.add_work(flow)
    if events & EPOLLOUT and conn.flags & CONN_WANT_OUT:
        on_send_space(core, flow)


cdef void note_readable(TcpConn *conn, uint32_t events) noexcept nogil:
    """The socket has something to read.

    A peek that comes short has seen all there was, and more will cause an event. Not so at the end,
    which is seen by reading it only, nor with urgent data, where the kernel stops short of the mark
    (tcp(7), net/ipv4/tcp.c).
    """
    conn.flags |= CONN_READABLE
    if events & (EPOLLRDHUP | EPOLLHUP | EPOLLPRI):
        conn.flags |= CONN_READ_ON


cdef void on_send_space(Core core, Flow *flow) noexcept nogil:
    """There may be room in the send buffer: fill it, and tell the guest of more window."""
    cdef TcpConn *conn = &flow.body.tcp
    cdef uint32_t edge = conn.rcv_adv
    cdef uint32_t held = overflow_len(flow)
    if conn.flags & CONN_HELD:
        return                    # what it waits for is no room
    if not drain_overflow(core, flow):
        return
    if overflow_len(flow):
        if overflow_len(flow) == held:
            # There is room, but the system has no memory to fill it: no event tells when it has.
            conn.sock_at = core.now + ms(NO_MEMORY_MS)
            set_timer(core, flow)
        return
    conn.flags &= ~<uint32_t>CONN_WANT_OUT
    if conn.state == TCP_TIME_WAIT:
        core.flows.add_work(flow)
        if not conn.rtx_at:
            start_rtx(core, flow, ms(RTO_INITIAL_MS))
    if conn.flags & CONN_GUEST_FIN:
        return
    update_window(core, flow)
    if conn.rcv_adv != edge:
        conn.flags |= CONN_ACK_NOW
        core.flows.add_work(flow)


cdef void sync_peek_offset(Core core, Flow *flow) noexcept nogil:
    """Put the socket's peek place where snd_nxt is."""
    cdef TcpConn *conn = &flow.body.tcp
    cdef uint32_t upto = conn.snd_nxt
    if conn.flags & CONN_HOST_EOF and seq_lt(conn.fin_seq, upto):
        upto = conn.fin_seq
    core.sockets.rewind(flow.fd, upto - conn.sock_una)


cdef bint may_send_data(const TcpConn *conn) noexcept nogil:
    return conn.state in (TCP_ESTABLISHED, TCP_CLOSE_WAIT, TCP_FIN_WAIT_1, TCP_CLOSING, TCP_LAST_ACK)


cdef bint has_to_send(const TcpConn *conn) noexcept nogil:
    """Something may be there to send: new data, data to repeat after a time-out, a FIN."""
    return (conn.flags & CONN_READABLE or seq_lt(conn.snd_nxt, conn.snd_max)
            or (conn.flags & CONN_HOST_EOF and conn.snd_nxt != conn.fin_seq + 1))


cdef uint32_t next_length(Core core, const Flow *flow, bint probe) noexcept nogil:
    """How many bytes the guest's window, recovery and the link's frames let go out next; 0: wait.

    Whole segments, but where half the window is less than one (RFC 9293 3.8.6.2.1).
    """
    cdef const TcpConn *conn = &flow.body.tcp
    cdef uint32_t cwnd = conn.cwnd
    cdef uint32_t gap = 0
    cdef uint32_t in_flight = conn.snd_nxt - conn.snd_una
    cdef uint32_t most = MAX_IP_LEN + ETH_HLEN - <uint32_t>payload_place(flow)
    cdef uint32_t limit, room
    if conn.board != NULL:
        gap = gap_length(conn, conn.snd_nxt)
        if cwnd != CWND_OPEN:
            cwnd += sacked_before(conn, conn.snd_nxt)        # they are not on their way any more
    limit = min(conn.snd_wnd, cwnd, <uint32_t>MAX_IN_FLIGHT)
    if in_flight >= limit:
        return 1 if probe and not in_flight else 0
    room = limit - in_flight
    if conn.flags & CONN_HOST_EOF or gap:
        room = min(room, gap if gap else conn.fin_seq - conn.snd_nxt)
        if room <= conn.mss:
            return room
    if room < conn.mss:
        return 0 if in_flight and room < limit // 2 and not probe else room
    room = min(room, most)
    return room - room % conn.mss


cdef void push_data(Core core, Flow *flow, bint probe) noexcept nogil:
    """Send the guest what its window takes, then a FIN if that was all. May end the connection."""
    cdef TcpConn *conn = &flow.body.tcp
    cdef int64_t budget = TURN_BUDGET
    cdef uint32_t n
    cdef uint32_t skip
    cdef ssize_t got
    while not (conn.flags & CONN_HOST_EOF and conn.snd_nxt - conn.fin_seq <= 1):
        if core.link.blocked:
            core.flows.add_waiting(flow)
            return
        if conn.board != NULL:
            skip_sacked(core, flow)
        n = next_length(core, flow, probe)
        if not n:
            if not conn.rtx_at:
                start_rtx(core, flow, conn.rto)       # zero window: probe it (RFC 9293 3.8.6.1)
            return
        if budget <= 0:
            core.flows.add_work(flow)
            return
        skip = conn.snd_nxt - conn.sock_una
        got = peek_payload(core, flow, skip, n)
        if got == -EAGAIN:
            conn.flags &= ~<uint32_t>CONN_READABLE
            return
        if got < 0:
            if got == -EFAULT:
                core.link.on_fault()
            reset_both(core, flow)
            return
        if got == 0:
            conn.flags = (conn.flags | CONN_HOST_EOF) & ~<uint32_t>CONN_READABLE
            conn.fin_seq = conn.snd_nxt
            break
        if not send_data(core, flow, <uint32_t>got, got < n):
            core.sockets.rewind(flow.fd, skip)
            if core.link.blocked:
                core.flows.add_waiting(flow)
            elif not conn.rtx_at:
                start_rtx(core, flow, conn.rto)
            return
        note_used(core, flow)
        budget -= got
        if <uint32_t>got < n and not conn.flags & CONN_READ_ON:
            conn.flags &= ~<uint32_t>CONN_READABLE
            return
        if probe:
            return
    if conn.board != NULL:
        skip_sacked(core, flow)
    if conn.snd_nxt == conn.fin_seq:
        send_fin(core, flow)


cdef ssize_t peek_payload(Core core, Flow *flow, uint32_t skip, uint32_t n) noexcept nogil:
    """Read *n* bytes that lie *skip* bytes into the socket to where the link sends them from."""
    cdef size_t place = payload_place(flow)
    cdef ssize_t got
    if not core.link.place_payload(place, n):
        return core.sockets.peek(flow.fd, skip, core.link.slot + place, n)
    got = core.sockets.peek_pieces(flow.fd, skip, core.link.placed, <size_t>core.link.n_placed)
    if got <= 0:
        core.link.unplace()
    return got


cdef void skip_sacked(Core core, Flow *flow) noexcept nogil:
    """Go on behind what the guest has already, if that is what comes next."""
    cdef TcpConn *conn = &flow.body.tcp
    cdef uint32_t seq = behind_run(conn, conn.snd_nxt)
    if seq != conn.snd_nxt:
        conn.snd_nxt = seq
        sync_peek_offset(core, flow)


cdef bint send_data(Core core, Flow *flow, uint32_t n, bint last) noexcept nogil:
    """Send *n* bytes that lie in the slot at snd_nxt, and account for them."""
    cdef TcpConn *conn = &flow.body.tcp
    cdef bint again = seq_lt(conn.snd_nxt, conn.snd_max)
    if conn.flags & CONN_ASKED:
        conn.flags &= ~<uint32_t>CONN_ASKED
        conn.pingpong += conn.pingpong < PINGPONG
    if not send_segment(core, flow, TCP_ACK | (TCP_PSH if last else 0), conn.snd_nxt, n):
        return False
    conn.snd_nxt += n
    if again:
        core.stats.tcp_retransmits += 1
        conn.retransmits += 1
        if conn.board != NULL:
            note_resent(conn, conn.snd_nxt - n, n)
    elif not conn.flags & (CONN_RTT_TIMED | CONN_TIMESTAMPS):
        conn.flags |= CONN_RTT_TIMED
        conn.rtt_seq = conn.snd_nxt
        conn.rtt_start = core.now
    if seq_lt(conn.snd_max, conn.snd_nxt):
        conn.snd_max = conn.snd_nxt
    if not conn.rtx_at:
        start_rtx(core, flow, conn.rto)
    return True


cdef void send_fin(Core core, Flow *flow) noexcept nogil:
    """Tell the guest that the remote sends no more; repeated until it is acknowledged."""
    cdef TcpConn *conn = &flow.body.tcp
    if not send_segment(core, flow, TCP_FIN | TCP_ACK, conn.fin_seq, 0):
        if core.link.blocked:
            core.flows.add_waiting(flow)
        elif not conn.rtx_at:
            start_rtx(core, flow, conn.rto)
        return
    conn.snd_nxt = conn.fin_seq + 1
    if seq_lt(conn.snd_max, conn.snd_nxt):
        conn.snd_max = conn.snd_nxt
    if conn.state == TCP_ESTABLISHED:
        set_state(core, flow, TCP_FIN_WAIT_1)
    elif conn.state == TCP_CLOSE_WAIT:
        set_state(core, flow, TCP_LAST_ACK)
    if not conn.rtx_at:
        start_rtx(core, flow, conn.rto)


cdef void resend_first(Core core, Flow *flow) noexcept nogil:
    """Repeat the first segment that is not acknowledged (RFC 5681 3.2)."""
    cdef TcpConn *conn = &flow.body.tcp
    cdef uint32_t upto = conn.snd_max
    cdef ssize_t got
    if flow.fd < 0 or core.link.blocked:
        return
    consume_acked(core, flow)
    core.stats.tcp_retransmits += 1
    conn.retransmits += 1
    conn.flags &= ~<uint32_t>CONN_RTT_TIMED           # Karn's algorithm (RFC 6298 3)
    if conn.flags & CONN_HOST_EOF:
        if conn.snd_una == conn.fin_seq:
            send_segment(core, flow, TCP_FIN | TCP_ACK, conn.fin_seq, 0)
            return
        if seq_lt(conn.fin_seq, upto):
            upto = conn.fin_seq
    core.sockets.rewind(flow.fd, conn.snd_una - conn.sock_una)
    got = core.sockets.peek(flow.fd, conn.snd_una - conn.sock_una, core.link.slot + payload_place(flow),
                            min(<uint32_t>conn.mss, upto - conn.snd_una))
    if got > 0:
        send_segment(core, flow, TCP_ACK | TCP_PSH, conn.snd_una, <uint32_t>got)
    sync_peek_offset(core, flow)


cdef void on_timer(Core core, Flow *flow) noexcept nogil:
    """The flow's entry in the timer heap fired; which deadlines have come is found out here."""
    cdef TcpConn *conn = &flow.body.tcp
    if conn.ack_at and conn.ack_at <= core.now:
        conn.ack_at = 0
        if conn.flags & CONN_FOLLOW:
            on_lag_timeout(core, flow)
        else:
            conn.pingpong = 0
            conn.flags |= CONN_ACK_NOW
            core.flows.add_work(flow)
    if conn.sock_at and conn.sock_at <= core.now:
        conn.sock_at = 0
        on_send_space(core, flow)
        if conn.state == TCP_CLOSED:
            return
    if conn.rtx_at and conn.rtx_at <= core.now:
        conn.rtx_at = 0
        on_rtx(core, flow)
        if conn.state == TCP_CLOSED:
            return
    if conn.alive_at and conn.alive_at <= core.now:
        on_keep_alive(core, flow)
        if conn.state == TCP_CLOSED:
            return
    set_timer(core, flow)


cdef void on_rtx(Core core, Flow *flow) noexcept nogil:
    """The retransmission timer: repeat a SYN, repeat data or probe the window, or end TIME-WAIT.

    Data that is repeated starts slowly (RFC 5681 3.1); a probe says nothing of congestion.
    """
    cdef TcpConn *conn = &flow.body.tcp
    if conn.state == TCP_TIME_WAIT:
        # What is held keeps the record; it ends some time after `on_send_space` has got rid of it.
        if not overflow_len(flow):
            end_connection(core, flow, False)
        return
    if conn.state == TCP_HELD:
        end_held(core, flow, b"the guest has not told a name in time")
        return
    if core.link.blocked:
        # A guest that does not read, a paused one perhaps, cannot answer: that is no sign of its end.
        core.flows.add_waiting(flow)
        return
    conn.retries += 1
    if conn.retries > (SYN_RETRIES if conn.state in (TCP_SYN_SENT, TCP_SYN_RECEIVED) else DATA_RETRIES):
        reset_both(core, flow)
        return
    conn.backoff += conn.backoff < 10
    doubt(core)
    if conn.state in (TCP_SYN_SENT, TCP_SYN_RECEIVED):
        send_syn(core, flow)
    elif may_send_data(conn):
        if conn.snd_wnd:
            core.stats.tcp_timeouts += conn.snd_una != conn.snd_max
        resend_all(core, flow)
        if conn.state == TCP_CLOSED:
            return
    start_rtx(core, flow, min(conn.rto << conn.backoff, ms(RTO_MAX_MS)))


cdef void resend_all(Core core, Flow *flow) noexcept nogil:
    cdef TcpConn *conn = &flow.body.tcp
    if conn.backoff > 1:
        drop_board(core, conn)    # the guest may have dropped what it had (RFC 2018 8)
    go_back(core, flow, conn.snd_una, conn.snd_wnd != 0)
    push_data(core, flow, conn.snd_wnd == 0)


cdef void go_back(Core core, Flow *flow, uint32_t seq, bint slowly) noexcept nogil:
    """Send again what lies from *seq* on; a fast recovery is over (RFC 6582 3.2, 4).

    *slowly*: two segments, and more only as acknowledgements show that it had to be (RFC 5681 3.1). So
    whatever made us do it, and however often, most of what was not lost is not repeated.
    """
    cdef TcpConn *conn = &flow.body.tcp
    cdef uint32_t arrived = 0     # of what lies before
    conn.flags &= ~<uint32_t>(CONN_RTT_TIMED | CONN_RECOVERY)
    conn.dup_acks = 0
    if conn.board != NULL:
        seq = behind_run(conn, seq)
        arrived = sacked_before(conn, seq)
    if slowly:
        conn.cwnd = seq - conn.snd_una - arrived + SLOW_START_SEGMENTS * <uint32_t>conn.mss
    consume_acked(core, flow)
    conn.snd_nxt = seq
    sync_peek_offset(core, flow)


cdef bint shorten_segments(Core core, Flow *flow, uint32_t mtu, uint32_t seq) noexcept nogil:
    """A packet of more than *mtu* bytes with *seq* was too big for the guest's side: send no more such.

    It and what was sent after it is sent again at once, slowly (RFC 1191 6.5), as far as the guest does not
    report to have it; what was sent before it would have met its own message. If a time-out or an earlier
    message has us send it again anyway, it just leaves in smaller segments. False: *seq* is not on its way
    (RFC 5927 7.1).
    """
    cdef TcpConn *conn = &flow.body.tcp
    cdef uint16_t mss = mss_of(flow, mtu)
    if conn.flags & CONN_TIMESTAMPS:
        mss -= TIMESTAMPS_LEN
    if not may_send_data(conn) or not seq_le(conn.snd_una, seq) or not seq_lt(seq, conn.snd_max):
        return False
    if mss < conn.mss:
        conn.mss = mss
        if seq_lt(seq, conn.snd_nxt):
            go_back(core, flow, seq, True)
            core.flows.add_work(flow)
    return True


cdef void finish_turn(Core core, Flow *flow) noexcept nogil:
    """Once per turn with something new: empty the socket, send data, acknowledge."""
    cdef TcpConn *conn = &flow.body.tcp
    # A guest that waits for an answer gets it before the tidying up.
    cdef bint tidy_later = conn.snd_una - conn.sock_una < ACK_AT_ONCE
    if PASST_DEBUG_BUILD:
        check_connection(flow)
    if not tidy_later:
        consume_acked(core, flow)
    elif conn.pingpong == PINGPONG and conn.rcv_nxt != conn.rcv_acked and not conn.flags & CONN_FOLLOW:
        conn.flags |= CONN_READABLE   # the remote may have answered while it was written to
    if conn.flags & CONN_WINDOW_STALE and flow.fd >= 0 and not conn.flags & CONN_GUEST_FIN:
        update_window(core, flow)
    if may_send_data(conn) and has_to_send(conn):
        push_data(core, flow, False)
        if conn.state == TCP_CLOSED:
            return
    elif conn.state == TCP_HELD and conn.flags & CONN_READABLE:
        hear_remote(core, flow)
        if conn.state == TCP_CLOSED:
            return
    if tidy_later:
        consume_acked(core, flow)
    if conn.snd_una != conn.snd_max and not conn.rtx_at:
        start_rtx(core, flow, conn.rto)       # it waited for the link
    if conn.state == TCP_TIME_WAIT and flow.fd >= 0 and not overflow_len(flow):
        note_ended(core, flow, b"finished")
        core.sockets.close(flow.fd)
        flow.fd = -1
        core.flows.uncount_connection(flow)
        core.flows.classify(flow, CLASS_OVER)
    settle_acks(core, flow)


cdef bint can_wait(const TcpConn *conn, uint32_t due) noexcept nogil:
    """Whether an answer of the remote will most likely carry the acknowledgement of *due* bytes."""
    return due < ACK_AT_ONCE and conn.flags & CONN_PUSHED and conn.pingpong == PINGPONG


cdef void settle_acks(Core core, Flow *flow) noexcept nogil:
    """Send the acknowledgement that is due, or let a small one wait for data to ride on."""
    cdef TcpConn *conn = &flow.body.tcp
    cdef uint32_t due = conn.rcv_nxt - conn.rcv_acked
    if conn.state in (TCP_CONNECTING, TCP_SYN_SENT, TCP_CLOSED):
        return
    if conn.flags & CONN_FOLLOW and follow(core, flow):
        return
    if due:
        count_write(core, flow, due)
        if conn.flags & CONN_ASKED:
            conn.pingpong = 0     # it goes on without waiting for an answer
        conn.flags |= CONN_ASKED
    if not conn.flags & CONN_ACK_NOW and (not due or can_wait(conn, due)):
        if due and not conn.flags & CONN_ACK_DELAYED:
            conn.flags |= CONN_ACK_DELAYED
            conn.ack_at = core.now + ms(ACK_DELAY_MS)
            set_timer(core, flow)
        return
    if not send_ack(core, flow) and core.link.blocked:
        core.flows.add_waiting(flow)


cdef uint32_t resend_part(Core core, Flow *flow, uint32_t seq, uint32_t n) noexcept nogil:
    """Repeat up to *n* bytes at *seq*; returns how many, 0 if it is not possible now."""
    cdef TcpConn *conn = &flow.body.tcp
    cdef uint32_t skip = seq - conn.sock_una
    cdef ssize_t got
    core.sockets.rewind(flow.fd, skip)
    got = core.sockets.peek(flow.fd, skip, core.link.slot + payload_place(flow), n)
    if got <= 0 or not send_segment(core, flow, TCP_ACK | TCP_PSH, seq, <uint32_t>got):
        return 0
    core.stats.tcp_retransmits += 1
    conn.retransmits += 1
    conn.flags &= ~<uint32_t>CONN_RTT_TIMED           # Karn's algorithm (RFC 6298 3)
    note_resent(conn, seq, <uint32_t>got)
    return <uint32_t>got


cdef void resend_holes(Core core, Flow *flow, uint32_t budget) noexcept nogil:
    """Repeat what is lost, about *budget* bytes of it, but a segment at least and MAX_RESEND at most."""
    cdef TcpConn *conn = &flow.body.tcp
    cdef SackBoard *board = conn.board
    cdef SackRange *run
    cdef uint32_t most = MAX_IP_LEN + ETH_HLEN - <uint32_t>payload_place(flow)
    cdef uint32_t later = sacked_bytes(board)
    cdef uint32_t edge = conn.snd_una + conn.snd_wnd
    cdef uint32_t i, at, n
    cdef bint has_moved = False
    budget = min(budget, <uint32_t>MAX_RESEND) + conn.mss
    for i in range(board.n):
        run = &board.ranges[i]
        at = hole_start(conn, i)
        if seq_lt(at, run.resent):
            if not is_lost_again(conn, run):
                at = run.resent
        elif not is_lost(conn, i, later):
            break                 # nor is any above it
        # Behind snd_nxt a time-out's repetition is still to come.
        while at != run.start and seq_le(run.start, conn.snd_nxt) and seq_le(run.start, edge):
            if budget < conn.mss or core.link.blocked:
                n = 0
            else:
                n = min(run.start - at, min(budget, most) // conn.mss * conn.mss)
                has_moved = True
                n = resend_part(core, flow, at, n)
            if not n:
                if has_moved:
                    sync_peek_offset(core, flow)
                return
            budget -= min(n, budget)
            at += n
        later -= run.end - run.start
    if has_moved:
        sync_peek_offset(core, flow)
        if not conn.rtx_at:
            start_rtx(core, flow, conn.rto)
