"""How long traffic waits while somebody looks: `python -m bench.listing`, as root, from the root of the tree.

Our pasta has as many open connections as are asked for, or as descriptors allow; over one more, single bytes
go to and fro. Their longest and usual round trips are printed for some spans of time: nobody looks, all
flows are listed again and again by the control socket, the same by one who takes only what processors have
left over (SCHED_IDLE, sched(7)), `passtctl top` is attached. What the machine does meanwhile is in the first
figure, too; only the difference to it is ours.

What pauses traffic is a turn of our loop, in which nothing is waited for. Beside the round trips stand the
longest turn, what it had of a processor (for the rest of it others had all of them), the most that any turn
had, and how long and how often our thread waited for a processor in the whole span (schedstat, in
proc_pid_schedstat of the kernel's documentation). Memory is that with --control and without, at rest.
"""

import argparse
import contextlib
import http.client
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from bench.cli import PROJECT
from bench.errors import BenchError

PASTA = str(PROJECT / ".venv/bin/pasta")
PASSTCTL = str(PROJECT / ".venv/bin/passtctl")
MAX_SECONDS = 30       # of which /v1/turns measures twice as many
PER_PORT = 20_000      # connections to one port: what ephemeral ports there are
# Opens COUNT connections to the ports and holds them; then answers each line of standard input, a number of
# seconds, with the round trips of that time, in microseconds.
CLIENT = """
import json, resource, socket, sys, time
host, count, ping, *ports = sys.argv[1], *map(int, sys.argv[2:])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
line = socket.create_connection((host, ping))
line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
line.send(b"x")                   # a connection on which data passed makes room for no other
line.recv(1)
held = []
try:
    for i in range(count):
        sock = socket.socket()
        sock.settimeout(20)
        sock.connect((host, ports[i % len(ports)]))
        held.append(sock)
except OSError as error:
    print(f"{len(held)} connections: {error}", file=sys.stderr, flush=True)
print(len(held), flush=True)
for text in sys.stdin:
    trips = []
    end = time.monotonic() + float(text)
    while (start := time.monotonic()) < end:
        line.send(b"x")
        line.recv(1)
        trips.append((time.monotonic() - start) * 1e6)
    trips.sort()
    n = len(trips)
    print(json.dumps({"count": n, "p50": trips[n // 2], "p999": trips[n * 999 // 1000],
                      "longest": trips[-1]}), flush=True)
"""
SERVER = """
import resource, select, socket, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
doors = [socket.create_server(("127.0.0.1", 0), backlog=4096) for _ in range(int(sys.argv[1]))]
poll, held = select.epoll(), {}
for door in doors:
    poll.register(door, select.EPOLLIN)
print(*(door.getsockname()[1] for door in doors), flush=True)
by_fd = {door.fileno(): door for door in doors}
while True:
    for fd, _ in poll.poll():
        if fd in by_fd:
            sock, _ = by_fd[fd].accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            held[sock.fileno()] = sock
            poll.register(sock, select.EPOLLIN)
        elif data := held[fd].recv(65536):
            held[fd].send(data)
        else:
            held.pop(fd).close()
"""


# The lister, a process of its own: for SECONDS, and prints how long each list took.
LISTER = """
import json, sys, time
from bench.listing import list_all
path, seconds = sys.argv[1], float(sys.argv[2])
took, end = [], time.monotonic() + seconds
while not took or time.monotonic() < end:
    start = time.monotonic()
    list_all(path)
    took.append(time.monotonic() - start)
print(json.dumps(took))
"""


class UnixConnection(http.client.HTTPConnection):
    """HTTP on a UNIX socket."""

    def __init__(self, path: str) -> None:
        super().__init__("passt", timeout=120)
        self._path = path

    def connect(self) -> None:
        """Connect to the path."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def arguments(argv: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="bench.listing", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--flows", type=int, default=60_000, metavar="N", help="connections to open")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S",
                        help=f"of each span of time, 1 to {MAX_SECONDS}")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    if not 1 <= options.seconds <= MAX_SECONDS:
        parser.error(f"--seconds needs a number from 1 to {MAX_SECONDS}")
    return options


def raise_limit(wanted: int) -> int:
    """Raise the hard limit of descriptors as far as it goes; return how many connections it allows.

    One crowd may have four fifths of them (docs/security.md); some more are no flows'.
    """
    most = min(wanted * 4 // 3 + 1, int(Path("/proc/sys/fs/nr_open").read_text(encoding="ascii")))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < most:
        with contextlib.suppress(ValueError, OSError):    # root of a container may not
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, most))
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return min(wanted, hard * 3 // 4)


@contextlib.contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """Lend a process, and end it."""
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def pipe(stream: IO[str] | None) -> IO[str]:
    """Return the end of a pipe that is there."""
    if stream is None:
        raise BenchError("a process was started without a pipe")
    return stream


def read_words(process: subprocess.Popen[str]) -> list[str]:
    """Read one line that a process says. Raises SystemExit if there is none."""
    line = pipe(process.stdout).readline()
    if not line:
        sys.exit("bench.listing: a part of the lab did not start")
    return line.split()


def gateway() -> str:
    """Return the address by which the namespace reaches the host's loopback."""
    routes = json.loads(subprocess.check_output(["ip", "-j", "-4", "route", "show", "default"], text=True))
    if not routes:
        sys.exit("bench.listing: this host has no default route, so no address stands for its loopback")
    return str(routes[0]["gateway"])


def resident_kb(pid: int) -> int:
    """Return the resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    return 0


def memory_at_rest(*options: str) -> int:
    """Return the resident memory of a pasta that has nothing to do, in kB."""
    command = [PASTA, "-q", "--config-net", *options, "--", "cat"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with ended(process):
        pipe(process.stdin).write("ready\n")
        pipe(process.stdin).flush()
        pipe(process.stdout).readline()
        return resident_kb(process.pid)


def list_all(path: str) -> int:
    """List all flows once; return how many there were."""
    connection = UnixConnection(path)
    n_found, cursor = 0, 0
    while cursor is not None:
        connection.request("GET", f"/v1/flows?limit=65536&cursor={cursor}")
        page = json.loads(connection.getresponse().read())
        n_found, cursor = n_found + len(page["flows"]), page["next"]
    connection.close()
    return n_found


def ask(path: str, target: str) -> dict[str, Any]:
    """Return what one request is answered."""
    connection = UnixConnection(path)
    connection.request("GET", target)
    found: dict[str, Any] = json.loads(connection.getresponse().read())
    connection.close()
    return found


def waits(pid: int) -> tuple[float, int]:
    """Return for how long a process waited for a processor, in seconds, and how often it had one."""
    words = Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()
    return int(words[1]) / 1e9, int(words[2])


def measure(client: subprocess.Popen[str], path: str, seconds: float) -> dict[str, Any]:
    """Have round trips measured, and the turns of our loop."""
    turns: dict[str, Any] = {}
    pid = ask(path, "/v1/info")["pid"]
    before = waits(pid)
    thread = threading.Thread(target=lambda: turns.update(ask(path, f"/v1/turns?seconds={seconds:.0f}")))
    thread.start()
    pipe(client.stdin).write(f"{seconds}\n")
    pipe(client.stdin).flush()
    found: dict[str, Any] = json.loads(pipe(client.stdout).readline())
    thread.join()
    after = waits(pid)
    return found | turns | {"waited_s": after[0] - before[0], "waits": after[1] - before[1]}


def measure_while_listing(client: subprocess.Popen[str], path: str, seconds: float, *, idle: bool
                          ) -> dict[str, Any]:
    """Have them measured while all flows are listed again and again, *idle*: by one who gives way to all."""
    command = [sys.executable, "-c", LISTER, path, str(seconds)]
    lister = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    if idle:
        os.sched_setscheduler(lister.pid, os.SCHED_IDLE, os.sched_param(0))
    with ended(lister):
        found = measure(client, path, seconds)
        took_s: list[float] = json.loads(pipe(lister.stdout).readline())
    return found | {"lists": len(took_s), "list_s": sorted(took_s)[len(took_s) // 2]}


def run(n_flows: int, seconds: float) -> dict[str, Any]:
    """Make the flows and measure."""
    count = raise_limit(n_flows)
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "control")
        memory = {"without_kb": memory_at_rest(), "with_kb": memory_at_rest("--control", path)}
        n_ports = -(-count // PER_PORT) + 1
        server = subprocess.Popen([sys.executable, "-c", SERVER, str(n_ports)], stdout=subprocess.PIPE,
                                  text=True)  # fmt: skip
        with ended(server):
            ping, *ports = read_words(server)
            command = [PASTA, "-q", "--config-net", "--control", path, "--", sys.executable, "-c", CLIENT,
                       gateway(), str(count), ping, *ports]  # fmt: skip
            client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            with ended(client):
                n_open = int(read_words(client)[0])
                figures: dict[str, Any] = {"connections": n_open, "listed": list_all(path), "memory": memory}
                figures["quiet"] = measure(client, path, seconds)
                figures["listing"] = measure_while_listing(client, path, seconds, idle=False)
                figures["giving way"] = measure_while_listing(client, path, seconds, idle=True)
                top = subprocess.Popen(["script", "-qec", f"{PASSTCTL} -s {path} top", "/dev/null"],
                                       stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
                                       env=os.environ | {"TERM": "xterm"})  # fmt: skip
                with ended(top):
                    figures["top"] = measure(client, path, 2 * seconds)
    return figures


def main(argv: list[str]) -> int:
    """Run it, and print the figures."""
    options = arguments(argv)
    figures = run(options.flows, options.seconds)
    if options.json:
        print(json.dumps(figures, indent=2))
        return 0
    print(f"{figures['connections']} connections, {figures['listed']} flows listed in"
          f" {figures['listing']['list_s']:.2f} s")
    for name in ("quiet", "listing", "giving way", "top"):
        each = figures[name]
        print(f"{name:<10} round trip p50 {each['p50']:.0f} us, p99.9 {each['p999']:.0f} us,"
              f" longest {each['longest']:.0f} us, of {each['count']}\n"
              f"           longest turn {each['longest_us']} us, {each['cpu_in_longest_us']} us of them on a"
              f" processor, most of any {each['most_cpu_us']} us, of {each['turns']};"
              f" {1000 * each['waited_s']:.0f} ms waited for a processor, {each['waits']} times")
    memory = figures["memory"]
    more_kb = memory["with_kb"] - memory["without_kb"]
    print(f"memory     {memory['without_kb']} kB, with --control {more_kb} kB more")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
