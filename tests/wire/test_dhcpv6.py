"""DHCPv6 messages, and the rules by which a server takes them."""

from collections.abc import Callable
from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers import dhcp6
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from passt.errors import WireError
from passt.wire.dhcpv6 import MAX_REQUEST_LEN, Dhcpv6Message, MessageType, parse_message
from passt.wire.dhcpv6_options import (
    Authentication,
    ClientId,
    Dhcpv6Option,
    IaNa,
    IaPd,
    IaTa,
    OptionRequest,
    OtherOption,
    RapidCommit,
    ReconfigureAccept,
    ReconfigureMessage,
    ServerId,
)
from passt.wire.ip6 import Ip6Packet
from tests.wire.test_dhcpv6_options import OPTIONS

SERVERS = IPv6Address("ff02::1:2")
UNICAST = IPv6Address("fe80::1")
CLIENT, SERVER = ClientId(b"\0\3client"), ServerId(b"\0\3server")
T = MessageType
NAMED = [T.REQUEST, T.RENEW, T.RELEASE, T.DECLINE]
UNNAMED = [T.SOLICIT, T.CONFIRM, T.REBIND]


def message(kind: MessageType, *options: Dhcpv6Option) -> bytes:
    return Dhcpv6Message(kind, 0x123456, options).build()


def parse_request(data: bytes, destination: IPv6Address) -> Dhcpv6Message:
    return parse_message(data, Ip6Packet(UNICAST, destination, 17, b""))


def parts(kind: MessageType) -> list[Dhcpv6Option]:
    """Options that make a message of *kind* valid."""
    return [CLIENT, SERVER] if kind in NAMED else [CLIENT]


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("dhcpv6_solicit", dhcp6.DHCP6_Solicit),
        ("dhcpv6_advertise", dhcp6.DHCP6_Advertise),
        ("dhcpv6_request", dhcp6.DHCP6_Request),
        ("dhcpv6_reply", dhcp6.DHCP6_Reply),
        ("dhcpv6_confirm", dhcp6.DHCP6_Confirm),
        ("dhcpv6_release", dhcp6.DHCP6_Release),
        ("dhcpv6_information_request", dhcp6.DHCP6_InfoRequest),
    ],
)
def test_golden_message_both_ways_and_scapy(
    vector: Callable[[str], bytes], name: str, cls: type[dhcp6.DHCP6]
) -> None:
    frame = vector(name)
    data = frame[62:]
    parsed = Dhcpv6Message.parse(data)
    assert parsed.build() == data
    theirs = Ether(frame)
    assert isinstance(theirs[IPv6].payload.payload, cls)
    assert theirs[cls].trid == parsed.transaction_id
    theirs = theirs.copy()
    del theirs[IPv6].payload.chksum
    assert bytes(Ether(bytes(theirs))) == frame


@given(st.sampled_from([*MessageType]), st.integers(0, 0xFFFFFF), st.lists(OPTIONS, max_size=4).map(tuple))
def test_round_trip(kind: MessageType, transaction_id: int, options: tuple[Dhcpv6Option, ...]) -> None:
    one = Dhcpv6Message(kind, transaction_id, options)
    assert Dhcpv6Message.parse(one.build()) == one


@given(st.binary(max_size=200), st.sampled_from([SERVERS, UNICAST]))
def test_any_bytes_parse_or_are_rejected(data: bytes, destination: IPv6Address) -> None:
    try:
        one = parse_request(data, destination)
    except WireError:
        return
    assert one.build() == data


@pytest.mark.parametrize("kind", [0, 12, 13, 14, 255])
def test_type_that_no_client_or_server_sends_rejected(kind: int) -> None:
    with pytest.raises(WireError, match="relay agent" if kind in {12, 13} else f"type {kind}"):
        Dhcpv6Message.parse(bytes((kind, 0, 0, 1)))


@pytest.mark.parametrize("length", range(4))
def test_short_message_rejected(length: int) -> None:
    with pytest.raises(WireError):
        Dhcpv6Message.parse(b"\1\0\0\0"[:length])


@pytest.mark.parametrize("kind", [*NAMED, *UNNAMED, T.INFORMATION_REQUEST])
def test_valid_request_accepted(kind: MessageType) -> None:
    one = parse_request(message(kind, *parts(kind)), SERVERS)
    assert (one.kind, one.transaction_id, one.find(ClientId)) == (kind, 0x123456, CLIENT)


def test_information_request_needs_no_identifier_and_may_have_both() -> None:
    parse_request(message(T.INFORMATION_REQUEST), SERVERS)
    parse_request(message(T.INFORMATION_REQUEST, CLIENT, SERVER), SERVERS)


@pytest.mark.parametrize("kind", [T.ADVERTISE, T.REPLY, T.RECONFIGURE])
def test_message_of_a_server_rejected(kind: MessageType) -> None:
    with pytest.raises(WireError, match="from a client"):
        parse_request(message(kind, CLIENT, SERVER), SERVERS)


@pytest.mark.parametrize("kind", [*NAMED, *UNNAMED])
def test_request_without_client_identifier_rejected(kind: MessageType) -> None:
    options = [option for option in parts(kind) if option is not CLIENT]
    with pytest.raises(WireError, match="no client identifier"):
        parse_request(message(kind, *options), SERVERS)


@pytest.mark.parametrize("kind", NAMED)
def test_request_to_no_server_rejected_where_one_must_be_named(kind: MessageType) -> None:
    with pytest.raises(WireError, match="no server identifier"):
        parse_request(message(kind, CLIENT), SERVERS)


@pytest.mark.parametrize("kind", UNNAMED)
def test_request_to_one_server_rejected_where_none_may_be_named(kind: MessageType) -> None:
    with pytest.raises(WireError, match="a server identifier"):
        parse_request(message(kind, CLIENT, SERVER), SERVERS)


@pytest.mark.parametrize("ia", [IaNa(1), IaTa(1), IaPd(1)])
def test_information_request_with_an_ia_rejected(ia: Dhcpv6Option) -> None:
    with pytest.raises(WireError, match="an IA"):
        parse_request(message(T.INFORMATION_REQUEST, CLIENT, ia), SERVERS)


@pytest.mark.parametrize("kind", [*UNNAMED, T.INFORMATION_REQUEST])
def test_unicast_rejected_for_messages_to_all_servers(kind: MessageType) -> None:
    with pytest.raises(WireError, match="unicast"):
        parse_request(message(kind, *parts(kind)), UNICAST)


@pytest.mark.parametrize("kind", NAMED)
def test_unicast_accepted_for_messages_to_one_server(kind: MessageType) -> None:
    parse_request(message(kind, *parts(kind)), UNICAST)


def test_request_from_nowhere_rejected() -> None:
    with pytest.raises(WireError, match="no source address"):
        parse_message(message(T.SOLICIT, CLIENT), Ip6Packet(IPv6Address("::"), SERVERS, 17, b""))


@pytest.mark.parametrize("option", [
    CLIENT, SERVER, OptionRequest(()), RapidCommit(), ReconfigureAccept(), ReconfigureMessage(5),
    Authentication(3, 1, 0, 7),
])  # fmt: skip
def test_option_that_may_be_there_once_rejected_twice(option: Dhcpv6Option) -> None:
    options = [*(one for one in parts(T.REQUEST) if one != option), option, option]
    with pytest.raises(WireError, match="more than one"):
        parse_request(message(T.REQUEST, *options), SERVERS)


@pytest.mark.parametrize("ia", [IaNa(7), IaTa(7), IaPd(7)])
def test_ias_of_one_kind_and_name_rejected(ia: Dhcpv6Option) -> None:
    with pytest.raises(WireError, match="two IAs"):
        parse_request(message(T.SOLICIT, CLIENT, ia, IaNa(1), ia), SERVERS)
    parse_request(message(T.SOLICIT, CLIENT, IaNa(7), IaTa(7), IaPd(7), IaNa(8)), SERVERS)


def test_unknown_options_may_be_repeated_and_are_kept() -> None:
    other = OtherOption(16, b"\0")
    assert parse_request(message(T.SOLICIT, CLIENT, other, other), SERVERS).options == (CLIENT, other, other)


def test_overlong_message_rejected_unread() -> None:
    start = message(T.SOLICIT, CLIENT)
    fitting = start + OtherOption(99, bytes(MAX_REQUEST_LEN - len(start) - 4)).build()
    padded = Dhcpv6Message(
        T.SOLICIT, 1, (CLIENT, OtherOption(99, bytes(MAX_REQUEST_LEN - len(start) - 4)))
    ).build()
    assert len(padded) == MAX_REQUEST_LEN
    assert len(fitting) < MAX_REQUEST_LEN
    parse_request(padded, SERVERS)
    with pytest.raises(WireError, match=f"{MAX_REQUEST_LEN + 1} bytes"):
        parse_request(padded + b"\0", SERVERS)


def test_impossible_values_are_no_message() -> None:
    with pytest.raises(ValueError, match="24 bits"):
        Dhcpv6Message(T.REPLY, 1 << 24)
    with pytest.raises(ValueError, match="wrong place"):
        Dhcpv6Message(T.REPLY, 0, (OtherOption(1, b"abc"),))
