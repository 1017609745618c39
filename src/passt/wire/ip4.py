"""IPv4 packets of control traffic (RFC 791). Options are skipped, fragments rejected.

::

    0         1     2              4    6                 8     9          10         12       16
    | ver+ihl | tos | total length | id | flags, fragment | ttl | protocol | checksum | source | destination
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

from passt.errors import WireError
from passt.light.values import IntEnum, Value
from passt.wire.checksum import internet_checksum
from passt.wire.cursor import Reader, require_bits, require_len

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from typing import Self

_LAYOUT = struct.Struct("!BBHHHBBH4s4s")
_HEADER_LEN = _LAYOUT.size
_DONT_FRAGMENT = 0x4000
_FRAGMENT_MASK = 0x3fff
"""More-fragments flag and offset: a fragment has at least one of these bits."""
_CHECKSUM_AT = slice(10, 12)


class IpProtocol(IntEnum):
    """IANA protocol numbers, including next headers of IPv6."""

    HOP_BY_HOP = 0
    ICMP = 1
    TCP = 6
    UDP = 17
    ROUTING = 43
    FRAGMENT = 44
    ICMP6 = 58
    NO_NEXT_HEADER = 59
    DESTINATION_OPTIONS = 60


class Ip4Packet(Value):
    """One unfragmented packet without options."""

    source: IPv4Address
    destination: IPv4Address
    protocol: int
    payload: bytes
    ttl: int = 255
    tos: int = 0
    identification: int = 0
    dont_fragment: bool = True

    def __post_init__(self) -> None:
        require_bits("IPv4 protocol", self.protocol, 8)
        require_bits("IPv4 TTL", self.ttl, 8)
        require_bits("IPv4 TOS", self.tos, 8)
        require_bits("IPv4 identification", self.identification, 16)
        require_len("IPv4 payload", self.payload, 0, 0xffff - _HEADER_LEN)

    @classmethod
    def parse(cls, data: bytes | memoryview) -> Self:
        """Read one packet; bytes after its total length are Ethernet padding.

        Raises `WireError` for a bad version, length or header checksum (RFC 1122 3.2.1.2: silently discard)
        and for a fragment, which no control message needs.
        """
        reader = Reader(data, "IPv4")
        first, tos, total_len, ident, flags, ttl, protocol, _, source, destination = reader.pull(_LAYOUT)
        header_len = (first & 0xf) * 4
        if first >> 4 != 4:
            raise WireError(f"IPv4: version {first >> 4}")
        if not _HEADER_LEN <= header_len <= total_len <= len(data):
            raise WireError(f"IPv4: header {header_len}, total {total_len}, present {len(data)} bytes")
        if internet_checksum(bytes(data[:header_len])):
            raise WireError("IPv4: bad header checksum")
        if flags & _FRAGMENT_MASK:
            raise WireError("IPv4: fragment")
        reader.pull_bytes(header_len - _HEADER_LEN)
        payload = reader.pull_bytes(total_len - header_len)
        return cls(IPv4Address(source), IPv4Address(destination), protocol, payload, ttl, tos, ident,
                   bool(flags & _DONT_FRAGMENT))

    def build(self) -> bytes:
        """Write header and payload, with the header checksum."""
        header = bytearray(_LAYOUT.pack(
            0x45, self.tos, _HEADER_LEN + len(self.payload), self.identification,
            _DONT_FRAGMENT if self.dont_fragment else 0, self.ttl, self.protocol, 0,
            self.source.packed, self.destination.packed))
        header[_CHECKSUM_AT] = internet_checksum(bytes(header)).to_bytes(2, "big")
        return bytes(header) + self.payload
