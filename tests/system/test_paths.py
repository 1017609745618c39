"""Paths of several hops: tracers see the real ones, errors and sizes are carried, both ways and families.

Behind the lab's outside there are a second router and a far host, joined by a link of a smaller MTU::

    host ---- outside (first router) ---- second router ---- MTU 1400 ---- far host
"""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support.lab import FAR4, FAR6, OUTSIDE4, OUTSIDE6, Lab, Place
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs_root

NET = ("--config-net",)
MIDDLE4, MIDDLE6 = "10.99.1.2", "2001:db8:a1::2"
FARTHEST4, FARTHEST6 = "10.99.2.2", "2001:db8:a2::2"
NARROW = 1400
HOPS = {FARTHEST4: [OUTSIDE4, MIDDLE4, FARTHEST4], FARTHEST6: [OUTSIDE6, MIDDLE6, FARTHEST6]}
both = pytest.mark.parametrize("target", [FARTHEST4, FARTHEST6])

# Routers answer as many probes as there are; by default they limit themselves (ip-sysctl).
SYSCTLS = """
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
echo 0 >/proc/sys/net/ipv4/icmp_ratelimit
echo 0 >/proc/sys/net/ipv6/icmp/ratelimit
echo 100000 >/proc/sys/net/ipv4/icmp_msgs_per_sec 2>/dev/null || true
"""


class Path(NamedTuple):
    """The lab with the longer path."""

    lab: Lab
    router: Place
    farthest: Place


def join(one: Place, name: str, other: Place, peer: str, mtu: int = 1500) -> None:
    """Join two places by a veth pair."""
    argv = [
        "nsenter",
        "-t",
        str(one.init),
        "--net",
        "ip",
        "link",
        "add",
        name,
        "mtu",
        str(mtu),
        "type",
        "veth",
    ]
    argv += ["peer", "name", peer, "mtu", str(mtu), "netns", str(other.init)]
    subprocess.run(argv, check=True)


def ip(place: Place, *commands: str) -> None:
    for command in commands:
        place.run(["ip", *command.split()])


@pytest.fixture
def path(lab: Lab) -> Iterator[Path]:
    """Make the longer path; the lab closes its places after each test."""
    router, farthest = lab.bare_place(), lab.bare_place()
    join(lab.outside, "o1", router, "r0")
    join(router, "r1", farthest, "f0", NARROW)
    for place in (lab.outside, router):
        place.run(["sh", "-c", SYSCTLS])
    farthest.run(["sh", "-c", SYSCTLS])
    ip(lab.outside, "addr add 10.99.1.1/24 dev o1", "addr add 2001:db8:a1::1/64 dev o1", "link set o1 up")
    ip(router, f"addr add {MIDDLE4}/24 dev r0", f"addr add {MIDDLE6}/64 dev r0", "link set r0 up")
    ip(router, "addr add 10.99.2.1/24 dev r1", "addr add 2001:db8:a2::1/64 dev r1", "link set r1 up")
    ip(farthest, f"addr add {FARTHEST4}/24 dev f0", f"addr add {FARTHEST6}/64 dev f0", "link set f0 up")
    ip(lab.outside, f"route add 10.99.2.0/24 via {MIDDLE4}", f"-6 route add 2001:db8:a2::/64 via {MIDDLE6}")
    ip(router, "route add default via 10.99.1.1", "-6 route add default via 2001:db8:a1::1")
    ip(farthest, "route add default via 10.99.2.1", "-6 route add default via 2001:db8:a2::1")
    wait_until(
        lambda: farthest.run(["ping", "-c1", "-W1", OUTSIDE6], check=False).returncode == 0, "path works"
    )
    try:
        yield Path(lab, router, farthest)
    finally:
        # What the host has learnt of the path must not help the next test.
        for family in ("-4", "-6"):
            lab.host.run(["ip", family, "route", "flush", "cache"])
        # It would go with the router's namespace, which the kernel takes down in its own time.
        ip(lab.outside, "link del o1")


def hops(text: str) -> list[str]:
    """Give the address in each numbered line."""
    found: list[str] = []
    for line in text.splitlines():
        match = re.match(r"\s*\d+[:?]?[:.]?\s+(\S+)", line)
        if match and match[1] != "[LOCALHOST]":
            found.append(match[1])
    return found


def run_until(path: Path, argv: list[str], lost: str, *, user: bool) -> str:
    """Run a tracer until its output is without *lost*, three times at most; return the last output.

    The kernel sends only so many ICMP errors a second, for all namespaces of the machine together.
    """
    out = ""
    for _ in range(3):
        out = path.lab.run(NET, argv, user=user, timeout=90).stdout.decode()
        if re.search(lost, out) is None:
            break
    return out


@both
@pytest.mark.parametrize("method", ["udp", "icmp"])
def test_traceroute_shows_the_hops(path: Path, user: bool, target: str, method: str) -> None:
    # Raw sockets are for root; in its namespace the plain user is that, too.
    argv = ["traceroute", "-n", "-q", "2", "-w", "20", *(["-I"] if method == "icmp" else []), target]
    out = run_until(path, argv, r"\*", user=user)
    assert hops(out) == HOPS[target], out
    assert "*" not in out


@both
def test_tracepath_shows_the_hops_and_the_mtu(path: Path, user: bool, target: str) -> None:
    out = path.lab.run(NET, ["tracepath", "-n", "-m", "5", target], user=user, timeout=60).stdout.decode()
    seen = list(dict.fromkeys(hop for hop in hops(out) if hop != "no"))
    assert [hop for hop in seen if hop in HOPS[target]] == HOPS[target], out
    assert f"pmtu {NARROW}" in out
    assert "reached" in out
    assert "asymm" not in out


@both
@pytest.mark.parametrize("option", ["--udp", "--no-dns"])
def test_mtr_reports_the_hops(path: Path, user: bool, target: str, option: str) -> None:
    argv = ["mtr", "--report", "--no-dns", "--report-cycles", "2", "--interval", "0.3", "--gracetime", "2",
            option, target]
    out = run_until(path, argv, r"\|--.* (?!0\.0)\d+\.\d%|\?\?\?", user=user)
    found = [line.split()[1] for line in out.splitlines() if "|--" in line]
    assert found == HOPS[target], out
    assert all(" 0.0% " in line for line in out.splitlines() if "|--" in line), out


@both
def test_ping_with_a_small_ttl_hears_of_the_routers(path: Path, user: bool, target: str) -> None:
    for ttl, hop in enumerate(HOPS[target][:2], 1):
        argv = ["ping", "-n", "-c", "2", "-i", "0.2", "-W", "20", "-t", str(ttl), target]
        out = path.lab.run(NET, argv, user=user, check=False).stdout.decode()
        assert len(re.findall(rf"From {re.escape(hop)}:? icmp_seq=\d Time (to live )?exceeded", out)) == 2, (
            out
        )
    argv = ["ping", "-n", "-c", "1", "-W", "20", "-t", "3", target]
    assert b"1 received" in path.lab.run(NET, argv, user=user).stdout


@both
def test_ping_that_may_not_be_cut_hears_of_the_mtu(path: Path, user: bool, target: str) -> None:
    argv = ["ping", "-n", "-c", "3", "-i", "0.2", "-W", "20", "-M", "do", "-s", "1440", target]
    done = path.lab.run(NET, argv, user=user, check=False)
    out = (done.stdout + done.stderr).decode()
    assert re.search(
        rf"From {HOPS[target][1]} icmp_seq=1 (Frag needed|Packet too big)[^=]*mtu ?= ?{NARROW}", out
    ), out
    assert "0 received" in out


SIZES = [0, 1, 7, 8, 100, 1372, 1373, 1452, 1453, 1472, 1473, 4000, 30000, 60000, 65450, 65500, 65507]


@both
def test_ping_of_every_size(path: Path, user: bool, target: str) -> None:
    # IPv6 counts its own header not in the length: 65527 would do, ping(8) stops at 65507 minus headers.
    sizes = [size for size in SIZES if size <= (65507 if target == FARTHEST4 else 65487)]
    # The narrow link is found out by losing a packet to it, here as anywhere.
    script = f"""
        ping -n -c 2 -i 0.2 -W 1 -s 1440 {target} >/dev/null
        for size in {" ".join(map(str, sizes))}; do
            ping -n -c 1 -W 20 -s $size {target} >/dev/null || echo lost $size
        done
    """
    assert path.lab.run(NET, ["bash", "-c", script], user=user, timeout=120).stdout == b""


PINGER = """
import select, socket, struct, sys, time
targets = sys.argv[1:]
sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xffff) + (total >> 16)
    return ~((total & 0xffff) + (total >> 16)) & 0xffff
wanted = {(target, seq) for target in targets for seq in range(5)}
for target, seq in sorted(wanted):
    head = struct.pack("!BBHHH", 8, 0, 0, 4242, seq)
    sock.sendto(struct.pack("!BBHHH", 8, 0, checksum(head), 4242, seq), (target, 0))
seen = []
while len(seen) < len(wanted) and select.select([sock], [], [], 20)[0]:
    data, peer = sock.recvfrom(2000)
    kind, _, _, ident, seq = struct.unpack_from("!BBHHH", data, 20)
    if kind == 0 and ident == 4242:
        seen.append((peer[0], seq))
assert sorted(seen) == sorted(wanted), seen
"""


def test_pingers_with_one_identifier_to_several_hosts(path: Path, user: bool) -> None:
    targets = [FARTHEST4, MIDDLE4, "10.99.1.1", "10.99.2.1", "10.99.2.2"]
    path.lab.run(NET, ["python3", "-c", PINGER, *dict.fromkeys(targets)], user=user)


REFUSED = """
import socket, sys
target = sys.argv[1]
sock = socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(25)
sock.connect((target, 9))
for _ in range(3):
    sock.send(b"anybody there?")
    try:
        sock.recv(100)
    except ConnectionRefusedError:
        print("refused")
"""


@pytest.mark.parametrize("target", [FARTHEST4, FARTHEST6, OUTSIDE4, OUTSIDE6])
def test_closed_udp_port_is_refused_at_once(path: Path, user: bool, target: str) -> None:
    # The gateway's addresses stand for the host's loopback: the reporter is the host itself.
    out = path.lab.run(NET, ["python3", "-c", REFUSED, target], user=user).stdout
    assert out.split() == [b"refused"] * 3


UNREACHABLE = """
import errno, socket, sys
target = sys.argv[1]
sock = socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(20)
sock.setsockopt(socket.IPPROTO_IPV6 if ":" in target else socket.IPPROTO_IP, 25 if ":" in target else 11, 1)
sock.connect((target, 9))
sock.send(b"x")
try:
    sock.recv(100)
except OSError as error:
    print(errno.errorcode[error.errno])
"""


@pytest.mark.parametrize(
    ("kind", "errors"), [("unreachable", {"EHOSTUNREACH"}), ("prohibit", {"EHOSTUNREACH", "EACCES"})]
)
@pytest.mark.parametrize("where", ["router", "host"])
@pytest.mark.parametrize("family", [4, 6])
def test_destination_that_cannot_be_reached(
    path: Path, user: bool, kind: str, errors: set[str], where: str, family: int
) -> None:
    net, target = (
        ("192.0.2.128/25", "192.0.2.129") if family == 4 else ("2001:db8:dead::/64", "2001:db8:dead::1")
    )
    place = path.lab.host if where == "host" else path.lab.outside
    ip(place, f"-{family} route add {kind} {net}")
    try:
        out = path.lab.run(NET, ["python3", "-c", UNREACHABLE, target], user=user).stdout.decode()
    finally:
        ip(place, f"-{family} route del {kind} {net}")
    assert out.strip() in errors | ({"ENETUNREACH"} if family == 6 else set()), out


ECHO_SERVER = """
import socket, sys
sock = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((sys.argv[1], 7777))
print("ready", flush=True)
while True:
    data, peer = sock.recvfrom(70000)
    sock.sendto(data, peer)
"""

ECHO_CLIENT = """
import os, socket, sys
target, connected = sys.argv[1], sys.argv[2] == "connected"
sock = socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(20)
if connected:
    sock.connect((target, 7777))
for size in map(int, sys.argv[3:]):
    data = os.urandom(size)
    sock.send(data) if connected else sock.sendto(data, (target, 7777))
    try:
        assert sock.recv(70000) == data, size
    except OSError as error:
        sys.exit(f"{size}: {error}")
"""


@pytest.mark.parametrize("target", [FARTHEST4, FAR4, FAR6])
@pytest.mark.parametrize("mtu", ["65520", "1500", "1280"])
def test_datagrams_of_every_size_are_echoed(path: Path, user: bool, target: str, mtu: str) -> None:
    # Across the narrow link a connected socket hears of the first one that is lost to it, here as
    # anywhere; and in IPv6 that is the first large one.
    is_narrow = target in (FARTHEST4, FARTHEST6)
    server = (path.farthest if is_narrow else path.lab.outside).spawn(["python3", "-c", ECHO_SERVER, target])
    assert server.popen.stdout is not None
    assert server.popen.stdout.readline() == b"ready\n"
    sizes = [str(size) for size in SIZES if not is_narrow or not 1352 < size < 1473]
    argv = ["python3", "-c", ECHO_CLIENT, target, "free" if is_narrow else "connected"]
    try:
        path.lab.run([*NET, "-m", mtu], [*argv, *sizes], user=user)
        for size in ("2000", "60000"):
            path.lab.run([*NET, "-m", mtu], [*argv, size], user=user)
    finally:
        server.kill()


STRICT = """
import errno, socket, sys, time
target, wanted = sys.argv[1], int(sys.argv[2])
six = ":" in target
sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
level, discover, mtu, mode = (41, 23, 24, int(sys.argv[3])) if six else (0, 10, 14, int(sys.argv[3]))
sock.setsockopt(level, discover, mode)
sock.connect((target, 9999))
for _ in range(250):
    try:
        sock.send(bytes(3000))
    except OSError as error:
        if error.errno == errno.EMSGSIZE:
            break
    time.sleep(0.1)
else:
    sys.exit("never refused")
if mode == 2:
    assert sock.getsockopt(level, mtu) in (wanted, 1400), sock.getsockopt(level, mtu)
"""


@pytest.mark.parametrize("mode", [2, 3], ids=["do", "probe"])
@pytest.mark.parametrize("target", [FARTHEST4, FARTHEST6, FAR4, FAR6])
def test_socket_that_wants_no_fragments_hears_of_the_mtu(
    path: Path, user: bool, target: str, mode: int
) -> None:
    # 3000 octets exceed the host's own interface; that is what is heard of first, then of the narrow link.
    path.lab.run(NET, ["python3", "-c", STRICT, target, "1500", str(mode)], user=user)


TOS_SERVER = """
import socket, sys
six = ":" in sys.argv[1]
sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
level, want, got, say = (41, 66, 67, 67) if six else (0, 13, 1, 1)
sock.setsockopt(level, want, 1)
sock.bind((sys.argv[1], 7778))
print("ready", flush=True)
while True:
    data, control, _, peer = sock.recvmsg(100, 100)
    tos = next(value[0] for kind, name, value in control if (kind, name) == (level, got))
    sock.setsockopt(level, say, tos ^ 0x20)
    sock.sendto(bytes([tos]), peer)
"""

TOS_CLIENT = """
import socket, sys
six = ":" in sys.argv[1]
sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
level, want, got, say = (41, 66, 67, 67) if six else (0, 13, 1, 1)
sock.settimeout(20)
sock.setsockopt(level, want, 1)
for tos in (0, 0xb8, 0x02, 0x01, 0x03, 0xbb, 0):
    sock.setsockopt(level, say, tos)
    sock.sendto(b"x", (sys.argv[1], 7778))
    data, control, _, _ = sock.recvmsg(100, 100)
    back = next(value[0] for kind, name, value in control if (kind, name) == (level, got))
    assert (data[0], back) == (tos, tos ^ 0x20), (tos, data, back)
"""


@both
def test_traffic_class_and_ecn_both_ways(path: Path, user: bool, target: str) -> None:
    server = path.farthest.spawn(["python3", "-c", TOS_SERVER, target])
    assert server.popen.stdout is not None
    assert server.popen.stdout.readline() == b"ready\n"
    path.lab.run(NET, ["python3", "-c", TOS_CLIENT, target], user=user)
    server.kill()


MULTICAST_SERVER = """
import socket, struct
four = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
interface = socket.inet_aton("203.0.113.1")
for group in ("239.1.2.3", "224.0.0.251"):
    four.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + interface)
four.bind(("", 7779))
six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
index = socket.if_nametoindex("o0")
for group in ("ff02::4242", "ff02::fb", "ff05::4242"):
    request = socket.inet_pton(socket.AF_INET6, group) + struct.pack("I", index)
    six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
six.bind(("::", 7779))
print("ready", flush=True)
import select
while True:
    for sock in select.select([four, six], [], [])[0]:
        data, peer = sock.recvfrom(100)
        sock.sendto(data[::-1], peer)
"""

MULTICAST_CLIENT = """
import socket, sys
for target, sender in zip(sys.argv[1::2], sys.argv[2::2]):
    sock = socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(20)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    for _ in range(2):
        sock.sendto(b"hello", (target, 7779))
        data, peer = sock.recvfrom(100)
        assert data == b"olleh"
        assert sender == "any" or peer[0] == sender, peer
    sock.sendto(b"direct", peer)
    assert sock.recvfrom(100)[0] == b"tcerid"
"""


def test_groups_and_broadcasts_leave_and_are_answered(path: Path, user: bool) -> None:
    server = path.lab.outside.spawn(["python3", "-c", MULTICAST_SERVER])
    assert server.popen.stdout is not None
    assert server.popen.stdout.readline() == b"ready\n"
    interface = path.lab.host.run(["sh", "-c", "ip -o route get 203.0.113.1"]).stdout.split()[2].decode()
    targets = [
        "239.1.2.3",
        OUTSIDE4,
        "224.0.0.251",
        OUTSIDE4,
        "255.255.255.255",
        OUTSIDE4,
        "203.0.113.255",
        OUTSIDE4,
    ]
    targets += ["ff05::4242", OUTSIDE6, f"ff02::4242%{interface}", "any", f"ff02::fb%{interface}", "any"]
    try:
        path.lab.run(NET, ["python3", "-c", MULTICAST_CLIENT, *targets], user=user)
    finally:
        server.kill()


def test_ping_that_is_forbidden_is_one_warning(path: Path, user: bool) -> None:
    host = path.lab.host
    host.run(["sh", "-c", "echo 1 0 >/proc/sys/net/ipv4/ping_group_range"])
    try:
        done = path.lab.run(
            NET, ["ping", "-n", "-c", "3", "-i", "0.2", "-W", "4", FARTHEST4], user=user, check=False
        )
    finally:
        host.run(["sh", "-c", "echo 0 2147483647 >/proc/sys/net/ipv4/ping_group_range"])
    assert b"0 received" in done.stdout
    lines = [line for line in done.stderr.decode().splitlines() if "ping_group_range" in line]
    assert len(lines) == 1, done.stderr
    # Started by root it opens its sockets as nobody.
    assert f"group {54321 if user else 65534} " in lines[0]
