"""Thousands of forwarded connections at once, and one after the other: nothing is left of them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.lab import HOST4, HOST6, Lab, Running
from tests.support.processes import status_field, wait_until
from tests.support.switches import LONG
from tests.system.test_bypass import namespace_of

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs_root

PORTS = [str(port) for port in range(9800, 9804)]
HOST_PORTS = [str(port) for port in range(9804, 9808)]
# Who starts the program makes no difference here, so only root's is put to the full test.
N_OPEN = {False: 10_000 if LONG else 1000, True: 300}
N_BYPASSED = {False: 5000 if LONG else 1000, True: 300}
CHURN = {False: (1000, 30) if LONG else (500, 1), True: (200, 1)}  # per second, seconds
MAX_RESIDENT_KB = 40_000
# A busy machine takes its time: this bounds a failure only.
PATIENCE_S = 120.0
GAUGES = ("flows_tcp", "flows_udp", "flows_ping", "flows_splice_tcp", "flows_splice_udp")
LOOPBACKS = "127.0.0.1,127.0.0.2,127.0.0.3,::1"


class Counted:
    """A pasta with servers inside, whose descriptors and flows can be counted."""

    def __init__(self, running: Running, path: str) -> None:
        self.running = running
        self._path = path

    def counters(self) -> dict[str, int]:
        """Ask for the counters, as the only thing that wakes it up."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(PATIENCE_S)
            sock.connect(self._path)
            with sock.makefile("rb") as file:
                counters: dict[str, int] = json.loads(file.read())
        return counters

    def _descriptors(self) -> Iterator[str]:
        for path in Path(f"/proc/{self.running.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                yield os.readlink(path)

    def usage(self) -> tuple[int, int, int]:
        """Count descriptors, but for those that are kept ready, pipes in use and flows."""
        while True:                # sockets are opened in advance while we count
            counters = self.counters()
            found = list(self._descriptors())
            again = self.counters()
            if all(counters[name] == again[name] for name in ("sockets_ready", "pipes_open", *GAUGES)):
                break
        kept = counters["sockets_ready"] + 2 * counters["pipes_open"]
        pipes = sum(name.startswith("pipe:") for name in found)
        return len(found) - kept, pipes - 2 * counters["pipes_open"], sum(counters[name] for name in GAUGES)


@pytest.fixture
def counted(lab: Lab, user: bool) -> Iterator[Counted]:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o777)
        path = f"{directory}/counters"
        python = str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())
        program = [python, "-E", str(lab.directory / "counting.py"), str(lab.directory / "lib"), path]
        options = ["--config-net", "-t", ",".join(PORTS), "-u", "none", "-T", ",".join(HOST_PORTS)]
        options += ["-U", "none"]
        command = ["/usr/bin/python3", "-I", str(lab.directory / "load.py"), "serve", *PORTS]
        running = lab.host.spawn([*program, *options, "--", *command], user=user)
        assert running.popen.stdout is not None
        assert running.popen.stdout.readline() == b"ready\n"
        yield Counted(running, path)
        running.kill()


@pytest.fixture
def host_server(lab: Lab) -> Iterator[None]:
    """Serve what -T leads to."""
    argv = ["/usr/bin/python3", "-I", str(lab.directory / "load.py"), "serve", *HOST_PORTS]
    running = lab.host.spawn(argv)
    assert running.popen.stdout is not None
    assert running.popen.stdout.readline() == b"ready\n"
    yield
    running.kill()


def spawn_load(lab: Lab, counted: Counted, way: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a client: beyond the tap, or on one of the two loopbacks."""
    hosts = f"{HOST4},{HOST6}" if way == "tap" else LOOPBACKS
    ports = HOST_PORTS if way == "out" else PORTS
    argv = ["/usr/bin/python3", "-I", str(lab.directory / "load.py"), *arguments, hosts, *ports]
    if way == "out":
        argv = ["nsenter", f"--net={namespace_of(counted.running)}", *argv]
    else:
        argv = (lab.outside if way == "tap" else lab.host).command(argv, user=False)
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


WAYS = pytest.mark.parametrize("way", ["tap", "in", "out"])


@WAYS
@pytest.mark.usefixtures("host_server")
def test_thousands_open_at_once_all_work_and_leave_nothing(
    lab: Lab, user: bool, counted: Counted, way: str
) -> None:
    n_open = N_OPEN[user] if way == "tap" else N_BYPASSED[user]
    before = counted.usage()
    assert before[2] == 0
    with spawn_load(lab, counted, way, "hold", str(n_open)) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"open\n"
        sockets = n_open if way == "tap" else 2 * n_open
        # An idle connection holds no pipe.
        expected = (before[0] + sockets, before[1], n_open)
        wait_until(lambda: counted.usage() == expected, f"there is {expected}, not {counted.usage()}",
                   PATIENCE_S)
        resident_kb = int(status_field(counted.running.pid, "VmRSS").split()[0])
        print(resident_kb, "kB")  # noqa: T201 - shown with a failure, or by pytest -s
        assert resident_kb < MAX_RESIDENT_KB
        client.communicate(timeout=PATIENCE_S)
    assert client.returncode == 0
    wait_until(lambda: counted.usage() == before, "nothing is left", PATIENCE_S)


@WAYS
@pytest.mark.usefixtures("host_server")
def test_thousands_in_a_row_leave_nothing(lab: Lab, user: bool, counted: Counted, way: str) -> None:
    rate, span_s = CHURN[user]
    before = counted.usage()
    with spawn_load(lab, counted, way, "churn", str(rate), str(span_s)) as client:
        out, _ = client.communicate(timeout=4.0 * span_s + PATIENCE_S)
    assert client.returncode == 0
    assert int(out) > 0
    wait_until(lambda: counted.usage() == before, "nothing is left", PATIENCE_S)
    assert counted.counters()["flows_opened"] == rate * span_s
