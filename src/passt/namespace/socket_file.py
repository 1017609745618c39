"""The file of a command's configuration socket, which goes when the command ends.

Only PID 1 of the command's namespaces sees the host's files when that happens. It keeps the directory open
from before the command runs, as the command may mount over any path. The name in there may be another file
by then, as another program may have taken the path; that one stays.
"""

from __future__ import annotations

import os

from passt import log


class SocketFile:
    """The file *path*, to be removed later by `remove`; what cannot be opened or removed stays."""

    def __init__(self, path: str) -> None:
        self._name = os.path.basename(path)
        self._fd = -1
        self._identity: tuple[int, int] | None = None
        try:
            self._fd = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self._identity = self._look()
        except OSError as error:
            log.debug(f"the socket {path} will stay behind: {error.strerror}")

    def descriptors(self) -> tuple[int, ...]:
        """Return the descriptors that `remove` needs."""
        return (self._fd,) if self._fd >= 0 else ()

    def remove(self) -> None:
        """Remove the file if it is still the same one."""
        try:
            if self._fd >= 0 and self._identity is not None and self._look() == self._identity:
                os.unlink(self._name, dir_fd=self._fd)
        except OSError:
            return                # somebody else has removed it, or closed the directory to us

    def _look(self) -> tuple[int, int]:
        found = os.stat(self._name, dir_fd=self._fd, follow_symlinks=False)
        return found.st_dev, found.st_ino
