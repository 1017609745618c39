"""Messages between the main process and its child in the target namespace.

A SOCK_SEQPACKET pair keeps message boundaries, so a message is a kind byte and its payload:

    from the child      READY      offloads (u32), MAC (6), link-local address (16, zeros: none); the tap's
                                   descriptor, then those from which bound ports can be read, if wanted
                        FAILED     text for the user, UTF-8
                        STOPPED    signal that stopped the command (u8)
                        CONTINUED  -
                        ENDED      wait status of the command (u32)
    to the child        START      flags (u8): own process group, foreground
                        SIGNAL     number (u8), whether all of our process group got it (u8)
                        RESUME     whether the terminal is the command's (u8)

Integers are in network byte order. Each process holds one end only, so end of file tells either that
the other one is gone.
"""

from __future__ import annotations

import select
import socket
import struct
from ipaddress import IPv6Address

from passt.value import IntEnum

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_MESSAGE = 4096

_READY = struct.Struct("!I6s16s")
_STATUS = struct.Struct("!I")
_NO_ADDRESS = bytes(16)
_FD = struct.Struct("i")
_CONTROL_LEN = socket.CMSG_SPACE(5 * _FD.size)  # READY has the most descriptors


class Kind(IntEnum):
    """First byte of a message."""

    READY = 1
    FAILED = 2
    STOPPED = 3
    CONTINUED = 4
    ENDED = 5
    START = 16
    SIGNAL = 17
    RESUME = 18


class Message:
    """One message as received; *fds* are the descriptors that came with it, owned by the receiver."""

    __slots__ = ("fds", "kind", "payload")

    def __init__(self, kind: Kind, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        self.kind = kind
        self.payload = payload
        self.fds = fds


class Tap:
    """The tap as its namespace sees it: descriptor, TUN_F_* granted, hardware and link-local address.

    *port_sources* are descriptors for a `port_scan.PortScanner` of the namespace.
    """

    __slots__ = ("fd", "link_local", "mac", "offloads", "port_sources")

    def __init__(self, fd: int, offloads: int, mac: bytes, link_local: IPv6Address | None,
                 port_sources: Sequence[int] = ()) -> None:
        self.fd = fd
        self.offloads = offloads
        self.mac = mac
        self.link_local = link_local
        self.port_sources = port_sources


class Channel:
    """One end of the pair."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Make both ends, close-on-exec."""
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(one), cls(other)

    def fileno(self) -> int:
        """Return the descriptor, for polling."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close this end."""
        self._sock.close()

    def send(self, kind: Kind, payload: bytes = b"", fds: Sequence[int] = ()) -> bool:
        """Send one message, with copies of *fds*; never blocks. False if the other end is gone or clogged.

        It is clogged only when it does not run (stopped by hand), and then a lost signal is the least.
        """
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, b"".join(map(_FD.pack, fds)))] if fds else []
        flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
        try:
            self._sock.sendmsg([bytes((kind,)) + payload], rights, flags)
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            return False
        return True

    def receive(self, *, wait: bool) -> Message | None:
        """Return the next message; None at the end of file, or when *wait* is False and there is none."""
        flags = socket.MSG_CMSG_CLOEXEC | (0 if wait else socket.MSG_DONTWAIT)
        try:
            data, ancillary, _, _ = self._sock.recvmsg(MAX_MESSAGE, _CONTROL_LEN, flags)
        except (BlockingIOError, ConnectionResetError):
            return None
        if not data:
            return None
        return Message(Kind(data[0]), data[1:], _descriptors(ancillary))

    def has_news(self) -> bool:
        """Tell whether a message or the end of file is waiting."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(0))

    def is_abandoned(self) -> bool:
        """Tell whether the other end is gone."""
        poll = select.poll()
        poll.register(self._sock, 0)
        return bool(poll.poll(0))

    def send_ready(self, tap: Tap) -> bool:
        """Send READY, with the tap's descriptors."""
        address = tap.link_local.packed if tap.link_local else _NO_ADDRESS
        return self.send(Kind.READY, _READY.pack(tap.offloads, tap.mac, address),
                         [tap.fd, *tap.port_sources])

    def send_failed(self, text: str) -> bool:
        """Send FAILED; a text that is too long loses its end."""
        return self.send(Kind.FAILED, text.encode(errors="replace")[:MAX_MESSAGE - 1])

    def send_ended(self, status: int) -> bool:
        """Send ENDED with the wait *status* of the command."""
        return self.send(Kind.ENDED, _STATUS.pack(status))


def read_ready(message: Message) -> Tap:
    """Decode READY."""
    if not message.fds:
        raise ValueError("READY without a descriptor")
    offloads, mac, address = _READY.unpack(message.payload)
    return Tap(message.fds[0], offloads, mac, None if address == _NO_ADDRESS else IPv6Address(address),
               message.fds[1:])


def read_status(message: Message) -> int:
    """Decode ENDED: a wait status for os.WIFEXITED and so on."""
    status: int = _STATUS.unpack(message.payload)[0]
    return status


def _descriptors(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    """Pick the descriptors out of control messages; the kernel closes those for which there is no room."""
    found: list[int] = []
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found += [fd for (fd,) in _FD.iter_unpack(data[:len(data) // _FD.size * _FD.size])]
    return found
