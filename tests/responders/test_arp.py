"""Which requests are answered, and which must not be."""

from ipaddress import IPv4Address

import pytest

from passt.facts.guest import GuestFamily
from passt.facts.host import InterfaceAddress
from passt.facts.settings import OUR_MAC
from passt.light.values import replace
from passt.responders.arp import ArpResponder
from passt.responders.neighbours import Neighbours
from passt.wire.arp import ArpOp, ArpPacket

GUEST_MAC = bytes.fromhex("020000000005")
GUEST = IPv4Address("192.0.2.5")
SECOND = IPv4Address("198.51.100.5")
OTHER = IPv4Address("192.0.2.77")
ZERO = IPv4Address("0.0.0.0")
FAMILY = GuestFamily(
    address=GUEST,
    prefix_len=24,
    gateway=IPv4Address("192.0.2.1"),
    our_address=IPv4Address("192.0.2.1"),
    map_host_loopback=IPv4Address("192.0.2.2"),
    map_guest=IPv4Address("192.0.2.3"),
    dns_match=IPv4Address("192.0.2.4"),
    copied_addresses=(InterfaceAddress(GUEST, 24, 0, 0, b""), InterfaceAddress(SECOND, 24, 0, 0, b"")),
)
SEEN = IPv4Address("192.0.2.55")


def is_guest(address: bytes) -> bool:
    return address == SEEN.packed


NEIGHBOURS = Neighbours(OUR_MAC, is_guest)
RESPONDER = ArpResponder(FAMILY, NEIGHBOURS, is_guest)


def request(sender: IPv4Address, target: IPv4Address) -> ArpPacket:
    return ArpPacket(ArpOp.REQUEST, GUEST_MAC, sender, bytes(6), target)


@pytest.mark.parametrize("target", ["192.0.2.1", "192.0.2.2", "192.0.2.77", "203.0.113.9", "0.0.0.0"])
@pytest.mark.parametrize("sender", ["192.0.2.5", "198.51.100.5", "10.1.1.1"])
def test_request_for_any_other_address_answered(sender: str, target: str) -> None:
    reply = RESPONDER.respond(request(IPv4Address(sender), IPv4Address(target)))
    assert reply == ArpPacket(ArpOp.REPLY, OUR_MAC, IPv4Address(target), GUEST_MAC, IPv4Address(sender))


@pytest.mark.parametrize("target", [GUEST, SECOND, SEEN])
@pytest.mark.parametrize("sender", [GUEST, OTHER, ZERO])
def test_addresses_of_the_guest_never_claimed(sender: IPv4Address, target: IPv4Address) -> None:
    assert RESPONDER.respond(request(sender, target)) is None


@pytest.mark.parametrize("address", ["192.0.2.77", "192.0.2.1"])
def test_announcement_ignored(address: str) -> None:
    assert RESPONDER.respond(request(IPv4Address(address), IPv4Address(address))) is None


@pytest.mark.parametrize(
    "target", ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.77", "203.0.113.9", "0.0.0.0"]
)
def test_probe_for_an_address_of_somebody_else_answered(target: str) -> None:
    reply = RESPONDER.respond(request(ZERO, IPv4Address(target)))
    assert reply == ArpPacket(ArpOp.REPLY, OUR_MAC, IPv4Address(target), GUEST_MAC, ZERO)


def test_neighbour_of_the_host_answers_itself() -> None:
    mac = bytes.fromhex("0200000000aa")
    neighbours = Neighbours(OUR_MAC, is_guest)
    neighbours.replace({OTHER.packed: mac, GUEST.packed: mac, SEEN.packed: mac})
    responder = ArpResponder(FAMILY, neighbours, is_guest)
    assert responder.respond(request(GUEST, OTHER)) == ArpPacket(ArpOp.REPLY, mac, OTHER, GUEST_MAC, GUEST)
    assert responder.respond(request(ZERO, OTHER)) == ArpPacket(ArpOp.REPLY, mac, OTHER, GUEST_MAC, ZERO)
    for own in (GUEST, SEEN):
        assert responder.respond(request(GUEST, own)) is None


def test_reply_ignored() -> None:
    assert RESPONDER.respond(replace(request(GUEST, OTHER), op=ArpOp.REPLY)) is None


def test_family_without_gateway_or_address() -> None:
    responder = ArpResponder(GuestFamily(None, 0, None, None), NEIGHBOURS, lambda _: False)
    assert responder.respond(request(GUEST, OTHER)) is not None
    assert responder.respond(request(ZERO, OTHER)) is not None
    assert responder.respond(request(ZERO, ZERO)) is not None
