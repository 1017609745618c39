"""DHCP messages: the fixed part, the cookie, overloaded fields."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dhcp import BOOTP
from scapy.layers.dhcp import DHCP as SCAPY_DHCP

from passt.errors import WireError
from passt.light.values import replace
from passt.wire.dhcp import BootpOp, DhcpMessage
from passt.wire.dhcp_options import (
    ClientId,
    DhcpOption,
    HostName,
    LeaseTime,
    MaxMessageSize,
    MessageType,
    MessageTypeOption,
    ParameterRequestList,
    RequestedAddress,
)
from tests.wire.test_dhcp_options import SETS

if TYPE_CHECKING:
    from collections.abc import Callable

UDP_PAYLOAD = 42
MAC = bytes.fromhex("020000000005")
DISCOVER = DhcpMessage(
    BootpOp.REQUEST,
    0x12345678,
    MAC,
    secs=3,
    broadcast=True,
    options=(
        HostName(b"box"),
        RequestedAddress(IPv4Address("192.0.2.9")),
        MessageTypeOption(MessageType.DISCOVER),
        ParameterRequestList(bytes((1, 3, 6, 15, 26, 119, 121))),
        MaxMessageSize(1500),
        ClientId(b"\x01" + MAC),
    ),
)
OFFER = DhcpMessage(
    BootpOp.REPLY,
    0x12345678,
    MAC,
    broadcast=True,
    yiaddr=IPv4Address("192.0.2.5"),
    options=(LeaseTime(0xFFFFFFFF), MessageTypeOption(MessageType.OFFER)),
)
FILE_AT, SNAME_AT, OPTIONS_AT = 108, 44, 240


def overloaded(value: bytes, main: bytes, file: bytes = b"", sname: bytes = b"") -> bytes:
    data = bytearray(DISCOVER.build()[:OPTIONS_AT])
    data[FILE_AT : FILE_AT + 128] = file.ljust(128, b"\0")
    data[SNAME_AT : SNAME_AT + 64] = sname.ljust(64, b"\0")
    return bytes(data) + b"\x34" + bytes((len(value),)) + value + main + b"\xff"


def test_golden_request_both_ways(vector: Callable[[str], bytes]) -> None:
    data = vector("dhcp_discover")[UDP_PAYLOAD:]
    assert DhcpMessage.parse(data) == DISCOVER
    assert DISCOVER.build(b"\x32\x3d\x39\x0c\x37") == data


def test_message_is_padded_to_the_least_length_of_bootp() -> None:
    assert len(OFFER.build()) == 300
    assert len(replace(OFFER, options=None).build()) == 300
    assert DhcpMessage.parse(OFFER.build()) == OFFER


def test_options_are_found_by_class() -> None:
    assert DISCOVER.message_type == MessageType.DISCOVER
    assert DISCOVER.find(HostName) == HostName(b"box")
    assert DISCOVER.find(LeaseTime) is None
    bootp = replace(DISCOVER, options=None)
    assert (bootp.message_type, bootp.find(HostName)) == (0, None)


@pytest.mark.parametrize("length", range(len(DISCOVER.build())))
def test_every_truncation_is_rejected_or_loses_whole_options(length: int) -> None:
    try:
        message = DhcpMessage.parse(DISCOVER.build()[:length])
    except WireError:
        return
    assert length >= 236
    if length < OPTIONS_AT:
        assert message == replace(DISCOVER, options=None)
    else:
        assert replace(message, options=None) == replace(DISCOVER, options=None)


@pytest.mark.parametrize(("offset", "value"), [(0, 0), (0, 3), (0, 255), (2, 17), (2, 255)])
def test_spoiled_field_rejected(offset: int, value: int) -> None:
    data = bytearray(DISCOVER.build())
    data[offset] = value
    with pytest.raises(WireError, match="DHCP"):
        DhcpMessage.parse(bytes(data))


@pytest.mark.parametrize("offset", [1, 3, 4, 5, 6, 7, 8, 9, *range(12, 34)])
def test_each_byte_of_the_fixed_part_is_read(offset: int) -> None:
    data = bytearray(DISCOVER.build())
    data[offset] ^= 0xFF
    message = DhcpMessage.parse(bytes(data))
    assert message != DISCOVER
    assert message.build() == bytes(data)


@pytest.mark.parametrize("offset", range(236, 240))
def test_without_cookie_there_are_no_options(offset: int) -> None:
    data = bytearray(DISCOVER.build())
    data[offset] ^= 1
    assert DhcpMessage.parse(bytes(data)) == replace(DISCOVER, options=None)


def test_names_end_before_the_first_zero_byte() -> None:
    message = replace(DISCOVER, sname=b"server", file=b"pxe/boot")
    data = bytearray(message.build())
    data[SNAME_AT + 8 : SNAME_AT + 10] = b"xx"
    assert DhcpMessage.parse(bytes(data)) == message
    full = replace(DISCOVER, sname=b"s" * 64, file=b"f" * 128)
    assert DhcpMessage.parse(full.build()) == full


REQUEST = MessageTypeOption(MessageType.REQUEST)
TYPE, WANTED, LIST1, LIST2 = b"\x35\x01\x03", b"\x32\x04\xc0\0\2\5", b"\x37\x01\x01", b"\x37\x01\x03"


@pytest.mark.parametrize(
    ("value", "file", "sname", "expected"),
    [
        (1, WANTED, b"server", (RequestedAddress(IPv4Address("192.0.2.5")), REQUEST)),
        (2, b"boot", WANTED, (RequestedAddress(IPv4Address("192.0.2.5")), REQUEST)),
        (3, LIST1, LIST2, (REQUEST, ParameterRequestList(b"\1\3"))),
        (3, LIST2 + b"\xff" + WANTED, LIST1 + b"\xff", (REQUEST, ParameterRequestList(b"\3\1"))),
    ],
)
def test_options_go_on_in_the_fields(
    value: int, file: bytes, sname: bytes, expected: tuple[DhcpOption, ...]
) -> None:
    message = DhcpMessage.parse(overloaded(bytes((value,)), TYPE, file, sname))
    assert message.options == expected
    assert message.file == (b"" if value & 1 else b"boot")
    assert message.sname == (b"" if value & 2 else b"server")


def test_overload_in_an_overloaded_field_means_nothing() -> None:
    # `file` says that `sname` and itself hold options: it is read once, `sname` not at all.
    data = overloaded(b"\1", TYPE, b"\x34\x01\x03" + LIST1 + b"\xff", WANTED)
    message = DhcpMessage.parse(data)
    assert message.options == (REQUEST, ParameterRequestList(b"\1"))
    assert message.sname == WANTED.partition(b"\0")[0]


@pytest.mark.parametrize("main", [TYPE + b"\x34\x01\x01", TYPE + b"\x34\x00"])
def test_overload_twice_rejected(main: bytes) -> None:
    with pytest.raises(WireError, match="OVERLOAD"):
        DhcpMessage.parse(overloaded(b"\1", main))


@pytest.mark.parametrize("value", [b"", b"\0", b"\4", b"\xff", b"\1\1"])
def test_bad_overload_rejected(value: bytes) -> None:
    with pytest.raises(WireError, match="OVERLOAD"):
        DhcpMessage.parse(overloaded(value, TYPE))


@pytest.mark.parametrize("field", [b"\x32", b"\x37" + bytes((127,)) + bytes(126), b"\x32\x05\xc0\0\2\5\0"])
def test_overloaded_field_with_a_bad_option_rejected(field: bytes) -> None:
    data = overloaded(b"\1", TYPE, field.ljust(128, b"\x32") if len(field) == 1 else field)
    with pytest.raises(WireError, match="DHCP"):
        DhcpMessage.parse(data)


@pytest.mark.parametrize(
    "wrong",
    [
        {"xid": 1 << 32},
        {"htype": 256},
        {"hops": -1},
        {"secs": 65536},
        {"chaddr": bytes(17)},
        {"sname": bytes(65)},
        {"file": bytes(129)},
        {"options": (LeaseTime(1), HostName(b"x"))},
    ],
)
def test_value_that_cannot_be_written_is_no_message(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="DHCP"):
        replace(DISCOVER, **wrong)


ADDRESSES = st.ip_addresses(v=4)
TEXTS = st.binary(max_size=64).map(lambda text: text.partition(b"\0")[0])
MESSAGES = st.builds(
    DhcpMessage,
    st.sampled_from([*BootpOp]),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=16),
    st.integers(0, 255),
    st.integers(0, 255),
    st.integers(0, 65535),
    st.booleans(),
    ADDRESSES,
    ADDRESSES,
    ADDRESSES,
    ADDRESSES,
    TEXTS,
    TEXTS,
    st.none() | SETS,
)


@given(MESSAGES)
def test_round_trip(message: DhcpMessage) -> None:
    assert DhcpMessage.parse(message.build()) == message


@given(
    st.binary(max_size=400) | st.binary(max_size=100).map(lambda rest: DISCOVER.build()[:OPTIONS_AT] + rest)
)
def test_any_bytes_are_a_message_or_rejected(data: bytes) -> None:
    try:
        message = DhcpMessage.parse(data)
    except WireError:
        return
    assert DhcpMessage.parse(message.build()) == message


@given(MESSAGES)
def test_agrees_with_scapy(message: DhcpMessage) -> None:
    theirs = BOOTP(message.build())
    assert (theirs.op, theirs.htype, theirs.hlen, theirs.hops, theirs.xid, theirs.secs) == (
        message.op,
        message.htype,
        len(message.chaddr),
        message.hops,
        message.xid,
        message.secs,
    )
    assert (theirs.ciaddr, theirs.yiaddr, theirs.siaddr, theirs.giaddr) == tuple(
        map(str, (message.ciaddr, message.yiaddr, message.siaddr, message.giaddr))
    )
    assert bool(theirs.flags & 0x8000) == message.broadcast
    assert theirs.chaddr.rstrip(b"\0") == message.chaddr.rstrip(b"\0")
    assert (SCAPY_DHCP in theirs) == (message.options is not None)
