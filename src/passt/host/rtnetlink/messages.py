"""rtnetlink messages of links and addresses: bytes to values and back, no I/O (see `passt.wire`).

`passt.host.rtnetlink.routes` has those of routes.

Source: rtnetlink(7), netlink(7), Documentation/userspace-api/netlink/intro.rst and the headers
linux/{netlink,rtnetlink,if_link,if_addr}.h of the kernel.

Integers are in host byte order, addresses in network order. Every message and attribute starts at a multiple
of four bytes; its length field does not count the padding:

    datagram   = { message }
    message    = nlmsghdr(16: u32 length, u16 type, u16 flags, u32 sequence, u32 port) payload
    payload    = fixed header (ifinfomsg 16 or ifaddrmsg 8 bytes) { attribute }
    attribute  = u16 length (with these 4 bytes), u16 type (upper two bits are flags), value

Malformed data raises HostError, since the kernel is the only sender. `parse` skips unknown attributes;
`retarget_address` and `retarget_route` keep them byte for byte.
"""

from __future__ import annotations

import os
from ipaddress import IPv4Address, IPv6Address
from struct import Struct

from passt.errors import HostError
from passt.light.values import IntEnum, Value

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from typing import Self

    from passt.facts.address import IPAddress

ALIGNMENT = 4
AF_INET, AF_INET6 = 2, 10
ADDRESS_LEN = {AF_INET: 4, AF_INET6: 16}

_MESSAGE = Struct("=IHHII")
_LINK = Struct("=BxHiII")
_ADDRESS = Struct("=BBBBI")
_ATTRIBUTE = Struct("=HH")
_U32 = Struct("=I")
_CACHEINFO = Struct("=IIII")  # seconds preferred, seconds valid; created, updated
_FOR_EVER = 0xFFFF_FFFF
_I32 = Struct("=i")
ATTRIBUTE_TYPE_MASK = 0x3FFF
_NESTED = 0x8000


class MessageType(IntEnum):
    """Values of nlmsg_type."""

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
    NEWNEXTHOP = 104
    GETNEXTHOP = 106


class MessageFlag(IntEnum):
    """Bits of nlmsg_flags; 0x100 and above have different meanings in GET, NEW and ERROR messages."""

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

    TEMPORARY = 0x01               # of IPv6; of IPv4 it means a second address of a subnet
    NODAD = 0x02
    DADFAILED = 0x08
    DEPRECATED = 0x20
    TENTATIVE = 0x40
    NOPREFIXROUTE = 0x200


class Scope(IntEnum):
    """RT_SCOPE_*, scopes of addresses and routes; a greater number is a narrower scope."""

    UNIVERSE = 0
    LINK = 253
    HOST = 254


class AddressMode(IntEnum):
    """IN6_ADDR_GEN_MODE_*: how the kernel makes the link-local address when an interface goes up."""

    EUI64 = 0
    NONE = 1


_AF_SPEC_INET_CONF = 1
_CONF_PROMOTE_SECONDARIES = 20     # IPV4_DEVCONF_* of linux/ip.h
_AF_SPEC_INET6_CONF = 2
_AF_SPEC_INET6_ADDR_GEN_MODE = 8
_CONF_DISABLE_IPV6 = 26
_ERROR_TEXT = 1
# For the loop over the messages of a dump: an attribute lookup on an enumeration takes longer.
_DUMP_INTERRUPTED = int(MessageFlag.DUMP_INTERRUPTED)
_DONE, _ERROR, _FIRST_TYPE = int(MessageType.DONE), int(MessageType.ERROR), 16  # NLMSG_MIN_TYPE


class Message(Value):
    """One netlink message of a datagram."""

    type: int
    flags: int
    sequence: int
    payload: bytes


class Outcome(Value):
    """Result of a request: *errno*, 0 for success, and the kernel's explanation, maybe empty."""

    errno: int
    text: str

    @classmethod
    def parse(cls, reply: Message) -> Self:
        """Read NLMSG_ERROR, which is the acknowledgement too, or NLMSG_DONE.

        NLMSG_ERROR has an i32 (minus errno), the header of the request and, unless CAPPED is set, its
        payload. NLMSG_DONE has the i32 only. If ACK_TLVS is set, attributes follow, of which we read the
        text.
        """
        payload = reply.payload
        if len(payload) < _I32.size:
            if reply.type == MessageType.DONE and not payload:
                return cls(0, "")
            raise HostError(f"rtnetlink: status of {len(payload)} bytes, need {_I32.size}")
        code: int = _I32.unpack_from(payload)[0]
        offset = _I32.size
        if reply.type == MessageType.ERROR:
            if len(payload) < offset + _MESSAGE.size:
                raise HostError(f"rtnetlink: error message of {len(payload)} bytes is too short")
            request_len: int = _MESSAGE.unpack_from(payload, offset)[0]
            offset += _MESSAGE.size if reply.flags & MessageFlag.CAPPED else aligned(request_len)
        text = b""
        if reply.flags & MessageFlag.ACK_TLVS:
            if offset > len(payload):
                raise HostError("rtnetlink: error message shorter than the request that it quotes")
            text = parse_attributes(payload, offset).get(_ERROR_TEXT, b"")
        return cls(-code if code < 0 else 0, text.rstrip(b"\0").decode(errors="replace"))


class LinkMessage(Value):
    """RTM_NEWLINK. *ip6_mode* (see AddressMode) and *ip6_disabled* are None without IPv6 on the interface."""

    ifindex: int
    flags: int
    name: str
    mtu: int
    mac: bytes
    txqueuelen: int
    ip6_mode: int | None
    ip6_disabled: bool | None

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """Read an RTM_NEWLINK payload."""
        expect_header(payload, _LINK, "link")
        _, _, ifindex, flags, _ = _LINK.unpack_from(payload)
        found = parse_attributes(payload, _LINK.size)
        mode, disabled = _parse_ip6_settings(found.get(LinkAttribute.AF_SPEC, b""))
        return cls(
            ifindex=ifindex,
            flags=flags,
            name=os.fsdecode(found.get(LinkAttribute.IFNAME, b"").rstrip(b"\0")),
            mtu=parse_u32(found.get(LinkAttribute.MTU)),
            mac=found.get(LinkAttribute.ADDRESS, b""),
            txqueuelen=parse_u32(found.get(LinkAttribute.TXQLEN)),
            ip6_mode=mode,
            ip6_disabled=disabled,
        )


class AddressMessage(Value):
    """RTM_NEWADDR. *address* is the interface's own, *network* that of the prefix (of the peer, if any)."""

    family: int
    prefix_len: int
    flags: int
    scope: int
    ifindex: int
    address: bytes
    network: bytes
    priority: int

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """Read an RTM_NEWADDR payload."""
        expect_header(payload, _ADDRESS, "address")
        family, prefix_len, flags, scope, ifindex = _ADDRESS.unpack_from(payload)
        expect_prefix_len(prefix_len, family)
        found = parse_attributes(payload, _ADDRESS.size)
        network = found.get(AddressAttribute.ADDRESS)
        address = found.get(AddressAttribute.LOCAL, network)
        if address is None:
            raise HostError("rtnetlink: address message without an address")
        return cls(
            family=family,
            prefix_len=prefix_len,
            flags=parse_u32(found.get(AddressAttribute.FLAGS), flags),
            scope=scope,
            ifindex=ifindex,
            address=expect_address(address, family, "address"),
            network=expect_address(address if network is None else network, family, "address"),
            priority=parse_u32(found.get(AddressAttribute.RT_PRIORITY)),
        )


def aligned(length: int) -> int:
    """Round a length up to the next multiple of four."""
    return (length + ALIGNMENT - 1) & -ALIGNMENT


def build_message(message_type: int, flags: int, sequence: int, payload: bytes) -> bytes:
    """Build one message, padded so that another message may follow."""
    length = _MESSAGE.size + len(payload)
    padding = bytes(aligned(length) - length)
    return _MESSAGE.pack(length, message_type, flags, sequence, 0) + payload + padding


def parse_messages(datagram: bytes) -> list[Message]:
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
        offset += aligned(length)
    return found


def parse_replies(datagram: bytes, sequence: int, found: list[bytes]) -> tuple[Message | None, bool]:
    """Append to *found* the payloads of all messages in a datagram of a dump that answer request *sequence*.

    Returns the message that ends the dump (None: not in this datagram) and whether a message of it has
    NLM_F_DUMP_INTR.
    """
    is_interrupted = False
    offset, end = 0, len(datagram)
    while offset < end:
        if end - offset < 16:
            raise HostError(f"rtnetlink: {end - offset} bytes where a message header takes 16")
        length, kind, flags, number, _ = _MESSAGE.unpack_from(datagram, offset)
        if not 16 <= length <= end - offset:
            raise HostError(f"rtnetlink: message of length {length} in {end - offset} bytes")
        if number == sequence:
            is_interrupted = is_interrupted or bool(flags & _DUMP_INTERRUPTED)
            payload = datagram[offset + 16 : offset + length]
            if kind >= _FIRST_TYPE:
                found.append(payload)
            elif kind in {_DONE, _ERROR}:
                return Message(kind, flags, number, payload), is_interrupted
        offset += length + 3 & -4
    return None, is_interrupted


def build_attribute(kind: int, value: bytes) -> bytes:
    """Build one attribute with its padding."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(aligned(length) - length)


def parse_attribute_list(data: bytes, offset: int = 0) -> list[tuple[int, bytes]]:
    """Read the attributes from *offset* to the end; return pairs of type, with flag bits, and value."""
    found = []
    end = len(data)
    while offset < end:
        if end - offset < _ATTRIBUTE.size:
            raise HostError(f"rtnetlink: {end - offset} bytes where an attribute needs {_ATTRIBUTE.size}")
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if not _ATTRIBUTE.size <= length <= end - offset:
            raise HostError(f"rtnetlink: attribute {kind} of length {length} in {end - offset} bytes")
        found.append((kind, data[offset + _ATTRIBUTE.size : offset + length]))
        offset += aligned(length)
    return found


def parse_attributes(data: bytes, offset: int) -> dict[int, bytes]:
    """Read the attributes from *offset* to the end; return their values by type, without flag bits."""
    return {kind & ATTRIBUTE_TYPE_MASK: value for kind, value in parse_attribute_list(data, offset)}


def parse_u32(value: bytes | None, default: int = 0) -> int:
    """Read an unsigned 32-bit number; return *default* if *value* is None."""
    if value is None:
        return default
    if len(value) != _U32.size:
        raise HostError(f"rtnetlink: number of {len(value)} bytes, need {_U32.size}")
    number: int = _U32.unpack(value)[0]
    return number


def expect_header(payload: bytes, header: Struct, what: str) -> None:
    """Raise HostError if *payload* is too short for its fixed header."""
    if len(payload) < header.size:
        raise HostError(f"rtnetlink: {what} message of {len(payload)} bytes, need {header.size}")


def expect_address(value: bytes, family: int, what: str) -> bytes:
    """Return *value*; raise HostError if it does not have the length of an address of *family*."""
    if len(value) != ADDRESS_LEN.get(family):
        raise HostError(f"rtnetlink: {what} of {len(value)} bytes for address family {family}")
    return value


def expect_prefix_len(prefix_len: int, family: int) -> None:
    """Raise HostError for an unknown *family* and for a prefix longer than its addresses."""
    if family not in ADDRESS_LEN or prefix_len > 8 * ADDRESS_LEN[family]:
        raise HostError(f"rtnetlink: prefix length {prefix_len} for address family {family}")


def ip_address(packed: bytes) -> IPAddress:
    """Make an address object from 4 or 16 bytes."""
    return IPv4Address(packed) if len(packed) == ADDRESS_LEN[AF_INET] else IPv6Address(packed)


def family_of(payload: bytes) -> int:
    """Return the address family of any rtnetlink payload, its first byte; 0 for an empty payload."""
    return payload[0] if payload else 0


def build_link_query(ifindex: int) -> bytes:
    """Build the payload of RTM_GETLINK for one interface."""
    return _LINK.pack(0, 0, ifindex, 0, 0)


def build_link_change(ifindex: int, *, flags: int = 0, change: int = 0, mtu: int | None = None,
                      mac: bytes | None = None, txqueuelen: int | None = None,
                      ip6_mode: int | None = None, promotes_secondaries: bool = False) -> bytes:
    """Build the payload of RTM_NEWLINK for an existing interface; *change* masks *flags*.

    With *promotes_secondaries* the first IPv4 address of a subnet does not take the others with it when it
    goes (promote_secondaries of Documentation/networking/ip-sysctl.rst).
    """
    parts = [_LINK.pack(0, 0, ifindex, flags, change)]
    if mac is not None:
        parts.append(build_attribute(LinkAttribute.ADDRESS, mac))
    if mtu is not None:
        parts.append(build_attribute(LinkAttribute.MTU, _U32.pack(mtu)))
    if txqueuelen is not None:
        parts.append(build_attribute(LinkAttribute.TXQLEN, _U32.pack(txqueuelen)))
    if ip6_mode is not None:
        mode = build_attribute(_AF_SPEC_INET6_ADDR_GEN_MODE, bytes([ip6_mode]))
        family = build_attribute(AF_INET6 | _NESTED, mode)
        parts.append(build_attribute(LinkAttribute.AF_SPEC | _NESTED, family))
    if promotes_secondaries:
        setting = build_attribute(_CONF_PROMOTE_SECONDARIES, _U32.pack(1))
        family = build_attribute(AF_INET | _NESTED, build_attribute(_AF_SPEC_INET_CONF | _NESTED, setting))
        parts.append(build_attribute(LinkAttribute.AF_SPEC | _NESTED, family))
    return b"".join(parts)


def _parse_ip6_settings(af_spec: bytes) -> tuple[int | None, bool | None]:
    family = parse_attributes(af_spec, 0).get(AF_INET6)
    if family is None:
        return None, None
    found = parse_attributes(family, 0)
    mode = found.get(_AF_SPEC_INET6_ADDR_GEN_MODE, b"\0")
    settings = found.get(_AF_SPEC_INET6_CONF, b"")
    disabled = settings[_U32.size * _CONF_DISABLE_IPV6 :][: _U32.size]
    return (mode[0] if mode else 0), any(disabled)


def build_addresses_query(family: int, ifindex: int) -> bytes:
    """Build the payload of an RTM_GETADDR dump; kernels without strict checking ignore *ifindex*."""
    return _ADDRESS.pack(family, 0, 0, 0, ifindex)


def build_address(ifindex: int, address: bytes, prefix_len: int, flags: int = 0,
                  scope: int = Scope.UNIVERSE) -> bytes:
    """Build the payload of RTM_NEWADDR for an address that we choose."""
    family = AF_INET if len(address) == ADDRESS_LEN[AF_INET] else AF_INET6
    long_flags = build_attribute(AddressAttribute.FLAGS, _U32.pack(flags)) if flags > 0xFF else b""
    return (_ADDRESS.pack(family, prefix_len, flags & 0xFF, scope, ifindex)
            + build_attribute(AddressAttribute.LOCAL, address)
            + build_attribute(AddressAttribute.ADDRESS, address) + long_flags)


def retarget_address(payload: bytes, ifindex: int, *, no_prefix_route: bool,
                     lifetimes: bool = False) -> bytes:
    """Turn a dumped RTM_NEWADDR payload into one that assigns the same address to interface *ifindex*.

    The new payload disables duplicate address detection, in the 8-bit flags and in IFA_FLAGS. It lacks the
    label, which contains the old interface's name, and the lifetimes, so the address is permanent; but with
    *lifetimes* a deprecated or temporary one (RFC 8981) has those that it has now. With *no_prefix_route* the
    kernel adds no route to the prefix.
    """
    expect_header(payload, _ADDRESS, "address")
    family, prefix_len, flags, scope, _ = _ADDRESS.unpack_from(payload)
    kept = []
    times = b""
    for kind, value in parse_attribute_list(payload, _ADDRESS.size):
        plain = kind & ATTRIBUTE_TYPE_MASK
        if plain == AddressAttribute.FLAGS:
            flags = parse_u32(value)
        elif plain == AddressAttribute.CACHEINFO and len(value) == _CACHEINFO.size:
            times = value
        elif plain not in {AddressAttribute.LABEL, AddressAttribute.CACHEINFO}:
            kept.append(build_attribute(kind, value))
    if lifetimes and times and _is_fleeting(family, flags):
        preferred, valid, created, updated = _CACHEINFO.unpack(times)
        # The kernel takes no lifetime that is over.
        valid = max(valid, 1)
        preferred = 0 if flags & AddressFlag.DEPRECATED else min(preferred, valid)
        kept.append(build_attribute(AddressAttribute.CACHEINFO,
                                    _CACHEINFO.pack(preferred, valid, created, updated)))
    flags |= AddressFlag.NODAD
    if no_prefix_route:
        flags |= AddressFlag.NOPREFIXROUTE
    else:
        flags &= ~AddressFlag.NOPREFIXROUTE
    kept.append(build_attribute(AddressAttribute.FLAGS, _U32.pack(flags)))
    return _ADDRESS.pack(family, prefix_len, flags & 0xFF, scope, ifindex) + b"".join(kept)


def _is_fleeting(family: int, flags: int) -> bool:
    fleeting = AddressFlag.DEPRECATED | (AddressFlag.TEMPORARY if family == AF_INET6 else 0)
    return bool(flags & fleeting)


def has_new_lifetimes(before: bytes, after: bytes) -> bool:
    """Tell whether lifetimes of an address were set anew between two RTM_NEWADDR payloads of it.

    That time has passed is no change. The kernel tells the time of the last update in hundredths of a second,
    and there may have been two in one of them; but by itself no lifetime gets longer.
    """
    old, new = _read_lifetimes(before), _read_lifetimes(after)
    if old is None or new is None:
        return old is not new
    (old_preferred, old_valid, old_update), (preferred, valid, update) = old, new
    was = old_preferred == 0, old_valid == _FOR_EVER, old_update
    return ((preferred == 0, valid == _FOR_EVER, update) != was
            or valid > old_valid or preferred > old_preferred)


def _read_lifetimes(payload: bytes) -> tuple[int, int, int] | None:
    """Return seconds preferred, seconds valid, and the time of the update; None: the payload has none."""
    times = parse_attributes(payload, _ADDRESS.size).get(AddressAttribute.CACHEINFO)
    if times is None or len(times) != _CACHEINFO.size:
        return None
    preferred, valid, _, updated = _CACHEINFO.unpack(times)
    return preferred, valid, updated


def deprecate_address(payload: bytes) -> bytes:
    """Turn an RTM_NEWADDR payload into one by which new connections avoid the address.

    The address is preferred no longer, and valid for ever: struct ifa_cacheinfo of linux/if_addr.h. Of two
    attributes of a kind the kernel takes the last one.
    """
    return payload + build_attribute(AddressAttribute.CACHEINFO, _CACHEINFO.pack(0, _FOR_EVER, 0, 0))
