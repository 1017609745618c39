"""Every form of forwarding, as container managers use it: protocol x family x path x form, and transfers.

Two paths: by the tap, from a client on another host, whose address the server sees; and from the host's
loopback.
"""

from __future__ import annotations

import hashlib
import itertools
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.lab import FAR4, FAR6, HOST4, HOST6, Lab, Running
from tests.support.processes import wait_until
from tests.system.transfer import content

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs_root

LARGE = {"tcp": 10 << 20, "udp": 53248}  # UDP: a quarter of the kernel's default buffer, so that none is lost
ADDRESSES = {("tap", 4): HOST4, ("tap", 6): HOST6, ("loopback", 4): "127.0.0.1", ("loopback", 6): "::1"}
DEVICES = {"tap": "h0", "loopback": "lo"}
SOURCES = {4: FAR4, 6: FAR6}

# Form -> first and last port, first target. Of the last two each path and family has its own target.
FORMS = {
    "single": (6500, 6500, 6500),
    "range": (6510, 6512, 6510),
    "translated": (6520, 6520, 6521),
    "translated-range": (6530, 6532, 6540),
    "address": (6550, 6550, 6551),
    "interface": (6560, 6560, 6561),
}
PLACES = list(ADDRESSES)


def target_of(form: str, place: tuple[str, int]) -> int:
    """First port in the namespace for a form."""
    return FORMS[form][2] + (PLACES.index(place) if form in {"address", "interface"} else 0)


def specifications() -> Iterator[str]:
    """Give every form as a port specification."""
    for form, (first, last, target) in FORMS.items():
        ports = f"{first}-{last}:{target}-{target + last - first}"
        if form in {"single", "range"}:
            yield ports.partition(":")[0]
        elif form == "translated":
            yield f"{first}:{target}"
        elif form == "translated-range":
            yield ports
        else:
            for place, address in ADDRESSES.items():
                device = f"%{DEVICES[place[0]]}" if form == "interface" else ""
                yield f"{address}{device}/{first}:{target_of(form, place)}"


class Receiver:
    """The receiver in the namespace, and what it has reported."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.reports: set[tuple[str, ...]] = set()
        assert running.popen.stdout is not None
        assert running.popen.stdout.readline() == b"ready\n"
        self._thread = threading.Thread(target=self._collect)
        self._thread.start()

    def _collect(self) -> None:
        assert self.running.popen.stdout is not None
        for line in self.running.popen.stdout:
            self.reports.add(tuple(line.decode().split()))

    def end(self) -> None:
        """End the program; its output is the thread's to read."""
        self.running.send(signal.SIGKILL)
        self.running.popen.wait(60)
        self._thread.join(60)
        for stream in (self.running.popen.stdout, self.running.popen.stderr):
            assert stream is not None
            stream.close()


@pytest.fixture(scope="module")
def receiver(session_lab: Lab, user: bool) -> Iterator[Receiver]:
    """Lend one receiver, with all forms of both protocols forwarded to it, to all tests."""
    ports = {6500, *range(6510, 6513), 6521, *range(6540, 6543), *range(6551, 6555), *range(6561, 6565)}
    options = [word for spec in specifications() for word in ("-t", spec, "-u", spec)]
    argv = ["/usr/bin/python3", "-I", str(session_lab.directory / "transfer.py"), "receive", *map(str, ports)]
    running = session_lab.start(["--config-net", *options], argv, user=user)
    receiver = Receiver(running)
    yield receiver
    receiver.end()


seeds = itertools.count()


def transfer(lab: Lab, receiver: Receiver, kind: str, place: tuple[str, int], form: str, size: int) -> None:
    """Send *size* bytes to each port of *form*; they must come to its target, and to nowhere else."""
    path, family = place
    first, last, _ = FORMS[form]
    seed = f"seed{next(seeds)}"
    sender = ["/usr/bin/python3", "-I", str(lab.directory / "transfer.py"), "send", kind, ADDRESSES[place]]
    source = [SOURCES[family]] if path == "tap" else []
    (lab.outside if path == "tap" else lab.host).run(
        [*sender, f"{first}-{last}", str(size), seed, *source], timeout=120
    )
    for port in range(first, last + 1):
        digest = hashlib.sha256(content(seed, port, size)).hexdigest()

        def find(digest: str = digest) -> list[tuple[str, ...]]:
            # A copy, which takes one step of the interpreter: the thread goes on to add.
            return [report for report in tuple(receiver.reports) if report[3] == digest]

        wait_until(lambda: bool(find()), f"the transfer to port {port} is reported", 60)
        expected = (kind, str(target_of(form, place) + port - first), str(size), digest)
        assert [report[:4] for report in find()] == [expected]
        if path == "tap":
            assert find()[0][4] == SOURCES[family]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", PLACES, ids=lambda place: f"{place[0]}{place[1]}")
@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_one_byte_comes_to_each_port(
    lab: Lab, receiver: Receiver, kind: str, place: tuple[str, int], form: str
) -> None:
    # 16 bytes, as one byte does not tell transfers apart.
    transfer(lab, receiver, kind, place, form, 16)


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("place", PLACES, ids=lambda place: f"{place[0]}{place[1]}")
@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_transfer_is_byte_exact(
    lab: Lab, receiver: Receiver, kind: str, place: tuple[str, int], size: str
) -> None:
    transfer(lab, receiver, kind, place, "single", LARGE[kind] if size == "large" else 2048)


def test_port_of_one_address_is_closed_on_others(lab: Lab, receiver: Receiver) -> None:
    assert receiver.running.popen.poll() is None
    script = "import socket; socket.create_connection(('127.0.0.2', 6550), timeout=20)"
    result = lab.host.run(["/usr/bin/python3", "-I", "-c", script], check=False)
    assert b"ConnectionRefusedError" in result.stderr
