# ruff: noqa: T201 - a program
"""Fuzz the real engine under libFuzzer, guided by coverage: tools/fuzz-dataplane runs this in its build.

    fuzz_engine.py STATE SECONDS | FILE... | --minimise

libFuzzer is that of atheris, which runs it for the Python parsers too; `edges.c` tells it where the compiled code
went. STATE has the inputs found so far; the corpus is added.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path

MAX_LEN = 1024
# libFuzzer's limit goes by the wall clock, and the machine may be busy.
INPUT_LIMIT_S = 30
MEMORY_LIMIT_MB = 4096

sys.path.insert(0, str(Path(__file__).parents[2]))


def fuzz(state: Path, seconds: int) -> None:
    """Run libFuzzer; it ends the process."""
    import atheris
    from atheris import core_with_libfuzzer

    from tests.fuzz.engine_case import corpus, run_case

    found = state / "dataplane"
    seeds = state / "dataplane-corpus"
    for folder in (found, seeds):
        folder.mkdir(parents=True, exist_ok=True)
    for name, data in corpus().items():
        (seeds / name).write_bytes(data)
    if ctypes.CDLL(None).edges_attach(core_with_libfuzzer.__file__.encode()):
        sys.exit("edges.so did not find libFuzzer in atheris")
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={MAX_LEN}",
        f"-timeout={INPUT_LIMIT_S}",
        f"-rss_limit_mb={MEMORY_LIMIT_MB}",
        f"-artifact_prefix={state}/crash-dataplane-",
        "-print_final_stats=1",
    ]
    atheris.Setup(["dataplane", *options, str(found), str(seeds)], run_case)
    gc.collect()
    gc.freeze()
    atheris.Fuzz()


def replay(paths: list[str]) -> None:
    """Run inputs; each step is told before it is taken, so the last line is the one that failed."""
    from tests.fuzz.engine_case import run_case

    for path in paths:
        print(path, flush=True)
        run_case(Path(path).read_bytes(), tell=lambda line: print(f"    {line}", flush=True))


def minimise(state: Path) -> None:
    """Print a corpus: short inputs first, each that reaches an edge which none before it reached."""
    from tests.fuzz.engine_case import corpus, run_case

    n = ctypes.c_size_t()
    library = ctypes.CDLL(None)
    library.edges_counters.restype = ctypes.c_void_p
    counters = (ctypes.c_uint8 * (1 << 17)).from_address(library.edges_counters(ctypes.byref(n)))
    kept = corpus()
    inputs = {path.name: path.read_bytes() for path in (state / "dataplane").iterdir()}
    seen: set[int] = set()
    run_case(b"")                 # what is done once in a process
    for name, data in [*kept.items(), *sorted(inputs.items(), key=lambda item: len(item[1]))]:
        ctypes.memset(counters, 0, len(counters))
        run_case(data)
        reached = {place for place, count in enumerate(bytes(counters)) if count}
        if name in kept or not reached <= seen:
            print(name[:12], data.hex())
        seen |= reached
    print(f"{len(seen)} edges", file=sys.stderr)


def main(arguments: list[str]) -> int:
    """Choose what to do; return the exit status."""
    state = Path(arguments[0])
    if arguments[1:] == ["--minimise"]:
        minimise(state)
    elif len(arguments) == 2 and arguments[1].isdecimal():
        fuzz(state, int(arguments[1]))
    elif len(arguments) > 1:
        replay(arguments[1:])
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
