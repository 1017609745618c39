"""TCP segments: to and from frames, to and from a line of text.

The text form is flags, then fields: `SA seq=0 ack=1 win=65535 mss=1460 ws=7`, `PA seq=1 ack=1 len=100`.
Flags are letters of `SFRPAUEC`, `.` is none. `win` is the field as it is on the wire.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.dataplane.probes.tcp_probe import Sent

FLAGS = {"F": 1, "S": 2, "R": 4, "P": 8, "A": 16, "U": 32, "E": 64, "C": 128}
ORDER = "SFRPAUEC"
FIN, SYN, RST, PSH, ACK = (FLAGS[letter] for letter in "FSRPA")
TCP = 6
OUR_MAC = bytes.fromhex("9a559a559a55")
GUEST_MAC = bytes.fromhex("020000000001")
MASK = 0xFFFFFFFF

# Both directions carry recognisable bytes whose period (a prime) is no multiple of any segment size.
PERIOD = 1048573
BLOCKS = {side: Random(side).randbytes(PERIOD) for side in ("guest", "host")}  # noqa: S311


def stream(side: str, start: int, n: int) -> bytes:
    """Bytes *start* to *start* + *n* of what that side ("guest" or "host") sends in every test."""
    block = BLOCKS[side]
    start %= PERIOD
    out = block[start : start + n]
    while len(out) < n:
        out += block[: n - len(out)]
    return out


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment; *options* by the names mss, ws, sack_ok, sack, ts. *gso_size* 0: sent as it is."""

    flags: int
    seq: int = 0
    ack: int = 0
    win: int = 65535
    payload: bytes = b""
    options: dict[str, tuple[int, ...]] = field(default_factory=dict)
    source: bytes = b""
    destination: bytes = b""
    sport: int = 0
    dport: int = 0
    gso_size: int = 0
    station: bytes = b""             # MAC to which it went

    @property
    def letters(self) -> str:
        """The flags as text."""
        return "".join(letter for letter in ORDER if self.flags & FLAGS[letter]) or "."

    @property
    def span(self) -> int:
        """Sequence numbers that the segment takes."""
        return len(self.payload) + bool(self.flags & SYN) + bool(self.flags & FIN)

    def text(self) -> str:
        """Write the line that `read_text` reads."""
        words = [self.letters, f"seq={self.seq}"]
        if self.flags & ACK:
            words.append(f"ack={self.ack}")
        words.append(f"win={self.win}")
        if self.payload:
            words.append(f"len={len(self.payload)}")
        for key, values in self.options.items():
            words.append(key if not values else f"{key}={','.join(map(str, values))}")
        return " ".join(words)

    def moved(self, seq: int, ack: int) -> Segment:
        """Shift the numbers by *seq* and *ack*; those that mean nothing stay."""
        options = dict(self.options)
        if "sack" in options:
            options["sack"] = tuple((edge + ack) & MASK for edge in options["sack"])
        return replace(
            self, seq=(self.seq + seq) & MASK, ack=(self.ack + ack) & MASK if self.flags & ACK else self.ack,
            options=options,
        )


OPTION_WORDS = {"mss", "ws", "sack_ok", "sack", "ts"}
NUMBER_WORDS = {"seq", "ack", "win", "len"}


def read_text(text: str) -> tuple[int, dict[str, int], dict[str, tuple[int, ...]]]:
    """Read flags, the fields given (seq, ack, win, len) and the options of a line of text."""
    letters, *words = text.split()
    flags = 0
    for letter in letters.replace(".", ""):
        flags |= FLAGS[letter]
    fields: dict[str, int] = {}
    options: dict[str, tuple[int, ...]] = {}
    for word in words:
        key, _, value = word.partition("=")
        if key in NUMBER_WORDS:
            fields[key] = int(value)
        elif key in OPTION_WORDS:
            options[key] = tuple(int(part) for part in value.split(",") if part)
        else:
            raise ValueError(f"no such field: {word}")
    return flags, fields, options


def checksum(data: bytes) -> int:
    """RFC 1071: the ones' complement of the ones' complement sum."""
    total = int.from_bytes(data + bytes(len(data) % 2), "big") % 0xFFFF
    # Modulo 65535 zero and 65535 are one; a sum of something is never the zero of them.
    return 0xFFFF - (total or (0xFFFF if any(data) else 0))


def pseudo_header(source: bytes, destination: bytes, length: int) -> bytes:
    """RFC 9293 3.1, RFC 8200 8.1."""
    if len(source) == 4:
        return source + destination + struct.pack("!HH", TCP, length)
    return source + destination + struct.pack("!II", length, TCP)


def pack_options(options: dict[str, tuple[int, ...]]) -> bytes:
    """Build the options field, padded with NOPs at its start."""
    out = b""
    for key, values in options.items():
        if key == "mss":
            out += struct.pack("!BBH", 2, 4, *values)
        elif key == "ws":
            out += struct.pack("!BBB", 3, 3, *values)
        elif key == "sack_ok":
            out += struct.pack("!BB", 4, 2)
        elif key == "sack":
            out += struct.pack(f"!BB{len(values)}I", 5, 2 + 4 * len(values), *values)
        else:
            out += struct.pack("!BBII", 8, 10, *values)
    return b"\1" * (-len(out) % 4) + out


def read_options(data: bytes) -> dict[str, tuple[int, ...]]:
    """Read an options field; what is malformed is an error of the sender."""
    found: dict[str, tuple[int, ...]] = {}
    names = {2: ("mss", "!H"), 3: ("ws", "!B"), 4: ("sack_ok", "!"), 8: ("ts", "!II")}
    while data and data[0]:
        if data[0] == 1:
            data = data[1:]
            continue
        kind, length = data[0], data[1]
        assert 2 <= length <= len(data), "malformed option"
        body = data[2:length]
        if kind == 5:
            found["sack"] = struct.unpack(f"!{len(body) // 4}I", body)
        else:
            key, layout = names[kind]
            found[key] = struct.unpack(layout, body)
        data = data[length:]
    return found


def build(segment: Segment) -> bytes:
    """Build the frame that the guest sends."""
    options = pack_options(segment.options)
    header = struct.pack(
        "!HHIIBBHHH", segment.sport, segment.dport, segment.seq, segment.ack, (20 + len(options)) // 4 << 4,
        segment.flags, segment.win, 0, 0,
    )
    l4 = header + options + segment.payload
    value = checksum(pseudo_header(segment.source, segment.destination, len(l4)) + l4)
    l4 = l4[:16] + value.to_bytes(2, "big") + l4[18:]
    if len(segment.source) == 16:
        start = struct.pack("!IHBB", 0x60000000, len(l4), TCP, 64)
        return OUR_MAC + GUEST_MAC + b"\x86\xdd" + start + segment.source + segment.destination + l4
    start = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(l4), 1, 0x4000, 64, TCP, 0)
    value = checksum(start + segment.source + segment.destination)
    start = start[:10] + value.to_bytes(2, "big")
    return OUR_MAC + GUEST_MAC + b"\x08\x00" + start + segment.source + segment.destination + l4


def read(sent: Sent) -> Segment:
    """Read a frame to the guest and hold each length, checksum and offload field to its rule."""
    frame = sent.frame
    assert len(frame) >= 60, "shorter than Ethernet allows"
    if frame[12:14] == b"\x08\x00":
        length = int.from_bytes(frame[16:18], "big")
        packet, ip_len = frame[14 : 14 + length], 20
        source, destination = packet[12:16], packet[16:20]
        assert packet[0] == 0x45
        assert not checksum(packet[:20]), "IP header checksum"
    else:
        assert frame[12:14] == b"\x86\xdd"
        length = 40 + int.from_bytes(frame[18:20], "big")
        packet, ip_len = frame[14 : 14 + length], 40
        source, destination = packet[8:24], packet[24:40]
    assert len(packet) == length, "the frame is shorter than the packet in it"
    assert not any(frame[14 + length :]), "padding that is not zero"
    l4 = packet[ip_len:]
    sport, dport, seq, ack, offset, flags, win, _, _ = struct.unpack("!HHIIBBHHH", l4[:20])
    start = offset >> 4 << 2
    check_offloads(sent, l4, pseudo_header(source, destination, len(l4)), start)
    return Segment(flags, seq, ack, win, l4[start:], read_options(l4[20:start]), source, destination, sport,
                   dport, sent.gso_size, frame[:6])


def check_offloads(sent: Sent, l4: bytes, pseudo: bytes, start: int) -> None:
    """Check the checksum, or what is there of it and where the rest goes; a cut names its size."""
    if sent.csum_start:
        assert sent.csum_start == len(sent.frame) - len(l4) or len(sent.frame) == 60
        assert sent.csum_offset == 16
        assert sent.hdr_len == sent.csum_start + start
        assert int.from_bytes(l4[16:18], "big") == 0xFFFF - checksum(pseudo), "pseudo-header sum"
    else:
        assert not checksum(pseudo + l4), "TCP checksum"
        assert not sent.gso_size
