"""Thousands of forwarded connections at once, and one after the other: nothing is left of them."""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system.lab import HOST4, HOST6, Lab, Running, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs_root

PORTS = [str(port) for port in range(9800, 9804)]
QUICK = bool(os.environ.get("PASST_TEST_QUICK"))
# Who starts the program makes no difference here, so only root's is put to the full test.
N_OPEN = {False: 1000 if QUICK else 10_000, True: 1000}
CHURN = {False: (300, 4) if QUICK else (1000, 30), True: (300, 4)}  # per second, seconds
GAUGES = ("flows_tcp", "flows_udp", "flows_ping")


class Counted:
    """A pasta with servers inside, whose descriptors and flows can be counted."""

    def __init__(self, running: Running, path: str) -> None:
        self.running = running
        self._path = path

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.running.pid}/fd"))

    def flows(self) -> int:
        """Ask for the counters, as the only thing that wakes it up."""
        with (
            tempfile.TemporaryDirectory() as directory,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
        ):
            sock.bind(f"{directory}/answer")
            Path(directory).chmod(0o755)
            Path(directory, "answer").chmod(0o777)
            sock.settimeout(20)
            sock.sendto(b"?", self._path)
            counters = json.loads(sock.recv(1 << 16))
        return sum(counters[name] for name in GAUGES)


@pytest.fixture
def counted(lab: Lab, user: bool) -> Iterator[Counted]:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o777)
        path = f"{directory}/counters"
        python = str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())
        program = [python, "-E", str(lab.directory / "counting.py"), str(lab.directory / "lib"), path]
        options = ["--config-net", "-t", ",".join(PORTS), "-u", "none", "-T", "none", "-U", "none"]
        command = ["/usr/bin/python3", "-I", str(lab.directory / "load.py"), "serve", *PORTS]
        running = lab.host.spawn([*program, *options, "--", *command], user=user)
        assert running.popen.stdout is not None
        assert running.popen.stdout.readline() == b"ready\n"
        yield Counted(running, path)
        running.kill()


def load(lab: Lab, *arguments: str) -> list[str]:
    return ["/usr/bin/python3", "-I", str(lab.directory / "load.py"), *arguments, f"{HOST4},{HOST6}", *PORTS]


def test_thousands_open_at_once_all_work_and_leave_nothing(lab: Lab, user: bool, counted: Counted) -> None:
    n_open = N_OPEN[user]
    before = counted.descriptors(), counted.flows()
    assert before[1] == 0
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as source:
        client = lab.outside.spawn(load(lab, "hold", str(n_open)), stdin=source)
    assert client.popen.stdout is not None
    assert client.popen.stdout.readline() == b"open\n"
    assert counted.descriptors() == before[0] + n_open
    assert counted.flows() == n_open
    os.close(writer)
    assert client.finish().returncode == 0
    wait_until(lambda: (counted.descriptors(), counted.flows()) == before, "nothing is left", 30)


def test_thousands_in_a_row_leave_nothing(lab: Lab, user: bool, counted: Counted) -> None:
    rate, span_s = CHURN[user]
    before = counted.descriptors(), counted.flows()
    result = lab.outside.run(load(lab, "churn", str(rate), str(span_s)), timeout=4.0 * span_s + 20)
    assert int(result.stdout) > 0
    wait_until(lambda: (counted.descriptors(), counted.flows()) == before, "nothing is left", 30)
