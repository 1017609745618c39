"""The place where everything is measured: a "host" of our own, and processes in and around it.

Theory of operation. This module runs as PID 1 of a PID namespace, with a mount and a network
namespace of its own (cli.py arranges that with unshare(1)). The network namespace is the "host":
a veth pair leads to a second namespace "net", which is its gateway, so that programs find a
default route of both families to copy. Servers run in the host namespace, clients in the
namespace of the program under test ("guest").

Nothing here has a name outside: no named namespace, no file. When PID 1 dies, by whatever cause,
the kernel kills every process and the namespaces go with them.

Who runs as whom: only this process is root. Tools run as TOOL_UID; each program under test runs as
an unprivileged uid of its own, which is how its processes, wherever they have been re-parented
to, are found for measuring memory and for killing. Those uids need not exist in /etc/passwd.

CPU placement: this process and all its children are confined to two CPUs. The client is pinned to
the first, the server to the second, for bare loopback and for every program alike; the program
under test may use both. On a machine with one CPU all share it.
"""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.errors import BenchError, SectionFailed

TOOL_UID = 64300
FIRST_PROGRAM_UID = 64301
# Not the gateway: whoever is asked there is asked for the host's own port 53, which the dns group uses.
NAME_SERVER = "198.51.100.53"
FIRST_PORT = 5001  # below the ephemeral ports of EPHEMERAL_PORTS
LAST_PORT = 9999
EPHEMERAL_PORTS = "10000 65535"  # connect/request/response uses tens of thousands per run
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/",
               "LANG": "C.UTF-8"}  # fmt: skip
SETUP_TIMEOUT_S = 10
KILL_TIMEOUT_S = 5.0

HOST_ADDRESSES = ("198.51.100.2/24", "2001:db8:100::2/64")
NET_ADDRESSES = ("198.51.100.1/24", "2001:db8:100::1/64")


def run(argv: Sequence[str], timeout_s: float = SETUP_TIMEOUT_S, *, expect: bool = True) -> str:
    """Run a command to its end and return its output.

    Raises SectionFailed with the last line of its standard error if it fails (unless *expect* is
    false) or takes longer than *timeout_s*; it and its children in its session are then killed.
    """
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=ENVIRONMENT, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            kill_group(process)
            raise SectionFailed(f"{tool_name(argv)} had not ended after {timeout_s:g} s") from None
        except BaseException:
            kill_group(process)
            raise
    if process.returncode and expect:
        raise SectionFailed(f"{tool_name(argv)}: {last_line(err) or f'exit status {process.returncode}'}")
    return out


def kill_group(process: subprocess.Popen[str]) -> None:
    """Kill a process that leads its session, its group with it, and reap it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tool_name(argv: Sequence[str]) -> str:
    """Name the tool that a wrapped command line runs, for messages."""
    start = max((i + 1 for i, word in enumerate(argv) if word == "--"), default=0)
    name = Path(argv[start]).name
    return f"{name} {argv[start + 1]}" if name == "load" else name


def last_line(text: str) -> str:
    """Return the last line that is not empty."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def as_user(uid: int) -> list[str]:
    """Return the command prefix that drops every privilege."""
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--inh-caps=-all", "--"]


def in_netns(pid: int | None) -> list[str]:
    """Return the command prefix that joins the network namespace of *pid* (None: stay here)."""
    return [] if pid is None else ["nsenter", f"--net=/proc/{pid}/ns/net", "--"]


def processes_of(uid: int) -> list[int]:
    """List the living processes whose real user is *uid*; zombies do not count."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        fields = read_status(int(entry.name))
        if fields.get("Uid", "").split()[:1] == [str(uid)] and not fields["State"].startswith("Z"):
            found.append(int(entry.name))
    return found


def read_status(pid: int) -> dict[str, str]:
    """Read /proc/PID/status; empty if the process is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {name: value.strip() for name, value in pairs}


def command_line(pid: int) -> list[str]:
    """Read a process's argument list; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    except OSError:
        return []


class Lab:
    """The host namespace: processes, ports, congestion control. One per run."""

    def __init__(self, load: Path, cpus: Sequence[int]) -> None:
        self.load = str(load)
        self.client_cpu, self.server_cpu = cpus[0], cpus[-1]
        self.nice = 0  # of all processes that are spawned
        self._port = FIRST_PORT
        self._uid = FIRST_PROGRAM_UID
        self._net: subprocess.Popen[str] | None = None
        self._children: dict[int, subprocess.Popen[str]] = {}
        os.sched_setaffinity(0, cpus)

    # Set-up

    def set_up(self) -> None:
        """Make the host: tun node, resolv.conf, network. Raises BenchError."""
        try:
            self._set_up_files()
            self._set_up_network()
        except (OSError, SectionFailed) as error:
            raise BenchError(f"cannot set up the bench's own network: {error}") from error

    def _set_up_files(self) -> None:
        """Cover /dev/net by a tmpfs with an open tun node, /etc/resolv.conf by a file of ours."""
        if not Path("/dev/net").is_dir():
            raise BenchError("/dev/net/tun does not exist: load the kernel's tun module (modprobe tun)")
        run(["mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/dev/net"])
        run(["mknod", "-m", "0666", "/dev/net/tun", "c", "10", "200"])
        resolver = Path("/dev/net/resolv.conf")
        resolver.write_text(f"nameserver {NAME_SERVER}\n")
        resolver.chmod(0o644)
        target = Path("/etc/resolv.conf").resolve()
        if target.exists():
            run(["mount", "--bind", str(resolver), str(target)])

    def uncover(self, project: Path) -> None:
        """Let plain users reach *project* although a directory above it is closed to others.

        In our own mount namespace only: an open tmpfs covers the closed directory, with the project
        bound to its old place in it. Raises BenchError if the project itself is closed.
        """
        if not is_open(project):
            raise BenchError(f"{project} is closed to other users: chmod o+rx {project}")
        closed = next((parent for parent in reversed(project.parents) if not is_open(parent)), None)
        if closed is None:
            return
        aside = Path("/dev/net/project")
        aside.mkdir()
        run(["mount", "--rbind", str(project), str(aside)])
        run(["mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", str(closed)])
        os.umask(0o022)
        project.mkdir(parents=True)
        run(["mount", "--rbind", str(aside), str(project)])

    def _set_up_network(self) -> None:
        own = Path("/proc/self/ns/net").readlink()
        self._net = self.spawn(["unshare", "--net", "--", *as_user(TOOL_UID), self.load, "hold", "net"])
        peer = Path(f"/proc/{self._net.pid}/ns/net")
        await_true(lambda: peer.readlink() != own, "the second namespace")
        for command in (
            "link set lo up",
            f"link add veth0 type veth peer name up0 netns {self._net.pid}",
            "link set veth0 up",
        ):
            run(["ip", *command.split()])
        enter = in_netns(self._net.pid)
        run([*enter, "ip", "link", "set", "up0", "up"])
        for prefix, device, addresses in (([], "veth0", HOST_ADDRESSES), (enter, "up0", NET_ADDRESSES)):
            run([*prefix, "ip", "addr", "add", addresses[0], "dev", device])
            run([*prefix, "ip", "addr", "add", addresses[1], "dev", device, "nodad"])
        for address in NET_ADDRESSES:
            run(["ip", "route", "add", "default", "via", address.split("/")[0], "dev", "veth0"])
        Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 2147483647")
        Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("53")
        Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(EPHEMERAL_PORTS)

    @property
    def neighbour(self) -> int:
        """A process in the namespace of the host's neighbour, which is its gateway."""
        if self._net is None:
            raise BenchError("the network is not set up")
        return self._net.pid

    # Processes

    def next_port(self) -> int:
        """Return a server port that was not used for a while."""
        return self.next_ports(1)[0]

    def next_ports(self, count: int) -> range:
        """Return consecutive ports that were not used for a while."""
        if self._port + count > LAST_PORT:
            self._port = FIRST_PORT
        self._port += count
        return range(self._port - count, self._port)

    def next_uid(self) -> int:
        """Return an unprivileged uid for one program's processes."""
        self._uid += 1
        return self._uid

    def spawn(
        self, argv: Sequence[str], stdin: int = subprocess.DEVNULL, stderr: int = subprocess.DEVNULL,
        pass_fds: Sequence[int] = (),
    ) -> subprocess.Popen[str]:  # fmt: skip
        """Start a process in the background, standard output in a pipe."""
        process = subprocess.Popen(
            argv, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, env=ENVIRONMENT, text=True,
            start_new_session=True, pass_fds=pass_fds,
        )  # fmt: skip
        self._children[process.pid] = process
        if self.nice:
            # The scheduler weighs sessions, not processes (sched(7), autogroup).
            Path(f"/proc/{process.pid}/autogroup").write_text(str(self.nice))
        return process

    def tool(
        self, netns: int | None, cpu: int, argv: Sequence[str], *, privileged: bool = False
    ) -> list[str]:
        """Return the command line of a client or server: where, as whom, on which CPU.

        Only a *privileged* one, which stays root, can use a port below 1024.
        """
        whom = [] if privileged else as_user(TOOL_UID)
        return [*in_netns(netns), "taskset", "--cpu-list", str(cpu), *whom, *argv]

    def client(
        self, netns: int | None, argv: Sequence[str], timeout_s: float, *, privileged: bool = False
    ) -> dict[str, Any]:
        """Run a client to its end and return the JSON it prints."""
        out = run(self.tool(netns, self.client_cpu, argv, privileged=privileged), timeout_s)
        try:
            result: dict[str, Any] = json.loads(out)
        except ValueError:
            raise SectionFailed(f"{tool_name(argv)} printed no result") from None
        return result

    @contextlib.contextmanager
    def server(self, netns: int | None, argv: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
        """Run a server; entered once it says that it listens, killed at the end."""
        process = self.spawn(self.tool(netns, self.server_cpu, argv), stderr=subprocess.STDOUT)
        try:
            seen = read_until(process, "listening", SETUP_TIMEOUT_S)
            if "listening" not in seen.lower():
                reason = last_line(seen) or "no word from it"
                raise SectionFailed(f"{tool_name(argv)} did not start: {reason}")
            yield process
        finally:
            kill_group(process)
            if process.stdout:
                process.stdout.close()

    def kill_user(self, uid: int) -> None:
        """Kill all processes of a program under test, however they were re-parented."""
        deadline = time.monotonic() + KILL_TIMEOUT_S
        while pids := processes_of(uid):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise BenchError(f"processes {pids} survive SIGKILL")
            time.sleep(0.01)

    def reap_orphans(self) -> None:
        """Collect the dead processes that fell to us as PID 1; our own children have their waiters."""
        self._children = {pid: p for pid, p in self._children.items() if p.returncode is None}
        for entry in Path("/proc").iterdir():
            pid = int(entry.name) if entry.name.isdigit() else 0
            if pid <= 1 or pid in self._children:
                continue
            fields = read_status(pid)
            if fields.get("PPid") == "1" and fields["State"].startswith("Z"):
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)

    # Network

    def set_congestion_control(self, netns: int | None, name: str) -> None:
        """Make *name* the congestion control of all IPv4 routes in a namespace.

        The per-namespace sysctl refuses algorithms that the machine restricts to its first
        namespace (EPERM, as for cubic where it is not the machine's default), so it is the
        routes' attribute (ip-route(8), congctl) that is set. Raises SectionFailed.
        """
        enter = in_netns(netns)
        for table, kind in (("local", "local"), ("main", "unicast")):
            shown = run([*enter, "ip", "-4", "route", "show", "table", table, "type", kind])
            for line in shown.splitlines():
                words = without_option(line.split(), "congctl")
                run([*enter, "ip", "-4", "route", "replace", *words, "table", table, "congctl", name])

    def default_route(self, netns: int) -> tuple[str, str]:
        """Return gateway and device of the IPv4 default route in a namespace, or SectionFailed."""
        out = run([*in_netns(netns), "ip", "-4", "-j", "route", "show", "default"])
        routes: list[dict[str, str]] = json.loads(out or "[]")
        if not routes:
            raise SectionFailed("no IPv4 default route in the namespace")
        return routes[0]["gateway"], routes[0]["dev"]

    def retransmitted(self, netns: int | None) -> int:
        """Return the TCP segments retransmitted so far in a namespace (TcpRetransSegs)."""
        lines = run([*in_netns(netns), "cat", "/proc/self/net/snmp"]).splitlines()
        names, values = (line.split() for line in lines if line.startswith("Tcp:"))
        return int(values[names.index("RetransSegs")])


def is_open(directory: Path) -> bool:
    """Say whether users other than owner and group may pass through a directory."""
    return bool(directory.stat().st_mode & 0o001)


def without_option(words: Sequence[str], option: str) -> list[str]:
    """Remove an option and its value from the words of a route, and the kernel's state flags."""
    kept = [word for word in words if word not in {"linkdown", "onlink", "dead"}]
    if option in kept:
        at = kept.index(option)
        del kept[at : at + 2]
    return kept


def read_until(process: subprocess.Popen[str], word: str, timeout_s: float) -> str:
    """Read a process's output until *word* occurs (any case), it ends, or time runs out."""
    if process.stdout is None:
        return ""
    fd, seen = process.stdout.fileno(), b""
    deadline = time.monotonic() + timeout_s
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while word.encode() not in seen.lower():
            if not selector.select(max(0.0, deadline - time.monotonic())):
                break
            chunk = os.read(fd, 4096)
            if not chunk:
                break
            seen += chunk
    return seen.decode(errors="replace")


def await_true(condition: Callable[[], bool], what: str, timeout_s: float = SETUP_TIMEOUT_S) -> None:
    """Poll *condition* until it holds; SectionFailed names *what* after *timeout_s*."""
    deadline = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(OSError):
            if condition():
                return
        if time.monotonic() > deadline:
            raise SectionFailed(f"{what} was not there after {timeout_s:g} s")
        time.sleep(0.01)
