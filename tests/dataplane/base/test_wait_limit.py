"""Waits that somebody hostile causes: each ends after a tick, and the timer with them."""

from __future__ import annotations

import os
import select
import time

from passt.dataplane.base import wait_limit
from passt.dataplane.base.wait_limit import WaitLimit

FULL = (1 << 64) - 2  # eventfd(2)
LIMIT_S = 60.0


def test_event_that_would_wait_is_given_up() -> None:
    wait_limit.prepare()
    event = os.eventfd(0)
    os.eventfd_write(event, FULL)
    assert not WaitLimit().tell(event)
    os.set_blocking(event, False)
    assert WaitLimit().tell(event)            # whoever reads it hears of it
    os.eventfd_read(event)
    assert WaitLimit().tell(event)
    assert os.eventfd_read(event) == 1
    os.close(event)


def test_descriptor_that_takes_no_event_is_no_error() -> None:
    assert WaitLimit().tell(select.epoll().fileno())
    assert WaitLimit().tell(-1)


def passes_at_once(limit: WaitLimit) -> bool:
    """Tell whether it has passed already when it begins; a tick may come just then, but not each time."""
    def has_passed() -> bool:
        with limit:
            return limit.has_passed()

    return all(has_passed() for _ in range(10))


def test_limit_passes_after_a_tick_and_the_timer_stops() -> None:
    wait_limit.prepare()
    limit = WaitLimit()
    with limit:
        end = time.monotonic() + LIMIT_S
        while not limit.has_passed():
            assert time.monotonic() < end
    assert not passes_at_once(limit)
    assert select.select([], [], [], 0.2) == ([], [], [])    # restarted by Python, whatever interrupts it
    with limit:
        pass
    before = WaitLimit()
    with before:
        pass
    end = time.monotonic() + 0.2                             # two ticks later nothing ticks any more
    while time.monotonic() < end:
        continue
    assert not passes_at_once(limit)
