"""Lines for frames: every kind, every truncation, and nothing of a frame but numbers."""

from __future__ import annotations

import random
import struct

import pytest

from passt.log.frame_text import FrameTracer, describe
from tests.support.frames import ACK, ICMP, ICMP6, PSH, SYN, ethernet, ip, packed, tcp, udp

G4, R4, G6, R6 = "192.0.2.2", "198.51.100.7", "2001:db8::2", "2001:db8:1::7"
ARP = ethernet(struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, 1, bytes(6), packed(G4), bytes(6), packed(R4)),
               kind=0x0806)


@pytest.mark.parametrize(("frame", "line"), [
    (tcp(G4, 4000, R4, 80, flags=SYN, seq=99), f"TCP {G4}:4000 > {R4}:80 SYN seq 99 win "),
    (tcp(G4, 4000, R4, 80, flags=PSH | ACK, seq=1, ack=0xFFFFFFFF, payload=b"x" * 7),
     f"TCP {G4}:4000 > {R4}:80 PSH,ACK seq 1 ack 4294967295 win "),
    (tcp(G6, 4000, R6, 80, flags=0, seq=1), f"TCP [{G6}]:4000 > [{R6}]:80 none seq 1 win "),
    (udp(G4, 1, R4, 65535, b"hello"), f"UDP {G4}:1 > {R4}:65535 len 5"),
    (udp(G6, 1, R6, 53, b""), f"UDP [{G6}]:1 > [{R6}]:53 len 0"),
    (ethernet(ip(G4, R4, ICMP, bytes([8, 0, 0, 0, 1, 2, 0, 9]))),
     f"ICMP {G4} > {R4} echo request id 258 seq 9 len 8"),
    (ethernet(ip(G4, R4, ICMP, bytes([3, 4, 0, 0, 0, 0, 0, 0]))),
     f"ICMP {G4} > {R4} unreachable code 4 len 8"),
    (ethernet(ip(G6, R6, ICMP6, bytes([129, 0, 0, 0, 0, 1, 0, 2]))),
     f"ICMPv6 [{G6}] > [{R6}] echo reply id 1 seq 2 len 8"),
    (ethernet(ip(G6, R6, ICMP6, bytes([135, 0, 0, 0]))),
     f"ICMPv6 [{G6}] > [{R6}] neighbour solicitation len 4"),
    (ethernet(ip(G6, R6, ICMP6, bytes([200, 3, 0, 0]))), f"ICMPv6 [{G6}] > [{R6}] type 200 code 3 len 4"),
    (ethernet(ip(G4, R4, 132, bytes(12))), f"SCTP {G4} > {R4} len 12"),
    (ethernet(ip(G4, R4, 200, bytes(12))), f"protocol 200 {G4} > {R4} len 12"),
    (ARP, f"ARP request {G4} > {R4}"),
    (ethernet(bytes(46), kind=0x88CC), "EtherType 0x88cc"),
    (ethernet(b"\x45" + bytes(9), kind=0x800), "cut short"),
    (ethernet(b"\x43" + bytes(40), kind=0x800), "IPv4 0.0.0.0 > 0.0.0.0 bad header"),
    (ethernet(ip(G4, R4, 6, bytes(8))), f"protocol 6 {G4} > {R4} cut short"),
])
def test_line_tells_what_the_frame_is(frame: bytes, line: str) -> None:
    assert describe(frame).startswith(line)


def test_fragments_are_told() -> None:
    whole = bytearray(udp(G4, 1, R4, 2, bytes(64)))
    whole[20:22] = (0x2000).to_bytes(2, "big")
    assert describe(bytes(whole)) == f"UDP {G4}:1 > {R4}:2 len 64 first fragment"
    whole[20:22] = (0x2000 | 185).to_bytes(2, "big")
    assert describe(bytes(whole)) == f"IPv4 {G4} > {R4} protocol 17 fragment at 1480 len 72"
    header = struct.pack("!BBHI", 17, 0, 0x5A8 | 1, 7)
    assert (describe(ethernet(ip(G6, R6, 44, header + bytes(100))))
            == f"IPv6 [{G6}] > [{R6}] protocol 17 fragment at 1448 len 100")
    header = struct.pack("!BBHI", 17, 0, 1, 7)
    ports = struct.pack("!HHHH", 5, 6, 100, 0)
    assert (describe(ethernet(ip(G6, R6, 44, header + ports + bytes(92))))
            == f"UDP [{G6}]:5 > [{R6}]:6 len 92 first fragment")


def test_extension_headers_are_walked() -> None:
    chain = bytes([60, 0, *bytes(6)]) + bytes([17, 1, *bytes(14)]) + struct.pack("!HHHH", 5, 6, 8, 0)
    assert describe(ethernet(ip(G6, R6, 0, chain))) == f"UDP [{G6}]:5 > [{R6}]:6 len 0"


def test_direction_segmentation_and_flow_frame_the_line() -> None:
    lines: list[str] = []
    tracer = FrameTracer(lines.append)
    tracer.on_frame(ARP, 60, False, 0, 0, -1)
    tracer.on_frame(ARP, 65000, True, 1, 1448, 12)
    tracer.on_frame(ARP, 65000, True, 77, 9, 0)
    assert lines == [f"from guest: ARP request {G4} > {R4}, frame 60",
                     f"to guest: ARP request {G4} > {R4}, frame 65000, gso tcp4 1448, flow 12",
                     f"to guest: ARP request {G4} > {R4}, frame 65000, gso 77 9, flow 0"]


@pytest.mark.parametrize(
    "frame", [ARP, tcp(G4, 1, R4, 2), udp(G6, 1, R6, 2), ethernet(ip(G6, R6, 0, bytes(64)))])
def test_every_truncation_and_every_noise_gives_a_line(frame: bytes) -> None:
    dice = random.Random(1)  # noqa: S311 - has to be the same each time
    for end in range(len(frame)):
        assert describe(frame[:end]).isprintable()
    for _ in range(500):
        spoiled = bytearray(frame)
        for _ in range(dice.randrange(1, 6)):
            spoiled[dice.randrange(12, len(frame))] = dice.randrange(256)
        line = describe(bytes(spoiled))
        assert line.isascii()
        assert line.isprintable()
