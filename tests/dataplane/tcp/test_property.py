"""Any schedule of loss, reordering, short writes, stalls, timers: each stream arrives once, in order."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from tests.dataplane.tcp.guest import GuestTcp
from tests.dataplane.tcp.script import CASES, NS_PER_MS, Script
from tests.dataplane.tcp.segment import ACK, FIN, MASK, RST, SYN, Segment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.dataplane.probes.tcp_probe import Conn
    from tests.dataplane.tcp.kernel import Sock

pytestmark = pytest.mark.slow

# A path over which acknowledgements follow the remote's, small as the send buffer may be.
FAR = (20_000, 21_000, 2000, 100)
PASS, DROP, TWICE, LATER = range(4)
MOST_STEPS = 4000
BATCH = 200                             # segments that the link reads at once; more than it really does

common = settings(
    max_examples=600, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


@dataclass
class Wire:
    """One direction of the link: each segment meets the next fate; when they are used up all pass."""

    fates: Iterator[int]
    late: list[Segment] = field(default_factory=list)

    def carry(self, segments: list[Segment]) -> list[Segment]:
        """Tell what arrives now."""
        arrived: list[Segment] = []
        for segment in segments:
            fate = next(self.fates, PASS)
            if fate == LATER:
                self.late.append(segment)
            elif fate != DROP:
                arrived += [segment] * (2 if fate == TWICE else 1)
                arrived += self.flush()
        return arrived

    def flush(self) -> list[Segment]:
        """Let what is late arrive."""
        late, self.late = self.late, []
        return late


@dataclass(frozen=True)
class Plan:
    """One conversation: its ends, how much each sends, and what happens meanwhile."""

    case: str
    inbound: bool
    outgoing: int
    incoming: int
    capacity: int
    buffer: int
    offloads: bool
    peek_off: bool
    sack: bool
    stamps: bool
    follows: bool
    actions: list[tuple[str, int]]
    out_fates: list[int]
    in_fates: list[int]


class Run:
    """A plan at work."""

    def __init__(self, script: Script, plan: Plan) -> None:
        self.script = script
        self.plan = plan
        self.guest = GuestTcp(
            active=not plan.inbound, total=plan.outgoing, buffer=plan.buffer, sack=plan.sack,
            stamps=plan.stamps,
            pushes=plan.follows, mss=100 if plan.follows else 1460,
        )
        self.first_stamp = MASK - 500           # it wraps while they talk
        self.guest.clock = self.first_stamp
        self.to_guest = Wire(iter(plan.in_fates))
        self.to_host = Wire(iter(plan.out_fates))
        self.delivered = 0
        if plan.inbound:
            script.peer.knock()
        else:
            self.guest.open(script.bench.now)
            # The first SYN gets through, so that there is a socket to act on.
            script.guest(*self.guest.out)
            self.guest.out = []
            self.sock.connected()

    @property
    def sock(self) -> Sock:
        """The conversation's socket."""
        return self.script.kernel.socks[100]

    def exchange(self, *, late: bool = False) -> None:
        """Let segments fly until nobody has any."""
        for _ in range(MOST_STEPS):
            self.guest.clock = self.first_stamp + (self.script.bench.now - self.script.start) // NS_PER_MS
            arrived = self.to_guest.carry(self.script.take_all())
            arrived += self.to_guest.flush() if late else []
            for segment in arrived:
                self.guest.on_segment(segment, self.script.bench.now)
            batch = self.to_host.carry(self.guest.out)
            batch += self.to_host.flush() if late else []
            self.guest.out = []
            for start in range(0, len(batch), BATCH):
                self.script.guest(*batch[start : start + BATCH])
            if not arrived and not batch and not self.script.peer.inbox:
                return
        raise AssertionError("segments fly for ever")

    def wait(self, ms: float) -> None:
        """Let time pass for both."""
        target = self.script.bench.now + int(ms * NS_PER_MS)
        while self.guest.deadline is not None and self.guest.deadline <= target:
            self.step_to(self.guest.deadline)
        self.step_to(target)

    def step_to(self, when: int) -> None:
        """Let the host's timers fire up to *when*, then the guest's."""
        self.script.advance(max(when - self.script.bench.now, 0) / NS_PER_MS)
        self.guest.clock = self.first_stamp + (self.script.bench.now - self.script.start) // NS_PER_MS
        self.guest.on_time(self.script.bench.now)

    # What may happen; each takes a number to do with as it likes.

    def deliver(self, n: int) -> None:
        """Let the remote send *n* more bytes, and end after the last one."""
        if self.sock.status != "connected":
            return
        n = min(n, self.plan.incoming - self.delivered)
        if n:
            self.sock.deliver(self.script.bytes_from_host(n, self.delivered))
            self.delivered += n
        if self.delivered == self.plan.incoming and not self.sock.ended:
            self.sock.end()

    def drain(self, n: int) -> None:
        """Let the remote read."""
        self.sock.drain(n)

    def read(self, n: int) -> None:
        """Let the guest's application read."""
        self.guest.read(n)

    def pause(self, n: int) -> None:
        """Time passes."""
        self.wait(n % 300)

    def fill_link(self, n: int) -> None:
        """Stop the link soon."""
        self.script.bench.link.room = n % 4

    def drain_link(self, n: int) -> None:
        """Let the link go on, for a while or for good."""
        self.script.open_link(None if n % 2 else n % 5)

    def refuse_frames(self, n: int) -> None:
        """Make the link fail."""
        self.script.bench.link.refuse_next = n % 4

    def write_short(self, n: int) -> None:
        """Cut the next write short."""
        self.sock.limits.append(n % 3000)

    def fail_write(self, n: int) -> None:
        """Let the next write find no memory."""
        self.sock.send_errors.append((errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM)[n % 3])

    def set_pool(self, n: int) -> None:
        """Use the overflow memory up, as others might, or free it."""
        held = sum(conn.memory for conn in self.script.bench.conns())
        self.script.bench.pool_left = self.script.pool - held if n % 2 else 0

    def peek_short(self, n: int) -> None:
        """Cut the next peek short."""
        self.sock.peek_limits.append(1 + n % 2000)

    def consume_short(self, n: int) -> None:
        """Stop the next read early."""
        self.sock.consume_limits.append(1 + n % 500)

    def overstate(self, n: int) -> None:
        """Have the socket claim more room than it has."""
        self.sock.lie = n

    def renege(self, _n: int) -> None:
        """Have the guest forget what came out of order."""
        self.guest.renege()

    def arrive_late(self, _n: int) -> None:
        """Bring what is late."""
        self.exchange(late=True)

    def finish(self) -> None:
        """End all adversity: everything must come to its end."""
        s = self.script
        self.sock.limits, self.sock.send_errors, self.sock.lie = [], [], 0
        s.bench.link.refuse_next = 0
        self.set_pool(1)
        s.open_link()
        for _ in range(MOST_STEPS):
            self.exchange(late=True)
            self.deliver(10_000)
            self.sock.drain()
            self.guest.read(1 << 20)
            self.exchange(late=True)
            # A FIN that goes on being repeated after TIME-WAIT meets a reset; by then all has arrived.
            is_done = self.guest.is_done or (self.guest.was_reset and self.guest.peer_done and self.sock.shut)
            assert is_done or not self.guest.was_reset, "the guest is reset"
            if is_done and self.sock.shut and not s.peer.inbox and not s.bench.is_busy:
                return
            self.wait(50)
        raise AssertionError(f"no end: {self.guest} {s.bench.conns()}")

    def settle(self) -> None:
        """Bring the last acknowledgements across, which may be lost as well."""
        for _ in range(MOST_STEPS):
            if not self.script.bench.conns():
                return
            self.wait(1000)
            self.exchange(late=True)


ACTIONS = (
    "deliver", "drain", "read", "pause", "fill_link", "drain_link", "refuse_frames", "write_short",
    "fail_write", "set_pool", "peek_short", "consume_short", "overstate", "renege", "arrive_late",
)
MIXTURE = (PASS, PASS, PASS, DROP, TWICE, LATER)


def many_fates(seed: int, n: int) -> list[int]:
    """Draw more than Hypothesis likes to: its own lists are short, which is good for small failures only."""
    return Random(seed).choices(MIXTURE, k=n)  # noqa: S311


def many_actions(seed: int, n: int) -> list[tuple[str, int]]:
    """Draw a long schedule."""
    random = Random(seed)  # noqa: S311
    return [(random.choice(ACTIONS), random.randrange(random.choice((10, 1000, 20_000)))) for _ in range(n)]


seeds = st.integers(0, MASK)
fates = st.one_of(
    st.lists(st.sampled_from(MIXTURE), max_size=80), st.builds(many_fates, seeds, st.integers(50, 300))
)
actions = st.one_of(
    st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 20_000)), max_size=40),
    st.builds(many_actions, seeds, st.integers(40, 150)),
)
plans = st.builds(
    Plan,
    case=st.sampled_from(sorted(CASES)),
    inbound=st.booleans(),
    outgoing=st.integers(0, 60_000),
    incoming=st.integers(0, 60_000),
    capacity=st.sampled_from([2048, 5000, 20_000, 87_040, 1 << 20]),
    buffer=st.sampled_from([600, 3000, 20_000, 200_000]),
    offloads=st.booleans(),
    peek_off=st.booleans(),
    sack=st.booleans(),
    stamps=st.booleans(),
    follows=st.booleans(),
    actions=actions,
    out_fates=fates,
    in_fates=fates,
)


@common
@given(plan=plans)
def test_streams_arrive_once_and_in_order(plan: Plan) -> None:
    with Script(
        **CASES[plan.case], capacity=plan.capacity, offloads=plan.offloads, peek_off=plan.peek_off
    ) as s:
        s.is_honest = not any(action == "overstate" for action, _ in plan.actions)
        if plan.follows:
            s.kernel.path = FAR
        run = Run(s, plan)
        for action, n in plan.actions:
            getattr(run, action)(n)
            if n % 3:
                run.exchange()
        run.finish()
        assert run.sock.taken == s.bytes_from_guest(plan.outgoing)
        assert run.guest.received == s.bytes_from_host(plan.incoming)
        run.settle()
        s.ended()
        assert run.sock.status == "closed"
        for counter in (
            "tcp_retransmits", "tcp_short_writes", "tcp_timeouts", "tcp_out_of_order", "tcp_reneged",
            "link_stalls", "tcp_acks_followed", "tcp_acks_unfollowed",
        ):
            event(f"{counter}: {s.count(counter) > 0}")


numbers = st.one_of(
    st.integers(-3, 3), st.integers(-3000, 3000), st.integers(-(1 << 31), (1 << 31) - 1)
)


@dataclass(frozen=True)
class Nonsense:
    """A segment with its numbers relative to what would be in order."""

    flags: int
    seq: int
    ack: int
    win: int
    length: int

    def segment(self, s: Script, conn: Conn) -> Segment:
        """Make the segment; what payload it has is right for its place in the stream."""
        flags = self.flags
        if flags & SYN and not flags & (ACK | RST | FIN):
            flags |= ACK                 # alone it might open the tuple anew
        seq = (conn.rcv_nxt - s.guest_isn & MASK) + self.seq
        ack = (conn.snd_una - conn.iss & MASK) + self.ack
        payload = s.bytes_from_guest(self.length, seq - 1) if 0 < seq < 1 << 20 else b""
        return Segment(flags, seq & MASK, ack & MASK if flags & ACK else 0, self.win, payload)


nonsense = st.builds(
    Nonsense, flags=st.integers(0, 63), seq=numbers, ack=numbers, win=st.sampled_from([0, 1, 100, 65535]),
    length=st.integers(0, 300),
)


@common
@given(
    case=st.sampled_from(sorted(CASES)),
    flood=st.lists(st.tuples(st.lists(nonsense, min_size=1, max_size=6), st.integers(0, 300)), max_size=15),
    close_after=st.integers(0, 15),
)
def test_senseless_segments_break_nothing(
    case: str, flood: list[tuple[list[Nonsense], int]], close_after: int
) -> None:
    with Script(**CASES[case], capacity=20_000) as s:
        sock = s.connect()
        for number, (batch, pause) in enumerate(flood):
            conn = s.peer.conn
            if conn is None:
                break
            s.guest(*[item.segment(s, conn) for item in batch])
            if sock.is_open and not sock.ended:
                sock.deliver(s.bytes_from_host(700, 700 * number))
                sock.drain(pause * 10)
                if number == close_after:
                    sock.end()
            s.advance(pause)
            s.take_all()
        assert sock.taken == s.bytes_from_guest(len(sock.taken))
        s.bench.close()
        s.take_all()
        s.advance(10_000)
        s.ended()
