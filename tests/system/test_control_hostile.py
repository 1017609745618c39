"""Hostile clients of --control, all at once, while a stream and short requests go through the program."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from passt.control.server import MAX_CLIENTS
from tests.support.lab import UID, Lab, Running
from tests.support.processes import status_field, wait_until
from tests.system.test_pesto import ECHO, STREAM, spawn_ready

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs_root

PORT = 9700
MAX_GROWTH_KB = 12 << 10
PYTHON = ("/usr/bin/python3", "-I", "-c")
# Says for each attack what it was answered; holds those that keep connections open until standard input ends.
ATTACK = """
import json, resource, select, socket, sys
path = sys.argv[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (2048, 2048))
GET = b"GET /v1/%s HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n"
def connect():
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)              # waits while the queue is full
    sock.settimeout(60)
    return sock
def status(sock):
    data = b""
    try:
        while b"\\r\\n\\r\\n" not in data:
            part = sock.recv(65536)
            if not part:
                break
            data += part
    except ConnectionResetError:
        pass
    return int(data.split()[1]) if data else None
def push(sock, data):
    try:
        sock.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        pass
    return status(sock)
found = {}
with connect() as sock:
    for i in range(len(GET % b"info")):
        sock.send((GET % b"info")[i:i + 1])
    found["a byte at a time"] = status(sock)
with connect() as sock:
    found["a line of 10 MB"] = push(sock, b"GET /" + b"a" * (10 << 20))
with connect() as sock:
    found["a header of 10 MB"] = push(sock, b"GET / HTTP/1.1\\r\\nhost: x\\r\\na: " + b"a" * (10 << 20))
PUT = b"PUT /v1/log HTTP/1.1\\r\\nhost: x\\r\\ncontent-length: %d\\r\\n\\r\\n"
with connect() as sock:
    found["a body of 10 MB"] = push(sock, PUT % (10 << 20) + b"[" * (10 << 20))
with connect() as sock:
    found["deep JSON"] = push(sock, PUT % 60000 + b"[" * 60000)
with connect() as sock:
    found["noise"] = push(sock, bytes(range(256)) * 100 + b"\\r\\n\\r\\n")
with connect() as sock:
    sock.sendall(GET % b"info")
    sock.shutdown(socket.SHUT_WR)
    found["half closed"] = status(sock)
with connect() as sock:
    for _ in range(20):
        sock.sendall((GET % b"events").replace(b"GET", b"HEAD"))
        assert status(sock) == 200
    sock.sendall(GET % b"events")
    found["listening after HEAD"] = status(sock)
many = [connect() for _ in range(1000)]
answers = [status(sock) for sock in many[int(sys.argv[2]):]]
found["refused of 1000"] = answers.count(503)
for sock in many:
    sock.close()
# Some send requests ahead as long as anything takes them, with short answers or long ones; nobody reads.
held, watch, n_sent = {}, select.poll(), 0
for i in range(int(sys.argv[2]) - 4):
    sock = connect()
    sock.setblocking(False)
    watch.register(sock, select.POLLOUT)
    held[sock.fileno()] = sock, (GET % (b"log", b"flows?limit=65536", b"metrics")[i % 3]) * 1000
while n_sent < 200 << 20 and (ready := watch.poll(1000)):
    for fd, _ in ready:
        sock, data = held[fd]
        try:
            n_sent += sock.send(data)
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            watch.unregister(fd)
found["sent ahead"] = n_sent
print(json.dumps(found), flush=True)
sys.stdin.read()
"""
WANTED = {
    "a byte at a time": 200, "a line of 10 MB": 413, "a header of 10 MB": 413, "a body of 10 MB": 413,
    "deep JSON": 400, "noise": 400, "half closed": 200, "listening after HEAD": 200,
}  # fmt: skip
ASK = """
import socket, sys
with socket.socket(socket.AF_UNIX) as sock:
    sock.settimeout(60)
    sock.connect(sys.argv[1])
    sock.sendall(b"GET /v1/log HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n\\r\\n")
    print(sock.recv(4096).split()[1].decode())
"""


@pytest.fixture
def served(lab: Lab, user: bool) -> Iterator[tuple[Running, str]]:
    """Lend an echo server behind a port of the program, and the path of its control socket."""
    directory = Path(tempfile.mkdtemp(prefix="passt-hostile-"))
    if user:
        os.chown(directory, UID, UID)
    path = str(directory / "control")
    running = spawn_ready(lab, ["--control", path, "-t", str(PORT)], ECHO, str(PORT), user=user)
    yield running, path
    running.kill()
    shutil.rmtree(directory)


def test_hostile_clients_get_a_clear_status_and_harm_nobody(
    lab: Lab, user: bool, served: tuple[Running, str]
) -> None:
    running, path = served

    def ask() -> bytes:
        return lab.host.run([*PYTHON, ASK, path], user=user).stdout.strip()

    def memory_kb() -> int:
        return int(status_field(running.pid, "VmRSS").split()[0])

    stream = lab.host.spawn([*PYTHON, STREAM, "127.0.0.1", str(PORT)], stdin=-1)
    assert stream.popen.stdout is not None
    assert stream.popen.stdout.readline() == b"ready\n"
    assert ask() == b"200"
    n_descriptors = len(os.listdir(f"/proc/{running.pid}/fd"))
    before_kb = memory_kb()
    attack = lab.host.spawn([*PYTHON, ATTACK, path, str(MAX_CLIENTS)], user=user, stdin=-1)
    assert attack.popen.stdout is not None
    line = attack.popen.stdout.readline()
    assert line, attack.popen.communicate()[1]
    found = json.loads(line)
    refused, n_ahead = found.pop("refused of 1000"), found.pop("sent ahead")
    assert found == WANTED
    assert refused >= 1000 - 2 * MAX_CLIENTS
    # Twenty-eight clients hold what they can now.
    assert ask() == b"200"
    assert memory_kb() - before_kb < MAX_GROWTH_KB, n_ahead
    attack.popen.communicate(timeout=60)
    wait_until(lambda: len(os.listdir(f"/proc/{running.pid}/fd")) <= n_descriptors + 2, "clients are gone")
    assert ask() == b"200"
    done, err = stream.popen.communicate(timeout=60)
    assert stream.popen.returncode == 0, err
    assert int(done) > 10
