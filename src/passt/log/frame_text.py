"""One line of text for a frame, for --trace.

The contents of a frame are the choice of the guest or a remote: no length in it is trusted, and only numbers
of it are printed. A frame that ends within a header is described up to there.
"""

from __future__ import annotations

import struct
from socket import AF_INET, AF_INET6, inet_ntop

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

ETH_HLEN = 14
_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR")
_GSO = {1: "tcp4", 3: "ufo", 4: "tcp6", 5: "udp"}       # linux/virtio_net.h, VIRTIO_NET_HDR_GSO_*
_PROTOCOLS = {0: "HOPOPT", 2: "IGMP", 41: "IPv6", 47: "GRE", 50: "ESP", 51: "AH", 59: "no next header",
              132: "SCTP"}
_EXTENSIONS = (0, 43, 60)                               # RFC 8200 4: of the same layout
_FRAGMENT = 44
_ICMP = {0: "echo reply", 3: "unreachable", 5: "redirect", 8: "echo request", 11: "time exceeded",
         12: "parameter problem"}
_ICMP6 = {1: "unreachable", 2: "packet too big", 3: "time exceeded", 4: "parameter problem",
          128: "echo request", 129: "echo reply", 133: "router solicitation", 134: "router advertisement",
          135: "neighbour solicitation", 136: "neighbour advertisement", 143: "MLD report"}
_ECHO = (0, 8, 128, 129)
_ARP = {1: "request", 2: "reply"}


class FrameTracer:
    """Hands a line for each frame to *write*; `on_frame` is what `Engine.set_trace` takes."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def on_frame(self, head: bytes, length: int, to_guest: bool, gso_type: int, gso_size: int,
                 flow: int) -> None:
        """Describe a frame of *length* bytes that begins with *head*."""
        direction = "to guest" if to_guest else "from guest"
        gso = f", gso {_GSO.get(gso_type, gso_type)} {gso_size}" if gso_type else ""
        known = f", flow {flow}" if flow >= 0 else ""
        self._write(f"{direction}: {describe(head)}, frame {length}{gso}{known}")


def describe(head: bytes) -> str:
    """Describe the packet in a frame that begins with *head*: protocol, endpoints, flags or length."""
    try:
        (kind,) = struct.unpack_from("!H", head, 12)
        if kind == 0x0800:
            return _ip4(head)
        if kind == 0x86DD:
            return _ip6(head)
        if kind == 0x0806:
            return _arp(head)
    except struct.error:
        return "cut short"
    return f"EtherType 0x{kind:04x}"


def _arp(head: bytes) -> str:
    operation, sender, target = struct.unpack_from("!H6x4s6x4s", head, ETH_HLEN + 6)
    return (f"ARP {_ARP.get(operation, operation)} {inet_ntop(AF_INET, sender)} > "
            f"{inet_ntop(AF_INET, target)}")


def _ip4(head: bytes) -> str:
    first, total, fragment, protocol, source, destination = struct.unpack_from(
        "!BxHxxHxBxx4s4s", head, ETH_HLEN)
    names = (inet_ntop(AF_INET, source), inet_ntop(AF_INET, destination))
    header_len = (first & 15) * 4
    offset = (fragment & 0x1FFF) * 8
    length = max(total - header_len, 0)
    if first >> 4 != 4 or header_len < 20:
        return f"IPv4 {names[0]} > {names[1]} bad header"
    if offset:
        return f"IPv4 {names[0]} > {names[1]} protocol {protocol} fragment at {offset} len {length}"
    text = _layer4(head, ETH_HLEN + header_len, protocol, names, length)
    return f"{text} first fragment" if fragment & 0x2000 else text


def _ip6(head: bytes) -> str:
    length, protocol, source, destination = struct.unpack_from("!4xHBx16s16s", head, ETH_HLEN)
    at = ETH_HLEN + 40
    names = (inet_ntop(AF_INET6, source), inet_ntop(AF_INET6, destination))
    note = ""
    while protocol in _EXTENSIONS or protocol == _FRAGMENT:
        following, n, place = struct.unpack_from("!BBH", head, at)
        step = 8 if protocol == _FRAGMENT else 8 + 8 * n
        if protocol == _FRAGMENT:
            if place & 0xFFF8:
                return (f"IPv6 [{names[0]}] > [{names[1]}] protocol {following} fragment at {place & 0xFFF8}"
                        f" len {max(length - step, 0)}")
            note = " first fragment" if place & 1 else ""
        protocol, at, length = following, at + step, max(length - step, 0)
    return _layer4(head, at, protocol, (f"[{names[0]}]", f"[{names[1]}]"), length) + note


def _layer4(head: bytes, at: int, protocol: int, names: tuple[str, str], length: int) -> str:
    source, destination = names
    try:
        if protocol in (6, 17):
            from_port, to_port = struct.unpack_from("!HH", head, at)
            ends = f"{source}:{from_port} > {destination}:{to_port}"
            return f"TCP {ends} {_tcp(head, at, length)}" if protocol == 6 else (
                f"UDP {ends} len {max(length - 8, 0)}")
        ends = f"{source} > {destination}"
        if protocol == 1:
            return f"ICMP {ends} {_icmp(head, at, _ICMP)} len {length}"
        if protocol == 58:
            return f"ICMPv6 {ends} {_icmp(head, at, _ICMP6)} len {length}"
    except struct.error:
        return f"protocol {protocol} {source} > {destination} cut short"
    return f"{_PROTOCOLS.get(protocol, f'protocol {protocol}')} {ends} len {length}"


def _tcp(head: bytes, at: int, length: int) -> str:
    seq, ack, offset, bits, window = struct.unpack_from("!IIBBH", head, at + 4)
    flags = ",".join(name for bit, name in enumerate(_FLAGS) if bits >> bit & 1) or "none"
    acked = f" ack {ack}" if bits & 16 else ""
    return f"{flags} seq {seq}{acked} win {window} len {max(length - (offset >> 4) * 4, 0)}"


def _icmp(head: bytes, at: int, types: dict[int, str]) -> str:
    kind, code = struct.unpack_from("!BB", head, at)
    name = types.get(kind, f"type {kind}")
    if kind in _ECHO and name.startswith("echo"):
        ident, seq = struct.unpack_from("!HH", head, at + 4)
        return f"{name} id {ident} seq {seq}"
    return f"{name} code {code}" if code else name
