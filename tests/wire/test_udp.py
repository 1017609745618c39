"""UDP datagrams."""

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from passt.errors import WireError
from passt.wire.udp import UdpDatagram

IP4_AT, IP6_AT = 14 + 20, 14 + 40
PORTS = st.integers(0, 0xFFFF)
DATAGRAMS = st.builds(UdpDatagram, PORTS, PORTS, st.binary(max_size=64))
ANY4, ALL4 = IPv4Address("0.0.0.0"), IPv4Address("255.255.255.255")
SOURCE6, GROUP6 = IPv6Address("fe80::ff:fe00:5"), IPv6Address("ff02::1:2")


def test_golden_datagram_over_ip4_both_ways(vector: Callable[[str], bytes]) -> None:
    data = vector("udp4")[IP4_AT:]
    assert UdpDatagram.parse(memoryview(data)) == UdpDatagram(68, 67, b"payload")
    assert UdpDatagram(68, 67, b"payload").build(ANY4, ALL4) == data


def test_golden_datagram_over_ip6_both_ways(vector: Callable[[str], bytes]) -> None:
    data = vector("udp6")[IP6_AT:]
    assert UdpDatagram.parse(data) == UdpDatagram(546, 547, b"payload!")
    assert UdpDatagram(546, 547, b"payload!").build(SOURCE6, GROUP6) == data


@pytest.mark.parametrize("length", range(15))
def test_truncation_rejected(vector: Callable[[str], bytes], length: int) -> None:
    with pytest.raises(WireError, match="UDP"):
        UdpDatagram.parse(vector("udp4")[IP4_AT:][:length])


@pytest.mark.parametrize("length", [0, 7, 16, 0xFFFF])
def test_spoiled_length_rejected(vector: Callable[[str], bytes], length: int) -> None:
    data = bytearray(vector("udp4")[IP4_AT:])
    data[4:6] = length.to_bytes(2, "big")
    with pytest.raises(WireError, match=f"length {length},"):
        UdpDatagram.parse(bytes(data))


def test_length_ends_the_payload(vector: Callable[[str], bytes]) -> None:
    data = bytearray(vector("udp4")[IP4_AT:])
    data[5] = 8
    assert UdpDatagram.parse(bytes(data)).payload == b""


def test_partial_checksum_is_accepted(vector: Callable[[str], bytes]) -> None:
    data = bytearray(vector("udp6")[IP6_AT:])
    data[6:8] = b"\xa5\xa5"
    assert UdpDatagram.parse(bytes(data)) == UdpDatagram(546, 547, b"payload!")


@given(DATAGRAMS, st.ip_addresses(v=4), st.ip_addresses(v=4))
def test_round_trip_and_scapy_over_ip4(
    datagram: UdpDatagram, source: IPv4Address, destination: IPv4Address
) -> None:
    built = datagram.build(source, destination)
    assert UdpDatagram.parse(built) == datagram
    theirs = (
        IP(src=str(source), dst=str(destination))
        / UDP(sport=datagram.source_port, dport=datagram.destination_port)
        / Raw(datagram.payload)
    )
    assert bytes(theirs)[20:] == built


@given(DATAGRAMS, st.ip_addresses(v=6), st.ip_addresses(v=6))
def test_round_trip_and_scapy_over_ip6(
    datagram: UdpDatagram, source: IPv6Address, destination: IPv6Address
) -> None:
    built = datagram.build(source, destination)
    assert UdpDatagram.parse(built) == datagram
    theirs = (
        IPv6(src=str(source), dst=str(destination))
        / UDP(sport=datagram.source_port, dport=datagram.destination_port)
        / Raw(datagram.payload)
    )
    assert bytes(theirs)[40:] == built


def test_sum_of_zero_is_sent_as_ones() -> None:
    # The payload is the complement of the sum of everything else: 17 + 10 + 10 (lengths) = 0x25.
    built = UdpDatagram(0, 0, bytes.fromhex("ffda")).build(ANY4, ANY4)
    assert built[6:8] == b"\xff\xff"


@pytest.mark.parametrize("fields", [(-1, 0, b""), (0, 0x10000, b""), (0, 0, bytes(0x10000 - 8))])
def test_impossible_values_are_no_datagram(fields: tuple[int, int, bytes]) -> None:
    with pytest.raises(ValueError, match="UDP"):
        UdpDatagram(*fields)
