"""ICMPv6 messages."""

from collections.abc import Callable
from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6

from passt.errors import WireError
from passt.wire.icmp6 import Icmp6Message, Icmp6Type

ICMP6_AT = 14 + 40
SOURCE, GROUP = IPv6Address("2001:db8::5"), IPv6Address("ff02::1:ff00:1")
MESSAGES = st.builds(Icmp6Message, st.integers(0, 255), st.integers(0, 255), st.binary(max_size=64))


@pytest.fixture
def golden(vector: Callable[[str], bytes]) -> bytes:
    return vector("neighbour_solicitation")[ICMP6_AT:]


def test_golden_message_both_ways(golden: bytes) -> None:
    message = Icmp6Message(Icmp6Type.NEIGHBOUR_SOLICITATION, 0, golden[4:])
    assert Icmp6Message.parse(memoryview(golden), SOURCE, GROUP) == message
    assert message.build(SOURCE, GROUP) == golden


@pytest.mark.parametrize("length", range(32))
def test_truncation_rejected(golden: bytes, length: int) -> None:
    with pytest.raises(WireError, match="ICMPv6"):
        Icmp6Message.parse(golden[:length], SOURCE, GROUP)


@pytest.mark.parametrize("bit", range(32 * 8))
def test_any_flipped_bit_rejected(golden: bytes, bit: int) -> None:
    data = bytearray(golden)
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(WireError, match="checksum"):
        Icmp6Message.parse(bytes(data), SOURCE, GROUP)


def test_other_addresses_make_the_checksum_bad(golden: bytes) -> None:
    with pytest.raises(WireError, match="checksum"):
        Icmp6Message.parse(golden, IPv6Address("2001:db8::6"), GROUP)


def test_no_body_is_a_message() -> None:
    message = Icmp6Message(200, 1, b"")
    assert Icmp6Message.parse(message.build(SOURCE, GROUP), SOURCE, GROUP) == message


@given(MESSAGES, st.ip_addresses(v=6), st.ip_addresses(v=6))
def test_round_trip(message: Icmp6Message, source: IPv6Address, destination: IPv6Address) -> None:
    assert Icmp6Message.parse(message.build(source, destination), source, destination) == message


@given(
    st.binary(max_size=64),
    st.integers(0, 0xFFFF),
    st.integers(0, 0xFFFF),
    st.ip_addresses(v=6),
    st.ip_addresses(v=6),
)
def test_scapy_builds_the_same(
    data: bytes, ident: int, seq: int, source: IPv6Address, destination: IPv6Address
) -> None:
    theirs = IPv6(src=str(source), dst=str(destination)) / ICMPv6EchoRequest(id=ident, seq=seq, data=data)
    body = ident.to_bytes(2, "big") + seq.to_bytes(2, "big") + data
    assert Icmp6Message(Icmp6Type.ECHO_REQUEST, 0, body).build(source, destination) == bytes(theirs)[40:]


@pytest.mark.parametrize("fields", [(256, 0, b""), (0, -1, b""), (0, 0, bytes(0x10000 - 4))])
def test_impossible_values_are_no_message(fields: tuple[int, int, bytes]) -> None:
    with pytest.raises(ValueError, match="ICMPv6"):
        Icmp6Message(*fields)
