"""The position of a reader in a message, and the checks of lengths and numbers.

Every pull checks the length first: one that fails raises `WireError` and moves nothing. Writing needs no
such class: the constructors of all values check what they are given (`require_bits`, `require_len`), so
`build` cannot fail. A value that cannot be written is our own mistake and raises `ValueError`; what a peer
sent wrongly raises `WireError` (`expect_len`).
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from passt.errors import WireError
from passt.facts.address import IP4_LEN, IP6_LEN, MAC_LEN

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from struct import Struct
    from typing import Any


def require_bits(name: str, value: int, bits: int) -> None:
    """Raise `ValueError` unless *value* fits in *bits* bits, unsigned."""
    if value < 0 or value >> bits:
        raise ValueError(f"{name}: {value} does not fit in {bits} bits")


def require_len(name: str, value: bytes, minimum: int, maximum: int) -> None:
    """Raise `ValueError` unless *value* is *minimum* to *maximum* bytes long."""
    if not minimum <= len(value) <= maximum:
        raise ValueError(f"{name}: {len(value)} bytes, must be {minimum} to {maximum}")


def require_mac(name: str, value: bytes) -> None:
    """Raise `ValueError` unless *value* has the length of a MAC-48 address."""
    require_len(name, value, MAC_LEN, MAC_LEN)


def expect_len(name: str, data: bytes, length: int) -> None:
    """Raise `WireError` unless *data* is *length* bytes long; the error calls it *name*."""
    if len(data) != length:
        raise WireError(f"{name}: {len(data)} bytes, must be {length}")


class Reader:
    """Reads *data* from front to back; errors call it *name*."""

    __slots__ = ("_data", "_name", "_offset")

    def __init__(self, data: bytes | memoryview, name: str) -> None:
        self._data = bytes(data)
        self._offset = 0
        self._name = name

    @property
    def offset(self) -> int:
        """Number of bytes read so far."""
        return self._offset

    @property
    def remaining(self) -> int:
        """Number of bytes not read yet."""
        return len(self._data) - self._offset

    def pull_bytes(self, length: int) -> bytes:
        """Read the next *length* bytes."""
        if length > self.remaining:
            raise WireError(f"{self._name}: {length} bytes wanted at offset {self._offset}, "
                            f"{self.remaining} left")
        start = self._offset
        self._offset += length
        return self._data[start:self._offset]

    def pull(self, layout: Struct) -> tuple[Any, ...]:
        """Read the next fields, as *layout* describes them."""
        return layout.unpack(self.pull_bytes(layout.size))

    def pull_u8(self) -> int:
        """Read the next byte."""
        return self.pull_bytes(1)[0]

    def pull_u16(self) -> int:
        """Read the next two bytes in network order."""
        return int.from_bytes(self.pull_bytes(2), "big")

    def pull_u32(self) -> int:
        """Read the next four bytes in network order."""
        return int.from_bytes(self.pull_bytes(4), "big")

    def pull_ip4(self) -> IPv4Address:
        """Read the next four bytes as an IPv4 address."""
        return IPv4Address(self.pull_bytes(IP4_LEN))

    def pull_ip6(self) -> IPv6Address:
        """Read the next sixteen bytes as an IPv6 address."""
        return IPv6Address(self.pull_bytes(IP6_LEN))

    def pull_rest(self) -> bytes:
        """Read all bytes that are left, maybe none."""
        return self.pull_bytes(self.remaining)

    def finish(self) -> None:
        """Raise `WireError` if any byte is left."""
        if self.remaining:
            raise WireError(f"{self._name}: {self.remaining} bytes too many")
