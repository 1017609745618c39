"""ARP packets."""

from collections.abc import Callable
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.l2 import ARP

from passt.errors import WireError
from passt.wire.arp import ArpOp, ArpPacket

ETHERNET_LEN = 14
GUEST_MAC = bytes.fromhex("020000000005")
OUR_MAC = bytes.fromhex("9a559a559a55")
GUEST_IP = IPv4Address("192.0.2.5")
GATEWAY = IPv4Address("192.0.2.1")
REQUEST = ArpPacket(ArpOp.REQUEST, GUEST_MAC, GUEST_IP, bytes(6), GATEWAY)
REPLY = ArpPacket(ArpOp.REPLY, OUR_MAC, GATEWAY, GUEST_MAC, GUEST_IP)

MACS = st.binary(min_size=6, max_size=6)
PACKETS = st.builds(
    ArpPacket, st.sampled_from([*ArpOp]), MACS, st.ip_addresses(v=4), MACS, st.ip_addresses(v=4)
)


def test_golden_request_both_ways(vector: Callable[[str], bytes]) -> None:
    data = vector("arp_request")[ETHERNET_LEN:]
    assert ArpPacket.parse(data) == REQUEST
    assert REQUEST.build() == data


def test_golden_reply_both_ways_but_for_padding(vector: Callable[[str], bytes]) -> None:
    data = vector("arp_reply")[ETHERNET_LEN:]
    assert ArpPacket.parse(memoryview(data)) == REPLY
    assert REPLY.build() == data[:28]


@pytest.mark.parametrize("length", range(28))
def test_truncation_rejected(length: int) -> None:
    with pytest.raises(WireError, match=f"ARP: 28 bytes wanted at offset 0, {length} left"):
        ArpPacket.parse(REQUEST.build()[:length])


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0, 1),
        (1, 6),  # hardware type
        (2, 0x86),
        (3, 0xDD),  # protocol type
        (4, 5),
        (4, 0),
        (5, 16),  # lengths
        (6, 1),
        (7, 0),
        (7, 3),
        (7, 255),  # operation
    ],
)
def test_spoiled_field_rejected(offset: int, value: int) -> None:
    data = bytearray(REQUEST.build())
    data[offset] = value
    with pytest.raises(WireError, match="ARP"):
        ArpPacket.parse(bytes(data))


@pytest.mark.parametrize("offset", range(8, 28))
def test_each_address_byte_is_read(offset: int) -> None:
    data = bytearray(REQUEST.build())
    data[offset] ^= 0xFF
    packet = ArpPacket.parse(bytes(data))
    assert packet != REQUEST
    assert packet.build() == data


@given(PACKETS)
def test_round_trip(packet: ArpPacket) -> None:
    assert ArpPacket.parse(packet.build()) == packet


@given(PACKETS, st.binary(max_size=20))
def test_agrees_with_scapy(packet: ArpPacket, padding: bytes) -> None:
    theirs = ARP(packet.build())
    assert (theirs.op, theirs.hwsrc, theirs.psrc) == (
        packet.op,
        packet.sender_mac.hex(":"),
        str(packet.sender_ip),
    )
    assert (theirs.hwdst, theirs.pdst) == (packet.target_mac.hex(":"), str(packet.target_ip))
    built = bytes(
        ARP(
            op=int(packet.op),
            hwsrc=packet.sender_mac.hex(":"),
            psrc=str(packet.sender_ip),
            hwdst=packet.target_mac.hex(":"),
            pdst=str(packet.target_ip),
        )
    )
    assert ArpPacket.parse(built + padding) == packet


@given(st.binary(max_size=60))
def test_any_bytes_parse_or_are_rejected(data: bytes) -> None:
    try:
        packet = ArpPacket.parse(data)
    except WireError:
        return
    assert packet.build() == data[:28]


def test_wrong_mac_length_is_no_packet() -> None:
    with pytest.raises(ValueError, match="ARP sender"):
        ArpPacket(ArpOp.REPLY, b"", GATEWAY, GUEST_MAC, GUEST_IP)
    with pytest.raises(ValueError, match="ARP target"):
        ArpPacket(ArpOp.REPLY, OUR_MAC, GATEWAY, b"", GUEST_IP)
