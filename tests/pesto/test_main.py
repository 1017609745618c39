"""Whole runs of pesto against a program of ours, and one that tells nothing, as the C program."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from passt import cli
from passt.facts.port_rule import PortRule
from passt.steer.messages import Answer, Hello, NewTable, Report, Table
from tests.pesto.program import program, say

if TYPE_CHECKING:
    from pathlib import Path

WEB, NEW = PortRule(6, 80, 80, 8080), PortRule(6, 90, 90, 90)
OURS = Hello((Table(1, "HOST", 63, (WEB,), reports=True), Table(3, "SPLICE", 63, (), reports=True)))
THEIRS = Hello((Table(1, "HOST", 63, (WEB,)),))
THEIRS_AFTER = Hello((Table(1, "HOST", 63, (NEW, WEB)),))
DONE = Report(is_refused=False)
REFUSED = Report(is_refused=True, lines=("HOST: port 90: no", "HOST: port 91: no"))


def test_tables_are_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with program(tmp_path, say(OURS.build(), reply=b"")) as made:
        assert cli.main(["pesto", made.path]) == 0
    assert made.answers == []
    assert capfd.readouterr().out == (
        f"passt/pasta configuration ({made.path})\n  HOST\n    TCP [*]:80  =>  8080\n  SPLICE\n")


def test_controls_of_a_program_are_not_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rule = PortRule(6, 80, 80, 80, None, "\x1b[2J\udc9b")
    told = Hello((Table(1, "\x1b]0;pwned\x07", 63, (rule,)),))
    with program(tmp_path, say(told.build(), reply=b"")) as made:
        assert cli.main(["pesto", made.path]) == 0
    assert capfd.readouterr().out.splitlines()[1:] == [
        r"  \x1b]0;pwned\x07", r"    TCP [*]%\x1b[2J\udc9b:80  =>  80"]


def test_program_with_more_rules_than_can_be_written_is_left_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rules = tuple([PortRule(6, port, port, port) for port in range(1000, 1256)])
    with program(tmp_path, say(Hello((Table(1, "HOST", 63), Table(3, "SPLICE", 63, rules))).build())) as made:
        assert cli.main(["pesto", "-A", "-t", "90", made.path]) == 1
    assert "the table SPLICE has 256 rules" in capfd.readouterr().err


def test_change_is_silent_and_shown_if_asked_for(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with program(tmp_path, *[say(OURS.build(), reply=DONE.build())] * 2) as made:
        assert cli.main(["pesto", "-A", "-t", "90", made.path]) == 0
        assert capfd.readouterr() == ("", "")
        assert cli.main(["pesto", "-s", "-A", "-t", "90", made.path]) == 0
    assert made.answers == [Answer((NewTable(1, (WEB, NEW)), NewTable(3)), wants_report=True)] * 2
    out, err = capfd.readouterr()
    assert err == ""
    assert out.splitlines() == [
        f"Previous configuration ({made.path})", "  HOST", "    TCP [*]:80  =>  8080", "  SPLICE",
        f"Updated configuration ({made.path})", "  HOST", "    TCP [*]:80  =>  8080",
        "    TCP [*]:90  =>  90", "  SPLICE"]


def test_refused_change_is_told_line_by_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with program(tmp_path, say(OURS.build(), reply=REFUSED.build())) as made:
        assert cli.main(["pesto", "-s", "-A", "-t", "90-91", made.path]) == 1
    assert capfd.readouterr() == ("", "HOST: port 90: no\nHOST: port 91: no\npesto: nothing was changed\n")


def test_ports_that_a_change_lost_are_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lost = Report(is_refused=True, lines=("HOST: port 80: no",), has_lost=True)
    with program(tmp_path, say(OURS.build(), reply=lost.build())) as made:
        assert cli.main(["pesto", "-A", "-t", "90", made.path]) == 1
    assert capfd.readouterr().err.splitlines()[-1] == (
        "pesto: the change failed, and ports that were forwarded are lost")


def test_change_of_others_is_no_failure_of_ours(tmp_path: Path) -> None:
    others = Hello((Table(1, "HOST", 63, (NEW, PortRule(6, 91, 91, 91))),))
    with program(tmp_path, say(THEIRS.build(), reply=b""), say(others.build())) as made:
        assert cli.main(["pesto", "-A", "-t", "90", made.path]) == 0


def test_mistake_is_told_and_nothing_is_sent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with program(tmp_path, say(OURS.build(), reply=b"")) as made:
        assert cli.main(["pesto", "-A", "-t", "90", "-D", "-t", "70", made.path]) == 1
    assert made.answers == []
    assert capfd.readouterr().err.startswith("pesto: option '-t' (--tcp-ports): Couldn't find")


def test_program_that_tells_nothing_is_looked_at_again(
        tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with program(tmp_path, say(THEIRS.build(), reply=b""), say(THEIRS_AFTER.build())) as made:
        assert cli.main(["pesto", "-A", "-t", "90", made.path]) == 0
    assert made.answers == [Answer((NewTable(1, (WEB, NEW)),))]
    assert capfd.readouterr() == ("", "")


def test_program_that_has_not_taken_the_rules_is_told(
        tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with program(tmp_path, say(THEIRS.build(), reply=b""), say(THEIRS.build())) as made:
        assert cli.main(["pesto", "-A", "-t", "90", made.path]) == 1
    assert "has not taken the new rules" in capfd.readouterr().err


@pytest.mark.parametrize("argument", ["--help", "-h", "--version"])
def test_overview_and_version_are_printed(argument: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pesto", argument]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert out.startswith("Usage: pesto [OPTION]... PATH\n" if "h" in argument else "pesto ")


def test_usage_is_hinted_at(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pesto"]) == 1
    assert capfd.readouterr().err.splitlines()[1] == "Try 'pesto --help' for more information."
