"""What the guest is told of hosts beside us, and when it is told anew."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from passt.facts.settings import OUR_MAC
from passt.responders.neighbours import MAX_ANNOUNCED, MAX_TOLD, Neighbours, announce

HOST4, HOST6 = (ip_address(text).packed for text in ("192.0.2.7", "2001:db8::7"))
ONE, TWO = bytes.fromhex("0200000000aa"), bytes.fromhex("0200000000bb")
GUEST_MAC = bytes.fromhex("020000000005")


def make(entries: dict[bytes, bytes], guest_mac: bytes = GUEST_MAC) -> Neighbours:
    neighbours = Neighbours(OUR_MAC, lambda address: address == guest_mac)
    neighbours.replace(entries)
    return neighbours


def test_unknown_address_is_at_ours() -> None:
    neighbours = make({HOST4: ONE})
    assert neighbours.tell(HOST4, GUEST_MAC) == ONE
    assert neighbours.tell(HOST6, GUEST_MAC) == OUR_MAC


def test_station_is_never_told_its_own_nor_the_guest_s() -> None:
    neighbours = make({HOST4: ONE, HOST6: GUEST_MAC})
    assert neighbours.tell(HOST4, ONE) == OUR_MAC
    assert neighbours.tell(HOST6, TWO) == OUR_MAC


def test_golden_announcement_by_arp() -> None:
    frame = announce(HOST4, ONE)
    assert frame == bytes.fromhex(
        "ffffffffffff 0200000000aa 0806 0001080006040001 0200000000aa c0000207 000000000000 c0000207"
    ).ljust(60, b"\0")
    assert Ether(frame)[ARP].op == 1


def test_golden_announcement_by_neighbour_advertisement() -> None:
    frame = announce(HOST6, ONE)
    assert frame[:14] == bytes.fromhex("333300000001 0200000000aa 86dd")
    packet = Ether(frame)
    expected = (IPv6(src="2001:db8::7", dst="ff02::1", hlim=255)
                / ICMPv6ND_NA(tgt="2001:db8::7", R=0, S=0, O=1)
                / ICMPv6NDOptDstLLAddr(lladdr="02:00:00:00:00:aa"))
    assert bytes(packet[IPv6]) == bytes(expected)


@pytest.mark.parametrize("address", [HOST4, HOST6])
def test_guest_that_was_told_another_one_is_told_once(address: bytes) -> None:
    neighbours = make({})
    assert neighbours.replace({address: ONE}) == [], "who never asked is not told"
    neighbours.tell(address, GUEST_MAC)
    assert neighbours.replace({address: ONE}) == []
    assert neighbours.replace({address: TWO}) == [announce(address, TWO)]
    assert neighbours.replace({address: TWO}) == []
    assert neighbours.replace({}) == [], "that it is gone is no news"
    assert neighbours.replace({address: TWO}) == []


def test_host_that_becomes_known_is_announced() -> None:
    neighbours = make({})
    assert neighbours.tell(HOST4, GUEST_MAC) == OUR_MAC
    assert neighbours.replace({HOST4: ONE}) == [announce(HOST4, ONE)]


def test_the_guest_s_own_mac_address_is_never_announced() -> None:
    neighbours = make({})
    neighbours.tell(HOST4, GUEST_MAC)
    assert neighbours.replace({HOST4: GUEST_MAC}) == []


@pytest.mark.parametrize("address", [HOST4, HOST6])
def test_address_that_the_guest_has_taken_is_not_announced_to_it(address: bytes) -> None:
    used: set[bytes] = set()
    neighbours = Neighbours(OUR_MAC, used.__contains__)
    neighbours.tell(address, GUEST_MAC)
    used.add(address)
    assert neighbours.replace({address: ONE}) == [], "it would take it for a conflict"
    used.clear()
    assert neighbours.replace({address: TWO}) == [announce(address, TWO)]


def test_announcements_are_bounded_and_those_left_follow() -> None:
    neighbours = make({})
    addresses = [bytes((10, 0, n >> 8, n & 255)) for n in range(2 * MAX_ANNOUNCED + 1)]
    for address in addresses:
        neighbours.tell(address, GUEST_MAC)
    told: list[bytes] = []
    entries = dict.fromkeys(addresses, ONE)
    for n in (MAX_ANNOUNCED, MAX_ANNOUNCED, 1, 0):
        frames = neighbours.replace(entries)
        assert len(frames) == n
        told += frames
    assert told == [announce(address, ONE) for address in addresses]


def test_what_was_told_is_remembered_for_a_bounded_number() -> None:
    neighbours = make({HOST4: ONE})
    neighbours.tell(HOST4, GUEST_MAC)
    for n in range(MAX_TOLD):
        neighbours.tell(bytes((10, 0, n >> 8, n & 255)), GUEST_MAC)
    assert len(neighbours._told) == MAX_TOLD
    assert neighbours.replace({HOST4: TWO}) == []
    neighbours.tell(HOST4, GUEST_MAC)
    assert neighbours.replace({HOST4: ONE}) == [announce(HOST4, ONE)]
