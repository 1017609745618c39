"""DHCPv6 server of the guest's link (RFC 8415), with one address to assign.

Theory of operation. The guest's address is fixed when the server is made, and the guest has no neighbours, so
there is no lease database. Each message shows anew which IA is bound to the address: the first IA_NA that
names the address, or else the first IA_NA. Every other IA gets no address and a status that says so. After a
RELEASE or DECLINE the client gets the same address again. When the host's network changes, another server
takes this one's place.

Any other address is not appropriate for this link, even one of the same prefix: a guest that was migrated to
us, or restarted with another configuration, must ask for the right one. For such an address, the reply to
CONFIRM and REQUEST has the status NotOnLink, and the reply to RENEW and REBIND has the address with lifetimes
of 0.

The server's DUID contains its MAC address and nothing else. So a client that outlives this process can renew
with the process that replaces it.

Answers contain the options that the client requests, as far as we have them; a client without an option
request, which RFC 8415 demands, gets all of them. An answer fits the minimum MTU of IPv6: the number of IAs
in it is limited, and the search list is cut to the remaining room.
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
"""Maximum length of a message: minimum IPv6 MTU without IPv6 and UDP headers."""
_MAX_IAS = 4
_MAX_STALE = 4
"""Maximum number of wrong addresses returned in one IA. Clients use one IA of each kind, with one address."""
_MAX_RESOLVERS = 8
_CHOOSE_US = Preference(255)
"""The maximum: the client need not wait for other servers (RFC 8415 18.2.9)."""

_TEXTS = {
    StatusCode.NO_ADDRS_AVAIL: "no address for this IA",
    StatusCode.NO_PREFIX_AVAIL: "no prefixes here",
    StatusCode.NO_BINDING: "nothing known of this IA",
    StatusCode.NOT_ON_LINK: "not an address of this link",
    StatusCode.USE_MULTICAST: "use multicast",
    StatusCode.SUCCESS: "",
}


class Dhcpv6Responder:
    """Answers clients from *source* with the facts of *net*, whose IPv6 part is *family*; has no state.

    With *lease_s*, a preferred lifetime in seconds, addresses are not given for ever. Replies leave
    *reserved_len* bytes free, for what others add to them. *told* is all that clients are told: another
    value is a reason to call them (`reconfiguration`).
    """

    def __init__(self, net: GuestNet, family: GuestFamily, source: IPv6Address, *,
                 lease_s: int = INFINITY_S, reserved_len: int = 0) -> None:
        self.source = source
        self.server_id = ServerId(make_duid_ll(net.our_mac))
        self._max_len = _MAX_LEN - reserved_len
        self._times_s = _lifetimes(lease_s)
        self._address = family.address if isinstance(family.address, IPv6Address) else None
        servers = tuple(server for server in family.resolvers if isinstance(server, IPv6Address))
        self._servers = servers[:_MAX_RESOLVERS]
        self._search = [name for text in net.search if (name := normalise_name(text))]
        self._fqdn = net.fqdn
        self.told = self._address, self._servers, self._search, self._fqdn
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
        """Return the reply to *request*, which was sent to *destination*; None if it names another server.

        *request* must come from `dhcpv6.parse_message`.
        """
        server_id = request.find(ServerId)
        if server_id is not None and server_id != self.server_id:
            return None
        if not destination.is_multicast:
            # Only the four kinds of messages that name their server may be unicast (RFC 8415 18.4).
            return self._reply(request, [_status(StatusCode.USE_MULTICAST)])
        return self._handlers[request.kind](request)

    def _handle_solicit(self, request: Dhcpv6Message) -> Dhcpv6Message:
        answers = self._assign(request)
        if rapid_commit := request.find(RapidCommit):
            return self._reply(request, [rapid_commit, *answers], configure=True)
        return self._reply(request, [_CHOOSE_US, *answers], kind=MessageType.ADVERTISE, configure=True)

    def _handle_request(self, request: Dhcpv6Message) -> Dhcpv6Message:
        """Answer REQUEST, RENEW, REBIND, and INFORMATION-REQUEST, which has no IA."""
        return self._reply(request, self._assign(request), configure=True)

    def _handle_confirm(self, request: Dhcpv6Message) -> Dhcpv6Message | None:
        addresses = [address for ia in request.ias for address in _addresses(ia)]
        if not addresses:
            return None  # RFC 8415 18.3.3
        good = all(address == self._address for address in addresses)
        return self._reply(request, [_status(StatusCode.SUCCESS if good else StatusCode.NOT_ON_LINK)])

    def _handle_return(self, request: Dhcpv6Message) -> Dhcpv6Message:
        """Answer RELEASE and DECLINE (RFC 8415 18.3.7 and 18.3.8)."""
        bound = self._find_bound(request)
        unknown = [_refuse(ia, StatusCode.NO_BINDING) for ia in request.ias[:_MAX_IAS]
                   if ia is not bound or self._strangers(ia)]
        return self._reply(request, [_status(StatusCode.SUCCESS), *unknown])

    def _assign(self, request: Dhcpv6Message) -> list[Ia]:
        """Answer every IA (RFC 8415 18.3.2, 18.3.4, 18.3.5, 18.3.9)."""
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
        """Find the IA that has the address or will get it."""
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
            options.append(IaAddress(self._address, *self._times_s[2:]))
        if kind != MessageType.SOLICIT:  # addresses in a SOLICIT are preferences
            options += [IaAddress(address, 0, 0) for address in strangers[:_MAX_STALE]]
        return IaNa(ia.iaid, *self._times_s[:2], tuple(options))

    def _strangers(self, ia: Ia) -> list[IPv6Address]:
        """Return the addresses in *ia* that we do not assign."""
        return [address for address in _addresses(ia) if address != self._address]

    def _reply(self, request: Dhcpv6Message, specific: Sequence[Dhcpv6Option], *,
               kind: MessageType = MessageType.REPLY, configure: bool = False) -> Dhcpv6Message:
        options: list[Dhcpv6Option] = [self.server_id]
        if client_id := request.find(ClientId):
            options.append(client_id)
        options += specific
        if configure:
            options += self._configuration(request, self._max_len - 4 - len(build_options(tuple(options))))
        return Dhcpv6Message(kind, request.transaction_id, tuple(options))

    def _configuration(self, request: Dhcpv6Message, room: int) -> list[Dhcpv6Option]:
        wanted = request.find(OptionRequest)
        options: list[Dhcpv6Option] = []
        asked = request.find(ClientFqdn)
        if self._fqdn and (asked or wanted is None or ClientFqdn.CODE in wanted.codes):
            # RFC 4704 6: we update no DNS, and must say so to a client that asked for it.
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


def _lifetimes(lease_s: int) -> tuple[int, int, int, int]:
    """Return T1, T2, preferred and valid lifetime, with the shares that RFC 8415 21.4 recommends."""
    if lease_s == INFINITY_S:
        return INFINITY_S, INFINITY_S, INFINITY_S, INFINITY_S
    return lease_s // 2, lease_s * 4 // 5, lease_s, 2 * lease_s


def _status(status: StatusCode) -> StatusOption:
    return StatusOption(status, _TEXTS[status])


def _refuse(ia: Ia, status: StatusCode) -> Ia:
    """Answer *ia* with *status* and no address."""
    options = (_status(status),)
    return IaTa(ia.iaid, options) if isinstance(ia, IaTa) else type(ia)(ia.iaid, options=options)


def _addresses(ia: Ia) -> list[IPv6Address]:
    return [option.address for option in ia.options if isinstance(option, IaAddress)]
