"""The main process's side of the program that reads resolv.conf for it: `src/helpers/reader.c`.

That is started while paths are there, and keeps its sight of them, but nobody can speak to it.

Messages on the channel: "c" and the content of the file, at the start and after each change.
"""

from __future__ import annotations

import os

from passt import log
from passt.process import privileges
from passt.process.small_program import SmallProgram

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from passt.process.identity import Identity

    class Loop(Protocol):
        """The part of `dataplane.engine.Engine` that is used."""

        def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
            """Call *callback* whenever *fd* is readable."""

        def remove_reader(self, fd: int) -> None:
            """Stop watching *fd*."""


FORM = "reader"                    # of the filter
_TO_CHANGE_USER = (1 << privileges.CAP_SETGID | 1 << privileges.CAP_SETUID | 1 << privileges.CAP_SETPCAP)
_CONTENT = b"c"
MAX_CONTENT = 64 * 1024            # bytes, as src/helpers/reader.c has it
_MAX_MESSAGE = len(_CONTENT) + MAX_CONTENT


class Reader:
    """The reader of the file at *path*, with the rights of *user*; started at once. Raises HostError.

    If it ends while it is needed, that is told at *level*. Call with one thread, before any right is
    given up.
    """

    def __init__(self, path: str, user: Identity | None, level: int = log.WARNING) -> None:
        self._path = path
        self._level = level
        ids = (-1, -1) if user is None else (user.uid, user.gid)
        arguments = (os.path.abspath(path), *map(str, ids))
        self._program = SmallProgram("reader")
        self._channel = self._program.start(FORM, arguments, (), capabilities=_TO_CHANGE_USER)
        self._channel.setblocking(False)

    def start(self, loop: Loop, on_content: Callable[[bytes], None]) -> None:
        """Have *loop* call *on_content* with the content of the file, now and after each change."""
        loop.add_reader(self._channel.fileno(), lambda: self._on_message(loop, on_content))

    def _on_message(self, loop: Loop, on_content: Callable[[bytes], None]) -> None:
        try:
            message = self._channel.recv(_MAX_MESSAGE)
        except BlockingIOError:
            return
        except ConnectionResetError:
            message = b""
        if message.startswith(_CONTENT):
            on_content(message[len(_CONTENT):])
            return
        loop.remove_reader(self._channel.fileno())
        self._channel.close()
        self._program.leave()
        log.once(self._level, "reader", f"the process that reads {self._path} has ended: changes of name"
                                        " servers and search domains are not followed any more")

