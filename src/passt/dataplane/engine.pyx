"""The one class of the data plane that Python sees; its contract is in engine.pyi.

A turn of the loop: wait; take the time once; handle the events in the order they came (a link's
frames are all parsed before the next event); fire the timers that are due; then look once at each
flow that has something new (`finish_turn`). Flows that want to go on in the next turn make the loop
not sleep.
"""

import os
import resource
from heapq import heappop, heappush
from time import thread_time_ns

from libc.stdint cimport int64_t, uint32_t, uint64_t

from passt.dataplane.observe.capture cimport Capture
from passt.dataplane.observe.recorder cimport Recorder
from passt.dataplane.core.core cimport Core
from passt.dataplane.core.decisions cimport may_tell
from passt.dataplane.core.detail cimport describe as describe_all
from passt.dataplane.core.listeners cimport Listener
from passt.dataplane.flow.record cimport CLASS_DATAGRAM, FLOW_DEAD, FLOW_UDP_PORT, NO_FLOW, Flow
from passt.dataplane.packet.headers cimport ETH_ALEN
from passt.dataplane.link.link cimport MAX_BATCH, Link
from passt.dataplane.link.tap cimport TapLink
from passt.dataplane.sockets.namespace_thread cimport NamespaceThread
from passt.dataplane.loop.reactor cimport (
    EVENT_FAR, EVENT_FLOW, EVENT_LINK, EVENT_LISTENER, EVENT_READER, Reactor, make_tag,
)
from passt.dataplane.sockets.socket_address cimport read_sockaddr
from passt.dataplane.sockets.sockets cimport Sockets
from passt.dataplane.base.stats cimport stats_as_dict
from passt.dataplane.base.wait_limit cimport WaitLimit, begin_limit, end_limit
from passt.dataplane.link.stream cimport StreamLink
from passt.dataplane.base.externs cimport (
    EPOLLIN, EPOLLOUT, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, epoll_event, memcpy,
)
from passt.dataplane.core.station cimport forget_stations, is_known, set_guest
from passt.dataplane.turn cimport (
    change_rule, end_flows, end_listener, finish_flows, on_flow_event, on_flow_timer, on_listener_event,
    read_frames, set_handlers,
)
from passt.errors import HostError
from passt.facts import contracts
from passt.facts.contracts import FlowInfo, ListenerInfo, TurnsMeasured

cdef enum:
    # Batches read when the engine is closed; the transmit queue of a tap holds no more by far.
    CLOSING_ROUNDS = 256
    FLOW_PAGE = 256               # records of the flow table that are looked at in one piece
    DETAIL_PAGE = 64              # the same where the kernel is asked too
    LISTENER_PAGE = 256           # listeners that are looked at in one piece


cdef class Engine:
    """Event loop, link, flow table and translators of one instance; see engine.pyi."""

    def __init__(self, policy, responder, events, *, bytes our_mac, uint32_t mtu, uint32_t max_flows=65536,
                 bytes secret=None, bytes our_ip4=bytes(4), udp_timeouts=None, without=(),
                 Sockets sockets=None):
        cdef Link nobody = Link()
        nobody.blocked = True
        if sockets is None:
            sockets = Sockets(Reactor(max_flows + 3))
        self.reactor = sockets.reactor
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
        self.readers = {}
        self.due = []
        self.python_timer = max_flows

    def switch(self, **switches):
        self.core.switch(**switches)

    def renew(self, bytes our_ip4):
        self.core.renew(our_ip4)

    def set_neighbours(self, dict entries):
        self.core.set_neighbours(entries)

    def attach_tap(self, int fd, bytes guest_mac, uint32_t offloads):
        if len(guest_mac) != ETH_ALEN:
            raise ValueError("a MAC address has 6 bytes")
        self.attach_link(TapLink(fd, offloads), None)
        memcpy(self.core.guest.tap_mac, <const char *>guest_mac, ETH_ALEN)
        set_guest(self.core, self.core.guest.tap_mac)

    def go_without_link(self):
        if self.core.link.n_fds:
            raise ValueError("there is a link already")
        self.core.link.blocked = False

    def attach_stream(self, int fd, on_end):
        cdef StreamLink link
        if self.core.link.n_fds:
            raise ValueError("there is a link already")
        # Its memory is large and can be used again.
        link = self.core.link if isinstance(self.core.link, StreamLink) else StreamLink()
        link.attach(fd)
        self.attach_link(link, on_end)

    def attach_vhost(self, on_end):
        # Only who serves such a machine loads what it takes.
        from passt.dataplane.link.vhost import VhostLink

        link = VhostLink(self.reactor)
        self.attach_link(link, on_end)
        return link

    def attach_link(self, Link link not None, on_end):
        if self.core.link is not link and self.core.link.n_fds:
            raise ValueError("there is a link already")
        self.link_number += 1
        link.number = self.link_number
        try:
            self.watch_link(link, EPOLL_CTL_ADD)
        except OSError:
            link.release()
            raise
        self.core.use_link(link)
        self.link_blocked = link.blocked
        self.on_end = on_end
        forget_stations(self.core)
        self.wake_waiting()

    cdef void watch_link(self, Link link, int op) except *:
        """Watch the descriptors of *link* for the events that it wants now."""
        cdef int which
        cdef uint32_t events
        for which in range(link.n_fds):
            events = link.wanted_events(which)
            if events:
                self.must_watch(link.fds[which], op, events,
                                make_tag(EVENT_LINK, self.link_number, <uint32_t>which))

    def wait_limit(self):
        return WaitLimit()

    def is_guest_known(self):
        return is_known(self.core)

    cdef void end_link(self) except *:
        """The link has ended: take what it still has, detach it, and say why."""
        cdef Link link = self.core.link
        cdef object on_end = self.on_end
        cdef str reason
        self.drain_link(True)
        reason = link.end_reason()
        begin_limit()             # with its socket are closed descriptors that the client has sent
        link.detach()
        end_limit()
        self.on_end = None
        on_end(reason)

    cdef void drain_link(self, bint has_ended) except *:
        """Handle the guest's last frames, which a link that is only broken for writing still gives.

        One that *has_ended* is read until it says why.
        """
        cdef Link link = self.core.link
        cdef int rounds = CLOSING_ROUNDS
        self.reactor.slept = False
        link.drained = not link.n_fds
        while rounds and (has_ended or not link.drained) and not link.error:
            rounds -= 1
            self.read_link()
            finish_flows(self.core)
            link.end_turn()

    def attach_namespace(self, NamespaceThread inside not None):
        self.core.bypass.namespace_thread = inside

    def add_listener(self, int fd, int proto, rule, bint namespace=False):
        listener = self.core.listeners.add(fd, proto, rule, namespace)
        if may_tell(self.core):
            self.core.watcher.on_port_opened(tell_listener(listener))

    def change_rule(self, int fd, rule):
        change_rule(self.core, self.core.listeners.find(fd), rule)

    def remove_listener(self, int fd):
        cdef Listener listener = self.core.listeners.find(fd)
        end_listener(self.core, listener)
        if may_tell(self.core):
            self.core.watcher.on_port_closed(tell_listener(listener))

    def listeners(self):
        return [tell_listener(listener) for listener in self.core.listeners.all()]

    def listeners_at(self, int protocol, int port):
        cdef list places = self.core.listeners.by_index
        cdef list found = []
        cdef Listener listener
        cdef uint32_t i
        for i in range(<uint32_t>len(places)):
            # Of all others no more is looked at than their records, which lie in a row.
            if self.core.listeners.states[i].port == port:
                listener = places[i]
                if listener is not None and listener.protocol == protocol:
                    found.append(tell_listener(listener))
        return found

    def listener_page(self, uint32_t start=0, uint32_t limit=LISTENER_PAGE):
        cdef list places = self.core.listeners.by_index
        cdef uint32_t top = len(places)
        cdef uint32_t end = start + min(limit, top - min(start, top))
        found = [tell_listener(listener) for listener in places[start:end] if listener is not None]
        return found, end if end < top else None

    def add_reader(self, int fd, callback, bint readable=True, bint writable=False):
        self.must_watch(fd, EPOLL_CTL_MOD if fd in self.readers else EPOLL_CTL_ADD,
                        (EPOLLIN if readable else 0) | (EPOLLOUT if writable else 0),
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

    def start_recorder(self, packets, header, room, *, snap_len, keeps_newest=False, fd=-1, on_change=None):
        recorder = Recorder(packets, header, room, snap_len, keeps_newest=keeps_newest, fd=fd,
                            on_change=on_change, fail=self.core.fail_by)
        self.core.watch.add_recorder(recorder)
        return recorder

    def stop_recorder(self, Recorder recorder not None):
        self.core.watch.remove_recorder(recorder)

    def set_trace(self, flows, frames=None):
        self.trace_flows(flows)
        self.core.watch.set_tracer(frames, self.core.fail_by)

    def trace_flows(self, flows):
        self.core.trace = flows
        self.core.has_trace = flows is not None

    def run(self):
        self.stopping = False
        while not self.stopping:
            self.turn()
            self.raise_failure()
            if self.core.link.error and self.on_end is None and not self.stopping:
                raise HostError(self.core.link.end_reason())

    cdef void raise_failure(self) except *:
        """Raise what a callback raised during the turn."""
        if self.core.has_failed:
            failure = self.core.failure
            self.core.failure = None
            self.core.has_failed = False
            raise failure

    def stop(self):
        self.stopping = True

    def measure_turns(self, bint wanted=True):
        cdef TurnTimes *times = &self.turn_times
        found = TurnsMeasured(times.n, times.longest_ns, times.cpu_in_longest_ns, times.most_cpu_ns)
        times.is_wanted = wanted
        times.n = 0
        times.longest_ns = times.cpu_in_longest_ns = times.most_cpu_ns = 0
        times.cpu_at_ns = thread_time_ns()
        return found

    cdef void note_turn(self) except *:
        """Take down how long the turn that ends has taken; nothing was waited for meanwhile."""
        cdef TurnTimes *times = &self.turn_times
        cdef int64_t took = self.reactor.clock() - self.core.now
        cdef int64_t cpu = thread_time_ns() - times.cpu_at_ns
        times.n += 1
        times.most_cpu_ns = max(times.most_cpu_ns, cpu)
        if took > times.longest_ns:
            times.longest_ns = took
            times.cpu_in_longest_ns = cpu

    cdef void turn(self) except *:
        """One turn of the loop."""
        cdef Core core = self.core
        cdef int n, i
        with nogil:
            # Read the clock again: time spent since the last reading, at start above all, shortens the sleep.
            n = self.reactor.poll_once()
            if n == 0 and core.flows.first_work == NO_FLOW and not core.link.more:
                core.bypass.spare_sockets.fill()
                n = self.reactor.wait(self.reactor.clock())
            core.now = self.reactor.clock()
            core.stats.wakeups += 1
        if n < 0:
            raise OSError(-n, os.strerror(-n))
        if self.turn_times.is_wanted:
            self.turn_times.cpu_at_ns = thread_time_ns()
        for i in range(n):
            self.dispatch(&self.reactor.events[i])
        if core.link.more:
            self.read_link()
        self.fire_timers()
        finish_flows(self.core)
        core.link.end_turn()
        if core.watch.active:
            core.watch.end_turn()
        if self.on_end is not None and (core.link.error or core.link.broken):
            self.end_link()
        if core.link.blocked != self.link_blocked and core.link.n_fds:
            self.link_blocked = core.link.blocked
            self.watch_link(core.link, EPOLL_CTL_MOD)
            if not core.link.blocked:
                self.wake_waiting()
        if self.turn_times.is_wanted:
            self.note_turn()

    cdef void dispatch(self, epoll_event *event) except *:
        cdef uint64_t tag = event.data.u64
        cdef uint32_t kind = <uint32_t>(tag >> 56)
        cdef bint was_blocked = self.core.link.blocked
        if kind == EVENT_LINK:
            if (tag ^ make_tag(EVENT_LINK, self.link_number, 0)) < <uint64_t>self.core.link.n_fds:
                self.on_link_event(<int><uint32_t>tag, event.events)
        elif kind in (EVENT_FLOW, EVENT_FAR):
            on_flow_event(self.core, tag, event.events)
        elif kind == EVENT_LISTENER:
            on_listener_event(self.core, <uint32_t>tag)
        elif kind == EVENT_READER:
            callback = self.readers.get(<int><uint32_t>tag)
            if callback is not None:
                callback()
        if was_blocked and not self.core.link.blocked:
            self.wake_waiting()   # at once: by the end of the turn it may be as it was before

    cdef void on_link_event(self, int which, uint32_t events) except *:
        if self.core.link.on_event(which, events):
            self.read_link()

    cdef void wake_waiting(self) noexcept:
        """The link is not blocked any more."""
        self.core.flows.wake_waiting()
        self.core.listeners.resume()

    cdef void read_link(self) noexcept:
        """Read one batch, and more while the link has frames at hand."""
        read_frames(self.core, self.core.link.batch_room(self.reactor.slept))
        while self.core.link.more:
            read_frames(self.core, MAX_BATCH)

    cdef void fire_timers(self) except *:
        cdef uint32_t id = 0
        while self.reactor.timers.pop_due(self.core.now, &id):
            if id == self.python_timer:
                self.fire_python()
            elif id == self.core.listeners.retry_timer:
                self.core.listeners.resume()
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
        result["neighbours"] = self.core.neighbours.n
        result["sockets_ready"] = self.core.bypass.spare_sockets.n[0] + self.core.bypass.spare_sockets.n[1]
        if self.core.bypass.namespace_thread is not None:
            result["sockets_ready"] += self.core.bypass.namespace_thread.n_ready()
        return result

    def flow_page(self, uint32_t start=0, uint32_t limit=FLOW_PAGE):
        cdef uint32_t end = start + min(limit, self.core.flows.top - min(start, self.core.flows.top))
        cdef uint32_t i
        cdef Flow *flow
        cdef const char *state
        cdef list found = []
        for i in range(start, end):
            flow = &self.core.flows.flows[i]
            if flow.kind > FLOW_DEAD:
                state = self.core.handlers[flow.kind].state(flow)
                if state != NULL:
                    found.append(describe(flow, state.decode()))
        return found, end if end < self.core.flows.top else None

    def detail_page(self, uint32_t start=0, uint32_t limit=DETAIL_PAGE):
        cdef uint32_t end = start + min(limit, self.core.flows.top - min(start, self.core.flows.top))
        cdef uint32_t i
        cdef list found = []
        for i in range(start, end):
            if is_shown(self.core, &self.core.flows.flows[i]):
                found.append(describe_all(self.core, &self.core.flows.flows[i]))
        return found, end if end < self.core.flows.top else None

    def set_watcher(self, watcher):
        self.core.watcher = watcher
        self.core.has_watcher = watcher is not None

    def n_untold(self):
        return self.core.n_untold

    def close_flow(self, uint32_t index, uint32_t generation):
        cdef Flow *flow
        if index >= self.core.flows.top:
            return False
        flow = &self.core.flows.flows[index]
        if flow.generation != generation or not is_shown(self.core, flow):
            return False
        self.core.why = b"asked"
        self.core.handlers[flow.kind].end_flow(self.core, flow)
        self.core.why = NULL
        self.core.link.flush()
        return True

    def usage(self):
        cdef Core core = self.core
        return {
            "flows": (core.flows.n_active, core.flows.max_flows),
            "datagram_flows": (core.flows.n_in_class[<int>CLASS_DATAGRAM], core.flows.max_datagram),
            "datagram_sockets": (core.n_datagram_sockets, core.max_datagram_sockets),
            "connection_memory_bytes": (core.pool.size - core.pool.left, core.pool.size),
            "pipes": (core.stats.pipes_open, core.stats.pipes_open + core.bypass.pipes.n_unused),
            "listeners": (core.listeners.count(), contracts.MAX_LISTENERS),
        }

    def flows(self):
        start = 0
        while start is not None:
            found, start = self.flow_page(start)
            yield from found

    def udp_sockets(self):
        cdef uint32_t i
        cdef list found = []
        if self.core.stats.flows_udp:
            for i in range(self.core.flows.top):
                if self.core.flows.flows[i].kind == FLOW_UDP_PORT:
                    found.append(self.core.flows.flows[i].fd)
        return found

    def close(self):
        self.drain_link(False)
        self.core.why = b"shutdown"
        end_flows(self.core)
        self.core.listeners.close()
        self.core.bypass.spare_sockets.close()
        if self.core.bypass.namespace_thread is not None:
            self.core.bypass.namespace_thread.close()
            self.core.bypass.namespace_thread = None
        self.core.link.flush()
        self.end_capture()
        for recorder in self.core.watch.recorders():
            recorder.flush()
            self.stop_recorder(recorder)
        self.set_trace(None)      # what is called knows the engine: each would hold the other
        self.set_watcher(None)
        self.core.use_link(Link())
        self.on_end = None


cdef object tell_listener(Listener listener):
    """A ListenerInfo of *listener*."""
    return ListenerInfo(listener.protocol, listener.port, listener.rule, bool(listener.in_namespace))


cdef bint is_shown(Core core, const Flow *flow) noexcept nogil:
    """Whether a record is a flow to users."""
    return flow.kind > FLOW_DEAD and core.handlers[flow.kind].state(flow) != NULL


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
