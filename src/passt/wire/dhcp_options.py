"""Options of DHCP and BOOTP messages (RFC 2132 and its successors).

::

    0      1        2
    | code | length | data ...        codes 0 (padding) and 255 (end) have neither length nor data

A code that occurs several times is one option in parts: their data is joined in order before it is parsed
(RFC 3396). Senders split options longer than 255 bytes in this way; a repeated option of fixed length is
malformed. The order of different options has no meaning, so a message holds them sorted by code. An option
without a class in `OPTIONS` is kept as `OtherOption`.
"""

from __future__ import annotations

from ipaddress import IPv4Address

from passt.errors import WireError
from passt.facts.domain_name import is_name
from passt.light.values import IntEnum, NamedTuple, Value
from passt.wire import dns_name
from passt.wire.cursor import Reader, require_bits

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import ClassVar, Self

INFINITY_S = 0xffffffff
"""Lease that never ends (RFC 2131 3.3)."""
MAX_CHUNK_LEN = 255
_MAX_PREFIX_LEN = 32
_END = b"\xff"


class OptionCode(IntEnum):
    """Codes of RFC 2132 and its successors."""

    PAD = 0
    NETMASK = 1
    ROUTERS = 3
    NAME_SERVERS = 6
    HOST_NAME = 12
    DOMAIN_NAME = 15
    MTU = 26
    REQUESTED_ADDRESS = 50
    LEASE_TIME = 51
    OVERLOAD = 52
    MESSAGE_TYPE = 53
    SERVER_ID = 54
    PARAMETER_REQUEST_LIST = 55
    MESSAGE = 56
    MAX_MESSAGE_SIZE = 57
    CLIENT_ID = 61
    RAPID_COMMIT = 80
    CLIENT_FQDN = 81
    RELAY_AGENT_INFORMATION = 82
    DOMAIN_SEARCH = 119
    CLASSLESS_STATIC_ROUTES = 121
    END = 255


_CARRIERS = frozenset((OptionCode.PAD, OptionCode.OVERLOAD, OptionCode.END))
"""Codes about the encoding of options; a `DhcpMessage` has no such options."""


class MessageType(IntEnum):
    """Types of messages (RFC 2132 9.6)."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8


class _AddressOption(Value):
    """One IPv4 address."""

    CODE: ClassVar[int]

    address: IPv4Address

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the option's data."""
        reader = _reader(cls.CODE, data)
        address = reader.pull_ip4()
        reader.finish()
        return cls(address)

    def build(self) -> bytes:
        """Write the option's data."""
        return self.address.packed


class _AddressesOption(Value):
    """IPv4 addresses, best first, at least one."""

    CODE: ClassVar[int]

    addresses: tuple[IPv4Address, ...]

    def __post_init__(self) -> None:
        if not self.addresses:
            raise ValueError(f"DHCP {_name(self.CODE)}: no address")

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the option's data."""
        reader = _reader(cls.CODE, data)
        addresses = [reader.pull_ip4()]
        while reader.remaining:
            addresses.append(reader.pull_ip4())
        return cls(tuple(addresses))

    def build(self) -> bytes:
        """Write the option's data."""
        return b"".join(address.packed for address in self.addresses)


class _BytesOption(Value):
    """Uninterpreted bytes, at least one."""

    CODE: ClassVar[int]

    data: bytes

    def __post_init__(self) -> None:
        if not self.data:
            raise ValueError(f"DHCP {_name(self.CODE)}: no data")

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the option's data."""
        reader = _reader(cls.CODE, data)
        return cls(reader.pull_bytes(1) + reader.pull_rest())

    def build(self) -> bytes:
        """Write the option's data."""
        return self.data


class _NumberOption(Value):
    """An unsigned number of N_BYTES bytes."""

    CODE: ClassVar[int]
    N_BYTES: ClassVar[int]

    value: int

    def __post_init__(self) -> None:
        require_bits(f"DHCP {_name(self.CODE)}", self.value, 8 * self.N_BYTES)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the option's data."""
        reader = _reader(cls.CODE, data)
        value = int.from_bytes(reader.pull_bytes(cls.N_BYTES), "big")
        reader.finish()
        return cls(value)

    def build(self) -> bytes:
        """Write the option's data."""
        return int(self.value).to_bytes(self.N_BYTES, "big")


class Netmask(_AddressOption):
    """Mask of the client's subnet (RFC 2132 3.3)."""

    CODE: ClassVar[int] = OptionCode.NETMASK


class Routers(_AddressesOption):
    """Routers on the client's subnet (RFC 2132 3.5)."""

    CODE: ClassVar[int] = OptionCode.ROUTERS


class NameServers(_AddressesOption):
    """Resolvers (RFC 2132 3.8)."""

    CODE: ClassVar[int] = OptionCode.NAME_SERVERS


class HostName(_BytesOption):
    """Name of the client (RFC 2132 3.14)."""

    CODE: ClassVar[int] = OptionCode.HOST_NAME


class DomainName(_BytesOption):
    """Domain of the client (RFC 2132 3.17)."""

    CODE: ClassVar[int] = OptionCode.DOMAIN_NAME


class LinkMtu(_NumberOption):
    """MTU of the client's interface in bytes (RFC 2132 5.1)."""

    CODE: ClassVar[int] = OptionCode.MTU
    N_BYTES: ClassVar[int] = 2


class RequestedAddress(_AddressOption):
    """Address that the client wants (RFC 2132 9.1)."""

    CODE: ClassVar[int] = OptionCode.REQUESTED_ADDRESS


class LeaseTime(_NumberOption):
    """Lease of the address in seconds (RFC 2132 9.2)."""

    CODE: ClassVar[int] = OptionCode.LEASE_TIME
    N_BYTES: ClassVar[int] = 4


class MessageTypeOption(_NumberOption):
    """A `MessageType` or any other 8-bit number except 0 (RFC 2132 9.6)."""

    CODE: ClassVar[int] = OptionCode.MESSAGE_TYPE
    N_BYTES: ClassVar[int] = 1

    def __post_init__(self) -> None:
        require_bits("DHCP message type", self.value, 8)
        if not self.value:
            raise ValueError("DHCP message type 0")

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the option's data."""
        if data == b"\0":
            raise WireError("DHCP MESSAGE_TYPE: 0")
        return super().parse(data)


class ServerId(_AddressOption):
    """Address that identifies a server (RFC 2132 9.7)."""

    CODE: ClassVar[int] = OptionCode.SERVER_ID


class ParameterRequestList(_BytesOption):
    """Codes of the options that the client wants, in its order (RFC 2132 9.8)."""

    CODE: ClassVar[int] = OptionCode.PARAMETER_REQUEST_LIST


class Message(_BytesOption):
    """Reason of a NAK or a DECLINE, as text (RFC 2132 9.9)."""

    CODE: ClassVar[int] = OptionCode.MESSAGE


class MaxMessageSize(_NumberOption):
    """Bytes of the longest IP packet that the client takes (RFC 2132 9.10)."""

    CODE: ClassVar[int] = OptionCode.MAX_MESSAGE_SIZE
    N_BYTES: ClassVar[int] = 2


class ClientId(_BytesOption):
    """Identity of the client (RFC 2132 9.14)."""

    CODE: ClassVar[int] = OptionCode.CLIENT_ID


class RapidCommit(Value):
    """Asks for, or marks, an exchange of two messages instead of four (RFC 4039)."""

    CODE: ClassVar[int] = OptionCode.RAPID_COMMIT

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the option's data: none."""
        _reader(cls.CODE, data).finish()
        return cls()

    def build(self) -> bytes:
        """Write the option's data."""
        return b""


class ClientFqdn(Value):
    """Name of the client, and who updates the DNS with it (RFC 4702 2).

    *flags* are a sum of the constants below; other bits have no meaning. *content* is the rest of the data:
    two result codes and the name. It is not parsed, so it may be too short: our server does not use it.
    """

    CODE: ClassVar[int] = OptionCode.CLIENT_FQDN
    SERVER_UPDATES: ClassVar[int] = 1
    OVERRIDES: ClassVar[int] = 2
    ENCODED: ClassVar[int] = 4
    NO_UPDATES: ClassVar[int] = 8

    flags: int
    content: bytes = b""

    def __post_init__(self) -> None:
        require_bits("DHCP FQDN flags", self.flags, 8)

    @classmethod
    def of_name(cls, name: str, flags: int) -> Self:
        """Make the option for *name* in text form, encoded as labels if *flags* has ENCODED, else as ASCII.

        Both result codes are 255 (RFC 4702 2.2).
        """
        encoded = dns_name.build_name(name) if flags & cls.ENCODED else name.encode("ascii")
        return cls(flags, b"\xff\xff" + encoded)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the option's data."""
        reader = _reader(cls.CODE, data)
        return cls(reader.pull_u8(), reader.pull_rest())

    def build(self) -> bytes:
        """Write the option's data."""
        return bytes((self.flags,)) + self.content


class RelayAgentInformation(_BytesOption):
    """Data of a relay agent, which a server returns unchanged (RFC 3046)."""

    CODE: ClassVar[int] = OptionCode.RELAY_AGENT_INFORMATION


class DomainSearch(Value):
    """Domain names to search, at least one, in text form (see `passt.facts.domain_name`; RFC 3397)."""

    CODE: ClassVar[int] = OptionCode.DOMAIN_SEARCH

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.names or not all(map(is_name, self.names)):
            raise ValueError(f"DHCP search list {self.names}")

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the option's data."""
        names = dns_name.parse_compressed(data)
        if not names:
            raise WireError("DHCP search list: no name")
        return cls(names)

    def build(self) -> bytes:
        """Write the option's data, compressed."""
        return dns_name.build_compressed(self.names)


class StaticRoute(NamedTuple):
    """A route of RFC 3442; *router* 0.0.0.0 means that the destination is on the link."""

    destination: IPv4Address
    prefix_len: int
    router: IPv4Address


class ClasslessStaticRoutes(Value):
    """Routes, at least one (RFC 3442): prefix length, the significant bytes of the destination, router."""

    CODE: ClassVar[int] = OptionCode.CLASSLESS_STATIC_ROUTES

    routes: tuple[StaticRoute, ...]

    def __post_init__(self) -> None:
        if not self.routes:
            raise ValueError("DHCP static routes: none")
        for route in self.routes:
            if not 0 <= route.prefix_len <= _MAX_PREFIX_LEN or _host_bits(route):
                raise ValueError(f"DHCP route to {route.destination}/{route.prefix_len}")

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the option's data."""
        reader = _reader(cls.CODE, data)
        routes: list[StaticRoute] = []
        while reader.remaining or not routes:
            prefix_len = reader.pull_u8()
            if prefix_len > _MAX_PREFIX_LEN:
                raise WireError(f"DHCP route: prefix length {prefix_len}")
            destination = reader.pull_bytes(-(-prefix_len // 8)).ljust(4, b"\0")
            route = StaticRoute(IPv4Address(destination), prefix_len, reader.pull_ip4())
            if _host_bits(route):
                raise WireError(f"DHCP route: {route.destination}/{prefix_len} has host bits")
            routes.append(route)
        return cls(tuple(routes))

    def build(self) -> bytes:
        """Write the option's data."""
        return b"".join(bytes((route.prefix_len,)) + route.destination.packed[:-(-route.prefix_len // 8)]
                        + route.router.packed for route in self.routes)


class OtherOption(Value):
    """An option of a code without a class here."""

    code: int
    data: bytes

    def __post_init__(self) -> None:
        require_bits("DHCP option code", self.code, 8)
        if self.code in OPTIONS or self.code in _CARRIERS:
            raise ValueError(f"DHCP option {self.code} has another class")

    def build(self) -> bytes:
        """Write the option's data."""
        return self.data


KnownOption = (Netmask | Routers | NameServers | HostName | DomainName | LinkMtu | RequestedAddress
               | LeaseTime | MessageTypeOption | ServerId | ParameterRequestList | Message | MaxMessageSize
               | ClientId | RapidCommit | ClientFqdn | RelayAgentInformation | DomainSearch
               | ClasslessStaticRoutes)
DhcpOption = KnownOption | OtherOption

OPTIONS: Mapping[int, type[KnownOption]] = {option.CODE: option for option in (
    Netmask, Routers, NameServers, HostName, DomainName, LinkMtu, RequestedAddress, LeaseTime,
    MessageTypeOption, ServerId, ParameterRequestList, Message, MaxMessageSize, ClientId, RapidCommit,
    ClientFqdn, RelayAgentInformation, DomainSearch, ClasslessStaticRoutes)}


def parse_options(areas: Iterable[bytes]) -> tuple[DhcpOption, ...]:
    """Read the options in *areas*, fields of one message in order; return them sorted by code.

    Raises `WireError` for an option that exceeds its area, and for bad contents of a known code.
    """
    return join_options([option for area in areas for option in split_area(area)])


def split_area(area: bytes) -> list[tuple[int, bytes]]:
    """Return code and data of each option in one field, up to the end option or the end of the field."""
    found = []
    at, end = 0, len(area)
    while at < end and (code := area[at]) != OptionCode.END:
        at += 1
        if code == OptionCode.PAD:
            continue
        if at == end or at + 1 + area[at] > end:
            raise WireError(f"DHCP option {code}: it ends behind the message")
        found.append((code, area[at + 1:at + 1 + area[at]]))
        at += 1 + area[at]
    return found


def join_options(parts: Iterable[tuple[int, bytes]]) -> tuple[DhcpOption, ...]:
    """Join *parts*, pairs of code and data, and parse them; raises `WireError` for bad contents."""
    joined: dict[int, bytes] = {}
    for code, data in parts:
        if code not in _CARRIERS:
            joined[code] = joined.get(code, b"") + data
    options: list[DhcpOption] = []
    for code, data in joined.items():
        option = OPTIONS.get(code)
        options.append(option.parse(data) if option else OtherOption(code, data))
    return sort_options(options)


def sort_options(options: Iterable[DhcpOption]) -> tuple[DhcpOption, ...]:
    """Sort *options* by code, as a `DhcpMessage` holds them."""
    return tuple(sorted(options, key=_code))


def require_sorted(options: Iterable[DhcpOption]) -> None:
    """Raise `ValueError` unless *options* have ascending codes, each once."""
    codes = [_code(option) for option in options]
    if codes != sorted(set(codes)):
        raise ValueError(f"DHCP options with the codes {codes}")


def build_options(options: Iterable[DhcpOption], order: Iterable[int] = ()) -> bytes:
    """Write *options* and the end option.

    The message type comes first, then those options whose codes *order* lists, then the rest sorted by code.
    A code that *order* repeats is written once: a second time would double its data.
    """
    found = {_code(option): option.build() for option in options}
    # RFC 3046 2.2: the relay agent's option comes last, whatever order the client asks for.
    last = OptionCode.RELAY_AGENT_INFORMATION
    front = dict.fromkeys(code for code in (OptionCode.MESSAGE_TYPE, *order, *sorted(found)) if code != last)
    return b"".join(_build_option(code, found[code]) for code in (*front, last) if code in found) + _END


def option_len(data_len: int) -> int:
    """Return the encoded length of an option with *data_len* bytes of data, headers of all parts included."""
    return data_len + 2 * max(1, -(-data_len // MAX_CHUNK_LEN))


def _build_option(code: int, data: bytes) -> bytes:
    if len(data) <= MAX_CHUNK_LEN:
        return bytes((code, len(data))) + data
    parts = (data[start:start + MAX_CHUNK_LEN] for start in range(0, len(data), MAX_CHUNK_LEN))
    return b"".join(bytes((code, len(part))) + part for part in parts)


def _code(option: DhcpOption) -> int:
    return option.code if isinstance(option, OtherOption) else option.CODE


def _name(code: int) -> str:
    return OptionCode(code).name.lower()


def _reader(code: int, data: bytes) -> Reader:
    return Reader(data, f"DHCP {_name(code)}")


def _host_bits(route: StaticRoute) -> int:
    return int(route.destination) & (0xffffffff >> route.prefix_len)
