"""The reading position, and the checks of lengths and numbers."""

import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

import pytest

from passt.errors import WireError
from passt.wire.cursor import Reader, expect_len, require_bits, require_len, require_mac

PULLS: list[tuple[str, Callable[[Reader], object], int]] = [
    ("u8", Reader.pull_u8, 1),
    ("u16", Reader.pull_u16, 2),
    ("u32", Reader.pull_u32, 4),
    ("ip4", Reader.pull_ip4, 4),
    ("ip6", Reader.pull_ip6, 16),
    ("bytes", lambda reader: reader.pull_bytes(5), 5),
    ("layout", lambda reader: reader.pull(struct.Struct("!HB")), 3),
]


@pytest.mark.parametrize(("name", "pull", "length"), PULLS, ids=[name for name, _, _ in PULLS])
def test_pull_past_the_end_fails_and_moves_nothing(
    name: str, pull: Callable[[Reader], object], length: int
) -> None:
    del name
    for present in range(length):
        reader = Reader(bytes(1 + present), "test")
        reader.pull_u8()
        with pytest.raises(WireError, match="test"):
            pull(reader)
        assert (reader.offset, reader.remaining) == (1, present)


@pytest.mark.parametrize(("name", "pull", "length"), PULLS, ids=[name for name, _, _ in PULLS])
def test_pull_of_exactly_what_is_left_moves_to_the_end(
    name: str, pull: Callable[[Reader], object], length: int
) -> None:
    del name
    reader = Reader(bytes(length), "test")
    pull(reader)
    assert (reader.offset, reader.remaining) == (length, 0)


def test_pulls_read_network_order() -> None:
    data = bytes.fromhex("fe 0102 03040506 c0000201 20010db8000000000000000000000001 0007 08") + b"rest"
    reader = Reader(memoryview(data), "test")
    assert (reader.pull_u8(), reader.pull_u16(), reader.pull_u32()) == (0xFE, 0x0102, 0x03040506)
    assert (reader.pull_ip4(), reader.pull_ip6()) == (IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1"))
    assert reader.pull(struct.Struct("!HB")) == (7, 8)
    assert reader.pull_rest() == b"rest"
    assert reader.pull_rest() == b""


def test_expect_len() -> None:
    expect_len("x", b"ab", 2)
    with pytest.raises(WireError, match=r"^x: 2 bytes, must be 3$"):
        expect_len("x", b"ab", 3)


@pytest.mark.parametrize(
    ("value", "bits", "fits"),
    [(0, 1, True), (1, 1, True), (2, 1, False), (-1, 8, False), (255, 8, True), (256, 8, False)],
)
def test_require_bits(value: int, bits: int, fits: bool) -> None:
    if fits:
        require_bits("x", value, bits)
    else:
        with pytest.raises(ValueError, match="x"):
            require_bits("x", value, bits)


@pytest.mark.parametrize("length", [0, 5, 7])
def test_require_mac_rejects_other_lengths(length: int) -> None:
    with pytest.raises(ValueError, match=str(length)):
        require_mac("x", bytes(length))
    require_mac("x", bytes(6))
    require_len("x", b"", 0, 0)
