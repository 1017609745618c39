"""The life of a guest that shares its memory with passt: what its driver got, reboots, and a new passt."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.guest.vm import Passt, Vm, sharing_card
from tests.support.lab import FAR4, FAR6, HOST4, Lab
from tests.support.processes import wait_until
from tests.system.servers import stream_sha256
from tests.system.test_tcp_patience import cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.needs_root, pytest.mark.slow]

SIZE = 4 << 20
BIG = 64 << 20
PORT = 5000
STOPPED_S = 4
OPTIONS = ["--vhost-user", "-t", str(PORT)]
# virtio 1.2, 5.1.3 and 6: what the guest's driver acknowledged of what QEMU let through.
FEATURES = {"CSUM": 0, "GUEST_CSUM": 1, "GUEST_TSO4": 7, "GUEST_TSO6": 8, "HOST_TSO4": 11, "HOST_TSO6": 12,
            "MRG_RXBUF": 15, "INDIRECT_DESC": 28, "EVENT_IDX": 29, "VERSION_1": 32}
OFFLOADS = ("rx-checksumming", "tx-checksumming", "scatter-gather", "tcp-segmentation-offload")


class Machine:
    """A guest and its passt, which may be another one later."""

    def __init__(self, lab: Lab, directory: Path, *, user: bool) -> None:
        self._lab, self._user = lab, user
        self._path = directory / "shared.socket"
        self.passt = self._start()
        self.guest = Vm(lab.host, directory, sharing_card(str(self._path), more=",reconnect=1"),
                        name="shared", user=user, may_reboot=True)

    def _start(self) -> Passt:
        return Passt(self._lab, self._path, OPTIONS, user=self._user)

    def change_passt(self, *, kill: bool) -> None:
        """End passt, by SIGKILL or as a user does, and start another one."""
        if kill:
            self.passt.running.kill()
        else:
            self.passt.close()
        self.passt = self._start()

    def close(self) -> None:
        self.guest.close()
        self.passt.close()


@pytest.fixture(scope="module")
def machine(lab: Lab, guest_files: Path, refusal: str) -> Iterator[Machine]:
    machine = Machine(lab, guest_files, user=not refusal)
    try:
        machine.guest.wait_for_boot()
        machine.guest.configure4()
        machine.guest.configure6()
        yield machine
    finally:
        machine.close()


def check_network(lab: Lab, machine: Machine) -> None:
    """Whole streams in, out and from outside, and datagrams."""
    guest = machine.guest
    guest.wait_for(f"ping -c 1 -W 1 {FAR4}", "the guest has the network", 60)
    for far in (FAR4, f"[{FAR6}]"):
        found = guest.run(f"wget -q -O - http://{far}:8000/{SIZE} | sha256sum")
        assert found.split()[0] == stream_sha256(SIZE)
    guest.run(f"head -c {SIZE} /dev/urandom >/tmp/data")
    echoed = guest.run(f"socat -t 60 - TCP:{FAR4}:8007 </tmp/data | sha256sum")
    assert echoed == guest.run("sha256sum </tmp/data")
    assert "192.0.2.80" in guest.run("nslookup www.lab.example")
    guest.serve("TCP", 4, PORT, "PIPE")
    lab.outside.run([*lab.client, "tcp", HOST4, str(PORT - 7), str(SIZE)], timeout=60)
    guest.run("killall socat", check=False)


def test_driver_got_the_offloads(machine: Machine) -> None:
    bits = machine.guest.run("cat /sys/class/net/eth0/device/features").strip()
    assert {name for name, bit in FEATURES.items() if bits[bit] == "1"} == {*FEATURES}
    told = dict(line.strip().split(": ", 1) for line in machine.guest.run("ethtool -k eth0").splitlines()
                if ": " in line)
    assert {name: told[name].split()[0] for name in OFFLOADS} == dict.fromkeys(OFFLOADS, "on")


def test_offloads_are_used(lab: Lab, machine: Machine) -> None:
    check_network(lab, machine)
    assert "Call Trace" not in machine.guest.run("dmesg")


def test_driver_is_loaded_again(lab: Lab, machine: Machine) -> None:
    guest = machine.guest
    for _ in range(3):
        guest.run("rmmod virtio_net; insmod /modules/virtio_net.ko")
        guest.configure4()
    guest.configure6()
    check_network(lab, machine)


def test_guest_boots_again(lab: Lab, machine: Machine) -> None:
    machine.guest.reboot()
    machine.guest.configure4()
    machine.guest.configure6()
    check_network(lab, machine)


@pytest.mark.parametrize("kill", [False, True], ids=["ended", "killed"])
def test_network_comes_back_with_a_new_passt(lab: Lab, machine: Machine, kill: bool) -> None:
    """Without help: QEMU connects again, and the guest, which is told nothing, goes on."""
    machine.change_passt(kill=kill)
    check_network(lab, machine)


def test_new_passt_comes_in_the_middle_of_traffic(lab: Lab, machine: Machine) -> None:
    guest = machine.guest
    guest.run(f"(while :; do wget -q -T 2 -O - http://{FAR4}:8000/{SIZE}; done) >/dev/null 2>&1 &")
    for _ in range(3):
        machine.change_passt(kill=True)
        guest.wait_for(f"ping -c 1 -W 1 {FAR4}", "the guest has the network", 60)
    guest.run("killall wget; kill %1", check=False)
    check_network(lab, machine)
    assert "Call Trace" not in guest.run("dmesg")


def test_guest_that_is_stopped_costs_nothing_and_loses_nothing(lab: Lab, machine: Machine) -> None:
    """QEMU is stopped (SIGSTOP) while data are on their way, in and out: they wait in the host's sockets."""
    guest = machine.guest
    get = f"wget -q -O - http://{FAR4}:8000/{BIG} | sha256sum >/tmp/in"
    guest.run(f"rm -f /tmp/in; ({get}) >/dev/null 2>&1 &")
    guest.run(f"head -c {SIZE} /dev/urandom >/tmp/data; rm -f /tmp/back")
    guest.run(f"(socat -t 120 - TCP:{FAR4}:8007 </tmp/data | sha256sum >/tmp/back) >/dev/null 2>&1 &")

    def is_quiet() -> bool:
        before = cpu_seconds(machine.passt.running.pid)
        time.sleep(STOPPED_S)
        return cpu_seconds(machine.passt.running.pid) - before < 0.02 * STOPPED_S

    guest.running.send(signal.SIGSTOP)
    try:
        # What was under way comes to rest.
        wait_until(is_quiet, "passt has nothing to do", 40)
    finally:
        guest.running.send(signal.SIGCONT)
        guest.running.popen.send_signal(signal.SIGCONT)  # nsenter stops with what it started
    found = guest.wait_for("grep . /tmp/in", "the download is complete", 120)
    assert found.split()[0] == stream_sha256(BIG)
    echoed = guest.wait_for("grep . /tmp/back", "what was sent comes back", 120)
    assert echoed == guest.run("sha256sum </tmp/data")
    check_network(lab, machine)


def test_guest_leaves(machine: Machine) -> None:
    assert machine.guest.power_off() == 0
