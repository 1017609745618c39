"""Messages for the user: one line each, on standard error, in a file, or in the system log.

Where a line goes: to standard error until the program goes to the background (`leave_terminal`), and once a
command has the terminal, warnings and errors only (`share_terminal`); also to the log file if there is one,
else to the system log, which programs that go to the background open. The level is set at the start, and by
who asks for another (`control.api`). In the file, and with -d on standard error if there is no file, each
line begins with the seconds since the start, S.FFFF.

A message is always one line of bounded length: characters that are not printable are escaped, as texts from
the command line, the host or the guest may be part of it. A line is one write(2), so nothing is lost at fork
or exit; a line that cannot be written is dropped, because a full or closed pipe must not end the program.
Lines that a guest or a remote can cause are `limited`.

The logger of the process is the only mutable object at module level in this package: code that no argument
could reach calls its functions. Tests make loggers of their own.
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

MAX_KEYS = 256          # remembered keys of repeated messages; one more replaces the oldest
WINDOW_S = 1.0
MAX_PER_WINDOW = 5
MAX_FRAMES = 32         # innermost frames printed for a failure
MAX_CAUSES = 8
MAX_LEN = 2000          # characters in a line; only names from outside make one longer


def escape(text: str) -> str:
    r"""Escape *text* for one line: characters that are not printable become \n, \x1b, \u2028 and so on."""
    if not text.isprintable():
        text = "".join(
            # Not by the codec unicode_escape, whose module would have to be loaded now.
            letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text
        )
    return text if len(text) <= MAX_LEN else f"{text[:MAX_LEN]}..."


def describe_failure(error: BaseException) -> list[str]:
    """Describe *error* in lines: its text, its stack frames, and its causes.

    Unlike the module traceback it imports nothing, as the program's files may be unreadable by now.
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
        self._pid = os.getpid()
        self._level = INFO
        self._shares_terminal = False
        self._file: LogFile | None = None
        self._syslog: Syslog | None = None
        self._windows: dict[str, _Window] = {}

    def configure(self, *, debug: bool = False, quiet: bool = False) -> None:
        """Set the level: all messages with *debug*, warnings and errors with *quiet*, else info and above."""
        self._level = DEBUG if debug else WARNING if quiet else INFO

    def open_file(self, path: str, size: int, program: str) -> None:
        """Write to the file *path* too, and keep it below *size* bytes. Raises HostError."""
        from passt.log.file import LogFile

        self._file = LogFile(path, size, program, self._seconds)

    def open_syslog(self, program: str, path: str = "") -> None:
        """Write to the system log too; *path* is its socket, by default the usual one."""
        from passt.log.syslog import DEV_LOG, Syslog

        self._syslog = Syslog(program, path or DEV_LOG)

    def set_pid(self, pid: int) -> None:
        """Call ourselves *pid* in messages: the PID as our caller sees it."""
        self._pid = pid
        if self._syslog is not None:
            self._syslog.pid = pid

    def own_pid(self) -> int:
        """Return our PID as our caller sees it."""
        return self._pid

    def descriptors(self) -> list[int]:
        """Return the descriptors that must stay open."""
        found = (self._file.fd if self._file else -1, self._syslog.fileno() if self._syslog else -1)
        return [fd for fd in found if fd >= 0]

    def share_terminal(self) -> None:
        """Print warnings and errors only on standard error, which a command uses now, unless it is debug."""
        self._shares_terminal = True

    def leave_terminal(self) -> None:
        """Stop printing on standard error: the program goes to the background."""
        self._fd = -1

    def leave_paths(self) -> None:
        """Do without paths from now on: what is open stays, nothing is opened again."""
        if self._syslog is not None:
            self._syslog.leave_paths()

    def level(self) -> int:
        """Return the level up to which messages are printed."""
        return self._level

    def is_debug(self) -> bool:
        """Tell whether debug messages are printed; asked where making one is expensive."""
        return self._level >= DEBUG

    def message(self, level: int, text: str) -> None:
        """Print *text* as one line if *level* is wanted."""
        if level <= self._level:
            self._print(level, text)

    def answer(self, text: str) -> None:
        """Print an answer to a question of the user, at any level."""
        self._print(INFO, text, WARNING)

    def err(self, text: str) -> None:
        """Print an error."""
        self.message(ERR, text)

    def failure(self, name: str, error: BaseException) -> None:
        """Print a bug of ours after *name*, with all lines of `describe_failure`."""
        self.tell_held()
        for line in describe_failure(error):
            self.err(f"{name}: {line}")

    def warning(self, text: str) -> None:
        """Print a warning."""
        self.message(WARNING, text)

    def info(self, text: str) -> None:
        """Print an information."""
        self.message(INFO, text)

    def debug(self, text: str) -> None:
        """Print a detail, for -d."""
        self.message(DEBUG, text)

    def once(self, level: int, key: str, text: str) -> None:
        """Print only the first message of this *key*."""
        if key not in self._windows:
            self._open_window(key).n_printed = 1
            self.message(level, text)

    def limited(self, level: int, key: str, text: str) -> None:
        """Print at most five messages of this *key* a second; the next one counts those left out."""
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
        """Print the last message of each key that `limited` held back, and the number of those."""
        for window in self._windows.values():
            if window.n_held:
                before = f" ({window.n_held - 1} more not shown)" if window.n_held > 1 else ""
                window.n_held = 0
                self.message(window.level, f"{window.text}{before}")

    def _seconds(self) -> float:
        return self._clock() - self._start_s

    def _print(self, level: int, text: str, terminal_level: int | None = None) -> None:
        """Write a line to all its places; *terminal_level* is its level on standard error, if different."""
        line = escape(text)
        limit = WARNING if self._shares_terminal and self._level < DEBUG else DEBUG
        if self._fd >= 0 and (terminal_level or level) <= limit:
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
own_pid = _process_logger.own_pid
set_pid = _process_logger.set_pid
is_debug = _process_logger.is_debug
level = _process_logger.level
share_terminal = _process_logger.share_terminal
leave_paths = _process_logger.leave_paths
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
