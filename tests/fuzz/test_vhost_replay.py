"""The corpus of fuzzed vhost-user sessions, and mutations that are always the same: nothing fails or is left.

`make sanitize` runs this with sanitizers and assertions, `make test-debug` with assertions.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.fuzz import vhost_steps
from tests.fuzz.engine_case import RECORD_LEN
from tests.fuzz.mutate import Mutator
from tests.fuzz.vhost_case import VHOST_STEPS_FROM, corpus, run_case
from tests.fuzz.vhost_world import VhostWorld
from tests.support.front_end import OFFLOADS, USUAL
from tests.support.vhost_client import Request

if TYPE_CHECKING:
    from tests.fuzz.source import Source
    from tests.support.split_ring import SplitRing

N_MUTATIONS = 300
LAST_STEP = 127
SCRIBBLE_S = 1.0


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


def test_numbers_of_steps_have_room() -> None:
    assert VHOST_STEPS_FROM + len(vhost_steps.STEPS) <= LAST_STEP


def test_every_request_is_made() -> None:
    assert {*vhost_steps.PAYLOADS, *vhost_steps.FDS} <= {*Request}


def make_world() -> VhostWorld:
    return VhostWorld(mtu=1500, max_flows=64, peek_off=True, bytes_acked=True, ends_sessions=True)


def test_guest_that_is_honest_has_its_frames_taken_and_given_back() -> None:
    world = make_world()
    world.set_up(USUAL | OFFLOADS, 1, 64, 65530)
    for _ in range(100):
        world.guest.send(bytes(60))
        world.turn()
    assert world.engine.counters()["frames_from_guest"] == 100
    assert len(world.vhost_guest.front.transmit_ring().free) == 64
    assert world.vhost_guest.is_honest
    world.close()


@pytest.mark.parametrize("fault", ["head", "length", "descriptor", "canary", "reason"])
def test_what_a_back_end_does_wrong_is_a_finding(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    kept = []
    worlds = []

    def spoil(world: VhostWorld, _: Source) -> None:
        worlds.append(world)
        front = world.vhost_guest.front
        ring = front.transmit_ring()
        match fault:
            case "head" | "length":
                world.guest.send(bytes(60))
                head = next(iter(ring.outstanding))
                front.memory.put(ring.used + 4, "II", head + (fault == "head"), fault == "length")
                ring.set_used_index(1)
                world.guest.read()
            case "descriptor":
                kept.append(open("/dev/null"))  # noqa: SIM115 - it is to stay open
            case "canary":
                os.pwrite(front.memory.regions[1].fd, b"x", 100)
            case _:
                world.session._device.end("two\nlines")
                world.turn()

    monkeypatch.setattr(vhost_steps, "STEPS", (spoil,))
    gc.collect()                  # descriptors of a world before this one do not end within it
    with pytest.raises(AssertionError):
        run_case(bytes(RECORD_LEN) + bytes([VHOST_STEPS_FROM]))
    for file in kept:
        file.close()
    (world,) = worlds             # which was not closed, or not as a whole
    sys.unraisablehook = world.old_hook
    world.guest.disconnect()
    if fault != "descriptor":
        world.session._connection.close()


PLACES = (0x20000, 2 << 20, 1 << 32, (2 << 20) - 20, 1 << 40)
LENGTHS = (0, 12, 60, 1514, 60000, 1 << 31)


def scribble(rings: list[SplitRing], seed: int) -> None:
    """Write any values into rings, again and again, until this process is ended."""
    dice = random.Random(seed)  # noqa: S311 - the seed is for what is written, the moment is any
    while True:
        ring = dice.choice(rings)
        match dice.randrange(6):
            case 0:
                ring.set_available_index(ring.available_index() + dice.choice((1, 1, 1, 2, 60000)))
            case 1:
                ring.set_available_entry(dice.randrange(64), dice.randrange(64))
            case 2:
                ring.set_used_index(dice.randrange(65536))
            case 3:
                ring.set_avail_event(dice.randrange(65536))
            case _:
                ring.set_descriptor(dice.randrange(ring.size), dice.choice(PLACES), dice.choice(LENGTHS),
                                    dice.randrange(8), dice.randrange(ring.size))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_memory_that_another_process_changes_meanwhile(seed: int) -> None:
    world = make_world()
    deadline = time.monotonic() + SCRIBBLE_S
    while time.monotonic() < deadline:
        world.set_up(USUAL | OFFLOADS, 1, 64, 0)
        world.vhost_guest.is_honest = False
        pid = os.fork()
        if not pid:
            try:
                scribble(world.vhost_guest.front.rings, seed)
            finally:
                os._exit(1)
        try:
            for _ in range(200):
                for ring in world.vhost_guest.front.rings:
                    ring.kick()
                world.turn()
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    world.close()
