"""UDP translation over real sockets: golden frames both ways."""

import socket
import struct
import subprocess

import pytest

from passt.facts.contracts import InboundTarget, Target
from tests.dataplane.udp.bench import (
    AF,
    GSO_UDP_L4,
    GUEST,
    LOOPBACK,
    REMOTE,
    SOL_UDP,
    UDP_SEGMENT,
    Bench,
    answer,
    both_families,
    listener_socket,
    query,
    server,
)
from tests.support.frames import packed, udp, unnumbered
from tests.support.isolated import in_own_namespace


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
def test_unreachable_port_does_no_harm_to_what_follows(family: int) -> None:
    bench = Bench(scripted=False)
    with server(family) as remote:
        port = remote.getsockname()[1]
    bench.policy.target = Target(packed(LOOPBACK[family]), port)
    bench.inject(query(family))
    bench.inject(query(family))
    bench.dispatch()
    assert len(bench.frames()) == bench.counters()["icmp_errors_to_guest"] == 2
    assert bench.drops() == {}
    with socket.socket(AF[family], socket.SOCK_DGRAM) as late:
        late.bind((LOOPBACK[family], port))
        late.settimeout(60)
        bench.inject(query(family, b"now"))
        assert late.recv(100) == b"now"


@both_families
@in_own_namespace
def test_batch_of_the_guest_arrives_whole(family: int) -> None:
    bench = Bench(scripted=False)
    with server(family) as remote, server(family) as other:
        bench.policy.target = Target(packed(LOOPBACK[family]), remote.getsockname()[1])
        sizes = (100, 100, 40, 1400, 1400, 0, 0, 9000, 9000, 8999)
        parts = [bytes([n + 1]) * size for n, size in enumerate(sizes)]
        bench.gather(*[query(family, part) for part in parts])
        assert [remote.recv(70000) for _ in parts] == parts
        bench.policy.target = Target(packed(LOOPBACK[family]), other.getsockname()[1])
        bench.inject(query(family, b"to another", dport=8))
        data, sender = other.recvfrom(100)
        assert (data, sender[:2]) == (b"to another", (LOOPBACK[family], 1000))  # the same port
    assert bench.drops() == {}


@both_families
@in_own_namespace
def test_route_with_a_small_mtu_gets_what_it_cannot_cut(family: int) -> None:
    subprocess.run(["ip", "link", "set", "lo", "mtu", "1500"], check=True)
    bench = Bench(scripted=False)
    with server(family) as remote:
        bench.policy.target = Target(packed(LOOPBACK[family]), remote.getsockname()[1])
        parts = [bytes([n]) * 3000 for n in range(5)]
        for _ in range(2):
            bench.gather(*[query(family, part) for part in parts])
            assert [remote.recv(70000) for _ in parts] == parts
        bench.inject(query(family, b"".join(parts)), gso_type=GSO_UDP_L4, gso_size=3000)
        assert [remote.recv(70000) for _ in parts] == parts
    assert bench.drops() == {}


@both_families
@in_own_namespace
def test_what_a_remote_sends_joined_comes_whole(family: int) -> None:
    for features in (0, 1 | 8 | 16):
        bench = Bench(scripted=False, features=features)
        with server(family) as remote:
            bench.policy.target = Target(packed(LOOPBACK[family]), remote.getsockname()[1])
            bench.inject(query(family))
            peer = remote.recvfrom(100)[1]
            payload = bytes(range(250))
            segment = (SOL_UDP, UDP_SEGMENT, struct.pack("H", 100))
            remote.sendmsg([payload], [segment], 0, peer)
            remote.sendto(b"and one more", peer)
            assert bench.dispatch() == 1
            sent = bench.take_sent()
        if features:
            assert [one.gso_size for one in sent] == [100, 0]
            assert sent[0].frame.endswith(payload)
        else:
            parts = (payload[:100], payload[100:200], payload[200:], b"and one more")
            assert [unnumbered(one.frame) for one in sent] == [answer(family, part) for part in parts]
        assert bench.drops() == {}
        bench.end_all()


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
