"""A receiver that stops reading, typing beside a bulk stream, long half-closed and idle connections."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests.support.lab import FAR4, FAR6, Lab, Place, Running
from tests.support.processes import status_field
from tests.support.switches import LONG
from tests.system.servers import REPLY_LEN, TICK_S, stream_sha256

pytestmark = [pytest.mark.needs_root, pytest.mark.slow]

NET = ("--config-net",)
PAUSE_S = 120 if LONG else 20
TRICKLE_S = 180 if LONG else 5
SIZE = 200_000_000
HUGE = 10_000_000_000 if LONG else 200_000_000
# Bytes of a stream that outlasts every test, however fast it is.
ENDLESS = 10**15
MAX_RESIDENT_KB = 60 * 1024
# Two seconds of the pause belong to filling the buffers.
FILL_S = 3.0
# Of each span that is watched.
WATCH_S, MAX_CPU_S = 4.0, 0.02
# The echo's slowest hundredth may be so much slower than over a veth with the same stream beside it.
ECHO_TIMES, ECHO_MS = 5.0, 20.0


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def shell(lab: Lab, *lines: str) -> list[str]:
    """Command of a namespace: lines of shell in which $client is the client of the TCP tests."""
    return ["bash", "-c", "\n".join(["set -e", f"client='{' '.join(lab.tcp_client)}'", *lines])]


def reports(running: Running, timeout: float) -> list[dict[str, object]]:
    """Wait for the end; what each client of it printed."""
    result = running.finish(timeout)
    assert (result.returncode, result.stderr) == (0, b"")
    return [json.loads(line) for line in result.stdout.decode().splitlines()]


def test_receiver_that_stops_reading(lab: Lab, plain: bool) -> None:
    script = shell(
        lab,
        f"$client fetch {FAR4} 8000 {SIZE} {PAUSE_S} & fetch4=$!",
        f"$client fetch {FAR6} 8000 {SIZE} {PAUSE_S} & fetch6=$!",
        f"$client send {FAR4} 8000 {SIZE} {PAUSE_S} & send4=$!",
        f"$client send {FAR6} 8000 {SIZE} {PAUSE_S} & send6=$!",
        "wait $fetch4; wait $fetch6; wait $send4; wait $send6",
    )
    running = lab.start(NET, script, user=plain)
    time.sleep(FILL_S)
    used = []
    # On a busy machine the buffers may be full only later than that.
    for _ in range(int((PAUSE_S - 2 * FILL_S) / WATCH_S)):
        before = cpu_seconds(running.pid)
        time.sleep(WATCH_S)
        used.append(cpu_seconds(running.pid) - before)
    resident = int(status_field(running.pid, "VmHWM").split()[0])
    found = reports(running, PAUSE_S + 200)
    print(used, resident, found)  # noqa: T201 - shown with a failure, or by pytest -s
    assert [one["sha256"] for one in found] == [stream_sha256(SIZE)] * 4
    assert min(used) <= MAX_CPU_S
    assert resident < MAX_RESIDENT_KB


def type_beside(place: Place, command: list[str]) -> dict[str, float]:
    """Milliseconds of echoes, typed in by *command* beside a stream each way."""
    result = place.run(command, timeout=60)
    quiet, busy = map(json.loads, result.stdout.decode().splitlines())
    print(quiet, busy)  # noqa: T201 - shown with a failure, or by pytest -s
    return {"quiet": quiet["p99"], "busy": busy["p99"], "p50": quiet["p50"]}


@pytest.mark.parametrize("way", ["fetch", "send"])
def test_typing_beside_a_stream(lab: Lab, plain: bool, way: str) -> None:
    script = shell(
        lab,
        f"$client echo {FAR4} 8000 200",
        f"$client {way} {FAR4} 8000 {ENDLESS} >/dev/null 2>&1 & stream=$!",
        "sleep 0.5",
        f"$client echo {FAR4} 8000 300",
        "kill $stream",
    )
    for _ in range(6):  # the machine may be busier when it is our turn than it was for the wire
        wire = type_beside(lab.host, script)
        running = lab.start(NET, script, user=plain)
        result = running.finish(60)
        assert result.stderr == b""
        quiet, busy = map(json.loads, result.stdout.decode().splitlines())
        print("wire", wire, "ours", quiet, busy)  # noqa: T201 - shown with a failure, or by pytest -s
        excess = max(quiet["p99"] - ECHO_TIMES * wire["quiet"], busy["p99"] - ECHO_TIMES * wire["busy"])
        if excess <= ECHO_MS:
            return
    pytest.fail("typing is slow, each time")


def test_typing_ahead(lab: Lab, plain: bool) -> None:
    running = lab.start(NET, shell(lab, f"$client type-ahead {FAR4} 8000 2000"), user=plain)
    assert reports(running, 30) == [{"equal": True}]


def test_half_closed_for_long(lab: Lab, plain: bool) -> None:
    script = shell(
        lab,
        f"$client trickle-in {FAR4} 8000 {TRICKLE_S} & in4=$!",
        f"$client trickle-in {FAR6} 8000 {TRICKLE_S} & in6=$!",
        f"$client trickle-out {FAR4} 8000 {TRICKLE_S} & out4=$!",
        "wait $in4; wait $in6; wait $out4",
    )
    found = reports(lab.start(NET, script, user=plain), TRICKLE_S + 100)
    ticks = int(TRICKLE_S / TICK_S)
    assert [one for one in found if "token" not in one] == [{"count": ticks}] * 2
    (out,) = (one for one in found if "token" in one)
    assert (out["count"], out["sent"]) == (REPLY_LEN, ticks)


def test_keep_alive_of_both_ends(lab: Lab, plain: bool) -> None:
    seconds = 60 if LONG else 6
    found = reports(lab.start(NET, shell(lab, f"$client keep-alive {FAR6} 8000 {seconds}"), user=plain), 200)
    assert found == [{"equal": True}]


def test_urgent_bytes_stay_in_their_place(lab: Lab, plain: bool) -> None:
    script = shell(lab, f"$client urgent {FAR4} 8000 100", f"$client urgent {FAR6} 8000 100")
    assert reports(lab.start(NET, script, user=plain), 120) == [{"equal": True, "count": 10000}] * 2


@pytest.mark.parametrize("way", ["fetch", "send"])
def test_gigabytes_by_checksum(lab: Lab, plain: bool, way: str) -> None:
    script = shell(lab, f"$client {way} {FAR4} 8000 {HUGE}")
    (found,) = reports(lab.start(NET, script, user=plain), 280)
    print(found)  # noqa: T201 - shown with a failure, or by pytest -s
    assert found["sha256"] == stream_sha256(HUGE)
