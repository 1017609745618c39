"""passtctl doctor on a host with one thing broken at a time: it is found, and the named command mends it."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.lab import FAR4, FAR6, Lab, Place
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs_root

RANGE = "/proc/sys/net/ipv4/ping_group_range"
PORT = 9750
SILENT4 = "198.51.100.77"  # the outside has no such address, and forwards nothing
SERVER = f"""
import socket
server = socket.create_server(("127.0.0.1", {PORT}))
print("ready", flush=True)
server.accept()
"""
# What stands for the device of a plain user; see the lab.
OWN_DEVICE = 'mount --bind /dev/net/tun.open /dev/net/tun && eval "$1"'


class Doctor:
    """Asks passtctl on the lab's host, and carries out what it says."""

    def __init__(self, lab: Lab, *, user: bool) -> None:
        self.host: Place = lab.host
        self.program = str(Path(lab.pasta).with_name("passtctl"))
        self.user = user

    def ask(self, *options: str) -> list[dict[str, Any]]:
        """Return the findings; the exit status says whether there is an error."""
        done = self.host.run([self.program, "doctor", "--json", *options], user=self.user, check=False)
        assert done.stderr == b""
        told = json.loads(done.stdout)
        assert done.returncode == (told["worst"] == "error")
        found: list[dict[str, Any]] = told["findings"]
        return found

    def levels(self, subject: str, *options: str) -> list[str]:
        return [finding["level"] for finding in self.ask(*options) if finding["subject"] == subject]

    def broken(self, subject: str, *options: str) -> dict[str, Any]:
        """Return the one finding about *subject* that is not all right."""
        [found] = [one for one in self.ask(*options) if one["subject"] == subject and one["level"] != "ok"]
        return dict(found)

    def mend(self, finding: dict[str, Any]) -> None:
        """Carry out the commands of a finding, as root with the devices of our user where it takes root."""
        assert finding["commands"]
        for command in finding["commands"]:
            if not finding["as_root"]:
                self.host.run(["sh", "-c", command], user=self.user)
            elif self.user:
                self.host.run(["unshare", "--mount", "sh", "-c", OWN_DEVICE, "sh", command])
            else:
                self.host.run(["sh", "-c", command])


@pytest.fixture
def doctor(lab: Lab, user: bool) -> Iterator[Doctor]:
    """Lend a doctor; the host is afterwards as it was before."""
    resolv_conf = lab.directory / "etc" / "resolv.conf"
    before = resolv_conf.read_bytes()
    yield Doctor(lab, user=user)
    resolv_conf.write_bytes(before)
    lab.host.run(
        ["sh", "-c", f"chmod 0600 /dev/net/tun; chmod 0666 /dev/net/tun.open; echo 0 2147483647 >{RANGE}"]
    )


def test_mode_of_the_device(doctor: Doctor) -> None:
    doctor.host.run(["chmod", "0600", "/dev/net/tun.open" if doctor.user else "/dev/net/tun"])
    found = doctor.broken("/dev/net/tun")
    assert found["level"] == ("error" if doctor.user else "note")
    doctor.mend(found)
    assert doctor.levels("/dev/net/tun") == ["ok"]


@pytest.mark.parametrize("wrong", ["1 0", "5 6"])
def test_range_of_groups_that_may_ping(doctor: Doctor, wrong: str) -> None:
    assert doctor.levels("ping") == ["ok"]
    doctor.host.run(["sh", "-c", f"echo {wrong} >{RANGE}"])
    found = doctor.broken("ping")
    assert found["level"] == "warning"
    doctor.mend(found)
    assert doctor.levels("ping") == ["ok"]


def test_dead_name_server(doctor: Doctor, lab: Lab) -> None:
    # On a busy machine an answer may come too late for the doctor.
    wait_until(lambda: doctor.levels("name servers") == ["ok", "ok"], "both answer")
    resolv_conf = lab.directory / "etc" / "resolv.conf"
    # In place: it is a mount in each place.
    resolv_conf.write_text(f"nameserver {SILENT4}\nnameserver {FAR4}\nsearch lab.example\n", encoding="ascii")
    found = doctor.broken("name servers")
    assert (found["level"], found["text"].startswith(f"{SILENT4}: it did not answer")) == ("warning", True)
    doctor.mend(found)
    assert resolv_conf.read_text(encoding="ascii") == f"nameserver {FAR4}\nsearch lab.example\n"
    wait_until(lambda: doctor.levels("name servers") == ["ok"], "the other one answers")
    resolv_conf.write_text(f"nameserver {SILENT4}\n", encoding="ascii")
    found = doctor.broken("name servers")
    assert found["level"] == "error"
    doctor.mend(found | {"commands": [command.replace("ADDRESS", FAR6) for command in found["commands"]]})
    wait_until(lambda: doctor.levels("name servers") == ["ok"], "the new one answers")


def test_port_that_is_taken(doctor: Doctor) -> None:
    option, subject = ("--port", f"{PORT}/tcp"), f"port {PORT}/tcp"
    assert doctor.levels(subject, *option) == ["ok"]
    server = doctor.host.spawn(["/usr/bin/python3", "-I", "-c", SERVER], user=doctor.user)
    try:
        assert server.popen.stdout is not None
        assert server.popen.stdout.readline() == b"ready\n"
        found = doctor.broken(subject, *option)
        assert found["level"] == "error"
        assert re.match(r"python3.*, PID \d+, has it", found["text"])
        doctor.mend(found)
        wait_until(lambda: doctor.levels(subject, *option) == ["ok"], "the port is free")
    finally:
        server.kill()


def test_port_of_another_user(doctor: Doctor) -> None:
    server = doctor.host.spawn(["/usr/bin/python3", "-I", "-c", SERVER])
    try:
        assert server.popen.stdout is not None
        assert server.popen.stdout.readline() == b"ready\n"
        found = doctor.broken(f"port {PORT}/tcp", "--port", f"{PORT}/tcp")
        assert (found["level"], found["as_root"]) == ("error", True)
        assert ("PID" in found["text"]) != doctor.user
        # Root sees by the command who it is.
        if doctor.user:
            [command] = found["commands"]
            assert b"python3" in doctor.host.run(["sh", "-c", command]).stdout
    finally:
        server.kill()


def test_host_without_a_network(lab: Lab, doctor: Doctor) -> None:
    doctor.host = lab.bare_place()
    assert {"error"} <= set(doctor.levels("IPv4"))
    assert doctor.levels("IPv6") == ["note"]
    assert doctor.levels("name servers") == ["error", "error"]


def test_instance(lab: Lab, doctor: Doctor, user: bool) -> None:
    scratch = Path(tempfile.mkdtemp(prefix="passt-doctor-"))
    if user:
        os.chown(scratch, 54321, 54321)
    path = str(scratch / "control")
    running = lab.start(["--config-net", "--control", path], ["sh", "-c", "echo ready; sleep 600"], user=user)
    try:
        assert running.popen.stdout is not None
        assert running.popen.stdout.readline() == b"ready\n"

        def is_well() -> bool:
            found = {finding["subject"]: finding for finding in doctor.ask("-s", path)}
            if not found["instance"]["text"].startswith("pasta "):
                return False
            assert found["limits"]["level"] == "ok"
            return True

        wait_until(is_well, "the instance answers in time")  # which it may not on a busy machine
    finally:
        running.kill()
        shutil.rmtree(scratch)
    assert doctor.broken("instance", "-s", path)["level"] == "error"


def test_instance_that_does_not_answer(doctor: Doctor) -> None:
    scratch = Path(tempfile.mkdtemp(prefix="passt-doctor-"))
    scratch.chmod(0o755)
    path = scratch / "control"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        path.chmod(0o777)
        silent.listen()
        late = doctor.broken("instance", "-s", str(path))
    shutil.rmtree(scratch)
    assert (late["level"], late["text"]) == ("error", "no answer within 2 s")
