"""Ethernet frames."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from passt.errors import WireError
from passt.wire.ethernet import MIN_FRAME_LEN, EthernetFrame, EtherType, pad

GUEST = bytes.fromhex("020000000005")
MACS = st.binary(min_size=6, max_size=6)
FRAMES = st.builds(EthernetFrame, MACS, MACS, st.integers(0, 0xFFFF), st.binary(max_size=80))


def test_golden_frame_both_ways(vector: Callable[[str], bytes]) -> None:
    data = vector("arp_request")
    frame = EthernetFrame.parse(data)
    assert frame == EthernetFrame(b"\xff" * 6, GUEST, EtherType.ARP, data[14:])
    assert frame.build() == data


def test_parse_takes_a_view_and_keeps_nothing_of_it(vector: Callable[[str], bytes]) -> None:
    buffer = bytearray(vector("arp_request"))
    frame = EthernetFrame.parse(memoryview(buffer))
    buffer[:] = b"\xa5" * len(buffer)
    assert frame == EthernetFrame.parse(vector("arp_request"))


@pytest.mark.parametrize("length", range(14))
def test_truncated_header_rejected(vector: Callable[[str], bytes], length: int) -> None:
    with pytest.raises(WireError, match="Ethernet"):
        EthernetFrame.parse(vector("arp_request")[:length])


def test_header_alone_is_a_frame(vector: Callable[[str], bytes]) -> None:
    assert EthernetFrame.parse(vector("arp_request")[:14]).payload == b""


@given(FRAMES)
def test_round_trip(frame: EthernetFrame) -> None:
    assert EthernetFrame.parse(frame.build()) == frame


@given(MACS, MACS, st.integers(0x600, 0xFFFF), st.binary(max_size=40))
def test_scapy_builds_the_same(destination: bytes, source: bytes, ether_type: int, payload: bytes) -> None:
    theirs = bytes(Ether(dst=destination.hex(":"), src=source.hex(":"), type=ether_type) / Raw(payload))
    frame = EthernetFrame(destination, source, ether_type, payload)
    assert frame.build() == theirs
    assert EthernetFrame.parse(theirs) == frame


@pytest.mark.parametrize(("length", "padded"), [(14, 60), (59, 60), (60, 60), (61, 61)])
def test_pad(length: int, padded: int) -> None:
    assert pad(b"\xa5" * length) == b"\xa5" * length + bytes(padded - length)
    assert MIN_FRAME_LEN == 60


@pytest.mark.parametrize(
    "fields", [(b"short", GUEST, 0), (GUEST, bytes(7), 0), (GUEST, GUEST, 0x10000), (GUEST, GUEST, -1)]
)
def test_impossible_values_are_no_frame(fields: tuple[bytes, bytes, int]) -> None:
    with pytest.raises(ValueError, match="Ether"):
        EthernetFrame(*fields, b"")
