"""AppArmor's profiles against what the program does: every file, mount and socket of a start, by strace(1).

The kernel below the tests need not have AppArmor. The program is laid out as `make install` does it and
started in every form; each file that it opens, executes, locks or maps to be executed, each mount and socket
has to be permitted by the profile that the process would have. What the command does is its own matter.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import apparmor, strace
from tests.support.lab import TREE, UID, Lab, Running
from tests.support.processes import read, wait_until
from tests.system.machines import socket_path
from tests.system.test_attach import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

pytestmark = pytest.mark.needs_root

PREFIX = "/usr/local"
PYTHON = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
# The profile of what a launcher starts.
INNER = {"pasta": "pasta-python-program", "passt": "passt-python"}
# Puts the directory with the program over PREFIX, then becomes what the other arguments say.
ENTER = """
set -e
mount --bind "$1" "$2"
mount --bind /dev/net/tun.open /dev/net/tun
shift 2
exec "$@"
"""


# Tests of all modules run as root first, then as a user: a fixture of the module would be made twice.
@pytest.fixture(scope="session")
def prefix(session_lab: Lab) -> Path:
    """Lay the program out as `make install` does; give the directory that takes the place of PREFIX."""
    top = session_lab.directory / "prefix"
    home = top / "lib" / "passt"
    package = home / "lib" / VERSION / "site-packages" / "passt"
    shutil.copytree(TREE / "src" / "passt", package,
                    ignore=shutil.ignore_patterns("*.c", "*.pyx", "__pycache__"))
    subprocess.run([PYTHON, "-m", "compileall", "-q", package], check=True)
    for directory in (top / "bin", home / "bin"):
        directory.mkdir()
    (home / "pyvenv.cfg").write_text(f"home = {PYTHON.parent}\n", "utf-8")
    (home / "bin" / VERSION).symlink_to(PYTHON)
    for path in (top, *top.rglob("*")):
        if not path.is_symlink():
            is_program = path.parent.name == "process" and path.name.startswith("passt-")
            path.chmod(0o755 if path.is_dir() or is_program else 0o644)
    for name in ("pasta", "passt"):
        subprocess.run(
            ["gcc", "-o", home / "bin" / name, TREE / "src" / "launcher" / "launcher.c", "-D_GNU_SOURCE",
             f'-DPYTHON_NAME="{VERSION}"', f'-DBUILD_PYTHON="{PYTHON}"'], check=True)
        (top / "bin" / name).symlink_to(f"../lib/passt/bin/{name}")
    return top


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, apparmor.Profile]:
    """Compile the profiles as they are in share/."""
    return apparmor.load(tmp_path_factory.mktemp("apparmor"))


@dataclass
class Confined:
    """One run of *program* under strace, and what its profiles refuse of it."""

    lab: Lab
    prefix: Path
    profiles: Mapping[str, apparmor.Profile]
    program: str
    user: bool
    refused: list[str] = field(default_factory=list)
    n_checked: int = 0

    def start(self, *arguments: str) -> Running:
        """Start it with *arguments*."""
        who = ["-u", "lab"] if self.user else []
        argv = [f"{PREFIX}/bin/{self.program}", *arguments]
        traced = ["strace", *who, *strace.OPTIONS, "-o", str(self.trace), *argv]
        return self.lab.host.spawn(
            ["unshare", "--mount", "sh", "-c", ENTER, "sh", str(self.prefix), PREFIX, *traced],
            env={"HOME": str(self.lab.directory / "home")})

    @property
    def trace(self) -> Path:
        """File with the trace."""
        return self.lab.directory / "trace"

    def check(self) -> None:
        """Fail if a process of the program did what its profile would refuse."""
        names: dict[int, str | None] = {}
        for call in strace.read(self.trace.read_text("utf-8").splitlines()):
            # A process that was forked goes on with the profile of its parent: by then always the program's.
            name = names.setdefault(call.pid, INNER[self.program] if names else "")
            if call.name == "execve":
                if call.errno is None:
                    path, *arguments = call.strings()
                    names[call.pid] = self._execute(name, self._small_program(path, arguments) or
                                                    self._resolve(path))
            elif name:
                self.n_checked += 1
                if not self._permits(self.profiles[name], call):
                    self.refused.append(f"{name}: {call.name}({call.arguments}) {call.path or ''}")
        assert not self.refused, "\n".join(self.refused)
        assert self.n_checked > 100

    def _execute(self, name: str | None, path: str) -> str | None:
        """Check execve(2) of *path* under profile *name*; return the new one, None for that of a command."""
        launcher = f"{self.program}-python"
        if name == "":
            assert self.profiles[launcher].attaches_to(path), path
            return launcher
        if name and not self.profiles[name].allows(path, "x", owner=False):
            self.refused.append(f"{name}: execve({path})")
        if "/python3." in path and name == launcher:
            return INNER[self.program]
        return name if self.program == "passt" and path.endswith("/passt-reader") else None

    def _small_program(self, path: str, arguments: Sequence[str]) -> str:
        """Name the small program of ours that *path* executes by a descriptor; empty if it is none."""
        if not path.startswith("/proc/self/fd/"):
            return ""
        return f"{PREFIX}/lib/passt/lib/{VERSION}/site-packages/passt/process/{arguments[0]}"

    def _permits(self, profile: apparmor.Profile, call: strace.Call) -> bool:
        wanted = call.wants()
        if wanted is not None:
            path, permissions = wanted
            path = self._resolve(path)
            return profile.allows(path, permissions, owner=self._is_ours(path))
        if call.name in {"socket", "socketpair"}:
            return profile.allows_socket(*call.kind_of_socket())
        if call.name == "mount":
            source, target, *kind = call.strings()
            return profile.allows_mount(source, f"{target.rstrip('/')}/", kind[0] if kind else "",
                                        call.mount_flags())
        if call.name == "umount2":
            return profile.allows_umount("/")
        if call.name == "pivot_root":
            return profile.allows_pivot_root("/tmp/", "/tmp/")  # noqa: S108 - the first of empty_root.PLACES
        # Others fail here as soon as the program has them: they need rules.
        return call.name in {"open", "openat", "connect", "bind", "mmap"} or call.errno is not None

    def _resolve(self, path: str) -> str:
        """Follow the links of what may lie in PREFIX; a directory ends in a slash, as for AppArmor."""
        place = path.replace(PREFIX, str(self.prefix), 1) if path.startswith(f"{PREFIX}/") else path
        real = os.path.realpath(place) if not place.startswith("/proc/") else place
        slash = "/" if os.path.isdir(real) or place.endswith(("/fd", "/ns")) else ""
        return real.replace(str(self.prefix), PREFIX, 1).rstrip("/") + slash

    def _is_ours(self, path: str) -> bool:
        """Tell whether the program's user owns the file; not of /proc, where the process's state decides."""
        try:
            return not path.startswith("/proc/") and os.stat(path).st_uid == (UID if self.user else 0)
        except FileNotFoundError:
            return True           # it made and removed it


@pytest.fixture
def confined(lab: Lab, prefix: Path, profiles: Mapping[str, apparmor.Profile], user: bool
             ) -> Iterator[Callable[[str], Confined]]:
    """Give a maker of runs of a program, and remove their files."""
    yield lambda program: Confined(lab, prefix, profiles, program, user)
    (lab.directory / "trace").unlink(missing_ok=True)
    for path in (lab.directory / "home").iterdir():
        path.unlink()


@pytest.fixture
def target(lab: Lab, user: bool) -> Iterator[Target]:
    """Lend a namespace to attach to."""
    one = Target(lab, user=user)
    yield one
    one.running.kill()


def files(lab: Lab) -> list[str]:
    home = lab.directory / "home"
    return ["--log-file", f"{home}/log", "--pcap", f"{home}/pcap", "--pid", f"{home}/pid",
            "--conf-path", f"{home}/conf"]


def stop(lab: Lab, running: Running) -> None:
    """Wait until the program is in the background and end it; strace ends with it."""
    path = str(lab.directory / "home" / "pid")
    wait_until(lambda: read(path).endswith(b"\n") or running.popen.poll() is not None, "pid file", 60)
    done = lab.host.run(["kill", read(path).decode().strip()], check=False)
    result = running.finish(60)
    assert (done.returncode, result.returncode) == (0, 0), result.stderr


@pytest.mark.parametrize("ports", [["-t", "8080"], ["-T", "auto", "-t", "8080:80", "--follow"]],
                         ids=["out", "auto"])
def test_command(confined: Callable[[str], Confined], lab: Lab, ports: Sequence[str]) -> None:
    run = confined("pasta")
    running = run.start("--config-net", *ports, *files(lab), "--", "cat", "/proc/self/comm")
    done = running.finish(60)
    assert (done.returncode, done.stdout) == (0, b"cat\n"), done.stderr
    run.check()


def test_attached_in_the_background(confined: Callable[[str], Confined], lab: Lab, target: Target) -> None:
    run = confined("pasta")
    stop(lab, run.start("--config-net", "--follow", *files(lab), target.pid))
    run.check()


def test_attached_to_a_path(confined: Callable[[str], Confined], lab: Lab, target: Target) -> None:
    run = confined("pasta")
    names = f"/proc/{target.pid}/ns"
    stop(lab, run.start("--config-net", *files(lab), "--userns", f"{names}/user", "--netns", f"{names}/net"))
    run.check()


@pytest.mark.parametrize("options", [(), ("--vhost-user",), ("--follow",)],
                         ids=["stream", "vhost-user", "follow"])
def test_passt(confined: Callable[[str], Confined], lab: Lab, options: tuple[str, ...]) -> None:
    run = confined("passt")
    path = Path(socket_path(lab, "apparmor")).parent.parent / "home" / "socket"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    os.chown(path, path.parent.stat().st_uid, -1)
    stop(lab, run.start(*options, "-s", str(path), "-t", "8080", *files(lab)))
    run.check()


def test_user_of_runas(confined: Callable[[str], Confined], lab: Lab) -> None:
    pasta = confined("pasta")
    done = pasta.start("--runas", "lab", "--", "true").finish(60)
    assert done.returncode == 0, done.stderr
    pasta.check()
    passt = confined("passt")
    stop(lab, passt.start("--runas", "lab", "-s", f"{lab.directory}/home/socket", *files(lab)))
    passt.check()


def test_port_that_is_taken(confined: Callable[[str], Confined], lab: Lab) -> None:
    """The message names who has it, so the program looks into all of /proc."""
    server = lab.host.spawn(["/usr/bin/python3", "-I", str(lab.directory / "servers.py"), "8099"])
    assert server.popen.stdout is not None
    assert server.popen.stdout.readline() == b"ready\n"
    for program, more in (("pasta", ["--", "true"]), ("passt", ["-s", f"{lab.directory}/home/socket"])):
        run = confined(program)
        done = run.start("-t", "8099", *more).finish(60)
        assert done.returncode == 1
        assert b"8099" in done.stderr
        run.check()
    server.kill()


def test_roots_capabilities_do(lab: Lab, prefix: Path, profiles: Mapping[str, apparmor.Profile],
                               target: Target) -> None:
    """Started by root with no other capability than those of the profile, every form comes up."""
    for program, arguments in (
        ("pasta", ["--config-net", "--", "true"]),
        ("pasta", ["--config-net", "--runas", "lab", "-t", "80", "--", "true"]),
        ("pasta", ["--config-net", *files(lab), target.pid]),
        ("passt", ["-t", "80", "-s", f"{lab.directory}/home/socket", *files(lab)]),
    ):
        numbers = profiles[INNER[program]].capabilities
        bounding = ",".join(["-all", *(f"+cap_{number}" for number in sorted(numbers))])
        argv = ["setpriv", "--bounding-set", bounding, "--inh-caps", "-all", f"{PREFIX}/bin/{program}"]
        done = lab.host.run(
            ["unshare", "--mount", "sh", "-c", ENTER, "sh", str(prefix), PREFIX, *argv, *arguments],
            check=False)
        assert done.returncode == 0, done.stderr
        path = lab.directory / "home" / "pid"
        if path.exists():
            lab.host.run(["kill", path.read_text(encoding="ascii").strip()])
        for each in (lab.directory / "home").iterdir():
            each.unlink(missing_ok=True)  # perhaps the program, which ends now, is faster
