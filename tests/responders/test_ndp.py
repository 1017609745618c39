"""Which solicitations are answered, and what the advertisements say."""

from ipaddress import IPv4Address, IPv6Address

import pytest

from passt.facts.guest import GuestFamily, GuestNet
from passt.facts.host import InterfaceAddress
from passt.facts.settings import OUR_MAC
from passt.light.values import replace
from passt.responders.ndp import NdpReply, NdpResponder
from passt.responders.neighbours import Neighbours
from passt.wire.ndp import NdpMessage, NeighbourAdvertisement, NeighbourSolicitation, RouterAdvertisement
from passt.wire.ndp import RouterSolicitation as Rs
from passt.wire.ndp_options import (
    DnsSearchList,
    LinkMtu,
    PrefixInformation,
    RecursiveDnsServers,
    SourceLinkLayer,
    TargetLinkLayer,
)

GUEST = IPv6Address("2001:db8::5")
SECOND = IPv6Address("2001:db8:2::5")
LINK_LOCAL = IPv6Address("fe80::ff:fe00:5")
ROUTER = IPv6Address("fe80::1")
NOBODY = Neighbours(OUR_MAC, lambda _: False)
ELSEWHERE = IPv6Address("2001:db8::77")
UNSPECIFIED = IPv6Address("::")
ALL_NODES = IPv6Address("ff02::1")
DNS = IPv6Address("2001:db8::53")
FAMILY = GuestFamily(
    address=GUEST,
    prefix_len=64,
    gateway=ROUTER,
    our_address=ROUTER,
    resolvers=(DNS,),
    copied_addresses=(InterfaceAddress(SECOND, 64, 0, 0, b""),),
)


def net(family: GuestFamily = FAMILY, *, mtu: int | None = 65520, search: tuple[str, ...] = ()) -> GuestNet:
    return GuestNet(None, family, "eth0", mtu=mtu, search=search)


def advertisement(guest: GuestNet, *, managed: bool = True) -> RouterAdvertisement:
    assert guest.ip6
    reply = NdpResponder(guest, guest.ip6, NOBODY, managed=managed).respond(LINK_LOCAL, Rs())
    assert reply is not None
    assert isinstance(reply.message, RouterAdvertisement)
    return reply.message


RESPONDER = NdpResponder(net(), FAMILY, NOBODY)


@pytest.mark.parametrize("target", [ROUTER, ELSEWHERE, IPv6Address("fe80::77"), IPv6Address("2001:db8:9::1")])
@pytest.mark.parametrize("source", [GUEST, LINK_LOCAL, IPv6Address("2001:db8::abcd")])
def test_neighbour_solicitation_for_any_target_answered(source: IPv6Address, target: IPv6Address) -> None:
    assert RESPONDER.respond(source, NeighbourSolicitation(target)) == NdpReply(
        ROUTER,
        source,
        NeighbourAdvertisement(
            target, router=True, solicited=True, override=True, options=(TargetLinkLayer(OUR_MAC),)
        ),
        OUR_MAC,
    )


def test_neighbour_of_the_host_answers_itself() -> None:
    mac = bytes.fromhex("0200000000aa")
    neighbours = Neighbours(OUR_MAC, lambda _: False)
    neighbours.replace({ELSEWHERE.packed: mac})
    responder = NdpResponder(net(), FAMILY, neighbours)
    assert responder.respond(GUEST, NeighbourSolicitation(ELSEWHERE)) == NdpReply(
        ELSEWHERE, GUEST, NeighbourAdvertisement(ELSEWHERE, router=False, solicited=True, override=True,
                                                 options=(TargetLinkLayer(mac),)), mac)
    assert responder.respond(GUEST, NeighbourSolicitation(ELSEWHERE), mac) == NdpReply(
        ROUTER, GUEST, NeighbourAdvertisement(ELSEWHERE, router=True, solicited=True, override=True,
                                              options=(TargetLinkLayer(OUR_MAC),)), OUR_MAC)
    assert responder.respond(UNSPECIFIED, NeighbourSolicitation(ELSEWHERE)) is None


def test_host_address_answered_for_a_guest_that_uses_another() -> None:
    reply = RESPONDER.respond(IPv6Address("2001:db8::abcd"), NeighbourSolicitation(GUEST))
    assert reply is not None
    assert reply.destination == IPv6Address("2001:db8::abcd")


@pytest.mark.parametrize("target", [GUEST, SECOND, LINK_LOCAL, ELSEWHERE])
def test_duplicate_address_detection_not_disturbed(target: IPv6Address) -> None:
    assert RESPONDER.respond(UNSPECIFIED, NeighbourSolicitation(target)) is None


MAP_HOST, MAP_GUEST, DNS_MATCH = (IPv6Address(f"2001:db8::{n}") for n in ("a", "b", "c"))


@pytest.mark.parametrize("target", [ROUTER, MAP_HOST, MAP_GUEST, DNS_MATCH])
def test_addresses_that_stand_for_the_host_are_defended(target: IPv6Address) -> None:
    family = replace(FAMILY, map_host_loopback=MAP_HOST, map_guest=MAP_GUEST, dns_match=DNS_MATCH)
    reply = NdpResponder(net(family), family, NOBODY).respond(UNSPECIFIED, NeighbourSolicitation(target))
    assert reply == NdpReply(
        ROUTER,
        ALL_NODES,
        NeighbourAdvertisement(
            target, router=True, solicited=False, override=True, options=(TargetLinkLayer(OUR_MAC),)
        ),
        OUR_MAC,
    )


def test_assigned_address_is_never_defended_even_if_it_is_the_gateway_s_too() -> None:
    family = replace(FAMILY, gateway=GUEST, map_host_loopback=SECOND)
    responder = NdpResponder(net(family), family, NOBODY)
    assert responder.respond(UNSPECIFIED, NeighbourSolicitation(GUEST)) is None
    assert responder.respond(UNSPECIFIED, NeighbourSolicitation(SECOND)) is None


def test_unsolicited_advertisement_goes_to_all_nodes() -> None:
    reply = RESPONDER.advertise()
    assert reply == RESPONDER.respond(UNSPECIFIED, Rs())
    assert NdpResponder(net(), FAMILY, NOBODY, router_advertisements=False).advertise() is None


def test_mtu_that_ipv6_cannot_have_is_left_out() -> None:
    assert LinkMtu(1280) in advertisement(net(mtu=1280)).options
    assert not any(isinstance(option, LinkMtu) for option in advertisement(net(mtu=1279)).options)


@pytest.mark.parametrize("address", [GUEST, LINK_LOCAL])
def test_own_address_of_the_asker_not_claimed(address: IPv6Address) -> None:
    assert RESPONDER.respond(address, NeighbourSolicitation(address)) is None


@pytest.mark.parametrize("our_address", [None, IPv6Address("2001:db8::1"), IPv4Address("192.0.2.1")])
def test_without_link_local_address_of_ours_the_target_itself_answers(
    our_address: IPv6Address | IPv4Address | None,
) -> None:
    family = replace(FAMILY, our_address=our_address)
    responder = NdpResponder(net(family), family, NOBODY)
    reply = responder.respond(GUEST, NeighbourSolicitation(ELSEWHERE))
    assert reply is not None
    assert reply.source == ELSEWHERE
    assert responder.respond(LINK_LOCAL, Rs()) is None


@pytest.mark.parametrize(
    "message",
    [
        NeighbourAdvertisement(GUEST, router=False, solicited=False, override=True),
        RouterAdvertisement(64, managed=False, other=False, lifetime_s=1800),
    ],
)
def test_advertisements_of_the_guest_ignored(message: NdpMessage) -> None:
    assert RESPONDER.respond(LINK_LOCAL, message) is None


def test_router_solicitation_answered_to_the_asker() -> None:
    reply = RESPONDER.respond(LINK_LOCAL, Rs())
    assert reply is not None
    assert (reply.source, reply.destination) == (ROUTER, LINK_LOCAL)


def test_router_solicitation_from_nowhere_answered_to_all_nodes() -> None:
    reply = RESPONDER.respond(UNSPECIFIED, Rs())
    assert reply is not None
    assert (reply.source, reply.destination) == (ROUTER, ALL_NODES)


def test_router_solicitation_ignored_when_advertisements_are_off() -> None:
    responder = NdpResponder(net(), FAMILY, NOBODY, router_advertisements=False)
    assert responder.respond(LINK_LOCAL, Rs()) is None
    assert responder.respond(LINK_LOCAL, NeighbourSolicitation(ROUTER)) is not None


def test_advertisement_is_complete() -> None:
    assert advertisement(net(search=("example.com.", "lan"))) == RouterAdvertisement(
        255,
        managed=True,
        other=False,
        lifetime_s=65535,
        options=(
            PrefixInformation(
                IPv6Address("2001:db8::"),
                64,
                on_link=True,
                autonomous=True,
                valid_s=0xFFFFFFFF,
                preferred_s=0xFFFFFFFF,
            ),
            SourceLinkLayer(OUR_MAC),
            LinkMtu(65520),
            RecursiveDnsServers((DNS,), 0xFFFFFFFF),
            DnsSearchList(("example.com", "lan"), 0xFFFFFFFF),
        ),
    )


def test_managed_flag_follows_the_switch_and_needs_an_address() -> None:
    assert advertisement(net(), managed=True).managed
    assert not advertisement(net(), managed=False).managed
    assert not advertisement(net(replace(FAMILY, address=None)), managed=True).managed


@pytest.mark.parametrize("address", [None, IPv6Address("fe80::5")])
def test_no_prefix_without_an_address_beyond_the_link(address: IPv6Address | None) -> None:
    kinds = [type(option) for option in advertisement(net(replace(FAMILY, address=address))).options]
    assert kinds == [SourceLinkLayer, LinkMtu, RecursiveDnsServers]


def test_prefix_is_a_64_whatever_the_address_has() -> None:
    first = advertisement(net(replace(FAMILY, prefix_len=128))).options[0]
    assert first == PrefixInformation(IPv6Address("2001:db8::"), 64)


def test_nothing_to_say_is_left_out() -> None:
    message = advertisement(
        net(replace(FAMILY, resolvers=()), mtu=None, search=("", ".", "a..b", "caf\u00e9"))
    )
    assert [type(option) for option in message.options] == [PrefixInformation, SourceLinkLayer]


def test_search_list_does_not_need_resolvers() -> None:
    message = advertisement(net(replace(FAMILY, resolvers=()), search=("lan",)))
    assert message.options[-1] == DnsSearchList(("lan",))


def test_resolvers_and_names_are_cut_to_what_fits_the_least_mtu() -> None:
    many = tuple(IPv6Address(int(DNS) + n) for n in range(200))
    search = tuple(f"{'x' * 60}.{n:03}" for n in range(100))
    message = advertisement(net(replace(FAMILY, resolvers=many), search=(*search, "y")))
    servers, names = message.options[-2:]
    assert servers == RecursiveDnsServers(many[:8])
    assert isinstance(names, DnsSearchList)
    assert names.names == (*search[: len(names.names) - 1], "y")
    assert 1280 - 80 < 40 + 4 + len(message.build()) <= 1280


@pytest.mark.parametrize("width", range(1, 60))
def test_search_list_fills_the_least_mtu_but_never_exceeds_it(width: int) -> None:
    length = 40 + 4 + len(advertisement(net(search=("x" * width,) * 1000)).build())
    # A further name of width + 2 bytes would not fit; up to 7 bytes of the option are padding.
    assert 1280 - (width + 2) < length <= 1280


MOVED = replace(FAMILY, address=IPv6Address("2001:db8:9::5"), our_address=IPv6Address("fe80::2"),
                gateway=IPv6Address("fe80::2"), resolvers=(IPv6Address("2001:db8:9::53"),))


def successor(family: GuestFamily, before: NdpResponder, search: tuple[str, ...] = ()) -> NdpResponder:
    return NdpResponder(net(family, search=search), family, NOBODY, before=before)


def said_by(responder: NdpResponder) -> RouterAdvertisement:
    reply = responder.advertise()
    assert reply is not None
    assert isinstance(reply.message, RouterAdvertisement)
    return reply.message


def test_successor_withdraws_what_is_not_true_any_more() -> None:
    before = NdpResponder(net(search=("old.example", "both.example")), FAMILY, NOBODY)
    after = successor(MOVED, before, ("both.example", "new.example"))
    options = said_by(after).options
    prefixes = [(str(one.prefix), one.valid_s, one.preferred_s) for one in options
                if isinstance(one, PrefixInformation)]
    assert prefixes == [("2001:db8:9::", 0xffffffff, 0xffffffff), ("2001:db8::", 0, 0)]
    assert [(one.servers, one.lifetime_s) for one in options if isinstance(one, RecursiveDnsServers)] == [
        (MOVED.resolvers, 0xffffffff), ((DNS,), 0)]
    assert [(one.names, one.lifetime_s) for one in options if isinstance(one, DnsSearchList)] == [
        (("both.example", "new.example"), 0xffffffff), (("old.example",), 0)]
    # A guest may have missed it; what is true again is withdrawn no more.
    assert said_by(successor(MOVED, after, ("both.example", "new.example"))) == said_by(after)
    back = said_by(successor(FAMILY, after, ("old.example", "both.example"))).options
    assert [(str(one.prefix), one.valid_s) for one in back if isinstance(one, PrefixInformation)] == [
        ("2001:db8::", 0xffffffff), ("2001:db8:9::", 0)]


def test_successor_of_the_same_network_says_the_same() -> None:
    before = NdpResponder(net(search=("lan",)), FAMILY, NOBODY)
    assert said_by(successor(FAMILY, before, ("lan",))) == said_by(before)
    assert before.take_leave(successor(FAMILY, before)) is None


def test_withdrawals_are_bounded_and_the_newest_stay() -> None:
    responder = NdpResponder(net(), FAMILY, NOBODY)
    for number in range(40):
        family = replace(MOVED, address=IPv6Address(f"2001:db8:{number + 100:x}::5"),
                         resolvers=(IPv6Address(f"2001:db8:{number + 100:x}::53"),))
        responder = successor(family, responder, tuple(f"{'x' * 50}.n{number}-{i}.example" for i in range(6)))
        assert len(said_by(responder).build()) <= 1280 - 40 - 4
    withdrawn = [one for one in said_by(responder).options
                 if isinstance(one, PrefixInformation) and not one.valid_s]
    assert [str(one.prefix) for one in withdrawn] == [f"2001:db8:{number + 100:x}::"
                                                      for number in (38, 37, 36, 35)]


def test_router_with_another_address_takes_its_leave() -> None:
    before = NdpResponder(net(), FAMILY, NOBODY)
    leave = before.take_leave(successor(MOVED, before))
    assert leave == NdpReply(ROUTER, ALL_NODES, RouterAdvertisement(
        255, managed=False, other=False, lifetime_s=0, options=(SourceLinkLayer(OUR_MAC),)))
    silent = NdpResponder(net(), FAMILY, NOBODY, router_advertisements=False)
    assert silent.take_leave(successor(MOVED, silent)) is None
