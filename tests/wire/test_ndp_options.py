"""Options of neighbour discovery messages."""

from ipaddress import IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import (
    ICMPv6NDOptDNSSL,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
    ICMPv6NDOptSrcLLAddr,
)

from passt.errors import WireError
from passt.wire.ndp_options import (
    DnsSearchList,
    LinkMtu,
    NdpOption,
    OtherOption,
    PrefixInformation,
    RecursiveDnsServers,
    SourceLinkLayer,
    TargetLinkLayer,
    build_options,
    clear_host_bits,
    parse_options,
)

MAC = bytes.fromhex("9a559a559a55")
PREFIX = IPv6Address("2001:db8:1:2::")
DNS = (IPv6Address("2001:db8::53"), IPv6Address("fe80::1"))

PAIRS: list[tuple[NdpOption, bytes]] = [
    (SourceLinkLayer(MAC), bytes(ICMPv6NDOptSrcLLAddr(lladdr=MAC.hex(":")))),
    (TargetLinkLayer(MAC), bytes(ICMPv6NDOptDstLLAddr(lladdr=MAC.hex(":")))),
    (PrefixInformation(PREFIX, 64), bytes(ICMPv6NDOptPrefixInfo(prefix=str(PREFIX), prefixlen=64))),
    (
        PrefixInformation(PREFIX, 63, on_link=True, autonomous=False, valid_s=7200, preferred_s=3600),
        bytes(
            ICMPv6NDOptPrefixInfo(
                prefix=str(PREFIX), prefixlen=63, L=1, A=0, validlifetime=7200, preferredlifetime=3600
            )
        ),
    ),
    (
        PrefixInformation(PREFIX, 128, on_link=False, autonomous=True),
        bytes(ICMPv6NDOptPrefixInfo(prefix=str(PREFIX), prefixlen=128, L=0, A=1)),
    ),
    (LinkMtu(65520), bytes(ICMPv6NDOptMTU(mtu=65520))),
    (RecursiveDnsServers(DNS), bytes(ICMPv6NDOptRDNSS(dns=list(map(str, DNS)), lifetime=0xFFFFFFFF))),
    (RecursiveDnsServers(DNS[:1], 600), bytes(ICMPv6NDOptRDNSS(dns=[str(DNS[0])], lifetime=600))),
    (
        DnsSearchList(("example.com", "lan")),
        bytes(ICMPv6NDOptDNSSL(searchlist=["example.com.", "lan."], lifetime=0xFFFFFFFF)),
    ),
    (OtherOption(14, b"nonce!"), b"\x0e\x01nonce!"),
    (OtherOption(4, bytes(14)), b"\x04\x02" + bytes(14)),
]
IDS = [f"{type(option).__name__}{number}" for number, (option, _) in enumerate(PAIRS)]

LIFETIMES = st.integers(0, 0xFFFFFFFF)
MACS = st.binary(min_size=6, max_size=6)
LABELS = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=20)
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
KNOWN = {1, 2, 3, 5, 25, 31}


@st.composite
def prefixes(draw: st.DrawFn) -> PrefixInformation:
    prefix_len = draw(st.integers(0, 128))
    prefix = clear_host_bits(IPv6Address(draw(st.binary(min_size=16, max_size=16))), prefix_len)
    return PrefixInformation(
        prefix, prefix_len, draw(st.booleans()), draw(st.booleans()), draw(LIFETIMES), draw(LIFETIMES)
    )


@st.composite
def others(draw: st.DrawFn) -> OtherOption:
    kind = draw(st.integers(0, 255).filter(lambda number: number not in KNOWN))
    length = draw(st.integers(1, 5)) * 8 - 2
    return OtherOption(kind, draw(st.binary(min_size=length, max_size=length)))


OPTIONS: st.SearchStrategy[NdpOption] = st.one_of(
    st.builds(SourceLinkLayer, MACS),
    st.builds(TargetLinkLayer, MACS),
    prefixes(),
    st.builds(LinkMtu, st.integers(0, 0xFFFFFFFF)),
    st.builds(
        RecursiveDnsServers, st.lists(st.ip_addresses(v=6), min_size=1, max_size=4).map(tuple), LIFETIMES
    ),
    st.builds(DnsSearchList, st.lists(NAMES, min_size=1, max_size=6).map(tuple), LIFETIMES),
    others(),
)


@pytest.mark.parametrize(("option", "data"), PAIRS, ids=IDS)
def test_same_bytes_as_scapy_both_ways(option: NdpOption, data: bytes) -> None:
    assert build_options((option,)) == data
    assert parse_options(data) == (option,)


@pytest.mark.parametrize(("option", "data"), PAIRS, ids=IDS)
def test_every_truncation_rejected(option: NdpOption, data: bytes) -> None:
    del option
    for length in range(1, len(data)):
        with pytest.raises(WireError):
            parse_options(data[:length])


@pytest.mark.parametrize(("option", "data"), PAIRS, ids=IDS)
def test_length_of_zero_rejected(option: NdpOption, data: bytes) -> None:
    del option
    with pytest.raises(WireError, match="length 0"):
        parse_options(data[:1] + b"\0" + data[2:])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x01\x02" + bytes(14), "link-layer"),
        (b"\x02\x02" + bytes(14), "link-layer"),
        (b"\x03\x01" + bytes(6), "prefix information"),
        (b"\x03\x05" + bytes(38), "prefix information"),
        (b"\x03\x04\x81" + bytes(29), "prefix length 129"),
        (b"\x05\x02" + bytes(14), "MTU"),
        (b"\x19\x01" + bytes(6), "RDNSS: no server"),
        (b"\x19\x02" + bytes(14), "RDNSS: 16 bytes wanted"),
        (b"\x19\x04" + bytes(30), "RDNSS: 16 bytes wanted"),
        (b"\x1f\x01" + bytes(6), "DNSSL: no name"),
        (b"\x1f\x02" + bytes(14), "DNSSL: no name"),
        (b"\x1f\x02" + bytes(6) + b"\x08example", "DNSSL: 8 bytes wanted"),
        (b"\x1f\x02" + bytes(6) + b"\x07example", "DNSSL: 1 bytes wanted"),
        (b"\x1f\x02" + bytes(6) + b"\x03lan\0\0\0\1", "padding"),
    ],
)
def test_bad_contents_rejected(data: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        parse_options(data)


def test_host_bits_of_a_prefix_are_ignored() -> None:
    data = build_options((PrefixInformation(PREFIX, 64),))
    assert parse_options(data[:-1] + b"\x05") == (PrefixInformation(PREFIX, 64),)


@pytest.mark.parametrize(
    ("names", "units"),
    [
        (("abcdef",), 2),  # 8 bytes of names: no padding
        (("abcdefg",), 3),  # 9
        (("abcde",), 2),  # 7
        (("abcdef", "abcdef"), 3),  # 16
    ],
)
def test_search_list_is_padded_to_a_full_unit_and_no_further(names: tuple[str, ...], units: int) -> None:
    data = build_options((DnsSearchList(names), LinkMtu(1500)))
    assert data[1] == units
    assert len(data) == units * 8 + 8
    assert parse_options(data) == (DnsSearchList(names), LinkMtu(1500))


@given(st.lists(OPTIONS, max_size=5).map(tuple))
def test_round_trip(options: tuple[NdpOption, ...]) -> None:
    data = build_options(options)
    assert len(data) % 8 == 0
    assert parse_options(data) == options


@given(st.binary(max_size=80))
def test_any_bytes_parse_or_are_rejected(data: bytes) -> None:
    try:
        options = parse_options(data)
    except WireError:
        return
    assert parse_options(build_options(options)) == options


@pytest.mark.parametrize(
    ("cls", "fields"),
    [
        (SourceLinkLayer, (b"short",)),
        (TargetLinkLayer, (bytes(7),)),
        (PrefixInformation, (PREFIX, 129)),
        (PrefixInformation, (PREFIX, -1)),
        (PrefixInformation, (PREFIX, 32)),
        (PrefixInformation, (PREFIX, 64, True, True, 1 << 32)),
        (PrefixInformation, (PREFIX, 64, True, True, 0, -1)),
        (LinkMtu, (1 << 32,)),
        (RecursiveDnsServers, ((),)),
        (RecursiveDnsServers, (DNS * 64,)),
        (RecursiveDnsServers, (DNS, -1)),
        (DnsSearchList, ((),)),
        (DnsSearchList, (("a..b",),)),
        (DnsSearchList, (("example.com.",),)),
        (DnsSearchList, (("lan",), 1 << 32)),
        (DnsSearchList, (("x" * 60,) * 33,)),
        (OtherOption, (256, bytes(6))),
        (OtherOption, (14, bytes(7))),
        (OtherOption, (14, b"")),
        (OtherOption, (14, bytes(255 * 8))),
        (OtherOption, (1, bytes(6))),
    ],
)
def test_impossible_values_are_no_option(cls: type[Any], fields: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        cls(*fields)


def test_longest_options_can_be_built() -> None:
    for option in (
        RecursiveDnsServers((DNS[0],) * 127),
        DnsSearchList(("x" * 60,) * 32),
        OtherOption(14, bytes(2038)),
    ):
        assert parse_options(build_options((option,))) == (option,)
