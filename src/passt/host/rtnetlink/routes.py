"""rtnetlink messages of routes and next-hop objects: bytes to values and back, no I/O (see `passt.wire`).

Source: as for `passt.host.rtnetlink.messages`, and linux/nexthop.h. Additions to the grammar given there:

    payload    = rtmsg(12) or nhmsg(8) { attribute }
    multipath  = { rtnexthop(8: u16 length, u8 flags, u8 weight - 1, i32 ifindex) { attribute } }
    group      = { nexthop_grp(8: u32 id, u8 weight - 1, 3 bytes) }

A host may have two routes or a hundred thousand. So tables keep the kernel's form, and the functions that
handle every route (`is_configured`, `retarget_route`) are written for speed; only single routes are parsed.
"""

from __future__ import annotations

from struct import Struct

from passt.errors import HostError
from passt.host.rtnetlink.messages import (
    ADDRESS_LEN,
    AF_INET,
    AF_INET6,
    ATTRIBUTE_TYPE_MASK,
    Scope,
    aligned,
    build_attribute,
    expect_address,
    expect_header,
    expect_prefix_len,
    ip_address,
    parse_attribute_list,
    parse_attributes,
    parse_u32,
)
from passt.light.values import IntEnum, Value

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping
    from typing import Self

RT_TABLE_MAIN = 254

_ROUTE = Struct("=BBBBBBBBI")
_NEXT_HOP = Struct("=HBBi")
_OBJECT = Struct("=B3xI")
_GROUP_ENTRY = Struct("=IB3x")
_ATTRIBUTE = Struct("=HH")
_U16 = Struct("=H")
_U32 = Struct("=I")


class RouteAttribute(IntEnum):
    """RTA_*."""

    DST = 1
    OIF = 4
    GATEWAY = 5
    PRIORITY = 6
    PREFSRC = 7
    MULTIPATH = 9
    CACHEINFO = 12
    TABLE = 15
    VIA = 18
    NH_ID = 30


class ObjectAttribute(IntEnum):
    """NHA_*."""

    ID = 1
    GROUP = 2
    OIF = 5
    GATEWAY = 6


class RouteFlag(IntEnum):
    """RTNH_F_* and RTM_F_*, bits of rtm_flags; the first three are bits of rtnh_flags and nh_flags too."""

    DEAD = 0x1
    PERVASIVE = 0x2
    ONLINK = 0x4
    CLONED = 0x200


class RouteType(IntEnum):
    """RTN_*."""

    UNICAST = 1


class RouteProtocol(IntEnum):
    """RTPROT_*."""

    KERNEL = 2
    BOOT = 3


# Flags of a next hop that may be configured. The others are state, which the kernel rejects (DEAD, LINKDOWN)
# or ignores in requests.
_SETTABLE_HOP_FLAGS = RouteFlag.PERVASIVE | RouteFlag.ONLINK

# For the loop over the attributes of each route: an attribute lookup on an enumeration takes longer.
_OIF, _PREFSRC = int(RouteAttribute.OIF), int(RouteAttribute.PREFSRC)
_MULTIPATH = int(RouteAttribute.MULTIPATH)
_GATEWAYS = frozenset({int(RouteAttribute.GATEWAY), int(RouteAttribute.VIA)})
_CHANGED = frozenset({_OIF, _PREFSRC, _MULTIPATH, int(RouteAttribute.NH_ID), int(RouteAttribute.CACHEINFO)})
_UNICAST, _CLONED, _SETTABLE = int(RouteType.UNICAST), int(RouteFlag.CLONED), int(_SETTABLE_HOP_FLAGS)


class NextHop(Value):
    """One next hop; *gateway* is 4 or 16 bytes of either family, None if the destination is on the link."""

    ifindex: int
    weight: int
    gateway: bytes | None
    is_dead: bool = False


class RouteMessage(Value):
    """RTM_NEWROUTE. A route without multipath has one hop of weight 1; one without interface has no hop."""

    family: int
    prefix_len: int
    tos: int
    table: int
    protocol: int
    scope: int
    type: int
    flags: int
    destination: bytes
    priority: int
    source: bytes | None
    hops: tuple[NextHop, ...]

    @property
    def text(self) -> str:
        """The route in the notation of ip(8): destination and, if there is one, gateway."""
        gateways = [ip_address(hop.gateway) for hop in self.hops if hop.gateway is not None]
        via = f" via {gateways[0]}" if gateways else ""
        return f"{ip_address(self.destination)}/{self.prefix_len}{via}"

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """Read an RTM_NEWROUTE payload."""
        expect_header(payload, _ROUTE, "route")
        family, prefix_len, _, tos, table, protocol, scope, route_type, flags = _ROUTE.unpack_from(payload)
        expect_prefix_len(prefix_len, family)
        found = parse_attributes(payload, _ROUTE.size)
        destination = found.get(RouteAttribute.DST)
        if destination is None:
            destination = bytes(ADDRESS_LEN[family])
        source = found.get(RouteAttribute.PREFSRC)
        return cls(
            family=family,
            prefix_len=prefix_len,
            tos=tos,
            table=parse_u32(found.get(RouteAttribute.TABLE), table),
            protocol=protocol,
            scope=scope,
            type=route_type,
            flags=flags,
            destination=expect_address(destination, family, "destination"),
            priority=parse_u32(found.get(RouteAttribute.PRIORITY)),
            source=None if source is None else expect_address(source, family, "preferred source"),
            hops=_parse_hops(found, family, flags),
        )


class NextHopObject(Value):
    """RTM_NEWNEXTHOP: one hop (*group* is empty), or a group, pairs of the id and weight of other objects."""

    id: int
    flags: int
    ifindex: int
    gateway: bytes | None
    group: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """Read an RTM_NEWNEXTHOP payload; a blackhole object has interface 0."""
        expect_header(payload, _OBJECT, "next hop")
        family, flags = _OBJECT.unpack_from(payload)
        found = parse_attributes(payload, _OBJECT.size)
        gateway, group = found.get(ObjectAttribute.GATEWAY), found.get(ObjectAttribute.GROUP, b"")
        if len(group) % _GROUP_ENTRY.size:
            raise HostError(f"rtnetlink: group of next hops of {len(group)} bytes")
        return cls(
            id=parse_u32(found.get(ObjectAttribute.ID)),
            flags=flags,
            ifindex=parse_u32(found.get(ObjectAttribute.OIF)),
            gateway=None if gateway is None else expect_address(gateway, family, "gateway"),
            group=tuple((number, weight + 1) for number, weight in _GROUP_ENTRY.iter_unpack(group)),
        )


def build_routes_query(family: int, table: int = RT_TABLE_MAIN) -> bytes:
    """Build the payload of an RTM_GETROUTE dump of unicast routes; old kernels ignore both filters."""
    return _ROUTE.pack(family, 0, 0, 0, table, 0, 0, RouteType.UNICAST, 0)


def build_route_query(destination: bytes, ifindex: int) -> bytes:
    """Build the payload of RTM_GETROUTE for the route to *destination* through interface *ifindex*."""
    family = AF_INET if len(destination) == ADDRESS_LEN[AF_INET] else AF_INET6
    return (_ROUTE.pack(family, 8 * len(destination), 0, 0, 0, 0, 0, 0, 0)
            + build_attribute(RouteAttribute.DST, destination)
            + build_attribute(RouteAttribute.OIF, _U32.pack(ifindex)))


def build_route(ifindex: int, *, family: int, destination: bytes = b"", gateway: bytes | None = None,
                scope: int = Scope.UNIVERSE) -> bytes:
    """Build the payload of RTM_NEWROUTE: to host *destination*, or the default route if that is empty.

    A *gateway* of the other family (IPv4 over IPv6) becomes RTA_VIA.
    """
    fixed = _ROUTE.pack(family, 8 * len(destination), 0, 0, RT_TABLE_MAIN, RouteProtocol.BOOT, scope,
                        RouteType.UNICAST, 0)
    return (fixed + (build_attribute(RouteAttribute.DST, destination) if destination else b"")
            + _build_gateway(family, gateway) + build_attribute(RouteAttribute.OIF, _U32.pack(ifindex)))


def build_prefix_route(ifindex: int, network: bytes, prefix_len: int, priority: int, source: bytes) -> bytes:
    """Build the payload of the route that the kernel makes for an IPv4 address, *source*, of a *network*."""
    fixed = _ROUTE.pack(AF_INET, prefix_len, 0, 0, RT_TABLE_MAIN, RouteProtocol.KERNEL, Scope.LINK,
                        RouteType.UNICAST, 0)
    return (fixed + build_attribute(RouteAttribute.DST, network)
            + build_attribute(RouteAttribute.OIF, _U32.pack(ifindex))
            + (build_attribute(RouteAttribute.PRIORITY, _U32.pack(priority)) if priority else b"")
            + build_attribute(RouteAttribute.PREFSRC, source))


def has_source(payload: bytes) -> bool:
    """Return whether a route names a preferred source."""
    return _PREFSRC in parse_attributes(payload, _ROUTE.size)


def prefer_source(payload: bytes, source: bytes) -> bytes:
    """Turn an RTM_NEWROUTE payload without preferred source into one with *source*."""
    return payload + build_attribute(RouteAttribute.PREFSRC, source)


def _build_gateway(family: int, gateway: bytes | None) -> bytes:
    """Build the attribute of a gateway for a route of *family*."""
    if gateway is None:
        return b""
    if len(gateway) == ADDRESS_LEN[family]:
        return build_attribute(RouteAttribute.GATEWAY, gateway)
    via_family = AF_INET if len(gateway) == ADDRESS_LEN[AF_INET] else AF_INET6
    return build_attribute(RouteAttribute.VIA, _U16.pack(via_family) + gateway)


def is_configured(payload: bytes) -> bool:
    """Return whether a route is a unicast route of the main table, not a copy in the route cache."""
    expect_header(payload, _ROUTE, "route")
    *_, table, _, _, kind, flags = _ROUTE.unpack_from(payload)
    # Tables above 255 have another number in the header.
    return table == RT_TABLE_MAIN and kind == _UNICAST and not flags & _CLONED


def is_default(payload: bytes) -> bool:
    """Return whether a route that `is_configured` is a default route."""
    return not payload[1]


def is_made_by_kernel(payload: bytes) -> bool:
    """Return whether the kernel added a route that `is_configured`, for an address."""
    return payload[5] == RouteProtocol.KERNEL


def _parse_hops(found: dict[int, bytes], family: int, flags: int) -> tuple[NextHop, ...]:
    if RouteAttribute.MULTIPATH in found:
        return tuple(NextHop(ifindex, weight, _gateway(parse_attributes(extra, 0), family),
                             bool(hop_flags & RouteFlag.DEAD))
                     for ifindex, hop_flags, weight, extra
                     in _parse_multipath(found[RouteAttribute.MULTIPATH]))
    if RouteAttribute.OIF in found:
        return (NextHop(parse_u32(found[RouteAttribute.OIF]), 1, _gateway(found, family),
                        bool(flags & RouteFlag.DEAD)),)
    return ()


def _parse_multipath(data: bytes) -> Iterable[tuple[int, int, int, bytes]]:
    """Read an RTA_MULTIPATH value; yield ifindex, flags, weight and attributes of each hop."""
    offset, end = 0, len(data)
    while offset < end:
        if end - offset < _NEXT_HOP.size:
            raise HostError(f"rtnetlink: {end - offset} bytes where a next hop takes {_NEXT_HOP.size}")
        length, flags, hops, ifindex = _NEXT_HOP.unpack_from(data, offset)
        if not _NEXT_HOP.size <= length <= end - offset:
            raise HostError(f"rtnetlink: next hop of length {length} in {end - offset} bytes")
        yield ifindex, flags, hops + 1, data[offset + _NEXT_HOP.size : offset + length]
        offset += aligned(length)


def _gateway(found: dict[int, bytes], family: int) -> bytes | None:
    """Return RTA_GATEWAY, or the address in RTA_VIA (u16 family, address), as of an IPv4 route over IPv6."""
    gateway = found.get(RouteAttribute.GATEWAY)
    if gateway is not None:
        return expect_address(gateway, family, "gateway")
    via = found.get(RouteAttribute.VIA)
    if via is None:
        return None
    if len(via) < _U16.size:
        raise HostError(f"rtnetlink: gateway of another family in {len(via)} bytes")
    return expect_address(via[2:], _U16.unpack_from(via)[0], "gateway")


def retarget_route(payload: bytes, old_ifindex: int, ifindex: int,
                   sources: Container[bytes]) -> tuple[bytes, bool] | None:
    """Turn a dumped RTM_NEWROUTE payload for *old_ifindex* into one for *ifindex*, in another namespace.

    Returns the payload and whether the route has a gateway; None if no hop uses *old_ifindex*. The new
    payload has neither hops through other interfaces nor next-hop ids, cache information and state flags,
    which are meaningless in another namespace. It has the preferred source only if that is one of *sources*,
    the packed addresses of the new interface.
    """
    expect_header(payload, _ROUTE, "route")
    *fixed, flags = _ROUTE.unpack_from(payload)
    parts = [_ROUTE.pack(*fixed, flags & _SETTABLE)]
    has_hop = has_gateway = False
    # Bytes from offset *kept* on are copied unchanged, up to the next attribute that changes.
    kept = offset = _ROUTE.size
    end = len(payload)
    while offset < end:
        if end - offset < 4:
            raise HostError(f"rtnetlink: {end - offset} bytes where an attribute needs 4")
        length, kind = _ATTRIBUTE.unpack_from(payload, offset)
        if not 4 <= length <= end - offset:
            raise HostError(f"rtnetlink: attribute {kind} of length {length} in {end - offset} bytes")
        start = offset
        offset += length + 3 & -4
        kind &= ATTRIBUTE_TYPE_MASK
        if kind in _GATEWAYS:
            has_gateway = True
        elif kind in _CHANGED:
            value = payload[start + 4 : start + length]
            if kind == _PREFSRC and value in sources:
                continue
            parts.append(payload[kept:start])
            kept = offset
            if kind == _OIF:
                if parse_u32(value) != old_ifindex:
                    return None
                parts.append(build_attribute(_OIF, _U32.pack(ifindex)))
                has_hop = True
            elif kind == _MULTIPATH:
                hops, has_gateway = _retarget_hops(value, old_ifindex, ifindex)
                parts.append(build_attribute(_MULTIPATH, hops))
                has_hop = bool(hops)
    parts.append(payload[kept:])
    parts.append(bytes(-end & 3))
    return (b"".join(parts), has_gateway) if has_hop else None


def _retarget_hops(data: bytes, old_ifindex: int, ifindex: int) -> tuple[bytes, bool]:
    kept = []
    has_gateway = False
    for hop_ifindex, flags, weight, extra in _parse_multipath(data):
        if hop_ifindex != old_ifindex:
            continue
        found = [(kind, value) for kind, value in parse_attribute_list(extra)
                 if kind & ATTRIBUTE_TYPE_MASK != RouteAttribute.NH_ID]
        has_gateway = has_gateway or any(kind & ATTRIBUTE_TYPE_MASK in _GATEWAYS for kind, _ in found)
        attributes = b"".join(build_attribute(kind, value) for kind, value in found)
        kept.append(_NEXT_HOP.pack(_NEXT_HOP.size + len(attributes), flags & _SETTABLE_HOP_FLAGS,
                                   weight - 1, ifindex) + attributes)
    return b"".join(kept), has_gateway


def build_objects_query() -> bytes:
    """Build the payload of an RTM_GETNEXTHOP dump of all next-hop objects."""
    return _OBJECT.pack(0, 0)


def expand_objects(payload: bytes, objects: Mapping[int, NextHopObject]) -> bytes:
    """Replace the next-hop id of a route by the hops in *objects* (needed with nexthop_compat_mode 0)."""
    found = parse_attributes(payload, _ROUTE.size)
    named = objects.get(parse_u32(found.get(RouteAttribute.NH_ID)))
    if named is None or RouteAttribute.OIF in found or RouteAttribute.MULTIPATH in found:
        return payload
    *fixed, flags = _ROUTE.unpack_from(payload)
    if not named.group:
        return (_ROUTE.pack(*fixed, flags | named.flags & _SETTABLE_HOP_FLAGS) + payload[_ROUTE.size :]
                + _build_gateway(fixed[0], named.gateway)
                + build_attribute(RouteAttribute.OIF, _U32.pack(named.ifindex)))
    hops = b""
    for number, weight in named.group:
        member = objects.get(number)
        if member is not None:
            extra = _build_gateway(fixed[0], member.gateway)
            hops += _NEXT_HOP.pack(_NEXT_HOP.size + len(extra), member.flags & 0xFF, weight - 1,
                                   member.ifindex) + extra
    return payload + build_attribute(RouteAttribute.MULTIPATH, hops)
