"""Checksums of frames for which nobody has vouched: each bit counts, and two other forms are right too."""

import pytest

from passt.facts.contracts import Target
from tests.dataplane.probes.world import World
from tests.support.fakes import Events, Policy, Responder
from tests.support.frames import (
    GUEST_MAC,
    ICMP,
    ICMP6,
    OUR_MAC,
    TCP,
    UDP,
    echo,
    ethernet,
    ip,
    packed,
    pseudo_header,
    rfc1071,
    tcp,
    udp,
)

PAIRS = [("192.0.2.2", "198.51.100.7"), ("2001:db8::2", "2001:db8:1::7")]
CSUM_AT = {TCP: 16, UDP: 6, ICMP: 2, ICMP6: 2}


def make_world() -> World:
    policy = Policy(Target(packed("127.0.0.1"), 9))
    return World(policy, Responder(), Events(), our_mac=OUR_MAC, guest_mac=GUEST_MAC, scripted=True)


def protocol_of(frame: bytes) -> int:
    return frame[20] if frame[12:14] == b"\x86\xdd" else frame[23]


def l4_of(frame: bytes) -> int:
    return 54 if frame[12:14] == b"\x86\xdd" else 34


def verdict(frame: bytes, *, unverified: bool = True) -> int:
    """Whether the frame was dropped for its checksum."""
    world = make_world()
    world.inject(frame, unverified=unverified)
    return world.counters()["drop_bad_checksum"]


def all_frames() -> list[bytes]:
    found = []
    for source, destination in PAIRS:
        found += [
            udp(source, 40001, destination, 5300, b"odd"),
            udp(source, 40001, destination, 5300, bytes(range(100)) * 14),
            tcp(source, 40001, destination, 80),
            tcp(source, 40001, destination, 80, payload=b"early", options=b"\2\4\5\xb4"),
            echo(source, destination, 7, 1, b"ping!"),
        ]
    return found


@pytest.mark.parametrize("frame", all_frames(), ids=range(10))
def test_right_sums_pass(frame: bytes) -> None:
    assert not verdict(frame)
    assert not verdict(frame + bytes(7))  # the padding is not summed


@pytest.mark.parametrize("frame", all_frames(), ids=range(10))
def test_every_damaged_octet_of_a_message_is_found(frame: bytes) -> None:
    start = l4_of(frame)
    at_sum = start + CSUM_AT[protocol_of(frame)]
    skipped = set()
    if protocol_of(frame) == UDP:
        skipped = {start + 4, start + 5}          # its length: another verdict
    if protocol_of(frame) == TCP:
        skipped = {start + 12}
    if protocol_of(frame) in (ICMP, ICMP6):
        skipped = {start}
    for at in range(start, min(len(frame), start + 60)):
        bad = bytearray(frame)
        bad[at] ^= 0x10
        assert at in skipped or verdict(bytes(bad)), (at, at_sum)


@pytest.mark.parametrize("at", [15, 16, 18, 19, 22, 24, 25, 26, 33])
def test_every_damaged_octet_of_an_ip4_header_is_found(at: int) -> None:
    bad = bytearray(udp("192.0.2.2", 40001, "198.51.100.7", 5300, bytes(600)))
    bad[at] ^= 1
    world = make_world()
    world.inject(bytes(bad), unverified=True)
    counters = world.counters()
    assert sum(n for name, n in counters.items() if name.startswith("drop_")) == 1
    assert counters["flows_udp"] == 0


def test_frames_that_somebody_vouched_for_are_not_looked_at() -> None:
    bad = bytearray(udp("192.0.2.2", 40001, "198.51.100.7", 5300, b"x"))
    bad[-1] ^= 1
    assert not verdict(bytes(bad), unverified=False)


@pytest.mark.parametrize(("source", "destination"), PAIRS)
@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_sum_that_is_left_to_be_completed_passes(source: str, destination: str, protocol: int) -> None:
    frame = bytearray(
        udp(source, 40001, destination, 5300, b"query")
        if protocol == UDP
        else tcp(source, 40001, destination, 80, payload=b"query")
    )
    start = l4_of(bytes(frame))
    at = start + CSUM_AT[protocol]
    left = ~rfc1071(pseudo_header(source, destination, protocol, len(frame) - start)) & 0xFFFF
    frame[at : at + 2] = left.to_bytes(2, "big")
    assert not verdict(bytes(frame))
    frame[at : at + 2] = (left ^ 1).to_bytes(2, "big")
    assert verdict(bytes(frame))


def test_datagram_without_a_sum_passes() -> None:
    frame = bytearray(udp("192.0.2.2", 40001, "198.51.100.7", 5300, b"query"))
    frame[40:42] = b"\0\0"
    assert not verdict(bytes(frame))


@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_protocols_that_are_not_known_have_no_sum(source: str, destination: str) -> None:
    world = make_world()
    world.inject(ethernet(ip(source, destination, 132, b"\1\2\3")), unverified=True)
    assert world.counters()["drop_protocol"] == 1
    assert not world.counters()["drop_bad_checksum"]


@pytest.mark.parametrize("protocol", [TCP, UDP, ICMP])
@pytest.mark.parametrize("n", range(8))
def test_messages_shorter_than_their_header_are_dropped_as_such(protocol: int, n: int) -> None:
    world = make_world()
    world.inject(ethernet(ip("192.0.2.2", "198.51.100.7", protocol, bytes([1] * n))), unverified=True)
    counters = world.counters()
    assert sum(n for name, n in counters.items() if name.startswith("drop_")) == 1
