"""What somebody within tries to get past rules of egress: `escapes.py ATTEMPT...`, with the library alone.

Prints for each attempt, words joined by commas, that and what came of it: open, or the name of the error.

    tcp,ADDR,PORT                  connects, and waits for an echo
    udp,ADDR,PORT                  the same with a datagram
    ping,ADDR                      an echo request
    say,ADDR,PORT,TEXT             sends a datagram and waits for nothing, as do all below
    pieces,ADDR,PORT,TEXT          the datagram in two fragments: the first has the ports alone
    overlap,ADDR,PORT,OTHER,TEXT   in three: the second says over the first that it goes to port OTHER
    by,ADDR,PORT,VIA,TEXT          goes to VIA, with ADDR as the next station of its source route
    mapped,ADDR,PORT,TEXT          an IPv6 frame to the IPv4-mapped ADDR
    ask,SERVER,NAME,TYPE,WAY       asks for a name, over WAY, udp or tcp: prints the code, and the addresses;
                                   %XX in it is a byte of a label

`escapes.py sink PORT...` prints "ready", and a line ADDR PORT TEXT for each datagram that comes to a port,
ADDR being where it was sent to. It is for the other side, and joins the groups GROUP4 and GROUP6 on `o0`.
"""

from __future__ import annotations

import errno
import ipaddress
import select
import socket
import struct
import sys
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT_S = 120.0
GROUP4, GROUP6 = "239.192.7.7", "ff15::7:7"
OUR_MAC = bytes.fromhex("9a559a559a55")  # of the gateway, as the guest sees it
CODES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 5: "REFUSED"}
TYPES = {"A": 1, "TXT": 16, "AAAA": 28, "HTTPS": 65}
IP_OPTIONS = 4                     # linux/in.h
LSRR = 0x83                        # RFC 791 3.1
FRAGMENT, ROUTING = 44, 43         # RFC 8200 4
MORE = 0x2000                      # RFC 791 3.1


def family_of(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def exchange(kind: int, address: str, port: int) -> str:
    with socket.socket(family_of(address), kind) as sock:
        sock.settimeout(LIMIT_S)
        sock.connect((address, port))
        sock.send(b"hello")
        return "open" if sock.recv(10) == b"hello" else "ended"


def ping(address: str) -> str:
    is_ip6 = ":" in address
    proto = socket.IPPROTO_ICMPV6 if is_ip6 else socket.IPPROTO_ICMP
    with socket.socket(family_of(address), socket.SOCK_DGRAM, proto) as sock:
        sock.settimeout(LIMIT_S)
        sock.connect((address, 0))
        sock.send(struct.pack("!BBHHH", 128 if is_ip6 else 8, 0, 0, 0, 1) + b"hello")
        return "open" if sock.recv(100).endswith(b"hello") else "ended"


def say(address: str, port: str, text: str) -> str:
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as sock:
        sock.sendto(text.encode(), (address, int(port)))
    return "sent"


def own_address(towards: str) -> str:
    with socket.socket(family_of(towards), socket.SOCK_DGRAM) as sock:
        sock.connect((towards, 9))
        return str(sock.getsockname()[0])


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF or 0xFFFF


def datagram(source: str, address: str, port: int, text: str) -> bytes:
    """Write UDP with its checksum."""
    data = text.encode()
    length = 8 + len(data)
    ends = ipaddress.ip_address(source).packed + ipaddress.ip_address(address).packed
    header = struct.pack("!HHHH", 40000, port, length, 0)
    total = checksum(ends + struct.pack("!II", length, socket.IPPROTO_UDP) + header + data)
    return header[:6] + total.to_bytes(2, "big") + data


def send_fragments(address: str, parts: list[tuple[int, bytes]]) -> str:
    """Send *parts*, offsets and data, as fragments of one datagram; the last one ends it."""
    if ":" in address:
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, FRAGMENT) as sock:
            for i, (offset, data) in enumerate(parts):
                field = offset | (i < len(parts) - 1)
                header = struct.pack("!BBHI", socket.IPPROTO_UDP, 0, field, 0x77777777)
                sock.sendto(header + data, (address, 0))
        return "sent"
    ends = socket.inet_aton(own_address(address)) + socket.inet_aton(address)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        for i, (offset, data) in enumerate(parts):
            field = offset // 8 | (MORE if i < len(parts) - 1 else 0)
            header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(data), 0x7777, field, 64,
                                 socket.IPPROTO_UDP, 0)
            sock.sendto(header + ends + data, (address, 0))
    return "sent"


def pieces(address: str, port: str, text: str) -> str:
    whole = datagram(own_address(address), address, int(port), text)
    return send_fragments(address, [(0, whole[:8]), (8, whole[8:])])


def overlap(address: str, port: str, other: str, text: str) -> str:
    text += "." * (-len(text) % 8)
    own = own_address(address)
    first, second = (datagram(own, address, int(each), text) for each in (port, other))
    return send_fragments(address, [(0, first[:8]), (0, second[:8]), (8, second[8:])])


def by(address: str, port: str, via: str, text: str) -> str:
    if ":" not in address:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            # The kernel sends to the first station, and puts the address behind the last one (ip(7)).
            option = struct.pack("!BBB", LSRR, 7, 4) + socket.inet_aton(via)
            sock.setsockopt(socket.IPPROTO_IP, IP_OPTIONS, option + b"\0")
            sock.sendto(text.encode(), (address, int(port)))
        return "sent"
    header = (struct.pack("!BBBBI", socket.IPPROTO_UDP, 2, 0, 1, 0)
              + socket.inet_pton(socket.AF_INET6, address))
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, ROUTING) as sock:
        for end in (address, via):  # the checksum is that of the last station; one who errs takes the first
            sock.sendto(header + datagram(own_address(via), end, int(port), text), (via, 0))
    return "sent"


def mapped(address: str, port: str, text: str) -> str:
    target = f"::ffff:{address}"
    own = own_address("2001:db8:9::9")
    udp = datagram(own, target, int(port), text)
    header = struct.pack("!IHBB", 0x60000000, len(udp), socket.IPPROTO_UDP, 64)
    ends = ipaddress.ip_address(own).packed + ipaddress.ip_address(target).packed
    ifname = next(name for _, name in socket.if_nameindex() if name != "lo")
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((ifname, 0))
        sock.send(OUR_MAC + sock.getsockname()[4] + b"\x86\xdd" + header + ends + udp)
    return "sent"


def skip_name(message: bytes, at: int) -> int:
    while message[at]:
        if message[at] >= 0xC0:
            return at + 2
        at += 1 + message[at]
    return at + 1


def ask(server: str, name: str, kind: str, way: str) -> str:
    labels = [unquote_to_bytes(label) for label in name.split(".")]
    query = (struct.pack("!HHHHHH", 0x7777, 0x100, 1, 0, 0, 0)
             + b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
             + struct.pack("!HH", TYPES[kind], 1))
    with socket.socket(family_of(server), socket.SOCK_STREAM if way == "tcp" else socket.SOCK_DGRAM) as sock:
        sock.settimeout(LIMIT_S)
        sock.connect((server, 53))
        if way == "tcp":
            sock.sendall(len(query).to_bytes(2, "big") + query)
            length = int.from_bytes(sock.recv(2, socket.MSG_WAITALL), "big")
            message = sock.recv(length, socket.MSG_WAITALL)
        else:
            sock.send(query)
            message = sock.recv(65535)
    found = [CODES[message[3] & 15]]
    at = len(query)
    for _ in range(int.from_bytes(message[6:8], "big")):
        at = skip_name(message, at)
        number, _, _, length = struct.unpack_from("!HHIH", message, at)
        at += 10
        if number in {1, 28}:
            found.append(str(ipaddress.ip_address(message[at:at + length])))
        at += length
    return " ".join(found)


def tcp(address: str, port: str) -> str:
    return exchange(socket.SOCK_STREAM, address, int(port))


def udp(address: str, port: str) -> str:
    return exchange(socket.SOCK_DGRAM, address, int(port))


def sink(ports: list[int]) -> None:
    socks: list[socket.socket] = []
    for port in ports:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        sock.setblocking(False)
        sock.bind(("::", port))
        socks.append(sock)
    if any(name == "o0" for _, name in socket.if_nameindex()):
        index = socket.if_nametoindex("o0")
        socks[0].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP,
                            socket.inet_pton(socket.AF_INET6, GROUP6) + struct.pack("@I", index))
        socks[0].setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP,
                            socket.inet_aton(GROUP4) + bytes(4) + struct.pack("@I", index))
    print("ready", flush=True)  # noqa: T201
    while True:
        select.select(socks, [], [])
        lines = []
        # What came before a datagram is there when that is, at another port, too.
        for _ in range(2):
            for sock in socks:
                try:
                    while True:
                        text, ancillary, _, _ = sock.recvmsg(65535, 256)
                        to = ipaddress.IPv6Address(ancillary[0][2][:16])
                        lines.append(f"{to.ipv4_mapped or to} {sock.getsockname()[1]} {text.decode()}")
                except BlockingIOError:
                    continue
        lines.sort(key=lambda line: line.endswith(" end"))
        print("\n".join(lines), flush=True)  # noqa: T201


ATTEMPTS: dict[str, Callable[..., str]] = {
    "tcp": tcp, "udp": udp, "ping": ping, "say": say, "pieces": pieces, "overlap": overlap, "by": by,
    "mapped": mapped, "ask": ask}


def main() -> None:
    if sys.argv[1:2] == ["sink"]:
        sink([int(port) for port in sys.argv[2:]])
    for word in sys.argv[1:]:
        name, *arguments = word.split(",")
        try:
            result = ATTEMPTS[name](*arguments)
        except OSError as error:
            result = errno.errorcode.get(error.errno or 0, type(error).__name__)
        print(word, result, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
