"""Answers wait until their addresses are pinned, and not for ever."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passt.errors import WireError
from passt.names import pinboard as module
from passt.names.orders import (
    MAX_PINS_LEN,
    Pin,
    build_learned,
    build_pins,
    build_settled,
    parse_learned,
    parse_pins,
    parse_settled,
)
from passt.names.pinboard import PATIENCE_S, Pinboard

PINS = [Pin(3, b"\1\2\3\4", 60), Pin(0xFFFF, b"\1" * 16, 0xFFFFFFFF)]


class Bench:
    """A pinboard with a loop whose time is passed by hand; what it sent, and what came of it."""

    def __init__(self) -> None:
        self.timers: dict[int, tuple[float, Any]] = {}
        self.sent: list[bytes] = []
        self.fails = False
        self.told: list[bool] = []
        loop: Any = self
        self.board = Pinboard(loop, self.send)

    def send(self, message: bytes) -> None:
        if self.fails:
            raise BlockingIOError
        self.sent.append(message)

    def call_later(self, seconds: float, callback: Any) -> int:
        self.timers[len(self.timers)] = (seconds, callback)
        return len(self.timers) - 1

    def cancel(self, timer: int) -> None:
        del self.timers[timer]

    def pin(self) -> int:
        """Pin `PINS`; return the number that was sent, or of no message."""
        before = len(self.sent)
        self.board.pin(PINS, self.told.append)
        return parse_pins(self.sent[-1])[0] if len(self.sent) > before else -1


def test_answer_waits_for_what_the_main_process_says() -> None:
    bench = Bench()
    first, second = bench.pin(), bench.pin()
    assert first != second
    assert bench.told == []
    bench.board.settle(second, False)
    assert bench.told == [False]
    bench.board.settle(first, True)
    assert bench.told == [False, True]
    assert bench.timers == {}
    # Nobody waits for these.
    bench.board.settle(first, True)
    bench.board.settle(12345, True)
    assert bench.told == [False, True]


def test_nothing_is_passed_on_without_a_word() -> None:
    bench = Bench()
    number = bench.pin()
    ((seconds, callback),) = bench.timers.values()
    assert seconds == PATIENCE_S
    callback()
    assert bench.told == [False]
    bench.board.settle(number, True)
    assert bench.told == [False]


def test_nothing_is_passed_on_if_it_cannot_be_asked() -> None:
    bench = Bench()
    bench.fails = True
    bench.pin()
    assert bench.told == [False]
    assert bench.timers == {}


def test_waiting_answers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    bench = Bench()
    number = bench.pin()
    bench.pin()
    bench.pin()
    assert bench.told == [False]
    bench.board.settle(number, True)
    bench.pin()
    assert bench.told == [False, True]
    assert len(bench.sent) == 3


def test_pins_tell_by_which_rules_they_were_made() -> None:
    bench = Bench()
    bench.pin()
    bench.board.generation = 9
    bench.pin()
    assert [parse_pins(message)[1] for message in bench.sent] == [0, 9]


@pytest.mark.parametrize("pins", [[], PINS, [Pin(i, bytes(16), i) for i in range(1024)]])
def test_pins_come_over_as_they_were(pins: list[Pin]) -> None:
    message = build_pins(0xFFFFFFFF, pins)
    assert len(message) <= MAX_PINS_LEN
    assert parse_pins(message) == (0xFFFFFFFF, 0, [(pin.place, pin.address, pin.ttl) for pin in pins])


@pytest.mark.parametrize("length", [0, 1, 3, 5, 6, 8, 12, 13, 16, len(build_pins(1, PINS)) - 1])
def test_pins_that_are_cut_off_are_nonsense(length: int) -> None:
    with pytest.raises(WireError):
        parse_pins(build_pins(1, PINS)[:length])


@given(st.binary(max_size=100))
def test_any_bytes_are_pins_or_nonsense(message: bytes) -> None:
    try:
        number, generation, pins = parse_pins(message)
    except WireError:
        return
    found = [Pin(place, address, ttl) for place, address, ttl in pins]
    assert build_pins(number, found, generation) == message


@pytest.mark.parametrize("is_pinned", [True, False])
def test_word_of_the_main_process_comes_over(is_pinned: bool) -> None:
    assert parse_settled(build_settled(77, is_pinned=is_pinned)) == (77, is_pinned)


LEARNED = [Pin(0, b"\1" * 16, 0, b"x" * 255), Pin(0, b"", 0, b"www.example"), Pin(0, b"\1\2\3\4", 0, b"a")]


@pytest.mark.parametrize("pins", [[], LEARNED, [Pin(0, bytes(16), 0, b"x" * 255)] * 64])
def test_names_come_over_as_they_were(pins: list[Pin]) -> None:
    message = build_learned(0xFFFFFFFF, pins)
    assert len(message) <= MAX_PINS_LEN
    assert parse_learned(message) == (0xFFFFFFFF, [(pin.name, pin.address) for pin in pins])


@pytest.mark.parametrize("length", [0, 3, 4, 6, 100, 260, 261, 270, len(build_learned(1, LEARNED)) - 1])
def test_names_that_are_cut_off_are_nonsense(length: int) -> None:
    with pytest.raises(WireError):
        parse_learned(build_learned(1, LEARNED)[:length])


@given(st.binary(max_size=100))
def test_any_bytes_are_names_or_nonsense(message: bytes) -> None:
    try:
        number, found = parse_learned(message)
    except WireError:
        return
    assert build_learned(number, [Pin(0, address, 0, name) for name, address in found]) == message
