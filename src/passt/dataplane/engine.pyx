"""The one class of the data plane that Python sees; its contract is in engine.pyi.

A turn of the loop: wait; take the time once; handle the events in the order they came (a link's
frames are all parsed before the next event); fire the timers that are due; then look once at each
flow that has something new (`finish_turn`). Flows that want to go on in the next turn make the loop
not sleep.
"""

import os
import resource
from heapq import heappop, heappush

from libc.stdint cimport int64_t, uint32_t, uint64_t

from passt.dataplane.observe.capture cimport Capture
from passt.dataplane.core.core cimport Core
from passt.dataplane.ingress.demux cimport on_frame
from passt.dataplane.flow.table cimport FLOW_DEAD, FLOW_UDP_PORT, NO_FLOW, Flow
from passt.dataplane.packet.headers cimport ETH_ALEN, ETH_HLEN, MAX_FRAME
from passt.dataplane.link.link cimport MAX_BATCH, RX_BATCH, Link, TapLink
from passt.dataplane.sockets.namespace_thread cimport NamespaceThread
from passt.dataplane.loop.reactor cimport (
    EVENT_FAR, EVENT_FLOW, EVENT_LINK, EVENT_LISTENER, EVENT_READER, Reactor, make_tag,
)
from passt.dataplane.sockets.sockets cimport Sockets, read_sockaddr
from passt.dataplane.base.stats cimport stats_as_dict
from passt.dataplane.link.stream cimport STREAM_BAD_LENGTH, STREAM_CLOSED, StreamLink
from passt.dataplane.base.externs cimport (
    EPOLLIN, EPOLLOUT, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, epoll_event, memcpy,
)
from passt.dataplane.core.station cimport forget_stations, is_known, set_guest
from passt.dataplane.link.meta cimport RxFrame
from passt.dataplane.tcp.from_guest cimport flush_gather
from passt.dataplane.turn cimport (
    end_flows, end_listener, finish_flows, on_flow_event, on_flow_timer, on_listener_event, set_handlers,
)
from passt.dataplane.udp.from_guest cimport flush_out
from passt.errors import HostError
from passt.facts.contracts import FlowInfo

cdef enum:
    # Batches read when the engine is closed; the transmit queue of a tap holds no more by far.
    CLOSING_ROUNDS = 256


cdef class Engine:
    """Event loop, link, flow table and translators of one instance; see engine.pyi."""

    cdef Core core
    cdef Reactor reactor
    cdef int link_fd              # -1: nobody is at the other end
    cdef uint32_t link_number     # how many there were; tells a late event apart
    cdef bint link_wants_out
    cdef int link_room            # frames that the next batch may have
    cdef StreamLink stream        # None: there was none yet
    cdef object on_end            # of the stream that is attached
    cdef bint stopping
    cdef dict readers             # fd -> callback
    cdef list due                 # heap of (deadline ns, id, callback)
    cdef long next_timer
    cdef uint32_t python_timer    # id of the heap entry that all Python timers share

    def __init__(self, policy, responder, events, *, bytes our_mac, uint32_t mtu, uint32_t max_flows=65536,
                 bytes secret=None, bytes our_ip4=bytes(4), udp_timeouts=None, without=()):
        cdef Sockets sockets
        cdef Link nobody = Link()
        nobody.blocked = True
        self.reactor = Reactor(max_flows + 2)
        sockets = Sockets(self.reactor)
        sockets.probe(without)
        if "pwait2" in without:
            self.reactor.has_pwait2 = False
        self.core = Core(policy, responder, events, nobody, sockets, our_mac=our_mac, mtu=mtu,
                         max_flows=max_flows, secret=os.urandom(16) if secret is None else secret,
                         our_ip4=our_ip4)
        set_handlers(self.core)
        if udp_timeouts is not None:
            self.core.udp.once_ns = udp_timeouts[0] * 1000000000
            self.core.udp.stream_ns = udp_timeouts[1] * 1000000000
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if descriptors != resource.RLIM_INFINITY:
            self.core.fit_descriptors(descriptors)
        self.link_fd = -1
        self.link_room = 1
        self.readers = {}
        self.due = []
        self.python_timer = max_flows

    def switch(self, **switches):
        self.core.switch(**switches)

    def attach_tap(self, int fd, bytes guest_mac, uint32_t offloads):
        if len(guest_mac) != ETH_ALEN:
            raise ValueError("a MAC address has 6 bytes")
        memcpy(self.core.guest.tap_mac, <const char *>guest_mac, ETH_ALEN)
        set_guest(self.core, self.core.guest.tap_mac)
        self.core.use_link(TapLink(fd, offloads))
        self.link_fd = fd
        self.link_wants_out = False
        self.must_watch(fd, EPOLL_CTL_ADD, EPOLLIN, make_tag(EVENT_LINK, self.link_number, 0))

    def attach_stream(self, int fd, on_end):
        if self.link_fd >= 0:
            raise ValueError("there is a link already")
        self.must_watch(fd, EPOLL_CTL_ADD, EPOLLIN, make_tag(EVENT_LINK, self.link_number + 1, 0))
        if self.stream is None:
            self.stream = StreamLink()
        self.stream.attach(fd)
        self.core.use_link(self.stream)
        forget_stations(self.core)
        self.link_number += 1
        self.link_fd = fd
        self.link_wants_out = False
        self.on_end = on_end
        self.core.flows.wake_waiting()
        self.core.listeners.resume()

    def is_guest_known(self):
        return is_known(self.core)

    cdef void end_stream(self) except *:
        """The client is gone, or makes no sense: detach it, and tell."""
        cdef StreamLink link = self.stream
        cdef int rounds = CLOSING_ROUNDS
        cdef object on_end = self.on_end
        # Where it can only not be written to, what it sent last still goes out.
        while rounds and not link.error:
            rounds -= 1
            self.read_link()
            finish_flows(self.core)
        if link.error == STREAM_CLOSED:
            reason = "it closed the connection"
        elif link.error == STREAM_BAD_LENGTH:
            reason = (f"it sent a frame of {link.bad_length} bytes, where {<int>ETH_HLEN} to "
                      f"{<int>MAX_FRAME} are possible")
        else:
            reason = os.strerror(link.error or link.broken)
        link.detach()
        link.error = 0
        self.link_fd = -1
        self.on_end = None
        on_end(reason)

    def attach_namespace(self, NamespaceThread inside not None):
        self.core.bypass.namespace_thread = inside

    def add_listener(self, int fd, int proto, rule, bint namespace=False):
        self.core.listeners.add(fd, proto, rule, namespace)

    def remove_listener(self, int fd):
        end_listener(self.core, self.core.listeners.find(fd))

    def add_reader(self, int fd, callback):
        self.must_watch(fd, EPOLL_CTL_MOD if fd in self.readers else EPOLL_CTL_ADD, EPOLLIN,
                        make_tag(EVENT_READER, 0, fd))
        self.readers[fd] = callback

    def remove_reader(self, int fd):
        del self.readers[fd]
        self.must_watch(fd, EPOLL_CTL_DEL, 0, 0)

    cdef void must_watch(self, int fd, int op, uint32_t events, uint64_t tag) except *:
        cdef int result = self.reactor.watch(fd, op, events, tag)
        if result < 0:
            raise OSError(-result, f"{os.strerror(-result)}: watching descriptor {fd}")

    def call_later(self, double delay_s, callback):
        cdef int64_t deadline = self.reactor.clock() + <int64_t>(delay_s * 1e9)
        self.next_timer += 1
        heappush(self.due, (deadline, self.next_timer, callback))
        self.arm_python()

    cdef void arm_python(self):
        if not self.due:
            self.reactor.timers.cancel(self.python_timer)
        else:
            self.reactor.timers.arm(self.python_timer, self.due[0][0])

    def send_frame(self, bytes frame not None):
        cdef bint sent = self.core.send_frame(frame)
        self.core.link.flush()    # it may be that the loop does not run yet
        return sent

    def start_capture(self, int fd, on_end):
        self.core.watch.set_capture(Capture(fd, on_end))

    def end_capture(self):
        cdef Capture capture = self.core.watch.capture
        if capture is None:
            return None
        capture.finish()
        self.core.watch.set_capture(None)
        return capture.n_frames, capture.n_lost

    def set_trace(self, flows, frames=None):
        self.core.trace = flows
        self.core.has_trace = flows is not None
        self.core.watch.set_tracer(frames, self.core.fail_by)

    def run(self):
        self.stopping = False
        while not self.stopping:
            self.turn()
            if self.core.has_failed:
                failure = self.core.failure
                self.core.failure = None
                self.core.has_failed = False
                raise failure
            if self.core.link.error and self.on_end is None and not self.stopping:
                raise HostError(f"the guest's interface is gone: {os.strerror(self.core.link.error)}")

    def stop(self):
        self.stopping = True

    cdef void turn(self) except *:
        """One turn of the loop."""
        cdef Core core = self.core
        cdef int n, i
        with nogil:
            # The time is taken anew: what came before, at start above all, must not be slept again.
            n = self.reactor.look()
            if n == 0 and core.flows.first_work == NO_FLOW and not core.link.more:
                core.bypass.spare_sockets.fill()
                n = self.reactor.rest(self.reactor.clock())
            core.now = self.reactor.clock()
            core.stats.wakeups += 1
        if n < 0:
            raise OSError(-n, os.strerror(-n))
        for i in range(n):
            self.dispatch(&self.reactor.events[i])
        if core.link.more:
            self.read_link()
        self.fire_timers()
        finish_flows(self.core)
        if core.link is self.stream:
            self.stream.read_ahead()
        core.link.flush()
        if core.watch.active:
            core.watch.end_turn()
        if self.on_end is not None and (self.stream.error or self.stream.broken):
            self.end_stream()
        if core.link.blocked != self.link_wants_out and self.link_fd >= 0:
            self.link_wants_out = core.link.blocked
            self.must_watch(self.link_fd, EPOLL_CTL_MOD, EPOLLIN | (EPOLLOUT if core.link.blocked else 0),
                            make_tag(EVENT_LINK, self.link_number, 0))

    cdef void dispatch(self, epoll_event *event) except *:
        cdef uint64_t tag = event.data.u64
        cdef uint32_t kind = <uint32_t>(tag >> 56)
        if kind == EVENT_LINK:
            if self.link_fd >= 0 and tag == make_tag(EVENT_LINK, self.link_number, 0):
                self.on_link_event(event.events)
        elif kind in (EVENT_FLOW, EVENT_FAR):
            on_flow_event(self.core, tag, event.events)
        elif kind == EVENT_LISTENER:
            on_listener_event(self.core, <uint32_t>tag)
        elif kind == EVENT_READER:
            callback = self.readers.get(<int><uint32_t>tag)
            if callback is not None:
                callback()

    cdef void on_link_event(self, uint32_t events) except *:
        if events & EPOLLOUT:
            self.core.link.on_writable()
            if not self.core.link.blocked:
                self.core.flows.wake_waiting()
                self.core.listeners.resume()
        if events != EPOLLOUT:
            self.read_link()

    cdef void read_link(self) noexcept:
        """Take what a link has: of a tap one batch, of a stream what one read brings."""
        cdef int n
        if self.core.link is self.stream:
            self.read_frames(MAX_BATCH)
            while self.core.link.more:
                self.read_frames(MAX_BATCH)
            return
        # Reading on until nothing is left costs a call more than needed where single frames come, as
        # in a request/response exchange. So the batch grows only while frames come faster than turns.
        if not self.reactor.slept:
            self.link_room = min(2 * self.link_room, <int>RX_BATCH)
        n = self.read_frames(self.link_room)
        if self.core.link.drained:
            self.link_room = max(n, 1)

    cdef int read_frames(self, int room) noexcept:
        """Handle a batch of *room* frames at most, which are no more than MAX_BATCH; returns their number."""
        cdef RxFrame frames[MAX_BATCH]
        cdef int n, i
        n = self.core.link.read_batch(frames, room)
        for i in range(n):
            on_frame(self.core, &frames[i])
        flush_gather(self.core)
        flush_out(self.core)
        return n

    cdef void fire_timers(self) except *:
        cdef uint32_t id = 0
        while self.reactor.timers.pop_due(self.core.now, &id):
            if id == self.python_timer:
                self.fire_python()
            else:
                on_flow_timer(self.core, id)

    cdef void fire_python(self) except *:
        try:
            while self.due and self.due[0][0] <= self.core.now:
                heappop(self.due)[2]()
        finally:
            self.arm_python()

    def memory_ceiling(self):
        return self.core.memory_ceiling()

    def counters(self):
        result = stats_as_dict(&self.core.stats)
        result["sockets_ready"] = self.core.bypass.spare_sockets.n[0] + self.core.bypass.spare_sockets.n[1]
        if self.core.bypass.namespace_thread is not None:
            result["sockets_ready"] += self.core.bypass.namespace_thread.n_ready()
        return result

    def flows(self):
        cdef uint32_t i
        cdef Flow *flow
        result = []
        for i in range(self.core.flows.top):
            flow = &self.core.flows.flows[i]
            if flow.kind > FLOW_DEAD and flow.kind != FLOW_UDP_PORT:
                result.append(describe(flow, self.core.handlers[flow.kind].state(flow).decode()))
        return iter(result)

    def udp_sockets(self):
        cdef uint32_t i
        cdef list found = []
        if self.core.stats.flows_udp:
            for i in range(self.core.flows.top):
                if self.core.flows.flows[i].kind == FLOW_UDP_PORT:
                    found.append(self.core.flows.flows[i].fd)
        return found

    def close(self):
        cdef int rounds = CLOSING_ROUNDS
        # What the guest sent last, before its end became known, still goes out.
        self.core.link.drained = self.link_fd < 0
        while rounds and not self.core.link.drained and not self.core.link.error:
            rounds -= 1
            self.link_room = RX_BATCH
            self.read_link()
            finish_flows(self.core)
        end_flows(self.core)
        self.core.listeners.close()
        self.core.bypass.spare_sockets.close()
        if self.core.bypass.namespace_thread is not None:
            self.core.bypass.namespace_thread.close()
            self.core.bypass.namespace_thread = None
        self.core.link.flush()
        self.end_capture()
        self.core.use_link(Link())
        self.stream = None
        self.on_end = None
        self.link_fd = -1
        self.link_wants_out = False


cdef object describe(Flow *flow, str state):
    """A FlowInfo of *flow*."""
    cdef size_t n = flow.keys[0].addr_len
    cdef unsigned char address[16]
    cdef unsigned short port = 0
    cdef size_t m = read_sockaddr(&flow.peer, address, &port)
    return FlowInfo(
        proto=flow.keys[0].proto, state=state, guest_address=(<char *>flow.keys[0].guest)[:n],
        guest_port=flow.keys[0].guest_port, remote_address=(<char *>flow.keys[0].remote)[:n],
        remote_port=flow.keys[0].remote_port, host_address=(<char *>address)[:m], host_port=port,
        inbound=flow.inbound)
