"""DTLS, by openssl: the namespace's client with a server outside, and its server with clients there."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.support.lab import FAR4, FAR6, HOST4, HOST6, Lab, Running

pytestmark = pytest.mark.needs_root

PORT = 4433
WORDS = (b"hello, server\n", b"x" * 1000 + b"\n", b"goodbye, server\n")
# Keys reach the server by its environment, as a plain user need not see the files of the test.
SERVER = """
exec openssl s_server -dtls -accept "$0" -cert <(echo "$PEM") -key <(echo "$PEM") 2>&1
"""


@pytest.fixture(scope="module")
def pem() -> str:
    """Make a key and its certificate."""
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    argv += ["-nodes", "-subj", "/CN=dtls.example", "-keyout", "-", "-out", "-"]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def endpoint(address: str) -> str:
    return f"[{address}]:{PORT}" if ":" in address else f"{address}:{PORT}"


def write(running: Running, line: bytes) -> None:
    assert running.popen.stdin is not None
    os.write(running.popen.stdin.fileno(), line)


def read_up_to(running: Running, wanted: bytes) -> None:
    """Read lines up to one that is *wanted*."""
    assert running.popen.stdout is not None
    seen = []
    for line in running.popen.stdout:
        seen.append(line)
        if line == wanted:
            return
    raise AssertionError(f"ended without {wanted!r}: {b''.join(seen).decode(errors='replace')}")


def talk(client: Running, server: Running) -> None:
    """Have each say a few things to the other."""
    for word in WORDS:
        write(client, word)
        read_up_to(server, word)
        write(server, word.upper())
        read_up_to(client, word.upper())


def client_of(address: str) -> list[str]:
    return ["openssl", "s_client", "-dtls", "-quiet", "-connect", endpoint(address)]


@pytest.mark.parametrize("address", [FAR4, FAR6])
@pytest.mark.parametrize("mtu", ["65520", "1500"])
def test_client_in_the_namespace(lab: Lab, user: bool, address: str, mtu: str, pem: str) -> None:
    argv = ["bash", "-c", SERVER, endpoint(address)]
    server = lab.outside.spawn(argv, env={"PEM": pem}, stdin=subprocess.PIPE)
    read_up_to(server, b"ACCEPT\n")
    options = ["--config-net", "-m", mtu]
    client = lab.start(options, client_of(address), user=user, stdin=subprocess.PIPE)
    try:
        talk(client, server)
    finally:
        client.kill()
        server.kill()


@pytest.mark.parametrize(
    ("origin", "address"),
    [("outside", HOST4), ("outside", HOST6), ("host", "127.0.0.1"), ("host", "::1")],
)
def test_server_in_the_namespace(lab: Lab, user: bool, origin: str, address: str, pem: str) -> None:
    options = ["--config-net", "-u", str(PORT)]
    argv = ["bash", "-c", SERVER, f"*:{PORT}" if ":" not in address else f"[::]:{PORT}"]
    server = lab.start(options, argv, user=user, env={"PEM": pem}, stdin=subprocess.PIPE)
    read_up_to(server, b"ACCEPT\n")
    place = lab.outside if origin == "outside" else lab.host
    client = place.spawn(client_of(address), stdin=subprocess.PIPE)
    try:
        talk(client, server)
    finally:
        client.kill()
        server.kill()
