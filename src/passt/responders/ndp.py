"""Neighbours and routers on the guest's IPv6 link: we are all of them (RFC 4861).

Solicitations of neighbours are answered for every target, because the guest may believe any
address of its prefix on-link, the host's own too if it chose another for itself. No answer to one
who asks for its own address. Duplicate address detection (unspecified source; RFC 4862, 5.4) is
defended against for the addresses that stand for us or the host, and is left alone for all others,
the guest's assigned one above all: whatever address the guest chooses, it can have.

Solicitations of routers get one advertisement, made once from the frozen facts; the same goes out
unsolicited now and then (see `router_advertiser`). It leaves out what has no value: the prefix without an
assigned address, the MTU (also one that IPv6 cannot have), resolvers, search list. Search names
that cannot be encoded, or for which the packet has no room left, are left out one by one.
"""

from __future__ import annotations

from ipaddress import IPv6Address

from passt.facts.address import IP6_ALL_NODES
from passt.facts.domain_name import normalise_name
from passt.light.values import NamedTuple
from passt.wire.dns_name import build_names, fit_names
from passt.wire.ndp import (
    NdpMessage,
    NeighborAdvertisement,
    NeighborSolicitation,
    RouterAdvertisement,
    RouterSolicitation,
)
from passt.wire.ndp_options import (
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
    from passt.facts.guest import GuestFamily, GuestNet

_HOP_LIMIT = 255
_ROUTER_LIFETIME_S = 0xffff
"""The longest there is (RFC 8319): unsolicited advertisements renew it long before."""
_PREFIX_LEN = 64
"""Autoconfiguration works with this length only (RFC 4862, 5.5.3; RFC 4291, 2.5.4)."""
_MAX_RESOLVERS = 8
"""More than any resolver library reads; keeps room for the search list."""
_MIN_MTU = 1280
"""What every link has at least (RFC 8200, 5)."""
_MAX_BODY_LEN = _MIN_MTU - 40 - 4
"""An advertisement fits the least IPv6 MTU, whatever the link's is: body behind IPv6 and ICMPv6 headers."""


class NdpReply(NamedTuple):
    """A message and the addresses of the packet that carries it."""

    source: IPv6Address
    destination: IPv6Address
    message: NdpMessage


class NdpResponder:
    """Answers solicitations with the facts of *net*, whose IPv6 part is *family*; no state.

    *managed* is the M flag: addresses are to be had by DHCPv6.
    """

    def __init__(self, net: GuestNet, family: GuestFamily, *, router_advertisements: bool = True,
                 managed: bool = True) -> None:
        self._our_mac = net.our_mac
        self._our_link_local = family.our_link_local
        guest_owned = {family.address, *(copied.address for copied in family.copied_addresses)}
        self._defended = {family.our_address, family.gateway, family.map_host_loopback, family.map_guest,
                          family.dns_match} - guest_owned
        self._advertisement: RouterAdvertisement | None = None
        if router_advertisements:
            self._advertisement = _make_advertisement(net, family, managed=managed)

    def respond(self, source: IPv6Address, message: NdpMessage) -> NdpReply | None:
        """Reply to *message* that came from *source*; None where silence is right."""
        match message:
            case NeighborSolicitation(target=target):
                return self._handle_neighbor_solicitation(source, target)
            case RouterSolicitation():
                return self._handle_router_solicitation(source)
            case _:
                return None

    def advertise(self) -> NdpReply | None:
        """Make an unsolicited router advertisement; None if there are to be none."""
        return self._handle_router_solicitation(IP6_ALL_NODES)

    def _handle_neighbor_solicitation(self, source: IPv6Address, target: IPv6Address) -> NdpReply | None:
        probed = source.is_unspecified
        if source == target or (probed and target not in self._defended):
            return None
        advertisement = NeighborAdvertisement(target, router=True, solicited=not probed, override=True,
                                              options=(TargetLinkLayer(self._our_mac),))
        # RFC 4861, 7.2.4: who has no address yet is answered by way of the group, unsolicited in form.
        return NdpReply(self._our_link_local or target, IP6_ALL_NODES if probed else source, advertisement)

    def _handle_router_solicitation(self, source: IPv6Address) -> NdpReply | None:
        # RFC 4861, 6.1.2: an advertisement comes from a link-local address, or it is not valid.
        if self._advertisement is None or self._our_link_local is None:
            return None
        # RFC 4861, 6.2.6: the unspecified address cannot be answered, the group can.
        destination = IP6_ALL_NODES if source.is_unspecified else source
        return NdpReply(self._our_link_local, destination, self._advertisement)


def _make_advertisement(net: GuestNet, family: GuestFamily, *, managed: bool) -> RouterAdvertisement:
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

    def with_options() -> RouterAdvertisement:
        return RouterAdvertisement(_HOP_LIMIT, managed and address is not None, other=False,
                                   lifetime_s=_ROUTER_LIFETIME_S, options=tuple(options))

    room = (_MAX_BODY_LEN - len(with_options().build())) // UNIT * UNIT
    search = [name for text in net.search if (name := normalise_name(text))]
    names, _ = fit_names(search, room - UNIT, build_names)
    if names:
        options.append(DnsSearchList(names))
    return with_options()
