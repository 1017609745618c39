"""The Internet checksum against RFC 1071 by the letter, its own example, and scapy."""

import socket
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, in4_chksum
from scapy.layers.inet6 import IPv6, in6_chksum
from scapy.utils import checksum as scapy_checksum

from tests.dataplane.probes import probe
from tests.support.frames import packed, pseudo_header, rfc1071


def stored(value: int) -> int:
    """Say what number the two octets spell when *value* is stored in the machine's order."""
    return int.from_bytes(value.to_bytes(2, sys.byteorder), "big")


def test_example_of_the_rfc() -> None:
    # RFC 1071 3: the sum of these octets is ddf2.
    assert stored(probe.checksum(bytes.fromhex("0001f203f4f5f6f7"))) == ~0xDDF2 & 0xFFFF


def test_known_ip_header() -> None:
    header = bytes.fromhex("45000073000040004011 0000 c0a80001c0a800c7")
    assert stored(probe.checksum(header)) == 0xB861


@pytest.mark.parametrize("length", range(40))
def test_every_short_length_at_the_end_of_memory(length: int) -> None:
    data = bytes(range(0x80, 0x80 + length))
    assert stored(probe.checksum(data)) == rfc1071(data)


def test_carries_of_the_largest_sum_are_all_folded_in() -> None:
    data = b"\xff" * 65535
    assert stored(probe.checksum(data)) == rfc1071(data)
    assert probe.checksum(b"", 2**64 - 1) == 0
    assert probe.checksum(b"", 0) == 0xFFFF


@given(st.binary(max_size=2000))
def test_any_bytes_as_the_rfc_and_scapy_say(data: bytes) -> None:
    value = stored(probe.checksum(data))
    assert value == rfc1071(data)
    assert value == scapy_checksum(data)


@given(st.binary(max_size=600), st.integers(0, 300))
def test_sum_in_two_steps_at_an_even_place(data: bytes, half: int) -> None:
    first, second = data[: 2 * half], data[2 * half :]
    assert probe.checksum(second, probe.partial(first)) == probe.checksum(data)


@given(st.lists(st.binary(max_size=90), max_size=12), st.integers(0, 200), st.integers(0, 200))
def test_sum_of_pieces_is_that_of_their_bytes(pieces: list[bytes], first: int, last: int) -> None:
    data = b"".join(pieces)
    first, last = sorted((min(first, len(data)), min(last, len(data))))
    assert probe.checksum_of_pieces(pieces, first, last - first) == probe.checksum(data[first:last])


@given(st.binary(max_size=300))
def test_message_with_its_checksum_sums_to_zero(data: bytes) -> None:
    even = data + bytes(len(data) % 2)
    whole = even + probe.checksum(even).to_bytes(2, sys.byteorder)
    assert probe.checksum(whole) == 0


@given(
    st.binary(min_size=4, max_size=4),
    st.binary(min_size=4, max_size=4),
    st.sampled_from([6, 17]),
    st.binary(max_size=200),
)
def test_pseudo_header_of_ip4(source: bytes, destination: bytes, protocol: int, data: bytes) -> None:
    src, dst = (socket.inet_ntop(socket.AF_INET, address) for address in (source, destination))
    total = probe.pseudo(source, destination, protocol, len(data))
    value = stored(probe.checksum(data, total))
    assert value == rfc1071(pseudo_header(src, dst, protocol, len(data)) + data)
    assert value == in4_chksum(protocol, IP(src=src, dst=dst), data)


@given(
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=16, max_size=16),
    st.sampled_from([6, 17, 58]),
    st.binary(max_size=200),
)
def test_pseudo_header_of_ip6(source: bytes, destination: bytes, protocol: int, data: bytes) -> None:
    src, dst = (socket.inet_ntop(socket.AF_INET6, address) for address in (source, destination))
    total = probe.pseudo(source, destination, protocol, len(data))
    value = stored(probe.checksum(data, total))
    assert value == rfc1071(pseudo_header(src, dst, protocol, len(data)) + data)
    assert value == in6_chksum(protocol, IPv6(src=src, dst=dst), data)  # type: ignore[no-untyped-call]


def test_pseudo_header_of_ip6_has_a_length_of_32_bits() -> None:
    source, destination = "2001:db8::1", "2001:db8::2"
    total = probe.pseudo(packed(source), packed(destination), 6, 70000)
    assert stored(probe.checksum(b"", total)) == rfc1071(pseudo_header(source, destination, 6, 70000))
