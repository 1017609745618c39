"""A reader of pcapng that shares no code with the writer: draft-ietf-opsawg-pcapng 3 and 4."""

from __future__ import annotations

import struct
from typing import NamedTuple

SECTION, INTERFACE, STATISTICS, PACKET = 0x0A0D0D0A, 1, 5, 6
OUTBOUND, INBOUND = 2, 1
COMMENT, FLAGS, DROPS = 1, 2, 4


class Packet(NamedTuple):
    """An Enhanced Packet Block; *length* is that of the frame as it travelled."""

    interface: int
    time_ns: int
    data: bytes
    length: int
    options: dict[int, bytes]

    @property
    def direction(self) -> int:
        """Give INBOUND or OUTBOUND."""
        (flags,) = struct.unpack("=I", self.options[FLAGS])
        return int(flags)

    @property
    def comment(self) -> str:
        """Give the comment, empty if there is none."""
        return self.options.get(COMMENT, b"").decode()

    @property
    def drops(self) -> int:
        """Give how many packets were lost before it."""
        return int.from_bytes(self.options.get(DROPS, b""), "little")


def blocks(data: bytes) -> list[tuple[int, bytes]]:
    """Take *data* apart into kinds and contents; it must be whole."""
    found, at = [], 0
    while at < len(data):
        kind, length = struct.unpack_from("=II", data, at)
        assert length % 4 == 0
        assert 12 <= length <= len(data) - at, "a block is cut"
        assert struct.unpack_from("=I", data, at + length - 4) == (length,)
        found.append((kind, data[at + 8 : at + length - 4]))
        at += length
    return found


def options(data: bytes) -> dict[int, bytes]:
    """Read options up to their end, which must be there."""
    found: dict[int, bytes] = {}
    at = 0
    while True:
        code, length = struct.unpack_from("=HH", data, at)
        if code == 0:
            assert (length, at + 4) == (0, len(data))
            return found
        assert code not in found
        found[code] = data[at + 4 : at + 4 + length]
        at += 4 + length + -length % 4


def packet(content: bytes) -> Packet:
    """Read an Enhanced Packet Block."""
    interface, high, low, captured, length = struct.unpack_from("=5I", content)
    assert captured <= length
    end = 20 + captured + -captured % 4
    assert not any(content[20 + captured : end]), "padding is zero"
    return Packet(interface, high << 32 | low, content[20 : 20 + captured], length, options(content[end:]))


def packets(data: bytes) -> list[Packet]:
    """Give all packets of a capture."""
    return [packet(content) for kind, content in blocks(data) if kind == PACKET]
