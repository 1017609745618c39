"""Options of Neighbor Discovery messages (RFC 4861, 4.6; RFC 8106, 5).

::

    0      1              2
    | type | length / 8   | body ...        length counts type and length too, never 0

Options of types without a class here are kept as `OtherOption`, for receivers must ignore them; an
option of a type that has one, with contents that do not fit, makes the whole message invalid.
"""

from __future__ import annotations

import struct
from ipaddress import IPv6Address

from passt.errors import WireError
from passt.facts.domain_name import is_name
from passt.light.values import IntEnum, Value
from passt.wire import dns_name
from passt.wire.cursor import Reader, Writer, require_bits, require_len, require_mac

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ClassVar, Self

UNIT = 8
"""Options are measured in units of this many bytes."""
MAX_BODY_LEN = 255 * UNIT - 2
INFINITY_S = 0xffffffff
"""Lifetime that never ends."""

_PREFIX = struct.Struct("!BBII4x16s")
_PREFIX_ON_LINK = 0x80
_PREFIX_AUTONOMOUS = 0x40
_IP6_BITS = 128


class NdpOptionType(IntEnum):
    """IANA "IPv6 Neighbor Discovery Option Formats"."""

    SOURCE_LINK_LAYER = 1
    TARGET_LINK_LAYER = 2
    PREFIX_INFORMATION = 3
    MTU = 5
    RDNSS = 25
    DNSSL = 31


class _LinkLayerOption(Value):
    """A MAC-48 address: RFC 4861, 4.6.1; one unit."""

    mac: bytes

    def __post_init__(self) -> None:
        require_mac("ND link-layer address", self.mac)

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read the option's body."""
        _require_body("link-layer address", body, 6)
        return cls(body)

    def body(self) -> bytes:
        """Write the option's body."""
        return self.mac


class SourceLinkLayer(_LinkLayerOption):
    """Link-layer address of the sender."""

    KIND: ClassVar[int] = NdpOptionType.SOURCE_LINK_LAYER


class TargetLinkLayer(_LinkLayerOption):
    """Link-layer address of the target."""

    KIND: ClassVar[int] = NdpOptionType.TARGET_LINK_LAYER


class PrefixInformation(Value):
    """A prefix for on-link determination and autoconfiguration (RFC 4861, 4.6.2).

    *prefix* has no host bits; they are ignored on reading, as the RFC demands.
    """

    KIND: ClassVar[int] = NdpOptionType.PREFIX_INFORMATION

    prefix: IPv6Address
    prefix_len: int
    on_link: bool = True
    autonomous: bool = True
    valid_s: int = INFINITY_S
    preferred_s: int = INFINITY_S

    def __post_init__(self) -> None:
        require_bits("prefix valid lifetime", self.valid_s, 32)
        require_bits("prefix preferred lifetime", self.preferred_s, 32)
        if not 0 <= self.prefix_len <= _IP6_BITS:
            raise ValueError(f"prefix length {self.prefix_len}")
        if self.prefix != clear_host_bits(self.prefix, self.prefix_len):
            raise ValueError(f"prefix {self.prefix}/{self.prefix_len} has host bits")

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read the option's body."""
        _require_body("prefix information", body, _PREFIX.size)
        prefix_len, flags, valid_s, preferred_s, prefix = _PREFIX.unpack(body)
        if prefix_len > _IP6_BITS:
            raise WireError(f"ND prefix information: prefix length {prefix_len}")
        network = clear_host_bits(IPv6Address(prefix), prefix_len)
        return cls(network, prefix_len, bool(flags & _PREFIX_ON_LINK), bool(flags & _PREFIX_AUTONOMOUS),
                   valid_s, preferred_s)

    def body(self) -> bytes:
        """Write the option's body."""
        flags = self.on_link * _PREFIX_ON_LINK | self.autonomous * _PREFIX_AUTONOMOUS
        return _PREFIX.pack(self.prefix_len, flags, self.valid_s, self.preferred_s, self.prefix.packed)


class LinkMtu(Value):
    """MTU of the link in bytes (RFC 4861, 4.6.4)."""

    KIND: ClassVar[int] = NdpOptionType.MTU

    mtu: int

    def __post_init__(self) -> None:
        require_bits("ND MTU", self.mtu, 32)

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read the option's body: two reserved bytes, then the MTU."""
        _require_body("MTU", body, 6)
        return cls(int.from_bytes(body[2:], "big"))

    def body(self) -> bytes:
        """Write the option's body."""
        return self.mtu.to_bytes(6, "big")


class RecursiveDnsServers(Value):
    """Resolvers, at least one (RFC 8106, 5.1)."""

    KIND: ClassVar[int] = NdpOptionType.RDNSS
    MAX_SERVERS: ClassVar[int] = 127

    servers: tuple[IPv6Address, ...]
    lifetime_s: int = INFINITY_S

    def __post_init__(self) -> None:
        require_bits("RDNSS lifetime", self.lifetime_s, 32)
        if not 1 <= len(self.servers) <= self.MAX_SERVERS:
            raise ValueError(f"RDNSS with {len(self.servers)} servers")

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read the option's body: two reserved bytes, lifetime, addresses."""
        reader = Reader(body, "ND RDNSS")
        reader.pull_bytes(2)
        lifetime_s = reader.pull_u32()
        if not reader.remaining:
            raise WireError("ND RDNSS: no server")
        servers = []
        while reader.remaining:
            servers.append(reader.pull_ip6())
        return cls(tuple(servers), lifetime_s)

    def body(self) -> bytes:
        """Write the option's body."""
        writer = Writer()
        writer.push_u16(0)
        writer.push_u32(self.lifetime_s)
        for server in self.servers:
            writer.push_ip(server)
        return writer.build()


class DnsSearchList(Value):
    """Domain names to search, at least one, in text form (see `passt.facts.domain_name`; RFC 8106, 5.2).

    The names are followed by zeros up to a full unit and not a byte more: a unit of nothing but
    zeros after the option would be an option of length 0, for which receivers drop the message.
    """

    KIND: ClassVar[int] = NdpOptionType.DNSSL

    names: tuple[str, ...]
    lifetime_s: int = INFINITY_S

    def __post_init__(self) -> None:
        require_bits("DNSSL lifetime", self.lifetime_s, 32)
        if not self.names or not all(map(is_name, self.names)):
            raise ValueError(f"DNSSL with names {self.names}")
        require_len("DNSSL", self.body(), UNIT - 2, MAX_BODY_LEN)

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read the option's body: two reserved bytes, lifetime, names, zeros."""
        reader = Reader(body, "ND DNSSL")
        reader.pull_bytes(2)
        lifetime_s = reader.pull_u32()
        names = []
        while reader.remaining and (name := dns_name.pull_name(reader)):
            names.append(name)
        if not names:
            raise WireError("ND DNSSL: no name")
        if any(reader.pull_rest()):
            raise WireError("ND DNSSL: padding is not zero")
        return cls(tuple(names), lifetime_s)

    def body(self) -> bytes:
        """Write the option's body, padded so that the option fills its units."""
        writer = Writer()
        writer.push_u16(0)
        writer.push_u32(self.lifetime_s)
        writer.push_bytes(dns_name.build_names(self.names))
        return _fill_units(writer.build())


class OtherOption(Value):
    """An option of a kind without meaning to us (RFC 4861, 4.6: to be ignored)."""

    kind: int
    data: bytes

    def __post_init__(self) -> None:
        require_bits("ND option type", self.kind, 8)
        require_len("ND option", self.data, UNIT - 2, MAX_BODY_LEN)
        if self.kind in _PARSERS or (len(self.data) + 2) % UNIT:
            raise ValueError(f"ND option {self.kind} with {len(self.data)} bytes")


NdpOption = (SourceLinkLayer | TargetLinkLayer | PrefixInformation | LinkMtu | RecursiveDnsServers
             | DnsSearchList | OtherOption)

_PARSERS: dict[int, Callable[[bytes], NdpOption]] = {
    NdpOptionType.SOURCE_LINK_LAYER: SourceLinkLayer.parse,
    NdpOptionType.TARGET_LINK_LAYER: TargetLinkLayer.parse,
    NdpOptionType.PREFIX_INFORMATION: PrefixInformation.parse,
    NdpOptionType.MTU: LinkMtu.parse,
    NdpOptionType.RDNSS: RecursiveDnsServers.parse,
    NdpOptionType.DNSSL: DnsSearchList.parse,
}


def clear_host_bits(address: IPv6Address, prefix_len: int) -> IPv6Address:
    """First *prefix_len* bits of *address*, the rest zero."""
    shift = _IP6_BITS - prefix_len
    return IPv6Address(int(address) >> shift << shift)


def parse_options(data: bytes) -> tuple[NdpOption, ...]:
    """Read options up to the end of *data*.

    `WireError` for a length of 0 (RFC 4861, 4.6: discard the message), one past the end, or an
    option of a known kind with bad contents.
    """
    reader = Reader(data, "ND options")
    options: list[NdpOption] = []
    while reader.remaining:
        kind, units = reader.pull_u8(), reader.pull_u8()
        if not units:
            raise WireError(f"ND option {kind}: length 0")
        body = reader.pull_bytes(units * UNIT - 2)
        parser = _PARSERS.get(kind)
        options.append(parser(body) if parser else OtherOption(kind, body))
    return tuple(options)


def build_options(options: tuple[NdpOption, ...]) -> bytes:
    """Write *options* one after the other."""
    return b"".join(_build_option(option) for option in options)


def _build_option(option: NdpOption) -> bytes:
    if isinstance(option, OtherOption):
        kind, body = option.kind, option.data
    else:
        kind, body = option.KIND, option.body()
    return bytes((kind, (len(body) + 2) // UNIT)) + body


def _fill_units(body: bytes) -> bytes:
    return body + bytes(-(len(body) + 2) % UNIT)


def _require_body(what: str, body: bytes, length: int) -> None:
    if len(body) != length:
        raise WireError(f"ND {what}: {len(body)} bytes, must be {length}")
