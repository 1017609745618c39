"""A netlink socket whose kernel is a test's script."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from passt.host.rtnetlink import messages

if TYPE_CHECKING:
    from collections.abc import Sequence


class ScriptedSocket:
    """Stands in for the socket: hands out datagrams, and raises errors."""

    def __init__(self, script: Sequence[bytes | OSError], *, sender: int = 0, flags: int = 0) -> None:
        self.script = list(script)
        self.sender = sender
        self.flags = flags

    def recvmsg(self, _length: int) -> tuple[bytes, list[object], int, tuple[int, int]]:
        """Do what comes next."""
        if not self.script:
            raise BlockingIOError(errno.EAGAIN, "nothing more to read")
        step = self.script.pop(0)
        if isinstance(step, OSError):
            raise step
        return step, [], self.flags, (self.sender, 1)

    def close(self) -> None:
        """Do nothing."""

    def fileno(self) -> int:
        """Give a descriptor that nobody watches."""
        return -1


def datagram(*parts: tuple[int, bytes]) -> bytes:
    """Make a datagram of messages, each a type and a payload."""
    return b"".join(messages.build_message(kind, 0, 0, payload) for kind, payload in parts)
