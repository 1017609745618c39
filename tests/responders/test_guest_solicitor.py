"""What a machine is asked when it connects."""

from ipaddress import IPv4Address, IPv6Address

import pytest

from passt.facts.address import MAC_BROADCAST
from passt.facts.guest import GuestFamily, GuestNet
from passt.facts.settings import OUR_MAC
from passt.responders.guest_solicitor import solicit
from passt.wire.arp import ArpOp, ArpPacket
from passt.wire.ethernet import EthernetFrame, EtherType
from passt.wire.icmp6 import Icmp6Message
from passt.wire.ip6 import Ip6Packet
from passt.wire.ndp import NeighbourSolicitation, parse_message
from passt.wire.ndp_options import SourceLinkLayer

GUEST4, ROUTER4 = IPv4Address("192.0.2.5"), IPv4Address("192.0.2.1")
GUEST6, ROUTER6 = IPv6Address("2001:db8::1234:5678"), IPv6Address("fe80::1")
IP4 = GuestFamily(GUEST4, 24, ROUTER4, ROUTER4)
IP6 = GuestFamily(GUEST6, 64, ROUTER6, ROUTER6)
NET = GuestNet(IP4, IP6, "eth0")


def test_ip4_is_asked_for_by_arp() -> None:
    [frame] = solicit(NET, [GUEST4.packed])
    assert len(frame) == 60
    ethernet = EthernetFrame.parse(frame)
    assert (ethernet.destination, ethernet.source) == (MAC_BROADCAST, OUR_MAC)
    assert ethernet.ether_type == EtherType.ARP
    assert ArpPacket.parse(ethernet.payload) == ArpPacket(ArpOp.REQUEST, OUR_MAC, ROUTER4, bytes(6), GUEST4)


def test_ip6_is_asked_for_by_a_solicitation() -> None:
    [frame] = solicit(NET, [GUEST6.packed])
    ethernet = EthernetFrame.parse(frame)
    assert (ethernet.destination, ethernet.source) == (bytes.fromhex("3333ff345678"), OUR_MAC)
    packet = Ip6Packet.parse(ethernet.payload)
    assert (packet.source, packet.destination) == (ROUTER6, IPv6Address("ff02::1:ff34:5678"))
    icmp = Icmp6Message.parse(packet.upper_layer()[1], packet.source, packet.destination)
    assert parse_message(icmp, packet) == NeighbourSolicitation(GUEST6, (SourceLinkLayer(OUR_MAC),))


def test_one_frame_for_each_address() -> None:
    assert len(solicit(NET, [GUEST4.packed, GUEST6.packed, bytes.fromhex("fe80") + bytes(14)])) == 3
    assert solicit(NET, []) == []


@pytest.mark.parametrize("net", [GuestNet(None, None, "eth0"), GuestNet(
    GuestFamily(GUEST4, 24, None, None), GuestFamily(GUEST6, 64, None, IPv6Address("2001:db8::1")), "eth0")])
def test_nobody_asks_who_has_no_address_on_the_link(net: GuestNet) -> None:
    assert solicit(net, [GUEST4.packed, GUEST6.packed]) == []
