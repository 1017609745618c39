"""A start that does not succeed leaves no pid file and no socket: whoever ends it, at whatever stage."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.lab import UID, Lab
from tests.support.processes import wait_until
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


@pytest.mark.parametrize(("foreground", "stage", "how"), CASES)
def test_passt_leaves_no_file(lab: Lab, user: bool, directory: Path, foreground: bool, stage: str,
                              how: int) -> None:
    script = directory / "halting.py"
    script.write_text(HALTING, encoding="utf-8")
    names = {"socket", "pid"} if stage != "host" else {"pid"}
    argv = ["passt", "-q", "-s", str(directory / "socket"), "-P", str(directory / "pid"),
            *(["-f"] if foreground else [])]
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb"), os.fdopen(reader, "rb") as stdin:
        running = lab.host.spawn(["/usr/bin/python3", str(script), library(lab), stage, *argv], user=user,
                                 stdin=stdin)
        assert running.popen.stdout is not None
        assert running.popen.stdout.readline() == b"here\n"
        assert {path.name for path in directory.iterdir()} == {*names, "halting.py"}
        if how != MISTAKE:
            running.send(how)
            running.popen.wait(10)
    result = running.finish(10)
    assert result.returncode == (1 if how == MISTAKE else -how)
    wait_until(lambda: [path.name for path in directory.iterdir()] == ["halting.py"], "the files are gone")
