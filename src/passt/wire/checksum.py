"""The Internet checksum (RFC 1071) and the pseudo-headers that go into it."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from passt.facts.address import IPAddress

_PSEUDO4 = struct.Struct("!4s4sxBH")
_PSEUDO6 = struct.Struct("!16s16sI3xB")


def internet_checksum(*parts: bytes) -> int:
    """Return the 16-bit checksum of *parts*, each padded with a zero byte to an even length.

    The result is 0 for data that contains a valid checksum.
    """
    total = 0
    for part in parts:
        padded = part + b"\0" if len(part) % 2 else part
        total += sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return total ^ 0xffff


def pseudo_header(source: IPAddress, destination: IPAddress, protocol: int, length: int) -> bytes:
    """Make the pseudo-header of a packet of either family; *length* is that of the IP payload.

    IPv4: source, destination, zero, protocol, 16-bit length (RFC 768). IPv6: source, destination, 32-bit
    length, three zeros, next header (RFC 8200 8.1).
    """
    if isinstance(source, IPv4Address):
        return _PSEUDO4.pack(source.packed, destination.packed, protocol, length)
    return _PSEUDO6.pack(source.packed, destination.packed, length, protocol)
