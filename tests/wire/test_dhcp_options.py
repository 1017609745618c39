"""Options of DHCP: each kind both ways, long ones, duplicates, order, hostile bytes."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dhcp import DHCP

from passt.errors import WireError
from passt.light.values import replace
from passt.wire.dhcp_options import (
    ClientFqdn,
    DhcpMessageType,
    DhcpOptions,
    DhcpRoute,
    option_len,
    parse_options,
    split_area,
)

A, B, ZERO = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2"), IPv4Address("0.0.0.0")
ROUTES = (DhcpRoute(A, 32, ZERO), DhcpRoute(ZERO, 0, A), DhcpRoute(IPv4Address("10.128.0.0"), 9, B))

# Field, value, the option as bytes. Encodings by the letter of the RFCs.
SAMPLES: list[tuple[str, Any, str]] = [
    ("netmask", IPv4Address("255.255.255.0"), "01 04 ffffff00"),
    ("routers", (A,), "03 04 c0000201"),
    ("routers", (A, B), "03 08 c0000201 c0000202"),
    ("name_servers", (B, A), "06 08 c0000202 c0000201"),
    ("host_name", b"box", "0c 03 626f78"),
    ("domain_name", b"lan", "0f 03 6c616e"),
    ("mtu", 65520, "1a 02 fff0"),
    ("requested_address", A, "32 04 c0000201"),
    ("lease_time_s", 0xFFFFFFFF, "33 04 ffffffff"),
    ("message_type", DhcpMessageType.DISCOVER, "35 01 01"),
    ("server_id", A, "36 04 c0000201"),
    ("parameter_request_list", b"\x01\x03\x06", "37 03 010306"),
    ("message", b"no", "38 02 6e6f"),
    ("max_message_size", 576, "39 02 0240"),
    ("client_id", b"\x01\x02\0\0\0\0\x05", "3d 07 01020000000005"),
    ("rapid_commit", True, "50 00"),
    ("client_fqdn", b"\x04\xff\xff\x01a\0", "51 06 04ffff016100"),
    # RFC 3397, section 2, and RFC 3442, page 4.
    (
        "domain_search",
        ("eng.apple.com", "marketing.apple.com"),
        "77 1b 03656e67056170706c6503636f6d00 096d61726b6574696e67c004",
    ),
    ("classless_static_routes", ROUTES, "79 15 20c000020100000000 00c0000201 090a80c0000202"),
    ("relay_agent_information", b"\x01\x01a", "52 03 010161"),
]


def parse(text: str) -> DhcpOptions:
    return parse_options([bytes.fromhex(text)])


@pytest.mark.parametrize(("field", "value", "text"), SAMPLES)
def test_option_both_ways(field: str, value: Any, text: str) -> None:
    options = DhcpOptions(**{field: value})
    assert parse(text) == options
    assert options.build() == bytes.fromhex(text) + b"\xff"


def test_every_field_has_a_sample() -> None:
    assert {field for field, _, _ in SAMPLES} == set(DhcpOptions.FIELDS)


ALL = DhcpOptions(**{field: value for field, value, _ in SAMPLES})


def test_all_together_both_ways() -> None:
    data = ALL.build()
    assert parse_options([data]) == ALL
    assert data[:3] == b"\x35\x01\x01"


@pytest.mark.parametrize("length", range(len(ALL.build())))
def test_every_truncation_is_rejected_or_loses_whole_options(length: int) -> None:
    try:
        options = parse_options([ALL.build()[:length]])
    except WireError:
        return
    default = DhcpOptions()
    for field in DhcpOptions.FIELDS:
        assert getattr(options, field) in {getattr(ALL, field), getattr(default, field)}
    assert options.build()[:-1] == ALL.build()[:length]


@pytest.mark.parametrize(("field", "value", "text"), SAMPLES)
def test_option_of_wrong_length_rejected(field: str, value: Any, text: str) -> None:
    data = bytes.fromhex(text)
    for length in range(len(data) - 2):
        changed = bytes((data[0], length)) + data[2 : 2 + length]
        try:
            found = getattr(parse_options([changed]), field)
        except WireError:
            continue
        # Only lists and strings have a shorter form.
        assert isinstance(value, bytes | tuple)
        assert len(found) <= len(value)
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
        assert parse(text) == DhcpOptions()
        return
    with pytest.raises(WireError, match=r"DHCP|DNS"):
        parse(text)


def test_route_with_host_bits_rejected() -> None:
    with pytest.raises(WireError, match="host bits"):
        parse("79 08 17c00003 c0000201")


def test_padding_and_unknown_options_are_skipped() -> None:
    assert parse("00 00 e0 02 0102 00 1a 02 05dc 00 ff") == DhcpOptions(mtu=1500)


def test_nothing_is_read_behind_the_end() -> None:
    assert parse("1a 02 05dc ff 33") == DhcpOptions(mtu=1500)


def test_parts_of_one_option_are_joined_in_order() -> None:
    assert parse("37 02 0103 1a 02 05dc 37 01 06 ff").parameter_request_list == b"\x01\x03\x06"
    areas = [bytes.fromhex("37 01 01 ff"), bytes.fromhex("37 01 03 ff"), bytes.fromhex("37 01 06")]
    assert parse_options(areas).parameter_request_list == b"\x01\x03\x06"


@pytest.mark.parametrize(
    "text", ["35 01 01 35 01 01", "32 04 c0000201 32 04 c0000201", "1a 02 05dc 1a 02 05dc"]
)
def test_duplicate_of_a_fixed_option_rejected(text: str) -> None:
    with pytest.raises(WireError, match="too many"):
        parse(text)


@pytest.mark.parametrize("length", [254, 255, 256, 510, 511, 700])
def test_long_option_is_split_and_joined(length: int) -> None:
    options = DhcpOptions(client_id=bytes(index % 251 for index in range(length)))
    data = options.build()
    assert len(data) == option_len(length) + 1
    assert all(len(part) <= 255 for _, part in split_area(data))
    assert parse_options([data]) == options


def test_order_is_the_asked_one_then_ascending() -> None:
    options = replace(ALL, relay_agent_information=b"\x01\x01a")

    def codes(order: bytes) -> list[int]:
        return [code for code, _ in split_area(options.build(order))]

    rest = [1, 3, 6, 12, 15, 26, 50, 51, 54, 55, 56, 57, 61, 80, 81, 119, 121, 82]
    assert codes(b"") == [53, *rest]
    asked = [121, 3, 1]
    assert codes(bytes(asked)) == [53, *asked, *(code for code in rest if code not in asked)]
    # Twice, unknown, padding and end, the type itself, and the relay's, which stays the last.
    assert codes(bytes((82, 3, 3, 99, 0, 255, 53, 1, 3))) == [53, 3, 1, *(c for c in rest if c not in {1, 3})]


@pytest.mark.parametrize(
    "wrong",
    [
        {"message_type": 256},
        {"mtu": 65536},
        {"max_message_size": -1},
        {"lease_time_s": 1 << 32},
        {"domain_search": ("a..b",)},
        {"domain_search": ("",)},
        {"classless_static_routes": (DhcpRoute(A, 24, B),)},
        {"classless_static_routes": (DhcpRoute(A, 33, B),)},
    ],
)
def test_value_that_cannot_be_written_is_no_value(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="DHCP"):
        DhcpOptions(**wrong)


def test_client_name() -> None:
    assert ClientFqdn("a.b").build() == b"\x04\xff\xff\x01a\x01b\0"
    assert ClientFqdn("a.b", server_overrides=True, is_encoded=False).build() == b"\x02\xff\xffa.b"
    assert ClientFqdn("a", server_updates=True, no_updates=True).build() == b"\x0d\xff\xff\x01a\0"
    assert [ClientFqdn.parse_flags(data) for data in (b"", b"\x01", b"\x05\0\0a", b"\x04")] == [
        (False, True),
        (True, False),
        (True, True),
        (False, True),
    ]


ADDRESSES = st.ip_addresses(v=4)
LABEL = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=20)
NAMES = st.lists(LABEL, min_size=1, max_size=4).map(".".join)


@st.composite
def routes(draw: st.DrawFn) -> DhcpRoute:
    prefix_len = draw(st.integers(0, 32))
    bits = draw(st.integers(0, 2**32 - 1)) >> (32 - prefix_len) << (32 - prefix_len)
    return DhcpRoute(IPv4Address(bits), prefix_len, IPv4Address(draw(ADDRESSES)))


OPTIONS = st.builds(
    DhcpOptions,
    netmask=st.none() | ADDRESSES,
    routers=st.lists(ADDRESSES, max_size=3).map(tuple),
    name_servers=st.lists(ADDRESSES, max_size=100).map(tuple),
    host_name=st.binary(max_size=20),
    mtu=st.none() | st.integers(0, 65535),
    requested_address=st.none() | ADDRESSES,
    lease_time_s=st.none() | st.integers(0, 2**32 - 1),
    message_type=st.integers(0, 255),
    parameter_request_list=st.binary(max_size=600),
    client_id=st.binary(max_size=20),
    rapid_commit=st.booleans(),
    domain_search=st.lists(NAMES, max_size=8).map(tuple),
    classless_static_routes=st.lists(routes(), max_size=5).map(tuple),
)


@given(OPTIONS, st.binary(max_size=20))
def test_round_trip(options: DhcpOptions, order: bytes) -> None:
    assert parse_options([options.build(order)]) == options


@given(st.lists(st.binary(max_size=80), max_size=3))
def test_any_bytes_are_options_or_rejected(areas: list[bytes]) -> None:
    try:
        options = parse_options(areas)
    except WireError:
        return
    assert parse_options([options.build()]) == options


def test_scapy_reads_what_we_write() -> None:
    theirs = {entry[0]: entry[1:] for entry in DHCP(ALL.build()).options if isinstance(entry, tuple)}
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
    assert parse_options([written]) == DhcpOptions(
        message_type=DhcpMessageType.REQUEST,
        requested_address=A,
        server_id=B,
        client_id=b"\x01abc",
        parameter_request_list=b"\x01\x03\x06",
        max_message_size=1500,
    )
