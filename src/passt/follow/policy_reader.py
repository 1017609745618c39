"""The reader of the file of --policy: reads it again for the main process, which has no path any more.

It is the program that reads resolv.conf too (`follow.reader`), with the same user, Landlock and filter. It
reads one file, whose path nobody can change, whenever a byte comes; what the byte is does not matter.
"""

from __future__ import annotations

import socket

from passt import log
from passt.follow.reader import FileReader

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from passt.process.identity import Identity

_UNCHANGED = "the rules of egress stay as they are"


class PolicyReader(FileReader):
    """The reader of the file at *path*: its content comes when it was asked for."""

    def __init__(self, path: str, user: Identity | None) -> None:
        super().__init__("ask", path, user)

    def ask(self) -> None:
        """Have the file read."""
        try:
            self._channel.send(b"?", socket.MSG_NOSIGNAL)
        except OSError:
            pass                   # it has ended, and that was told; or it has been asked very often

    def _on_fault(self, text: str) -> None:
        log.warning(f"option '--policy' {self._path}: {text}; {_UNCHANGED}")

    def _on_end(self, text: str) -> None:
        log.warning(f"{text}: {_UNCHANGED}")
