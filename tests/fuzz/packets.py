"""Frames of a fuzzed guest: as in tests/support/frames.py, but addresses are packed and checksums quick."""

from __future__ import annotations

import struct
from ipaddress import ip_address

from tests.support.frames import OUR_MAC

TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
IP4_HLEN, IP6_HLEN, ETH_HLEN = 20, 40, 14
NEXT_FRAGMENT = 44

MACS = tuple(bytes.fromhex(mac) for mac in ("020000000001", "020000000002", "ffffffffffff"))
GUESTS = {
    4: tuple(ip_address(a).packed for a in ("192.0.2.2", "192.0.2.3", "127.0.0.1", "0.0.0.0")),
    6: tuple(ip_address(a).packed for a in ("2001:db8::2", "fe80::2", "::1", "::")),
}
REMOTES = {
    4: tuple(ip_address(a).packed for a in (
        "198.51.100.7", "198.51.100.8", "192.0.2.1", "127.0.0.1", "224.0.0.251", "255.255.255.255",
        "0.0.0.0", "192.0.2.255")),
    6: tuple(ip_address(a).packed for a in (
        "2001:db8:1::7", "2001:db8:1::8", "fe80::1", "::1", "ff02::fb", "ff02::1", "::",
        "::ffff:198.51.100.7")),
}
PATTERN = bytes(range(251)) * 262


def checksum(data: bytes) -> int:
    """Give the Internet checksum (RFC 1071): a sum of 16-bit words is the whole number modulo 65535."""
    number = int.from_bytes(data if len(data) % 2 == 0 else data + b"\0", "big")
    return ~(number % 0xFFFF) & 0xFFFF if number else 0xFFFF


def closed(source: bytes, destination: bytes, protocol: int, message: bytes, at: int) -> bytes:
    """*message* with its checksum at offset *at*."""
    pseudo = source + destination + struct.pack("!II", len(message), protocol)
    if protocol == ICMP:
        pseudo = b""
    value = checksum(pseudo + message)
    return message[:at] + (value or 0xFFFF).to_bytes(2, "big") + message[at + 2 :]


def ip(source: bytes, destination: bytes, protocol: int, payload: bytes, *, ttl: int = 64, tos: int = 0,
       fragment: int = 0x4000, ident: int = 0x1234) -> bytes:
    """Give a packet; *fragment* is IPv4's word of flags and offset."""
    if len(source) == 16:
        start = struct.pack("!IHBB", 0x60000000 | tos << 20, len(payload) & 0xFFFF, protocol, ttl)
        return start + source + destination + payload
    start = struct.pack("!BBHHHBB", 0x45, tos, 20 + len(payload) & 0xFFFF, ident, fragment, ttl, protocol)
    head = start + b"\0\0" + source + destination
    return start + checksum(head).to_bytes(2, "big") + source + destination + payload


def fragment(source: bytes, destination: bytes, protocol: int, payload: bytes, *, offset: int, more: bool,
             ident: int) -> bytes:
    """Give one fragment; *offset* is in units of eight bytes."""
    if len(source) == 4:
        return ip(source, destination, protocol, payload, fragment=offset | more << 13, ident=ident)
    header = struct.pack("!BBHI", protocol, 0, offset << 3 & 0xFFF8 | more, ident)
    return ip(source, destination, NEXT_FRAGMENT, header + payload)


def ethernet(packet: bytes, mac: bytes) -> bytes:
    """Give a frame to us, of the family of the packet."""
    return OUR_MAC + mac + (b"\x86\xdd" if packet[0] >> 4 == 6 else b"\x08\x00") + packet


def tcp(source: bytes, sport: int, destination: bytes, dport: int, *, flags: int, seq: int, ack: int,
        window: int, options: bytes, payload: bytes, urgent: int = 0) -> bytes:
    """Give the message of a segment with its checksum."""
    options += bytes(-len(options) % 4)
    offset = 20 + len(options) >> 2 << 4
    message = struct.pack("!HHIIBBHHH", sport, dport, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, offset, flags,
                          window, 0, urgent)
    return closed(source, destination, TCP, message + options + payload, 16)


def udp(source: bytes, sport: int, destination: bytes, dport: int, payload: bytes) -> bytes:
    """Give the message of a datagram with its checksum."""
    message = struct.pack("!HHHH", sport, dport, 8 + len(payload) & 0xFFFF, 0) + payload
    return closed(source, destination, UDP, message, 6)


def icmp(source: bytes, destination: bytes, kind: int, code: int, word: int,
         payload: bytes) -> tuple[int, bytes]:
    """Give protocol and message of ICMP or ICMPv6; *word* are the four bytes behind the checksum."""
    protocol = ICMP if len(source) == 4 else ICMP6
    message = struct.pack("!BBHI", kind, code, 0, word) + payload
    return protocol, closed(source, destination, protocol, message, 2)
