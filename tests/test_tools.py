"""The scripts of tools/ in a copy of the tree, where apt, sudo and the system's Python are stand-ins."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

TREE = Path(__file__).parent.parent
UID = 54321
# Arguments: a directory with stand-ins, then the command. Nothing that it mounts is seen outside.
PRIVATE = """
set -e
[ ! -e "$1/python3" ] || mount --bind "$1/python3" /usr/bin/python3
[ ! -e "$1/os-release" ] || mount --bind "$1/os-release" "$(realpath /etc/os-release)"
mount -t tmpfs none /usr/sbin
export PATH="$1/bin:$PATH"
shift
exec "$@"
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts stand-ins over programs: run it as root")


class Machine:
    """A machine that has what a test puts there: programs, a system, a clone."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tree = directory / "tree"
        self.calls = directory / "calls"
        (directory / "bin").mkdir(parents=True)
        for name in ("tools", "demo", "Makefile", "pyproject.toml"):
            source = TREE / name
            if source.is_dir():
                shutil.copytree(source, self.tree / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, self.tree / name)

    def put_program(self, name: str, script: str) -> None:
        """Put a shell script where PATH finds it first; it notes its calls."""
        path = self.directory / "bin" / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>{self.calls}\n{script}\n', encoding="utf-8")
        path.chmod(0o755)

    def put_python(self, version: str) -> None:
        """Let the system's Python say that it is *version*."""
        path = self.directory / "python3"
        path.write_text(f"#!/bin/sh\necho {version}\n", encoding="utf-8")
        path.chmod(0o755)

    def put_packages(self, installed: str = "", apt: str = "exit 1") -> None:
        """Let dpkg have only *installed*, and apt know all, and do what the script *apt* does."""
        self.put_program("dpkg-query",
                         f'case " {installed} " in *" $4 "*) printf installed ;; *) exit 1 ;; esac')
        self.put_program("apt-get", apt)
        self.put_program("apt-cache", 'echo "$2 | 1.0 | somewhere"')

    def run(self, *argv: str, uid: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a command in the tree, without a terminal, as root or as a user without rights."""
        user = ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups"] if uid else []
        environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(self.directory)}
        return subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "--", "setsid", "--wait",
             "bash", "-c", PRIVATE, "bash", str(self.directory), *user, *argv],
            check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=self.tree,
            env=environment, timeout=300)  # fmt: skip

    def called(self, name: str) -> list[str]:
        lines = self.calls.read_text(encoding="utf-8").splitlines() if self.calls.exists() else []
        return [line for line in lines if line.startswith(f"{name} ")]

    def give_to(self, uid: int) -> None:
        """Make *uid* the owner of the tree; what notes calls stays open to all."""
        for path in [self.tree, *self.tree.rglob("*"), self.directory]:
            os.chown(path, uid, uid)
        self.calls.touch()
        self.calls.chmod(0o666)


@pytest.fixture
def machine() -> Iterator[Machine]:
    # Not below tmp_path, whose parents each pytest on the machine closes to other users when it starts.
    with tempfile.TemporaryDirectory(prefix="passt-machine-") as directory:
        Path(directory).chmod(0o755)
        yield Machine(Path(directory) / "machine")


@needs_root
@pytest.mark.parametrize("version", ["3.10", "3.16", "2.7"])
def test_other_pythons_are_refused_before_anything_is_installed(machine: Machine, version: str) -> None:
    machine.put_python(version)
    machine.put_packages()
    done = machine.run("tools/setup", "build")
    assert (done.returncode, done.stderr) == (1, (
        "passt: unsupported Python: one of 3.11 3.12 3.13 3.14 3.15 is needed,"
        f" and this system's python3 is {version}\n"))
    assert machine.called("apt-get") == []
    assert not (machine.tree / ".venv").exists()


@needs_root
@pytest.mark.parametrize(("release", "message"), [
    ("ID=void\nVERSION_ID=40\n", "unsupported system 'void': one with apt (Debian 12, Ubuntu 24.04 or newer"),
    ("ID=debian\nVERSION_ID=11\n", "unsupported system: debian 11 is older than 12"),
])
def test_other_systems_are_refused_before_anything_is_installed(
        machine: Machine, release: str, message: str) -> None:
    (machine.directory / "os-release").write_text(release, encoding="ascii")
    machine.put_packages()
    done = machine.run("tools/setup", "build")
    assert done.returncode == 1
    assert done.stderr.startswith(f"passt: {message}")
    assert done.stderr.count("\n") == 1
    assert machine.called("apt-get") == []


# Manager, the program that knows what is installed, the argument that names it; all that a build takes.
ELSEWHERE = {
    "dnf": ("rpm", 4, "gcc glibc-devel make ca-certificates kernel-headers python3 python3-devel",
            "dnf install"),
    "apk": ("apk", 3, "gcc musl-dev make ca-certificates linux-headers python3 python3-dev", "apk add"),
    "pacman": ("pacman", 2, "gcc glibc make ca-certificates linux-api-headers python", "pacman -S"),
}


def put_elsewhere(machine: Machine, manager: str, installed: str) -> None:
    """Make the machine one with another package manager, which has only *installed*."""
    (machine.directory / "os-release").write_text("ID=elsewhere\nVERSION_ID=1\n", encoding="ascii")
    asked, argument, _, _ = ELSEWHERE[manager]
    for name in {manager, asked}:
        machine.put_program(name, f'case " {installed} " in *" ${argument} "*) ;; *) exit 1 ;; esac')


@needs_root
@pytest.mark.parametrize("manager", ELSEWHERE)
def test_other_package_managers_are_not_run_but_told_what_is_missing(machine: Machine, manager: str) -> None:
    _, _, needed, command = ELSEWHERE[manager]
    missing = needed.split()[1]
    for installed, named in (("", needed), (needed.replace(f" {missing} ", " "), missing)):
        put_elsewhere(machine, manager, installed)
        done = machine.run("tools/setup", "build")
        assert (done.returncode, done.stderr) == (
            1, f"passt: these packages are missing, install them as root: {command} {named}\n")
    assert not (machine.tree / ".venv").exists()


@needs_root
@pytest.mark.parametrize("manager", ELSEWHERE)
def test_set_up_goes_on_where_another_package_manager_has_all(machine: Machine, manager: str) -> None:
    put_elsewhere(machine, manager, ELSEWHERE[manager][2])
    machine.put_python("3.10")
    done = machine.run("tools/setup", "build")
    assert "unsupported Python: one of 3.11 " in done.stderr
    done = machine.run("tools/setup", "test")
    assert done.stderr.startswith("passt: 'make test' needs packages whose names are not known on 'else")


@needs_root
@pytest.mark.parametrize("version", ["3.11", "3.15"])
def test_failure_of_apt_names_the_file_with_all_that_it_printed(machine: Machine, version: str) -> None:
    machine.put_python(version)
    machine.put_packages(apt='case "$*" in *install*) ls /usr/sbin; seq -f "line %g" 450; exit 100 ;; esac')
    done = machine.run("tools/setup", "build")
    lines = done.stderr.splitlines()
    assert done.returncode == 1
    log = machine.tree / ".setup" / "apt.log"
    # No service starts: a policy says so while apt works.
    assert log.read_text().splitlines() == ["policy-rc.d", *(f"line {n}" for n in range(1, 451))]
    assert f"passt: all that this step printed is in {log}" in lines
    assert lines[-1].startswith("passt: apt could not install: gcc libc6-dev")
    assert [line for line in lines if "line" in line][-12:] == [f"    line {n}" for n in range(439, 451)]
    assert len(lines) < 20


@needs_root
@pytest.mark.parametrize(("known", "expected"), [(True, True), (False, False)])
def test_package_that_a_distribution_dropped_is_not_asked_for(
        machine: Machine, *, known: bool, expected: bool) -> None:
    machine.put_python("3.14")
    machine.put_packages()
    if not known:
        machine.put_program("apt-cache", 'case "$2" in isc-dhcp-client) ;; *) echo "$2 | 1.0 | x" ;; esac')
    done = machine.run("tools/setup", "test")
    [install] = [line for line in machine.called("apt-get") if " install " in line]
    assert ("isc-dhcp-client" in install) is expected
    assert ("this distribution has no isc-dhcp-client" in done.stderr) is not expected
    assert "dhcpcd-base" in install


@needs_root
def test_user_without_rights_is_told_what_is_missing(machine: Machine) -> None:
    machine.put_python("3.13")
    machine.put_packages(installed="gcc make python3-venv python3-dev ca-certificates")
    machine.put_program("sudo", "exit 1")
    machine.give_to(UID)
    done = machine.run("tools/setup", "build", uid=UID)
    assert (done.returncode, done.stderr) == (
        1, "passt: these packages are missing, install them as root: apt-get install libc6-dev python3\n")


@needs_root
@pytest.mark.parametrize("goal", ["demo", "bench", "interop"])
def test_what_needs_root_says_so_first(machine: Machine, goal: str) -> None:
    machine.put_python("3.13")
    machine.put_packages()
    machine.put_program("sudo", "exit 1")
    machine.give_to(UID)
    done = machine.run("tools/setup", goal, uid=UID)
    assert (done.returncode, done.stderr) == (
        1, f"passt: 'make {goal}' makes network namespaces: run it as root, or as a user who may use sudo\n")
    assert machine.called("dpkg-query") == []


@needs_root
def test_install_without_rights_is_one_line(machine: Machine) -> None:
    machine.put_python("3.13")
    machine.put_packages()
    machine.give_to(UID)
    prefix = machine.directory.parent / "closed"
    prefix.mkdir(mode=0o755)
    done = machine.run("tools/install", str(prefix), uid=UID)
    assert (done.returncode, done.stderr) == (1, (
        f"passt: install: {prefix} is not yours to write to; use 'sudo make install',"
        f" or 'make install PREFIX={machine.directory}/.local' for yourself alone\n"))
    assert (machine.called("dpkg-query"), list(prefix.iterdir())) == ([], [])


@needs_root
def test_clone_of_somebody_else_is_refused(machine: Machine) -> None:
    machine.put_python("3.13")
    machine.put_packages()
    done = machine.run("tools/setup", "build", uid=UID)
    assert done.stderr == f"passt: {machine.tree} is not yours to write to: clone it anew, into your home\n"
    assert done.returncode == 1


@needs_root
def test_what_root_leaves_in_a_clone_is_the_owners(machine: Machine) -> None:
    for name in ("src", "tests", "bench"):
        (machine.tree / name).mkdir()
    machine.give_to(UID)
    made = machine.tree / "src" / "__pycache__"
    outside = machine.directory / "outside"
    outside.touch()
    script = f"mkdir -p {made} && touch {made}/a.pyc && ln -s {outside} {made}/link; exit 7"
    done = machine.run("tools/as-root", "sh", "-c", script)
    assert (done.returncode, done.stderr) == (7, "")
    assert {path.lstat().st_uid for path in [made.parent, made, *made.iterdir()]} == {UID}
    assert outside.stat().st_uid == 0
    done = machine.run("make", "clean", uid=UID)
    assert (done.returncode, made.exists()) == (0, False), done.stderr


def follow(directory: Path, reader: str, lines: list[str]) -> tuple[str, str]:
    """Feed a reader of common.sh with *lines*; return what the terminal shows and what is for the log."""
    ours, theirs = pty.openpty()
    done = subprocess.run(["bash", "-c", f'source "{TREE}/tools/common.sh"; follow {reader}'], check=True,
                          input="".join(f"{line}\n" for line in lines).encode(), stdout=subprocess.PIPE,
                          stderr=theirs, cwd=directory, timeout=300)  # fmt: skip
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
        while part := os.read(ours, 65536):
            shown += part
    os.close(ours)
    return shown.decode(), done.stdout.decode()


@pytest.mark.parametrize(("reader", "lines", "states", "is_logged"), [
    ("read_apt", ["dlstatus:1:7.5:Retrieving file 1", "pmstatus:gcc:35.7:Unpacking gcc (amd64)"],
     ["  downloading, 7 %", "  unpacking and setting up, 35 %"], False),
    ("read_pip", ["Collecting Cython~=3.3", "Installing collected packages: Cython"],
     ["  Cython~=3.3", "  putting the packages into .venv"], True),
    ("read_build", ["[ 3/51] Cythonizing src/a.pyx", "  building 'passt.a' extension",
                    "  building 'passt.b' extension"],
     ["  translating, 3 of 51 modules", "  compiling, module 1", "  compiling, module 2"], True),
])
def test_long_step_shows_how_far_it_is(
        tmp_path: Path, reader: str, lines: list[str], states: list[str], *, is_logged: bool) -> None:
    shown, logged = follow(tmp_path, reader, [*lines, "something else"])
    assert shown == "".join(f"\r\x1b[Kpasst: {state}" for state in states) + "\r\x1b[K"
    assert logged.splitlines() == [*(lines if is_logged else []), "something else"]
