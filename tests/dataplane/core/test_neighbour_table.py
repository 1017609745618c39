"""Frames from hosts on our own link bear their MAC addresses, and what a hostile one can make of that."""

from __future__ import annotations

import errno
import socket

import pytest

from passt.facts.contracts import InboundTarget
from tests.dataplane.core.test_known_answers import arp, solicitation
from tests.dataplane.probes.world import World, socket_address
from tests.dataplane.udp.bench import pktinfo4
from tests.support.fakes import Events, Policy, Responder
from tests.support.frames import ACK, GUEST_MAC, OUR_MAC, SYN, echo, packed, tcp, udp

REAL, OTHER_MAC = bytes.fromhex("0200000000aa"), bytes.fromhex("0200000000bb")
RIVAL = bytes.fromhex("020000000002")
GUEST, NEAR = {4: "192.0.2.2", 6: "2001:db8::2"}, {4: "192.0.2.7", 6: "2001:db8::7"}
FAR = {4: "198.51.100.7", 6: "2001:db8:1::7"}
SECOND = 10**9
EPOLLIN, EPOLLOUT, PORT = 1, 4, 7

both_families = pytest.mark.parametrize("family", [4, 6])


class Bench(World):
    """A world with a guest, and a neighbour of each family."""

    def __init__(self, guest_mac: bytes | None = GUEST_MAC) -> None:
        self.policy, self.responder = Policy(), Responder()
        super().__init__(self.policy, self.responder, Events(), our_mac=OUR_MAC, guest_mac=guest_mac,
                         our_ip4=packed("192.0.2.1"), scripted=True)
        self.now = 1000 * SECOND
        self.set_neighbours({packed(NEAR[4]): REAL, packed(NEAR[6]): REAL})

    def sources(self) -> list[bytes]:
        """From whom frames came since the last call."""
        return [sent.frame[6:12] for sent in self.take_sent()]

    def answer(self, address: str) -> list[bytes]:
        """Have the last flow receive something; give from whom it came to the guest."""
        flow = self.flows()[-1]
        self.deliver(flow.fd, (b"answer", socket_address(packed(address), PORT), b"", 0))
        self.event(flow.number, EPOLLIN)
        return self.sources()


@pytest.fixture
def bench() -> Bench:
    return Bench()


@both_families
def test_datagram_bears_the_mac_address_of_the_neighbour_it_is_from(bench: Bench, family: int) -> None:
    for address, mac in ((NEAR, REAL), (FAR, OUR_MAC)):
        bench.inject(udp(GUEST[family], 1000, address[family], PORT))
        assert bench.answer(address[family]) == [mac]


@both_families
def test_large_datagram_bears_it_in_each_fragment(bench: Bench, family: int) -> None:
    bench.inject(udp(GUEST[family], 1000, NEAR[family], PORT))
    flow = bench.flows()[-1]
    bench.mtu = 1500
    bench.deliver(flow.fd, (bytes(4000), socket_address(packed(NEAR[family]), PORT), b"", 0))
    bench.event(flow.number, EPOLLIN)
    assert set(bench.sources()) == {REAL}


@both_families
def test_echo_reply_bears_it(bench: Bench, family: int) -> None:
    bench.inject(echo(GUEST[family], NEAR[family], 7, 1))
    flow = bench.flows()[-1]
    bench.deliver(flow.fd, (bytes([129 if family == 6 else 0]) + bytes(7) + b"pong", b"", b"", 0))
    bench.event(flow.number, EPOLLIN)
    assert bench.sources() == [REAL]


@both_families
def test_segments_bear_it_without_a_connection_too(bench: Bench, family: int) -> None:
    for address, mac in ((NEAR, REAL), (FAR, OUR_MAC)):
        bench.inject(tcp(GUEST[family], 1, address[family], 2, flags=ACK))
        assert bench.sources() == [mac], "of a reset"
        bench.script("connect", -errno.EINPROGRESS)
        bench.inject(tcp(GUEST[family], 3, address[family], 4, flags=SYN))
        bench.event(bench.flows()[-1].number, EPOLLOUT)
        assert bench.sources() == [mac], "of a SYN-ACK"


@both_families
def test_error_bears_that_of_its_reporter(bench: Bench, family: int) -> None:
    guest, remote = packed(GUEST[family]), packed(FAR[family])
    for offender, mac in ((None, OUR_MAC), (packed(NEAR[family]), REAL)):
        bench.push_icmp_error(guest, remote, socket.IPPROTO_UDP, bytes(8), kind=3 if family == 4 else 1,
                              code=1, offender=offender)
        assert bench.sources() == [mac]


def test_inbound_flow_bears_it(bench: Bench) -> None:
    bench.policy.seen = InboundTarget(packed(NEAR[4]), 7000, packed(GUEST[4]), 53)
    bench.add_listener(500, socket.IPPROTO_UDP, "rule", 5353)
    bench.deliver(500, (b"hi", socket_address(packed(NEAR[4]), 7000), pktinfo4("203.0.113.1"), 0))
    bench.listener_event(0)
    assert bench.sources() == [REAL]


@both_families
def test_flow_follows_a_neighbour_to_another_card(bench: Bench, family: int) -> None:
    bench.inject(udp(GUEST[family], 1000, NEAR[family], PORT))
    assert bench.answer(NEAR[family]) == [REAL]
    bench.set_neighbours({packed(NEAR[family]): OTHER_MAC})
    assert bench.answer(NEAR[family]) == [OTHER_MAC]
    bench.set_neighbours({})
    assert bench.answer(NEAR[family]) == [OUR_MAC]


def test_address_of_another_family_with_the_same_bytes_is_another_address(bench: Bench) -> None:
    bench.set_neighbours({packed(NEAR[4]): REAL})
    same = packed(NEAR[4]).hex()
    bench.inject(udp(GUEST[6], 1, f"{same[:4]}:{same[4:]}::", PORT))
    assert bench.answer(f"{same[:4]}:{same[4:]}::") == [OUR_MAC]


def test_frame_never_bears_the_mac_address_of_the_station_that_it_goes_to(bench: Bench) -> None:
    """A host on the link may claim the guest's, or have it by chance: emulators give theirs the same."""
    bench.set_neighbours({packed(NEAR[4]): GUEST_MAC})
    bench.inject(udp(GUEST[4], 1000, NEAR[4], PORT))
    assert bench.answer(NEAR[4]) == [OUR_MAC]


def test_frame_to_another_station_does_not_bear_the_guest_s_either(bench: Bench) -> None:
    bench.set_neighbours({packed(NEAR[4]): GUEST_MAC})
    frame = tcp("192.0.2.3", 1, NEAR[4], 2, flags=ACK)
    bench.inject(frame[:6] + RIVAL + frame[12:])
    [sent] = bench.take_sent()
    assert (sent.frame[:6], sent.frame[6:12]) == (RIVAL, OUR_MAC)


def test_guest_that_a_neighbour_claims_to_be_is_learnt_all_the_same() -> None:
    bench = Bench(None)
    bench.set_neighbours({packed(NEAR[4]): GUEST_MAC})
    bench.inject(udp(GUEST[4], 1000, FAR[4], PORT))
    assert bench.guest_mac == GUEST_MAC


def ask_until_gone(bench: Bench) -> None:
    """Let the guest be silent, while frames come from RIVAL."""
    bench.now += 3 * SECOND
    for _ in range(6):
        bench.inject(udp(GUEST[4], 1, FAR[4], 2)[:6] + RIVAL + udp(GUEST[4], 1, FAR[4], 2)[12:])
        bench.now += SECOND


def test_frame_of_ours_that_comes_back_makes_no_other_guest(bench: Bench) -> None:
    bench.set_neighbours({packed(NEAR[4]): RIVAL})
    ask_until_gone(bench)
    assert bench.guest_mac == GUEST_MAC
    bench.set_neighbours({})
    ask_until_gone(bench)
    assert bench.guest_mac == RIVAL


def test_frames_to_any_mac_address_are_taken(bench: Bench) -> None:
    for to in (REAL, OUR_MAC, OTHER_MAC):
        before = len(bench.flows())
        bench.inject(to + udp(GUEST[4], 1000 + to[5], NEAR[4], PORT)[6:])
        assert len(bench.flows()) == before + 1


@both_families
def test_answers_for_those_that_change_are_forgotten_and_no_others(bench: Bench, family: int) -> None:
    ask = arp if family == 4 else solicitation
    near, gateway = ask(NEAR[family]), ask(FAR[family])
    bench.responder.replies = [GUEST_MAC + OUR_MAC + b"\x08\x06" + bytes(46)]
    real, other = {packed(NEAR[family]): REAL}, {packed(NEAR[family]): OTHER_MAC}
    n_asked = 2
    for entries, is_another in ((real, False), (other, True), (other, False), ({}, True), ({}, False),
                                (real, True)):
        for _ in range(3):
            bench.inject(near, gateway)
        assert len(bench.responder.frames) == n_asked
        n_asked += is_another
        bench.set_neighbours(entries)


def test_full_table_finds_all_and_no_other(bench: Bench) -> None:
    entries = {packed(f"192.0.{n >> 8}.{n & 255}"): b"\2" + n.to_bytes(5, "big") for n in range(3, 515)}
    bench.set_neighbours(entries)
    assert bench.counters()["neighbours"] == 512
    for n in (*range(1, 520, 7), 514):
        address = f"192.0.{n >> 8}.{n & 255}"
        bench.inject(tcp(GUEST[4], 1, address, 2, flags=ACK))
        assert bench.sources() == [entries.get(packed(address), OUR_MAC)]


@pytest.mark.parametrize("entries", [
    {bytes(4) + bytes([n >> 8, n & 255]) * 6: REAL for n in range(513)}, {b"abc": REAL}, {bytes(4): b"short"},
    {b"": REAL}, {bytes(4): b""},
], ids=["too many", "address", "mac", "no address", "no mac"])
def test_what_no_table_can_be_made_of_is_refused_and_changes_nothing(bench: Bench,
                                                                     entries: dict[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match="neighbour"):
        bench.set_neighbours(entries)
    assert bench.counters()["neighbours"] == 2
