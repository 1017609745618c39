"""Tests shared among workers: each runs once, is reported once, and the last line counts them all."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import cast

import pytest

from tests.support.workers import estimate

TREE = Path(__file__).parent.parent.parent
CONFTEST = """
from tests.support.workers import pytest_addoption, pytest_runtestloop
import os, pytest, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started us may ignore it
signal.signal(signal.SIGTERM, lambda number, _frame: pytest.exit("ended", 128 + number))

def note(text):
    with open(os.environ["NOTES"], "a") as file:
        file.write(text)

@pytest.fixture(scope="session", autouse=True)
def lab():
    note(f"make {os.getpid()} ")
    yield os.getpid()
    note(f"end {os.getpid()} ")

def wait_for_both():
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with open(os.environ["NOTES"]) as file:
            if file.read().count("make") > 1:
                break
        time.sleep(0.01)
    time.sleep(0.5)
"""
THREE = {
    "test_a.py": "from conftest import wait_for_both\ndef test_1(lab): wait_for_both()\n"
                 "def test_2(lab): pass\n",
    "test_b.py": "from conftest import wait_for_both\ndef test_1(lab): wait_for_both()\n"
                 "def test_2(lab): print('said'); assert 0, 'no'\n",
    "test_c.py": "import pytest\n@pytest.mark.skip(reason='not today')\ndef test_1(): pass\n"
                 "def test_2(lab): pass\n",
}


class Tree:
    """A directory of tests, run by a pytest of its own with two workers."""

    def __init__(self, directory: Path, files: dict[str, str]) -> None:
        self.directory, self.notes = directory, directory / "notes"
        for name, text in {"conftest.py": CONFTEST, **files}.items():
            (directory / name).write_text(text, encoding="ascii")
        self.argv = [sys.executable, "-m", "pytest", "-c", "/dev/null", "--rootdir", str(directory),
                     "-p", "no:cacheprovider", "-W", "error", "--strict-markers", "-o", "markers=alone\nslow",
                     "-ra", "--workers", "2", "--basetemp", str(directory / "tmp")]
        self.environment = {**os.environ, "PYTHONPATH": str(TREE), "NOTES": str(self.notes),
                            "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_ADDOPTS": ""}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self.argv, *arguments], check=False, capture_output=True, text=True,
                              cwd=self.directory, env=self.environment, timeout=300)

    def labs(self) -> tuple[set[str], set[str]]:
        """Processes that made a fixture of the session, and those that ended one."""
        words = self.notes.read_text(encoding="ascii").split()
        pairs = list(zip(words[::2], words[1::2], strict=True))
        assert len(set(pairs)) == len(pairs)
        return ({pid for word, pid in pairs if word == "make"}, {pid for word, pid in pairs if word == "end"})


def summary(done: subprocess.CompletedProcess[str]) -> str:
    """Counts of the last line."""
    last = done.stdout.splitlines()[-1]
    match = re.fullmatch(r"=+ (.*) in [\d.]+s( \([\d:]+\))? =+", last)
    assert match, done.stdout + done.stderr
    return match[1]


def test_two_workers_share_and_the_last_line_counts_all(tmp_path: Path) -> None:
    tree = Tree(tmp_path, THREE)
    done = tree.run("--durations=2")
    assert (done.returncode, done.stderr) == (1, "")
    assert summary(done) == "1 failed, 4 passed, 1 skipped"
    assert "assert 0" in done.stdout
    assert "\nsaid\n" in done.stdout
    assert len(re.findall(r"^\d+\.\d\ds call     test_[ab].py::test_1$", done.stdout, re.MULTILINE)) == 2
    for line in ("test_a.py .. ", "test_b.py .F ", "test_c.py s. "):
        assert line in done.stdout
    made, ended = tree.labs()
    assert made == ended
    assert len(made) == 2


def test_marked_tests_run_when_all_others_are_done(tmp_path: Path) -> None:
    alone = ("import os, pytest\nfrom conftest import note\n@pytest.mark.alone\n"
             "def test_1(lab):\n    note(f'alone {os.getpid()} ')\n"
             "def test_2(lab):\n    note(f'beside {os.getpid()} ')\n")
    tree = Tree(tmp_path, {"test_0.py": alone, **THREE})
    assert summary(tree.run()) == "1 failed, 6 passed, 1 skipped"
    words = tree.notes.read_text(encoding="ascii").split()[::2]
    assert "beside" in words
    assert words[-3:] == ["make", "alone", "end"]


def test_modules_that_take_long_come_first(tmp_path: Path) -> None:
    names = [f"test_{letter}.py" for letter in "abcdefgh"]
    text = "import os\nfrom conftest import note\ndef test_1(lab): note(os.path.basename(__file__) + ' 0 ')\n"
    slow = "import pytest\npytestmark = pytest.mark.slow\n" + text
    tree = Tree(tmp_path, {name: slow if name in names[-2:] else text for name in names})
    assert summary(tree.run()) == "8 passed"
    run = [word for word in tree.notes.read_text(encoding="ascii").split()[::2] if word in names]
    assert run[0] in names[-2:]


class Marked:
    """As much of a test as a guess of its time looks at."""

    def __init__(self, *markers: str) -> None:
        self.markers = markers

    def get_closest_marker(self, name: str) -> bool:
        return name in self.markers


def test_time_of_a_module_is_guessed_by_the_first_marker_of_each_of_its_tests() -> None:
    def guess(*tests: Marked) -> float:
        return estimate(cast("list[pytest.Item]", list(tests)))

    assert guess(Marked("needs_root", "slow")) > guess(Marked("needs_root", "x")) > guess(Marked("x")) > 0
    many = guess(Marked("slow"), Marked(), Marked())
    assert many == pytest.approx(guess(Marked("slow")) + 2 * guess(Marked()))


@pytest.mark.parametrize("how", ["os.kill(os.getpid(), 9)", "os._exit(0)", "os._exit(7)"])
def test_worker_that_dies_has_failed_its_test(tmp_path: Path, how: str) -> None:
    dying = f"import os\ndef test_1(lab): {how}\ndef test_2(): pass\n"
    tree = Tree(tmp_path, {**THREE, "test_b.py": dying})
    done = tree.run()
    assert done.returncode == 1
    assert "1 failed" in summary(done)
    told = r"^FAILED test_b.py::test_1 - its worker (was ended by signal 9|exited with [07])$"
    assert re.search(told, done.stdout, re.MULTILINE)


def test_session_fixture_that_does_not_end_well_fails_the_session(tmp_path: Path) -> None:
    tree = Tree(tmp_path, THREE)
    conftest = CONFTEST.replace('note(f"end', 'assert 0, "still there"; note(f"end')
    (tmp_path / "conftest.py").write_text(conftest, encoding="ascii")
    done = tree.run("--deselect", "test_b.py::test_2")
    assert done.returncode == 1
    assert "AssertionError: still there" in done.stderr
    assert "its worker exited with 1" in done.stdout


def test_first_failure_ends_all_with_x(tmp_path: Path) -> None:
    slow = "import time\ndef test_1(lab): pass\n" + "".join(
        f"def test_{idx}(lab): time.sleep(10)\n" for idx in range(2, 40))
    tree = Tree(tmp_path, {"test_a.py": slow, "test_b.py": "def test_1(lab): assert 0\n"})
    started = time.monotonic()
    done = tree.run("-x")
    assert time.monotonic() - started < 200
    assert done.returncode == 1
    assert summary(done).startswith("1 failed")
    made, ended = tree.labs()
    assert made == ended


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_request_to_end_cleans_up_in_all_workers(tmp_path: Path, signum: int) -> None:
    slow = "import time\nfrom conftest import note\ndef test_1(lab): note('in 0 '); time.sleep(600)\n"
    tree = Tree(tmp_path, {"test_a.py": slow, "test_b.py": slow})
    with subprocess.Popen(tree.argv, cwd=tmp_path, env=tree.environment, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as process:
        while not tree.notes.exists() or tree.notes.read_text(encoding="ascii").count("in 0") < 2:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signum)
        process.communicate(timeout=300)
    assert process.returncode in {2, 128 + signum}
    tree.notes.write_text(tree.notes.read_text(encoding="ascii").replace("in 0 ", ""), encoding="ascii")
    made, ended = tree.labs()
    assert made == ended
