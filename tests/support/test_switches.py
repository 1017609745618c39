"""The switches of the tests: what they take, what is said of others, and that nothing else reads them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.switches import FLAGS, PATHS, SwitchError, check

TESTS = Path(__file__).parent.parent


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("value", ["", "0", "1"])
def test_flag_takes_one_nought_and_nothing(name: str, value: str) -> None:
    check({name: value, "PASST_BENCH_PASTA": "x", "PATH": ""})


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("value", ["yes", "true", "2", " 1"])
def test_other_value_of_a_flag_is_told_with_what_would_be_right(name: str, value: str) -> None:
    with pytest.raises(SwitchError, match=f"^{name}={value}: 1 switches it on, 0 off"):
        check({name: value})


@pytest.mark.parametrize("name", ["PASST_TEST_LONGER", "PASST_TEST_"])
def test_unknown_switch_is_told_with_those_that_there_are(name: str) -> None:
    with pytest.raises(SwitchError, match=f"^{name} is no switch.*PASST_TEST_LONG, PASST_TEST_PASTA"):
        check({name: "1"})


@pytest.mark.parametrize("name", PATHS)
def test_path_has_to_exist(name: str) -> None:
    check({name: str(TESTS)})
    with pytest.raises(SwitchError, match=f"^{name}=/none: there is no such file"):
        check({name: "/none"})


def test_wrong_switch_is_one_line_before_any_test() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", __file__],
        check=False, capture_output=True, text=True, cwd=TESTS.parent, timeout=300,
        env={**os.environ, "PASST_TEST_LONG": "yes"})
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    line = f"ERROR: PASST_TEST_LONG=yes: 1 switches it on, 0 off ({FLAGS['PASST_TEST_LONG']})"
    assert (done.stdout, done.stderr.strip()) == ("", line)


def test_nothing_else_reads_them() -> None:
    reads = re.compile(r"""environ(\.get\(|\[|\.pop\()f?["']PASST_(?!BENCH)""")
    assert [path for path in TESTS.rglob("*.py") if reads.search(path.read_text(encoding="utf-8"))] == [
        TESTS / "support" / "switches.py"]
