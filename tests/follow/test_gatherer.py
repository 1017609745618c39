"""Hints become readings: bursts are one, what never rests is read all the same, and readings are paid for."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

import pytest

from passt.follow.gatherer import LONGEST_S, MAX_REST_S, QUIET_S, REST_SHARE, RETRY_S, Gatherer
from passt.follow.turns import PIECE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


class Bench:
    """A gatherer in virtual time.

    *took_s* is what a reading takes, *fails* how many readings fail, *n_pieces* how often one may be
    interrupted. Between two pieces others take *others_s*.
    """

    def __init__(self, took_s: float = 0.0, fails: int = 0, n_pieces: int = 1, others_s: float = 0.0) -> None:
        self.now = 100.0
        self.worked_s = 0.0
        self.n_pieces = n_pieces
        self.others_s = others_s
        self.ended_at: list[float] = []
        self.took_s = took_s
        self.fails = fails
        self.read_at: list[float] = []
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self.gatherer = Gatherer(self._read, self._call_later, lambda: self.now, lambda: self.worked_s)

    def _read(self) -> Generator[None, None, bool]:
        self.read_at.append(round(self.now - 100.0, 6))
        for _ in range(self.n_pieces):
            self.now += self.took_s / self.n_pieces
            self.worked_s += self.took_s / self.n_pieces
            yield
        self.ended_at.append(round(self.now - 100.0, 6))
        self.fails -= 1
        return self.fails < 0

    def _call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        assert delay_s >= 0
        if not delay_s:
            self.now += self.others_s
        self._number += 1
        heappush(self._due, (self.now + delay_s, self._number, callback))

    def n_timers(self) -> int:
        return len(self._due)

    def run_until(self, at: float) -> None:
        """Make time pass up to *at* seconds from the start."""
        while self._due and self._due[0][0] <= 100.0 + at:
            due, _, callback = heappop(self._due)
            self.now = max(self.now, due)
            callback()
        self.now = max(self.now, 100.0 + at)


def test_one_hint_is_one_reading_after_a_quiet_moment() -> None:
    bench = Bench()
    bench.gatherer.hint()
    bench.run_until(QUIET_S / 2)
    assert bench.read_at == []
    bench.run_until(60)
    assert bench.read_at == [QUIET_S]
    assert bench.n_timers() == 0, "an idle host costs nothing"


def test_burst_is_one_reading() -> None:
    bench = Bench()
    for at in (0.0, 0.05, 0.12, 0.2):
        bench.run_until(at)
        bench.gatherer.hint()
        assert bench.n_timers() == 1
    bench.run_until(60)
    assert bench.read_at == [pytest.approx(0.2 + QUIET_S)]


def test_what_never_rests_is_read_all_the_same() -> None:
    bench = Bench()
    for step in range(200):
        bench.run_until(step * 0.01)
        bench.gatherer.hint()
    assert bench.read_at[0] == pytest.approx(LONGEST_S)
    assert 3 <= len(bench.read_at) <= 2 / LONGEST_S


def test_long_readings_are_paid_for_by_rests() -> None:
    bench = Bench(took_s=0.1)
    for step in range(4000):
        bench.run_until(step * 0.01)
        bench.gatherer.hint()
    gaps = [after - before for before, after in zip(bench.read_at, bench.read_at[1:], strict=False)]
    assert len(gaps) > 5
    assert min(gaps) >= REST_SHARE * 0.1


def test_hint_during_a_rest_is_not_lost() -> None:
    bench = Bench(took_s=1.0)
    bench.gatherer.hint()
    bench.run_until(2)
    bench.gatherer.hint()
    bench.run_until(60)
    assert len(bench.read_at) == 2
    assert bench.n_timers() == 0


def test_others_have_their_turns_during_a_reading_and_do_not_count_as_its_cost() -> None:
    bench = Bench(took_s=0.1, n_pieces=100, others_s=0.02)
    bench.gatherer.hint()
    bench.run_until(QUIET_S)
    assert bench.ended_at == [], "others have their turn"
    assert bench.n_timers() == 1
    bench.gatherer.hint()
    assert bench.n_timers() == 1, "it is read again when this reading is done"
    bench.run_until(60)
    first, second = bench.read_at
    n_turns = 0.1 / PIECE_S
    assert bench.ended_at[0] == pytest.approx(first + 0.1 + 0.02 * n_turns, abs=0.1)
    assert second - bench.ended_at[0] == pytest.approx(REST_SHARE * 0.1, abs=0.001)
    assert bench.n_timers() == 0


@pytest.mark.parametrize("at", [0.0, 0.05, 0.1], ids=["before", "quiet", "reading"])
def test_clock_that_jumps_by_an_hour_holds_up_nothing_for_long(at: float) -> None:
    bench = Bench(took_s=0.01, n_pieces=10)
    if at:
        bench.gatherer.hint()
    bench.run_until(at)
    bench.now += 3600.0
    bench.gatherer.hint()
    bench.run_until(3600.0 + at + LONGEST_S)
    assert bench.ended_at[0] == pytest.approx(3600.0 + at, abs=LONGEST_S)
    bench.run_until(3600.0 + 60)
    n_read = len(bench.ended_at)
    bench.gatherer.hint()
    bench.run_until(3600.0 + 120)
    assert len(bench.ended_at) == n_read + 1


def test_hour_in_the_middle_of_a_reading_is_no_reason_for_a_long_rest() -> None:
    bench = Bench(took_s=3600.0, n_pieces=1000)
    bench.gatherer.hint()
    bench.run_until(4000)
    bench.gatherer.hint()
    bench.run_until(4000 + MAX_REST_S)
    assert len(bench.read_at) == 2


def test_time_in_which_others_have_the_processor_is_no_reason_for_a_rest() -> None:
    bench = Bench()

    def read() -> Generator[None, None, bool]:
        bench.read_at.append(bench.now)
        bench.now += 1.0
        bench.worked_s += 0.001
        yield
        return True

    bench.gatherer._read = read
    for _ in range(3):
        bench.gatherer.hint()
        bench.run_until(bench.now - 100.0 + LONGEST_S)
    assert len(bench.read_at) == 3


def test_failed_reading_is_tried_again() -> None:
    bench = Bench(fails=2)
    bench.gatherer.hint()
    bench.run_until(60)
    assert bench.read_at == [pytest.approx(QUIET_S + n * RETRY_S) for n in range(3)]
