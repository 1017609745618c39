"""One frame in fifty lost between the namespace and the program, either way: streams arrive whole and fast.

The client runs in a second namespace behind the one that the program serves. What nftables drops when packets
are forwarded between the two is silent, as on a wire; what is dropped where it is sent from is told to TCP.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.lab import FAR4, PATH
from tests.support.switches import LONG, QUICK
from tests.system.servers import stream_sha256

if TYPE_CHECKING:
    from tests.support.lab import Lab

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.alone,
    pytest.mark.skipif(shutil.which("nft", path=PATH) is None, reason="nftables' nft is missing"),
]

SIZE = 400_000_000 if LONG else 60_000_000 if QUICK else 150_000_000
# Seconds that a lost frame may cost on the average: half of the shortest time-out.
LOSS_S = 0.1

# Arguments: directory of the lab, address and port of the server, size. Prints the client's lines, the SNMP
# counters of the client's namespace, the rules with their counters.
SCRIPT = r"""
set -e
echo 1 >/proc/sys/net/ipv4/ip_forward
device=$(ip -o route show default | sed 's/.* dev \([^ ]*\).*/\1/')
nft "add table ip hide; add chain ip hide out { type nat hook postrouting priority 100; };
     add rule ip hide out oifname $device masquerade;
     add table ip loss; add chain ip loss pass { type filter hook forward priority 0; };
     add rule ip loss pass iifname $device meta l4proto tcp numgen random mod 100 < 2 counter drop;
     add rule ip loss pass oifname $device meta l4proto tcp numgen random mod 100 < 2 counter drop"
unshare --net sleep 300 & inner=$!
trap 'kill $inner' EXIT
while [ "$(readlink /proc/$inner/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
ip link add in0 type veth peer name c0 netns $inner
ip addr add 10.99.0.1/24 dev in0
ip link set in0 up
enter="nsenter -t $inner --net"
$enter ip addr add 10.99.0.2/24 dev c0
$enter ip link set c0 up
$enter ip route add default via 10.99.0.1
$enter /usr/bin/python3 -I "$1/loss_client.py" "$2" "$3" "$4"
$enter cat /proc/net/netstat
nft list table ip loss
"""

CLIENT = """
import hashlib, os, socket, sys, time
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from servers import ENDINGS, HTTP, LISTEN, stream
host, base, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
token = os.urandom(16)
start = time.monotonic()
with socket.create_connection((host, base + LISTEN), timeout=60) as sock:
    sock.sendall(token)
    for piece in stream(size):
        sock.sendall(piece)
    sock.shutdown(socket.SHUT_WR)
    sock.recv(1)
print("out-seconds", time.monotonic() - start)
answer = b""
while len(answer.split()) < 2:     # until it has ended
    answer = b""
    with socket.create_connection((host, base + ENDINGS), timeout=60) as sock:
        sock.sendall(token)
        while data := sock.recv(65536):
            answer += data
print("out-sha256", answer.split()[1].decode())
digest = hashlib.sha256()
start = time.monotonic()
with socket.create_connection((host, base + HTTP), timeout=60) as sock, sock.makefile("rb") as file:
    sock.sendall(b"GET /%d HTTP/1.0\\r\\n\\r\\n" % size)
    while file.readline().strip():
        pass
    pieces = []
    while data := file.read(1 << 20):
        pieces.append(data)
print("in-seconds", time.monotonic() - start)
for data in pieces:
    digest.update(data)
print("in-sha256", digest.hexdigest())
"""


def counters(text: str) -> dict[str, int]:
    """Read /proc/net/netstat's TcpExt."""
    names, values = (line.split()[1:] for line in text.splitlines() if line.startswith("TcpExt:"))
    return dict(zip(names, map(int, values), strict=True))


@pytest.fixture(scope="session")
def client_in_place(session_lab: Lab) -> None:
    """Put the client where every user can read it."""
    path = Path(session_lab.directory) / "loss_client.py"
    path.write_text(CLIENT, encoding="ascii")
    path.chmod(0o644)


@pytest.mark.usefixtures("client_in_place")
@pytest.mark.parametrize("mtu", [1500, 65520])
def test_streams_arrive_whole_and_by_recovery_not_by_timeouts(lab: Lab, user: bool, mtu: int) -> None:
    argv = ["bash", "-c", SCRIPT, "bash", str(lab.directory), FAR4, "8000", str(SIZE)]
    result = lab.run(["--config-net", "-m", str(mtu)], argv, user=user, timeout=120)
    text = result.stdout.decode()
    found = dict(line.split() for line in text.splitlines() if line.startswith(("out-", "in-")))
    wanted = stream_sha256(SIZE)
    assert found["out-sha256"] == wanted
    assert found["in-sha256"] == wanted
    inward, outward = map(int, re.findall(r"counter packets (\d+)", text))
    assert inward > SIZE / 65536 / 200, text
    assert outward > SIZE / 65536 / 200, text
    guest = counters(text)
    # Outwards the guest's TCP recovers by our reports of what came out of order ...
    assert guest["TCPSackRecovery"] > 0, text
    assert guest["TCPTimeouts"] <= max(2, guest["TCPSackRecovery"] // 5), text
    # ... and inwards ours by the guest's, which shows in the time.
    assert guest["TCPOFOQueue"] > 0, text
    assert guest["TCPDSACKOldSent"] + guest["TCPDSACKOfoSent"] <= inward // 4, text
    assert float(found["in-seconds"]) < 1 + LOSS_S * inward, text
