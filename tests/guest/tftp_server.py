"""A file server for busybox tftp: `tftp_server.py PORT ADDRESS...` serves reads and writes.

The protocol (RFC 1350, with the block size of RFC 2348) acknowledges every datagram, so that a transfer
over UDP can be held to a checksum. Reading the file "N" gives N bytes of `servers.stream`; a written file
is not kept: its length and SHA-256 are printed in a line. One client at a time is served, from the port that
it asked.
"""

from __future__ import annotations

import hashlib
import select
import socket
import struct
import sys
import time

from servers import stream  # type: ignore[import-not-found]  # beside this file where it runs

READ, WRITE, DATA, ACK, ERROR, OACK = 1, 2, 3, 4, 5, 6
HEADER = struct.Struct("!HH")
RETRY_S = 1.0
LIMIT_S = 60.0


class Transfer:
    """A dialogue with *peer* on *sock*, in blocks of *size* bytes."""

    def __init__(self, sock: socket.socket, peer: tuple[str, int], size: int) -> None:
        self._sock = sock
        self._peer = peer
        self._size = size

    def ask(self, datagram: bytes, kind: int, number: int) -> bytes:
        """Send *datagram* until block *number* of *kind* comes, and return what that carries."""
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            self._sock.sendto(datagram, self._peer)
            try:
                while True:
                    data, peer = self._sock.recvfrom(65536)
                    if peer == self._peer and data[:4] == HEADER.pack(kind, number):
                        return data[4:]
            except TimeoutError:
                continue
        raise TimeoutError("the client is silent")

    def send(self, data: bytes, answer: bytes) -> None:
        """Carry out a read; *answer* tells the options."""
        self.ask(answer, ACK, 0)
        for number, start in enumerate(range(0, len(data) + 1, self._size), 1):
            self.ask(HEADER.pack(DATA, number) + data[start:start + self._size], ACK, number)

    def receive(self, answer: bytes) -> bytes:
        """Carry out a write; *answer* tells the options."""
        data, number = b"", 1
        while True:
            block = self.ask(answer, DATA, number)
            answer = HEADER.pack(ACK, number)
            data += block
            if len(block) < self._size:
                self._sock.sendto(answer, self._peer)
                return data
            number += 1


def serve(sock: socket.socket) -> None:
    """Serve one request."""
    request, peer = sock.recvfrom(65536)
    kind = int.from_bytes(request[:2], "big")
    name, _, *options = request[2:].decode().split("\0")
    if kind not in {READ, WRITE} or "blksize" not in options:
        return
    size = options[options.index("blksize") + 1]
    answer = struct.pack("!H", OACK) + f"blksize\0{size}\0".encode()
    transfer = Transfer(sock, peer, int(size))
    if kind == READ:
        transfer.send(b"".join(stream(int(name))), answer)
        return
    data = transfer.receive(answer)
    sys.stdout.write(f"{len(data)} {hashlib.sha256(data).hexdigest()}\n")
    sys.stdout.flush()


def main() -> None:
    """Listen, say so, and serve until killed."""
    socks = []
    for address in sys.argv[2:]:
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(RETRY_S)
        sock.bind((address, int(sys.argv[1])))
        socks.append(sock)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        for sock in select.select(socks, [], [])[0]:
            serve(sock)


if __name__ == "__main__":
    main()
