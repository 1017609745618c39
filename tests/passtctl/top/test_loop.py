"""`passtctl top` in real terminals, of the sizes that there are, with no flow, a few and thousands."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from passt.errors import HostError
from passt.passtctl.command import Command
from passt.passtctl.main import run
from tests.control.test_api import Bench
from tests.support.control import make_flow
from tests.support.processes import LIMIT_S, is_readable, process_state, wait_until
from tests.support.tmux import Tmux

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

MAIN = Path(__file__).parents[3] / "src" / "passt" / "__main__.py"
SIZES = ((80, 24), (200, 60))
UTF8 = {"LC_ALL": "C.UTF-8"}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    made.source.counts |= {"bytes_from_guest": 1000, "bytes_to_guest": 5000, "splice_bytes_to_host": 0,
                           "splice_bytes_to_guest": 0}  # fmt: skip
    with made.turning():
        yield made
    made.close()


def argv_of(bench: Bench, *words: str) -> list[str]:
    return [sys.executable, "-IS", str(MAIN), "passtctl", "-s", bench.path, *(words or ("top",))]


def top(bench: Bench, width: int = 80, height: int = 24, *words: str, **env: str) -> Tmux:
    return Tmux(argv_of(bench, *words), width, height, UTF8 | env)


def fill(bench: Bench, n: int) -> None:
    bench.source.records = [make_flow(i, bytes_to_host=i * 100, age_ns=10**12) for i in range(n)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("n_flows", [0, 5, 5000])
def test_screen_of_each_size_with_any_number_of_flows(
    bench: Bench, size: tuple[int, int], n_flows: int
) -> None:
    fill(bench, n_flows)
    with top(bench, *size) as terminal:
        wait_until(lambda: f"{n_flows} flows" in terminal.text(), "the head is there")
        if n_flows:
            wait_until(lambda: " tcp " in terminal.text(), "flows are there")
            # Rates are 0, but known, with the second sample.
            wait_until(lambda: [line.split()[-2:] for line in terminal.screen() if line.startswith("0.3 ")]
                       == [["0", "0"]] or size[0] == 200, "rates are there")
        else:
            wait_until(lambda: "no flows" in terminal.text(), "it is said that there are none")
        n_rows = min(n_flows, size[1] - 7 - (size[0] < 200))
        # Lines come one after the other.
        wait_until(lambda: len([line for line in terminal.screen() if " tcp " in line and "->" not in line])
                   == n_rows, "all flows are there that have room")
        shown = terminal.screen()
        assert shown[0].startswith("pasta ")
        assert [line.split()[0] for line in shown[1:5]] == ["OUT", "IN", "DROPS", "LIMITS"]
        terminal.keys("q")
        wait_until(lambda: terminal.status() is not None, "it ends")
        assert terminal.status() == 0
        # The alternate screen is left, and nothing stays behind.
        wait_until(lambda: terminal.text().strip() == "", "the screen is as before")


def test_flows_are_sorted_filtered_and_closed(bench: Bench) -> None:
    bench.source.records = [make_flow(i, bytes_to_host=i, proto=6 if i % 2 else 17) for i in range(40)]
    with top(bench) as terminal:
        wait_until(lambda: "39.3" in terminal.text() or "1.3" in terminal.text(), "flows are there")
        terminal.keys("s", "s", "s")
        wait_until(lambda: terminal.screen()[7].startswith("39.3") and "by bytes" in terminal.text(),
                   "the largest is first")
        terminal.keys("/", *"udp", "Enter")
        wait_until(lambda: "filter: udp (20)" in terminal.text(), "UDP only")
        wait_until(lambda: terminal.screen()[7].startswith("38.3"), "the largest is first")
        terminal.keys("Down", "Down", "x")
        wait_until(lambda: "close udp" in terminal.text(), "it asks")
        terminal.keys("n")
        wait_until(lambda: "left as it is" in terminal.text(), "nothing is done")
        assert bench.source.closed == []
        terminal.keys("x", "y")
        wait_until(lambda: bench.source.closed == [(36, 3)], "the flow is closed")
        terminal.keys("h")
        wait_until(lambda: "draw everything anew" in terminal.text(), "help is shown")


def test_screen_follows_the_size_of_the_terminal(bench: Bench) -> None:
    fill(bench, 100)
    with top(bench) as terminal:
        wait_until(lambda: " tcp " in terminal.text(), "flows are there")
        terminal.resize(200, 60)
        wait_until(lambda: "RULE" in terminal.text(), "all columns are there")
        for size in ((30, 8), (5, 2), (80, 24)):
            terminal.resize(*size)
        wait_until(lambda: "q quit" in terminal.text() and "RULE" not in terminal.text(), "it is as before")


def test_without_colours_and_without_utf8_nothing_is_missing(bench: Bench) -> None:
    fill(bench, 5)
    with Tmux(argv_of(bench), 80, 24, {"LC_ALL": "C", "NO_COLOR": "1"}) as terminal:
        wait_until(lambda: " tcp " in terminal.text(), "flows are there")
        assert terminal.text().isascii()


def test_dumb_terminal_gets_lines(bench: Bench) -> None:
    fill(bench, 3)
    with top(bench, TERM="dumb") as terminal:
        wait_until(lambda: terminal.text().count("LIMITS") >= 2, "there are two snapshots")
        terminal.keys("C-c")
        wait_until(lambda: terminal.status() is not None, "it ends")
        assert terminal.status() == 130


def test_end_of_the_instance_is_told_and_is_a_failure(bench: Bench) -> None:
    # Wide: the path of the socket is in the line of the reason, and has any length.
    with top(bench, 200) as terminal:
        wait_until(lambda: "no flows" in terminal.text(), "the view is there")
        os.unlink(bench.path)
        wait_until(lambda: terminal.status() is not None, "it ends")
        assert terminal.status() == 1
        wait_until(lambda: "the instance has ended" in terminal.text(), "the reason is told")


def test_stopped_view_gives_the_terminal_back_and_comes_again(bench: Bench) -> None:
    far, near = pty.openpty()
    process = subprocess.Popen(argv_of(bench), stdin=near, stdout=near, stderr=near, start_new_session=True,
                               env={"TERM": "xterm", "NO_COLOR": "1"})  # fmt: skip
    seen = b""

    def has_seen(text: bytes) -> bool:
        nonlocal seen
        if is_readable(far, 0.01):
            seen += os.read(far, 65536)
        return text in seen

    try:
        wait_until(lambda: has_seen(b"no flows"), "the view is there")
        seen = b""
        process.send_signal(signal.SIGTSTP)
        wait_until(lambda: has_seen(b"\x1b[?1049l"), "the screen is left")
        wait_until(lambda: process_state(process.pid) == "T", "it is stopped")
        seen = b""
        process.send_signal(signal.SIGCONT)
        wait_until(lambda: has_seen(b"\x1b[?1049h") and has_seen(b"LIMITS"), "the view is back")
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: has_seen(b"\x1b[?1049l"), "the screen is left")
        assert process.wait(LIMIT_S) == -signal.SIGTERM
    finally:
        process.kill()
        process.wait()
        os.close(far)
        os.close(near)


@pytest.mark.parametrize(("env", "has_colours"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colours_are_found_by_an_isolated_start(bench: Bench, env: dict[str, str], has_colours: bool) -> None:
    pytest.importorskip("rich", reason="pip install rich")
    bench.source.records = [make_flow()]
    far, near = pty.openpty()
    process = subprocess.Popen(argv_of(bench), stdin=near, stdout=near, stderr=near, start_new_session=True,
                               env={"TERM": "xterm-256color", **env})  # fmt: skip
    seen = b""
    try:
        while b"none so far" not in seen:
            assert is_readable(far, LIMIT_S)
            seen += os.read(far, 65536)
        os.write(far, b"q")
        while process.poll() is None:
            if is_readable(far, 0.05):
                seen += os.read(far, 65536)
        while is_readable(far):
            seen += os.read(far, 65536)
        assert (b"\x1b[30;46m" in seen) is has_colours        # the heading
    finally:
        process.kill()
        process.wait()
        os.close(far)
        os.close(near)


def test_a_slow_line_gets_no_more_than_it_takes_and_keys_are_heard(bench: Bench) -> None:
    fill(bench, 200)
    far, near = pty.openpty()
    process = subprocess.Popen(argv_of(bench), stdin=near, stdout=near, stderr=near, start_new_session=True,
                               env={"TERM": "xterm", "NO_COLOR": "1"})  # fmt: skip
    try:
        # Ten bytes now and then: far less than there is to show. The counters change all the while.
        n_read = 0
        assert is_readable(far, LIMIT_S), "the view begins, and takes keys from now on"
        for i in range(100):
            bench.source.counts["bytes_from_guest"] += i * 1000
            if is_readable(far, 0.02):
                n_read += len(os.read(far, 10))
        os.write(far, b"q")
        while is_readable(far, 5):
            try:
                n_read += len(os.read(far, 65536))
            except OSError:
                break
            if process.poll() is not None and not is_readable(far):
                break
        assert process.wait(LIMIT_S) == 0
        # What waited was a screen, and not all that there was to say.
        assert n_read < 3 * 80 * 24 + 4096 + 1000
    finally:
        process.kill()
        process.wait()
        os.close(far)
        os.close(near)


def test_without_a_terminal_there_is_one_snapshot(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    fill(bench, 30)
    assert run(Command("top", path=bench.path, words=("tcp",))) == 0
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 5 + 1 + 30
    run(Command("top", path=bench.path, json=True))
    told = json.loads(capfd.readouterr().out)
    assert (len(told["flows"]), told["flows"][0]["sends_per_s"]) == (30, 0.0)
    with pytest.raises(HostError):
        run(Command("top", path="/nowhere"))


def test_watched_flows_stay_on_one_screen(bench: Bench) -> None:
    fill(bench, 100)
    with top(bench, 80, 24, "flows", "--watch") as terminal:
        wait_until(lambda: "and 79 more" in terminal.text(), "the table is there")
        bench.source.records = []
        wait_until(lambda: "ESTABLISHED" not in terminal.text(), "it is drawn anew")
        terminal.keys("C-c")
        wait_until(lambda: terminal.status() is not None, "it ends")
        assert terminal.status() == 130
