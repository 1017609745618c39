"""The command: arguments, preparation outside, the run in namespaces of its own, the report.

The run itself is a child under unshare(1), PID 1 of a PID namespace. When this process ends, by
whatever cause, the kernel kills that child (parent-death signals from here to unshare and from there
to the child), and everything in its namespaces with it: nothing can be left behind.
"""

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from bench import install, machine, report, rows
from bench.errors import BenchError
from bench.inside import Plan
from bench.programs import Program
from bench.rows import Group

PROJECT = Path(__file__).resolve().parent.parent
SHORT_ROUNDS, SHORT_SECONDS = 1, 2.0
FULL_ROUNDS, FULL_SECONDS = 5, 4.0


def arguments(argv: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="bench/run", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--full", action="store_true",
                        help=f"all groups, {FULL_ROUNDS} rounds, {FULL_SECONDS:g} s per section")  # fmt: skip
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds, interleaved over the programs")
    parser.add_argument("--seconds", type=float, metavar="S", help="seconds per section")
    parser.add_argument("--only", metavar="GROUP,...", help=f"groups to measure: {', '.join(Group)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples to FILE")
    parser.add_argument("--ours", metavar="CMD", default=os.environ.get("PASST_BENCH_PASTA"),
                        help="our pasta (default: $PASST_BENCH_PASTA, else .venv/bin/pasta); "
                             "'none' measures peers only")  # fmt: skip
    parser.add_argument("--pasta", metavar="PATH", default=install.PASTA_PATH,
                        help="the C program's pasta, its passt beside it (default: Debian's)")  # fmt: skip
    parser.add_argument("--with-top", action="store_true",
                        help="start ours with --control, and attach 'passtctl top' to it")  # fmt: skip
    parser.add_argument("--no-install", action="store_true", help="install no missing peer")
    options = parser.parse_args(argv)
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds needs a number of at least 1")
    if options.seconds is not None and options.seconds < 1:
        parser.error("--seconds needs a number of at least 1")
    return options


def chosen_groups(only: str | None, *, full: bool) -> list[str]:
    """Return the groups to measure. Raises BenchError for a name that is none."""
    if only is None:
        return list(Group) if full else list(rows.DEFAULT_GROUPS)
    names = [name.strip() for name in only.split(",") if name.strip()]
    for name in names:
        if name not in set(Group):
            raise BenchError(f"--only {name}: there is no such group; there are {', '.join(Group)}")
    if not names:
        raise BenchError(f"--only needs at least one group of {', '.join(Group)}")
    return names


def find_ours(command: str | None) -> list[Program]:
    """Return our program as chosen, none for "none". Raises BenchError if it cannot be found."""
    if command == "none":
        return []
    words = shlex.split(command) if command else [str(PROJECT / ".venv/bin/pasta")]
    path = shutil.which(words[0])
    if path is None:
        raise BenchError(f"our pasta is not at {words[0]}: install the project, or choose with --ours CMD")
    words[0] = str(Path(path).absolute())  # not resolved: a virtual environment is found by the path used
    return [Program(rows.OURS, tuple(words), install.version_of(words, ""))]


def run_inside(plan: Plan) -> dict[str, Any]:
    """Run the plan in fresh namespaces and return its record. Raises BenchError if it fails."""
    command = ["setpriv", "--pdeathsig=KILL", "--", "unshare", "--net", "--mount", "--pid", "--fork",
               "--kill-child", "--mount-proc", "--",
               sys.executable, "-P", "-m", "bench.inside", plan.to_json()]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            out, _ = process.communicate()
        except BaseException:
            process.kill()
            process.wait()
            raise
    if process.returncode:
        raise BenchError(f"the run ended early with status {process.returncode}")
    record: dict[str, Any] = json.loads(out)
    return record


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Prepare, run, and return the result that report.py presents."""
    groups = chosen_groups(options.only, full=options.full)
    install.require_tools()
    load = PROJECT / "bench/bin/load"
    install.build_load(PROJECT / "bench/src", load)
    ours = find_ours(options.ours)
    peers, notes = install.find_peers(may_install=not options.no_install, pasta=options.pasta)
    if ours and Group.STREAM in groups and (reason := install.build_sums(PROJECT)):
        notes.append(f"the checksum is not measured: {reason}")
    if loud := machine.noise():
        print(f"bench: {loud}", file=sys.stderr)
        notes.append(loud)
    if options.with_top:
        notes.append("'passtctl top' is attached to ours, but for startup, stream and vhost")
    plan = Plan(
        project=str(PROJECT), load=str(load), cpus=sorted(os.sched_getaffinity(0))[:2],
        programs=[Program(rows.LOOPBACK, (), ""), *ours, *peers], groups=groups,
        rounds=options.rounds or (FULL_ROUNDS if options.full else SHORT_ROUNDS),
        seconds=options.seconds or (FULL_SECONDS if options.full else SHORT_SECONDS),
        with_top=options.with_top,
    )  # fmt: skip
    record = run_inside(plan)
    return {
        "machine": machine.facts(),
        "settings": {"rounds": plan.rounds, "seconds": plan.seconds, "groups": groups, "cpus": plan.cpus,
                     "with_top": plan.with_top},
        "programs": [{"name": p.name, "command": p.command, "version": p.version} for p in plan.programs],
        "samples": record["samples"], "failures": record["failures"], "notes": notes + record["notes"],
    }  # fmt: skip


def _terminated(signal_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signal_number)


def main(argv: list[str]) -> int:
    """Run the bench; 0 if anything was measured, whatever the verdicts are."""
    options = arguments(argv)
    if os.geteuid() != 0:
        print("bench: it makes network namespaces and so needs root: sudo bench/run", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminated)
    try:
        result = measured(options)
        print(report.text(result))
        if options.json:
            options.json.write_text(json.dumps(report.to_json(result), indent=1) + "\n")
    except (BenchError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    if not result["samples"]:
        print("bench: nothing was measured", file=sys.stderr)
        return 1
    return 0
