"""`passtctl COMMAND --help`: each command's own options, filters and kinds, as the code takes them."""

from __future__ import annotations

import pytest

from passt.cli import main
from passt.control.api import LEVELS
from passt.control.events import KINDS
from passt.control.packet_filter import parse_filter
from passt.passtctl.command import _OWNERS, COMMANDS, parse, parse_filters
from passt.passtctl.help import _PARTS, command_help


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_its_own(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    for arguments in ([name, "--help"], ["-h", name], ["-p", "5", name, "x", "-h"]):
        assert main(["passtctl", *arguments]) == 0
        text = capfd.readouterr().out
        if arguments[0] != "-h":
            assert text == command_help(name)
    assert COMMANDS[name][1] in command_help(name)
    assert max(map(len, command_help(name).splitlines())) <= 100
    for option, owner in _OWNERS.items():
        if option != "specs":
            assert (f"--{option}" in command_help(name)) == (owner == name), option


def rows(name: str) -> dict[str, list[str]]:
    """The left columns of a command's help, by their headings."""
    return {heading.partition(":")[0].partition(" ")[0]: [left for left, _ in lines]
            for heading, lines in _PARTS[name]}


def test_what_is_listed_is_taken() -> None:
    assert " ".join(rows("events")["KIND"]).split() == list(KINDS)
    assert set(rows("log")["LEVEL"]) == set(LEVELS)
    for word in " ".join(rows("flows")["FILTER"][:3]).split():
        assert parse_filters([word])
    for word in " ".join(rows("capture")["FILTER"][:3]).split():
        parse_filter(word)
    assert parse(["--help"]).words == ()
