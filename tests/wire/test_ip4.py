"""IPv4 packets."""

from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, IPOption_NOP
from scapy.packet import Raw

from passt.errors import WireError
from passt.wire.checksum import internet_checksum
from passt.wire.ip4 import Ip4Packet, IpProtocol

ETHERNET_LEN = 14
PACKETS = st.builds(
    Ip4Packet,
    st.ip_addresses(v=4),
    st.ip_addresses(v=4),
    st.integers(0, 255),
    st.binary(max_size=64),
    ttl=st.integers(0, 255),
    tos=st.integers(0, 255),
    identification=st.integers(0, 0xFFFF),
    dont_fragment=st.booleans(),
)


@pytest.fixture
def golden(vector: Callable[[str], bytes]) -> bytes:
    return vector("udp4")[ETHERNET_LEN:]


def with_checksum(header: bytearray) -> bytes:
    """Make the first 20 bytes right again after one was spoiled."""
    header[10:12] = b"\0\0"
    header[10:12] = internet_checksum(bytes(header[:20])).to_bytes(2, "big")
    return bytes(header)


def test_golden_packet_both_ways(golden: bytes) -> None:
    packet = Ip4Packet(
        IPv4Address("0.0.0.0"),
        IPv4Address("255.255.255.255"),
        IpProtocol.UDP,
        golden[20:],
        ttl=64,
        tos=0x10,
        identification=0x1234,
    )
    assert Ip4Packet.parse(memoryview(golden)) == packet
    assert packet.build() == golden


@pytest.mark.parametrize("length", range(35))
def test_truncation_rejected(golden: bytes, length: int) -> None:
    with pytest.raises(WireError, match="IPv4"):
        Ip4Packet.parse(golden[:length])


def test_ethernet_padding_is_trimmed(golden: bytes) -> None:
    assert Ip4Packet.parse(golden + b"\xa5" * 11) == Ip4Packet.parse(golden)


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (0, 0x65, "version"),
        (0, 0x44, "header 16"),
        (0, 0x4F, "header 60"),
        (3, 19, "total 19"),
        (3, 36, "total 36"),
        (6, 0x20, "fragment"),  # more fragments
        (6, 0x60, "fragment"),
        (7, 0x01, "fragment"),  # offset
        (6, 0x10, "fragment"),
    ],
)
def test_spoiled_field_rejected(golden: bytes, offset: int, value: int, reason: str) -> None:
    data = bytearray(golden)
    data[offset] = value
    with pytest.raises(WireError, match=reason):
        Ip4Packet.parse(with_checksum(data))


@pytest.mark.parametrize("bit", range(20 * 8))
def test_any_flipped_header_bit_rejected(golden: bytes, bit: int) -> None:
    data = bytearray(golden)
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(WireError, match="IPv4"):
        Ip4Packet.parse(bytes(data))


@given(PACKETS)
def test_round_trip(packet: Ip4Packet) -> None:
    assert Ip4Packet.parse(packet.build()) == packet


@given(PACKETS)
def test_scapy_builds_the_same(packet: Ip4Packet) -> None:
    theirs = IP(
        src=str(packet.source),
        dst=str(packet.destination),
        proto=packet.protocol,
        ttl=packet.ttl,
        tos=packet.tos,
        id=packet.identification,
        flags=2 if packet.dont_fragment else 0,
    )
    assert bytes(theirs / Raw(packet.payload)) == packet.build()


@given(st.integers(1, 40), st.binary(max_size=20))
def test_options_are_skipped(n_options: int, payload: bytes) -> None:
    data = bytes(
        IP(src="192.0.2.5", dst="192.0.2.1", proto=17, options=[IPOption_NOP()] * n_options) / Raw(payload)
    )
    packet = Ip4Packet.parse(data)
    assert (packet.protocol, packet.payload) == (17, payload)


@given(st.binary(max_size=80))
def test_any_bytes_parse_or_are_rejected(data: bytes) -> None:
    try:
        packet = Ip4Packet.parse(data)
    except WireError:
        return
    assert len(packet.payload) <= len(data) - 20


@pytest.mark.parametrize(
    "field",
    [
        {"protocol": 256},
        {"ttl": -1},
        {"tos": 256},
        {"identification": 0x10000},
        {"payload": bytes(0x10000 - 20)},
    ],
)
def test_impossible_values_are_no_packet(field: dict[str, Any]) -> None:
    fields: dict[str, Any] = {
        "source": IPv4Address(1),
        "destination": IPv4Address(2),
        "protocol": 1,
        "payload": b"",
    }
    with pytest.raises(ValueError, match="IPv4"):
        Ip4Packet(**fields | field)
