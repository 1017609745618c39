"""Frames built by hand for the tests: plain struct packing, checksums by the letter of RFC 1071."""

import struct
from ipaddress import ip_address

OUR_MAC = bytes.fromhex("9a559a559a55")
GUEST_MAC = bytes.fromhex("020000000001")
TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


def rfc1071(data: bytes) -> int:
    """Give the Internet checksum of *data*, the number that the two octets of the field spell."""
    total = 0
    for at in range(0, len(data), 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packed(address: str) -> bytes:
    """Give an address of either family as octets."""
    return ip_address(address).packed


def ethernet(payload: bytes, *, kind: int | None = None, source: bytes = GUEST_MAC) -> bytes:
    """Give a frame to us; *kind* is taken from the IP version if it is not given."""
    if kind is None:
        kind = 0x86DD if payload[0] >> 4 == 6 else 0x0800
    return OUR_MAC + source + kind.to_bytes(2, "big") + payload


def ip(source: str, destination: str, protocol: int, payload: bytes, *, ttl: int = 64, tos: int = 0) -> bytes:
    """Give a packet of the family of *source*, header checksum complete."""
    if ":" in source:
        return (
            struct.pack("!IHBB", 0x60000000 | tos << 20, len(payload), protocol, ttl)
            + packed(source)
            + packed(destination)
            + payload
        )
    addresses = packed(source) + packed(destination)
    start = struct.pack("!BBHHHBB", 0x45, tos, 20 + len(payload), 0x1234, 0x4000, ttl, protocol)
    return start + rfc1071(start + b"\0\0" + addresses).to_bytes(2, "big") + addresses + payload


def unnumbered(frame: bytes) -> bytes:
    """Give a frame to the guest with identification 0, if its packet may be cut and so has another."""
    if frame[12:14] != b"\x08\x00" or frame[20] & 0x60:
        return frame
    assert rfc1071(frame[14:34]) == 0
    header = frame[14:18] + b"\0\0" + frame[20:24] + b"\0\0" + frame[26:34]
    return frame[:14] + header[:10] + rfc1071(header).to_bytes(2, "big") + header[12:] + frame[34:]


def identification(frame: bytes) -> int:
    """Give that of an IPv4 packet."""
    return int.from_bytes(frame[18:20], "big")


def pseudo_header(source: str, destination: str, protocol: int, length: int) -> bytes:
    """Say what the checksum covers besides the message (RFC 9293 3.1, RFC 8200 8.1)."""
    addresses = packed(source) + packed(destination)
    if ":" in source:
        return addresses + struct.pack("!II", length, protocol)
    return addresses + struct.pack("!HH", protocol, length)


def with_checksum(source: str, destination: str, protocol: int, message: bytes, at: int) -> bytes:
    """*message* with the checksum over pseudo-header and itself at offset *at*, which holds zeroes."""
    value = rfc1071(pseudo_header(source, destination, protocol, len(message)) + message)
    return message[:at] + value.to_bytes(2, "big") + message[at + 2 :]


def udp(
    source: str,
    sport: int,
    destination: str,
    dport: int,
    payload: bytes = b"",
    *,
    ttl: int = 64,
    tos: int = 0,
) -> bytes:
    """Give a frame with a datagram."""
    message = struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload
    message = with_checksum(source, destination, UDP, message, 6)
    return ethernet(ip(source, destination, UDP, message, ttl=ttl, tos=tos))


def tcp(
    source: str,
    sport: int,
    destination: str,
    dport: int,
    *,
    flags: int = SYN,
    seq: int = 1000,
    ack: int = 0,
    window: int = 65535,
    options: bytes = b"",
    payload: bytes = b"",
) -> bytes:
    """Give a frame with a segment; *options* are padded to whole words."""
    options += bytes(-len(options) % 4)
    offset = (20 + len(options)) // 4 << 4
    message = (
        struct.pack("!HHIIBBHHH", sport, dport, seq, ack, offset, flags, window, 0, 0) + options + payload
    )
    return ethernet(ip(source, destination, TCP, with_checksum(source, destination, TCP, message, 16)))


def echo(
    source: str,
    destination: str,
    ident: int,
    seq: int,
    payload: bytes = b"",
    *,
    kind: int | None = None,
    code: int = 0,
) -> bytes:
    """Give a frame with an ICMP or ICMPv6 message of the echo form, by default a request."""
    six = ":" in source
    if kind is None:
        kind = 128 if six else 8
    message = struct.pack("!BBHHH", kind, code, 0, ident, seq) + payload
    if six:
        message = with_checksum(source, destination, ICMP6, message, 2)
    else:
        message = message[:2] + rfc1071(message).to_bytes(2, "big") + message[4:]
    return ethernet(ip(source, destination, ICMP6 if six else ICMP, message))
