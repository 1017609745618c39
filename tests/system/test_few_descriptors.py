"""Starts and runs with few descriptors: all forms work with 64, and with fewer they end in one line."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.system.lab import FAR4, FAR6, Lab
from tests.system.machines import Peer
from tests.system.test_attach import Target

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.needs_root

LIMITS = (64, 100, 256, 1024)
TOO_FEW = range(4, 24)


def limited(limit: int, argv: Sequence[str]) -> list[str]:
    """Give the command line that runs *argv* with so many descriptors, soft and hard."""
    return ["bash", "-c", 'ulimit -n "$0" && exec "$@"', str(limit), *argv]


@pytest.mark.parametrize("options", [(), ("-t", "8080"), ("-t", "all", "-u", "all", "-T", "all", "-U", "all"),
                                     ("-t", "none", "-u", "none", "-T", "none", "-U", "none")],
                         ids=["default", "one", "all", "none"])
@pytest.mark.parametrize("limit", LIMITS)
def test_command_has_its_network(lab: Lab, user: bool, limit: int, options: tuple[str, ...]) -> None:
    client = " ".join(lab.client)
    traffic = " && ".join(f"{client} tcp,udp {address} 8000 30000 >&2" for address in (FAR4, FAR6))
    argv = [lab.pasta, "-q", "--config-net", *options, "--", "sh", "-c", f"ulimit -n; {traffic} && echo done"]
    result = lab.host.run(limited(limit, argv), user=user)
    assert result.stdout == f"{limit}\ndone\n".encode()


@pytest.mark.parametrize("limit", LIMITS)
def test_namespace_is_attached(lab: Lab, user: bool, limit: int) -> None:
    target = Target(lab, user=user)
    pid_file = lab.directory / "home" / "pid"
    try:
        argv = [lab.pasta, "-q", "--config-net", "-P", str(pid_file), target.pid]
        lab.host.run(limited(limit, argv), user=user)
        assert target.has_interface()
        target.run([*lab.client, "tcp,udp", FAR4, "8000", "30000"])
    finally:
        target.running.kill()
        with contextlib.suppress(FileNotFoundError):
            pid_file.unlink()


@pytest.mark.parametrize("limit", LIMITS)
def test_machine_is_connected(lab: Lab, user: bool, limit: int) -> None:
    path = lab.directory / "home" / "socket"
    running = lab.host.spawn(limited(limit, [lab.passt, "-q", "-f", "-s", str(path)]), user=user)
    try:
        with Peer.connect(f"/proc/{running.pid}/root{path}").sock as sock:
            # It asks for its guest: a frame that begins with its length.
            assert len(sock.recv(4)) == 4
        running.send(signal.SIGTERM)
        assert running.finish().returncode == 0
    finally:
        running.kill()
        path.unlink()


@pytest.mark.parametrize("program", ["pasta", "passt"])
def test_too_few_end_in_one_line(lab: Lab, plain: bool, program: str) -> None:
    path = lab.directory / "home" / "socket"
    n_refused = 0
    for limit in TOO_FEW:
        argv = ([lab.pasta, "-q", "--config-net", "-t", "8080", "--", "echo", "started"] if program == "pasta"
                else ["timeout", "0.5", lab.passt, "-q", "-f", "-s", str(path)])
        result = lab.host.run(limited(limit, argv), user=plain, check=False)
        text = result.stderr.decode()
        if b"started" in result.stdout or (program == "passt" and result.returncode == 124):
            path.unlink(missing_ok=True)
            continue
        if ("passt/cli.py" not in text and "Python" in text) or text.startswith("bash: "):
            continue              # it did not come to us: the interpreter itself could not start
        assert result.returncode == 1, (limit, text)
        assert "Traceback" not in text, (limit, text)
        lines = [line for line in text.splitlines() if "ports are forwarded" not in line]
        assert len(lines) == 1, (limit, text)
        assert lines[0].startswith(f"{program}: "), (limit, text)
        n_refused += "open files" in lines[0]
        path.unlink(missing_ok=True)
    assert n_refused > 1


def test_limit_is_shared_by_reserves_and_connections(lab: Lab, user: bool) -> None:
    """Of 64 descriptors half are left for connections of the guest."""
    client = " ".join(lab.client)
    script = f"{client} tcp {FAR4} 8000 1000 >&2; cat"
    argv = [lab.pasta, "-q", "--config-net", "--", "sh", "-c", script]
    running = lab.host.spawn(limited(64, argv), user=user, stdin=subprocess.PIPE)
    try:
        assert running.popen.stderr is not None
        running.popen.stderr.readline()
        assert 10 < len(os.listdir(f"/proc/{running.pid}/fd")) <= 32
    finally:
        running.kill()
