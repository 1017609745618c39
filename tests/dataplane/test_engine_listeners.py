"""Listeners of the engine: clients of the host on loopback, each test in a namespace of its own."""

import errno
import os
import resource
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from passt.facts.contracts import InboundTarget
from tests.dataplane.engine_bench import Bench
from tests.support.frames import ACK, RST, SYN, packed, tcp
from tests.support.isolated import in_own_namespace

if TYPE_CHECKING:
    from passt.facts.contracts import FlowWatcher, ListenerInfo

G4, R4 = "192.0.2.2", "198.51.100.7"
TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
IP_PKTINFO = 8


def open_listener(proto: int = TCP) -> tuple[int, int]:
    """Give a listening socket on loopback and its port; the engine will own it."""
    sock = socket.socket(type=socket.SOCK_STREAM if proto == TCP else socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    if proto == TCP:
        sock.listen()
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    return sock.getsockname()[1], sock.detach()


@in_own_namespace
def test_connection_of_a_host_client() -> None:
    bench = Bench()
    bench.policy.seen = InboundTarget(packed(R4), 7000, packed(G4), 80)
    port, fd = open_listener()
    bench.engine.add_listener(fd, TCP, "rule")
    with socket.create_connection(("127.0.0.1", port)) as client:
        bench.turn()
        (syn,) = bench.frames()
        assert syn[26:34] == packed(R4) + packed(G4)
        assert struct.unpack_from("!HH", syn, 34) == (7000, 80)
        assert syn[47] == SYN
        assert bench.policy.asked_inbound == [
            (TCP, "rule", packed("127.0.0.1"), client.getsockname()[1], packed("127.0.0.1"), port)
        ]
        (flow,) = bench.engine.flows()
        assert (flow.state, flow.inbound, flow.remote_port) == ("SYN_SENT", True, 7000)
        bench.engine.remove_listener(fd)
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(fd)
        assert len(list(bench.engine.flows())) == 1  # accepted is accepted
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        bench.give(tcp(G4, 80, R4, 7000, flags=RST | ACK, seq=0, ack=int.from_bytes(syn[38:42], "big") + 1))
        bench.turn()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    bench.end()


@in_own_namespace
def test_listener_is_left_alone_while_no_file_can_be_opened_at_all() -> None:
    # Not even the spare descriptor comes back: the client waits, and costs no time of the processor.
    bench = Bench()
    bench.policy.seen = InboundTarget(packed(R4), 7000, packed(G4), 80)
    port, fd = open_listener()
    bench.engine.add_listener(fd, TCP, "rule")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.create_connection(("127.0.0.1", port)):
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        bench.turn()
        drops = bench.engine.counters()["drop_no_fd"]
        for _ in range(5):
            bench.turn()
        assert bench.engine.counters()["drop_no_fd"] == drops == 1
        assert list(bench.engine.flows()) == []
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        bench.until(lambda: len(list(bench.engine.flows())) == 1)
    bench.end()


@in_own_namespace
def test_datagram_listener_that_cannot_be_looked_at_stays_the_callers() -> None:
    bench = Bench()
    _, fd = open_listener(UDP)
    before = sorted(os.listdir("/proc/self/fd"))
    real = socket.socket

    def refuse(**_: int) -> None:
        raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))

    vars(socket)["socket"] = refuse
    with pytest.raises(OSError, match="No buffer space"):
        bench.engine.add_listener(fd, UDP, "rule")
    vars(socket)["socket"] = real
    assert sorted(os.listdir("/proc/self/fd")) == before
    bench.engine.add_listener(fd, UDP, "rule")
    assert sorted(os.listdir("/proc/self/fd")) == before
    bench.end()


@in_own_namespace
def test_refused_host_client_sees_a_reset() -> None:
    bench = Bench()
    bench.policy.refuses = True
    port, fd = open_listener()
    bench.engine.add_listener(fd, TCP, "rule")
    with socket.create_connection(("127.0.0.1", port)) as client:
        bench.turn()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert bench.engine.counters()["drop_refused"] == 1
    bench.end()


@in_own_namespace
def test_flows_of_a_datagram_listener_end_with_it() -> None:
    bench = Bench()
    bench.policy.seen = InboundTarget(packed(R4), 7000, packed(G4), 53)
    port, fd = open_listener(UDP)
    other_port, other_fd = open_listener(UDP)
    bench.engine.add_listener(fd, UDP, "first")
    bench.engine.add_listener(other_fd, UDP, "second")
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.sendto(b"question", ("127.0.0.1", port))
        bench.turn()
        bench.policy.seen = bench.policy.seen._replace(source_port=7001)
        client.sendto(b"question", ("127.0.0.1", other_port))
        bench.turn()
        assert [flow.remote_port for flow in bench.engine.flows()] == [7000, 7001]
        assert [asked[1] for asked in bench.policy.asked_inbound] == ["first", "second"]
        bench.engine.remove_listener(fd)
        assert [flow.remote_port for flow in bench.engine.flows()] == [7001]
        # The place of the first is taken by a third, whose flows are its own.
        third_port, third_fd = open_listener(UDP)
        bench.engine.add_listener(third_fd, UDP, "third")
        bench.policy.seen = bench.policy.seen._replace(source_port=7002)
        client.sendto(b"question", ("127.0.0.1", third_port))
        bench.turn()
        assert bench.policy.asked_inbound[-1][1] == "third"
        assert sorted(flow.remote_port for flow in bench.engine.flows()) == [7001, 7002]
    bench.end()


@in_own_namespace
def test_listener_serves_another_rule_and_its_flows_stay() -> None:
    for proto, kind in ((TCP, socket.SOCK_STREAM), (UDP, socket.SOCK_DGRAM)):
        bench = Bench()
        bench.policy.seen = InboundTarget(packed(R4), 7000, packed(G4), 80)
        port, fd = open_listener(proto)
        bench.engine.add_listener(fd, proto, "old")
        with socket.socket(type=kind) as first, socket.socket(type=kind) as second:
            for client, rule in ((first, "old"), (second, "new")):
                bench.engine.change_rule(fd, rule)
                client.connect(("127.0.0.1", port))
                if kind == socket.SOCK_DGRAM:
                    client.send(b"question")
                bench.turn()
                bench.policy.seen = bench.policy.seen._replace(source_port=7001)
            assert [asked[1] for asked in bench.policy.asked_inbound] == ["old", "new"]
            assert sorted(flow.remote_port for flow in bench.engine.flows()) == [7000, 7001]
        bench.end()


def test_unknown_listener_cannot_be_removed_or_changed() -> None:
    bench = Bench()
    with pytest.raises(KeyError):
        bench.engine.remove_listener(99)
    with pytest.raises(KeyError):
        bench.engine.change_rule(99, "rule")
    bench.end()


def test_listener_that_is_no_socket_is_refused() -> None:
    bench = Bench()
    with Path(os.devnull).open("rb") as file:
        number = file.fileno()
        with pytest.raises(OSError, match="socket"):
            bench.engine.add_listener(number, TCP, "rule")
    with pytest.raises(KeyError):
        bench.engine.remove_listener(number)
    bench.end()


@in_own_namespace
def test_listeners_are_told_page_by_page() -> None:
    bench = Bench()
    assert bench.engine.listener_page() == ([], None)
    fds = []
    for i in range(7):
        _, fd = open_listener()
        bench.engine.add_listener(fd, TCP, i)
        fds.append(fd)
    bench.engine.remove_listener(fds[2])
    bench.engine.change_rule(fds[3], "other")
    seen: list[object] = []
    start: int | None = 0
    while start is not None:
        found, start = bench.engine.listener_page(start, 2)
        assert len(found) <= 2
        seen += [each.rule for each in found]
    assert seen == [0, 1, "other", 4, 5, 6] == [each.rule for each in bench.engine.listeners()]
    assert bench.engine.listener_page(99) == ([], None)


@in_own_namespace
def test_listeners_of_one_port_are_found_among_all_and_not_those_that_went() -> None:
    bench = Bench()
    assert bench.engine.listeners_at(TCP, 80) == []
    ports, fds = [], []
    for i in range(5):
        port, fd = open_listener()
        bench.engine.add_listener(fd, TCP, i)
        ports.append(port)
        fds.append(fd)
    for family in (socket.AF_INET, socket.AF_INET6):      # the same port again
        again = socket.socket(family, socket.SOCK_DGRAM)
        again.bind(("127.0.0.2" if family == socket.AF_INET else "::1", ports[3]))
        again.setblocking(False)
        bench.engine.add_listener(again.detach(), UDP, f"udp{family}")
    assert [each.rule for each in bench.engine.listeners_at(TCP, ports[3])] == [3]
    udp = bench.engine.listeners_at(UDP, ports[3])
    assert [(each.rule, each.proto, each.port, each.namespace) for each in udp] == [
        (f"udp{socket.AF_INET}", UDP, ports[3], False), (f"udp{socket.AF_INET6}", UDP, ports[3], False)]
    bench.engine.remove_listener(fds[3])
    assert bench.engine.listeners_at(TCP, ports[3]) == []
    assert bench.engine.listeners_at(UDP, ports[3]) == udp
    _, fd = open_listener()
    bench.engine.add_listener(fd, TCP, "in its place")
    assert bench.engine.listeners_at(TCP, ports[3]) == []
    assert bench.engine.listeners_at(TCP, 0) == bench.engine.listeners_at(TCP, 1 << 20) == []
    bench.end()


@in_own_namespace
def test_of_many_ports_some_are_told_and_the_rest_is_counted() -> None:
    """As of flows: who listens to events is told no more than some 2,000 a second."""
    bench = Bench()
    told: list[int] = []

    class Watcher:
        def on_port_opened(self, listener: "ListenerInfo") -> None:
            told.append(listener.port)

        on_port_closed = on_port_opened

    bench.engine.set_watcher(cast("FlowWatcher", Watcher()))
    for i in range(400):
        _, fd = open_listener()
        bench.engine.add_listener(fd, TCP, i)
        bench.engine.remove_listener(fd)
    assert 0 < len(told) <= 100          # in one turn, in which traffic waits
    assert len(told) + bench.engine.n_untold() == 800
    bench.end()
