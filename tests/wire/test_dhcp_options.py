"""Options of DHCP: each kind both ways, long ones, duplicates, order, hostile bytes."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dhcp import DHCP

from passt.errors import WireError
from passt.wire.dhcp_options import (
    OPTIONS,
    ClasslessStaticRoutes,
    ClientFqdn,
    ClientId,
    DhcpOption,
    DomainName,
    DomainSearch,
    HostName,
    LeaseTime,
    LinkMtu,
    MaxMessageSize,
    Message,
    MessageType,
    MessageTypeOption,
    NameServers,
    Netmask,
    OtherOption,
    ParameterRequestList,
    RapidCommit,
    RelayAgentInformation,
    RequestedAddress,
    Routers,
    ServerId,
    StaticRoute,
    build_options,
    option_len,
    parse_options,
    require_sorted,
    sort_options,
    split_area,
)

if TYPE_CHECKING:
    from collections.abc import Callable

A, B, ZERO = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2"), IPv4Address("0.0.0.0")
ROUTES = (StaticRoute(A, 32, ZERO), StaticRoute(ZERO, 0, A), StaticRoute(IPv4Address("10.128.0.0"), 9, B))

# Each option as bytes, by the letter of the RFCs.
SAMPLES: list[tuple[DhcpOption, str]] = [
    (Netmask(IPv4Address("255.255.255.0")), "01 04 ffffff00"),
    (Routers((A,)), "03 04 c0000201"),
    (Routers((A, B)), "03 08 c0000201 c0000202"),
    (NameServers((B, A)), "06 08 c0000202 c0000201"),
    (HostName(b"box"), "0c 03 626f78"),
    (DomainName(b"lan"), "0f 03 6c616e"),
    (LinkMtu(65520), "1a 02 fff0"),
    (RequestedAddress(A), "32 04 c0000201"),
    (LeaseTime(0xFFFFFFFF), "33 04 ffffffff"),
    (MessageTypeOption(MessageType.DISCOVER), "35 01 01"),
    (ServerId(A), "36 04 c0000201"),
    (ParameterRequestList(b"\x01\x03\x06"), "37 03 010306"),
    (Message(b"no"), "38 02 6e6f"),
    (MaxMessageSize(576), "39 02 0240"),
    (ClientId(b"\x01\x02\0\0\0\0\x05"), "3d 07 01020000000005"),
    (RapidCommit(), "50 00"),
    (ClientFqdn(4, b"\xff\xff\x01a\0"), "51 06 04ffff016100"),
    # RFC 3397 2 and RFC 3442 page 4.
    (
        DomainSearch(("eng.apple.com", "marketing.apple.com")),
        "77 1b 03656e67056170706c6503636f6d00 096d61726b6574696e67c004",
    ),
    (ClasslessStaticRoutes(ROUTES), "79 15 20c000020100000000 00c0000201 090a80c0000202"),
    (RelayAgentInformation(b"\x01\x01a"), "52 03 010161"),
    (OtherOption(0xE0, b"\1\2"), "e0 02 0102"),
    (OtherOption(0xE1, b""), "e1 00"),
]


def parse(text: str) -> tuple[DhcpOption, ...]:
    return parse_options([bytes.fromhex(text)])


@pytest.mark.parametrize(("option", "text"), SAMPLES)
def test_option_both_ways(option: DhcpOption, text: str) -> None:
    assert parse(text) == (option,)
    assert build_options([option]) == bytes.fromhex(text) + b"\xff"


def test_every_class_has_a_sample() -> None:
    assert {type(option) for option, _ in SAMPLES} == {*OPTIONS.values(), OtherOption}


ALL = sort_options({type(option): option for option, _ in SAMPLES}.values())
ALL_DATA = build_options(ALL)


def test_all_together_both_ways() -> None:
    assert parse_options([ALL_DATA]) == ALL
    assert ALL_DATA[:3] == b"\x35\x01\x01"


@pytest.mark.parametrize("length", range(len(ALL_DATA)))
def test_every_truncation_is_rejected_or_loses_whole_options(length: int) -> None:
    try:
        options = parse_options([ALL_DATA[:length]])
    except WireError:
        return
    assert set(options) <= set(ALL)
    assert build_options(options)[:-1] == ALL_DATA[:length]


@pytest.mark.parametrize(("option", "text"), SAMPLES)
def test_option_of_wrong_length_rejected(option: Any, text: str) -> None:
    data = bytes.fromhex(text)
    for length in range(len(data) - 2):
        changed = bytes((data[0], length)) + data[2 : 2 + length]
        try:
            found: Any = parse_options([changed])[0]
        except WireError:
            continue
        # Only lists and strings have a shorter form.
        assert isinstance(option[-1], bytes | tuple)
        assert type(found) is type(option)
        assert len(found[-1]) <= len(option[-1])
    with pytest.raises(WireError):
        parse_options([bytes((data[0], len(data) - 1)) + data[2:]])


@pytest.mark.parametrize(
    "text",
    [
        "35 00",
        "35 01 00",
        "35 02 0101",
        "32 03 c00002",
        "32 05 c000020100",
        "50 01 00",
        "37 00",
        "3d 00",
        "0c 00",
        "39 01 02",
        "33 02 ffff",
        "36 00",
        "01 08 ffffff00ffffff00",
        "03 00",
        "06 05 c000020100",
        "1a 01 05",
        "77 00",
        "77 01 00",
        "77 02 c000",
        "77 04 0161c002",
        "79 00",
        "79 05 21c0000201",
        "79 04 00c00002",
        "79 09 18c0000201c0000201",
        "79 08 18c00002",
        "35",
        "35 05 01",
        "ff35",
    ],
)
def test_bad_contents_rejected(text: str) -> None:
    if text.startswith("ff"):
        assert parse(text) == ()
        return
    with pytest.raises(WireError, match=r"DHCP|DNS"):
        parse(text)


def test_route_with_host_bits_rejected() -> None:
    with pytest.raises(WireError, match="host bits"):
        parse("79 08 17c00003 c0000201")


def test_padding_is_skipped_and_unknown_options_are_kept() -> None:
    assert parse("00 00 e0 02 0102 00 1a 02 05dc 00 ff") == (LinkMtu(1500), OtherOption(0xE0, b"\1\2"))


def test_option_that_tells_of_other_fields_is_none_of_the_message() -> None:
    assert parse("34 01 01 1a 02 05dc ff") == (LinkMtu(1500),)


def test_nothing_is_read_behind_the_end() -> None:
    assert parse("1a 02 05dc ff 33") == (LinkMtu(1500),)


def test_parts_of_one_option_are_joined_in_order() -> None:
    joined = ParameterRequestList(b"\x01\x03\x06")
    assert parse("37 02 0103 1a 02 05dc 37 01 06 ff") == (LinkMtu(1500), joined)
    areas = [bytes.fromhex("37 01 01 ff"), bytes.fromhex("37 01 03 ff"), bytes.fromhex("37 01 06")]
    assert parse_options(areas) == (joined,)
    assert parse("e0 01 01 e0 00 e0 01 02") == (OtherOption(0xE0, b"\1\2"),)


@pytest.mark.parametrize(
    "text", ["35 01 01 35 01 01", "32 04 c0000201 32 04 c0000201", "1a 02 05dc 1a 02 05dc"]
)
def test_duplicate_of_a_fixed_option_rejected(text: str) -> None:
    with pytest.raises(WireError, match="too many"):
        parse(text)


@pytest.mark.parametrize("length", [254, 255, 256, 510, 511, 700])
def test_long_option_is_split_and_joined(length: int) -> None:
    options = (ClientId(bytes(index % 251 for index in range(length))),)
    data = build_options(options)
    assert len(data) == option_len(length) + 1
    assert all(len(part) <= 255 for _, part in split_area(data))
    assert parse_options([data]) == options


def test_order_is_the_asked_one_then_ascending() -> None:
    options = [option for option in ALL if not isinstance(option, OtherOption)]

    def codes(order: bytes) -> list[int]:
        return [code for code, _ in split_area(build_options(reversed(options), order))]

    rest = [1, 3, 6, 12, 15, 26, 50, 51, 54, 55, 56, 57, 61, 80, 81, 119, 121, 82]
    assert codes(b"") == [53, *rest]
    asked = [121, 3, 1]
    assert codes(bytes(asked)) == [53, *asked, *(code for code in rest if code not in asked)]
    # Twice, unknown, padding and end, the type itself, and the relay's, which stays the last.
    assert codes(bytes((82, 3, 3, 99, 0, 255, 53, 1, 3))) == [53, 3, 1, *(c for c in rest if c not in {1, 3})]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: MessageTypeOption(256),
        lambda: MessageTypeOption(0),
        lambda: LinkMtu(65536),
        lambda: MaxMessageSize(-1),
        lambda: LeaseTime(1 << 32),
        lambda: Routers(()),
        lambda: HostName(b""),
        lambda: ClientFqdn(256),
        lambda: DomainSearch(("a..b",)),
        lambda: DomainSearch(("",)),
        lambda: DomainSearch(()),
        lambda: ClasslessStaticRoutes((StaticRoute(A, 24, B),)),
        lambda: ClasslessStaticRoutes((StaticRoute(A, 33, B),)),
        lambda: ClasslessStaticRoutes(()),
        lambda: OtherOption(12, b"x"),
        lambda: OtherOption(52, b"\1"),
        lambda: OtherOption(0, b""),
        lambda: OtherOption(256, b""),
        lambda: require_sorted([LinkMtu(1500), LinkMtu(1500)]),
        lambda: require_sorted([LinkMtu(1500), HostName(b"x")]),
    ],
)
def test_value_that_cannot_be_written_is_no_value(wrong: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="DHCP"):
        wrong()


def test_client_name() -> None:
    assert ClientFqdn.of_name("a.b", ClientFqdn.ENCODED).build() == b"\x04\xff\xff\x01a\x01b\0"
    assert ClientFqdn.of_name("a.b", ClientFqdn.OVERRIDES).build() == b"\x02\xff\xffa.b"
    flags = ClientFqdn.SERVER_UPDATES | ClientFqdn.NO_UPDATES | ClientFqdn.ENCODED
    assert ClientFqdn.of_name("a", flags).build() == b"\x0d\xff\xff\x01a\0"
    assert [ClientFqdn.parse(data).flags for data in (b"\x01", b"\x05\0\0a", b"\x04")] == [1, 5, 4]


ADDRESSES = st.ip_addresses(v=4)
LABEL = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=20)
NAMES = st.lists(LABEL, min_size=1, max_size=4).map(".".join)


@st.composite
def routes(draw: st.DrawFn) -> StaticRoute:
    prefix_len = draw(st.integers(0, 32))
    bits = draw(st.integers(0, 2**32 - 1)) >> (32 - prefix_len) << (32 - prefix_len)
    return StaticRoute(IPv4Address(bits), prefix_len, IPv4Address(draw(ADDRESSES)))


ONE = st.one_of(
    st.builds(Netmask, ADDRESSES),
    st.builds(Routers, st.lists(ADDRESSES, min_size=1, max_size=3).map(tuple)),
    st.builds(NameServers, st.lists(ADDRESSES, min_size=1, max_size=100).map(tuple)),
    st.builds(HostName, st.binary(min_size=1, max_size=20)),
    st.builds(LinkMtu, st.integers(0, 65535)),
    st.builds(RequestedAddress, ADDRESSES),
    st.builds(LeaseTime, st.integers(0, 2**32 - 1)),
    st.builds(MessageTypeOption, st.integers(1, 255)),
    st.builds(ParameterRequestList, st.binary(min_size=1, max_size=600)),
    st.builds(ClientId, st.binary(min_size=1, max_size=20)),
    st.builds(RapidCommit),
    st.builds(ClientFqdn, st.integers(0, 255), st.binary(max_size=300)),
    st.builds(DomainSearch, st.lists(NAMES, min_size=1, max_size=8).map(tuple)),
    st.builds(ClasslessStaticRoutes, st.lists(routes(), min_size=1, max_size=5).map(tuple)),
    st.builds(OtherOption, st.integers(130, 254), st.binary(max_size=600)),
)


def build_all(options: list[DhcpOption]) -> tuple[DhcpOption, ...]:
    """Keep one option of each code, as a message does."""
    return sort_options({build_options([option])[0]: option for option in options}.values())


SETS = st.lists(ONE, max_size=12).map(build_all)


@given(SETS, st.binary(max_size=20))
def test_round_trip(options: tuple[DhcpOption, ...], order: bytes) -> None:
    assert parse_options([build_options(options, order)]) == options


@given(st.lists(st.binary(max_size=80), max_size=3))
def test_any_bytes_are_options_or_rejected(areas: list[bytes]) -> None:
    try:
        options = parse_options(areas)
    except WireError:
        return
    require_sorted(options)
    assert parse_options([build_options(options)]) == options


def test_scapy_reads_what_we_write() -> None:
    theirs = {entry[0]: entry[1:] for entry in DHCP(ALL_DATA).options if isinstance(entry, tuple)}
    assert theirs["message-type"] == (1,)
    assert theirs["router"] == (str(A), str(B))
    assert theirs["name_server"] == (str(B), str(A))
    assert theirs["interface-mtu"] == (65520,)
    assert theirs["lease_time"] == (0xFFFFFFFF,)
    assert theirs["server_id"] == (str(A),)
    assert theirs["max_dhcp_size"] == (576,)
    assert theirs["rapid_commit"] == (b"",)


def test_we_read_what_scapy_writes() -> None:
    written = bytes(
        DHCP(
            options=[
                ("message-type", "request"),
                ("requested_addr", "192.0.2.1"),
                ("server_id", "192.0.2.2"),
                ("param_req_list", [1, 3, 6]),
                ("client_id", b"\x01abc"),
                ("max_dhcp_size", 1500),
                "end",
                "pad",
            ]
        )
    )
    assert parse_options([written]) == (
        RequestedAddress(A),
        MessageTypeOption(MessageType.REQUEST),
        ServerId(B),
        ParameterRequestList(b"\x01\x03\x06"),
        MaxMessageSize(1500),
        ClientId(b"\x01abc"),
    )
