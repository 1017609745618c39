"""The capture that the view starts, with a stand-in for the program that it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from passt.passtctl.top import recorder
from passt.passtctl.top.recorder import Recorder
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from pathlib import Path

# Says its arguments, captures until SIGINT, and ends as told.
STAND_IN = """
import signal, sys, pathlib
print(*sys.argv[1:], file=sys.stderr)
if "fail" in sys.argv:
    sys.exit("cannot write")
signal.signal(signal.SIGINT, lambda *_: sys.exit("12 packets, 0 dropped"))
pathlib.Path(sys.argv[sys.argv.index("-w") + 1]).touch()
signal.pause()
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN, encoding="ascii")
    monkeypatch.setattr(recorder, "_MAIN", str(script))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("stand_in")
def test_a_capture_ends_on_demand_and_its_last_words_are_told(tmp_path: Path) -> None:
    made = Recorder("/x.sock")
    assert made.poll() is None
    assert made.begin("-", ["tcp", "port", "443"]) is None
    # A file of that name, and not standard output.
    wait_until((tmp_path / "-").exists, "the capture has begun")
    assert made.poll() is None
    made.end()
    said: list[str] = []

    def has_ended() -> bool:
        said.extend(filter(None, [made.poll()]))
        return bool(said)

    wait_until(has_ended, "it ends")
    assert said == ["12 packets, 0 dropped"]
    assert made.finish() is None


@pytest.mark.usefixtures("stand_in")
def test_a_capture_that_fails_says_why() -> None:
    made = Recorder("/x.sock")
    assert made.begin("fail", ["fail"]) is None
    assert made._process is not None
    made._process.wait(60)
    assert made.poll() == "cannot write"


@pytest.mark.usefixtures("stand_in")
def test_the_end_of_the_view_ends_the_capture(tmp_path: Path) -> None:
    made = Recorder("/x.sock")
    made.begin("file", [])
    wait_until((tmp_path / "file").exists, "the capture has begun")
    assert made.finish() == "12 packets, 0 dropped"


@pytest.mark.usefixtures("stand_in")
def test_a_python_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    assert "No such file" in str(Recorder("/x.sock").begin("f", []))
