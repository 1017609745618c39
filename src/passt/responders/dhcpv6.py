"""The one server on the guest's link, with one address to give (RFC 8415).

Theory of operation. The address is the guest's for ever, and nobody else is there to have it: so
nothing is remembered of what was given to whom. An IA is bound if it is the one that gets the
address, which each message shows anew: the first IA_NA that names the address, else the first. No
other IA gets anything, and each is told so by a status of its own. Whatever the client releases or
declines, it is the same address that it gets next.

An address other than ours is not appropriate for this link, be it from the same prefix: a guest
that was moved here, or started again with another configuration, is to ask for the right one. So
CONFIRM and REQUEST are told NotOnLink for it, RENEW and REBIND get it back with lifetimes of 0.

The identity of the server is made of its MAC address alone. A client that outlives us thus renews
with the next one that is started in our place.

Answers have the options that the client requests, of those that we have; all of them for a client
that makes no such list, though RFC 8415 demands one. They are kept below the least MTU of IPv6:
only so many IAs are answered, and the search list gets what room is left.
"""

from __future__ import annotations

from ipaddress import IPv6Address

from passt.facts.domain_name import normalise_name
from passt.wire.dhcpv6 import Dhcpv6Message, MessageType
from passt.wire.dhcpv6_options import (
    HEADER_LEN,
    INFINITY_S,
    ClientFqdn,
    ClientId,
    Dhcpv6Option,
    DnsServers,
    DomainList,
    Ia,
    IaAddress,
    IaNa,
    IaOption,
    IaPd,
    IaTa,
    OptionRequest,
    Preference,
    RapidCommit,
    ServerId,
    StatusCode,
    StatusOption,
    build_options,
    make_duid_ll,
)
from passt.wire.dns_name import build_names, fit_names

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from passt.facts.guest import GuestFamily, GuestNet

_MAX_LEN = 1280 - 40 - 8
"""Message that fits the least IPv6 MTU behind IPv6 and UDP headers."""
_MAX_IAS = 4
_MAX_STALE = 4
"""Addresses given back in one IA. Clients have one IA of each kind, with one address in it."""
_MAX_RESOLVERS = 8
_CHOOSE_US = Preference(255)
"""The client need not wait for other servers (RFC 8415, 18.2.9): there are none."""

_TEXTS = {
    StatusCode.NO_ADDRS_AVAIL: "no address for this IA",
    StatusCode.NO_PREFIX_AVAIL: "no prefixes here",
    StatusCode.NO_BINDING: "nothing known of this IA",
    StatusCode.NOT_ON_LINK: "not an address of this link",
    StatusCode.USE_MULTICAST: "use multicast",
    StatusCode.SUCCESS: "",
}


class Dhcpv6Responder:
    """Answers clients with the facts of *net*, whose IPv6 part is *family*, from *source*; no state."""

    def __init__(self, net: GuestNet, family: GuestFamily, source: IPv6Address) -> None:
        self.source = source
        self._server_id = ServerId(make_duid_ll(net.our_mac))
        self._address = family.address if isinstance(family.address, IPv6Address) else None
        servers = tuple(server for server in family.resolvers if isinstance(server, IPv6Address))
        self._servers = servers[:_MAX_RESOLVERS]
        self._search = [name for text in net.search if (name := normalise_name(text))]
        self._fqdn = net.fqdn
        self._handlers: dict[MessageType, Callable[[Dhcpv6Message], Dhcpv6Message | None]] = {
            MessageType.SOLICIT: self._handle_solicit,
            MessageType.REQUEST: self._handle_request,
            MessageType.RENEW: self._handle_request,
            MessageType.REBIND: self._handle_request,
            MessageType.CONFIRM: self._handle_confirm,
            MessageType.RELEASE: self._handle_return,
            MessageType.DECLINE: self._handle_return,
            MessageType.INFORMATION_REQUEST: self._handle_request,
        }

    def respond(self, destination: IPv6Address, request: Dhcpv6Message) -> Dhcpv6Message | None:
        """Reply to *request* of `wire.dhcpv6.parse_request`, sent to *destination*; None: not for us."""
        server_id = request.find(ServerId)
        if server_id is not None and server_id != self._server_id:
            return None
        if not destination.is_multicast:
            # Only the four messages that name their server come here so (RFC 8415, 18.4).
            return self._reply(request, [_status(StatusCode.USE_MULTICAST)])
        return self._handlers[request.kind](request)

    def _handle_solicit(self, request: Dhcpv6Message) -> Dhcpv6Message:
        answers = self._assign(request)
        if rapid_commit := request.find(RapidCommit):
            return self._reply(request, [rapid_commit, *answers], configure=True)
        return self._reply(request, [_CHOOSE_US, *answers], kind=MessageType.ADVERTISE, configure=True)

    def _handle_request(self, request: Dhcpv6Message) -> Dhcpv6Message:
        """REQUEST, RENEW, REBIND, and INFORMATION-REQUEST, which has no IA."""
        return self._reply(request, self._assign(request), configure=True)

    def _handle_confirm(self, request: Dhcpv6Message) -> Dhcpv6Message | None:
        addresses = [address for ia in request.ias for address in _addresses(ia)]
        if not addresses:
            return None  # RFC 8415, 18.3.3
        good = all(address == self._address for address in addresses)
        return self._reply(request, [_status(StatusCode.SUCCESS if good else StatusCode.NOT_ON_LINK)])

    def _handle_return(self, request: Dhcpv6Message) -> Dhcpv6Message:
        """RELEASE and DECLINE: RFC 8415, 18.3.7 and 18.3.8."""
        bound = self._find_bound(request)
        unknown = [_refuse(ia, StatusCode.NO_BINDING) for ia in request.ias[:_MAX_IAS]
                   if ia is not bound or self._strangers(ia)]
        return self._reply(request, [_status(StatusCode.SUCCESS), *unknown])

    def _assign(self, request: Dhcpv6Message) -> list[Ia]:
        """Answer every IA: RFC 8415, 18.3.2, 18.3.4, 18.3.5, 18.3.9."""
        bound = self._find_bound(request)
        renewal = request.kind in {MessageType.RENEW, MessageType.REBIND}
        answers: list[Ia] = []
        for ia in request.ias[:_MAX_IAS]:
            if ia is bound:
                answers.append(self._bind(bound, request.kind))
            elif renewal:
                answers.append(_refuse(ia, StatusCode.NO_BINDING))
            elif isinstance(ia, IaPd):
                answers.append(_refuse(ia, StatusCode.NO_PREFIX_AVAIL))
            else:
                answers.append(_refuse(ia, StatusCode.NO_ADDRS_AVAIL))
        return answers

    def _find_bound(self, request: Dhcpv6Message) -> IaNa | None:
        """Find the IA that has the address, or is to get it."""
        if self._address is None:
            return None
        fitting = [ia for ia in request.ias[:_MAX_IAS] if isinstance(ia, IaNa)]
        named = [ia for ia in fitting if self._address in _addresses(ia)]
        return next(iter(named or fitting), None)

    def _bind(self, ia: IaNa, kind: MessageType) -> IaNa:
        strangers = self._strangers(ia)
        if strangers and kind == MessageType.REQUEST:
            return IaNa(ia.iaid, options=(_status(StatusCode.NOT_ON_LINK),))
        options: list[IaOption] = []
        if self._address is not None:
            options.append(IaAddress(self._address))
        if kind != MessageType.SOLICIT:  # there they are wishes
            options += [IaAddress(address, 0, 0) for address in strangers[:_MAX_STALE]]
        return IaNa(ia.iaid, INFINITY_S, INFINITY_S, tuple(options))

    def _strangers(self, ia: Ia) -> list[IPv6Address]:
        """Addresses in *ia* that are not ours to give."""
        return [address for address in _addresses(ia) if address != self._address]

    def _reply(self, request: Dhcpv6Message, specific: Sequence[Dhcpv6Option], *,
               kind: MessageType = MessageType.REPLY, configure: bool = False) -> Dhcpv6Message:
        options: list[Dhcpv6Option] = [self._server_id]
        if client_id := request.find(ClientId):
            options.append(client_id)
        options += specific
        if configure:
            options += self._configuration(request, _MAX_LEN - 4 - len(build_options(tuple(options))))
        return Dhcpv6Message(kind, request.transaction_id, tuple(options))

    def _configuration(self, request: Dhcpv6Message, room: int) -> list[Dhcpv6Option]:
        wanted = request.find(OptionRequest)
        options: list[Dhcpv6Option] = []
        asked = request.find(ClientFqdn)
        if self._fqdn and (asked or wanted is None or ClientFqdn.CODE in wanted.codes):
            # RFC 4704, 6: nobody updates the DNS here, which has to be said to one who asked for it.
            overrides = asked is not None and asked.flags & ClientFqdn.SERVER_UPDATES
            options.append(ClientFqdn(ClientFqdn.OVERRIDES if overrides else 0, self._fqdn))
        if self._servers and (wanted is None or DnsServers.CODE in wanted.codes):
            options.append(DnsServers(self._servers))
        room -= len(build_options(tuple(options)))
        if wanted is None or DomainList.CODE in wanted.codes:
            names, _ = fit_names(self._search, room - HEADER_LEN, build_names)
            if names:
                options.append(DomainList(names))
        return options


def _status(status: StatusCode) -> StatusOption:
    return StatusOption(status, _TEXTS[status])


def _refuse(ia: Ia, status: StatusCode) -> Ia:
    """Answer to *ia* that gives nothing."""
    options = (_status(status),)
    return IaTa(ia.iaid, options) if isinstance(ia, IaTa) else type(ia)(ia.iaid, options=options)


def _addresses(ia: Ia) -> list[IPv6Address]:
    return [option.address for option in ia.options if isinstance(option, IaAddress)]
