"""What is left of the program's rights when it is ready: /proc/PID of every form, as root sees it."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from passt.process.stages import OFF_VARIABLE
from tests.support.lab import FAR4, UID, Lab
from tests.support.processes import children, status_field, wait_until
from tests.system.machines import FORMS
from tests.system.test_attach import Target
from tests.system.test_failures import library

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs_root

CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
NET_BIND_SERVICE = 1 << 10
ALL_NAMESPACES = ("mnt", "ipc", "uts", "user", "net", "pid")
ALWAYS = {"mnt", "ipc", "uts"}
# What the loop works with; a descriptor of anything else leads out.
DESCRIPTORS = re.compile(
    r"socket:.*|pipe:.*|anon_inode:\[(eventpoll|eventfd|signalfd|pidfd)\]|anon_inode:inotify")
DEVICES = {os.makedev(1, 3), os.makedev(10, 200)}  # /dev/null, /dev/net/tun
NO_PORTS = ["-t", "none", "-u", "none", "-T", "none", "-U", "none"]
FORWARD = ["-t", "8080", "-T", "auto", "-U", "auto"]  # the thread in the namespace has work to do


@pytest.fixture
def target(lab: Lab, user: bool) -> Iterator[Target]:
    """Lend a namespace to attach to."""
    one = Target(lab, user=user)
    yield one
    one.running.kill()


@pytest.fixture
def pid_file(lab: Lab) -> Iterator[Path]:
    path = lab.directory / "home" / "pid"
    yield path
    path.unlink(missing_ok=True)


def namespaces_of(pid: int) -> dict[str, str]:
    return {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ALL_NAMESPACES}


def own_namespaces(pid: int, other: int) -> set[str]:
    """Give the kinds of namespaces that the two processes do not share."""
    ours, theirs = namespaces_of(pid), namespaces_of(other)
    return {kind for kind in ALL_NAMESPACES if ours[kind] != theirs[kind]}


def look(pid: int, *, threads: int, root: int = 0) -> None:
    """Check all that /proc shows of the main process *pid* and its threads.

    *root* is root of the user namespace in which it was started.
    """
    wait_until(lambda: status_field(pid, "Seccomp") == "2", "the loop is about to run")
    tasks = sorted(map(int, os.listdir(f"/proc/{pid}/task")))
    assert len(tasks) == threads
    for task in tasks:
        rights = {name: int(status_field(task, name), 16) for name in CAPABILITIES}
        if task != pid:
            # It opens ports below 1024 of the namespace at any time, and may do nothing else.
            assert [rights.pop(name) for name in ("CapPrm", "CapEff", "CapBnd")] == [NET_BIND_SERVICE] * 3
        assert set(rights.values()) == {0}, task
        assert (status_field(task, "NoNewPrivs"), status_field(task, "Seccomp")) == ("1", "2"), task
        directory = Path(f"/proc/{pid}/task/{task}/root/")
        assert list(directory.iterdir()) == []
        with pytest.raises(OSError, match="Read-only file system"):
            (directory / "new").mkdir()
    # Root's, and not the user's, if the process is not dumpable: proc_pid(5).
    assert Path(f"/proc/{pid}/status").stat().st_uid == root
    # The pid file is closed a moment after its content is there.
    wait_until(lambda: strange_descriptors(pid) == [], "no descriptor leads out")


def links(pid: int) -> list[str]:
    """Give where all descriptors lead."""
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return found


def strange_descriptors(pid: int) -> list[str]:
    """Give where descriptors lead that the loop has no use for."""
    strange = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            path = f"/proc/{pid}/fd/{fd}"
            link, device = os.readlink(path), os.stat(path).st_rdev
        except FileNotFoundError:
            continue              # closed meanwhile
        if not DESCRIPTORS.fullmatch(link) and device not in DEVICES:
            strange.append(link)
    return strange


def as_seen_here(lab: Lab, pid: int, name: str) -> int:
    """Give the process that is *pid* in the lab's host."""
    for one in lab.host.pids():
        try:
            if status_field(one, "Name") == name and status_field(one, "NSpid").split()[1:2] == [str(pid)]:
                return one
        except (FileNotFoundError, ProcessLookupError):
            continue              # a process of the start, which has ended
    raise AssertionError(f"{name} {pid} is gone")


@pytest.mark.parametrize("options", [NO_PORTS, FORWARD], ids=["no ports", "forward"])
def test_with_a_command(lab: Lab, user: bool, options: list[str]) -> None:
    running = lab.start(["-q", "--config-net", *options], ["sh", "-c", "echo up; sleep 1000"], user=user)
    assert running.popen.stdout is not None
    assert running.popen.stdout.readline() == b"up\n"
    pid = running.pid
    look(pid, threads=2 if options == FORWARD else 1)
    assert own_namespaces(pid, lab.host.init) == ALWAYS | {"user"}
    (init,) = children(pid)
    # The channel, signals, and the status of the command; none of the host's network. The command does not
    # wait for it to open and close them.
    wait_until(lambda: sum(link.startswith("socket:") for link in links(init)) == 1, "it has one socket")
    wait_until(lambda: strange_descriptors(init) == ["/proc/2/status"], "it has the status of the command")
    assert Path(f"/proc/{init}/status").stat().st_uid == 0
    assert status_field(init, "Seccomp") == "0"
    running.kill()


@pytest.mark.parametrize("options", [["--netns-only"], ["--runas", str(UID)], ["--runas", "0"],
                                     ["--netns-only", "--runas", str(UID)]], ids=" ".join)
def test_with_a_command_as_root(lab: Lab, options: list[str]) -> None:
    # Another user than root opens the device itself.
    open_device = ["unshare", "--mount", "sh", "-c",
                   'mount --bind /dev/net/tun.open /dev/net/tun && exec "$@"', "sh"]
    argv = [lab.pasta, "-q", "--config-net", *FORWARD, *options, "--", "sh", "-c", "echo up; sleep 1000"]
    running = lab.host.spawn([*open_device, *argv], user=False)
    assert running.popen.stdout is not None
    assert running.popen.stdout.readline() == b"up\n"
    look(running.pid, threads=2)
    own = {"user"} if "--netns-only" not in options else set()
    assert own_namespaces(running.pid, lab.host.init) == ALWAYS | own
    user = options[-1] if "--runas" in options else "65534"
    assert status_field(running.pid, "Uid").split() == [user] * 4
    running.kill()


def test_with_a_command_in_a_container_without_user_namespaces(lab: Lab) -> None:
    """A plain user is root of a user namespace that exists, and asks for no further one."""
    argv = ["unshare", "--user", "--map-root-user", lab.pasta, "-q", "--config-net", *FORWARD, "--netns-only"]
    running = lab.host.spawn([*argv, "--", "sh", "-c", "echo up; sleep 1000"], user=True)
    assert running.popen.stdout is not None
    assert running.popen.stdout.readline() == b"up\n"
    look(running.pid, threads=2, root=UID)
    (init,) = children(running.pid)
    assert "user" not in own_namespaces(running.pid, init)
    running.kill()


@pytest.mark.parametrize("foreground", [True, False])
def test_attached(lab: Lab, user: bool, target: Target, pid_file: Path, foreground: bool) -> None:
    argv = ["-q", "--config-net", *FORWARD, "-P", str(pid_file)]
    if foreground:
        running = lab.start([*argv, "-f", target.pid], user=user)
        wait_until(lambda: pid_file.exists() and bool(pid_file.read_text(encoding="ascii")), "pasta is ready")
        pid = as_seen_here(lab, int(pid_file.read_text(encoding="ascii")), "pasta")
        assert running.pid == pid
    else:
        lab.run([*argv, target.pid], user=user)
        pid = as_seen_here(lab, int(pid_file.read_text(encoding="ascii")), "pasta")
    look(pid, threads=2)
    assert own_namespaces(pid, lab.host.init) == ALWAYS | {"user"} | (set() if foreground else {"pid"})
    assert own_namespaces(pid, target.running.pid) >= ALWAYS | {"net"}
    assert target.run([*lab.client, "tcp", FAR4])
    if not foreground:
        assert status_field(pid, "NSpid").split()[-1] == "1"
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
    lab.host.run(["kill", pid_file.read_text(encoding="ascii").strip()])
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "it ends")


def test_switched_off_stages_are_off_and_all_else_is_not(lab: Lab, user: bool, target: Target,
                                                         pid_file: Path) -> None:
    off = ["pid-namespace", "namespaces", "root", "landlock", "filter"]
    done = lab.run(["-q", "--config-net", "-P", str(pid_file), target.pid], user=user, cwd="/usr",
                   env={OFF_VARIABLE: ",".join(off)})
    pid = as_seen_here(lab, int(pid_file.read_text(encoding="ascii")), "pasta")
    lines = done.stderr.decode().splitlines()
    assert [line.split("'")[1] for line in lines if OFF_VARIABLE in line] == off
    assert sum("keeps sight of the host's files" in line for line in lines) == 1
    # The lab gives a plain user a mount namespace of its own.
    assert own_namespaces(pid, lab.host.init) - {"mnt"} == {"user"}
    assert (status_field(pid, "Seccomp"), status_field(pid, "NoNewPrivs")) == ("0", "1")
    assert {int(status_field(pid, name), 16) for name in CAPABILITIES} == {0}
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    lab.host.run(["kill", pid_file.read_text(encoding="ascii").strip()])
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "it ends")


@pytest.mark.parametrize("options", [["--netns-only"], ["--runas", str(UID)],
                                     ["--netns-only", "--runas", str(UID)]], ids=" ".join)
def test_attached_as_root(lab: Lab, pid_file: Path, options: list[str]) -> None:
    netns_only = "--netns-only" in options
    target = Target(lab, user=False, own_user_namespace=not netns_only)
    try:
        lab.run(["-q", "--config-net", *options, "-P", str(pid_file), target.pid], user=False)
        pid = as_seen_here(lab, int(pid_file.read_text(encoding="ascii")), "pasta")
        look(pid, threads=2)
        assert own_namespaces(pid, lab.host.init) == ALWAYS | {"pid"} | (set() if netns_only else {"user"})
        assert status_field(pid, "Uid").split() == [str(UID) if "--runas" in options else "65534"] * 4
        lab.host.run(["kill", pid_file.read_text(encoding="ascii").strip()])
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), "it ends")
    finally:
        target.running.kill()


@pytest.mark.parametrize("runas", ["0", str(UID)])
def test_passt_as_root(lab: Lab, pid_file: Path, runas: str) -> None:
    path = pid_file.with_name("sandbox.socket")
    lab.host.run([lab.passt, "-q", "-s", str(path), "-P", str(pid_file), "--runas", runas], user=False)
    pid = as_seen_here(lab, int(pid_file.read_text(encoding="ascii")), "passt")
    look(pid, threads=1)
    assert own_namespaces(pid, lab.host.init) == ALWAYS | {"user", "pid"}
    assert status_field(pid, "Uid").split() == [runas] * 4
    lab.host.run(["kill", pid_file.read_text(encoding="ascii").strip()])
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "it ends")
    path.unlink()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("foreground", [True, False])
def test_passt(lab: Lab, user: bool, pid_file: Path, foreground: bool, form: str) -> None:
    path = pid_file.with_name("sandbox.socket")
    argv = [lab.passt, "-q", "-s", str(path), "-P", str(pid_file), *FORMS[form].options,
            *(["-f"] if foreground else [])]
    if foreground:
        lab.host.spawn(argv, user=user)
        wait_until(lambda: pid_file.exists() and bool(pid_file.read_text(encoding="ascii")), "passt is ready")
    else:
        lab.host.run(argv, user=user)
    pid = as_seen_here(lab, int(pid_file.read_text(encoding="ascii")), "passt")
    look(pid, threads=1)
    assert own_namespaces(pid, lab.host.init) == ALWAYS | {"user"} | (set() if foreground else {"pid"})
    lab.host.run(["kill", pid_file.read_text(encoding="ascii").strip()])
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "it ends")
    path.unlink()


# The program, but that a function fails: $1 is the place of the package, $2 the function, $3 the errno.
FAILING = """
import importlib, os, sys
sys.path.insert(0, sys.argv[1])
from passt import cli
module, _, name = sys.argv[2].rpartition(".")
number = int(sys.argv[3])
def fail(*_, **__):
    raise OSError(number, os.strerror(number))
setattr(importlib.import_module(module), name, fail)
sys.exit(cli.main(sys.argv[4:]))
"""
# What fails at a late stage; whether the program goes on, as the other lock on paths is there.
FAULTS = [
    ("passt.process.empty_root.enter_namespaces", errno.EPERM, True),
    ("passt.process.empty_root.enter", errno.EPERM, True),
    ("passt.process.landlock.restrict", errno.ENOSYS, True),
    ("passt.process.empty_root.enter", errno.EMFILE, False),
    ("passt.process.landlock.restrict", errno.EMFILE, False),
    ("passt.process.interpreter.close_paths", errno.ENOENT, False),
    ("passt.host.seccomp.handle_refusals", errno.EPERM, False),
    ("passt.process.privileges.drop_privileges", errno.EPERM, False),
    ("passt.host.seccomp.load", errno.EINVAL, False),
]


@pytest.mark.parametrize("form", ["command", "attached -f", "attached", "passt -f", "passt"])
@pytest.mark.parametrize(("function", "number", "goes_on"), FAULTS)
def test_stage_that_fails_is_one_line(lab: Lab, user: bool, target: Target, pid_file: Path, form: str,
                                      function: str, number: int, goes_on: bool) -> None:
    socket = pid_file.with_name("socket")
    options = ["-q", "-P", str(pid_file), "-p", str(pid_file.with_name("capture")),
               *(["-f"] if "-f" in form else [])]
    argv = {"command": ["pasta", *options, "-T", "8100", "--", "true"],
            "attached": ["pasta", *options, "-T", "8100", target.pid],
            "passt": ["passt", *options, "-s", str(socket)]}[form.split(maxsplit=1)[0]]
    script = pid_file.with_name("failing.py")
    script.write_text(FAILING, encoding="utf-8")
    running = lab.host.spawn(["/usr/bin/python3", str(script), library(lab), function, str(number), *argv],
                             user=user)
    if goes_on and "-f" in form:
        wait_until(lambda: pid_file.exists() and bool(pid_file.read_bytes()), "it is ready")
        running.send(signal.SIGTERM)
    done = running.finish()
    script.unlink()
    if not goes_on:
        assert (done.returncode, done.stderr.count(b"\n")) == (1, 1), done.stderr
        assert done.stderr.startswith(argv[0].encode() + b": ")
        assert not any(pid_file.with_name(name).exists() for name in ("pid", "capture", "socket"))
        return
    assert (done.returncode, done.stderr) == (0, b"")
    if form in {"attached", "passt"}:
        pid = as_seen_here(lab, int(pid_file.read_text(encoding="ascii")), argv[0])
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), "it ends")
    for name in ("capture", "socket"):
        pid_file.with_name(name).unlink(missing_ok=True)
