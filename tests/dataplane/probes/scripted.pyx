"""The real engine on a script: what is ready, what sockets answer, what time it is, comes from the test.

Theory of operation. `ScriptedEngine` is `Engine`, with a loop, sockets and a link of choice. A test names
what is ready (a batch of frames, a socket, a listener, room in the link), and `Rig.turn_with` takes turns of
`Engine.turn` until all of it was handled: with the engine's own order of events, timers and work list, and
its own way from an event to who handles it. `ScriptedReactor` never sleeps, and its clock stands until the
test sets it. `ScriptedSockets` asks a Python object for the result of each call. `ScriptedLink` gives the
frames of the guest at the end of memory that must not be read beyond, and spoils them when the batch is
over; it keeps what leaves.

What a Python side raises is kept, and raised when the turn has ended.
"""

from collections import deque
from typing import NamedTuple

from tests.dataplane.probes.probe import Guarded

cimport cython
from libc.stdint cimport INT64_MAX, UINT32_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from passt.dataplane.base.externs cimport (
    AF_INET, AF_INET6, EAGAIN, EIO, EPOLLIN, EPOLLOUT, MSG_TRUNC, htons, iovec, mmsghdr, msghdr, sockaddr_in,
    sockaddr_in6, sockaddr_storage, socklen_t,
)
from passt.dataplane.base.stats cimport DROP_LINK_FULL, count
from passt.dataplane.engine cimport Engine
from passt.dataplane.flow.record cimport NO_FLOW
from passt.dataplane.link.link cimport Link
from passt.dataplane.link.meta cimport RxFrame, TxMeta
from passt.dataplane.loop.reactor cimport EVENT_LINK, EVENTS_PER_WAIT, Reactor, make_tag
from passt.dataplane.sockets.socket_address cimport fill_sockaddr, read_sockaddr
from passt.dataplane.sockets.sockets cimport PathInfo, Sockets


class Sent(NamedTuple):
    """A frame that the link was given, and what it was asked to do with it (see `link.TxMeta`)."""

    frame: bytes
    gso_type: int
    gso_size: int
    csum_start: int
    csum_offset: int
    hdr_len: int


cdef object endpoint_of(const sockaddr_storage *address):
    """Address and port."""
    cdef uint8_t octets[16]
    cdef uint16_t port = 0
    cdef size_t n = read_sockaddr(address, octets, &port)
    return (<char *>octets)[:n], port


def socket_address(bytes address not None, int port):
    """A `struct sockaddr_in` or `sockaddr_in6` as bytes."""
    cdef sockaddr_storage out
    cdef sockaddr_in6 *six = <sockaddr_in6 *>&out
    cdef sockaddr_in *four = <sockaddr_in *>&out
    memset(&out, 0, sizeof(out))
    four.sin_port = htons(<uint16_t>port)
    if len(address) == 4:
        four.sin_family = AF_INET
        memcpy(&four.sin_addr, <const char *>address, 4)
        return (<char *>&out)[:sizeof(sockaddr_in)]
    six.sin6_family = AF_INET6
    memcpy(&six.sin6_addr, <const char *>address, 16)
    return (<char *>&out)[:sizeof(sockaddr_in6)]


@cython.auto_pickle(False)
cdef class ScriptedReactor(Reactor):
    """Events come from `script`, the time from `now`; descriptors are watched if they are real."""

    def __init__(self, uint32_t n_timers):
        self.script = []
        self.now = Reactor.clock(self)

    cdef int64_t clock(self) noexcept nogil:
        return self.now

    cdef int watch(self, int fd, int op, uint32_t events, uint64_t tag) noexcept nogil:
        if tag >> 56 == EVENT_LINK:
            self.link_events = events
            return 0
        return Reactor.watch(self, fd, op, events, tag)

    cdef int poll_once(self) noexcept with gil:
        cdef int n = 0
        self.slept = False
        if self.is_real and not self.script:
            self.n_found = self.epoll(0)
            return self.n_found
        for tag, events in self.script[:EVENTS_PER_WAIT]:
            self.events[n].data.u64 = tag
            self.events[n].events = events
            n += 1
        del self.script[:n]
        return n

    cdef int wait(self, int64_t now) noexcept nogil:
        """Nothing happens while the loop sleeps."""
        self.slept = True
        return 0


cdef class ScriptedLink(Link):
    """Gives frames by the batch and keeps each one that leaves.

    Like a tap device it stops when *room* frames are in, keeps some, then refuses.
    """

    def __init__(self, uint32_t features):
        self.features = features
        self.sent = []
        self.kept = []
        self.batches = deque()
        self.reading = []
        self.memories = []
        self.in_use = []
        self.openings = deque()
        self.room = None
        self.takes = -1
        self.keep_most = 4
        self.fds[0] = -1
        self.n_fds = 1

    cdef int read_batch(self, RxFrame *frames, int room) noexcept with gil:
        cdef int n = 0
        cdef size_t address
        self.forget_frames()
        if not self.reading and self.batches:
            self.reading = self.batches.popleft()
        for frame, gso_type, gso_size, unverified in self.reading[:room]:
            if n == len(self.memories):
                self.memories.append(Guarded())
            address = self.memories[n].place(frame)
            self.in_use.append((self.memories[n], len(frame)))
            memset(&frames[n], 0, sizeof(RxFrame))
            frames[n].data = <const uint8_t *>address
            frames[n].len = <uint32_t>len(frame)
            frames[n].gso_type = gso_type
            frames[n].gso_size = gso_size
            frames[n].unverified = unverified
            n += 1
        del self.reading[:n]
        self.more = len(self.reading) > 0
        self.drained = not self.more
        return n

    cdef void forget_frames(self):
        """The batch is over: who still reads of it finds nonsense."""
        for memory, n in self.in_use:
            memory.spoil(n)
        self.in_use.clear()

    cdef void end_turn(self) noexcept with gil:
        self.forget_frames()

    cdef bint emit(self, uint8_t *frame, size_t n, const TxMeta *meta) noexcept with gil:
        if self.refuse_next or not self.takes:
            self.refuse_next -= self.refuse_next > 0
            count(self.stats, DROP_LINK_FULL)
            return False
        self.takes -= self.takes > 0
        record = Sent((<const char *>frame)[:n], meta.gso_type, meta.gso_size if meta.gso_type else 0,
                      meta.csum_start, meta.csum_offset, meta.hdr_len)
        # What is kept is not overtaken, whatever *room* is set to meanwhile.
        if self.kept or (self.room is not None and not self.room):
            self.stats.link_stalls += not self.blocked
            self.blocked = True
            if len(self.kept) >= self.keep_most:
                count(self.stats, DROP_LINK_FULL)
                return False
            self.kept.append(record)
        else:
            if self.room is not None:
                self.room -= 1
            self.sent.append(record)
        self.stats.frames_to_guest += 1
        self.stats.bytes_to_guest += n
        return True

    cdef void on_writable(self) noexcept with gil:
        """The far side drains: so many more frames go through."""
        self.room = self.openings.popleft()
        while self.kept and (self.room is None or self.room):
            self.sent.append(self.kept.pop(0))
            if self.room is not None:
                self.room -= 1
        if not self.kept:
            self.blocked = False

    cdef list take_sent(self):
        sent = self.sent
        self.sent = []
        return sent


cdef bytes joined(const iovec *pieces, size_t n):
    cdef size_t i
    cdef list parts = []
    for i in range(n):
        parts.append((<const char *>pieces[i].iov_base)[:pieces[i].iov_len])
    return b"".join(parts)


cdef tuple message_of(const msghdr *message):
    """Data, endpoint of the receiver or None, control data."""
    peer = None
    control = b""
    if message.msg_name != NULL:
        peer = endpoint_of(<const sockaddr_storage *>message.msg_name)
    if message.msg_controllen:
        control = (<const char *>message.msg_control)[:message.msg_controllen]
    return joined(message.msg_iov, message.msg_iovlen), peer, control


cdef ssize_t fill_message(msghdr *message, object answer) noexcept:
    """Fill in what is received: payload, name, control data and flags; returns its length, or the errno."""
    cdef bytes payload, name, control
    cdef size_t n
    if isinstance(answer, int):
        return answer
    payload, name, control, message.msg_flags = answer
    n = len(payload)
    if n > message.msg_iov[0].iov_len:
        message.msg_flags |= MSG_TRUNC
        n = message.msg_iov[0].iov_len
    memcpy(message.msg_iov[0].iov_base, <const char *>payload, n)
    if message.msg_name != NULL:
        memcpy(message.msg_name, <const char *>name, len(name))
        message.msg_namelen = <socklen_t>len(name)
    if message.msg_control != NULL:
        memcpy(message.msg_control, <const char *>control, len(control))
    message.msg_controllen = len(control)
    return <ssize_t>n


cdef class ScriptedSockets(Sockets):
    """Every operation asks *kernel*, whose methods have the names of `Sockets` and its results.

    Data are bytes, endpoints (address, port); what gives data gives a negative errno instead if it fails.
    Messages are sent and received in lists.
    """

    def probe(self, without=()):
        """The test says what this kernel can do."""
        return frozenset()

    cdef object ask(self, str name, tuple arguments, object otherwise):
        """What a method of the kernel answers; *otherwise* if it raises."""
        try:
            return getattr(self.kernel, name)(*arguments)
        except BaseException as error:
            self.failure = self.failure or error
            return otherwise

    cdef int64_t number(self, str name, tuple arguments, int64_t otherwise) noexcept:
        """The same, of a method that answers with a number."""
        return self.ask(name, arguments, otherwise)

    cdef int open(self, int family, int kind, int protocol) noexcept with gil:
        return <int>self.number("open", (family, kind, protocol), -EIO)

    cdef int bind_source(self, int fd, const sockaddr_storage *address, socklen_t n) noexcept with gil:
        return <int>self.number("bind_source", (fd, endpoint_of(address)), -EIO)

    cdef int bind_device(self, int fd, const char *name, size_t n) noexcept with gil:
        return <int>self.number("bind_device", (fd, name[:n]), -EIO)

    cdef int connect(self, int fd, const sockaddr_storage *address, socklen_t n) noexcept with gil:
        return <int>self.number("connect", (fd, endpoint_of(address)), -EIO)

    cdef int accept(self, int fd, sockaddr_storage *peer, sockaddr_storage *local) noexcept with gil:
        cdef bytes far, near
        nowhere = (bytes(4), 0)
        new, far_end, near_end = self.ask("accept", (fd,), (-EAGAIN, nowhere, nowhere))
        if new >= 0:
            far, near = far_end[0], near_end[0]
            fill_sockaddr(peer, <const uint8_t *><const char *>far, len(far), far_end[1], 0)
            fill_sockaddr(local, <const uint8_t *><const char *>near, len(near), near_end[1], 0)
        return new

    cdef int refuse(self, int fd, int spare) noexcept with gil:
        return <int>self.number("refuse", (fd, spare), spare)

    cdef int prepare_stream(self, int fd) noexcept with gil:
        return <int>self.number("prepare_stream", (fd,), -EIO)

    cdef ssize_t send(self, int fd, iovec *pieces, size_t n) noexcept with gil:
        return self.number("send", (fd, joined(pieces, n)), -EIO)

    cdef ssize_t peek(self, int fd, uint32_t skip, uint8_t *buf, size_t n) noexcept with gil:
        return self.take_data(self.ask("peek", (fd, skip, n), -EIO), buf)

    cdef ssize_t receive(self, int fd, uint8_t *buf, size_t n) noexcept with gil:
        return self.take_data(self.ask("receive", (fd, n), -EIO), buf)

    cdef ssize_t take_data(self, object answer, uint8_t *buf) noexcept:
        """Fill *buf* with the data of an answer; returns their length, or the errno that it is."""
        cdef bytes data
        if isinstance(answer, int):
            return answer
        data = answer
        memcpy(buf, <const char *>data, len(data))
        return len(data)

    cdef ssize_t move(self, int from_fd, int to_fd, size_t n) noexcept with gil:
        return self.number("move", (from_fd, to_fd, n), -EIO)

    cdef bint at_end(self, int fd) noexcept with gil:
        return self.number("at_end", (fd,), 0) != 0

    cdef int rewind(self, int fd, uint32_t offset) noexcept with gil:
        return <int>self.number("rewind", (fd, offset), 0)

    cdef ssize_t consume(self, int fd, size_t n) noexcept with gil:
        return self.number("consume", (fd, n), -EIO)

    cdef int64_t free_space(self, int fd, int64_t *total) noexcept with gil:
        room, total[0] = self.ask("free_space", (fd,), (0, 0))
        return room

    cdef int shut_write(self, int fd) noexcept with gil:
        return <int>self.number("shut_write", (fd,), 0)

    cdef int take_error(self, int fd) noexcept with gil:
        return <int>self.number("take_error", (fd,), EIO)

    cdef int keep_alive(self, int fd, int idle_s) noexcept with gil:
        return <int>self.number("keep_alive", (fd, idle_s), 0)

    cdef int path_info(self, int fd, PathInfo *path) noexcept with gil:
        answer = self.ask("path_info", (fd,), None)
        if answer is None:
            return -EIO
        path.bytes_acked, path.bytes_per_s, path.rtt_us, path.rttvar_us, path.min_rtt_us = answer
        return 0

    cdef int follow_acks(self, int fd, bint on) noexcept with gil:
        return <int>self.number("follow_acks", (fd, on), -EIO)

    cdef int drain_errors(self, int fd) noexcept with gil:
        return <int>self.number("drain_errors", (fd,), 0)

    cdef int move_down(self, int fd) noexcept with gil:
        return <int>self.number("move_down", (fd,), fd)

    cdef int close(self, int fd) noexcept with gil:
        return <int>self.number("close", (fd,), 0)

    cdef int abort(self, int fd) noexcept with gil:
        return <int>self.number("abort", (fd,), 0)

    cdef int watch(self, int fd, int op, uint32_t events, uint64_t tag) noexcept with gil:
        return <int>self.number("watch", (fd, op, events, tag), 0)

    cdef ssize_t send_message(self, int fd, const msghdr *message) noexcept with gil:
        answer = self.ask("send_messages", (fd, [message_of(message)]), -EIO)
        return answer if isinstance(answer, int) else answer[0]

    cdef int send_messages(self, int fd, mmsghdr *messages, unsigned int n) noexcept with gil:
        answer = self.ask("send_messages", (fd, [message_of(&messages[i].msg_hdr) for i in range(n)]), -EIO)
        if isinstance(answer, int):
            return answer
        for i in range(len(answer)):
            messages[i].msg_len = answer[i]
        return <int>len(answer)

    cdef ssize_t receive_message(self, int fd, msghdr *message) noexcept with gil:
        answer = self.ask("receive_messages", (fd, 1), -EIO)
        return fill_message(message, answer if isinstance(answer, int) else answer[0])

    cdef int receive_messages(self, int fd, mmsghdr *messages, unsigned int n) noexcept with gil:
        answer = self.ask("receive_messages", (fd, n), -EIO)
        if isinstance(answer, int):
            return answer
        for i in range(len(answer)):
            messages[i].msg_len = <unsigned int>fill_message(&messages[i].msg_hdr, answer[i])
        return <int>len(answer)

    cdef ssize_t receive_error(self, int fd, msghdr *message) noexcept with gil:
        answer = self.ask("receive_error", (fd,), -EIO)
        return fill_message(message, answer if isinstance(answer, int) else (*answer, 0))

    cdef void prepare_datagrams(self, int fd) noexcept with gil:
        self.number("prepare_datagrams", (fd,), 0)

    cdef void prepare_relay(self, int fd) noexcept with gil:
        self.number("prepare_relay", (fd,), 0)

    cdef void prepare_bulk(self, int fd) noexcept with gil:
        self.number("prepare_bulk", (fd,), 0)

    cdef int set_option(self, int fd, int level, int name, int value) noexcept with gil:
        return <int>self.number("set_option", (fd, level, name, value), -EIO)

    cdef bint is_own(self, int fd, const sockaddr_storage *peer, socklen_t n) noexcept with gil:
        return self.number("is_own", (fd, endpoint_of(peer)), 0) != 0

    cdef uint32_t index_of(self, int fd, const char *ifname) noexcept with gil:
        return <uint32_t>self.number("index_of", (fd, ifname), 0)

    cdef int set_interface(self, int fd, int family, int ifindex) noexcept with gil:
        return <int>self.number("set_interface", (fd, family, ifindex), -EIO)


cdef class ScriptedEngine(Engine):
    """An engine in virtual time; sockets ask *kernel*, or are the system's if that is None."""

    def __init__(self, policy, responder, events, kernel, *, uint32_t max_flows=65536, **arguments):
        cdef Sockets sockets
        self.loop = ScriptedReactor(max_flows + 3)
        if kernel is None:
            sockets = Sockets(self.loop)
        else:
            sockets = self.scripted = ScriptedSockets(self.loop)
            self.scripted.kernel = kernel
        super().__init__(policy, responder, events, max_flows=max_flows, sockets=sockets, **arguments)


cdef class Rig:
    """An engine with a link, and what all tests ask of it.

    *kernel* is the Python side of the sockets; None: they are the system's.
    """

    def __init__(self, policy, responder, events, kernel, ScriptedLink link, **arguments):
        self.kernel = kernel
        self.link = link
        self.engine = ScriptedEngine(policy, responder, events, kernel, **arguments)
        self.loop = self.engine.loop
        self.core = self.engine.core
        if kernel is not None:
            # What this process may have says nothing about sockets that are numbers.
            self.core.fit_descriptors(UINT32_MAX)
        self.engine.attach_link(link, None)

    cdef object link_event(self, uint32_t events):
        """What the loop finds when the link has *events*."""
        return make_tag(EVENT_LINK, self.engine.link_number, 0), events

    cdef void turn_with(self, list events) except *:
        """Take one turn in which *events* are found, and more while epoll(7) would give them in parts."""
        self.loop.script = events
        self.engine.turn()
        self.check()
        while self.loop.script:
            self.engine.turn()
            self.check()

    cdef void check(self) except *:
        """Raise what a Python side raised."""
        cdef ScriptedSockets sockets = self.engine.scripted
        if sockets is not None and sockets.failure is not None:
            error = sockets.failure
            sockets.failure = None
            raise error
        self.engine.raise_failure()

    cdef list frames(self, frames):
        """The event of a batch; of each frame bytes, GSO type, GSO size, whether checksums are unverified."""
        self.link.batches.append(list(frames))
        return [self.link_event(EPOLLIN)]

    cdef list opening(self, room):
        """The event of a link with *room* for more frames (None: any number), if the loop watches for it."""
        if not self.loop.link_events & EPOLLOUT:
            assert not self.link.blocked, "the loop does not watch for room in the link"
            self.link.room = room
            return []
        self.link.openings.append(room)
        return [self.link_event(EPOLLOUT)]

    def take_sent(self):
        """The frames that have left since the last call."""
        return self.link.take_sent()

    def counters(self):
        return self.engine.counters()

    def set_trace(self, trace, frames=None):
        """As `Engine.set_trace`."""
        self.engine.set_trace(trace, frames)

    def close(self):
        """End everything, as the end of the process does; returns the frames that left."""
        self.engine.close()
        self.check()
        return self.link.take_sent()

    @property
    def now(self):
        """ns; the same for the loop and the translators."""
        return self.loop.now

    @now.setter
    def now(self, int64_t value):
        self.loop.now = self.core.now = value

    @property
    def next_deadline(self):
        """ns; None if no timer is armed."""
        cdef int64_t deadline = self.loop.timers.next_deadline()
        return None if deadline == INT64_MAX else deadline

    @property
    def is_busy(self):
        """Whether the loop would not sleep."""
        return self.core.flows.first_work != NO_FLOW

    @property
    def is_blocked(self):
        return bool(self.link.blocked)

    @property
    def pool_left(self):
        return self.core.pool.left

    @pool_left.setter
    def pool_left(self, size_t value):
        self.core.pool.left = value

    @property
    def n_active(self):
        """Records in use in the flow table, those of sockets included."""
        return self.core.flows.n_active
