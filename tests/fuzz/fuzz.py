# ruff: noqa: T201 - a program
"""Fuzz the Python parsers and the compiled engine under atheris, guided by coverage.

    fuzz.py TARGET|all SECONDS

Each target runs for SECONDS, or without end for 0, in a process of its own. It begins with its corpus;
what reaches new code is kept in .fuzz/TARGET, from where the next run goes on. An input that fails is
written to .fuzz as crash-TARGET-HASH and ends the run with status 1: copy it to the corpus beside the fix.
The targets "dataplane" and "vhost" are the engine, in a build of its own (tools/fuzz-dataplane).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent.parent
STATE = TREE / ".fuzz"
ENGINES = ("dataplane", "vhost")
MAX_LEN = 2048
INPUT_LIMIT_S = 5

sys.path[:0] = [str(TREE), str(TREE / "src")]


def fuzz(name: str, seconds: int) -> None:
    """Run one target in this process; atheris ends it."""
    import atheris

    with atheris.instrument_imports(include=["passt"], enable_loader_override=False):
        from tests.fuzz.harness import CORPUS, HARNESSES
    found = STATE / name
    found.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={MAX_LEN}",
        f"-timeout={INPUT_LIMIT_S}",
        f"-artifact_prefix={STATE}/crash-{name}-",
        "-print_final_stats=1",
    ]
    atheris.Setup([name, *options, str(found), str(CORPUS / name)], HARNESSES[name])
    atheris.Fuzz()


def main(arguments: list[str]) -> int:
    """Run the target, or all of them one by one; return the exit status."""
    from tests.fuzz.harness import HARNESSES

    targets = [*ENGINES, *HARNESSES]
    if len(arguments) != 2 or arguments[0] not in {"all", *targets} or not arguments[1].isdecimal():
        print(f"usage: fuzz.py TARGET SECONDS; targets: all {' '.join(targets)}", file=sys.stderr)
        return 2
    name, seconds = arguments
    names = targets if name == "all" else [name]
    failed = []
    for one in names:
        print(f"fuzzing {one} for {seconds} s", flush=True)
        command = [sys.executable, __file__, "--run", one, seconds]
        if one in ENGINES:
            command = [str(TREE / "tools" / "fuzz-dataplane"), one, seconds]
        if subprocess.run(command, check=False).returncode:
            failed.append(one)
    if failed:
        print(f"failed: {' '.join(failed)}; the inputs are in {STATE}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        fuzz(sys.argv[2], int(sys.argv[3]))
    sys.exit(main(sys.argv[1:]))
