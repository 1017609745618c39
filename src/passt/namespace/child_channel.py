"""Messages between the main process and its child in the target namespace.

A SOCK_SEQPACKET pair keeps message boundaries, so a message is a kind byte and its payload:

    from the child      READY      offloads (u32), MAC (6), link-local address (16, zeros: none); descriptors
                                   of the tap and the network namespace, then the sources of
                                   `bound_ports.open_sources`, if wanted
                        FAILED     text for the user, UTF-8
                        STOPPED    signal of job control that stopped the command (u8)
                        CONTINUED  -
                        ENDED      wait status of the command (u32)
    to the child        START      flags (u8): own process group, foreground
                        SIGNAL     number (u8), whether all of our process group got it (u8)
                        RESUME     whether the terminal is the command's (u8)

Integers are in network byte order. Each process holds one end only, so each sees an end of file when the
other one is gone.

The child lives in namespaces in which the command is root, so its messages are not trusted. A message that is
not exactly of a kind that the receiver waits for counts as the end of file, for both sides and for good; the
descriptors that came with it are closed.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
from ipaddress import IPv6Address

from passt.light.values import IntEnum
from passt.process.signals import ASKING, FORWARDED

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_MESSAGE = 4096

_READY = struct.Struct("!I6s16s")
_STATUS = struct.Struct("!I")
_NO_ADDRESS = bytes(16)
_FD = struct.Struct("i")
_MIN_READY_FDS, _MAX_READY_FDS = 2, 6
_CONTROL_LEN = socket.CMSG_SPACE(_MAX_READY_FDS * _FD.size)  # READY has the most descriptors
_JOB_CONTROL = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
_MAX_STATUS = 0xFFFF  # waitpid(2) uses 16 bits


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


_PAYLOAD_LEN = {Kind.READY: _READY.size, Kind.STOPPED: 1, Kind.CONTINUED: 0, Kind.ENDED: _STATUS.size,
                Kind.START: 1, Kind.SIGNAL: 2, Kind.RESUME: 1}  # FAILED: any


class Message:
    """One message as received; *fds* are the descriptors that came with it, owned by the receiver."""

    __slots__ = ("fds", "kind", "payload")

    def __init__(self, kind: Kind, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        self.kind = kind
        self.payload = payload
        self.fds = fds


class Tap:
    """The tap as its namespace sees it: descriptor, TUN_F_* granted, hardware and link-local address.

    *namespace* is a descriptor of the network namespace, *port_sources* are descriptors for a
    `bound_ports.PortScanner`.
    """

    __slots__ = ("fd", "link_local", "mac", "namespace", "offloads", "port_sources")

    def __init__(self, fd: int, namespace: int, offloads: int, mac: bytes, link_local: IPv6Address | None,
                 port_sources: Sequence[int] = ()) -> None:
        self.fd = fd
        self.namespace = namespace
        self.offloads = offloads
        self.mac = mac
        self.link_local = link_local
        self.port_sources = port_sources


class Channel:
    """One end of the pair.

    *has_ended* says that the end of file was read, *is_broken* that the other side sent an invalid message,
    *has_lost_descriptors* that this process had no room for some descriptors.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.has_ended = False
        self.is_broken = False
        self.has_lost_descriptors = False

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
        """Send one message, with copies of *fds*; never blocks. False if the other end is gone or full.

        The queue is full only if the other process is stopped by hand; then a lost signal does not matter.
        """
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, b"".join(map(_FD.pack, fds)))] if fds else []
        flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
        try:
            self._sock.sendmsg([bytes((kind,)) + payload], rights, flags)
        except OSError:
            return False
        return True

    def receive(self, *kinds: Kind, wait: bool) -> Message | None:
        """Return the next message, which must be of one of *kinds*.

        None at the end of file (see `has_ended`), or when *wait* is False and there is none.
        """
        if self.has_ended:
            return None
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(
                MAX_MESSAGE, _CONTROL_LEN, socket.MSG_CMSG_CLOEXEC | (0 if wait else socket.MSG_DONTWAIT))
        except BlockingIOError:
            return None
        except ConnectionResetError:
            data, ancillary, flags = b"", [], 0
        fds = _descriptors(ancillary)
        if data and not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) and data[0] in kinds:
            message = Message(Kind(data[0]), data[1:], fds)
            if _is_valid(message):
                return message
        self._end(fds, is_broken=bool(data), has_lost_descriptors=bool(flags & socket.MSG_CTRUNC))
        return None

    def _end(self, fds: Iterable[int], *, is_broken: bool, has_lost_descriptors: bool) -> None:
        """Accept no more messages; the other side sees an end of file."""
        for fd in fds:
            os.close(fd)
        self.has_ended = True
        self.is_broken = is_broken
        self.has_lost_descriptors = has_lost_descriptors
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return                # the other side closed first

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
                         [tap.fd, tap.namespace, *tap.port_sources])

    def send_failed(self, text: str) -> bool:
        """Send FAILED; a text that is too long is cut."""
        return self.send(Kind.FAILED, text.encode(errors="replace")[:MAX_MESSAGE - 1])

    def send_ended(self, status: int) -> bool:
        """Send ENDED with the wait *status* of the command."""
        return self.send(Kind.ENDED, _STATUS.pack(status))


def read_ready(message: Message) -> Tap:
    """Decode READY."""
    offloads, mac, address = _READY.unpack(message.payload)
    fd, namespace, *sources = message.fds
    link_local = None if address == _NO_ADDRESS else IPv6Address(address)
    return Tap(fd, namespace, offloads, mac, link_local, sources)


def read_status(message: Message) -> int:
    """Decode ENDED: a wait status for os.WIFEXITED and so on."""
    status: int = _STATUS.unpack(message.payload)[0]
    return status


def _is_valid(message: Message) -> bool:
    """Tell whether length, descriptors and values of a message are those of its kind."""
    kind, payload = message.kind, message.payload
    least, most = (_MIN_READY_FDS, _MAX_READY_FDS) if kind is Kind.READY else (0, 0)
    if len(payload) != _PAYLOAD_LEN.get(kind, len(payload)) or not least <= len(message.fds) <= most:
        return False
    if kind is Kind.STOPPED:
        return payload[0] in _JOB_CONTROL
    if kind is Kind.ENDED:
        status = read_status(message)
        return status <= _MAX_STATUS and (os.WIFEXITED(status) or os.WIFSIGNALED(status))
    return kind is not Kind.SIGNAL or payload[0] in FORWARDED or payload[0] == ASKING


def _descriptors(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    """Return the descriptors in control messages; the kernel has closed those that found no room."""
    found: list[int] = []
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found += [fd for (fd,) in _FD.iter_unpack(data[:len(data) // _FD.size * _FD.size])]
    return found
