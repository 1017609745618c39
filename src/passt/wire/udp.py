"""UDP datagrams of control traffic (RFC 768, RFC 8200 8.1).

::

    0             2                  4        6          8
    | source port | destination port | length | checksum | payload ...

The checksum is not verified on reading: a client inside a namespace leaves it to the link's
checksum offload, so what arrives may hold the sum of the pseudo-header only.
"""

from __future__ import annotations

import struct

from passt.errors import WireError
from passt.light.values import Value
from passt.wire.checksum import internet_checksum, pseudo_header4, pseudo_header6
from passt.wire.cursor import require_bits, require_len
from passt.wire.ip4 import IpProtocol

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address
    from typing import Self

_LAYOUT = struct.Struct("!HHHH")
_HEADER_LEN = _LAYOUT.size


class UdpDatagram(Value):
    """One datagram."""

    source_port: int
    destination_port: int
    payload: bytes

    def __post_init__(self) -> None:
        require_bits("UDP source port", self.source_port, 16)
        require_bits("UDP destination port", self.destination_port, 16)
        require_len("UDP payload", self.payload, 0, 0xffff - _HEADER_LEN)

    @classmethod
    def parse(cls, data: bytes | memoryview) -> Self:
        """Read one datagram; bytes after its length are ignored. `WireError` for bad lengths."""
        if len(data) < _HEADER_LEN:
            raise WireError(f"UDP: {len(data)} bytes, need {_HEADER_LEN}")
        source_port, destination_port, length, _ = _LAYOUT.unpack_from(data)
        if not _HEADER_LEN <= length <= len(data):
            raise WireError(f"UDP: length {length}, present {len(data)} bytes")
        return cls(source_port, destination_port, bytes(data[_HEADER_LEN:length]))

    def build4(self, source: IPv4Address, destination: IPv4Address) -> bytes:
        """Write the datagram for IPv4, checksum complete."""
        return self._build(pseudo_header4(source, destination, IpProtocol.UDP, self._length))

    def build6(self, source: IPv6Address, destination: IPv6Address) -> bytes:
        """Write the datagram for IPv6, checksum complete."""
        return self._build(pseudo_header6(source, destination, IpProtocol.UDP, self._length))

    @property
    def _length(self) -> int:
        return _HEADER_LEN + len(self.payload)

    def _build(self, pseudo_header: bytes) -> bytes:
        ports_and_length = (self.source_port, self.destination_port, self._length)
        header = _LAYOUT.pack(*ports_and_length, 0)
        # Zero means "no checksum", so a sum of zero is sent as its other representation (RFC 768).
        checksum = internet_checksum(pseudo_header, header, self.payload) or 0xffff
        return _LAYOUT.pack(*ports_and_length, checksum) + self.payload
