"""Under a service manager: sockets that it hands over, ports that the kernel chooses, who is told when."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.system.test_pesto import ECHO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from tests.support.lab import Lab

pytestmark = pytest.mark.needs_root

# Hands over a TCP and a UDP socket and waits for readiness, as systemd does; then asks ports for an echo
# until there is one, and ends the program. Arguments: the sockets' names; ports to ask, as in "tcp,udp82":
# that of the socket, that of the rule for port 82; file of the ports; program and arguments.
# Prints what it saw, as JSON.
MANAGER = r"""
import fcntl, json, os, signal, socket, sys, time
names, probes, path, *argv = sys.argv[1:]
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind("\0passt-manager-%d" % os.getpid())
notify.settimeout(100)
sockets = {}
for name, kind in (("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)):
    sock = socket.socket(socket.AF_INET6, kind)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", 0))
    if name == "tcp":
        sock.listen()
    sockets[name] = sock
ports = {name: sock.getsockname()[1] for name, sock in sockets.items()}
child = os.fork()
if not child:
    high = [fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD, 100) for sock in sockets.values()]
    for i, fd in enumerate(high):
        os.dup2(fd, 3 + i)
    variables = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(high)), "LISTEN_FDNAMES": names,
                 "NOTIFY_SOCKET": "@passt-manager-%d" % os.getppid()}
    os.execvpe(argv[0], argv, {**os.environ, **variables})
for sock in sockets.values():
    sock.close()
seen = {"child": child}
try:
    seen["told"] = notify.recv(100).decode()
except TimeoutError:
    seen["told"] = ""
seen["file"] = [line.split() for line in open(path)]
for line in seen["file"]:
    ports[line[0] + line[3]] = int(line[2])
def echoes(kind, port):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as sock:
        sock.settimeout(3)
        try:
            sock.connect(("127.0.0.1", port))
            sock.send(b"hello")
            return sock.recv(100) == b"hello"
        except OSError:
            return False
end = time.monotonic() + 100
for probe in [] if probes == "-" else probes.split(","):
    while not (answer := echoes(probe[:3], ports[probe])) and time.monotonic() < end:
        time.sleep(0.05)
    seen[probe] = answer
seen["ports"] = ports
os.kill(child, signal.SIGTERM)
seen["status"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(seen))
"""


COMMAND_LOOKS = """
import json, os, sys
names = [name for name in os.environ if name.startswith(("LISTEN", "NOTIFY"))]
print(json.dumps([sorted(os.listdir("/proc/self/fd")), names]), file=sys.stderr)
"""


def python(script: str, *arguments: str) -> list[str]:
    return ["/usr/bin/python3", "-I", "-c", script, *arguments]


def managed(lab: Lab, probes: str, path: Path, *argv: str) -> dict[str, Any]:
    """Run *argv* under the manager, as a plain user; return what it saw."""
    command = [*argv, "-q", "-u", "fd:web:80", "-t", "fd:web:80", "--ports-file", str(path)]
    if "--" in argv:
        place = argv.index("--")
        command = [*argv[:place], *command[len(argv):], *argv[place:]]
    done = lab.host.run(python(MANAGER, "web:web", probes, str(path), *command), user=True, timeout=250)
    seen: dict[str, Any] = json.loads(done.stdout.decode().splitlines()[-1])
    return seen


@pytest.fixture
def ports_file(lab: Lab) -> Iterator[Path]:
    """Name a file that the plain user may write."""
    path = lab.directory / "home" / "ports"
    yield path
    path.unlink(missing_ok=True)


def test_pasta_serves_sockets_and_ports_that_it_did_not_choose(lab: Lab, ports_file: Path) -> None:
    options = ["--config-net", "-t", "127.0.0.1/0:81", "-u", "0:82", "-T", "none", "-U", "none"]
    names = ["tcp", "udp", "tcp81", "udp82"]
    seen = managed(lab, ",".join(names), ports_file, lab.pasta, *options, "--",
                   *python(ECHO, "80", "81", "82"))  # fmt: skip
    ports = seen["ports"]
    assert seen["told"] == "READY=1"
    assert sorted(seen["file"]) == sorted([
        ["tcp", "*", str(ports["tcp"]), "80"], ["udp", "*", str(ports["udp"]), "80"],
        ["tcp", "127.0.0.1", str(ports["tcp81"]), "81"], ["udp", "*", str(ports["udp82"]), "82"]])
    assert [seen[name] for name in names] == [True] * 4


def test_passt_serves_them_too(lab: Lab, ports_file: Path) -> None:
    path = ports_file.with_name("passt.socket")
    seen = managed(lab, "-", ports_file, lab.passt, "-f", "-s", str(path), "-t", "0:22")
    path.unlink()
    assert (seen["told"], seen["status"]) == ("READY=1", 0)
    assert sorted(line[3] for line in seen["file"]) == ["22", "80", "80"]
    assert ["tcp", "*", str(seen["ports"]["tcp"]), "80"] in seen["file"]


def test_command_gets_neither_sockets_nor_variables(lab: Lab, ports_file: Path) -> None:
    manager = MANAGER.replace("os.kill(child, signal.SIGTERM)", "pass")
    options = ["-q", "-t", "fd:web:80", "-u", "none", "--ports-file", str(ports_file)]
    done = lab.host.run([*python(manager, "web:web", "-", str(ports_file)), lab.pasta, *options, "--",
                         *python(COMMAND_LOOKS)], user=True, timeout=250)  # fmt: skip
    # The fourth one is that of the list itself.
    assert json.loads(done.stderr.decode().splitlines()[-1]) == [["0", "1", "2", "3"], []]


def test_a_socket_that_nobody_handed_over_ends_the_start(lab: Lab, ports_file: Path) -> None:
    options = ["-t", "fd:web:80", "--ports-file", str(ports_file)]
    done = lab.run(options, ["true"], user=True, check=False)
    assert done.returncode == 1
    assert done.stderr.decode() == (
        "pasta: -t fd:web:80: no TCP socket of this name is handed over;"
        " no sockets are handed over to this process at all (LISTEN_FDS)\n")
    assert not ports_file.exists()
