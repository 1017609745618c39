"""The TCP translator without a kernel: Core on scripted sockets, a recording link and virtual time.

Four classes. `ScriptedSockets` hands every socket operation to a Python object (`tcp_kernel.Kernel`);
results are what the method of `Sockets` returns, failures negative errnos. `RecordingLink` keeps each
frame that leaves with its virtio-net meta data, and can be made to block or to refuse. `Bench` owns the
core and takes its turns as `Engine.turn` does: events, timers, work list. An exception of the Python side
is kept and raised when the turn ends. `RealSockets` shows the methods of `Sockets` on the kernel's sockets.
"""

from typing import NamedTuple

from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.core.listeners cimport Listener
from passt.dataplane.ingress.demux cimport on_frame
from passt.dataplane.flow.record cimport FLOW_DEAD, FLOW_TCP, NO_FLOW, Flow
from passt.dataplane.flow.tcp cimport CONN_FOLLOW, SackBoard, TcpConn, TcpStore
from passt.dataplane.packet.headers cimport ETH_ALEN
from passt.dataplane.link.link cimport LINK_CSUM, LINK_TSO4, LINK_TSO6, Link
from passt.dataplane.base.memory_budget cimport Pool
from passt.dataplane.loop.reactor cimport Reactor
from passt.dataplane.sockets.socket_address cimport fill_sockaddr, read_sockaddr
from passt.dataplane.sockets.sockets cimport PathInfo, Sockets, scale_for
from passt.dataplane.base.stats cimport DROP_LINK_FULL, count, stats_as_dict
from passt.dataplane.base.externs cimport (
    IPPROTO_TCP, iovec, malloc, memcpy, memset, sockaddr_storage, socklen_t,
)
from passt.dataplane.link.meta cimport RxFrame, TxMeta
from passt.dataplane.tcp.segments cimport choose_isn
from passt.dataplane.tcp.states cimport state_name
from passt.dataplane.tcp.sequence cimport overflow_len
from passt.dataplane.turn cimport (
    end_flows, finish_flows, hand_on, on_flow_event, on_flow_timer, on_listener_event, set_handlers,
)

cdef enum:
    BATCH_MAX = 1024              # frames in one batch; more than any link reads at once


class Sent(NamedTuple):
    """A frame to the guest and what is left to do for it (see `link.TxMeta`)."""

    frame: bytes
    hdr_len: int
    gso_size: int
    csum_start: int
    csum_offset: int


class Conn(NamedTuple):
    """A connection's record."""

    flow: int
    state: str
    fd: int
    guest_port: int
    remote_port: int
    iss: int
    snd_una: int
    snd_nxt: int
    snd_max: int
    snd_wnd: int
    rcv_nxt: int
    rcv_adv: int
    cwnd: int
    srtt: int
    rto: int
    backoff: int
    retries: int
    overflow: int
    memory: int
    armed: int
    follows: bool
    reported: tuple[tuple[int, int], ...]       # runs of the board
    stored: tuple[tuple[int, int], ...]         # runs of the store


cdef tuple runs_of_board(const SackBoard *board):
    """First number and the one behind the last, of each run."""
    cdef uint32_t n = board.n if board != NULL else 0
    return tuple([(board.ranges[i].start, board.ranges[i].end) for i in range(n)])


cdef tuple runs_of_store(const TcpStore *store):
    cdef uint32_t n = store.n if store != NULL else 0
    return tuple([(store.ranges[i].start, store.ranges[i].end) for i in range(n)])


cdef object address_of(const sockaddr_storage *source):
    cdef uint8_t address[16]
    cdef uint16_t port = 0
    cdef size_t n = read_sockaddr(source, address, &port)
    return (<char *>address)[:n], port


cdef class ScriptedSockets(Sockets):
    """Every operation asks *kernel*."""

    cdef object kernel
    cdef object failure

    cdef int number(self, str name, tuple args, int otherwise) noexcept with gil:
        """Call a method of the kernel that returns a number."""
        try:
            return getattr(self.kernel, name)(*args)
        except BaseException as error:
            self.failure = self.failure or error
            return otherwise

    cdef int open(self, int family, int kind, int protocol) noexcept with gil:
        return self.number("open", (family, kind, protocol), -5)

    cdef int bind_source(self, int fd, const sockaddr_storage *address, socklen_t n) noexcept with gil:
        return self.number("bind_source", (fd, address_of(address)), -5)

    cdef int bind_device(self, int fd, const char *name, size_t n) noexcept with gil:
        return self.number("bind_device", (fd, name[:n]), -5)

    cdef int connect(self, int fd, const sockaddr_storage *address, socklen_t n) noexcept with gil:
        return self.number("connect", (fd, address_of(address)), -5)

    cdef int accept(self, int fd, sockaddr_storage *peer, sockaddr_storage *local) noexcept with gil:
        cdef bytes far, near
        try:
            new, far_end, near_end = self.kernel.accept(fd)
            if new < 0:
                return new
            far, near = far_end[0], near_end[0]
            fill_sockaddr(peer, <const uint8_t *><const char *>far, len(far), far_end[1], 0)
            fill_sockaddr(local, <const uint8_t *><const char *>near, len(near), near_end[1], 0)
            return new
        except BaseException as error:
            self.failure = self.failure or error
            return -11

    cdef int refuse(self, int fd, int spare) noexcept with gil:
        return self.number("refuse", (fd, spare), spare)

    cdef int prepare_stream(self, int fd) noexcept with gil:
        return self.number("prepare_stream", (fd,), -5)

    cdef ssize_t send(self, int fd, iovec *pieces, size_t n) noexcept with gil:
        cdef size_t i
        cdef list data = []
        for i in range(n):
            data.append((<const char *>pieces[i].iov_base)[:pieces[i].iov_len])
        return self.number("send", (fd, b"".join(data)), -5)

    cdef ssize_t peek(self, int fd, uint32_t skip, uint8_t *buf, size_t n) noexcept with gil:
        cdef bytes data
        try:
            got = self.kernel.peek(fd, skip, n)
            if isinstance(got, int):
                return got
            data = got
            memcpy(buf, <const char *>data, len(data))
            return len(data)
        except BaseException as error:
            self.failure = self.failure or error
            return -5

    cdef int rewind(self, int fd, uint32_t offset) noexcept with gil:
        return self.number("rewind", (fd, offset), 0)

    cdef ssize_t consume(self, int fd, size_t n) noexcept with gil:
        return self.number("consume", (fd, n), -5)

    cdef int64_t free_space(self, int fd, int64_t *total) noexcept with gil:
        try:
            room, total[0] = self.kernel.free_space(fd)
            return room
        except BaseException as error:
            self.failure = self.failure or error
            return 0

    cdef int shut_write(self, int fd) noexcept with gil:
        return self.number("shut_write", (fd,), 0)

    cdef int take_error(self, int fd) noexcept with gil:
        return self.number("take_error", (fd,), 5)

    cdef int keep_alive(self, int fd, int idle_s) noexcept with gil:
        return self.number("keep_alive", (fd, idle_s), 0)

    cdef int path_info(self, int fd, PathInfo *path) noexcept with gil:
        try:
            (path.bytes_acked, path.bytes_per_s, path.rtt_us, path.rttvar_us,
             path.min_rtt_us) = self.kernel.path_info(fd)
            return 0
        except BaseException as error:
            self.failure = self.failure or error
            return -5

    cdef int follow_acks(self, int fd, bint on) noexcept with gil:
        return self.number("follow_acks", (fd, on), -5)

    cdef int drain_errors(self, int fd) noexcept with gil:
        return self.number("drain_errors", (fd,), 0)

    cdef int close(self, int fd) noexcept with gil:
        return self.number("close", (fd,), 0)

    cdef int abort(self, int fd) noexcept with gil:
        return self.number("abort", (fd,), 0)

    cdef int watch(self, int fd, int op, uint32_t events, uint64_t tag) noexcept with gil:
        return self.number("watch", (fd, op, events, tag), 0)


cdef class RecordingLink(Link):
    """Keeps every frame. Like a tap device it stops when *room* frames are in, keeps some, then refuses."""

    cdef list sent
    cdef object kept
    cdef object failure
    cdef public object room       # frames that go through; None: any number
    cdef public int keep_most     # frames kept while blocked
    cdef public int refuse_next   # frames that are refused without blocking, as by a failing device

    def __init__(self, bint offloads=True):
        self.sent = []
        self.kept = []
        self.room = None
        self.keep_most = 4
        if offloads:
            self.features = LINK_CSUM | LINK_TSO4 | LINK_TSO6

    cdef bint emit(self, uint8_t *frame, size_t n, const TxMeta *meta) noexcept with gil:
        if self.refuse_next:
            self.refuse_next -= 1
            count(self.stats, DROP_LINK_FULL)
            return False
        record = Sent((<const char *>frame)[:n], meta.hdr_len, meta.gso_size if meta.gso_type else 0,
                      meta.csum_start, meta.csum_offset)
        if self.room is not None and not self.room:
            if not self.blocked:
                self.stats.link_stalls += 1
            self.blocked = True
            if len(self.kept) >= self.keep_most:
                count(self.stats, DROP_LINK_FULL)
                return False
            self.kept.append(record)
            return True
        if self.room is not None:
            self.room -= 1
        self.sent.append(record)
        return True

    def open_up(self, room):
        """The far side drains: *room* more frames go through (None: any number)."""
        self.room = room
        while self.kept and (self.room is None or self.room):
            self.sent.append(self.kept.pop(0))
            if self.room is not None:
                self.room -= 1
        if not self.kept:
            self.blocked = False


cdef class ScarcePool(Pool):
    """The system has no memory, whatever the budget says, while *is_empty*."""

    cdef bint is_empty

    cdef void *allocate(self, size_t n) noexcept nogil:
        return NULL if self.is_empty else malloc(n)


cdef class Bench:
    """A core in virtual time; *policy* and *kernel* are the Python sides of policy and sockets."""

    cdef Core core
    cdef ScriptedSockets sockets
    cdef readonly RecordingLink link

    def __init__(self, policy, kernel, events, *, bint offloads=True, uint32_t mtu=65520,
                 uint32_t max_flows=64, bint peek_off=True, bint bytes_acked=True):
        self.sockets = ScriptedSockets(Reactor(max_flows + 3))
        self.sockets.kernel = kernel
        self.sockets.has_peek_off = peek_off
        self.sockets.has_bytes_acked = bytes_acked
        self.link = RecordingLink(offloads)
        self.core = Core(policy, None, events, self.link, self.sockets, our_mac=b"\x9a\x55\x9a\x55\x9a\x55",
                         mtu=mtu, max_flows=max_flows, secret=bytes(range(16)))
        set_handlers(self.core)
        self.core.pool = ScarcePool(self.core.pool.size)
        self.core.now = 0
        memcpy(self.core.guest.mac, b"\x02\x00\x00\x00\x00\x01", ETH_ALEN)

    @property
    def now(self):
        return self.core.now

    @now.setter
    def now(self, int64_t value):
        self.core.now = value

    @property
    def window_scale(self):
        return self.sockets.window_scale

    @window_scale.setter
    def window_scale(self, uint8_t value):
        self.sockets.window_scale = value

    @property
    def pool_left(self):
        return self.core.pool.left

    @pool_left.setter
    def pool_left(self, size_t value):
        self.core.pool.left = value

    @property
    def has_no_memory(self):
        """malloc fails."""
        return (<ScarcePool>self.core.pool).is_empty

    @has_no_memory.setter
    def has_no_memory(self, bint value):
        (<ScarcePool>self.core.pool).is_empty = value

    @property
    def pool_refusals(self):
        return self.core.pool.refusals

    @property
    def next_deadline(self):
        """ns; None if no timer is armed."""
        cdef int64_t deadline = self.core.reactor.timers.next_deadline()
        return None if deadline == INT64_MAX else deadline

    @property
    def is_busy(self):
        """Whether the loop would not sleep."""
        return self.core.flows.first_work != NO_FLOW

    @property
    def is_blocked(self):
        return self.link.blocked

    @property
    def n_active(self):
        return self.core.flows.n_active

    def isn(self, bytes guest not None, int guest_port, bytes remote not None, int remote_port):
        """The initial sequence number that a connection gets at time 0; each 4000 ns add one."""
        cdef Flow flow
        cdef int64_t now = self.core.now
        memset(&flow, 0, sizeof(flow))
        memcpy(flow.keys[0].guest, <const char *>guest, len(guest))
        memcpy(flow.keys[0].remote, <const char *>remote, len(remote))
        flow.keys[0].guest_port = guest_port
        flow.keys[0].remote_port = remote_port
        flow.keys[0].proto = IPPROTO_TCP
        flow.keys[0].addr_len = len(guest)
        self.core.now = 0
        result = choose_isn(self.core, &flow)
        self.core.now = now
        return result

    def add_listener(self, int fd, rule, int port):
        """A TCP listener; returns its index."""
        cdef Listener listener = Listener(fd, IPPROTO_TCP, rule, port)
        self.core.listeners.insert(listener)
        return listener.index

    def turn(self, list events not None):
        """One turn of the loop; returns the frames that left.

        An event is ("frames", [bytes, ...]) for one batch of the link, ("socket", tag, epoll events),
        ("listener", index) or ("writable", room) for a link that drains.
        """
        self.core.stats.wakeups += 1
        for event in events:
            self.dispatch(event)
            self.check()
        self.fire_timers()
        finish_flows(self.core)
        self.check()
        sent = self.link.sent
        self.link.sent = []
        return sent

    cdef void dispatch(self, tuple event) except *:
        kind, what = event[:2]
        if kind == "frames":
            self.feed(what)
        elif kind == "listener":
            on_listener_event(self.core, what)
        elif kind == "writable":
            self.link.open_up(what)
            if not self.link.blocked:
                self.core.flows.wake_waiting()
        else:
            on_flow_event(self.core, what, event[2])

    cdef void feed(self, list batch) except *:
        cdef RxFrame frame
        cdef bytes data
        if len(batch) > BATCH_MAX:
            raise ValueError("batch too long")
        memset(&frame, 0, sizeof(frame))
        for data in batch:
            frame.data = <const uint8_t *><const char *>data
            frame.len = <uint32_t>len(data)
            on_frame(self.core, &frame)
        hand_on(self.core)

    cdef void fire_timers(self) except *:
        cdef uint32_t id = 0
        while self.core.reactor.timers.pop_due(self.core.now, &id):
            assert self.core.flows.flows[id].kind == FLOW_TCP, "a timer of a flow that has ended"
            on_flow_timer(self.core, id)

    cdef void check(self) except *:
        """Raise what a Python side raised."""
        error = self.sockets.failure or self.core.failure
        self.sockets.failure = None
        self.core.failure = None
        if error is not None:
            raise error

    def set_trace(self, trace):
        """Have *trace* called with a line for each state that a connection enters."""
        self.core.trace = trace
        self.core.has_trace = True

    def counters(self):
        return stats_as_dict(&self.core.stats)

    def conns(self):
        """The records of all connections."""
        cdef uint32_t i
        cdef Flow *flow
        cdef TcpConn *conn
        found = []
        for i in range(self.core.flows.top):
            flow = &self.core.flows.flows[i]
            if flow.kind > FLOW_DEAD:
                conn = &flow.body.tcp
                found.append(Conn(
                    flow=flow.index, state=state_name(conn.state).decode(), fd=flow.fd,
                    guest_port=flow.keys[0].guest_port,
                    remote_port=flow.keys[0].remote_port, iss=conn.iss, snd_una=conn.snd_una,
                    snd_nxt=conn.snd_nxt, snd_max=conn.snd_max, snd_wnd=conn.snd_wnd, rcv_nxt=conn.rcv_nxt,
                    rcv_adv=conn.rcv_adv, cwnd=conn.cwnd, srtt=conn.srtt, rto=conn.rto, backoff=conn.backoff,
                    retries=conn.retries, overflow=overflow_len(flow),
                    memory=(conn.store.memory if conn.store != NULL else 0)
                    + (sizeof(SackBoard) if conn.board != NULL else 0),
                    armed=flow.armed, follows=(conn.flags & CONN_FOLLOW) != 0,
                    reported=runs_of_board(conn.board), stored=runs_of_store(conn.store)))
        return found

    def close(self):
        """End all connections, as `Engine.close` does; returns the frames that left."""
        end_flows(self.core)
        self.check()
        sent = self.link.sent
        self.link.sent = []
        return sent


def window_scale_for(int64_t window):
    """The window scale for windows of up to *window* bytes."""
    return scale_for(window)


cdef class RealSockets:
    """The stream operations of `Sockets` on real descriptors; failures are negative errnos."""

    cdef Sockets sockets

    def __init__(self):
        self.sockets = Sockets(Reactor(1))

    @property
    def has_peek_off(self):
        return self.sockets.has_peek_off

    @has_peek_off.setter
    def has_peek_off(self, bint value):
        self.sockets.has_peek_off = value

    @property
    def has_meminfo(self):
        return self.sockets.has_meminfo

    @has_meminfo.setter
    def has_meminfo(self, bint value):
        self.sockets.has_meminfo = value

    def keep_alive(self, int fd, int idle_s):
        return self.sockets.keep_alive(fd, idle_s)

    def path_info(self, int fd):
        cdef PathInfo path
        cdef int result = self.sockets.path_info(fd, &path)
        return result if result < 0 else dict(path)

    def follow_acks(self, int fd, bint on):
        return self.sockets.follow_acks(fd, on)

    def drain_errors(self, int fd):
        return self.sockets.drain_errors(fd)

    def probe(self, without=()):
        return self.sockets.probe(without)

    @property
    def window_scale(self):
        return self.sockets.window_scale

    def prepare(self, int fd):
        return self.sockets.prepare_stream(fd)

    def send(self, int fd, list pieces not None):
        cdef iovec gather[64]
        cdef bytes piece
        cdef size_t n = 0
        for piece in pieces:
            gather[n].iov_base = <void *><const char *>piece
            gather[n].iov_len = len(piece)
            n += 1
        return self.sockets.send(fd, gather, n)

    def peek(self, int fd, uint32_t skip, size_t n):
        cdef bytearray buf = bytearray(n)
        cdef ssize_t got = self.sockets.peek(fd, skip, <uint8_t *><char *>buf, n)
        return bytes(buf[:got]) if got >= 0 else got

    def rewind(self, int fd, uint32_t offset):
        return self.sockets.rewind(fd, offset)

    def consume(self, int fd, size_t n):
        return self.sockets.consume(fd, n)

    def free_space(self, int fd):
        cdef int64_t total = 0
        return self.sockets.free_space(fd, &total), total

    def take_error(self, int fd):
        return self.sockets.take_error(fd)

    def shut_write(self, int fd):
        return self.sockets.shut_write(fd)

    def abort(self, int fd):
        return self.sockets.abort(fd)

    def accept(self, int fd):
        cdef sockaddr_storage peer, local
        cdef int new = self.sockets.accept(fd, &peer, &local)
        return new if new < 0 else (new, address_of(&peer), address_of(&local))

    def refuse(self, int fd, int spare):
        return self.sockets.refuse(fd, spare)
