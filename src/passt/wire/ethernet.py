"""Ethernet II frames without FCS.

::

    0               6             12     14
    | destination   | source      | type | payload ...

Short frames are padded to 60 bytes; only the layer above knows the real length of the payload.
"""

from __future__ import annotations

import struct

from passt.light.values import IntEnum, Value
from passt.wire.cursor import Reader, require_bits, require_mac

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from typing import Self

_LAYOUT = struct.Struct("!6s6sH")
MIN_FRAME_LEN = 60
"""Minimum length without FCS (IEEE 802.3 4.4.2: 64 bytes with it)."""


class EtherType(IntEnum):
    """Payload types used here; a frame may carry any 16-bit value."""

    IP4 = 0x0800
    ARP = 0x0806
    IP6 = 0x86dd


class EthernetFrame(Value):
    """One frame; *ether_type* is an `EtherType` or any other 16-bit number."""

    destination: bytes
    source: bytes
    ether_type: int
    payload: bytes

    def __post_init__(self) -> None:
        require_mac("Ethernet destination", self.destination)
        require_mac("Ethernet source", self.source)
        require_bits("EtherType", self.ether_type, 16)

    @classmethod
    def parse(cls, data: bytes | memoryview) -> Self:
        """Read one frame. Raises `WireError` if it is shorter than the header."""
        reader = Reader(data, "Ethernet")
        destination, source, ether_type = reader.pull(_LAYOUT)
        return cls(destination, source, ether_type, reader.pull_rest())

    def build(self) -> bytes:
        """Write the frame without padding (see `pad`)."""
        return _LAYOUT.pack(self.destination, self.source, self.ether_type) + self.payload


def pad(frame: bytes) -> bytes:
    """Append zeros up to the minimum length of an Ethernet frame."""
    return frame.ljust(MIN_FRAME_LEN, b"\0")
