"""Options of DHCPv6 messages (RFC 8415 21; RFC 3646; RFC 4704).

::

    0      2        4
    | code | length | data ...          length counts data only

Nested options are parsed only where the RFC allows them: addresses and a status in an IA, a status in an
address. So the depth of parsing is fixed. An option without a class in the table of its place is kept as
`OtherOption`, since receivers ignore unknown options (RFC 8415 16); an option that has one, with contents
that do not fit, makes the whole message invalid.
"""

from __future__ import annotations

import struct
from ipaddress import IPv6Address

from passt.errors import WireError
from passt.facts.domain_name import is_name
from passt.light.values import IntEnum, Value
from passt.wire import dns_name
from passt.wire.cursor import Reader, expect_len, require_bits, require_len

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import ClassVar, Protocol, Self, TypeVar

    _Option_co = TypeVar("_Option_co", covariant=True)

    class _OptionClass(Protocol[_Option_co]):
        """A class of options, as `parse_options` needs it."""

        def parse(self, data: bytes) -> _Option_co:
            """Read the option's data."""

HEADER_LEN = 4
"""Bytes of code and length before the data of every option."""
INFINITY_S = 0xffffffff
"""Infinite lifetime (RFC 8415 7.7)."""
MIN_DUID_LEN = 3
MAX_DUID_LEN = 130
"""Two bytes of type and 1 to 128 of identifier (RFC 8415 11.1)."""
DUID_TYPE_LL = 3
_HARDWARE_ETHERNET = 1
_MAX_DATA_LEN = 0xffff

_HEADER = struct.Struct("!HH")
_IA_TIMES = struct.Struct("!III")
_IA_ADDRESS = struct.Struct("!16sII")
_AUTHENTICATION = struct.Struct("!BBBQ")


class OptionCode(IntEnum):
    """IANA "DHCPv6 Option Codes"."""

    CLIENT_ID = 1
    SERVER_ID = 2
    IA_NA = 3
    IA_TA = 4
    IA_ADDRESS = 5
    OPTION_REQUEST = 6
    PREFERENCE = 7
    AUTHENTICATION = 11
    STATUS_CODE = 13
    RAPID_COMMIT = 14
    RECONFIGURE_MESSAGE = 19
    RECONFIGURE_ACCEPT = 20
    DNS_SERVERS = 23
    DOMAIN_LIST = 24
    IA_PD = 25
    CLIENT_FQDN = 39


class StatusCode(IntEnum):
    """IANA "DHCPv6 Status Codes" that a server sends (RFC 8415 21.13)."""

    SUCCESS = 0
    UNSPEC_FAIL = 1
    NO_ADDRS_AVAIL = 2
    NO_BINDING = 3
    NOT_ON_LINK = 4
    USE_MULTICAST = 5
    NO_PREFIX_AVAIL = 6


def make_duid_ll(mac: bytes) -> bytes:
    """Make the DUID of an Ethernet interface from its permanent address (RFC 8415 11.4)."""
    return struct.pack("!HH", DUID_TYPE_LL, _HARDWARE_ETHERNET) + mac


class _DuidOption(Value):
    """DUID of client or server (RFC 8415 21.2 and 21.3)."""

    duid: bytes

    def __post_init__(self) -> None:
        require_len("DUID", self.duid, MIN_DUID_LEN, MAX_DUID_LEN)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the option's data."""
        if not MIN_DUID_LEN <= len(data) <= MAX_DUID_LEN:
            raise WireError(f"DHCPv6 DUID: {len(data)} bytes, must be {MIN_DUID_LEN} to {MAX_DUID_LEN}")
        return cls(data)

    def build(self) -> bytes:
        """Write the option's data."""
        return self.duid


class ClientId(_DuidOption):
    """Identity of the client."""

    CODE: ClassVar[int] = OptionCode.CLIENT_ID


class ServerId(_DuidOption):
    """Identity of the server."""

    CODE: ClassVar[int] = OptionCode.SERVER_ID


class StatusOption(Value):
    """Result of a request (RFC 8415 21.13); *status* is a `StatusCode` or any other 16-bit number."""

    CODE: ClassVar[int] = OptionCode.STATUS_CODE

    status: int
    text: str = ""

    def __post_init__(self) -> None:
        require_bits("DHCPv6 status", self.status, 16)
        require_len("DHCPv6 status message", self.text.encode(), 0, _MAX_DATA_LEN - 2)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the option's data; the text is UTF-8 without a terminating zero."""
        reader = Reader(data, "DHCPv6 status")
        status = reader.pull_u16()
        try:
            return cls(status, reader.pull_rest().decode())
        except UnicodeDecodeError as error:
            raise WireError("DHCPv6 status: message is not UTF-8") from error

    def build(self) -> bytes:
        """Write the option's data."""
        return self.status.to_bytes(2, "big") + self.text.encode()


class OtherOption(Value):
    """An option of a code without a class at its place."""

    code: int
    data: bytes

    def __post_init__(self) -> None:
        require_bits("DHCPv6 option code", self.code, 16)
        require_len("DHCPv6 option", self.data, 0, _MAX_DATA_LEN)

    def build(self) -> bytes:
        """Write the option's data."""
        return self.data


class IaAddress(Value):
    """One address of an IA (RFC 8415 21.6)."""

    CODE: ClassVar[int] = OptionCode.IA_ADDRESS

    address: IPv6Address
    preferred_s: int = INFINITY_S
    valid_s: int = INFINITY_S
    options: tuple[StatusOption | OtherOption, ...] = ()

    def __post_init__(self) -> None:
        require_bits("DHCPv6 preferred lifetime", self.preferred_s, 32)
        require_bits("DHCPv6 valid lifetime", self.valid_s, 32)
        require_known(self.options, _IN_ADDRESS)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the option's data."""
        reader = Reader(data, "DHCPv6 IA address")
        address, preferred_s, valid_s = reader.pull(_IA_ADDRESS)
        options = parse_options(reader.pull_rest(), _IN_ADDRESS)
        return cls(IPv6Address(address), preferred_s, valid_s, options)

    def build(self) -> bytes:
        """Write the option's data."""
        return (_IA_ADDRESS.pack(self.address.packed, self.preferred_s, self.valid_s)
                + build_options(self.options))


IaOption = IaAddress | StatusOption | OtherOption


class _TimedIa(Value):
    """An IA with renewal times T1 and T2, in seconds (RFC 8415 21.4 and 21.21)."""

    iaid: int
    t1_s: int = 0
    t2_s: int = 0
    options: tuple[IaOption, ...] = ()

    def __post_init__(self) -> None:
        require_bits("DHCPv6 IAID", self.iaid, 32)
        require_bits("DHCPv6 T1", self.t1_s, 32)
        require_bits("DHCPv6 T2", self.t2_s, 32)
        require_known(self.options, _IN_IA)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the option's data."""
        reader = Reader(data, "DHCPv6 IA")
        iaid, t1_s, t2_s = reader.pull(_IA_TIMES)
        return cls(iaid, t1_s, t2_s, parse_options(reader.pull_rest(), _IN_IA))

    def build(self) -> bytes:
        """Write the option's data."""
        return _IA_TIMES.pack(self.iaid, self.t1_s, self.t2_s) + build_options(self.options)


class IaNa(_TimedIa):
    """Non-temporary addresses."""

    CODE: ClassVar[int] = OptionCode.IA_NA


class IaPd(_TimedIa):
    """Delegated prefixes; they are not parsed, since our server delegates none."""

    CODE: ClassVar[int] = OptionCode.IA_PD


class IaTa(Value):
    """Temporary addresses (RFC 8415 21.5)."""

    CODE: ClassVar[int] = OptionCode.IA_TA

    iaid: int
    options: tuple[IaOption, ...] = ()

    def __post_init__(self) -> None:
        require_bits("DHCPv6 IAID", self.iaid, 32)
        require_known(self.options, _IN_IA)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the option's data."""
        reader = Reader(data, "DHCPv6 IA_TA")
        return cls(reader.pull_u32(), parse_options(reader.pull_rest(), _IN_IA))

    def build(self) -> bytes:
        """Write the option's data."""
        return self.iaid.to_bytes(4, "big") + build_options(self.options)


class OptionRequest(Value):
    """Codes of the options that the client wants (RFC 8415 21.7)."""

    CODE: ClassVar[int] = OptionCode.OPTION_REQUEST

    codes: tuple[int, ...]

    def __post_init__(self) -> None:
        for code in self.codes:
            require_bits("DHCPv6 option code", code, 16)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the option's data."""
        if len(data) % 2:
            raise WireError(f"DHCPv6 option request: {len(data)} bytes, must be even")
        return cls(struct.unpack(f"!{len(data) // 2}H", data))

    def build(self) -> bytes:
        """Write the option's data."""
        return struct.pack(f"!{len(self.codes)}H", *self.codes)


class Preference(Value):
    """Preference of the server, 0 to 255; clients choose the highest (RFC 8415 21.8)."""

    CODE: ClassVar[int] = OptionCode.PREFERENCE

    value: int

    def __post_init__(self) -> None:
        require_bits("DHCPv6 preference", self.value, 8)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the option's data."""
        expect_len("DHCPv6 preference", data, 1)
        return cls(data[0])

    def build(self) -> bytes:
        """Write the option's data."""
        return bytes((self.value,))


class Authentication(Value):
    """What proves who sent a message (RFC 8415 21.11); *replay* has 64 bits, *info* what the protocol says.

    Clients of other protocols may send anything in *info*.
    """

    CODE: ClassVar[int] = OptionCode.AUTHENTICATION

    protocol: int
    algorithm: int
    rdm: int               # replay detection method
    replay: int
    info: bytes = b""

    def __post_init__(self) -> None:
        for number in (self.protocol, self.algorithm, self.rdm):
            require_bits("DHCPv6 authentication", number, 8)
        require_bits("DHCPv6 replay detection", self.replay, 64)
        require_len("DHCPv6 authentication", self.info, 0, _MAX_DATA_LEN - _AUTHENTICATION.size)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the option's data."""
        reader = Reader(data, "DHCPv6 authentication")
        protocol, algorithm, rdm, replay = reader.pull(_AUTHENTICATION)
        return cls(protocol, algorithm, rdm, replay, reader.pull_rest())

    def build(self) -> bytes:
        """Write the option's data."""
        return _AUTHENTICATION.pack(self.protocol, self.algorithm, self.rdm, self.replay) + self.info


class _Flag(Value):
    """An option without data."""

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the option's data: none."""
        expect_len(f"DHCPv6 {cls.__name__}", data, 0)
        return cls()

    def build(self) -> bytes:
        """Write the option's data."""
        return b""


class RapidCommit(_Flag):
    """Asks for, or marks, an exchange of two messages instead of four (RFC 8415 21.14)."""

    CODE: ClassVar[int] = OptionCode.RAPID_COMMIT


class ReconfigureAccept(_Flag):
    """Says that the client takes Reconfigure messages; of a server, that it may (RFC 8415 21.20)."""

    CODE: ClassVar[int] = OptionCode.RECONFIGURE_ACCEPT


class ReconfigureMessage(Value):
    """Type of the message by which a client answers Reconfigure (RFC 8415 21.19)."""

    CODE: ClassVar[int] = OptionCode.RECONFIGURE_MESSAGE

    kind: int

    def __post_init__(self) -> None:
        require_bits("DHCPv6 message type", self.kind, 8)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the option's data."""
        expect_len("DHCPv6 reconfigure message", data, 1)
        return cls(data[0])

    def build(self) -> bytes:
        """Write the option's data."""
        return bytes((self.kind,))


class DnsServers(Value):
    """Resolvers, best first (RFC 3646 3); a client may send an empty list."""

    CODE: ClassVar[int] = OptionCode.DNS_SERVERS

    servers: tuple[IPv6Address, ...]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the option's data."""
        reader = Reader(data, "DHCPv6 DNS servers")
        servers = []
        while reader.remaining:
            servers.append(reader.pull_ip6())
        return cls(tuple(servers))

    def build(self) -> bytes:
        """Write the option's data."""
        return b"".join(server.packed for server in self.servers)


class DomainList(Value):
    """Search list in text form (`passt.facts.domain_name`; RFC 3646 4), never compressed (RFC 8415 10)."""

    CODE: ClassVar[int] = OptionCode.DOMAIN_LIST

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not all(map(is_name, self.names)):
            raise ValueError(f"DHCPv6 domain list with names {self.names}")

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the option's data."""
        reader = Reader(data, "DHCPv6 domain list")
        names = []
        while reader.remaining:
            name = dns_name.pull_name(reader)
            if not name:
                raise WireError("DHCPv6 domain list: the root is not a name to search")
            names.append(name)
        return cls(tuple(names))

    def build(self) -> bytes:
        """Write the option's data."""
        return dns_name.build_names(self.names)


class ClientFqdn(Value):
    """Name of the client, and who updates the DNS with it (RFC 4704 4).

    *flags* are S (1), O (2) and N (4); other bits have no meaning. *name* is in text form. With *is_complete*
    False it is a part without domain, maybe empty.
    """

    CODE: ClassVar[int] = OptionCode.CLIENT_FQDN
    SERVER_UPDATES: ClassVar[int] = 1
    OVERRIDES: ClassVar[int] = 2

    flags: int
    name: str
    is_complete: bool = True

    def __post_init__(self) -> None:
        require_bits("DHCPv6 FQDN flags", self.flags, 8)
        if not is_name(self.name) and (self.name or self.is_complete):
            raise ValueError(f"DHCPv6 FQDN {self.name!r}")

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the option's data; the name is never compressed."""
        reader = Reader(data, "DHCPv6 FQDN")
        flags = reader.pull_u8()
        is_complete = data.endswith(b"\0") and reader.remaining > 0
        names = Reader(reader.pull_rest() + (b"" if is_complete else b"\0"), "DHCPv6 FQDN")
        name = dns_name.pull_name(names)
        if names.remaining or (is_complete and not name):
            raise WireError("DHCPv6 FQDN: not one name")
        return cls(flags, name, is_complete)

    def build(self) -> bytes:
        """Write the option's data."""
        encoded = dns_name.build_name(self.name) if self.name else b"\0"
        return bytes((self.flags,)) + (encoded if self.is_complete else encoded[:-1])


Ia = IaNa | IaTa | IaPd
MessageOption = (ClientId | ServerId | Ia | OptionRequest | Preference | Authentication | StatusOption
                 | RapidCommit | ReconfigureMessage | ReconfigureAccept | DnsServers | DomainList
                 | ClientFqdn)
Dhcpv6Option = MessageOption | IaAddress | OtherOption

_IN_ADDRESS: Mapping[int, _OptionClass[StatusOption]] = {StatusOption.CODE: StatusOption}
_IN_IA: Mapping[int, _OptionClass[IaAddress | StatusOption]] = {
    option.CODE: option for option in (IaAddress, StatusOption)}
OPTIONS: Mapping[int, _OptionClass[MessageOption]] = {option.CODE: option for option in (
    ClientId, ServerId, IaNa, IaTa, IaPd, OptionRequest, Preference, Authentication, StatusOption,
    RapidCommit, ReconfigureMessage, ReconfigureAccept, DnsServers, DomainList, ClientFqdn)}
"""Options directly in a message; the two tables above are of nested options."""


def parse_options(data: bytes,
                  known: Mapping[int, _OptionClass[_Option_co]]) -> tuple[_Option_co | OtherOption, ...]:
    """Read options up to the end of *data*; *known* is the table of this place.

    Raises `WireError` for a header or length that exceeds *data*, and for bad contents of a known option.
    """
    reader = Reader(data, "DHCPv6 options")
    options: list[_Option_co | OtherOption] = []
    while reader.remaining:
        code, length = reader.pull(_HEADER)
        content = reader.pull_bytes(length)
        option = known.get(code)
        options.append(option.parse(content) if option else OtherOption(code, content))
    return tuple(options)


def build_options(options: Iterable[Dhcpv6Option]) -> bytes:
    """Write *options* one after the other."""
    return b"".join(_build_option(option) for option in options)


def require_known(options: tuple[Dhcpv6Option, ...], known: Mapping[int, object]) -> None:
    """Raise `ValueError` for an option that would be parsed as another class at this place."""
    for option in options:
        if isinstance(option, OtherOption) == (_code(option) in known):
            raise ValueError(f"DHCPv6 option {_code(option)} in the wrong place")


def _build_option(option: Dhcpv6Option) -> bytes:
    data = option.build()
    return _HEADER.pack(_code(option), len(data)) + data


def _code(option: Dhcpv6Option) -> int:
    return option.code if isinstance(option, OtherOption) else option.CODE
