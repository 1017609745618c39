"""A client of the vhost-user protocol (QEMU's Vhost-user Protocol): messages over a UNIX socket, any of them.

`Client.request` sends any number, payload and descriptors; the other methods are those of a `VhostDevice`, so
`FrontEnd.start` works on a client as it does on a device itself.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from passt.facts.contracts import MemoryRegion

HEADER = struct.Struct("=III")
VERSION, REPLY, NEED_REPLY = 1, 4, 8
NO_FD = 0x100                    # in the number of a ring: no descriptor comes with it
RING_LOG = 1                     # flag of SET_VRING_ADDR: writes to the used ring are logged
MAX_FDS = 32
TIMEOUT_S = 60.0


class Request(IntEnum):
    """Numbers of requests of a front end."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SEND_RARP = 19
    NET_SET_MTU = 20
    SET_BACKEND_REQ_FD = 21
    IOTLB_MSG = 22
    SET_VRING_ENDIAN = 23
    GET_CONFIG = 24
    SET_CONFIG = 25
    CREATE_CRYPTO_SESSION = 26
    CLOSE_CRYPTO_SESSION = 27
    POSTCOPY_ADVISE = 28
    POSTCOPY_LISTEN = 29
    POSTCOPY_END = 30
    GET_INFLIGHT_FD = 31
    SET_INFLIGHT_FD = 32
    GPU_SET_SOCKET = 33
    RESET_DEVICE = 34
    VRING_KICK = 35
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40
    GET_SHARED_OBJECT = 41
    SET_DEVICE_STATE_FD = 42
    CHECK_DEVICE_STATE = 43


class ProtocolFeature(IntFlag):
    """Bits of GET_PROTOCOL_FEATURES."""

    MQ = 1 << 0
    LOG_SHMFD = 1 << 1
    RARP = 1 << 2
    REPLY_ACK = 1 << 3
    NET_MTU = 1 << 4
    BACKEND_REQ = 1 << 5
    CROSS_ENDIAN = 1 << 6
    CRYPTO_SESSION = 1 << 7
    PAGEFAULT = 1 << 8
    CONFIG = 1 << 9
    BACKEND_SEND_FD = 1 << 10
    HOST_NOTIFIER = 1 << 11
    INFLIGHT_SHMFD = 1 << 12
    RESET_DEVICE = 1 << 13
    INBAND_NOTIFICATIONS = 1 << 14
    CONFIGURE_MEM_SLOTS = 1 << 15
    STATUS = 1 << 16
    XEN_MMAP = 1 << 17
    SHARED_OBJECT = 1 << 18
    DEVICE_STATE = 1 << 19


class Message(NamedTuple):
    """What the back end answered; the descriptors are the caller's to close."""

    number: int
    flags: int
    payload: bytes
    fds: tuple[int, ...]


class Refused(Exception):  # noqa: N818 - that is its meaning
    """A request was acknowledged with something else than 0."""


def build(number: int, payload: bytes = b"", flags: int = VERSION, size: int | None = None) -> bytes:
    """Give a message; *size* is that of the payload, unless it is to lie."""
    return HEADER.pack(number, flags, len(payload) if size is None else size) + payload


def region_bytes(region: MemoryRegion) -> bytes:
    """Give a memory region description, 32 bytes."""
    return struct.pack("=QQQQ", *region[:4])


class Client:
    """One end of a connection. *protocol* are the protocol features acknowledged."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(TIMEOUT_S)
        self.protocol = 0
        self.n_pairs = 1

    @classmethod
    def connect(cls, path: Path | str) -> Client:
        """Connect to a back end's socket."""
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(path))
        return cls(sock)

    def close(self) -> None:
        """Close the connection."""
        self.sock.close()

    # Messages

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send any bytes, with descriptors."""
        sent = socket.send_fds(self.sock, [data], fds) if fds else 0
        if sent < len(data):     # even to send nothing fails if the other end has closed by now
            self.sock.sendall(data[sent:])

    def request(self, number: int, payload: bytes = b"", fds: Sequence[int] = (), *,
                reply: bool = False) -> bytes:
        """Send a request; returns the payload of its reply, if one is to come, else nothing."""
        self.send(build(number, payload), fds)
        return self.reply_to(number).payload if reply else b""

    def acknowledged(self, number: int, payload: bytes = b"", fds: Sequence[int] = ()) -> int:
        """Send a request that has no reply of its own and ask for one (REPLY_ACK); returns its number."""
        self.send(build(number, payload, VERSION | NEED_REPLY), fds)
        (value,) = struct.unpack("=Q", self.reply_to(number).payload)
        return int(value)

    def tell(self, number: int, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Send a request that has no reply of its own, acknowledged if that was agreed. Raises Refused."""
        if not self.protocol & ProtocolFeature.REPLY_ACK:
            self.request(number, payload, fds)
        elif value := self.acknowledged(number, payload, fds):
            raise Refused(f"{Request(number).name}: {value}")

    def ask(self, number: int, payload: bytes = b"") -> int:
        """Send a request whose reply is a number of 64 bits; returns that."""
        (value,) = struct.unpack("=Q", self.request(number, payload, reply=True))
        return int(value)

    def reply_to(self, number: int) -> Message:
        """Read the reply to a request; its descriptors, which are rarely wanted, are closed."""
        message = self.read()
        for fd in message.fds:
            os.close(fd)
        assert (message.number, message.flags) == (number, VERSION | REPLY), message
        return message

    def read(self) -> Message:
        """Read one message. Raises ConnectionError if there is none, for the connection was closed."""
        item = socket.CMSG_SPACE(MAX_FDS * 4)
        head, controls, _, _ = self.sock.recvmsg(HEADER.size, item)
        fds = array.array("i")
        for level, kind, data in controls:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(data[: len(data) - len(data) % 4])
        head += self._read_rest(HEADER.size - len(head)) if head else b""
        if not head:
            raise ConnectionResetError("the back end closed the connection")
        number, flags, size = HEADER.unpack(head)
        return Message(number, flags, self._read_rest(size), tuple(fds))

    def _read_rest(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            part = self.sock.recv(n - len(data))
            if not part:
                raise ConnectionResetError(f"the message ends after {len(data)} bytes of {n}")
            data += part
        return data

    def await_end(self) -> bytes:
        """Wait until the back end closes the connection; returns what it said before. Raises TimeoutError."""
        said = b""
        try:
            while part := self.sock.recv(4096):
                said += part
        except ConnectionError:
            pass
        return said

    def negotiate(self, protocol: int = ~0) -> int:
        """Begin a session; returns the features offered. Of *protocol* what is offered is acknowledged."""
        self.request(Request.SET_OWNER)
        features = self.ask(Request.GET_FEATURES)
        if features & 1 << 30:
            protocol &= self.ask(Request.GET_PROTOCOL_FEATURES)
            self.request(Request.SET_PROTOCOL_FEATURES, struct.pack("=Q", protocol))
            self.protocol = protocol
            if protocol & ProtocolFeature.MQ:
                self.n_pairs = self.ask(Request.GET_QUEUE_NUM)
        return features

    # The methods of a device

    def set_features(self, features: int) -> None:
        self.tell(Request.SET_FEATURES, struct.pack("=Q", features))

    def set_memory(self, regions: Sequence[MemoryRegion]) -> None:
        payload = struct.pack("=II", len(regions), 0) + b"".join(map(region_bytes, regions))
        self.tell(Request.SET_MEM_TABLE, payload, [region.fd for region in regions])

    def add_region(self, region: MemoryRegion) -> None:
        self.tell(Request.ADD_MEM_REG, bytes(8) + region_bytes(region), [region.fd])

    def remove_region(self, region: MemoryRegion) -> None:
        self.tell(Request.REM_MEM_REG, bytes(8) + region_bytes(region))

    def set_ring_size(self, ring: int, size: int) -> None:
        self.tell(Request.SET_VRING_NUM, struct.pack("=II", ring, size))

    def set_ring_base(self, ring: int, base: int) -> None:
        self.tell(Request.SET_VRING_BASE, struct.pack("=II", ring, base))

    def set_ring_addresses(self, ring: int, descriptors: int, used: int, available: int,
                           log: int | None) -> None:
        flags = 0 if log is None else RING_LOG
        self.tell(Request.SET_VRING_ADDR,
                  struct.pack("=IIQQQQ", ring, flags, descriptors, used, available, log or 0))

    def _set_event(self, number: int, ring: int, fd: int) -> None:
        if fd < 0:
            self.tell(number, struct.pack("=Q", ring | NO_FD))
            return
        try:
            self.tell(number, struct.pack("=Q", ring), [fd])
        finally:
            os.close(fd)

    def set_kick(self, ring: int, fd: int) -> None:
        self._set_event(Request.SET_VRING_KICK, ring, fd)

    def set_call(self, ring: int, fd: int) -> None:
        self._set_event(Request.SET_VRING_CALL, ring, fd)

    def enable_ring(self, ring: int, enabled: bool) -> None:
        self.tell(Request.SET_VRING_ENABLE, struct.pack("=II", ring, enabled))

    def stop_ring(self, ring: int) -> int:
        payload = self.request(Request.GET_VRING_BASE, struct.pack("=II", ring, 0), reply=True)
        number, base = struct.unpack("=II", payload)
        assert number == ring
        return int(base)

    def set_log(self, fd: int, size: int, offset: int) -> None:
        payload = struct.pack("=QQ", size, offset)
        if self.protocol & ProtocolFeature.LOG_SHMFD:
            self.send(build(Request.SET_LOG_BASE, payload), [fd])
            self.reply_to(Request.SET_LOG_BASE)
        else:
            self.tell(Request.SET_LOG_BASE, payload, [fd])

    def set_log_call(self, fd: int) -> None:
        try:
            self.tell(Request.SET_LOG_FD, b"", [fd])
        finally:
            os.close(fd)

    def get_inflight(self, n_rings: int, ring_size: int) -> tuple[int, int, int]:
        """Ask for memory that says what is in flight; returns descriptor, size and offset."""
        payload = struct.pack("=QQHH", 0, 0, n_rings, ring_size)
        self.send(build(Request.GET_INFLIGHT_FD, payload))
        message = self.read()
        assert message.number == Request.GET_INFLIGHT_FD
        size, offset = struct.unpack_from("=QQ", message.payload)
        (fd,) = message.fds
        return fd, size, offset

    def set_inflight(self, fd: int, size: int, offset: int, n_rings: int, ring_size: int) -> None:
        self.tell(Request.SET_INFLIGHT_FD, struct.pack("=QQHH", size, offset, n_rings, ring_size), [fd])

    def reset(self) -> None:
        """Reset the device, by the newer request if that was agreed."""
        newer = self.protocol & ProtocolFeature.RESET_DEVICE
        self.tell(Request.RESET_DEVICE if newer else Request.RESET_OWNER)
