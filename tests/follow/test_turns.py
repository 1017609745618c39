"""Long work is done in pieces, in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from passt.follow.turns import PIECE_S, Turns
from tests.support import fakes

if TYPE_CHECKING:
    from collections.abc import Generator


class Bench(fakes.Loop):
    """A loop and a clock; what work did, step by step, and what it took in all."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = fakes.Clock()
        self.done: list[int] = []
        self.spent: list[float] = []
        self.turns = Turns(self.call_later, self.clock)

    def work(self, n_steps: int, step_s: float) -> Generator[None, None, str]:
        for number in range(n_steps):
            self.done.append(number)
            self.clock.now_s += step_s
            yield
        return "what it found"


def test_short_work_is_done_at_once() -> None:
    bench = Bench()
    bench.turns.do(bench.work(10, PIECE_S / 20), bench.spent.append)
    assert bench.done == list(range(10))
    assert bench.spent == [pytest.approx(PIECE_S / 2)]
    assert bench.timers == []


def test_long_work_is_interrupted_after_each_piece_and_what_others_take_is_not_its_own() -> None:
    bench = Bench()
    bench.turns.do(bench.work(100, PIECE_S / 3.5), bench.spent.append)
    n_turns = 0
    while bench.timers:
        assert [delay for delay, _ in bench.timers] == [0.0]
        n_turns += 1
        assert len(bench.done) == 4 * n_turns
        bench.clock.now_s += 1.0
        bench.fire()
    assert bench.done == list(range(100))
    assert n_turns == 25
    assert bench.spent == [pytest.approx(100 / 3.5 * PIECE_S)]


def test_work_without_steps() -> None:
    bench = Bench()
    bench.turns.do(bench.work(0, 1.0), bench.spent.append)
    bench.turns.do(bench.work(0, 1.0))
    assert bench.spent == [0.0]


def test_mistake_in_the_work_is_raised() -> None:
    def broken() -> Generator[None, None, None]:
        yield
        raise AssertionError("a mistake")

    bench = Bench()
    with pytest.raises(AssertionError, match="a mistake"):
        bench.turns.do(broken(), bench.spent.append)
    assert bench.spent == []
