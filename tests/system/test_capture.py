"""Captures of real runs, started while these run, and read by tshark: of the link and of what bypasses it."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.lab import FAR4, FAR6, Lab, Running
from tests.support.processes import status_field, wait_until
from tests.support.tshark import tshark
from tests.system.test_slow_descriptors import LIMIT_S, Lingering, stopped

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs_root

SIZE = 300_000
PORT = 9710
# Serves SIZE bytes on the namespace's loopback, and fetches from the far host what it is told to.
GUEST = f"""
import http.server, socket, sys, threading, urllib.request

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "{SIZE}")
        self.end_headers()
        self.wfile.write(bytes(range(250)) * ({SIZE} // 250))
    def log_message(self, *_):
        pass

class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6

server = Server(("::", {PORT}), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print("ready", flush=True)
for line in sys.stdin:
    print(len(urllib.request.urlopen(line.strip()).read()), flush=True)
"""
NOTHING_WRONG = ("tcp.analysis.flags || _ws.malformed || tcp.checksum.status == 0 || udp.checksum.status == 0"
                 " || ip.checksum.status == 0")


class Guest:
    """A pasta with the servers of GUEST, and its control socket."""

    def __init__(self, lab: Lab, scratch: Path, *, user: bool) -> None:
        self.lab, self.user, self.path = lab, user, str(scratch / "control")
        self.running = lab.start(
            ["--config-net", "--control", self.path, "-t", str(PORT)],
            ["/usr/bin/python3", "-I", "-c", GUEST], user=user, stdin=-1)
        self.passtctl = [str(Path(lab.passt).with_name("passtctl")), "-s", self.path, "capture"]
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.running.popen.stdout is not None
        return self.running.popen.stdout.readline().decode().strip()

    def fetch(self, url: str) -> int:
        assert self.running.popen.stdin is not None
        self.running.popen.stdin.write(f"{url}\n".encode())
        self.running.popen.stdin.flush()
        return int(self.line())

    def ask(self, target: str, *options: str) -> Any:
        done = self.lab.host.run(["curl", "-sS", *options, "--unix-socket", self.path, f"http://passt{target}"],
                                 user=self.user)
        return json.loads(done.stdout)

    def capture(self, *words: str) -> Running:
        """Start passtctl, and wait until the capture runs and a signal would end it in order."""
        running = self.lab.host.spawn([*self.passtctl, *words], user=self.user)
        wait_until(lambda: bool(self.ask("/v1/captures")["captures"]), "the capture runs")
        wait_until(lambda: bool(int(status_field(running.pid, "SigCgt"), 16) >> signal.SIGTERM - 1 & 1),
                   "passtctl handles signals")
        return running


@pytest.fixture
def guest(lab: Lab, user: bool, scratch: Path) -> Iterator[Guest]:
    made = Guest(lab, scratch, user=user)
    yield made
    made.running.kill()


@pytest.mark.parametrize("address", ["127.0.0.1", "[::1]"])
def test_bypassed_request_is_read_from_end_to_end(guest: Guest, scratch: Path, address: str) -> None:
    file = scratch / "bypass.pcapng"
    running = guest.capture("-w", str(file), "tcp", "bypass")
    guest.lab.host.run(["curl", "-sSf", "-o", "/dev/null", f"http://{address}:{PORT}/whole"])
    wait_until(lambda: not guest.ask("/v1/flows?path=bypass")["flows"], "the connection has ended")
    running.send(signal.SIGINT)
    done = running.finish()
    assert (done.returncode, done.stderr.decode().endswith(" packets, 0 lost\n")) == (0, True)
    assert tshark(file, "-o", "tcp.check_checksum:TRUE", "-Y", NOTHING_WRONG) == []
    requests = tshark(file, "-Y", "http", "-T", "fields", "-e", "http.request.uri",
                      "-e", "http.response.code", "-e", "http.content_length", "-e", "frame.interface_name")
    assert requests == ["/whole\t\t\tbypass", f"\t200\t{SIZE}\tbypass"]
    flags = tshark(file, "-T", "fields", "-e", "tcp.flags.str", "-Y", "tcp.flags.syn==1 || tcp.flags.fin==1")
    assert len(flags) == 4


@pytest.mark.parametrize("far", [FAR4, f"[{FAR6}]"])
def test_request_by_the_link_is_read_from_end_to_end(guest: Guest, scratch: Path, far: str) -> None:
    file = scratch / "link.pcapng"
    running = guest.capture("-w", str(file), "port", "8000", "host", far)
    assert guest.fetch(f"http://{far}:8000/{SIZE}") == SIZE
    running.send(signal.SIGTERM)
    assert running.finish().returncode == 0
    assert tshark(file, "-o", "tcp.check_checksum:TRUE", "-Y",
                  "_ws.malformed || tcp.checksum.status == 0 || ip.checksum.status == 0") == []
    rows = tshark(file, "-Y", "http", "-T", "fields", "-e", "http.request.uri", "-e", "http.response.code",
                  "-e", "frame.comment")
    assert [row.split("\t")[:2] for row in rows] == [[f"/{SIZE}", ""], ["", "200"]]
    assert all(row.split("\t")[2].startswith("flow ") for row in rows)


def test_ring_explains_what_happened_before(guest: Guest, scratch: Path) -> None:
    started = guest.ask("/v1/captures", "-d", '{"ring": 1048576, "filter": "tcp"}')
    assert guest.fetch(f"http://{FAR4}:8000/1000") == 1000
    guest.lab.host.run(["curl", "-sSf", "-o", "/dev/null", f"http://127.0.0.1:{PORT}/later"])
    file = scratch / "ring.pcapng"
    guest.lab.host.run(["curl", "-sSf", "-o", str(file), "--unix-socket", guest.path,
                        f"http://passt/v1/captures/{started['id']}/packets"], user=guest.user)
    assert tshark(file, "-Y", "_ws.malformed") == []
    assert set(tshark(file, "-T", "fields", "-e", "frame.interface_name")) == {"bypass", "h0"}
    assert tshark(file, "-Y", "http.request", "-T", "fields", "-e", "http.request.uri") == ["/1000", "/later"]


def test_full_disk_and_gone_reader_end_the_capture_only(guest: Guest) -> None:
    full = guest.lab.host.run([*guest.passtctl, "-w", "/dev/full"], user=guest.user, check=False)
    assert (full.returncode, b"No space left on device" in full.stderr) == (1, True)
    wait_until(lambda: not guest.ask("/v1/captures")["captures"], "the capture has ended")
    pipeline = f"{' '.join(guest.passtctl)} -w - | head -c 10 >/dev/null"
    gone = guest.lab.host.spawn(["bash", "-c", pipeline], user=guest.user)
    done = gone.finish()                 # although no packet passes
    assert done.stderr.endswith(b" packets, 0 lost\n")
    assert done.returncode == 0
    wait_until(lambda: not guest.ask("/v1/captures")["captures"], "the capture has ended")


def test_descriptor_that_lingers_does_not_keep_us_waiting(guest: Guest, user: bool) -> None:
    lingering = Lingering()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(guest.path)
        with stopped(guest.running):
            lingering.hand_over(client, b"GET /v1/info HTTP/1.1\r\nhost: x\r\n\r\n")
        client.settimeout(LIMIT_S)
        # To a user's program root is a stranger, who is turned away with what he has sent.
        assert client.recv(12) == (b"HTTP/1.1 403" if user else b"HTTP/1.1 200")
    guest.lab.host.run(["curl", "-sSf", "-o", "/dev/null", f"http://127.0.0.1:{PORT}/x"])
    lingering.reader.close()
