"""Levels, escaping and limits of messages."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from passt import log
from passt.log import Logger, escape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Output:
    """A logger on a pipe, under a clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.read_fd, self.write_fd = os.pipe()
        os.set_blocking(self.read_fd, False)
        self.logger = Logger(self.write_fd, lambda: self.now_s)

    def lines(self) -> list[str]:
        """Take what was printed since the last call."""
        try:
            return os.read(self.read_fd, 1 << 16).decode().splitlines()
        except BlockingIOError:
            return []


@pytest.fixture
def output() -> Iterator[Output]:
    output = Output()
    yield output
    os.close(output.read_fd)
    os.close(output.write_fd)


@pytest.mark.parametrize(("debug", "quiet", "expected"), [
    (False, False, ["error", "warning", "info"]),
    (False, True, ["error", "warning"]),
    (True, False, ["1.2500: error", "1.2500: warning", "1.2500: info", "1.2500: debug"]),
])
def test_level_decides_what_is_printed(
        output: Output, *, debug: bool, quiet: bool, expected: list[str]) -> None:
    output.logger.configure(debug=debug, quiet=quiet)
    output.now_s += 1.25
    output.logger.err("error")
    output.logger.warning("warning")
    output.logger.info("info")
    output.logger.debug("debug")
    assert output.lines() == expected
    assert output.logger.is_debug() is debug


@pytest.mark.parametrize(("text", "shown"), [
    ("plain äöü 網", "plain äöü 網"),
    ("a\nb", r"a\nb"),
    ("\x1b[31mred", r"\x1b[31mred"),
    ("nul\0", r"nul\x00"),
    ("c1\x9b", r"c1\x9b"),
    ("line\u2028sep", r"line\u2028sep"),
    ("rtl\u202e", r"rtl\u202e"),
    ("raw\udcff", r"raw\udcff"),
])
def test_what_is_not_printable_is_escaped(output: Output, text: str, shown: str) -> None:
    assert escape(text) == shown
    output.logger.info(text)
    assert output.lines() == [shown]


def test_closed_descriptor_is_no_error() -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    logger = Logger(write_fd)
    logger.err("lost")
    os.close(write_fd)
    logger.err("lost too")


def test_once_prints_the_first_only(output: Output) -> None:
    for number in range(3):
        output.logger.once(log.WARNING, "key", f"first {number}")
        output.logger.once(log.WARNING, "other", f"second {number}")
    assert output.lines() == ["first 0", "second 0"]


def test_limited_prints_five_a_second_and_tells_how_many_it_held(output: Output) -> None:
    for number in range(8):
        output.logger.limited(log.WARNING, "key", f"message {number}")
    assert output.lines() == [f"message {number}" for number in range(5)]
    output.now_s += 0.99
    output.logger.limited(log.WARNING, "key", "late")
    assert output.lines() == []
    output.now_s += 0.01
    output.logger.limited(log.WARNING, "key", "next")
    output.logger.limited(log.WARNING, "key", "after")
    assert output.lines() == ["next (4 more not shown)", "after"]


def test_what_was_held_back_last_is_told_at_the_end(output: Output) -> None:
    for number in range(9):
        output.logger.limited(log.WARNING, "key", f"message {number}")
    output.logger.limited(log.WARNING, "other", "printed")
    for _ in range(6):
        output.logger.limited(log.INFO, "third", "again")
    output.lines()
    output.logger.tell_held()
    assert output.lines() == ["message 8 (3 more not shown)", "again"]
    output.logger.tell_held()
    assert output.lines() == []


def test_line_is_bounded(output: Output) -> None:
    output.logger.info("\0" * 5000)
    assert output.lines() == [r"\x00" * (log.MAX_LEN // 4) + "..."]


def test_keys_are_bounded(output: Output) -> None:
    for number in range(log.MAX_KEYS + 1):
        output.logger.once(log.DEBUG, f"key {number}", "text")
    output.logger.once(log.INFO, "key 1", "still known")
    output.logger.once(log.INFO, "key 0", "forgotten, so printed again")
    assert output.lines() == ["forgotten, so printed again"]


def test_functions_of_the_module_write_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    log.configure(quiet=True)
    try:
        log.info("no")
        log.warning("yes")
    finally:
        log.configure()
    assert capfd.readouterr() == ("", "yes\n")


def fail() -> None:
    raise OSError(5, "first\nline")


def fail_in_turn() -> None:
    try:
        fail()
    except OSError as error:
        raise ValueError("second") from error


def test_failure_is_told_line_by_line_with_where_and_why() -> None:
    with pytest.raises(ValueError, match="second") as caught:
        fail_in_turn()
    lines = log.describe_failure(caught.value)
    place = re.escape(__file__)
    expected = [
        "ValueError: second",
        rf"    line \d+ of {place}, in fail_in_turn",
        rf"    line \d+ of {place}, in test_failure_is_told_line_by_line_with_where_and_why",
        r"raised from OSError: \[Errno 5\] first\nline",
        rf"    line \d+ of {place}, in fail",
        rf"    line \d+ of {place}, in fail_in_turn",
    ]
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line), line


def test_failure_is_logged_on_single_lines_with_the_name(output: Output) -> None:
    with pytest.raises(ValueError, match="second") as caught:
        fail_in_turn()
    output.logger.failure("pasta", caught.value)
    lines = output.lines()
    assert len(lines) == 6
    assert all(line.startswith("pasta: ") for line in lines)
    assert lines[3] == "pasta: raised from OSError: [Errno 5] first\\nline"


def fail_deep(depth: int) -> None:
    try:
        fail()
    except OSError as error:
        if depth:
            fail_deep(depth - 1)
        raise KeyError(depth) from error


def fail_chained(depth: int) -> None:
    try:
        if depth:
            fail_chained(depth - 1)
        fail()
    except (KeyError, OSError) as error:
        raise KeyError(depth) from error


@pytest.mark.parametrize("function", [fail_deep, fail_chained])
def test_failure_has_a_bounded_number_of_lines(function: Callable[[int], None]) -> None:
    with pytest.raises(KeyError) as caught:
        function(100)
    assert len(log.describe_failure(caught.value)) <= log.MAX_CAUSES * (log.MAX_FRAMES + 1)
