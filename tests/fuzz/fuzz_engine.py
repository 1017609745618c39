# ruff: noqa: T201 - a program
"""Fuzz the real engine under libFuzzer, guided by coverage: tools/fuzz-dataplane runs this in its build.

    fuzz_engine.py STATE dataplane|vhost SECONDS | FILE... | --minimise

libFuzzer is that of atheris, which runs it for the Python parsers too; `edges.c` tells it where the compiled
code went. STATE has the inputs found so far; the corpus is added. An input is one of `engine_case` (a guest
on a tap or a stream) or of `vhost_case` (one that shares its memory).
"""

from __future__ import annotations

import ctypes
import gc
import os
import random
import sys
from heapq import heappop, heappush
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

MAX_LEN = 1600
# libFuzzer's limit goes by the wall clock, and the machine may be busy.
INPUT_LIMIT_S = 30
MEMORY_LIMIT_MB = 4096

# Edges that an input has to add to be worth a line of the corpus.
LEAST_NEWS = 6
BYTES_SHARE = 0.3             # of mutations that know nothing of steps

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.fuzz import engine_case, vhost_case  # noqa: E402
from tests.fuzz.engine_case import RECORD_LEN  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable


class Target(NamedTuple):
    """What is fuzzed."""

    name: str
    corpus: Callable[[], dict[str, bytes]]
    run_case: Callable[..., None]
    numbers: tuple[int, ...]      # of steps


TARGETS = {
    "dataplane": Target("dataplane", engine_case.corpus, engine_case.run_case, engine_case.NUMBERS),
    "vhost": Target("vhost", vhost_case.corpus, vhost_case.run_case, vhost_case.NUMBERS),
}


def fuzz(target: Target, state: Path, seconds: int) -> None:
    """Run libFuzzer; it ends the process."""
    import atheris

    found = state / target.name
    seeds = state / f"{target.name}-corpus"
    for folder in (found, seeds):
        folder.mkdir(parents=True, exist_ok=True)
    for name, data in target.corpus().items():
        (seeds / name).write_bytes(data)
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={MAX_LEN}",
        "-len_control=0",
        f"-timeout={INPUT_LIMIT_S}",
        f"-rss_limit_mb={MEMORY_LIMIT_MB}",
        f"-artifact_prefix={state}/crash-{target.name}-",
        "-print_final_stats=1",
    ]
    mutate = Mutator(target.numbers)
    atheris.Setup([target.name, *options, str(found), str(seeds)], target.run_case, custom_mutator=mutate)
    # atheris would load both later. libFuzzer looks for the mutator once, when it is loaded itself.
    flags = sys.getdlopenflags()
    sys.setdlopenflags(flags | os.RTLD_GLOBAL)
    from atheris import custom_mutator  # noqa: F401 - first
    sys.setdlopenflags(flags)
    from atheris import core_with_libfuzzer

    if ctypes.CDLL(None).edges_attach(core_with_libfuzzer.__file__.encode()):
        sys.exit("edges.so did not find libFuzzer in atheris")
    gc.collect()
    gc.freeze()
    atheris.Fuzz()


class Mutator:
    """Changes inputs: mostly whole steps, now and then bytes as libFuzzer does it."""

    def __init__(self, numbers: tuple[int, ...]) -> None:
        self.numbers = numbers

    def __call__(self, data: bytes, max_size: int, seed: int) -> bytes:
        """Change *data*."""
        return mutate(self.numbers, data, max_size, seed)


def mutate(numbers: tuple[int, ...], data: bytes, max_size: int, seed: int) -> bytes:
    """Change *data*, whose steps have *numbers*."""
    import atheris

    dice = random.Random(seed)  # noqa: S311 - libFuzzer chooses the seed
    if dice.random() < BYTES_SHARE:
        return bytes(atheris.Mutate(data, max_size))
    records = [data[at : at + RECORD_LEN].ljust(RECORD_LEN, b"\0") for at in range(0, len(data), RECORD_LEN)]
    records = records or [bytes(RECORD_LEN)]
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        at = dice.randrange(len(records) + 1)
        many = dice.choice((1, 1, 2, 4, 8))
        match dice.randrange(6):
            case 0 | 1:
                records[at:at] = [random_step(numbers, dice) for _ in range(many)]
            case 2:
                del records[at : at + many]
            case 3:
                start = dice.randrange(len(records) + 1)
                records[at:at] = records[start : start + many]
            case 4 if at < len(records):
                records[at] = bent(dice, records[at])
            case _:
                records[at : at + 1] = [bent(dice, record) for record in records[at : at + 1] * many]
    return b"".join(records)[:max_size]


def random_step(numbers: tuple[int, ...], dice: random.Random) -> bytes:
    """Give a step that there is, with any bytes; half of the bytes are small, as most tables are."""
    number = dice.choice(numbers) | dice.choice((0, 0, 0x80))
    return bytes((number, *(dice.randrange(dice.choice((4, 16, 256))) for _ in range(RECORD_LEN - 1))))


def bent(dice: random.Random, record: bytes) -> bytes:
    """Give a record with one byte changed."""
    changed = bytearray(record)
    changed[dice.randrange(RECORD_LEN)] ^= 1 << dice.randrange(8)
    return bytes(changed)


def replay(target: Target, paths: list[str]) -> None:
    """Run inputs; each step is told before it is taken, so the last line is the one that failed."""
    for path in paths:
        print(path, flush=True)
        target.run_case(Path(path).read_bytes(), tell=lambda line: print(f"    {line}", flush=True))


class Reach:
    """The edges that an input reaches: numbers of the counters of `edges.c`."""

    def __init__(self, target: Target) -> None:
        self.target = target
        library = ctypes.CDLL(None)
        library.edges_counters.restype = ctypes.c_void_p
        n = ctypes.c_size_t()
        place = library.edges_counters(ctypes.byref(n))
        self.counters = (ctypes.c_uint8 * n.value).from_address(place)

    def __call__(self, data: bytes) -> set[int]:
        """Run *data*."""
        ctypes.memset(self.counters, 0, len(self.counters))
        self.target.run_case(data)
        return {place for place, count in enumerate(bytes(self.counters)) if count}


def minimise(target: Target, state: Path) -> None:
    """Print a corpus: that of the tree, and inputs that add many edges, the best for their length first."""
    reach = Reach(target)
    target.run_case(b"")          # what is done once in a process
    seen: set[int] = set()
    for name, data in target.corpus().items():
        print(name, data.hex())
        seen |= reach(data)
    found = {path.name: path.read_bytes() for path in (state / target.name).iterdir()}
    edges = {name: reach(data) for name, data in found.items()}
    everything = seen.union(*edges.values())
    heap = [(0.0, name) for name in found]
    while heap:
        worth, name = heappop(heap)
        news = len(edges[name] - seen)
        if news < LEAST_NEWS:
            continue
        # It may have been worth more when it was put there: it is the best only if it still is.
        now = -news / (len(found[name]) + RECORD_LEN)
        if worth != now and heap:
            heappush(heap, (now, name))
            continue
        print(name[:12], found[name].hex())
        seen |= edges[name]
    print(f"{len(seen)} edges of {len(everything)}", file=sys.stderr)


def main(arguments: list[str]) -> int:
    """Choose what to do; return the exit status."""
    state, target, rest = Path(arguments[0]), TARGETS.get("".join(arguments[1:2])), arguments[2:]
    if target and rest == ["--minimise"]:
        minimise(target, state)
    elif target and len(rest) == 1 and rest[0].isdecimal():
        fuzz(target, state, int(rest[0]))
    elif target and rest:
        replay(target, rest)
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
