"""What rules refuse is told seldom, in numbers that lose nothing, and in a few names."""

from __future__ import annotations

from typing import Any

from passt.facts.egress import Why
from passt.names.orders import MAX_TEXT_LEN, Bar, parse_refused
from passt.names.refusals import MAX_NAMES, MAX_NUMBERS, PAUSE_S, NameRefusals
from passt.wire.dns.message import encode_name

DENIED, NOWHERE = Bar(0, Why.QUESTION), Bar(3, Why.QUESTION)


class Bench:
    """Refusals with a loop whose time is passed by hand; what they told."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[Any] = []
        self.sent: list[bytes] = []
        self.is_deaf = False
        loop: Any = self
        self.refusals = NameRefusals(loop, self.send)

    def clock(self) -> float:
        return self.now

    def call_later(self, seconds: float, callback: Any) -> None:
        assert seconds == PAUSE_S
        self.timers.append(callback)

    def send(self, message: bytes) -> None:
        if self.is_deaf:
            raise BlockingIOError
        self.sent.append(message)

    def refuse(self, bar: Bar, *names: str) -> None:
        for name in names:
            self.refusals.note(bar, encode_name(name))

    def told(self) -> tuple[dict[int, int], list[str]]:
        """Return the numbers and names of the only message since the last call."""
        (message,) = self.sent
        self.sent.clear()
        _, numbers, names = parse_refused(message)
        return dict(numbers), [name.name for name in names]

    def go_on(self) -> None:
        """Let the pause end."""
        self.now += PAUSE_S
        timers, self.timers = self.timers, []
        for each in timers:
            each()


def test_first_refusal_is_told_at_once_and_the_next_ones_together() -> None:
    bench = Bench()
    bench.refuse(NOWHERE, "a.test")
    assert bench.told() == ({3: 1}, ["a.test"])
    bench.refuse(NOWHERE, "b.test", "c.test", "b.test")
    bench.refuse(DENIED, "ads.test")
    assert bench.sent == []
    bench.go_on()
    assert bench.told() == ({3: 3, 0: 1}, ["b.test", "c.test", "ads.test"])
    bench.go_on()
    assert (bench.sent, bench.timers) == ([], [])    # nothing is left that would wake the process
    bench.refuse(DENIED, "last.test")
    assert bench.told() == ({0: 1}, ["last.test"])
    assert len(bench.timers) == 1


def test_name_is_told_once_a_second_and_counted_each_time() -> None:
    bench = Bench()
    for _ in range(5):
        bench.refuse(DENIED, "ads.test")
        bench.go_on()
    counts = [dict(parse_refused(message)[1]) for message in bench.sent]
    assert sum(each[0] for each in counts) == 5
    assert [len(parse_refused(message)[2]) for message in bench.sent] == [1, *[0] * (len(bench.sent) - 1)]
    bench.sent.clear()
    bench.go_on()
    bench.now += 1
    bench.refuse(DENIED, "ads.test")
    assert bench.told() == ({0: 1}, ["ads.test"])


def test_flood_of_names_is_one_message_of_some() -> None:
    bench = Bench()
    bench.refuse(NOWHERE, "first.test")
    bench.told()
    bench.refuse(NOWHERE, *(f"n{number}.test" for number in range(5000)))
    bench.go_on()
    numbers, names = bench.told()
    assert (numbers, len(names)) == ({3: 5000}, MAX_NAMES)


def test_many_rules_take_several_messages() -> None:
    bench = Bench()
    bench.refuse(NOWHERE, "first.test")
    bench.told()
    for place in range(MAX_NUMBERS + 5):
        bench.refuse(Bar(place, Why.QUESTION), "x.test")
    bench.go_on()
    assert len(bench.told()[0]) == MAX_NUMBERS
    bench.go_on()
    assert len(bench.told()[0]) == 5
    assert len(bench.timers) == 1


def test_numbers_wait_for_a_main_process_that_does_not_listen() -> None:
    bench = Bench()
    bench.is_deaf = True
    bench.refuse(DENIED, "ads.test")
    bench.go_on()
    bench.refuse(DENIED, "other.test")
    assert bench.sent == []
    bench.is_deaf = False
    bench.go_on()
    assert bench.told() == ({0: 2}, ["ads.test", "other.test"])


def test_places_of_other_rules_are_not_mixed_up() -> None:
    bench = Bench()
    bench.refuse(DENIED, "first.test")
    bench.refuse(DENIED, "second.test")
    bench.refusals.renew(7)
    bench.refuse(NOWHERE, "third.test")
    bench.go_on()
    assert [parse_refused(message)[0] for message in bench.sent] == [0, 0, 7]
    assert dict(parse_refused(bench.sent[2])[1]) == {3: 1}
    bench.is_deaf = True
    bench.refuse(DENIED, "fourth.test")
    bench.refusals.renew(8)
    bench.is_deaf = False
    bench.sent.clear()
    bench.go_on()
    bench.go_on()
    assert bench.sent == []


def test_name_of_any_bytes_is_printable_and_short() -> None:
    bench = Bench()
    long = (b"\x3f" + b"\xff" * 63) * 3 + b"\x3d" + b"\0" * 61 + b"\0"
    assert len(long) == 255
    bench.refusals.note(DENIED, long)
    (name,) = bench.told()[1]
    assert (len(name), name[:8]) == (MAX_TEXT_LEN, "\\255\\255")
