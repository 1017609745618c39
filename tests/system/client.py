"""The clients of the system tests: `client.py CHECK HOST [BASE] [SIZE]`; status 0 and a word if all is well.

The ports are those of `servers.py`, from BASE on. A failure is an exception, shown on stderr.
"""

from __future__ import annotations

import errno
import hashlib
import os
import select
import socket
import struct
import sys
import time

BASE = 8000
ECHO, ANSWER, SPEAK, ENDINGS, RESET, LISTEN, NOBODY = 7, 8, 9, 10, 11, 12, 99
OPEN = "open"                      # what the server says of a connection that has not ended
REPLY_LEN = 1 << 20
SENT_LEN = 300_000
LIMIT_S = 10.0


def connect(host: str, port: int) -> socket.socket:
    """Connect to a server within the time limit."""
    return socket.create_connection((host, port), timeout=LIMIT_S)


def read_all(sock: socket.socket) -> bytes:
    """Read up to the end of the stream."""
    pieces = []
    while data := sock.recv(65536):
        pieces.append(data)
    return b"".join(pieces)


def check_equal(found: object, wanted: object, what: str) -> None:
    """Fail if the two differ, naming *what*."""
    if found != wanted:
        raise SystemExit(f"{what}: {found!r:.200} instead of {wanted!r:.200}")


def check_udp(host: str, base: int, size: int) -> None:
    """Have one datagram of *size* bytes echoed."""
    data = os.urandom(size)
    family, kind, _, _, address = socket.getaddrinfo(host, base + ECHO, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as sock:
        sock.settimeout(LIMIT_S)
        sock.connect(address)
        sock.send(data)
        check_equal(sock.recv(65536), data, "echoed datagram")


def check_tcp(host: str, base: int, size: int) -> None:
    """Have *size* bytes echoed while sending."""
    data = os.urandom(size)
    received = bytearray()
    with connect(host, base + ECHO) as sock:
        sock.setblocking(False)
        unsent = memoryview(data)
        while len(received) < size:
            readable, writable, _ = select.select([sock], [sock] if unsent else [], [], LIMIT_S)
            if writable:
                unsent = unsent[sock.send(unsent) :]
            if readable:
                received += sock.recv(1 << 20)
            if not (readable or writable):
                raise SystemExit(f"echo: stuck after {len(received)} of {size} bytes")
        check_equal(bytes(received), data, "echoed bytes")
        sock.setblocking(True)
        sock.settimeout(LIMIT_S)
        sock.shutdown(socket.SHUT_WR)
        check_equal(sock.recv(1), b"", "end of stream")


def check_end_first(host: str, base: int, _size: int) -> None:
    """End our half first: the server goes on to send."""
    with connect(host, base + ANSWER) as sock:
        sock.sendall(os.urandom(SENT_LEN))
        sock.shutdown(socket.SHUT_WR)
        check_equal(len(read_all(sock)), REPLY_LEN, "bytes after our end")


def ending(host: str, base: int, token: bytes, before: tuple[str, ...] = ("", OPEN)) -> str:
    """Ask how the connection that began with *token* ended; wait until it is none of *before*."""
    limit = time.monotonic() + LIMIT_S
    while time.monotonic() < limit:
        with connect(host, base + ENDINGS) as sock:
            sock.sendall(token)
            answer = read_all(sock).decode()
        if answer not in before:
            return answer
        time.sleep(0.02)
    raise SystemExit(f"the server says {answer!r} of the connection")


def check_end_last(host: str, base: int, _size: int) -> None:
    """Have the server end its half first: we go on to send."""
    token, data = os.urandom(16), os.urandom(SENT_LEN)
    with connect(host, base + SPEAK) as sock:
        check_equal(len(read_all(sock)), REPLY_LEN, "bytes before the server's end")
        sock.sendall(token + data)
    check_equal(
        ending(host, base, token), f"{SENT_LEN} {hashlib.sha256(data).hexdigest()}", "sent after the end"
    )


def check_reset(host: str, base: int, _size: int) -> None:
    """Have the server reset the connection."""
    with connect(host, base + RESET) as sock:
        sock.sendall(b"x")
        try:
            found = sock.recv(1)
        except ConnectionResetError:
            return
    raise SystemExit(f"no reset but {found!r}")


def check_send_reset(host: str, base: int, _size: int) -> None:
    """Reset the connection: the server sees it."""
    token = os.urandom(16)
    with connect(host, base + LISTEN) as sock:
        sock.sendall(token)
        # A reset takes away what is on its way, and the server would not know whose it was.
        check_equal(ending(host, base, token, ("",)), OPEN, "the connection")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    check_equal(ending(host, base, token), "ECONNRESET", "end seen by the server")


def check_refused(host: str, base: int, _size: int) -> None:
    """Connect where nobody listens: refused, and at once, unless the machine is busy for a moment."""
    elapsed = []
    for _ in range(3):
        start = time.monotonic()
        try:
            connect(host, base + NOBODY).close()
        except OSError as error:
            check_equal(errno.errorcode.get(error.errno or 0), "ECONNREFUSED", "connect")
        else:
            raise SystemExit("connected where nobody listens")
        elapsed.append(time.monotonic() - start)
        if elapsed[-1] < 1.0:
            return
    raise SystemExit(f"refused only after {elapsed} s")


CHECKS = {
    "udp": check_udp,
    "tcp": check_tcp,
    "end-first": check_end_first,
    "end-last": check_end_last,
    "reset": check_reset,
    "send-reset": check_send_reset,
    "refused": check_refused,
}


def main() -> None:
    """Run the checks named, separated by commas."""
    names, host, *rest = sys.argv[1:]
    base = int(rest[0]) if rest else BASE
    size = int(rest[1]) if len(rest) > 1 else 1
    for name in names.split(","):
        CHECKS[name](host, base, size)
    print("well", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
