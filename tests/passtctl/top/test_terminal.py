"""A terminal of our own: its modes are put back, and a line that takes nothing holds nobody up."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios
import time
from typing import TYPE_CHECKING

import pytest

from passt.passtctl.top.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator


class Line:
    """Both ends of a terminal."""

    def __init__(self) -> None:
        self.far, self.near = pty.openpty()
        os.set_blocking(self.far, False)
        self.terminal = Terminal(self.near, self.near)

    def shown(self) -> bytes:
        found = b""
        while True:
            try:
                found += os.read(self.far, 65536)
            except BlockingIOError:
                return found


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    os.close(made.far)
    os.close(made.near)
    if made.terminal.out_fd != made.near:
        os.close(made.terminal.out_fd)


def test_modes_are_as_before_afterwards(line: Line) -> None:
    before = termios.tcgetattr(line.near)
    line.terminal.enter()
    during = termios.tcgetattr(line.near)
    assert not during[3] & (termios.ICANON | termios.ECHO)
    assert during[3] & termios.ISIG
    line.terminal.enter()                       # again, as after SIGCONT
    line.terminal.leave()
    assert termios.tcgetattr(line.near) == before
    assert line.shown().endswith(b"\x1b[?25h\x1b[?1049l")
    line.terminal.leave()
    assert line.shown() == b""


def test_our_writes_do_not_wait_and_the_shells_do(line: Line) -> None:
    assert not os.get_blocking(line.terminal.out_fd)
    assert os.get_blocking(line.near)


def test_a_line_that_takes_nothing_is_left_at_once(line: Line) -> None:
    line.terminal.enter()
    start_s = time.monotonic()
    for _ in range(100):
        line.terminal.write("x" * 10_000)
    assert not line.terminal.has_room
    assert time.monotonic() - start_s < 20
    seen = line.shown()
    line.terminal.flush()
    assert len(line.shown()) > 0
    assert seen.startswith(b"\x1b[?1049h")


def test_a_sequence_that_was_cut_off_is_ended(line: Line) -> None:
    line.terminal.enter()
    line.terminal.write("\x1b[7mx" * 50_000)
    assert not line.terminal.has_room
    line.shown()
    line.terminal.leave()
    assert b"\x18\x1b[0m" in line.shown()


def test_what_is_typed_comes_at_once(line: Line) -> None:
    line.terminal.enter()
    os.write(line.far, b"q")
    assert line.terminal.read() == b"q"


def test_size_is_that_of_the_terminal_or_the_usual_one(line: Line) -> None:
    fcntl.ioctl(line.near, termios.TIOCSWINSZ, struct.pack("4H", 60, 200, 0, 0))
    assert line.terminal.size() == (200, 60)
    fcntl.ioctl(line.near, termios.TIOCSWINSZ, bytes(8))
    assert line.terminal.size() == (80, 24)
    ends = os.pipe()
    try:
        assert Terminal(*ends).size() == (80, 24)
        assert Terminal(*ends).out_fd == ends[1]
    finally:
        for fd in ends:
            os.close(fd)
