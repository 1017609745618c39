"""Starts and runs with few descriptors: all forms work with 64, and with fewer they end in one line."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.lab import FAR4, FAR6, HOST4, HOST6, Lab, Running
from tests.support.processes import read, wait_until
from tests.system.machines import Peer
from tests.system.test_attach import Target

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

pytestmark = pytest.mark.needs_root

LIMITS = (64, 100, 256, 1024)
TOO_FEW = range(4, 24)
FEW = 256
MANY = 1024
MOST = MANY * 4 // 5              # two crowds leave one part in nine
N_SYNS = 3000
N_FLOODS = 4                      # processes, each of which has the same limit
# Routed to the outside, which drops what comes for them without a word.
BLACKHOLE4, BLACKHOLE6 = "198.51.100.99", "2001:db8:2::99"
INWARD = 9200


PYTHON = ("/usr/bin/python3", "-I", "-c")
# Connects to a UNIX socket again and again, and keeps what it gets.
HOLD = """
import socket, sys, time
held = []
while True:
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    try:
        sock.connect(sys.argv[1])
        sock.send(b"GET /v1/")
        held.append(sock)
    except OSError:
        sock.close()
        time.sleep(0.01)
"""
CONNECT = """
import socket, sys
for _ in range(3):
    try:
        with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 20) as sock:
            print("end" if not sock.recv(1) else "data")
    except ConnectionResetError:
        print("reset")
    except TimeoutError:
        print("nothing")
"""


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
    path, pid_file = (lab.directory / "home" / name for name in ("socket", "pid"))
    n_refused = 0
    for limit in TOO_FEW:
        argv = ([lab.pasta, "-q", "--config-net", "-t", "8080", "--", "echo", "started"] if program == "pasta"
                else [lab.passt, "-q", "-f", "-s", str(path), "-P", str(pid_file)])
        running = lab.host.spawn(limited(limit, argv), user=plain)

        def is_settled(running: Running = running) -> bool:
            return running.popen.poll() is not None or bool(read(str(pid_file)))

        if program == "passt":
            wait_until(is_settled, "it is ready, or has ended")
        if read(str(pid_file)):
            running.kill()
            for one in (path, pid_file):
                one.unlink(missing_ok=True)
            continue
        result = running.finish()
        text = result.stderr.decode()
        if b"started" in result.stdout:
            continue
        if ("passt/cli.py" not in text and "Python" in text) or text.startswith("bash: "):
            continue              # it did not come to us: the interpreter itself could not start
        assert result.returncode == 1, (limit, text)
        assert "Traceback" not in text, (limit, text)
        lines = [line for line in text.splitlines() if "ports are forwarded" not in line]
        assert len(lines) == 1, (limit, text)
        assert lines[0].startswith(f"{program}: "), (limit, text)
        n_refused += "open files" in lines[0]
        for one in (path, pid_file):
            one.unlink(missing_ok=True)
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


def test_each_connection_without_a_descriptor_is_reset(lab: Lab, user: bool, scratch: Path) -> None:
    """Clients of --control hold them all; a spare one is given up, and had again, in the sandbox."""
    path = str(scratch / "control")
    options = ["--control", path, "-t", f"{INWARD}-{INWARD + 29}", "-u", "none", "-T", "none", "-U", "none"]
    running = lab.host.spawn(limited(LIMITS[0], [lab.pasta, "-q", *options, "--", "cat"]), user=user,
                             stdin=subprocess.PIPE)
    holder = None
    try:
        wait_until(lambda: os.path.exists(path), "the socket is there")
        holder = lab.host.spawn([*PYTHON, HOLD, path], user=user)
        wait_until(lambda: n_open(running) == LIMITS[0], "no descriptor is left", 60)
        told = lab.host.run([*PYTHON, CONNECT, str(INWARD)]).stdout
        assert told == b"reset\nreset\nreset\n"
        holder.kill()
        assert b"sandbox" not in running.finish().stderr
    finally:
        running.kill()
        if holder:
            holder.kill()


def test_crowds_leave_room_for_others(lab: Lab, user: bool) -> None:
    """Who opens connection after connection, within or outside, and uses each, gets not all descriptors."""
    checks = " && ".join(f"{' '.join(lab.client)} tcp,udp {address} 8000 30000 >&2"
                          for address in (FAR4, FAR6))
    script = "\n".join((
        f"exec 3< <(/usr/bin/python3 -I {lab.directory / 'servers.py'} {INWARD}); servers=$!",
        "read -r ready <&3",
        f"{' '.join(lab.tcp_client)} occupy {FAR4} 8000 {2 * FEW} & crowd=$!",
        f"read -r word && {checks} && echo served",
        f"read -r word && {checks} && echo served",
        "kill $crowd $servers",
    ))
    argv = [lab.pasta, "-q", "--config-net", "-t", f"{INWARD + 7},{INWARD + 12}", "-u", "none", "--",
            "bash", "-c", script]
    running = lab.host.spawn(limited(FEW, argv), user=user, stdin=subprocess.PIPE)
    neighbour = None
    try:
        assert running.popen.stdin is not None
        assert running.popen.stdout is not None
        assert FEW // 3 < int(running.popen.stdout.readline()) < FEW * 4 // 5
        running.popen.stdin.write(b"go on\n")
        running.popen.stdin.flush()
        assert running.popen.stdout.readline() == b"served\n"
        neighbour = lab.outside.spawn([*lab.tcp_client, "occupy", HOST4, str(INWARD), str(FEW)])
        assert neighbour.popen.stdout is not None
        neighbour.popen.stdout.readline()
        assert n_open(running) < FEW
        lab.outside.run([*lab.client, "tcp", HOST6, str(INWARD), "30000"])
        running.popen.stdin.write(b"go on\n")
        running.popen.stdin.flush()
        assert running.popen.stdout.readline() == b"served\n"
        assert running.finish().returncode == 0
    finally:
        running.kill()
        if neighbour:
            neighbour.kill()


@pytest.fixture
def blackhole(lab: Lab) -> Iterator[None]:
    """Have addresses of the outside that answer nothing."""
    routes = (["-4", "route", "{}", "blackhole", BLACKHOLE4], ["-6", "route", "{}", "blackhole", BLACKHOLE6])
    for route in routes:
        lab.outside.run(["ip", *(word.format("add") for word in route)])
    yield
    for route in routes:
        lab.outside.run(["ip", *(word.format("del") for word in route)])


def n_open(running: Running) -> int:
    """Number of descriptors that the program has open."""
    return len(os.listdir(f"/proc/{running.pid}/fd"))


@pytest.mark.usefixtures("blackhole")
def test_half_open_connections_keep_nobody_out(lab: Lab, user: bool) -> None:
    """With most descriptors held by connections that nobody answers, new flows work both ways."""
    script = "\n".join((
        "set -e",
        "echo ready; read -r word",
        *(f"{' '.join(lab.tcp_client)} hang {address} 9 {N_SYNS // N_FLOODS} & floods+=($!)"
          for address in (BLACKHOLE4, BLACKHOLE6) * (N_FLOODS // 2)),
        "read -r word",
        *(f"{' '.join(lab.client)} {checks} {address} 8000 30000 >&2"
          for address in (FAR4, FAR6) for checks in ("tcp,udp", "tcp")),
        "echo served; read -r word; kill ${floods[@]} $servers",
    ))
    # Who comes before the servers listen is refused by the namespace's kernel.
    servers = (f"exec 3< <(/usr/bin/python3 -I {lab.directory / 'servers.py'} {INWARD}); servers=$!\n"
               f"read -r ready <&3\n{script}")
    argv = [lab.pasta, "-q", "--config-net", "-t", f"{INWARD + 7}", "-u", "none", "--", "bash", "-c", servers]
    running = lab.host.spawn(limited(MANY, argv), user=user, stdin=subprocess.PIPE)
    try:
        assert running.popen.stdin is not None
        assert running.popen.stdout is not None
        assert running.popen.stdout.readline() == b"ready\n"
        running.popen.stdin.write(b"flood\n")
        running.popen.stdin.flush()
        assert [running.popen.stdout.readline() for _ in range(N_FLOODS)] == [b"started\n"] * N_FLOODS
        wait_until(lambda: n_open(running) >= MOST, "most descriptors are used", 60)
        for address in (HOST4, HOST6):
            lab.outside.run([*lab.client, "tcp", address, str(INWARD), "30000"])
        running.popen.stdin.write(b"go on\n")
        running.popen.stdin.flush()
        assert running.popen.stdout.readline() == b"served\n"
        assert n_open(running) >= MOST, "it was no flood any more"
        running.popen.stdin.write(b"end\n")
        running.popen.stdin.flush()
        assert running.finish().returncode == 0
    finally:
        running.kill()
