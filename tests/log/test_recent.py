"""Each key is due once in the interval, and the memory of them is bounded."""

from __future__ import annotations

from passt.log.recent import INTERVAL_S, MAX_KEYS, Recent


class Clock:
    """Virtual time."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_key_is_due_once_in_the_interval() -> None:
    clock = Clock()
    recent = Recent(clock)
    assert [recent.is_due("a"), recent.is_due("a"), recent.is_due("b")] == [True, False, True]
    clock.now += INTERVAL_S / 2
    assert not recent.is_due("a")
    clock.now += INTERVAL_S / 2
    # That it was asked about meanwhile does not put it off.
    assert recent.is_due("a")
    assert not recent.is_due("a")


def test_memory_is_bounded_and_forgets_what_was_told_of_longest_ago() -> None:
    clock = Clock()
    recent = Recent(clock)
    assert all(recent.is_due(key) for key in range(MAX_KEYS))
    clock.now += INTERVAL_S
    assert recent.is_due(0)                  # 1 is the oldest now
    assert recent.is_due(MAX_KEYS)
    assert len(recent) == MAX_KEYS
    assert not recent.is_due(0)
    assert not recent.is_due(MAX_KEYS)
    clock.now -= INTERVAL_S / 2              # the others are within the interval
    assert not recent.is_due(2)
    assert recent.is_due(1)
    assert len(recent) == MAX_KEYS
