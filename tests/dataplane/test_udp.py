"""UDP translation: golden frames both ways over real sockets, odd cases with scripted ones, idle times."""

import errno
import socket
import struct

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from passt.contracts import InboundTarget, Target
from tests.dataplane.fakes import Events, Policy, Responder
from tests.dataplane.frames import GUEST_MAC, OUR_MAC, packed, udp
from tests.dataplane.netns import in_own_namespace
from tests.dataplane.world import World, socket_address

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
RECEIVE_BUDGET = 64

both_families = pytest.mark.parametrize("family", [4, 6])


class Bench(World):
    """A world in which all flows go to `policy.target`."""

    def __init__(self, *, scripted: bool = True, max_flows: int = 64, features: int = 0) -> None:
        self.policy = Policy()
        super().__init__(
            self.policy,
            Responder(),
            Events(),
            our_mac=OUR_MAC,
            guest_mac=GUEST_MAC,
            mtu=65535,
            max_flows=max_flows,
            features=features,
            scripted=scripted,
        )
        self.now = START

    def inject(self, frame: bytes, *, gso_type: int = 0, gso_size: int = 0) -> None:
        """Take a batch of one frame."""
        super().inject(frame, gso_type=gso_type, gso_size=gso_size)
        self.flush()

    def gather(self, *frames: bytes) -> None:
        """Take several frames in one batch."""
        for frame in frames:
            super().inject(frame)
        self.flush()

    def frames(self) -> list[bytes]:
        return [sent.frame for sent in self.take_sent()]

    def sent_messages(self) -> list[tuple[object, ...]]:
        found = [entry[1:] for entry in self.sockets.log if entry[0] == "send_message"]
        self.sockets.log.clear()
        return found

    def drops(self) -> dict[str, int]:
        return {name: n for name, n in self.counters().items() if name.startswith("drop_") and n}

    def only_fd(self) -> int:
        (flow,) = self.flows()
        return flow.fd


def answer(family: int, payload: bytes, sport: int = 53, dport: int = 1000) -> bytes:
    """Give the frame that the guest gets from the remote, as scapy builds it."""
    source, destination = REMOTE[family], GUEST[family]
    layer = (
        IP(src=source, dst=destination, id=0, flags="DF", ttl=255)
        if family == 4
        else IPv6(src=source, dst=destination, hlim=255)
    )
    ether = Ether(src=OUR_MAC, dst=GUEST_MAC)
    return bytes(ether / layer / UDP(sport=sport, dport=dport) / Raw(payload)).ljust(60, b"\0")


def server(family: int, address: str | None = None) -> socket.socket:
    sock = socket.socket(AF[family], socket.SOCK_DGRAM)
    sock.bind((address or LOOPBACK[family], 0))
    sock.settimeout(5)
    return sock


def query(family: int, payload: bytes = b"query", sport: int = 1000, dport: int = 53) -> bytes:
    return udp(GUEST[family], sport, REMOTE[family], dport, payload)


# Over real sockets


@both_families
@in_own_namespace
def test_datagrams_both_ways(family: int) -> None:
    bench = Bench(scripted=False)
    with server(family) as remote:
        bench.policy.target = Target(packed(LOOPBACK[family]), remote.getsockname()[1])
        for payload in (b"query", b"", bytes(range(256)) * 5, b"x" * 65507):
            bench.inject(
                query(family, payload) if payload != b"x" * 65507 or family == 4 else query(family, b"x")
            )
            data, peer = remote.recvfrom(70000)
            assert data in (payload, b"x")
            assert peer[:2] == (LOOPBACK[family], 1000)  # the guest's port is kept
            remote.sendto(data[::-1], peer)
            assert bench.dispatch() == 1
            assert bench.frames() == [answer(family, data[::-1])]
    assert bench.drops() == {}
    assert bench.counters()["flows_opened"] == bench.counters()["flows_udp"] == 1


@both_families
@in_own_namespace
def test_taken_port_is_replaced(family: int) -> None:
    bench = Bench(scripted=False)
    with server(family) as remote, socket.socket(AF[family], socket.SOCK_DGRAM) as holder:
        holder.bind((LOOPBACK[family], 1000))
        bench.policy.target = Target(
            packed(LOOPBACK[family]), remote.getsockname()[1], source=packed(LOOPBACK[family])
        )
        bench.inject(query(family))
        data, peer = remote.recvfrom(100)
        assert (data, peer[0]) == (b"query", LOOPBACK[family])
        assert peer[1] != 1000
        remote.sendto(b"answer", peer)
        assert bench.dispatch() == 1
        assert bench.frames() == [answer(family, b"answer")]


@in_own_namespace
def test_source_and_device_of_the_route() -> None:
    bench = Bench(scripted=False)
    with server(4) as remote:
        bench.policy.target = Target(
            packed("127.0.0.1"), remote.getsockname()[1], source=packed("127.0.0.5"), ifname=b"lo"
        )
        bench.inject(query(4))
        assert remote.recvfrom(100)[1] == ("127.0.0.5", 1000)
        bench.policy.target = bench.policy.target._replace(ifname=b"none")
        bench.inject(query(4, sport=1001))
        assert bench.drops() == {"drop_socket": 1}
        bench.policy.target = bench.policy.target._replace(ifname=None, source=packed("192.0.2.77"))
        bench.inject(query(4, sport=1001))
        assert bench.drops() == {"drop_socket": 2}
    assert len(bench.flows()) == 1


@both_families
@in_own_namespace
def test_segmented_datagram_leaves_in_pieces(family: int) -> None:
    bench = Bench(scripted=False)
    payload = bytes(i & 0xFF for i in range(2500))
    with server(family) as remote:
        bench.policy.target = Target(packed(LOOPBACK[family]), remote.getsockname()[1])
        bench.inject(query(family, payload), gso_type=GSO_UDP_L4, gso_size=1000)
        assert [remote.recv(5000) for _ in range(3)] == [payload[:1000], payload[1000:2000], payload[2000:]]
    assert bench.drops() == {}


@both_families
@in_own_namespace
def test_unreachable_port_is_an_error_of_the_earlier_datagram_only(family: int) -> None:
    bench = Bench(scripted=False)
    with server(family) as remote:
        port = remote.getsockname()[1]
    bench.policy.target = Target(packed(LOOPBACK[family]), port)
    bench.inject(query(family))
    bench.inject(query(family))  # meets the error of the first, and goes out all the same
    assert bench.drops() == {}
    assert bench.dispatch() == 1
    assert bench.drops() == {"drop_socket": 1}
    assert bench.frames() == []
    with socket.socket(AF[family], socket.SOCK_DGRAM) as late:
        late.bind((LOOPBACK[family], port))
        late.settimeout(5)
        bench.inject(query(family, b"now"))
        assert late.recv(100) == b"now"


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


@pytest.mark.parametrize(
    ("listener_family", "client", "asked"),
    [
        (4, "127.0.0.1", "127.0.0.1"),
        (4, "127.0.0.9", "127.0.0.4"),
        (6, "::1", "::1"),
        (6, "127.0.0.9", "127.0.0.4"),
    ],
)
@in_own_namespace
def test_datagrams_of_a_host_client(listener_family: int, client: str, asked: str) -> None:
    bench = Bench(scripted=False)
    family = 6 if ":" in client else 4
    bench.policy.seen = InboundTarget(packed(REMOTE[family]), 7000, packed(GUEST[family]), 53)
    with (
        listener_socket(listener_family, "0.0.0.0" if listener_family == 4 else "::") as listener,
        server(family, client) as sock,
    ):
        index = bench.add_listener(listener.fileno(), socket.IPPROTO_UDP, "rule", 5353)
        assert index == 0
        for payload in (b"question", b"", bytes(1300)):
            sock.sendto(payload, (asked, 5353))
            assert bench.dispatch() == 1
            assert bench.frames() == [answer(family, payload, 7000, 53)]
        bench.inject(udp(GUEST[family], 53, REMOTE[family], 7000, b"answer"))
        assert sock.recvfrom(100)[0] == b"answer"
        bench.inject(
            udp(GUEST[family], 53, REMOTE[family], 7000, bytes(2500)), gso_type=GSO_UDP_L4, gso_size=1000
        )
        data = [sock.recvfrom(5000) for _ in range(3)]
        assert [len(part) for part, _ in data] == [1000, 1000, 500]
        assert {sender[:2] for _, sender in data} == {(asked, 5353)}
        assert bench.policy.asked_inbound == [
            (17, "rule", packed(client), sock.getsockname()[1], packed(asked), 5353)
        ]
    assert bench.drops() == {}
    assert [flow.fd for flow in bench.flows()] == [-1]  # it costs no descriptor


# With scripted sockets: out


def segment_control(size: int) -> bytes:
    """Control data that asks for segments of *size* octets."""
    return struct.pack("QiiH6x", 18, SOL_UDP, UDP_SEGMENT, size)


def test_route_that_cannot_segment_gets_the_datagrams_one_by_one() -> None:
    for error in (errno.EINVAL, errno.EIO, errno.EMSGSIZE):
        bench = Bench()
        bench.script("send_message", -error)
        bench.inject(query(4, b"aabbc"), gso_type=GSO_UDP_L4, gso_size=2)
        fd = bench.only_fd()
        assert bench.sent_messages() == [
            (fd, b"aabbc", None, segment_control(2)),
            (fd, b"aa", None, b""),
            (fd, b"bb", None, b""),
            (fd, b"c", None, b""),
        ]
        assert bench.drops() == {}


def test_segmented_datagram_that_fails_is_one_drop() -> None:
    bench = Bench()
    bench.script("send_message", -errno.ENETUNREACH)
    bench.inject(query(4, b"aabbc"), gso_type=GSO_UDP_L4, gso_size=2)
    assert len(bench.sent_messages()) == 1
    assert bench.drops() == {"drop_socket": 1}


@pytest.mark.parametrize("size", [5, 6, 65535])
def test_segment_size_beyond_the_payload_is_none(size: int) -> None:
    bench = Bench()
    bench.inject(query(4, b"aabbc"), gso_type=GSO_UDP_L4, gso_size=size)
    assert bench.sent_messages() == [(bench.only_fd(), b"aabbc", None, b"")]


def test_refused_twice_is_a_drop() -> None:
    bench = Bench()
    bench.script("send_message", -errno.ECONNREFUSED, -errno.ECONNREFUSED)
    bench.inject(query(4))
    assert len(bench.sent_messages()) == 2
    assert bench.drops() == {"drop_socket": 1}


def test_socket_is_opened_bound_connected_and_watched() -> None:
    bench = Bench()
    bench.policy.target = Target(packed("203.0.113.9"), 5300, source=packed("203.0.113.1"), ifname=b"eth0")
    bench.inject(query(4))
    fd = bench.only_fd()
    names = [entry[0] for entry in bench.sockets.log]
    assert names == ["open", "bind_device", "bind_source", "connect", "watch", "send_message"]
    assert bench.sockets.log[0] == ("open", socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_UDP)
    assert ("bind_device", fd, b"eth0") in bench.sockets.log
    assert ("bind_source", fd, packed("203.0.113.1"), 1000) in bench.sockets.log
    assert ("connect", fd, packed("203.0.113.9"), 5300) in bench.sockets.log


@pytest.mark.parametrize("operation", ["connect", "watch"])
def test_failure_on_the_way_closes_the_socket(operation: str) -> None:
    bench = Bench()
    bench.script(operation, -errno.ENETUNREACH)
    bench.inject(query(6))
    assert bench.flows() == []
    assert bench.sockets.open_fds == set()
    assert bench.drops() == {"drop_socket": 1}
    bench.inject(query(6))
    assert len(bench.flows()) == 1


# With scripted sockets: in


def test_link_that_is_blocked_reads_nothing() -> None:
    bench = Bench()
    bench.inject(query(4))
    fd = bench.only_fd()
    bench.deliver(fd, (b"one", b"", b"", 0), (b"two", b"", b"", 0))
    bench.blocked = True
    bench.event(0, EPOLLIN)
    bench.end_turn()
    assert bench.frames() == []
    bench.blocked = False
    bench.wake_waiting()
    bench.end_turn()
    assert bench.frames() == [answer(4, b"one"), answer(4, b"two")]


def test_one_socket_takes_no_more_than_its_share_of_a_turn() -> None:
    bench = Bench()
    bench.inject(query(4))
    bench.deliver(bench.only_fd(), *[(bytes([n]), b"", b"", 0) for n in range(RECEIVE_BUDGET + 3)])
    bench.event(0, EPOLLIN)
    assert len(bench.frames()) == RECEIVE_BUDGET
    bench.event(0, EPOLLIN)
    assert len(bench.frames()) == 3


@both_families
def test_datagram_beyond_the_links_frames_is_a_counted_drop(family: int) -> None:
    bench = Bench()
    bench.inject(query(family))
    most = 65507 if family == 4 else 65527
    bench.deliver(bench.only_fd(), (bytes(most + 1), b"", b"", 0), (b"fits", b"", b"", 0))
    bench.event(0, EPOLLIN)
    assert bench.frames() == [answer(family, b"fits")]
    assert bench.drops() == {"drop_truncated": 1}


@both_families
def test_error_between_datagrams_is_counted_and_passed_over(family: int) -> None:
    bench = Bench()
    bench.inject(query(family))
    bench.deliver(bench.only_fd(), -errno.EHOSTUNREACH, (b"fits", b"", b"", 0))
    bench.event(0, EPOLLIN)
    assert bench.frames() == [answer(family, b"fits")]
    assert bench.drops() == {"drop_socket": 1}


def test_zero_checksum_is_not_sent() -> None:
    # RFC 768: all ones stand for a computed zero. The payload is chosen so that the sum is zero.
    bench = Bench()
    bench.inject(query(4))
    plain = answer(4, b"\0\0")
    payload = plain[40:42]
    bench.deliver(bench.only_fd(), (payload, b"", b"", 0))
    bench.event(0, EPOLLIN)
    (frame,) = bench.frames()
    assert frame[40:42] == b"\xff\xff"


# Listeners, scripted


def pktinfo4(address: str) -> bytes:
    return struct.pack("Qiii4s4s4x", 28, socket.IPPROTO_IP, IP_PKTINFO, 0, bytes(4), packed(address))


def inbound_world(family: int = 4) -> Bench:
    bench = Bench(max_flows=3)
    bench.policy.seen = InboundTarget(packed(REMOTE[family]), 7000, packed(GUEST[family]), 53)
    bench.add_listener(500, socket.IPPROTO_UDP, "rule", 5353)
    return bench


def from_client(
    port: int, payload: bytes = b"hi", address: str = "203.0.113.5"
) -> tuple[bytes, bytes, bytes, int]:
    return (payload, socket_address(packed(address), port), pktinfo4("203.0.113.1"), 0)


def test_inbound_flow_is_asked_for_once() -> None:
    bench = inbound_world()
    bench.deliver(500, from_client(4000), from_client(4000, b"again"))
    bench.listener_event(0)
    assert bench.frames() == [answer(4, b"hi", 7000, 53), answer(4, b"again", 7000, 53)]
    assert bench.policy.asked_inbound == [
        (17, "rule", packed("203.0.113.5"), 4000, packed("203.0.113.1"), 5353)
    ]


def test_answer_leaves_from_the_address_that_was_asked() -> None:
    bench = inbound_world()
    bench.deliver(500, from_client(4000))
    bench.listener_event(0)
    bench.inject(udp(GUEST[4], 53, REMOTE[4], 7000, b"answer"))
    source = struct.pack("Qiii4s4s4x", 28, socket.IPPROTO_IP, IP_PKTINFO, 0, packed("203.0.113.1"), bytes(4))
    assert bench.sent_messages() == [(500, b"answer", (packed("203.0.113.5"), 4000), source)]


def test_inbound_flow_that_is_refused() -> None:
    bench = inbound_world()
    bench.policy.refuses = True
    bench.deliver(500, from_client(4000))
    bench.listener_event(0)
    assert (bench.frames(), bench.flows()) == ([], [])
    assert bench.drops() == {"drop_refused": 1}
    assert bench.counters()["flows_refused"] == 1


def test_inbound_flow_whose_guest_side_is_taken() -> None:
    bench = inbound_world()
    bench.deliver(500, from_client(4000), from_client(4001))  # the policy maps both to the same ports
    bench.listener_event(0)
    assert len(bench.flows()) == 1
    assert bench.drops() == {"drop_refused": 1}
    bench.deliver(500, from_client(4000, b"more"))
    bench.listener_event(0)
    assert bench.frames()[-1] == answer(4, b"more", 7000, 53)


def test_inbound_flow_with_a_full_table() -> None:
    bench = inbound_world()
    for port in range(1, 4):
        bench.inject(query(4, sport=port))
    bench.deliver(500, from_client(4000))
    bench.listener_event(0)
    assert bench.drops() == {"drop_flows_full": 1}


def test_client_without_a_port_or_of_no_family_is_dropped() -> None:
    bench = inbound_world()
    bench.deliver(500, from_client(0), (b"hi", struct.pack("H26x", 1), b"", 0))
    bench.listener_event(0)
    assert bench.drops() == {"drop_bad_port": 2}
    assert bench.policy.asked_inbound == []


def test_listener_errors_and_oversize_are_counted() -> None:
    bench = inbound_world()
    bench.deliver(
        500,
        -errno.ECONNREFUSED,
        (b"cut", socket_address(packed("203.0.113.5"), 4000), b"", MSG_TRUNC),
        from_client(4000),
    )
    bench.listener_event(0)
    assert bench.drops() == {"drop_socket": 1, "drop_truncated": 1}
    assert bench.frames() == [answer(4, b"hi", 7000, 53)]


def test_blocked_link_drops_what_a_listener_gets() -> None:
    bench = inbound_world()
    bench.deliver(500, from_client(4000))
    bench.blocked = True
    bench.listener_event(0)
    assert bench.flows() == []
    assert bench.drops() == {"drop_link_full": 1}


# Idle times


def idle(bench: Bench, seconds: int) -> int:
    """Let virtual time pass; returns how many flows live then."""
    bench.now += seconds * SECOND
    bench.fire_timers()
    return len(bench.flows())


def test_unanswered_flow_ends_after_30_seconds() -> None:
    bench = Bench()
    bench.inject(query(4))
    assert idle(bench, 29) == 1
    assert idle(bench, 1) == 0
    assert bench.sockets.open_fds == set()
    assert bench.counters()["flows_udp"] == 0


def test_use_moves_the_end_and_one_answer_is_no_stream() -> None:
    bench = Bench()
    bench.inject(query(4))
    bench.now += 20 * SECOND
    bench.deliver(bench.only_fd(), (b"answer", b"", b"", 0))
    bench.event(0, EPOLLIN)
    assert idle(bench, 29) == 1
    assert idle(bench, 1) == 0


@pytest.mark.parametrize("guest_goes_on", [True, False])
def test_exchange_that_goes_on_is_a_stream_and_lives_for_two_minutes(guest_goes_on: bool) -> None:
    bench = Bench()
    bench.inject(query(4))
    fd = bench.only_fd()
    bench.deliver(fd, (b"answer", b"", b"", 0))
    bench.event(0, EPOLLIN)
    if guest_goes_on:
        bench.inject(query(4))
    else:
        bench.deliver(fd, (b"more", b"", b"", 0))
        bench.event(0, EPOLLIN)
    assert idle(bench, 119) == 1
    assert idle(bench, 1) == 0


def test_inbound_flow_becomes_a_stream_when_the_guest_answers() -> None:
    bench = inbound_world()
    bench.deliver(500, from_client(4000))
    bench.listener_event(0)
    assert idle(bench, 29) == 1
    bench.inject(udp(GUEST[4], 53, REMOTE[4], 7000, b"answer"))
    assert idle(bench, 119) == 1
    assert idle(bench, 1) == 0
    assert bench.counters()["flows_udp"] == 0
    bench.deliver(500, from_client(4000))
    bench.listener_event(0)
    assert len(bench.policy.asked_inbound) == 2  # forgotten on both sides


def test_table_has_room_again_after_idle_flows_end() -> None:
    bench = Bench(max_flows=2)
    for port in (1, 2, 3):
        bench.inject(query(4, sport=port))
    assert bench.drops() == {"drop_flows_full": 1}
    assert idle(bench, 30) == 0
    bench.inject(query(4, sport=3))
    assert len(bench.flows()) == 1
