"""UDP flows: the sockets that they share, listeners, life and bounds."""

import errno
import socket
import struct

import pytest

from passt.facts.contracts import InboundTarget, Target
from tests.dataplane.probes.world import socket_address
from tests.dataplane.udp.bench import (
    EPOLLIN,
    GUEST,
    IP_PKTINFO,
    PORT,
    REMOTE,
    SECOND,
    Bench,
    answer,
    both_families,
    from_client,
    idle,
    inbound_world,
    pktinfo4,
    query,
)
from tests.support.frames import ACK, packed, tcp, udp

DNS = 53
FLOW_UDP = 3


def fds(bench: Bench) -> list[int]:
    return [flow.fd for flow in bench.flows()]


def to(bench: Bench, address: str, sport: int = 1000, payload: bytes = b"query") -> None:
    """Have the guest send from *sport* to *address*."""
    source = GUEST[6 if ":" in address else 4]
    bench.inject(udp(source, sport, address, PORT, payload))


def operations(bench: Bench, name: str) -> list[tuple[object, ...]]:
    return [entry[1:] for entry in bench.sockets.log if entry[0] == name]


# Sockets


@both_families
def test_thousand_remotes_of_one_port_cost_one_descriptor(family: int) -> None:
    bench = Bench(max_flows=8192)
    for n in range(1000):
        to(bench, f"198.18.{n // 256}.{n % 256}" if family == 4 else f"2001:db8:5::{n:x}")
    assert len(bench.flows()) == 1000
    assert bench.sockets.open_fds == {fds(bench)[0]}
    assert len({message[2] for message in operations(bench, "send_message")}) == 1000
    bench.now += 30 * SECOND
    bench.turn()
    assert (bench.flows(), bench.sockets.open_fds, bench.n_active) == ([], set(), 0)


def test_socket_lives_as_long_as_the_last_flow_that_uses_it() -> None:
    bench = Bench()
    to(bench, "198.51.100.1")
    bench.now += 20 * SECOND
    to(bench, "198.51.100.2")
    (fd,) = bench.sockets.open_fds
    assert idle(bench, 10) == 1
    assert bench.sockets.open_fds == {fd}
    assert idle(bench, 20) == 0
    assert bench.sockets.open_fds == set()


def test_families_and_guest_addresses_have_sockets_of_their_own() -> None:
    bench = Bench()
    bench.inject(query(4))
    bench.inject(query(6))
    bench.inject(udp("192.0.2.3", 1000, REMOTE[4], PORT))
    bench.inject(query(4, sport=1001))
    assert len(bench.sockets.open_fds) == 4


def test_other_source_or_device_takes_another_socket() -> None:
    bench = Bench()
    target = Target(packed("203.0.113.9"), 5300, source=packed("203.0.113.1"), ifname=b"eth0")
    bench.policy.target = target
    to(bench, "198.51.100.1")
    for number, other in enumerate(
        (target._replace(ifname=b"eth1"), target._replace(source=packed("203.0.113.2")), target), start=2
    ):
        bench.policy.target = other._replace(address=packed(f"203.0.113.{number + 20}"))
        to(bench, f"198.51.100.{number}")
    assert len(bench.sockets.open_fds) == 3
    first, *_, last = fds(bench)
    assert first == last


def test_one_remote_under_two_addresses_keeps_its_answers_apart() -> None:
    bench = Bench()
    bench.policy.target = Target(packed("127.0.0.1"), 5300)
    to(bench, "198.51.100.1")
    to(bench, "198.51.100.2")
    first, second = fds(bench)
    assert first != second
    sender = socket_address(packed("127.0.0.1"), 5300)
    for fd, number in ((first, 0), (second, 1)):
        bench.deliver(fd, (b"answer", sender, b"", 0))
        bench.event(bench.flows()[number].number, EPOLLIN)
    assert [frame[26:30] for frame in bench.frames()] == [packed("198.51.100.1"), packed("198.51.100.2")]


@pytest.mark.parametrize("error", [errno.EADDRINUSE, errno.EACCES])
@pytest.mark.parametrize("source", [None, "203.0.113.1"])
def test_port_that_cannot_be_kept_is_replaced(error: int, source: str | None) -> None:
    bench = Bench()
    address = packed(source) if source else bytes(4)
    bench.policy.target = Target(packed(REMOTE[4]), PORT, source=packed(source) if source else None)
    bench.script("bind_source", -error)
    bench.inject(query(4, sport=123))
    fd = bench.only_fd()
    assert operations(bench, "bind_source") == [(fd, address, 123), (fd, address, 0)]
    bench.replies(b"answer")
    bench.event(0, EPOLLIN)
    assert bench.frames() == [answer(4, b"answer", dport=123)]
    assert bench.drops() == {}


def test_source_that_cannot_be_bound_is_a_counted_drop() -> None:
    bench = Bench()
    bench.policy.target = Target(packed(REMOTE[4]), PORT, source=packed("203.0.113.1"))
    bench.script("bind_source", -errno.EADDRNOTAVAIL, -errno.EADDRNOTAVAIL)
    bench.inject(query(4))
    assert (bench.flows(), bench.sockets.open_fds, bench.n_active) == ([], set(), 0)
    assert bench.drops() == {"drop_socket": 1}


def test_stranger_is_not_let_in() -> None:
    bench = Bench()
    bench.inject(query(4))
    for sender in (
        socket_address(packed(REMOTE[4]), PORT + 1),
        socket_address(packed("198.51.100.8"), PORT),
        socket_address(packed(REMOTE[6]), PORT),
        b"\1" * 16,
    ):
        bench.deliver(bench.only_fd(), (b"hello", sender, b"", 0))
    bench.event(0, EPOLLIN)
    assert bench.frames() == []
    assert bench.drops() == {"drop_unknown_flow": 4}


# Listeners


def test_inbound_flow_is_asked_for_once() -> None:
    bench = inbound_world()
    bench.deliver(500, from_client(4000), from_client(4000, b"again"))
    bench.listener_event(0)
    assert bench.frames() == [answer(4, b"hi", 7000, 53), answer(4, b"again", 7000, 53)]
    assert bench.policy.asked_inbound == [
        (17, "rule", packed("203.0.113.5"), 4000, packed("203.0.113.1"), 5353)
    ]


def pktinfo_source(address: str) -> bytes:
    return struct.pack("Qiii4s4s4x", 28, socket.IPPROTO_IP, IP_PKTINFO, 0, packed(address), bytes(4))


def test_answer_leaves_from_the_address_that_was_asked() -> None:
    bench = inbound_world()
    bench.deliver(500, from_client(4000))
    bench.listener_event(0)
    bench.inject(udp(GUEST[4], 53, REMOTE[4], 7000, b"answer"))
    client = (packed("203.0.113.5"), 4000)
    assert bench.sent_messages() == [(500, b"answer", client, pktinfo_source("203.0.113.1"))]


def test_answers_to_many_clients_leave_by_one_call() -> None:
    bench = inbound_world()
    frames = []
    for number in range(3):
        bench.policy.seen = InboundTarget(packed(REMOTE[4]), 7000 + number, packed(GUEST[4]), 53)
        bench.deliver(500, from_client(4000 + number))
        bench.listener_event(0)
        frames += [udp(GUEST[4], 53, REMOTE[4], 7000 + number, data) for data in (b"aa", b"bb")]
    bench.gather(*frames)
    messages = bench.sent_messages()
    assert [message[:2] for message in messages] == [(500, b"aabb")] * 3
    assert [len(message[3]) for message in messages] == [32 + 24] * 3  # type: ignore[arg-type]
    assert len(bench.sockets.open_fds) == 0


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


def test_flow_of_the_guest_moves_to_the_listener_that_its_remote_answers() -> None:
    bench = inbound_world()
    bench.policy.target = Target(packed("203.0.113.5"), 4000)
    bench.inject(udp(GUEST[4], 53, REMOTE[4], 7000, b"hello"))
    assert len(bench.sockets.open_fds) == 1
    bench.deliver(500, from_client(4000), from_client(4000, b"more"))
    bench.listener_event(0)
    assert bench.frames() == [answer(4, b"hi", 7000, 53), answer(4, b"more", 7000, 53)]
    assert len(bench.policy.asked_inbound) == 1
    assert (len(bench.flows()), bench.n_active, bench.sockets.open_fds) == (1, 1, set())
    bench.sockets.log.clear()
    bench.inject(udp(GUEST[4], 53, REMOTE[4], 7000, b"again"))
    client = (packed("203.0.113.5"), 4000)
    assert bench.sent_messages() == [(500, b"again", client, pktinfo_source("203.0.113.1"))]
    assert bench.drops() == {}


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_flow_from_a_port_that_a_listener_has_for_the_guest_leaves_by_it(family: int) -> None:
    bench = Bench()
    bench.policy.seen = InboundTarget(packed(REMOTE[4]), PORT, packed(GUEST[4]), 5353)
    bench.add_listener(500, socket.IPPROTO_UDP, "rule", 5353, (family, socket.AF_INET))
    bench.inject(query(4, b"hello", sport=5353))
    assert bench.sockets.open_fds == set()
    assert bench.policy.asked_inbound == [(17, "rule", packed(REMOTE[4]), PORT, bytes(4), 5353)]
    ((fd, data, where, control),) = bench.sent_messages()
    assert (fd, data, where) == (500, b"hello", (packed(REMOTE[4]), PORT))
    assert len(bytes(control)) == (32 if family == socket.AF_INET else 40)  # type: ignore[call-overload]
    bench.deliver(500, from_client(PORT, b"answer", REMOTE[4]), from_client(PORT, b"more", REMOTE[4]))
    bench.listener_event(0)
    assert bench.frames() == [answer(4, data, dport=5353) for data in (b"answer", b"more")]
    assert len(bench.flows()) == bench.n_active == 1
    bench.inject(query(4, b"again", sport=5353))
    if family == socket.AF_INET:
        assert bench.sent_messages()[0][3] == pktinfo_source("203.0.113.1")
    assert bench.drops() == {}


def test_listener_counts_the_flows_that_use_it() -> None:
    """Those that came by it, those that leave by it, and those that moved to it, until they end."""
    bench = inbound_world()
    bench.add_listener(501, socket.IPPROTO_UDP, "rule", 5353, (socket.AF_INET,))

    def counted() -> tuple[int, int]:
        return bench.listener_flows(0), bench.listener_flows(1)

    bench.policy.target = Target(packed("203.0.113.5"), 4000)
    bench.inject(udp(GUEST[4], 53, REMOTE[4], 7000, b"hello"))
    assert counted() == (0, 0)
    bench.deliver(500, from_client(4000), from_client(4000, b"more"))
    bench.listener_event(0)
    assert counted() == (1, 0)          # moved
    bench.policy.seen = InboundTarget(packed(REMOTE[4]), 7001, packed(GUEST[4]), 53)
    bench.deliver(500, from_client(4001))
    bench.listener_event(0)
    assert counted() == (2, 0)          # came
    bench.policy.target = None
    bench.policy.seen = InboundTarget(packed(REMOTE[4]), PORT, packed(GUEST[4]), 5353)
    bench.inject(query(4, b"hello", sport=5353))
    assert counted() == (2, 1)          # leaves
    bench.end_all()
    assert counted() == (0, 0)


def test_listener_that_serves_somebody_else_is_not_used() -> None:
    bench = Bench()
    bench.add_listener(500, socket.IPPROTO_UDP, "rule", 5353, (socket.AF_INET6,))
    bench.add_listener(501, socket.IPPROTO_UDP, "rule", 5353, (socket.AF_INET,))
    right = InboundTarget(packed(REMOTE[4]), PORT, packed(GUEST[4]), 5353)
    for number, seen in enumerate(
        (
            None,
            right._replace(destination_port=53),
            right._replace(destination=packed("192.0.2.9")),
            right._replace(source=packed("198.51.100.9")),
            right._replace(source_port=9),
        )
    ):
        bench.policy.seen = seen
        bench.inject(query(4, sport=5353))
        assert len(bench.sockets.open_fds) == 1
        assert len(bench.policy.asked_inbound) == number + 1
        assert idle(bench, 30) == 0
    bench.policy.seen = right
    bench.inject(query(4, sport=5353))
    assert len(bench.sockets.open_fds) == 0
    assert bench.sent_messages()[-1][0] == 501


GROUP = {4: "224.0.0.251", 6: "ff02::fb"}


def item(level: int, kind: int, value: bytes) -> bytes:
    """Give one item of control data as the kernel takes it (cmsg(3))."""
    whole = struct.pack("@QII", 16 + len(value), level, kind) + value
    return whole + bytes(-len(whole) % 8)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("target", [GROUP, {4: "255.255.255.255", 6: "ff05::1234"}], ids=["link", "beyond"])
def test_what_goes_to_a_group_leaves_by_the_listener_with_the_guests_port(
    family: int, target: dict[int, str]
) -> None:
    bench = Bench()
    bench.policy.leads = True
    bench.policy.target = Target(packed(target[family]), 5353, scope_id=3)
    bench.add_listener(500, socket.IPPROTO_UDP, "rule", 5353, (socket.AF_INET6, socket.AF_INET))
    bench.inject(udp(GUEST[family], 5353, target[family], 5353, b"question", ttl=255))
    assert bench.policy.asked_leads == [(17, "rule", packed(GUEST[family]), 5353)]
    assert bench.policy.asked_inbound == []
    assert bench.sockets.open_fds == set()
    ((fd, data, _, control),) = bench.sent_messages()
    assert (fd, data) == (500, b"question")
    # The hop limit is the guest's, and this message alone is told its interface: others share the socket.
    hops = item(*((socket.IPPROTO_IP, socket.IP_TTL) if family == 4
                  else (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT)), struct.pack("@i", 255))
    source = bytes(16) if family == 6 else bytes(10) + b"\xff\xff" + bytes(4)
    assert control == hops + item(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, source + struct.pack("@I", 3))
    assert not [call for call in bench.sockets.log if call[0] == "set_interface"]
    assert bench.drops() == {}


def test_later_flows_ask_for_the_listener_again() -> None:
    bench = Bench()
    bench.inject(query(4, sport=5353))
    assert len(bench.sockets.open_fds) == 1
    bench.add_listener(500, socket.IPPROTO_UDP, "rule", 5353, (socket.AF_INET,))
    bench.policy.seen = InboundTarget(packed("198.51.100.9"), PORT, packed(GUEST[4]), 5353)
    bench.inject(udp(GUEST[4], 5353, "198.51.100.9", PORT, b"later"))
    assert bench.sent_messages()[-1][0] == 500
    assert len(bench.sockets.open_fds) == 1
    bench.policy.leads = True
    bench.inject(udp(GUEST[4], 5353, GROUP[4], 5353, b"group"))
    assert bench.sent_messages()[-1][0] == 500


@pytest.mark.parametrize(
    ("target", "source", "ifindex"),
    [
        (Target(packed("127.0.0.53"), PORT), "127.0.0.1", 0),
        (Target(packed(REMOTE[4]), PORT, source=packed("203.0.113.9")), "203.0.113.9", 0),
        (Target(packed(REMOTE[4]), PORT, source=packed("203.0.113.9"), ifname=b"eth0"), "203.0.113.9", 7),
    ],
    ids=["loopback", "source", "interface"],
)
def test_flow_with_a_source_leaves_by_the_listener_from_there(
    target: Target, source: str, ifindex: int
) -> None:
    bench = Bench()
    bench.policy.leads = True
    bench.policy.target = target
    bench.add_listener(500, socket.IPPROTO_UDP, "rule", 5353, (socket.AF_INET,))
    bench.inject(query(4, sport=5353))
    ((fd, _, _, control),) = bench.sent_messages()
    info = struct.pack("@i", ifindex) + packed(source) + bytes(4)
    assert (fd, control) == (500, item(socket.IPPROTO_IP, 8, info))
    # The answer is found by the addresses, whatever the policy would say of the peer.
    bench.deliver(500, (b"answer", socket_address(target.address, PORT), pktinfo4(source), 0))
    bench.listener_event(0)
    assert bench.frames() == [answer(4, b"answer", dport=5353)]
    assert bench.policy.asked_inbound == []


def test_listener_of_an_address_or_device_shares_its_port() -> None:
    bench = Bench()
    bench.policy.leads = True
    bench.add_listener(500, 17, "rule", 5353, (socket.AF_INET,), packed("203.0.113.9"))
    bench.add_listener(501, 17, "rule", 5353, (socket.AF_INET,), b"", b"eth0")
    bench.script("bind_source", -errno.EADDRINUSE)
    bench.inject(udp(GUEST[4], 5353, GROUP[4], 5353, b"group"))
    assert [port for _, _, port in operations(bench, "bind_source")] == [5353, 5353]
    (fd,) = bench.sockets.open_fds
    assert [option for option in bench.sockets.options if option[0] == fd][:2] == [
        (fd, socket.SOL_SOCKET, socket.SO_REUSEADDR, value) for value in (1, 0)
    ]
    # Where a flow has that very address or device, the listener serves it itself.
    bench.policy.target = Target(packed(GROUP[4]), 5354, source=packed("203.0.113.9"))
    bench.inject(udp(GUEST[4], 5353, GROUP[4], 5354, b"group"))
    assert bench.sent_messages()[-1][0] == 500
    bench.policy.target = Target(packed(GROUP[4]), 5355, ifname=b"eth0")
    bench.inject(udp(GUEST[4], 5353, GROUP[4], 5355, b"group"))
    assert bench.sent_messages()[-1][0] == 501


@pytest.mark.parametrize("leads", [True, False])
def test_port_of_somebody_else_is_not_shared(leads: bool) -> None:
    bench = Bench()
    bench.policy.leads = False
    if not leads:
        bench.add_listener(500, 17, "rule", 5353, (socket.AF_INET,), packed("203.0.113.9"))
    bench.script("bind_source", -errno.EADDRINUSE)
    bench.inject(udp(GUEST[4], 5353, GROUP[4], 5353, b"group"))
    assert [port for _, _, port in operations(bench, "bind_source")] == [5353, 0]


def test_broadcast_by_a_listener_is_permitted_when_the_kernel_asks() -> None:
    bench = Bench()
    bench.policy.leads = True
    bench.add_listener(500, 17, "rule", 5353, (socket.AF_INET6, socket.AF_INET))
    for number in range(2):
        bench.script("send_message", *([-errno.EACCES] if not number else []))
        bench.inject(udp(GUEST[4], 5353, "255.255.255.255", 5353 + number, b"all"))
    assert bench.sockets.options.count((500, socket.SOL_SOCKET, socket.SO_BROADCAST, 1)) == 1
    assert bench.drops() == {}


def test_own_echo_of_what_went_to_a_group_is_dropped() -> None:
    bench = Bench()
    bench.policy.leads = True
    bench.add_listener(500, 17, "rule", 5353, (socket.AF_INET,))
    bench.inject(udp(GUEST[4], 5353, GROUP[4], 5353, b"question"))
    bench.policy.seen = InboundTarget(packed(REMOTE[4]), 5353, packed(GUEST[4]), 5353)
    echo = (b"question", socket_address(packed("203.0.113.1"), 5353), pktinfo4(GROUP[4]), 0)
    other = (b"questioN", *echo[1:])
    bench.script("is_own", 1, 0)
    bench.deliver(500, echo, other)
    bench.listener_event(0)
    assert [frame[42:50] for frame in bench.frames()] == [b"questioN"]
    assert bench.drops() == {"drop_own_echo": 1}
    # Somebody else on the link may say the same, and anybody may a while later.
    bench.deliver(500, echo)
    bench.listener_event(0)
    bench.now += SECOND
    bench.deliver(500, echo)
    bench.listener_event(0)
    assert bench.drops() == {"drop_own_echo": 1}
    assert operations(bench, "is_own") == [(500, (packed("203.0.113.1"), 5353))] * 2


def test_inbound_flow_with_a_full_table() -> None:
    bench = inbound_world(max_flows=3)
    for port in range(3):
        bench.inject(query(4, sport=port + 1))  # one datagram flow may be
    assert len(bench.flows()) == 1
    bench.deliver(500, from_client(4000))
    bench.listener_event(0)
    assert bench.frames() == [answer(4, b"hi", 7000, 53)]
    assert bench.drops() == {}
    assert bench.counters()["flows_evicted"] == 3


def test_client_without_a_port_or_of_no_family_is_dropped() -> None:
    bench = inbound_world()
    bench.deliver(500, from_client(0), (b"hi", struct.pack("H26x", 1), b"", 0))
    bench.listener_event(0)
    assert bench.drops() == {"drop_bad_port": 2}
    assert bench.policy.asked_inbound == []


# Idle times


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
    bench.replies(b"answer")
    bench.event(0, EPOLLIN)
    assert idle(bench, 29) == 1
    assert idle(bench, 1) == 0


@pytest.mark.parametrize("guest_goes_on", [True, False])
def test_exchange_that_goes_on_is_a_stream_and_lives_for_two_minutes(guest_goes_on: bool) -> None:
    bench = Bench()
    bench.inject(query(4))
    bench.replies(b"answer")
    bench.event(0, EPOLLIN)
    if guest_goes_on:
        bench.inject(query(4))
    else:
        bench.replies(b"more")
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


# Name servers


def test_answered_question_ends_soon() -> None:
    bench = Bench()
    bench.inject(query(4, dport=DNS))
    assert idle(bench, 29) == 1
    bench.replies(b"answer", port=DNS)
    bench.event(0, EPOLLIN)
    assert idle(bench, 1) == 0
    assert (bench.sockets.open_fds, bench.n_active) == (set(), 0)


def test_question_without_answer_has_its_time() -> None:
    bench = Bench()
    for _ in range(2):  # A and AAAA
        bench.inject(query(4, dport=DNS))
    bench.replies(b"answer", port=DNS)
    bench.event(0, EPOLLIN)
    assert idle(bench, 29) == 1
    bench.replies(b"answer", port=DNS)
    bench.event(0, EPOLLIN)
    assert idle(bench, 1) == 0


def test_resolver_that_keeps_its_port_keeps_its_flow() -> None:
    bench = Bench()
    for _ in range(100):
        bench.inject(query(4, dport=DNS))
        bench.replies(b"answer", b"answer", port=DNS)  # one too many does no harm
        bench.event(0, EPOLLIN)
        bench.now += SECOND // 2
        bench.turn()
    assert bench.counters()["flows_opened"] == 1
    assert idle(bench, 1) == 0


def test_client_of_a_name_server_in_the_guest_is_no_question_of_the_guest() -> None:
    bench = inbound_world()
    bench.policy.seen = InboundTarget(packed(REMOTE[4]), DNS, packed(GUEST[4]), DNS)
    bench.deliver(500, from_client(DNS))
    bench.listener_event(0)
    assert idle(bench, 29) == 1


@pytest.mark.slow
@pytest.mark.parametrize("answered", [True, False])
def test_five_thousand_questions_a_second_for_a_minute_exhaust_nothing(*, answered: bool) -> None:
    rate, step = 5000, 500
    bench = Bench(max_flows=65536)
    sender = socket_address(packed(REMOTE[4]), DNS)
    frames = [query(4, b"q", sport=sport, dport=DNS) for sport in range(1024, 61024)]  # each port in turn
    most = 0
    for at in range(0, 60 * rate, step):
        bench.gather(*(frames[number % len(frames)] for number in range(at, at + step)))
        found = []
        for fd, _, _, tag in operations(bench, "watch") if answered else ():
            assert isinstance(fd, int)
            assert isinstance(tag, int)
            bench.deliver(fd, (b"a", sender, b"", 0))
            found.append((tag, EPOLLIN))
        bench.tagged_events(found)
        most = max(most, bench.n_active)
        bench.now += step * SECOND // rate
        bench.turn()
        bench.sockets.log.clear()
        bench.sockets.inbox.clear()
        bench.policy.asked_outbound.clear()
    assert bench.drops() == {}
    assert bench.counters()["flows_opened"] == 60 * rate
    assert len(bench.take_sent()) == (60 * rate if answered else 0)
    # An answered one lives for a second more: a flow and a socket each. Others crowd each other out.
    assert most == (2 * rate if answered else 2 * bench.max_datagram)
    assert bench.counters()["flows_evicted"] == (0 if answered else 60 * rate - bench.max_datagram)
    assert len(bench.sockets.open_fds) <= bench.max_datagram


# Bounds


def test_flow_unused_for_longest_goes_first() -> None:
    bench = Bench(max_flows=16)  # four datagram flows
    for sport in (1, 2, 3, 4):
        bench.inject(query(4, sport=sport))
    bench.inject(query(4, sport=1))  # used again
    bench.inject(query(4, sport=5))
    bench.inject(query(4, sport=6))
    bench.sockets.log.clear()
    opened = bench.counters()["flows_opened"]
    for sport in (1, 4, 5, 6):
        bench.inject(query(4, sport=sport))
    assert bench.counters()["flows_opened"] == opened
    assert bench.counters()["flows_evicted"] == 2
    assert len(bench.sockets.open_fds) == 4
    assert bench.drops() == {}


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE])
def test_flow_gives_its_descriptor_up_when_they_run_out(error: int) -> None:
    bench = Bench()
    bench.inject(query(4, sport=1))
    bench.inject(query(4, sport=2))
    bench.script("open", -error)
    bench.inject(query(4, sport=3))
    assert len(bench.flows()) == len(bench.sockets.open_fds) == 2
    assert bench.drops() == {}
    bench.script("open", -error, -error, -error)
    bench.inject(query(4, sport=4))
    assert bench.drops() == {"drop_no_fd": 1}


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE])
def test_half_open_connection_gives_its_descriptor_up_when_no_datagram_flow_can(error: int) -> None:
    bench = Bench()
    for sport in (1, 2):
        bench.inject(tcp(GUEST[4], sport, REMOTE[4], 80))
    bench.script("open", -error)
    bench.inject(query(4, sport=3))
    assert [flow.kind == FLOW_UDP for flow in bench.flows()].count(True) == 1
    assert bench.drops() == {}
    assert bench.counters()["flows_evicted"] == 1
    # That of datagrams goes first; what it had is not always enough.
    bench.script("open", -error, -error)
    bench.inject(query(4, sport=4))
    assert bench.drops() == {}
    assert bench.counters()["flows_evicted"] == 3
    assert bench.counters()["flows_tcp"] == 0


def test_table_has_room_for_connections_whatever_datagrams_do() -> None:
    bench = Bench(max_flows=64)
    for sport in range(1, 200):
        bench.inject(query(4, sport=sport))
    assert bench.n_active <= 32


def establish(bench: Bench, family: int, sport: int) -> None:
    """Have the guest open a TCP connection that is answered."""
    bench.inject(tcp(GUEST[family], sport, REMOTE[family], 80))
    sent = bench.take_sent()[-1]
    header = 14 + (20 if family == 4 else 40)
    (seq,) = struct.unpack_from("!I", sent.frame, header + 4)
    for payload in (b"", b"used"):
        bench.inject(tcp(GUEST[family], sport, REMOTE[family], 80, flags=ACK, seq=1001, ack=seq + 1,
                         payload=payload))  # fmt: skip
    bench.turn()


@both_families
def test_half_open_connections_make_room_for_datagrams(family: int) -> None:
    bench = Bench(max_flows=4)
    for sport in range(1, 5):
        bench.inject(tcp(GUEST[family], sport, REMOTE[family], 80))
    assert bench.n_active == 4
    to(bench, REMOTE[family], sport=5353)
    bench.turn()
    assert bench.drops() == {}
    assert bench.counters()["flows_evicted"] == 2  # one for the flow, one for its socket
    assert bench.counters()["flows_udp"] == 1


@both_families
def test_socket_whose_last_flow_was_crowded_out_for_nothing_is_closed(family: int) -> None:
    # What answers a group gets a flow of its own; the one that asked makes room for it, but not at once.
    bench = Bench(max_flows=4)  # one datagram flow
    for sport in (1, 2):
        establish(bench, family, sport)
    to(bench, "224.0.0.251" if family == 4 else "ff02::fb", sport=5353)
    (flow,) = [flow for flow in bench.flows() if flow.kind == FLOW_UDP]
    assert bench.n_active == 4
    bench.deliver(flow.fd, (b"answer", socket_address(packed(REMOTE[family]), 5353), b"", 0))
    bench.keep_busy(flow.number)
    bench.event(flow.number, EPOLLIN)
    assert bench.drops() == {"drop_flows_full": 1}
    bench.turn()
    assert bench.n_active == 2
    assert flow.fd not in bench.sockets.open_fds
    to(bench, REMOTE[family], sport=5353)
    bench.turn()
    assert bench.n_active == 4
    assert bench.counters()["flows_udp"] == 1
