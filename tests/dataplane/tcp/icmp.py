"""ICMP errors as a guest's TCP reads them: which connection, which number, why."""

from __future__ import annotations

import struct
from typing import NamedTuple

from tests.dataplane.tcp.segment import checksum

ETH, IP4, IP6, ICMP = 14, 20, 40, 8
TCP, ICMP4, ICMP6 = 6, 1, 58


class IcmpError(NamedTuple):
    """A message and what it quotes."""

    kind: int
    code: int
    source: bytes
    destination: bytes
    quoted_source: bytes
    quoted_destination: bytes
    quoted_protocol: int
    sport: int
    dport: int
    seq: int


def is_icmp(frame: bytes) -> bool:
    """Whether a frame is ICMP or ICMPv6."""
    four = frame[12:14] == b"\x08\x00"
    return frame[ETH + 9] == ICMP4 if four else frame[ETH + 6] == ICMP6


def read_icmp(frame: bytes) -> IcmpError:
    """Take an error apart; lengths and sums have to be right."""
    if frame[12:14] == b"\x08\x00":
        (length,) = struct.unpack_from("!H", frame, ETH + 2)
        packet = frame[ETH : ETH + length]
        source, destination, body = packet[12:16], packet[16:20], packet[IP4:]
        assert checksum(body) == 0
        inner = body[ICMP:]
        quoted, protocol, rest = (inner[12:16], inner[16:20]), inner[9], inner[IP4:]
    else:
        (length,) = struct.unpack_from("!H", frame, ETH + 4)
        packet = frame[ETH : ETH + IP6 + length]
        source, destination, body = packet[8:24], packet[24:40], packet[IP6:]
        pseudo = source + destination + struct.pack("!IxxxB", length, ICMP6)
        assert checksum(pseudo + body) == 0
        inner = body[ICMP:]
        quoted, protocol, rest = (inner[8:24], inner[24:40]), inner[6], inner[IP6:]
    assert len(rest) >= 8, "too little of the packet is quoted"
    return IcmpError(
        body[0], body[1], source, destination, *quoted, protocol, *struct.unpack_from("!HHI", rest)
    )
