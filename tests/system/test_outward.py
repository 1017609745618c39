"""Ports of the host on the namespace's loopback: -T and -U with ranges, exclusions and auto."""

from __future__ import annotations

import contextlib
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.lab import FAR4, FAR6, HOST4, HOST6, Lab, Running
from tests.support.processes import wait_until
from tests.system.test_auto import BINDER, FOLLOWED_S, LOCAL, TRIALS, Binder, host_ports, start
from tests.system.test_bypass import namespace_of

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs_root

ECHO = 9520
FLOW = 9540
# Answers with the port that was asked, on loopback, by both protocols; `ready` when all is bound.
SERVICE = """
import selectors, socket, sys
selector = selectors.DefaultSelector()
for port in map(int, sys.argv[1:]):
    for address in ("127.0.0.1", "::1"):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        selector.register(socket.create_server((address, port), family=family), selectors.EVENT_READ, port)
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.bind((address, port))
        selector.register(sock, selectors.EVENT_READ, port)
print("ready", flush=True)
while True:
    for key, _ in selector.select():
        answer = str(key.data).encode()
        if key.fileobj.type == socket.SOCK_DGRAM:
            key.fileobj.sendto(answer, key.fileobj.recvfrom(100)[1])
        else:
            with key.fileobj.accept()[0] as connection:
                connection.sendall(answer)
"""
ASK = """
import socket, sys
kind, address, port = sys.argv[1:]
sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, getattr(socket, "SOCK_" + kind))
sock.settimeout(20)
try:
    sock.connect((address, int(port)))
    if kind == "DGRAM":
        sock.send(b"?")
    print(sock.recv(100).decode() or "nothing")
except ConnectionError:
    print("refused")
"""
BOTH = pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
KINDS = pytest.mark.parametrize("kind", ["STREAM", "DGRAM"])


@contextlib.contextmanager
def host_service(lab: Lab, *ports: int) -> Iterator[None]:
    """Answer on the host's loopback for a while."""
    service = lab.host.spawn(["/usr/bin/python3", "-I", "-c", SERVICE, *map(str, ports)])
    try:
        assert service.popen.stdout is not None
        assert service.popen.stdout.readline() == b"ready\n"
        yield
    finally:
        service.kill()


def inside(running: Running, *argv: str) -> str:
    """Output of a program in the network namespace of pasta's child."""
    command = ["nsenter", f"--net={namespace_of(running)}", *argv]
    return subprocess.run(command, capture_output=True, timeout=60, check=True).stdout.decode()


def inside_ports(running: Running, kind: str) -> set[int]:
    """Ports bound in the namespace; *kind* is t or u."""
    lines = inside(running, "ss", f"-Hln{kind}").splitlines()
    return {int(line.split()[3].rpartition(":")[2]) for line in lines}


def ask(running: Running, kind: str, address: str, port: int) -> str:
    """What a client on the namespace's loopback is answered."""
    return inside(running, "/usr/bin/python3", "-I", "-c", ASK, kind, address, str(port)).strip()


@pytest.fixture(scope="module")
def ranges(session_lab: Lab, user: bool) -> Iterator[Running]:
    """Lend a namespace with mapped ranges and an exclusion, and the services that they lead to."""
    spec = f"{ECHO + 10}-{ECHO + 13}:{ECHO}-{ECHO + 3},~{ECHO + 12}"
    options = ["-t", "none", "-u", "none", "-T", spec, "-U", spec]
    with host_service(session_lab, *range(ECHO, ECHO + 4)):
        running = start(session_lab, options, BINDER, user=user)
        assert running.popen.stdout is not None
        assert running.popen.stdout.readline() == b"ready\n"
        yield running
        running.kill()


@BOTH
@KINDS
def test_mapped_range_leads_to_its_targets(lab: Lab, ranges: Running, kind: str, address: str) -> None:
    assert lab
    answers = [ask(ranges, kind, address, ECHO + 10 + n) for n in range(4)]
    assert answers == [str(ECHO), str(ECHO + 1), "refused", str(ECHO + 3)]


@BOTH
@KINDS
def test_port_bound_on_the_host_is_followed(lab: Lab, user: bool, kind: str, address: str) -> None:
    one = "t" if kind == "STREAM" else "u"
    running = start(lab, ["-t", "auto", "-u", "auto"], BINDER, user=user)
    try:
        assert running.popen.stdout is not None
        assert running.popen.stdout.readline() == b"ready\n"
        opened_s: list[float] = []
        closed_s: list[float] = []
        # The best of each: what else the machine has to do does not count.
        while not opened_s or max(min(opened_s), min(closed_s)) >= FOLLOWED_S:
            assert len(opened_s) < 3 * TRIALS, (opened_s, closed_s)
            with host_service(lab, ECHO + 5):
                begin = time.monotonic()
                wait_until(lambda: ECHO + 5 in inside_ports(running, one), "the port is forwarded", 60)
                opened_s.append(time.monotonic() - begin)
                # The port of the other family may have been seen first.
                wait_until(lambda: ask(running, kind, address, ECHO + 5) == str(ECHO + 5), "it leads there")
            begin = time.monotonic()
            wait_until(lambda: ECHO + 5 not in inside_ports(running, one), "the port is released", 60)
            closed_s.append(time.monotonic() - begin)
    finally:
        running.kill()


def test_ports_of_ours_on_the_host_are_not_echoed(lab: Lab, user: bool) -> None:
    # What -t holds looks like a service to -T, which follows all that is bound.
    running = start(lab, ["-t", str(ECHO + 6), "-u", "none"], BINDER, user=user)
    try:
        Binder(running)  # waits until it is ready
        with host_service(lab, ECHO + 5):
            wait_until(lambda: ECHO + 5 in inside_ports(running, "t"), "the port is forwarded", 60)
            time.sleep(2 * FOLLOWED_S)
            assert ECHO + 6 in host_ports(lab, "t")
            assert ECHO + 6 not in inside_ports(running, "t")
            assert ECHO + 5 not in host_ports(lab, "t")
    finally:
        running.kill()


def test_ports_of_ours_in_the_namespace_are_not_echoed(lab: Lab, user: bool) -> None:
    running = start(lab, ["-T", str(ECHO + 7), "-U", "none"], BINDER, user=user)
    try:
        binder = Binder(running)
        binder.tell(f"open STREAM 127.0.0.1 {LOCAL}")
        wait_until(lambda: LOCAL in host_ports(lab, "t"), "the port is forwarded", 60)
        time.sleep(2 * FOLLOWED_S)
        assert ECHO + 7 in inside_ports(running, "t")
        assert ECHO + 7 not in host_ports(lab, "t")
    finally:
        running.kill()


def test_sockets_of_the_guest_s_own_flows_are_no_services(lab: Lab, user: bool) -> None:
    # On the host such a flow leaves by a socket that is bound to the guest's port and not connected.
    script = f"""
import socket, sys
kept = []
for address, source in (("{FAR4}", "{HOST4}"), ("{FAR6}", "{HOST6}")):
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(20)
    sock.bind((source, {FLOW}))
    sock.sendto(b"x", (address, 8007))
    sock.recv(100)
    kept.append(sock)
print("ready", flush=True)
sys.stdin.read()
"""
    running = start(lab, ["-t", "none", "-u", "none"], script, user=user)
    try:
        assert running.popen.stdout is not None
        assert running.popen.stdout.readline() == b"ready\n"
        assert f":{FLOW} " in lab.host.run(["ss", "-Hlnu"]).stdout.decode()
        with host_service(lab, ECHO + 5):
            wait_until(lambda: ECHO + 5 in inside_ports(running, "u"), "the port is forwarded", 60)
        lines = [line for line in inside(running, "ss", "-Hlnu").splitlines() if f":{FLOW} " in line]
        assert len(lines) == 2, lines  # the guest's own
    finally:
        running.kill()


def test_loopback_to_loopback_works_with_the_defaults(lab: Lab, user: bool) -> None:
    running = start(lab, ["--host-lo-to-ns-lo"], BINDER, user=user)
    try:
        assert running.popen.stdout is not None
        assert running.popen.stdout.readline() == b"ready\n"
    finally:
        running.kill()


def test_target_beyond_the_last_port_is_refused(lab: Lab, user: bool) -> None:
    argv = [lab.pasta, "--config-net", "-T", "1-65535:2-65536", "--", "true"]
    result = lab.host.run(argv, user=user, check=False)
    assert result.returncode == 1
    assert result.stderr.count(b"\n") == 1
    assert b"65536" in result.stderr
