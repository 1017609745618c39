"""Port rules of a running program, changed by HTTP and passtctl; explanations beside real flows."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.lab import FAR4, FAR6, HOST4, HOST6, OUTSIDE4, Lab, Running
from tests.support.processes import children, read, status_field, wait_until
from tests.system.machines import passt
from tests.system.test_pesto import (
    BINDER,
    ECHO,
    NONE,
    STRANGER,
    STREAM,
    Steered,
    conf_path,
    everywhere,
    serving,
    spawn_ready,
)
from tests.system.test_sandbox import look

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Sequence

pytestmark = pytest.mark.needs_root

# Arguments: the socket, how often. Adds ports and deletes them, on one connection.
CHURN = """
import http.client, json, socket, sys
class Unix(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(sys.argv[1])
asker = Unix("passt", timeout=60)
for n in range(int(sys.argv[2])):
    rules = [f"{option} {9710 + n % 10}" for option in ("-t", "-u", "-T")]
    for what in ("add", "delete"):
        asker.request("PATCH", "/v1/ports", json.dumps({what: rules}))
        answer = asker.getresponse()
        assert (answer.status, json.loads(answer.read())["opened"]) == (200, 3 if what == "add" else 0)
"""
# Sends nonsense, much and little of it, and hangs up; prints the statuses that it got.
BAD = """
import socket, sys
seen = set()
for n in range(300):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(30)
    sock.connect(sys.argv[1])
    body = (b"[" * 100_000, b'{"add":["-t 1-65535","-u 1-65535"]}',
            b'{"add":[' + b'"-t 9",' * 9000 + b'"-t 9"]}',
            b'{"add":[{"table":"HOST","protocol":"tcp","first":"9"}]}', b'{"add":["-t \\\\ud800"]}')[n % 5]
    length = 10 << 20 if n % 7 == 0 else len(body)
    head = b"PATCH /v1/ports HTTP/1.1\\r\\nhost: x\\r\\ncontent-length: %d\\r\\n\\r\\n" % length
    try:
        sock.sendall(head + body)
        if length > len(body):
            for _ in range(100):
                sock.sendall(b"x" * 65536)
    except OSError:
        pass
    try:
        seen.add(sock.recv(4096)[9:12].decode())
    except OSError:
        pass
    sock.close()
print(*sorted(seen))
"""
# Opens flows, each named by an argument PROTOCOL/ADDRESS/PORT, prints their own ports, and keeps them.
OPENER = """
import socket, sys, threading
socks = []
for word in sys.argv[1:]:
    protocol, address, port = word.split("/")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM)
    sock.settimeout(60)
    sock.connect((address, int(port)))
    if protocol == "udp":
        sock.send(b"hello")
    socks.append(sock)
print(*(sock.getsockname()[1] for sock in socks), flush=True)
threading.Event().wait()
"""


class Controlled(Steered):
    """A program with a control socket, and no socket for pesto."""

    def curl(self, method: str, target: str, body: object = None) -> tuple[int, Any]:
        """Send one request; return the status and what came."""
        data = [] if body is None else ["-H", "content-type: application/json", "-d", json.dumps(body)]
        argv = ["curl", "-sS", "-X", method, *data, "-w", "\n%{http_code}", "--unix-socket", self.path,
                f"http://passt{target}"]  # fmt: skip
        text, _, status = self.lab.host.run(argv, user=self.user).stdout.rpartition(b"\n")
        return int(status), json.loads(text)

    def change(self, status: int = 200, **body: Sequence[str]) -> Any:
        """Ask for a change, which has to get *status*."""
        found, answer = self.curl("PATCH", "/v1/ports", body)
        assert found == status, answer
        return answer

    def rules(self) -> list[str]:
        """List the rules, with their tables."""
        return [f"{rule['table']} {rule['text']}" for rule in self.curl("GET", "/v1/ports")[1]["rules"]]

    def passtctl(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[bytes]:
        """Run passtctl; its status has to be *status*."""
        program = str(Path(self.lab.pasta).with_name("passtctl"))
        done = self.lab.host.run([program, "-s", self.path, *arguments], user=self.user, check=False)
        assert done.returncode == status, (done.stdout, done.stderr)
        return done

    def explain(self, query: str) -> list[dict[str, Any]]:
        status, found = self.curl("GET", f"/v1/explain?{query}")
        assert status == 200, found
        flows: list[dict[str, Any]] = found["flows"]
        return flows


@contextlib.contextmanager
def controlling(lab: Lab, *options: str, user: bool, ports: Sequence[int] = ()) -> Iterator[Controlled]:
    with serving(lab, "--control", *options, user=user, ports=ports) as (running, path):
        yield Controlled(lab, running, path, user=user)


@pytest.fixture
def controlled(lab: Lab, user: bool) -> Iterator[Controlled]:
    """Lend a pasta without ports, with services behind 9700 to 9702 and 81."""
    with controlling(lab, *NONE, user=user, ports=(9700, 9701, 9702, 81)) as made:
        yield made


def test_ports_come_and_go(controlled: Controlled) -> None:
    assert controlled.rules() == []
    inner, outer = everywhere(9700)
    assert not any(controlled.answers(*inner))
    done = controlled.change(add=["-t 9700-9701", "-u 0.0.0.0/9700", "-u [::]/9700"])
    assert (done["opened"], done["closed"], done["notes"]) == (4, 0, [])
    assert all(controlled.answers(*inner))
    assert all(controlled.answers(*outer, outside=True))
    controlled.change(delete=["-t 9700-9701"], add=["-t 127.0.0.1/9700:9701"])
    assert controlled.answers(*inner) == [True, False, False, False, *[True] * 4]
    status, done = controlled.curl("PUT", "/v1/ports", {"HOST": ["-t auto"], "SPLICE": ["-T 9761:9760"]})
    assert (status, done["rules"][-1]["text"]) == (200, "TCP [*]%lo:9761  =>  9760")
    wait_until(lambda: controlled.answers("STREAM:9702@::1") == [True], "bound ports are followed")
    found = controlled.curl("GET", "/v1/ports")[1]
    assert {port["auto"] for port in found["ports"] if port["table"] == "HOST"} == {True}
    assert sum(rule["open"] for rule in found["rules"]) >= 4   # 81 is closed to users
    controlled.curl("PUT", "/v1/ports", {"HOST": [], "SPLICE": []})
    assert controlled.rules() == []
    assert not any(controlled.answers(*inner))


def test_passtctl_changes_ports(lab: Lab, controlled: Controlled) -> None:
    done = controlled.passtctl("ports", "add", "-t", "127.0.0.1/9700", "-u", "9700", "-T", "9761:9760")
    assert (done.stdout, done.stderr) == (b"", b"")
    inner, _ = everywhere(9700)
    assert controlled.answers(*inner) == [True, False, False, False, *[True] * 4]
    controlled.passtctl("ports", "del", "-u", "9700")
    listed = controlled.passtctl("ports").stdout.decode()
    assert "HOST    TCP [127.0.0.1]:9700  =>  9700     1  -t 127.0.0.1/9700" in listed
    taken = lab.host.spawn(["/usr/bin/python3", "-I", "-c", BINDER, "9720", "9722"])
    assert taken.popen.stdout is not None
    assert taken.popen.stdout.readline() == b"ready\n"
    done = controlled.passtctl("ports", "set", "-t", "9720-9723", status=1)
    assert done.stderr.decode().splitlines() == [
        "HOST: TCP port 9720: cannot listen: Address already in use",
        "HOST: TCP port 9722: cannot listen: Address already in use", "passtctl: nothing was changed"]
    assert controlled.answers("STREAM:9700@127.0.0.1")
    taken.kill()
    controlled.passtctl("ports", "set", "-t", "9701")
    assert controlled.rules() == ["HOST TCP [*]:9701  =>  9701", "SPLICE TCP [*]%lo:9761  =>  9760"]
    text = controlled.passtctl("explain", "tcp", "--inbound", "9701").stdout.decode()
    assert "inbound tcp 127.0.0.1:50000 -> 127.0.0.1:9701: forwarded (bypass)" in text


def test_low_port_as_at_the_start(controlled: Controlled) -> None:
    if controlled.user:
        problem = controlled.change(409, add=["-t 81", "-t 9700"])
        [error] = problem["errors"]
        assert error.startswith("HOST: TCP port 81: cannot listen: Permission denied; ports below ")
        assert controlled.rules() == []
        return
    controlled.change(add=["-t 81", "-u 0.0.0.0/81", "-u [::]/81"])
    inner, outer = everywhere(81)
    assert all(controlled.answers(*inner))
    assert all(controlled.answers(*outer, outside=True))
    controlled.change(delete=["-t 81"])
    assert controlled.answers(*inner) == [*[False] * 4, *[True] * 4]


def test_connections_live_on_through_two_thousand_changes(lab: Lab, controlled: Controlled) -> None:
    controlled.change(add=["-t 9700", "-t 9701"])
    streams = []
    for place, address in ((lab.host, "127.0.0.1"), (lab.host, "::1"), (lab.outside, HOST4),
                           (lab.outside, HOST6)):  # fmt: skip
        for port in (9700, 9701):
            reader, writer = os.pipe()
            with os.fdopen(reader, "rb") as source:
                argv = ["/usr/bin/python3", "-I", "-c", STREAM, address, str(port)]
                running = place.spawn(argv, stdin=source)
            assert running.popen.stdout is not None
            assert running.popen.stdout.readline() == b"ready\n"
            streams.append((running, writer))
    controlled.change(delete=["-t 9701"])
    churn = ["/usr/bin/python3", "-I", "-c", CHURN, controlled.path]
    lab.host.run([*churn, "20"], user=controlled.user)
    before = controlled.n_descriptors()
    lab.host.run([*churn, "980"], user=controlled.user, timeout=300)
    wait_until(lambda: controlled.n_descriptors() <= before + 2, "nothing is left of the changes")
    for running, writer in streams:
        os.close(writer)
        done = running.finish()
        assert (done.returncode, done.stderr) == (0, b"")
        assert int(done.stdout) > 50
    assert controlled.answers("STREAM:9700@127.0.0.1", "STREAM:9701@127.0.0.1") == [True, False]
    assert controlled.rules() == ["HOST TCP [*]:9700  =>  9700"]


def test_bad_input_changes_nothing_and_harms_nobody(controlled: Controlled) -> None:
    controlled.change(add=["-t 9700"])
    before, memory = controlled.n_descriptors(), int(status_field(controlled.running.pid, "VmHWM").split()[0])
    argv = ["/usr/bin/python3", "-I", "-c", BAD, controlled.path]
    statuses = set(controlled.lab.host.run(argv, user=controlled.user, timeout=120).stdout.decode().split())
    assert statuses == {"400", "409", "413"}
    assert controlled.rules() == ["HOST TCP [*]:9700  =>  9700"]
    wait_until(lambda: controlled.n_descriptors() <= before + 2, "nothing is left of its clients")
    assert int(status_field(controlled.running.pid, "VmHWM").split()[0]) < memory + 8192
    assert controlled.answers("STREAM:9700@127.0.0.1") == [True]


def test_client_of_another_user_is_refused(controlled: Controlled) -> None:
    home = Path(controlled.path).parent
    mode = home.stat().st_mode
    assert Path(controlled.path).stat().st_mode & 0o777 == 0o600
    argv = ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups", "curl", "-sS",
            "-X", "PATCH", "-d", '{"add":["-t 9700"]}', "-w", "\n%{http_code}",
            "--unix-socket", controlled.path, "http://passt/v1/ports"]  # fmt: skip
    home.chmod(0o755)
    try:
        assert controlled.lab.host.run(argv, check=False).returncode != 0
        # The caller opens the file: strangers get no further.
        Path(controlled.path).chmod(0o666)
        assert controlled.lab.host.run(argv).stdout.endswith(b"\n403")
    finally:
        home.chmod(mode)
    assert controlled.rules() == []


def test_explained_inbound_flow_is_the_real_one(lab: Lab, controlled: Controlled) -> None:
    controlled.change(add=["-t 9710:9700", "-t 127.0.0.1/9711:9701", "-u 8100-8199,~8107"])
    clients = [(lab.host, "127.0.0.1", 9710), (lab.host, "::1", 9710), (lab.host, HOST4, 9710),
               (lab.outside, HOST4, 9710), (lab.outside, HOST6, 9710),
               (lab.host, "127.0.0.1", 9711)]  # fmt: skip
    for place, address, port in clients:
        client = place.spawn(["/usr/bin/python3", "-I", "-c", OPENER, f"tcp/{address}/{port}"])
        own = int(first_line(client))

        [real] = real_flows(controlled, own)
        source = real["host"]["peer"]["address"]
        [said] = controlled.explain(f"inbound={port}&protocol=tcp&address={address}&source={source}")
        assert (said["verdict"], said["path"], said["rule"]) == ("forwarded", real["path"], real["rule"])
        assert said["guest"]["destination"] == real["guest"]
        if real["path"] == "link":
            assert said["guest"]["source"]["address"] == real["remote"]["address"]
        client.kill()
    for query, why in (("inbound=8107&protocol=udp", "no rule of the table HOST has UDP port 8107"),
                       ("inbound=9711&protocol=tcp&address=::1", "no rule has this address"),
                       ("inbound=9799&protocol=tcp", "no rule of the table HOST has TCP port 9799")):
        assert {flow["why"] for flow in controlled.explain(query)} == {why}
    controlled.change(add=["-t 9730-9739,auto"])
    [said] = controlled.explain("inbound=9731&protocol=tcp")
    assert said["why"] == "it follows bound ports, and port 9731 was not bound when last looked"
    # Nothing of this opened anything.
    assert controlled.curl("GET", "/v1/ports")[1]["rules"][-1]["open"] == 0


def real_flows(controlled: Controlled, port: int) -> list[dict[str, Any]]:
    """Wait for inbound flows of a client with that port, and return them."""
    found: list[dict[str, Any]] = []

    def is_there() -> bool:
        listed = controlled.curl("GET", f"/v1/flows?protocol=tcp&direction=inbound&port={port}")[1]["flows"]
        found[:] = [flow for flow in listed if flow["host"]["peer"]["port"] == port]
        return bool(found)

    wait_until(is_there, "the flow is there")
    return found


def outbound_flow(controlled: Controlled, protocol: str, port: int) -> dict[str, Any]:
    """Wait for the flow that the guest has opened from that port, and return it."""
    found: list[dict[str, Any]] = []

    def is_there() -> bool:
        query = f"protocol={protocol}&direction=outbound&port={port}"
        listed = controlled.curl("GET", f"/v1/flows?{query}")[1]["flows"]
        found[:] = [flow for flow in listed if flow["guest"]["port"] == port]
        return bool(found)

    wait_until(is_there, "the flow is there")
    return found[0]


def first_line(running: Running) -> bytes:
    """Read the first line of what a program prints; it has to print one."""
    assert running.popen.stdout is not None
    line = running.popen.stdout.readline()
    assert line, running.popen.stderr and running.popen.stderr.read()
    return line


def test_explained_outbound_flow_is_the_real_one(lab: Lab, user: bool) -> None:
    path = conf_path(lab)
    service = lab.host.spawn(["/usr/bin/python3", "-I", "-c", ECHO, "9760"])
    assert first_line(service) == b"ready\n"
    # The gateway is the host's loopback to the guest; a port of the namespace's loopback leads there, too.
    targets = [("tcp", FAR4, 8000), ("tcp", FAR6, 8000), ("tcp", OUTSIDE4, 9760), ("udp", OUTSIDE4, 9760),
               ("udp", "192.0.2.53", 53), ("udp", "192.0.2.53", 54), ("udp", "192.0.2.77", 9760),
               ("tcp", "127.0.0.1", 9761)]  # fmt: skip
    running = lab.start(
        ["--config-net", "--control", path, *NONE[:4], "-T", "9761:9760", "-U", "none", "--map-guest-addr",
         "192.0.2.77", "--dns-forward", "192.0.2.53", "--dns-host", FAR4],
        ["/usr/bin/python3", "-I", "-c", OPENER, *("/".join(map(str, target)) for target in targets)],
        user=user)  # fmt: skip
    ports = list(map(int, first_line(running).split()))
    controlled = Controlled(lab, running, path, user=user)
    reasons = []
    for (protocol, address, port), own in zip(targets, ports, strict=True):
        real = outbound_flow(controlled, protocol, own)
        [said] = controlled.explain(f"protocol={protocol}&address={address}&port={port}")
        assert (said["verdict"], said["path"]) == ("forwarded", real["path"])
        assert said["host"]["destination"] == real["host"]["peer"], said
        assert said["guest"]["source"]["address"] == real["guest"]["address"]
        assert said["guest"]["destination"] == real["remote"]
        reasons.append(said["why"])
    assert reasons == ["unchanged", "unchanged", "host loopback", "host loopback", "DNS forwarder",
                       "unchanged", "guest map", "bypass"]  # fmt: skip
    assert controlled.explain("protocol=tcp&address=127.0.0.1&port=9762")[0]["verdict"] == "not forwarded"
    assert controlled.explain("protocol=tcp&address=224.0.0.1&port=1")[0]["verdict"] == "refused"
    running.send(signal.SIGTERM)
    running.finish()
    service.kill()


@pytest.mark.parametrize("form", [[], ["--vhost-user"]])
def test_machine(lab: Lab, user: bool, form: list[str]) -> None:
    path = conf_path(lab)
    with passt(lab, *form, "--control", path, "-t", "9700", "-u", "none", user=user) as (running, machine):
        controlled = Controlled(lab, running, path, user=user)
        assert controlled.curl("GET", "/v1/info")[1]["socket"] == machine
        controlled.passtctl("ports", "add", "-t", "9701", "-u", "9701")
        assert controlled.rules() == ["HOST TCP [*]:9700  =>  9700", "HOST TCP [*]:9701  =>  9701",
                                      "HOST UDP [*]:9701  =>  9701"]  # fmt: skip
        assert b":9701" in lab.host.run(["ss", "-Hltn"]).stdout
        assert "no table SPLICE" in controlled.change(400, add=["-T 1"])["detail"]
        assert "only pasta sees" in controlled.change(400, add=["-t auto"])["detail"]
        [here, *_] = controlled.explain("inbound=9701&protocol=tcp")
        assert (here["verdict"], here["path"]) == ("forwarded", "link")
        controlled.passtctl("ports", "set", "-t", "none")
        assert b":970" not in lab.host.run(["ss", "-Hltun"]).stdout
    Path(path).unlink()


def test_what_is_left_of_rights(controlled: Controlled) -> None:
    """As with the socket for pesto: the thread in the namespace, and the helper if it can be of use."""
    pid = controlled.running.pid
    controlled.change(add=["-t 9700"])
    look(pid, threads=2)

    def helpers_and_all() -> tuple[int, int]:
        below = children(pid)
        return sum(b"\nSeccomp:\t2\n" in read(f"/proc/{one}/status") for one in below), len(below)

    # The helper goes under its filter in its own time.
    wanted = (0, 1) if controlled.user else (1, 2)
    wait_until(lambda: helpers_and_all() == wanted, f"helpers and all children are {wanted}")


def test_both_sockets_have_the_same_tables(lab: Lab, user: bool) -> None:
    directory = Path(conf_path(lab)).parent
    paths = str(directory / "pesto"), str(directory / "control")
    running = spawn_ready(lab, [*NONE, "-c", paths[0], "--control", paths[1]], ECHO, "9700", user=user)
    steered = Steered(lab, running, paths[0], user=user)
    controlled = Controlled(lab, running, paths[1], user=user)
    steered.pesto("-A", "-t", "9700")
    controlled.change(delete=["-t 9700"], add=["-u 9700"])
    assert steered.rules() == ["HOST", "UDP [*]:9700  =>  9700", "SPLICE"]
    assert controlled.answers("DGRAM:9700@127.0.0.1") == [True]
    running.send(signal.SIGTERM)
    running.finish()
    assert not Path(paths[0]).exists()
    assert not Path(paths[1]).exists()
