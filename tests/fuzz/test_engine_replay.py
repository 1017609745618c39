"""The corpus of the fuzzed engine, and mutations that are the same each time: nothing fails, nothing is left.

`make sanitize` runs this with sanitizers and assertions, `make test-debug` with assertions.
"""

from __future__ import annotations

import ctypes
import gc
from array import array
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.dataplane.probes import culprit
from tests.fuzz import guest_steps, host_steps
from tests.fuzz.engine_case import HOST_STEPS_FROM, RECORD_LEN, corpus, run_case
from tests.fuzz.mutate import Mutator

if TYPE_CHECKING:
    from tests.fuzz.engine_world import World
    from tests.fuzz.source import Source

N_MUTATIONS = 300
LAST_STEP = 63


@pytest.mark.slow
def test_corpus_leaves_nothing() -> None:
    for data in corpus().values():
        run_case(data)


@pytest.mark.slow
def test_mutations_leave_nothing() -> None:
    for data in Mutator(list(corpus().values()), seed=20250405).inputs(N_MUTATIONS):
        run_case(data)


def test_input_that_ends_early_is_as_good_as_another() -> None:
    data = max(corpus().values(), key=len)[:60]
    for end in range(len(data)):
        run_case(data[:end])


@pytest.mark.slow
@pytest.mark.skipif(not culprit.is_sanitized(), reason="only the sanitizer counts bytes: tools/sanitize")
def test_no_input_takes_memory_each_time() -> None:
    allocated = ctypes.CDLL(None).__sanitizer_get_current_allocated_bytes
    allocated.restype = ctypes.c_size_t
    for name, data in corpus().items():
        sizes = array("Q", range(6))  # whose memory does not grow
        for number in range(len(sizes)):
            run_case(data)
            gc.collect()
            sizes[number] = allocated()
        assert any(later <= earlier for earlier, later in pairwise(sizes)), (name, list(sizes))


def test_numbers_of_steps_have_room_and_what_follows_does_not_move_them() -> None:
    assert len(guest_steps.STEPS) <= HOST_STEPS_FROM
    assert HOST_STEPS_FROM + len(host_steps.STEPS) <= LAST_STEP


@pytest.mark.parametrize("fault", ["socket", "descriptor", "mistake", "exception"])
def test_what_is_left_is_a_finding(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    kept = []

    def spoil(world: World, _: Source) -> None:
        match fault:
            case "socket":
                world.sockets.adopt(9999, 2, 2, 17)
            case "descriptor":
                kept.append(open("/dev/null"))  # noqa: SIM115 - it is to stay open
            case "mistake":
                world.sockets.mistakes.append("it was closed twice")
            case _:
                world.unraisable.append("lost")

    monkeypatch.setattr(guest_steps, "STEPS", (spoil,))
    with pytest.raises(AssertionError):
        run_case(bytes(RECORD_LEN + 1))
    for file in kept:
        file.close()
