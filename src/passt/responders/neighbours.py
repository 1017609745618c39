"""The MAC addresses that the guest is told for others than itself.

Theory of operation. The guest sees the hosts beside us on our own link as they are there, as far as the
kernel knows their MAC addresses; every other address has ours. Frames to any of them come to us, so what the
guest believes is never wrong, only old. Hosts on that link may be hostile and claim any MAC address. With the
guest's own, or that of the station that asks, the guest would take its own frames for somebody else's; who
claims these is shown with ours.

When a neighbour's MAC address changes, a guest that was told another one is told by an announcement: a
gratuitous ARP request (RFC 5227 3), or an unsolicited neighbour advertisement (RFC 4861 7.2.6). What a guest
was told last is remembered for MAX_TOLD addresses; an announcement that is not made, as the guest asked for
more, costs nothing. An address that the guest was seen to use since is not announced: it would take that for
a conflict, and give its address up (RFC 5227 2.4). One replacement makes MAX_ANNOUNCED announcements at most,
and those that are left wait for the next one, so hosts whose addresses flap do not flood the guest.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from passt.facts.address import IP4_LEN, IP6_ALL_NODES, MAC_BROADCAST, MAC_LEN, multicast_mac
from passt.wire.arp import ArpOp, ArpPacket
from passt.wire.ethernet import EthernetFrame, EtherType, pad
from passt.wire.ip4 import IpProtocol
from passt.wire.ip6 import Ip6Packet
from passt.wire.ndp import NeighbourAdvertisement, build_message
from passt.wire.ndp_options import TargetLinkLayer

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_TOLD = 512
MAX_ANNOUNCED = 32


class Neighbours:
    """Tells MAC addresses by packed addresses; there are none but *our_mac* at first.

    *is_guest* returns whether the guest was last seen to use a packed address or MAC.
    """

    def __init__(self, our_mac: bytes, is_guest: Callable[[bytes], bool]) -> None:
        self._our_mac = our_mac
        self._is_guest = is_guest
        self._macs: Mapping[bytes, bytes] = {}
        self._told: dict[bytes, bytes] = {}   # the last one told last

    def tell(self, address: bytes, asker: bytes) -> bytes:
        """Return the MAC address of *address* for the station *asker*, and remember that it was told."""
        mac = self._mac_of(address)
        self._remember(address, mac)
        return mac if mac != asker else self._our_mac

    def replace(self, entries: Mapping[bytes, bytes]) -> list[bytes]:
        """Tell the MAC addresses in *entries* from now on; return the frames that announce them."""
        self._macs = entries
        frames: list[bytes] = []
        for address, told in list(self._told.items()):
            # That a host is gone is no news: frames to where it was come to us.
            mac = self._mac_of(address)
            if (mac not in {told, self._our_mac} and not self._is_guest(address)
                    and len(frames) < MAX_ANNOUNCED):
                self._told[address] = mac
                frames.append(announce(address, mac))
        return frames

    def _mac_of(self, address: bytes) -> bytes:
        mac = self._macs.get(address, self._our_mac)
        return self._our_mac if self._is_guest(mac) else mac

    def _remember(self, address: bytes, mac: bytes) -> None:
        self._told.pop(address, None)
        self._told[address] = mac
        if len(self._told) > MAX_TOLD:
            del self._told[next(iter(self._told))]


def announce(address: bytes, mac: bytes) -> bytes:
    """Make the frame by which the host with a packed *address* would say that it is at *mac* now."""
    if len(address) == IP4_LEN:
        ip4 = IPv4Address(address)
        arp = ArpPacket(ArpOp.REQUEST, mac, ip4, bytes(MAC_LEN), ip4)
        return pad(EthernetFrame(MAC_BROADCAST, mac, EtherType.ARP, arp.build()).build())
    ip6 = IPv6Address(address)
    message = build_message(NeighbourAdvertisement(ip6, router=False, solicited=False, override=True,
                                                   options=(TargetLinkLayer(mac),)))
    packet = Ip6Packet(ip6, IP6_ALL_NODES, IpProtocol.ICMP6, message.build(ip6, IP6_ALL_NODES))
    return pad(EthernetFrame(multicast_mac(IP6_ALL_NODES), mac, EtherType.IP6, packet.build()).build())
