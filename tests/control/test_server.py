"""Long responses to several clients are made by turns; time passes when a test says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from passt.control.server import Pace
from tests.support.fakes import Clock

if TYPE_CHECKING:
    from collections.abc import Iterator


class Case:
    """Responses whose pieces take a millisecond each; `made` has the names of those that were made."""

    def __init__(self) -> None:
        self.clock = Clock(10.0)
        self.pace = Pace(self.clock)
        self.made: list[str] = []

    def response(self, name: str, n: int = 1000) -> Iterator[bytes]:
        def pieces() -> Iterator[bytes]:
            for _ in range(n):
                self.made.append(name)
                self.clock.now_s += 0.001
                yield b"x"

        return self.pace.share(pieces())

    def turn(self, responses: list[Iterator[bytes]], other_s: float = 0.0) -> float:
        """Ask each for a piece, as a turn of the loop does; return how long that took."""
        start_s = self.clock.now_s
        for response in responses:
            next(response)
        took_s = self.clock.now_s - start_s
        self.clock.now_s += other_s
        return took_s


def test_a_client_alone_never_waits() -> None:
    case = Case()
    assert list(case.response("a", 5)) == [b"x"] * 5


def test_thirty_clients_take_no_longer_in_a_turn_than_one_and_none_is_left_behind() -> None:
    case = Case()
    responses = [case.response(f"{i}") for i in range(30)]
    for _ in range(300):
        assert case.turn(responses, other_s=0.002) <= 0.0015
    counts = [case.made.count(f"{i}") for i in range(30)]
    assert max(counts) - min(counts) <= 2
    assert min(counts) >= 9


def test_a_client_that_goes_or_is_done_holds_nobody_up() -> None:
    case = Case()
    gone, short, long = case.response("gone"), case.response("short", 2), case.response("long", 4)
    for response in (gone, short, long):
        next(response)
    del gone
    del response
    for _ in range(50):
        case.clock.now_s += 1
        next(short, None)
        next(long, None)
    assert case.made.count("short") == 2
    assert case.made.count("long") == 4
    assert list(case.response("after", 3)) == [b"x"] * 3


def test_a_client_that_does_not_read_holds_nobody_up() -> None:
    case = Case()
    stuck, other = case.response("stuck"), case.response("other")
    case.turn([stuck, other], other_s=0.01)
    case.turn([stuck, other], other_s=0.01)
    n_before = case.made.count("other")
    for _ in range(20):               # `stuck` is not asked for a piece any more
        case.turn([other], other_s=0.01)
    assert case.made.count("other") >= n_before + 19


def test_a_response_that_is_never_begun_holds_nobody_up() -> None:
    case = Case()
    head_only = case.response("head")
    assert list(case.response("a", 3)) == [b"x"] * 3
    del head_only
