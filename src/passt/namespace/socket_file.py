"""The files of a command's sockets for its caller, which go when the command ends.

Only PID 1 of the command's namespaces sees the host's files when that happens. It keeps the directories open
from before the command runs, as the command may mount over any path. The name in there may be another file
by then, as another program may have taken the path; that one stays.
"""

from __future__ import annotations

import os

from passt import log


class SocketFile:
    """The files *paths*, to be removed later by `remove`; what cannot be opened or removed stays."""

    def __init__(self, *paths: str) -> None:
        self._files: list[tuple[int, str, tuple[int, int]]] = []  # directory, name, identity
        for path in paths:
            fd = -1
            try:
                fd = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                name = os.path.basename(path)
                self._files.append((fd, name, _look(fd, name)))
            except OSError as error:
                log.debug(f"the socket {path} will stay behind: {error.strerror}")
                if fd >= 0:
                    os.close(fd)

    def descriptors(self) -> tuple[int, ...]:
        """Return the descriptors that `remove` needs."""
        return tuple(fd for fd, _, _ in self._files)

    def remove(self) -> None:
        """Remove each file if it is still the same one."""
        for fd, name, identity in self._files:
            try:
                if _look(fd, name) == identity:
                    os.unlink(name, dir_fd=fd)
            except OSError:
                continue          # somebody else has removed it, or closed the directory to us


def _look(fd: int, name: str) -> tuple[int, int]:
    found = os.stat(name, dir_fd=fd, follow_symlinks=False)
    return found.st_dev, found.st_ino
