"""The process that reads the file of --policy again for the main process, which has no path any more.

It is forked while paths are there, as the reader of resolv.conf is (`follow.reader`), with the same user,
Landlock and filter. It reads one file, whose path nobody can change, whenever a byte comes; what the byte is
does not matter. It ends with the main process.

An answer on the channel: whether there is a content, a length, and the content or what was wrong.
"""

from __future__ import annotations

import os
import socket
from struct import Struct

from passt import log
from passt.config.policy_file import MAX_LEN
from passt.errors import HostError
from passt.process import helper

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from passt.follow.reader import Loop
    from passt.process.identity import Identity

FORM = "reader"                    # of the filter
_HEAD = Struct("!?I")
_PIECE = 1 << 16
_UNCHANGED = "the rules of egress stay as they are"
_MAX_MESSAGE = _HEAD.size + MAX_LEN + 1


class PolicyReader:
    """The reader of the file at *path*, with the rights of *user*; forked at once. Raises HostError.

    Call with one thread, before any right is given up.
    """

    def __init__(self, path: str, user: Identity | None) -> None:
        self._path = path
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            pid = os.fork()
        except OSError as error:
            raise HostError(f"cannot start the process that reads {path}: {error.strerror}") from None
        if pid == 0:
            _run(theirs, path, user)
        theirs.close()
        ours.setblocking(False)
        self._channel = ours
        self._buffer = b""

    def start(self, loop: Loop, on_content: Callable[[bytes], None]) -> None:
        """Have *loop* call *on_content* with the content of the file, after each `ask`."""
        loop.add_reader(self._channel.fileno(), lambda: self._on_readable(loop, on_content))

    def ask(self) -> None:
        """Have the file read."""
        try:
            self._channel.send(b"?")
        except OSError:
            pass                   # it has ended, and that was told; or it has been asked very often

    def _on_readable(self, loop: Loop, on_content: Callable[[bytes], None]) -> None:
        try:
            piece = self._channel.recv(_PIECE)
        except BlockingIOError:
            return
        except ConnectionResetError:
            piece = b""
        self._buffer += piece
        if not piece or len(self._buffer) > 2 * _MAX_MESSAGE:
            loop.remove_reader(self._channel.fileno())
            self._channel.close()
            log.warning(f"the process that reads {self._path} has ended: {_UNCHANGED}")
            return
        while len(self._buffer) >= _HEAD.size:
            is_content, length = _HEAD.unpack_from(self._buffer)
            end = _HEAD.size + length
            if len(self._buffer) < end:
                return
            content, self._buffer = self._buffer[_HEAD.size:end], self._buffer[end:]
            if is_content:
                on_content(content)
            else:
                fault = content.decode(errors="replace")
                log.warning(f"option '--policy' {self._path}: {fault}; {_UNCHANGED}")


def _run(channel: socket.socket, path: str, user: Identity | None) -> NoReturn:
    """Be the reader until the main process has gone."""
    try:
        path = os.path.abspath(path)
        helper.detach("passt-policy", (channel.fileno(),))
        helper.confine(FORM, user, reads=True)
        while os.read(channel.fileno(), 1):
            channel.sendall(build_answer(path))
    finally:
        os._exit(0)


def build_answer(path: str) -> bytes:
    """Read the file at *path*; return the message about it."""
    try:
        content = _read(path)
    except OSError as error:
        text = (error.strerror or str(error)).encode()
        return _HEAD.pack(False, len(text)) + text
    return _HEAD.pack(True, len(content)) + content


def _read(path: str) -> bytes:
    """Read no more than what shows that a file is too long. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        content = b""
        while len(content) <= MAX_LEN and (piece := os.read(fd, MAX_LEN + 1 - len(content))):
            content += piece
    finally:
        os.close(fd)
    return content
