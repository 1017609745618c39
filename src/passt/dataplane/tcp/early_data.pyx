"""Data of the guest that the socket cannot have yet: short writes, what is out of order, first bytes.

Read `tcp.segments` and `unsent_store` first. The store keeps the bytes; this module decides which ones go in,
when they come out, and which of them are reported to the guest.

A connection that the policy wants to be *held* (CONN_HELD) has the remote get nothing until the policy has
judged what the guest says first. What is judged are the bytes in order of the store, and these, not the
frames that brought them, are what the remote gets: whatever a guest repeats with other bytes, sends in
another order or changes in its memory meanwhile. The window ends MAX_HELD bytes on (`segments`), so the store
has no more than that; it is taken from the part of the pool that early data may have. Whatever the remote
says before its turn ends the connection: of the protocols that name a server none begins with it. Two places
write to a socket, `flush_gather` and `drain_overflow`; both know of CONN_HELD.
"""

from libc.stdint cimport uint8_t, uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.core.decisions cimport (
    OPENING_OPEN, OPENING_PASSED, Opening, ask_opening, note_refused,
)
from passt.dataplane.flow.record cimport Flow
from passt.dataplane.flow.tcp cimport (
    CONN_ACK_NOW, CONN_FIN_EARLY, CONN_GUEST_FIN, CONN_HELD, CONN_READABLE, CONN_WANT_OUT, CONN_WINDOW_STALE,
    CONN_WRITE_SHUT, TCP_CLOSED, TCP_CLOSE_WAIT, TCP_CLOSING, TCP_ESTABLISHED, TCP_FIN_WAIT_1, TCP_FIN_WAIT_2,
    TCP_HELD, TCP_TIME_WAIT, TcpConn,
)
from passt.dataplane.packet.headers cimport TCP_FIN
from passt.dataplane.packet.parse cimport TcpView
from passt.dataplane.base.stats cimport (
    DROP_REFUSED, DROP_TCP_FLAGS, DROP_TCP_MEMORY, DROP_TCP_SEQUENCE, count,
)
from passt.dataplane.base.externs cimport EAGAIN, ENOBUFS, ENOMEM, EPOLLOUT, iovec
from passt.dataplane.flow.batches cimport MAX_GATHER
from passt.dataplane.loop.timers cimport ms
from passt.dataplane.tcp.segments cimport (
    WATCH_CHANGE, payload_place, reset_both, send_ack, start_rtx, watch,
)
from passt.dataplane.tcp.sequence cimport overflow_len, seq_lt
from passt.dataplane.tcp.states cimport note_used, set_state
from passt.dataplane.tcp.unsent_store cimport (
    drop_front, store_end, store_gather, store_has, store_put, trim_store,
)

cdef enum:
    MAX_PIECES = 256              # of what is judged; with more of them the rest is not waited for


cdef uint32_t clip_at_fin(const TcpConn *conn, uint32_t seq, uint32_t n) noexcept nogil:
    """How many of *n* bytes at *seq*, which is in the window, are in it and before the guest's FIN."""
    n = min(n, conn.rcv_adv - seq)
    if conn.flags & CONN_FIN_EARLY:
        n = min(n, conn.guest_fin - seq) if seq_lt(seq, conn.guest_fin) else 0
    return n


cdef void note_duplicate(TcpConn *conn, uint32_t seq, uint32_t n) noexcept nogil:
    """Have the next acknowledgement report *n* bytes at *seq* as duplicate (D-SACK, RFC 2883)."""
    conn.tell_start = seq
    conn.tell_end = seq + n


cdef void keep_early(Core core, Flow *flow, const TcpView *tcp) noexcept nogil:
    """Keep out-of-order payload, and send a duplicate acknowledgement at once."""
    cdef TcpConn *conn = &flow.body.tcp
    cdef uint32_t n = clip_at_fin(conn, tcp.seq, <uint32_t>tcp.payload_len)
    if not n:
        count(&core.stats, DROP_TCP_SEQUENCE)
    elif store_has(conn, tcp.seq, n):
        note_duplicate(conn, tcp.seq, n)
    elif store_put(core, conn, tcp.seq, tcp.payload, n, True) < n:
        count(&core.stats, DROP_TCP_MEMORY)
    else:
        core.stats.tcp_out_of_order += 1
    if tcp.flags & TCP_FIN:
        note_fin(core, conn, tcp.seq + <uint32_t>tcp.payload_len)
    send_ack(core, flow)


cdef bint note_fin(Core core, TcpConn *conn, uint32_t fin) noexcept nogil:
    """Remember an out-of-order FIN; False if it was known already."""
    if seq_lt(conn.rcv_adv, fin):
        count(&core.stats, DROP_TCP_SEQUENCE)
    elif seq_lt(fin, store_end(conn)) or (conn.flags & CONN_FIN_EARLY and fin != conn.guest_fin):
        count(&core.stats, DROP_TCP_FLAGS)    # it contradicts what came before
    elif not conn.flags & CONN_FIN_EARLY:
        conn.flags |= CONN_FIN_EARLY
        conn.guest_fin = fin
        return True
    return False


cdef void keep_rest(Core core, Flow *flow, const iovec *pieces, size_t n, size_t sent,
                    size_t total) noexcept nogil:
    """Store the rest of a short write; the guest has to repeat the bytes that find no room."""
    cdef TcpConn *conn = &flow.body.tcp
    cdef uint32_t seq = conn.rcv_nxt - <uint32_t>(total - sent)
    cdef uint32_t length, stored
    cdef size_t i
    cdef bint held = (conn.flags & CONN_HELD) != 0
    if not overflow_len(flow):
        trim_store(core, conn, seq)
    for i in range(n):
        if sent >= pieces[i].iov_len:
            sent -= pieces[i].iov_len
            continue
        length = <uint32_t>(pieces[i].iov_len - sent)
        stored = store_put(core, conn, seq, <uint8_t *>pieces[i].iov_base + sent, length, held)
        seq += stored
        sent = 0
        if stored < length:
            count(&core.stats, DROP_TCP_MEMORY)
            conn.flags |= CONN_ACK_NOW
            conn.tell_start = conn.tell_end   # it may have been of this
            break
    conn.rcv_nxt = seq
    if conn.store != NULL and seq_lt(conn.store.ranges[0].start, seq):
        conn.store.in_order = True
    if not held:
        watch_out(core, flow)


cdef void close_hole(Core core, Flow *flow, bint is_full) noexcept nogil:
    """Accept stored bytes that are in order now, and the FIN behind them; *is_full*: the socket is."""
    cdef TcpConn *conn = &flow.body.tcp
    if conn.store != NULL and not conn.store.in_order:
        trim_store(core, conn, conn.rcv_nxt)
    if conn.store != NULL and (conn.store.in_order or conn.store.ranges[0].start == conn.rcv_nxt):
        conn.store.in_order = True
        conn.rcv_nxt = conn.store.ranges[0].end
        conn.flags |= CONN_WINDOW_STALE
        if (not is_full or conn.flags & CONN_HELD) and not drain_overflow(core, flow):
            return
    if conn.flags & CONN_FIN_EARLY and conn.rcv_nxt == conn.guest_fin:
        accept_fin(core, flow)


cdef void watch_out(Core core, Flow *flow) noexcept nogil:
    flow.body.tcp.flags |= CONN_WANT_OUT
    watch(core, flow, EPOLLOUT, WATCH_CHANGE)


cdef void hold(Core core, Flow *flow) noexcept nogil:
    """The guest may speak now: what it says is held until it is judged."""
    set_state(core, flow, TCP_HELD)
    start_rtx(core, flow, ms(HELD_MS))


cdef bint judge_held(Core core, Flow *flow) noexcept nogil:
    """Whether what is held may go to the remote; the connection is ended if it may not."""
    cdef TcpConn *conn = &flow.body.tcp
    cdef iovec pieces[MAX_PIECES]
    cdef Opening opening = OPENING_OPEN
    if overflow_len(flow):
        opening = ask_opening(core, flow, pieces, store_gather(conn, pieces, MAX_PIECES), NULL)
    if opening == OPENING_PASSED:
        conn.flags = (conn.flags & ~<uint32_t>CONN_HELD) | CONN_WINDOW_STALE | CONN_ACK_NOW
        conn.rtx_at = 0
        set_state(core, flow, TCP_ESTABLISHED)
        note_used(core, flow)
        core.flows.add_work(flow)
        return True
    if opening != OPENING_OPEN:
        refuse_held(core, flow)
    return False


cdef void end_held(Core core, Flow *flow, const char *why) noexcept nogil:
    """No more is waited for: refuse the connection; one on which nothing was said just ends."""
    cdef iovec pieces[MAX_PIECES]
    if not overflow_len(flow):
        reset_both(core, flow)
        return
    ask_opening(core, flow, pieces, store_gather(&flow.body.tcp, pieces, MAX_PIECES), why)
    refuse_held(core, flow)


cdef void refuse_held(Core core, Flow *flow) noexcept nogil:
    """End a connection that the policy has refused by its first bytes."""
    count(&core.stats, DROP_REFUSED)
    note_refused(core, flow)
    core.why = b"refused"
    reset_both(core, flow)
    core.why = NULL


cdef void hear_remote(Core core, Flow *flow) noexcept nogil:
    """The remote speaks before the guest's first bytes are judged: see above. Its end can wait."""
    cdef uint8_t *place = core.link.slot + payload_place(flow)
    cdef ssize_t got = core.sockets.peek(flow.fd, 0, place, 1)
    core.sockets.rewind(flow.fd, 0)
    if got == -EAGAIN:
        flow.body.tcp.flags &= ~<uint32_t>CONN_READABLE
    elif got > 0:
        ask_opening(core, flow, NULL, 0, b"the remote speaks first, as with no protocol that tells a name")
        refuse_held(core, flow)
    elif got < 0:
        reset_both(core, flow)


cdef bint drain_overflow(Core core, Flow *flow) noexcept nogil:
    """Write what is kept, then pass a FIN on; False if the connection was reset over it."""
    cdef TcpConn *conn = &flow.body.tcp
    cdef iovec pieces[MAX_GATHER]
    cdef ssize_t sent
    if conn.flags & CONN_HELD and not judge_held(core, flow):
        return conn.state != TCP_CLOSED
    while overflow_len(flow):
        sent = core.sockets.send(flow.fd, pieces, store_gather(conn, pieces, MAX_GATHER))
        if sent < 0:
            if sent in (-EAGAIN, -ENOBUFS, -ENOMEM):
                if not conn.flags & CONN_WANT_OUT:
                    watch_out(core, flow)
                return True
            reset_both(core, flow)
            return False
        drop_front(core, conn, <uint32_t>sent)
    if conn.flags & CONN_GUEST_FIN and not conn.flags & CONN_WRITE_SHUT:
        conn.flags |= CONN_WRITE_SHUT
        core.sockets.shut_write(flow.fd)
    return True


cdef void enter_time_wait(Core core, Flow *flow) noexcept nogil:
    """Both FINs are exchanged and acknowledged: remember the tuple for a while (RFC 9293 3.6)."""
    set_state(core, flow, TCP_TIME_WAIT)
    start_rtx(core, flow, ms(TIME_WAIT_MS))


cdef void accept_fin(Core core, Flow *flow) noexcept nogil:
    """All data of the guest has come: its FIN is in order."""
    cdef TcpConn *conn = &flow.body.tcp
    if conn.flags & CONN_HELD:
        end_held(core, flow, b"the guest ended its stream before it had told a name")
        return
    conn.flags = (conn.flags | CONN_GUEST_FIN | CONN_ACK_NOW) & ~<uint32_t>CONN_FIN_EARLY
    conn.rcv_nxt += 1
    if seq_lt(conn.rcv_adv, conn.rcv_nxt):
        conn.rcv_adv = conn.rcv_nxt
    if conn.state == TCP_FIN_WAIT_2:
        enter_time_wait(core, flow)
        if not overflow_len(flow):
            # The socket is closed before the turn ends; close(2) sends the FIN with one call less.
            conn.flags |= CONN_WRITE_SHUT
            return
    if not drain_overflow(core, flow):
        return
    if conn.state == TCP_ESTABLISHED:
        set_state(core, flow, TCP_CLOSE_WAIT)
    elif conn.state == TCP_FIN_WAIT_1:
        set_state(core, flow, TCP_CLOSING)
