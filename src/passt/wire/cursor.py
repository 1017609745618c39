"""A reading and a writing position in a message.

Every pull checks the length first: one that fails raises `WireError` and moves nothing. A push
cannot fail, because the constructors of the messages have checked the values (see `require_bits`
and `require_len`): a value that cannot be written is our mistake and a `ValueError` there.
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


def require_len(name: str, value: bytes, least: int, most: int) -> None:
    """Raise `ValueError` unless *value* is *least* to *most* bytes long."""
    if not least <= len(value) <= most:
        raise ValueError(f"{name}: {len(value)} bytes, must be {least} to {most}")


def require_mac(name: str, value: bytes) -> None:
    """Raise `ValueError` unless *value* has the length of a MAC-48 address."""
    require_len(name, value, MAC_LEN, MAC_LEN)


class Reader:
    """Reads *data* from the front; *what* names the message in errors."""

    __slots__ = ("_data", "_offset", "_what")

    def __init__(self, data: bytes | memoryview, what: str) -> None:
        self._data = bytes(data)
        self._offset = 0
        self._what = what

    @property
    def offset(self) -> int:
        """Bytes read so far."""
        return self._offset

    @property
    def remaining(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._offset

    def pull_bytes(self, length: int) -> bytes:
        """Next *length* bytes."""
        if length > self.remaining:
            raise WireError(f"{self._what}: {length} bytes wanted at offset {self._offset}, "
                            f"{self.remaining} left")
        start = self._offset
        self._offset += length
        return self._data[start:self._offset]

    def pull(self, layout: Struct) -> tuple[Any, ...]:
        """Next fields, as *layout* describes them."""
        return layout.unpack(self.pull_bytes(layout.size))

    def pull_u8(self) -> int:
        """Next byte."""
        return self.pull_bytes(1)[0]

    def pull_u16(self) -> int:
        """Next two bytes, network order."""
        return int.from_bytes(self.pull_bytes(2), "big")

    def pull_u32(self) -> int:
        """Next four bytes, network order."""
        return int.from_bytes(self.pull_bytes(4), "big")

    def pull_ip4(self) -> IPv4Address:
        """Next four bytes, an IPv4 address."""
        return IPv4Address(self.pull_bytes(IP4_LEN))

    def pull_ip6(self) -> IPv6Address:
        """Next sixteen bytes, an IPv6 address."""
        return IPv6Address(self.pull_bytes(IP6_LEN))

    def pull_rest(self) -> bytes:
        """All that is left, maybe nothing."""
        return self.pull_bytes(self.remaining)


class Writer:
    """Collects a message from the front."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = bytearray()

    def __len__(self) -> int:
        return len(self._data)

    def push_bytes(self, data: bytes) -> None:
        """Append *data* as it is."""
        self._data += data

    def push(self, layout: Struct, *values: Any) -> None:
        """Append *values* as *layout* describes them."""
        self._data += layout.pack(*values)

    def push_u16(self, value: int) -> None:
        """Append two bytes, network order."""
        self._data += value.to_bytes(2, "big")

    def push_u32(self, value: int) -> None:
        """Append four bytes, network order."""
        self._data += value.to_bytes(4, "big")

    def push_ip(self, address: IPv4Address | IPv6Address) -> None:
        """Append the packed form of *address*."""
        self._data += address.packed

    def build(self) -> bytes:
        """Return all that was pushed."""
        return bytes(self._data)
