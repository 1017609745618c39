"""Two stations behind the link: answers go to the MAC that a flow's own frames came from."""

from __future__ import annotations

import errno
import socket

import pytest

from passt.facts.contracts import InboundTarget
from tests.dataplane.probes.world import World, socket_address
from tests.dataplane.tcp.script import Script
from tests.dataplane.udp.bench import pktinfo4
from tests.support.fakes import Events, Policy, Responder
from tests.support.frames import (
    ACK,
    GUEST_MAC,
    OUR_MAC,
    SYN,
    echo,
    ethernet,
    packed,
    rfc1071,
    tcp,
    udp,
)

A, B, C = GUEST_MAC, bytes.fromhex("020000000002"), bytes.fromhex("020000000003")
GUEST, REMOTE = {4: "192.0.2.2", 6: "2001:db8::2"}, {4: "198.51.100.7", 6: "2001:db8:1::7"}
OTHER = {4: "192.0.2.3", 6: "2001:db8::3"}
SECOND = 10**9
EPOLLIN, PORT = 1, 7

both_families = pytest.mark.parametrize("family", [4, 6])


def sent_by(mac: bytes, frame: bytes) -> bytes:
    return frame[:6] + mac + frame[12:]


def arp(mac: bytes, sender: str) -> bytes:
    """Give an announcement, as a station sends it that has *sender* now."""
    body = bytes.fromhex("0001080006040001") + mac + packed(sender) + bytes(6) + packed(sender)
    return sent_by(mac, ethernet(body, kind=0x806))


class Bench:
    """A world that has heard A."""

    def __init__(self) -> None:
        self.policy, self.events = Policy(), Events()
        self.world = World(self.policy, Responder(), self.events, our_mac=OUR_MAC, guest_mac=A, scripted=True)
        self.world.now = 1000 * SECOND
        self.take(A, udp(GUEST[4], 9, REMOTE[4], 9))
        self.take(A, udp(GUEST[6], 9, REMOTE[6], 9))

    def take(self, mac: bytes, frame: bytes) -> None:
        self.world.inject(sent_by(mac, frame))

    def stations(self) -> list[bytes]:
        """To whom frames went since the last call."""
        return [sent.frame[:6] for sent in self.world.take_sent()]

    def answer(self, number: int, family: int, payload: bytes = b"answer") -> list[bytes]:
        """Have the flow *number* receive something; give to whom it went."""
        flow = self.world.flows()[number]
        self.world.deliver(flow.fd, (payload, socket_address(packed(REMOTE[family]), PORT), b"", 0))
        self.world.event(flow.number, EPOLLIN)
        return self.stations()

    def pass_time(self, seconds: float) -> None:
        self.world.now += int(seconds * SECOND)


@pytest.fixture
def bench() -> Bench:
    return Bench()


# What may come from another station, and moves nothing of A's

SPOOFED = {
    "announcement": arp(B, GUEST[4]),
    "datagram": udp(GUEST[4], 77, REMOTE[4], 77),
    "datagram6": udp(GUEST[6], 77, REMOTE[6], 77),
    "segment": tcp(GUEST[4], 77, REMOTE[4], 77, flags=ACK),
    "nonsense": ethernet(bytes.fromhex("45ff"), kind=0x800),
    "protocol": ethernet(bytes(60), kind=0x88CC),
    "echo": echo(OTHER[4], REMOTE[4], 5, 1),
    "nd": ethernet(
        bytes.fromhex("6000000000103aff") + packed(GUEST[6]) + packed("ff02::1") + b"\x88" + bytes(15)
    ),
}
spoofed = pytest.mark.parametrize("frame", SPOOFED.values(), ids=SPOOFED)


@spoofed
@both_families
def test_datagrams_of_a_flow_stay_with_its_station(bench: Bench, family: int, frame: bytes) -> None:
    bench.take(A, udp(GUEST[family], 1000, REMOTE[family], PORT))
    bench.stations()
    number = len(bench.world.flows()) - 1
    bench.take(B, frame)
    bench.stations()
    assert bench.answer(number, family) == [A]


@spoofed
@both_families
def test_ping_stays_with_its_station(bench: Bench, family: int, frame: bytes) -> None:
    bench.take(A, echo(GUEST[family], REMOTE[family], 7, 1))
    number = len(bench.world.flows()) - 1
    bench.take(B, frame)
    bench.stations()
    kind = 129 if family == 6 else 0
    assert bench.answer(number, family, bytes([kind]) + bytes(7) + b"payload") == [A]


@spoofed
def test_inbound_flow_goes_to_the_guest(bench: Bench, frame: bytes) -> None:
    bench.policy.seen = InboundTarget(packed(REMOTE[4]), 7000, packed(GUEST[4]), 53)
    bench.world.add_listener(500, socket.IPPROTO_UDP, "rule", 5353)
    bench.take(B, frame)
    bench.stations()
    client = (b"hi", socket_address(packed("203.0.113.5"), 7000), pktinfo4("203.0.113.1"), 0)
    bench.world.deliver(500, client)
    bench.world.listener_event(0)
    assert bench.stations() == [A]
    bench.take(B, udp(GUEST[4], 53, REMOTE[4], 7000))         # by its addresses it is the flow's
    bench.world.deliver(500, client)
    bench.world.listener_event(0)
    assert bench.stations() == [B]


@spoofed
def test_addresses_are_those_of_the_guest(bench: Bench, frame: bytes) -> None:
    learnt = list(bench.events.addresses)
    bench.take(B, frame)
    bench.take(B, udp(OTHER[4], 1, REMOTE[4], 2))
    bench.take(B, udp(OTHER[6], 1, REMOTE[6], 2))
    assert bench.events.addresses == learnt
    assert bench.events.macs == []


# Stations at once


def pong(family: int) -> bytes:
    """Give what a ping socket reads."""
    return bytes([129 if family == 6 else 0]) + bytes(7) + b"payload"


@both_families
def test_each_station_gets_its_answers(bench: Bench, family: int) -> None:
    """Also where B and the guest have the same address."""
    first = len(bench.world.flows())
    flows = [(A, GUEST), (B, OTHER), (B, GUEST), (C, OTHER), (A, GUEST)]
    for number, (mac, address) in enumerate(flows):
        bench.take(mac, echo(address[family], REMOTE[family], 7 + number, 1))
    bench.stations()
    for number, (mac, _) in enumerate(flows):
        assert bench.answer(first + number, family, pong(family)) == [mac]


@both_families
def test_datagram_moves_its_own_flow_only(bench: Bench, family: int) -> None:
    first = len(bench.world.flows())
    for ident in (1, 2):
        bench.take(A, echo(GUEST[family], REMOTE[family], ident, 1))
    bench.take(B, echo(GUEST[family], REMOTE[family], 1, 2))
    bench.stations()
    assert bench.answer(first, family, pong(family)) == [B]
    assert bench.answer(first + 1, family, pong(family)) == [A]
    bench.take(A, echo(GUEST[family], REMOTE[family], 1, 3))
    assert bench.answer(first, family, pong(family)) == [A]


def test_answer_to_a_group_goes_to_who_asked(bench: Bench) -> None:
    bench.take(B, udp(OTHER[4], 5353, "224.0.0.251", 5353))
    bench.stations()
    bench.policy.seen = InboundTarget(packed(REMOTE[4]), 5353, packed(OTHER[4]), 5353)
    assert bench.answer(len(bench.world.flows()) - 1, 4) == [B]


@both_families
def test_reset_goes_to_who_sent_the_segment(bench: Bench, family: int) -> None:
    bench.take(B, tcp(OTHER[family], 1, REMOTE[family], 2, flags=ACK))
    bench.take(A, tcp(GUEST[family], 1, REMOTE[family], 2, flags=ACK))
    assert bench.stations() == [B, A]
    bench.take(OUR_MAC, tcp(GUEST[family], 1, REMOTE[family], 2, flags=ACK))
    assert bench.stations() == [A]                            # nobody is there


@both_families
def test_icmp_error_goes_to_who_asked(bench: Bench, family: int) -> None:
    for at_once in (True, False):
        bench.world.script("connect", -errno.ENETUNREACH if at_once else -errno.EINPROGRESS)
        bench.take(B, tcp(OTHER[family], 1, REMOTE[family], 2, flags=SYN))
        if not at_once:
            bench.take(A, udp(GUEST[family], 9, REMOTE[family], 9))
            bench.world.script("take_error", errno.ENETUNREACH)
            bench.world.event(bench.world.flows()[-1].number, 4)
        assert bench.stations() == [B]
    bench.world.script("send_message", -errno.ENETUNREACH)
    bench.take(B, udp(OTHER[family], 1, REMOTE[family], 3))
    assert bench.stations() == [B]


@both_families
def test_fragments_of_two_stations_are_not_mixed(bench: Bench, family: int) -> None:
    """The message that one packet was not complete in time goes to whose it was."""
    payload = bytes(64)
    if family == 4:
        def fragment(offset: int) -> bytes:
            frame = bytearray(udp(GUEST[4], 1, REMOTE[4], 2, payload)[:14 + 20 + 32])
            frame[16:18] = (52).to_bytes(2, "big")
            frame[20:22] = (0x2000 | offset // 8).to_bytes(2, "big")
            frame[24:26] = bytes(2)
            frame[24:26] = rfc1071(bytes(frame[14:34])).to_bytes(2, "big")
            return bytes(frame)
    else:
        def fragment(offset: int) -> bytes:
            header = bytes([17, 0]) + (offset | 1).to_bytes(2, "big") + (7).to_bytes(4, "big")
            start = bytes.fromhex("6000000000282c40") + packed(GUEST[6]) + packed(REMOTE[6])
            return ethernet(start + header + bytes(32))
    bench.take(B, fragment(0))
    bench.take(A, fragment(0))
    bench.pass_time(61)
    bench.world.turn()
    assert sorted(bench.stations()) == [A, B]


# Who the guest is


def test_first_station_is_the_guest() -> None:
    events = Events()
    world = World(Policy(), Responder(), events, our_mac=OUR_MAC, scripted=True)
    world.now = SECOND
    for mac in (B, A, C, B):
        world.inject(sent_by(mac, udp(GUEST[4], 1, REMOTE[4], 2)))
    assert events.macs == [B]


def test_guest_that_is_heard_is_not_asked(bench: Bench) -> None:
    for _ in range(20):
        bench.pass_time(1.9)
        bench.take(B, arp(B, GUEST[4]))
        bench.take(A, udp(GUEST[4], 9, REMOTE[4], 9))
    assert bench.events.silences == 0
    assert bench.world.guest_mac == A


def test_guest_that_answers_stays(bench: Bench) -> None:
    for number in range(1, 10):
        bench.pass_time(2)
        bench.take(B, arp(B, GUEST[4]))
        bench.take(B, arp(B, GUEST[4]))
        assert bench.events.silences == number
        bench.take(A, arp(A, GUEST[4]))
    assert bench.world.guest_mac == A
    assert bench.events.macs == []


def test_guest_that_does_not_answer_is_replaced(bench: Bench) -> None:
    bench.take(A, echo(GUEST[4], REMOTE[4], 7, 1))
    number = len(bench.world.flows()) - 1
    bench.pass_time(2)
    for asked in (1, 2, 3):
        bench.take(B, arp(B, GUEST[4]))
        assert bench.events.silences == asked
        bench.pass_time(1)
    assert bench.world.guest_mac == A
    bench.take(B, arp(B, GUEST[4]))
    assert bench.world.guest_mac == B
    assert bench.events.macs == [B]
    bench.stations()
    assert bench.answer(number, 4, pong(4)) == [B]            # the guest's flows go with it
    bench.take(B, udp(OTHER[4], 1, REMOTE[4], 2))
    assert bench.events.addresses[-1] == packed(OTHER[4])


def test_guest_is_not_judged_while_no_question_can_reach_it(bench: Bench) -> None:
    """A second station that loads the link, by its downloads, must not become the guest by that."""
    bench.pass_time(2)
    bench.world.blocked = True
    for _ in range(5):
        bench.take(B, arp(B, GUEST[4]))
        bench.pass_time(1)
    assert bench.events.silences == 0
    assert bench.world.guest_mac == A
    bench.world.open_link()
    bench.take(B, arp(B, GUEST[4]))
    assert bench.events.silences == 1
    assert bench.world.guest_mac == A


# Connections


def test_segments_of_another_station_do_not_move_a_connection() -> None:
    with Script() as s:
        sock = s.connect()
        for number, text in enumerate((
            "A seq=5000000 ack=1", "A seq=1 ack=9000", "S seq=77", "R seq=300000",
            "PA seq=9000000 ack=1 len=5", "A seq=1 ack=4294960000", "A seq=4289000000 ack=1",
        )):
            s.peer.spoof(B, text)
            s.take_all()
            sock.deliver(s.bytes_from_host(100, 100 * number))
            s.host(f"PA seq={100 * number + 1} ack=1 len=100")
            assert s.state == "ESTABLISHED"


def test_connection_moves_with_its_own_segments() -> None:
    with Script() as s:
        sock = s.connect()
        s.guest("PA seq=1 ack=1 len=100", "PA seq=101 ack=1 len=100")
        s.take_all()
        s.peer.station = B
        s.guest("PA seq=1 ack=1 len=100")                     # what we acknowledged went elsewhere
        s.host("A seq=1 ack=201")
        sock.deliver(s.bytes_from_host(50))
        s.host("PA seq=1 ack=201 len=50")
        s.peer.station = A
        s.guest("A seq=201 ack=51")
        sock.deliver(s.bytes_from_host(50, 50))
        s.host("PA seq=51 ack=201 len=50")


def test_connection_moves_with_a_keep_alive_probe() -> None:
    with Script() as s:
        s.connect()
        s.guest("PA seq=1 ack=1 len=100")
        s.take_all()
        s.peer.station = B
        s.guest("A seq=100 ack=1")
        s.host("A seq=1 ack=101")


def test_half_open_connection_is_not_opened_anew_by_another_station() -> None:
    with Script() as s:
        s.guest("S seq=0 win=65535 mss=1460 ws=7")
        s.peer.spoof(B, "S seq=77")
        s.sock.connected()
        s.host("SA seq=0 ack=1")
        s.peer.spoof(B, "S seq=77")
        s.take_all()
        s.guest("A seq=1 ack=1")
        assert s.state == "ESTABLISHED"


def test_connection_of_a_client_goes_to_who_answers() -> None:
    with Script() as s:
        s.peer.knock()
        s.host("S seq=0")
        s.peer.station = B
        s.guest("SA seq=0 ack=1 win=65535 mss=1460 ws=7")
        s.host("A seq=1 ack=1")
        s.peer.spoof(A, "PA seq=1 ack=500 len=3")
        s.take_all()
