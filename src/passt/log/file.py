"""The log file of -l: bounded, and cut at its beginning without being opened again.

Theory of operation. The file is opened once, at start, with the caller's rights; later its path may be out of
reach. Before a line that would exceed the bound, the oldest 30 % of the lines are removed: the other lines
are copied down, and the file is truncated behind them. This works on any file system, and a reader that
follows the file sees it shrink. The first line keeps the program, its version and the process that opened the
file; after a cut it has the time of the cut too.

Each write asks for the size of the file, since the processes of a start share it.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys

from passt import __version__
from passt.errors import HostError
from passt.log.output_file import open_output

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

CUT = 0.3
PAGE = 4096
_CHUNK = 1 << 16
_PREFIXES = {3: "ERROR:   ", 4: "WARNING: ", 6: "info:    "}
_NO_PREFIX = " " * 9


class LogFile:
    """The file *path*, emptied, then with its first line, of at most *size* bytes from now on.

    *clock* gives the seconds since the start. Raises HostError.
    """

    def __init__(self, path: str, size: int, program: str, clock: Callable[[], float]) -> None:
        self._size = size
        self._clock = clock
        self.fd, made = _open(path)
        self._is_bounded = stat.S_ISREG(os.fstat(self.fd).st_mode)
        header = f"{program} {__version__}: {_called(sys.argv[0])} ({os.getpid()})"
        self._header = header
        try:
            if self._is_bounded:
                os.ftruncate(self.fd, 0)
            self._append(f"{header}\n".encode(errors="backslashreplace"))
        except OSError as error:
            os.close(self.fd)
            if made is not None:
                os.unlink(made)
            raise HostError(_explain(path, error)) from None

    def write(self, level: int, text: str) -> None:
        """Append *text*, one line without its newline; a line that cannot be written is dropped."""
        stamp = f"{self._clock():.4f}"
        line = f"{stamp}: {_PREFIXES.get(level, _NO_PREFIX)}{text}\n".encode()
        try:
            if self._is_bounded and os.fstat(self.fd).st_size + len(line) > self._size:
                self._cut(stamp)
            self._append(line)
        except OSError:
            return

    def _append(self, line: bytes) -> None:
        n = os.write(self.fd, line)
        if n < len(line) and self._is_bounded:
            # A full disk took part of the line: the next line must not continue it.
            os.ftruncate(self.fd, os.fstat(self.fd).st_size - n)

    def _cut(self, stamp: str) -> None:
        """Make room by removing the oldest lines."""
        flags = fcntl.fcntl(self.fd, fcntl.F_GETFL)
        # With O_APPEND Linux ignores the offset of pwrite(2), "BUGS".
        fcntl.fcntl(self.fd, fcntl.F_SETFL, flags & ~os.O_APPEND)
        try:
            self._copy_down(f"{self._header} - log truncated at {stamp}\n".encode(errors="backslashreplace"))
        finally:
            fcntl.fcntl(self.fd, fcntl.F_SETFL, flags)

    def _copy_down(self, header: bytes) -> None:
        away = -(-int(self._size * CUT) // PAGE) * PAGE
        size = os.fstat(self.fd).st_size
        source = self._line_from(size - (self._size - away - len(header)), size)
        target = os.pwrite(self.fd, header, 0)
        while source < size and (chunk := os.pread(self.fd, min(_CHUNK, size - source), source)):
            source += len(chunk)
            target += os.pwrite(self.fd, chunk, target)
        os.ftruncate(self.fd, target)

    def _line_from(self, place: int, size: int) -> int:
        """Return the offset of the first line that begins at *place* or behind it."""
        place -= 1
        while place < size:
            chunk = os.pread(self.fd, _CHUNK, place)
            found = chunk.find(b"\n")
            if found >= 0 or not chunk:
                return place + found + 1
            place += len(chunk)
        return size


def _open(path: str) -> tuple[int, str | None]:
    """Open the file above descriptor 2; also return its path if it was created. Raises HostError."""
    try:
        fd, made = open_output(path, os.O_RDWR | os.O_APPEND)
    except (OSError, ValueError) as error:
        raise HostError(_explain(path, error)) from None
    if fd > 2:
        return fd, made
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return moved, made


def _called(name: str) -> str:
    """Return what the program was called by: a path, absolute as far as that can be known, or a name."""
    if "/" not in name:
        return name               # found on PATH, where is not known any more
    try:
        return os.path.abspath(name)
    except OSError:
        return name               # the working directory was removed


def _explain(path: str, error: OSError | ValueError) -> str:
    why = error.strerror if isinstance(error, OSError) else "not a path"
    return (f"option '--log-file': cannot write '{path}': {why}; name another file, or leave the option out"
            " for the system log")
