"""What the DHCP server says, in every state of a client, and when it says nothing."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any

import pytest

from passt.facts.guest import GuestFamily, GuestNet
from passt.light.values import replace
from passt.responders.dhcp import DhcpReply, DhcpResponder, can_serve
from passt.wire.dhcp import BootpOp, DhcpMessage
from passt.wire.dhcp_options import (
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
    ParameterRequestList,
    RapidCommit,
    RelayAgentInformation,
    RequestedAddress,
    Routers,
    ServerId,
    StaticRoute,
    sort_options,
    split_area,
)

if TYPE_CHECKING:
    from collections.abc import Callable

MAC = bytes.fromhex("020000000005")
GUEST, GATEWAY, OTHER = IPv4Address("192.0.2.5"), IPv4Address("192.0.2.1"), IPv4Address("10.1.2.3")
ZERO, BROADCAST = IPv4Address("0.0.0.0"), IPv4Address("255.255.255.255")
DNS = (IPv4Address("192.0.2.53"), IPv4Address("198.51.100.53"))
FAMILY = GuestFamily(GUEST, 24, GATEWAY, GATEWAY, resolvers=DNS)
NET = GuestNet(FAMILY, None, "eth0", search=("example.com", "lan.example.com"), hostname="box")
# Options by names; a value that is None or empty is an option that is not there.
CLASSES: dict[str, Callable[[Any], DhcpOption]] = {
    "netmask": Netmask,
    "routers": Routers,
    "name_servers": NameServers,
    "host_name": HostName,
    "domain_name": DomainName,
    "mtu": LinkMtu,
    "requested_address": RequestedAddress,
    "lease_time_s": LeaseTime,
    "message_type": MessageTypeOption,
    "server_id": ServerId,
    "parameter_request_list": ParameterRequestList,
    "message": Message,
    "max_message_size": MaxMessageSize,
    "client_id": ClientId,
    "rapid_commit": lambda _: RapidCommit(),
    "client_fqdn": ClientFqdn.parse,
    "relay_agent_information": RelayAgentInformation,
    "domain_search": DomainSearch,
    "classless_static_routes": ClasslessStaticRoutes,
}
FACTS: dict[str, Any] = {
    "netmask": IPv4Address("255.255.255.0"),
    "routers": (GATEWAY,),
    "name_servers": DNS,
    "host_name": b"box",
    "domain_name": b"example.com",
    "mtu": 65520,
    "lease_time_s": 0xFFFFFFFF,
    "server_id": GATEWAY,
    "domain_search": ("example.com", "lan.example.com"),
}


def options(**named: Any) -> tuple[DhcpOption, ...]:
    return sort_options(CLASSES[name](value) for name, value in named.items() if value not in {None, (), b""})


def facts(**changes: Any) -> tuple[DhcpOption, ...]:
    return options(**FACTS | changes)


def message(message_type: int = 0, **changes: Any) -> DhcpMessage:
    fields = {name: changes.pop(name) for name in tuple(changes) if name in DhcpMessage.FIELDS}
    asked = options(message_type=message_type or None, **changes)
    return replace(DhcpMessage(BootpOp.REQUEST, 0x12345678, MAC, options=asked), **fields)


def respond(request: DhcpMessage, net: GuestNet = NET, source: IPv4Address = ZERO) -> DhcpReply | str:
    assert net.ip4 is not None
    return DhcpResponder(net, net.ip4).respond(request, source)


def answer(
    request: DhcpMessage, net: GuestNet = NET, source: IPv4Address = ZERO
) -> tuple[DhcpReply, DhcpMessage]:
    reply = respond(request, net, source)
    assert isinstance(reply, DhcpReply), reply
    return reply, DhcpMessage.parse(reply.payload)


DISCOVER, REQUEST, INFORM = MessageType.DISCOVER, MessageType.REQUEST, MessageType.INFORM
OFFER, ACK, NAK = MessageType.OFFER, MessageType.ACK, MessageType.NAK


# Discovery


def test_discover_gets_an_offer_with_all_facts() -> None:
    reply, offer = answer(message(DISCOVER))
    assert (reply.destination, reply.port, reply.kind) == (GUEST, 68, "OFFER")
    assert offer == DhcpMessage(
        BootpOp.REPLY, 0x12345678, MAC, yiaddr=GUEST, options=facts(message_type=OFFER)
    )


def test_client_with_rapid_commit_gets_its_acknowledgement_at_once() -> None:
    reply, ack = answer(message(DISCOVER, rapid_commit=True))
    assert reply.kind == "ACK"
    assert ack.yiaddr == GUEST
    assert ack.options == facts(message_type=ACK, rapid_commit=True)
    assert answer(message(REQUEST, rapid_commit=True))[1].find(RapidCommit) is None


def test_client_that_prefers_another_address_is_offered_ours() -> None:
    assert answer(message(DISCOVER, requested_address=OTHER))[1].yiaddr == GUEST


# Requests in the four states of RFC 2131 figure 5


@pytest.mark.parametrize(
    "fields",
    [
        {"server_id": GATEWAY, "requested_address": GUEST},
        {"server_id": GATEWAY},
        {"requested_address": GUEST},
        {"ciaddr": GUEST},
        {},
    ],
    ids=["selecting", "selecting-without-address", "init-reboot", "renewing", "nothing"],
)
def test_request_for_our_address_is_acknowledged(fields: dict[str, Any]) -> None:
    reply, ack = answer(message(REQUEST, **fields))
    assert (reply.kind, ack.yiaddr, ack.ciaddr) == ("ACK", GUEST, fields.get("ciaddr", ZERO))
    assert (reply.destination, reply.port) == (GUEST, 68)
    assert ack.options == facts(message_type=ACK)


@pytest.mark.parametrize(
    "fields",
    [
        {"server_id": GATEWAY, "requested_address": OTHER},
        {"requested_address": OTHER},
        {"ciaddr": OTHER},
        {"ciaddr": OTHER, "client_id": b"\x01abc"},
    ],
    ids=["selecting", "init-reboot", "renewing", "client-id"],
)
def test_request_for_another_address_is_refused(fields: dict[str, Any]) -> None:
    reply, nak = answer(message(REQUEST, **fields))
    # RFC 2131 table 3 and 4.1: broadcast, and nothing but type, server and reason (and RFC 6842).
    assert (reply.kind, reply.destination, reply.port) == ("NAK", BROADCAST, 68)
    assert (nak.yiaddr, nak.ciaddr) == (ZERO, ZERO)
    assert nak.options == options(
        message_type=NAK,
        server_id=GATEWAY,
        message=b"10.1.2.3 is not available here",
        client_id=fields.get("client_id", b""),
    )


def test_request_to_another_server_is_left_to_it() -> None:
    assert respond(message(REQUEST, server_id=OTHER, requested_address=GUEST)) == (
        "the client has chosen the server 10.1.2.3"
    )


# Another network: a server that knows its predecessors

OLD, OLD_GATEWAY = IPv4Address("198.51.100.5"), IPv4Address("198.51.100.1")
BEFORE = GuestFamily(OLD, 24, OLD_GATEWAY, OLD_GATEWAY)


def successor(*families: GuestFamily) -> DhcpResponder:
    """Make the server for the last one of *families*, after all others."""
    made = None
    for family in families:
        made = DhcpResponder(replace(NET, ip4=family), family, before=made)
    assert made is not None
    return made


@pytest.mark.parametrize(("fields", "destination"), [
    ({"ciaddr": OLD}, OLD_GATEWAY),
    ({"ciaddr": OLD}, BROADCAST),
    ({"requested_address": OLD}, BROADCAST),
    ({"server_id": OLD_GATEWAY, "requested_address": OLD}, BROADCAST),
    ({"server_id": OLD_GATEWAY}, OLD_GATEWAY),
], ids=["renewing", "rebinding", "init-reboot", "selecting", "renewing-with-id"])
def test_refusal_of_a_former_lease_is_that_of_the_server_that_gave_it(fields: dict[str, Any],
                                                                    destination: IPv4Address) -> None:
    fields = {"ciaddr": OLD} | fields if destination == OLD_GATEWAY else fields
    reply = successor(BEFORE, FAMILY).respond(message(REQUEST, **fields), ZERO, destination)
    assert isinstance(reply, DhcpReply)
    assert (reply.kind, reply.source, reply.destination) == ("NAK", OLD_GATEWAY, BROADCAST)
    assert DhcpMessage.parse(reply.payload).options == options(
        message_type=NAK, server_id=OLD_GATEWAY, message=b"198.51.100.5 is not available here")


def test_renewal_at_a_former_server_of_an_address_that_stays_is_acknowledged_by_the_new_one() -> None:
    server = successor(replace(FAMILY, gateway=OTHER, our_address=OTHER), FAMILY)
    reply = server.respond(message(REQUEST, ciaddr=GUEST), GUEST, OTHER)
    assert isinstance(reply, DhcpReply)
    # From there the client expects it; from now on it renews at the new one.
    assert (reply.kind, reply.source, reply.destination) == ("ACK", OTHER, GUEST)
    assert DhcpMessage.parse(reply.payload).options == facts(message_type=ACK)
    chosen = server.respond(message(REQUEST, server_id=OTHER, requested_address=GUEST), ZERO)
    assert isinstance(chosen, DhcpReply)
    assert DhcpMessage.parse(chosen.payload).options == facts(message_type=ACK, server_id=OTHER)


def test_address_that_several_servers_gave_is_acknowledged_from_each_of_them() -> None:
    third = IPv4Address("10.1.2.4")
    server = successor(*(replace(FAMILY, gateway=gateway, our_address=gateway)
                         for gateway in (OTHER, third, OTHER, third)), FAMILY)
    assert server.servers() == (OTHER, third, GATEWAY)
    for destination in (OTHER, third):
        reply = server.respond(message(REQUEST, ciaddr=GUEST), GUEST, destination)
        assert isinstance(reply, DhcpReply)
        assert (reply.kind, reply.source) == ("ACK", destination)


def test_former_servers_are_few_and_their_addresses_those_of_others_again() -> None:
    hosts = [IPv4Address(int(OLD) + n) for n in range(20)]
    gateways = [IPv4Address(int(OTHER) + n) for n in range(20)]
    server = successor(*(GuestFamily(*pair, gateway, gateway)
                         for pair, gateway in zip(((host, 24) for host in hosts), gateways, strict=True)))
    assert list(server.leases().items()) == list(zip(hosts, gateways, strict=True))[-8:]
    assert server.respond(message(REQUEST, server_id=gateways[3], requested_address=OLD), ZERO) == (
        f"the client has chosen the server {gateways[3]}")
    back = successor(FAMILY, BEFORE, FAMILY)
    assert list(back.leases()) == [OLD, GUEST]
    assert isinstance(back.respond(message(REQUEST, ciaddr=GUEST), GUEST, GATEWAY), DhcpReply)


# Other messages


def test_inform_is_answered_without_address_and_lease() -> None:
    reply, ack = answer(message(INFORM, ciaddr=OTHER))
    assert (reply.destination, reply.port, ack.yiaddr, ack.ciaddr) == (OTHER, 68, ZERO, OTHER)
    assert ack.options == facts(message_type=ACK, lease_time_s=None)


def test_inform_without_address_goes_back_to_its_source() -> None:
    assert answer(message(INFORM), source=OTHER)[0].destination == OTHER
    assert isinstance(respond(message(INFORM)), str)


@pytest.mark.parametrize(
    "message_type", [MessageType.DECLINE, MessageType.RELEASE, OFFER, ACK, NAK, 9, 10, 255]
)
def test_message_without_answer(message_type: int) -> None:
    assert isinstance(respond(message(message_type, server_id=GATEWAY, requested_address=GUEST)), str)


def test_reply_of_another_server_is_ignored() -> None:
    assert respond(replace(message(DISCOVER), op=BootpOp.REPLY)) == "it is not a request"


def test_bootp_client_gets_no_option_of_dhcp() -> None:
    reply, found = answer(message(requested_address=OTHER))
    assert (reply.kind, reply.destination, found.yiaddr) == ("BOOTP reply", GUEST, GUEST)
    assert found.options == facts(lease_time_s=None, server_id=None)


def test_bootp_client_without_cookie_gets_none() -> None:
    assert answer(replace(message(), options=None))[1] == DhcpMessage(
        BootpOp.REPLY, 0x12345678, MAC, yiaddr=GUEST
    )


# Where replies go, and what they echo (RFC 2131 4.1 and table 3)


@pytest.mark.parametrize(
    ("fields", "destination", "port"),
    [
        ({}, GUEST, 68),
        ({"broadcast": True}, BROADCAST, 68),
        ({"ciaddr": GUEST, "broadcast": True}, GUEST, 68),
        ({"giaddr": IPv4Address("192.0.2.9"), "broadcast": True}, IPv4Address("192.0.2.9"), 67),
        ({"giaddr": IPv4Address("192.0.2.9"), "ciaddr": GUEST}, IPv4Address("192.0.2.9"), 67),
    ],
)
def test_destination(fields: dict[str, Any], destination: IPv4Address, port: int) -> None:
    for message_type in (DISCOVER, REQUEST, 0):
        reply, found = answer(message(message_type, **fields))
        assert (reply.destination, reply.port) == (destination, port)
        assert found.broadcast == fields.get("broadcast", False)
        assert found.giaddr == fields.get("giaddr", ZERO)


def test_refusal_through_a_relay_is_to_be_broadcast_by_it() -> None:
    relay = IPv4Address("192.0.2.9")
    reply, nak = answer(message(REQUEST, requested_address=OTHER, giaddr=relay))
    assert (reply.destination, reply.port, nak.broadcast) == (relay, 67, True)


def test_clients_of_a_relay_on_another_link_get_nothing() -> None:
    assert respond(message(DISCOVER, giaddr=OTHER)) == "the relay 10.1.2.3 is on another link"


def test_reply_is_made_afresh_from_the_fields_that_table_3_names() -> None:
    request = message(
        DISCOVER,
        htype=6,
        chaddr=b"12345678",
        hops=3,
        secs=9,
        siaddr=OTHER,
        yiaddr=OTHER,
        sname=b"server",
        file=b"boot",
        client_id=b"id",
        relay_agent_information=b"\1\1a",
    )
    assert answer(request)[1] == DhcpMessage(
        BootpOp.REPLY,
        0x12345678,
        b"12345678",
        htype=6,
        yiaddr=GUEST,
        options=facts(message_type=OFFER, client_id=b"id", relay_agent_information=b"\1\1a"),
    )


def test_options_come_in_the_order_asked() -> None:
    reply, _ = answer(message(DISCOVER, parameter_request_list=bytes((121, 119, 6, 3, 42, 1))))
    assert [code for code, _ in split_area(reply.payload[240:])] == [53, 119, 6, 3, 1, 12, 15, 26, 51, 54]


# Facts


@pytest.mark.parametrize(
    ("net", "changes"),
    [
        (replace(NET, mtu=None), {"mtu": None}),
        (replace(NET, search=()), {"domain_search": (), "domain_name": b""}),
        (replace(NET, hostname=""), {"host_name": b""}),
        (replace(NET, ip4=replace(FAMILY, resolvers=())), {"name_servers": ()}),
        (
            replace(NET, ip4=replace(FAMILY, prefix_len=31, gateway=IPv4Address("192.0.2.4"))),
            {"netmask": IPv4Address("255.255.255.254"), "routers": (IPv4Address("192.0.2.4"),)},
        ),
        (replace(NET, ip4=replace(FAMILY, prefix_len=0)), {"netmask": ZERO}),
        (
            replace(NET, ip4=replace(FAMILY, prefix_len=32)),
            {
                "netmask": BROADCAST,
                "classless_static_routes": (StaticRoute(GATEWAY, 32, ZERO), StaticRoute(ZERO, 0, GATEWAY)),
            },
        ),
        (
            replace(NET, ip4=replace(FAMILY, gateway=OTHER)),
            {
                "routers": (OTHER,),
                "classless_static_routes": (StaticRoute(OTHER, 32, ZERO), StaticRoute(ZERO, 0, OTHER)),
            },
        ),
    ],
)
def test_facts(net: GuestNet, changes: dict[str, Any]) -> None:
    assert answer(message(DISCOVER), net)[1].options == facts(message_type=OFFER, **changes)


@pytest.mark.parametrize(
    ("asked", "flags"),
    [
        ({"parameter_request_list": b"\x51"}, ClientFqdn.ENCODED),
        ({"client_fqdn": b"\x04\0\0\3box"}, ClientFqdn.ENCODED),
        ({"client_fqdn": b"\x01\0\0box"}, ClientFqdn.OVERRIDES),
        ({"client_fqdn": b"\x01"}, ClientFqdn.OVERRIDES),
        ({"client_fqdn": b"\x05"}, ClientFqdn.OVERRIDES | ClientFqdn.ENCODED),
    ],
)
def test_full_name_is_told_to_those_who_ask(asked: dict[str, Any], flags: int) -> None:
    named = replace(NET, fqdn="box.example.com")
    expected = ClientFqdn.of_name("box.example.com", flags)
    assert answer(message(DISCOVER, **asked), named)[1].find(ClientFqdn) == expected
    assert answer(message(DISCOVER, **asked))[1].find(ClientFqdn) is None


def test_full_name_is_not_told_unasked() -> None:
    assert answer(message(DISCOVER), replace(NET, fqdn="box.example.com"))[1].find(ClientFqdn) is None


def test_server_needs_addresses() -> None:
    assert can_serve(FAMILY)
    for family in (replace(FAMILY, address=None), replace(FAMILY, our_address=None, gateway=None)):
        assert not can_serve(family)
        with pytest.raises(TypeError):
            DhcpResponder(NET, family)
    with pytest.raises(TypeError):
        DhcpResponder(NET, replace(FAMILY, address=IPv6Address("::2")))


# Room

LONG = tuple(f"{letter * 40}.example" for letter in "abcdefgh")


def packet_len(reply: DhcpReply) -> int:
    return len(reply.payload) + 28


def test_search_list_is_cut_to_the_room_with_one_warning() -> None:
    net, warnings = replace(NET, search=LONG), list[str]()
    responder = DhcpResponder(net, FAMILY, warn=warnings.append)
    (warning,) = warnings
    for size, n_names in ((None, 4), (0, 4), (576, 4), (600, 5), (1000, 8), (65535, 8)):
        reply = responder.respond(message(REQUEST, max_message_size=size), ZERO)
        assert isinstance(reply, DhcpReply)
        assert packet_len(reply) <= max(size or 0, 576)
        assert DhcpMessage.parse(reply.payload).find(DomainSearch) == DomainSearch(LONG[:n_names])
    assert warning.endswith(": " + " ".join(LONG[4:]))


def test_what_fits_gives_no_warning() -> None:
    warnings = list[str]()
    DhcpResponder(NET, FAMILY, warn=warnings.append)
    assert warnings == []


@pytest.mark.parametrize("extra", [50, 150, 200, 250, 300, 600, 1200])
def test_reply_never_exceeds_what_the_client_takes(extra: int) -> None:
    net = replace(NET, search=LONG, fqdn="x" * 60 + ".example", hostname="h" * 60)
    request = message(
        DISCOVER, client_id=bytes(extra), client_fqdn=b"\4", relay_agent_information=bytes(extra)
    )
    reply, offer = answer(request, net)
    assert packet_len(reply) <= 576
    assert set(options(**{name: FACTS[name] for name in ("netmask", "routers", "mtu", "server_id")})) < set(
        offer.options or ()
    )
    assert offer.find(ClientId) in {None, ClientId(bytes(extra))}


def test_reply_never_exceeds_what_ethernet_carries() -> None:
    net = replace(NET, search=tuple(f"{index}{'x' * 60}.example" for index in range(30)))
    reply, _ = answer(message(DISCOVER, max_message_size=65535), net)
    assert 1400 < packet_len(reply) <= 1500


def test_lease_is_as_long_as_it_is_said_to_be() -> None:
    message = DhcpMessage(BootpOp.REQUEST, 7, MAC, options=(MessageTypeOption(MessageType.DISCOVER),))
    reply = DhcpResponder(NET, FAMILY, lease_s=120).respond(message, ZERO)
    assert isinstance(reply, DhcpReply)
    assert DhcpMessage.parse(reply.payload).find(LeaseTime) == LeaseTime(120)
