"""Neighbours and router of the guest's IPv6 link (RFC 4861): this process is all of them.

A neighbour solicitation is answered for every target, because the guest may take any address of its prefix
for on-link, including the host's own address if the guest uses another one. A sender that asks for its own
address gets no answer. The answer has the MAC address of the host that has the target where that is known
(`neighbours`), else ours. A probe for duplicates (unspecified source; RFC 4862 5.4) is answered only for the
addresses that stand for us or the host. Any other address, above all the assigned one, is free for the guest
to use.

A router solicitation is answered by one advertisement, made once from the fixed facts; the same advertisement
is sent unsolicited at times (see `router_advertiser`). It contains only known facts: the prefix if an address
is assigned, the MTU if IPv6 allows it, resolvers, search list. Each search name that cannot be encoded or
exceeds the remaining room is left out.

When the host's network changes, another responder takes this one's place. Its advertisement withdraws what
the one before has said and it does not say: prefixes, resolvers and search names with a lifetime of 0 (RFC
4861 6.2.5, RFC 8106 5.1). A guest may have missed one advertisement, so this is repeated in all that follow.
"""

from __future__ import annotations

from ipaddress import IPv6Address

from passt.facts.address import IP6_ALL_NODES
from passt.facts.domain_name import normalise_name
from passt.light.values import NamedTuple, replace
from passt.wire.dns_name import build_names, fit_names
from passt.wire.ndp import (
    NdpMessage,
    NeighbourAdvertisement,
    NeighbourSolicitation,
    RouterAdvertisement,
    RouterSolicitation,
)
from passt.wire.ndp_options import (
    HEADER_LEN,
    UNIT,
    DnsSearchList,
    LinkMtu,
    NdpOption,
    PrefixInformation,
    RecursiveDnsServers,
    SourceLinkLayer,
    TargetLinkLayer,
    clear_host_bits,
)

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Sequence

    from passt.facts.guest import GuestFamily, GuestNet
    from passt.responders.neighbours import Neighbours

_HOP_LIMIT = 255
_ROUTER_LIFETIME_S = 0xffff
"""The maximum (RFC 8319); unsolicited advertisements renew it long before it ends."""
_PREFIX_LEN = 64
"""The only length that works with autoconfiguration (RFC 4862 5.5.3; RFC 4291 2.5.4)."""
_MAX_RESOLVERS = 8
"""More than any resolver library uses; leaves room for the search list."""
_MAX_WITHDRAWN = 4
"""Prefixes that are withdrawn: the newest. A guest has heard of the others while their lifetime was 0."""
_MIN_MTU = 1280
"""Minimum MTU of every link (RFC 8200 5)."""
_MAX_BODY_LEN = _MIN_MTU - 40 - 4
"""Maximum length of an advertisement's body: minimum IPv6 MTU without IPv6 and ICMPv6 headers."""


class NdpReply(NamedTuple):
    """A message, and the addresses of the packet that will carry it; *source_mac* None means ours."""

    source: IPv6Address
    destination: IPv6Address
    message: NdpMessage
    source_mac: bytes | None = None


class NdpResponder:
    """Answers solicitations with the facts of *net*, whose IPv6 part is *family*; has no state.

    *managed* is the M flag: DHCPv6 assigns addresses. *before* is the responder whose place this one takes.
    `advertisement` is what it advertises; None: nothing. Solicitations are answered with the MAC addresses of
    *neighbours*.
    """

    def __init__(self, net: GuestNet, family: GuestFamily, neighbours: Neighbours, *,
                 router_advertisements: bool = True, managed: bool = True,
                 before: NdpResponder | None = None) -> None:
        self._our_mac = net.our_mac
        self._neighbours = neighbours
        self._our_link_local = family.our_link_local
        guest_owned = {family.address, *(copied.address for copied in family.copied_addresses)}
        self._defended = {family.our_address, family.gateway, family.map_host_loopback, family.map_guest,
                          family.dns_match} - guest_owned
        self.advertisement: RouterAdvertisement | None = None
        if router_advertisements:
            said = before.advertisement if before else None
            self.advertisement = _make_advertisement(net, family, said, managed=managed)

    def respond(self, source: IPv6Address, message: NdpMessage, mac: bytes = b"") -> NdpReply | None:
        """Return the reply to *message*, sent from *source*, at *mac* if that is known; None: no reply."""
        match message:
            case NeighbourSolicitation(target=target):
                return self._handle_neighbour_solicitation(source, mac, target)
            case RouterSolicitation():
                return self._handle_router_solicitation(source)
            case _:
                return None

    def advertise(self) -> NdpReply | None:
        """Make an unsolicited router advertisement; None if they are disabled."""
        return self._handle_router_solicitation(IP6_ALL_NODES)

    def take_leave(self, successor: NdpResponder) -> NdpReply | None:
        """Say that there is no router at our address any more; None if *successor* has the same one."""
        source = self._our_link_local
        if self.advertisement is None or source is None or source == successor._our_link_local:
            return None
        # RFC 4861 6.2.5: a router lifetime of 0.
        return NdpReply(source, IP6_ALL_NODES, RouterAdvertisement(
            _HOP_LIMIT, managed=False, other=False, lifetime_s=0, options=(SourceLinkLayer(self._our_mac),)))

    def _handle_neighbour_solicitation(self, source: IPv6Address, sender_mac: bytes,
                                       target: IPv6Address) -> NdpReply | None:
        probed = source.is_unspecified
        if source == target or (probed and target not in self._defended):
            return None
        mac = self._neighbours.tell(target.packed, sender_mac)
        is_ours = mac == self._our_mac
        advertisement = NeighbourAdvertisement(target, router=is_ours, solicited=not probed, override=True,
                                              options=(TargetLinkLayer(mac),))
        # RFC 4861 7.2.4: a sender without address is answered via the all-nodes group, S flag clear.
        return NdpReply((self._our_link_local or target) if is_ours else target,
                        IP6_ALL_NODES if probed else source, advertisement, mac)

    def _handle_router_solicitation(self, source: IPv6Address) -> NdpReply | None:
        # RFC 4861 6.1.2: an advertisement is valid only from a link-local address.
        if self.advertisement is None or self._our_link_local is None:
            return None
        # RFC 4861 6.2.6: a solicitation from the unspecified address is answered to the all-nodes group.
        destination = IP6_ALL_NODES if source.is_unspecified else source
        return NdpReply(self._our_link_local, destination, self.advertisement)


def _make_advertisement(net: GuestNet, family: GuestFamily, before: RouterAdvertisement | None, *,
                        managed: bool) -> RouterAdvertisement:
    """Make the advertisement; *before* is the one whose place it takes."""
    options: list[NdpOption] = []
    address = family.address
    if isinstance(address, IPv6Address) and not address.is_link_local:
        options.append(PrefixInformation(clear_host_bits(address, _PREFIX_LEN), _PREFIX_LEN))
    options.append(SourceLinkLayer(net.our_mac))
    if net.mtu is not None and net.mtu >= _MIN_MTU:
        options.append(LinkMtu(net.mtu))
    servers = [server for server in family.resolvers if isinstance(server, IPv6Address)]
    if servers:
        options.append(RecursiveDnsServers(tuple(servers[:_MAX_RESOLVERS])))
    if before is not None:
        options += _withdraw(before.options, options)

    def with_options() -> RouterAdvertisement:
        return RouterAdvertisement(_HOP_LIMIT, managed and address is not None, other=False,
                                   lifetime_s=_ROUTER_LIFETIME_S, options=tuple(options))

    room = (_MAX_BODY_LEN - len(with_options().build())) // UNIT * UNIT
    search = [name for text in net.search if (name := normalise_name(text))]
    names, _ = fit_names(search, room - UNIT, build_names)
    if names:
        options.append(DnsSearchList(names))
    if before is not None:
        options += _withdraw_names(before.options, names, room - _names_len(names))
    return with_options()


def _withdraw(before: Sequence[NdpOption], now: Sequence[NdpOption]) -> list[NdpOption]:
    """Make the options that take back the prefixes and resolvers of *before* that are not in *now*."""
    prefixes = {option.prefix for option in now if isinstance(option, PrefixInformation)}
    servers = {server for option in now if isinstance(option, RecursiveDnsServers)
               for server in option.servers}
    withdrawn: list[NdpOption] = [replace(option, valid_s=0, preferred_s=0) for option in before
                                  if isinstance(option, PrefixInformation) and option.prefix not in prefixes]
    old = dict.fromkeys(server for option in before if isinstance(option, RecursiveDnsServers)
                        for server in option.servers if server not in servers)
    withdrawn = withdrawn[:_MAX_WITHDRAWN]
    if old:
        withdrawn.append(RecursiveDnsServers(tuple(old)[:_MAX_RESOLVERS], 0))
    return withdrawn


def _withdraw_names(before: Sequence[NdpOption], now: Sequence[str], room: int) -> list[NdpOption]:
    """Make the option that takes back the search names of *before* that are not in *now*, in *room* bytes."""
    old = list(dict.fromkeys(name for option in before if isinstance(option, DnsSearchList)
                             for name in option.names if name not in now))
    names, _ = fit_names(old, room - UNIT, build_names)
    return [DnsSearchList(names, 0)] if names else []


def _names_len(names: tuple[str, ...]) -> int:
    """Return the length of the option with *names*; 0 if there are none."""
    return HEADER_LEN + len(DnsSearchList(names).build()) if names else 0
