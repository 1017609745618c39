"""The control socket of a session: whole messages with their descriptors, without ever blocking.

The kernel hands descriptors over with the bytes that they were sent with (unix(7)), so a read never goes
beyond the message that is being read: what comes with its bytes is its own.
"""

from __future__ import annotations

import os
import socket
import struct
import sys

from passt.errors import WireError
from passt.vhost_user.messages import HEADER_LEN, MAX_FDS, Header, build_reply, request_name

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_FD = struct.Struct("i")
_CONTROL_LEN = socket.CMSG_SPACE(MAX_FDS * _FD.size)


class EndOfSessionError(Exception):
    """The connection is at its end, or has to be; the text says why, for the user."""


class Message:
    """One request as received, with its descriptors until they are taken; `close` what is left."""

    __slots__ = ("fds", "header", "payload")

    def __init__(self, header: Header, payload: bytes, fds: Iterable[int] = ()) -> None:
        self.header = header
        self.payload = payload
        self.fds = [*fds]

    def require_fds(self, number: int) -> None:
        """Raise WireError unless *number* descriptors came with it."""
        if len(self.fds) != number:
            raise WireError(f"{len(self.fds)} descriptors; {number} would be right")

    def take_fd(self) -> int:
        """Hand over the only descriptor; the caller owns it. Raises WireError if there is not just one."""
        self.require_fds(1)
        return self.fds.pop()

    def close(self) -> None:
        """Close the descriptors that nobody has taken."""
        while self.fds:
            os.close(self.fds.pop())


class Connection:
    """Reads requests from, and sends replies to, the connected UNIX stream socket *fd*, which it owns."""

    def __init__(self, fd: int) -> None:
        self._sock = socket.socket(fileno=fd)
        self._data = bytearray()
        self._fds: list[int] = []
        self._header: Header | None = None

    @property
    def fd(self) -> int:
        """Descriptor, for polling."""
        return self._sock.fileno()

    def detach(self) -> None:
        """Leave the socket to who made this object."""
        self._sock.detach()

    def close(self) -> None:
        """Close the socket, and the descriptors of a message that is not whole."""
        self._sock.close()
        self._forget_fds()

    def receive(self) -> Message | None:
        """Return the next request; None if it is not whole yet. Raises EndOfSessionError."""
        if self._header is None:
            if not self._read(HEADER_LEN):
                return None
            self._header = self._parse_header()
        if not self._read(HEADER_LEN + self._header.size):
            return None
        message = Message(self._header, bytes(self._data[HEADER_LEN:]), self._fds)
        self._data.clear()
        self._fds, self._header = [], None
        return message

    def reply(self, request: int, payload: bytes, fds: Sequence[int] = ()) -> None:
        """Send the reply to *request* with copies of *fds*. Raises EndOfSessionError if it does not go."""
        data = build_reply(request, payload)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, b"".join(map(_FD.pack, fds)))] if fds else []
        try:
            n_sent = self._sock.sendmsg([data], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError as error:
            raise EndOfSessionError(f"it takes no reply to {request_name(request)}: {error.strerror}"
                                    ) from None
        if n_sent != len(data):
            raise EndOfSessionError(f"it takes no reply to {request_name(request)}")

    def _parse_header(self) -> Header:
        data = bytes(self._data)
        try:
            return Header.parse(data)
        except WireError as error:
            name = request_name(int.from_bytes(data[:4], sys.byteorder))
            raise EndOfSessionError(f"{name}: {error}") from None

    def _read(self, length: int) -> bool:
        """Read until *length* bytes of the message are there; False if that takes more than there is."""
        while len(self._data) < length:
            try:
                data, ancillary, flags, _ = self._sock.recvmsg(
                    length - len(self._data), _CONTROL_LEN, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return False
            except OSError as error:
                raise EndOfSessionError(f"it broke the connection: {error.strerror}") from None
            self._take(ancillary, is_cut=bool(flags & socket.MSG_CTRUNC))
            if not data:
                raise EndOfSessionError("it closed the connection in the middle of a message" if self._data
                                        else "it closed the connection")
            self._data += data
        return True

    def _take(self, ancillary: Iterable[tuple[int, int, bytes]], *, is_cut: bool) -> None:
        """Keep the descriptors that came with some bytes. Raises EndOfSessionError if there are too many."""
        n_before = len(self._fds)
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                usable = len(data) - len(data) % _FD.size
                self._fds += [fd for (fd,) in _FD.iter_unpack(data[:usable])]
        if len(self._fds) > MAX_FDS or (is_cut and len(self._fds) - n_before == MAX_FDS):
            raise EndOfSessionError(f"it sent more than {MAX_FDS} descriptors with one message")
        if is_cut:
            raise EndOfSessionError("this process has no room for the descriptors that it sent")

    def _forget_fds(self) -> None:
        while self._fds:
            os.close(self._fds.pop())
