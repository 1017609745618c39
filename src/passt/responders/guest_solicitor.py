"""Solicitations for the MAC address of a guest whose machine has just connected.

The data plane learns from the answers where to send frames before the guest sends any by itself: after a
restart of passt or a migration of the machine, an inbound connection may come first. A guest that does not
have the addresses yet does not answer; the data plane learns its MAC address from later frames.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from passt.facts.address import IP4_LEN, MAC_BROADCAST, MAC_LEN, multicast_mac, solicited_node
from passt.wire.arp import ArpOp, ArpPacket
from passt.wire.ethernet import EthernetFrame, EtherType, pad
from passt.wire.ip4 import IpProtocol
from passt.wire.ip6 import Ip6Packet
from passt.wire.ndp import NeighbourSolicitation, build_message
from passt.wire.ndp_options import SourceLinkLayer

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable

    from passt.facts.guest import GuestNet


def solicit(net: GuestNet, addresses: Iterable[bytes]) -> list[bytes]:
    """Make a frame for each of *addresses* (packed) of a family for which *net* has an address of ours.

    It is an ARP request (RFC 826) or a neighbour solicitation (RFC 4861 7.2.2).
    """
    frames = []
    for address in addresses:
        if len(address) == IP4_LEN:
            if net.ip4 and isinstance(net.ip4.our_address, IPv4Address):
                frames.append(_ask_ip4(net.our_mac, net.ip4.our_address, IPv4Address(address)))
        elif net.ip6 and net.ip6.our_link_local:
            frames.append(_ask_ip6(net.our_mac, net.ip6.our_link_local, IPv6Address(address)))
    return frames


def _ask_ip4(our_mac: bytes, ours: IPv4Address, target: IPv4Address) -> bytes:
    request = ArpPacket(ArpOp.REQUEST, our_mac, ours, bytes(MAC_LEN), target)
    return pad(EthernetFrame(MAC_BROADCAST, our_mac, EtherType.ARP, request.build()).build())


def _ask_ip6(our_mac: bytes, ours: IPv6Address, target: IPv6Address) -> bytes:
    group = solicited_node(target)
    solicitation = build_message(NeighbourSolicitation(target, (SourceLinkLayer(our_mac),)))
    packet = Ip6Packet(ours, group, IpProtocol.ICMP6, solicitation.build(ours, group))
    return pad(EthernetFrame(multicast_mac(group), our_mac, EtherType.IP6, packet.build()).build())
