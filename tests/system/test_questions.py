"""Questions to a name server, each from a port of its own as resolvers ask: nothing runs out or is left."""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.lab import FAR4, FAR6, Lab
from tests.support.processes import descendants, wait_until
from tests.support.switches import LONG

if TYPE_CHECKING:
    from tests.support.lab import Running

pytestmark = pytest.mark.needs_root

SECONDS, RATE = (60, 5000) if LONG else (3, 1000)

# Arguments: seconds, questions a second, name servers. Prints how many were asked, and answered in time.
CLIENT = """
import select, socket, struct, sys, time
seconds, rate, servers = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
name = b"".join(bytes([len(label)]) + label for label in (b"www", b"lab", b"example")) + b"\\0"
poll = select.epoll()
waiting = {}
asked = answered = 0
print("ready", flush=True)
sys.stdin.readline()
start = time.monotonic()
def take(timeout):
    global answered
    for fd, _ in poll.poll(timeout):
        sock, ident = waiting.pop(fd)
        data = sock.recv(600)
        answered += data[:2] == ident and data[-4:] == bytes([192, 0, 2, 80])
        sock.close()
while (now := time.monotonic() - start) < seconds:
    while asked < now * rate and len(waiting) < 100:      # what the server's receive buffer takes
        server = servers[asked % len(servers)]
        sock = socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM)
        ident = struct.pack("!H", asked & 0xffff)
        sock.sendto(ident + b"\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0" + name + b"\\0\\1\\0\\1", (server, 53))
        poll.register(sock, select.EPOLLIN)
        waiting[sock.fileno()] = sock, ident
        asked += 1
    take(0.001)
end = time.monotonic() + 60
while waiting and time.monotonic() < end:
    take(0.1)
print(asked, answered, flush=True)
sys.stdin.read()
"""


def most_descriptors(running: Running) -> int:
    """Give how many descriptors the one of the program's processes has that has the most."""
    pids = [running.pid, *descendants(running.pid)]
    found = []
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # ended meanwhile
            found.append(len(os.listdir(f"/proc/{pid}/fd")))
    return max(found)


def settled_descriptors(running: Running) -> int:
    """Count descriptors once no more sockets are opened in advance, which goes on beside the start."""
    seen: list[int] = []

    def is_settled() -> bool:
        seen.append(most_descriptors(running))
        return seen[-1] > 10 and seen[-20:] == [seen[-1]] * 20

    wait_until(is_settled, "it runs", 60)
    return seen[-1]


def test_questions_exhaust_nothing(lab: Lab, user: bool) -> None:
    argv = ["python3", "-c", CLIENT, str(SECONDS), str(RATE), FAR4, FAR6]
    running = lab.start(("--config-net",), argv, user=user, stdin=subprocess.PIPE)
    assert running.popen.stdout is not None
    assert running.popen.stdin is not None
    try:
        assert running.popen.stdout.readline() == b"ready\n"
        before = settled_descriptors(running)
        running.popen.stdin.write(b"\n")
        running.popen.stdin.flush()
        asked, answered = map(int, running.popen.stdout.readline().split())
        assert asked > 100 * SECONDS
        assert answered >= asked * 99 // 100
        # Sockets opened in advance are kept.
        wait_until(lambda: most_descriptors(running) <= before + 10, "sockets are closed", 60)
    finally:
        running.kill()
