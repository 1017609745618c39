"""Starts the small C programs beside the main process: `src/helpers/`.

A fork of the interpreter keeps 3 MB that it does not share. posix_spawn(3) starts such a program, with an
empty environment and no descriptor but those that it is told. The first message on its channel is its filter
of system calls. The second descriptor is the read end of a pipe: when nobody has the write end any more, the
kernel ends the program, even one that is stopped (`src/helpers/confine.h`, end_with).
"""

from __future__ import annotations

import os
import socket

from passt.errors import HostError
from passt.process import privileges, seccomp

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Sequence

_DIRECTORY = os.path.dirname(os.path.abspath(__file__))


class SmallProgram:
    """The program *name*, found at once, so that it can be started by a user who may not look for it.

    Raises HostError if it is not there.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._life = -1
        self._path = os.path.join(_DIRECTORY, f"passt-{name}")
        try:
            self._fd = os.open(self._path, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            raise HostError(f"cannot open the program {self._path}: {error.strerror}; install the package"
                            " anew") from None

    def start(self, form: str, arguments: Sequence[str], fds: Sequence[int], *, capabilities: int = 0
              ) -> socket.socket:
        """Start it once, and return the channel.

        After its *arguments* it is told the numbers of its end, of the pipe, and of *fds*. *form* is that of
        its filter. It keeps *capabilities*, a mask of 1 << CAP_*, if we have them. One thread only. Raises
        HostError.
        """
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                self._start(form, arguments, (theirs.fileno(), *fds), ours, capabilities)
            except OSError:
                ours.close()
                raise
            finally:
                theirs.close()
        except OSError as error:
            self.leave()
            raise HostError(f"cannot start the program {self._path}: {error.strerror}") from None
        return ours

    def leave(self) -> None:
        """Have the program end at once, or never be started; it may be called again."""
        for fd in (self._life, self._fd):
            if fd >= 0:
                os.close(fd)
        self._life = self._fd = -1

    def _start(self, form: str, arguments: Sequence[str], fds: Sequence[int], channel: socket.socket,
               capabilities: int) -> None:
        """Start it with the pipe behind its end of the *channel*. Raises OSError."""
        life, self._life = os.pipe()
        try:
            passed = (fds[0], life, *fds[1:])
            self._spawn([*arguments, *map(str, passed)], passed, form, channel, capabilities)
        finally:
            os.close(life)
        os.close(self._fd)
        self._fd = -1

    def _spawn(self, arguments: Sequence[str], passed: Sequence[int], form: str, channel: socket.socket,
               capabilities: int) -> None:
        """Execute it with the descriptors *passed*, and send its filter. Raises OSError."""
        try:
            for fd in passed:
                os.set_inheritable(fd, True)
            with privileges.Lent(capabilities):
                pid = os.posix_spawn(self._find(), [f"passt-{self.name}", *arguments], {})
            channel.send(seccomp.program_of(form, pid), socket.MSG_NOSIGNAL)
        finally:
            for fd in passed:
                os.set_inheritable(fd, False)

    def _find(self) -> str:
        """Return a path by which our user finds it: the descriptor's, or its own where there is no /proc."""
        by_descriptor = f"/proc/self/fd/{self._fd}"
        return by_descriptor if os.path.exists(by_descriptor) else self._path
