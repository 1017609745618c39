"""UDP datagrams of control traffic (RFC 768, RFC 8200 8.1).

::

    0             2                  4        6          8
    | source port | destination port | length | checksum | payload ...

`parse` does not verify the checksum: a client inside a namespace leaves it to checksum offload, so the field
may hold the sum of the pseudo-header only.
"""

from __future__ import annotations

import struct

from passt.errors import WireError
from passt.light.values import Value
from passt.wire.checksum import internet_checksum, pseudo_header
from passt.wire.cursor import Reader, require_bits, require_len
from passt.wire.ip4 import IpProtocol

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from typing import Self

    from passt.facts.address import IPAddress

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
        """Read one datagram; bytes after its length are ignored. Raises `WireError` for bad lengths."""
        reader = Reader(data, "UDP")
        source_port, destination_port, length, _ = reader.pull(_LAYOUT)
        if not _HEADER_LEN <= length <= len(data):
            raise WireError(f"UDP: length {length}, present {len(data)} bytes")
        return cls(source_port, destination_port, reader.pull_bytes(length - _HEADER_LEN))

    def build(self, source: IPAddress, destination: IPAddress) -> bytes:
        """Write the datagram for a packet from *source* to *destination*, with its checksum."""
        length = _HEADER_LEN + len(self.payload)
        pseudo = pseudo_header(source, destination, IpProtocol.UDP, length)
        header = _LAYOUT.pack(self.source_port, self.destination_port, length, 0)
        # Zero means "no checksum", so a checksum of zero is sent as all ones (RFC 768).
        checksum = internet_checksum(pseudo, header, self.payload) or 0xffff
        return _LAYOUT.pack(self.source_port, self.destination_port, length, checksum) + self.payload
