"""The load generators against each other on loopback: what they print, and how they end."""

import json
import random
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.install import build_load
from bench.lab import read_until

# They measure, for a moment.
pytestmark = [pytest.mark.slow, pytest.mark.alone]

SOURCES = Path(__file__).parents[2] / "bench/src"
EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> str:
    target = tmp_path_factory.mktemp("bin") / "load"
    build_load(SOURCES, target)
    return str(target)


def free_port(kind: socket.SocketKind) -> str:
    return str(free_ports(1, kind))


def free_ports(n: int, *kinds: socket.SocketKind) -> int:
    """Give the first of *n* free ports in a row that no client is given while a test comes and goes."""
    end = int(EPHEMERAL.read_text().split()[0])
    while True:
        first = random.randrange(end // 2, end - n)  # noqa: S311 - others on this machine do the same
        try:
            for port in range(first, first + n):
                for kind in kinds:
                    with socket.socket(socket.AF_INET6, kind) as probe:
                        probe.bind(("::", port))
        except OSError:
            continue
        return first


@contextmanager
def serving(*argv: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert "listening" in read_until(server, "listening", 60)
            yield server
        finally:
            server.kill()


def output(*argv: str) -> dict[str, Any]:
    done = subprocess.run(
        argv, capture_output=True, text=True, check=True, timeout=60, stdin=subprocess.DEVNULL
    )
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def failure(*argv: str) -> tuple[int, str]:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stderr


@pytest.mark.parametrize("mode", ["rr", "crr"])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_tcp_latency(load: str, mode: str, address: str) -> None:
    port = free_port(socket.SOCK_STREAM)
    with serving(load, "tcp-server", port, mode, "10"):
        result = output(load, mode, address, port, "0.1")
    assert result["count"] > 10
    assert 0 < result["p50_us"] <= result["p90_us"] <= result["p99_us"]
    assert result["p50_us"] < result["max_us"]
    assert 0.1 <= result["seconds"] < 5


def test_idle_connections_are_counted(load: str) -> None:
    port = free_port(socket.SOCK_STREAM)
    with serving(load, "tcp-server", port, "hold", "10"):
        assert output(load, "idle", "127.0.0.1", port, "20", "5") == {"opened": 20, "error": ""}
    assert output(load, "idle", "127.0.0.1", port, "20", "5") == {"opened": 0, "error": "Connection refused"}


@pytest.mark.parametrize("size", ["8", "1400", "60000"])
def test_udp_round_trip(load: str, size: str) -> None:
    port = free_port(socket.SOCK_DGRAM)
    with serving(load, "udp-echo", port, "10"):
        result = output(load, "udp-rt", "127.0.0.1", port, "0.1", size)
    assert result["count"] > 10
    assert result["lost"] == 0


def test_udp_round_trip_without_server_counts_losses(load: str) -> None:
    result = output(load, "udp-rt", "127.0.0.1", free_port(socket.SOCK_DGRAM), "0.01", "64")
    assert result["count"] == 0
    assert result["lost"] > 0


def test_paced_flood_arrives_whole_in_both_directions(load: str) -> None:
    port = free_port(socket.SOCK_DGRAM)
    with serving(load, "udp-sink", port, "10") as sink:
        sent = output(load, "udp-source", "127.0.0.1", port, "1400", "0.2", "1000")["sent"]
        got = json.loads(read_until(sink, "}", 5))
    assert 150 <= sent <= 200
    assert (got["received"], got["bytes"], got["highest"]) == (sent, sent * 1400, sent - 1)
    with serving(load, "udp-blast", port, "100", "0.2", "1000", "10") as source:
        got = output(load, "udp-pull", "127.0.0.1", port, "10")
        sent = json.loads(read_until(source, "}", 5))["sent"]
    assert (got["received"], got["bytes"]) == (sent, sent * 100)


def test_spawn_time_measures_the_command(load: str) -> None:
    result = output(load, "spawn-time", "2", "5", "sleep", "0.05")
    assert result["count"] == 2
    assert 50_000 <= result["p50_us"] < 5_000_000


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["spawn-time", "1", "0.05", "sleep", "5"], 1, "had not ended after"),
        (["spawn-time", "1", "5", "false"], 1, "wait status 0x100"),
        (["spawn-time", "1", "5", "/proc/none"], 1, "No such file"),
        (["tcp-server", "0", "rr", "1"], 2, "PORT must be a number"),
        (["tcp-server", "5000", "xx", "1"], 2, "usage: load tcp-server"),
        (["rr", "localhost", "80", "1"], 2, "ADDRESS must be an IPv4 or IPv6 address"),
        (["rr", "127.0.0.1", "80", "1s"], 2, "SECONDS must be a number"),
        (["udp-rt", "::1", "80", "1", "65508"], 2, "SIZE must be a number"),
        (["nothing"], 2, "one of:"),
        ([], 2, "one of:"),
    ],
)
def test_failures_name_their_reason(load: str, arguments: list[str], status: int, words: str) -> None:
    got, said = failure(load, *arguments)
    assert got == status
    assert words in said


def test_hard_limit_ends_a_server(load: str) -> None:
    port = free_port(socket.SOCK_STREAM)
    assert failure(load, "tcp-server", port, "rr", "0.05") == (3, "load: hard time limit reached\n")
