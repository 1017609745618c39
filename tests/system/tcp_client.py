"""The clients of the TCP tests: `tcp_client.py CHECK HOST BASE [ARGUMENT...]` prints what it saw as JSON.

The ports are those of `servers.py`, from BASE on. A failure is an exception, shown on stderr.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from typing import TYPE_CHECKING

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system import servers
else:
    import servers

LIMIT_S = 280.0
BLOCK_LEN = 1 << 18
# What is read before a pause.
FIRST_LEN = 1 << 20
TICK_S = 0.1
REUSE_S = 5.0


def connect(host: str, port: int, source_port: int = 0) -> socket.socket:
    """Connect, from a certain port if one is given; it may be used for some moments by the one before."""
    limit = time.monotonic() + REUSE_S
    while True:
        try:
            return connect_once(host, port, source_port)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL or time.monotonic() > limit:
                raise


def connect_once(host: str, port: int, source_port: int) -> socket.socket:
    """Connect; with the congestion control that the environment names."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family)
    sock.settimeout(LIMIT_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if "CONGESTION" in os.environ:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, os.environ["CONGESTION"].encode())
    if source_port:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", source_port))
    sock.connect((host, port))
    return sock


def set_reset(sock: socket.socket) -> None:
    """Have the socket end by a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def read_line(sock: socket.socket) -> bytes:
    """Read up to the end of a line, and no further."""
    line = b""
    while not line.endswith(b"\n"):
        data = sock.recv(1)
        if not data:
            raise SystemExit(f"end of stream after {line!r}")
        line += data
    return line


def read_exactly(sock: socket.socket, size: int) -> bytes:
    """Read *size* bytes."""
    pieces = []
    while size:
        data = sock.recv(min(size, BLOCK_LEN))
        if not data:
            raise SystemExit(f"end of stream, {size} bytes short")
        pieces.append(data)
        size -= len(data)
    return b"".join(pieces)


def fetch(host: str, base: int, size: str, pause_s: str = "0", source_port: str = "0") -> object:
    """Fetch a file, with a pause after its beginning."""
    start = time.monotonic()
    digest = hashlib.sha256()
    with connect(host, base + servers.HTTP, int(source_port)) as sock:
        sock.sendall(b"GET /%d HTTP/1.0\r\n\r\n" % int(size))
        while read_line(sock).strip():
            continue
        digest.update(read_exactly(sock, min(FIRST_LEN, int(size))))
        time.sleep(float(pause_s))
        while data := sock.recv(BLOCK_LEN):
            digest.update(data)
    return {"sha256": digest.hexdigest(), "seconds": time.monotonic() - start}


def send(host: str, base: int, size: str, pause_s: str = "0") -> object:
    """Send a file to a server that pauses after its beginning."""
    start = time.monotonic()
    with connect(host, base + servers.PAUSE) as sock:
        sock.sendall(b"%s\n" % pause_s.encode())
        for piece in servers.stream(int(size)):
            sock.sendall(piece)
        sock.shutdown(socket.SHUT_WR)
        count, sha256 = read_line(sock).decode().split()
    return {"count": int(count), "sha256": sha256, "seconds": time.monotonic() - start}


def echo(host: str, base: int, count: str, pause_ms: str = "5") -> object:
    """Type: small writes, each of which is echoed before the next one; milliseconds that they took."""
    took = []
    with connect(host, base + servers.ECHO) as sock:
        for number in range(int(count)):
            data = os.urandom(1 + number % 40)
            start = time.monotonic()
            sock.sendall(data)
            if read_exactly(sock, len(data)) != data:
                raise SystemExit("the echo is not what was sent")
            took.append(1000 * (time.monotonic() - start))
            time.sleep(float(pause_ms) / 1000)
    took.sort()
    return {"p50": took[len(took) // 2], "p99": took[len(took) * 99 // 100], "max": took[-1]}


def type_ahead(host: str, base: int, count: str) -> object:
    """Write on without waiting for the echoes; all must come, in order."""
    data = os.urandom(int(count))
    with connect(host, base + servers.ECHO) as sock:
        for byte in data:
            sock.sendall(bytes([byte]))
            time.sleep(0.0005)
        found = read_exactly(sock, len(data))
    return {"equal": found == data}


def trickle_in(host: str, base: int, seconds: str) -> object:
    """End our half first; the server goes on, a byte at a time."""
    with connect(host, base + servers.TRICKLE) as sock:
        sock.sendall(b"%s\n" % seconds.encode())
        sock.shutdown(socket.SHUT_WR)
        found = b""
        while data := sock.recv(100):
            found += data
    return {"count": len(found)}


def trickle_out(host: str, base: int, seconds: str) -> object:
    """Have the server end its half first; go on, a byte at a time, up to a token's and those of the ticks."""
    token = os.urandom(16)
    ticks = int(float(seconds) / TICK_S)
    with connect(host, base + servers.SPEAK) as sock:
        count = 0
        while data := sock.recv(BLOCK_LEN):
            count += len(data)
        sock.sendall(token)
        for _ in range(ticks):
            sock.sendall(b"x")
            time.sleep(TICK_S)
    return {"count": count, "token": token.hex(), "sent": ticks}


def listen_reset(host: str, base: int) -> object:
    """Send something, then a reset."""
    token = os.urandom(16)
    with connect(host, base + servers.LISTEN) as sock:
        sock.sendall(token)
        time.sleep(0.2)
        set_reset(sock)
    return {"token": token.hex()}


def reuse(host: str, base: int, count: str, size: str, source_port: str) -> object:
    """Connect from the same port again and again, and fetch each time; the slowest one's seconds."""
    took = []
    for _ in range(int(count)):
        start = time.monotonic()
        fetch(host, base, size, "0", source_port)
        took.append(time.monotonic() - start)
    return {"slowest": max(took), "took": took}


def reuse_reset(host: str, base: int, count: str, source_port: str) -> object:
    """Connect from the same port again and again, and end by a reset."""
    slowest = 0.0
    for _ in range(int(count)):
        start = time.monotonic()
        with connect(host, base + servers.ECHO, int(source_port)) as sock:
            sock.sendall(b"x")
            read_exactly(sock, 1)
            slowest = max(slowest, time.monotonic() - start)
            set_reset(sock)
    return {"slowest": slowest}


def keep_alive(host: str, base: int, idle_s: str) -> object:
    """Stay silent with probes every second, from both ends; then speak."""
    with connect(host, base + servers.ALIVE) as sock:
        servers.set_keep_alive(sock)
        time.sleep(float(idle_s))
        sock.sendall(b"still here")
        return {"equal": read_exactly(sock, 10) == b"still here"}


def urgent(host: str, base: int, count: str) -> object:
    """Send urgent bytes among others; the server sends as many back. All arrive in their places."""
    wanted = bytes(number % 251 for number in range(100 * int(count)))
    with connect(host, base + servers.URGENT) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        sock.sendall(b"%d\n" % int(count))
        for start in range(0, len(wanted), 100):
            sock.sendall(wanted[start : start + 50])
            sock.send(wanted[start + 50 : start + 51], socket.MSG_OOB)
            sock.sendall(wanted[start + 51 : start + 100])
            time.sleep(0.002)
        sock.shutdown(socket.SHUT_WR)
        found = b""
        while data := sock.recv(BLOCK_LEN):
            found += data
    return {"equal": found == wanted, "count": len(found)}


def half_open(host: str, base: int, count: str, port: str, seconds: str) -> object:
    """Start *count* connections to a port that does not answer, and have echoes beside them."""
    socks = []
    for _ in range(int(count)):
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        sock.setblocking(False)
        sock.connect_ex((host, int(port)))
        socks.append(sock)
    end = time.monotonic() + float(seconds)
    rounds = 0
    while time.monotonic() < end:
        echo(host, base, "20", "1")
        rounds += 1
    poll = select.poll()
    for sock in socks:
        poll.register(sock, select.POLLOUT | select.POLLERR | select.POLLHUP)
    answered = sum(bool(events & select.POLLOUT) for _, events in poll.poll(0))
    for sock in socks:
        sock.close()
    return {"rounds": rounds, "answered": answered}


def hang(host: str, port: int, count: str) -> object:
    """Start *count* connections to one port of a place that answers nothing, say so, and hold on."""
    socks = []
    for _ in range(int(count)):
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        sock.setblocking(False)
        sock.connect_ex((host, port))
        socks.append(sock)
    print("started", flush=True)  # noqa: T201
    signal.pause()
    return len(socks)


def occupy(host: str, base: int, count: str) -> object:
    """Open *count* connections to a service that only reads, send a byte on each, say how many, hold on."""
    socks = []
    for _ in range(int(count)):
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        with contextlib.suppress(OSError):
            sock.connect((host, base + servers.LISTEN))
            sock.send(b"x")
            socks.append(sock)
    print(len(socks), flush=True)  # noqa: T201
    signal.pause()
    return len(socks)


CHECKS: dict[str, Callable[..., object]] = {
    "fetch": fetch,
    "send": send,
    "echo": echo,
    "type-ahead": type_ahead,
    "trickle-in": trickle_in,
    "trickle-out": trickle_out,
    "listen-reset": listen_reset,
    "reuse": reuse,
    "reuse-reset": reuse_reset,
    "keep-alive": keep_alive,
    "urgent": urgent,
    "half-open": half_open,
    "hang": hang,
    "occupy": occupy,
}


def main() -> None:
    """Run one check."""
    name, host, base, *arguments = sys.argv[1:]
    print(json.dumps(CHECKS[name](host, int(base), *arguments)), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
