"""The programs under test: how each is started in the lab, made ready, measured and ended.

A session is one running instance with one MTU and the namespace it serves. Bare loopback is a
session too, whose namespace is the host itself. The command in the namespace is `load hold`, found
by its token in /proc, because a program under test may start it in a PID namespace of its own.
"""

import os
import re
import select
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import rows
from bench.errors import SectionFailed
from bench.lab import (
    SETUP_TIMEOUT_S,
    TOOL_UID,
    Lab,
    as_user,
    await_true,
    command_line,
    in_netns,
    kill_group,
    last_line,
    processes_of,
    read_status,
    read_until,
    run,
)  # fmt: skip

NO_FORWARDING = ("-t", "none", "-u", "none", "-T", "none", "-U", "none")
SLIRP_TAP = "tap0"
CONTROL = Path("/dev/net/control")  # on the lab's own tmpfs; the sockets of those that are watched
# A terminal of usual size. Its output is read up to the first screen, which is waited for, and thrown away
# then, so that the view is never slowed down.
ATTACH_TOP = ('TERM=xterm script -qec "stty rows 50 cols 160; exec $*" /dev/null'
              " | { head -c 100; exec cat >/dev/null; }")
BYPASS_PORTS = 3  # in each direction: bulk, rr, crr


@dataclass(frozen=True, slots=True)
class Program:
    """One thing to measure. *command* is empty for bare loopback."""

    name: str
    command: tuple[str, ...]
    version: str


@dataclass(slots=True)
class Session:
    """A running program; *netns* is a process in its namespace, None for the host's own.

    *address* is where a client in the namespace reaches a server on the host's loopback.
    *ports_in* and *ports_out* are those that the program forwards, where it was asked to.
    """

    program: Program
    mtu: int
    uid: int
    netns: int | None
    address: str
    process: subprocess.Popen[str] | None
    log: int = -1
    ports_in: range = range(0)
    ports_out: range = range(0)
    top: subprocess.Popen[str] | None = None

    @property
    def control(self) -> Path:
        """The path of its control socket, where it is watched."""
        return CONTROL / str(self.uid)


def start(lab: Lab, program: Program, mtu: int, *, forward: bool = False, watched: bool = False) -> Session:
    """Start a program and wait until its namespace has a default route and the MTU asked for.

    With *forward* the ports of the bypass measurements are forwarded; *watched* attaches `passtctl top` to
    ours. Raises SectionFailed with the program's own last words where it has any.
    """
    if not program.command:
        session = Session(program, mtu, 0, None, "127.0.0.1", None)
        _choose_ports(lab, session, forward=forward)
        return session
    session = Session(program, mtu, lab.next_uid(), None, "", None, log=os.memfd_create("log"))
    try:
        if program.name == rows.SLIRP:
            _start_slirp(lab, session)
        else:
            _choose_ports(lab, session, forward=forward)
            _start_pasta(lab, session, [*forwarding(session), *_control(session, watched=watched)])
        _await_network(lab, session)
        if watched:
            _attach_top(lab, session)
    except SectionFailed as error:
        said = last_words(session.log)
        stop(lab, session)
        raise SectionFailed(f"{error}; it said: {said}" if said else str(error)) from error
    except BaseException:
        stop(lab, session)
        raise
    return session


def _choose_ports(lab: Lab, session: Session, *, forward: bool) -> None:
    """Give a session ports of its own for the bypass, which must be known at its start."""
    if forward:
        session.ports_in, session.ports_out = lab.next_ports(BYPASS_PORTS), lab.next_ports(BYPASS_PORTS)


def forwarding(session: Session) -> tuple[str, ...]:
    """Return pasta's port options for a session."""
    if not session.ports_in:
        return NO_FORWARDING
    inward, outward = (f"{ports[0]}-{ports[-1]}" for ports in (session.ports_in, session.ports_out))
    return ("-t", inward, "-u", "none", "-T", outward, "-U", "none")


def _control(session: Session, *, watched: bool) -> tuple[str, ...]:
    """Return the option for a control socket, with a directory for it that every user may use."""
    if not watched:
        return ()
    CONTROL.mkdir(exist_ok=True)
    CONTROL.chmod(0o777)
    return ("--control", str(session.control))


def _attach_top(lab: Lab, session: Session) -> None:
    """Watch a session as a person would, and wait for the first screen.

    Only the program's own user may ask it, which the effective one is; the real one tells processes apart.
    """
    passtctl = Path(session.program.command[0]).with_name("passtctl")
    whom = ["setpriv", f"--ruid={TOOL_UID}", f"--euid={session.uid}", "--clear-groups", "--"]
    session.top = lab.spawn(["sh", "-c", ATTACH_TOP, "sh", *whom, str(passtctl), "-s", str(session.control),
                             "top"], stdin=subprocess.PIPE)  # fmt: skip
    if "pasta" not in read_until(session.top, "pasta", SETUP_TIMEOUT_S):
        raise SectionFailed("passtctl top showed nothing")


def last_words(log: int) -> str:
    """Return the last line that a program wrote to its log."""
    return last_line(os.pread(log, 1 << 16, 0).decode(errors="replace")) if log >= 0 else ""


def _token(session: Session) -> str:
    return f"guest-{session.uid}"


def _start_pasta(lab: Lab, session: Session, ports: Sequence[str]) -> None:
    session.process = lab.spawn(
        [*as_user(session.uid), *session.program.command, "--config-net", "-m", str(session.mtu), *ports,
         "--", lab.load, "hold", _token(session)],
        stderr=session.log,
    )  # fmt: skip
    session.netns = _await_holder(lab, session)


def _start_slirp(lab: Lab, session: Session) -> None:
    """Start the holder of a new namespace, then slirp4netns beside it; wait for its ready byte."""
    user = as_user(session.uid)
    enter = ["unshare", "--user", "--map-root-user", "--net", "--"]
    lab.spawn([*user, *enter, lab.load, "hold", _token(session)])
    session.netns = _await_holder(lab, session)
    _await_other_namespace(session.netns)
    ready, ready_writer = os.pipe()
    try:
        session.process = lab.spawn(
            [*user, *session.program.command, "--configure", f"--mtu={session.mtu}",
             f"--ready-fd={ready_writer}", str(session.netns), SLIRP_TAP],
            stderr=session.log, pass_fds=[ready_writer],
        )  # fmt: skip
        os.close(ready_writer)
        ready_writer = -1
        if not select.select([ready], [], [], SETUP_TIMEOUT_S)[0] or not os.read(ready, 1):
            raise SectionFailed("slirp4netns did not become ready")
    finally:
        os.close(ready)
        if ready_writer >= 0:
            os.close(ready_writer)


def _await_other_namespace(pid: int) -> None:
    own, link = Path("/proc/self/ns/net").readlink(), Path(f"/proc/{pid}/ns/net")
    await_true(lambda: link.readlink() != own, "the holder's own network namespace")


def _is_holder(session: Session, pid: int) -> bool:
    return command_line(pid)[1:] == ["hold", _token(session)]


def _await_holder(lab: Lab, session: Session) -> int:
    """Wait for the holder among the session's processes and return its PID."""
    found: list[int] = []

    def is_there() -> bool:
        process = session.process
        if process is not None and process.poll() is not None and not processes_of(session.uid):
            raise SectionFailed(f"{session.program.name} ended with status {process.returncode}")
        found[:] = [pid for pid in processes_of(session.uid) if _is_holder(session, pid)]
        return bool(found)

    await_true(is_there, f"{lab.load} in the namespace")
    return found[0]


def _await_network(lab: Lab, session: Session) -> None:
    """Wait for the default route and MTU, then prove the path with one short exchange."""
    netns = session.netns
    if netns is None:
        return
    state = {"device": ""}

    def has_route() -> bool:
        try:
            session.address, state["device"] = lab.default_route(netns)
        except SectionFailed:
            return False
        return True

    await_true(has_route, "the IPv4 default route in the namespace")
    link = run([*in_netns(netns), "ip", "link", "show", "dev", state["device"]])
    match = re.search(r" mtu (\d+)", link)
    if not match or int(match[1]) != session.mtu:
        raise SectionFailed(f"{state['device']} has MTU {match[1] if match else '?'}, not {session.mtu}")
    port = str(lab.next_port())
    with lab.server(None, [lab.load, "tcp-server", port, "rr", "30"]):
        lab.client(netns, [lab.load, "rr", session.address, port, "0.02"], timeout_s=5)


def is_alive(session: Session) -> bool:
    """Say whether the program, its namespace and who watches it are still there."""
    if session.netns is None:
        return not session.program.command
    if session.top is not None and session.top.poll() is not None:
        return False
    return bool(program_processes(session)) and _is_holder(session, session.netns)


def program_processes(session: Session) -> list[int]:
    """List the processes of the program itself, without the command in the namespace."""
    return [pid for pid in processes_of(session.uid) if not _is_holder(session, pid)]


def stop(lab: Lab, session: Session) -> None:
    """End a session and everything that it started."""
    if session.top is not None:
        kill_group(session.top)
        for end in (session.top.stdin, session.top.stdout):
            if end:
                end.close()
        session.top = None
        session.control.unlink(missing_ok=True)
    if session.uid:
        lab.kill_user(session.uid)
    if session.process is not None:
        kill_group(session.process)
        if session.process.stdout:
            session.process.stdout.close()
        session.process = None
    if session.log >= 0:
        os.close(session.log)
        session.log = -1
    lab.reap_orphans()


def peak_memory_mb(session: Session) -> float:
    """Return the peak memory of all the program's processes, in units of 1,000,000 bytes.

    The largest process counts with its peak resident set (VmHWM), the others with what they hold
    now, pages shared between processes divided among them (Pss): a forked helper that shares its
    parent's pages is not counted twice.
    """
    peaks: list[tuple[int, int]] = []
    for pid in program_processes(session):
        hwm = int(read_status(pid).get("VmHWM", "0 kB").split()[0])
        peaks.append((hwm, proportional_kb(pid)))
    if not peaks:
        raise SectionFailed(f"{session.program.name} has no process left")
    peaks.sort()
    return (peaks[-1][0] + sum(pss for _, pss in peaks[:-1])) * 1024 / 1e6


def open_descriptors(session: Session) -> int:
    """Return how many descriptors all the program's processes have open together."""
    found = 0
    for pid in program_processes(session):
        try:
            found += sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
        except OSError:
            continue  # it ended meanwhile
    return found


def proportional_kb(pid: int) -> int:
    """Return a process's proportional set size in KiB, 0 if it is gone."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    match = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) if match else 0


def startup_all_ms(lab: Lab, program: Program, count: int) -> float:
    """Return the same as `startup_ms` of a start that forwards all TCP ports that can be bound."""
    return startup_ms(lab, program, count, ("-t", "all", "-u", "none", "-T", "none", "-U", "none"))


def startup_ms(lab: Lab, program: Program, count: int, options: Sequence[str] = ()) -> float:
    """Return the median time in ms that a program takes from its start to a network in use.

    For pasta that is `pasta --config-net -- true` from spawn to exit, with *options* too. slirp4netns runs no
    command: for it, from starting the namespace's holder to the ready byte.
    """
    if program.name == rows.SLIRP:
        return _slirp_startup_ms(lab, program, count)
    uid, limit_s = lab.next_uid(), 5
    try:
        result = run(
            [*as_user(uid), lab.load, "spawn-time", str(count), str(limit_s), *program.command,
             "--config-net", *options, "--", "true"],
            count * 1.0 + limit_s,
        )  # fmt: skip
    finally:
        lab.kill_user(uid)
        lab.reap_orphans()
    match = re.search(r'"p50_us": ([0-9.]+)', result)
    if not match:
        raise SectionFailed("no start-up time was printed")
    return float(match[1]) / 1000


def attach_ms(lab: Lab, program: Program, count: int) -> float:
    """Return the median time in ms from the start of `pasta --config-net PID` to its exit: to be ready."""
    times = []
    for _ in range(count):
        session = Session(program, rows.MTUS[0], lab.next_uid(), None, "", None)
        try:
            lab.spawn([*as_user(session.uid), "unshare", "--user", "--map-root-user", "--net", "--",
                       lab.load, "hold", _token(session)])  # fmt: skip
            holder = session.netns = _await_holder(lab, session)
            _await_other_namespace(holder)
            result = run([*as_user(session.uid), lab.load, "spawn-time", "1", "5", *program.command,
                          "--quiet", "--config-net", *NO_FORWARDING, str(holder)], 10.0)  # fmt: skip
        finally:
            stop(lab, session)
            lab.reap_orphans()
        match = re.search(r'"p50_us": ([0-9.]+)', result)
        if not match:
            raise SectionFailed("no start-up time was printed")
        times.append(float(match[1]) / 1000)
    return sorted(times)[len(times) // 2]


def _slirp_startup_ms(lab: Lab, program: Program, count: int) -> float:
    times = []
    for _ in range(count):
        session = Session(program, rows.MTUS[0], lab.next_uid(), None, "", None, os.memfd_create("log"))
        try:
            before = time.monotonic()
            _start_slirp(lab, session)
            times.append((time.monotonic() - before) * 1000)
        finally:
            stop(lab, session)
    return sorted(times)[len(times) // 2]
