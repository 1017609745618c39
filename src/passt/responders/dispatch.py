"""One control frame in, reply frames out.

`Dispatcher` parses a frame layer by layer with `passt.wire`; each layer selects the next. The responder of
the innermost protocol takes a valid message and returns a value, which is wrapped in the same layers again.
`WireError` is caught here and nowhere else: the frame is dropped and counted for the layer that raised it.
Every other exception is a mistake of ours and propagates.

Frames to any destination MAC address are answered, since all other hosts on the link are us; replies go to
the source MAC address of the frame, and come from the MAC address that they are about. The only state is a
fixed number of counters, what is known of the host's neighbours, and the responders, which are made anew when
the host's network has changed.
"""

from __future__ import annotations

from passt.errors import WireError
from passt.facts.address import MAC_BROADCAST, format_mac, multicast_mac
from passt.responders.arp import ArpResponder
from passt.responders.dhcp import IP4_BROADCAST, DhcpResponder, can_serve
from passt.responders.dhcpv6 import Dhcpv6Responder
from passt.responders.ndp import NdpReply, NdpResponder
from passt.responders.neighbours import Neighbours
from passt.wire import dhcp, dhcpv6
from passt.wire.arp import ArpPacket
from passt.wire.dhcp_options import INFINITY_S
from passt.wire.ethernet import EthernetFrame, EtherType, pad
from passt.wire.icmp6 import Icmp6Message
from passt.wire.ip4 import Ip4Packet, IpProtocol
from passt.wire.ip6 import Ip6Packet
from passt.wire.ndp import build_message, is_ndp, parse_message
from passt.wire.udp import UdpDatagram

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from ipaddress import IPv6Address

    from passt.facts.guest import GuestNet
    from passt.responders.reconfiguration import Reconfiguration

_LAYERS = ("ethernet", "arp", "ip4", "udp", "dhcp", "ip6", "icmp6", "ndp", "udp6", "dhcpv6")
_ANSWERING = ("arp", "dhcp", "ndp", "dhcpv6")
# Seconds that addresses are given for where they may change. Clients renew after half of the time.
_SHORT_LEASE_S = 120


class Dispatcher:
    """Implements `contracts.FrameResponder` for the guest network *net*.

    *dhcp* False disables DHCP, as does a network without gateway. *ndp* False disables ND, and
    *router_advertisements* False only router advertisements (for a guest whose addresses and routes are
    configured from outside). *dhcpv6* False disables DHCPv6. *explain* gets a line for each answer and each
    malformed frame and must limit their rate itself. *warn* gets a line for each fact that does not fit in
    answers. *is_guest* returns whether the guest was last seen to use a packed address or MAC. With
    *short_leases* clients come back soon, to be told of changes (`renew`); *reconfiguration* knows those that
    may be called before.
    """

    def __init__(self, net: GuestNet, *, dhcp: bool = True, ndp: bool = True,
                 router_advertisements: bool = True, dhcpv6: bool = True, short_leases: bool = False,
                 explain: Callable[[str], None] | None = None, warn: Callable[[str], None] | None = None,
                 is_guest: Callable[[bytes], bool] = lambda _: False,
                 reconfiguration: Reconfiguration | None = None) -> None:
        self._our_mac = net.our_mac
        self._explain = explain
        self._layer = "ethernet"
        self._counts = {f"control_{layer}_received": 0 for layer in _LAYERS}
        self._counts |= {f"control_{layer}_{what}": 0
                         for layer in _ANSWERING for what in ("answered", "refused")}
        self._counts["control_ndp_advertised"] = self._counts["control_neighbours_announced"] = 0
        self._counts["control_dhcpv6_reconfigured"] = 0
        self._counts |= {f"drop_control_{layer}_malformed": 0 for layer in _LAYERS}
        self._has_dhcp = dhcp
        self._has_dhcpv6 = dhcpv6
        self._has_ndp = ndp
        self._has_advertisements = router_advertisements
        self._lease_s = _SHORT_LEASE_S if short_leases else INFINITY_S
        self._warn = warn
        self._is_guest = is_guest
        self._neighbours = Neighbours(net.our_mac, is_guest)
        self._arp: ArpResponder | None = None
        self._dhcp: DhcpResponder | None = None
        self._ndp: NdpResponder | None = None
        self._dhcpv6: Dhcpv6Responder | None = None
        self._reconfiguration = reconfiguration
        self._make_responders(net)

    def _make_responders(self, net: GuestNet) -> None:
        """Make all responders anew for *net*."""
        ip4, ip6 = net.ip4, net.ip6
        self._arp = ArpResponder(ip4, self._neighbours, self._is_guest) if ip4 else None
        served, self._dhcp = self._dhcp, None
        if ip4 and self._has_dhcp and can_serve(ip4):
            self._dhcp = DhcpResponder(net, ip4, lease_s=self._lease_s, warn=self._warn, before=served)
        self._dhcpv6 = None
        if ip6 and self._has_dhcpv6 and ip6.our_link_local:
            reserved_len = self._reconfiguration.reserved_len if self._reconfiguration else 0
            self._dhcpv6 = Dhcpv6Responder(net, ip6, ip6.our_link_local, lease_s=self._lease_s,
                                           reserved_len=reserved_len)
        before, self._ndp = self._ndp, None
        if ip6 and self._has_ndp:
            # The M flag sends guests to DHCPv6, so it needs a server.
            self._ndp = NdpResponder(net, ip6, self._neighbours,
                                     router_advertisements=self._has_advertisements,
                                     managed=self._dhcpv6 is not None, before=before)

    def renew(self, net: GuestNet) -> list[bytes]:
        """Answer for *net* from now on; return the frames that tell the guest at once."""
        before, served = self._ndp, self._dhcpv6
        self._make_responders(net)
        if self._reconfiguration and self._dhcpv6 and served and self._dhcpv6.told != served.told:
            self._reconfiguration.begin()
        frames = self.advertise()
        leave = before.take_leave(self._ndp) if before and self._ndp else None
        if leave is not None:
            frames.append(self._wrap_ndp(self._our_mac, leave))
        return frames

    def set_neighbours(self, entries: Mapping[bytes, bytes]) -> list[bytes]:
        """Answer with the MAC addresses in *entries*, by packed address, else with ours, from now on.

        Return frames for a guest that was told another one before.
        """
        frames = self._neighbours.replace(entries)
        self._counts["control_neighbours_announced"] += len(frames)
        return frames

    def respond(self, frame: bytes) -> list[bytes]:
        """Handle one Ethernet frame without FCS; return whole frames for the guest, maybe none."""
        try:
            return self._respond(frame)
        except WireError as error:
            self._counts[f"drop_control_{self._layer}_malformed"] += 1
            self._note(f"malformed frame: {error}")
            return []

    def advertise(self) -> list[bytes]:
        """Make an unsolicited router advertisement for all nodes; return no frame if they are disabled."""
        advertisement = self._ndp.advertise() if self._ndp else None
        if advertisement is None:
            return []
        self._counts["control_ndp_advertised"] += 1
        return [self._wrap_ndp(self._our_mac, advertisement)]

    def reconfigure(self) -> list[bytes]:
        """Make a Reconfigure message for each DHCPv6 client that has to come and has not done so."""
        if self._reconfiguration is None or self._dhcpv6 is None:
            return []
        frames = []
        for client, message in self._reconfiguration.calls(self._dhcpv6.server_id):
            self._counts["control_dhcpv6_reconfigured"] += 1
            self._note(f"dhcpv6: told {format_mac(client.mac)}: {message.kind.name}")
            frames.append(self._wrap_dhcpv6(client.mac, self._dhcpv6.source, client.address, message))
        return frames

    def counters(self) -> dict[str, int]:
        """Return the counts since the start, by the names that `Engine.counters` leaves free.

        control_LAYER_received and drop_control_LAYER_malformed of every layer; of ARP, DHCP, ND and DHCPv6
        also control_LAYER_answered and control_LAYER_refused (valid messages that get no answer).
        """
        return dict(self._counts)

    def _respond(self, data: bytes) -> list[bytes]:
        self._enter("ethernet")
        frame = EthernetFrame.parse(data)
        match frame.ether_type:
            case EtherType.ARP if self._arp:
                return self._handle_arp(frame, self._arp)
            case EtherType.IP4 if self._dhcp:
                return self._handle_ip4(frame, self._dhcp)
            case EtherType.IP6 if self._ndp or self._dhcpv6:
                return self._handle_ip6(frame)
            case _:
                return []

    def _handle_arp(self, frame: EthernetFrame, responder: ArpResponder) -> list[bytes]:
        self._enter("arp")
        request = ArpPacket.parse(frame.payload)
        reply = responder.respond(request)
        if reply is None:
            return self._count_refusal("arp")
        self._count_answer("arp", frame, f"{reply.sender_ip} is at {format_mac(reply.sender_mac)}")
        return [self._wrap(frame.source, EtherType.ARP, reply.build(), reply.sender_mac)]

    def _handle_ip4(self, frame: EthernetFrame, responder: DhcpResponder) -> list[bytes]:
        self._enter("ip4")
        packet = Ip4Packet.parse(frame.payload)
        if packet.protocol != IpProtocol.UDP:
            return []
        self._enter("udp")
        datagram = UdpDatagram.parse(packet.payload)
        if datagram.destination_port != dhcp.SERVER_PORT:
            return []
        self._enter("dhcp")
        reply = responder.respond(dhcp.DhcpMessage.parse(datagram.payload), packet.source,
                                  packet.destination)
        if isinstance(reply, str):
            self._note(f"dhcp: no answer to {format_mac(frame.source)}: {reply}")
            return self._count_refusal("dhcp")
        self._count_answer("dhcp", frame, reply.kind)
        udp = UdpDatagram(dhcp.SERVER_PORT, reply.port, reply.payload).build(reply.source, reply.destination)
        answer = Ip4Packet(reply.source, reply.destination, IpProtocol.UDP, udp)
        mac = MAC_BROADCAST if reply.destination == IP4_BROADCAST else frame.source
        return [self._wrap(mac, EtherType.IP4, answer.build())]

    def _handle_ip6(self, frame: EthernetFrame) -> list[bytes]:
        self._enter("ip6")
        packet = Ip6Packet.parse(frame.payload)
        protocol, payload = packet.upper_layer()
        match protocol:
            case IpProtocol.ICMP6 if self._ndp:
                return self._handle_icmp6(frame, packet, payload, self._ndp)
            case IpProtocol.UDP if self._dhcpv6:
                return self._handle_udp6(frame, packet, payload, self._dhcpv6)
            case _:
                return []

    def _handle_icmp6(self, frame: EthernetFrame, packet: Ip6Packet, payload: bytes,
                      responder: NdpResponder) -> list[bytes]:
        self._enter("icmp6")
        icmp = Icmp6Message.parse(payload, packet.source, packet.destination)
        if not is_ndp(icmp.kind):
            return []
        self._enter("ndp")
        reply = responder.respond(packet.source, parse_message(icmp, packet), frame.source)
        if reply is None:
            return self._count_refusal("ndp")
        self._count_answer("ndp", frame, type(reply.message).__name__)
        return [self._wrap_ndp(frame.source, reply)]

    def _handle_udp6(self, frame: EthernetFrame, packet: Ip6Packet, payload: bytes,
                     responder: Dhcpv6Responder) -> list[bytes]:
        self._enter("udp6")
        datagram = UdpDatagram.parse(payload)
        if datagram.destination_port != dhcpv6.SERVER_PORT:
            return []
        self._enter("dhcpv6")
        request = dhcpv6.parse_message(datagram.payload, packet)
        reply = responder.respond(packet.destination, request)
        if reply is None:
            return self._count_refusal("dhcpv6")
        self._count_answer("dhcpv6", frame, f"{reply.kind.name} to {request.kind.name}")
        if self._reconfiguration:
            reply = self._reconfiguration.join(request, reply, frame.source, packet.source)
        return [self._wrap_dhcpv6(frame.source, responder.source, packet.source, reply)]

    def _wrap_dhcpv6(self, mac: bytes, source: IPv6Address, destination: IPv6Address,
                     message: dhcpv6.Dhcpv6Message) -> bytes:
        udp = UdpDatagram(dhcpv6.SERVER_PORT, dhcpv6.CLIENT_PORT, message.build()).build(source, destination)
        packet = Ip6Packet(source, destination, IpProtocol.UDP, udp)
        return self._wrap(mac, EtherType.IP6, packet.build())

    def _wrap_ndp(self, mac: bytes, reply: NdpReply) -> bytes:
        icmp = build_message(reply.message).build(reply.source, reply.destination)
        packet = Ip6Packet(reply.source, reply.destination, IpProtocol.ICMP6, icmp)
        if reply.destination.is_multicast:
            mac = multicast_mac(reply.destination)
        return self._wrap(mac, EtherType.IP6, packet.build(), reply.source_mac)

    def _wrap(self, destination: bytes, ether_type: EtherType, payload: bytes,
              source: bytes | None = None) -> bytes:
        return pad(EthernetFrame(destination, source or self._our_mac, ether_type, payload).build())

    def _enter(self, layer: str) -> None:
        self._layer = layer
        self._counts[f"control_{layer}_received"] += 1

    def _count_refusal(self, layer: str) -> list[bytes]:
        self._counts[f"control_{layer}_refused"] += 1
        return []

    def _count_answer(self, layer: str, frame: EthernetFrame, what: str) -> None:
        self._counts[f"control_{layer}_answered"] += 1
        self._note(f"{layer}: told {format_mac(frame.source)}: {what}")

    def _note(self, text: str) -> None:
        if self._explain:
            self._explain(text)
