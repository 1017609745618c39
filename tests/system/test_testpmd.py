"""An independent driver of virtio at passt's rings: DPDK's dpdk-testpmd, without a machine, as a plain user.

It speaks the vhost-user protocol and drives the rings by polling. What it counted is compared with what passt
counted, and with what came to the other side.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support.lab import HOST4, PATH, Lab
from tests.support.processes import wait_until
from tests.support.switches import LONG
from tests.system.machines import MAC, passt, socket_path
from tests.system.test_shared_memory import MAX_GROWTH_KB, Sharing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.lab import Running

pytestmark = [
    pytest.mark.needs_root, pytest.mark.slow,
    pytest.mark.skipif(shutil.which("dpdk-testpmd", path=PATH) is None,
                       reason="dpdk-testpmd is missing: 'make test' installs it (Debian's dpdk-dev)"),
]

PORT = 5000
N_DATAGRAMS, DATAGRAM_LEN = 500, 1200
N_KILLS = 10
SESSION_S = 60 if LONG else 4
MAX_FLOWS_KB = 30_000              # of the flow table; see test_clients.py
# Each has one form of frames: mergeable buffers or not, several pairs of queues, buffers used in order.
DEVICES = {"mergeable": "mrg_rxbuf=1", "not mergeable": "mrg_rxbuf=0", "pairs": "queues=2,mrg_rxbuf=1",
           "in order": "in_order=1,mrg_rxbuf=1", "not in order": "in_order=0,mrg_rxbuf=0"}
EACH = pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
MANY = r"RX-packets: +(?:[5-9]\d\d|\d{4})"  # as many as there are datagrams
# Arguments: address, port, number and length of the datagrams.
SEND = """
import socket, sys, time
host, port, number, length = sys.argv[1], *map(int, sys.argv[2:])
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    for index in range(number):
        sock.sendto(index.to_bytes(4, "big") + bytes(length - 4), (host, port))
        time.sleep(0.001)
"""


class Totals(NamedTuple):
    """What testpmd counted in all."""

    received: int
    sent: int


class TestPmd:
    """A running dpdk-testpmd that does *mode* with the frames of one device at the socket *path*."""

    __test__ = False

    def __init__(self, lab: Lab, path: str, mode: str, device: str, *more: str) -> None:
        queues = re.search(r"queues=(\d)", device)
        n_queues = queues[1] if queues else "1"
        self.output = Path(f"{path}.testpmd")
        argv = ["dpdk-testpmd", "--no-huge", "-m", "256", "--no-pci", "--no-telemetry", "--no-shconf",
                "-l", "0,1",
                f"--vdev=net_virtio_user0,path={path},mac={MAC},{device}", "--",
                "--total-num-mbufs=4096", f"--forward-mode={mode}", "--auto-start", "--stats-period=1",
                f"--rxq={n_queues}", f"--txq={n_queues}", *more]
        with self.output.open("wb") as file:
            self.running: Running = lab.host.spawn(argv, user=True, stdout=file, stderr=file)

    def text(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, pattern: str, limit_s: float = 120) -> None:
        """Wait until its output matches *pattern*."""

        def is_there() -> bool:
            text = self.text()
            assert self.running.popen.poll() is None, text
            return re.search(pattern, text) is not None

        wait_until(is_there, f"{pattern} is told", limit_s)

    def finish(self) -> Totals:
        """End it as a user does; return what it counted."""
        self.running.send(signal.SIGINT)
        self.running.finish(60)
        text = self.text()
        total = re.search(r"Accumulated forward statistics.*?RX-packets: (\d+).*?TX-packets: (\d+)", text,
                          re.DOTALL)
        assert total is not None, text
        return Totals(int(total[1]), int(total[2]))


class Counters(NamedTuple):
    """Frames that passt counted."""

    from_guest: int
    to_guest: int


def counters(sharing: Sharing) -> Counters:
    """Ask passt for its counters, which go to its log file."""
    log = Path(f"{sharing.path}.log")
    sharing.running.send(signal.SIGUSR1)
    wait_until(lambda: "    drops: " in log.read_text(encoding="utf-8"), "passt tells its counters")
    numbers = [re.findall(rf"{way} guest: (\d+) frames", log.read_text(encoding="utf-8"))
               for way in ("from", "to")]
    return Counters(*(int(found[-1]) for found in numbers))


@pytest.fixture
def sharing(lab: Lab, refusal: str) -> Iterator[Sharing]:
    if refusal:
        pytest.skip(refusal)
    log = f"{socket_path(lab, 'machine')}.log"
    with passt(lab, "--vhost-user", "-u", str(PORT), "-l", log, user=True) as (running, path):
        assert log == f"{path}.log"
        yield Sharing(running, path)
    for name in (log, f"{path}.testpmd"):
        Path(name).unlink(missing_ok=True)


@EACH
def test_frames_that_it_sends_arrive(lab: Lab, sharing: Sharing, device: str) -> None:
    """All that it has sent when it ends, but for the ring's last, which nobody had to take."""
    driver = TestPmd(lab, sharing.path, "txonly", device, "--txpkts=600")
    driver.wait_for(r"TX-packets: [1-9]\d{3}")
    totals = driver.finish()
    found = counters(sharing)
    assert totals.sent > 1000
    assert totals.sent - 2 * 1024 <= found.from_guest <= totals.sent


@EACH
def test_datagrams_from_outside_come_to_it(lab: Lab, sharing: Sharing, device: str) -> None:
    driver = TestPmd(lab, sharing.path, "rxonly", device)
    driver.wait_for("start packet forwarding|rxonly packet forwarding")
    # Nobody says when it takes frames; and a busy machine's buffers lose some.
    for _ in range(10):
        lab.outside.run(["/usr/bin/python3", "-I", "-c", SEND, HOST4, str(PORT), str(N_DATAGRAMS),
                         str(DATAGRAM_LEN)], timeout=60)
        with contextlib.suppress(AssertionError):
            driver.wait_for(MANY, 5)
            break
    driver.wait_for(MANY)
    totals = driver.finish()
    found = counters(sharing)
    assert totals.received >= N_DATAGRAMS
    assert found.to_guest >= totals.received


@EACH
def test_it_answers_who_is_there(lab: Lab, sharing: Sharing, device: str) -> None:
    """A new guest is asked for its hardware address; testpmd answers in the same buffers."""
    driver = TestPmd(lab, sharing.path, "icmpecho", device)
    driver.wait_for(r"TX-packets: +[1-9]")
    totals = driver.finish()
    assert totals.sent >= 1
    assert totals.received >= totals.sent
    assert counters(sharing).from_guest >= 1


def test_memory_of_a_session_does_not_grow(lab: Lab, sharing: Sharing) -> None:
    """A minute of it if there is time: frames of many flows as fast as it can make them."""
    driver = TestPmd(lab, sharing.path, "flowgen", "queues=2,mrg_rxbuf=1")
    driver.wait_for(r"TX-packets: [1-9]\d{3}")
    resident = sharing.resident_kb()
    time.sleep(SESSION_S)
    assert sharing.resident_kb() - resident < MAX_FLOWS_KB
    totals = driver.finish()
    assert counters(sharing).from_guest > totals.sent // 2


def test_session_that_is_killed_in_the_middle_of_traffic(lab: Lab, sharing: Sharing) -> None:
    """Ten times: no descriptor, no mapping and no memory is left."""
    most = 1 << 20
    resident = 0

    def n_open() -> int:
        # Its flows live longer than it, each with a socket.
        return sum(place != "socket" for place in sharing.state()[0])

    def is_as_before() -> bool:
        return n_open() <= most

    for number in range(N_KILLS):
        driver = TestPmd(lab, sharing.path, "txonly", "queues=2,mrg_rxbuf=1")
        driver.wait_for(r"TX-packets: [1-9]\d{3}")
        driver.running.kill()
        wait_until(lambda: not sharing.state()[1], "its memory is unmapped")
        wait_until(is_as_before, "no descriptor is left")
        if number == 1:
            most, resident = n_open(), sharing.resident_kb()
    assert sharing.resident_kb() - resident < MAX_GROWTH_KB
    reasons = sharing.reasons()
    assert len(reasons) == N_KILLS
    assert all(reason.startswith("it ") for reason in reasons), reasons


def test_its_end_is_seen_by_passt(lab: Lab, sharing: Sharing) -> None:
    driver = TestPmd(lab, sharing.path, "rxonly", "mrg_rxbuf=1")
    driver.wait_for("start packet forwarding|rxonly packet forwarding")
    driver.finish()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(sharing.path)
    assert sharing.reasons()[0] == "it closed the connection"
