"""IPv6 packets of control traffic (RFC 8200). Fragments are rejected.

::

    0                            4                6             7           8        24            40
    | version, class, flow label | payload length | next header | hop limit | source | destination |
"""

from __future__ import annotations

import struct
from ipaddress import IPv6Address

from passt.errors import WireError
from passt.light.values import Value
from passt.wire.cursor import Reader, require_bits, require_len
from passt.wire.ip4 import IpProtocol

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from typing import Self

_LAYOUT = struct.Struct("!IHBB16s16s")
_VERSION = 6
_EXTENSIONS = frozenset((IpProtocol.HOP_BY_HOP, IpProtocol.ROUTING, IpProtocol.DESTINATION_OPTIONS))


class Ip6Packet(Value):
    """One packet; *payload* starts after the fixed header and includes extension headers."""

    source: IPv6Address
    destination: IPv6Address
    next_header: int
    payload: bytes
    hop_limit: int = 255
    traffic_class: int = 0
    flow_label: int = 0

    def __post_init__(self) -> None:
        require_bits("IPv6 next header", self.next_header, 8)
        require_bits("IPv6 hop limit", self.hop_limit, 8)
        require_bits("IPv6 traffic class", self.traffic_class, 8)
        require_bits("IPv6 flow label", self.flow_label, 20)
        require_len("IPv6 payload", self.payload, 0, 0xffff)
        if self.source.is_multicast:
            raise ValueError("IPv6: source address is multicast")

    @classmethod
    def parse(cls, data: bytes | memoryview) -> Self:
        """Read one packet; bytes after its payload length are Ethernet padding.

        Raises `WireError` for a bad version or length and for a multicast source (RFC 4291 2.7).
        """
        reader = Reader(data, "IPv6")
        first, payload_len, next_header, hop_limit, source, destination = reader.pull(_LAYOUT)
        if first >> 28 != _VERSION:
            raise WireError(f"IPv6: version {first >> 28}")
        if payload_len > reader.remaining:
            raise WireError(f"IPv6: payload {payload_len}, present {reader.remaining} bytes")
        if source[0] == 0xff:
            raise WireError("IPv6: source address is multicast")
        return cls(IPv6Address(source), IPv6Address(destination), next_header, reader.pull_bytes(payload_len),
                   hop_limit, first >> 20 & 0xff, first & 0xfffff)

    def build(self) -> bytes:
        """Write header and payload."""
        first = _VERSION << 28 | self.traffic_class << 20 | self.flow_label
        return _LAYOUT.pack(first, len(self.payload), self.next_header, self.hop_limit,
                            self.source.packed, self.destination.packed) + self.payload

    def upper_layer(self) -> tuple[int, bytes]:
        """Walk the extension headers (RFC 8200 4); return the protocol after them and its data.

        Raises `WireError` for a truncated header and for a fragment, which ND forbids (RFC 6980) and DHCPv6
        does not need. The walk ends because each header takes at least 8 bytes of the payload.
        """
        reader = Reader(self.payload, "IPv6 extension header")
        next_header = self.next_header
        while next_header in _EXTENSIONS:
            next_header = reader.pull_u8()
            reader.pull_bytes(reader.pull_u8() * 8 + 6)
        if next_header == IpProtocol.FRAGMENT:
            raise WireError("IPv6: fragment")
        return next_header, reader.pull_rest()
