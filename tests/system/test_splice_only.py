"""--splice-only: no interface in the namespace, and connections from loopback to loopback, both ways."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.lab import HOST4, UID
from tests.support.processes import wait_until
from tests.system.test_attach import Target
from tests.system.test_pesto import ECHO, PROBE

if TYPE_CHECKING:
    from tests.support.lab import Lab

pytestmark = pytest.mark.needs_root

FORWARDED = ["--splice-only", "-q", "-t", "8181", "-u", "8181", "-T", "8182", "-U", "8182"]
PYTHON = ["/usr/bin/python3", "-I", "-c"]
# Asks the host's service, prints the interfaces and what it saw, and serves.
INSIDE = f"""
import os, subprocess, sys
print(subprocess.run([*{PYTHON!r}, {PROBE!r}, *sys.argv[1:]], capture_output=True, text=True).stdout.strip())
print(" ".join(sorted(os.listdir("/proc/sys/net/ipv4/conf"))), flush=True)
os.execv({PYTHON[0]!r}, [*{PYTHON!r}, {ECHO!r}, "8181"])
"""
# The service answers datagrams from the usual address, wherever they were sent to.
WAYS = ["STREAM:PORT@127.0.0.1", "STREAM:PORT@127.3.4.5", "STREAM:PORT@::1", "DGRAM:PORT@127.0.0.1",
        "DGRAM:PORT@::1"]  # fmt: skip


def ways(port: int) -> list[str]:
    return [way.replace("PORT", str(port)) for way in WAYS]


def without_tun() -> list[str]:
    """Start as a plain user for whom /dev/net/tun is closed."""
    return ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--inh-caps=-all", "--"]


def test_loopback_is_connected_both_ways_without_an_interface_and_a_tun_device(lab: Lab) -> None:
    refused = lab.host.run([*without_tun(), lab.pasta, "--", "true"], check=False)
    assert (refused.returncode, b"/dev/net/tun" in refused.stderr) == (1, True)
    service = lab.host.spawn([*PYTHON, ECHO, "8182"])
    assert service.popen.stdout is not None
    assert service.popen.stdout.readline() == b"ready\n"
    pasta = lab.host.spawn([*without_tun(), lab.pasta, *FORWARDED, "--", *PYTHON, INSIDE, *ways(8182)])
    assert pasta.popen.stdout is not None
    try:
        answers = json.loads(pasta.popen.stdout.readline())
        assert answers == [True] * len(WAYS)
        assert pasta.popen.stdout.readline() == b"all default lo\n"
        assert pasta.popen.stdout.readline() == b"ready\n"
        done = lab.host.run([*PYTHON, PROBE, *ways(8181)])
        assert json.loads(done.stdout) == [True] * len(WAYS)
        # From another address there is no way: the connection is reset, the datagram dropped.
        done = lab.host.run([*PYTHON, PROBE, f"STREAM:8181@{HOST4}", f"DGRAM:8181@{HOST4}"],
                            env={"PATIENCE": "2"})
        assert json.loads(done.stdout) == [False, False]
    finally:
        pasta.kill()
        service.kill()


def test_a_namespace_that_exists_is_connected_too(lab: Lab) -> None:
    target = Target(lab, user=True)
    pid_file = lab.directory / "home" / "pasta.pid"
    before = lab.host.pids()
    lab.run([*FORWARDED, "-P", str(pid_file), target.pid], user=True)
    pasta = lab.host.pids() - before
    assert pasta
    inside = ["nsenter", "-t", target.pid, "--user", "--preserve-credentials", "--net"]
    service = lab.host.spawn([*inside, *PYTHON, ECHO, "8181"], user=True)
    try:
        assert service.popen.stdout is not None
        assert service.popen.stdout.readline() == b"ready\n"
        assert target.has_no_interface()
        done = lab.host.run([*PYTHON, PROBE, *ways(8181)])
        assert json.loads(done.stdout) == [True] * len(WAYS)
    finally:
        service.kill()
        target.running.kill()
        pid_file.unlink()
    # pasta ends with the process.
    wait_until(lambda: not lab.host.pids() & pasta, "pasta ends")
