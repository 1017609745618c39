"""IPv6 packets and their extension headers."""

from collections.abc import Callable
from ipaddress import IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting, RouterAlert
from scapy.packet import Raw

from passt.errors import WireError
from passt.wire.ip4 import IpProtocol
from passt.wire.ip6 import Ip6Packet

ETHERNET_LEN = 14
PACKETS = st.builds(
    Ip6Packet,
    st.ip_addresses(v=6).filter(lambda address: not address.is_multicast),
    st.ip_addresses(v=6),
    st.integers(0, 255),
    st.binary(max_size=64),
    hop_limit=st.integers(0, 255),
    traffic_class=st.integers(0, 255),
    flow_label=st.integers(0, 0xFFFFF),
)
SOURCE, DESTINATION = IPv6Address("2001:db8::5"), IPv6Address("2001:db8::1")


@pytest.fixture
def golden(vector: Callable[[str], bytes]) -> bytes:
    return vector("udp6")[ETHERNET_LEN:]


def test_golden_packet_both_ways(golden: bytes) -> None:
    packet = Ip6Packet(
        IPv6Address("fe80::ff:fe00:5"),
        IPv6Address("ff02::1:2"),
        IpProtocol.UDP,
        golden[40:],
        hop_limit=1,
        traffic_class=0x20,
        flow_label=0xABCDE,
    )
    assert Ip6Packet.parse(memoryview(golden)) == packet
    assert packet.build() == golden


@pytest.mark.parametrize("length", range(56))
def test_truncation_rejected(golden: bytes, length: int) -> None:
    with pytest.raises(WireError, match="IPv6"):
        Ip6Packet.parse(golden[:length])


def test_ethernet_padding_is_trimmed(golden: bytes) -> None:
    assert Ip6Packet.parse(golden + b"\xa5" * 3) == Ip6Packet.parse(golden)


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (0, 0x42, "version"),
        (4, 1, "payload 272"),
        (5, 17, "payload 17"),
        (8, 0xFF, "source"),
    ],
)
def test_spoiled_field_rejected(golden: bytes, offset: int, value: int, reason: str) -> None:
    data = bytearray(golden)
    data[offset] = value
    with pytest.raises(WireError, match=reason):
        Ip6Packet.parse(bytes(data))


@pytest.mark.parametrize("offset", [1, 2, 3, 6, 7, *range(9, 40)])
def test_each_other_byte_is_read(golden: bytes, offset: int) -> None:
    data = bytearray(golden)
    data[offset] ^= 0x55
    packet = Ip6Packet.parse(bytes(data))
    assert packet != Ip6Packet.parse(golden)
    assert packet.build() == data


@given(PACKETS)
def test_round_trip(packet: Ip6Packet) -> None:
    assert Ip6Packet.parse(packet.build()) == packet


@given(PACKETS)
def test_scapy_builds_the_same(packet: Ip6Packet) -> None:
    theirs = IPv6(
        src=str(packet.source),
        dst=str(packet.destination),
        nh=packet.next_header,
        hlim=packet.hop_limit,
        tc=packet.traffic_class,
        fl=packet.flow_label,
    )
    assert bytes(theirs / Raw(packet.payload)) == packet.build()


def test_upper_layer_behind_extension_headers() -> None:
    theirs = (
        IPv6(src=str(SOURCE), dst=str(DESTINATION))
        / IPv6ExtHdrHopByHop(options=[RouterAlert()])
        / IPv6ExtHdrRouting(addresses=["2001:db8::7"])
        / IPv6ExtHdrDestOpt(nh=58)
        / Raw(b"message")
    )
    assert Ip6Packet.parse(bytes(theirs)).upper_layer() == (58, b"message")


def test_upper_layer_without_extension_headers(golden: bytes) -> None:
    assert Ip6Packet.parse(golden).upper_layer() == (17, golden[40:])


@pytest.mark.parametrize("length", range(16))
def test_truncated_extension_chain_rejected(length: int) -> None:
    chain = bytes((60, 0)) + bytes(6) + bytes((58, 0)) + bytes(6)
    packet = Ip6Packet(SOURCE, DESTINATION, IpProtocol.HOP_BY_HOP, chain[:length])
    with pytest.raises(WireError, match="extension header"):
        packet.upper_layer()
    assert Ip6Packet(SOURCE, DESTINATION, IpProtocol.HOP_BY_HOP, chain).upper_layer() == (58, b"")


def test_extension_header_longer_than_the_packet_rejected() -> None:
    packet = Ip6Packet(SOURCE, DESTINATION, IpProtocol.DESTINATION_OPTIONS, bytes((58, 1)) + bytes(6))
    with pytest.raises(WireError, match="extension header"):
        packet.upper_layer()


@pytest.mark.parametrize("before", [b"", bytes((44, 0)) + bytes(6)])
def test_fragment_rejected(before: bytes) -> None:
    first = IpProtocol.DESTINATION_OPTIONS if before else IpProtocol.FRAGMENT
    packet = Ip6Packet(SOURCE, DESTINATION, first, before + bytes((58, 0)) + bytes(6) + b"message")
    with pytest.raises(WireError, match="fragment"):
        packet.upper_layer()


@given(st.binary(max_size=80), st.sampled_from([0, 43, 60, 58]))
def test_any_chain_ends_or_is_rejected(payload: bytes, first: int) -> None:
    try:
        _, upper = Ip6Packet(SOURCE, DESTINATION, first, payload).upper_layer()
    except WireError:
        return
    assert payload.endswith(upper)


@pytest.mark.parametrize(
    "field",
    [
        {"next_header": 256},
        {"hop_limit": -1},
        {"traffic_class": 256},
        {"flow_label": 0x100000},
        {"payload": bytes(0x10000)},
        {"source": IPv6Address("ff02::1")},
    ],
)
def test_impossible_values_are_no_packet(field: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"source": SOURCE, "destination": DESTINATION, "next_header": 1, "payload": b""}
    with pytest.raises(ValueError, match="IPv6"):
        Ip6Packet(**fields | field)
