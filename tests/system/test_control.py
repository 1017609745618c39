"""The control socket of real runs, asked by curl: flows with real sockets under them, events, files."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.lab import FAR4, HOST4, Lab, Running
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs_root

SIZE = 3_000_000
PORT = 9700
# A connection that fetches SIZE bytes and stays open; others are accepted, and read to their end.
GUEST = f"""
import socket
out = socket.create_connection(("{FAR4}", 8000))
out.sendall(b"GET /{SIZE} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
data = b""
while len(data.partition(b"\\r\\n\\r\\n")[2]) < {SIZE}:
    data += out.recv(1 << 16)
door = socket.create_server(("0.0.0.0", {PORT}))
print(out.getsockname()[1], len(data), flush=True)
while True:
    with door.accept()[0] as client:
        while client.recv(100):
            pass
"""


class Asker:
    """Asks the control socket *path* as the user who started the program."""

    def __init__(self, lab: Lab, path: str, *, user: bool) -> None:
        self.lab, self.path, self.user = lab, path, user

    def curl(self, target: str, *options: str) -> bytes:
        return self.lab.host.run(
            ["curl", "-sS", *options, "--unix-socket", self.path, f"http://passt{target}"], user=self.user
        ).stdout

    def ask(self, target: str, *options: str) -> Any:
        return json.loads(self.curl(target, *options))


@pytest.fixture
def guest(lab: Lab, user: bool, scratch: Path) -> Iterator[tuple[Running, Asker, int, int]]:
    """Lend a command with an open connection, its own port and what it received, and its control socket."""
    path = str(scratch / "control")
    running = lab.start(
        ["--config-net", "--control", path, "-t", str(PORT)],
        ["/usr/bin/python3", "-I", "-c", GUEST], user=user)  # fmt: skip
    assert running.popen.stdout is not None
    port, received = running.popen.stdout.readline().split()
    yield running, Asker(lab, path, user=user), int(port), int(received)
    running.kill()


def test_flow_by_the_link_is_told_to_the_byte(guest: tuple[Running, Asker, int, int]) -> None:
    _, asker, port, received = guest
    found: list[dict[str, Any]] = []

    def is_half_closed() -> bool:
        found[:] = asker.ask(f"/v1/flows?protocol=tcp&port={port}")["flows"]
        return [flow["state"] for flow in found] == ["FIN_WAIT_2"]

    # The server has ended its stream, which the guest acknowledged: its FIN is not counted.
    wait_until(is_half_closed, "the server's end is acknowledged")
    [flow] = found
    assert (flow["path"], flow["direction"]) == ("link", "outbound")
    assert flow["remote"] == {"address": FAR4, "port": 8000} == flow["host"]["peer"]
    assert flow["guest"] == {"address": HOST4, "port": port}
    assert flow["host"]["local"]["address"] == HOST4
    request = len(f"GET /{SIZE} HTTP/1.1\r\nHost: x\r\n\r\n")
    assert flow["bytes"] == {"to_guest": received, "to_host": request}
    assert flow["packets"]["to_guest"] > 2
    assert flow["rtt_us"]["guest"] > 0
    assert flow["rtt_us"]["host"] > 0
    assert flow["window"]["guest"] > 0
    info = asker.ask("/v1/info")
    assert info["mode"] == "pasta"
    assert info["limits"]["flows"]["now"] >= 1
    assert info["command"][0] == "/usr/bin/python3"


def test_bypassed_connection_is_told_to_the_byte(lab: Lab, guest: tuple[Running, Asker, int, int]) -> None:
    _, asker, _, _ = guest
    script = f"exec 3<>/dev/tcp/127.0.0.1/{PORT}; echo -n 12345 >&3; sleep 600"
    client = lab.host.spawn(["bash", "-c", script])

    def flows() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = asker.ask("/v1/flows?path=bypass&protocol=tcp")["flows"]
        return found

    wait_until(lambda: [flow["bytes"]["to_guest"] for flow in flows()] == [5], "five bytes pass")
    [flow] = flows()
    assert (flow["state"], flow["direction"], flow["bytes"]["to_host"]) == ("SPLICED", "inbound", 0)
    assert str(PORT) in flow["rule"]
    assert flow["host"]["local"] == {"address": "127.0.0.1", "port": PORT}
    assert flow["guest"]["port"] == PORT
    client.kill()
    wait_until(lambda: not flows(), "the flow ends")


def test_flow_is_closed_on_demand(guest: tuple[Running, Asker, int, int]) -> None:
    _, asker, port, _ = guest
    [flow] = asker.ask(f"/v1/flows?port={port}")["flows"]
    closed = asker.ask(f"/v1/flows/{flow['id']}", "-X", "DELETE")
    assert closed["id"] == flow["id"]
    assert asker.ask(f"/v1/flows?port={port}")["flows"] == []
    assert asker.ask(f"/v1/flows/{flow['id']}", "-X", "DELETE")["status"] == 404


def test_events_tell_of_flows_with_their_totals(lab: Lab, guest: tuple[Running, Asker, int, int]) -> None:
    running, asker, port, received = guest
    listener = lab.host.spawn(
        ["curl", "-sSN", "--unix-socket", asker.path, "http://passt/v1/events"], user=asker.user, stdout=-1)
    out = listener.popen.stdout
    assert out is not None
    wait_until(lambda: asker.ask("/v1/info")["listeners_of_events"] == 1, "curl listens")
    found: list[dict[str, Any]] = []

    def has_acknowledged_all() -> bool:
        found[:] = asker.ask(f"/v1/flows?port={port}")["flows"]
        return [flow["bytes"]["to_guest"] for flow in found] == [received]

    wait_until(has_acknowledged_all, "the guest's kernel acknowledges what the guest has read")
    asker.ask(f"/v1/flows/{found[0]['id']}", "-X", "DELETE")
    event = json.loads(out.readline())
    assert (event["event"], event["reason"]) == ("flow_closed", "asked")
    assert event["flow"]["bytes"]["to_guest"] == received
    lab.host.run(["bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{PORT}; echo -n 123 >&3"])
    events = [json.loads(out.readline()) for _ in range(2)]
    assert [event["event"] for event in events] == ["flow_opened", "flow_closed"]
    listener.kill()
    wait_until(lambda: asker.ask("/v1/info")["listeners_of_events"] == 0, "the listener is gone")
    assert running.popen.poll() is None


def test_metrics_and_ports(guest: tuple[Running, Asker, int, int]) -> None:
    _, asker, _, received = guest
    text = asker.curl("/v1/metrics").decode()
    counted = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert int(counted['passt_bytes_total{direction="to_guest"}']) > received
    ports = asker.ask("/v1/ports")["ports"]
    [port] = [port for port in ports if port["protocol"] == "tcp" and port["side"] == "host"]
    assert (port["port"], port["leads_to"]) == (PORT, PORT)


def test_others_may_not_even_connect(lab: Lab, guest: tuple[Running, Asker, int, int]) -> None:
    _, asker, _, _ = guest
    assert os.stat(asker.path).st_mode & 0o777 == 0o600
    done = lab.host.run(
        ["setpriv", "--reuid=65533", "--regid=65533", "--clear-groups", "curl", "-sS", "--unix-socket",
         asker.path, "http://passt/v1/info"], check=False)  # fmt: skip
    assert done.returncode != 0


def test_events_tell_of_ports_that_are_opened_and_closed(
    lab: Lab, guest: tuple[Running, Asker, int, int]
) -> None:
    _, asker, _, _ = guest
    listener = lab.host.spawn(
        ["curl", "-sSN", "--unix-socket", asker.path, "http://passt/v1/events?kinds=port_opened,port_closed"],
        user=asker.user, stdout=-1)  # fmt: skip
    out = listener.popen.stdout
    assert out is not None
    wait_until(lambda: asker.ask("/v1/info")["listeners_of_events"] == 1, "curl listens")
    change = ["-X", "PATCH", "-d"]
    assert asker.ask("/v1/ports", *change, json.dumps({"add": ["-t 9310-9312:9410-9412"]}))["opened"] == 3
    assert asker.ask("/v1/ports", *change, json.dumps({"delete": ["-t 9310-9312:9410-9412"]}))["closed"] == 3
    events = [json.loads(out.readline()) for _ in range(6)]
    assert [event["event"] for event in events] == ["port_opened"] * 3 + ["port_closed"] * 3
    assert {(event["port"], event["leads_to"]) for event in events[:3]} == {
        (9310 + i, 9410 + i) for i in range(3)}  # fmt: skip
    assert {(event["side"], event["protocol"], event["auto"]) for event in events} == {("host", "tcp", False)}
    # More at once than is told: the rest is counted, and the program serves meanwhile.
    asker.ask("/v1/ports", *change, json.dumps({"add": ["-t 20001-20300"]}))
    told = 0
    while (event := json.loads(out.readline()))["event"] != "lost":
        told += 1
    assert 0 < told <= 64
    assert told + event["events"] == 300
    listener.kill()


def test_debug_that_is_set_later_tells_why_as_that_of_the_start_does(
    lab: Lab, guest: tuple[Running, Asker, int, int]
) -> None:
    running, asker, _, _ = guest
    asker.ask("/v1/log", "-X", "PUT", "-d", '{"level":"debug"}')
    client = lab.host.spawn(["bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{PORT}; sleep 600"])
    wait_until(lambda: asker.ask("/v1/flows?path=bypass&protocol=tcp")["flows"] != [], "the flow is there")
    client.kill()
    running.send(signal.SIGTERM)
    stderr = running.finish().stderr
    assert b": bypass " in stderr


def test_file_that_was_opened_to_others_serves_who_started_the_program_alone(
    lab: Lab, guest: tuple[Running, Asker, int, int]
) -> None:
    _, asker, _, _ = guest
    socket = Path(asker.path)
    home = socket.parent
    modes = home.stat().st_mode, socket.stat().st_mode
    home.chmod(0o755)
    socket.chmod(0o666)
    try:
        stranger = ["setpriv", "--reuid=65533", "--regid=65533", "--clear-groups", "curl", "-sS",
                    "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", asker.path]  # fmt: skip
        assert lab.host.run([*stranger, "http://passt/v1/info"]).stdout == b"403"
        assert lab.host.run([*stranger, "-X", "DELETE", "http://passt/v1/flows/0.0"]).stdout == b"403"
    finally:
        socket.chmod(modes[1])
        home.chmod(modes[0])
    assert asker.ask("/v1/info")["mode"] == "pasta"


@pytest.mark.parametrize("foreground", [True, False])
def test_auto_is_named_after_the_process_and_stale_files_go(
    lab: Lab, user: bool, scratch: Path, foreground: bool
) -> None:
    directory = scratch / "passt"
    env = {"XDG_RUNTIME_DIR": str(scratch), "PATH": os.environ["PATH"]}
    done = lab.run(["--control", "auto", "-q"], ["true"], user=user, env=env)
    assert done.returncode == 0
    pids = scratch / "pid"
    options = ["--control", "auto", "-P", str(pids), "-s", str(scratch / "socket")]
    argv = [lab.passt, *options, *(["-f"] if foreground else [])]
    running = lab.host.spawn(argv, user=user, env=env, stdout=-3, stderr=-3)
    wait_until(lambda: pids.exists() and pids.read_text(encoding="ascii") != "", "passt is ready")
    [name] = [path.name for path in directory.iterdir()]
    pid = pids.read_text(encoding="ascii").strip()
    asker = Asker(lab, str(directory / name), user=user)
    assert str(asker.ask("/v1/info")["pid"]) == pid
    passtctl = str(Path(lab.pasta).with_name("passtctl"))
    shown = lab.host.run([passtctl, "sock", "list", "--json"], user=user, env=env).stdout
    assert [(str(row["pid"]), row["serves"]) for row in json.loads(shown)] == [(pid, str(scratch / "socket"))]
    nobody = lab.host.run([passtctl, "web", "flows"], user=user, env=env, check=False)
    assert (nobody.returncode, nobody.stdout) == (1, b"")
    assert f"nor the name of an instance: there are {pid} ({scratch}/socket)\n".encode() in nobody.stderr
    if user or foreground:
        assert name == f"{pid}.sock"
    lab.host.run(["kill", pid], user=user)
    running.finish()
