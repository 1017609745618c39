"""Where each frame of the guest goes: translator, responder, or the counter of its drop."""

import errno
import itertools
import struct
from collections.abc import Callable
from typing import NamedTuple

import pytest

from passt.facts.contracts import PROHIBITED
from tests.dataplane.probes.probe import Verdict
from tests.dataplane.probes.world import World
from tests.support.fakes import Events, Policy, Responder
from tests.support.frames import (
    ACK,
    FIN,
    OUR_MAC,
    RST,
    SYN,
    echo,
    ethernet,
    ip,
    packed,
    tcp,
    udp,
)

G4, R4, G6, R6 = "192.0.2.2", "198.51.100.7", "2001:db8::2", "2001:db8:1::7"
OUR4 = "192.0.2.1"
GSO_TCPV4, GSO_UDP_OLD, GSO_UDP_L4 = 1, 3, 5
MAX_FLOWS = 4


class Bench:
    """A world with scripted sockets and the fakes around it."""

    def __init__(self) -> None:
        self.policy, self.responder, self.events = Policy(), Responder(), Events()
        self.world = World(
            self.policy,
            self.responder,
            self.events,
            our_mac=OUR_MAC,
            our_ip4=packed(OUR4),
            max_flows=MAX_FLOWS,
            scripted=True,
        )
        self.world.now = 10**9

    def take(self, frame: bytes, *, gso_type: int = 0, gso_size: int = 0) -> dict[str, int]:
        """Inject a frame; returns the drop counters that it moved."""
        before = self.world.counters()
        self.world.inject(frame, gso_type=gso_type, gso_size=gso_size)
        after = self.world.counters()
        assert after["frames_from_guest"] == before["frames_from_guest"] + 1
        assert after["bytes_from_guest"] == before["bytes_from_guest"] + len(frame)
        return {
            name: after[name] - before[name]
            for name in after
            if name.startswith("drop_") and after[name] != before[name]
        }


@pytest.fixture
def bench() -> Bench:
    return Bench()


def name(verdict: Verdict) -> str:
    return verdict.name.lower()


class Case(NamedTuple):
    """A frame and the counter that it moves; *prepare* brings about what the counter is for."""

    verdict: Verdict
    frame: bytes
    prepare: Callable[[Bench], None] = lambda _: None
    gso_type: int = 0
    gso_size: int = 0


def spoiled(frame: bytes, at: int, new: bytes) -> bytes:
    return frame[:at] + new + frame[at + len(new) :]


def refuse(bench: Bench) -> None:
    bench.policy.refuses = True


def fill(bench: Bench) -> None:
    """Fill the table with what does not make room for others."""
    for port in range(MAX_FLOWS):
        acked = establish(bench, 2000 + port)
        bench.take(tcp(G4, 2000 + port, R4, 80, flags=ACK, seq=1001, ack=acked, payload=b"used"))


def fails(operation: str, number: int) -> Callable[[Bench], None]:
    return lambda bench: bench.world.script(operation, -number)


def link_full(bench: Bench) -> None:
    bench.world.room = 0
    bench.responder.replies = [bytes(60)]


def oversized_reply(bench: Bench) -> None:
    bench.responder.replies = [bytes(14 + 40 + 65535 + 1)]


def establish(bench: Bench, port: int = 4000) -> int:
    """Open a TCP connection of the guest; returns the sequence number that acknowledges our SYN."""
    bench.world.take_sent()
    assert bench.take(tcp(G4, port, R4, 80, seq=1000, options=b"\3\3\x08")) == {}
    (sent,) = bench.world.take_sent()
    acked = int.from_bytes(sent.frame[38:42], "big") + 1
    assert bench.take(tcp(G4, port, R4, 80, flags=ACK, seq=1001, ack=acked)) == {}
    return acked


def established(bench: Bench) -> None:
    establish(bench)


def fill_established(bench: Bench) -> None:
    for port in range(MAX_FLOWS):
        acked = establish(bench, 2000 + port)
        bench.take(tcp(G4, 2000 + port, R4, 80, flags=ACK, seq=1001, ack=acked, payload=b"used"))


UDP4, UDP6 = udp(G4, 1000, R4, 53, b"query"), udp(G6, 1000, R6, 53, b"query")
TCP4, TCP6 = tcp(G4, 1000, R4, 80), tcp(G6, 1000, R6, 80)
ECHO4, ECHO6 = echo(G4, R4, 7, 1, b"ping"), echo(G6, R6, 7, 1, b"ping")

CASES = [
    Case(Verdict.DROP_SHORT, ethernet(b"", kind=0x0800)),
    Case(Verdict.DROP_SHORT, ethernet(bytes.fromhex("45") + bytes(18), kind=0x0800)),
    Case(Verdict.DROP_SHORT, ethernet(bytes.fromhex("60") + bytes(38), kind=0x86DD)),
    Case(Verdict.DROP_SHORT, ethernet(ip(G4, R4, 6, bytes(19)))),
    Case(Verdict.DROP_SHORT, ethernet(ip(G6, R6, 17, bytes(7)))),
    Case(Verdict.DROP_SHORT, ethernet(ip(G4, R4, 1, b"\x08" + bytes(6)))),
    Case(Verdict.DROP_SHORT, ethernet(ip(G6, R6, 58, b"\x80" + bytes(6)))),
    Case(Verdict.DROP_BAD_LENGTH, UDP4[:-1]),
    Case(Verdict.DROP_BAD_LENGTH, UDP6[:-1]),
    Case(Verdict.DROP_BAD_LENGTH, spoiled(UDP4, 38, b"\0\x07")),
    Case(Verdict.DROP_BAD_LENGTH, spoiled(TCP4, 46, b"\x40")),
    Case(Verdict.DROP_BAD_VERSION, spoiled(UDP4, 14, b"\x65")),
    Case(Verdict.DROP_BAD_VERSION, spoiled(UDP6, 14, b"\x40")),
    Case(Verdict.DROP_OVERSIZE, ethernet(bytes(28), kind=0x0806), oversized_reply),
    Case(Verdict.DROP_FRAGMENT, spoiled(UDP4, 20, b"\x20\0")),
    Case(Verdict.DROP_FRAGMENT, spoiled(UDP6, 20, b"\x2c")),
    Case(Verdict.DROP_BAD_ADDRESS, udp("127.0.0.1", 1000, R4, 53)),
    Case(Verdict.DROP_BAD_PORT, udp(G4, 0, R4, 53)),
    Case(Verdict.DROP_BAD_PORT, udp(G6, 1000, R6, 0)),
    Case(Verdict.DROP_BAD_PORT, tcp(G4, 0, R4, 53)),
    Case(Verdict.DROP_BAD_PORT, tcp(G6, 1000, R6, 0)),
    Case(Verdict.DROP_ETHERTYPE, ethernet(bytes(46), kind=0x88CC)),
    Case(Verdict.DROP_ETHERTYPE, ethernet(b"", kind=0x8100)),
    Case(Verdict.DROP_PROTOCOL, ethernet(ip(G4, R4, 132, bytes(20)))),
    Case(Verdict.DROP_PROTOCOL, ethernet(ip(G4, R4, 58, bytes(20)))),
    Case(Verdict.DROP_PROTOCOL, ethernet(ip(G6, R6, 1, bytes(20)))),
    Case(Verdict.DROP_PROTOCOL, echo(G4, R4, 7, 1, kind=0)),
    Case(Verdict.DROP_PROTOCOL, echo(G6, R6, 7, 1, kind=129)),
    Case(Verdict.DROP_PROTOCOL, echo(G6, R6, 7, 1, kind=132)),
    Case(Verdict.DROP_PROTOCOL, echo(G6, R6, 7, 1, kind=138)),
    Case(Verdict.DROP_PROTOCOL, echo(G4, R4, 7, 1, code=1)),
    Case(Verdict.DROP_EXTENSION_HEADER, spoiled(UDP6, 20, b"\x3b")),
    Case(Verdict.DROP_DISABLED, UDP4, lambda bench: bench.world.switch(udp=False)),
    Case(Verdict.DROP_REFUSED, UDP4, refuse),
    Case(Verdict.DROP_REFUSED, TCP6, refuse),
    Case(Verdict.DROP_REFUSED, ECHO4, refuse),
    Case(Verdict.DROP_FLOWS_FULL, UDP4, fill),
    Case(Verdict.DROP_FLOWS_FULL, TCP4, fill_established),
    Case(Verdict.DROP_FLOWS_FULL, ECHO6, fill),
    Case(Verdict.DROP_NO_FD, UDP4, fails("open", errno.EMFILE)),
    Case(Verdict.DROP_NO_FD, TCP4, fails("open", errno.ENFILE)),
    Case(Verdict.DROP_NO_FD, ECHO6, fails("open", errno.EMFILE)),
    Case(Verdict.DROP_SOCKET, UDP4, fails("open", errno.EACCES)),
    Case(Verdict.DROP_SOCKET, UDP6, fails("watch", errno.ENOMEM)),
    Case(Verdict.DROP_SOCKET, UDP4, fails("watch", errno.ENOSPC)),
    Case(Verdict.DROP_SOCKET, UDP4, fails("send_message", errno.ENOBUFS)),
    Case(Verdict.DROP_SOCKET, TCP4, fails("open", errno.EACCES)),
    Case(Verdict.DROP_SOCKET, ECHO4, fails("open", errno.EACCES)),
    Case(Verdict.DROP_SOCKET, ECHO6, fails("send_message", errno.ENOBUFS)),
    Case(Verdict.DROP_LINK_FULL, ethernet(bytes(28), kind=0x0806), link_full),
    Case(Verdict.DROP_TCP_SEQUENCE, tcp(G4, 4000, R4, 80, flags=ACK, seq=5, ack=0), established),
    Case(Verdict.DROP_TCP_SEQUENCE, tcp(G4, 4000, R4, 80, flags=RST, seq=5), established),
    Case(Verdict.DROP_TCP_FLAGS, tcp(G4, 4000, R4, 80, flags=0, seq=1001), established),
    Case(Verdict.DROP_UNKNOWN_FLOW, tcp(G4, 1000, R4, 80, flags=ACK)),
    Case(Verdict.DROP_UNKNOWN_FLOW, tcp(G6, 1000, R6, 80, flags=RST)),
    Case(Verdict.DROP_UNKNOWN_FLOW, tcp(G4, 1000, R4, 80, flags=SYN | ACK)),
    Case(Verdict.DROP_UNKNOWN_FLOW, tcp(G4, 1000, R4, 80, flags=SYN | FIN)),
    Case(Verdict.DROP_UNKNOWN_FLOW, tcp(G4, 1000, R4, 80, flags=0)),
    Case(Verdict.DROP_GSO, UDP4, gso_type=GSO_TCPV4, gso_size=100),
    Case(Verdict.DROP_GSO, UDP4, gso_type=GSO_UDP_OLD, gso_size=100),
    Case(Verdict.DROP_GSO, UDP4, gso_type=GSO_UDP_L4, gso_size=0),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.verdict.name)
def test_frame_moves_just_the_counter_of_its_verdict(bench: Bench, case: Case) -> None:
    case.prepare(bench)
    assert bench.take(case.frame, gso_type=case.gso_type, gso_size=case.gso_size) == {name(case.verdict): 1}


def test_acknowledgement_of_what_was_never_sent_is_counted(bench: Bench) -> None:
    acked = establish(bench)
    assert bench.take(tcp(G4, 4000, R4, 80, flags=ACK, seq=1001, ack=acked + 1)) == {"drop_tcp_ack": 1}


def test_overflow_pool_used_up_is_counted(bench: Bench) -> None:
    frame = tcp(G4, 4000, R4, 80, flags=ACK, payload=bytes(60000))
    for port in range(4000, 4000 + MAX_FLOWS):
        bench.world.script("free_space", *[10**7] * 100)
        bench.world.script("send", *[-errno.EAGAIN] * 100)
        acked = establish(bench, port)
        for turn in range(10):
            # Nobody looks at the checksums of the guest's frames: what lies in memory is not damaged.
            places = [struct.pack("!HHII", port, 80, 1001 + (turn * 16 + piece) * 60000, acked)
                      for piece in range(16)]
            bench.world.inject(*[spoiled(frame, 34, place) for place in places])
            if bench.world.counters()["drop_tcp_memory"]:
                break
    counters = bench.world.counters()
    assert {key: n for key, n in counters.items() if key.startswith("drop_") and n} == {"drop_tcp_memory": 1}
    assert bench.world.pool_left < 10**7
    bench.world.end_all()
    assert bench.world.pool_left == 32 << 20


# Counters that no frame of the guest can move through these doors, and where they are tested instead.
ELSEWHERE = {
    Verdict.VERDICT_OK,
    Verdict.DROP_CROWD,  # core/test_crowds: there have to be others
    Verdict.DROP_CONTROL_RATE,  # below: more than one frame is needed
    Verdict.DROP_LINK_DOWN,  # test_tap: the interface is down
    Verdict.DROP_TCP_TIMESTAMP,  # tcp/test_timing: the connection has to have them
    Verdict.DROP_TRUNCATED,  # test_udp, test_ping: from the socket's side
    Verdict.DROP_FRAGMENT_OVERLAP,  # test_fragments: of more than one frame
    Verdict.DROP_FRAGMENT_TIME,
    Verdict.DROP_FRAGMENT_MEMORY,
    Verdict.DROP_BAD_CHECKSUM,
    Verdict.DROP_TOO_BIG,  # test_too_big: there has to be a flow that it is about
    Verdict.DROP_OWN_ECHO,  # udp/test_flows: from the socket's side
}


def test_every_verdict_is_reached() -> None:
    tested = {case.verdict for case in CASES} | {Verdict.DROP_TCP_ACK, Verdict.DROP_TCP_MEMORY}
    assert set(Verdict) - tested == ELSEWHERE


def test_frame_that_is_taken_moves_no_counter(bench: Bench) -> None:
    for frame in (UDP4, TCP6, ECHO4):
        assert bench.take(frame) == {}
    assert bench.world.counters()["flows_opened"] == 3


def test_repeated_syn_opens_no_second_connection(bench: Bench) -> None:
    bench.world.script("connect", -errno.EINPROGRESS)
    for _ in range(3):
        assert bench.take(TCP4) == {}
    assert len(bench.world.flows()) == 1


# Addresses

LOOPBACK6, MAPPED, GROUP6 = "::1", "::ffff:192.0.2.2", "ff02::1"


@pytest.mark.parametrize(
    "source", ["0.0.0.0", "127.0.0.1", "127.255.255.255", "224.0.0.1", "239.255.255.255"]
)
@pytest.mark.parametrize("build", [udp, tcp])
def test_source_that_no_guest_may_use(bench: Bench, source: str, build: Callable[..., bytes]) -> None:
    assert bench.take(build(source, 1000, R4, 53)) == {"drop_bad_address": 1}
    assert bench.events.addresses == bench.events.macs == []


@pytest.mark.parametrize("source", ["::", LOOPBACK6, MAPPED, GROUP6, "ff0e::1"])
@pytest.mark.parametrize("build", [udp, tcp])
def test_source_that_no_guest_may_use_over_ip6(
    bench: Bench, source: str, build: Callable[..., bytes]
) -> None:
    assert bench.take(build(source, 1000, R6, 53)) == {"drop_bad_address": 1}
    assert bench.events.addresses == bench.events.macs == []


@pytest.mark.parametrize(
    ("destination", "over_tcp", "over_udp"),
    [
        ("0.0.0.0", False, False),
        ("127.0.0.1", False, False),
        ("127.1.2.3", False, False),
        ("224.0.0.1", False, True),
        ("255.255.255.255", False, True),
        ("10.0.0.255", True, True),
        ("::", False, False),
        (LOOPBACK6, False, False),
        (MAPPED, False, False),
        (GROUP6, False, True),
        ("fe80::1", True, True),
    ],
)
def test_destination(bench: Bench, destination: str, over_tcp: bool, over_udp: bool) -> None:
    source = G6 if ":" in destination else G4
    bad = {"drop_bad_address": 1}
    assert bench.take(tcp(source, 1000, destination, 80)) == ({} if over_tcp else bad)
    assert bench.take(udp(source, 1000, destination, 53)) == ({} if over_udp else bad)


# Control frames

DHCP = udp("0.0.0.0", 68, "255.255.255.255", 67, b"discover")
DHCP_UNICAST = udp(G4, 68, OUR4, 67, b"renew")
DHCPV6 = udp("fe80::2", 546, "ff02::1:2", 547, b"solicit")
DHCPV6_UNICAST = udp(G6, 546, "fe80::1", 547, b"renew")
ND = [echo("::", "ff02::1:ff00:1", 0, 0, bytes(16), kind=kind) for kind in range(133, 138)]
ARP = ethernet(bytes(28), kind=0x0806)


@pytest.mark.parametrize(
    "frame", [DHCP, DHCP_UNICAST, DHCPV6, DHCPV6_UNICAST, *ND, ARP], ids=lambda frame: frame[12:15].hex()
)
def test_control_frame_reaches_the_responder_and_its_answers_the_guest(bench: Bench, frame: bytes) -> None:
    bench.responder.replies = [b"\x11" * 60, b"\x22" * 14]
    assert bench.take(frame) == {}
    assert bench.responder.frames == [frame]
    assert [sent.frame for sent in bench.world.take_sent()] == [b"\x11" * 60, b"\x22" * 14 + bytes(46)]
    counters = bench.world.counters()
    assert (counters["control_frames"], counters["frames_to_guest"], counters["flows_opened"]) == (1, 2, 0)
    assert bench.events.addresses == []


BURST, INTERVAL_NS = 256, 5_000_000


def test_control_frames_beyond_the_rate_are_dropped_and_counted(bench: Bench) -> None:
    for _ in range(BURST):
        assert bench.take(ARP) == {}
    assert bench.take(ARP) == {"drop_control_rate": 1}
    assert len(bench.responder.frames) == bench.world.counters()["control_frames"] == BURST
    # Each kind has a limit of its own.
    for frame in (DHCP, ND[0], DHCPV6):
        assert [bench.take(frame) for _ in range(BURST)] == [{}] * BURST
        assert bench.take(frame) == {"drop_control_rate": 1}
    bench.world.now += INTERVAL_NS - 1
    assert bench.take(ARP) == {"drop_control_rate": 1}
    bench.world.now += 1
    assert bench.take(ARP) == {}
    assert bench.take(ARP) == {"drop_control_rate": 1}
    # Other traffic is not concerned.
    assert bench.take(UDP4) == {}
    bench.world.now += 10 * BURST * INTERVAL_NS
    assert [bench.take(ARP) for _ in range(BURST)] == [{}] * BURST
    assert bench.take(ARP) == {"drop_control_rate": 1}


@pytest.mark.parametrize(
    "frame",
    [
        # A DHCP or DHCPv6 server elsewhere, and the guest's subnet without a word of ours.
        udp(G4, 68, R4, 67),
        udp(G6, 546, R6, 547),
        udp(G4, 67, R4, 67),
        udp(G4, 68, R4, 547),
        udp(G6, 546, R6, 67),
        tcp(G4, 1000, R4, 67),
        tcp(G6, 1000, R6, 547),
        udp(G4, 67, R4, 68),
        udp(G6, 547, R6, 546),
    ],
    ids=lambda frame: frame[34:38].hex(),
)
def test_frame_that_only_resembles_a_control_frame_is_translated(bench: Bench, frame: bytes) -> None:
    assert bench.take(frame) == {}
    assert bench.responder.frames == []
    assert bench.world.counters()["flows_opened"] == 1


def test_answer_that_is_no_frame_is_not_sent(bench: Bench) -> None:
    bench.responder.replies = [bytes(13)]
    assert bench.take(ARP) == {"drop_oversize": 1}
    assert bench.world.take_sent() == []


# What is learnt of the guest


def from_mac(frame: bytes, mac: str) -> bytes:
    return spoiled(frame, 6, bytes.fromhex(mac))


def test_hardware_address_is_told_once(bench: Bench) -> None:
    for mac in ("020000000001", "020000000001", "020000000002", "020000000001"):
        bench.take(from_mac(UDP4, mac))
    assert [mac.hex() for mac in bench.events.macs] == ["020000000001"]
    assert bench.world.guest_mac.hex() == "020000000001"


@pytest.mark.parametrize(
    "mac", [OUR_MAC.hex(), "000000000000", "010000000001", "ffffffffffff", "333300000001"]
)
def test_hardware_address_that_cannot_be_one_is_not_learnt(bench: Bench, mac: str) -> None:
    before = bench.world.guest_mac
    bench.take(from_mac(UDP4, mac))
    assert bench.events.macs == bench.events.addresses == []
    assert bench.world.guest_mac == before


@pytest.mark.parametrize("frame", [ND[2], DHCP, UDP6], ids=["ND", "DHCP", "disabled"])
def test_hardware_address_is_learnt_from_who_says_nothing_else(bench: Bench, frame: bytes) -> None:
    bench.world.switch(ip6=False)
    bench.take(from_mac(frame, "020000000009"))
    assert bench.world.guest_mac.hex() == "020000000009"
    assert bench.events.addresses == []


# Switches

TCP4, TCP6 = tcp(G4, 1000, R4, 80, flags=SYN), tcp(G6, 1000, R6, 80, flags=SYN)
PING4, PING6 = echo(G4, R4, 7, 1), echo(G6, R6, 7, 1)


@pytest.mark.parametrize(
    ("switch", "dropped"),
    [
        ("tcp", [TCP4, TCP6]),
        ("udp", [UDP4, UDP6]),
        ("icmp", [PING4, PING6]),
        ("ip4", [TCP4, UDP4, PING4]),
        ("ip6", [TCP6, UDP6, PING6]),
    ],
)
def test_switched_off_is_dropped_counted_and_not_learnt(
    bench: Bench, switch: str, dropped: list[bytes]
) -> None:
    bench.world.switch(**{switch: False})
    for frame in (TCP4, TCP6, UDP4, UDP6, PING4, PING6):
        asked = len(bench.policy.asked_outbound)
        n_learnt = len(bench.events.addresses)
        expected = {"drop_disabled": 1} if frame in dropped else {}
        assert bench.take(frame) == expected
        assert (len(bench.policy.asked_outbound) == asked) == (frame in dropped)
        assert frame not in dropped or len(bench.events.addresses) == n_learnt
        bench.world.end_all()


@pytest.mark.parametrize("switch", ["icmp", "udp", "ip4", "ip6"])
def test_control_frames_go_on_whatever_is_switched_off(bench: Bench, switch: str) -> None:
    bench.world.switch(**{switch: False})
    assert bench.take(ARP) == {}
    assert bench.take(ND[2]) == {}
    assert len(bench.responder.frames) == 2


def test_frames_to_the_guest_carry_its_hardware_address(bench: Bench) -> None:
    bench.take(from_mac(tcp(G4, 1000, R4, 80, flags=ACK), "020000000007"))
    (sent,) = bench.world.take_sent()
    assert sent.frame[:12].hex() == "020000000007" + OUR_MAC.hex()


def test_addresses_are_told_once_per_change_and_family(bench: Bench) -> None:
    for address in (G4, G6, G4, "192.0.2.3", "fe80::2", G6, "fe80::2", "2001:db8::3", "fe80::3", G4):
        bench.take(udp(address, 1000, R6 if ":" in address else R4, 53))
    assert bench.events.addresses == [
        packed(address) for address in (G4, G6, "192.0.2.3", "fe80::2", "2001:db8::3", "fe80::3", G4)
    ]


@pytest.mark.parametrize("address", ["240.0.0.1", "255.255.255.255"])
def test_reserved_source_is_not_learnt(bench: Bench, address: str) -> None:
    bench.take(udp(address, 1000, R4, 53))
    assert bench.events.addresses == []


def test_frame_that_is_dropped_early_teaches_nothing(bench: Bench) -> None:
    bench.take(spoiled(UDP4, 20, b"\x20\0"))
    bench.take(udp("127.0.0.1", 1000, R4, 53))
    assert bench.events.addresses == bench.events.macs == []


def arp(
    sender: str, target: str, *, op: int = 1, mac: str = "020000000007", kind: str = "0001080006040"
) -> bytes:
    body = bytes.fromhex(f"{kind}00{op}") + bytes.fromhex(mac) + packed(sender) + bytes(6) + packed(target)
    return spoiled(ethernet(body, kind=0x0806), 6, bytes.fromhex("020000000007"))


@pytest.mark.parametrize(
    "frame",
    [arp(G4, OUR4), arp(G4, G4), arp(G4, OUR4, op=2), arp(G4, OUR4) + bytes(18)],
    ids=["request", "announcement", "reply", "padded"],
)
def test_arp_teaches_address_and_hardware_address(bench: Bench, frame: bytes) -> None:
    bench.take(frame)
    assert bench.events.addresses == [packed(G4)]
    assert bench.events.macs == [bytes.fromhex("020000000007")]
    assert bench.responder.frames == [frame]


@pytest.mark.parametrize(
    "frame",
    [
        arp("0.0.0.0", G4),
        arp(G4, OUR4, mac="020000000008"),
        arp(G4, OUR4, op=3),
        arp(G4, OUR4, kind="0001080006050"),
        arp(G4, OUR4, kind="0006080006040"),
        arp(G4, OUR4)[:-1],
    ],
    ids=["probe", "foreign-sender", "operation", "lengths", "hardware", "short"],
)
def test_arp_that_is_not_plausible_teaches_nothing(bench: Bench, frame: bytes) -> None:
    bench.take(frame)
    assert bench.events.addresses == bench.events.macs == []
    assert bench.responder.frames == [frame]


@pytest.mark.parametrize("address", ["127.0.0.1", "224.0.0.1", "255.255.255.255", "0.1.2.3"])
def test_address_that_cannot_be_one_is_not_learnt_from_arp(bench: Bench, address: str) -> None:
    bench.take(arp(address, OUR4))
    assert bench.events.addresses == []


def test_guest_that_changes_its_address_all_the_time_is_told_of_now_and_then(bench: Bench) -> None:
    for index in range(200):
        bench.take(udp(f"192.0.2.{index + 10}", 1000, R4, 53))
    assert bench.events.addresses == [packed(f"192.0.2.{index + 10}") for index in range(64 - 1)]
    # The last one is what counts, so that is told before it matters.
    bench.world.ask_inbound()
    assert bench.events.addresses[63:] == [packed("192.0.2.209")]
    bench.world.ask_inbound()
    assert len(bench.events.addresses) == 64


# Policy


@pytest.mark.parametrize(
    ("frame", "asked"),
    [
        (UDP4, (17, packed(G4), 1000, packed(R4), 53)),
        (UDP6, (17, packed(G6), 1000, packed(R6), 53)),
        (TCP4, (6, packed(G4), 1000, packed(R4), 80)),
        (TCP6, (6, packed(G6), 1000, packed(R6), 80)),
        (ECHO4, (1, packed(G4), 7, packed(R4), 7)),
        (ECHO6, (58, packed(G6), 7, packed(R6), 7)),
    ],
    ids=["udp4", "udp6", "tcp4", "tcp6", "echo4", "echo6"],
)
def test_policy_is_asked_once_per_flow(bench: Bench, frame: bytes, asked: tuple[object, ...]) -> None:
    if frame in (TCP4, TCP6):
        bench.world.script("connect", -errno.EINPROGRESS)
    bench.take(frame)
    bench.take(frame)
    assert bench.policy.asked_outbound == [asked]


def test_refused_flow_is_asked_about_again_and_leaves_nothing(bench: Bench) -> None:
    refuse(bench)
    for frame in (UDP4, TCP4, ECHO6, UDP4):
        bench.take(frame)
    assert len(bench.policy.asked_outbound) == 4
    assert bench.world.flows() == []
    assert bench.world.sockets.log == []
    assert bench.world.counters()["flows_refused"] == 4


# Exceptions and hooks


@pytest.mark.parametrize("where", ["policy", "responder", "events"])
def test_exception_of_a_callback_is_kept_and_the_first_one_counts(bench: Bench, where: str) -> None:
    numbers = itertools.count(1)

    class CallbackError(ValueError):
        def __init__(self) -> None:
            super().__init__(f"number {next(numbers)}")

    getattr(bench, where).error = CallbackError
    frame = ARP if where == "responder" else UDP4
    with pytest.raises(CallbackError, match="number 1"):
        bench.world.inject(frame, frame)
    bench.world.turn()


def test_tracer_sees_both_directions_and_can_be_taken_off(bench: Bench) -> None:
    seen: list[tuple[bytes, bool]] = []
    bench.world.set_trace(None, lambda head, _n, to_guest, *_: seen.append((head, to_guest)))
    bench.responder.replies = [b"\x11" * 42]
    bench.take(ARP)
    bench.take(ethernet(bytes(46), kind=0x88CC))  # dropped, but it was there
    bench.world.room = 0
    bench.take(ARP)  # the answer is not taken, so it was not there
    assert seen == [
        (ARP, False),
        (b"\x11" * 42 + bytes(18), True),
        (ethernet(bytes(46), kind=0x88CC), False),
        (ARP, False),
    ]
    bench.world.set_trace(None, None)
    bench.take(ARP)
    assert len(seen) == 4


def test_exception_of_the_tracer_is_kept(bench: Bench) -> None:
    def fail(*_: object) -> None:
        raise KeyError("tracer")

    bench.world.set_trace(None, fail)
    with pytest.raises(KeyError):
        bench.world.inject(UDP4)


def test_trace_names_the_states_of_a_connection(bench: Bench) -> None:
    lines: list[str] = []
    bench.world.set_trace(lines.append)
    establish(bench)
    assert lines == ["flow 0: CONNECTING", "flow 0: SYN_RECEIVED", "flow 0: ESTABLISHED"]


# Refused by a rule


@pytest.mark.parametrize(("frame", "family"), [(UDP4, 4), (UDP6, 6), (ECHO4, 4), (ECHO6, 6)])
def test_guest_is_told_what_a_rule_prohibits(bench: Bench, frame: bytes, family: int) -> None:
    """RFC 1812 5.2.7.1, RFC 4443 3.1."""
    bench.policy.target = PROHIBITED
    assert bench.take(frame) == {"drop_refused": 1}
    assert bench.world.counters()["icmp_errors_to_guest"] == 1
    assert bench.world.counters()["flows_refused"] == 1
    assert bench.world.flows() == []
    assert bench.world.sockets.log == []
    (told,) = bench.world.take_sent()
    sent = told.frame
    header = 14 + (20 if family == 4 else 40)
    assert sent[header:header + 2] == (b"\x03\x0d" if family == 4 else b"\x01\x01")
    # It quotes the packet, behind an IP header made anew.
    quoted = header + 8 + (20 if family == 4 else 40)
    assert sent[quoted:quoted + len(frame) - header] == frame[header:]


def test_connection_that_a_rule_prohibits_is_reset(bench: Bench) -> None:
    bench.policy.target = PROHIBITED
    assert bench.take(TCP4) == {"drop_refused": 1}
    assert bench.world.counters()["icmp_errors_to_guest"] == 0
    (sent,) = bench.world.take_sent()
    assert sent.frame[14 + 20 + 13] == 0x14  # RST and ACK
    assert bench.world.flows() == []


@pytest.mark.parametrize("group", ["224.0.0.251", "255.255.255.255", "ff02::fb"])
def test_nothing_is_said_about_what_went_to_a_group(bench: Bench, group: str) -> None:
    """RFC 1122 3.2.2, RFC 4443 2.4 (e)."""
    bench.policy.target = PROHIBITED
    frame = udp(G6 if ":" in group else G4, 1000, group, 5353)
    assert bench.take(frame) == {"drop_refused": 1}
    assert bench.world.take_sent() == []
