"""The DHCP server of the guest's link (RFC 2131), with one address to give: the guest's.

Theory of operation: all facts are frozen at the start, so there is no pool, no lease and no state.
Every client gets the same address for ever, and gets it again whatever it did before:

* DISCOVER is answered by an OFFER, or at once by the ACK if the client can take it (RFC 4039).
* REQUEST for our address is answered by an ACK, in each of the four states of the client.
* REQUEST for another address is answered by a NAK. Without it a client that restarts on our link with
  an address of its former network would keep it, or wait in vain: up to a minute in INIT-REBOOT, half
  the old lease in RENEWING. RFC 2131, 4.3.2 lets a server refuse only what it knows to be wrong; we
  know, as there is no second address and no second server behind this link. A client that prefers an
  address (DHCPDISCOVER with option 50) gets an offer, never a NAK, and dhclient, udhcpc, dhcpcd and
  systemd-networkd all start afresh right after one, so none can loop or end up without an address.
* REQUEST that names another server is not ours, and a DHCPINFORM is answered without an address.
* DECLINE and RELEASE change nothing and have no answer (RFC 2131, 4.3.3, 4.3.4): there is no other
  address to turn to, and the client that comes back may have this one.
* A message without type is BOOTP's and gets the options of BOOTP only (RFC 1534, section 2).

A relay agent inside the guest is served if it is on the link that we give addresses for; the clients
of one on any other link cannot have the guest's address, so they get no answer.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from passt.light.values import NamedTuple, replace
from passt.wire.dhcp import CLIENT_PORT, HEADER_LEN, IP4_ZERO, SERVER_PORT, BootpOp, DhcpMessage
from passt.wire.dhcp_options import (
    INFINITY_S,
    ClientFqdn,
    DhcpMessageType,
    DhcpOption,
    DhcpOptions,
    DhcpRoute,
    option_len,
)
from passt.wire.dns_name import build_compressed, fit_names

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.facts.guest import GuestFamily, GuestNet

IP4_BROADCAST = IPv4Address("255.255.255.255")

# RFC 2131, section 2: every client takes 576 bytes of packet, more if it says so by option 57. We
# never send more than any Ethernet carries, since the client's interface may still have MTU 1500.
_MIN_PACKET_LEN = 576
_MAX_PACKET_LEN = 1500
_HEADERS_LEN = 20 + 8 + HEADER_LEN
# What goes when there is no room, the least necessary first. The search list is shortened before.
_EXPENDABLE: tuple[Callable[[DhcpOptions], DhcpOptions], ...] = (
    lambda options: replace(options, message=b""),
    lambda options: replace(options, client_fqdn=b""),
    lambda options: replace(options, domain_name=b""),
    lambda options: replace(options, host_name=b""),
    lambda options: replace(options, relay_agent_information=b""),
    lambda options: replace(options, name_servers=()),
    lambda options: replace(options, client_id=b""),
)
_SILENCES: dict[int, str] = {
    DhcpMessageType.DECLINE: "the client declines the address, and there is no other",
    DhcpMessageType.RELEASE: "the client releases the address, which stays its own",
}


class DhcpReply(NamedTuple):
    """A UDP payload from our port 67 to *destination*, *port*."""

    destination: IPv4Address
    port: int
    kind: str
    payload: bytes


class DhcpResponder:
    """Answers clients with the facts of *net*, whose IPv4 part is *family*; no state.

    *family* must have an address and one of ours; see `can_serve`. *warn* gets a line if search
    domains have to be left out of usual answers.
    """

    def __init__(self, net: GuestNet, family: GuestFamily, *,
                 warn: Callable[[str], None] | None = None) -> None:
        if not isinstance(family.address, IPv4Address) or not isinstance(family.our_address, IPv4Address):
            raise TypeError("a DHCP server needs an address to give and one of its own")
        self._address = family.address
        self._server_id = family.our_address
        self._network = IPv4Network((int(family.address), family.prefix_len), strict=False)
        self._fqdn = net.fqdn
        self._facts = _make_facts(net, family, self._network)
        # What a reply to the plainest client takes; most have no need of a closer look.
        self._plain_len = _HEADERS_LEN + len(self._full(DhcpMessageType.ACK).build())
        _, left_out = _names_that_fit(self._full(DhcpMessageType.ACK), _MIN_PACKET_LEN)
        if left_out and warn:
            warn(f"search domains that do not fit in a DHCP answer are left out: {' '.join(left_out)}")

    @property
    def server_id(self) -> IPv4Address:
        """The address from which answers come."""
        return self._server_id

    def respond(self, request: DhcpMessage, source: IPv4Address) -> DhcpReply | str:
        """Reply to *request* that came from *source*; a text says why there is none."""
        if request.op is not BootpOp.REQUEST:
            return "it is not a request"
        if request.giaddr != IP4_ZERO and request.giaddr not in self._network:
            return f"the relay {request.giaddr} is on another link"
        return self._respond(request, request.options or DhcpOptions(), source)

    def _respond(self, request: DhcpMessage, asked: DhcpOptions, source: IPv4Address) -> DhcpReply | str:
        match asked.message_type:
            case 0:
                return self._handle_bootp(request)
            case DhcpMessageType.DISCOVER:
                return self._handle_discover(request, asked)
            case DhcpMessageType.REQUEST:
                return self._handle_request(request, asked)
            case DhcpMessageType.INFORM:
                return self._handle_inform(request, source)
            case message_type:
                return _SILENCES.get(message_type, f"messages of type {message_type} are not for a server")

    def _handle_bootp(self, request: DhcpMessage) -> DhcpReply:
        # RFC 1534, section 2: nothing that needs DHCP's negotiation.
        options = None if request.options is None else replace(self._facts, lease_time_s=None, server_id=None)
        return self._reply(request, "BOOTP reply", options, yiaddr=self._address)

    def _handle_discover(self, request: DhcpMessage, asked: DhcpOptions) -> DhcpReply:
        if asked.rapid_commit:
            options = replace(self._full(DhcpMessageType.ACK), rapid_commit=True)
            return self._reply(request, "ACK", options, yiaddr=self._address)
        return self._reply(request, "OFFER", self._full(DhcpMessageType.OFFER), yiaddr=self._address)

    def _handle_request(self, request: DhcpMessage, asked: DhcpOptions) -> DhcpReply | str:
        if asked.server_id not in {None, self._server_id}:
            return f"the client has chosen the server {asked.server_id}"
        # RFC 2131, 4.3.2: option 50 in SELECTING and INIT-REBOOT, ciaddr in RENEWING and REBINDING.
        wanted = asked.requested_address or request.ciaddr
        if wanted not in {IP4_ZERO, self._address}:
            text = f"{wanted} is not available here".encode()
            refusal = DhcpOptions(message_type=DhcpMessageType.NAK, server_id=self._server_id, message=text)
            return self._reply(request, "NAK", refusal)
        return self._reply(request, "ACK", self._full(DhcpMessageType.ACK), yiaddr=self._address)

    def _handle_inform(self, request: DhcpMessage, source: IPv4Address) -> DhcpReply | str:
        if request.ciaddr == IP4_ZERO:
            # Some clients leave the field empty, but they have an address and so send from it.
            if source == IP4_ZERO:
                return "there is no address to answer to"
            request = replace(request, ciaddr=source)
        # RFC 2131, 4.3.5: neither yiaddr nor lease time.
        return self._reply(request, "ACK", replace(self._full(DhcpMessageType.ACK), lease_time_s=None))

    def _full(self, message_type: DhcpMessageType) -> DhcpOptions:
        return replace(self._facts, message_type=message_type)

    def _reply(self, request: DhcpMessage, kind: str, options: DhcpOptions | None,
               yiaddr: IPv4Address = IP4_ZERO) -> DhcpReply:
        """Make the reply of RFC 2131, table 3, and choose where it goes (RFC 2131, 4.1)."""
        asked = request.options or DhcpOptions()
        is_refusal = kind == "NAK"
        destination, port, broadcast = self._destination(request, yiaddr, is_refusal=is_refusal)
        if options is not None and asked.message_type:
            # RFC 6842, section 3, and RFC 3046, 2.2: the client's identifier and the relay's words.
            options = replace(options, client_id=asked.client_id,
                              relay_agent_information=asked.relay_agent_information)
        if options is not None:
            if not is_refusal:
                options = replace(options, client_fqdn=self._client_fqdn(asked))
            room = min(max(asked.max_message_size or 0, _MIN_PACKET_LEN), _MAX_PACKET_LEN)
            if self._plain_len + _extra_len(options) > room:
                options = _fit(options, room)
        message = DhcpMessage(
            BootpOp.REPLY, request.xid, request.chaddr, request.htype, broadcast=broadcast,
            ciaddr=IP4_ZERO if is_refusal else request.ciaddr, yiaddr=yiaddr, giaddr=request.giaddr,
            options=options)
        return DhcpReply(destination, port, kind, message.build(asked.parameter_request_list))

    def _destination(self, request: DhcpMessage, yiaddr: IPv4Address, *,
                     is_refusal: bool) -> tuple[IPv4Address, int, bool]:
        """Address, port, and the broadcast flag of the reply."""
        if request.giaddr != IP4_ZERO:
            return request.giaddr, SERVER_PORT, request.broadcast or is_refusal
        if is_refusal:
            return IP4_BROADCAST, CLIENT_PORT, request.broadcast
        if request.ciaddr != IP4_ZERO:
            return request.ciaddr, CLIENT_PORT, request.broadcast
        return (IP4_BROADCAST if request.broadcast else yiaddr), CLIENT_PORT, request.broadcast

    def _client_fqdn(self, asked: DhcpOptions) -> bytes:
        """Give the name in the client's encoding, and say that nobody here updates the DNS (RFC 4702, 4)."""
        # RFC 4702, section 4: only for a client that sent one, or asks for it.
        is_asked = asked.client_fqdn or DhcpOption.CLIENT_FQDN in asked.parameter_request_list
        if not self._fqdn or not is_asked:
            return b""
        wants_update, is_encoded = ClientFqdn.parse_flags(asked.client_fqdn)
        return ClientFqdn(self._fqdn, server_overrides=wants_update, is_encoded=is_encoded).build()


def can_serve(family: GuestFamily) -> bool:
    """Whether there is an address to give and a gateway to give it from (passt(1), --no-dhcp)."""
    return family.address is not None and family.our_address is not None


def _make_facts(net: GuestNet, family: GuestFamily, network: IPv4Network) -> DhcpOptions:
    """All options that tell of the network; a message type makes them an offer or an acknowledgement."""
    gateway = family.gateway
    router = gateway if isinstance(gateway, IPv4Address) else None
    return DhcpOptions(
        netmask=network.netmask,
        routers=(router,) if router else (),
        name_servers=tuple(server for server in family.resolvers if isinstance(server, IPv4Address)),
        host_name=net.hostname.encode("ascii"),
        domain_name=net.search[0].encode("ascii") if net.search else b"",
        mtu=net.mtu,
        lease_time_s=INFINITY_S,
        server_id=family.our_address if isinstance(family.our_address, IPv4Address) else None,
        domain_search=net.search,
        classless_static_routes=_static_routes(router, network),
    )


def _static_routes(router: IPv4Address | None, network: IPv4Network) -> tuple[DhcpRoute, ...]:
    """Give the way to a router that is not on the guest's subnet: a route to it first, then by it.

    A client that understands these routes ignores option 3 (RFC 3442, page 5), so the default route is
    among them.
    """
    if router is None or router in network:
        return ()
    return (DhcpRoute(router, 32, IP4_ZERO), DhcpRoute(IP4_ZERO, 0, router))


def _names_that_fit(options: DhcpOptions, packet_len: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Search domains for which a packet of *packet_len* bytes has room beside the rest, and the others."""
    names = options.domain_search
    room = packet_len - _HEADERS_LEN - len(replace(options, domain_search=()).build())
    return fit_names(names, room, lambda some: b"\0" * option_len(len(build_compressed(some))))


def _extra_len(options: DhcpOptions) -> int:
    """Bytes, at most, that a reply has beyond the facts: what is the client's, and the flag of RFC 4039."""
    texts = (options.client_id, options.relay_agent_information, options.client_fqdn, options.message)
    return sum(option_len(len(text)) for text in texts) + option_len(0)


def _fit(options: DhcpOptions, packet_len: int) -> DhcpOptions:
    """Leave out what a packet of *packet_len* bytes has no room for."""
    room = packet_len - _HEADERS_LEN
    if len(options.build()) <= room:
        return options
    if options.domain_search:
        options = replace(options, domain_search=_names_that_fit(options, packet_len)[0])
    for without in _EXPENDABLE:
        if len(options.build()) <= room:
            break
        options = without(options)
    return options
