"""One-way transfers: `transfer.py receive PORT...` and `transfer.py send KIND HOST PORTS SIZE SEED [SOURCE]`.

The receiver serves TCP and UDP, IPv4 and IPv6, on each port, and prints a line for each transfer: kind, port,
number of bytes, SHA-256, the peer's address. A stream ends with its end, datagrams with an empty one. The
sender sends to each port of PORTS (FIRST or FIRST-LAST) the bytes that `content` makes of SEED and port.
"""

from __future__ import annotations

import hashlib
import socket
import sys
import threading

LIMIT_S = 60.0
DATAGRAM_LEN = 8192


def content(seed: str, port: int, size: int) -> bytes:
    """Make *size* bytes that no other seed and port has."""
    return hashlib.shake_256(f"{seed} {port}".encode()).digest(size)


def plain(address: str) -> str:
    """Give an address of a dual-stack socket in its usual form."""
    return address.removeprefix("::ffff:").partition("%")[0]


def report(kind: str, port: int, data: bytes, peer: str) -> None:
    """Print the line of one transfer, at once."""
    line = f"{kind} {port} {len(data)} {hashlib.sha256(data).hexdigest()} {plain(peer)}\n"
    sys.stdout.write(line)
    sys.stdout.flush()


def receive_stream(connection: socket.socket, port: int, peer: str) -> None:
    """Read one connection to its end."""
    pieces = []
    with connection:
        connection.settimeout(LIMIT_S)
        while piece := connection.recv(1 << 16):
            pieces.append(piece)
        report("tcp", port, b"".join(pieces), peer)


def serve_streams(listener: socket.socket, port: int) -> None:
    """Take every connection in a thread of its own."""
    while True:
        connection, peer = listener.accept()
        threading.Thread(target=receive_stream, args=(connection, port, peer[0]), daemon=True).start()


def serve_datagrams(sock: socket.socket, port: int) -> None:
    """Collect the datagrams of each peer until an empty one comes."""
    pieces: dict[object, bytes] = {}
    while True:
        data, peer = sock.recvfrom(1 << 16)
        if data:
            pieces[peer] = pieces.get(peer, b"") + data
        else:
            report("udp", port, pieces.pop(peer, b""), peer[0])


def receive(ports: list[int]) -> None:
    """Serve all *ports*, say so, and never end."""
    threads = []
    for port in ports:
        listener = socket.create_server(
            ("::", port), family=socket.AF_INET6, backlog=512, dualstack_ipv6=True
        )
        threads.append(threading.Thread(target=serve_streams, args=(listener, port)))
        datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        datagrams.bind(("::", port))
        threads.append(threading.Thread(target=serve_datagrams, args=(datagrams, port)))
    for thread in threads:
        thread.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()


def send(kind: str, host: str, port: int, data: bytes, source: str | None) -> None:
    """Send *data* to one port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as sock:
        sock.settimeout(LIMIT_S)
        if source is not None:
            sock.bind((source, 0))
        sock.connect(socket.getaddrinfo(host, port)[0][4])   # which takes the zone of an address, too
        if kind == "tcp":
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            sock.recv(1)
            return
        for offset in range(0, len(data), DATAGRAM_LEN):
            sock.send(data[offset : offset + DATAGRAM_LEN])
        sock.send(b"")


def main() -> None:
    """Do what the arguments say."""
    role, *rest = sys.argv[1:]
    if role == "receive":
        receive([int(text) for text in rest])
        return
    kind, host, ports, size, seed, *source = rest
    first, _, last = ports.partition("-")
    for port in range(int(first), int(last or first) + 1):
        send(kind, host, port, content(seed, port, int(size)), source[0] if source else None)


if __name__ == "__main__":
    main()
