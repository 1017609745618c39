"""Read from the host what the guest's network is derived from: plain facts, no policy.

The *template* of a family is the interface whose addresses and routes the guest gets. It is the one
that the user names, else that of the first default route, else that of the first route of any
kind; passt(1) under -a and -i. The kernel lists an IPv4 table by prefix and then by metric, and an
IPv6 table likewise, so the first default route is the one that it prefers.

Of a multipath route the next hop with the highest weight counts, the first among equals; passt(1)
under -g. It decides on the interface, too, so that gateway and addresses belong together.
"""

from __future__ import annotations

import socket
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

from passt.errors import ConfigError, HostError
from passt.host import resolvconf, rtnl
from passt.host.netlink import RtnlSocket
from passt.host.rtnl import AF_INET, AF_INET6, AddressFlag, MessageType, RouteFlag, RouteType, Scope
from passt.model import FamilyFacts, HostFacts, InterfaceAddress, Route

if TYPE_CHECKING:
    from passt.host.rtnl import AddressMessage, NextHop, RouteMessage
    from passt.model import IPAddress

LOOPBACK_IFINDEX = 1
# Destinations that say nothing about where the outside world is: address, at least this prefix length.
_LINK_LOCAL = {AF_INET: (bytes([169, 254]), 16), AF_INET6: (bytes([0xFE, 0x80]), 10)}


def probe(*, interface: str | None = None, outbound_if4: str | None = None, outbound_if6: str | None = None,
          want4: bool = True, want6: bool = True, resolv_conf: str = "/etc/resolv.conf") -> HostFacts:
    """Read both families, or the ones wanted, and the resolvers.

    *interface* is that of --interface and names both templates; --outbound-if4 and --outbound-if6 name
    one each where it is None. A family without template is None in the result, and so is IPv6 on a
    kernel without it. Raises ConfigError for an interface that does not exist, and for IPv6 alone on
    a kernel without it; HostError if the kernel does not answer.
    """
    _need_interface("--interface", interface)
    _need_interface("--outbound-if4", outbound_if4)
    _need_interface("--outbound-if6", outbound_if6)
    has_ip6 = want6 and kernel_has_ip6()
    if want6 and not want4 and not has_ip6:
        raise ConfigError("--ipv6-only: the kernel has no IPv6 (see the boot parameter ipv6.disable); "
                          "use IPv4 or start the kernel with IPv6")
    with RtnlSocket() as rtnetlink:
        return HostFacts(
            ip4=_probe_family(rtnetlink, AF_INET, interface or outbound_if4) if want4 else None,
            ip6=_probe_family(rtnetlink, AF_INET6, interface or outbound_if6) if has_ip6 else None,
            resolvers=resolvconf.read(resolv_conf),
        )


def kernel_has_ip6() -> bool:
    """Tell whether the kernel knows IPv6 at all, in use or not."""
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC).close()
    except OSError:
        return False
    return True


def _need_interface(option: str, ifname: str | None) -> None:
    if ifname is None:
        return
    try:
        socket.if_nametoindex(ifname)
    except OSError as error:
        raise ConfigError(f"{option} {ifname}: there is no such interface; `ip link` lists them") from error


def _probe_family(rtnetlink: RtnlSocket, family: int, ifname: str | None) -> FamilyFacts | None:
    routes = _read_routes(rtnetlink, family)
    if ifname is None:
        ifindex = template_ifindex([route for route, _ in routes])
        if ifindex is None:
            return None
        ifname = _name_of(ifindex)
    link = rtnetlink.get_link(ifname)
    addresses = rtnetlink.get_addresses(family, link.ifindex)
    chosen = choose_address([address for address, _ in addresses])
    return FamilyFacts(
        ifname=link.name,
        ifindex=link.ifindex,
        mtu=link.mtu,
        addresses=tuple(_interface_address(address, payload) for address, payload in addresses),
        routes=tuple(_route(route, hop, payload) for route, payload in routes
                     if (hop := preferred_hop(route, link.ifindex))),
        address=None if chosen is None else rtnl.ip_address(chosen.address),
        prefix_len=0 if chosen is None else chosen.prefix_len,
        gateway=_gateway([route for route, _ in routes], link.ifindex),
        link_local=_link_local([address for address, _ in addresses]) if family == AF_INET6 else None,
    )


def _name_of(ifindex: int) -> str:
    try:
        return socket.if_indextoname(ifindex)
    except OSError as error:
        raise HostError(f"interface {ifindex}, to which a route leads, went away") from error


def _read_routes(rtnetlink: RtnlSocket, family: int) -> list[tuple[RouteMessage, bytes]]:
    """Read the unicast routes of the main table; cached ones are no configuration."""
    found = rtnetlink.dump("routes", MessageType.GETROUTE, rtnl.get_routes(family),
                           lambda payload: (rtnl.parse_route(payload), payload))
    return [entry for entry in found
            if entry[0].table == rtnl.RT_TABLE_MAIN and entry[0].type == RouteType.UNICAST
            and not entry[0].flags & RouteFlag.CLONED]


def template_ifindex(routes: list[RouteMessage]) -> int | None:
    """Choose the template from the main table: first default route, else first route of any kind."""
    first = None
    for route in routes:
        hop = preferred_hop(route)
        if hop is None or hop.ifindex == LOOPBACK_IFINDEX or _is_link_local(route):
            continue
        if route.prefix_len == 0:
            return hop.ifindex
        first = first or hop.ifindex
    return first


def _is_link_local(route: RouteMessage) -> bool:
    start, prefix_len = _LINK_LOCAL[route.family]
    if route.prefix_len < prefix_len:
        return False
    mask = (0xFFFF << (16 - prefix_len)) & 0xFFFF
    return int.from_bytes(route.destination[:2], "big") & mask == int.from_bytes(start, "big")


def preferred_hop(route: RouteMessage, ifindex: int | None = None) -> NextHop | None:
    """Choose the hop of the highest weight, first among equals, of those through *ifindex* if given."""
    best = None
    for hop in route.hops:
        if (ifindex is None or hop.ifindex == ifindex) and (best is None or hop.weight > best.weight):
            best = hop
    return best


def _gateway(routes: list[RouteMessage], ifindex: int) -> IPAddress | None:
    """Take the gateway of the interface's first default route that has one; of either family."""
    for route in routes:
        if route.prefix_len == 0:
            hop = preferred_hop(route, ifindex)
            if hop is not None and hop.gateway is not None:
                return rtnl.ip_address(hop.gateway)
    return None


def choose_address(addresses: list[AddressMessage]) -> AddressMessage | None:
    """Choose the longest prefix, first among equals; none deprecated, duplicate, or link-local IPv6."""
    best = None
    for address in addresses:
        if address.flags & (AddressFlag.DEPRECATED | AddressFlag.DADFAILED):
            continue
        if address.family == AF_INET6 and address.scope >= Scope.LINK:
            continue
        if best is None or address.prefix_len > best.prefix_len:
            best = address
    return best


def _link_local(addresses: list[AddressMessage]) -> IPv6Address | None:
    best = None
    for address in addresses:
        if address.scope == Scope.LINK and (best is None or address.prefix_len > best.prefix_len):
            best = address
    return None if best is None else IPv6Address(best.address)


def _interface_address(address: AddressMessage, payload: bytes) -> InterfaceAddress:
    return InterfaceAddress(
        address=rtnl.ip_address(address.address),
        prefix_len=address.prefix_len,
        scope=address.scope,
        flags=address.flags,
        message=payload,
    )


def _route(route: RouteMessage, hop: NextHop, payload: bytes) -> Route:
    return Route(
        destination=rtnl.ip_address(route.destination),
        prefix_len=route.prefix_len,
        gateway=None if hop.gateway is None else rtnl.ip_address(hop.gateway),
        priority=route.priority,
        ifindex=hop.ifindex,
        message=payload,
    )
