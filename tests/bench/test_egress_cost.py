"""The cost of rules: those that are measured are rules, as many as said, and let pass what is measured."""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.egress import FAR4, NAME_SERVER, NAMES, RULES, parts_of, policy, start, wait_of
from passt.config.policy_file import parse_policy
from passt.namespace.interface import bring_lo_up
from tests.support.isolated import isolated_as_root

if TYPE_CHECKING:
    from passt.facts.egress import EgressRules


def made(directory: Path, number: int, last: str) -> EgressRules:
    option, path = policy(directory, number, last)
    assert option == "--policy"
    return parse_policy(Path(path).read_bytes())


@pytest.mark.parametrize("last", [f"allow {FAR4}", "allow *.good.test"])
def test_rules_are_as_many_as_said_and_the_last_one_counts(tmp_path: Path, last: str) -> None:
    for number in RULES[1:]:
        rules = made(tmp_path, number, last)
        assert len({rule.text for rule in rules.rules}) == number
        assert rules.rules[-1].text == last
        assert not rules.allows_rest
        assert rules.has_names == ("good" in last)


def test_no_rules_are_no_option(tmp_path: Path) -> None:
    assert policy(tmp_path, 0, f"allow {FAR4}") == []


def test_program_that_does_not_start_ends_the_run() -> None:
    with pytest.raises(SystemExit, match="false: did not start"):
        start(["false"])


@pytest.mark.needs_root
def test_waits_are_those_of_an_answer() -> None:
    """Of a server on the loopback, by the client that is measured."""
    def measure() -> tuple[float, float, float]:
        bring_lo_up()
        server = start([sys.executable, "-I", "-c", NAMES])
        found = wait_of([], NAME_SERVER, 50)
        server.kill()
        server.communicate()
        return found

    median, late, lost = isolated_as_root(measure)
    assert 0 < median <= late
    assert lost == 0


def test_parts_are_those_that_there_are() -> None:
    assert parts_of("waits,flows") == ["waits", "flows"]
    for text in ("", "wait", "flows,"):
        with pytest.raises(ArgumentTypeError, match="parts are flows, queries, said, waits"):
            parts_of(text)
