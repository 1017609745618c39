"""--follow and the hosts beside us: kernels as guests see them by their own MAC addresses, in every form."""

from __future__ import annotations

import json
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Any

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether
from scapy.utils import rdpcap

from tests.support.lab import FAR4, FAR6, HOST4, HOST6, OUTSIDE4, OUTSIDE6, Lab, Place, connect
from tests.support.processes import wait_until
from tests.system.machines import FORMS, MAC, Form, Machine, passt
from tests.system.test_following import ECHO, Guest, batch, start_server

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs_root

OURS = "9a:55:9a:55:9a:55"
# Addresses of the outside on the host's own link, besides the gateway.
NEAR4, NEAR6 = "203.0.113.77", "2001:db8:1::77"
OTHER_MAC = "02:00:00:00:77:77"


@pytest.fixture
def beside(lab: Lab) -> Iterator[tuple[Place, Place]]:
    """Make a host, and beside it another one with servers, which says when its MAC address changes."""
    host, near = lab.bare_place(), lab.bare_place()
    connect(host, near)
    batch(near, f"addr add {NEAR4}/24 dev o0\naddr add {NEAR6}/64 dev o0 nodad")
    for file in ("ipv4/conf/o0/arp_notify", "ipv6/conf/o0/ndisc_notify"):
        near.run(["sh", "-c", f"echo 1 >/proc/sys/net/{file}"])
    start_server(near, [str(lab.directory / "servers.py")])
    yield host, near
    for place in (host, near):
        lab.extra.remove(place)
        place.close()


def mac_of(place: Place, ifname: str) -> str:
    """Return the MAC address of an interface."""
    [link] = json.loads(place.run(["ip", "-j", "link", "show", "dev", ifname]).stdout)
    return str(link["address"])


def let_meet(host: Place) -> None:
    """Have the host's kernel find its neighbour, by both families."""
    for address in (NEAR4, NEAR6):
        host.run(["ping", "-c", "1", "-W", "20", address])


def test_kernel_as_guest_sees_its_neighbours_and_follows_them(lab: Lab, beside: tuple[Place, Place],
                                                              plain: bool) -> None:
    host, near = beside
    directory = lab.directory / "home" if plain else lab.directory
    capture, control = directory / "neighbours.pcap", str(directory / "neighbours.sock")
    guest = Guest(lab, host, "--config-net", "--pcap", str(capture), "--control", control, user=plain)
    for name, address in (("near4", NEAR4), ("near6", NEAR6), ("far4", FAR4), ("far6", FAR6)):
        assert guest.ask(f"open {name} {address} {ECHO}") == "ok"
        assert guest.ask(f"echo {name}") == "hello"
    real = mac_of(near, "o0")
    for address in (NEAR4, NEAR6):
        guest.until(f"ip neigh show {address} dev h0", f"lladdr {real} ")
    for gateway in (OUTSIDE4, OUTSIDE6):
        assert f"lladdr {OURS} " in guest.ask(f"ip neigh show {gateway} dev h0")
    batch(near, f"link set o0 address {OTHER_MAC}")
    for name, address in (("near4", NEAR4), ("near6", NEAR6)):
        guest.until(f"ip neigh show {address} dev h0", f"lladdr {OTHER_MAC} ")
        assert guest.ask(f"echo {name}") == "hello", "frames to that address are ours all the same"
        assert guest.ask(f"open {name}again {address} {ECHO}") == "ok"
    counters = json.loads(host.run(["curl", "-s", "--unix-socket", control, "http://passt/v1/counters"],
                                   user=plain).stdout)
    assert counters["neighbours"] >= 2
    assert counters["control_neighbours_announced"] >= 2
    guest.running.popen.communicate(timeout=60)               # which ends its input
    sources: dict[str, list[str]] = {}
    for packet in rdpcap(str(capture)):
        layer = packet.getlayer(IP) or packet.getlayer(IPv6)
        if layer is not None and packet.dst != OURS and layer.src in {NEAR4, NEAR6, FAR4, FAR6}:
            sources.setdefault(layer.src, []).append(packet.src)
    capture.unlink()
    for address in (NEAR4, NEAR6):
        assert sources[address][-1] == OTHER_MAC
        assert set(sources[address]) <= {OURS, real, OTHER_MAC}
    for address in (FAR4, FAR6):
        assert set(sources[address]) == {OURS}, "what comes from further away"


# Asks for the host's MAC address from very many invented ones, as the kernel then knows them as neighbours.
FLOOD = """
import socket, struct, sys
ours, target, mac, n = sys.argv[1], *(bytes.fromhex(text) for text in sys.argv[2:4]), int(sys.argv[4])
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
sock.bind((ours, 0))
def fold(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
for number in range(n):
    source = target[:8] + struct.pack("!Q", 1 << 40 | number)
    own = b"\\2" + struct.pack("!xI", number)
    def message(checksum):
        return struct.pack("!BBHI", 135, 0, checksum, 0) + target + b"\\1\\1" + own
    checksum = fold(source + target + struct.pack("!II", 32, 58) + message(0))
    header = struct.pack("!IHBB", 0x60000000, 32, 58, 255) + source + target
    sock.send(mac + own + b"\\x86\\xdd" + header + message(checksum))
"""


@pytest.mark.alone  # the kernel's table of neighbours is the same for all namespaces
def test_flood_of_invented_neighbours_ends_and_leaves_a_bounded_number(lab: Lab, beside: tuple[Place, Place],
                                                                       plain: bool) -> None:
    host, near = beside
    control = str((lab.directory / "home" if plain else lab.directory) / "flood.sock")
    guest = Guest(lab, host, "--config-net", "--control", control, user=plain)

    def counters() -> dict[str, int]:
        found: dict[str, int] = json.loads(host.run(
            ["curl", "-s", "--unix-socket", control, "http://passt/v1/counters"], user=plain).stdout)
        return found

    assert guest.ask(f"open near {NEAR6} {ECHO}") == "ok"
    target, mac = IPv6Address(HOST6).packed.hex(), mac_of(host, "h0").replace(":", "")
    near.run(["/usr/bin/python3", "-I", "-c", FLOOD, "o0", target, mac, "600"])
    # All namespaces of a machine have one table together, of 1024 entries: the others need some.
    wait_until(lambda: 256 < counters()["neighbours"] <= 512, "as many as there may be are known")
    assert guest.ask("echo near") == "hello"
    assert guest.ask(f"open again {NEAR4} {ECHO}") == "ok"
    assert counters()["neighbours"] <= 512
    guest.running.popen.communicate(timeout=60)               # which ends its input


def ask4(peer: Machine, target: str) -> str:
    """Ask for the MAC address of *target* by ARP; the answer's frame must be from it too."""
    request = ARP(op=1, hwsrc=MAC, psrc=HOST4, pdst=target)
    peer.send(bytes(Ether(src=MAC, dst="ff:ff:ff:ff:ff:ff") / request))

    def is_answer(frame: bytes) -> bool:
        packet = Ether(frame)
        return ARP in packet and packet[ARP].op == 2 and packet[ARP].psrc == target

    answer = Ether(peer.receive(is_answer))
    assert answer.src == answer[ARP].hwsrc
    return str(answer.src)


def ask6(peer: Machine, target: str) -> str:
    """Ask for the MAC address of *target* by a neighbour solicitation."""
    packet: Any = (IPv6(src=HOST6, dst="ff02::1:ff00:77", hlim=255) / ICMPv6ND_NS(tgt=target)
                   / ICMPv6NDOptSrcLLAddr(lladdr=MAC))
    peer.send(bytes(Ether(src=MAC, dst="33:33:ff:00:00:77") / packet))

    def is_answer(frame: bytes) -> bool:
        packet = Ether(frame)
        return ICMPv6ND_NA in packet and packet[ICMPv6ND_NA].tgt == target and packet[ICMPv6ND_NA].S == 1

    answer = Ether(peer.receive(is_answer))
    assert answer.src == answer[ICMPv6NDOptDstLLAddr].lladdr
    assert bool(answer[ICMPv6ND_NA].R) is (answer.src == OURS)
    return str(answer.src)


def pong(peer: Machine, address: str, to: str) -> str:
    """Send an echo request to *address* at the MAC *to*; return from where the reply came."""
    echo: Any = (IPv6(src=HOST6, dst=address) / ICMPv6EchoRequest(id=7, seq=1) if ":" in address
                 else IP(src=HOST4, dst=address) / ICMP(id=7, seq=1))
    peer.send(bytes(Ether(src=MAC, dst=to) / echo))

    def is_reply(frame: bytes) -> bool:
        packet = Ether(frame)
        return ICMPv6EchoReply in packet or (ICMP in packet and packet[ICMP].type == 0)

    return str(Ether(peer.receive(is_reply)).src)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_machine_sees_its_neighbours(lab: Lab, beside: tuple[Place, Place], plain: bool, form: Form) -> None:
    host, near = beside
    real = mac_of(near, "o0")
    with passt(lab, "--follow", *form.options, user=plain, place=host) as (_, path):
        peer = form.connect(path)
        try:
            let_meet(host)
            for ask, address, far, gateway in ((ask4, NEAR4, FAR4, OUTSIDE4), (ask6, NEAR6, FAR6, OUTSIDE6)):
                wait_until(lambda ask=ask, address=address: ask(peer, address) == real,  # type: ignore[misc]
                           f"{address} is at {real}")
                assert ask(peer, far) == ask(peer, gateway) == OURS
                for to in (real, OURS):
                    assert pong(peer, address, to) == real
                assert pong(peer, far, OURS) == OURS
            # A neighbour that has, or claims to have, the guest's own MAC address.
            batch(near, f"link set o0 address {MAC}")
            for ask, address in ((ask4, NEAR4), (ask6, NEAR6)):
                wait_until(lambda ask=ask, address=address: ask(peer, address) == OURS,  # type: ignore[misc]
                           f"{address} is at our own")
                assert pong(peer, address, OURS) == OURS
        finally:
            peer.close()


def test_without_following_all_are_at_ours(lab: Lab, beside: tuple[Place, Place], plain: bool) -> None:
    host, _ = beside
    with passt(lab, user=plain, place=host) as (_, path):
        peer = FORMS["stream"].connect(path)
        try:
            let_meet(host)
            assert ask4(peer, NEAR4) == ask6(peer, NEAR6) == OURS
            assert pong(peer, NEAR4, OURS) == pong(peer, NEAR6, OURS) == OURS
        finally:
            peer.close()
