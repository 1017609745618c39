"""What is known of a flow: counted, told to a watcher, closed by its name; the engine with real sockets."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from passt.facts.contracts import ListenerInfo, Target
from tests.dataplane.engine_bench import Bench
from tests.support.frames import SYN, packed, tcp, udp

if TYPE_CHECKING:
    from collections.abc import Iterator

    from passt.facts.contracts import FlowDetail

G4, R4 = "192.0.2.2", "198.51.100.7"
PORT = 40000


class Watcher:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.opened: list[FlowDetail] = []
        self.ended: list[tuple[FlowDetail, str]] = []
        self.refused: list[tuple[int, bytes, int, bytes, int, bool]] = []
        self.ports: list[tuple[str, ListenerInfo]] = []

    def on_flow_opened(self, flow: FlowDetail) -> None:
        self.opened.append(flow)

    def on_flow_ended(self, flow: FlowDetail, why: str) -> None:
        self.ended.append((flow, why))

    def on_flow_refused(
        self, proto: int, source: bytes, source_port: int, destination: bytes, destination_port: int,
        inbound: bool,
    ) -> None:  # fmt: skip
        self.refused.append((proto, source, source_port, destination, destination_port, inbound))

    def on_port_opened(self, listener: ListenerInfo) -> None:
        self.ports.append(("opened", listener))

    def on_port_closed(self, listener: ListenerInfo) -> None:
        self.ports.append(("closed", listener))


@pytest.fixture
def remote() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", 0))
        yield made


@pytest.fixture
def bench(remote: socket.socket) -> Iterator[Bench]:
    made = Bench()
    made.policy.target = Target(packed("127.0.0.1"), remote.getsockname()[1])
    yield made
    made.end()


def send(bench: Bench, *sizes: int, port: int = PORT) -> None:
    """Have the guest send datagrams of these sizes, and wait until they are through."""
    before = bench.engine.counters()["frames_from_guest"]
    bench.give(*[udp(G4, port, R4, 53, bytes(size)) for size in sizes])
    bench.until(lambda: bench.engine.counters()["frames_from_guest"] == before + len(sizes))


def only(bench: Bench) -> FlowDetail:
    [flow], following = bench.engine.detail_page()
    assert following is None
    return flow


def test_datagrams_are_counted_both_ways(bench: Bench, remote: socket.socket) -> None:
    send(bench, 100, 50, 0)
    flow = only(bench)
    assert (flow.bytes_to_host, flow.packets_to_host) == (150, 3)
    assert (flow.bytes_to_guest, flow.packets_to_guest) == (0, 0)
    _, back = remote.recvfrom(1000)
    before = bench.engine.counters()["frames_to_guest"]
    remote.sendto(bytes(70), back)
    bench.until(lambda: bench.engine.counters()["frames_to_guest"] == before + 1)
    flow = only(bench)
    assert (flow.bytes_to_guest, flow.packets_to_guest) == (70, 1)


def test_ends_are_told_as_the_guest_and_as_the_host_see_them(bench: Bench, remote: socket.socket) -> None:
    send(bench, 1)
    flow = only(bench)
    _, sender = remote.recvfrom(100)
    assert (flow.guest_address, flow.guest_port) == (packed(G4), PORT)
    assert (flow.remote_address, flow.remote_port) == (packed(R4), 53)
    assert (flow.peer_address, flow.peer_port) == (packed("127.0.0.1"), remote.getsockname()[1])
    assert flow.local_port == sender[1]
    assert (flow.proto, flow.state, flow.bypassed, flow.inbound) == (17, "ACTIVE", False, False)
    assert flow.idle_ns is not None
    assert 0 <= flow.idle_ns <= flow.age_ns
    assert flow.rtt_host_us is None


def test_connection_that_begins_was_used_when_it_began(bench: Bench) -> None:
    """The kernel tells the time since the host's own start of a socket that has had no data."""
    watcher = Watcher()
    bench.engine.set_watcher(watcher)
    with socket.create_server(("127.0.0.1", 0)) as server:
        bench.policy.target = Target(packed("127.0.0.1"), server.getsockname()[1])
        bench.give(tcp(G4, PORT, R4, 80, flags=SYN))
        bench.until(lambda: bool(watcher.opened))
    flow = watcher.opened[0]
    assert (flow.proto, flow.state) == (6, "CONNECTING")
    assert flow.idle_ns is not None
    assert flow.idle_ns <= flow.age_ns


def test_watcher_is_told_and_nobody_after_it_is_gone(bench: Bench) -> None:
    watcher = Watcher()
    send(bench, 1, port=PORT - 1)
    bench.engine.set_watcher(watcher)
    send(bench, 10)
    assert [flow.guest_port for flow in watcher.opened] == [PORT]
    flow = watcher.opened[0]
    assert bench.engine.close_flow(flow.number, flow.generation)
    [(ended, why)] = watcher.ended
    assert (ended.number, ended.bytes_to_host, why) == (flow.number, 10, "asked")
    bench.policy.refuses = True
    send(bench, 1, port=PORT + 1)
    assert watcher.refused == [(17, packed(G4), PORT + 1, packed(R4), 53, False)]
    bench.engine.set_watcher(None)
    bench.policy.refuses = False
    send(bench, 1, port=PORT + 2)
    assert len(watcher.opened) == 1
    assert bench.engine.n_untold() == 0


def test_watcher_is_told_of_ports(bench: Bench) -> None:
    watcher = Watcher()
    bench.engine.set_watcher(watcher)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port, fd = sock.getsockname()[1], os.dup(sock.fileno())
    rule = object()
    bench.engine.add_listener(fd, socket.IPPROTO_UDP, rule)
    info = ListenerInfo(17, port, rule, namespace=False)
    assert bench.engine.listeners() == [info]
    bench.engine.remove_listener(fd)
    assert watcher.ports == [("opened", info), ("closed", info)]
    assert bench.engine.listeners() == []


def test_only_the_flow_that_is_meant_is_closed(bench: Bench) -> None:
    send(bench, 1)
    flow = only(bench)
    engine = bench.engine
    assert not engine.close_flow(flow.number, flow.generation + 1)
    assert not engine.close_flow(flow.number + 1000, 0)
    # The record of the socket, which is no flow.
    assert not engine.close_flow(1 - flow.number, 0)
    assert only(bench).number == flow.number
    assert engine.close_flow(flow.number, flow.generation)
    assert engine.detail_page() == ([], None)
    assert not engine.close_flow(flow.number, flow.generation)
    assert engine.counters()["flows_udp"] == 0


def test_usage_tells_what_there_is(bench: Bench) -> None:
    send(bench, 1)
    usage = bench.engine.usage()
    assert usage["datagram_flows"][0] == usage["datagram_sockets"][0] == 1
    assert all(now <= most for now, most in usage.values())


def test_a_reader_may_wait_for_room_alone(bench: Bench) -> None:
    one, other = socket.socketpair()
    calls: list[int] = []

    def note() -> None:
        calls.append(1)
        bench.engine.remove_reader(one.fileno())

    with one, other:
        other.send(b"x")
        bench.engine.add_reader(one.fileno(), note, False, True)
        bench.until(lambda: bool(calls))
        calls.clear()
        bench.engine.add_reader(one.fileno(), note, False, False)
        send(bench, 1)
        assert not calls
        bench.engine.add_reader(one.fileno(), note, True, False)
        bench.until(lambda: bool(calls))
