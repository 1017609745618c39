"""Local connections that bypass the tap, with the real program between real servers and clients."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.lab import FAR4, FAR6, HOST4, OUTSIDE4, Lab, Running
from tests.system.test_forward import start_service, wait_for_ready

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

pytestmark = pytest.mark.needs_root

BASE = 9400
OWN_BASE = 9500
HOST_BASE = 8000
PORTS = (0, 7, 8, 9, 10, 11, 12, 99)
LOOPBACK = pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
SMALL, LARGE = 2048, 10 << 20
FROM_OUTSIDE = f"{OUTSIDE4}\n{OUTSIDE4}\n".encode()


@pytest.fixture(scope="module")
def service(session_lab: Lab, user: bool) -> Iterator[Running]:
    """Lend servers in a namespace that is forwarded both ways; the host's servers are behind -T."""
    options = [word for offset in PORTS for word in ("-t", str(BASE + offset), "-T", str(HOST_BASE + offset))]
    options += ["-u", str(BASE + 7), "-U", str(HOST_BASE + 7)]
    running = start_service(session_lab, options, BASE, user=user)
    yield running
    running.kill()


@contextlib.contextmanager
def served(lab: Lab, options: Sequence[str], *, user: bool) -> Iterator[Running]:
    """Run servers in a namespace for a while."""
    running = start_service(lab, options, OWN_BASE, user=user)
    try:
        yield running
    finally:
        running.kill()


def namespace_of(running: Running) -> str:
    """Path of the network namespace that pasta's init lives in."""
    tasks = Path(f"/proc/{running.pid}/task").glob("*/children")
    for child in " ".join(path.read_text(encoding="ascii") for path in tasks).split():
        path = f"/proc/{child}/ns/net"
        try:
            inode = os.stat(path).st_ino
        except OSError:
            continue              # a helper of the start, which ends in its own time
        if inode != os.stat(f"/proc/{running.pid}/ns/net").st_ino:
            return path
    raise AssertionError("pasta has no child in another namespace")


def run_client(lab: Lab, service: Running, argv: list[str], *, inward: bool) -> bytes:
    """Run a client on the host's loopback, or on the namespace's."""
    if inward:
        return lab.host.run(argv).stdout
    # The machine's /proc is not the lab's, so the namespace is entered from outside.
    done = subprocess.run(
        ["nsenter", f"--net={namespace_of(service)}", *argv], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


WAYS = pytest.mark.parametrize("inward", [True, False], ids=["in", "out"])


@WAYS
@LOOPBACK
def test_tcp_in_all_its_endings(lab: Lab, service: Running, address: str, inward: bool) -> None:
    base = BASE if inward else HOST_BASE
    checks = "tcp,end-first,end-last,reset,send-reset"
    run_client(lab, service, [*lab.client, checks, address, str(base), "3000000"], inward=inward)


@pytest.mark.parametrize("size", [SMALL, LARGE])
@WAYS
@LOOPBACK
def test_transfer_is_byte_exact(lab: Lab, service: Running, address: str, inward: bool, size: int) -> None:
    base = BASE if inward else HOST_BASE
    host = f"[{address}]" if ":" in address else address
    script = f"set -o pipefail; curl -sSf http://{host}:{base}/{size} | sha256sum"
    direct = f"set -o pipefail; curl -sSf http://127.0.0.1:{HOST_BASE}/{size} | sha256sum"
    expected = lab.host.run(["bash", "-c", direct]).stdout
    assert run_client(lab, service, ["bash", "-c", script], inward=inward) == expected


@pytest.mark.parametrize("size", [0, 1, 1400, 60000])
@WAYS
@LOOPBACK
def test_datagrams(lab: Lab, service: Running, address: str, inward: bool, size: int) -> None:
    base = BASE if inward else HOST_BASE
    run_client(lab, service, [*lab.client, "udp", address, str(base), str(size)], inward=inward)


@WAYS
@LOOPBACK
def test_refused_connection_is_reset(lab: Lab, service: Running, address: str, inward: bool) -> None:
    base = BASE if inward else HOST_BASE
    script = f"""
import socket
try:
    with socket.create_connection(({address!r}, {base + 99}), timeout=20) as sock:
        sock.recv(1)
except ConnectionError:
    print("reset")
"""
    argv = ["/usr/bin/python3", "-I", "-c", script]
    assert run_client(lab, service, argv, inward=inward) == b"reset\n"


def loopback_server(port: int) -> list[str]:
    """Serve on the loopback addresses only, and on the others tell the peer's address."""
    script = f"""
import socket, threading
def serve(server):
    while True:
        with server.accept()[0] as client:
            client.sendall(b"secret")
for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    server = socket.create_server((address, {port}), family=family)
    threading.Thread(target=serve, args=(server,)).start()
print("ready", flush=True)
"""
    return ["/usr/bin/python3", "-I", "-c", script]


@pytest.mark.parametrize("exposed", [False, True])
def test_service_on_the_namespaces_loopback(lab: Lab, user: bool, exposed: bool) -> None:
    options = ["--config-net", "-t", str(OWN_BASE), "-u", "none"]
    options += ["--host-lo-to-ns-lo"] if exposed else []
    running = lab.start(options, loopback_server(OWN_BASE), user=user)
    wait_for_ready(running)
    for address in ("127.0.0.1", "::1"):
        script = f"""
import socket
try:
    with socket.create_connection(({address!r}, {OWN_BASE}), timeout=20) as sock:
        print(sock.recv(100).decode())
except ConnectionError:
    print("reset")
"""
        result = lab.host.run(["/usr/bin/python3", "-I", "-c", script])
        assert result.stdout == (b"secret\n" if exposed else b"reset\n")
    running.kill()


def test_tap_carries_nothing_of_it_unless_told(lab: Lab, user: bool) -> None:
    for option, expected in (("", False), ("--no-splice", True)):
        options = ["-t", str(OWN_BASE + 7), *([option] if option else [])]
        with served(lab, options, user=user) as running:
            path = namespace_of(running)
            before = tap_bytes(path)
            lab.host.run([*lab.client, "tcp", "127.0.0.1", str(OWN_BASE), "300000"])
            assert (tap_bytes(path) - before > 300_000) == expected


def tap_bytes(path: str) -> int:
    """Bytes that came in by the tap."""
    done = subprocess.run(
        ["nsenter", f"--net={path}", "ip", "-s", "-j", "link"], capture_output=True, check=True
    )
    links = json.loads(done.stdout)
    return sum(link["stats64"]["rx"]["bytes"] for link in links if link["ifname"] != "lo")


@pytest.mark.parametrize("option", [["--no-map-gw"], ["--map-host-loopback", "none"]], ids=" ".join)
def test_without_bypass_and_mapping_loopback_clients_come_from_our_address(
    lab: Lab, user: bool, option: list[str]
) -> None:
    # The manual says that they are dropped; the C program lets them in, and crun's krun handler needs it.
    options = ["--config-net", "--no-splice", *option, "-t", str(OWN_BASE), "-u", str(OWN_BASE)]
    running = lab.start(options, python(TELL_PEERS, str(OWN_BASE)), user=user)
    wait_for_ready(running)
    for address in ("127.0.0.1", "127.0.0.2", "::1"):
        tcp, udp = lab.host.run(python(ASK_BOTH, address, str(OWN_BASE), "20")).stdout.decode().split()
        assert tcp == udp
        assert tcp == OUTSIDE4 if ":" not in address else tcp.startswith("fe80::")
    assert lab.outside.run(python(ASK_BOTH, HOST4, str(OWN_BASE), "20")).stdout == FROM_OUTSIDE
    running.kill()


def test_without_an_address_for_them_loopback_clients_are_refused_with_a_warning(
    lab: Lab, user: bool, tmp_path: Path
) -> None:
    lab.host.run(["ip", "route", "replace", "default", "dev", "h0"])
    try:
        options = ["--config-net", "-4", "--no-splice", "-t", str(OWN_BASE), "-u", str(OWN_BASE)]
        with (tmp_path / "told").open("wb") as told:
            running = lab.start(options, python(TELL_PEERS, str(OWN_BASE)), user=user, stderr=told)
        wait_for_ready(running)
        for _ in range(2):
            told_client = lab.host.run(python(ASK_BOTH, "127.0.0.1", str(OWN_BASE), "1")).stdout
            assert told_client == b"reset\nnothing\n"
        assert lab.outside.run(python(ASK_BOTH, HOST4, str(OWN_BASE), "20")).stdout == FROM_OUTSIDE
        running.kill()
        lines = (tmp_path / "told").read_text(encoding="utf-8").splitlines()
        assert len([line for line in lines if "clients on the host's loopback are refused" in line]) == 1
    finally:
        lab.host.run(["ip", "route", "replace", "default", "via", OUTSIDE4, "dev", "h0"])


def test_without_bypass_loopback_clients_come_from_the_mapped_address(lab: Lab, user: bool) -> None:
    mapped = {"127.0.0.1": FAR4, "::1": FAR6}
    options = ["--no-splice", "--map-host-loopback", FAR4, "--map-host-loopback", FAR6, "-t", str(OWN_BASE)]
    running = lab.start(["--config-net", *options], python(SHOW_PEERS, str(OWN_BASE)), user=user)
    wait_for_ready(running)
    assert running.popen.stdout is not None
    for address, source in mapped.items():
        lab.host.run(python("import socket, sys; socket.create_connection(sys.argv[1:], 20)", address,
                            str(OWN_BASE)))
        assert running.popen.stdout.readline().decode().strip() == source
    running.kill()


def python(script: str, *arguments: str) -> list[str]:
    return ["/usr/bin/python3", "-I", "-c", script, *arguments]


# Over TCP and UDP, what a server says: the address that it sees. Arguments: address, port, how many seconds
# an answer by UDP may take.
ASK_BOTH = """
import socket, sys
address, port = sys.argv[1], int(sys.argv[2])
try:
    with socket.create_connection((address, port), timeout=20) as sock:
        print(sock.makefile().read())
except ConnectionError:
    print("reset")
with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.settimeout(float(sys.argv[3]))
    sock.connect((address, port))
    sock.send(b"?")
    try:
        print(sock.recv(100).decode())
    except OSError:
        print("nothing")
"""

TELL_PEERS = """
import socket, sys, threading
def name(peer):
    return peer[0].removeprefix("::ffff:").encode()
def serve_datagrams(sock):
    while True:
        peer = sock.recvfrom(100)[1]
        sock.sendto(name(peer), peer)
port = int(sys.argv[1])
datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
datagrams.bind(("::", port))
threading.Thread(target=serve_datagrams, args=(datagrams,), daemon=True).start()
with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as server:
    print("ready", flush=True)
    while True:
        client, peer = server.accept()
        with client:
            client.sendall(name(peer))
"""

SHOW_PEERS = """
import socket, sys
with socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True) as server:
    print("ready", flush=True)
    while True:
        print(server.accept()[1][0].removeprefix("::ffff:"), flush=True)
"""
