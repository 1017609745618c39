"""The command line of pesto."""

from __future__ import annotations

import pytest

from passt.config.getopt import RUN, UsageError
from passt.pesto.command import Command, parse
from passt.steer.draft import ADD, CLEAR, DELETE, REPLACE, Step


def steps(*arguments: str) -> list[tuple[str, str, str]]:
    return [(step.what, step.option, step.value) for step in parse([*arguments, "PATH"]).steps]


def test_path_alone_shows() -> None:
    assert parse(["PATH"]) == Command(RUN, "PATH")


def test_options_act_in_their_order() -> None:
    assert steps("-t", "1", "-A", "-u", "2", "-C", "HOST", "-D", "-T3", "--udp-ns=4") == [
        (REPLACE, "tcp-ports", "1"), (ADD, "udp-ports", "2"), (CLEAR, "clear", "HOST"),
        (DELETE, "tcp-ns", "3"), (DELETE, "udp-ns", "4")]


@pytest.mark.parametrize("arguments", [
    ["--add", "-t", "0.0.0.0/80", "-t", "[::]/80", "-u", "53-54", "/run/s"],
    ["/run/s", "--add", "-t", "0.0.0.0/80", "-t", "[::]/80", "-u", "53-54"],
    ["-At0.0.0.0/80", "/run/s", "-t", "[::]/80", "--udp-ports", "53-54"],
    ["-A", "-t", "0.0.0.0/80", "-t", "[::]/80", "-u", "53-54", "--", "/run/s"],
])
def test_calls_of_container_engines(arguments: list[str]) -> None:
    command = parse(arguments)
    assert command.path == "/run/s"
    assert [(step.what, step.value) for step in command.steps] == [
        (ADD, "0.0.0.0/80"), (ADD, "[::]/80"), (ADD, "53-54")]


def test_flags() -> None:
    command = parse(["-sd", "PATH"])
    assert (command.show, command.debug) == (True, True)
    assert parse(["-s", "--help"]).action == "help"
    assert parse(["--version", "--nonsense"]).action == "version"


def test_label_is_the_option_as_given() -> None:
    assert parse(["-t", "1", "P"]).steps == (Step(REPLACE, "tcp-ports", "1", "option '-t' (--tcp-ports)"),)


@pytest.mark.parametrize(("arguments", "text"), [
    ([], "say the path"), (["A", "B"], "say the path"), (["-A", "PATH"], "takes port options"),
    (["-D", "-C", "HOST", "PATH"], "takes port options"), (["-x", "PATH"], "invalid option"),
    (["-t"], "requires an argument"), (["--ad", "--dele", "-t", "1"], "say the path"),
    (["--nonsense", "P"], "unrecognized option '--nonsense'"), (["-m", "1500", "P"], "invalid option"),
])
def test_mistakes_are_named(arguments: list[str], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        parse(arguments)
