"""The translators between a link and sockets of choice, one event at a time.

The test is the loop: it injects frames, has events come, sets the time and lets timers fire, each by a
call, which takes one turn of the real `Engine` (see scripted.pyx). So time is virtual, and each step
can be looked at. The sockets are the kernel's, or `Answers`: these note each call and answer as they are
told.
"""

from collections import deque
from typing import NamedTuple

from tests.dataplane.probes.scripted import Sent, socket_address
from tests.support.answers import Answers

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from passt.dataplane.base.externs cimport EPOLLIN, EPOLL_CTL_ADD, sockaddr_storage
from passt.dataplane.core.decisions cimport ask_inbound
from passt.dataplane.core.listeners cimport Listener
from passt.dataplane.flow.decision cimport InboundView
from passt.dataplane.flow.key cimport FlowKey
from passt.dataplane.flow.record cimport FLOW_PING, FLOW_TCP, FLOW_UDP, Flow
from passt.dataplane.ip.icmp_error cimport push_icmp_error
from passt.dataplane.loop.reactor cimport EVENT_FLOW, EVENT_LISTENER, make_tag
from passt.dataplane.sockets.socket_address cimport fill_sockaddr
from passt.dataplane.turn cimport end_flows
from tests.dataplane.probes.scripted cimport Rig, ScriptedLink

__all__ = ["FlowState", "Sent", "World", "socket_address"]


class FlowState(NamedTuple):
    """One living flow; *number* is its index in the table, *fd* of its socket, though others share it."""

    number: int
    kind: int
    fd: int
    armed: int


cdef class World(Rig):
    """*features* are those of the link; with *scripted* the sockets are `Answers`, in `sockets`."""

    cdef readonly object sockets

    def __init__(self, policy, responder, events, *, bytes our_mac, bytes guest_mac=None, uint32_t mtu=65520,
                 uint32_t max_flows=64, uint32_t features=0, scripted=False, bytes our_ip4=bytes(4)):
        self.sockets = Answers() if scripted else None
        super().__init__(policy, responder, events, self.sockets, ScriptedLink(features), our_mac=our_mac,
                         mtu=mtu, max_flows=max_flows, secret=bytes(16), our_ip4=our_ip4)
        if guest_mac is not None:
            memcpy(self.core.guest.mac, <const char *>guest_mac, 6)

    def inject(self, *frames, int gso_type=0, int gso_size=0, bint unverified=False):
        """Have the guest send *frames*, one batch of the link."""
        self.inject_batch([(frame, gso_type, gso_size, unverified) for frame in frames])

    def inject_batch(self, batch):
        """The same; each frame as (bytes, GSO type, GSO size, whether checksums are unverified)."""
        self.turn_with(self.frames(batch))

    def turn(self):
        """Take a turn in which nothing comes: timers that are due fire, what is on the work list goes on."""
        self.turn_with([])

    def open_link(self):
        """The link drains."""
        self.turn_with(self.opening(None))

    def dispatch(self):
        """Handle the events of real sockets that are there, without waiting; returns how many."""
        self.loop.is_real = True
        self.turn_with([])
        self.loop.is_real = False
        return self.loop.n_found

    def event(self, uint32_t index, uint32_t events):
        """Have the flow *index* see *events* of its socket."""
        cdef Flow *flow = &self.core.flows.flows[index]
        if flow.kind == FLOW_UDP:
            index = flow.body.udp.port
        self.tagged_event(make_tag(EVENT_FLOW, self.core.flows.flows[index].generation, index), events)

    def tagged_event(self, uint64_t tag, uint32_t events):
        """Have an event come for what was watched with *tag*."""
        self.turn_with([(tag, events)])

    def tagged_events(self, found):
        """Have several come in one turn, as (tag, events)."""
        self.turn_with(list(found))

    def listener_event(self, uint32_t index):
        """Have the listener *index* be readable."""
        self.tagged_event(make_tag(EVENT_LISTENER, 0, index), EPOLLIN)

    def switch(self, **switches):
        """Switch families and protocols, as `Engine.switch` does."""
        self.engine.switch(**switches)

    def set_neighbours(self, entries):
        """Give the MAC addresses of hosts on our link, by packed address, as `Engine.set_neighbours` does."""
        self.engine.set_neighbours(entries)

    def add_listener(self, int fd, int proto, rule, int port, families=(),
                     bytes address=b"", bytes device=b""):
        """Add a listener; a real one is watched. The guest's flows may use it for *families*."""
        cdef Listener listener = Listener(fd, proto, rule, port, families=families, address=address,
                                          device=device)
        self.core.listeners.insert(listener)
        if self.sockets is None and self.loop.watch(
                fd, EPOLL_CTL_ADD, EPOLLIN, make_tag(EVENT_LISTENER, 0, listener.index)) < 0:
            raise OSError("watching the listener")
        return listener.index

    def listener_flows(self, uint32_t index):
        """How many UDP flows a listener counts: without any, nothing is looked for when it is closed."""
        return self.core.listeners.states[index].n_flows

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

    def end_all(self):
        """End every flow."""
        end_flows(self.core)
        self.turn_with([])

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
        return self.link.takes

    @room.setter
    def room(self, int value):
        self.link.takes = value

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
    def blocked(self):
        return bool(self.link.blocked)

    @blocked.setter
    def blocked(self, bint value):
        self.link.blocked = value
