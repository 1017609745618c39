"""Address Resolution Protocol for IPv4 over Ethernet (RFC 826).

::

    0       2          4    5    6    8            14          18           24          28
    | htype | protocol | hl | pl | op | sender MAC | sender IP | target MAC | target IP |
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

from passt.errors import WireError
from passt.light.values import IntEnum, Value
from passt.wire.cursor import Reader, require_mac

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from typing import Self

_LAYOUT = struct.Struct("!HHBBH6s4s6s4s")
_ETHERNET_IP4 = (1, 0x0800, 6, 4)


class ArpOp(IntEnum):
    """Operations (RFC 826)."""

    REQUEST = 1
    REPLY = 2


class ArpPacket(Value):
    """One ARP packet; *target_mac* has no meaning in a request."""

    op: ArpOp
    sender_mac: bytes
    sender_ip: IPv4Address
    target_mac: bytes
    target_ip: IPv4Address

    def __post_init__(self) -> None:
        require_mac("ARP sender", self.sender_mac)
        require_mac("ARP target", self.target_mac)

    @classmethod
    def parse(cls, data: bytes | memoryview) -> Self:
        """Read one packet; trailing bytes are Ethernet padding.

        Raises `WireError` if it is short, not IPv4 over Ethernet, or has an operation outside `ArpOp`.
        """
        *kind, op, sender_mac, sender_ip, target_mac, target_ip = Reader(data, "ARP").pull(_LAYOUT)
        if tuple(kind) != _ETHERNET_IP4:
            raise WireError(f"ARP: not IPv4 over Ethernet: {kind}")
        if op not in ArpOp.__members__.values():
            raise WireError(f"ARP: unknown operation {op}")
        return cls(ArpOp(op), sender_mac, IPv4Address(sender_ip), target_mac, IPv4Address(target_ip))

    def build(self) -> bytes:
        """Write the packet: 28 bytes."""
        return _LAYOUT.pack(*_ETHERNET_IP4, self.op, self.sender_mac, self.sender_ip.packed,
                            self.target_mac, self.target_ip.packed)
