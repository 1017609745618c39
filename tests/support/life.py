"""Starts support/life_driver.py as root or as a plain user, and looks for what it leaves behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.processes import LIMIT_S, is_readable, read, wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

TREE = Path(__file__).parent.parent.parent
DRIVER = str(TREE / "tests" / "support" / "life_driver.py")
# The interpreter itself: that of a virtual environment may lie in a directory closed to plain users.
PYTHON = str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
UID = 54321
# A private /dev/net with a tun node that is open to all; nothing changes outside this mount namespace.
AS_USER = ["unshare", "--mount", "sh", "-c",
           ("mount -t tmpfs none /dev/net && mknod /dev/net/tun c 10 200 && chmod 666 /dev/net/tun && "
            'exec setpriv --reuid="$0" --regid="$0" --clear-groups --inh-caps=-all -- "$@"'), str(UID)]


class Process(subprocess.Popen[str]):
    """A process that is ended where its `with` block is left, so that a failing test does not wait for it."""

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.kill()
        super().__exit__(kind, value, trace)


@dataclass
class Life:
    """One caller of pasta, with a mark in the environment by which all descendants are known."""

    user: bool
    directory: Path  # where a plain user can read the package
    mark: str = field(default_factory=lambda: f"LIFE_MARK={uuid.uuid4()}")

    def argv(self, arguments: Sequence[str]) -> list[str]:
        """Full command line of the driver with *arguments*."""
        driver = [PYTHON, "-E", str(self.directory / "life_driver.py"), *arguments]
        return [*AS_USER, *driver] if self.user else driver

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of all that is started here."""
        name, _, value = self.mark.partition("=")
        return {"PATH": SEARCH_PATH, "HOME": "/", "LANG": "C.UTF-8", "TERM": "dumb", name: value, **more}

    def start(self, *arguments: str, **more: str) -> Process:
        """Start the driver."""
        return Process(self.argv(arguments), env=self.environment(**more), text=True,
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def run(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run the driver to its end."""
        with self.start(*arguments, **more) as process:
            out, err = process.communicate(timeout=LIMIT_S)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def run_argv(self, argv: Sequence[str], **more: str) -> subprocess.CompletedProcess[str]:
        """Run another command line in the same environment."""
        return subprocess.run(argv, env=self.environment(**more), capture_output=True, text=True, check=False,
                              stdin=subprocess.DEVNULL, timeout=LIMIT_S)

    def processes(self) -> list[int]:
        """PIDs of all that live and bear the mark."""
        mark = self.mark.encode()
        pids = [int(entry) for entry in os.listdir("/proc") if entry.isdecimal()]
        return [pid for pid in pids if mark in read(f"/proc/{pid}/environ")]

    def assert_nothing_left(self) -> None:
        """Fail if anything that bears the mark outlives a moment; it ends in any case."""
        try:
            wait_until(lambda: not self.processes(), "no process is left")
        finally:
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def read_line(process: subprocess.Popen[str], *, errors: bool = False) -> str:
    """Return the next line of standard output (or error), which must come soon."""
    stream = process.stderr if errors else process.stdout
    assert stream is not None
    line = b""
    while not line.endswith(b"\n"):
        # Octet by octet: what a buffer had taken would be hidden from select.
        assert is_readable(stream, LIMIT_S), f"no output after {line!r}"
        octet = os.read(stream.fileno(), 1)
        if not octet:
            break
        line += octet
    return line.decode()
