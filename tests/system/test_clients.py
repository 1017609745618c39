"""The command lines of Podman and rootlesskit, against namespaces like theirs, with the outcome they want.

A stand-in for the client holds a user namespace in which the caller is root, a mount namespace with a small
file system of its own, and there a network namespace bound to a path, as Podman does. For real root there
is no user namespace.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.lab import FAR4, FAR6, OUTSIDE4, Lab, Running
from tests.support.processes import descendants, status_field, wait_until
from tests.support.switches import LONG

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Sequence

pytestmark = pytest.mark.needs_root

DIRECTORY = "/mnt"
NETNS = f"{DIRECTORY}/netns-6a9e"
PID_FILE = f"{DIRECTORY}/connection.pid"
# With an empty /tmp, /run and /dev/shm, where files that are left behind would be seen; $1 has the programs.
HOLD = (f'mount -t tmpfs tmpfs {DIRECTORY} && mkdir {DIRECTORY}/lab && mount --rbind "$1" {DIRECTORY}/lab && '
        "for place in /tmp /run /dev/shm; do mount -t tmpfs -o mode=1777 tmpfs $place || exit; done; "
        f'mkdir -p "$1" && mount --move {DIRECTORY}/lab "$1" && rmdir {DIRECTORY}/lab && '
        f"touch {NETNS} && unshare --net={NETNS} true && echo ready && exec sleep 1000")
HAS_TAP = "ls -l /proc/$pid/fd 2>/dev/null | grep -q /dev/net/tun"
PODMAN_END = ["--dns-forward", "169.254.1.1", "-u", "none", "-T", "none", "-U", "none", "--no-map-gw",
              "--quiet", "--netns", NETNS, "--map-guest-addr", "169.254.1.2"]
PODMAN = ["--config-net", "-t", "8080-8080:80-80", *PODMAN_END]
PODMAN_BRIDGE = ["--config-net", "--pid", PID_FILE, "-t", "none", *PODMAN_END]
ROOTLESSKIT_FIRST = ["--foreground", "--stderr", "--ns-ifname=tap0", "--mtu=65520", "--no-dhcp", "--no-ra",
                     "--address=10.0.2.100", "--netmask=24", "--gateway=10.0.2.2", "--dns-forward=10.0.2.3",
                     "--no-map-gw", "--ipv4-only", "--tcp-ports=auto", "--udp-ports=auto"]
ROOTLESSKIT = ["--stderr", "--ns-ifname=tap0", "--mtu=65520", "--config-net", "--address=10.0.2.100",
               "--netmask=24", "--gateway=10.0.2.2", "--dns-forward=10.0.2.3", "--no-map-gw",
               "--ipv4-only", "--tcp-ports=auto", "--udp-ports=auto"]


class Client:
    """A stand-in for a container engine."""

    def __init__(self, lab: Lab, *, user: bool) -> None:
        self.lab, self.user = lab, user
        spaces = ["--user", "--map-root-user"] if user else []
        self.running: Running = lab.host.spawn(["unshare", *spaces, "--mount", "sh", "-c", HOLD, "sh",
                                              str(lab.directory)], user=user)
        assert self.running.popen.stdout is not None
        assert self.running.popen.stdout.readline() == b"ready\n"
        self.pid = status_field(self.running.pid, "NSpid").split()[-1]
        self.enter = ["nsenter", "-t", self.pid, "--mount",
                      *(["--user", "--preserve-credentials"] if user else [])]

    def run(self, argv: Sequence[str], *, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """Run a program as the engine would; returns when its output is at its end."""
        return self.lab.host.run([*self.enter, *argv], user=self.user, check=check)

    def inside(self, argv: Sequence[str], *, check: bool = True) -> bytes:
        """Run a program in the network namespace and return what it prints."""
        return self.run(["nsenter", f"--net={NETNS}", *argv], check=check).stdout

    def pasta(self, options: Sequence[str]) -> tuple[int, bytes, bytes]:
        """Run pasta to the exit of the process that was started, and to the end of its output."""
        done = self.run([self.lab.pasta, *options], check=False)
        return done.returncode, done.stdout, done.stderr

    def processes(self) -> list[int]:
        """All that run beside the stand-in itself, by their PIDs in the place."""
        text = self.lab.host.run(["pgrep", "-f", self.lab.pasta], check=False).stdout
        # One that ends has no command line any more, but a name, and its descriptors for a moment: the tap.
        text += self.lab.host.run(["pgrep", "-x", Path(self.lab.pasta).name], check=False).stdout
        return [int(word) for word in text.split()]

    def daemons(self) -> list[int]:
        """Those that have a tap: not the forwarder of names."""
        script = f"for pid in $(pgrep -f {self.lab.pasta}); do {HAS_TAP} && echo $pid; done; true"
        return [int(word) for word in self.lab.host.run(["sh", "-c", script]).stdout.split()]

    def remove_namespace(self) -> None:
        """Do what an engine does at the end of a container."""
        self.run(["sh", "-c", f"umount -l {NETNS} && rm {NETNS}"])

    def close(self) -> None:
        """End the stand-in and what is left of pasta."""
        for pid in self.processes():
            self.lab.host.run(["kill", str(pid)], check=False)
        self.running.kill()


@pytest.fixture
def client(lab: Lab, user: bool) -> Iterator[Client]:
    """Lend a stand-in for a container engine."""
    one = Client(lab, user=user)
    yield one
    one.close()


def assert_gone(client: Client) -> None:
    wait_until(lambda: not client.processes(), "pasta has ended", 60)


def test_podman_gets_a_silent_daemon_that_ends_with_the_namespace(client: Client) -> None:
    lab = client.lab
    assert client.pasta(PODMAN) == (0, b"", b"")
    [daemon] = client.daemons()
    addresses = client.inside(["ip", "-o", "addr"])
    for expected in (b"h0    inet 203.0.113.2/24", b"h0    inet6 2001:db8:1::2/64",
                     b"lo    inet 127.0.0.1/8"):
        assert expected in addresses
    for address in (FAR4, FAR6, OUTSIDE4):
        client.inside([*lab.client, "tcp,udp", address, "8000", "3000"])
    answer = client.inside(["dig", "+short", "+time=20", "@169.254.1.1", "www.lab.example", "A"])
    assert answer == b"192.0.2.80\n"
    client.inside([*lab.client, "tcp", "169.254.1.2", "8000", "3000"])  # the host, by --map-guest-addr
    assert int(lab.host.run(["ps", "-o", "pid=", "--pid", str(daemon)]).stdout) == daemon
    client.remove_namespace()
    assert_gone(client)


def test_podman_publishes_a_port(client: Client) -> None:
    lab = client.lab
    assert client.pasta(PODMAN) == (0, b"", b"")
    server = lab.host.spawn([*client.enter, "nsenter", f"--net={NETNS}", "socat", "-u", "TCP-LISTEN:80",
                             "STDOUT"], user=client.user)
    wait_until(lambda: b":80 " in client.inside(["ss", "-Hltn"]), "the server listens")
    lab.outside.run(["socat", "-u", "EXEC:echo word", "TCP:203.0.113.2:8080"])
    assert server.finish().stdout == b"word\n"


def test_podman_ends_the_daemon_of_its_bridge_by_the_pid_file(client: Client) -> None:
    assert client.pasta(PODMAN_BRIDGE) == (0, b"", b"")
    [daemon] = client.daemons()
    assert client.run(["cat", PID_FILE]).stdout == b"%d\n" % daemon
    client.lab.host.run(["kill", str(daemon)])
    assert_gone(client)
    wait_until(lambda: b" h0:" not in client.inside(["ip", "-o", "link"]), "the interface is gone")
    assert client.pasta(PODMAN_BRIDGE) == (0, b"", b"")  # and again, over the old pid file


def test_podman_shows_the_reason_of_a_failure(client: Client) -> None:
    status, out, err = client.pasta([*PODMAN, "--netns", f"{DIRECTORY}/other"])
    assert (status, out) == (1, b"")
    assert err.decode() == f"pasta: option '--netns' {DIRECTORY}/other: there is no such file\n"
    assert client.daemons() == []


def test_podman_falls_back_when_an_option_is_unknown(client: Client) -> None:
    status, _, err = client.pasta([*PODMAN, "--map-guest-addresses", "169.254.1.2"])
    assert status == 1
    assert b"unrecognized option '--map-guest-addresses'" in err


def test_rootlesskit_runs_pasta_in_the_foreground(client: Client) -> None:
    lab = client.lab
    holder = lab.host.spawn([*client.enter, "unshare", "--net", "sh", "-c", "echo ready; exec sleep 1000"],
                            user=client.user)
    assert holder.popen.stdout is not None
    assert holder.popen.stdout.readline() == b"ready\n"
    pid = status_field(holder.pid, "NSpid").split()[-1]
    running = lab.host.spawn([lab.pasta, *ROOTLESSKIT_FIRST, pid], user=client.user)
    inside = [*client.enter, "nsenter", "-t", pid, "--net"]

    def has_tap() -> bool:
        assert running.popen.poll() is None, running.popen.communicate()
        return b"tap0" in lab.host.run([*inside, "ip", "-o", "link"], user=client.user).stdout

    wait_until(has_tap, "tap0 is there")
    # rootlesskit sets up the interface itself.
    for words in ("link set tap0 up", "addr add 10.0.2.100/24 dev tap0", "route add default via 10.0.2.2"):
        lab.host.run([*inside, "ip", *words.split()], user=client.user)
    lab.host.run([*inside, *lab.client, "tcp,udp", FAR4, "8000", "3000"], user=client.user)
    answer = lab.host.run([*inside, "dig", "+short", "+time=20", "@10.0.2.3", "www.lab.example"],
                          user=client.user)
    assert answer.stdout == b"192.0.2.80\n"
    holder.kill()
    done = running.finish(60)
    assert done.returncode == 0
    assert b"deprecated" in done.stderr


@pytest.mark.parametrize("detached", [False, True], ids=["pid", "detached"])
def test_rootlesskit_waits_for_pasta(client: Client, detached: bool) -> None:
    lab = client.lab
    holder = lab.host.spawn([*client.enter, "nsenter", f"--net={NETNS}", "sh", "-c",
                             "echo ready; exec sleep 1000"], user=client.user)
    assert holder.popen.stdout is not None
    assert holder.popen.stdout.readline() == b"ready\n"
    pid = status_field(holder.pid, "NSpid").split()[-1]
    if detached:
        # Started from outside of the user namespace, but where the path can be seen.
        argv = [*ROOTLESSKIT, f"--userns=/proc/{pid}/ns/user", f"--netns=/proc/{client.pid}/root{NETNS}"]
    else:
        argv = [*ROOTLESSKIT, pid]
    done = lab.host.run([lab.pasta, *argv], user=client.user)
    assert done.stdout == b""
    assert b"deprecated" in done.stderr
    assert b"tap0    inet 10.0.2.100/24" in client.inside(["ip", "-o", "addr"])
    client.inside([*lab.client, "tcp,udp", FAR4, "8000", "3000"])
    if detached:
        client.remove_namespace()
    holder.kill()
    assert_gone(client)


def test_namespace_is_served_on_without_its_path_if_that_is_wanted(client: Client) -> None:
    assert client.pasta([*PODMAN, "--no-netns-quit", "-P", PID_FILE]) == (0, b"", b"")
    client.remove_namespace()
    time.sleep(1.2)
    assert len(client.daemons()) == 1


def test_end_of_the_path_is_noticed_beyond_the_limit_of_inotify(lab: Lab) -> None:
    client = Client(lab, user=True)  # a limit of its user namespace
    client.run(["sh", "-c", "echo 0 >/proc/sys/user/max_inotify_instances"])
    status, out, err = client.pasta(PODMAN)
    assert (status, out) == (0, b"")
    [line] = err.decode().splitlines()
    assert "raise fs.inotify.max_user_instances" in line
    client.inside([*lab.client, "tcp", FAR4, "8000", "3000"])
    client.remove_namespace()
    assert_gone(client)
    client.close()


@pytest.mark.parametrize(("runas", "numbers"), [
    ([], (65534, 65534)), (["--runas", "54000"], (54000, 54000)),
    (["--runas", "54000:54001"], (54000, 54001)),
    (["--runas", "lab"], (54321, 54321)), (["--runas", "lab:mail"], (54321, 8)), (["--runas", "0"], (0, 0)),
])
def test_root_goes_on_as_somebody_else(lab: Lab, runas: list[str], numbers: tuple[int, int]) -> None:
    client = Client(lab, user=False)
    assert client.pasta([*PODMAN, *runas]) == (0, b"", b"")
    [daemon] = client.daemons()
    status = lab.host.run(["cat", f"/proc/{daemon}/status"]).stdout.decode().splitlines()
    fields = {name: value.split() for name, _, value in (line.partition(":") for line in status)}
    assert (fields["Uid"], fields["Gid"]) == ([str(numbers[0])] * 4, [str(numbers[1])] * 4)
    for name in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
        assert int(fields[name][0], 16) == 0
    client.inside([*lab.client, "tcp,udp", FAR4, "8000", "3000"])
    client.remove_namespace()
    assert_gone(client)
    client.close()


def test_many_starts_and_stops_leave_nothing(client: Client) -> None:
    """As the `lab` fixture sees it, and the namespace, its directory, and where programs leave files."""
    places = ["sh", "-c", f"ls -A {DIRECTORY} /tmp /run /dev/shm; ip -o link | wc -l"]
    before: bytes | None = None
    for _ in range(200 if LONG else 20):
        assert client.pasta(PODMAN_BRIDGE) == (0, b"", b"")
        [daemon] = client.daemons()
        client.lab.host.run(["kill", str(daemon)])
        assert_gone(client)
        wait_until(lambda: b" h0:" not in client.inside(["ip", "-o", "link"]), "the interface is gone")
        after = client.inside(places)
        assert before in {None, after}
        before = after


def inner_pid(pid: int) -> str:
    """Give the PID of a process in the place, which may have ended meanwhile: "" then."""
    try:
        return status_field(pid, "NSpid").split()[1]
    except (FileNotFoundError, ProcessLookupError, KeyError, IndexError):
        return ""


MAX_START_KB = 30_000
MAX_LOADED_KB = 40_000
N_FLOWS = 10_000
# Each of 100 sockets has a flow for each port that it sends to. A full queue would drop some: it is empty
# again when the echo comes of what was sent last.
MANY_FLOWS = """
import socket
sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(100)]
last = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
last.settimeout(5)
last.connect(("198.51.100.1", 8007))
for port in range(10000, 10100):
    for sock in sockets:
        sock.sendto(b"x", ("198.51.100.1", port))
    for attempt in range(10):
        try:
            last.send(b"%d" % port)
            while last.recv(100) != b"%d" % port:
                pass
            break
        except TimeoutError:
            pass
"""


def test_memory_of_a_daemon_is_small(client: Client) -> None:
    lab = client.lab
    log = f"{DIRECTORY}/log"
    options = [option for option in PODMAN_BRIDGE if option != "--quiet"]
    assert client.pasta([*options, "-l", log])[0] == 0
    [inner] = client.daemons()
    [daemon] = [pid for pid in descendants(lab.host.init) if inner_pid(pid) == str(inner)]

    def resident_kb() -> int:
        return int(status_field(daemon, "VmRSS").split()[0])

    client.inside([*lab.client, "tcp,udp", FAR4, "8000", "3000"])
    assert resident_kb() < MAX_START_KB
    client.inside(["/usr/bin/python3", "-I", "-c", MANY_FLOWS])
    lab.host.run(["kill", "-USR1", str(inner)])

    def counters() -> str:
        return client.run(["cat", log]).stdout.decode()

    wait_until(lambda: "drops:" in counters(), "the counters are printed")
    print(resident_kb(), counters())  # noqa: T201 - shown with a failure, or by pytest -s
    assert int(counters().partition("UDP ")[2].partition(",")[0]) > 0.95 * N_FLOWS
    assert resident_kb() < MAX_LOADED_KB


def test_many_daemons_at_once(lab: Lab, plain: bool) -> None:
    clients = [Client(lab, user=plain) for _ in range(50 if LONG else 15)]
    started = [lab.host.spawn([*one.enter, lab.pasta, "--config-net", "-t", "none", *PODMAN_END], user=plain)
               for one in clients]
    ended = [one.finish(60) for one in started]
    assert [(one.returncode, one.stdout, one.stderr) for one in ended] == [(0, b"", b"")] * len(clients)
    for one in clients:
        one.inside([*lab.client, "tcp", FAR4, "8000", "1000"])
    for one in clients:
        one.remove_namespace()
    assert_gone(clients[0])
    for one in clients:
        one.close()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL], ids=lambda one: one.name)
def test_signal_at_any_stage_of_the_way_to_the_background(client: Client, signum: signal.Signals) -> None:
    """The caller's process is ended: what it started goes with it, or is ready and known by the pid file."""
    lab = client.lab
    n_stayed = 0
    for delay_ms in (0, 10, 25, 40, 60, 80, 100, 130, 170, 220):
        running = lab.host.spawn([*client.enter, lab.pasta, *PODMAN_BRIDGE], user=client.user)
        time.sleep(delay_ms / 1000)
        running.send(signum)
        status = running.finish(60).returncode

        def is_known() -> bool:
            """Whether there is a daemon, which the pid file names."""
            told = client.run(["cat", PID_FILE], check=False).stdout.split()
            return bool(told) and told == [b"%d" % one for one in client.daemons()]

        assert status or is_known()
        wait_until(lambda: is_known() or not client.processes(), "what was started has gone or is known", 60)
        if is_known():
            n_stayed += status != 0
            lab.host.run(["kill", *map(str, client.daemons())], check=False)
        assert_gone(client)
        wait_until(lambda: b" h0:" not in client.inside(["ip", "-o", "link"]), "the interface is gone")
    # A kill may come when the daemon was told just before that it may stay; other signals are blocked then.
    assert n_stayed <= (signum == signal.SIGKILL)


def test_command_runs_in_a_user_namespace_that_exists(client: Client) -> None:
    spaces = ["unshare", "--user", "--map-root-user", "sh", "-c", "echo ready; exec sleep 1000"]
    holder = client.lab.host.spawn(spaces, user=client.user)
    assert holder.popen.stdout is not None
    assert holder.popen.stdout.readline() == b"ready\n"
    path = f"/proc/{status_field(holder.pid, 'NSpid').split()[-1]}/ns/user"
    script = f"id -u; readlink /proc/self/ns/user; {' '.join(client.lab.client)} tcp,udp {FAR4} 8000 3000"
    done = client.lab.run(["--userns", path, "--config-net"], ["sh", "-c", script], user=client.user)
    expected = client.lab.host.run(["readlink", path], user=client.user).stdout
    assert done.stdout.splitlines(keepends=True)[:2] == [b"0\n", expected]
    assert done.stderr == b""
    holder.kill()


def test_command_runs_without_a_user_namespace(lab: Lab, user: bool) -> None:
    argv = ["--netns-only", "--config-net"]
    if user:
        refused = lab.run(argv, ["true"], user=True, check=False)
        assert refused.returncode == 1
        assert b"--netns-only" in refused.stderr
        done = lab.host.run(["unshare", "--user", "--map-root-user", lab.pasta, *argv, "--", "echo", "TEST"],
                            user=True)
    else:
        done = lab.run(argv, ["echo", "TEST"], user=False)
    assert (done.stdout, done.stderr) == (b"TEST\n", b"")


def test_pasta_runs_in_pasta(lab: Lab, user: bool) -> None:
    inner = [lab.pasta, "--config-net", "--", *lab.client, "tcp,udp", FAR4, "8000", "3000"]
    done = lab.run(["--config-net"], inner, user=user)
    assert done.stderr == b""
