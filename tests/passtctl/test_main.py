"""Commands of passtctl against the real control socket of a scripted engine."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import threading
import time
import urllib.request
from typing import TYPE_CHECKING

import pytest

from passt import log
from passt.errors import ConfigError, HostError
from passt.facts.contracts import ListenerInfo
from passt.passtctl import exporter, instances
from passt.passtctl.command import Command
from passt.passtctl.events import event_text
from passt.passtctl.exporter import serve
from passt.passtctl.main import run
from tests.control.test_api import RULE, Bench
from tests.support.control import make_flow
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """An instance where `--control auto` would have put it; its loop turns all the while."""
    directory = tmp_path / "passt"
    directory.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    made = Bench(directory)
    made.source.counts |= {"bytes_from_guest": 1, "bytes_to_guest": 1, "splice_bytes_to_host": 0,
                           "splice_bytes_to_guest": 0, "flows_udp": 1, "flows_ping": 0, "flows_splice_tcp": 0,
                           "flows_splice_udp": 0}  # fmt: skip
    with made.turning():
        yield made
    made.close()


def test_list_shows_who_answers_and_leaves_out_who_has_ended(
    bench: Bench, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as ended:
        ended.bind(str(tmp_path / "passt" / "9.sock"))
    assert run(Command("list")) == 0
    heading, row = capfd.readouterr().out.splitlines()
    assert heading.split() == ["PID", "MODE", "UP", "PORTS", "FLOWS", "OUT/s", "IN/s", "COMMAND,",
                               "NAMESPACE", "OR", "SOCKET"]  # fmt: skip
    assert row.split() == [str(log.own_pid()), "pasta", "10s", "0", "2", "0", "0", "-"]
    run(Command("list", json=True))
    [instance] = json.loads(capfd.readouterr().out)
    assert (instance["flows"], instance["socket"]) == (2, bench.path)


def test_instance_of_a_name_is_the_one_that_does_the_command(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    pid = str(log.own_pid())
    run(Command("log", instance=pid))
    assert capfd.readouterr().out == "info\n"
    run(Command("list", instance=pid, json=True))
    assert [row["socket"] for row in json.loads(capfd.readouterr().out)] == [bench.path]
    for command in (Command("log", instance="web"), Command("list", instance="web")):
        with pytest.raises(ConfigError, match=f"'web' is neither .* there are {pid}"):
            run(command)
    run(Command("list", names=True))
    assert capfd.readouterr().out == f"{pid}\n"
    run(Command("list", names=True, json=True))
    assert json.loads(capfd.readouterr().out) == [pid]


def test_flows_come_from_all_pages(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    bench.source.records = [make_flow(i) for i in range(2500)]
    run(Command("flows", words=("tcp",)))
    heading, *rows = capfd.readouterr().out.splitlines()
    assert len(rows) == 2500
    assert rows[7].split() == [
        "7.3", "tcp", "ESTABLISHED", "out", "link", "192.0.2.2:40000", "198.51.100.1:443", "198.51.100.1:443",
        "100", "20.0G", "5s", "7ms", "0.1ms", "12.0ms", "-"]  # fmt: skip
    assert len(heading.split()) == 15
    run(Command("flows", words=("udp",), json=True))
    assert json.loads(capfd.readouterr().out) == []


def test_list_of_one_socket(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    run(Command("list", path=bench.path, json=True))
    assert [row["socket"] for row in json.loads(capfd.readouterr().out)] == [bench.path]
    with pytest.raises(HostError):
        run(Command("list", path="/nowhere"))


def test_other_commands(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    bench.source.records = [make_flow()]
    bench.source.ports = [ListenerInfo(6, 8003, RULE, namespace=False)]
    run(Command("ports"))
    assert capfd.readouterr().out.splitlines()[3].split() == [
        "host", "tcp", "*", "-", "8003", "83", "-t", "8000-8010:80-90"]  # fmt: skip
    run(Command("stats"))
    out = capfd.readouterr().out
    assert "flows        1  65536  0.0 %" in out
    assert "drop_crowd" not in out
    run(Command("metrics"))
    assert 'passt_frames_total{direction="to_guest"} 6\n' in capfd.readouterr().out
    run(Command("close", words=("0.3",)))
    assert bench.source.closed == [(0, 3)]
    run(Command("log"))
    assert capfd.readouterr().out == "info\n"


def test_refusals_are_told(bench: Bench) -> None:
    kinds = "flow_opened, flow_closed, flow_refused"
    for command, line in (
            (Command("close", words=("9.9",)), f"{bench.path}: flow 9.9 is not there any more"),
            (Command("log", words=("loud",)), "level 'loud' is none of debug, info, warning"),
            (Command("events", words=("none",)), f"'none' is no kind of event; there are {kinds}, "),
            (Command("flows", words=(":0",)), "port '0' is not a number from 1 to 65535"),
            (Command("flows", words=("path=x",)), "path 'x' is none of link, bypass"),
            (Command("flows", path="/nowhere"), "/nowhere: No such file or directory")):  # fmt: skip
        with pytest.raises(HostError, match="^" + re.escape(line)):
            run(command)
    for wrong in (Command("flows", pid=1), Command("close", words=("x",))):
        with pytest.raises(ConfigError):
            run(wrong)
    assert bench.source.closed == []


def test_without_an_instance_the_way_to_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nonexistent")
    with pytest.raises(ConfigError, match="there is no instance with --control auto"):
        instances.choose(None, None)
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    for command in (Command("list"), Command("flows"), Command("flows", pid=1)):
        with pytest.raises(ConfigError, match=r"^XDG_RUNTIME_DIR, the directory .* is not set"):
            run(command)


def test_events_are_lines(bench: Bench) -> None:
    lines = instances.Instance(bench.path).lines("/v1/events?kinds=flow_closed")

    def tell() -> None:
        while bench.source.watcher is None:
            time.sleep(0.01)
        bench.source.watcher.on_flow_ended(make_flow(5), "reset")

    thread = threading.Thread(target=tell)
    thread.start()
    event = json.loads(next(lines))
    thread.join()
    lines.close()  # type: ignore[attr-defined]
    assert event_text(event).partition(" ")[2] == (
        "flow closed 5.3 tcp 192.0.2.2:40000 -> 198.51.100.1:443: reset, sent 100, received 20.0G, 5s")


def test_metrics_are_served(bench: Bench) -> None:
    address, port = start_serving(bench)
    wait_until(lambda: b"passt_build_info" in fetch(address, port), "the metrics are served")
    told = []
    for method, path in (("HEAD", "/metrics"), ("GET", "/")):
        connection = http.client.HTTPConnection(address, port, timeout=60)
        connection.request(method, path)
        response = connection.getresponse()
        told.append((response.status, b"the metrics are at /metrics" in response.read()))
        connection.close()
    assert told == [(200, False), (404, True)]


def test_hostile_clients_of_the_metrics_are_few_and_have_their_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "CLIENT_S", 1.0)
    place = start_serving(bench)

    def connect() -> socket.socket:
        while True:
            try:
                return socket.create_connection(place, 60)
            except ConnectionRefusedError:
                time.sleep(0.01)

    n_threads = threading.active_count()
    crowd = [connect() for _ in range(5 * exporter.MAX_CLIENTS)]
    # Most are closed at once; each of the others, which sends a byte now and then, when its time is over.
    for _ in range(10):
        for sock in crowd:
            with contextlib.suppress(OSError):
                sock.send(b"G")
        time.sleep(0.02)
    assert threading.active_count() <= n_threads + 2 * exporter.MAX_CLIENTS + 1
    for sock in crowd:
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(100) == b""
        sock.close()
    wait_until(lambda: fetch(*place) != b"", "there is room again")


def start_serving(bench: Bench) -> tuple[str, int]:
    """Serve metrics at a port that was free, of an address that no other test has; they come soon."""
    octets = os.getpid().to_bytes(3, "big")
    with socket.create_server((f"127.{octets[0] + 1}.{octets[1]}.{octets[2]}", 0)) as free:
        address, port = free.getsockname()
    instance = instances.Instance(bench.path)
    threading.Thread(target=serve, args=(instance, f"{address}:{port}"), daemon=True).start()
    return address, port


def fetch(address: str, port: int) -> bytes:
    try:
        with urllib.request.urlopen(f"http://{address}:{port}/metrics", timeout=60) as answer:
            return bytes(answer.read())
    except OSError:
        return b""


@pytest.mark.parametrize("address", ["9100", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:0", ":9100", "::1:99999",
                                     f"{'é' * 70}.x:9100"])
def test_address_to_serve_on_is_checked(address: str) -> None:
    with pytest.raises(ConfigError, match="--listen"):
        serve(instances.Instance("/x"), address)
