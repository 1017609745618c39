"""A guest that is a router: what the outside sends finds its way through links narrower than ours.

The client runs three hops behind the namespace that the program serves::

    our link (MTU 65520) -- namespace -- 1500 -- router -- 1400 -- router -- 1500 -- client

so neither end of a connection knows of the narrow link in the middle, and no router but the middle one.
With masquerading the outside sees the namespace's address, as behind the bridge networks of containers.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support.lab import FAR4, FAR6, PATH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.lab import Lab

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.skipif(shutil.which("nft", path=PATH) is None, reason="nftables' nft is missing"),
]

# Arguments: 1 to masquerade, the command for the client's namespace.
SCRIPT = r"""
set -e
hide=$1
shift
device=$(ip -o route show default | sed 's/.* dev \([^ ]*\).*/\1/')
prepare='echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad; echo 1 >/proc/sys/net/ipv4/ip_forward
         echo 1 >/proc/sys/net/ipv6/conf/all/forwarding'
sh -c "$prepare"
if [ "$hide" = 1 ]; then
    nft "add table inet hide; add chain inet hide out { type nat hook postrouting priority 100; };
         add rule inet hide out oifname $device masquerade"
fi
holders=
place() {
    # A namespace, number $1, that is joined to the one before by a link of MTU $2.
    unshare --net sleep 300 & inner=$!
    holders="$holders $inner"
    while [ "$(readlink /proc/$inner/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
    eval "enter$1='nsenter -t $inner --net'"
    before=$(($1 - 1))
    eval "outer=\$enter$before"
    eval "here=\$enter$1"
    $here ip link set lo up
    $here sh -c "$prepare"
    $outer ip link add d$1 mtu $2 type veth peer name u0 mtu $2 netns $inner
    $outer ip addr add 10.99.$1.1/24 dev d$1
    $outer ip addr add 2001:db8:99:$1::1/64 dev d$1 nodad
    $outer ip link set d$1 up
    $here ip addr add 10.99.$1.2/24 dev u0
    $here ip addr add 2001:db8:99:$1::2/64 dev u0 nodad
    $here ip link set u0 up
    $here ip route add default via 10.99.$1.1
    $here ip -6 route add default via 2001:db8:99:$1::1
}
enter0=
trap 'kill $holders' EXIT
place 1 1500
place 2 1400
place 3 1500
ip route add 10.99.0.0/16 via 10.99.1.2
ip -6 route add 2001:db8:99::/48 via 2001:db8:99:1::2
$enter1 ip route add 10.99.3.0/24 via 10.99.2.2
$enter1 ip -6 route add 2001:db8:99:3::/64 via 2001:db8:99:2::2
$enter3 "$@"
"""

# Answers each question by as many octets as it asks for; a connection by all that it asks for.
SERVER = """
import select, socket, sys, threading
addresses = sys.argv[1:]
def stream(sock):
    while True:
        conn = sock.accept()[0]
        n = int(conn.makefile().readline())
        conn.sendall(bytes(range(256)) * (n // 256))
        conn.close()
datagrams = []
for address in addresses:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.create_server((address, 7780), family=family)
    threading.Thread(target=stream, args=(sock,), daemon=True).start()
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind((address, 7780))
    datagrams.append(sock)
print("ready", flush=True)
while True:
    for sock in select.select(datagrams, [], [])[0]:
        data, peer = sock.recvfrom(100)
        sock.sendto(bytes([len(data)]) * int(data), peer)
"""

DATAGRAMS = """
import socket, sys, time
target = sys.argv[1]
six = ":" in target
lost = []
for attempt in range(3):
    sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(5)
    for size in map(int, sys.argv[2:]):
        question = str(size).encode()
        for _ in range(3):
            sock.sendto(question, (target, 7780))
            try:
                assert sock.recv(70000) == bytes([len(question)]) * size
                break
            except TimeoutError:
                lost.append((attempt, size))
        else:
            sys.exit(f"{size} does not come")
print(*(f"{attempt}:{size}" for attempt, size in lost))
"""

STREAM = """
import socket, sys
for target in sys.argv[1:]:
    sock = socket.create_connection((target, 7780), timeout=60)
    n = 20_000_000 // 256 * 256
    sock.sendall(b"%d\\n" % n)
    got = b"".join(iter(lambda: sock.recv(1 << 20), b""))
    assert got == bytes(range(256)) * (n // 256), len(got)
"""


@pytest.fixture
def sizes(lab: Lab) -> Iterator[list[str]]:
    """Run the server; give sizes of answers."""
    server = lab.outside.spawn(["python3", "-c", SERVER, FAR4, FAR6])
    assert server.popen.stdout is not None
    assert server.popen.stdout.readline() == b"ready\n"
    yield [str(size) for size in (4000, 0, 1, 1372, 1373, 1452, 1453, 1472, 1473, 9000, 65000)]
    server.kill()


def script(user: bool, *command: str) -> list[str]:
    """Give the command line that runs one in the client's place; the plain user's network masquerades."""
    return ["bash", "-c", SCRIPT, "bash", "1" if user else "0", *command]


@pytest.mark.parametrize("target", [FAR4, FAR6])
def test_answers_of_every_size(lab: Lab, user: bool, sizes: list[str], target: str) -> None:
    argv = script(user, "python3", "-c", DATAGRAMS, target, *sizes)
    lost = lab.run(("--config-net",), argv, user=user, timeout=280).stdout.decode().split()
    # Who cuts IPv6 packets is their sender only: the way is found out by losing one to each narrow link.
    assert lost == ([] if target == FAR4 else ["0:4000"] * 2)


@pytest.mark.usefixtures("sizes")
def test_streams(lab: Lab, user: bool) -> None:
    argv = script(user, "python3", "-c", STREAM, FAR4, FAR6, FAR4, FAR6)
    lab.run(("--config-net",), argv, user=user, timeout=280)


@pytest.mark.usefixtures("sizes")
@pytest.mark.parametrize("target", [FAR4, FAR6])
def test_large_pings(lab: Lab, user: bool, target: str) -> None:
    ping = ["ping", "-n", "-c", "6", "-i", "0.4", "-W", "20", "-s", "4000", target]
    out = lab.run(("--config-net",), script(user, *ping), user=user, timeout=280, check=False).stdout
    assert b" icmp_seq=6 " in out, out
