"""The guest's UDP port is kept towards groups and all hosts, and whatever was sent before and after.

RFC 6762 (6, 11) has answers of multicast DNS ignored that come from another port; games find their servers by
broadcasts. On the host the port is held by a listener wherever it is forwarded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.lab import FAR4, FAR6, HOST4, HOST6, OUTSIDE4, OUTSIDE6, Lab, Running
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

pytestmark = pytest.mark.needs_root

PORT = 5353
GROUP4, GROUP6 = "224.0.0.251", "ff02::fb"
# Answers every datagram, of groups too, with the sender's address and port as seen.
SERVER = """
import select, socket, struct
four = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
group = socket.inet_aton("224.0.0.251")
four.setsockopt(0, socket.IP_ADD_MEMBERSHIP, group + socket.inet_aton("203.0.113.1"))
six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
index = struct.pack("I", socket.if_nametoindex("o0"))
group = socket.inet_pton(socket.AF_INET6, "ff02::fb")
six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group + index)
far4 = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
far6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
all = {four: "", six: "::", far4: "198.51.100.1", far6: "2001:db8:2::1"}
for sock, address in all.items():
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, 5353))
print("ready", flush=True)
while True:
    for sock in select.select(all, [], [])[0]:
        data, peer = sock.recvfrom(100)
        sock.sendto(b"%s %d" % (peer[0].partition("%")[0].encode(), peer[1]), peer)
"""
# Sends to each target and tells what the server saw; then answers whoever asks.
GUEST = """
import socket, sys
four = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
four.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
four.bind(("", 5353))
six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
six.bind(("::", 5353))
print("ready", flush=True)
for line in sys.stdin:
    what, target, *port = line.split()
    sock = six if ":" in target else four
    sock.settimeout(20)
    if what == "send":
        for _ in range(12):                  # datagrams may be lost, or late
            sock.setblocking(False)
            try:
                while sock.recv(100):
                    pass
            except BlockingIOError:
                pass
            sock.settimeout(5)
            sock.sendto(b"x", (target, int(*port or [5353])))
            try:
                data, peer = sock.recvfrom(100)
                break
            except TimeoutError:
                continue
        if data == b"x" and peer[0] in sys.argv[1:]:
            data = sock.recvfrom(100)[0]     # its own kernel hands it a broadcast
        print(data.decode() if data != b"x" else f"{peer} said the same", flush=True)
    else:
        data, peer = sock.recvfrom(100)
        sock.sendto(data[::-1], peer)
"""
ASK = """
import socket, sys
with socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.settimeout(20)
    sock.connect((sys.argv[1], 5353))
    sock.send(b"abc")
    print(sock.recv(100).decode())
"""


def python(script: str, *arguments: str) -> list[str]:
    return ["/usr/bin/python3", "-I", "-c", script, *arguments]


LOOPBACK_SERVER = """
import socket, sys
sock = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((sys.argv[1], 5354))
print("ready", flush=True)
while True:
    peer = sock.recvfrom(100)[1]
    sock.sendto(b"%s %d" % (peer[0].encode(), peer[1]), peer)
"""
# A program of the host's that has joined the groups: so the kernel hands them to our sockets too.
MEMBER = """
import signal, socket, struct
four = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
group = socket.inet_aton("224.0.0.251")
four.setsockopt(0, socket.IP_ADD_MEMBERSHIP, group + socket.inet_aton("203.0.113.2"))
six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
index = struct.pack("I", socket.if_nametoindex("h0"))
group = socket.inet_pton(socket.AF_INET6, "ff02::fb")
six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group + index)
print("ready", flush=True)
signal.pause()
"""


@pytest.fixture
def server(lab: Lab) -> Iterator[Running]:
    started = [lab.outside.spawn(python(SERVER)), lab.host.spawn(python(MEMBER))]
    for running in started:
        assert running.popen.stdout is not None
        assert running.popen.stdout.readline() == b"ready\n"
    yield started[0]
    for running in started:
        running.kill()


class Guest:
    """A program in pasta's namespace that has the port, of both families."""

    def __init__(self, lab: Lab, options: Sequence[str], *, user: bool) -> None:
        command = ["--config-net", "--no-map-gw", *options]
        self.running = lab.start(command, python(GUEST, HOST4), user=user, stdin=-1)
        assert self.running.popen.stdin is not None
        assert self.running.popen.stdout is not None
        self.commands, self.answers = self.running.popen.stdin, self.running.popen.stdout
        assert self.answers.readline() == b"ready\n"

    def tell(self, command: str) -> None:
        self.commands.write(f"{command}\n".encode())
        self.commands.flush()

    def source_towards(self, target: str) -> tuple[str, int]:
        """Give address and port of the host from which a datagram to *target* came."""
        self.tell(f"send {target}")
        address, port = self.answers.readline().decode().split()
        return address, int(port)


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("options", [
    ["-t", "none"],              # auto: the port is forwarded while it is bound
    ["-u", "none"],
    ["-u", f"{PORT}"],
    ["-u", f"{HOST4}/{PORT}", "-u", f"{HOST6}/{PORT}"],
    ["-u", f"%h0/{PORT}"],
    ["-u", f"{PORT}", "--outbound-if4", "h0", "--outbound-if6", "h0"],
    ["-u", f"%h0/{PORT}", "--outbound-if4", "h0", "--outbound-if6", "h0"],
    ["-u", f"{PORT}", "-o", HOST4, "-o", HOST6],
    ["-u", f"{HOST4}/{PORT}", "-u", f"{HOST6}/{PORT}", "-o", HOST4, "-o", HOST6],
], ids=" ".join)
def test_guest_keeps_its_port(lab: Lab, user: bool, options: list[str]) -> None:
    guest = Guest(lab, options, user=user)
    is_forwarded = options != ["-u", "none"]
    if is_forwarded:
        wait_until(lambda: f":{PORT} ".encode() in lab.host.run(["ss", "-Hlnu"]).stdout, "it is forwarded")
    for target in (FAR4, GROUP4, "255.255.255.255", "203.0.113.255", OUTSIDE4, FAR4, GROUP4):
        assert guest.source_towards(target) == (HOST4, PORT), target
    targets = [f"{GROUP6}%h0"]
    if is_forwarded:
        # Else the guest's two addresses, link-local and global, are endpoints with a socket each.
        targets += [FAR6, f"{GROUP6}%h0", OUTSIDE6, FAR6]
    for target in targets:
        address, port = guest.source_towards(target)
        assert port == PORT, target
        assert address == HOST6 or ("%" in target and address.startswith("fe80::")), target
    for address in (HOST4, HOST6) if is_forwarded else ():
        guest.tell(f"answer {address}")
        assert lab.outside.run(python(ASK, address)).stdout == b"cba\n"
    guest.running.kill()


@pytest.mark.usefixtures("server")
def test_port_that_leads_elsewhere_is_not_borrowed(lab: Lab, user: bool) -> None:
    # What comes to the host's port is another port's of the guest: answers must not go there.
    guest = Guest(lab, ["-u", f"{PORT}:{PORT + 1}"], user=user)
    for target in (FAR4, GROUP4, FAR6, f"{GROUP6}%h0"):
        assert guest.source_towards(target)[1] != PORT
    guest.running.kill()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_service_on_the_host_s_loopback_sees_the_port(lab: Lab, user: bool, address: str) -> None:
    mapped = FAR6 if ":" in address else FAR4
    service = lab.host.spawn(python(LOOPBACK_SERVER, address))
    assert service.popen.stdout is not None
    assert service.popen.stdout.readline() == b"ready\n"
    guest = Guest(lab, ["-u", f"{PORT}", "--map-host-loopback", mapped], user=user)
    guest.tell(f"send {mapped} {PORT + 1}")
    assert guest.answers.readline().decode().split() == [address, str(PORT)]
    guest.running.kill()
    service.kill()
