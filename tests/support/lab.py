"""A small network of namespaces, made afresh for a test session, in which the program is started.

Theory of operation. Two places are joined by a veth pair::

    host (203.0.113.2/24, 2001:db8:1::2/64)  h0 ---- o0  outside (203.0.113.1/24, 2001:db8:1::1/64)

The host's default routes point to the outside. Each place is a network, mount and PID namespace
held by one process, its init. The kernel kills that process when the test session dies, however
it dies, and with it every process started in the place; the namespaces, which nothing else holds,
follow. So nothing has to be named or cleaned up on the machine, and what a test leaves behind is
simply what is listed in the place's PID namespace after it.

The mount namespaces are private: resolv.conf, nsswitch.conf, passwd and /dev/net/tun are bound over
there only. The tun node is root's alone, as on most machines; for a plain user one more private mount
namespace has an open node.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypedDict, Unpack

from tests.support import switches
from tests.support.processes import (
    SMALL_PROGRAMS,
    children,
    descendants,
    is_readable,
    process_name,
    process_state,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

TREE = Path(__file__).parent.parent.parent
PROGRAMS = TREE / "tests" / "system"
UID = 54321
HOST4, HOST6 = "203.0.113.2", "2001:db8:1::2"
OUTSIDE4, OUTSIDE6 = "203.0.113.1", "2001:db8:1::1"
# Further addresses of the outside that, unlike the gateway, the default mapping leaves alone.
FAR4, FAR6 = "198.51.100.1", "2001:db8:2::1"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SETTLE_S = 60.0  # bounds a failure only
NS_GET_PARENT = 0xB702  # linux/nsfs.h

# Init of a place: children that end are reaped by the kernel, as SIGCHLD is ignored.
INIT = """
import signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
while True:
    signal.pause()
"""

# Arguments: directory of the lab. Makes private what the tests change, in the place's mount namespace.
PRIVATE_FILES = """
set -e
mount -t tmpfs -o mode=755 dev /dev/net
mknod -m 600 /dev/net/tun c 10 200
mknod -m 666 /dev/net/tun.open c 10 200
for name in resolv.conf nsswitch.conf passwd; do
    mount --bind "$1/etc/$name" "$(realpath "/etc/$name")"
done
"""

# Where the mounts of the above are.
PRIVATE_PLACES = {"/dev/net", *(os.path.realpath(f"/etc/{name}")
                                for name in ("resolv.conf", "nsswitch.conf", "passwd"))}


class SpawnOptions(TypedDict, total=False):
    """Keywords of `Place.spawn` that `Lab.start` hands on."""

    cwd: str
    env: Mapping[str, str] | None
    stdin: int | IO[bytes]
    stdout: int | IO[bytes]
    stderr: int | IO[bytes]


class RunOptions(TypedDict, total=False):
    """Keywords of `Place.run` that `Lab.run` hands on."""

    cwd: str
    timeout: float
    env: Mapping[str, str] | None
    feed: bytes | None
    check: bool


class LabError(Exception):
    """The machine cannot give what the tests need; the text says what."""


@dataclass
class Running:
    """A process started in a place; *pid* is as the machine sees it, *popen* the nsenter around it."""

    popen: subprocess.Popen[bytes]
    pid: int

    def send(self, signum: int) -> None:
        """Send it a signal; one that has ended already is no error."""
        if self.popen.poll() is None:
            try:
                os.kill(self.pid, signum)
            except ProcessLookupError:
                return

    def finish(self, timeout: float = 60.0) -> subprocess.CompletedProcess[bytes]:
        """Wait for its end; kill it and fail when it does not come within *timeout* seconds."""
        try:
            out, err = self.popen.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as late:
            self.kill()
            raise AssertionError(f"still running after {timeout} s: {late.cmd}\n{late.output!r}") from late
        return subprocess.CompletedProcess(self.popen.args, self.popen.returncode, out, err)

    def kill(self) -> None:
        """End it by force, with what it started below itself, and collect it."""
        pids = [self.pid, *descendants(self.pid)]
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        # Its ports are free only when it is gone, and the kernel takes its time to take down a network.
        wait_until(lambda: not any(process_state(pid) for pid in pids), "killed processes are gone", 60)
        self.popen.kill()
        self.popen.communicate(timeout=20)


def next_line(running: Running) -> str:
    """Return the next line that *running* prints."""
    output = running.popen.stdout
    assert output is not None
    line = b""
    while not line.endswith(b"\n"):
        assert is_readable(output.fileno(), 120)
        data = os.read(output.fileno(), 1)
        assert data, f"it ended after {line!r}"
        line += data
    return line.decode().rstrip("\n")


@dataclass
class Place:
    """A network, mount and PID namespace with an init that holds them."""

    holder: subprocess.Popen[bytes]
    init: int
    directory: Path
    spawned: list[Running] = field(default_factory=list)

    @classmethod
    def make(cls, directory: Path) -> Place:
        """Make the namespaces; `LabError` if the machine refuses them."""
        holder = subprocess.Popen(
            # --kill-child after --fork: the init dies with unshare, and unshare with us.
            [
                "setpriv",
                "--pdeathsig",
                "KILL",
                "unshare",
                "--net",
                "--mount",
                "--ipc",
                "--uts",
                "--pid",
                "--fork",
                "--kill-child=KILL",
                "--mount-proc",
                "/usr/bin/python3",
                "-I",
                "-c",
                INIT,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={"PATH": PATH},
        )
        assert holder.stdout is not None
        assert holder.stderr is not None
        if holder.stdout.readline() != b"ready\n":
            raise LabError(f"cannot make namespaces: {holder.stderr.read().decode().strip()}")
        place = cls(holder, children(holder.pid)[0], directory)
        # Without duplicate address detection an address works as soon as it is there.
        place.run(["sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad"])
        place.run(["sh", "-c", "echo 0 2147483647 >/proc/sys/net/ipv4/ping_group_range"])
        place.run(["sh", "-c", PRIVATE_FILES, "sh", str(directory)])
        place.run(["ip", "link", "set", "lo", "up"])
        return place

    def close(self) -> None:
        """End every process in the place, and collect those that are ours."""
        self.holder.kill()
        self.holder.communicate(timeout=20)
        self.collect(set())

    def collect(self, alive: set[int]) -> None:
        """End what waits outside the place, perhaps stopped, for one in it that is not among *alive*."""
        for running in self.spawned:
            if running.popen.returncode is None and running.pid not in alive:
                running.popen.kill()
                running.popen.communicate(timeout=20)

    def command(self, argv: Sequence[str], *, user: bool, cwd: str = "/") -> list[str]:
        """Full command line that runs *argv* in this place, as root or as the plain user."""
        enter = [
            "nsenter",
            "-t",
            str(self.init),
            "--net",
            "--mount",
            "--ipc",
            "--uts",
            "--pid",
            f"--wdns={cwd}",
        ]
        if not user:
            return [*enter, *argv]
        script = 'mount --bind /dev/net/tun.open /dev/net/tun && exec setpriv "$@"'
        return [
            *enter,
            "unshare",
            "--mount",
            "sh",
            "-c",
            script,
            "sh",
            f"--reuid={UID}",
            f"--regid={UID}",
            "--clear-groups",
            "--inh-caps=-all",
            "--",
            *argv,
        ]

    def spawn(
        self,
        argv: Sequence[str],
        *,
        user: bool = False,
        cwd: str = "/",
        env: Mapping[str, str] | None = None,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes] = subprocess.PIPE,
        stderr: int | IO[bytes] = subprocess.PIPE,
    ) -> Running:
        """Start a program; it has ended, or runs as `Running.pid`, when this returns."""
        home = str(self.directory / "home") if user else "/root"
        popen = subprocess.Popen(
            self.command(argv, user=user, cwd=cwd),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={"PATH": PATH, "HOME": home, "LANG": "C.UTF-8", **(env or {})},
        )
        pids: list[int] = []

        def has_child() -> bool:
            pids[:] = children(popen.pid)
            return bool(pids) or popen.poll() is not None

        wait_until(has_child, "nsenter forks")
        running = Running(popen, pids[0] if pids else popen.pid)
        self.spawned = [*(one for one in self.spawned if one.popen.returncode is None), running]
        return running

    def run(
        self,
        argv: Sequence[str],
        *,
        user: bool = False,
        cwd: str = "/",
        timeout: float = 120.0,
        env: Mapping[str, str] | None = None,
        feed: bytes | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program to its end; with *check* a status that is not 0 fails the test, showing stderr."""
        running = self.spawn(
            argv, user=user, cwd=cwd, env=env, stdin=subprocess.DEVNULL if feed is None else subprocess.PIPE
        )
        if feed is not None:
            try:
                out, err = running.popen.communicate(feed, timeout)
            except subprocess.TimeoutExpired:
                running.kill()
                raise
            result = subprocess.CompletedProcess(argv, running.popen.returncode, out, err)
        else:
            result = running.finish(timeout)
        if check:
            assert result.returncode == 0, (
                f"{' '.join(argv)}: status {result.returncode}\n"
                f"{result.stdout.decode(errors='replace')}\n{result.stderr.decode(errors='replace')}"
            )
        return result

    def pids(self) -> set[int]:
        """All processes of the place and of PID namespaces in it, as the machine sees them, but the init."""
        own = os.stat(f"/proc/{self.init}/ns/pid").st_ino
        everyone = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
        return {pid for pid in everyone if pid != self.init and own in pid_namespaces(pid)}

    def programs(self) -> set[int]:
        """Give `pids` without the small programs by which a run follows the host."""
        return {pid for pid in self.pids() if process_name(pid) not in SMALL_PROGRAMS}

    def links(self) -> list[str]:
        """Names of the network interfaces."""
        text = self.run(["ip", "-o", "link"]).stdout.decode()
        return sorted(line.split(": ")[1].partition("@")[0] for line in text.splitlines())

    def mounts(self) -> list[str]:
        """Mount points, which is where a namespace could be kept alive by a bind mount."""
        lines = Path(f"/proc/{self.init}/mountinfo").read_text(encoding="utf-8").splitlines()
        return sorted(line.split()[4] for line in lines)


def pid_namespaces(pid: int) -> list[int]:
    """Inode numbers of the PID namespaces a process is in: its own and those around it."""
    found: list[int] = []
    try:
        descriptor = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY)
    except OSError:
        return []  # gone, or one of the machine's own that is nobody's to see
    while True:
        found.append(os.fstat(descriptor).st_ino)
        try:
            parent = fcntl.ioctl(descriptor, NS_GET_PARENT)
        except PermissionError:  # the machine's own namespace has no parent
            return found
        finally:
            os.close(descriptor)
        descriptor = parent


@dataclass
class Lab:
    """The whole network, its servers, and the program under test."""

    directory: Path
    host: Place
    outside: Place
    pasta: str
    extra: list[Place] = field(default_factory=list)

    @property
    def client(self) -> list[str]:
        """Start of a command line that runs tests/system/client.py within a namespace."""
        return ["/usr/bin/python3", "-I", str(self.directory / "client.py")]

    @property
    def passt(self) -> str:
        """Path of the program that connects machines; it is beside `pasta`."""
        return str(Path(self.pasta).with_name("passt"))

    @property
    def tcp_client(self) -> list[str]:
        """Start of a command line that runs tests/system/tcp_client.py anywhere."""
        return ["/usr/bin/python3", "-I", str(self.directory / "tcp_client.py")]

    def bare_place(self) -> Place:
        """Make a host without any network; ends with the lab at the latest."""
        place = Place.make(self.directory)
        self.extra.append(place)
        return place

    def start(
        self,
        options: Sequence[str],
        command: Sequence[str] = (),
        *,
        user: bool,
        place: Place | None = None,
        **keywords: Unpack[SpawnOptions],
    ) -> Running:
        """Start `pasta OPTIONS -- COMMAND` on the host, or in *place*."""
        argv = [self.pasta, *options, *(["--", *command] if command else [])]
        return (place or self.host).spawn(argv, user=user, **keywords)

    def run(
        self,
        options: Sequence[str],
        command: Sequence[str] = (),
        *,
        user: bool,
        place: Place | None = None,
        **keywords: Unpack[RunOptions],
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `pasta OPTIONS -- COMMAND` to its end on the host, or in *place*."""
        argv = [self.pasta, *options, *(["--", *command] if command else [])]
        return (place or self.host).run(argv, user=user, **keywords)

    def close(self) -> None:
        """End everything and remove the lab's directory."""
        for place in [*self.extra, self.host, self.outside]:
            place.close()
        shutil.rmtree(self.directory)


def check_machine() -> None:
    """Raise `LabError` with the reason if the system tests cannot run here at all."""
    if os.geteuid() != 0:
        raise LabError("the system tests make network namespaces, so they must run as root")
    if not Path("/dev/net/tun").exists():
        raise LabError("no /dev/net/tun: load the tun module (modprobe tun)")
    for name in (
        "ip",
        "nsenter",
        "setpriv",
        "unshare",
        "curl",
        "iperf3",
        "dnsmasq",
        "dig",
        "ping",
        "dhcpcd",
        "busybox",
        "tshark",
    ):
        if shutil.which(name, path=PATH) is None:
            raise LabError(f"{name} is missing: 'make test' installs it")


def userns_refusal(place: Place) -> str:
    """Why a plain user cannot make a user namespace in *place*; "" if one can."""
    probe = place.run(["unshare", "--user", "--map-root-user", "--net", "true"], user=True, check=False)
    if probe.returncode == 0:
        return ""
    settings = []
    for name in (
        "user/max_user_namespaces",
        "kernel/unprivileged_userns_clone",
        "kernel/apparmor_restrict_unprivileged_userns",
    ):
        path = Path("/proc/sys") / name
        if path.exists():
            settings.append(f"{name.replace('/', '.')}={path.read_text(encoding='ascii').strip()}")
    return (
        f"plain users may not make user namespaces: {probe.stderr.decode().strip()} ({', '.join(settings)})"
    )


def install(directory: Path) -> str:
    """Copy the package, built in place, to where a plain user can read it; return its `pasta`."""
    given = switches.PASTA
    if given:
        return given
    library = directory / "lib"
    shutil.copytree(
        TREE / "src" / "passt", library / "passt", ignore=shutil.ignore_patterns("*.c", "__pycache__")
    )
    h11 = Path(importlib.import_module("h11").__file__ or "").parent
    shutil.copytree(h11, library / "h11", ignore=shutil.ignore_patterns("__pycache__"))
    python = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    program = directory / "bin" / "pasta"
    program.parent.mkdir()
    program.write_text(
        f"#!{python} -E\nimport sys\nsys.path.insert(0, {str(library)!r})\n"
        "from passt.cli import main\nsys.exit(main())\n",
        encoding="utf-8",
    )
    subprocess.run([python, "-m", "compileall", "-q", library], check=True)
    make_readable([directory / "bin", library])
    program.chmod(0o755)
    for name in ("passt", "qrap", "pesto", "passtctl"):
        program.with_name(name).symlink_to(program.name)
    return str(program)


def make_readable(paths: Iterable[Path]) -> None:
    """Let everybody read what is below *paths*, and execute what is a program."""
    for top in paths:
        for path in [top, *top.rglob("*")]:
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


def write_private_files(directory: Path) -> None:
    """Write what the places see instead of the machine's own files, and the client of the tests."""
    etc = directory / "etc"
    etc.mkdir()
    (etc / "resolv.conf").write_text(
        f"nameserver {FAR4}\nnameserver {FAR6}\nsearch lab.example\n", encoding="ascii"
    )
    (etc / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n", encoding="ascii")
    (etc / "passwd").write_text(
        f"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/usr/sbin/nologin\n"
        f"lab:x:{UID}:{UID}::{directory}/home:/bin/sh\n",
        encoding="ascii",
    )
    for name in ("client.py", "tcp_client.py", "relay.py", "servers.py", "dhcp_hook.sh", "transfer.py",
                 "load.py", "counting.py", "emulator.py", "escapes.py", "first_bytes.py"):
        shutil.copy(PROGRAMS / name, directory)
    (directory / "dhcp_hook.sh").chmod(0o755)
    make_readable([etc])
    (directory / "home").mkdir()
    os.chown(directory / "home", UID, UID)
    (directory / "home").chmod(0o700)


def connect(host: Place, outside: Place) -> None:
    """Join the two places and give them addresses and routes."""
    subprocess.run(
        [
            "nsenter",
            "-t",
            str(host.init),
            "--net",
            "ip",
            "link",
            "add",
            "h0",
            "type",
            "veth",
            "peer",
            "name",
            "o0",
            "netns",
            str(outside.init),
        ],
        check=True,
    )
    for place, ifname, addresses in (
        (host, "h0", (f"{HOST4}/24", f"{HOST6}/64")),
        (outside, "o0", (f"{OUTSIDE4}/24", f"{OUTSIDE6}/64")),
    ):
        for address in addresses:
            place.run(["ip", "addr", "add", address, "dev", ifname])
        place.run(["ip", "link", "set", ifname, "up"])
    outside.run(["ip", "addr", "add", f"{FAR4}/32", "dev", "lo"])
    outside.run(["ip", "addr", "add", f"{FAR6}/128", "dev", "lo"])
    host.run(["ip", "route", "add", "default", "via", OUTSIDE4])
    host.run(["ip", "-6", "route", "add", "default", "via", OUTSIDE6])


def serve(place: Place, directory: Path) -> None:
    """Start the servers of a place on all its addresses and wait until they listen."""
    place.spawn(
        ["/usr/bin/python3", "-I", str(directory / "servers.py")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    # iperf3 serves one test at a time; one server for each place is enough, as tests run one by one.
    place.spawn(["iperf3", "-s", "-p", "5201"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    place.spawn(
        [
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--user=root",
            "--pid-file=",
            "--bind-interfaces",
            "--host-record=www.lab.example,192.0.2.80,2001:db8::80",
            "--local=/example/",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    shown = place.run(["ip", "-o", "address", "show", "scope", "global"]).stdout.decode().splitlines()
    addresses = [address if "." in address else f"[{address}]"
                 for address in (line.split()[3].partition("/")[0] for line in shown)]

    def listening() -> bool:
        text = place.run(["ss", "-Hltun"]).stdout.decode()
        found = {tuple(line.split()[0:5:4]) for line in text.splitlines()}
        # The last ones that each server makes. The name server has two for each address.
        wanted = {("tcp", "*:8016"), ("udp", "*:8007"), ("tcp", "*:5201"),
                  *((kind, f"{address}:53") for kind in ("tcp", "udp") for address in addresses)}
        return wanted <= found

    wait_until(listening, "servers listen", 60)


def make_lab(directory: Path) -> Lab:
    """Build the network with its servers; `LabError` says what the machine lacks."""
    check_machine()
    directory.chmod(0o755)
    write_private_files(directory)
    pasta = install(directory)
    places: list[Place] = []
    try:
        places.append(Place.make(directory))
        places.append(Place.make(directory))
        connect(*places)
        for place in places:
            serve(place, directory)
    except BaseException:
        for place in places:
            place.close()
        raise
    return Lab(directory, places[0], places[1], pasta)
