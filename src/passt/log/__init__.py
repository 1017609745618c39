"""Messages for the user: one line each, on standard error, in a file, or in the system log.

Where a line goes: to standard error while the caller listens there, that is until the program goes to the
background (`leave_terminal`), and once a command has the terminal, warnings and errors only
(`share_terminal`); besides, to the log file if there is one, else to the system log if one was opened,
which programs that go to the background do. A level is set once, at start. In the file, and with `-d`
on standard error if there is no file, every line begins with the seconds since the start, S.FFFF.

Whatever a message contains, it stays one line of bounded length: characters that are not printable are
escaped, since texts from the command line, the host or the guest may end up in it. A line is one write(2)
to the descriptor, so nothing is lost at fork or exit; a line that cannot be written is dropped, because a
full or closed pipe must not end the program. Lines that a guest or a remote can cause are `limited`.

The logger of the process is the one mutable object at module level in this package: its functions
are called from places that no argument could reach. Tests make loggers of their own.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.log.file import LogFile
    from passt.log.syslog import Syslog

# Severities, numbered as in syslog(3).
ERR = 3
WARNING = 4
INFO = 6
DEBUG = 7

MAX_KEYS = 256          # keys of repeated messages that are remembered; then the oldest is forgotten
WINDOW_S = 1.0
MAX_PER_WINDOW = 5
MAX_FRAMES = 32         # of a failure, the innermost ones
MAX_CAUSES = 8
MAX_LEN = 2000          # of a line; no message of ours is longer, but names in it may be


def escape(text: str) -> str:
    r"""Make *text* safe to show on one line: what is not printable becomes \n, \x1b, \u2028 and so on."""
    if not text.isprintable():
        text = "".join(
            # Not by the codec unicode_escape, whose module would have to be loaded now.
            letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text
        )
    return text if len(text) <= MAX_LEN else f"{text[:MAX_LEN]}..."


def describe_failure(error: BaseException) -> list[str]:
    """Say in lines what *error* is, where it came from, and what it was raised from.

    Loads nothing, unlike the module traceback: the program's files may be out of reach by now.
    """
    lines: list[str] = []
    cause: BaseException | None = error
    for _ in range(MAX_CAUSES):
        if cause is None:
            break
        before = "" if cause is error else "raised from "
        lines.append(f"{before}{type(cause).__name__}: {cause}")
        frames: list[str] = []
        step = cause.__traceback__
        while step is not None:
            code = step.tb_frame.f_code
            frames.append(f"    line {step.tb_lineno} of {code.co_filename}, in {code.co_name}")
            step = step.tb_next
        lines += reversed(frames[-MAX_FRAMES:])
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return lines


class _Window:
    """Counts the uses of one key from *start_s* on; *n_held*, the last of them *text*, were not printed."""

    __slots__ = ("level", "n_held", "n_printed", "start_s", "text")

    def __init__(self, start_s: float) -> None:
        self.start_s = start_s
        self.n_printed = 0
        self.n_held = 0
        self.level = INFO
        self.text = ""


class Logger:
    """Prints messages up to a level on descriptor *fd*; *clock* gives seconds and never goes back."""

    def __init__(self, fd: int = 2, clock: Callable[[], float] = time.monotonic) -> None:
        self._fd = fd
        self._clock = clock
        self._start_s = clock()
        self._level = INFO
        self._terminal_level = DEBUG
        self._file: LogFile | None = None
        self._syslog: Syslog | None = None
        self._windows: dict[str, _Window] = {}

    def configure(self, *, debug: bool = False, quiet: bool = False) -> None:
        """Choose the level: debug messages too, or warnings and errors only, or else info and above."""
        self._level = DEBUG if debug else WARNING if quiet else INFO

    def open_file(self, path: str, size: int, program: str) -> None:
        """Write to the file *path* too, which never gets larger than *size* bytes. Raises HostError."""
        from passt.log.file import LogFile

        self._file = LogFile(path, size, program, self._seconds)

    def open_syslog(self, program: str, path: str = "") -> None:
        """Write to the system log too; *path* is that of its socket, the usual one if it is empty."""
        from passt.log.syslog import DEV_LOG, Syslog

        self._syslog = Syslog(program, path or DEV_LOG)

    def descriptors(self) -> list[int]:
        """Descriptors that have to stay open."""
        found = (self._file.fd if self._file else -1, self._syslog.fileno() if self._syslog else -1)
        return [fd for fd in found if fd >= 0]

    def share_terminal(self) -> None:
        """Print warnings and errors only on standard error, unless with debug: it is a command's now."""
        if self._level < DEBUG:
            self._terminal_level = WARNING

    def leave_terminal(self) -> None:
        """Print nothing more on standard error: the program goes on in the background."""
        self._fd = -1

    def is_debug(self) -> bool:
        """Tell whether debug messages are printed, where making one is dear."""
        return self._level >= DEBUG

    def message(self, level: int, text: str) -> None:
        """Print *text* as one line if *level* is wanted."""
        if level <= self._level:
            self._print(level, text)

    def answer(self, text: str) -> None:
        """Print what the user asked for while we run, whatever the level is."""
        self._print(INFO, text, WARNING)

    def err(self, text: str) -> None:
        """Print an error."""
        self.message(ERR, text)

    def failure(self, name: str, error: BaseException) -> None:
        """Print a mistake of ours, line by line, after *name*: nobody can find it but by them."""
        self.tell_held()
        for line in describe_failure(error):
            self.err(f"{name}: {line}")

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
            window.level, window.text = level, text
            return
        window.n_printed += 1
        self.message(level, f"{text} ({n_held} more not shown)" if n_held else text)

    def tell_held(self) -> None:
        """Print the last of the messages held back by `limited`, and how many there were."""
        for window in self._windows.values():
            if window.n_held:
                before = f" ({window.n_held - 1} more not shown)" if window.n_held > 1 else ""
                window.n_held = 0
                self.message(window.level, f"{window.text}{before}")

    def _seconds(self) -> float:
        return self._clock() - self._start_s

    def _print(self, level: int, text: str, terminal_level: int | None = None) -> None:
        """Write a line wherever it belongs; *terminal_level* is its level on standard error, if another."""
        line = escape(text)
        if self._fd >= 0 and (terminal_level or level) <= self._terminal_level:
            stamp = f"{self._seconds():.4f}: " if self._level >= DEBUG and self._file is None else ""
            try:
                os.write(self._fd, f"{stamp}{line}\n".encode())
            except OSError:
                pass
        if self._file is not None:
            self._file.write(level, line)
        elif self._syslog is not None:
            self._syslog.send(level, line)

    def _open_window(self, key: str) -> _Window:
        self._windows.pop(key, None)
        if len(self._windows) >= MAX_KEYS:
            del self._windows[next(iter(self._windows))]
        window = self._windows[key] = _Window(self._clock())
        return window


_process_logger = Logger()
configure = _process_logger.configure
open_file = _process_logger.open_file
open_syslog = _process_logger.open_syslog
descriptors = _process_logger.descriptors
is_debug = _process_logger.is_debug
share_terminal = _process_logger.share_terminal
leave_terminal = _process_logger.leave_terminal
answer = _process_logger.answer
err = _process_logger.err
failure = _process_logger.failure
warning = _process_logger.warning
info = _process_logger.info
debug = _process_logger.debug
once = _process_logger.once
limited = _process_logger.limited
tell_held = _process_logger.tell_held
