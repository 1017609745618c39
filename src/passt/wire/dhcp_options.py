"""Options of DHCP and BOOTP (RFC 2132), as one value with a field for each that we know.

::

    0      1        2
    | code | length | data ...        but for code 0 (padding) and 255 (end): one byte, no length

The data of options with the same code is joined before it is read, in the order in which the parts
come (RFC 3396): that is how options longer than 255 bytes are sent. So a fixed-length option that
comes twice is malformed. Options that we do not know are skipped.
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
    from collections.abc import Callable, Iterable
    from typing import Any

INFINITY_S = 0xffffffff
MAX_CHUNK_LEN = 255
_MAX_PREFIX_LEN = 32
_END = b"\xff"


class DhcpOption(IntEnum):
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


class DhcpMessageType(IntEnum):
    """Types of RFC 2132, 9.6."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8


class DhcpRoute(NamedTuple):
    """A route of RFC 3442; *router* 0.0.0.0 means that the destination is on the link."""

    destination: IPv4Address
    prefix_len: int
    router: IPv4Address


class DhcpOptions(Value):
    """What the options of one message say; a field with its default value is an option not present.

    *message_type* is a `DhcpMessageType` or any other 8-bit number, 0 if there is none (BOOTP).
    *host_name* and *domain_name* are kept as they come; *client_fqdn* is the option's whole data
    (see `ClientFqdn`), *relay_agent_information* too.
    """

    netmask: IPv4Address | None = None
    routers: tuple[IPv4Address, ...] = ()
    name_servers: tuple[IPv4Address, ...] = ()
    host_name: bytes = b""
    domain_name: bytes = b""
    mtu: int | None = None
    requested_address: IPv4Address | None = None
    lease_time_s: int | None = None
    message_type: int = 0
    server_id: IPv4Address | None = None
    parameter_request_list: bytes = b""
    message: bytes = b""
    max_message_size: int | None = None
    client_id: bytes = b""
    rapid_commit: bool = False
    client_fqdn: bytes = b""
    relay_agent_information: bytes = b""
    domain_search: tuple[str, ...] = ()
    classless_static_routes: tuple[DhcpRoute, ...] = ()

    def __post_init__(self) -> None:
        require_bits("DHCP message type", self.message_type, 8)
        require_bits("DHCP MTU", self.mtu or 0, 16)
        require_bits("DHCP maximum message size", self.max_message_size or 0, 16)
        require_bits("DHCP lease time", self.lease_time_s or 0, 32)
        if not all(map(is_name, self.domain_search)):
            raise ValueError(f"DHCP search list {self.domain_search}")
        for route in self.classless_static_routes:
            if not 0 <= route.prefix_len <= _MAX_PREFIX_LEN or _host_bits(route):
                raise ValueError(f"DHCP route to {route.destination}/{route.prefix_len}")

    def build(self, order: Iterable[int] = ()) -> bytes:
        """Write all options that are present, then the end option.

        The message type comes first, then the codes of *order* as far as there are such options
        (one that is named twice comes once: twice would double its data), then the rest.
        """
        found: dict[int, bytes] = {
            code: codec.build(value) for code, codec in _CODECS.items()
            if (value := getattr(self, codec.field)) != _DEFAULTS[codec.field]}
        # RFC 3046, 2.2: what the relay wants back is the last option, whatever the client asks for.
        asked = (code for code in order if code != DhcpOption.RELAY_AGENT_INFORMATION)
        codes = dict.fromkeys((DhcpOption.MESSAGE_TYPE, *asked, *found))
        return b"".join(_build_option(code, found[code]) for code in codes if code in found) + _END


class ClientFqdn(Value):
    """Contents of option 81 (RFC 4702, section 2): flags, two result codes without use, a name.

    *name* is in text form, encoded as labels if *is_encoded* (E flag), as ASCII otherwise.
    """

    name: str
    server_updates: bool = False
    server_overrides: bool = False
    no_updates: bool = False
    is_encoded: bool = True

    def build(self) -> bytes:
        """Write the option's data; both result codes are 255, as RFC 4702, 2.2 has it."""
        flags = (self.server_updates | self.server_overrides << 1 | self.is_encoded << 2
                 | self.no_updates << 3)
        name = dns_name.build_name(self.name) if self.is_encoded else self.name.encode("ascii")
        return bytes((flags, 255, 255)) + name

    @staticmethod
    def parse_flags(data: bytes) -> tuple[bool, bool]:
        """Tell whether a client that sent *data* has the S and the E flag; its name is of no use to us."""
        return (bool(data[0] & 1), bool(data[0] & 4)) if data else (False, True)


class _Codec(NamedTuple):
    """How the option of a code is read and written, and to which field it belongs."""

    field: str
    pull: Callable[[Reader], Any]
    build: Callable[[Any], bytes]


def parse_options(areas: Iterable[bytes]) -> DhcpOptions:
    """Read the options in *areas*, one field of the message after the other.

    `WireError` for an option that ends behind its area, or of a known code with bad contents.
    """
    return decode_options([option for area in areas for option in split_area(area)])


def decode_options(options: Iterable[tuple[int, bytes]]) -> DhcpOptions:
    """Read *options*, code and data each; `WireError` for a known code with bad contents."""
    parts: dict[int, bytes] = {}
    for code, data in options:
        parts[code] = parts.get(code, b"") + data
    values = {}
    for code, data in parts.items():
        codec = _CODECS.get(code)
        if codec is not None:
            reader = Reader(data, f"DHCP {codec.field}")
            values[codec.field] = codec.pull(reader)
            if reader.remaining:
                raise WireError(f"DHCP {codec.field}: {reader.remaining} bytes too many")
    return DhcpOptions(**values)


def split_area(area: bytes) -> list[tuple[int, bytes]]:
    """Codes and data of the options in one field, up to the end option or the end of the field."""
    found = []
    at, end = 0, len(area)
    while at < end and (code := area[at]) != DhcpOption.END:
        at += 1
        if code == DhcpOption.PAD:
            continue
        if at == end or at + 1 + area[at] > end:
            raise WireError(f"DHCP option {code}: it ends behind the message")
        found.append((code, area[at + 1:at + 1 + area[at]]))
        at += 1 + area[at]
    return found


def option_len(data_len: int) -> int:
    """Bytes that an option with *data_len* bytes of data takes, parts of long ones included."""
    return data_len + 2 * max(1, -(-data_len // MAX_CHUNK_LEN))


def _build_option(code: int, data: bytes) -> bytes:
    if len(data) <= MAX_CHUNK_LEN:
        return bytes((code, len(data))) + data
    parts = (data[start:start + MAX_CHUNK_LEN] for start in range(0, len(data), MAX_CHUNK_LEN))
    return b"".join(bytes((code, len(part))) + part for part in parts)


def _pull_addresses(reader: Reader) -> tuple[IPv4Address, ...]:
    addresses = [reader.pull_ip4()]
    while reader.remaining:
        addresses.append(reader.pull_ip4())
    return tuple(addresses)


def _build_addresses(addresses: tuple[IPv4Address, ...]) -> bytes:
    return b"".join(address.packed for address in addresses)


def _pull_some(reader: Reader) -> bytes:
    return reader.pull_bytes(1) + reader.pull_rest()


def _pull_flag(reader: Reader) -> bool:
    # An option without data; whoever called finds any data left.
    return reader is not None


def _pull_message_type(reader: Reader) -> int:
    message_type = reader.pull_u8()
    if not message_type:
        raise WireError("DHCP MESSAGE_TYPE: 0")
    return message_type


def _host_bits(route: DhcpRoute) -> int:
    return int(route.destination) & (0xffffffff >> route.prefix_len)


def _pull_routes(reader: Reader) -> tuple[DhcpRoute, ...]:
    """Read prefix lengths, as many bytes of destinations as they need, and routers."""
    routes: list[DhcpRoute] = []
    while reader.remaining or not routes:
        prefix_len = reader.pull_u8()
        if prefix_len > _MAX_PREFIX_LEN:
            raise WireError(f"DHCP route: prefix length {prefix_len}")
        destination = reader.pull_bytes(-(-prefix_len // 8)).ljust(4, b"\0")
        route = DhcpRoute(IPv4Address(destination), prefix_len, reader.pull_ip4())
        if _host_bits(route):
            raise WireError(f"DHCP route: {route.destination}/{prefix_len} has host bits")
        routes.append(route)
    return tuple(routes)


def _build_routes(routes: tuple[DhcpRoute, ...]) -> bytes:
    return b"".join(bytes((route.prefix_len,)) + route.destination.packed[:-(-route.prefix_len // 8)]
                    + route.router.packed for route in routes)


def _pull_search(reader: Reader) -> tuple[str, ...]:
    names = dns_name.parse_compressed(reader.pull_rest())
    if not names:
        raise WireError("DHCP search list: no name")
    return names


def _address(field: str) -> _Codec:
    return _Codec(field, Reader.pull_ip4, lambda address: bytes(address.packed))


def _addresses(field: str) -> _Codec:
    return _Codec(field, _pull_addresses, _build_addresses)


def _text(field: str) -> _Codec:
    return _Codec(field, _pull_some, bytes)


def _number(field: str, pull: Callable[[Reader], int], n_bytes: int) -> _Codec:
    return _Codec(field, pull, lambda value: int(value).to_bytes(n_bytes, "big"))


_CODECS: dict[int, _Codec] = {
    DhcpOption.NETMASK: _address("netmask"),
    DhcpOption.ROUTERS: _addresses("routers"),
    DhcpOption.NAME_SERVERS: _addresses("name_servers"),
    DhcpOption.HOST_NAME: _text("host_name"),
    DhcpOption.DOMAIN_NAME: _text("domain_name"),
    DhcpOption.MTU: _number("mtu", Reader.pull_u16, 2),
    DhcpOption.REQUESTED_ADDRESS: _address("requested_address"),
    DhcpOption.LEASE_TIME: _number("lease_time_s", Reader.pull_u32, 4),
    DhcpOption.MESSAGE_TYPE: _number("message_type", _pull_message_type, 1),
    DhcpOption.SERVER_ID: _address("server_id"),
    DhcpOption.PARAMETER_REQUEST_LIST: _text("parameter_request_list"),
    DhcpOption.MESSAGE: _text("message"),
    DhcpOption.MAX_MESSAGE_SIZE: _number("max_message_size", Reader.pull_u16, 2),
    DhcpOption.CLIENT_ID: _text("client_id"),
    DhcpOption.RAPID_COMMIT: _Codec("rapid_commit", _pull_flag, lambda _: b""),
    DhcpOption.CLIENT_FQDN: _text("client_fqdn"),
    DhcpOption.DOMAIN_SEARCH: _Codec("domain_search", _pull_search, dns_name.build_compressed),
    DhcpOption.CLASSLESS_STATIC_ROUTES: _Codec("classless_static_routes", _pull_routes, _build_routes),
    DhcpOption.RELAY_AGENT_INFORMATION: _text("relay_agent_information"),
}
_DEFAULTS = DhcpOptions.DEFAULTS
