"""Every system call of a start refused in turn: the program does without, or ends in one line."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import LIMIT_S, is_readable, status_field
from tests.system.refusing import LINES_AT, REFUSING, REPORT_LEN
from tests.system.test_attach import Target

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support.lab import Lab

pytestmark = [pytest.mark.needs_root, pytest.mark.slow]

NUMBERS = (errno.EMFILE, errno.EPERM)
FILES = ("pid", "socket", "capture")


@pytest.fixture
def refusing(lab: Lab) -> Iterator[Path]:
    """Write the program in which a call is refused, under the names of both programs; lend its directory."""
    text = Path(lab.pasta).read_text(encoding="utf-8")
    directory = lab.directory / "refusing"
    directory.mkdir()
    program = directory / "pasta"
    program.write_text(text.replace("from passt.cli import main\n", REFUSING.lstrip()), encoding="utf-8")
    (directory / "passt").symlink_to("pasta")
    (directory / "calls").touch()
    for path, mode in ((program, 0o755), (directory / "calls", 0o666), (directory, 0o777)):
        path.chmod(mode)
    yield directory
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()


def end(pid: int) -> None:
    """End a process, and wait until what it held is closed. Raises ProcessLookupError."""
    fd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(fd, signal.SIGTERM)
        assert is_readable(fd, LIMIT_S), pid
    finally:
        os.close(fd)


class Refusals:
    """Runs one command line of the program in *directory* with one call refused each."""

    def __init__(self, lab: Lab, directory: Path, program: str, arguments: Sequence[str]) -> None:
        self._lab = lab
        self._directory = directory
        self._program = program
        self._argv = (str(directory / program), arguments)

    def count(self) -> int:
        """Run with no call refused; return how many there are."""
        result = self._run(0, 0)
        assert (result[0], result[2]) == (0, ""), result
        self.end_background()
        return len(self._calls())

    def check(self, nth: int, number: int, *, background: bool) -> None:
        """Refuse call *nth*: the work is done, or it is one line and nothing stays."""
        status, out, err = self._run(nth, number)
        name = self._refused_call()
        where = f"call {nth}, {name}: {os.strerror(number)}: status {status}, {err}"
        assert "Traceback" not in err, where
        assert 'File "' not in err, where
        if status == 0:
            assert "echo" not in self._argv[1] or out == "started\n", where
        elif background and name == "os.write" and not err:
            # It was that which tells readiness: standard error is not ours any more.
            assert status == 1, where
        else:
            assert status == 1, where
            assert err.startswith(f"{self._program}: "), where
            assert err.count("\n") == 1, where
        if status and not self._was_ready():
            assert not [file for file in FILES if (self._directory / file).exists()], where
        self.end_background()

    def end_background(self) -> None:
        """End a program that has gone to the background, with its interface, and remove its files."""
        try:
            pid = (self._directory / "pid").read_text(encoding="ascii").strip()
        except FileNotFoundError:
            pid = ""
        for each in self._lab.host.pids() if pid else ():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if pid in status_field(each, "NSpid").split()[1:]:
                    end(each)
        for file in FILES:
            (self._directory / file).unlink(missing_ok=True)

    def _was_ready(self) -> bool:
        """Tell whether the pid file has content: from then on files are the caller's."""
        file = self._directory / "pid"
        return file.exists() and bool(file.read_bytes())

    def _refused_call(self) -> str:
        report = (self._directory / "calls").read_bytes()
        return report[8:LINES_AT].rstrip(b"\0").decode() or "none"

    def _calls(self) -> dict[int, str]:
        report = (self._directory / "calls").read_bytes()
        lines = report[LINES_AT:LINES_AT + struct.unpack_from("I", report, 4)[0]].decode().splitlines()
        parts = (line.partition(" ") for line in lines)
        # Two processes may have written at once.
        return {int(number): name for number, _, name in parts if number.isdecimal()}

    def _run(self, nth: int, number: int) -> tuple[int, str, str]:
        program, arguments = self._argv
        report = self._directory / "calls"
        report.write_bytes(bytes(REPORT_LEN))
        argv = [program, str(nth), str(number), str(report), *arguments]
        result = self._lab.host.run(argv, user=False, check=False)
        return result.returncode, result.stdout.decode(), result.stderr.decode()


def check_all(refusals: Refusals, least: int, *, background: bool) -> None:
    """Refuse each call in turn, with each error."""
    total = refusals.count()
    assert least < total < 10 * least
    for number in NUMBERS:
        for nth in range(1, total + 1):
            refusals.check(nth, number, background=background)


def test_command_is_refused_a_call(lab: Lab, refusing: Path) -> None:
    options = ["-q", "--config-net", "-t", "8100", "-T", "8100", "-U", "8100", "-l", str(refusing / "log"),
               "-p", str(refusing / "capture"), "-P", str(refusing / "pid")]
    check_all(Refusals(lab, refusing, "pasta", [*options, "--", "echo", "started"]), 80, background=False)


def test_attached_in_the_background_is_refused_a_call(lab: Lab, refusing: Path) -> None:
    target = Target(lab, user=False)
    arguments = ["-q", "--config-net", "-P", str(refusing / "pid"), target.pid]
    try:
        check_all(Refusals(lab, refusing, "pasta", arguments), 60, background=True)
    finally:
        target.running.kill()


def test_machine_in_the_background_is_refused_a_call(lab: Lab, refusing: Path) -> None:
    arguments = ["-q", "-P", str(refusing / "pid"), "-s", str(refusing / "socket")]
    check_all(Refusals(lab, refusing, "passt", arguments), 30, background=True)
