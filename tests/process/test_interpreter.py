"""Python's ways to the file system are closed: strace would see no path; here an audit hook does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent.parent / "src"
# Ends with status 3 at the first file that is opened; the audit event is of Python's own open() alone.
PROGRAM = """
import os, sys, time
from passt import log
from passt.process import interpreter

def watch(event, args):
    if closed and event in ("open", "os.listdir", "os.scandir"):
        os.write(2, f"{event} {args}".encode())
        os._exit(3)

closed = False
sys.addaudithook(watch)
before = list(sys.meta_path), list(sys.path_hooks)
interpreter.close_paths()
closed = True
"""


def run(code: str, **variables: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-c", PROGRAM + code], capture_output=True, text=True, check=False,
                          timeout=90, env={**os.environ, "PYTHONPATH": str(SOURCE), **variables})  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "try: import wave\nexcept ImportError: pass",
        "try: import passt.cli\nexcept ImportError: pass",
        "try: 'x'.encode('cp1140')\nexcept LookupError: pass",
        "import _warnings\n_warnings.warn('beware')",
        "import _warnings\n_warnings.warn('old', DeprecationWarning)",
        "import itertools, _thread",  # compiled in
    ],
)
def test_no_file_is_opened(code: str) -> None:
    assert run(code) == (0, "")


def test_uncaught_error_is_told_without_its_source() -> None:
    status, said = run("1 // 0")
    assert status == 1
    assert "ZeroDivisionError: " in said
    assert "line " in said


def test_watch_sees_files() -> None:
    """The hook itself: without the closed paths an import opens files."""
    status, said = run("sys.meta_path[:], sys.path_hooks[:] = before\nimport wave")
    assert status == 3
    assert "os.listdir" in said or "open" in said


@pytest.mark.parametrize("zone", ["", "Europe/Berlin", ":/etc/localtime"])
def test_time_zone_is_kept(zone: str) -> None:
    variables = {"TZ": zone} if zone else {}
    status, said = run("print(os.environ['TZ'], time.localtime().tm_year > 2000)", **variables)
    assert (status, said) == (0, f"{zone or ':/etc/localtime'} True\n")
