"""What the tests of UDP share: a world in which all goes to one remote, and the frames of both sides."""

import socket
import struct

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from passt.facts.contracts import InboundTarget
from tests.dataplane.probes.world import World, socket_address
from tests.support.fakes import Events, Policy, Responder
from tests.support.frames import GUEST_MAC, OUR_MAC, packed, udp, unnumbered

GUEST = {4: "192.0.2.2", 6: "2001:db8::2"}
REMOTE = {4: "198.51.100.7", 6: "2001:db8:1::7"}
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
AF = {4: socket.AF_INET, 6: socket.AF_INET6}
SECOND = 10**9
START = 1000 * SECOND
GSO_UDP_L4 = 5
IP_PKTINFO = 8
SOL_UDP, UDP_SEGMENT = 17, 103
MSG_TRUNC = 0x20
EPOLLIN = 1
UDP_GRO = 104
RECEIVE_BUDGET = 64
PORT = 7  # of the remote: an exchange there is not counted as one with a name server is

both_families = pytest.mark.parametrize("family", [4, 6])


class Bench(World):
    """A world in which all flows go to `policy.target`."""

    def __init__(
        self, *, scripted: bool = True, max_flows: int = 64, features: int = 0, mtu: int = 65535
    ) -> None:
        self.policy = Policy()
        super().__init__(
            self.policy,
            Responder(),
            Events(),
            our_mac=OUR_MAC,
            guest_mac=GUEST_MAC,
            mtu=mtu,
            max_flows=max_flows,
            features=features,
            scripted=scripted,
        )
        self.now = START

    def gather(self, *frames: bytes | tuple[bytes, int]) -> None:
        """Take several frames in one batch; with a size, a frame is one of joined datagrams."""
        sized = (item if isinstance(item, tuple) else (item, 0) for item in frames)
        self.inject_batch((frame, GSO_UDP_L4 if size else 0, size, False) for frame, size in sized)

    def frames(self) -> list[bytes]:
        return [unnumbered(sent.frame) for sent in self.take_sent()]

    def sent_messages(self) -> list[tuple[object, ...]]:
        found = [entry[1:] for entry in self.sockets.log if entry[0] == "send_message"]
        self.sockets.log.clear()
        return found

    def payloads(self) -> list[bytes]:
        """Give what the messages carried that were sent since the last call."""
        return [bytes(message[1]) for message in self.sent_messages()]  # type: ignore[call-overload]

    def drops(self) -> dict[str, int]:
        return {name: n for name, n in self.counters().items() if name.startswith("drop_") and n}

    def only_fd(self) -> int:
        (flow,) = self.flows()
        return flow.fd

    def replies(self, *payloads: bytes, family: int = 4, port: int = PORT) -> None:
        """Have the only flow's socket receive datagrams of the remote."""
        sender = socket_address(packed(REMOTE[family]), port)
        self.deliver(self.only_fd(), *[(payload, sender, b"", 0) for payload in payloads])


def answer(family: int, payload: bytes, sport: int = PORT, dport: int = 1000) -> bytes:
    """Give the frame that the guest gets from the remote, as scapy builds it, unnumbered."""
    source, destination = REMOTE[family], GUEST[family]
    layer = (
        IP(src=source, dst=destination, id=0, ttl=255)
        if family == 4
        else IPv6(src=source, dst=destination, hlim=255)
    )
    ether = Ether(src=OUR_MAC, dst=GUEST_MAC)
    return bytes(ether / layer / UDP(sport=sport, dport=dport) / Raw(payload)).ljust(60, b"\0")


def server(family: int, address: str | None = None) -> socket.socket:
    sock = socket.socket(AF[family], socket.SOCK_DGRAM)
    sock.bind((address or LOOPBACK[family], 0))
    sock.settimeout(60)
    return sock


def query(
    family: int, payload: bytes = b"query", sport: int = 1000, dport: int = PORT, ttl: int = 64
) -> bytes:
    return udp(GUEST[family], sport, REMOTE[family], dport, payload, ttl=ttl)


def listener_socket(family: int, address: str) -> socket.socket:
    """Give a listener as the host's side opens it: it tells the address that was asked."""
    sock = socket.socket(AF[family], socket.SOCK_DGRAM)
    sock.setblocking(False)
    if family == 6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    sock.bind((address, 5353))
    return sock


def segment_control(size: int) -> bytes:
    """Control data that asks for segments of *size* octets."""
    return struct.pack("QiiH6x", 18, SOL_UDP, UDP_SEGMENT, size)


def pktinfo4(address: str) -> bytes:
    return struct.pack("Qiii4s4s4x", 28, socket.IPPROTO_IP, IP_PKTINFO, 0, bytes(4), packed(address))


def inbound_world(family: int = 4, *, max_flows: int = 64, features: int = 0) -> Bench:
    bench = Bench(max_flows=max_flows, features=features)
    bench.policy.seen = InboundTarget(packed(REMOTE[family]), 7000, packed(GUEST[family]), 53)
    bench.add_listener(500, socket.IPPROTO_UDP, "rule", 5353)
    return bench


def from_client(
    port: int, payload: bytes = b"hi", address: str = "203.0.113.5"
) -> tuple[bytes, bytes, bytes, int]:
    return (payload, socket_address(packed(address), port), pktinfo4("203.0.113.1"), 0)


def idle(bench: Bench, seconds: int) -> int:
    """Let virtual time pass; returns how many flows live then."""
    bench.now += seconds * SECOND
    bench.turn()
    return len(bench.flows())
