"""Messages for the user: one line each, on standard error.

A level is set once, at start. With `-d` every line begins with the seconds since the start, S.FFFF.
Whatever a message contains, it stays one line: characters that are not printable are escaped, since
texts from the command line, the host or the guest may end up in it. A line is one write(2) to the
descriptor, so nothing is lost at fork or exit; a line that cannot be written is dropped, because a
full or closed pipe must not end the program.

The logger of the process is the one mutable object at module level in this package: its functions
are called from places that no argument could reach. Tests make loggers of their own.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

# Severities, numbered as in syslog(3).
ERR = 3
WARNING = 4
INFO = 6
DEBUG = 7

MAX_KEYS = 256          # keys of repeated messages that are remembered; then the oldest is forgotten
WINDOW_S = 1.0
MAX_PER_WINDOW = 5


def escape(text: str) -> str:
    r"""Make *text* safe to show on one line: what is not printable becomes \n, \x1b, \u2028 and so on."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text
    )


class _Window:
    """Counts the uses of one key from *start_s* on; *n_held* were not printed."""

    __slots__ = ("n_held", "n_printed", "start_s")

    def __init__(self, start_s: float) -> None:
        self.start_s = start_s
        self.n_printed = 0
        self.n_held = 0


class Logger:
    """Prints messages up to a level on descriptor *fd*; *clock* gives seconds and never goes back."""

    def __init__(self, fd: int = 2, clock: Callable[[], float] = time.monotonic) -> None:
        self._fd = fd
        self._clock = clock
        self._start_s = clock()
        self._level = INFO
        self._windows: dict[str, _Window] = {}

    def configure(self, *, debug: bool = False, quiet: bool = False) -> None:
        """Choose the level: debug messages too, or warnings and errors only, or else info and above."""
        self._level = DEBUG if debug else WARNING if quiet else INFO

    def leave_terminal(self) -> None:
        """Print nothing more on standard error: the program goes on in the background."""
        self._fd = -1

    def is_debug(self) -> bool:
        """Tell whether debug messages are printed, where making one is dear."""
        return self._level >= DEBUG

    def message(self, level: int, text: str) -> None:
        """Print *text* as one line if *level* is wanted."""
        if level > self._level:
            return
        stamp = f"{self._clock() - self._start_s:.4f}: " if self._level >= DEBUG else ""
        try:
            os.write(self._fd, f"{stamp}{escape(text)}\n".encode())
        except OSError:
            return

    def err(self, text: str) -> None:
        """Print an error."""
        self.message(ERR, text)

    def warning(self, text: str) -> None:
        """Print a warning."""
        self.message(WARNING, text)

    def info(self, text: str) -> None:
        """Print something that is good to know."""
        self.message(INFO, text)

    def debug(self, text: str) -> None:
        """Print a detail for `-d`."""
        self.message(DEBUG, text)

    def once(self, level: int, key: str, text: str) -> None:
        """Print only the first message of this *key*."""
        if key not in self._windows:
            self._open_window(key).n_printed = 1
            self.message(level, text)

    def limited(self, level: int, key: str, text: str) -> None:
        """Print at most five messages of this *key* in a second; the next one tells how many were not."""
        window = self._windows.get(key)
        n_held = 0
        if window is None or self._clock() - window.start_s >= WINDOW_S:
            n_held = window.n_held if window is not None else 0
            window = self._open_window(key)
        if window.n_printed >= MAX_PER_WINDOW:
            window.n_held += 1
            return
        window.n_printed += 1
        self.message(level, f"{text} ({n_held} more not shown)" if n_held else text)

    def _open_window(self, key: str) -> _Window:
        self._windows.pop(key, None)
        if len(self._windows) >= MAX_KEYS:
            del self._windows[next(iter(self._windows))]
        window = self._windows[key] = _Window(self._clock())
        return window


_process_logger = Logger()
configure = _process_logger.configure
is_debug = _process_logger.is_debug
leave_terminal = _process_logger.leave_terminal
err = _process_logger.err
warning = _process_logger.warning
info = _process_logger.info
debug = _process_logger.debug
once = _process_logger.once
limited = _process_logger.limited
