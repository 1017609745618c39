"""The TCP translator in virtual time, and what it keeps of its connections.

The sockets are a Python object (`tcp/kernel.py: Kernel`), whose methods have the names and results of those
of `Sockets`. `Bench.turn` is a turn of the real `Engine` (see scripted.pyx), in which all that a test names
is ready.
"""

from typing import NamedTuple

from tests.dataplane.probes.scripted import Sent

from libc.stdint cimport int64_t, uint8_t, uint32_t

from passt.dataplane.core.listeners cimport Listener
from passt.dataplane.flow.record cimport FLOW_DEAD, Flow
from passt.dataplane.flow.tcp cimport CONN_FOLLOW, SackBoard, TcpConn, TcpStore
from passt.dataplane.packet.headers cimport ETH_ALEN
from passt.dataplane.link.link cimport LINK_CSUM, LINK_TSO4, LINK_TSO6
from passt.dataplane.base.memory_budget cimport Pool
from passt.dataplane.base.externs cimport EPOLLIN, IPPROTO_TCP, malloc, memcpy, memset
from passt.dataplane.loop.reactor cimport EVENT_LISTENER, make_tag
from passt.dataplane.tcp.segments cimport choose_isn
from passt.dataplane.tcp.states cimport state_name
from passt.dataplane.tcp.sequence cimport overflow_len
from tests.dataplane.probes.scripted cimport Rig, ScriptedLink

__all__ = ["Bench", "Conn", "Sent"]


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


cdef class ScarcePool(Pool):
    """The system has no memory, whatever the budget says, while *is_empty*."""

    cdef bint is_empty

    cdef void *allocate(self, size_t n) noexcept nogil:
        return NULL if self.is_empty else malloc(n)


cdef class Bench(Rig):
    """An engine for TCP; *policy* and *kernel* are the Python sides of policy and sockets."""

    def __init__(self, policy, kernel, events, *, bint offloads=True, uint32_t mtu=65520,
                 uint32_t max_flows=64, bint peek_off=True, bint bytes_acked=True):
        link = ScriptedLink(LINK_CSUM | LINK_TSO4 | LINK_TSO6 if offloads else 0)
        super().__init__(policy, None, events, kernel, link, our_mac=b"\x9a\x55\x9a\x55\x9a\x55", mtu=mtu,
                         max_flows=max_flows, secret=bytes(range(16)))
        self.engine.scripted.has_peek_off = peek_off
        self.engine.scripted.has_bytes_acked = bytes_acked
        self.core.pool = ScarcePool(self.core.pool.size)
        self.now = 0
        memcpy(self.core.guest.mac, b"\x02\x00\x00\x00\x00\x01", ETH_ALEN)

    @property
    def window_scale(self):
        return self.engine.scripted.window_scale

    @window_scale.setter
    def window_scale(self, uint8_t value):
        self.engine.scripted.window_scale = value

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
        """Take one turn of the loop; returns the frames that left.

        An event is ("frames", [bytes, ...]) for one batch of the link, ("socket", tag, epoll events),
        ("listener", index) or ("writable", room) for a link that drains.
        """
        cdef list found = []
        for event in events:
            found += self.found(event)
        self.turn_with(found)
        return self.take_sent()

    cdef list found(self, tuple event):
        """What the loop finds of *event*."""
        kind, what = event[:2]
        if kind == "frames":
            return self.frames([(frame, 0, 0, False) for frame in what])
        if kind == "writable":
            return self.opening(what)
        if kind == "listener":
            return [(make_tag(EVENT_LISTENER, 0, what), EPOLLIN)]
        return [(what, event[2])]

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
