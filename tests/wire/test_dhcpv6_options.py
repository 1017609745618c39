"""DHCPv6 options: both ways, each way of being wrong, and scapy's opinion."""

from ipaddress import IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers import dhcp6

from passt.errors import WireError
from passt.wire import dhcpv6_options
from passt.wire.dhcpv6_options import (
    Authentication,
    ClientFqdn,
    ClientId,
    Dhcpv6Option,
    DnsServers,
    DomainList,
    IaAddress,
    IaNa,
    IaPd,
    IaTa,
    OptionRequest,
    OtherOption,
    Preference,
    RapidCommit,
    ReconfigureAccept,
    ReconfigureMessage,
    ServerId,
    StatusOption,
    build_options,
    make_duid_ll,
    parse_options,
)
from tests.wire.test_dns_name import NAMES

ADDRESS = IPv6Address("2001:db8::5")
DUID = bytes.fromhex("00030001020000000005")

EXAMPLES: list[tuple[Dhcpv6Option, str]] = [
    (ClientId(DUID), "0001 000a 00030001020000000005"),
    (ServerId(b"\0\2\1"), "0002 0003 000201"),
    (IaNa(5), "0003 000c 00000005 00000000 00000000"),
    (
        IaNa(5, 1, 2, (IaAddress(ADDRESS, 3, 4, (StatusOption(0),)), StatusOption(2, "no"))),
        (
            "0003 0036 00000005 00000001 00000002"
            "0005 001e 20010db8000000000000000000000005 00000003 00000004 000d 0002 0000"
            "000d 0004 0002 6e6f"
        ),
    ),
    (IaTa(6, (StatusOption(2),)), "0004 000a 00000006 000d 0002 0002"),
    (IaPd(7, 0, 0, (OtherOption(26, b"\1\2"),)), "0019 0012 00000007 00000000 00000000 001a 0002 0102"),
    (OptionRequest((23, 24)), "0006 0004 0017 0018"),
    (Preference(255), "0007 0001 ff"),
    (StatusOption(5, "\u00e9"), "000d 0004 0005 c3a9"),
    (RapidCommit(), "000e 0000"),
    (ReconfigureMessage(5), "0013 0001 05"),
    (ReconfigureAccept(), "0014 0000"),
    (Authentication(3, 1, 0, 1 << 63, b"\2\xff"), "000b 000d 03 01 00 8000000000000000 02ff"),
    (Authentication(255, 0, 255, 0), "000b 000b ff 00 ff 0000000000000000"),
    (DnsServers((ADDRESS,)), "0017 0010 20010db8000000000000000000000005"),
    (DomainList(("a.b", "c")), "0018 0008 01 61 01 62 00 01 63 00"),
    (ClientFqdn(1, "a.b"), "0027 0006 01 0161016200"),
    (ClientFqdn(0, "a", is_complete=False), "0027 0003 00 0161"),
    (ClientFqdn(4, "", is_complete=False), "0027 0001 04"),
    (OtherOption(41, b"\0\1a"), "0029 0003 000161"),
]
IDS = [f"{type(option).__name__}-{number}" for number, (option, _) in enumerate(EXAMPLES)]


def parse(data: bytes) -> tuple[Dhcpv6Option, ...]:
    return parse_options(data, dhcpv6_options.OPTIONS)


U32 = st.integers(0, 0xFFFFFFFF)
ADDRESSES = st.ip_addresses(v=6)
STATUSES = st.builds(StatusOption, st.integers(0, 0xFFFF), st.text(max_size=9))
UNKNOWN = st.builds(OtherOption, st.integers(100, 0xFFFF), st.binary(max_size=9))
IN_IA = st.lists(
    st.one_of(
        st.builds(
            IaAddress, ADDRESSES, U32, U32, st.lists(st.one_of(STATUSES, UNKNOWN), max_size=2).map(tuple)
        ),
        STATUSES,
        UNKNOWN,
    ),
    max_size=3,
).map(tuple)
DUIDS = st.binary(min_size=3, max_size=130)
OPTIONS: st.SearchStrategy[Dhcpv6Option] = st.one_of(
    st.builds(ClientId, DUIDS),
    st.builds(ServerId, DUIDS),
    st.builds(IaNa, U32, U32, U32, IN_IA),
    st.builds(IaPd, U32, U32, U32, IN_IA),
    st.builds(IaTa, U32, IN_IA),
    st.builds(OptionRequest, st.lists(st.integers(0, 0xFFFF), max_size=5).map(tuple)),
    st.builds(Preference, st.integers(0, 255)),
    STATUSES,
    st.sampled_from([RapidCommit(), ReconfigureAccept()]),
    st.builds(ReconfigureMessage, st.integers(0, 255)),
    st.builds(
        Authentication,
        st.integers(0, 255),
        st.integers(0, 255),
        st.integers(0, 255),
        st.integers(0, (1 << 64) - 1),
        st.binary(max_size=20),
    ),
    st.builds(DnsServers, st.lists(ADDRESSES, max_size=4).map(tuple)),
    st.builds(ClientFqdn, st.integers(0, 255), NAMES, st.booleans()),
    st.builds(DomainList, st.lists(NAMES, max_size=3).map(tuple)),
    UNKNOWN,
)


@pytest.mark.parametrize(("option", "text"), EXAMPLES, ids=IDS)
def test_example_both_ways(option: Dhcpv6Option, text: str) -> None:
    assert build_options((option,)) == bytes.fromhex(text)
    assert parse(bytes.fromhex(text)) == (option,)


@pytest.mark.parametrize(("option", "text"), EXAMPLES, ids=IDS)
def test_every_truncation_rejected(option: Dhcpv6Option, text: str) -> None:
    data = bytes.fromhex(text)
    for length in range(1, len(data)):
        with pytest.raises(WireError):
            parse(data[:length])
    assert parse(data) == (option,)


@given(st.lists(OPTIONS, max_size=5).map(tuple))
def test_round_trip(options: tuple[Dhcpv6Option, ...]) -> None:
    assert parse(build_options(options)) == options


@given(st.binary(max_size=120))
def test_any_bytes_parse_or_are_rejected(data: bytes) -> None:
    try:
        options = parse(data)
    except WireError:
        return
    assert build_options(options) == data


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0001 0002 0003", "DUID: 2 bytes"),
        ("0001 0083" + "00" * 131, "DUID: 131 bytes"),
        ("0002 0000", "DUID: 0 bytes"),
        ("0003 000b" + "00" * 11, "12 bytes wanted"),
        ("0003 000f" + "00" * 15, "4 bytes wanted"),
        ("0003 0010" + "00" * 12 + "0005 0000", "24 bytes wanted"),
        ("0003 0010" + "00" * 12 + "0063 0001", "1 bytes wanted"),
        ("0004 0003 000000", "4 bytes wanted"),
        ("0003 002a" + "00" * 12 + "0005 001a" + "00" * 24 + "0000", "4 bytes wanted"),
        ("0006 0003 001700", "must be even"),
        ("0007 0000", "preference: 0 bytes"),
        ("0007 0002 0000", "preference: 2 bytes"),
        ("000d 0001 00", "2 bytes wanted"),
        ("000d 0003 0000 ff", "not UTF-8"),
        ("000b 000a" + "00" * 10, "11 bytes wanted"),
        ("0013 0000", "reconfigure message: 0 bytes"),
        ("0013 0002 0000", "reconfigure message: 2 bytes"),
        ("0014 0001 00", "ReconfigureAccept: 1 bytes"),
        ("000e 0001 00", "RapidCommit: 1 bytes"),
        ("0017 000f" + "00" * 15, "16 bytes wanted"),
        ("0017 0011" + "00" * 17, "16 bytes wanted"),
        ("0018 0002 c000", "compression pointer"),
        ("0018 0004 0161c000", "compression pointer"),
        ("0018 0001 00", "the root"),
        ("0018 0002 0161", "1 bytes wanted"),
        ("0018 0003 400000", "compression pointer"),
        ("0027 0000", "1 bytes wanted"),
        ("0027 0002 0000", "not one name"),
        ("0027 0003 00c000", "compression pointer"),
        ("0027 0006 000161000162", "not one name"),
        ("0027 0003 000261", "not printable"),
        ("ffff ffff 00", "65535 bytes wanted"),
        ("00", "4 bytes wanted"),
    ],
)
def test_bad_option_rejected(text: str, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        parse(bytes.fromhex(text))


def test_option_in_another_is_read_only_where_it_may_be() -> None:
    # An IA in an IA, and an address in an address, are bytes without meaning.
    inner = build_options((IaNa(1, options=(IaAddress(ADDRESS),)),))
    (outer,) = parse(build_options((IaNa(2, options=(OtherOption(3, inner[4:]),)),)))
    assert outer == IaNa(2, options=(OtherOption(3, inner[4:]),))
    deep = IaAddress(ADDRESS, options=(OtherOption(5, IaAddress(ADDRESS).build()),))
    assert parse(build_options((IaNa(2, options=(deep,)),))) == (IaNa(2, options=(deep,)),)


@pytest.mark.parametrize(
    ("cls", "fields"),
    [
        (ClientId, (b"ab",)),
        (ServerId, (bytes(131),)),
        (IaNa, (1 << 32,)),
        (IaNa, (0, -1)),
        (IaPd, (0, 0, 1 << 32)),
        (IaTa, (-1,)),
        (IaNa, (0, 0, 0, (OtherOption(5, b""),))),
        (IaTa, (0, (OtherOption(13, b""),))),
        (IaAddress, (ADDRESS, 1 << 32)),
        (IaAddress, (ADDRESS, 0, 1 << 32)),
        (IaAddress, (ADDRESS, 0, 0, (OtherOption(13, b"\0\0"),))),
        (OptionRequest, ((1 << 16,),)),
        (Preference, (256,)),
        (StatusOption, (1 << 16,)),
        (StatusOption, (0, "x" * 0xFFFE)),
        (DomainList, (("a..b",),)),
        (ClientFqdn, (256, "a")),
        (ClientFqdn, (0, "")),
        (ClientFqdn, (0, "a..b")),
        (OtherOption, (1 << 16, b"")),
        (OtherOption, (1, bytes(0x10000))),
    ],
)
def test_impossible_values_are_no_option(cls: type[Any], fields: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=r"DHCPv6|DUID"):
        cls(*fields)


def test_duid_is_made_of_the_hardware_address() -> None:
    mac = bytes.fromhex("020000000005")
    assert make_duid_ll(mac) == DUID
    theirs = dhcp6.DUID_LL(make_duid_ll(mac))
    assert (theirs.type, theirs.hwtype, theirs.lladdr) == (3, 1, mac.hex(":"))


@given(ADDRESSES, U32, U32, st.lists(ADDRESSES, min_size=1, max_size=3), NAMES)
def test_agrees_with_scapy(
    address: IPv6Address, iaid: int, seconds: int, servers: list[IPv6Address], name: str
) -> None:
    ours = build_options(
        (
            ServerId(DUID),
            IaNa(iaid, seconds, seconds, (IaAddress(address, seconds, seconds), StatusOption(4, "x"))),
            DnsServers(tuple(servers)),
            DomainList((name,)),
        )
    )
    theirs = (
        dhcp6.DHCP6OptServerId(duid=dhcp6.DUID_LL(lladdr="02:00:00:00:00:05"))
        / dhcp6.DHCP6OptIA_NA(
            iaid=iaid,
            T1=seconds,
            T2=seconds,
            ianaopts=[
                dhcp6.DHCP6OptIAAddress(addr=str(address), preflft=seconds, validlft=seconds),
                dhcp6.DHCP6OptStatusCode(statuscode=4, statusmsg=b"x"),
            ],
        )
        / dhcp6.DHCP6OptDNSServers(dnsservers=list(map(str, servers)))
        / dhcp6.DHCP6OptDNSDomains(dnsdomains=[name + "."])
    )
    assert bytes(theirs) == ours
