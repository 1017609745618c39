"""The main process's side of the program that reads a file for it: `src/helpers/reader.c`.

That is started while paths are there, and keeps its sight of them, but nobody can tell it what to read.

Messages on the channel, from the program: "c" and the content of the file, after "m" and a piece of it, any
number of times; "e" and an errno, i32: it cannot be read. To a program that waits to be asked: any byte.
"""

from __future__ import annotations

import os
import time
from struct import Struct

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

        def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
            """Call *callback* once, after *delay_s* seconds."""


FORM = "reader"                    # of the filter
_TO_CHANGE_USER = (1 << privileges.CAP_SETGID | 1 << privileges.CAP_SETUID | 1 << privileges.CAP_SETPCAP)
_CONTENT, _PIECE, _FAULT = b"c", b"m", b"e"
_ERRNO = Struct("=i")
MAX_CONTENT = 64 * 1024            # bytes of a message, as src/helpers/reader.c has it
MAX_ASKED = (1 << 20) + 1          # bytes of a file that is asked for, as there
_MAX_READ = 16                     # messages of one turn


class FileReader:
    """The reader of the file at *path*, with the rights of *user*; started at once. Raises HostError.

    *how* is "watch" or "ask". Call with one thread, before any right is given up.
    """

    def __init__(self, how: str, path: str, user: Identity | None) -> None:
        self._path = path
        self._pieces = b""
        ids = (-1, -1) if user is None else (user.uid, user.gid)
        arguments = (how, os.path.abspath(path), *map(str, ids))
        self._program = SmallProgram("reader")
        self._channel = self._program.start(FORM, arguments, (), capabilities=_TO_CHANGE_USER)
        self._channel.setblocking(False)

    def start(self, loop: Loop, on_content: Callable[[bytes], None]) -> None:
        """Have *loop* call *on_content* with the content of the file, each time that it comes."""
        loop.add_reader(self._channel.fileno(), lambda: self._on_message(loop, on_content))

    def _on_message(self, loop: Loop, on_content: Callable[[bytes], None]) -> None:
        try:
            message = self._channel.recv(len(_CONTENT) + MAX_CONTENT)
        except BlockingIOError:
            return
        except ConnectionResetError:
            message = b""
        kind, data = message[:1], message[1:]
        if kind in {_PIECE, _CONTENT} and len(self._pieces) + len(data) <= MAX_ASKED:
            self._pieces += data
            if kind == _CONTENT:
                content, self._pieces = self._pieces, b""
                on_content(content)
        elif kind == _FAULT and len(data) == _ERRNO.size:
            self._pieces = b""
            self._on_fault(os.strerror(_ERRNO.unpack(data)[0]))
        else:
            self._end(loop)

    def _end(self, loop: Loop) -> None:
        loop.remove_reader(self._channel.fileno())
        self._channel.close()
        self._program.leave()
        self._on_end(f"the process that reads {self._path} has ended")

    def _on_fault(self, text: str) -> None:
        """Tell that the file cannot be read."""

    def _on_end(self, text: str) -> None:
        """Tell that no content will come any more."""


class Reader(FileReader):
    """The reader of resolv.conf at *path*: its content comes at the start and after each change.

    However often the file changes, the newest content is taken, and then none for as long as a reading of
    the host rests; *work_clock* is as for `follow.gatherer.Gatherer`. If the program ends while it is needed,
    that is told at *level*.
    """

    def __init__(self, path: str, user: Identity | None, level: int = log.WARNING,
                 work_clock: Callable[[], float] = time.thread_time) -> None:
        super().__init__("watch", path, user)
        self._level = level
        self._work_clock = work_clock

    def _on_message(self, loop: Loop, on_content: Callable[[bytes], None]) -> None:
        # A start that never sees a change does without it (`follow.lookout`).
        from passt.follow.gatherer import rest_s

        begun_at = self._work_clock()
        message = self._newest()
        if message is None:
            return
        if not message.startswith(_CONTENT):
            self._end(loop)
            return
        # Meanwhile the program waits, as soon as the channel is full.
        loop.remove_reader(self._channel.fileno())
        on_content(message[len(_CONTENT):])
        loop.call_later(rest_s(self._work_clock() - begun_at), lambda: self.start(loop, on_content))

    def _newest(self) -> bytes | None:
        """Read what has come, and return the last of it: empty at the end, None if nothing was there."""
        newest = None
        for _ in range(_MAX_READ):
            try:
                message = self._channel.recv(len(_CONTENT) + MAX_CONTENT)
            except BlockingIOError:
                break
            except ConnectionResetError:
                message = b""
            if not message:
                return newest or b""
            newest = message
        return newest

    def _on_end(self, text: str) -> None:
        log.once(self._level, "reader",
                 f"{text}: changes of name servers and search domains are not followed any more")
