"""What a terminal is sent makes it show the lines, and is no more than what changed."""

from __future__ import annotations

import random

import pytest

from passt.passtctl.top.cells import NORMAL, STYLES, Line, line
from passt.passtctl.top.painter import Painter
from passt.passtctl.top.theme import PlainTheme
from tests.support.vt import Vt

WIDTH, HEIGHT = 37, 9


def frame(*texts: str) -> list[Line]:
    return [line([(text, NORMAL)], WIDTH) for text in texts]


class Marks:
    """Shows each style by a parameter of its own."""

    def paint(self, text: str, style: str) -> str:
        return text if style == NORMAL else f"\x1b[{ord(style)}m{text}\x1b[0m"


@pytest.mark.parametrize("seed", range(20))
def test_random_lines_are_shown_whatever_was_there(seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311 - the same lines each time
    painter, vt = Painter(Marks()), Vt(WIDTH, HEIGHT)
    shown = [line([], WIDTH) for _ in range(HEIGHT)]
    for _ in range(60):
        for _ in range(dice.randrange(5)):
            i = dice.randrange(HEIGHT)
            start = dice.randrange(WIDTH)
            text = "".join(dice.choice("ab  ") for _ in range(dice.randrange(WIDTH)))
            style = dice.choice(STYLES)
            old, end = shown[i], dice.choice(STYLES)
            shown[i] = Line((old.text[:start] + text)[:WIDTH].ljust(WIDTH),
                            (old.styles[:start] + style * len(text))[:WIDTH].ljust(WIDTH, end))
        if dice.randrange(10) == 0:
            painter.forget()
        vt.feed(painter.paint(shown))
        assert vt.lines() == [each.text for each in shown]
        assert vt.looks == [["" if style == NORMAL else str(ord(style)) for style in each.styles]
                            for each in shown]


def test_nothing_is_sent_where_nothing_changed() -> None:
    painter = Painter(PlainTheme())
    lines = frame("one", "two")
    assert painter.paint(lines)
    assert painter.paint(list(lines)) == ""


def test_a_change_costs_what_it_is_and_a_move() -> None:
    painter = Painter(PlainTheme())
    painter.paint(frame("out 1.0K", "in 2.0K"))
    assert painter.paint(frame("out 1.1K", "in 2.0K")) == "\x1b[1;7H1"
    assert painter.paint(frame("out 1.1K", "")) == "\x1b[2;1H\x1b[K"
    assert painter.paint(frame("out 1.1K" + " " * 20 + "new", "")) == "\x1b[1;29Hnew"


def test_a_screen_costs_its_characters_and_a_bounded_rest() -> None:
    painter = Painter(PlainTheme())
    for text in ("x" * WIDTH, "y" * WIDTH):
        sent = painter.paint(frame(*[text] * HEIGHT))
        assert len(sent) <= HEIGHT * (WIDTH + 10) + 20


def test_another_size_draws_everything_anew() -> None:
    painter = Painter(PlainTheme())
    painter.paint(frame("one", "two"))
    assert "\x1b[2J" in painter.paint(frame("one", "two", "three"))
    assert painter.paint([]) == "\x1b[0m\x1b[H\x1b[2J"
