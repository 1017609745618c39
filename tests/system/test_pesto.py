"""Port rules of a running program, changed by pesto while real traffic goes on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from passt.facts.port_rule import PortRule
from passt.steer.messages import PATIENCE_S, Answer, Hello, NewTable
from tests.support.lab import HOST4, HOST6, Lab, Running
from tests.support.processes import children, process_state, status_field, wait_until
from tests.system.machines import passt
from tests.system.test_attach import Target, attach
from tests.system.test_bypass import namespace_of
from tests.system.test_sandbox import CAPABILITIES, look, strange_descriptors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

pytestmark = pytest.mark.needs_root

NONE = ["-t", "none", "-u", "none", "-T", "none", "-U", "none"]
STRANGER = 54399
# Echoes what comes to each of its ports, by both protocols and families.
ECHO = """
import socket, sys, threading
def each(sock):
    try:
        while data := sock.recv(65536):
            sock.sendall(data)
    except OSError:
        pass
    sock.close()
def accept(sock):
    while True:
        threading.Thread(target=each, args=(sock.accept()[0],), daemon=True).start()
def datagrams(sock):
    while True:
        data, peer = sock.recvfrom(65536)
        sock.sendto(data, peer)
for port in map(int, sys.argv[1:]):
    for kind, serve in ((socket.SOCK_STREAM, accept), (socket.SOCK_DGRAM, datagrams)):
        sock = socket.socket(socket.AF_INET6, kind)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("::", port))
        if kind == socket.SOCK_STREAM:
            sock.listen(128)
        threading.Thread(target=serve, args=(sock,), daemon=True).start()
print("ready", flush=True)
threading.Event().wait()
"""
# Arguments KIND:PORT@ADDRESS; prints for each whether a service echoes there.
PROBE = """
import json, os, socket, sys
def answers(kind, port, address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, getattr(socket, "SOCK_" + kind)) as sock:
        sock.settimeout(float(os.environ.get("PATIENCE", "20")))
        try:
            sock.connect((address, port))
            sock.send(b"hello")
            return sock.recv(100) == b"hello"
        except OSError:
            return False
made = []
for word in sys.argv[1:]:
    kind, rest = word.split(":", 1)
    port, address = rest.split("@")
    made.append(answers(kind, int(port), address))
print(json.dumps(made))
"""
# Sends numbered blocks and checks their echo, until standard input ends; prints how many.
STREAM = """
import select, socket, sys
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20)
sock.settimeout(60)
n = 0
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0.002)[0]:
    block = n.to_bytes(8, "big") * 512
    sock.sendall(block)
    back = b""
    while len(back) < len(block):
        got = sock.recv(65536)
        assert got, "the connection ended"
        back += got
    assert back == block, n
    n += 1
sock.shutdown(socket.SHUT_WR)
assert sock.recv(1) == b""
print(n, flush=True)
"""
# Arguments: where the package is, the socket, how often. Adds ports and deletes them.
CHURN = """
import sys
sys.path.insert(0, sys.argv[1])
from passt.pesto import command, main
for n in range(int(sys.argv[3])):
    port = str(9710 + n % 10)
    for what in ("-A", "-D"):
        assert main.run(command.parse([what, "-t", port, "-u", port, "-T", port, sys.argv[2]])) == 0
"""
BINDER = """
import socket, sys, time
socks = [socket.create_server(("127.0.0.1", int(port))) for port in sys.argv[1:]]
print("ready", flush=True)
time.sleep(60)
"""


class Steered:
    """A pasta with a command and a socket for pesto."""

    def __init__(self, lab: Lab, running: Running, path: str, *, user: bool) -> None:
        self.lab, self.running, self.path, self.user = lab, running, path, user

    def pesto(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[bytes]:
        """Run pesto; its status has to be *status*."""
        program = str(Path(self.lab.pasta).with_name("pesto"))
        done = self.lab.host.run([program, *arguments, self.path], user=self.user, check=False)
        assert done.returncode == status, (done.stdout, done.stderr)
        return done

    def rules(self) -> list[str]:
        """List the lines of the tables."""
        return [line.strip() for line in self.pesto().stdout.decode().splitlines()[1:]]

    def answers(self, *probes: str, outside: bool = False) -> list[bool]:
        """Tell for each KIND:PORT@ADDRESS whether a service answers."""
        place = self.lab.outside if outside else self.lab.host
        found: list[bool] = json.loads(place.run(["/usr/bin/python3", "-I", "-c", PROBE, *probes]).stdout)
        return found

    def n_descriptors(self) -> int:
        """Count the descriptors of the main process, but those of its reserve of sockets."""
        return len(os.listdir(f"/proc/{self.running.pid}/fd"))


def spawn_ready(lab: Lab, options: Sequence[str], script: str, *arguments: str, user: bool) -> Running:
    running = lab.start(["--config-net", *options], ["/usr/bin/python3", "-I", "-c", script, *arguments],
                        user=user)
    assert running.popen.stdout is not None
    line = running.popen.stdout.readline()
    assert line == b"ready\n", (line, running.popen.stderr and running.popen.stderr.read())
    return running


def conf_path(lab: Lab) -> str:
    """A path where everybody may make a socket."""
    directory = lab.directory / "conf"
    directory.mkdir(exist_ok=True)
    directory.chmod(0o1777)
    return str(directory / "socket")


@contextlib.contextmanager
def serving(lab: Lab, option: str, *options: str, user: bool,
            ports: Sequence[int] = ()) -> Iterator[tuple[Running, str]]:
    """Run a pasta whose *option* makes a socket; give the two, and see that both have gone at the end."""
    path = conf_path(lab)
    running = spawn_ready(lab, [*options, option, path], ECHO, *map(str, ports), user=user)
    try:
        yield running, path
    finally:
        running.send(signal.SIGTERM)
        assert running.finish().returncode == 128 + signal.SIGTERM
    assert not Path(path).exists()


@contextlib.contextmanager
def steering(lab: Lab, *options: str, user: bool, ports: Sequence[int] = ()) -> Iterator[Steered]:
    with serving(lab, "-c", *options, user=user, ports=ports) as (running, path):
        yield Steered(lab, running, path, user=user)


@pytest.fixture
def steered(lab: Lab, user: bool) -> Iterator[Steered]:
    """Lend a pasta without ports, with services behind 9700 to 9702 and 81."""
    with steering(lab, *NONE, user=user, ports=(9700, 9701, 9702, 81)) as made:
        yield made


def everywhere(port: int) -> tuple[list[str], list[str]]:
    """What to probe from the host and from outside: both protocols and families."""
    return ([f"{kind}:{port}@{address}" for kind in ("STREAM", "DGRAM")
             for address in ("127.0.0.1", "::1", HOST4, HOST6)],
            [f"{kind}:{port}@{address}" for kind in ("STREAM", "DGRAM") for address in (HOST4, HOST6)])


def test_ports_come_and_go(steered: Steered) -> None:
    assert steered.rules() == ["HOST", "SPLICE"]
    inner, outer = everywhere(9700)
    assert not any(steered.answers(*inner))
    # As Podman asks for it: a rule for each family, several with one call.
    specs = [word for option in ("-t", "-u") for address in ("0.0.0.0", "[::]")
             for word in (option, f"{address}/9700-9701")]
    done = steered.pesto("--add", *specs)
    assert (done.stdout, done.stderr) == (b"", b"")
    assert steered.rules() == [
        "HOST", "TCP [0.0.0.0]:9700-9701  =>  9700-9701", "TCP [::]:9700-9701  =>  9700-9701",
        "UDP [0.0.0.0]:9700-9701  =>  9700-9701", "UDP [::]:9700-9701  =>  9700-9701", "SPLICE"]
    assert all(steered.answers(*inner))
    assert all(steered.answers(*outer, outside=True))
    steered.pesto("--delete", *specs)
    assert steered.rules() == ["HOST", "SPLICE"]
    assert not any(steered.answers(*inner))
    # An address and an interface: the kernel is asked for the index of that from within the sandbox.
    steered.pesto("-A", "-t", "[::1]%lo/9702")
    assert steered.answers("STREAM:9702@::1", "STREAM:9702@127.0.0.1") == [True, False]
    # One socket for both families; and another target, which takes over the same socket.
    steered.pesto("-A", "-t", "9700:9701", "-u", "9700:9701")
    assert all(steered.answers(*inner))
    assert all(steered.answers(*outer, outside=True))
    steered.pesto("-t", "127.0.0.1/9700:9702", "-t", "[::1]/9700")
    assert steered.answers(*inner) == [True, True, *[False] * 6]


def test_calls_of_podman_and_rootlesskit_in_their_order(lab: Lab, user: bool) -> None:
    def published(port: str, *protocols: str) -> list[str]:
        return [word for letter in protocols for address in ("0.0.0.0", "[::]")
                for word in (f"-{letter}", f"{address}/{port}")]

    inner, _ = everywhere(9700)
    first, second = published("9700", "t", "u"), published("9701-9702", "t")
    with steering(lab, *NONE, user=user, ports=(9700, 9701, 9702)) as steered:
        steered.pesto("--add", *first)                       # run -p 9700 -p 9700/udp
        steered.pesto("--add", *second)                      # another container, with a range
        assert all(steered.answers(*inner))
        # A second container that wants the same port is refused, and harms neither.
        done = steered.pesto("--add", *published("9700", "t"), "-t", "127.0.0.1/9709", status=1)
        assert b"conflict" in done.stderr
        for _ in range(3):                                   # restart: it goes and comes back
            steered.pesto("--delete", *first)
            assert not any(steered.answers(*inner))
            steered.pesto("--add", *first)
            assert all(steered.answers(*inner))
        for specs in (first, second):                        # network reload: all of them, one by one
            steered.pesto("--delete", *specs)
            steered.pesto("--add", *specs)
        assert all(steered.answers(*inner, "STREAM:9701@::1", "STREAM:9702@127.0.0.1"))
        steered.pesto("--delete", *second)                   # stop
        steered.pesto("--delete", *first)
        done = steered.pesto("--delete", *first, status=1)   # twice, as after a crash
        assert b"Couldn't find" in done.stderr
        assert steered.rules() == ["HOST", "SPLICE"]
        # RootlessKit: one port at a time, by short options, IPv4 and IPv6 apart.
        for spec in ("0.0.0.0/9700", "[::]/9700", "127.0.0.1/9701", "[::1]/9701"):
            steered.pesto("-A", "-t", spec)
        steered.pesto("-A", "-u", "0.0.0.0/9700")
        by_tcp = [probe for probe in inner if probe.startswith("STREAM")]
        assert all(steered.answers(*by_tcp, "STREAM:9701@::1"))
        for spec in ("[::1]/9701", "127.0.0.1/9701", "[::]/9700", "0.0.0.0/9700"):
            steered.pesto("-D", "-t", spec)
        assert steered.rules() == ["HOST", "UDP [0.0.0.0]:9700  =>  9700", "SPLICE"]
    # Ended and started anew, the socket is there at once, and knows nothing of before.
    with steering(lab, *NONE, user=user, ports=(9700,)) as steered:
        steered.pesto("--add", *first)
        assert all(steered.answers(*inner))


def test_rules_of_the_start_can_be_changed(lab: Lab, user: bool) -> None:
    with steering(lab, "-t", "9700", "-u", "9700", "-T", "none", "-U", "none", user=user,
                  ports=(9700,)) as steered:
        inner, _ = everywhere(9700)
        assert all(steered.answers(*inner))
        done = steered.pesto("-s", "-D", "-u", "9700")
        assert b"Previous configuration" in done.stdout
        assert steered.rules() == ["HOST", "TCP [*]:9700  =>  9700", "SPLICE"]
        assert steered.answers(*inner) == [*[True] * 4, *[False] * 4]
        steered.pesto("-C", "HOST")
        assert not any(steered.answers(*inner))


def test_defaults_of_the_start_stand_beside_new_rules(lab: Lab, user: bool) -> None:
    # UDP port 9700 goes with TCP's, and all UDP ports are followed.
    with steering(lab, "-t", "9700", user=user, ports=(9700, 9701)) as steered:
        assert steered.rules() == [
            "HOST", "TCP [*]:9700  =>  9700", "UDP [*]:9700  =>  9700  (best effort)",
            "UDP [*]:1-65535  =>  1-65535  (best effort) (auto-scan)", "SPLICE",
            "TCP [*]%lo:1-65535  =>  1-65535  (best effort) (auto-scan)",
            "UDP [*]%lo:1-65535  =>  1-65535  (best effort) (auto-scan)"]
        steered.pesto("-A", "-t", "9701")
        inner, _ = everywhere(9701)
        wait_until(lambda: all(steered.answers(*inner)), "the new port, and the one that is followed")
        steered.pesto("-D", "-U", "auto", "-T", "auto")
        assert steered.rules()[-1] == "SPLICE"


def test_connections_live_on_through_two_thousand_changes(lab: Lab, steered: Steered) -> None:
    steered.pesto("-A", "-t", "9700", "-t", "9701")
    ends = [(lab.host, "127.0.0.1"), (lab.host, "::1"), (lab.outside, HOST4), (lab.outside, HOST6)]
    streams = []
    for place, address in ends:
        for port in (9700, 9701):
            reader, writer = os.pipe()
            with os.fdopen(reader, "rb") as source:
                argv = ["/usr/bin/python3", "-I", "-c", STREAM, address, str(port)]
                running = place.spawn(argv, stdin=source)
            assert running.popen.stdout is not None
            assert running.popen.stdout.readline() == b"ready\n"
            streams.append((running, writer))
    # The rule of half of them goes; their connections stay.
    steered.pesto("-D", "-t", "9701")
    library = str(lab.directory / "lib")
    churn = ["/usr/bin/python3", "-I", "-c", CHURN, library, steered.path]
    lab.host.run([*churn, "20"], user=steered.user)
    before = steered.n_descriptors()
    lab.host.run([*churn, "980"], user=steered.user, timeout=300)
    wait_until(lambda: steered.n_descriptors() <= before + 2, "nothing is left of the changes")
    for running, writer in streams:
        os.close(writer)
        done = running.finish(60)
        assert (done.returncode, done.stderr) == (0, b"")
        assert int(done.stdout) > 50
    assert steered.answers("STREAM:9700@127.0.0.1", "STREAM:9701@127.0.0.1") == [True, False]
    assert steered.rules() == ["HOST", "TCP [*]:9700  =>  9700", "SPLICE"]


def test_conflicts_and_rules_that_are_not_there(steered: Steered) -> None:
    steered.pesto("-A", "-t", "127.0.0.1/9700", "-t", "9701-9704:8001-8004")
    before = steered.rules()
    for arguments, text in (
        (["-A", "-t", "9700"], b"Forwarding configuration conflict: TCP [*]:9700  =>  9700  versus"),
        (["-A", "-t", "9701-9704:8001-8004"], b"Forwarding configuration conflict"),
        (["-A", "-t", "auto"], b"Forwarding configuration conflict"),
        (["-D", "-t", "9709"], b"Couldn't find forwarding rule to delete"),
        (["-D", "-t", "9701:8001"], b"but doesn't match it, can't delete"),
        (["-A", "-t", "none"], b"'none' contradicts"), (["-C", "X"], b"no table X"),
        (["-A", "-t", "0"], b"a port is a number"),
    ):
        done = steered.pesto(*arguments, status=1)
        assert text.replace(b"  versus", b" versus") in done.stderr
        assert done.stderr.count(b"\n") == 1
    assert steered.rules() == before


def test_ports_that_cannot_be_had_are_told_one_by_one(lab: Lab, steered: Steered) -> None:
    taken = lab.host.spawn(["/usr/bin/python3", "-I", "-c", BINDER, "9720", "9722"])
    assert taken.popen.stdout is not None
    assert taken.popen.stdout.readline() == b"ready\n"
    steered.pesto("-A", "-t", "9700")
    done = steered.pesto("-t", "9720-9723", "-u", "9720", status=1)
    assert done.stderr.decode().splitlines() == [
        "HOST: TCP port 9720: cannot listen: Address already in use",
        "HOST: TCP port 9722: cannot listen: Address already in use", "pesto: nothing was changed"]
    # All or nothing: what was there still is, and nothing else.
    assert steered.rules() == ["HOST", "TCP [*]:9700  =>  9700", "SPLICE"]
    assert steered.answers("STREAM:9700@127.0.0.1")
    listening = lab.host.run(["ss", "-Hltun"]).stdout
    assert b":9721" not in listening
    assert b"*:9720" not in listening
    taken.kill()
    steered.pesto("-A", "-t", "9720-9723")


def test_low_port_as_at_the_start(steered: Steered) -> None:
    if steered.user:
        done = steered.pesto("-A", "-t", "81", "-t", "9700", status=1)
        assert done.stderr.startswith(b"HOST: TCP port 81: cannot listen: Permission denied; ports below ")
        assert steered.rules() == ["HOST", "SPLICE"]
        return
    steered.pesto("-A", "-t", "81", "-u", "0.0.0.0/81", "-u", "[::]/81")
    inner, outer = everywhere(81)
    assert all(steered.answers(*inner))
    assert all(steered.answers(*outer, outside=True))
    steered.pesto("-C", "HOST")
    assert not any(steered.answers(*inner))


def test_ports_of_the_namespace(lab: Lab, steered: Steered) -> None:
    host = lab.host.spawn(["/usr/bin/python3", "-I", "-c", ECHO, "9760"])
    assert host.popen.stdout is not None
    assert host.popen.stdout.readline() == b"ready\n"
    probes = [f"{kind}:9761@{address}" for kind in ("STREAM", "DGRAM") for address in ("127.0.0.1", "::1")]
    argv = ["nsenter", f"--net={namespace_of(steered.running)}", "/usr/bin/python3", "-I", "-c", PROBE]

    def inside() -> list[bool]:
        done = subprocess.run([*argv, *probes], capture_output=True, check=True, timeout=60)
        found: list[bool] = json.loads(done.stdout)
        return found

    steered.pesto("-A", "-T", "9761:9760", "-U", "9761:9760")
    assert steered.rules() == ["HOST", "SPLICE", "TCP [*]%lo:9761  =>  9760", "UDP [*]%lo:9761  =>  9760"]
    assert inside() == [True] * 4
    steered.pesto("-U", "none")
    assert inside() == [False] * 4
    host.kill()


def test_target_address_is_behind_the_namespace(lab: Lab, user: bool) -> None:
    # The rule of the start and that of pesto; an address that the namespace has besides its own.
    script = ("import subprocess\nfor a in ('192.0.2.77/32', '2001:db8:77::1/128'):\n"
              "    subprocess.run(['ip', 'addr', 'add', a, 'dev', 'lo'], check=True)\n"
              # Answers of a UDP service that is bound to no address come from another one.
              + ECHO.replace("for port in map", "bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
                             "bound.bind(('192.0.2.77', 9799))\n"
                             "threading.Thread(target=datagrams, args=(bound,), daemon=True).start()\n"
                             "for port in map"))
    path = conf_path(lab)
    running = spawn_ready(lab, ["-c", path, *NONE[2:], "-t", "0.0.0.0/9750:192.0.2.77/9700"], script, "9700",
                          user=user)
    try:
        steered = Steered(lab, running, path, user=user)
        steered.pesto("-A", "-t", "[::]/9750:[2001:db8:77::1]/9700", "-u", "0.0.0.0/9750:192.0.2.77/9799")
        assert steered.rules()[1:4] == [
            "TCP [0.0.0.0]:9750  =>  192.0.2.77:9700", "TCP [::]:9750  =>  [2001:db8:77::1]:9700",
            "UDP [0.0.0.0]:9750  =>  192.0.2.77:9799"]
        assert all(steered.answers(f"STREAM:9750@{HOST4}", f"STREAM:9750@{HOST6}", f"DGRAM:9750@{HOST4}",
                                   outside=True))
        assert all(steered.answers("STREAM:9750@127.0.0.1", "STREAM:9750@::1", "DGRAM:9750@127.0.0.1"))
    finally:
        running.send(signal.SIGTERM)
        running.finish()


def test_bound_ports_are_followed_when_a_rule_says_so(steered: Steered) -> None:
    inner, _ = everywhere(9702)
    steered.pesto("-A", "-t", "auto", "-u", "auto")
    wait_until(lambda: all(steered.answers(*inner)), "ports bound in the namespace are forwarded")
    steered.pesto("-D", "-t", "auto", "-u", "auto")
    assert not any(steered.answers(*inner))
    assert steered.rules() == ["HOST", "SPLICE"]


# Arguments: the socket, what to answer as hex. Prints the hello as hex, and whether the end came.
RAW = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.settimeout(30)
sock.connect(sys.argv[1])
try:
    print(sock.recv(1 << 16).hex(), flush=True)
    sock.sendall(bytes.fromhex(sys.argv[2]))
    print(sock.recv(1 << 16).hex() or "end", flush=True)
except (ConnectionResetError, BrokenPipeError):
    print("reset", flush=True)
"""
# Connects and is silent.
HOLD = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
print(len(sock.recv(1 << 16)), flush=True)
print(sock.recv(1), flush=True)
"""
# Sends nonsense, much and little of it, and hangs up.
BAD = """
import socket, sys
for n in range(300):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(sys.argv[1])
    try:
        sock.sendall((b"\\1" + b"\\xff" * 100_000, b"GET / HTTP/1.1\\r\\n", b"\\1\\0\\0\\0\\1")[n % 3])
    except OSError:
        pass
    sock.close()
# Ten megabytes that look like a long answer, and a crowd that waits at the door.
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect(sys.argv[1])
    try:
        sock.sendall(b"\\1" + b"\\0\\0\\0\\xff" * 2_500_000)
    except OSError:
        pass
crowd = []
for n in range(1000):
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    try:
        sock.connect(sys.argv[1])
    except BlockingIOError:
        sock.close()
    else:
        crowd.append(sock)
for sock in crowd:
    sock.close()
"""


def test_client_that_knows_no_report_changes_ports(steered: Steered) -> None:
    """As the program of a distribution would: the protocol's own words and no others."""
    rule = PortRule(6, 9700, 9700, 9701)
    answer = Answer((NewTable(1, (rule,)), NewTable(3)))
    argv = ["/usr/bin/python3", "-I", "-c", RAW, steered.path, answer.build().hex()]
    hello, end = steered.lab.host.run(argv, user=steered.user).stdout.decode().split()
    tables = Hello.parse(bytes.fromhex(hello)).tables
    assert [(table.id, table.name, table.abilities) for table in tables] == [
        (1, "HOST", 63), (3, "SPLICE", 63)]
    assert end == "end"
    assert steered.answers("STREAM:9700@127.0.0.1")


def test_client_of_another_user_is_refused(steered: Steered) -> None:
    home = Path(steered.path).parent
    mode = home.stat().st_mode
    assert Path(steered.path).stat().st_mode & 0o777 == 0o600
    raw = ["/usr/bin/python3", "-I", "-c", RAW, steered.path, "00"]
    stranger = ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups", *raw]
    home.chmod(0o755)
    try:
        done = steered.lab.host.run(stranger, check=False)
        assert b"PermissionError" in done.stderr
        # The caller opens the file: strangers get no further.
        Path(steered.path).chmod(0o666)
        assert steered.lab.host.run(stranger).stdout.split() == [b"reset"]
    finally:
        home.chmod(mode)
    steered.pesto("-A", "-t", "9700")


def test_second_client_waits_and_silent_one_is_let_go(steered: Steered) -> None:
    argv = ["/usr/bin/python3", "-I", "-c", HOLD, steered.path]
    begin = time.monotonic()
    silent = steered.lab.host.spawn(argv, user=steered.user)
    assert silent.popen.stdout is not None
    assert silent.popen.stdout.readline() != b""
    steered.pesto("-A", "-t", "9700")
    assert time.monotonic() - begin > PATIENCE_S / 2
    assert silent.finish().stdout == b"b''\n"
    assert steered.answers("STREAM:9700@127.0.0.1") == [True]


def test_many_and_bad_clients_harm_nobody(steered: Steered) -> None:
    steered.pesto("-A", "-t", "9700")
    before = steered.n_descriptors()
    memory_kb = int(status_field(steered.running.pid, "VmRSS").split()[0])
    steered.lab.host.run(["/usr/bin/python3", "-I", "-c", BAD, steered.path], user=steered.user,
                         timeout=120)
    assert int(status_field(steered.running.pid, "VmRSS").split()[0]) < memory_kb + 4096
    assert steered.rules() == ["HOST", "TCP [*]:9700  =>  9700", "SPLICE"]
    wait_until(lambda: steered.n_descriptors() <= before + 2, "nothing is left of them")
    assert steered.answers("STREAM:9700@127.0.0.1") == [True]


def test_stale_socket_is_replaced_and_a_served_one_is_not(lab: Lab, user: bool) -> None:
    path = conf_path(lab)
    killed = spawn_ready(lab, [*NONE, "-c", path], ECHO, user=user)
    other = lab.run([*NONE, "-c", path], ["true"], user=user, check=False)
    assert (other.returncode, other.stderr.count(b"\n")) == (1, 1)
    assert b"another process uses it" in other.stderr
    killed.kill()
    assert Path(path).exists()
    program = str(Path(lab.pasta).with_name("pesto"))
    done = lab.host.run([program, path], user=user, check=False)
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert b"Connection refused" in done.stderr
    with steering(lab, *NONE, user=user) as steered:
        assert steered.rules() == ["HOST", "SPLICE"]


def test_command_that_ends_by_itself_leaves_no_file(lab: Lab, user: bool) -> None:
    path = conf_path(lab)
    assert lab.run([*NONE, "-c", path], ["test", "-S", path], user=user).returncode == 0
    assert not Path(path).exists()
    # What somebody else has put in its place stays.
    script = f"rm {path} && echo mine >{path}"
    lab.run([*NONE, "-c", path], ["sh", "-c", script], user=user)
    assert Path(path).read_text(encoding="ascii") == "mine\n"
    Path(path).unlink()
    # A start that fails removes what it made.
    assert lab.run([*NONE[2:], "-t", "203.0.113.99/9700", "-c", path], ["true"], user=user,
                   check=False).returncode == 1
    assert not Path(path).exists()


def test_namespace_that_is_joined_and_the_banner(lab: Lab, user: bool) -> None:
    target, path = Target(lab, user=user), conf_path(lab)
    running = attach(target, "--config-net", *NONE, "-c", path)
    steered = Steered(lab, running, path, user=user)
    steered.pesto("-A", "-t", "9700")
    assert b":9700" in lab.host.run(["ss", "-Hltn"]).stdout
    done = lab.host.run([str(Path(lab.pasta).with_name("pesto")), "/no/socket"], user=user, check=False)
    assert done.stderr == b"pesto: Failed to connect to /no/socket: No such file or directory\n"
    running.send(signal.SIGTERM)
    assert f"Configuration socket: {path}\n".encode() in running.finish().stderr
    target.running.kill()
    Path(path).unlink()            # this one outlives the program


@pytest.mark.parametrize("form", [[], ["--vhost-user"]])
def test_machine(lab: Lab, user: bool, form: list[str]) -> None:
    path = conf_path(lab)
    with passt(lab, *form, "-c", path, "-t", "9700", "-u", "none", user=user) as (running, _):
        steered = Steered(lab, running, path, user=user)
        steered.pesto("-A", "-t", "9701", "-u", "9701")
        assert steered.rules() == ["HOST", "TCP [*]:9700  =>  9700", "TCP [*]:9701  =>  9701",
                                   "UDP [*]:9701  =>  9701"]
        assert b":9701" in lab.host.run(["ss", "-Hltn"]).stdout
        assert b"no table SPLICE, only HOST" in steered.pesto("-T", "1", status=1).stderr
        assert b"only pasta sees" in steered.pesto("-A", "-t", "auto", status=1).stderr
        steered.pesto("-t", "none")
        assert b":970" not in lab.host.run(["ss", "-Hltun"]).stdout
    Path(path).unlink()


def test_what_is_left_of_rights(steered: Steered) -> None:
    """As without the socket; besides there is the helper, if the caller had the right that it keeps."""
    pid = steered.running.pid
    steered.pesto("-A", "-t", "9700")
    look(pid, threads=2)
    below = children(pid)
    helpers = [one for one in below if status_field(one, "Seccomp") == "2"]
    assert (len(helpers), len(below)) == ((0, 1) if steered.user else (1, 2))
    for helper in helpers:
        rights = {name: int(status_field(helper, name), 16) for name in CAPABILITIES}
        assert rights == {"CapInh": 0, "CapPrm": 1 << 10, "CapEff": 1 << 10, "CapBnd": 1 << 10, "CapAmb": 0}
        assert status_field(helper, "NoNewPrivs") == "1"
        assert "0" not in status_field(helper, "Uid").split()
        assert list(Path(f"/proc/{helper}/root/").iterdir()) == []
        assert strange_descriptors(helper) == []
        links = [os.readlink(f"/proc/{helper}/fd/{fd}") for fd in os.listdir(f"/proc/{helper}/fd")]
        assert sum(link.startswith("socket:") for link in links) == 1
        # The process that does nothing else cannot be looked into by its user.
        assert Path(f"/proc/{helper}/status").stat().st_uid == 0


def test_loop_goes_on_without_its_helper(lab: Lab, steered: Steered) -> None:
    if steered.user:
        return                     # it has none
    steered.pesto("-A", "-t", "9700")   # which it answers: now it has its filter
    (helper,) = [one for one in children(steered.running.pid) if status_field(one, "Seccomp") == "2"]
    os.kill(helper, signal.SIGKILL)
    wait_until(lambda: process_state(helper) in {"", "Z"}, "the helper has gone")
    # Nobody can say any more who a client is: refused. Traffic goes on.
    assert b"another user" in steered.pesto(status=1).stderr
    assert steered.running.popen.poll() is None
    lab.host.run(["true"])
