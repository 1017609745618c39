"""Find the tools and the peers; install through apt what is missing.

Installing starts no service and asks nothing: debconf is noninteractive, and while apt runs a
/usr/sbin/policy-rc.d that forbids starting services exists (an existing one is left alone).
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench import rows
from bench.errors import BenchError
from bench.lab import FIRST_PROGRAM_UID, as_user
from bench.programs import Program

POLICY = Path("/usr/sbin/policy-rc.d")
APT_TIMEOUT_S = 300
SAY_TIMEOUT_S = 5
TOOLS = {
    "iperf3": ("iperf3",), "ip": ("iproute2",), "gcc": ("gcc", "libc6-dev"), "unshare": ("util-linux",),
    "setpriv": ("util-linux",), "nsenter": ("util-linux",), "taskset": ("util-linux",), "mount": ("mount",),
}  # fmt: skip
PASTA_PATH, SLIRP_PATH = "/usr/bin/pasta", "/usr/bin/slirp4netns"
PEERS = {rows.PASTA: (PASTA_PATH, "passt"), rows.SLIRP: (SLIRP_PATH, "slirp4netns")}


@contextlib.contextmanager
def no_services() -> Iterator[None]:
    """Forbid maintainer scripts to start services for the time being."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink(missing_ok=True)


def _apt(*arguments: str) -> str:
    """Run apt-get; return "" or the reason why it failed."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "-q", "-y", *arguments]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False,
            stdin=subprocess.DEVNULL, timeout=APT_TIMEOUT_S,
        )  # fmt: skip
    except FileNotFoundError:
        return "there is no apt-get here"
    except subprocess.TimeoutExpired:
        return f"apt-get had not ended after {APT_TIMEOUT_S} s"
    lines = [line for line in done.stderr.splitlines() if line.startswith("E:")]
    return "" if done.returncode == 0 else (lines[-1] if lines else f"apt-get: exit status {done.returncode}")


def install(packages: list[str]) -> str:
    """Install packages; return "" or the reason why that failed."""
    command = ["install", "--no-install-recommends", *packages]
    with no_services():
        if not _apt(*command):
            return ""
        return _apt("update") or _apt(*command)  # a fresh machine has no package lists


def require_tools() -> None:
    """Make sure that every tool is there. Raises BenchError naming what is missing."""
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if not missing:
        return
    packages = sorted({package for tool in missing for package in TOOLS[tool]})
    reason = install(packages)
    if reason:
        raise BenchError(f"missing {', '.join(missing)}; installing {', '.join(packages)} failed: {reason}")


def _said(command: list[str]) -> str:
    """Return what a program prints, run as a plain user; "" if it fails to run or hangs.

    It runs in a PID namespace that ends with unshare(1), so that a program which hangs leaves no
    children behind when it is given up.
    """
    # Not unshare's --kill-child: the kernel clears that signal when the user is changed.
    die_with_parent = ["setpriv", "--pdeathsig=KILL", "--"]
    contained = [
        *die_with_parent, "unshare", "--pid", "--fork", "--",
        *as_user(FIRST_PROGRAM_UID), *die_with_parent, *command,
    ]  # fmt: skip
    try:
        done = subprocess.run(
            contained, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
            timeout=SAY_TIMEOUT_S,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr


def version_of(command: list[str], package: str) -> str:
    """Return a program's version: its package's where it is packaged, else its own first line."""
    if package and shutil.which("dpkg-query"):
        query = ["dpkg-query", "--show", "--showformat=${Version}", package]
        done = subprocess.run(query, capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout:
            return done.stdout
    said = _said([*command, "--version"])
    return said.split("\n", 1)[0].strip() or "unknown"


def find_peers(*, may_install: bool, pasta: str = PASTA_PATH) -> tuple[list[Program], list[str]]:
    """Return the peers that can be measured, and a note for each that cannot; *pasta* may be another one."""
    found, notes = [], []
    for name, (usual, usual_package) in PEERS.items():
        path, package = usual, usual_package
        if name == rows.PASTA and pasta != usual:
            path, package = pasta, ""
        reason = "not installed"
        if not Path(path).exists() and may_install and package:
            reason = install([package])
        if not Path(path).exists():
            why = f" (package {package}: {reason})" if package else ""
            notes.append(f"{name}: left out, {path} is missing{why}")
        elif path == PASTA_PATH and "--config-net" not in _said([path, "--help"]):
            notes.append(f"{name}: left out, {path} does not know --config-net")
        else:
            found.append(Program(name, (path,), version_of([path], package)))
    return found, notes


def build_sums(project: Path) -> str:
    """Build the measure of our checksum; return "" or why that is not possible."""
    command = [sys.executable, "-P", "-m", "bench.build_sums"]
    done = subprocess.run(command, cwd=project, env={**os.environ, "PYTHONPATH": str(project)},
                          capture_output=True, text=True, check=False)  # fmt: skip
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it failed"])[-1]


def build_load(source: Path, target: Path) -> None:
    """Compile the load generators if a source is newer than the program. Raises BenchError."""
    sources = sorted(source.glob("*.c"))
    newest = max(path.stat().st_mtime for path in [*sources, *source.glob("*.h")])
    if not target.exists() or target.stat().st_mtime < newest:
        target.parent.mkdir(exist_ok=True)
        partial = target.with_suffix(".new")
        command = ["gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-D_GNU_SOURCE", "-o", str(partial)]
        done = subprocess.run([*command, *map(str, sources)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"gcc could not build {target.name}:\n{done.stderr.rstrip()}")
        partial.rename(target)
    target.parent.chmod(0o755)  # plain users run it, whatever the umask was
    target.chmod(0o755)
