"""Scripts of TCP dialogues between a guest, the translator and the host's sockets, in virtual time.

    with Script() as s:
        s.guest("S seq=0 win=65535 mss=1460 ws=7")
        s.sock.connected()
        s.host("SA seq=0 ack=1 mss=65480 ws=8")
        s.guest("A seq=1 ack=1 win=512")
        s.guest("PA seq=1 ack=1 win=512 len=100")
        s.host("A seq=1 ack=101")                    # what has come: no more, no less
        s.advance(ms=200)

Sequence numbers are relative: 0 is the side's SYN. `guest` sends one segment or one batch of several;
`host` takes the next segment that has come to the guest and compares the fields that are named (flags,
and a length that is not named is 0). What a test does to the socket (`s.sock.deliver(b"...")`) is seen by the
translator with the next `run`, which every method of the script begins with. All payload comes from two
fixed streams, so bytes are compared too, wherever they appear.

Every segment to the guest is held to rules that hold always: checksums and lengths, acknowledgements only
of what the socket or the overflow buffer has, a right edge that never promises what cannot be stored and
never moves left (but by the rounding of the window scale), data within the guest's window (but a probe's
byte), the same bytes for the same sequence numbers. A script that fails prints the whole dialogue; one
that ends with segments that were not looked at fails.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from ipaddress import ip_address
from itertools import groupby
from typing import TYPE_CHECKING, Self, TypedDict

from passt.facts.contracts import InboundTarget, Target
from tests.dataplane.probes.tcp_probe import Bench, Conn, Sent
from tests.dataplane.tcp.icmp import IcmpError, is_icmp, read_icmp
from tests.dataplane.tcp.kernel import Kernel, Sock
from tests.dataplane.tcp.segment import ACK, FIN, MASK, RST, SYN, Segment, build, read, read_text, stream
from tests.support import fakes
from tests.support.frames import GUEST_MAC

if TYPE_CHECKING:
    from types import TracebackType


class Case(TypedDict):
    """Arguments of `Script` for a family and two initial sequence numbers."""

    family: int
    guest_isn: int
    host_isn: int


# Families, and initial sequence numbers that wrap nowhere, with the SYN, and amid the data.
CASES: dict[str, Case] = {
    f"ip{family}-{label}": {"family": family, "guest_isn": guest_isn, "host_isn": host_isn}
    for family in (4, 6)
    for label, guest_isn, host_isn in (
        ("plain", 1000, 5000),
        ("wrap-at-syn", 0xFFFFFFFF, 0xFFFFFFFF),
        ("wrap-in-data", 0xFFFFFFFF - 2500, 0xFFFFFFFF - 2500),
        ("sign-change", 0x7FFFFFFF - 2500, 0x7FFFFFFF - 2500),
    )
}
GUESTS = {4: ip_address("10.0.2.15").packed, 6: ip_address("2001:db8::15").packed}
REMOTES = {4: ip_address("192.0.2.7").packed, 6: ip_address("2001:db8:7::7").packed}
LISTENER = 50
# Turns in a row without sleeping after which the loop is said to spin.
MOST_TURNS = 200
NS_PER_MS = 1_000_000
HALF = 1 << 31


class Policy(fakes.Policy):
    """Flows go where the guest wants, by the source of `target`; clients reach the tuple that is the rule."""

    def __init__(self) -> None:
        super().__init__(Target(b"", 0))

    def outbound(
        self, proto: int, source: bytes, source_port: int, destination: bytes, destination_port: int
    ) -> Target | None:
        """Say where a connection from the guest goes."""
        target = super().outbound(proto, source, source_port, destination, destination_port)
        return target and target._replace(address=destination, port=destination_port)

    def inbound(self, proto: int, rule: object, peer: bytes, peer_port: int, local: bytes,
                local_port: int) -> InboundTarget | Target | None:
        """Say what the guest sees of a client."""
        assert isinstance(rule, Peer)
        self.seen = InboundTarget(peer, peer_port, rule.guest_address, rule.guest_port)
        return super().inbound(proto, rule, peer, peer_port, local, local_port)


class Peer:
    """One tuple of the guest's: its numbers, what it sent and what came."""

    def __init__(self, script: Script, guest_port: int, remote_port: int) -> None:
        self.script = script
        self.guest_address = GUESTS[script.family]
        self.remote_address = REMOTES[script.family]
        self.guest_port = guest_port
        self.remote_port = remote_port
        self.station = GUEST_MAC        # whose frames come from there, and go there
        self.inbox: deque[Segment] = deque()
        self.renew()

    def renew(self, isn: int | None = None) -> None:
        """Forget the numbers: what follows is a new connection."""
        self.guest_isn = self.script.guest_isn if isn is None else isn
        self.host_isn: int | None = None
        self.sock_fd: int | None = None
        self.has_opened = False         # the guest's first SYN was sent
        self.guest_scale = 0            # as the guest offered it
        self.host_scale = 0
        self.scaled = False             # both offered a scale
        self.guest_edge = 0             # most that the guest may be sent, relative
        self.host_edge: int | None = None
        self.host_fin: int | None = None
        self.host_top = 0

    @property
    def sock(self) -> Sock:
        """The connection's socket."""
        self.script.run()
        if self.sock_fd is None:
            conn = self.conn
            assert conn is not None, "no connection"
            self.sock_fd = conn.fd
        return self.script.kernel.socks[self.sock_fd]

    @property
    def conn(self) -> Conn | None:
        """The connection's record, if there is one."""
        for conn in self.script.bench.conns():
            if (conn.guest_port, conn.remote_port) == (self.guest_port, self.remote_port):
                return conn
        return None

    @property
    def state(self) -> str:
        """Its state; CLOSED if there is none."""
        self.script.run()
        conn = self.conn
        return conn.state if conn else "CLOSED"

    def segment(self, text: str) -> Segment:
        """Make the segment of a line: relative numbers, payload from the guest's stream."""
        flags, fields, options = read_text(text)
        seq = fields.get("seq", 0)
        payload = stream("guest", seq - 1, fields["len"]) if "len" in fields else b""
        if "ack" in fields:
            assert flags & ACK, "an acknowledgement number without A"
        return Segment(flags, seq & MASK, fields.get("ack", 0), fields.get("win", 65535), payload, options)

    def frame(self, segment: Segment | str) -> bytes:
        """Make the frame of a segment with relative numbers, noted as sent."""
        if isinstance(segment, str):
            segment = self.segment(segment)
        self.script.log(f"{self.label}guest> {segment.text()}")
        self.note_window(segment)
        absolute = segment.moved(self.guest_isn, self.host_isn or 0)
        frame = build(replace(absolute, source=self.guest_address, destination=self.remote_address,
                              sport=self.guest_port, dport=self.remote_port))
        return frame[:6] + self.station + frame[12:]

    @property
    def label(self) -> str:
        """Prefix of log lines where several connections are on."""
        return f"[{self.guest_port}] " if len(self.script.peers) > 1 else ""

    def note_window(self, segment: Segment) -> None:
        """Note what the guest allows from now on."""
        if segment.flags & SYN and not self.has_opened:
            self.has_opened = True
            self.guest_scale = min(segment.options.get("ws", (0,))[0], 14)
            self.scaled = "ws" in segment.options
        if segment.flags & ACK and segment.ack < HALF:
            shift = self.guest_scale if self.scaled and not segment.flags & SYN else 0
            self.guest_edge = max(self.guest_edge, segment.ack + (segment.win << shift))

    def guest(self, *segments: Segment | str) -> None:
        """Let the guest send one batch."""
        self.script.run()
        self.script.run(("frames", [self.frame(segment) for segment in segments]))

    def spoof(self, station: bytes, text: str) -> None:
        """Have *station* send a frame as if it had this connection."""
        absolute = self.segment(text).moved(self.guest_isn, self.host_isn or 0)
        frame = build(replace(absolute, source=self.guest_address, destination=self.remote_address,
                              sport=self.guest_port, dport=self.remote_port))
        self.script.log(f"{self.label}{station.hex()}> {text}")
        self.script.run(("frames", [frame[:6] + station + frame[12:]]))

    def receive(self, segment: Segment) -> None:
        """Take a segment: make its numbers relative, check what holds always."""
        assert segment.station == self.station, f"went to {segment.station.hex(':')}"
        if segment.flags & SYN and self.host_isn is None:
            self.host_isn = segment.seq
        segment = segment.moved(-(self.host_isn or 0), -self.guest_isn)
        cut = f" gso={segment.gso_size}" if segment.gso_size else ""
        self.script.log(f"{self.label}<host  {segment.text()}{cut}")
        if segment.flags & SYN:
            self.host_scale = segment.options.get("ws", (0,))[0]
        if not segment.flags & RST:
            self.check_numbers(segment)
            self.check_data(segment)
        self.inbox.append(segment)

    def check_numbers(self, segment: Segment) -> None:
        """Check that acknowledgement and window promise nothing that is not so."""
        if not segment.flags & ACK or (self.sock_fd is None and self.conn is None):
            return
        conn = self.conn
        if self.sock_fd is None and conn is not None and conn.fd >= 0:
            self.sock_fd = conn.fd
        if self.sock_fd is None:
            return
        sock = self.script.kernel.socks[self.sock_fd]
        held = conn.overflow if conn else 0
        assert segment.ack - 1 <= len(sock.taken) + held + 1, "acknowledges what it does not have"
        shift = self.host_scale if self.scaled and not segment.flags & SYN else 0
        edge = segment.ack + (segment.win << shift)
        if self.script.is_honest and edge > segment.ack:
            assert edge - 1 <= sock.drained + sock.capacity, "promises more than can be stored"
        if self.host_edge is not None and not segment.flags & SYN:
            assert edge > self.host_edge - (1 << shift), "the right edge moves left"
        self.host_edge = max(edge, self.host_edge or 0)

    def check_data(self, segment: Segment) -> None:
        """Check that the bytes are the remote's, in the guest's window, before the FIN."""
        n = len(segment.payload)
        if n:
            assert segment.payload == stream("host", segment.seq - 1, n), "wrong bytes"
            assert segment.seq + n <= self.guest_edge or n == 1, "beyond the guest's window"
            if self.host_fin is not None:
                assert segment.seq + n <= self.host_fin, "data behind the FIN"
            self.host_top = max(self.host_top, segment.seq + n)
        if segment.flags & FIN:
            fin = segment.seq + n
            assert self.host_fin in {None, fin}, "the FIN has moved"
            assert fin >= self.host_top, "the FIN is before data that was sent"
            self.host_fin = fin

    def take(self) -> Segment:
        """Take the next segment that came."""
        self.script.run()
        assert self.inbox, "no segment came"
        return self.inbox.popleft()

    def take_all(self) -> list[Segment]:
        """Take all segments that came."""
        self.script.run()
        found = list(self.inbox)
        self.inbox.clear()
        return found

    def host(self, *texts: str) -> Segment:
        """Compare the next segments that came with these; return the last one."""
        for text in texts:
            found = self.take()
            flags, fields, options = read_text(text)
            fields.setdefault("len", 0)
            seen = {"seq": found.seq, "ack": found.ack, "win": found.win, "len": len(found.payload)}
            wrong = {key: seen[key] for key, value in fields.items() if seen[key] != value}
            wrong_options = {key for key, value in options.items() if found.options.get(key) != value}
            assert found.flags == flags, f"{text} expected, came {found.text()}"
            assert not wrong, f"{text} expected, came {found.text()}"
            assert not wrong_options, f"{text} expected, came {found.text()}"
        return found

    def nothing(self) -> None:
        """Check that no segment came."""
        self.script.run()
        assert not self.inbox, f"unexpected: {self.inbox[0].text()}"

    def connect(self, *, win: int = 65535, mss: int = 1460, ws: int | None = 7, sack: bool = False) -> Sock:
        """Take the guest's connection to ESTABLISHED; the guest's window field is *win* throughout."""
        scale = (f" ws={ws}" if ws is not None else "") + (" sack_ok" if sack else "")
        self.guest(f"S seq=0 win=65535 mss={mss}{scale}")
        self.sock.connected()
        self.host("SA seq=0 ack=1")
        self.guest(f"A seq=1 ack=1 win={win}")
        self.nothing()
        assert self.state == "ESTABLISHED"
        return self.sock

    def accept(self, *, win: int = 65535, mss: int = 1460, ws: int | None = 7, sack: bool = False) -> Sock:
        """Take a host's client to ESTABLISHED."""
        sock = self.knock()
        self.host("S seq=0")
        scale = (f" ws={ws}" if ws is not None else "") + (" sack_ok" if sack else "")
        self.guest(f"SA seq=0 ack=1 win=65535 mss={mss}{scale}")
        self.host("A seq=1 ack=1")
        assert self.state == "ESTABLISHED"
        self.script.bench.conns()
        if win != 65535:
            self.guest(f"A seq=1 ack=1 win={win}")
        return sock

    def knock(self) -> Sock:
        """Let a client come to a listener that leads to this tuple."""
        fd = LISTENER + len(self.script.kernel.indices)
        kernel = self.script.kernel
        kernel.listeners[fd] = []
        kernel.indices[fd] = self.script.bench.add_listener(fd, self, self.guest_port)
        far, near = (self.remote_address, self.remote_port), (self.remote_address, self.guest_port)
        sock = kernel.knock(fd, far, near)
        self.sock_fd = sock.fd
        return sock


class Script:
    """A bench and its dialogue; *host_isn* is our initial number for connections made at once."""

    def __init__(
        self,
        *,
        family: int = 4,
        host_isn: int | None = None,
        guest_isn: int = 1000,
        offloads: bool = True,
        mtu: int = 65520,
        capacity: int = 1 << 20,
        peek_off: bool = True,
        bytes_acked: bool = True,
        max_flows: int = 64,
        link_room: int | None = None,
    ) -> None:
        self.family = family
        self.guest_isn = guest_isn
        self.lines: list[str] = []
        self.turns = 0
        self.errors: list[IcmpError] = []  # ICMP messages that came to the guest
        self.is_honest = True
        self.policy = Policy()
        self.kernel = Kernel(self.log)
        self.kernel.capacity = capacity
        self.kernel.has_peek_off = peek_off
        self.bench = Bench(
            self.policy, self.kernel, fakes.Events(), offloads=offloads, mtu=mtu, max_flows=max_flows,
            peek_off=peek_off, bytes_acked=bytes_acked,
        )
        self.bench.link.room = link_room
        self.pool = self.bench.pool_left
        self.peers: dict[tuple[int, int], Peer] = {}
        self.peer = self.add_peer(40000, 80)
        self.bench.now = NS_PER_MS                # 0 is "no deadline" for the translator
        if host_isn is not None:
            at_zero = self.bench.isn(self.peer.guest_address, 40000, self.peer.remote_address, 80)
            self.bench.now = (((host_isn - at_zero) & MASK) + MASK + 1) * 4000
        self.start = self.bench.now
        # The connection's own verbs, for scripts with one connection.
        self.guest = self.peer.guest
        self.host = self.peer.host
        self.nothing = self.peer.nothing
        self.connect = self.peer.connect
        self.accept = self.peer.accept
        self.take = self.peer.take
        self.take_all = self.peer.take_all

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        try:
            if error is None:
                self.run()
                for peer in self.peers.values():
                    peer.nothing()
        except AssertionError as late:
            late.add_note(self.dialogue)
            raise
        if error is not None:
            error.add_note(self.dialogue)

    @property
    def dialogue(self) -> str:
        """All lines so far."""
        shown: list[str] = []
        for line, group in groupby(self.lines[-2000:]):
            repeated = len(list(group))
            shown.append(line if repeated == 1 else f"{line}    ({repeated} times)")
        return "\n".join(["the dialogue (ms):", *shown[-400:]])

    def log(self, text: str) -> None:
        """Add a line."""
        # The kernel logs while the bench is being made, too.
        now = self.bench.now - self.start if hasattr(self, "start") else 0
        side = "" if "guest> " in text or "<host " in text else "             "
        self.lines.append(f"{now / NS_PER_MS:12.3f}  {side}{text}")

    def add_peer(self, guest_port: int, remote_port: int) -> Peer:
        """Add another tuple."""
        peer = Peer(self, guest_port, remote_port)
        self.peers[guest_port, remote_port] = peer
        return peer

    @property
    def sock(self) -> Sock:
        """The first connection's socket."""
        return self.peer.sock

    @property
    def state(self) -> str:
        """The first connection's state."""
        return self.peer.state

    @property
    def conn(self) -> Conn:
        """The first connection's record."""
        self.run()
        conn = self.peer.conn
        assert conn is not None, "no connection"
        return conn

    def run(self, *events: tuple[object, ...]) -> None:
        """Take turns until the loop would sleep."""
        waiting = list(events)
        turns = 0
        while waiting or self.bench.is_busy or self.is_due or (waiting := self.kernel.events()):
            turns += 1
            assert turns <= MOST_TURNS, "the loop spins"
            self.turn(waiting)
            waiting = self.kernel.events()

    @property
    def is_due(self) -> bool:
        """Whether a timer would fire at once."""
        deadline = self.bench.next_deadline
        return deadline is not None and deadline <= self.bench.now

    @property
    def sleep_s(self) -> float:
        """How long the loop would sleep if nothing happened."""
        self.run()
        deadline = self.bench.next_deadline
        return float("inf") if deadline is None else (deadline - self.bench.now) / (1000 * NS_PER_MS)

    def turn(self, events: list[tuple[object, ...]]) -> None:
        """Take one turn."""
        self.turns += 1
        for sent in self.bench.turn(events):
            self.deliver(sent)

    def deliver(self, sent: Sent) -> None:
        """Bring a frame to the guest."""
        if is_icmp(sent.frame):
            self.errors.append(read_icmp(sent.frame))
            self.log(f"<host  ICMP type {self.errors[-1].kind} code {self.errors[-1].code}")
            return
        segment = read(sent)
        peer = self.peers[segment.dport, segment.sport]
        assert (segment.source, segment.destination) == (peer.remote_address, peer.guest_address)
        peer.receive(segment)

    def close_engine(self) -> None:
        """Let the process end."""
        self.run()
        for sent in self.bench.close():
            self.deliver(sent)

    def advance(self, ms: float) -> None:
        """Let time pass; timers fire when they are due."""
        self.run()
        target = self.bench.now + int(ms * NS_PER_MS)
        while (deadline := self.bench.next_deadline) is not None and deadline <= target:
            self.bench.now = max(deadline, self.bench.now)
            self.run()
        self.bench.now = target

    def open_link(self, room: int | None = None) -> None:
        """Let the link drain: *room* more frames go through."""
        self.run()
        self.run(("writable", room))

    @staticmethod
    def bytes_from_host(n: int, start: int = 0) -> bytes:
        """Give what the remote sends, *n* bytes from *start* on."""
        return stream("host", start, n)

    @staticmethod
    def bytes_from_guest(n: int, start: int = 0) -> bytes:
        """Give what the guest sends, *n* bytes from *start* on."""
        return stream("guest", start, n)

    def received(self) -> int:
        """Take all segments; tell how many bytes of payload they carried."""
        return sum(len(segment.payload) for segment in self.take_all())

    def count(self, name: str) -> int:
        """Read a counter of the data plane."""
        return self.bench.counters()[name]

    def ended(self) -> None:
        """Nothing is left: no flow, no timer, no overflow memory, no open socket."""
        self.run()
        assert not self.bench.conns(), self.bench.conns()
        assert self.bench.n_active == 0
        assert self.count("flows_tcp") == 0
        assert self.bench.next_deadline is None
        assert self.bench.pool_left == self.pool
        assert not [sock.fd for sock in self.kernel.socks.values() if sock.is_open]
