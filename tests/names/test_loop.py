"""The loop of the forwarder's process."""

from __future__ import annotations

import os

from passt.names.loop import WRITABLE, Loop


def test_timers_come_in_their_order_and_once() -> None:
    now = [0.0]
    loop = Loop(lambda: now[0])
    seen: list[str] = []
    loop.call_later(2, lambda: seen.append("two"))
    loop.call_later(1, lambda: seen.append("one"))
    cancelled = loop.call_later(1, lambda: seen.append("never"))
    loop.cancel(cancelled)
    loop.cancel(cancelled)
    for moment, wanted in ((0.5, []), (1.0, ["one"]), (5.0, ["one", "two"]), (9.0, ["one", "two"])):
        now[0] = moment
        loop.turn(0)
        assert seen == wanted
    loop.close()


def test_cancelled_timers_take_no_memory_for_long() -> None:
    loop = Loop(lambda: 0.0)
    kept = loop.call_later(9, lambda: None)
    for _ in range(5000):
        loop.cancel(loop.call_later(5, lambda: None))
    assert len(loop._timers) < 600
    assert any(timer is kept for _, _, timer in loop._timers)
    loop.close()


def test_descriptors_are_watched_for_what_is_asked() -> None:
    loop = Loop()
    reader, writer = os.pipe()
    seen: list[str] = []
    loop.watch(reader, lambda: seen.append("readable"))
    loop.watch(writer, lambda: seen.append("writable"), WRITABLE)
    loop.turn(0)
    assert seen == ["writable"]
    loop.watch(writer, lambda: seen.append("writable"), 0)
    os.close(writer)
    loop.turn(0)
    assert seen == ["writable", "readable"]     # its end
    loop.unwatch(reader)
    loop.unwatch(reader)
    loop.turn(0)
    assert seen == ["writable", "readable"]
    os.close(reader)
    loop.close()


def test_what_was_closed_in_a_turn_is_not_called() -> None:
    loop = Loop()
    pipes = [os.pipe() for _ in range(2)]
    seen = []

    def take(number: int) -> None:
        seen.append(number)
        for reader, _ in pipes:
            loop.unwatch(reader)

    for number, (reader, writer) in enumerate(pipes):
        loop.watch(reader, lambda number=number: take(number))  # type: ignore[misc]
        os.write(writer, b"x")
    loop.turn(0)
    assert len(seen) == 1
    for pair in pipes:
        for fd in pair:
            os.close(fd)
    loop.close()
