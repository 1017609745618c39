"""One input of the fuzzed vhost-user session: settings, steps until the input ends, then nothing may be left.

Inputs are made as those of `engine_case`: records of RECORD_LEN bytes, the first one has settings. A step
begins with its number in bits 0 to 6: up to 63 those of `engine_case`, whose frames go by the rings, from 64
on those of `vhost_steps`; with bit 7 no turn follows it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.fuzz import engine_case, vhost_steps
from tests.fuzz.engine_case import FLOWS, MAX_STEPS, MTUS, RECORD_LEN, ROOMS, read_corpus
from tests.fuzz.source import Source
from tests.fuzz.vhost_world import VhostWorld

if TYPE_CHECKING:
    from collections.abc import Callable

CORPUS = Path(__file__).parent / "vhost.corpus"
VHOST_STEPS_FROM = 64
NUMBERS = (*engine_case.NUMBERS, *range(VHOST_STEPS_FROM, VHOST_STEPS_FROM + len(vhost_steps.STEPS)))
"""Those that name steps."""


def corpus() -> dict[str, bytes]:
    """Read the corpus."""
    return read_corpus(CORPUS)


def run_case(data: bytes, tell: Callable[[str], None] | None = None) -> None:
    """Run an input. Raises AssertionError if something is left or wrong, or whatever the engine raised."""
    source = Source(data)
    settings, more, room, mood = source.byte(), source.byte(), source.byte(), source.byte()
    world = VhostWorld(peek_off=settings & 2 == 0, bytes_acked=settings & 4 == 0, mtu=MTUS[settings >> 5 & 3],
                       max_flows=FLOWS[more & 3], ends_sessions=settings & 1 == 0)
    if settings & 16:             # which has no frame stay in the guest's memory
        world.engine.set_trace(None, world.vhost_guest.on_seen)
    world.whims.mood = mood
    world.sockets.room = ROOMS[room & 3]
    world.sockets.connects_at_once = room & 4 != 0
    for which in range(6):
        if more >> 2 + which & 1:
            world.listen(which)
    if not settings & 8:
        vhost_steps.set_up(world, source)
    for _ in range(MAX_STEPS):
        source.align(RECORD_LEN)
        if not source.more:
            break
        take_step(world, source, tell)
    world.close()


def take_step(world: VhostWorld, source: Source, tell: Callable[[str], None] | None) -> None:
    """Take one step, and a turn behind it unless it says otherwise."""
    at = source.at
    choice = source.byte()
    number = choice & 0x7F
    step: Callable[[VhostWorld, Source], None] | None = None
    if number < VHOST_STEPS_FROM:
        step = engine_case.find_step(number)
    elif number - VHOST_STEPS_FROM < len(vhost_steps.STEPS):
        step = vhost_steps.STEPS[number - VHOST_STEPS_FROM]
    if tell:
        tell(f"{at}: {step.__name__ if step else 'nothing'}{'' if choice & 0x80 else ', turn'}")
    if step:
        step(world, source)
    if not choice & 0x80:
        world.turn()
