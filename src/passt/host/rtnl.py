"""rtnetlink messages: bytes <-> values for the operations that we need, no I/O.

Source: rtnetlink(7), netlink(7), Documentation/userspace-api/netlink/intro.rst and the headers
linux/{netlink,rtnetlink,if_link,if_addr}.h of the kernel.

All integers are in host byte order, addresses in network order; every message and attribute starts
on a multiple of four bytes and its length field leaves the padding out:

    datagram   = { message }
    message    = nlmsghdr(16: u32 length, u16 type, u16 flags, u32 sequence, u32 port) payload
    payload    = fixed header (ifinfomsg 16, ifaddrmsg 8 or rtmsg 12 bytes) { attribute }
    attribute  = u16 length (with these 4 bytes), u16 type (upper two bits are flags), value
    multipath  = { rtnexthop(8: u16 length, u8 flags, u8 weight - 1, i32 ifindex) { attribute } }

What cannot be read raises HostError: the kernel is the only sender, so it is the host that fails us.
Attributes that we do not know are skipped in reading and kept, byte for byte, in re-targeting.
"""

from __future__ import annotations

from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from passt.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from passt.model import IPAddress

ALIGNMENT = 4
AF_INET, AF_INET6 = 2, 10
ADDRESS_LEN = {AF_INET: 4, AF_INET6: 16}
RT_TABLE_MAIN = 254

_MESSAGE = Struct("=IHHII")
_LINK = Struct("=BxHiII")
_ADDRESS = Struct("=BBBBI")
_ROUTE = Struct("=BBBBBBBBI")
_NEXT_HOP = Struct("=HBBi")
_ATTRIBUTE = Struct("=HH")
_U16 = Struct("=H")
_U32 = Struct("=I")
_I32 = Struct("=i")
_ATTRIBUTE_TYPE_MASK = 0x3FFF
_NESTED = 0x8000


class MessageType(IntEnum):
    """nlmsg_type."""

    NOOP = 1
    ERROR = 2
    DONE = 3
    OVERRUN = 4
    NEWLINK = 16
    GETLINK = 18
    NEWADDR = 20
    GETADDR = 22
    NEWROUTE = 24
    GETROUTE = 26


class MessageFlag(IntEnum):
    """nlmsg_flags; 0x100 and above mean different things in GET, NEW and ERROR messages."""

    REQUEST = 0x01
    ACK = 0x04
    DUMP_INTERRUPTED = 0x10
    CAPPED = 0x100
    REPLACE = 0x100
    ACK_TLVS = 0x200
    DUMP = 0x300
    EXCL = 0x200
    CREATE = 0x400
    APPEND = 0x800


class LinkAttribute(IntEnum):
    """IFLA_*."""

    ADDRESS = 1
    IFNAME = 3
    MTU = 4
    TXQLEN = 13
    AF_SPEC = 26


class InterfaceFlag(IntEnum):
    """IFF_*."""

    UP = 0x1


class AddressAttribute(IntEnum):
    """IFA_*."""

    ADDRESS = 1
    LOCAL = 2
    LABEL = 3
    CACHEINFO = 6
    FLAGS = 8
    RT_PRIORITY = 9


class AddressFlag(IntEnum):
    """IFA_F_*."""

    NODAD = 0x02
    DADFAILED = 0x08
    DEPRECATED = 0x20
    NOPREFIXROUTE = 0x200


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


class RouteFlag(IntEnum):
    """RTNH_F_* and RTM_F_*: bits of rtm_flags; the first two also of rtnh_flags."""

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


class Scope(IntEnum):
    """RT_SCOPE_*: of addresses and of routes; greater is narrower."""

    UNIVERSE = 0
    LINK = 253


class AddressMode(IntEnum):
    """IN6_ADDR_GEN_MODE_*: how the kernel makes the link-local address when an interface comes up."""

    EUI64 = 0
    NONE = 1


_AF_SPEC_INET6_CONF = 2
_AF_SPEC_INET6_ADDR_GEN_MODE = 8
_CONF_DISABLE_IPV6 = 26
_ERROR_TEXT = 1
# What a configured next hop may say of itself; the rest is state, which the kernel refuses (DEAD,
# LINKDOWN) or ignores on the way in.
_SETTABLE_HOP_FLAGS = RouteFlag.PERVASIVE | RouteFlag.ONLINK


class Message(NamedTuple):
    """One message of a datagram."""

    type: int
    flags: int
    sequence: int
    payload: bytes


class Outcome(NamedTuple):
    """The end of a request: *errno* 0 means done; *text* is the kernel's own explanation, if any."""

    errno: int
    text: str


class LinkMessage(NamedTuple):
    """RTM_NEWLINK. *ip6_mode* (see AddressMode) and *ip6_disabled* are None without IPv6 on the interface."""

    ifindex: int
    flags: int
    name: str
    mtu: int
    mac: bytes
    txqueuelen: int
    ip6_mode: int | None
    ip6_disabled: bool | None


class AddressMessage(NamedTuple):
    """RTM_NEWADDR. *address* is the interface's own, *network* the one the prefix belongs to (the peer's)."""

    family: int
    prefix_len: int
    flags: int
    scope: int
    ifindex: int
    address: bytes
    network: bytes
    priority: int


class NextHop(NamedTuple):
    """One next hop; *gateway* is 4 or 16 bytes of either family, None if the destination is on the link."""

    ifindex: int
    weight: int
    gateway: bytes | None


class RouteMessage(NamedTuple):
    """RTM_NEWROUTE. A route without multipath has one hop of weight 1, a route without interface none."""

    family: int
    prefix_len: int
    table: int
    protocol: int
    scope: int
    type: int
    flags: int
    destination: bytes
    priority: int
    source: bytes | None
    hops: tuple[NextHop, ...]


def _aligned(length: int) -> int:
    return (length + ALIGNMENT - 1) & -ALIGNMENT


def message(message_type: int, flags: int, sequence: int, payload: bytes) -> bytes:
    """Build one message, padded so that another may follow it."""
    length = _MESSAGE.size + len(payload)
    padding = bytes(_aligned(length) - length)
    return _MESSAGE.pack(length, message_type, flags, sequence, 0) + payload + padding


def split_messages(datagram: bytes) -> list[Message]:
    """Read all messages of a datagram."""
    found = []
    offset, end = 0, len(datagram)
    while offset < end:
        if end - offset < _MESSAGE.size:
            raise HostError(f"rtnetlink: {end - offset} bytes where a message header takes {_MESSAGE.size}")
        length, message_type, flags, sequence, _ = _MESSAGE.unpack_from(datagram, offset)
        if not _MESSAGE.size <= length <= end - offset:
            raise HostError(f"rtnetlink: message of length {length} in {end - offset} bytes")
        payload = datagram[offset + _MESSAGE.size : offset + length]
        found.append(Message(message_type, flags, sequence, payload))
        offset += _aligned(length)
    return found


def attribute(kind: int, value: bytes) -> bytes:
    """Build one attribute with its padding."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(_aligned(length) - length)


def split_attributes(data: bytes, offset: int = 0) -> list[tuple[int, bytes]]:
    """Read the attributes from *offset* to the end as (type with its flag bits, value)."""
    found = []
    end = len(data)
    while offset < end:
        if end - offset < _ATTRIBUTE.size:
            raise HostError(f"rtnetlink: {end - offset} bytes where an attribute needs {_ATTRIBUTE.size}")
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if not _ATTRIBUTE.size <= length <= end - offset:
            raise HostError(f"rtnetlink: attribute {kind} of length {length} in {end - offset} bytes")
        found.append((kind, data[offset + _ATTRIBUTE.size : offset + length]))
        offset += _aligned(length)
    return found


def _attributes(data: bytes, offset: int) -> dict[int, bytes]:
    return {kind & _ATTRIBUTE_TYPE_MASK: value for kind, value in split_attributes(data, offset)}


def _u32(value: bytes | None, default: int = 0) -> int:
    if value is None:
        return default
    if len(value) != _U32.size:
        raise HostError(f"rtnetlink: number of {len(value)} bytes, need {_U32.size}")
    number: int = _U32.unpack(value)[0]
    return number


def _need(payload: bytes, header: Struct, what: str) -> None:
    if len(payload) < header.size:
        raise HostError(f"rtnetlink: {what} message of {len(payload)} bytes, need {header.size}")


def _need_address(value: bytes, family: int, what: str) -> bytes:
    if len(value) != ADDRESS_LEN.get(family):
        raise HostError(f"rtnetlink: {what} of {len(value)} bytes for address family {family}")
    return value


def _need_prefix_len(prefix_len: int, family: int) -> None:
    if family not in ADDRESS_LEN or prefix_len > 8 * ADDRESS_LEN[family]:
        raise HostError(f"rtnetlink: prefix length {prefix_len} for address family {family}")


def ip_address(packed: bytes) -> IPAddress:
    """Make an address object of 4 or 16 bytes."""
    return IPv4Address(packed) if len(packed) == ADDRESS_LEN[AF_INET] else IPv6Address(packed)


def family_of(payload: bytes) -> int:
    """Tell the address family of any rtnetlink payload: its first byte; 0 if there is none."""
    return payload[0] if payload else 0


def parse_outcome(reply: Message) -> Outcome:
    """Read NLMSG_ERROR (also the acknowledgement) or NLMSG_DONE.

    NLMSG_ERROR: i32 minus errno, header of the request, the request itself unless CAPPED; DONE: i32
    alone. Attributes follow if ACK_TLVS is set, of which we read the text.
    """
    payload = reply.payload
    if len(payload) < _I32.size:
        if reply.type == MessageType.DONE and not payload:
            return Outcome(0, "")
        raise HostError(f"rtnetlink: status of {len(payload)} bytes, need {_I32.size}")
    code: int = _I32.unpack_from(payload)[0]
    offset = _I32.size
    if reply.type == MessageType.ERROR:
        if len(payload) < offset + _MESSAGE.size:
            raise HostError(f"rtnetlink: error message of {len(payload)} bytes is too short")
        request_len: int = _MESSAGE.unpack_from(payload, offset)[0]
        offset += _MESSAGE.size if reply.flags & MessageFlag.CAPPED else _aligned(request_len)
    text = b""
    if reply.flags & MessageFlag.ACK_TLVS:
        if offset > len(payload):
            raise HostError("rtnetlink: error message shorter than the request that it quotes")
        text = _attributes(payload, offset).get(_ERROR_TEXT, b"")
    return Outcome(-code if code < 0 else 0, text.rstrip(b"\0").decode(errors="replace"))


def get_link(ifindex: int) -> bytes:
    """Payload of RTM_GETLINK for one interface."""
    return _LINK.pack(0, 0, ifindex, 0, 0)


def set_link(ifindex: int, *, flags: int = 0, change: int = 0, mtu: int | None = None,
             mac: bytes | None = None, txqueuelen: int | None = None, ip6_mode: int | None = None) -> bytes:
    """Payload of RTM_NEWLINK for an existing interface; only the *flags* named in *change* are set."""
    parts = [_LINK.pack(0, 0, ifindex, flags, change)]
    if mac is not None:
        parts.append(attribute(LinkAttribute.ADDRESS, mac))
    if mtu is not None:
        parts.append(attribute(LinkAttribute.MTU, _U32.pack(mtu)))
    if txqueuelen is not None:
        parts.append(attribute(LinkAttribute.TXQLEN, _U32.pack(txqueuelen)))
    if ip6_mode is not None:
        mode = attribute(_AF_SPEC_INET6_ADDR_GEN_MODE, bytes([ip6_mode]))
        family = attribute(AF_INET6 | _NESTED, mode)
        parts.append(attribute(LinkAttribute.AF_SPEC | _NESTED, family))
    return b"".join(parts)


def parse_link(payload: bytes) -> LinkMessage:
    """Read an RTM_NEWLINK payload."""
    _need(payload, _LINK, "link")
    _, _, ifindex, flags, _ = _LINK.unpack_from(payload)
    found = _attributes(payload, _LINK.size)
    mode, disabled = _parse_ip6_settings(found.get(LinkAttribute.AF_SPEC, b""))
    return LinkMessage(
        ifindex=ifindex,
        flags=flags,
        name=found.get(LinkAttribute.IFNAME, b"").rstrip(b"\0").decode(errors="surrogateescape"),
        mtu=_u32(found.get(LinkAttribute.MTU)),
        mac=found.get(LinkAttribute.ADDRESS, b""),
        txqueuelen=_u32(found.get(LinkAttribute.TXQLEN)),
        ip6_mode=mode,
        ip6_disabled=disabled,
    )


def _parse_ip6_settings(af_spec: bytes) -> tuple[int | None, bool | None]:
    family = _attributes(af_spec, 0).get(AF_INET6)
    if family is None:
        return None, None
    found = _attributes(family, 0)
    mode = found.get(_AF_SPEC_INET6_ADDR_GEN_MODE, b"\0")
    settings = found.get(_AF_SPEC_INET6_CONF, b"")
    disabled = settings[_U32.size * _CONF_DISABLE_IPV6 :][: _U32.size]
    return (mode[0] if mode else 0), any(disabled)


def get_addresses(family: int, ifindex: int) -> bytes:
    """Payload of an RTM_GETADDR dump; kernels without strict checking ignore *ifindex*."""
    return _ADDRESS.pack(family, 0, 0, 0, ifindex)


def set_address(ifindex: int, address: bytes, prefix_len: int, flags: int = 0,
                scope: int = Scope.UNIVERSE) -> bytes:
    """Payload of RTM_NEWADDR for an address of our own choice; only 8-bit *flags*."""
    family = AF_INET if len(address) == ADDRESS_LEN[AF_INET] else AF_INET6
    return (_ADDRESS.pack(family, prefix_len, flags, scope, ifindex)
            + attribute(AddressAttribute.LOCAL, address) + attribute(AddressAttribute.ADDRESS, address))


def parse_address(payload: bytes) -> AddressMessage:
    """Read an RTM_NEWADDR payload."""
    _need(payload, _ADDRESS, "address")
    family, prefix_len, flags, scope, ifindex = _ADDRESS.unpack_from(payload)
    _need_prefix_len(prefix_len, family)
    found = _attributes(payload, _ADDRESS.size)
    network = found.get(AddressAttribute.ADDRESS)
    address = found.get(AddressAttribute.LOCAL, network)
    if address is None:
        raise HostError("rtnetlink: address message without an address")
    return AddressMessage(
        family=family,
        prefix_len=prefix_len,
        flags=_u32(found.get(AddressAttribute.FLAGS), flags),
        scope=scope,
        ifindex=ifindex,
        address=_need_address(address, family, "address"),
        network=_need_address(address if network is None else network, family, "address"),
        priority=_u32(found.get(AddressAttribute.RT_PRIORITY)),
    )


def retarget_address(payload: bytes, ifindex: int, *, no_prefix_route: bool) -> bytes:
    """Turn a dumped RTM_NEWADDR payload into one that gives the same address to interface *ifindex*.

    Duplicate address detection is switched off (in the 8-bit flags and in IFA_FLAGS); the label, which
    names the old interface, and the lifetimes go, so that the address is permanent; *no_prefix_route*
    tells whether the kernel shall leave out the route to the prefix.
    """
    _need(payload, _ADDRESS, "address")
    family, prefix_len, flags, scope, _ = _ADDRESS.unpack_from(payload)
    kept = []
    for kind, value in split_attributes(payload, _ADDRESS.size):
        plain = kind & _ATTRIBUTE_TYPE_MASK
        if plain == AddressAttribute.FLAGS:
            flags = _u32(value)
        elif plain not in {AddressAttribute.LABEL, AddressAttribute.CACHEINFO}:
            kept.append(attribute(kind, value))
    flags |= AddressFlag.NODAD
    if no_prefix_route:
        flags |= AddressFlag.NOPREFIXROUTE
    else:
        flags &= ~AddressFlag.NOPREFIXROUTE
    kept.append(attribute(AddressAttribute.FLAGS, _U32.pack(flags)))
    return _ADDRESS.pack(family, prefix_len, flags & 0xFF, scope, ifindex) + b"".join(kept)


def get_routes(family: int, table: int = RT_TABLE_MAIN) -> bytes:
    """Payload of an RTM_GETROUTE dump of unicast routes; old kernels ignore both filters."""
    return _ROUTE.pack(family, 0, 0, 0, table, 0, 0, RouteType.UNICAST, 0)


def set_route(ifindex: int, *, family: int, destination: bytes = b"", gateway: bytes | None = None,
              scope: int = Scope.UNIVERSE) -> bytes:
    """Payload of RTM_NEWROUTE: to host *destination*, or the default route if that is empty.

    A *gateway* of the other family (IPv4 over IPv6) becomes RTA_VIA.
    """
    parts = [_ROUTE.pack(family, 8 * len(destination), 0, 0, RT_TABLE_MAIN, RouteProtocol.BOOT, scope,
                         RouteType.UNICAST, 0)]
    if destination:
        parts.append(attribute(RouteAttribute.DST, destination))
    if gateway is not None and len(gateway) == ADDRESS_LEN[family]:
        parts.append(attribute(RouteAttribute.GATEWAY, gateway))
    elif gateway is not None:
        via_family = AF_INET if len(gateway) == ADDRESS_LEN[AF_INET] else AF_INET6
        parts.append(attribute(RouteAttribute.VIA, _U16.pack(via_family) + gateway))
    parts.append(attribute(RouteAttribute.OIF, _U32.pack(ifindex)))
    return b"".join(parts)


def parse_route(payload: bytes) -> RouteMessage:
    """Read an RTM_NEWROUTE payload."""
    _need(payload, _ROUTE, "route")
    family, prefix_len, _, _, table, protocol, scope, route_type, flags = _ROUTE.unpack_from(payload)
    _need_prefix_len(prefix_len, family)
    found = _attributes(payload, _ROUTE.size)
    destination = found.get(RouteAttribute.DST)
    if destination is None:
        destination = bytes(ADDRESS_LEN[family])
    source = found.get(RouteAttribute.PREFSRC)
    hops: tuple[NextHop, ...] = ()
    if RouteAttribute.MULTIPATH in found:
        hops = tuple(NextHop(ifindex, weight, _gateway(_attributes(extra, 0), family))
                     for ifindex, _, weight, extra in _split_hops(found[RouteAttribute.MULTIPATH]))
    elif RouteAttribute.OIF in found:
        hops = (NextHop(_u32(found[RouteAttribute.OIF]), 1, _gateway(found, family)),)
    return RouteMessage(
        family=family,
        prefix_len=prefix_len,
        table=_u32(found.get(RouteAttribute.TABLE), table),
        protocol=protocol,
        scope=scope,
        type=route_type,
        flags=flags,
        destination=_need_address(destination, family, "destination"),
        priority=_u32(found.get(RouteAttribute.PRIORITY)),
        source=None if source is None else _need_address(source, family, "preferred source"),
        hops=hops,
    )


def _split_hops(data: bytes) -> Iterable[tuple[int, int, int, bytes]]:
    """Read an RTA_MULTIPATH value as (ifindex, flags, weight, attributes)."""
    offset, end = 0, len(data)
    while offset < end:
        if end - offset < _NEXT_HOP.size:
            raise HostError(f"rtnetlink: {end - offset} bytes where a next hop takes {_NEXT_HOP.size}")
        length, flags, hops, ifindex = _NEXT_HOP.unpack_from(data, offset)
        if not _NEXT_HOP.size <= length <= end - offset:
            raise HostError(f"rtnetlink: next hop of length {length} in {end - offset} bytes")
        yield ifindex, flags, hops + 1, data[offset + _NEXT_HOP.size : offset + length]
        offset += _aligned(length)


def _gateway(found: dict[int, bytes], family: int) -> bytes | None:
    """Take RTA_GATEWAY, or RTA_VIA (u16 family, address): the next hop of an IPv4 route over IPv6."""
    gateway = found.get(RouteAttribute.GATEWAY)
    if gateway is not None:
        return _need_address(gateway, family, "gateway")
    via = found.get(RouteAttribute.VIA)
    if via is None:
        return None
    if len(via) < 2:
        raise HostError(f"rtnetlink: gateway of another family in {len(via)} bytes")
    return _need_address(via[2:], _U16.unpack_from(via)[0], "gateway")


def retarget_route(payload: bytes, old_ifindex: int, ifindex: int, sources: Container[bytes]) -> bytes | None:
    """Turn a dumped RTM_NEWROUTE payload for *old_ifindex* into the same for *ifindex*; None if it is not.

    Hops through other interfaces are left out. The preferred source stays if it is in *sources*, the
    addresses (packed) that the new interface has. Ids of next-hop objects, the cache's figures and
    state flags go: they mean nothing in another namespace.
    """
    _need(payload, _ROUTE, "route")
    *fixed, flags = _ROUTE.unpack_from(payload)
    parts = [_ROUTE.pack(*fixed, flags & _SETTABLE_HOP_FLAGS)]
    has_hop = False
    for kind, value in split_attributes(payload, _ROUTE.size):
        plain = kind & _ATTRIBUTE_TYPE_MASK
        new_value = value
        if plain == RouteAttribute.OIF:
            if _u32(value) != old_ifindex:
                return None
            new_value, has_hop = _U32.pack(ifindex), True
        elif plain == RouteAttribute.MULTIPATH:
            new_value = _retarget_hops(value, old_ifindex, ifindex)
            has_hop = bool(new_value)
        elif (plain in {RouteAttribute.NH_ID, RouteAttribute.CACHEINFO}
              or (plain == RouteAttribute.PREFSRC and value not in sources)):
            continue
        parts.append(attribute(kind, new_value))
    return b"".join(parts) if has_hop else None


def _retarget_hops(data: bytes, old_ifindex: int, ifindex: int) -> bytes:
    kept = []
    for hop_ifindex, flags, weight, extra in _split_hops(data):
        if hop_ifindex != old_ifindex:
            continue
        attributes = b"".join(attribute(kind, value) for kind, value in split_attributes(extra)
                              if kind & _ATTRIBUTE_TYPE_MASK != RouteAttribute.NH_ID)
        kept.append(_NEXT_HOP.pack(_NEXT_HOP.size + len(attributes), flags & _SETTABLE_HOP_FLAGS,
                                   weight - 1, ifindex) + attributes)
    return b"".join(kept)
