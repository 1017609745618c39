"""TCP connections that bypass the guest's link (passt(1), "Handling of local traffic in pasta").

Theory of operation. A client on the host's loopback that comes to a forwarded port, and one on the
namespace's loopback, need no frames: the connection is accepted where it comes, a second one is opened
by a socket of the other namespace (`namespace_thread`), and data of one is written to the other. The kernel's
two TCPs do the rest: backpressure, since nothing is read that the other side does not take; half-close,
since an end-of-file is passed on as shutdown(2) after all data before it.

Each direction is a `SpliceHalf`. Little is copied: one recv(2) and one send(2) into a buffer that all
share, cheaper than splice(2) for the usual size of requests and answers. A read that fills that buffer
means more is coming: then pages are moved through a pipe, taken for as long as it holds something. What
the receiver does not take stays in the pipe; or, if it was copied or no pipe is left, in memory of the
common pool (COPY_SIZE at most), in a pipe again if that is used up. The direction stops until the
receiver's socket says that it is writable. So an idle connection holds two descriptors and no pipe, and
no data is lost when the pipes run out.

Sockets are watched edge-triggered, for writability only from the first time that they were full. A
socket that hung up causes one event. While a capture wants to see what passes, all of it is copied, and shown
(`bypass.shown_packets`). There are no timers: a connection lives as long as its ends want. One
that is not open on the far side yet may have to make room for others (`make_room`).

A socket with an error has its last data passed on, then both connections are reset, so that either
end sees the error that it would have seen without us. One that cannot be connected is a reset of the
client, whose own connection the kernel had accepted already.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.bypass cimport (
    HALF_BULK, HALF_EOF, HALF_FULL, HALF_HAD_BULK, HALF_READ_ON, HALF_READABLE, HALF_SHUT, HALF_WATCH_OUT,
    SpliceConn, SpliceHalf,
)
from passt.dataplane.flow.key cimport FlowKey
from passt.dataplane.flow.record cimport (
    CLASS_HALF_OPEN_IN, CLASS_HALF_OPEN_OUT, CLASS_KEPT, FLOW_SPLICE_TCP, Flow,
)
from passt.dataplane.sockets.namespace_thread cimport (
    SOCKET_TCP4, SOCKET_TCP6, SOCKET_UDP4, SOCKET_UDP6, SocketKind,
)
from passt.dataplane.sockets.pipe_pool cimport NO_PIPE
from passt.dataplane.loop.reactor cimport EVENT_FAR, EVENT_FLOW, make_tag
from passt.dataplane.sockets.socket_address cimport read_sockaddr
from passt.dataplane.base.stats cimport DROP_FLOWS_FULL, DROP_NO_FD, DROP_SOCKET, Verdict, count
from passt.dataplane.base.externs cimport (
    AF_INET, EAGAIN, EINPROGRESS, ENOBUFS, ENOMEM, EPERM, EPOLL_CTL_ADD, EPOLL_CTL_MOD,
    EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, IPPROTO_TCP, IPPROTO_UDP, SOCK_DGRAM,
    iovec, memcpy, sockaddr_storage,
)
from passt.dataplane.state.bypass cimport COPY_SIZE
from passt.dataplane.bypass.shown_packets cimport (
    is_wanted, show_data, show_fin, show_handshake, show_reset,
)
from passt.dataplane.core.decisions cimport note_ended, note_opened, trace_state
from passt.dataplane.core.make_room cimport admit, join_crowd, lacks_descriptor, spare_for_connection
from passt.dataplane.flow.decision cimport InboundView

cdef enum:
    ACCEPTED = 0
    CONNECTED = 1
    TURN_BUDGET = 4 << 20         # bytes per direction and turn
    MOVE_SIZE = 1 << 20           # bytes asked for at once: what the pipe holds is less
    WATCH_IN = EPOLLIN | EPOLLRDHUP


cdef void open_splice(Core core, int fd, const sockaddr_storage *peer,
                      const InboundView *view) noexcept nogil:
    """Take an accepted connection *fd* and connect it to where *view* says."""
    cdef SpliceConn *conn
    cdef int result
    cdef int far = open_other_side(core, view, True)
    cdef Flow *flow = admit(core, FLOW_SPLICE_TCP) if far >= 0 else NULL
    if flow == NULL:
        if far >= 0:
            core.sockets.close(far)
        count(&core.stats, DROP_FLOWS_FULL if far >= 0 else why_no_socket(far))
        core.sockets.abort(fd)
        return
    fill_keys(flow, peer, view)
    if not join_crowd(core, flow, &fd):
        core.sockets.close(far)
        core.sockets.abort(fd)
        core.flows.release(flow)
        return
    flow.fd = fd
    conn = &flow.body.splice
    conn.halves[ACCEPTED].fd = fd
    conn.halves[CONNECTED].fd = far
    conn.halves[ACCEPTED].pipe = conn.halves[CONNECTED].pipe = NO_PIPE
    core.stats.flows_splice_tcp += 1
    note_opened(core, flow)
    result = core.sockets.connect(far, &view.route.peer, view.route.peer_len)
    if result == -EINPROGRESS:
        conn.connecting = True
        conn.halves[CONNECTED].flags = HALF_WATCH_OUT
        core.flows.classify(flow, CLASS_HALF_OPEN_IN if flow.inbound else CLASS_HALF_OPEN_OUT)
    if result < 0 and not conn.connecting:
        conn.connecting = True        # it was never open
        core.stats.splice_connect_failures += 1
        end_splice(core, flow, True)
        return
    if core.has_trace:
        trace_state(core, flow, splice_state(flow))
    if core.watch.sees_bypass and not conn.connecting:
        show_handshake(core, flow)
    if not conn.connecting:
        # While we connected, the client's first request has most likely come: that spares a wake-up.
        conn.halves[ACCEPTED].flags |= HALF_READABLE
        if not pump(core, flow, ACCEPTED):
            return
    # Watch only now, while the service is at work: epoll reports data that is there already.
    conn.watched = True
    if (watch_half(core, flow, CONNECTED, EPOLL_CTL_ADD) < 0
            or watch_half(core, flow, ACCEPTED, EPOLL_CTL_ADD) < 0):
        count(&core.stats, DROP_SOCKET)
        end_splice(core, flow, True)


cdef Verdict why_no_socket(int result) noexcept nogil:
    return DROP_NO_FD if lacks_descriptor(result) else DROP_SOCKET


cdef int open_other_side(Core core, const InboundView *view, bint is_tcp) noexcept nogil:
    """A socket on the far side of a bypassed flow, with its source; fd or negative errno."""
    cdef int fd = take_other_side(core, view, is_tcp)
    cdef int result
    if lacks_descriptor(fd) and spare_for_connection(core):
        fd = take_other_side(core, view, is_tcp)
    if fd >= 0 and is_tcp and view.route.source_len:
        result = core.sockets.bind_source(fd, &view.route.source, view.route.source_len)
        if result < 0:
            core.sockets.close(fd)
            return result
    return fd


cdef int take_other_side(Core core, const InboundView *view, bint is_tcp) noexcept nogil:
    """A socket on the far side, kept or new; fd or negative errno."""
    cdef bint is_ip4 = view.route.peer.ss_family == AF_INET
    cdef SocketKind kind
    if view.from_namespace:
        if is_tcp:
            return core.bypass.spare_sockets.take(view.route.peer.ss_family)
        return core.sockets.open(view.route.peer.ss_family, SOCK_DGRAM, IPPROTO_UDP)
    if core.bypass.namespace_thread is None:
        return -EPERM
    if is_tcp:
        kind = SOCKET_TCP4 if is_ip4 else SOCKET_TCP6
    else:
        kind = SOCKET_UDP4 if is_ip4 else SOCKET_UDP6
    return core.bypass.namespace_thread.take(kind)


cdef void fill_keys(Flow *flow, const sockaddr_storage *peer, const InboundView *view) noexcept nogil:
    """Note the ends of a bypassed flow for `Engine.flows`; it is not found by them."""
    cdef FlowKey *key = &flow.keys[0]
    flow.inbound = not view.from_namespace
    flow.peer = view.route.peer if view.from_namespace else peer[0]
    if view.from_namespace:
        key.addr_len = <uint8_t>read_sockaddr(peer, key.guest, &key.guest_port)
        read_sockaddr(&view.route.peer, key.remote, &key.remote_port)
    else:
        key.addr_len = <uint8_t>read_sockaddr(&view.route.peer, key.guest, &key.guest_port)
        read_sockaddr(peer, key.remote, &key.remote_port)
    key.proto = IPPROTO_TCP if flow.kind == FLOW_SPLICE_TCP else IPPROTO_UDP


cdef const char *splice_state(const Flow *flow) noexcept nogil:
    return b"CONNECTING" if flow.body.splice.connecting else b"SPLICED"


cdef int watch_half(Core core, Flow *flow, int side, int op) noexcept nogil:
    cdef SpliceHalf *half = &flow.body.splice.halves[side]
    cdef uint32_t events = WATCH_IN | EPOLLET
    if half.flags & HALF_WATCH_OUT:
        events |= EPOLLOUT
    return core.sockets.watch(half.fd, op, events,
                              make_tag(EVENT_FAR if side else EVENT_FLOW, flow.generation, flow.index))


cdef void on_splice_event(Core core, Flow *flow, int side, uint32_t events) noexcept nogil:
    """An event of one of the connection's sockets."""
    cdef SpliceConn *conn = &flow.body.splice
    cdef SpliceHalf *half = &conn.halves[side]
    if events & (WATCH_IN | EPOLLHUP | EPOLLERR):
        half.flags |= HALF_READABLE
        if events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            half.flags |= HALF_READ_ON
    if events & EPOLLOUT:
        conn.halves[1 - side].flags &= ~<uint32_t>HALF_FULL
    if conn.connecting:
        if not is_connected(core, flow, side, events):
            return
    elif events & EPOLLERR and core.sockets.take_error(half.fd):
        fail(core, flow, side)
        return
    if pump(core, flow, side):
        pump(core, flow, 1 - side)


cdef bint is_connected(Core core, Flow *flow, int side, uint32_t events) noexcept nogil:
    """Look at an event of a connection that is being opened; False if it is not open (yet)."""
    cdef SpliceConn *conn = &flow.body.splice
    if side == ACCEPTED:
        if events & EPOLLERR:
            end_splice(core, flow, True)
        return False
    if not events & (EPOLLOUT | EPOLLERR | EPOLLHUP):
        return False
    if core.sockets.take_error(conn.halves[CONNECTED].fd) or events & (EPOLLERR | EPOLLHUP):
        core.stats.splice_connect_failures += 1
        end_splice(core, flow, True)
        return False
    conn.connecting = False
    core.flows.classify(flow, CLASS_KEPT)
    if core.has_trace:
        trace_state(core, flow, splice_state(flow))
    if core.watch.sees_bypass:
        show_handshake(core, flow)
    return True


cdef void finish_splice(Core core, Flow *flow) noexcept nogil:
    """Go on where the budget of the last turn ended."""
    if pump(core, flow, ACCEPTED):
        pump(core, flow, CONNECTED)


cdef bint pump(Core core, Flow *flow, int side) noexcept nogil:
    """Pass on what comes from the socket of *side*, as far as the other takes it; False: the flow ended."""
    cdef SpliceConn *conn = &flow.body.splice
    cdef SpliceHalf *half = &conn.halves[side]
    cdef uint32_t budget = TURN_BUDGET
    cdef ssize_t n = 0
    while not half.flags & HALF_FULL:
        if half.n_held:
            n = write_held(core, flow, side)
        elif not half.flags & HALF_READABLE:
            break
        elif not budget:
            core.flows.add_work(flow)
            break
        elif half.flags & HALF_BULK and not (core.watch.sees_bypass and is_wanted(core, flow)):
            n = move_bulk(core, half)
            budget -= min(budget, <uint32_t>max(n, <ssize_t>0))
        else:
            n = pass_copy(core, flow, side)
            budget -= min(budget, <uint32_t>max(n, <ssize_t>0))
        if n < 0:
            if not conn.failing:
                fail(core, flow, side)
            return False
    if half.n_held or conn.failing:
        return True
    release_pipe(core, half)
    if not half.flags & HALF_EOF or half.flags & HALF_SHUT:
        return True
    half.flags |= HALF_SHUT
    if core.watch.sees_bypass:
        show_fin(core, flow, side)
    if conn.halves[1 - side].flags & HALF_SHUT:
        end_splice(core, flow, False)         # close(2) tells the peer the same as shutdown(2)
        return False
    core.sockets.shut_write(conn.halves[1 - side].fd)
    return True


cdef ssize_t pass_copy(Core core, Flow *flow, int side) noexcept nogil:
    """Read a little and write it; returns what was read, or a negative errno of either socket."""
    cdef SpliceConn *conn = &flow.body.splice
    cdef SpliceHalf *half = &conn.halves[side]
    cdef iovec piece
    cdef ssize_t sent
    cdef ssize_t n = core.sockets.receive(half.fd, core.bypass.copy_space, COPY_SIZE)
    if n <= 0:
        return no_more(half, n)
    if n == COPY_SIZE:
        begin_bulk(core, flow, side)
    elif not half.flags & HALF_READ_ON:
        half.flags &= ~<uint32_t>HALF_READABLE
    count_bytes(core, flow, side, n)
    if core.watch.sees_bypass:
        show_data(core, flow, side, core.bypass.copy_space, <size_t>n)
    piece.iov_base = core.bypass.copy_space
    piece.iov_len = <size_t>n
    sent = core.sockets.send(conn.halves[1 - side].fd, &piece, 1)
    if sent == n:
        return n
    if sent < 0:
        if not is_full(sent):
            return sent
        sent = 0
    return n if keep_copied(core, half, core.bypass.copy_space + sent, <uint32_t>(n - sent)) else -ENOMEM


cdef bint keep_copied(Core core, SpliceHalf *half, const uint8_t *data, uint32_t n) noexcept nogil:
    """Hold *n* bytes that the other socket did not take: in memory, else in a pipe; False: not all of them.

    The half holds nothing, but it may have a pipe still.
    """
    cdef ssize_t written
    release_pipe(core, half)
    half.kept = <uint8_t *>core.pool.take(n)
    if half.kept != NULL:
        memcpy(half.kept, data, n)
        half.kept_start = 0
        half.kept_size = n
    else:
        half.pipe = core.bypass.pipes.take()
        if half.pipe == NO_PIPE:
            return False
        # A pipe may be small (pipe(7)). What is in it counts, so that it is not taken for an empty one.
        written = core.sockets.fill_pipe(core.bypass.pipes.ends[half.pipe][1], data, n)
        half.n_held = <uint32_t>max(written, <ssize_t>0)
        return written == n
    half.n_held = n
    return True


cdef void release_memory(Core core, SpliceHalf *half) noexcept nogil:
    if half.kept != NULL:
        core.pool.give(half.kept, half.kept_size)
        half.kept = NULL


cdef void begin_bulk(Core core, Flow *flow, int side) noexcept nogil:
    """Much is coming from the socket of *side*."""
    cdef SpliceHalf *half = &flow.body.splice.halves[side]
    half.flags |= HALF_BULK
    if not half.flags & HALF_HAD_BULK:
        half.flags |= HALF_HAD_BULK
        core.sockets.prepare_bulk(flow.body.splice.halves[1 - side].fd)


cdef ssize_t move_bulk(Core core, SpliceHalf *half) noexcept nogil:
    """Move waiting data into a pipe; returns its length or a negative errno of the socket."""
    cdef ssize_t n
    if half.pipe == NO_PIPE:
        half.pipe = core.bypass.pipes.take()
        if half.pipe == NO_PIPE:
            half.flags &= ~<uint32_t>HALF_BULK
            core.stats.splice_copies += 1
            return 0
    n = core.sockets.move(half.fd, core.bypass.pipes.ends[half.pipe][1], MOVE_SIZE)
    if n <= 0:
        return no_more(half, n)
    if n < COPY_SIZE:
        half.flags &= ~<uint32_t>HALF_BULK
    half.n_held = <uint32_t>n
    return n


cdef ssize_t no_more(SpliceHalf *half, ssize_t n) noexcept nogil:
    """A read gave *n*, which is not data: 0 or -EAGAIN become 0, any other error stays."""
    if n == 0:
        half.flags |= HALF_EOF
    elif n != -EAGAIN:
        return n
    half.flags &= ~<uint32_t>(HALF_READABLE | HALF_READ_ON)
    return 0


cdef bint is_full(ssize_t result) noexcept nogil:
    """Whether a write failed because there is no room now. Memory that is short counts as such: what was
    queued before is freed as it is acknowledged, and the socket tells of it (net/ipv4/tcp.c)."""
    return result in (-EAGAIN, -ENOBUFS)


cdef ssize_t write_held(Core core, Flow *flow, int side) noexcept nogil:
    """Write what the direction holds; returns what was written, 0 if the socket is full, or an errno."""
    cdef SpliceConn *conn = &flow.body.splice
    cdef SpliceHalf *half = &conn.halves[side]
    cdef int fd = conn.halves[1 - side].fd
    cdef iovec piece
    cdef ssize_t n
    if half.kept != NULL:
        piece.iov_base = half.kept + half.kept_start
        piece.iov_len = half.n_held
        n = core.sockets.send(fd, &piece, 1)
    else:
        n = core.sockets.move(core.bypass.pipes.ends[half.pipe][0], fd, half.n_held)
        if n > 0:
            count_bytes(core, flow, side, n)
    if n < 0:
        if not is_full(n):
            return n
        half.flags |= HALF_FULL
        return await_room(core, flow, 1 - side)
    half.n_held -= <uint32_t>n
    if half.kept != NULL:
        half.kept_start += <uint32_t>n
        if not half.n_held:
            release_memory(core, half)
    return n


cdef int await_room(Core core, Flow *flow, int side) noexcept nogil:
    """Have the loop told when the socket of *side* takes data again; 0 or a negative errno."""
    cdef SpliceHalf *half = &flow.body.splice.halves[side]
    if half.flags & HALF_WATCH_OUT:
        return 0
    half.flags |= HALF_WATCH_OUT
    return watch_half(core, flow, side, EPOLL_CTL_MOD) if flow.body.splice.watched else 0


cdef void count_bytes(Core core, const Flow *flow, int side, ssize_t n) noexcept nogil:
    if flow.inbound == (side == ACCEPTED):
        core.stats.splice_bytes_to_guest += <uint64_t>n
    else:
        core.stats.splice_bytes_to_host += <uint64_t>n


cdef void release_pipe(Core core, SpliceHalf *half) noexcept nogil:
    if half.pipe != NO_PIPE:
        core.bypass.pipes.give_back(half.pipe, not half.n_held)
        half.pipe = NO_PIPE


cdef void fail(Core core, Flow *flow, int side) noexcept nogil:
    """One of the sockets, met when reading that of *side* or writing to the other, has an error.

    What either has received before is passed on as far as possible; then both are reset.
    """
    flow.body.splice.failing = True
    flow.body.splice.halves[0].flags |= HALF_READABLE
    flow.body.splice.halves[1].flags |= HALF_READABLE
    pump(core, flow, side)
    pump(core, flow, 1 - side)
    end_splice(core, flow, True)


cdef void abort_splice(Core core, Flow *flow) noexcept nogil:
    """End the connection for the engine's reasons: both ends see a reset."""
    end_splice(core, flow, True)


cdef const char *why_ended(const SpliceConn *conn, bint reset) noexcept nogil:
    """A word for how a connection ends."""
    if not reset:
        return b"finished"
    return b"refused" if conn.connecting else b"reset"


cdef void end_splice(Core core, Flow *flow, bint reset) noexcept nogil:
    """Forget the connection and close its sockets, so that the ends see a reset if *reset*."""
    cdef SpliceHalf *half
    cdef int side
    note_ended(core, flow, why_ended(&flow.body.splice, reset))
    if reset and core.watch.sees_bypass:
        show_reset(core, flow)
    for side in range(2):
        half = &flow.body.splice.halves[side]
        release_pipe(core, half)
        release_memory(core, half)
        if reset:
            core.sockets.abort(half.fd)
        else:
            core.sockets.close(half.fd)
    flow.fd = -1
    core.stats.flows_splice_tcp -= 1
    core.flows.release(flow)
