"""Connections in trouble: the program or the interface stops, resets, half-open floods, ports used again."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.lab import FAR4, FAR6, HOST4, OUTSIDE4, Lab
from tests.support.switches import LONG
from tests.system.servers import stream_sha256
from tests.system.test_tcp_patience import reports, shell

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs_root

NET = ("--config-net",)
SIZE = 400_000_000 if LONG else 300_000_000
STOP_S = 3.0
DOWN_S = 1.5
PROMPT_S = 0.9  # less than the second after which a SYN is repeated
SILENT_PORT = 7777
TRIALS = 4  # the machine may have other work than ours once


def test_program_is_stopped_for_a_while(lab: Lab, plain: bool) -> None:
    script = shell(
        lab,
        f"$client fetch {FAR4} 8000 {SIZE} 0.2 & four=$!",
        f"$client send {FAR6} 8000 {SIZE} 0.2 & six=$!",
        "until [ $(ss -Htn state synchronized | wc -l) -ge 2 ]; do sleep 0.02; done",
        "echo ready >&2; wait $four; wait $six",
    )
    running = lab.start(NET, script, user=plain)
    assert running.popen.stderr is not None
    assert running.popen.stderr.readline() == b"ready\n"
    time.sleep(0.4)
    running.send(signal.SIGSTOP)
    time.sleep(STOP_S)
    for pid in (running.popen.pid, running.pid):  # nsenter stops with what it waits for
        os.kill(pid, signal.SIGCONT)
    result = running.finish(250)
    found = [json.loads(line) for line in result.stdout.decode().splitlines()]
    print(found)  # noqa: T201 - shown with a failure, or by pytest -s
    assert [one["sha256"] for one in found] == [stream_sha256(SIZE)] * 2
    assert all(one["seconds"] > STOP_S for one in found), "it was over before the stop"
    assert all(one["seconds"] < 180 for one in found)


def test_interface_goes_down_and_up(lab: Lab, plain: bool) -> None:
    script = shell(
        lab,
        "device=$(ip -o route show default | sed 's/.* dev \\([^ ]*\\).*/\\1/')",
        "routes=$(mktemp)",
        "ip -4 route save default >$routes",
        f"$client fetch {FAR4} 8000 {SIZE} 1 & fetch=$!",
        f"$client send {FAR4} 8000 {SIZE} 1 & send=$!",
        "until [ $(ss -Htn state synchronized | wc -l) -ge 2 ]; do sleep 0.02; done",
        f"ip link set $device down; sleep {DOWN_S}; ip link set $device up",
        "ip -4 route restore <$routes; rm $routes",
        "wait $fetch; wait $send",
        f"$client echo {FAR4} 8000 5",
    )
    found = reports(lab.start(NET, script, user=plain), 250)
    print(found)  # noqa: T201 - shown with a failure, or by pytest -s
    assert [one["sha256"] for one in found[:2]] == [stream_sha256(SIZE)] * 2
    assert all(float(str(one["seconds"])) < 180 for one in found[:2])


@pytest.mark.parametrize("address", [FAR4, FAR6])
def test_port_is_used_again(lab: Lab, plain: bool, address: str) -> None:
    script = shell(
        lab,
        f"$client reuse {address} 8000 30 1000 4001",
        # A stream faster than the clock of sequence numbers.
        f"$client reuse {address} 8000 5 100000000 4002",
        f"$client reuse-reset {address} 8000 30 4003",
    )
    for trial in range(TRIALS):
        found = reports(lab.start(NET, script, user=plain), 250)
        print(found)  # noqa: T201 - shown with a failure, or by pytest -s
        is_prompt = all(float(str(found[number]["slowest"])) < PROMPT_S for number in (0, 2))
        assert is_prompt or trial < TRIALS - 1
        if is_prompt:
            break


def test_port_is_used_again_inwards(lab: Lab, plain: bool) -> None:
    argv = ["/usr/bin/python3", "-I", str(lab.directory / "servers.py"), "9100"]
    running = lab.start([*NET, "-t", "9100", "-t", "9107"], argv, user=plain)
    assert running.popen.stdout is not None
    if running.popen.stdout.readline() != b"ready\n":
        pytest.fail(running.finish().stderr.decode())
    # A SYN that was not taken at first is repeated after a second.
    for check in ("reuse {} 9100 30 1000 401{}", "reuse {} 9100 5 100000000 402{}",
                  "reuse-reset {} 9100 30 403{}"):
        for trial in range(TRIALS):
            argv = [*lab.tcp_client, *check.format(HOST4, trial).split()]
            found = json.loads(lab.outside.run(argv, timeout=60).stdout)
            is_prompt = (max(found["took"][1:]) < 2 * found["took"][0] + PROMPT_S if "100000000" in check
                         else found["slowest"] < PROMPT_S)
            if is_prompt:
                break
            assert trial < TRIALS - 1, (check, found)
    running.kill()


@pytest.fixture
def silent(lab: Lab) -> Iterator[None]:
    """Have a port of the outside answer nothing."""
    rules = f"""
        table inet silent {{
            chain input {{
                type filter hook input priority 0;
                tcp dport {SILENT_PORT} drop;
            }}
        }}
    """
    lab.outside.run(["nft", "-f", "-"], feed=rules.encode())
    yield
    lab.outside.run(["nft", "delete", "table", "inet", "silent"])


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("address", [FAR4, FAR6])
def test_half_open_connections_hurt_no_others(lab: Lab, plain: bool, address: str) -> None:
    script = shell(
        lab,
        f"ulimit -n 4096; $client half-open {address} 8000 3000 {SILENT_PORT} 3",
        f"$client echo {address} 8000 20 1",
    )
    for trial in range(TRIALS):
        flood, after = reports(lab.start(NET, script, user=plain), 250)
        print(flood, after)  # noqa: T201 - shown with a failure, or by pytest -s
        assert flood["answered"] == 0
        is_prompt = int(str(flood["rounds"])) > 10 and float(str(after["p99"])) < 1000 * PROMPT_S
        assert is_prompt or trial < TRIALS - 1
        if is_prompt:
            break


@pytest.mark.parametrize(("near", "far"), [("cubic", "bbr"), ("bbr", "cubic"), ("cubic", "cubic")])
def test_congestion_control(lab: Lab, plain: bool, near: str, far: str) -> None:
    allowed = lab.host.run(["sysctl", "-n", "net.ipv4.tcp_available_congestion_control"]).stdout.decode()
    if not {near, far} <= set(allowed.split()):
        pytest.skip(f"this kernel has {allowed.strip()}")
    script = shell(
        lab,
        f"export CONGESTION={near}",  # the sysctl is not a user namespace's to set
        f"$client fetch {FAR4} 8000 {SIZE}",
        f"$client send {FAR4} 8000 {SIZE}",
    )
    routes = (
        (lab.host, ["default", "via", OUTSIDE4]),
        (lab.outside, ["203.0.113.0/24", "dev", "o0", "proto", "kernel", "scope", "link", "src", OUTSIDE4]),
    )
    for place, route in routes:
        place.run(["ip", "route", "change", *route, "congctl", far])
    try:
        found = reports(lab.start(NET, script, user=plain), 250)
    finally:
        for place, route in routes:
            place.run(["ip", "route", "change", *route])
    print(near, far, found)  # noqa: T201 - shown with a failure, or by pytest -s
    assert [one["sha256"] for one in found] == [stream_sha256(SIZE)] * 2
