"""The guest of a fuzzed engine: it sends any frames, reads some, and learns from them of its connections."""

from __future__ import annotations

import contextlib
import socket
import struct
from dataclasses import dataclass, field

from tests.fuzz.packets import ETH_HLEN, IP4_HLEN, IP6_HLEN, TCP

FIN, SYN, RST, ACK = 1, 2, 4, 16
VNET_HLEN = 10
LARGEST = 65589 + VNET_HLEN
MAX_READ = 64
MAX_CONNECTIONS = 64
END, NOP, TIMESTAMP = 0, 1, 8

Key = tuple[bytes, int, bytes, int]  # guest's address and port, remote's address and port


@dataclass(slots=True)
class Connection:
    """One TCP connection as the guest sees it; sequence numbers are modulo 2^32."""

    key: Key
    nxt: int = 1000               # our next byte
    una: int = 1000               # what was acknowledged
    rcv: int = 0                  # the remote's next byte
    seen: int = 0                 # its highest byte
    stamps: bool = False
    stamp: int = 1
    echoed: int = 0


@dataclass
class Guest:
    """One end of the link."""

    stream: bool
    sock: socket.socket | None = None
    connections: list[Connection] = field(default_factory=list)
    by_key: dict[Key, Connection] = field(default_factory=dict)
    kept: bytes = b""             # of the stream: read, but not a whole frame
    unsent: bytes = b""           # of the stream: the rest of what was sent in part
    header: bytes | None = None   # virtio-net header of the next frame, as a step wants it
    last: bytes = b""             # the last frame to us
    dropped: int = 0

    def connect(self, sock: socket.socket) -> None:
        """Have a link."""
        self.sock = sock
        self.kept = self.unsent = b""

    def disconnect(self) -> None:
        """Have none."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    def shut(self) -> None:
        """Send nothing more."""
        if self.sock is not None:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_WR)

    def write(self, data: bytes) -> int:
        """Write what the link takes."""
        if self.sock is None:
            return 0
        try:
            return self.sock.send(data)
        except OSError:
            self.dropped += 1
            return 0

    def send(self, frame: bytes, *, header: bytes = bytes(VNET_HLEN)) -> None:
        """Send one frame; the *header* is left out on a stream."""
        if not self.stream:
            self.write((self.header or header) + frame)
        else:
            data = self.unsent + len(frame).to_bytes(4, "big") + frame
            self.unsent = data[self.write(data) :]
        self.header = None

    def send_raw(self, data: bytes, keep: int = 0) -> None:
        """Send bytes as they are, on a stream without the last *keep* of them, which follow later."""
        if self.stream:
            data = self.unsent + data
            part = data[: max(len(data) - keep, 0)]
            self.unsent = data[self.write(part) :] if part else data
        else:
            self.write(data)

    def read(self, limit: int = MAX_READ) -> None:
        """Read frames and learn from them."""
        if self.sock is None:
            return
        with contextlib.suppress(BlockingIOError, ConnectionError):
            if self.stream:
                while data := self.sock.recv(1 << 18):
                    self.kept += data
            else:
                for _ in range(limit):
                    self.learn(self.sock.recv(LARGEST)[VNET_HLEN:])
        while len(self.kept) >= 4:
            n = int.from_bytes(self.kept[:4], "big")
            assert ETH_HLEN <= n <= LARGEST, n
            if len(self.kept) < 4 + n:
                break
            self.learn(self.kept[4 : 4 + n])
            self.kept = self.kept[4 + n :]

    def learn(self, frame: bytes) -> None:
        """Take what a frame to us tells."""
        assert len(frame) >= 60, len(frame)
        self.last = frame
        if frame[12:14] == b"\x86\xdd" and frame[20] == TCP:
            start, size = ETH_HLEN + IP6_HLEN, 16
            end = start + int.from_bytes(frame[18:20], "big")
        elif frame[12:14] == b"\x08\x00" and frame[23] == TCP:
            start, size = ETH_HLEN + IP4_HLEN, 4
            end = ETH_HLEN + int.from_bytes(frame[16:18], "big")
        else:
            return
        far, near, seq, ack, offset, flags = struct.unpack_from("!HHIIBB", frame, start)
        key = (frame[start - size : start], near, frame[start - 2 * size : start - size], far)
        conn = self.by_key.get(key) or self.add(key)
        head = (offset >> 4) * 4
        end_seq = seq + end - start - head + bool(flags & SYN) + bool(flags & FIN) & 0xFFFFFFFF
        if flags & SYN:
            conn.rcv = conn.seen = end_seq
        if (end_seq - conn.seen) & 0xFFFFFFFF < 1 << 31:
            conn.seen = end_seq
        if flags & ACK:
            conn.una = ack
        self.learn_stamp(conn, frame[start + 20 : start + head])

    @staticmethod
    def learn_stamp(conn: Connection, options: bytes) -> None:
        """Find the remote's timestamp."""
        at = 0
        while at < len(options) and options[at] != END:
            if options[at] == NOP:
                at += 1
                continue
            if options[at] == TIMESTAMP:
                conn.echoed = int.from_bytes(options[at + 2 : at + 6], "big")
            at += max(options[at + 1], 2) if at + 1 < len(options) else 2

    def add(self, key: Key) -> Connection:
        """Know a connection more."""
        conn = Connection(key)
        if len(self.connections) >= MAX_CONNECTIONS:
            del self.by_key[self.connections.pop(0).key]
        self.connections.append(conn)
        self.by_key[key] = conn
        return conn
