"""Set up the interfaces of the target namespace: lo and, with --config-net, the tap.

Theory of operation. The caller is in the target namespace and holds the tap's descriptor open, so
that the interface has a carrier: without one the kernel would make no link-local address. Order:

1. hardware address, transmit queue, MTU, then the link comes up;
2. addresses of both families, without duplicate address detection, as a command that starts at once
   could not use an address for the second that the detection takes;
3. routes of both families: those on the link first, those through a gateway after them, as the kernel
   takes a gateway only if it is reachable already.

The link-local address. While a link comes up, the kernel makes a link-local address; it stays tentative for
up to a second even if IFF_NOARP is set meanwhile or IFA_F_NODAD afterwards (Linux 6.18). So we switch the
kernel's generation off while the link comes up, and add the same address (RFC 4291 appendix A) with
IFA_F_NODAD. If the administrator chose another generation, stable-privacy or none, it is left as it is.

Prefix routes. The kernel adds a route to the prefix of each address. If all routes are copied and the host
has no such route (DHCP clients replace it by one with a metric), the address gets IFA_F_NOPREFIXROUTE, so
that the namespace has none either. The kernel refuses a copied route that it has made already with EEXIST, as
it should: each route exists once, as on the host.
"""

from __future__ import annotations

from errno import EEXIST, EHOSTUNREACH, ENETUNREACH
from ipaddress import IPv6Address

from passt.errors import HostError
from passt.host.rtnetlink import messages, routes
from passt.host.rtnetlink.messages import (
    AF_INET,
    AF_INET6,
    AddressFlag,
    AddressMode,
    InterfaceFlag,
    MessageFlag,
    MessageType,
    Scope,
)
from passt.host.rtnetlink.socket import KernelRefusalError, Request, RtnlSocket, reason
from passt.light.values import Value

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from passt.facts.address import IPAddress
    from passt.facts.guest import GuestFamily, GuestNet
    from passt.host.rtnetlink.messages import AddressMessage

LOOPBACK_NAME = "lo"

# Frames that wait for us in the tap's ring. The driver drops what does not fit and, as a queued frame no
# longer counts against its socket, no sender is ever slowed down. So the ring must hold what is sent
# while we are not running: a few milliseconds, when others want the CPU too, at some 500,000
# frames/s. Measured at 470,000 datagrams/s of 1400 bytes: pauses of 4 ms lose 40 % with 1000 slots (the
# kernel's default), 3 % with 2048, 0.4 % with 4096; at 8 ms it is 70, 25, 0.3. Ten thousand are hardly
# better, and frames there are memory that no process is charged for: 64 KiB each at worst, from a hostile
# guest.
# TCP, which the tap's segmentation offload hands over in few large frames, does not need it.
TX_QUEUE_LEN = 4096

IP6_MIN_MTU = 1280
_IP6_SINGLE_PREFIX_LEN = 64
# The metric that the kernel gives to IPv6 routes of its own, IP6_RT_PRIO_ADDRCONF.
_IP6_PREFIX_METRIC = 256
_CREATE_NEW = MessageFlag.CREATE | MessageFlag.EXCL
_APPEND = MessageFlag.CREATE | MessageFlag.APPEND
# The gateway is not reachable, or not yet.
_NO_WAY = frozenset({ENETUNREACH, EHOSTUNREACH})
_MAX_ROUTE_WARNINGS = 4


class TapFacts(Value):
    """The tap after its set-up; *warnings* are whole sentences for the log.

    *link_local* is None without --config-net or without IPv6 in the namespace.
    """

    mac: bytes
    link_local: IPv6Address | None = None
    warnings: tuple[str, ...] = ()


class PrefixRoute(Value):
    """Key of the kernel's prefix routes of one interface: masked network, length, metric."""

    network: bytes
    prefix_len: int
    priority: int


_LINK_LOCAL_ROUTE = PrefixRoute(IPv6Address("fe80::").packed, _IP6_SINGLE_PREFIX_LEN, _IP6_PREFIX_METRIC)


def bring_lo_up() -> None:
    """Bring up the loopback interface of the current namespace; raises HostError."""
    with RtnlSocket() as rtnetlink:
        ifindex = rtnetlink.get_link(LOOPBACK_NAME).ifindex
        payload = messages.build_link_change(ifindex, flags=InterfaceFlag.UP, change=InterfaceFlag.UP)
        rtnetlink.request("cannot bring up lo in the namespace", MessageType.NEWLINK, payload)


def configure(ifname: str, guest: GuestNet, config_net: bool, *, lifetimes: bool = False) -> TapFacts:
    """Set up the tap *ifname* of the current namespace; addresses and routes only if *config_net*.

    With *lifetimes* deprecated and temporary addresses have those that they have on the host; somebody has to
    follow these then. An address that goes leaves its subnet's other addresses, and their routes, in place.

    Raises HostError that says what could not be set and why. A setting that the run can do without (IPv6
    where it is disabled, an MTU beyond the driver's limit) becomes a warning in the result.
    """
    with RtnlSocket() as rtnetlink:
        tap = _Tap(rtnetlink, ifname)
        if guest.ns_mac is not None:
            tap.set_link(f"cannot set --ns-mac-addr {guest.ns_mac.hex(':')} on {ifname}", mac=guest.ns_mac)
        tap.try_set_link(f"cannot set the queue length of {ifname}", txqueuelen=TX_QUEUE_LEN)
        if not config_net:
            return TapFacts(rtnetlink.get_link(ifname).mac, None, tuple(tap.warnings))
        if guest.mtu is not None:
            tap.try_set_link(f"cannot set --mtu {guest.mtu} on {ifname}", mtu=guest.mtu)
        if lifetimes:
            tap.try_set_link(f"cannot set promote_secondaries on {ifname}", promotes_secondaries=True)
        has_ip6 = tap.bring_up(guest)
        families = {AF_INET: guest.ip4, AF_INET6: guest.ip6 if has_ip6 else None}
        wanted = {number: family for number, family in families.items() if family is not None}
        for number, family in wanted.items():
            tap.add_addresses(number, family, lifetimes=lifetimes)
        tap.copy_routes(list(wanted.values()))
        for number, family in wanted.items():
            tap.add_default_route(number, family)
        return TapFacts(
            mac=rtnetlink.get_link(ifname).mac,
            link_local=tap.link_local() if has_ip6 else None,
            warnings=tuple(tap.warnings),
        )


class _Tap:
    """The interface during its set-up, and the warnings so far."""

    def __init__(self, rtnetlink: RtnlSocket, ifname: str) -> None:
        self._rtnetlink = rtnetlink
        self._ifname = ifname
        self._ifindex = rtnetlink.get_link(ifname).ifindex
        # Addresses of the tap, packed: possible preferred sources of routes.
        self._sources: set[bytes] = set()
        self._prefix_routes: set[PrefixRoute] = set()
        self.warnings: list[str] = []

    def set_link(self, what: str, *, up: bool = False, mtu: int | None = None, mac: bytes | None = None,
                 txqueuelen: int | None = None, ip6_mode: int | None = None,
                 promotes_secondaries: bool = False) -> None:
        """Change the link; raises HostError that begins with *what*."""
        flags = InterfaceFlag.UP if up else 0
        payload = messages.build_link_change(self._ifindex, flags=flags, change=flags, mtu=mtu, mac=mac,
                                             txqueuelen=txqueuelen, ip6_mode=ip6_mode,
                                             promotes_secondaries=promotes_secondaries)
        self._rtnetlink.request(what, MessageType.NEWLINK, payload)

    def try_set_link(self, what: str, *, mtu: int | None = None, txqueuelen: int | None = None,
                     promotes_secondaries: bool = False) -> None:
        """Change a setting that the link can do without; a refusal becomes a warning."""
        try:
            self.set_link(what, mtu=mtu, txqueuelen=txqueuelen, promotes_secondaries=promotes_secondaries)
        except KernelRefusalError as error:
            self.warnings.append(str(error))

    def bring_up(self, guest: GuestNet) -> bool:
        """Bring the link up; return whether IPv6 is wanted and the namespace has it."""
        what = f"cannot bring up {self._ifname}"
        link = self._rtnetlink.get_link(self._ifname)
        lack = _lack_of_ip6(link)
        if guest.ip6 is None or lack is not None:
            self.set_link(what, up=True)
            if guest.ip6 is not None:
                self._warn_no_ip6(guest, f"{lack}")
            return False
        if link.ip6_mode != AddressMode.EUI64:
            self.set_link(what, up=True)
            return True
        self.set_link(what, ip6_mode=AddressMode.NONE)
        self.set_link(what, up=True)
        flags = int(AddressFlag.NODAD)
        if _routes_link_local_otherwise(guest.ip6):
            flags |= AddressFlag.NOPREFIXROUTE
        address = link_local_address(link.mac).packed
        payload = messages.build_address(self._ifindex, address, _IP6_SINGLE_PREFIX_LEN, flags, Scope.LINK)
        self._rtnetlink.request(f"cannot set the link-local address of {self._ifname}", MessageType.NEWADDR,
                                payload, MessageFlag.CREATE | MessageFlag.REPLACE)
        self.set_link(what, ip6_mode=link.ip6_mode)
        return True

    def _warn_no_ip6(self, guest: GuestNet, lack: str) -> None:
        if guest.ip4 is None:
            raise HostError(f"cannot set up {self._ifname}: only IPv6 is wanted, but {lack}")
        # In local mode the user did not ask for IPv6 and the host has none: no warning.
        if guest.ip6 is not None and (guest.ip6.template_ifname is not None or guest.ip6.is_fixed):
            self.warnings.append(f"no IPv6 on {self._ifname}: {lack}")

    def link_local(self) -> IPv6Address | None:
        """Read the link-local address, the kernel's or ours."""
        for address, _ in self._rtnetlink.get_addresses(AF_INET6, self._ifindex):
            if address.scope == Scope.LINK:
                return IPv6Address(address.address)
        return None

    def add_addresses(self, number: int, family: GuestFamily, *, lifetimes: bool) -> None:
        """Add the copied addresses that the host itself can use beyond the link, else the single one."""
        usable = parsed_addresses(family, lifetimes=lifetimes)
        if usable:
            of_the_host = host_prefix_routes(family)
            # The kernel lists IPv4 addresses in the order of their addition, IPv6 addresses in reverse.
            for entry, payload in (reversed(usable) if number == AF_INET6 else usable):
                self._copy_address(entry, payload, of_the_host if family.copied_routes else None,
                                   lifetimes=lifetimes)
        elif family.address is not None:
            prefix_len, flags = ((_IP6_SINGLE_PREFIX_LEN, AddressFlag.NODAD) if number == AF_INET6
                                 else (family.prefix_len, 0))
            payload = messages.build_address(self._ifindex, family.address.packed, prefix_len, flags)
            self._add_address(messages.AddressMessage.parse(payload), payload, _CREATE_NEW)

    def _copy_address(self, entry: AddressMessage, payload: bytes,
                      host_prefix_routes: set[PrefixRoute] | None, *, lifetimes: bool) -> None:
        """Copy one address; *host_prefix_routes* None: no routes are copied, so the kernel must make them."""
        prefix_route = prefix_route_of(entry)
        is_unrouted = host_prefix_routes is not None and (
            bool(entry.flags & AddressFlag.NOPREFIXROUTE)
            or (prefix_route is not None and prefix_route not in host_prefix_routes))
        payload = messages.retarget_address(payload, self._ifindex, no_prefix_route=is_unrouted,
                                            lifetimes=lifetimes)
        self._add_address(messages.AddressMessage.parse(payload), payload, MessageFlag.CREATE)

    def _add_address(self, entry: AddressMessage, payload: bytes, flags: int) -> None:
        text = f"{messages.ip_address(entry.address)}/{entry.prefix_len}"
        self._rtnetlink.request(f"cannot set address {text} on {self._ifname}", MessageType.NEWADDR, payload,
                                flags)
        self._sources.add(entry.address)
        prefix_route = prefix_route_of(entry)
        if prefix_route is not None and not entry.flags & AddressFlag.NOPREFIXROUTE:
            self._prefix_routes.add(prefix_route)

    def copy_routes(self, families: list[GuestFamily]) -> None:
        """Copy routes in passes until all exist or a pass adds none; warn of those left over."""
        on_link: list[Request] = []
        beyond: list[Request] = []
        for family in families:
            for payload in family.copied_routes:
                copied = routes.retarget_route(payload, family.template_ifindex, self._ifindex,
                                               self._sources)
                if copied is None:
                    continue
                request = self._route_request(copied[0])
                if request is not None:
                    (beyond if copied[1] else on_link).append(request)
        pending = on_link + beyond
        while pending:
            refused = self._rtnetlink.request_all(f"cannot copy routes to {self._ifname}", pending)
            unreached = {place: outcome for place, outcome in refused.items()
                         if self._is_unreached(pending[place], outcome)}
            if len(unreached) == len(pending):
                self._warn_routes([(pending[place], outcome) for place, outcome in unreached.items()])
                return
            pending = [pending[place] for place in unreached]

    def _is_unreached(self, request: Request, outcome: messages.Outcome) -> bool:
        """Tell whether a route needs another one first, or IPv6; raises HostError if refused for good."""
        if outcome.errno == EEXIST:
            return False
        if outcome.errno in _NO_WAY:
            return True
        route = routes.RouteMessage.parse(request.payload)
        # Without IPv6 in the namespace an IPv4 route over IPv6 is refused with various errors.
        if any(hop.gateway is not None and len(hop.gateway) != len(route.destination) for hop in route.hops):
            return True
        raise HostError(f"cannot set route {route.text} on {self._ifname}: {reason(outcome)}")

    def _warn_routes(self, unreached: list[tuple[Request, messages.Outcome]]) -> None:
        for request, outcome in unreached[:_MAX_ROUTE_WARNINGS]:
            route = routes.RouteMessage.parse(request.payload)
            self.warnings.append(f"cannot set route {route.text} on {self._ifname}: {reason(outcome)}")
        if len(unreached) > _MAX_ROUTE_WARNINGS:
            self.warnings.append(f"cannot set {len(unreached) - _MAX_ROUTE_WARNINGS} more routes "
                                 f"on {self._ifname} either")

    def _route_request(self, payload: bytes) -> Request | None:
        """Make the request for one route; None if the kernel has made the same route for our address."""
        is_ip4 = payload[0] == AF_INET
        found = kernel_route(payload) if routes.is_made_by_kernel(payload) else None
        if found is not None and found in self._prefix_routes:
            # Without its preferred source, a route to our own prefix would be a second one.
            if is_ip4 and routes.RouteMessage.parse(payload).source is None:
                return None
            # The host's route has attributes (a metric, say) that the kernel's route here lacks.
            self._prefix_routes.remove(found)
            return Request(MessageType.NEWROUTE, MessageFlag.CREATE | MessageFlag.REPLACE, payload)
        # IPv4 allows routes that differ in the next hop only, and APPEND keeps their order; in IPv6
        # they are hops of one route, for which APPEND means something else.
        return Request(MessageType.NEWROUTE, _APPEND if is_ip4 else MessageFlag.CREATE, payload)

    def add_default_route(self, number: int, family: GuestFamily) -> None:
        """Add a default route if no routes are copied; its gateway may lie outside the prefix."""
        if family.copied_routes or family.gateway is None:
            return
        gateway = family.gateway
        what = f"cannot set the default route via {gateway} on {self._ifname}"
        default = routes.build_route(self._ifindex, family=number, gateway=gateway.packed)
        try:
            self._rtnetlink.request(what, MessageType.NEWROUTE, default, _CREATE_NEW)
        except KernelRefusalError as error:
            if error.errno not in _NO_WAY:
                raise
            self._add_gateway_route(gateway)
            self._rtnetlink.request(what, MessageType.NEWROUTE, default, _CREATE_NEW)

    def _add_gateway_route(self, gateway: IPAddress) -> None:
        is_ip6 = gateway.version == 6
        payload = routes.build_route(self._ifindex, family=AF_INET6 if is_ip6 else AF_INET,
                                 destination=gateway.packed, scope=Scope.UNIVERSE if is_ip6 else Scope.LINK)
        self._rtnetlink.request(f"cannot set a route to the gateway {gateway} on {self._ifname}",
                                MessageType.NEWROUTE, payload, MessageFlag.CREATE)


def link_local_address(mac: bytes) -> IPv6Address:
    """Form the link-local address of *mac*, 6 bytes: modified EUI-64, RFC 4291 appendix A."""
    return IPv6Address(bytes([0xFE, 0x80, 0, 0, 0, 0, 0, 0, mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:])


def prefix_route_of(address: AddressMessage) -> PrefixRoute | None:
    """Tell which route the kernel makes for *address* unless told not to; none for an IPv4 host address.

    With a peer address, IPv4 makes a route to the peer's prefix; IPv6 makes one to the own prefix besides the
    one to the peer.
    """
    is_ip6 = address.family == AF_INET6
    base = address.address if is_ip6 else address.network
    host_bits = 8 * len(base) - address.prefix_len
    if not is_ip6 and not host_bits and base == address.address:
        return None
    network = (int.from_bytes(base, "big") >> host_bits << host_bits).to_bytes(len(base), "big")
    return PrefixRoute(network, address.prefix_len, address.priority or (_IP6_PREFIX_METRIC if is_ip6 else 0))


def kernel_route(payload: bytes) -> PrefixRoute | None:
    """Return the key of a route that `is_made_by_kernel`; None if it has a gateway."""
    route = routes.RouteMessage.parse(payload)
    if any(hop.gateway is not None for hop in route.hops):
        return None
    return PrefixRoute(route.destination, route.prefix_len, route.priority)


def host_prefix_routes(family: GuestFamily) -> set[PrefixRoute]:
    """Pick the routes of the template interface that look like the kernel's own."""
    return {prefix_route for payload in family.copied_routes
            if routes.is_made_by_kernel(payload)
            and (prefix_route := kernel_route(payload)) is not None
            and routes.RouteMessage.parse(payload).hops[0].ifindex == family.template_ifindex}


def _routes_link_local_otherwise(family: GuestFamily) -> bool:
    """Tell whether the host's route to fe80::/64 differs from the one that the kernel makes."""
    found = {route for route in host_prefix_routes(family)
             if route.network == _LINK_LOCAL_ROUTE.network and route.prefix_len == _IP6_SINGLE_PREFIX_LEN}
    return bool(found) and _LINK_LOCAL_ROUTE not in found


def parsed_addresses(family: GuestFamily, *, lifetimes: bool) -> list[tuple[AddressMessage, bytes]]:
    """Read the addresses to copy, those that the host itself can use beyond the link; each with its payload.

    With *lifetimes* deprecated ones are among them, which last as long as connections need them, if there is
    any other one.
    """
    parsed = [(messages.AddressMessage.parse(entry.message), entry.message)
              for entry in family.copied_addresses]
    found = [(entry, payload) for entry, payload in parsed
             if entry.scope < Scope.LINK and not entry.flags & AddressFlag.DADFAILED]
    usable = [pair for pair in found if not pair[0].flags & AddressFlag.DEPRECATED]
    return found if lifetimes and usable else usable


def _lack_of_ip6(link: messages.LinkMessage) -> str | None:
    """Return why an interface has no IPv6; None if it has."""
    if link.ip6_disabled is None and link.mtu < IP6_MIN_MTU:
        return f"its MTU is {link.mtu}, and IPv6 needs {IP6_MIN_MTU} (RFC 8200 5)"
    if link.ip6_disabled is None:
        return "the kernel has no IPv6"
    if link.ip6_disabled:
        return f"net.ipv6.conf.{link.name}.disable_ipv6 is 1 in the namespace"
    return None
