"""Options of neighbour discovery messages (RFC 4861 4.6; RFC 8106 5).

::

    0      1              2
    | code | length / 8   | data ...        length counts code and length too, never 0

An option without a class in `OPTIONS` is kept as `OtherOption`, since receivers must ignore it; an option
that has one, with contents that do not fit, makes the whole message invalid. The RFCs call the code "type".
"""

from __future__ import annotations

import struct
from ipaddress import IPv6Address

from passt.errors import WireError
from passt.facts.address import MAC_LEN
from passt.facts.domain_name import is_name
from passt.light.values import IntEnum, Value
from passt.wire import dns_name
from passt.wire.cursor import Reader, expect_len, require_bits, require_len, require_mac

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import ClassVar, Self

UNIT = 8
"""Bytes in a unit of the length of an option."""
HEADER_LEN = 2
"""Bytes of code and length before the data of every option."""
MIN_DATA_LEN, MAX_DATA_LEN = UNIT - HEADER_LEN, 255 * UNIT - HEADER_LEN
INFINITY_S = 0xffffffff
"""Infinite lifetime."""

_LIFETIME = struct.Struct("!2xI")
_PREFIX = struct.Struct("!BBII4x16s")
_PREFIX_ON_LINK = 0x80
_PREFIX_AUTONOMOUS = 0x40
_IP6_BITS = 128


class OptionCode(IntEnum):
    """IANA "IPv6 Neighbor Discovery Option Formats"."""

    SOURCE_LINK_LAYER = 1
    TARGET_LINK_LAYER = 2
    PREFIX_INFORMATION = 3
    MTU = 5
    RDNSS = 25
    DNSSL = 31


class _LinkLayerOption(Value):
    """A MAC-48 address (RFC 4861 4.6.1); the option takes one unit."""

    mac: bytes

    def __post_init__(self) -> None:
        require_mac("ND link-layer address", self.mac)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the option's data."""
        expect_len("ND link-layer address", data, MAC_LEN)
        return cls(data)

    def build(self) -> bytes:
        """Write the option's data."""
        return self.mac


class SourceLinkLayer(_LinkLayerOption):
    """Link-layer address of the sender."""

    CODE: ClassVar[int] = OptionCode.SOURCE_LINK_LAYER


class TargetLinkLayer(_LinkLayerOption):
    """Link-layer address of the target."""

    CODE: ClassVar[int] = OptionCode.TARGET_LINK_LAYER


class PrefixInformation(Value):
    """A prefix for on-link determination and autoconfiguration (RFC 4861 4.6.2).

    *prefix* has no host bits; `parse` clears them, as the RFC demands.
    """

    CODE: ClassVar[int] = OptionCode.PREFIX_INFORMATION

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
    def parse(cls, data: bytes) -> Self:
        """Read the option's data."""
        expect_len("ND prefix information", data, _PREFIX.size)
        prefix_len, flags, valid_s, preferred_s, prefix = _PREFIX.unpack(data)
        if prefix_len > _IP6_BITS:
            raise WireError(f"ND prefix information: prefix length {prefix_len}")
        network = clear_host_bits(IPv6Address(prefix), prefix_len)
        return cls(network, prefix_len, bool(flags & _PREFIX_ON_LINK), bool(flags & _PREFIX_AUTONOMOUS),
                   valid_s, preferred_s)

    def build(self) -> bytes:
        """Write the option's data."""
        flags = self.on_link * _PREFIX_ON_LINK | self.autonomous * _PREFIX_AUTONOMOUS
        return _PREFIX.pack(self.prefix_len, flags, self.valid_s, self.preferred_s, self.prefix.packed)


class LinkMtu(Value):
    """MTU of the link in bytes (RFC 4861 4.6.4)."""

    CODE: ClassVar[int] = OptionCode.MTU

    mtu: int

    def __post_init__(self) -> None:
        require_bits("ND MTU", self.mtu, 32)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the option's data: two reserved bytes, then the MTU."""
        expect_len("ND MTU", data, 6)
        return cls(int.from_bytes(data[2:], "big"))

    def build(self) -> bytes:
        """Write the option's data."""
        return self.mtu.to_bytes(6, "big")


class RecursiveDnsServers(Value):
    """Resolvers, at least one (RFC 8106 5.1)."""

    CODE: ClassVar[int] = OptionCode.RDNSS
    MAX_SERVERS: ClassVar[int] = 127

    servers: tuple[IPv6Address, ...]
    lifetime_s: int = INFINITY_S

    def __post_init__(self) -> None:
        require_bits("RDNSS lifetime", self.lifetime_s, 32)
        if not 1 <= len(self.servers) <= self.MAX_SERVERS:
            raise ValueError(f"RDNSS with {len(self.servers)} servers")

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the option's data: two reserved bytes, lifetime, addresses."""
        reader = Reader(data, "ND RDNSS")
        lifetime_s, = reader.pull(_LIFETIME)
        if not reader.remaining:
            raise WireError("ND RDNSS: no server")
        servers = []
        while reader.remaining:
            servers.append(reader.pull_ip6())
        return cls(tuple(servers), lifetime_s)

    def build(self) -> bytes:
        """Write the option's data."""
        return _LIFETIME.pack(self.lifetime_s) + b"".join(server.packed for server in self.servers)


class DnsSearchList(Value):
    """Domain names to search, at least one, in text form (see `passt.facts.domain_name`; RFC 8106 5.2).

    Zeros pad the names to the next full unit and not beyond: receivers would read a further unit of zeros
    as an option of length 0, and drop the message.
    """

    CODE: ClassVar[int] = OptionCode.DNSSL

    names: tuple[str, ...]
    lifetime_s: int = INFINITY_S

    def __post_init__(self) -> None:
        require_bits("DNSSL lifetime", self.lifetime_s, 32)
        if not self.names or not all(map(is_name, self.names)):
            raise ValueError(f"DNSSL with names {self.names}")
        require_len("DNSSL", self.build(), MIN_DATA_LEN, MAX_DATA_LEN)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the option's data: two reserved bytes, lifetime, names, zeros."""
        reader = Reader(data, "ND DNSSL")
        lifetime_s, = reader.pull(_LIFETIME)
        names = []
        while reader.remaining and (name := dns_name.pull_name(reader)):
            names.append(name)
        if not names:
            raise WireError("ND DNSSL: no name")
        if any(reader.pull_rest()):
            raise WireError("ND DNSSL: padding is not zero")
        return cls(tuple(names), lifetime_s)

    def build(self) -> bytes:
        """Write the option's data, padded so that the option fills its units."""
        data = _LIFETIME.pack(self.lifetime_s) + dns_name.build_names(self.names)
        return data + bytes(-(HEADER_LEN + len(data)) % UNIT)


class OtherOption(Value):
    """An option of a code without a class here (RFC 4861 4.6: receivers ignore it)."""

    code: int
    data: bytes

    def __post_init__(self) -> None:
        require_bits("ND option code", self.code, 8)
        require_len("ND option", self.data, MIN_DATA_LEN, MAX_DATA_LEN)
        if self.code in OPTIONS or (HEADER_LEN + len(self.data)) % UNIT:
            raise ValueError(f"ND option {self.code} with {len(self.data)} bytes")

    def build(self) -> bytes:
        """Write the option's data."""
        return self.data


KnownOption = (SourceLinkLayer | TargetLinkLayer | PrefixInformation | LinkMtu | RecursiveDnsServers
               | DnsSearchList)
NdpOption = KnownOption | OtherOption

OPTIONS: Mapping[int, type[KnownOption]] = {option.CODE: option for option in (
    SourceLinkLayer, TargetLinkLayer, PrefixInformation, LinkMtu, RecursiveDnsServers, DnsSearchList)}


def clear_host_bits(address: IPv6Address, prefix_len: int) -> IPv6Address:
    """Return the first *prefix_len* bits of *address*, followed by zeros."""
    shift = _IP6_BITS - prefix_len
    return IPv6Address(int(address) >> shift << shift)


def parse_options(data: bytes) -> tuple[NdpOption, ...]:
    """Read options up to the end of *data*.

    Raises `WireError` for a length of 0 (RFC 4861 4.6: discard the message) or one that exceeds *data*, and
    for bad contents of a known option.
    """
    reader = Reader(data, "ND options")
    options: list[NdpOption] = []
    while reader.remaining:
        code, n_units = reader.pull_u8(), reader.pull_u8()
        if not n_units:
            raise WireError(f"ND option {code}: length 0")
        content = reader.pull_bytes(n_units * UNIT - HEADER_LEN)
        option = OPTIONS.get(code)
        options.append(option.parse(content) if option else OtherOption(code, content))
    return tuple(options)


def build_options(options: Iterable[NdpOption]) -> bytes:
    """Write *options* one after the other."""
    return b"".join(_build_option(option) for option in options)


def _build_option(option: NdpOption) -> bytes:
    code = option.code if isinstance(option, OtherOption) else option.CODE
    data = option.build()
    return bytes((code, (HEADER_LEN + len(data)) // UNIT)) + data
