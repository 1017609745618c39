"""The main process's side of a program that reads a file, with a loop of its own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Generic, TypeVar

from tests.support.control import PollLoop
from tests.support.processes import all_children, is_readable, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.follow.reader import FileReader

R = TypeVar("R", bound="FileReader")


class ReaderBench(Generic[R]):
    """Starts what *make* makes, as a child of this process, and takes what it sends."""

    def __init__(self, make: Callable[[], R]) -> None:
        before = set(all_children(os.getpid()))
        self.reader = make()
        (self.pid,) = set(all_children(os.getpid())) - before
        self.loop = PollLoop()
        self.contents: list[bytes] = []
        self.reader.start(self.loop, self.contents.append)

    def turn(self) -> None:
        """Take what has come."""
        for fd, (callback, _) in list(self.loop.watched.items()):
            while fd in self.loop.watched and is_readable(fd):
                callback()
        self.loop.fire()

    def until(self, content: bytes) -> None:
        """Run the loop until *content* is the newest."""
        def has_come() -> bool:
            self.turn()
            return self.contents[-1:] == [content]

        wait_until(has_come, f"{content[:100]!r} comes")

    def end(self) -> None:
        """Leave the program, and wait for its end."""
        self.reader._channel.close()
        assert os.waitpid(self.pid, 0)[1] == 0
