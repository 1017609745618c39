"""UDP flows that bypass the link: real sockets in two namespaces, the engine between them."""

import errno
import os
import socket

import pytest

from passt.facts.contracts import Target
from tests.dataplane.bypass.bench import UDP, SpliceBench
from tests.support.frames import packed
from tests.support.isolated import in_own_namespace

WAYS = pytest.mark.parametrize(
    ("address", "inward"), [("127.0.0.1", True), ("::1", True), ("127.0.0.1", False), ("::1", False)]
)
UDP_SEGMENT = 103


def client_of(bench: SpliceBench, port: int, address: str, *, inward: bool) -> socket.socket:
    client = bench.open(UDP, address, inside=not inward)
    client.settimeout(60)
    client.connect((address, port))
    return client


@WAYS
@in_own_namespace
def test_datagrams_go_both_ways(address: str, inward: bool) -> None:
    bench = SpliceBench()
    server = bench.server(UDP, address, inside=inward)
    client = client_of(bench, bench.forward(UDP, server, inward=inward), address, inward=inward)
    for size in (0, 1, 1400, 0, 65000):
        data = os.urandom(size)
        client.send(data)
        bench.turns()
        found, peer = server.recvfrom(70000)
        assert found == data
        # The client's port is kept, as it is free on the other side.
        assert peer[:2] == client.getsockname()[:2]
        server.sendto(data[::-1], peer)
        bench.turns()
        assert client.recv(70000) == data[::-1]
    (flow,) = bench.engine.flows()
    assert (flow.proto, flow.state, flow.inbound) == (UDP, "SPLICED", inward)
    counters = bench.engine.counters()
    assert (counters["splice_datagrams_to_guest"], counters["splice_datagrams_to_host"]) == (5, 5)
    assert counters["flows_splice_udp"] == counters["flows_udp"] + 1 == 1
    bench.end()


@WAYS
@in_own_namespace
def test_many_datagrams_keep_their_order(address: str, inward: bool) -> None:
    bench = SpliceBench()
    server = bench.server(UDP, address, inside=inward)
    port = bench.forward(UDP, server, inward=inward)
    clients = [client_of(bench, port, address, inward=inward) for _ in range(3)]
    for number in range(50):
        for client in clients:
            client.send(b"%d" % number)
    bench.turns(8)
    by_peer: dict[object, list[int]] = {}
    for _ in range(150):
        data, peer = server.recvfrom(100)
        by_peer.setdefault(peer[1], []).append(int(data))
        server.sendto(data, peer)
    assert list(by_peer.values()) == [list(range(50))] * 3
    bench.turns(8)
    for client in clients:
        assert [int(client.recv(100)) for _ in range(50)] == list(range(50))
    assert len(list(bench.engine.flows())) == 3
    bench.end()


@in_own_namespace
def test_datagrams_that_the_sender_joined_arrive_apart() -> None:
    bench = SpliceBench()
    for inward in (True, False):
        server = bench.server(UDP, "127.0.0.1", inside=inward)
        port = bench.forward(UDP, server, inward=inward)
        client = client_of(bench, port, "127.0.0.1", inward=inward)
        client.setsockopt(UDP, UDP_SEGMENT, 1000)
        client.send(bytes(3500))
        bench.turns()
        assert [len(server.recv(70000)) for _ in range(4)] == [1000, 1000, 1000, 500]
    bench.end()


@in_own_namespace
def test_answers_come_from_the_address_that_was_asked() -> None:
    bench = SpliceBench()
    server = bench.server(UDP, "127.0.0.1", inside=True)
    port = bench.forward(UDP, server, inward=True)
    client = bench.open(UDP, "127.0.0.1", inside=False)
    client.settimeout(60)
    for address in ("127.0.0.1", "127.0.0.5", "127.9.9.9"):
        client.sendto(b"question", (address, port))
        bench.turns()
        data, peer = server.recvfrom(100)
        server.sendto(data, peer)
        bench.turns()
        assert client.recvfrom(100) == (b"question", (address, port))
    assert len(list(bench.engine.flows())) == 3
    bench.end()


@in_own_namespace
def test_port_that_is_taken_is_exchanged() -> None:
    bench = SpliceBench()
    server = bench.server(UDP, "127.0.0.1", inside=True)
    client = client_of(bench, bench.forward(UDP, server, inward=True), "127.0.0.1", inward=True)
    client.send(b"")
    port = client.getsockname()[1]
    with bench.open(UDP, "0.0.0.0", inside=True) as holder:
        holder.bind(("0.0.0.0", port))
        bench.turns()
        _, peer = server.recvfrom(100)
        assert peer[1] != port
        server.sendto(b"answer", peer)
        bench.turns()
        assert client.recv(100) == b"answer"
    bench.end()


@WAYS
@in_own_namespace
def test_closed_port_does_not_end_the_flow(address: str, inward: bool) -> None:
    bench = SpliceBench()
    with bench.server(UDP, address, inside=inward) as server:
        place = server.getsockname()
        port = bench.forward(UDP, server, inward=inward)
    client = client_of(bench, port, address, inward=inward)
    for _ in range(3):
        client.send(b"nobody there")
        bench.turns()
    assert bench.engine.counters()["drop_socket"] > 0
    with bench.open(UDP, address, inside=inward) as server:
        server.bind(place)
        server.settimeout(60)
        client.send(b"now")
        bench.turns()
        assert server.recv(100) == b"now"
    assert len(list(bench.engine.flows())) == 1
    bench.end()


@in_own_namespace
def test_refused_and_unreachable_datagrams_are_counted() -> None:
    bench = SpliceBench()
    port = bench.forward_to(UDP, Target(packed("192.0.2.1"), 9), inward=True)  # no route in there
    client = client_of(bench, port, "127.0.0.1", inward=True)
    client.send(b"one")
    bench.turns()
    counters = bench.engine.counters()
    assert (counters["splice_connect_failures"], counters["drop_socket"]) == (1, 1)
    bench.policy.refuses = True
    client.send(b"two")
    bench.turns()
    assert bench.engine.counters()["drop_refused"] == 1
    assert list(bench.engine.flows()) == []
    bench.end()


@in_own_namespace
def test_flows_end_with_their_listener() -> None:
    bench = SpliceBench()
    server = bench.server(UDP, "127.0.0.1", inside=False)
    bench.policy.on_host = Target(packed("127.0.0.1"), server.getsockname()[1])
    (fd,) = bench.inside.open_listener(UDP, 0, ip4=True, ip6=True)
    with socket.socket(fileno=os.dup(fd)) as view:
        port = view.getsockname()[1]
    bench.engine.add_listener(fd, UDP, "rule", namespace=True)
    client = client_of(bench, port, "127.0.0.1", inward=False)
    client.send(b"question")
    bench.turns()
    assert len(list(bench.engine.flows())) == 1
    bench.engine.remove_listener(fd)
    assert list(bench.engine.flows()) == []
    assert bench.engine.counters()["flows_splice_udp"] == 0
    client.send(b"question")
    with pytest.raises(ConnectionRefusedError) as caught:
        client.recv(1)
    assert caught.value.errno == errno.ECONNREFUSED
    bench.end()


@in_own_namespace
def test_flows_unused_for_longest_make_room() -> None:
    bench = SpliceBench()  # 32 flows, some of them for datagrams
    server = bench.server(UDP, "127.0.0.1", inside=True)
    port = bench.forward(UDP, server, inward=True)
    clients = [client_of(bench, port, "127.0.0.1", inward=True) for _ in range(40)]
    for client in clients:
        client.send(b"question")
        bench.turns(2)
        assert server.recv(100) == b"question"
    counters = bench.engine.counters()
    assert counters["flows_splice_udp"] + counters["flows_evicted"] == 40
    assert counters["flows_splice_udp"] == len(list(bench.engine.flows()))
    bench.end()
