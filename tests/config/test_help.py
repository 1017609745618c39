"""The shape of --help."""

from __future__ import annotations

import re

import pytest

from passt.config.help import WIDTH, help_text
from passt.config.options import OPTIONS

LATER = "Not available yet in this version"


def listed(text: str) -> set[str]:
    """Names in the first column of the entries."""
    return set(re.findall(r"--([a-z0-9-]+)", "\n".join(
        line[:30] if line[30:31].strip() else line
        for line in text.splitlines() if re.match(r" {2}(-|    --)", line))))


@pytest.mark.parametrize("program", ["pasta", "passt"])
def test_help_lists_exactly_the_options_of_its_program(program: str) -> None:
    now, _, later = help_text(program).partition(f"\n{LATER}")
    known = [option for option in OPTIONS if program in option.modes]
    assert listed(now) == {name for option in known if option.available for name in option.names}
    unavailable = [option for option in known if not option.available]
    assert listed(later) == {name for option in unavailable for name in option.names}
    told = " ".join(later.split())
    assert all(f"Meanwhile: {option.meanwhile}." in told for option in unavailable)


@pytest.mark.parametrize("program", ["pasta", "passt", "qrap"])
def test_help_has_usage_first_and_fits_the_width(program: str) -> None:
    lines = help_text(program).splitlines()
    assert lines[0].startswith(f"Usage: {program} ")
    assert max(map(len, lines)) <= WIDTH
    assert all(line == line.rstrip() for line in lines)
    assert help_text(program).endswith("\n")


@pytest.mark.parametrize("program", ["pasta", "passt"])
def test_help_texts_are_aligned(program: str) -> None:
    now, _, _ = help_text(program).partition(f"\n{LATER}")
    body = now[now.index("General:"):].partition("\nLong options may")[0].splitlines()
    shapes = (
        r"|[A-Z][A-Za-z ]+:",               # a group
        r" {2}(-\w, | {4})--.{20}  \S.*",   # an option with its text from column 30 on
        r" {2}(-\w, | {4})--\S+(, --\S+)?( \S+|\[=[A-Z]+\])",  # one too long for that
        r" {30}\S.*",                       # the text goes on
    )
    assert [line for line in body if not any(re.fullmatch(shape, line) for shape in shapes)] == []


def test_help_of_pasta_begins_like_this() -> None:
    text = help_text("pasta")
    assert text.startswith(
        "Usage: pasta [OPTION]... [COMMAND [ARG]...]\n"
        "       pasta [OPTION]... -f PID\n"
        "\n"
        "Runs COMMAND, or a login shell, in a network namespace of its own that is\n"
        "connected through the host without privileges; or connects the namespaces of\n"
        "process PID.\n"
        "\n"
        "General:\n"
        "  -d, --debug                 Print detailed messages on standard error, with\n"
        "                              time stamps, and not in the system log; undoes\n"
        "                              --quiet.\n"
        "      --trace                 As --debug, and print a line for each packet.\n")
    assert "      --map-host-loopback ADDR|none\n                              Address that means" in text
