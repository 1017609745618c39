"""The cost of rules: those that are measured are rules, as many as said, and let pass what is measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.egress import FAR4, RULES, policy, start
from passt.config.policy_file import parse_policy

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
