"""Floods: what one guest can do to another flow of the same guest, to memory, descriptors and CPU.

The command runs itself again inside namespaces of its own, as bench/run does (`cli.run_inside`): there is a
host with a program under test, a guest, and a remote 20 ms away, at the end of a wire of user space. For
each flood the program is started afresh with a limit of descriptors; an innocent guest opens its old
flows, then the flood begins, and each exchange of the innocent one is judged by itself.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import install, machines, programs, rows
from bench.cli import PROJECT, find_ours
from bench.errors import BenchError, SectionFailed
from bench.floods import HOST_SIDE, PORT, RATE, REMOTE, By, Flood, chosen
from bench.lab import (
    HOST_ADDRESSES,
    NET_ADDRESSES,
    TOOL_UID,
    Lab,
    as_user,
    await_true,
    in_netns,
    kill_group,
    read_status,
    read_until,
    run,
)  # fmt: skip
from bench.programs import Program, Session

LIMITS = (1024, 20_000)
DELAY_MS = 10
TICK_MS = 25
GRACE_S = 8.0
MTU = 65520
WANTED = 95.0  # percent of the innocent guest's exchanges
LINK_FULL = 1.0  # percent of a flood's frames that the link did not take: it is full
SAMPLE_S = 0.1
FLOWS = ("old_tcp", "old_udp", "new_tcp", "new_udp")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Guest:
    """A program under test and its guest's network namespace."""

    pid: int
    netns: int
    device: str
    log: int
    host_port: int


@dataclass(slots=True)
class Peak:
    """What the program had at most while it was watched."""

    rss_kb: int = 0
    descriptors: int = 0

    def look(self, pid: int) -> None:
        """Take a sample."""
        self.rss_kb = max(self.rss_kb, int(read_status(pid).get("VmRSS", "0 kB").split()[0]))
        with suppress(OSError):
            self.descriptors = max(self.descriptors, sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()))


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def link_counts(guest: Guest) -> tuple[int, int]:
    """Return how many frames the guest's interface has sent, and how many found its queue full."""
    shown = run([*in_netns(guest.netns), "ip", "-s", "-j", "link", "show", "dev", guest.device])
    sent = json.loads(shown)[0]["stats64"]["tx"]
    return sent["packets"], sent["dropped"]


class Far:
    """The remote: a namespace of its own, at the end of a wire with a delay."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.holder = lab.spawn(["unshare", "--net", "--", *as_user(TOOL_UID), lab.load, "hold", "far"])
        own, theirs = Path("/proc/self/ns/net").readlink(), Path(f"/proc/{self.holder.pid}/ns/net")
        await_true(lambda: theirs.readlink() != own, "the remote's namespace")
        self.pid = self.holder.pid
        self.wire = lab.spawn([lab.load, "wire", str(self.pid), "far0", "wire0", str(DELAY_MS), "3600"])
        read_until(self.wire, "listening", 10)
        enter = in_netns(self.pid)
        for prefix, device, address in (([], "far0", HOST_SIDE), (enter, "wire0", REMOTE)):
            run([*prefix, "ip", "addr", "add", f"{address}/24", "dev", device])
            run([*prefix, "ip", "link", "set", device, "up"])
        run([*enter, "ip", "link", "set", "lo", "up"])
        run([*enter, "ip", "route", "add", "default", "via", HOST_SIDE])


@contextmanager
def pasta_guest(lab: Lab, program: Program, limit: int) -> Iterator[Guest]:
    """Run pasta with a command that holds its namespace, and a server there behind the forwarded ports."""
    session = programs.start(lab, limited(program, limit), MTU, forward=True)
    try:
        yield guest_of(lab, session)
    finally:
        programs.stop(lab, session)
        lab.reap_orphans()


def guest_of(lab: Lab, session: Session) -> Guest:
    """Describe a session of pasta."""
    if session.netns is None:
        raise SectionFailed("pasta has no namespace")
    pids = programs.program_processes(session)
    main = max(pids, key=lambda pid: int(read_status(pid).get("VmHWM", "0 kB").split()[0]))
    device = lab.default_route(session.netns)[1]
    return Guest(main, session.netns, device, session.log, session.ports_in[0])


def limited(program: Program, limit: int) -> Program:
    """Return the program under a limit of descriptors."""
    command = ("prlimit", f"--nofile={limit}:{limit}", "--", *program.command)
    return Program(program.name, command, program.version)


@contextmanager
def passt_guest(lab: Lab, program: Program, limit: int) -> Iterator[Guest]:
    """Run passt, and a guest whose tap is joined to passt's socket."""
    machines.RUN.mkdir(exist_ok=True)
    machines.RUN.chmod(0o777)
    uid, log, port = lab.next_uid(), os.memfd_create("log"), lab.next_ports(4)[0]
    path = machines.RUN / f"{uid}.socket"
    passt = Program(program.name, machines.passt_of(program), program.version)
    options = ["-f", "-s", str(path), "-t", f"{port}-{port + 2}", "-u", "none"]
    command = [*limited(passt, limit).command, *options]
    process = lab.spawn([*as_user(uid), *command], stderr=log)
    holder = lab.spawn(["unshare", "--net", "--", *as_user(TOOL_UID), lab.load, "hold", "guest"])
    children = [process, holder]
    try:
        await_true(path.exists, f"the socket of {command[3]}")
        own, theirs = Path("/proc/self/ns/net").readlink(), Path(f"/proc/{holder.pid}/ns/net")
        await_true(lambda: theirs.readlink() != own, "the guest's namespace")
        enter = in_netns(holder.pid)
        bridge = lab.spawn([*enter, lab.load, "bridge", str(path), "tap0", "3600"])
        children.append(bridge)
        read_until(bridge, "listening", 10)
        run([*enter, "ip", "link", "set", "lo", "up"])
        run([*enter, "ip", "addr", "add", HOST_ADDRESSES[0], "dev", "tap0"])
        run([*enter, "ip", "link", "set", "tap0", "up"])
        run([*enter, "ip", "route", "add", "default", "via", NET_ADDRESSES[0].split("/")[0]])
        yield Guest(process.pid, holder.pid, "tap0", log, port)
    finally:
        lab.kill_user(uid)
        for child in children:
            kill_group(child)
        os.close(log)
        path.unlink(missing_ok=True)
        lab.reap_orphans()


@contextmanager
def served(lab: Lab, netns: int | None, port: int, *more: str) -> Iterator[None]:
    """Run a server for all the floods in a network namespace, at three ports."""
    server = lab.spawn([*in_netns(netns), lab.load, "serve", str(port), "600", *more])
    try:
        if "listening" not in read_until(server, "listening", 10):
            raise SectionFailed("the server did not start")
        yield
    finally:
        kill_group(server)


def attack(lab: Lab, guest: Guest, flood: Flood, limit: int, rate: float, seconds: float) -> list[str]:
    """Return the command line of who makes the flood, [] for nobody."""
    is_outside = flood.by in {By.OUTSIDE, By.OUTSIDE_FRAMES}
    mac = json.loads(run(["ip", "-j", "link", "show", "dev", "veth0"]))[0]["address"]
    device = "up0" if is_outside else guest.device
    arguments = flood.command(device, mac, guest.host_port, limit, rate, seconds)
    enter = in_netns(lab.neighbour if is_outside else guest.netns)
    return [*enter, lab.load, *arguments] if arguments else []


def measure(lab: Lab, guest: Guest, flood: Flood, limit: int, rate: float, seconds: float) -> dict[str, Any]:
    """Run one flood beside the innocent guest; return all figures.

    Half-way the guest forgets its neighbours, as it does of itself after some time, and has to ask again.
    """
    enter = in_netns(guest.netns)
    before, peak, is_fresh = Peak(), Peak(), True
    before.look(guest.pid)
    innocent = lab.spawn([*enter, lab.load, "innocent", REMOTE, str(PORT), f"{seconds:g}", str(TICK_MS)])
    attacker: subprocess.Popen[str] | None = None
    try:
        if "listening" not in read_until(innocent, "listening", 10):
            raise SectionFailed("the innocent guest reached nobody")
        counts, cpu, start = link_counts(guest), cpu_s(guest.pid), time.monotonic()
        if command := attack(lab, guest, flood, limit, rate, seconds + 1):
            attacker = lab.spawn(command)
        while time.monotonic() < start + seconds:
            if is_fresh and time.monotonic() > start + seconds / 2:
                is_fresh = False
                run([*enter, "ip", "neigh", "flush", "dev", guest.device])
            peak.look(guest.pid)
            time.sleep(SAMPLE_S)
        elapsed, used = time.monotonic() - start, cpu_s(guest.pid) - cpu
        figures = json.loads(read_until(innocent, "}}", GRACE_S))
        made = json.loads(read_until(attacker, "}", GRACE_S)) if attacker else {"sent": 0, "seconds": 1}
        peak.look(guest.pid)
        sent, dropped = (now - then for now, then in zip(link_counts(guest), counts, strict=True))
    finally:
        for process in (innocent, attacker):
            if process is not None:
                kill_group(process)
    return {
        "flood": flood.name, "limit": limit, "rate": made["sent"] / made["seconds"], "made": made,
        "lost_percent": 100 * dropped / max(sent + dropped, 1), "rss_before_kb": before.rss_kb,
        "rss_kb": peak.rss_kb, "descriptors": peak.descriptors, "cpu_percent": 100 * used / elapsed,
        **{name: figures[name] for name in FLOWS},
    }  # fmt: skip


def drops_said(guest: Guest) -> str:
    """Have the program print its counters; return the lines about flows and drops."""
    os.kill(guest.pid, signal.SIGUSR1)
    time.sleep(0.3)
    text = os.pread(guest.log, 1 << 20, 0).decode(errors="replace")
    return "\n".join(line for line in text.splitlines() if re.search(r"flows|drops:|others:", line))


def success(flow: dict[str, float]) -> float:
    """Return the percentage of exchanges that were answered."""
    return 100.0 * (flow["asked"] - flow["lost"]) / max(flow["asked"], 1)


def is_bad(figures: dict[str, Any]) -> bool:
    """Say whether a flow of the innocent guest fared worse than it should, and the link was not full."""
    worst = min(success(figures[name]) for name in FLOWS)
    return worst < WANTED and figures["lost_percent"] < LINK_FULL


HEADINGS = ("flood", "files", "per s", "link lost", "memory", "files open", "CPU", "old TCP", "old UDP",
            "new TCP", "new UDP")  # fmt: skip


def line_of(flood: Flood, figures: dict[str, Any]) -> str:
    """Format the figures as a row of a Markdown table."""
    flows = [f"{success(figures[name]):.0f} %, {figures[name]['p50_us'] / 1000:.0f} ms" for name in FLOWS]
    cells = [flood.label, str(figures["limit"]), f"{figures['rate']:,.0f}",
             f"{figures['lost_percent']:.0f} %", f"{figures['rss_kb'] / 1000:.0f} MB",
             str(figures["descriptors"]), f"{figures['cpu_percent']:.0f} %", *flows]  # fmt: skip
    return "| " + " | ".join(cells) + " |" + ("  <- below" if is_bad(figures) else "")


def run_one(lab: Lab, far: Far, plan: dict[str, Any], flood: Flood, limit: int) -> dict[str, Any]:
    """Start the program with a limit of descriptors, flood it, and print a row of the table."""
    program = Program(rows.OURS, tuple(plan["command"]), "")
    guests = passt_guest if plan["passt"] else pasta_guest
    with (
        served(lab, far.pid, PORT, "other"),
        served(lab, None, PORT),
        guests(lab, program, limit) as guest,
        served(lab, guest.netns, guest.host_port),
    ):
        figures = measure(lab, guest, flood, limit, plan["rate"], plan["seconds"])
        print(line_of(flood, figures), flush=True)
        if plan["verbose"]:
            print(json.dumps(figures) + "\n" + drops_said(guest), file=sys.stderr, flush=True)
    return figures


def run_inside(plan: dict[str, Any]) -> int:
    """Run the plan in this namespace, as PID 1, and print the table as it grows."""
    lab = Lab(Path(plan["load"]), plan["cpus"])
    lab.nice = plan["nice"]
    lab.set_up()
    lab.uncover(Path(plan["project"]))
    far = Far(lab)
    print("| " + " | ".join(HEADINGS) + " |\n" + "|---" * len(HEADINGS) + "|", flush=True)
    results = [run_one(lab, far, plan, flood, limit)
               for limit in plan["limits"] for flood in chosen(plan["only"])]  # fmt: skip
    if plan["json"]:
        Path(plan["json"]).write_text(json.dumps(results, indent=1))
    return 1 if any(is_bad(figures) for figures in results) else 0


def arguments(argv: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="bench/flood", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--only", metavar="FLOOD,...", help="floods to make, by name (bench/floods.py)")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="seconds for each flood")
    parser.add_argument("--rate", type=float, default=RATE, metavar="N", help="frames per second")
    parser.add_argument("--limits", default=",".join(map(str, LIMITS)), metavar="N,...",
                        help="limits of descriptors")  # fmt: skip
    parser.add_argument("--nice", type=int, default=0, metavar="N", choices=range(-20, 20),
                        help="precedence on a busy machine, as nice(1) has it")  # fmt: skip
    parser.add_argument("--passt", action="store_true", help="flood passt's socket instead of pasta's tap")
    parser.add_argument("--ours", metavar="CMD", default=os.environ.get("PASST_BENCH_PASTA"),
                        help="our pasta (default: .venv/bin/pasta)")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    parser.add_argument("--verbose", action="store_true", help="print all figures and the counters")
    return parser.parse_args(argv)


def plan_of(options: argparse.Namespace) -> dict[str, Any]:
    """Prepare; return what run_inside() needs. Raises BenchError, KeyError for a flood that is none."""
    chosen(options.only)
    install.require_tools()
    load = PROJECT / "bench/bin/load"
    install.build_load(PROJECT / "bench/src", load)
    plan: dict[str, Any] = {name: getattr(options, name)
                            for name in ("only", "seconds", "rate", "nice", "passt", "verbose")}  # fmt: skip
    return plan | {
        "project": str(PROJECT), "load": str(load), "cpus": sorted(os.sched_getaffinity(0))[:2],
        "command": find_ours(options.ours)[0].command,
        "limits": [int(limit) for limit in options.limits.split(",")],
        "json": str(options.json.absolute()) if options.json else None,
    }  # fmt: skip


def main(argv: list[str]) -> int:
    """Prepare, and run in fresh namespaces; 0 if no flow fared worse than it should."""
    if len(argv) == 2 and argv[0] == "--inside":
        return run_inside(json.loads(argv[1]))
    options = arguments(argv)
    if os.geteuid() != 0:
        print("bench: it makes network namespaces and so needs root: sudo bench/flood", file=sys.stderr)
        return 1
    try:
        plan = plan_of(options)
    except KeyError as error:
        print(f"bench: --only: there is no flood {error}; bench/floods.py has all", file=sys.stderr)
        return 1
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    command = ["setpriv", "--pdeathsig=KILL", "--", "unshare", "--net", "--mount", "--pid", "--fork",
               "--kill-child", "--mount-proc", "--", sys.executable, "-P", "-m", "bench.flooding", "--inside",
               json.dumps(plan)]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False,
                          start_new_session=True).returncode  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
