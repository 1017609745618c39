"""Attaching to a network namespace that exists already, in the foreground."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.lab import FAR4, FAR6, OUTSIDE4, Lab, Running
from tests.support.processes import process_state, status_field, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

pytestmark = pytest.mark.needs_root


class Target:
    """A process in user and network namespaces of its own, in the lab's host."""

    def __init__(self, lab: Lab, *, user: bool, own_user_namespace: bool = True) -> None:
        self.lab, self.user, self.own_user_namespace = lab, user, own_user_namespace
        self.running: Running = lab.host.spawn(
            [
                "unshare",
                *(["--user", "--map-root-user"] if own_user_namespace else []),
                "--net",
                "sh",
                "-c",
                "echo ready; exec sleep 1000",
            ],
            user=user,
        )
        assert self.running.popen.stdout is not None
        assert self.running.popen.stdout.readline() == b"ready\n"
        # The PID as it is called in the host's PID namespace.
        self.pid = status_field(self.running.pid, "NSpid").split()[-1]

    def run(self, argv: Sequence[str], *, check: bool = True) -> bytes:
        """Run a program in the target's network."""
        names = ["--user", "--preserve-credentials"] if self.own_user_namespace else []
        return self.lab.host.run(
            ["nsenter", "-t", self.pid, *names, "--net", *argv], user=self.user, check=check
        ).stdout

    def has_interface(self) -> bool:
        """Tell whether the tap interface is there and configured for both families."""
        text = self.run(["ip", "-o", "addr", "show", "scope", "global"])
        return b" h0 " in text and b"203.0.113.2/" in text and b"2001:db8:1::2/" in text

    def has_no_interface(self) -> bool:
        """Tell whether only the loopback interface is left."""
        return self.run(["ip", "-o", "link"]).count(b"\n") == 1


@pytest.fixture
def target(lab: Lab, user: bool) -> Iterator[Target]:
    """Lend a namespace to attach to."""
    one = Target(lab, user=user)
    yield one
    one.running.kill()


def attach(target: Target, *options: str) -> Running:
    """Start pasta for the target and wait until the target's network is there."""
    running = target.lab.start(["-f", "--config-net", *options, target.pid], user=target.user)

    def configured() -> bool:
        assert running.popen.poll() is None, running.popen.communicate()
        return target.has_interface()

    wait_until(configured, "the interface is configured")
    # Traffic passes only when the loop runs; before that a signal ends the start by its default action.
    target.run([*target.lab.client, "tcp", FAR4])
    return running


def test_attached_namespace_has_traffic(target: Target) -> None:
    running = attach(target)
    for address in (FAR4, FAR6, OUTSIDE4):
        target.run([*target.lab.client, "tcp,udp,end-first,end-last", address, "8000", "50000"])
    target.run(["ping", "-n", "-c", "1", "-W", "3", FAR4])
    running.kill()


@pytest.mark.parametrize(
    "signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL], ids=lambda one: one.name
)
def test_end_of_pasta_removes_the_interface_only(target: Target, signum: signal.Signals) -> None:
    running = attach(target)
    running.send(signum)
    status = running.finish(60).returncode
    if signum == signal.SIGTERM:
        assert status == 0
    wait_until(target.has_no_interface, "the interface goes with pasta")
    wait_until(lambda: process_state(target.running.pid) == "S", "the target sleeps on")


def test_namespace_is_attached_to_again_after_the_end(target: Target) -> None:
    for _ in range(3):
        running = attach(target)
        target.run([*target.lab.client, "tcp", FAR4, "8000", "1000"])
        running.send(signal.SIGTERM)
        running.finish(60)
        wait_until(target.has_no_interface, "the interface goes with pasta")


def test_port_is_forwarded_into_an_attached_namespace(target: Target) -> None:
    lab = target.lab
    server = lab.host.spawn(
        [
            "nsenter",
            "-t",
            target.pid,
            "--user",
            "--preserve-credentials",
            "--net",
            "/usr/bin/python3",
            "-I",
            str(lab.directory / "servers.py"),
            "9000",
        ],
        user=target.user,
    )
    assert server.popen.stdout is not None
    assert server.popen.stdout.readline() == b"ready\n"
    running = attach(target, "-t", "9007", "-u", "9007")
    lab.outside.run([*lab.client, "tcp,udp", "203.0.113.2", "9000", "1400"])
    running.kill()
    server.kill()


def test_pid_that_does_not_exist_is_one_line(lab: Lab, user: bool) -> None:
    result = lab.run(["-f", "--config-net", "4194000"], user=user, check=False)
    assert result.returncode == 1
    assert result.stderr.count(b"\n") == 1
    assert b"4194000" in result.stderr


@pytest.mark.needs_userns
def test_namespace_of_another_user_is_refused_in_one_line(lab: Lab, refusal: str) -> None:
    if refusal:
        pytest.skip(refusal)
    one = Target(lab, user=False)
    result = lab.run(["-f", "--config-net", one.pid], user=True, check=False)
    one.running.kill()
    assert result.returncode == 1
    assert result.stderr.count(b"\n") == 1
    assert one.pid.encode() in result.stderr


def test_root_attaches_to_a_namespace_without_a_user_namespace(lab: Lab) -> None:
    one = Target(lab, user=False, own_user_namespace=False)
    running = attach(one)
    one.run([*lab.client, "tcp,udp", FAR6, "8000", "1000"])
    running.kill()
    wait_until(one.has_no_interface, "the interface goes with pasta")
    one.running.kill()
