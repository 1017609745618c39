"""The user's terminal: single keys, no echo, the alternate screen, and output that never waits.

Theory of operation. The terminal is opened anew, for a description of our own: O_NONBLOCK on that of standard
output would be seen by the shell (open(2)). What a slow line does not take yet is kept, and `has_room` is
false until it has; nothing is drawn meanwhile, so what is kept is one screen at most and a line is never
behind by more. Where the terminal cannot be opened, as after su(1), writes may wait.

However the view ends, the terminal is as before: `leave` ends a sequence that was cut off (CAN, ECMA-48
8.3.6).
"""

from __future__ import annotations

import os
import select
import termios
import time

from passt.passtctl.top.painter import CLEAR

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from typing import Any

# The private modes of xterm: alternate screen, cursor, wrapping at the end of a line.
_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l" + CLEAR
_LEAVE = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
_CANCEL = "\x18"
_LEAVE_S = 2.0         # that a slow line has for the last words
READ_SIZE = 4096
_LFLAG, _CC = 3, 6     # of what tcgetattr returns


class Terminal:
    """The terminal of two descriptors; raises OSError if it is gone."""

    def __init__(self, in_fd: int = 0, out_fd: int = 1) -> None:
        self.in_fd = in_fd
        self._given_fd = out_fd
        try:
            flags = os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
            self.out_fd = os.open(os.ttyname(out_fd), flags)
        except OSError:
            self.out_fd = out_fd
        self._saved: list[Any] | None = None
        self._pending = b""

    def size(self) -> tuple[int, int]:
        """Return columns and lines."""
        try:
            width, height = os.get_terminal_size(self._given_fd)
        except OSError:
            width = height = 0
        return (width or 80, height or 24)     # a serial line does not know

    def enter(self) -> None:
        """Take the terminal, or take it again."""
        if self._saved is None:
            self._saved = termios.tcgetattr(self.in_fd)
        mode = termios.tcgetattr(self.in_fd)
        mode[_LFLAG] &= ~(termios.ICANON | termios.ECHO)
        mode[_CC][termios.VMIN], mode[_CC][termios.VTIME] = 1, 0
        termios.tcsetattr(self.in_fd, termios.TCSANOW, mode)
        self.write(_ENTER)

    def leave(self) -> None:
        """Give the terminal back; nothing if it was not taken."""
        if self._saved is None:
            return
        words = (_CANCEL if self._pending else "") + _LEAVE
        self._pending = b""
        end_s = time.monotonic() + _LEAVE_S
        try:
            self.write(words)
            while not self.has_room and time.monotonic() < end_s:
                watch = select.poll()
                watch.register(self.out_fd, select.POLLOUT)
                watch.poll(100)
                self.flush()
            termios.tcsetattr(self.in_fd, termios.TCSANOW, self._saved)
        except (OSError, termios.error):
            pass               # it is gone, and nothing of it is left to set right
        self._pending = b""
        self._saved = None

    @property
    def has_room(self) -> bool:
        """Whether all that was written has left."""
        return not self._pending

    def write(self, text: str) -> None:
        """Send *text*, or keep what the line does not take."""
        self._pending += text.encode()
        self.flush()

    def flush(self) -> None:
        """Send on what is kept."""
        try:
            while self._pending:
                self._pending = self._pending[os.write(self.out_fd, self._pending):]
        except BlockingIOError:
            pass

    def read(self) -> bytes:
        """Read what was typed; nothing at the end."""
        return os.read(self.in_fd, READ_SIZE)
