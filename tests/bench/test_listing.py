"""The measurement of who looks: what needs no program."""

from __future__ import annotations

import os
import resource

import pytest

from bench import listing
from bench.errors import BenchError
from tests.support.processes import wait_until


def test_arguments() -> None:
    options = listing.arguments(["--flows", "500", "--seconds", "1.5"])
    assert (options.flows, options.seconds, options.json) == (500, 1.5, False)


def test_no_more_connections_than_descriptors_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(1024, 20_000)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: limits.append(both))
    assert listing.raise_limit(500) == 500
    assert len(limits) == 1
    assert listing.raise_limit(60_000) == 60_000
    assert limits[-1] == (20_000, 80_001)
    most = listing.raise_limit(10**9)
    assert 60_000 < most < 10**9
    assert limits[-1][1] * 3 // 4 == most


def test_a_limit_that_may_not_be_raised_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_which: int, _both: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 20_000))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert listing.raise_limit(60_000) == 15_000


def test_a_pipe_that_is_not_there_is_told() -> None:
    with pytest.raises(BenchError):
        listing.pipe(None)


@pytest.mark.parametrize("seconds", ["0.5", "31", "x"])
def test_seconds_that_cannot_be_measured_are_refused(seconds: str) -> None:
    with pytest.raises(SystemExit):
        listing.arguments(["--seconds", seconds])


def test_waits_for_a_processor_are_counted() -> None:
    waited_s, n = listing.waits(os.getpid())
    assert waited_s >= 0
    wait_until(lambda: listing.waits(os.getpid())[1] > n, "this process has slept, and had a processor again")


def test_memory_of_a_process_is_known() -> None:
    assert listing.resident_kb(os.getpid()) > 1000
