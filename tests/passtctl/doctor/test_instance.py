"""What is made of an instance's answers: limits, drops, the guest, and nonsense."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from passt import __version__
from passt.errors import ConfigError, HostError
from passt.names.counts import DROPS_FROM, NAMES
from passt.passtctl.doctor.finding import ERROR, NOTE, OK, WARNING, Finding
from passt.passtctl.doctor.instance import COUNTERS, DROPS, check, judge
from passt.passtctl.instances import Instance
from tests.passtctl.test_main import bench

if TYPE_CHECKING:
    from tests.control.test_api import Bench

__all__ = ["bench"]

PAGE = Path(__file__).parents[3] / "docs" / "debugging.md"
STATS = Path(__file__).parents[3] / "src" / "passt" / "dataplane" / "base" / "stats.pxd"
INFO: dict[str, Any] = {
    "version": __version__, "mode": "pasta", "pid": 12,
    "limits": {"flows": {"now": 1, "most": 100}, "pipes": {"now": 0, "most": 0}},
    "guest": {"mac": "02:00:00:00:00:01", "addresses_in_use": ["192.0.2.2"]},
}  # fmt: skip


def bad(counters: dict[str, Any] | None = None, **changes: Any) -> list[Finding]:
    """Give what is found wrong with an instance whose info has *changes*."""
    found = judge(copy.deepcopy(INFO) | changes, counters or {}, [{}, {}])
    return [finding for finding in found if finding.level != OK]


def test_instance_that_is_well() -> None:
    found = judge(INFO, {"drop_protocol": 4, "frames_from_guest": 9}, [{}, {}])
    assert {finding.level for finding in found} == {OK}
    assert "listens on 2 ports" in found[0].text
    assert "4 frames" in found[-1].text


@pytest.mark.parametrize(("now", "levels"), [(79, []), (80, [WARNING]), (99, [WARNING]), (100, [ERROR])])
def test_limits(now: int, levels: list[str]) -> None:
    found = bad(limits={"flows": {"now": now, "most": 100}})
    assert [finding.level for finding in found] == levels
    assert all(finding.commands == ("passtctl -p 12 flows",) for finding in found)


@pytest.mark.parametrize("reason", sorted(DROPS))
def test_drops_are_told_with_their_meaning(reason: str) -> None:
    level, text = DROPS[reason]
    found = bad({f"drop_{reason}": 7})
    assert [finding.level for finding in found] == ([] if level == OK else [level])
    assert all(finding.text == f"7 {text} ({reason})" for finding in found)
    assert bad({f"drop_{reason}": 0}) == []


def test_every_reason_has_a_meaning() -> None:
    lines = STATS.read_text(encoding="utf-8").splitlines()
    verdicts = {line.split()[0].lower().removeprefix("drop_") for line in lines
                if line.strip().startswith("DROP_")}  # fmt: skip
    names = {name.removeprefix("drop_") for name in NAMES[DROPS_FROM:]}
    assert set(DROPS) == verdicts | names
    page = PAGE.read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in page for name in COUNTERS)


def test_reasons_that_are_new_or_of_responders_are_told_too() -> None:
    [found] = bad({"drop_control_arp_malformed": 3})
    assert (found.level, "control_arp_malformed" in found.text) == (NOTE, True)


def test_descriptors_run_out() -> None:
    [found] = bad({"drop_no_fd": 1})
    assert (found.level, found.commands, found.as_root) == (
        ERROR,
        ("prlimit --pid 12 --nofile=1048576:1048576",),
        True,
    )


@pytest.mark.parametrize("name", sorted(COUNTERS))
def test_other_counters(name: str) -> None:
    [found] = bad({name: 5})
    assert (found.level, found.text) == (COUNTERS[name][0], f"5 {COUNTERS[name][1]}")
    assert all("{" not in command for command in found.commands)


@pytest.mark.parametrize(
    ("guest", "mode", "level"),
    [({"mac": None, "addresses_in_use": []}, "passt", WARNING),
     ({"mac": None, "addresses_in_use": []}, "pasta", NOTE),
     ({"mac": "02:00:00:00:00:01", "addresses_in_use": []}, "pasta", NOTE)],
)  # fmt: skip
def test_guest_that_was_not_heard(guest: dict[str, Any], mode: str, level: str) -> None:
    assert [finding.level for finding in bad(guest=guest, mode=mode)] == [level]


def test_commands_name_the_instance_as_the_user_did() -> None:
    info = copy.deepcopy(INFO) | {"limits": {"flows": {"now": 9, "most": 10}}}
    found = judge(info, {"splice_connect_failures": 1}, [], "-s '/a b'")
    assert [command for finding in found for command in finding.commands] == [
        "passtctl -s '/a b' flows", "passtctl -s '/a b' ports"]


def test_program_that_is_older_than_its_files() -> None:
    [found] = bad(version="0.0.9")
    assert "0.0.9" in found.text


class Odd:
    """An instance that answers *answer* to everything."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def ask(self, _target: str) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        {},
        5,
        "x",
        {"ports": []},
        INFO | {"ports": [], "limits": []},
        INFO | {"ports": [], "limits": {"flows": 5}},
        ValueError("no JSON"),
        INFO | {"ports": None},
        INFO | {"ports": [], "pid": "x"},
        INFO | {"ports": [], "guest": None},
        HostError("/x: gone"),
    ],
)
def test_nonsense_is_an_error_of_the_instance(answer: Any) -> None:
    [found] = check(lambda: Odd(answer))
    assert found.level == ERROR


def test_instance_that_is_not_there() -> None:
    def choose() -> Odd:
        raise ConfigError("no instance has the PID 5")

    assert check(choose) == [Finding(ERROR, "instance", "no instance has the PID 5")]


def test_real_answers_make_sense(bench: Bench) -> None:
    found = check(lambda: Instance(bench.path))
    assert all(finding.level != ERROR for finding in found), found
    assert any(finding.subject == "limits" for finding in found)
