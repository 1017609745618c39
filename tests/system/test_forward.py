"""Services in the namespace are reached from outside and from the host's loopback, through -t and -u."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.lab import HOST4, HOST6, Lab, Place, Running
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

pytestmark = pytest.mark.needs_root

# The servers in the namespace, on other ports than the host's own.
BASE = 9000
# For tests that start servers of their own beside those.
OWN_BASE = 9300
PORTS = tuple(BASE + offset for offset in (0, 7, 8, 9, 10, 11, 12, 99))
FROM = pytest.mark.parametrize(
    ("origin", "address"),
    [
        ("outside", HOST4),
        ("outside", HOST6),
        ("host", "127.0.0.1"),
        ("host", "::1"),
        ("host", HOST4),
        ("host", HOST6),
    ],
)


def wait_for_ready(running: Running) -> None:
    """Wait until what runs says so; who ends instead has told why."""
    assert running.popen.stdout is not None
    line = running.popen.stdout.readline()
    assert line == b"ready\n", (line, running.popen.stderr and running.popen.stderr.read())


def start_service(lab: Lab, options: Sequence[str], base: int, *, user: bool) -> Running:
    """Start servers in a namespace and wait until they listen."""
    argv = ["/usr/bin/python3", "-I", str(lab.directory / "servers.py"), str(base)]
    running = lab.start(["--config-net", *options], argv, user=user)
    wait_for_ready(running)
    return running


@pytest.fixture(scope="module")
def service(session_lab: Lab, user: bool) -> Iterator[Running]:
    """Lend servers to the tests that leave them alone; port +99 is forwarded but has no server."""
    options = [*(word for port in PORTS for word in ("-t", str(port))), "-u", str(BASE + 7)]
    running = start_service(session_lab, options, BASE, user=user)
    yield running
    running.kill()


def place_of(lab: Lab, origin: str) -> Place:
    return lab.outside if origin == "outside" else lab.host


@pytest.mark.usefixtures("service")
@FROM
def test_connection_inwards(lab: Lab, origin: str, address: str) -> None:
    place_of(lab, origin).run(
        [*lab.client, "tcp,end-first,end-last,reset,send-reset", address, str(BASE), "3000000"]
    )


@pytest.mark.usefixtures("service")
@FROM
def test_connection_to_a_closed_port_ends(lab: Lab, origin: str, address: str) -> None:
    # The host's kernel has accepted before the namespace can refuse: what can follow is a reset or the end.
    script = f"""
import socket
try:
    with socket.create_connection(({address!r}, {BASE + 99}), timeout=20) as sock:
        assert sock.recv(1) == b""
except ConnectionError:
    pass
"""
    place_of(lab, origin).run(["/usr/bin/python3", "-I", "-c", script])


@pytest.mark.usefixtures("service")
@pytest.mark.parametrize("size", [1, 1400, 60000])
@FROM
def test_datagram_inwards(lab: Lab, origin: str, address: str, size: int) -> None:
    place_of(lab, origin).run([*lab.client, "udp", address, str(BASE), str(size)])


@pytest.mark.usefixtures("service")
@FROM
def test_large_download_from_the_namespace_is_byte_exact(lab: Lab, origin: str, address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    script = f"set -o pipefail; curl -sSf http://{host}:{BASE}/50000000 | sha256sum"
    direct = "set -o pipefail; curl -sSf http://127.0.0.1:8000/50000000 | sha256sum"
    assert (
        place_of(lab, origin).run(["bash", "-c", script]).stdout
        == lab.host.run(["bash", "-c", direct]).stdout
    )


def test_port_is_closed_when_pasta_has_ended(lab: Lab, user: bool) -> None:
    running = start_service(lab, ["-t", str(OWN_BASE + 7)], OWN_BASE, user=user)
    lab.outside.run([*lab.client, "tcp", HOST4, str(OWN_BASE)])
    running.kill()
    lab.outside.run([*lab.client, "refused", HOST4, str(OWN_BASE + 7 - 99)])  # its +99 is the echo port


def test_udp_twin_of_a_tcp_port_is_forwarded(lab: Lab, user: bool) -> None:
    running = start_service(lab, ["-t", str(OWN_BASE + 7)], OWN_BASE, user=user)
    for address in (HOST4, HOST6):
        lab.outside.run([*lab.client, "tcp,udp", address, str(OWN_BASE)])
    running.kill()


def test_udp_twin_is_switched_off_by_none(lab: Lab, user: bool) -> None:
    running = start_service(lab, ["-t", str(OWN_BASE + 7), "-u", "none"], OWN_BASE, user=user)
    lab.outside.run([*lab.client, "tcp", HOST4, str(OWN_BASE)])
    result = lab.outside.run([*lab.client, "udp", HOST4, str(OWN_BASE)], check=False)
    assert b"ConnectionRefusedError" in result.stderr
    running.kill()


@pytest.mark.parametrize("option", ["-t", "-u"])
def test_port_taken_already_is_one_line(lab: Lab, user: bool, option: str) -> None:
    result = lab.run(["--config-net", option, "8007"], ["true"], user=user, check=False)
    assert result.returncode == 1
    assert result.stderr.count(b"\n") == 1
    assert f"{option} 8007: cannot bind".encode() in result.stderr
    # Whose it is can be told by those only who may look at the other's descriptors.
    assert (b"(python3, PID " in result.stderr) == (not user)


def test_low_port_is_refused_to_a_plain_user_naming_the_setting(lab: Lab, user: bool) -> None:
    result = lab.run(["--config-net", "-t", "81"], ["true"], user=user, check=False)
    if user:
        assert result.returncode == 1
        assert result.stderr.count(b"\n") == 1
        assert b"ip_unprivileged_port_start = 1024" in result.stderr
        assert b"CAP_NET_BIND_SERVICE" in result.stderr
    else:
        assert result.returncode == 0


def test_nothing_is_forwarded_with_none(lab: Lab, user: bool) -> None:
    def listening() -> set[str]:
        # Those of flows that ended a while ago may go meanwhile.
        lines = lab.host.run(["ss", "-Hlntu"]).stdout.decode().splitlines()
        return {f"{line.split()[0]} {line.split()[4]}" for line in lines}

    before = listening()
    running = start_service(
        lab, ["-t", "none", "-u", "none", "-T", "none", "-U", "none"], OWN_BASE, user=user
    )
    assert listening() - before == set()
    running.kill()


@pytest.mark.usefixtures("service")
def test_reset_of_one_connection_leaves_others(lab: Lab) -> None:
    script = f"""
import socket, struct
with socket.create_connection(("127.0.0.1", {BASE + 7}), timeout=20) as stays:
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", {BASE + 7}), timeout=20) as goes:
            goes.sendall(b"x" * 1000)
            goes.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stays.sendall(b"still here")
    assert stays.recv(100) == b"still here"
"""
    lab.host.run(["/usr/bin/python3", "-I", "-c", script])


def test_ended_connections_hold_no_descriptor(lab: Lab, service: Running) -> None:
    def descriptors() -> int:
        return len(list(Path(f"/proc/{service.pid}/fd").iterdir()))

    # A few dozen sockets of the namespace and pipes are kept ready for more.
    before = descriptors() + 64
    script = f"""
import socket
for _ in range(300):
    socket.create_connection(("127.0.0.1", {BASE + 7}), timeout=20).close()
"""
    lab.host.run(["/usr/bin/python3", "-I", "-c", script])
    wait_until(lambda: descriptors() <= before, "descriptors of ended connections are closed", 60)
