"""What rules of egress cost: CPU time of a flow with 0, 1 and 1,000 rules, of a query, a said name; a wait.

    sudo .venv/bin/python bench/egress.py [--parts flows,queries,said,waits] [--flows N] [--queries N]
        [--rounds N] [--pasta PATH]

Theory of operation. CPU time of the program's own processes is measured, not the time on a clock, so that a
busy machine changes little. Rounds of all numbers of rules take turns, and the median counts. The rule that
lets a flow pass is the last one; those before are about other networks of one length, by which a look-up
could be slow. A flow that says a name sends a ClientHello, as OpenSSL makes it, and a byte comes back: by a
rule about its address, by one about its name, and with that name verified, alone and as the last of 1,000.
The client has BATCH connections or queries under way at a time. All is in namespaces of its
own, as in `lab.py`: a host with a veth pair, and servers at the other end and on the host's loopback.

The wait for an answer is time on a clock, so the machine has to be quiet; `chrt -r 10` in front keeps other
programs out of the way. Queries are sent at a steady rate,
whatever has been answered; what is late on the client's side counts. First a program of the host asks the
server itself, then one inside asks our forwarder, without rules and with them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

RULES = (0, 1, 1000)
BATCH = 64
RATES = (500, 5000)                # queries a second whose waits are measured
SECONDS = 2
LOST_S = 3.0                       # without any answer, and what has none, or an error, is lost
PARTS = ("flows", "queries", "said", "waits")
FAR4 = "198.51.100.1"
NAME_SERVER = "127.0.0.53"
FORWARDER = "198.51.100.53"
INSIDE = "PASST_BENCH_EGRESS"
TREE = Path(__file__).resolve().parent.parent

# Closes what comes; on the second port, once something was said.
SERVER = """
import socket, threading
def serve(port, size):
    server = socket.create_server(("", port), backlog=1024)
    while True:
        sock = server.accept()[0]
        sock.recv(size) if size else None
        sock.close()
threading.Thread(target=serve, args=(9000, 0)).start()
threading.Thread(target=serve, args=(9001, 4096)).start()
print("ready", flush=True)
"""
# Answers each query with one address.
NAMES = f"""
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(({NAME_SERVER!r}, 53))
print("ready", flush=True)
record = bytes.fromhex("c00c00010001000000780004c6336401")
while True:
    query, peer = server.recvfrom(512)
    server.sendto(query[:2] + bytes.fromhex("81800001000100000000") + query[12:] + record, peer)
"""
# Waits for a line before each part; says how long the second one took.
CLIENT = f"""
import select, socket, ssl, struct, sys, time

def hello():
    sent, context = ssl.MemoryBIO(), ssl.create_default_context()
    try:
        context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname="www.good.test").do_handshake()
    except ssl.SSLWantReadError:
        return sent.read()

def said(number):
    queries({BATCH})
    flows(number, 9001, hello())

def flows(number, port=9000, data=b""):
    for _ in range(0, number, {BATCH}):
        poll, opened = select.poll(), {{}}
        for _ in range({BATCH}):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(({FAR4!r}, port))
            poll.register(sock, select.POLLOUT if data else select.POLLIN)
            opened[sock.fileno()] = sock
        while opened:
            for fd, events in poll.poll():
                if events & select.POLLOUT:
                    opened[fd].send(data)
                    poll.modify(fd, select.POLLIN)
                    continue
                poll.unregister(fd)
                sock = opened.pop(fd)
                assert sock.recv(1) == b""
                sock.close()

def query(at):
    name = b"n%07d" % at
    return (struct.pack("!6H", at & 0xffff, 0x100, 1, 0, 0, 0) + bytes((len(name),)) + name
            + b"\\4good\\4test\\0" + struct.pack("!HH", 1, 1))

def queries(number, first=0):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(({FORWARDER!r}, 53))
    for start in range(first, first + number, {BATCH}):
        for at in range(start, start + {BATCH}):
            sock.send(query(at))
        for _ in range({BATCH}):
            assert sock.recv(512)[3] & 15 == 0

def waits(address, rate, number):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((address, 53))
    sock.setblocking(False)
    due, found, n = {{}}, [], 0
    clock, gap = time.perf_counter, 1 / rate
    begin = clock() + 0.01
    while due or n < number:
        while n < number and begin + n * gap <= clock():
            due[n & 0xffff] = begin + n * gap
            sock.send(query(n))
            n += 1
        pause = begin + n * gap - clock() if n < number else {LOST_S}
        if not select.select([sock], [], [], max(pause, 0))[0] and n == number:
            break
        try:
            while True:
                data = sock.recv(512)
                wait = clock() - due.pop(int.from_bytes(data[:2], "big"))
                if data[3] & 15 == 0:
                    found.append(wait)
        except BlockingIOError:
            pass
    found.sort()
    return found[len(found) // 2], found[len(found) * 99 // 100], number - len(found)

if sys.argv[1] == "waits":
    address, rate, number = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    waits(address, 1000, {BATCH})
    print("ready", flush=True)
    sys.stdin.readline()
    print(*waits(address, rate, number), flush=True)
    sys.stdin.readline()
    sys.exit()
part = {{"flows": flows, "queries": queries, "said": said}}[sys.argv[1]]
part({BATCH})
print("ready", flush=True)
sys.stdin.readline()
began = time.monotonic()
part(int(sys.argv[2]))
print(time.monotonic() - began, flush=True)
sys.stdin.readline()
"""


def start(argv: list[str], *, netns: int | None = None) -> subprocess.Popen[str]:
    """Start a program that says when it is ready, maybe in the network of the process *netns*."""
    enter = ["nsenter", f"--net=/proc/{netns}/ns/net"] if netns else []
    process = subprocess.Popen([*enter, *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if read_line(process) != "ready\n":
        process.communicate()
        sys.exit(f"{argv[0]}: did not start")
    return process


def read_line(process: subprocess.Popen[str]) -> str:
    """Return the next line that *process* prints."""
    return process.stdout.readline() if process.stdout is not None else ""


def go_on(process: subprocess.Popen[str]) -> None:
    """Let *process*, which waits for it, go on."""
    if process.stdin is not None:
        process.stdin.write("\n")
        process.stdin.flush()


def cpu_s(pid: int) -> float:
    """Return the CPU time of all threads of a process in seconds."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9


def processes(name: str) -> list[int]:
    """List the processes of this PID namespace that are called *name*."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "comm").read_text(encoding="utf-8").strip() == name:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def set_up() -> int:
    """Make the host's network; return the process that holds its other end."""
    holder = start(["unshare", "--net", "sh", "-c", "echo ready; exec sleep infinity"])
    netns = holder.pid
    for words in ("link set lo up", f"link add h0 type veth peer name o0 netns {netns}",
                  "addr add 203.0.113.2/24 dev h0", "link set h0 up"):
        subprocess.run(["ip", *words.split()], check=True)
    for words in ("link set lo up", "addr add 203.0.113.1/24 dev o0", f"addr add {FAR4}/32 dev lo",
                  "link set o0 up"):
        subprocess.run(["nsenter", f"--net=/proc/{netns}/ns/net", "ip", *words.split()], check=True)
    subprocess.run(["ip", "route", "add", "default", "via", "203.0.113.1"], check=True)
    return netns


def policy(directory: Path, number: int, last: str) -> list[str]:
    """Write *number* rules, of which the *last* lets pass what is measured; return the options."""
    if not number:
        return []
    rules = [f"allow 10.{i // 250}.{i % 250}.0/24:443" for i in range(number - 1)]
    if "good" in last:
        rules = [f"allow x{i}.test:443" for i in range(number - 1)]
    path = directory / f"{number}-{len(last)}.toml"
    lines = "".join(f'    "{rule}",\n' for rule in [*rules, last])
    path.write_text(f"rules = [\n{lines}]\n", encoding="ascii")
    path.chmod(0o644)
    return ["--policy", str(path)]


def measure(pasta: str, options: list[str], part: str, number: int) -> tuple[float, float, float]:
    """Return CPU time of the main process and of the forwarder's, and the time on the clock, each by one."""
    process = start([pasta, "-q", "--config-net", "-t", "none", "-u", "none", "-T", "none", "-U", "none",
                     *options, "--", sys.executable, "-I", "-c", CLIENT, part, str(number)])
    watched = ([process.pid], processes("passt-names"))
    before = [sum(map(cpu_s, pids)) for pids in watched]
    go_on(process)
    clock_s = float(read_line(process))
    main_s, names_s = (sum(map(cpu_s, pids)) - was for pids, was in zip(watched, before, strict=True))
    go_on(process)
    process.communicate()
    return main_s / number, names_s / number, clock_s / number


def wait_of(argv: list[str], address: str, rate: int) -> tuple[float, float, float]:
    """Return median and 99th percentile of waits for *address* in seconds, and how many answers were lost."""
    process = start([*argv, sys.executable, "-I", "-c", CLIENT, "waits", address, str(rate),
                     str(rate * SECONDS)])
    go_on(process)
    median, late, lost = map(float, read_line(process).split())
    go_on(process)
    process.communicate()
    return median, late, lost


def measure_waits(pasta: str, directory: Path, rounds: int) -> None:
    """Measure how long queries wait, and print a table."""
    ways: dict[str, tuple[list[str], str]] = {"the server itself": ([], NAME_SERVER)}
    for rules in RULES:
        options = ["--dns-forward", FORWARDER, *policy(directory, rules, "allow *.good.test")]
        ways[f"forwarder, {rules} rules"] = (
            [pasta, "-q", "--config-net", "-t", "none", "-u", "none", "-T", "none", "-U", "none", *options,
             "--"], FORWARDER)
    print(f"waits: of queries sent at a steady rate for {SECONDS} s, us, median of {rounds}")
    print("                              per s       p50       p99   p50 added      lost")
    for rate in RATES:
        found: dict[str, list[tuple[float, float, float]]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, (argv, address) in ways.items():
                found[way].append(wait_of(argv, address, rate))
        base = 0.0
        for way, runs in found.items():
            median, late, lost = (statistics.median(each[i] for each in runs) for i in range(3))
            base = base or median
            print(f"  {way:24} {rate:8} {median * 1e6:9.0f} {late * 1e6:9.0f} {(median - base) * 1e6:+11.0f}"
                  f" {lost:9.0f}", flush=True)


def run(arguments: argparse.Namespace) -> None:
    """Measure, and print tables."""
    Path("/etc/resolv.conf").write_text(f"nameserver {NAME_SERVER}\n", encoding="ascii")
    netns = set_up()
    start([sys.executable, "-I", "-c", SERVER], netns=netns)
    start([sys.executable, "-I", "-c", NAMES])
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made)
        directory.chmod(0o755)
        forward = ["--dns-forward", FORWARDER]
        name = "allow *.good.test"
        compare(arguments, "flows", arguments.flows,
                {str(rules): policy(directory, rules, f"allow {FAR4}") for rules in RULES})
        compare(arguments, "queries", arguments.queries,
                {str(rules): [*forward, *policy(directory, rules, name)] for rules in RULES})
        compare(arguments, "said", arguments.flows, {
            "address": [*forward, *policy(directory, 1, f"allow {FAR4}"), "--allow", "dns"],
            "name": [*forward, *policy(directory, 1, name)],
            "verified": [*forward, *policy(directory, 1, name), "--verify-names"],
            "of 1000": [*forward, *policy(directory, 1000, name), "--verify-names"]})
        if "waits" in arguments.parts:
            measure_waits(arguments.pasta, directory, arguments.rounds)


def parts_of(text: str) -> list[str]:
    """Read what is to be measured. Raises argparse.ArgumentTypeError."""
    parts = text.split(",")
    if not set(parts) <= set(PARTS):
        raise argparse.ArgumentTypeError(f"'{text}': parts are {', '.join(PARTS)}")
    return parts


def compare(arguments: argparse.Namespace, part: str, asked: int, cases: dict[str, list[str]]) -> None:
    """Measure one part, if it is wanted, with the options of each case in turn; print how they differ."""
    if part not in arguments.parts:
        return
    number = asked - asked % BATCH
    found: dict[str, list[tuple[float, float, float]]] = {case: [] for case in cases}
    for _ in range(arguments.rounds):
        for case, options in cases.items():
            found[case].append(measure(arguments.pasta, options, part, number))
    print(f"{part}: {number}, CPU time of one in us, median of {arguments.rounds}")
    print("     rules      main  forwarder       both  beside first   per s of the clock")
    base = 0.0
    for case, each in found.items():
        main, names, clock = (statistics.median(one[i] for one in each) for i in range(3))
        both = statistics.median(one[0] + one[1] for one in each)
        base = base or both
        print(f"  {case:>8} {main * 1e6:9.1f} {names * 1e6:10.1f} {both * 1e6:10.1f}"
              f" {(both / base - 1) * 100:+11.1f} % {1 / clock:12.0f}", flush=True)


def main() -> None:
    """Read the options, and go to namespaces of our own."""
    parser = argparse.ArgumentParser(description="CPU time that rules of egress cost.")
    parser.add_argument("--parts", type=parts_of, default=list(PARTS))
    parser.add_argument("--flows", type=int, default=6400)
    parser.add_argument("--queries", type=int, default=6400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pasta", default=str(TREE / ".venv" / "bin" / "pasta"))
    arguments = parser.parse_args()
    if INSIDE in os.environ:
        run(arguments)
        return
    if os.geteuid() != 0:
        sys.exit("egress.py: make namespaces as root: sudo .venv/bin/python bench/egress.py")
    resolv = os.path.realpath("/etc/resolv.conf")
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as mine:
        os.chmod(mine.name, 0o644)
        script = f'mount --bind {mine.name} {resolv} && exec "$@"'
        os.environ[INSIDE] = "1"
        argv = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc",
                "sh", "-c", script, "sh", sys.executable, __file__, *sys.argv[1:]]
        sys.exit(subprocess.run(argv, check=False).returncode)


if __name__ == "__main__":
    main()
