"""The translators without an engine: one `Core` between a link that records and sockets of choice.

The test is the loop: it injects frames, has events dispatched, sets the time and fires timers, each
by a call. So time is virtual, and each step can be looked at. The sockets are the kernel's, or
scripted ones that note each call and answer as the test says.
"""

from collections import deque
from struct import pack
from typing import NamedTuple

from tests.dataplane.probes.probe import Guarded

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from passt.dataplane.core.core cimport Core
from passt.dataplane.core.listeners cimport Listener
from passt.dataplane.ingress.demux cimport on_frame
from passt.dataplane.flow.key cimport FlowKey
from passt.dataplane.flow.record cimport FLOW_PING, FLOW_TCP, FLOW_UDP, Flow
from passt.dataplane.ip.icmp_error cimport push_icmp_error
from passt.dataplane.link.link cimport Link
from passt.dataplane.loop.reactor cimport EVENT_FLOW, EVENT_LISTENER, Reactor, make_tag
from passt.dataplane.sockets.sockets cimport Sockets, fill_sockaddr, read_sockaddr
from passt.dataplane.base.stats cimport DROP_LINK_FULL, count, stats_as_dict
from passt.dataplane.base.externs cimport (
    AF_INET, AF_INET6, EAGAIN, EMFILE, EPOLLIN, EPOLL_CTL_ADD, MSG_TRUNC, SOL_UDP, UDP_SEGMENT, htons, iovec,
    memset, mmsghdr, msghdr, sockaddr_in, sockaddr_in6, sockaddr_storage, socklen_t,
)
from passt.dataplane.core.decisions cimport ask_inbound
from passt.dataplane.flow.decision cimport InboundView
from passt.dataplane.link.meta cimport RxFrame, TxMeta
from passt.dataplane.tcp.segments cimport end_connection
from passt.dataplane.turn cimport (
    finish_flows, hand_on, on_flow_event, on_flow_timer, on_listener_event, set_handlers,
)


# Level and type of an item of control data that says UDP_SEGMENT.
SEGMENT_ITEM = pack("ii", SOL_UDP, UDP_SEGMENT)


class Sent(NamedTuple):
    """A frame that the link was given, and what it was asked to do with it."""

    frame: bytes
    gso_type: int
    gso_size: int
    csum_start: int
    csum_offset: int
    hdr_len: int


class FlowState(NamedTuple):
    """One living flow; *number* is its index in the table, *fd* of its socket, though others share it."""

    number: int
    kind: int
    fd: int
    armed: int


cdef class RecordingLink(Link):
    """Keeps each frame that leaves; refuses some if it is told to."""

    cdef list sent
    cdef int room                 # frames that it still takes, -1: any

    def __cinit__(self):
        self.sent = []
        self.room = -1

    cdef bint emit(self, uint8_t *frame, size_t n, const TxMeta *meta) noexcept with gil:
        if self.room == 0:
            count(self.stats, DROP_LINK_FULL)
            return False
        self.room -= self.room > 0
        self.sent.append(Sent((<const char *>frame)[:n], meta.gso_type, meta.gso_size, meta.csum_start,
                              meta.csum_offset, meta.hdr_len))
        self.stats.frames_to_guest += 1
        self.stats.bytes_to_guest += n
        return True


cdef bytes joined(const iovec *pieces, size_t n):
    cdef size_t i
    parts = []
    for i in range(n):
        parts.append((<const char *>pieces[i].iov_base)[:pieces[i].iov_len])
    return b"".join(parts)


cdef object read_endpoint(const sockaddr_storage *address):
    cdef uint8_t octets[16]
    cdef uint16_t port = 0
    cdef size_t n = read_sockaddr(address, octets, &port)
    return (<char *>octets)[:n], port


cdef class ScriptedSockets(Sockets):
    """Sockets that are numbers: each call is noted, results come from the script or are successes.

    *results* holds per operation the results to come, first in first out. *inbox* holds per
    descriptor what can be received: (payload, sender's socket address, control data, flags), *errors*
    what its error queue holds. *options* is what was set by `set_option`. With a *limit* the numbers are
    those that a kernel with so many would give, from 0 on. *clients* are the socket addresses of those that
    wait.
    """

    cdef readonly list log
    cdef readonly set open_fds
    cdef readonly dict results
    cdef readonly dict inbox
    cdef readonly dict errors
    cdef readonly list options
    cdef readonly object clients
    cdef public int limit         # descriptors, 0: any number
    cdef public int refuse_segments   # errno of each message that is to be cut, 0: they go
    cdef int next_fd

    def __init__(self, reactor):
        self.log = []
        self.open_fds = set()
        self.results = {}
        self.inbox = {}
        self.errors = {}
        self.options = []
        self.clients = deque()
        self.next_fd = 1000

    cdef int64_t answer(self, str operation, int64_t default):
        queue = self.results.get(operation)
        return queue.popleft() if queue else default

    cdef int note(self, str operation, tuple arguments, int64_t default) noexcept:
        self.log.append((operation, *arguments))
        return <int>self.answer(operation, default)

    cdef int take_number(self) except? -1:
        """The number of a new descriptor, or a negative errno."""
        cdef int fd
        if not self.limit:
            self.next_fd += 1
            return self.next_fd - 1
        for fd in range(self.limit):
            if fd not in self.open_fds:
                return fd
        return -EMFILE

    cdef int open(self, int family, int kind, int protocol) noexcept with gil:
        cdef int fd = self.note("open", (family, kind, protocol), 0)
        if fd == 0:
            fd = self.take_number()
        if fd >= 0:
            self.open_fds.add(fd)
        return fd

    cdef int move_down(self, int fd) noexcept with gil:
        cdef int lower = self.take_number() if self.limit else fd
        if not 0 <= lower < fd:
            return fd
        self.open_fds.remove(fd)
        self.open_fds.add(lower)
        return lower

    cdef int bind_source(self, int fd, const sockaddr_storage *address, socklen_t n) noexcept with gil:
        return self.note("bind_source", (fd, *read_endpoint(address)), 0)

    cdef int bind_device(self, int fd, const char *name, size_t n) noexcept with gil:
        return self.note("bind_device", (fd, name[:n]), 0)

    cdef int connect(self, int fd, const sockaddr_storage *address, socklen_t n) noexcept with gil:
        return self.note("connect", (fd, *read_endpoint(address)), 0)

    cdef int accept(self, int fd, sockaddr_storage *peer, sockaddr_storage *local) noexcept with gil:
        cdef bytes name
        cdef int new
        if not self.clients:
            return self.note("accept", (fd,), -EAGAIN)
        new = self.take_number()
        if new >= 0:
            name = self.clients.popleft()
            memcpy(peer, <const char *>name, len(name))
            memcpy(local, <const char *>name, len(name))
            self.open_fds.add(new)
        return new

    cdef int refuse(self, int fd, int spare) noexcept with gil:
        return self.note("refuse", (fd, spare), spare)

    cdef int prepare_stream(self, int fd) noexcept with gil:
        return self.note("prepare_stream", (fd,), 0)

    cdef ssize_t send(self, int fd, iovec *pieces, size_t n) noexcept with gil:
        data = joined(pieces, n)
        return self.note("send", (fd, data), len(data))

    cdef ssize_t peek(self, int fd, uint32_t skip, uint8_t *buf, size_t n) noexcept with gil:
        return self.note("peek", (fd, skip, n), -EAGAIN)

    cdef bint at_end(self, int fd) noexcept with gil:
        return self.note("at_end", (fd,), 0)

    cdef int rewind(self, int fd, uint32_t offset) noexcept with gil:
        return self.note("rewind", (fd, offset), 0)

    cdef ssize_t consume(self, int fd, size_t n) noexcept with gil:
        return self.note("consume", (fd, n), n)

    cdef int64_t free_space(self, int fd, int64_t *total) noexcept with gil:
        total[0] = 1 << 20
        return self.note("free_space", (fd,), 1 << 19)

    cdef int shut_write(self, int fd) noexcept with gil:
        return self.note("shut_write", (fd,), 0)

    cdef int take_error(self, int fd) noexcept with gil:
        return self.note("take_error", (fd,), 0)

    cdef int keep_alive(self, int fd, int idle_s) noexcept with gil:
        return self.note("keep_alive", (fd, idle_s), 0)

    cdef int close(self, int fd) noexcept with gil:
        self.open_fds.remove(fd)
        return self.note("close", (fd,), 0)

    cdef int abort(self, int fd) noexcept with gil:
        self.open_fds.remove(fd)
        return self.note("abort", (fd,), 0)

    cdef int watch(self, int fd, int op, uint32_t events, uint64_t tag) noexcept with gil:
        return self.note("watch", (fd, op, events, tag), 0)

    cdef ssize_t send_message(self, int fd, const msghdr *message) noexcept with gil:
        data = joined(message.msg_iov, message.msg_iovlen)
        peer = None
        if message.msg_name != NULL:
            peer = read_endpoint(<const sockaddr_storage *>message.msg_name)
        control = b""
        if message.msg_controllen:
            control = (<const char *>message.msg_control)[:message.msg_controllen]
        if self.refuse_segments and control[-16:-8] == SEGMENT_ITEM:
            return -self.refuse_segments
        return self.note("send_message", (fd, data, peer, control), len(data))

    cdef ssize_t receive_message(self, int fd, msghdr *message) noexcept with gil:
        cdef bytes payload, name, control
        cdef size_t n
        queue = self.inbox.get(fd)
        if not queue:
            return -EAGAIN
        item = queue.popleft()
        if isinstance(item, int):
            return item
        payload, name, control, message.msg_flags = item
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
        return n

    cdef int send_messages(self, int fd, mmsghdr *messages, unsigned int n) noexcept with gil:
        """As the kernel does it: what fails is an error if it is the first, else left for the next call."""
        cdef unsigned int i
        cdef ssize_t sent
        for i in range(n):
            if i and self.results.get("send_message") and self.results["send_message"][0] < 0:
                return <int>i
            sent = self.send_message(fd, &messages[i].msg_hdr)
            if sent < 0:
                return <int>(i if i else sent)
            messages[i].msg_len = <unsigned int>sent
        return <int>n

    cdef int receive_messages(self, int fd, mmsghdr *messages, unsigned int n) noexcept with gil:
        cdef unsigned int i
        cdef ssize_t got
        for i in range(n):
            queue = self.inbox.get(fd)
            if i and (not queue or isinstance(queue[0], int)):
                return <int>i
            got = self.receive_message(fd, &messages[i].msg_hdr)
            if got < 0:
                return <int>got
            messages[i].msg_len = <unsigned int>got
        return <int>n

    cdef void prepare_datagrams(self, int fd) noexcept with gil:
        self.note("prepare_datagrams", (fd,), 0)

    cdef ssize_t receive_error(self, int fd, msghdr *message) noexcept with gil:
        cdef bytes payload, name, control
        queue = self.errors.get(fd)
        if not queue:
            return -EAGAIN
        payload, name, control = queue.popleft()
        memcpy(message.msg_iov[0].iov_base, <const char *>payload, len(payload))
        memcpy(message.msg_name, <const char *>name, len(name))
        message.msg_namelen = <socklen_t>len(name)
        memcpy(message.msg_control, <const char *>control, len(control))
        message.msg_controllen = len(control)
        return len(payload)

    cdef int set_option(self, int fd, int level, int name, int value) noexcept with gil:
        self.options.append((fd, level, name, value))
        return <int>self.answer("set_option", 0)

    cdef bint is_own(self, int fd, const sockaddr_storage *peer, socklen_t n) noexcept with gil:
        return self.note("is_own", (fd, read_endpoint(peer)), 0) != 0

    cdef uint32_t index_of(self, const char *ifname) noexcept with gil:
        return <uint32_t>self.note("index_of", (ifname,), 7)

    cdef int set_interface(self, int fd, int family, int ifindex) noexcept with gil:
        return self.note("set_interface", (fd, family, ifindex), 0)


def socket_address(bytes address not None, int port):
    """A `struct sockaddr_in` or `sockaddr_in6` as octets."""
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


cdef class World:
    """A `Core` with what a turn of the engine does, step by step.

    *features* are those of the link; with *scripted* the sockets are `ScriptedSockets`.
    """

    cdef Core core
    cdef RecordingLink link
    cdef Reactor reactor
    cdef readonly object sockets
    cdef list memory              # of the frames of this turn

    def __init__(self, policy, responder, events, *, bytes our_mac, bytes guest_mac=None, uint32_t mtu=65520,
                 uint32_t max_flows=64, uint32_t features=0, scripted=False, bytes our_ip4=bytes(4)):
        cdef Sockets sockets
        self.reactor = Reactor(max_flows + 3)
        sockets = ScriptedSockets(self.reactor) if scripted else Sockets(self.reactor)
        if not scripted:
            sockets.probe()
        self.sockets = sockets if scripted else None
        self.link = RecordingLink()
        self.link.features = features
        self.core = Core(policy, responder, events, self.link, sockets, our_mac=our_mac, mtu=mtu,
                         max_flows=max_flows, secret=bytes(16), our_ip4=our_ip4)
        set_handlers(self.core)
        if guest_mac is not None:
            memcpy(self.core.guest.mac, <const char *>guest_mac, 6)
        self.memory = []

    def inject(self, bytes frame not None, *, int gso_type=0, int gso_size=0, bint unverified=False):
        """Take one frame from the guest; its memory is good until `end_turn`."""
        cdef RxFrame rx
        cdef size_t address
        memset(&rx, 0, sizeof(rx))
        memory = Guarded()
        address = memory.place(frame)
        self.memory.append(memory)
        rx.data = <const uint8_t *>address
        rx.len = <uint32_t>len(frame)
        rx.gso_type = <uint8_t>gso_type
        rx.gso_size = <uint16_t>gso_size
        rx.unverified = unverified
        with nogil:
            on_frame(self.core, &rx)

    def end_turn(self):
        """Write what was gathered and look at the flows with something new, as the engine does."""
        hand_on(self.core)
        self.memory.clear()
        finish_flows(self.core)
        self.check()

    def flush(self):
        """Send what was gathered, as at the end of one batch of frames."""
        hand_on(self.core)
        self.memory.clear()

    def wake_waiting(self):
        """The link drains."""
        self.core.flows.wake_waiting()
        self.core.listeners.resume()

    def dispatch(self):
        """Handle the events that are there, without waiting; returns how many."""
        cdef int n = self.reactor.next_events(self.core.now, True)
        cdef int i
        for i in range(n):
            self.handle(self.reactor.events[i].data.u64, self.reactor.events[i].events)
        self.check()
        return n

    cdef void handle(self, uint64_t tag, uint32_t events) except *:
        cdef uint32_t index = <uint32_t>tag
        if tag >> 56 == EVENT_LISTENER:
            on_listener_event(self.core, index)
            return
        on_flow_event(self.core, tag, events)

    def event(self, uint32_t index, uint32_t events):
        """Have the flow *index* see *events* of its socket."""
        cdef Flow *flow = &self.core.flows.flows[index]
        if flow.kind == FLOW_UDP:
            index = flow.body.udp.port
        self.handle(make_tag(EVENT_FLOW, self.core.flows.flows[index].generation, index), events)

    def tagged_event(self, uint64_t tag, uint32_t events):
        """Have an event come for what was watched with *tag*."""
        self.handle(tag, events)

    def listener_event(self, uint32_t index):
        """Have the listener *index* be readable."""
        self.handle(make_tag(EVENT_LISTENER, 0, index), EPOLLIN)
        self.check()

    def fire_timers(self):
        """Fire what is due."""
        cdef uint32_t id = 0
        while self.reactor.timers.pop_due(self.core.now, &id):
            on_flow_timer(self.core, id)
        self.check()

    def switch(self, **switches):
        """Switch families and protocols, as `Engine.switch` does."""
        self.core.switch(**switches)

    def next_deadline(self):
        return self.reactor.timers.next_deadline()

    def add_listener(self, int fd, int proto, rule, int port, families=(),
                     bytes address=b"", bytes device=b""):
        """Add a listener; a real one is watched. The guest's flows may use it for *families*."""
        cdef Listener listener = Listener(fd, proto, rule, port, families=families, address=address,
                                          device=device)
        self.core.listeners.insert(listener)
        if self.sockets is None and self.reactor.watch(
                fd, EPOLL_CTL_ADD, EPOLLIN, make_tag(EVENT_LISTENER, 0, listener.index)) < 0:
            raise OSError("watching the listener")
        return listener.index

    def ask_inbound(self):
        """Ask the policy as for a datagram from 127.0.0.1; tells whether the flow may open."""
        cdef sockaddr_storage peer
        cdef InboundView view
        cdef bytes loopback = b"\x7f\0\0\1"
        fill_sockaddr(&peer, <const uint8_t *><const char *>loopback, 4, 1000, 0)
        if self.core.listeners.at(0) is None:
            self.core.listeners.insert(Listener(-1, 17, None, 53))
        return ask_inbound(self.core, 0, 17, &peer, &peer, &view)

    def keep_busy(self, uint32_t index):
        """Put the flow *index* on the work list: its record is not free before the turn ends."""
        self.core.flows.add_work(&self.core.flows.flows[index])

    def check(self):
        """Raise what a callback raised."""
        if self.core.has_failed:
            failure = self.core.failure
            self.core.failure = None
            self.core.has_failed = False
            raise failure

    def end_all(self):
        """End every flow."""
        cdef uint32_t i
        cdef Flow *flow
        for i in range(self.core.flows.top):
            flow = &self.core.flows.flows[i]
            if flow.kind == FLOW_TCP:
                end_connection(self.core, flow, False)
            else:
                self.core.handlers[flow.kind].end_flow(self.core, flow)

    def take_sent(self):
        """What the link was given since the last call."""
        sent = list(self.link.sent)
        self.link.sent.clear()
        return sent

    def script(self, str operation, *results):
        """Results of the next calls of *operation*."""
        self.sockets.results.setdefault(operation, deque()).extend(results)

    def deliver(self, int fd, *items):
        """What the scripted descriptor *fd* receives: errnos or (payload, name, control, flags)."""
        self.sockets.inbox.setdefault(fd, deque()).extend(items)

    def flows(self):
        cdef uint32_t i
        cdef Flow *flow
        found = []
        for i in range(self.core.flows.top):
            flow = &self.core.flows.flows[i]
            fd = flow.fd
            if flow.kind == FLOW_UDP and not flow.body.udp.listener:
                fd = self.core.flows.flows[flow.body.udp.port].fd
            if flow.kind in (FLOW_TCP, FLOW_UDP, FLOW_PING):
                found.append(FlowState(flow.index, flow.kind, fd, flow.armed))
        return found

    def counters(self):
        return stats_as_dict(&self.core.stats)

    def send_frame(self, bytes frame not None):
        return self.core.send_frame(frame)

    def push_icmp_error(self, bytes guest not None, bytes remote not None, int protocol,
                        bytes quoted not None, *, int kind, int code, uint32_t info=0, bytes offender=None):
        """Have the guest told of an error; *offender* as a key holds it."""
        cdef FlowKey key
        cdef uint8_t address[16]
        memset(&key, 0, sizeof(key))
        memset(address, 0, 16)
        key.addr_len = <uint8_t>len(guest)
        memcpy(key.guest, <const char *>guest, len(guest))
        memcpy(key.remote, <const char *>remote, len(remote))
        if offender is not None:
            memcpy(address, <const char *>offender, len(offender))
        push_icmp_error(self.core, self.core.guest.mac, &key, <uint8_t>protocol,
                        <const uint8_t *><const char *>quoted, len(quoted), <uint8_t>kind, <uint8_t>code,
                        info, NULL if offender is None else address)

    def set_frames(self, frames):
        self.core.watch.set_tracer(frames, self.core.fail_by)

    def set_trace(self, trace):
        self.core.trace = trace
        self.core.has_trace = trace is not None

    @property
    def now(self):
        return self.core.now

    @now.setter
    def now(self, int64_t value):
        self.core.now = value

    @property
    def pool_left(self):
        return self.core.pool.left

    @property
    def identification(self):
        """The one of the last packet that may be cut."""
        return self.core.packet_id

    @identification.setter
    def identification(self, uint32_t value):
        self.core.packet_id = value

    @property
    def guest_mac(self):
        return (<char *>self.core.guest.mac)[:6]

    @property
    def room(self):
        return self.link.room

    @room.setter
    def room(self, int value):
        self.link.room = value

    @property
    def mtu(self):
        return self.core.mtu

    @mtu.setter
    def mtu(self, uint32_t value):
        self.core.mtu = value
        self.core.packet_limit = value if value else 65520

    def limit_descriptors(self, int n):
        """Let the process have *n* descriptors; no socket is open yet."""
        self.sockets.limit = n
        self.core.fit_descriptors(n)

    @property
    def max_datagram(self):
        """Number of datagram flows that may be."""
        return self.core.flows.max_datagram

    @property
    def n_records(self):
        """Records in use in the flow table, those of sockets included."""
        return self.core.flows.n_active

    @property
    def blocked(self):
        return bool(self.link.blocked)

    @blocked.setter
    def blocked(self, bint value):
        self.link.blocked = value
