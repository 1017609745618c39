"""The capture that the view starts: `passtctl capture` as a process of its own.

The module subprocess is loaded when a capture begins; most views see none.
"""

from __future__ import annotations

import os
import signal
import sys

import passt

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence

_MAIN = os.path.join(os.path.dirname(os.path.abspath(passt.__file__)), "__main__.py")


class Recorder:
    """Runs one capture at a time of the instance behind the socket *path*."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self, file: str, words: Sequence[str]) -> str | None:
        """Capture to *file*; return why that is not possible, or None."""
        import subprocess

        if file.startswith("-"):
            file = f"./{file}"       # a file, not an option or standard output
        argv = [sys.executable, "-IS", _MAIN, "passtctl", "-s", self._path, "capture", "-w", file, *words]
        try:
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                             stderr=subprocess.PIPE)
        except OSError as error:
            return f"cannot start passtctl capture: {error.strerror}"
        return None

    def end(self) -> None:
        """Ask the capture to end; `poll` tells when it has."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)

    def poll(self) -> str | None:
        """Return what the capture said last, once it has ended; None before."""
        process = self._process
        if process is None or process.poll() is None:
            return None
        self._process = None
        assert process.stderr is not None  # noqa: S101 - it is a pipe
        with process.stderr:
            os.set_blocking(process.stderr.fileno(), False)
            said = (process.stderr.read() or b"").decode(errors="replace").strip().splitlines()
        return said[-1] if said else f"the capture has ended with status {process.returncode}"

    def finish(self) -> str | None:
        """End the capture and wait for it; return what it said last, None if there was none."""
        import subprocess

        if self._process is None:
            return None
        self.end()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        return self.poll()
