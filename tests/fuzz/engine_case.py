"""One input of the fuzzed engine: settings, then steps until the input ends, then nothing may be left.

An input is made of records of RECORD_LEN bytes, the first of which has the settings; so a fuzzer can insert,
repeat and drop steps without a change of what the others mean. A step begins with a byte: bits 0 to 5 are its
number, bit 6 is free, and with bit 7 no turn follows it: the next step happens in the same turn. The bytes
behind it bend it; if it takes more than its record has, it takes whole records. Numbers are relative to what
lives: a connection that the guest knows, a distance from its next byte, one of the open sockets.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.fuzz import guest_steps, host_steps
from tests.fuzz.engine_world import World
from tests.fuzz.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable

CORPUS = Path(__file__).parent / "dataplane.corpus"
"""Inputs that reach far into the engine or were a finding once: a name and hex digits, one a line."""

RECORD_LEN = 8
MAX_STEPS = 300
HOST_STEPS_FROM = 32
MTUS = (65520, 1500, 1280, 0)
FLOWS = (64, 8, 16, 256)
ROOMS = (65536, 100, 0, 1 << 20)  # bytes that a new socket takes
NUMBERS = (*range(len(guest_steps.STEPS)),
           *range(HOST_STEPS_FROM, HOST_STEPS_FROM + len(host_steps.STEPS)))
"""Those that name steps."""


def corpus() -> dict[str, bytes]:
    """Read the corpus."""
    return read_corpus(CORPUS)


def read_corpus(path: Path) -> dict[str, bytes]:
    """Read a file of inputs: a name and hex digits, one a line."""
    lines = path.read_text(encoding="ascii").splitlines()
    return {name: bytes.fromhex(digits) for name, _, digits in (line.partition(" ") for line in lines)}


def run_case(data: bytes, tell: Callable[[str], None] | None = None) -> None:
    """Run an input. Raises AssertionError if something is left, or whatever the engine raised."""
    source = Source(data)
    settings, more, room, mood = source.byte(), source.byte(), source.byte(), source.byte()
    world = World(stream=settings & 1 != 0, peek_off=settings & 2 == 0, bytes_acked=settings & 4 == 0,
                  offloads=settings >> 3 & 3, mtu=MTUS[settings >> 5 & 3], max_flows=FLOWS[more & 3])
    world.whims.mood = mood
    world.sockets.room = ROOMS[room & 3]
    world.sockets.connects_at_once = room & 4 != 0
    for which in range(6):
        if more >> 2 + which & 1:
            world.listen(which)
    for _ in range(MAX_STEPS):
        source.align(RECORD_LEN)
        if not source.more:
            break
        take_step(world, source, tell)
    world.close()


def find_step(number: int) -> Callable[[World, Source], None] | None:
    """Give the step of a number; None: there is none."""
    if number < len(guest_steps.STEPS):
        return guest_steps.STEPS[number]
    if HOST_STEPS_FROM <= number < HOST_STEPS_FROM + len(host_steps.STEPS):
        return host_steps.STEPS[number - HOST_STEPS_FROM]
    return None


def take_step(world: World, source: Source, tell: Callable[[str], None] | None) -> None:
    """Take one step, and a turn behind it unless it says otherwise."""
    at = source.at
    choice = source.byte()
    step = find_step(choice & 0x3F)
    if tell:
        tell(f"{at}: {step.__name__ if step else 'nothing'}{'' if choice & 0x80 else ', turn'}")
    if step:
        step(world, source)
    if not choice & 0x80:
        world.turn()
