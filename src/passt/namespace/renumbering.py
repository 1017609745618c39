"""From one network of a namespace to the next: what to add, and what to take away, in this order. Pure.

What --config-net sets up is described as `namespace.interface` would do it. The differences of two
descriptions are requests to the kernel: new addresses first, then new routes, those on the link before those
through a gateway; then old routes go, and old addresses last. So there is a way out at any time. What is in
neither description was set up by somebody else, and is not touched.

Before old addresses go, the connections that have them are reset (`follow.sweep`), and a client that is
reset connects anew at once. From then on nobody may take an old address, as that would hang. IPv6 addresses
that will go are deprecated (RFC 6724 5, rule 3). IPv4 knows no such thing: there the source is that of the
route, the first address of the interface by default. So until the old address has gone, each route has
another one like it in front that names a new source, and the kernel's route to the old prefix is removed.

Deprecated and temporary addresses have the lifetimes of the host's (RFC 4862 5.5.4, RFC 8981): the former
stay for the connections that have them, and the kernel counts both down. What is set anew on the host is set
anew here.

Routes that the kernel makes and removes with an address are left to it.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Address

from passt.facts.address import IP6_LEN
from passt.host.rtnetlink import messages, routes
from passt.host.rtnetlink.messages import AF_INET, AF_INET6, AddressFlag, MessageFlag, Scope
from passt.host.rtnetlink.socket import STEP, Request, filter_in_pieces, finish, map_in_pieces
from passt.light.values import IntEnum, NamedTuple, replace
from passt.namespace.interface import (
    PrefixRoute,
    host_prefix_routes,
    kernel_route,
    parsed_addresses,
    prefix_route_of,
)

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Container, Generator, Iterable, Mapping, Sequence

    from passt.facts.address import IPAddress
    from passt.facts.guest import GuestFamily, GuestNet
    from passt.host.rtnetlink.messages import AddressMessage

    AddressKey = tuple[bytes, int, bytes]

_IP6_PREFIX_LEN = 64


class Deletion(IntEnum):
    """Types of requests that take something away (RTM_DEL*); `messages.MessageType` has the others."""

    ADDRESS = 21
    ROUTE = 25


class Setup(NamedTuple):
    """What an interface has: RTM_NEWADDR payloads by address, length and network; RTM_NEWROUTE payloads.

    An address may be there twice, with one network and with another one, or with two peers. Of a route is
    told whether it has a gateway.
    """

    addresses: dict[AddressKey, bytes]
    routes: dict[bytes, bool]


class Plan(NamedTuple):
    """What leads from one network to the other: requests before connections are reset, and after that.

    By the former, *added*, all that is new has come, and nothing old is taken for anything new any more.
    *left* are the addresses, packed, that go with the latter, *removed*.
    """

    added: list[Request]
    removed: list[Request]
    left: frozenset[bytes]


def plan(before: GuestNet, after: GuestNet, ifindex: int) -> Plan:
    """List what leads interface *ifindex* from one network to the other."""
    return finish(plan_in_pieces(before, after, ifindex))


def plan_in_pieces(before: GuestNet, after: GuestNet, ifindex: int) -> Generator[None, None, Plan]:
    """Do the work of `plan`, which is long where there are very many routes.

    To take something away may take more with it: with the first address of an IPv4 subnet the kernel removes
    the others, and the routes of an interface with its last one, unless the interface promotes secondaries
    (`interface.configure`; somebody may have changed that); and a route may be the same as a new one but for
    who has made it. So what has to be there is asked for once more at the end.
    """
    made = Plan([], [], frozenset())
    for number, old, new in ((AF_INET, before.ip4, after.ip4), (AF_INET6, before.ip6, after.ip6)):
        if old != new and old is not None and new is not None:
            successor = None if new.address is None else new.address.packed
            setups = (yield from describe(number, old, ifindex)), (yield from describe(number, new, ifindex))
            made = yield from _add(made, *setups, successor, ifindex)
    return made


def _add(made: Plan, old: Setup, new: Setup, successor: bytes | None, ifindex: int
         ) -> Generator[None, None, Plan]:
    """Add what leads interface *ifindex* from *old* to *new* to a plan; *successor* is its new address."""
    on_link, beyond = yield from _split(new.routes, old.routes)
    fresh = yield from map_in_pieces(_route, on_link + beyond)
    on_link, beyond = yield from _split(old.routes, new.routes)
    stale = yield from map_in_pieces(_no_route, beyond + on_link)
    added = [_address(payload) for key, payload in new.addresses.items()
             if key not in old.addresses or messages.has_new_lifetimes(old.addresses[key], payload)]
    added += fresh
    leaving = [key for key in old.addresses if key not in new.addresses]
    added += [_address(messages.deprecate_address(old.addresses[key])) for key in leaving
              if len(key[0]) == IP6_LEN]
    added += stale
    if stale:
        added += fresh
    left = frozenset(key[0] for key in leaving) - {key[0] for key in new.addresses}
    preferred = (yield from _preferred_routes(new, successor)) if left else []
    added += yield from map_in_pieces(_route_in_front, preferred)
    added += _leave_prefixes(old, new, [key for key in leaving if key[0] in left], ifindex)
    removed = [Request(Deletion.ADDRESS, 0, old.addresses[key]) for key in [*leaving, *_rerouted(old, new)]]
    if removed:
        removed += map(_address, new.addresses.values())
        on_link, beyond = yield from _split(new.routes, {})
        removed += yield from map_in_pieces(_route, on_link + beyond)
        removed += yield from map_in_pieces(_no_route, preferred)
    return Plan(made.added + added, made.removed + removed, made.left | left)


def _split(wanted: Mapping[bytes, bool], others: Container[bytes]
           ) -> Generator[None, None, tuple[list[bytes], list[bytes]]]:
    """Divide routes that *others* do not have into those on the link and those through a gateway."""
    found = yield from filter_in_pieces(lambda route: route[0] not in others, wanted.items())
    return ([payload for payload, has_gateway in found if not has_gateway],
            [payload for payload, has_gateway in found if has_gateway])


def _rerouted(old: Setup, new: Setup) -> list[AddressKey]:
    """List the addresses that stay, but for which the kernel makes another route, or makes one only now.

    The kernel does so when an address is added, and hardly ever when it is changed.
    """
    return [key for key, payload in new.addresses.items()
            if key in old.addresses and _made_for(old.addresses[key]) != _made_for(payload)]


def _made_for(payload: bytes) -> PrefixRoute | None:
    """Tell which route the kernel makes for an RTM_NEWADDR payload."""
    entry = messages.AddressMessage.parse(payload)
    return None if entry.flags & AddressFlag.NOPREFIXROUTE else prefix_route_of(entry)


def _preferred_routes(new: Setup, successor: bytes | None) -> Generator[None, None, list[bytes]]:
    """Make IPv4 routes like those of *new* that have *successor* as their source, where they have none."""
    if successor is None or successor not in {key[0] for key in new.addresses}:
        return []
    # Each is put in front of those to the same place.
    found = yield from filter_in_pieces(
        lambda payload: payload[0] == AF_INET and not routes.has_source(payload), reversed(new.routes))
    return (yield from map_in_pieces(lambda payload: routes.prefer_source(payload, successor), found))


def _leave_prefixes(old: Setup, new: Setup, leaving: Sequence[AddressKey], ifindex: int
                    ) -> list[Request]:
    """Take the kernel's routes to the IPv4 prefixes of addresses that go from these.

    Where a new address has the same prefix, its route takes the place; the kernel makes it no other one.
    """
    heirs = {prefix_route_of(entry): entry.address for entry in _routed(new.addresses.values())}
    found = []
    for entry in _routed(old.addresses[key] for key in leaving):
        prefix = prefix_route_of(entry)
        if entry.family != AF_INET or prefix is None:
            continue
        if prefix in heirs:
            found.append(Request(messages.MessageType.NEWROUTE, MessageFlag.CREATE,
                                 _prefix_route(prefix, heirs[prefix], ifindex)))
        found.append(_no_route(_prefix_route(prefix, entry.address, ifindex)))
    return found


def _prefix_route(prefix: PrefixRoute, source: bytes, ifindex: int) -> bytes:
    return routes.build_prefix_route(ifindex, prefix.network, prefix.prefix_len, prefix.priority, source)


def _no_route(payload: bytes) -> Request:
    return Request(Deletion.ROUTE, 0, payload)


def _address(payload: bytes) -> Request:
    return Request(messages.MessageType.NEWADDR, MessageFlag.CREATE | MessageFlag.REPLACE, payload)


def _route(payload: bytes) -> Request:
    # As in `interface`: IPv4 routes may differ in the next hop only.
    flags = MessageFlag.CREATE | (MessageFlag.APPEND if payload[0] == AF_INET else 0)
    return Request(messages.MessageType.NEWROUTE, flags, payload)


def _route_in_front(payload: bytes) -> Request:
    return Request(messages.MessageType.NEWROUTE, MessageFlag.CREATE, payload)


def describe(number: int, family: GuestFamily, ifindex: int) -> Generator[None, None, Setup]:
    """Work that describes what --config-net makes of *family*, AF_* *number*, on interface *ifindex*."""
    setup = Setup({}, {})
    made = None
    if family.copied_routes:
        of_kernel = yield from filter_in_pieces(routes.is_made_by_kernel, family.copied_routes)
        made = host_prefix_routes(replace(family, copied_routes=tuple(of_kernel)))
    _add_addresses(setup, number, family, ifindex, made)
    yield from _add_routes(setup, number, family, ifindex)
    return setup


def _add_addresses(setup: Setup, number: int, family: GuestFamily, ifindex: int,
                   made: set[PrefixRoute] | None) -> None:
    """Add the addresses; *made* are the kernel's own routes on the host, None if no routes are copied."""
    usable = parsed_addresses(family, lifetimes=True)
    for entry, payload in (reversed(usable) if number == AF_INET6 else usable):
        prefix_route = prefix_route_of(entry)
        is_unrouted = made is not None and (bool(entry.flags & AddressFlag.NOPREFIXROUTE)
                                            or (prefix_route is not None and prefix_route not in made))
        setup.addresses[entry.address, entry.prefix_len, entry.network] = messages.retarget_address(
            payload, ifindex, no_prefix_route=is_unrouted, lifetimes=True)
    if not usable and family.address is not None:
        length, flags = (_IP6_PREFIX_LEN, AddressFlag.NODAD) if number == AF_INET6 else (family.prefix_len, 0)
        setup.addresses[family.address.packed, length, family.address.packed] = messages.build_address(
            ifindex, family.address.packed, length, flags)


def _add_routes(setup: Setup, number: int, family: GuestFamily, ifindex: int
                ) -> Generator[None, None, None]:
    if family.copied_routes:
        sources = {key[0] for key in setup.addresses}
        made = _made_by_the_kernel(setup)
        for place, payload in enumerate(family.copied_routes):
            if not place % STEP:
                yield
            if payload[0] != number:
                continue
            copied = routes.retarget_route(payload, family.template_ifindex, ifindex, sources)
            if copied is not None and not (routes.is_made_by_kernel(payload)
                                           and kernel_route(payload) in made):
                setup.routes[copied[0]] = copied[1]
    elif family.gateway is not None:
        gateway = family.gateway
        if not _is_on_link(family, gateway):
            scope = Scope.UNIVERSE if number == AF_INET6 else Scope.LINK
            setup.routes[routes.build_route(ifindex, family=number, destination=gateway.packed,
                                            scope=scope)] = False
        setup.routes[routes.build_route(ifindex, family=number, gateway=gateway.packed)] = True


def _made_by_the_kernel(setup: Setup) -> set[PrefixRoute | None]:
    return {prefix_route_of(entry) for entry in _routed(setup.addresses.values())}


def _routed(payloads: Iterable[bytes]) -> list[AddressMessage]:
    """Read RTM_NEWADDR payloads; those for which the kernel makes a route to the prefix."""
    entries = map(messages.AddressMessage.parse, payloads)
    return [entry for entry in entries if not entry.flags & AddressFlag.NOPREFIXROUTE]


def _is_on_link(family: GuestFamily, gateway: IPAddress) -> bool:
    """Tell whether the kernel reaches *gateway* by the prefix of an address."""
    if isinstance(gateway, IPv6Address):
        ours = family.address
        return gateway.is_link_local or (ours is not None and ours.packed[:8] == gateway.packed[:8])
    return family.address is not None and gateway in IPv4Network(
        (int(family.address), family.prefix_len), strict=False)
