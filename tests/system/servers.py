"""The servers of the system tests; run alone as `servers.py [BASE]`, prints "ready", needs the library only.

Ports from BASE (8000 unless given) on, each on all addresses of both families:

    +0   HTTP: GET /SIZE gives SIZE bytes of `stream`
    +7   echo, TCP and UDP
    +8   TCP: reads up to the end of the client's stream, then answers with `stream(REPLY_LEN)`
    +9   TCP: sends `stream(REPLY_LEN)` and the end of its stream at once, then reads on
    +10  TCP: told a token, answers how the connection that began with it ended: "N SHA256" or an errno's
         name; OPEN if it has not, and nothing before the token came
    +11  TCP: resets the connection when the first byte arrives
    +12  TCP: reads, sends nothing
    +13  TCP: told seconds and a newline, reads a little, pauses so long, reads all; answers "N SHA256"
    +14  TCP: told seconds, sends a byte each TICK_S for so long after the end of the client's stream
    +15  echo over TCP with keep-alive probes every second
    +16  TCP: told a number, reads all and sends it back with so many bytes urgent

A token is the first TOKEN_LEN bytes of a connection to +9 or +12.
"""

from __future__ import annotations

import errno
import hashlib
import socket
import struct
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BASE = 8000
HTTP, ECHO, ANSWER, SPEAK, ENDINGS, RESET, LISTEN = 0, 7, 8, 9, 10, 11, 12
PAUSE, TRICKLE, ALIVE, URGENT = 13, 14, 15, 16
REPLY_LEN = 1 << 20
TOKEN_LEN = 16
BLOCK_LEN = (1 << 20) + 7
LIMIT_S = 280.0
TICK_S = 0.1
FIRST_LEN = 1 << 20

BLOCK = hashlib.shake_256(b"passt").digest(BLOCK_LEN)
OPEN = "open"
ENDED: dict[bytes, str] = {}


def stream(size: int) -> Iterator[bytes]:
    """Give *size* pseudo-random bytes in pieces, the same each time; no two blocks are equal."""
    number = 0
    while size > 0:
        piece = struct.pack("!Q", number) + BLOCK
        yield piece[:size]
        size -= len(piece)
        number += 1


def stream_sha256(size: int) -> str:
    """SHA-256 of `stream(size)`."""
    digest = hashlib.sha256()
    for piece in stream(size):
        digest.update(piece)
    return digest.hexdigest()


def serve_http(connection: socket.socket) -> None:
    """Answer one request; there is no keep-alive."""
    request = b""
    while b"\r\n\r\n" not in request:
        data = connection.recv(4096)
        if not data:
            return
        request += data
    size = int(request.split()[1].lstrip(b"/"))
    connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size)
    for piece in stream(size):
        connection.sendall(piece)


def serve_echo(connection: socket.socket) -> None:
    """Send back what comes in, then the end."""
    while data := connection.recv(65536):
        connection.sendall(data)


def serve_answer(connection: socket.socket) -> None:
    """Read all, then speak."""
    while connection.recv(65536):
        continue
    for piece in stream(REPLY_LEN):
        connection.sendall(piece)


def serve_speak(connection: socket.socket) -> None:
    """Speak first and end our half, then read all."""
    for piece in stream(REPLY_LEN):
        connection.sendall(piece)
    connection.shutdown(socket.SHUT_WR)
    serve_listen(connection)


def serve_listen(connection: socket.socket) -> None:
    """Read to the end and note under the token how it came."""
    token = b""
    while len(token) < TOKEN_LEN:
        if not (part := connection.recv(TOKEN_LEN - len(token))):
            return
        token += part
    ENDED[token] = OPEN
    digest, count = hashlib.sha256(), 0
    try:
        while data := connection.recv(65536):
            digest.update(data)
            count += len(data)
    except OSError as error:
        ENDED[token] = errno.errorcode[error.errno or 0]
    else:
        ENDED[token] = f"{count} {digest.hexdigest()}"


def serve_endings(connection: socket.socket) -> None:
    """Tell how a connection ended, or that it has not; nothing if its token has not come."""
    connection.sendall(ENDED.get(connection.recv(TOKEN_LEN), "").encode())


def serve_reset(connection: socket.socket) -> None:
    """Close with a reset when the client has spoken."""
    connection.recv(1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def read_told(connection: socket.socket) -> bytes:
    """Read the line that the client begins with."""
    told = b""
    while not told.endswith(b"\n") and (data := connection.recv(1)):
        told += data
    return told


def serve_pause(connection: socket.socket) -> None:
    """Read with a pause."""
    pause_s = float(read_told(connection))
    digest, count = hashlib.sha256(), 0
    while data := connection.recv(1 << 18):
        digest.update(data)
        if count < FIRST_LEN <= count + len(data):
            time.sleep(pause_s)
        count += len(data)
    connection.sendall(b"%d %s\n" % (count, digest.hexdigest().encode()))


def serve_trickle(connection: socket.socket) -> None:
    """Read all, then speak slowly."""
    ticks = int(float(read_told(connection)) / TICK_S)
    while connection.recv(65536):
        continue
    for _ in range(ticks):
        connection.sendall(b"x")
        time.sleep(TICK_S)


def set_keep_alive(connection: socket.socket) -> None:
    """Probe the other end every second; three unanswered ones end the connection."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def serve_alive(connection: socket.socket) -> None:
    """Echo, and see to it that the client is there."""
    set_keep_alive(connection)
    serve_echo(connection)


def serve_urgent(connection: socket.socket) -> None:
    """Send back what came, the middle byte of each of the parts urgent."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    parts = int(read_told(connection))
    found = b""
    while data := connection.recv(65536):
        found += data
    size = len(found) // parts
    for start in range(0, len(found), size):
        middle = start + size // 2
        connection.sendall(found[start:middle])
        connection.send(found[middle : middle + 1], socket.MSG_OOB)
        connection.sendall(found[middle + 1 : start + size])
        time.sleep(0.002)


SERVICES: dict[int, Callable[[socket.socket], None]] = {
    HTTP: serve_http,
    ECHO: serve_echo,
    ANSWER: serve_answer,
    SPEAK: serve_speak,
    ENDINGS: serve_endings,
    RESET: serve_reset,
    LISTEN: serve_listen,
    PAUSE: serve_pause,
    TRICKLE: serve_trickle,
    ALIVE: serve_alive,
    URGENT: serve_urgent,
}


def serve_one(connection: socket.socket, service: Callable[[socket.socket], None]) -> None:
    """Serve one client; a client that goes away is no error here."""
    with connection:
        connection.settimeout(LIMIT_S)
        try:
            service(connection)
        except OSError:
            return


def accept_all(listener: socket.socket, service: Callable[[socket.socket], None]) -> None:
    """Serve every client in a thread of its own."""
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve_one, args=(connection, service), daemon=True).start()


def echo_datagrams(sock: socket.socket) -> None:
    """Send every datagram back to where it came from, from the address that it came to."""
    while True:
        data, ancillary, _, peer = sock.recvmsg(65536, 256)
        try:
            sock.sendmsg([data], ancillary, 0, peer)
        except OSError:
            continue


def main() -> None:
    """Listen on all ports, then say so."""
    base = int(sys.argv[1]) if len(sys.argv) > 1 else BASE
    for offset, service in SERVICES.items():
        listener = socket.create_server(
            ("::", base + offset), family=socket.AF_INET6, backlog=512, dualstack_ipv6=True
        )
        threading.Thread(target=accept_all, args=(listener, service), daemon=True).start()
    datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    datagrams.bind(("::", base + ECHO))
    print("ready", flush=True)  # noqa: T201
    echo_datagrams(datagrams)


if __name__ == "__main__":
    main()
