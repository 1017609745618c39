"""ICMPv6 messages (RFC 4443): type, code, checksum over the pseudo-header, body.

::

    0      1      2          4
    | type | code | checksum | body ...
"""

from __future__ import annotations

import struct

from passt.errors import WireError
from passt.light.values import IntEnum, Value
from passt.wire.checksum import internet_checksum, pseudo_header
from passt.wire.cursor import Reader, require_bits, require_len
from passt.wire.ip4 import IpProtocol

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from ipaddress import IPv6Address
    from typing import Self

_LAYOUT = struct.Struct("!BBH")
_HEADER_LEN = _LAYOUT.size


class Icmp6Type(IntEnum):
    """Types used by the control plane (RFC 4443, RFC 4861)."""

    ECHO_REQUEST = 128
    ECHO_REPLY = 129
    ROUTER_SOLICITATION = 133
    ROUTER_ADVERTISEMENT = 134
    NEIGHBOUR_SOLICITATION = 135
    NEIGHBOUR_ADVERTISEMENT = 136
    REDIRECT = 137


class Icmp6Message(Value):
    """One message; *kind* is an `Icmp6Type` or any other 8-bit number."""

    kind: int
    code: int
    body: bytes

    def __post_init__(self) -> None:
        require_bits("ICMPv6 type", self.kind, 8)
        require_bits("ICMPv6 code", self.code, 8)
        require_len("ICMPv6 body", self.body, 0, 0xffff - _HEADER_LEN)

    @classmethod
    def parse(cls, data: bytes | memoryview, source: IPv6Address, destination: IPv6Address) -> Self:
        """Read the message in a packet from *source* to *destination*; all of *data* belongs to it.

        Raises `WireError` if it is short or has a bad checksum (RFC 4443 2.3; RFC 4861 6.1 and 7.1 demand the
        check for ND; links do not offload this checksum).
        """
        reader = Reader(data, "ICMPv6")
        kind, code, _ = reader.pull(_LAYOUT)
        if internet_checksum(pseudo_header(source, destination, IpProtocol.ICMP6, len(data)), bytes(data)):
            raise WireError("ICMPv6: bad checksum")
        return cls(kind, code, reader.pull_rest())

    def build(self, source: IPv6Address, destination: IPv6Address) -> bytes:
        """Write the message for a packet from *source* to *destination*, with its checksum."""
        pseudo = pseudo_header(source, destination, IpProtocol.ICMP6, _HEADER_LEN + len(self.body))
        header = _LAYOUT.pack(self.kind, self.code, 0)
        checksum = internet_checksum(pseudo, header, self.body)
        return _LAYOUT.pack(self.kind, self.code, checksum) + self.body
