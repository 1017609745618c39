"""DHCP server of the guest's link (RFC 2131), with one address to assign.

Theory of operation. All facts are fixed when it is made, so there is no pool, no lease database and no state.
When the host's network changes, another server takes its place; leases are short then, so that clients come
soon and are told. It knows the addresses of those before it, its servers of then, and which of them gave
which lease: a client renews with the one that it got the lease from, at that one's address, and many clients
take no refusal from another one (udhcpc, systemd-networkd), nor any answer from another address (n-dhcp4).
Every client always gets the same address, whatever it did before:

* DISCOVER is answered by an OFFER, or at once by the ACK if the client asks for Rapid Commit (RFC 4039).
* REQUEST for our address is answered by an ACK, in each of the four states of a client.
* REQUEST for another address is answered by a NAK. Without the NAK, a client that restarts on our link with
  an address of its former network would keep it or wait in vain: up to a minute in INIT-REBOOT, half the old
  lease in RENEWING. RFC 2131 4.3.2 lets a server reject only addresses that it knows to be wrong. We know,
  since this link has no second address and no second server. A client that prefers an address (DISCOVER with
  option 50) gets an OFFER, never a NAK; dhclient, udhcpc, dhcpcd and systemd-networkd all start again with a
  DISCOVER after a NAK, so none can loop or remain without an address.
* REQUEST that names another server gets no answer, unless we were that server.
* INFORM is answered without an address.
* DECLINE and RELEASE change nothing and get no answer (RFC 2131 4.3.3, 4.3.4): there is no other address,
  and the client may have the same address again.
* A message without a type is BOOTP and gets options of BOOTP only (RFC 1534 2).

A relay agent inside the guest is served if it is on the link whose addresses we assign. Clients of a relay
agent on another link cannot use the guest's address, so they get no answer.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from passt.light.values import NamedTuple, replace
from passt.wire.dhcp import CLIENT_PORT, HEADER_LEN, IP4_ZERO, SERVER_PORT, BootpOp, DhcpMessage
from passt.wire.dhcp_options import (
    INFINITY_S,
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
    build_options,
    option_len,
    sort_options,
)
from passt.wire.dns_name import build_compressed, fit_names

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.facts.guest import GuestFamily, GuestNet

IP4_BROADCAST = IPv4Address("255.255.255.255")

# RFC 2131 2: every client accepts packets of 576 bytes, and longer ones if option 57 says so. We never exceed
# the MTU of plain Ethernet, since the client's interface may still have that.
_MIN_PACKET_LEN = 576
_MAX_PACKET_LEN = 1500
_HEADERS_LEN = 20 + 8 + HEADER_LEN
# Options to leave out of a message that is too long, least necessary first; the search list is cut before.
_EXPENDABLE = (Message, ClientFqdn, DomainName, HostName, RelayAgentInformation, NameServers, ClientId)
# Former servers: a client that has missed so many changes asks everybody in the end.
_MAX_FORMER = 8
_SILENCES: dict[int, str] = {
    MessageType.DECLINE: "the client declines the address, and there is no other",
    MessageType.RELEASE: "the client releases the address, which stays its own",
}


class DhcpReply(NamedTuple):
    """A UDP payload from our port 67 of *source* to *destination*, *port*."""

    source: IPv4Address
    destination: IPv4Address
    port: int
    kind: str
    payload: bytes


class DhcpResponder:
    """Answers clients with the facts of *net*, whose IPv4 part is *family*; has no state.

    `can_serve` must hold for *family*. Leases last *lease_s* seconds. *warn* gets a line if search domains do
    not fit in usual answers. *before* is the server whose place it takes.
    """

    def __init__(self, net: GuestNet, family: GuestFamily, *, lease_s: int = INFINITY_S,
                 warn: Callable[[str], None] | None = None, before: DhcpResponder | None = None) -> None:
        if not isinstance(family.address, IPv4Address) or not isinstance(family.our_address, IPv4Address):
            raise TypeError("a DHCP server needs an address to give and one of its own")
        self._address = family.address
        self._server_id = family.our_address
        self._network = IPv4Network((int(family.address), family.prefix_len), strict=False)
        # Addresses of former leases, and the server of each; the last one at the end.
        self._former: dict[IPv4Address, IPv4Address] = {} if before is None else before.leases()
        # All of them, as one address may have come from several.
        self._former_servers: tuple[IPv4Address, ...] = () if before is None else before.servers()
        self._fqdn = net.fqdn
        self._facts = _make_facts(net, family, self._network, lease_s)
        # Length of a reply without options of the client: most replies need no closer check of their length.
        self._plain_len = _HEADERS_LEN + len(build_options(self._full(MessageType.ACK)))
        _, left_out = _names_that_fit(self._full(MessageType.ACK), _MIN_PACKET_LEN)
        if left_out and warn:
            warn(f"search domains that do not fit in a DHCP answer are left out: {' '.join(left_out)}")

    def leases(self) -> dict[IPv4Address, IPv4Address]:
        """Return which server has given which address: former ones, and this one as the last."""
        former = [(address, server) for address, server in self._former.items() if address != self._address]
        return dict([*former, (self._address, self._server_id)][-_MAX_FORMER:])

    def servers(self) -> tuple[IPv4Address, ...]:
        """Return the addresses of former servers, and this one's as the last."""
        former = [server for server in self._former_servers if server != self._server_id]
        return (*former, self._server_id)[-_MAX_FORMER:]

    def respond(self, request: DhcpMessage, source: IPv4Address, destination: IPv4Address = IP4_BROADCAST
                ) -> DhcpReply | str:
        """Return the reply to *request*, sent from *source* to *destination*, or why there is none."""
        reply = self._respond(request, source, destination)
        if isinstance(reply, DhcpReply) and destination in self._former_servers:
            return reply._replace(source=destination)
        return reply

    def _respond(self, request: DhcpMessage, source: IPv4Address, destination: IPv4Address
                 ) -> DhcpReply | str:
        if request.op is not BootpOp.REQUEST:
            return "it is not a request"
        if request.giaddr != IP4_ZERO and request.giaddr not in self._network:
            return f"the relay {request.giaddr} is on another link"
        return self._handle(request, source, destination)

    def _handle(self, request: DhcpMessage, source: IPv4Address, destination: IPv4Address
                ) -> DhcpReply | str:
        match request.message_type:
            case 0:
                return self._handle_bootp(request)
            case MessageType.DISCOVER:
                return self._handle_discover(request)
            case MessageType.REQUEST:
                return self._handle_request(request, destination)
            case MessageType.INFORM:
                return self._handle_inform(request, source)
            case message_type:
                return _SILENCES.get(message_type, f"messages of type {message_type} are not for a server")

    def _handle_bootp(self, request: DhcpMessage) -> DhcpReply:
        # RFC 1534 2: no option that needs the negotiation of DHCP.
        options = None if request.options is None else _without(self._facts, LeaseTime, ServerId)
        return self._reply(request, "BOOTP reply", options, yiaddr=self._address)

    def _handle_discover(self, request: DhcpMessage) -> DhcpReply:
        if rapid_commit := request.find(RapidCommit):
            options = [*self._full(MessageType.ACK), rapid_commit]
            return self._reply(request, "ACK", options, yiaddr=self._address)
        return self._reply(request, "OFFER", self._full(MessageType.OFFER), yiaddr=self._address)

    def _handle_request(self, request: DhcpMessage, destination: IPv4Address) -> DhcpReply | str:
        chosen, named = request.find(ServerId), request.find(RequestedAddress)
        servers = {self._server_id, *self._former_servers}
        if chosen and chosen.address not in servers:
            return f"the client has chosen the server {chosen.address}"
        # RFC 2131 4.3.2: option 50 in SELECTING and INIT-REBOOT, ciaddr in RENEWING and REBINDING.
        wanted = named.address if named else request.ciaddr
        if wanted not in {IP4_ZERO, self._address}:
            server = destination if destination in servers else self._former.get(wanted, self._server_id)
            refusal = self._reply(request, "NAK", [
                MessageTypeOption(MessageType.NAK), chosen or ServerId(server),
                Message(f"{wanted} is not available here".encode())])
            return refusal._replace(source=server)
        acknowledgement = self._full(MessageType.ACK)
        if chosen:
            acknowledgement = [*_without(acknowledgement, ServerId), chosen]
        return self._reply(request, "ACK", acknowledgement, yiaddr=self._address)

    def _handle_inform(self, request: DhcpMessage, source: IPv4Address) -> DhcpReply | str:
        if request.ciaddr == IP4_ZERO:
            # Some clients leave ciaddr empty; they have an address and send from it.
            if source == IP4_ZERO:
                return "there is no address to answer to"
            request = replace(request, ciaddr=source)
        # RFC 2131 4.3.5: no yiaddr and no lease time.
        return self._reply(request, "ACK", _without(self._full(MessageType.ACK), LeaseTime))

    def _full(self, message_type: MessageType) -> list[DhcpOption]:
        return [MessageTypeOption(message_type), *self._facts]

    def _reply(self, request: DhcpMessage, kind: str, options: list[DhcpOption] | None,
               yiaddr: IPv4Address = IP4_ZERO) -> DhcpReply:
        """Make the reply (RFC 2131 table 3) and choose its destination (RFC 2131 4.1)."""
        is_refusal = kind == "NAK"
        destination, port, broadcast = self._destination(request, yiaddr, is_refusal=is_refusal)
        if options is not None:
            options = self._complete(request, options, is_refusal=is_refusal)
        message = DhcpMessage(
            BootpOp.REPLY, request.xid, request.chaddr, request.htype, broadcast=broadcast,
            ciaddr=IP4_ZERO if is_refusal else request.ciaddr, yiaddr=yiaddr, giaddr=request.giaddr,
            options=None if options is None else sort_options(options))
        order = request.find(ParameterRequestList)
        return DhcpReply(self._server_id, destination, port, kind, message.build(order.data if order else ()))

    def _complete(self, request: DhcpMessage, options: list[DhcpOption], *,
                  is_refusal: bool) -> list[DhcpOption]:
        """Add the options that depend on *request*, and leave out those that exceed the client's maximum."""
        if request.message_type:
            # RFC 6842 3 and RFC 3046 2.2: return the client identifier and the relay agent's option.
            echoed = (request.find(ClientId), request.find(RelayAgentInformation))
            options = [*options, *(option for option in echoed if option)]
        if not is_refusal:
            options = [*options, *self._client_fqdn(request)]
        size = request.find(MaxMessageSize)
        room = min(max(size.value if size else 0, _MIN_PACKET_LEN), _MAX_PACKET_LEN)
        if self._plain_len + _extra_len(options) > room:
            options = _fit(options, room)
        return options

    def _destination(self, request: DhcpMessage, yiaddr: IPv4Address, *,
                     is_refusal: bool) -> tuple[IPv4Address, int, bool]:
        """Return address, port and broadcast flag of the reply."""
        if request.giaddr != IP4_ZERO:
            return request.giaddr, SERVER_PORT, request.broadcast or is_refusal
        if is_refusal:
            return IP4_BROADCAST, CLIENT_PORT, request.broadcast
        if request.ciaddr != IP4_ZERO:
            return request.ciaddr, CLIENT_PORT, request.broadcast
        return (IP4_BROADCAST if request.broadcast else yiaddr), CLIENT_PORT, request.broadcast

    def _client_fqdn(self, request: DhcpMessage) -> list[ClientFqdn]:
        """Return the name in the client's encoding; the flags say that we update no DNS (RFC 4702 4)."""
        # RFC 4702 4: only for a client that sent the option or requests it.
        theirs, wanted = request.find(ClientFqdn), request.find(ParameterRequestList)
        if not self._fqdn or not (theirs or (wanted and ClientFqdn.CODE in wanted.data)):
            return []
        asked = theirs.flags if theirs else ClientFqdn.ENCODED
        overrides = ClientFqdn.OVERRIDES if asked & ClientFqdn.SERVER_UPDATES else 0
        return [ClientFqdn.of_name(self._fqdn, asked & ClientFqdn.ENCODED | overrides)]


def can_serve(family: GuestFamily) -> bool:
    """Return whether *family* has an address to assign and one to send from (passt(1), --no-dhcp)."""
    return family.address is not None and family.our_address is not None


def _make_facts(net: GuestNet, family: GuestFamily, network: IPv4Network, lease_s: int) -> list[DhcpOption]:
    """Make all options about the network; with a message type they are a complete OFFER or ACK."""
    gateway = family.gateway
    router = gateway if isinstance(gateway, IPv4Address) else None
    name_servers = tuple(server for server in family.resolvers if isinstance(server, IPv4Address))
    routes = _static_routes(router, network)
    facts: list[DhcpOption] = [Netmask(network.netmask), LeaseTime(lease_s)]
    if isinstance(family.our_address, IPv4Address):
        facts.append(ServerId(family.our_address))
    if router:
        facts.append(Routers((router,)))
    if name_servers:
        facts.append(NameServers(name_servers))
    if net.hostname:
        facts.append(HostName(net.hostname.encode("ascii")))
    if net.search:
        facts += [DomainName(net.search[0].encode("ascii")), DomainSearch(net.search)]
    if net.mtu is not None:
        facts.append(LinkMtu(net.mtu))
    if routes:
        facts.append(ClasslessStaticRoutes(routes))
    return facts


def _static_routes(router: IPv4Address | None, network: IPv4Network) -> tuple[StaticRoute, ...]:
    """Make a route to a router outside of the guest's subnet, and the default route through it.

    A client that supports option 121 ignores option 3 (RFC 3442 page 5), so option 121 needs the default
    route.
    """
    if router is None or router in network:
        return ()
    return (StaticRoute(router, 32, IP4_ZERO), StaticRoute(IP4_ZERO, 0, router))


def _without(options: list[DhcpOption], *kinds: type[DhcpOption]) -> list[DhcpOption]:
    return [option for option in options if not isinstance(option, kinds)]


def _names_that_fit(options: list[DhcpOption], packet_len: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split the search list into the names that fit in a packet of *packet_len* bytes, and the others."""
    names = next((option.names for option in options if isinstance(option, DomainSearch)), ())
    room = packet_len - _HEADERS_LEN - len(build_options(_without(options, DomainSearch)))
    return fit_names(names, room, lambda some: b"\0" * option_len(len(build_compressed(some))))


def _extra_len(options: list[DhcpOption]) -> int:
    """Return the maximum length that options of one client, Rapid Commit included, add to the facts."""
    extra = (option for option in options
             if isinstance(option, ClientId | RelayAgentInformation | ClientFqdn | Message))
    return sum(option_len(len(option.build())) for option in extra) + option_len(0)


def _fit(options: list[DhcpOption], packet_len: int) -> list[DhcpOption]:
    """Leave out options until the reply fits in a packet of *packet_len* bytes."""
    room = packet_len - _HEADERS_LEN
    if len(build_options(options)) <= room:
        return options
    names, left_out = _names_that_fit(options, packet_len)
    if left_out:
        options = [*_without(options, DomainSearch), *([DomainSearch(names)] if names else [])]
    for kind in _EXPENDABLE:
        if len(build_options(options)) <= room:
            break
        options = _without(options, kind)
    return options
