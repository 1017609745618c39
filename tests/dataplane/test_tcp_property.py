"""Any schedule of loss, duplication, reordering, short writes, stalls and timers: each stream arrives once, in order."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from tests.dataplane.tcp_guest import GuestTcp
from tests.dataplane.tcp_script import CASES, NS_PER_MS, Script
from tests.dataplane.tcp_segment import ACK, FIN, RST, SYN, Segment

if TYPE_CHECKING:
    from collections.abc import Iterator

PASS, DROP, TWICE, LATER = range(4)
MOST_STEPS = 4000

common = settings(
    max_examples=int(os.environ.get("N", "250")), deadline=None, derandomize="N" not in os.environ, print_blob=False, suppress_health_check=[HealthCheck.too_slow]
)


@dataclass
class Wire:
    """One direction of the link: each segment meets the next fate; when they are used up all pass."""

    fates: Iterator[int]
    late: list[Segment] = field(default_factory=list)

    def carry(self, segments: list[Segment]) -> list[Segment]:
        """What arrives now."""
        arrived: list[Segment] = []
        for segment in segments:
            fate = next(self.fates, PASS)
            if fate == LATER:
                self.late.append(segment)
                continue
            if fate != DROP:
                arrived += [segment] * (2 if fate == TWICE else 1)
            if self.late and fate != DROP:
                arrived += self.late
                self.late = []
        return arrived

    def flush(self) -> list[Segment]:
        """What was late arrives."""
        late, self.late = self.late, []
        return late


@dataclass
class Run:
    """One conversation."""

    script: Script
    guest: GuestTcp
    incoming: int
    to_guest: Wire
    to_host: Wire
    delivered: int = 0
    has_ended: bool = False

    def exchange(self, late: bool = False) -> None:
        """Let segments fly until nobody has any."""
        for _ in range(MOST_STEPS):
            arrived = self.to_guest.carry(self.script.take_all())
            if late:
                arrived += self.to_guest.flush()
            for segment in arrived:
                self.guest.on_segment(segment, self.script.bench.now)
            batch = self.to_host.carry(self.guest.out)
            self.guest.out = []
            if late:
                batch += self.to_host.flush()
            if batch:
                for start in range(0, len(batch), 200):
                    self.script.guest(*batch[start : start + 200])
            elif not arrived and not self.script.peer.inbox:
                return
        raise AssertionError("segments fly for ever")

    def deliver(self, n: int) -> None:
        """The remote sends *n* more bytes, then ends."""
        sock = self.script.kernel.socks[100]
        if not sock.is_open or sock.status not in {"connected"}:
            return
        n = min(n, self.incoming - self.delivered)
        if n:
            sock.deliver(self.script.bytes_from_host(n, self.delivered))
            self.delivered += n
        if self.delivered == self.incoming and not self.has_ended:
            self.has_ended = True
            sock.end()

    def act(self, kind: int, n: int) -> None:
        """One thing that happens."""
        s = self.script
        sock = s.kernel.socks[100]
        if kind == 0:
            self.deliver(n)
        elif kind == 1:
            sock.drain(n)
        elif kind == 2:
            self.guest.read(n)
        elif kind == 3:
            self.wait(n % 300)
        elif kind == 4:
            s.bench.link.room = n % 4
        elif kind == 5:
            s.open_link(None if n % 2 else n % 5)
        elif kind == 6:
            sock.limits.append(n % 3000)
        elif kind == 7:
            sock.send_errors.append((errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM)[n % 3])
        elif kind == 8:
            s.bench.link.refuse_next = n % 4
        elif kind == 9:
            s.bench.pool_left = s.pool - sum(conn.overflow_size for conn in s.bench.conns()) if n % 2 else 0
        elif kind == 10:
            sock.peek_limits.append(1 + n % 2000)
        elif kind == 11:
            sock.consume_limits.append(1 + n % 500)
        elif kind == 12:
            sock.lie = n
        else:
            self.exchange(late=True)

    def wait(self, ms: float) -> None:
        """Time passes for both."""
        target = self.script.bench.now + int(ms * NS_PER_MS)
        while self.guest.deadline is not None and self.guest.deadline <= target:
            self.step_to(self.guest.deadline)
        self.step_to(target)

    def step_to(self, when: int) -> None:
        self.script.advance(max(when - self.script.bench.now, 0) / NS_PER_MS)
        self.guest.on_time(self.script.bench.now)

    def finish(self) -> None:
        """No more adversity: everything must come to its end."""
        s = self.script
        sock = s.kernel.socks[100]
        sock.limits, sock.send_errors, sock.lie = [], [], 0
        s.bench.link.refuse_next = 0
        s.bench.pool_left = s.pool - sum(conn.overflow_size for conn in s.bench.conns())
        s.open_link()
        for _ in range(MOST_STEPS):
            self.exchange(late=True)
            if sock.status == "connecting":
                sock.connected()
            self.deliver(10_000)
            sock.drain()
            self.guest.read(1 << 20)
            self.exchange(late=True)
            # A FIN that goes on being repeated after TIME-WAIT meets a reset; by then all has arrived.
            is_done = self.guest.is_done or (self.guest.was_reset and self.guest.peer_done and sock.shut)
            assert is_done or not self.guest.was_reset, "the guest is reset"
            if is_done and sock.shut and not s.peer.inbox and not s.bench.is_busy:
                return
            self.wait(50)
        raise AssertionError(f"no end: {self.guest} {s.bench.conns()}")


actions = st.lists(st.tuples(st.integers(0, 13), st.integers(0, 20_000)), max_size=40)
fates = st.lists(st.sampled_from([PASS, PASS, PASS, DROP, TWICE, LATER]), max_size=80)


@common
@given(
    case=st.sampled_from(sorted(CASES)),
    inbound=st.booleans(),
    outgoing=st.integers(0, 60_000),
    incoming=st.integers(0, 60_000),
    capacity=st.sampled_from([2048, 5000, 20_000, 87_040, 1 << 20]),
    buffer=st.sampled_from([600, 3000, 20_000, 200_000]),
    offloads=st.booleans(),
    peek_off=st.booleans(),
    script=actions,
    out_fates=fates,
    in_fates=fates,
)
def test_streams_arrive_once_and_in_order(
    case: str, inbound: bool, outgoing: int, incoming: int, capacity: int, buffer: int, offloads: bool, peek_off: bool,
    script: list[tuple[int, int]], out_fates: list[int], in_fates: list[int],
) -> None:
    with Script(**CASES[case], capacity=capacity, offloads=offloads, peek_off=peek_off) as s:
        s.is_honest = not any(kind == 12 for kind, _ in script)
        guest = GuestTcp(active=not inbound, total=outgoing, buffer=buffer)
        run = Run(s, guest, incoming, Wire(iter(in_fates)), Wire(iter(out_fates)))
        if inbound:
            s.peer.knock()
        else:
            guest.open(s.bench.now)
            # The first SYN gets through, so that there is a socket to act on.
            s.guest(*guest.out)
            guest.out = []
            s.kernel.socks[100].connected()
        for kind, n in script:
            run.act(kind, n)
            if n % 3:
                run.exchange()
        run.finish()
        sock = s.kernel.socks[100]
        assert sock.taken == s.bytes_from_guest(outgoing)
        assert guest.received == s.bytes_from_host(incoming)
        assert sock.shut
        for _ in range(200):             # the last acknowledgements may be lost as well
            if not s.bench.conns():
                break
            run.wait(5000)
            run.exchange(late=True)
        s.ended()
        assert sock.status == "closed"
        event(f"retransmits: {s.count('tcp_retransmits') > 0}, short writes: {s.count('tcp_short_writes') > 0}")


segments = st.tuples(
    st.integers(0, 63),
    st.one_of(st.integers(-3, 3), st.integers(-3000, 3000), st.integers(-(1 << 31), (1 << 31) - 1)),
    st.one_of(st.integers(-3, 3), st.integers(-3000, 3000), st.integers(-(1 << 31), (1 << 31) - 1)),
    st.sampled_from([0, 1, 100, 65535]),
    st.integers(0, 300),
    st.integers(0, 3),
)


@common
@given(
    case=st.sampled_from(sorted(CASES)),
    flood=st.lists(st.lists(segments, min_size=1, max_size=6), max_size=15),
    close_after=st.integers(0, 15),
)
def test_senseless_segments_break_nothing(
    case: str, flood: list[list[tuple[int, int, int, int, int, int]]], close_after: int
) -> None:
    with Script(**CASES[case], capacity=20_000) as s:
        sock = s.connect()
        sent = 0
        for number, batch in enumerate(flood):
            conn = s.peer.conn
            if conn is None:
                break
            rcv = conn.rcv_nxt - CASES[case]["guest_isn"] & 0xFFFFFFFF
            snd = conn.snd_una - conn.iss & 0xFFFFFFFF
            made = []
            for flags, seq, ack, win, length, _ in batch:
                if flags & SYN and not flags & (ACK | RST | FIN):
                    flags |= ACK         # would open the tuple anew
                n = length if seq + rcv > 0 and seq + rcv < 1 << 20 else 0
                payload = s.bytes_from_guest(n, seq + rcv - 1) if n else b""
                made.append(Segment(flags, seq + rcv & 0xFFFFFFFF, (ack + snd & 0xFFFFFFFF) if flags & ACK else 0,
                                    win, payload))
            s.guest(*made)
            if sock.is_open and not sock.ended:
                sock.deliver(s.bytes_from_host(700, sent))
                sent += 700
                sock.drain(batch[0][4])
                if number == close_after:
                    sock.end()
            s.advance(batch[0][5] * 100)
            s.take_all()
        assert sock.taken == s.bytes_from_guest(len(sock.taken))
        s.bench.close()
        s.take_all()
        s.advance(10_000)
        s.ended()
