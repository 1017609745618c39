"""Real programs in the namespace reach real servers: those outside, and those on the host's loopback."""

from __future__ import annotations

import hashlib
import time

import pytest

from tests.support.lab import FAR4, FAR6, OUTSIDE4, OUTSIDE6, Lab
from tests.support.processes import status_field, wait_until
from tests.support.switches import LONG, QUICK
from tests.system.iperf import run_report
from tests.system.servers import stream, stream_sha256

pytestmark = pytest.mark.needs_root

LARGE = 1_000_000_000 if LONG else 50_000_000 if QUICK else 200_000_000
NET = ("--config-net",)
# What the default mapping makes of the gateway is the host's loopback; the far addresses it leaves alone.
FAR = pytest.mark.parametrize("address", [FAR4, FAR6])
EVERYWHERE = pytest.mark.parametrize("address", [FAR4, FAR6, OUTSIDE4, OUTSIDE6])
MAX_RESIDENT_KB = 40 * 1024


def url(address: str, size: int) -> str:
    host = f"[{address}]" if ":" in address else address
    return f"http://{host}:8000/{size}"


@pytest.fixture(scope="session")
def large_sha256() -> str:
    return stream_sha256(LARGE)


@FAR
def test_curl_of_a_large_file_is_byte_exact(lab: Lab, user: bool, address: str, large_sha256: str) -> None:
    script = f"set -o pipefail; curl -sSf {url(address, LARGE)} | sha256sum"
    result = lab.run(NET, ["bash", "-c", script], user=user, timeout=240)
    assert result.stdout.decode().split()[0] == large_sha256


@FAR
def test_curl_that_reads_slowly_gets_all(lab: Lab, user: bool, address: str) -> None:
    # The pauses fill every buffer on the way, so that the window closes and opens again.
    script = (
        f"curl -sSf {url(address, 40_000_000)} | {{ sleep 1.5; head -c 20000000; sleep 1; cat; }} | sha256sum"
    )
    result = lab.run(NET, ["bash", "-c", script], user=user, timeout=200)
    assert result.stdout.decode().split()[0] == stream_sha256(40_000_000)


def test_200_parallel_curls_are_all_byte_exact(lab: Lab, user: bool) -> None:
    size = 200_000
    script = f"""
        cd "$(mktemp -d)" || exit
        for i in $(seq 100); do
            for url in '{url(FAR4, size)}' '{url(FAR6, size)}'; do
                {{ curl -sSf --max-time 200 "$url" | sha256sum >>sums.$i; }} &
            done
        done
        wait
        sort sums.* | uniq -c
        rm -r "$PWD"
    """
    result = lab.run(NET, ["bash", "-c", script], user=user, timeout=250)
    assert result.stdout.decode().split() == ["200", stream_sha256(size), "-"]
    assert result.stderr == b""


@pytest.mark.parametrize("streams", [1, 8])
@pytest.mark.parametrize("direction", ["out", "in"])
@EVERYWHERE
def test_iperf3_moves_bytes(lab: Lab, user: bool, address: str, direction: str, streams: int) -> None:
    argv = ["--client", address, "--time", "1", "--parallel", str(streams)]
    report = run_report(lab, NET, [*argv, *(["--reverse"] if direction == "in" else [])], user=user)
    assert report["end"]["sum_received"]["bytes"] > 1_000_000
    assert len(report["end"]["streams"]) == streams
    assert all(stream["receiver"]["bytes"] > 0 for stream in report["end"]["streams"])


@EVERYWHERE
def test_ping_is_answered(lab: Lab, user: bool, address: str) -> None:
    result = lab.run(NET, ["ping", "-n", "-c", "3", "-i", "0.2", "-W", "20", address], user=user)
    assert b"3 packets transmitted, 3 received, 0% packet loss" in result.stdout


@FAR
def test_ping_with_a_large_payload_is_answered(lab: Lab, user: bool, address: str) -> None:
    argv = ["ping", "-n", "-c", "2", "-i", "0.2", "-W", "20", "-s", "1400", address]
    result = lab.run(NET, argv, user=user)
    assert b"2 received" in result.stdout


@pytest.mark.parametrize("size", [1, 1400, 60000])
@EVERYWHERE
def test_datagram_is_echoed(lab: Lab, user: bool, address: str, size: int) -> None:
    lab.run(NET, [*lab.client, "udp", address, "8000", str(size)], user=user)


@pytest.mark.parametrize("check", ["tcp", "end-first", "end-last", "reset", "send-reset", "refused"])
@EVERYWHERE
def test_connection(lab: Lab, user: bool, address: str, check: str) -> None:
    lab.run(NET, [*lab.client, check, address, "8000", "3000000"], user=user)


@EVERYWHERE
def test_dig_resolves(lab: Lab, user: bool, address: str) -> None:
    dig = f"dig +short +time=20 +tries=1 @{address} www.lab.example"
    script = f"{dig} A +notcp && {dig} AAAA +notcp && {dig} A +tcp && {dig} AAAA +tcp"
    answers = lab.run(NET, ["sh", "-c", script], user=user).stdout.decode().split()
    assert answers == ["192.0.2.80", "2001:db8::80"] * 2


def test_system_resolver_resolves_by_search_list(lab: Lab, user: bool) -> None:
    result = lab.run(NET, ["getent", "ahosts", "www"], user=user)
    assert {"192.0.2.80", "2001:db8::80"} <= set(result.stdout.decode().split())


def test_memory_stays_small_under_load(lab: Lab, user: bool) -> None:
    script = f"curl -sSf {url(FAR4, 300_000_000)} | sha256sum; exec sleep 60"
    running = lab.start(NET, ["sh", "-c", script], user=user)
    assert running.popen.stdout is not None
    digest = running.popen.stdout.readline().split()[0].decode()
    resident = int(status_field(running.pid, "VmHWM").split()[0])
    running.kill()
    assert digest == stream_sha256(300_000_000)
    assert resident < MAX_RESIDENT_KB


def test_nothing_wakes_up_while_idle(lab: Lab, user: bool) -> None:
    options = [*NET, "-t", "none", "-u", "none", "-T", "none", "-U", "none"]
    running = lab.start(options, ["sh", "-c", "echo ready; exec sleep 600"], user=user)
    assert running.popen.stdout is not None
    assert running.popen.stdout.readline() == b"ready\n"

    def switches() -> int:
        return int(status_field(running.pid, "voluntary_ctxt_switches"))

    def quiet_for_two_seconds() -> bool:
        before = switches()
        time.sleep(2)
        return switches() == before

    # The kernel in the namespace sends a few router solicitations and group reports at first.
    wait_until(quiet_for_two_seconds, "two seconds without a wake-up", 100)
    running.kill()


def test_large_file_has_no_two_equal_blocks() -> None:
    pieces = list(stream(3_000_000))
    assert len({hashlib.sha256(piece).digest() for piece in pieces}) == len(pieces)
    assert sum(map(len, pieces)) == 3_000_000
