"""Neighbour discovery messages and the rules for their envelopes."""

from collections.abc import Callable
from ipaddress import IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)

from passt.errors import WireError
from passt.light.values import replace
from passt.wire.icmp6 import Icmp6Message
from passt.wire.ip6 import Ip6Packet
from passt.wire.ndp import (
    NdpMessage,
    NeighbourAdvertisement,
    NeighbourSolicitation,
    RouterAdvertisement,
    RouterSolicitation,
    build_message,
    is_ndp,
    parse_message,
)
from passt.wire.ndp_options import (
    DnsSearchList,
    LinkMtu,
    NdpOption,
    PrefixInformation,
    RecursiveDnsServers,
    SourceLinkLayer,
    TargetLinkLayer,
)

GUEST_MAC = bytes.fromhex("020000000005")
OUR_MAC = bytes.fromhex("9a559a559a55")
GUEST = IPv6Address("2001:db8::5")
GUEST_LINK_LOCAL = IPv6Address("fe80::ff:fe00:5")
ROUTER = IPv6Address("fe80::1")
UNSPECIFIED = IPv6Address("::")
ALL_NODES = IPv6Address("ff02::1")

GOLDEN: list[tuple[str, NdpMessage]] = [
    ("neighbour_solicitation", NeighbourSolicitation(ROUTER, (SourceLinkLayer(GUEST_MAC),))),
    (
        "neighbour_advertisement",
        NeighbourAdvertisement(
            ROUTER, router=True, solicited=True, override=True, options=(TargetLinkLayer(OUR_MAC),)
        ),
    ),
    ("router_solicitation", RouterSolicitation((SourceLinkLayer(GUEST_MAC),))),
    (
        "router_advertisement",
        RouterAdvertisement(
            255,
            managed=True,
            other=False,
            lifetime_s=0xFFFF,
            options=(
                PrefixInformation(IPv6Address("2001:db8::"), 64),
                SourceLinkLayer(OUR_MAC),
                LinkMtu(65520),
                RecursiveDnsServers((IPv6Address("2001:db8::53"),)),
                DnsSearchList(("example.com", "lan")),
            ),
        ),
    ),
]
IDS = [name for name, _ in GOLDEN]

OPTIONS: st.SearchStrategy[tuple[NdpOption, ...]] = st.lists(
    st.one_of(
        st.builds(SourceLinkLayer, st.binary(min_size=6, max_size=6)),
        st.builds(LinkMtu, st.integers(0, 0xFFFFFFFF)),
    ),
    max_size=3,
).map(tuple)
UNICAST = st.ip_addresses(v=6).filter(lambda address: not address.is_multicast)
MESSAGES: st.SearchStrategy[NdpMessage] = st.one_of(
    st.builds(RouterSolicitation, OPTIONS),
    st.builds(
        RouterAdvertisement,
        st.integers(0, 255),
        st.booleans(),
        st.booleans(),
        st.integers(0, 0xFFFF),
        st.integers(0, 0xFFFFFFFF),
        st.integers(0, 0xFFFFFFFF),
        OPTIONS,
    ),
    st.builds(NeighbourSolicitation, UNICAST, OPTIONS),
    st.builds(NeighbourAdvertisement, UNICAST, st.booleans(), st.booleans(), st.booleans(), OPTIONS),
)


def packet(source: IPv6Address, destination: IPv6Address, hop_limit: int = 255) -> Ip6Packet:
    """Make an envelope; `parse_message` does not look at its payload."""
    return Ip6Packet(source, destination, 58, b"", hop_limit)


@pytest.mark.parametrize(("name", "message"), GOLDEN, ids=IDS)
def test_golden_message_both_ways(vector: Callable[[str], bytes], name: str, message: NdpMessage) -> None:
    envelope = Ip6Packet.parse(vector(name)[14:])
    icmp = Icmp6Message.parse(envelope.payload, envelope.source, envelope.destination)
    assert parse_message(icmp, envelope) == message
    assert build_message(message) == icmp


@pytest.mark.parametrize(("name", "message"), GOLDEN, ids=IDS)
def test_truncation_rejected_but_between_options(
    vector: Callable[[str], bytes], name: str, message: NdpMessage
) -> None:
    body = vector(name)[14 + 40 + 4 :]
    starts_of_options = {
        len(replace(message, options=message.options[:n]).build()) for n in range(len(message.options))
    }
    for length in range(len(body)):
        if length in starts_of_options:
            assert type(message).parse(body[:length]) != message
        else:
            with pytest.raises(WireError):
                type(message).parse(body[:length])


@given(MESSAGES)
def test_round_trip(message: NdpMessage) -> None:
    assert type(message).parse(message.build()) == message


@given(MESSAGES)
def test_agrees_with_scapy(message: NdpMessage) -> None:
    data = build_message(message).build(ROUTER, GUEST)
    theirs = IPv6(Ip6Packet(ROUTER, GUEST, 58, data).build()).payload
    match message:
        case RouterSolicitation():
            assert isinstance(theirs, ICMPv6ND_RS)
        case RouterAdvertisement():
            assert isinstance(theirs, ICMPv6ND_RA)
            assert (
                theirs.chlim,
                theirs.M,
                theirs.O,
                theirs.routerlifetime,
                theirs.reachabletime,
                theirs.retranstimer,
            ) == (
                message.hop_limit,
                message.managed,
                message.other,
                message.lifetime_s,
                message.reachable_ms,
                message.retransmit_ms,
            )
        case NeighbourSolicitation():
            assert isinstance(theirs, ICMPv6ND_NS)
            assert IPv6Address(theirs.tgt) == message.target
        case NeighbourAdvertisement():
            assert isinstance(theirs, ICMPv6ND_NA)
            assert (IPv6Address(theirs.tgt), theirs.R, theirs.S, theirs.O) == (
                message.target,
                message.router,
                message.solicited,
                message.override,
            )
    del theirs.cksum
    assert bytes(IPv6(src=str(ROUTER), dst=str(GUEST)) / theirs)[40:] == data


@given(
    st.binary(max_size=80),
    st.sampled_from([RouterSolicitation, RouterAdvertisement, NeighbourSolicitation, NeighbourAdvertisement]),
)
def test_any_body_parses_or_is_rejected(body: bytes, cls: type[NdpMessage]) -> None:
    try:
        message = cls.parse(body)
    except WireError:
        return
    assert cls.parse(message.build()) == message


NS = NeighbourSolicitation(ROUTER)
NA = NeighbourAdvertisement(ROUTER, router=False, solicited=True, override=False)
RA = RouterAdvertisement(64, managed=False, other=False, lifetime_s=0)
SOLICITED_NODE = IPv6Address("ff02::1:ff00:1")


@pytest.mark.parametrize(
    ("envelope", "message"),
    [
        (packet(GUEST, SOLICITED_NODE), NS),
        (packet(GUEST, ROUTER), NS),
        (packet(UNSPECIFIED, SOLICITED_NODE), NS),
        (packet(UNSPECIFIED, IPv6Address("ff02::2")), RouterSolicitation()),
        (packet(GUEST, ROUTER), NA),
        (packet(GUEST, ALL_NODES), replace(NA, solicited=False)),
        (packet(ROUTER, ALL_NODES), RA),
    ],
)
def test_valid_envelope_accepted(envelope: Ip6Packet, message: NdpMessage) -> None:
    assert parse_message(build_message(message), envelope) == message


@pytest.mark.parametrize(
    ("envelope", "message", "reason"),
    [
        (packet(GUEST, SOLICITED_NODE, 254), NS, "hop limit 254"),
        (packet(GUEST, SOLICITED_NODE, 0), RouterSolicitation(), "hop limit 0"),
        (packet(ROUTER, GUEST, 64), RA, "hop limit 64"),
        (packet(ROUTER, GUEST, 64), NA, "hop limit 64"),
        (
            packet(UNSPECIFIED, SOLICITED_NODE),
            replace(NS, options=(SourceLinkLayer(GUEST_MAC),)),
            "unspecified source",
        ),
        (
            packet(UNSPECIFIED, IPv6Address("ff02::2")),
            RouterSolicitation((SourceLinkLayer(GUEST_MAC),)),
            "unspecified source",
        ),
        (packet(UNSPECIFIED, ROUTER), NS, "solicited-node"),
        (packet(UNSPECIFIED, ALL_NODES), NS, "solicited-node"),
        (packet(UNSPECIFIED, IPv6Address("ff02::1:ff00:2")), NS, "solicited-node"),
        (packet(GUEST, ALL_NODES), RA, "link-local"),
        (packet(GUEST, ALL_NODES), NA, "solicited"),
    ],
)
def test_invalid_envelope_rejected(envelope: Ip6Packet, message: NdpMessage, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        parse_message(build_message(message), envelope)


@pytest.mark.parametrize("message", [NS, NA, RA, RouterSolicitation()])
def test_code_other_than_zero_rejected(message: NdpMessage) -> None:
    with pytest.raises(WireError, match="code 1"):
        parse_message(replace(build_message(message), code=1), packet(ROUTER, GUEST))


@pytest.mark.parametrize("cls", [NeighbourSolicitation, NeighbourAdvertisement])
def test_multicast_target_rejected(cls: type[NeighbourSolicitation | NeighbourAdvertisement]) -> None:
    with pytest.raises(WireError, match="target is multicast"):
        cls.parse(bytes(4) + ALL_NODES.packed)


def test_reserved_bits_are_ignored() -> None:
    assert NeighbourSolicitation.parse(b"\xff\xff\xff\xff" + ROUTER.packed) == NS
    assert RouterSolicitation.parse(b"\xff" * 4) == RouterSolicitation()
    assert RouterAdvertisement.parse(b"\x40\x3f" + bytes(10)) == RA
    assert NeighbourAdvertisement.parse(b"\x5f\xff\xff\xff" + ROUTER.packed) == NA


def test_only_the_four_types_are_ours() -> None:
    assert [kind for kind in range(256) if is_ndp(kind)] == [133, 134, 135, 136]


def test_scapy_solicitation_is_read() -> None:
    theirs = (
        IPv6(src=str(GUEST_LINK_LOCAL), dst="ff02::2", hlim=255)
        / ICMPv6ND_RS()
        / ICMPv6NDOptSrcLLAddr(lladdr=GUEST_MAC.hex(":"))
    )
    envelope = Ip6Packet.parse(bytes(theirs))
    icmp = Icmp6Message.parse(envelope.payload, envelope.source, envelope.destination)
    assert parse_message(icmp, envelope) == RouterSolicitation((SourceLinkLayer(GUEST_MAC),))


@pytest.mark.parametrize(
    ("cls", "fields"),
    [
        (NeighbourSolicitation, (ALL_NODES,)),
        (NeighbourAdvertisement, (ALL_NODES, True, True, True)),
        (RouterAdvertisement, (256, False, False, 0)),
        (RouterAdvertisement, (0, False, False, 0x10000)),
        (RouterAdvertisement, (0, False, False, 0, 1 << 32)),
        (RouterAdvertisement, (0, False, False, 0, 0, -1)),
    ],
)
def test_impossible_values_are_no_message(cls: type[Any], fields: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=r"multicast|RA"):
        cls(*fields)
