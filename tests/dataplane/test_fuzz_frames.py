"""Twenty thousand random and mutated frames: no crash, no growth, and each frame counted once.

The frames lie at the end of guarded memory (see probe.pyx), so a read behind one ends the run. All
is seeded: a failure is the same each time.
"""

import errno
import random
import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from passt.facts.contracts import Target
from tests.dataplane.ingress.test_packet_too_big import too_big
from tests.dataplane.probes import probe
from tests.dataplane.probes.world import World
from tests.support.fakes import Events, Policy, Responder
from tests.support.frames import (
    ACK,
    FIN,
    ICMP,
    ICMP6,
    OUR_MAC,
    PSH,
    RST,
    SYN,
    TCP,
    UDP,
    echo,
    ethernet,
    ip,
    tcp,
    udp,
)

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_FLOWS = 5                     # few, so that now and then none of them can make room
N_FRAMES = 20_000
BATCH = 64
EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLLRDHUP = 1, 4, 8, 16, 0x2000
TCP_KIND = 2
GSO_TYPES = (0, 0, 0, 5)
# Counted besides the verdict on the frame: answers that the link refuses, datagrams that a socket refuses.
LATER_DROPS = {"drop_link_full", "drop_socket"}
OUT_OF_REACH = {
    "verdict_ok",
    "drop_disabled",
    "drop_oversize",
    "drop_crowd",
    "drop_control_rate",
    "drop_fragment_memory",  # with these three see test_fragments
    "drop_fragment_time",
    "drop_link_down",
    "drop_own_echo",
    "drop_truncated",
    "drop_tcp_memory",
    "drop_tcp_timestamp",
}
HOSTS4 = ("192.0.2.2", "198.51.100.7", "198.51.100.8", "10.0.0.1", "127.0.0.1", "224.0.0.1", "0.0.0.0")
HOSTS6 = ("2001:db8::2", "2001:db8:1::7", "fe80::2", "ff02::1", "::1", "::")


class Whims(Policy):
    """Refuses one flow in four."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__()
        self.dice = dice

    def outbound(
        self, proto: int, source: bytes, source_port: int, destination: bytes, destination_port: int
    ) -> Target | None:
        self.refuses = self.dice.random() < 0.25
        self.asked_outbound.clear()
        return super().outbound(proto, source, source_port, destination, destination_port)


class Fuzzer:
    """Makes frames: well-formed ones of few endpoints, so that they meet; then bent, cut or noise."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.kinds: list[Callable[[str, str], bytes]] = [
            self.tcp,
            self.tcp,
            self.tcp,
            self.tcp,
            self.udp,
            self.echo,
            self.odd,
            self.too_big,
        ]
        self.open: dict[tuple[bool, int], tuple[int, int]] = {}
        self.last = {4: b"", 6: b""}  # packets to the guest

    def endpoints(self) -> tuple[str, str]:
        hosts = self.dice.choice((HOSTS4, HOSTS6))
        return (
            (hosts[0], hosts[1])
            if self.dice.random() < 0.8
            else (self.dice.choice(hosts), self.dice.choice(hosts))
        )

    def learn(self, frame: bytes) -> None:
        """Take the sequence numbers that a segment to the guest says are in order."""
        six = frame[12:14] == b"\x86\xdd"
        self.last[6 if six else 4] = frame[14:]
        start = 54 if six else 34
        if frame[20 if six else 23] == TCP and not frame[start + 13] & RST:
            dport, seq, ack = struct.unpack_from("!2xHII", frame, start)
            self.open[six, dport] = (ack, seq + bool(frame[start + 13] & SYN) & 0xFFFFFFFF)

    def in_order(self, source: str, destination: str) -> bytes | None:
        """Give a segment that fits an open connection."""
        port = self.dice.randrange(1, 12)
        known = self.open.get((":" in source, port))
        if known is None:
            return None
        flags = self.dice.choice((ACK, ACK, ACK, ACK | PSH, ACK | FIN, ACK | RST))
        return tcp(
            source,
            port,
            destination,
            80,
            flags=flags,
            seq=known[0],
            ack=known[1],
            payload=self.dice.randbytes(self.dice.choice((0, 1, 1000))),
        )

    def tcp(self, source: str, destination: str) -> bytes:
        dice = self.dice
        if dice.random() < 0.6 and (fitting := self.in_order(source, destination)):
            return fitting
        options = dice.choice(
            (b"", b"\2\4\5\xb4", b"\2\4\5\xb4\1\3\3\7", b"\4\2\2\4\0\0", dice.randbytes(12))
        )
        near = 1000 + dice.choice((0, 1, 1, 2, 3, 100, 70000, 2**31))
        return tcp(
            source,
            dice.randrange(1, 12),
            destination,
            80,
            flags=dice.choice((2, 16, 16, 24, 17, 4, 20, 18, dice.randrange(256))),
            seq=dice.choice((near, dice.randrange(2**32))),
            ack=dice.randrange(2**32),
            window=dice.choice((0, 1, 500, 65535)),
            options=options,
            payload=dice.randbytes(dice.choice((0, 0, 1, 100, 1400))),
        )

    def udp(self, source: str, destination: str) -> bytes:
        return udp(
            source,
            self.dice.randrange(16),
            destination,
            self.dice.choice((53, 67, 547, 0, 9)),
            self.dice.randbytes(self.dice.choice((0, 1, 40, 1400))),
        )

    def echo(self, source: str, destination: str) -> bytes:
        six = ":" in source
        kind = self.dice.choice((128, 128, 129, 133, 135, 137, 1) if six else (8, 8, 0, 3, 11))
        return echo(source, destination, self.dice.randrange(6), 1, self.dice.randbytes(8), kind=kind)

    def too_big(self, source: str, destination: str) -> bytes:
        family = 6 if ":" in source else 4
        quoted = self.last[family]
        if len(quoted) > 20 and self.dice.random() < 0.8:
            destination = str(ip_address(quoted[8:24] if family == 6 else quoted[12:16]))
        return too_big(family, quoted[:548], self.dice.choice((0, 68, 600, 1280, 65535)), to=destination)

    def odd(self, source: str, destination: str) -> bytes:
        dice = self.dice
        if dice.random() < 0.3:
            return ethernet(
                dice.randbytes(dice.randrange(60)), kind=dice.choice((0x806, 0x8100, 0x800, 0x86DD))
            )
        return ethernet(
            ip(
                source,
                destination,
                dice.choice((0, 43, 44, 51, 59, 60, 6, UDP, 1, 58, 255)),
                dice.randbytes(dice.randrange(80)),
            )
        )

    def frame(self) -> bytes:
        dice = self.dice
        frame = bytearray(dice.choice(self.kinds)(*self.endpoints()))
        whim = dice.random()
        if whim < 0.25:
            for _ in range(dice.randrange(1, 4)):
                frame[dice.randrange(12, len(frame))] = dice.randrange(256)
        elif whim < 0.35:
            del frame[dice.randrange(14, len(frame) + 1) :]
        elif whim < 0.4:
            frame += dice.randbytes(dice.randrange(40))
        elif whim < 0.45:
            frame = bytearray(dice.randbytes(dice.randrange(14, 200)))
        return bytes(frame)


def stir(world: World, dice: random.Random) -> None:
    """Say what the sockets, the link and the clock do between two batches."""
    world.room = dice.choice((-1, -1, -1, 0, 3))
    for operation, outcomes in (
        ("connect", (0, -errno.EINPROGRESS, -errno.ECONNREFUSED, -errno.ENETUNREACH)),
        ("open", (-errno.EMFILE,)),
        ("send", (0, 1, -errno.EAGAIN, -errno.EPIPE)),
        ("peek", (0, 1, 100, 1000, -errno.ECONNRESET)),
        ("free_space", (0, 100, 65536)),
        ("take_error", (errno.ECONNREFUSED,)),
        ("send_message", (-errno.ECONNREFUSED, -errno.EPERM)),
    ):
        world.sockets.results.pop(operation, None)
        if dice.random() < 0.3:
            world.script(operation, *[dice.choice(outcomes) for _ in range(3)])
    for flow in world.flows():
        if dice.random() < 0.2:
            world.event(
                flow.number,
                dice.choice(
                    (EPOLLIN, EPOLLOUT, EPOLLIN | EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLLIN | EPOLLRDHUP)
                ),
            )
    world.now += dice.choice((1000, 10**6, 3 * 10**8, 10**9, 2 * 10**10))
    world.turn()
    world.turn()
    world.sockets.log.clear()


def check_bounds(world: World) -> None:
    """Flows, descriptors and gauges agree; nothing is lost or left."""
    flows = world.flows()
    counters = world.counters()
    assert len(flows) <= MAX_FLOWS
    assert {flow.fd for flow in flows if flow.fd >= 0} == world.sockets.open_fds
    assert counters["flows_tcp"] == sum(flow.kind == TCP_KIND for flow in flows)
    assert counters["flows_tcp"] + counters["flows_udp"] + counters["flows_ping"] == len(flows)


def check_verdicts(frames: list[bytes], before: dict[str, int], after: dict[str, int]) -> None:
    """See that each of *frames* was dropped, handed to the responder, or translated: one of them, once."""
    dropped = sum(
        after[name] - before[name] for name in after if name.startswith("drop_") and name not in LATER_DROPS
    )
    left = len(frames) - dropped - (after["control_frames"] - before["control_frames"])
    assert 0 <= left <= sum(is_sound(frame) for frame in frames), [frame.hex() for frame in frames]


def is_sound(frame: bytes) -> bool:
    """Tell whether *frame* can be translated, or kept until the packet is whole or its time is over."""
    fields = probe.ip6(frame[14:]) if frame[12:14] == b"\x86\xdd" else probe.ip4(frame[14:])
    if fields == probe.Verdict.DROP_FRAGMENT:
        return True
    return isinstance(fields, probe.IpFields) and fields.protocol in (TCP, UDP, ICMP, ICMP6)


@pytest.mark.slow
def test_frames_without_sense_are_counted_and_do_no_harm() -> None:
    dice = random.Random(20250405)  # noqa: S311 - it has to be the same each time
    responder, events = Responder(), Events()
    world = World(Whims(dice), responder, events, our_mac=OUR_MAC, max_flows=MAX_FLOWS, scripted=True)
    world.now = 10**9
    fuzzer = Fuzzer(dice)
    moved: set[str] = set()
    n_given = 0
    while n_given < N_FRAMES:
        batch = [
            (fuzzer.frame(), dice.choice(GSO_TYPES) if dice.random() < 0.8 else dice.randrange(256),
             dice.choice((0, 100, 1400)), False)
            for _ in range(BATCH)
        ]
        # Every other batch comes in one turn, whose data leave together; else a frame a turn, each looked at.
        parts = [batch] if n_given // BATCH % 2 else [[item] for item in batch]
        for part in parts:
            n_given += len(part)
            before = world.counters()
            world.inject_batch(part)
            after = world.counters()
            assert after["frames_from_guest"] == n_given
            check_verdicts([frame for frame, *_ in part], before, after)
            moved |= {name for name in after if after[name] != before[name]}
        stir(world, dice)
        check_bounds(world)
        for sent in world.take_sent():
            fuzzer.learn(sent.frame)
        responder.frames.clear()
        events.addresses.clear()
        events.macs.clear()
    world.close()
    check_bounds(world)
    assert world.flows() == []
    assert world.sockets.open_fds == set()
    assert world.pool_left == 32 << 20
    assert {verdict.name.lower() for verdict in probe.Verdict} - moved == OUT_OF_REACH
