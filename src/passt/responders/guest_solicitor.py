"""Ask a machine that has just connected which hardware address its guest has.

Answers teach the data plane where to send frames, before the guest says anything by itself: after
passt was restarted, or after a machine was migrated, an inbound connection may come first. A guest that
does not know these addresses yet stays silent, and is learnt by what it sends later.
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
    """Make one frame for each of *addresses* (packed) that can be asked for on the link of *net*.

    IPv4 by an ARP request (RFC 826), IPv6 by a solicitation of neighbours (RFC 4861 7.2.2).
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
