"""Read the facts of the host from which the guest's network is derived; no policy.

The *template* of a family is the interface whose addresses and routes the guest gets. It is the one
that the user names, else that of the first default route, else that of the first route of any kind (passt(1),
-a and -i). "First" is the kernel's preference: of two default routes the one with the lower metric, and a
route for all types of service before one for some. If that interface has no address that the guest could
have, the interface of the next route is tried.

Of a multipath route, the next hop with the highest weight counts, the first among equals (passt(1), -g). It
decides the interface too, so that gateway and addresses belong together. A hop whose interface is down is
dead: the kernel does not use it, nor do we.

The first default route may lead through an interface without an address: hosts in data centres keep their
address on another interface, lo for example, and need none on the links to their routers. Then the guest gets
the address that the kernel takes as the source of packets on that route.
"""

from __future__ import annotations

import errno
import socket
from ipaddress import IPv6Address

from passt.errors import ConfigError, HostError
from passt.facts.address import is_host_unicast, is_subnet_broadcast
from passt.facts.host import FamilyFacts, HostFacts, InterfaceAddress
from passt.host import resolvconf
from passt.host.interface_index import index_seen_by, interface_index
from passt.host.rtnetlink import messages, routes
from passt.host.rtnetlink.messages import AF_INET, AF_INET6, AddressFlag, MessageType, Scope
from passt.host.rtnetlink.socket import (
    KernelRefusalError,
    RtnlSocket,
    filter_in_pieces,
    finish,
    map_in_pieces,
)

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from types import TracebackType
    from typing import Self

    from passt.facts.address import IPAddress
    from passt.facts.host import ResolverFacts
    from passt.host.rtnetlink.messages import AddressMessage
    from passt.host.rtnetlink.routes import NextHop, RouteMessage

LOOPBACK_IFINDEX = 1
# Destinations that every host has routes to, so no hint of a template: address, minimum prefix length.
_LINK_LOCAL = {AF_INET: (bytes([169, 254]), 16), AF_INET6: (bytes([0xFE, 0x80]), 10)}
# Unused destinations (RFC 5737, RFC 3849) for a route look-up; nothing is sent.
_OUTSIDE = {AF_INET: bytes([198, 51, 100, 1]), AF_INET6: bytes.fromhex("20010db8000000000000000000000001")}
# 0: routes over next-hop objects are dumped without the contents of the objects.
_COMPAT_MODE = "/proc/sys/net/ipv4/nexthop_compat_mode"
_ATTEMPTS = 16                     # to read a family of which an interface goes away meanwhile


class _InterfaceGoneError(HostError):
    """An interface went away while it was read about."""


def read_host(*, interface: str | None = None, outbound_if4: str | None = None,
              outbound_if6: str | None = None, want4: bool = True, want6: bool = True,
              want_routes: bool = True, resolv_conf: str = "/etc/resolv.conf") -> HostFacts:
    """Read both families, or the ones wanted, and the resolvers; the routes only if *want_routes*.

    *interface* is that of --interface and names both templates; if it is None, *outbound_if4* and
    *outbound_if6* name one each. A family without a template is None in the result, and so is IPv6 on a
    kernel without it. Raises ConfigError for an interface that does not exist, and for IPv6 alone on
    a kernel without it; HostError if the kernel does not answer.
    """
    with HostReader(interface=interface, outbound_if4=outbound_if4, outbound_if6=outbound_if6, want4=want4,
                    want6=want6, want_routes=want_routes) as reader:
        return reader.read(resolvconf.read(resolv_conf))


class HostReader:
    """Reads the host's facts as often as one likes; a context manager.

    The arguments are those of `read_host`, and so are the errors; but with *may_come* the interfaces that are
    named need not be there yet. All that needs a path or a new netlink
    socket is done at once, so `read` serves a process that has given these up.
    """

    def __init__(self, *, interface: str | None = None, outbound_if4: str | None = None,
                 outbound_if6: str | None = None, want4: bool = True, want6: bool = True,
                 want_routes: bool = True, may_come: bool = False) -> None:
        if not may_come:
            _need_interface("--interface", interface)
            _need_interface("--outbound-if4", outbound_if4)
            _need_interface("--outbound-if6", outbound_if6)
        self.has_ip6 = kernel_has_ip6()
        if want6 and not want4 and not self.has_ip6:
            raise ConfigError("--ipv6-only: the kernel has no IPv6 (see the boot parameter ipv6.disable); "
                              "use IPv4 or start the kernel with IPv6")
        self._ifname4 = interface or outbound_if4
        self._ifname6 = interface or outbound_if6
        self._want4 = want4
        self._want6 = want6 and self.has_ip6
        self._want_routes = want_routes
        self._hides_hops = _hides_hops()
        self._rtnetlink = RtnlSocket()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; no other method may be called afterwards."""
        self._rtnetlink.close()

    @property
    def rtnetlink(self) -> RtnlSocket:
        """The socket, for other questions."""
        return self._rtnetlink

    def read(self, resolvers: ResolverFacts) -> HostFacts:
        """Read the families that are wanted. Raises HostError if the kernel does not answer.

        A family whose interface is named, and is not there, is None.
        """
        return finish(self.read_in_pieces(resolvers))

    def read_in_pieces(self, resolvers: ResolverFacts) -> Generator[None, None, HostFacts]:
        """Do the work of `read`; nobody else may use the socket meanwhile."""
        ip4 = (yield from self._read_family(AF_INET, self._ifname4)) if self._want4 else None
        ip6 = (yield from self._read_family(AF_INET6, self._ifname6)) if self._want6 else None
        return HostFacts(ip4, ip6, resolvers, self.has_ip6)

    def _read_family(self, family: int, ifname: str | None) -> Generator[None, None, FamilyFacts | None]:
        """Read a family, anew if an interface goes meanwhile: its routes have gone with it."""
        for _ in range(_ATTEMPTS - 1):
            try:
                return (yield from self._read_once(family, ifname))
            except _InterfaceGoneError:
                continue
        return (yield from self._read_once(family, ifname))

    def _read_once(self, family: int, ifname: str | None) -> Generator[None, None, FamilyFacts | None]:
        ifindex = 0
        if ifname is not None:
            try:
                ifindex = self.index_of(ifname)
            except OSError as error:
                if error.errno != errno.ENODEV:
                    raise HostError(f"cannot look for interface {ifname}: {error.strerror}") from error
                return None
        found = yield from self._read_routes(family)
        reader = _Family(self._rtnetlink, family, found)
        return reader.read(ifindex, want_routes=self._want_routes)

    def _read_routes(self, family: int) -> Generator[None, None, list[bytes]]:
        found = yield from self._rtnetlink.dump_in_pieces("routes", MessageType.GETROUTE,
                                                          routes.build_routes_query(family))
        found = yield from filter_in_pieces(routes.is_configured, found)
        if not self._hides_hops:
            return found
        hops = yield from self._rtnetlink.dump_in_pieces("next hops", MessageType.GETNEXTHOP,
                                                         routes.build_objects_query())
        objects = {one.id: one for one in (yield from map_in_pieces(routes.NextHopObject.parse, hops))}
        return (yield from map_in_pieces(lambda payload: routes.expand_objects(payload, objects), found))

    def index_of(self, ifname: str) -> int:
        """Return the index of interface *ifname* now. Raises OSError, with ENODEV if there is none."""
        return index_seen_by(self._rtnetlink.fileno(), ifname)

    def addresses(self) -> frozenset[bytes]:
        """Read the addresses of all interfaces, packed. Raises HostError."""
        return read_addresses(self._rtnetlink)


def read_addresses(rtnetlink: RtnlSocket) -> frozenset[bytes]:
    """Read the addresses of all interfaces, packed. Raises HostError."""
    found = rtnetlink.dump("addresses", MessageType.GETADDR, messages.build_addresses_query(0, 0))
    return frozenset(messages.AddressMessage.parse(payload).address for payload in found
                     if messages.family_of(payload) in messages.ADDRESS_LEN)


def kernel_has_ip6() -> bool:
    """Tell whether the kernel has IPv6, in use or not. Raises OSError if a socket of no kind can be had."""
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC).close()
    except OSError as error:
        if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
            raise
        return False
    return True


def _need_interface(option: str, ifname: str | None) -> None:
    if ifname is None:
        return
    try:
        interface_index(ifname)
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise HostError(f"{option} {ifname}: cannot look for the interface: {error.strerror}") from error
        raise ConfigError(f"{option} {ifname}: there is no such interface; `ip link` lists them") from error


class _Family:
    """One address family of the host, of which *found* are the routes; interfaces are read as needed."""

    def __init__(self, rtnetlink: RtnlSocket, family: int, found: list[bytes]) -> None:
        self._rtnetlink = rtnetlink
        self._family = family
        self._routes = found
        self._defaults = sort_defaults(routes.RouteMessage.parse(payload) for payload in found
                                       if routes.is_default(payload))

    def read(self, wanted: int, *, want_routes: bool) -> FamilyFacts | None:
        """Describe interface *wanted*, or if that is 0 the template that we choose; None if there is none."""
        first = None
        for ifindex in [wanted] if wanted else self._templates():
            facts = self._describe(ifindex, want_routes=want_routes)
            if facts.address is not None:
                return facts
            first = first or facts
        return first

    def _templates(self) -> Iterable[int]:
        """Yield the interfaces of the default routes, else of all routes: each once, best first."""
        return (list(template_ifindexes(self._defaults))
                or template_ifindexes(map(routes.RouteMessage.parse, self._routes)))

    def _describe(self, ifindex: int, *, want_routes: bool) -> FamilyFacts:
        link, entries = self._read_interface(ifindex)
        found = [entry for entry in entries if is_assignable(entry[0])]
        addresses = [address for address, _ in found]
        chosen = choose_address(addresses)
        address, prefix_len = (None, 0) if chosen is None else (chosen.address, chosen.prefix_len)
        if chosen is None and any(preferred_hop(route, ifindex) for route in self._defaults):
            address = self._source(ifindex)
            prefix_len = 8 * len(address or b"")
        return FamilyFacts(
            ifname=link.name,
            ifindex=ifindex,
            mtu=link.mtu,
            addresses=tuple(_interface_address(address, payload) for address, payload in found),
            routes=tuple(self._routes) if want_routes else (),
            address=None if address is None else messages.ip_address(address),
            prefix_len=prefix_len,
            gateway=_gateway(self._defaults, ifindex),
            link_local=_link_local(addresses) if self._family == AF_INET6 else None,
        )

    def _read_interface(self, ifindex: int
                        ) -> tuple[messages.LinkMessage, list[tuple[AddressMessage, bytes]]]:
        try:
            return (self._rtnetlink.get_link_at(ifindex),
                    self._rtnetlink.get_addresses(self._family, ifindex))
        except KernelRefusalError as error:
            if error.errno != errno.ENODEV:
                raise
            raise _InterfaceGoneError(f"interface {ifindex}, to which a route leads, went away") from error

    def _source(self, ifindex: int) -> bytes | None:
        """Ask for the source address of packets sent through *ifindex*, an address of another interface."""
        try:
            answer = self._rtnetlink.ask("cannot find the source address of the default route",
                                         MessageType.GETROUTE,
                                         routes.build_route_query(_OUTSIDE[self._family], ifindex))
        except KernelRefusalError:
            return None
        source = routes.RouteMessage.parse(answer).source
        if source is None or messages.ip_address(source).is_link_local:
            return None
        return source if is_host_unicast(source) else None


def _hides_hops() -> bool:
    try:
        with open(_COMPAT_MODE, "rb") as file:
            return file.read(1) == b"0"
    except OSError:  # before Linux 5.7 there is no such sysctl
        return False


def sort_defaults(routes: Iterable[RouteMessage]) -> list[RouteMessage]:
    """Put default routes into the order in which the kernel prefers them."""
    return sorted(routes, key=lambda route: (route.tos != 0, route.priority))


def template_ifindexes(routes: Iterable[RouteMessage]) -> Iterator[int]:
    """Yield the interfaces of *routes*, each once; not lo, nor those with link-local destinations only."""
    seen = {LOOPBACK_IFINDEX}
    for route in routes:
        hop = preferred_hop(route)
        if hop is not None and hop.ifindex not in seen and not _is_link_local(route):
            seen.add(hop.ifindex)
            yield hop.ifindex


def _is_link_local(route: RouteMessage) -> bool:
    start, prefix_len = _LINK_LOCAL[route.family]
    if route.prefix_len < prefix_len:
        return False
    mask = (0xFFFF << (16 - prefix_len)) & 0xFFFF
    return int.from_bytes(route.destination[:2], "big") & mask == int.from_bytes(start, "big")


def preferred_hop(route: RouteMessage, ifindex: int | None = None) -> NextHop | None:
    """Choose the live hop of the highest weight, first among equals, of those through *ifindex* if given."""
    best = None
    for hop in route.hops:
        if (not hop.is_dead and (ifindex is None or hop.ifindex == ifindex)
                and (best is None or hop.weight > best.weight)):
            best = hop
    return best


def _gateway(defaults: list[RouteMessage], ifindex: int) -> IPAddress | None:
    """Return the gateway, of either family, of the interface's first default route that has one."""
    for route in defaults:
        hop = preferred_hop(route, ifindex)
        if hop is not None and hop.gateway is not None:
            return messages.ip_address(hop.gateway)
    return None


def is_assignable(address: AddressMessage) -> bool:
    """Tell whether *address* is a host's: interfaces have groups too ("autojoin" of ip-address(8))."""
    # The prefix of an address with a peer is the peer's.
    is_own = address.network == address.address
    return (is_host_unicast(address.address)
            and not (is_own and is_subnet_broadcast(address.address, address.prefix_len)))


def choose_address(addresses: list[AddressMessage]) -> AddressMessage | None:
    """Choose the address with the longest prefix, the first among equals.

    Deprecated, duplicate, loopback and link-local IPv6 addresses are left out; an address that is still
    tested for duplicates (tentative) is taken only if there is no other.
    """
    best = None
    for address in addresses:
        if (address.flags & (AddressFlag.DEPRECATED | AddressFlag.DADFAILED) or address.scope == Scope.HOST
                or (address.family == AF_INET6 and address.scope >= Scope.LINK)):
            continue
        if best is None or _rank(address) > _rank(best):
            best = address
    return best


def _rank(address: AddressMessage) -> tuple[bool, int]:
    return not address.flags & AddressFlag.TENTATIVE, address.prefix_len


def _link_local(addresses: list[AddressMessage]) -> IPv6Address | None:
    best = None
    for address in addresses:
        if address.scope == Scope.LINK and (best is None or address.prefix_len > best.prefix_len):
            best = address
    return None if best is None else IPv6Address(best.address)


def _interface_address(address: AddressMessage, payload: bytes) -> InterfaceAddress:
    return InterfaceAddress(
        address=messages.ip_address(address.address),
        prefix_len=address.prefix_len,
        scope=address.scope,
        flags=address.flags,
        message=payload,
    )

