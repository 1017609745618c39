"""Levels, escaping and limits of messages."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from passt import log
from passt.log import Logger, escape

if TYPE_CHECKING:
    from collections.abc import Iterator


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
