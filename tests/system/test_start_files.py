"""A start that does not succeed leaves no pid file and no socket: whoever ends it, at whatever stage."""

from __future__ import annotations

import os
import signal
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.lab import UID, Lab, Running
from tests.support.processes import children, status_field, wait_until
from tests.system.test_attach import Target
from tests.system.test_failures import library

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs_root

# The program, but that it stops at a stage: $1 is the place of the package, $2 the stage, the rest is the
# program and its arguments. It makes a mistake there as soon as its standard input is closed.
HALTING = """
import os, sys
sys.path.insert(0, sys.argv[1])
from passt.process import stages
enter = stages.Progress.enter
def halt(self, name):
    result = enter(self, name)
    if name == sys.argv[2]:
        os.write(1, b"here\\n")
        os.read(0, 1)
        raise ZeroDivisionError("a mistake of ours")
    return result
stages.Progress.enter = halt
from passt import cli
sys.exit(cli.main(sys.argv[3:]))
"""
MISTAKE = 0
DAC_OVERRIDE = 1 << 1             # linux/capability.h
# The loop reads signals from "signals" on: they end the program after its start, but for SIGKILL.
CASES = [(foreground, stage, how) for foreground in (True, False)
         for stage in ("host", "user", "network", "landlock", "filter")
         for how in (signal.SIGTERM, signal.SIGKILL, MISTAKE)
         if (foreground, stage) != (True, "filter") or how in (signal.SIGKILL, MISTAKE)]


@pytest.fixture
def directory(user: bool) -> Iterator[Path]:
    """Lend a directory in which only the caller may write: nobody, who root becomes, may not."""
    with tempfile.TemporaryDirectory(prefix="passt-files-") as name:
        os.chown(name, *((UID, UID) if user else (0, 0)))
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def halted(lab: Lab, directory: Path, stage: str, argv: list[str], *, user: bool) -> Iterator[Running]:
    """Start *argv* and have it halt at *stage*; it goes on, by its mistake, where the block is left."""
    script = directory / "halting.py"
    script.write_text(HALTING, encoding="utf-8")
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb"), os.fdopen(reader, "rb") as stdin:
        running = lab.host.spawn(["/usr/bin/python3", str(script), library(lab), stage, *argv], user=user,
                                 stdin=stdin)
        assert running.popen.stdout is not None
        assert running.popen.stdout.readline() == b"here\n"
        yield running


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} - {"halting.py"}


def capabilities(pid: int) -> set[int]:
    return {int(status_field(pid, name), 16) for name in ("CapPrm", "CapEff")}


@pytest.mark.parametrize(("foreground", "stage", "how"), CASES)
def test_passt_leaves_no_file(lab: Lab, user: bool, directory: Path, foreground: bool, stage: str,
                              how: int) -> None:
    made = {"socket", "pid", "capture"} if stage != "host" else {"pid"}
    argv = ["passt", "-q", "-s", str(directory / "socket"), "-P", str(directory / "pid"),
            "-p", str(directory / "capture"), *(["-f"] if foreground else [])]
    with halted(lab, directory, stage, argv, user=user) as running:
        assert names(directory) == made
        if how != MISTAKE:
            running.send(how)
            running.popen.wait(10)
    result = running.finish(10)
    assert result.returncode == (1 if how == MISTAKE else -how)
    wait_until(lambda: not names(directory), "the files are gone")


@pytest.mark.parametrize("stage", ["tap", "filter"])
@pytest.mark.parametrize("how", [signal.SIGKILL, MISTAKE])
def test_pasta_with_a_command_leaves_no_file(lab: Lab, user: bool, directory: Path, stage: str,
                                             how: int) -> None:
    argv = ["pasta", "-q", "-P", str(directory / "pid"), "-p", str(directory / "capture"), "--", "true"]
    with halted(lab, directory, stage, argv, user=user) as running:
        assert names(directory) == {"pid", "capture"}
        running.send(how)         # 0 does nothing
    result = running.finish(10)
    assert result.returncode == (1 if how == MISTAKE else -how)
    wait_until(lambda: not names(directory), "the files are gone")


def test_port_that_is_taken_inside_is_a_late_failure(lab: Lab, user: bool, directory: Path) -> None:
    """In the foreground, when paths and rights are given up already."""
    target = Target(lab, user=user)
    enter = ["nsenter", "-t", target.pid, "--user", "--preserve-credentials", "--net"]
    server = lab.host.spawn([*enter, "busybox", "nc", "-l", "-p", "8100"], user=user)
    try:
        wait_until(lambda: b":8100 " in target.run(["ss", "-Hltn"]), "the port is taken")
        done = lab.run(["-q", "-f", "-P", str(directory / "pid"), "-T", "8100", target.pid], user=user,
                       check=False)
    finally:
        server.kill()
        target.running.kill()
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert names(directory) == set()


def test_waiting_parent_has_no_right_and_the_guard_one(lab: Lab, directory: Path) -> None:
    argv = ["passt", "-q", "-s", str(directory / "socket")]
    with halted(lab, directory, "network", argv, user=False) as running:
        guard, child = sorted(children(running.pid))
        # The child does not wait for them, and may be at its stage before.
        wait_until(lambda: capabilities(running.pid) == {0}, "the parent has no right")
        wait_until(lambda: capabilities(guard) == {DAC_OVERRIDE}, "the guard has its one right")
        assert min(capabilities(child)) > DAC_OVERRIDE  # of its own
    assert running.finish(10).returncode == 1


def test_nothing_of_the_guard_is_left_when_the_program_is_ready(lab: Lab, user: bool,
                                                                directory: Path) -> None:
    argv = [lab.passt, "-q", "-f", "-s", str(directory / "socket"), "-P", str(directory / "pid")]
    running = lab.host.spawn(argv, user=user)
    wait_until(lambda: (directory / "pid").exists() and bool((directory / "pid").read_bytes()), "it is ready")
    wait_until(lambda: status_field(running.pid, "Seccomp") == "2" and children(running.pid) == [],
               "no child is left, not even a zombie")
    running.send(signal.SIGTERM)
    assert running.finish(10).returncode == 0
    assert names(directory) == {"socket", "pid"}
