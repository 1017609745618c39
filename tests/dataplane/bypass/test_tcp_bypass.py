"""TCP connections that bypass the link: real sockets in two namespaces, the engine between them."""

import os
import resource
import socket
import struct
import time
from collections.abc import Callable

import pytest

from passt.facts.contracts import Target
from tests.dataplane.bypass.bench import TCP, UDP, SpliceBench
from tests.support.frames import packed, udp
from tests.support.isolated import in_own_namespace

WAYS = pytest.mark.parametrize(
    ("address", "inward"), [("127.0.0.1", True), ("::1", True), ("127.0.0.1", False), ("::1", False)]
)
# Below, at and beyond what is copied, and beyond what sockets and pipes hold.
SIZES = (1, 16383, 16384, 16385, 100_000, 20_000_000)
RESET = struct.pack("ii", 1, 0)


def send_all(bench: SpliceBench, source: socket.socket, target: socket.socket, data: bytes) -> bytes:
    """Send *data* and receive as much, neither of which alone would come to an end."""
    received = bytearray()
    left = memoryview(data)
    source.setblocking(False)
    target.setblocking(False)
    deadline = time.monotonic() + 20
    while len(received) < len(data):
        assert time.monotonic() < deadline
        try:
            left = left[source.send(left) :] if left else left
        except BlockingIOError:
            pass
        bench.turn()
        try:
            received += target.recv(1 << 20)
        except BlockingIOError:
            continue
    source.settimeout(5)
    target.settimeout(5)
    return bytes(received)


@WAYS
@in_own_namespace
def test_bytes_go_both_ways(address: str, inward: bool) -> None:
    bench = SpliceBench()
    client, server = bench.pair(address, inward=inward)
    (flow,) = bench.engine.flows()
    assert (flow.proto, flow.state, flow.inbound) == (TCP, "SPLICED", inward)
    host, guest = (client, server) if inward else (server, client)
    assert flow.guest_port == guest.getsockname()[1]
    assert flow.host_port == host.getsockname()[1]
    for size in SIZES:
        data = os.urandom(size)
        assert send_all(bench, client, server, data) == data
        assert send_all(bench, server, client, data) == data
    counters = bench.engine.counters()
    total = sum(SIZES)
    assert (counters["splice_bytes_to_guest"], counters["splice_bytes_to_host"]) == (total, total)
    assert counters["flows_splice_tcp"] == 1
    # Nothing is on its way: the connection holds nothing, and the pipes that were used are few.
    assert counters["pipes_open"] == bench.n_pipes() <= 16
    client.close()
    server.close()
    bench.turns()
    assert list(bench.engine.flows()) == []
    assert bench.engine.counters()["flows_splice_tcp"] == 0
    bench.end()


@WAYS
@in_own_namespace
def test_either_half_may_be_closed_first(address: str, inward: bool) -> None:
    bench = SpliceBench()
    for client_first in (True, False):
        client, server = bench.pair(address, inward=inward)
        first, last = (client, server) if client_first else (server, client)
        first.sendall(b"all of it")
        first.shutdown(socket.SHUT_WR)
        assert bench.receive(last, 100) == b"all of it"
        last.sendall(b"answer")
        assert bench.receive(first, 6) == b"answer"
        last.close()
        assert bench.receive(first, 1) == b""
        bench.turns()
        assert list(bench.engine.flows()) == []
        first.close()
    bench.end()


@WAYS
@in_own_namespace
def test_reset_is_passed_on_after_the_data(address: str, inward: bool) -> None:
    bench = SpliceBench()
    for from_client in (True, False):
        client, server = bench.pair(address, inward=inward)
        first, last = (client, server) if from_client else (server, client)
        last.sendall(b"unread")
        first.sendall(b"said last")
        first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        first.close()
        bench.turns()
        assert last.recv(100) == b"said last"
        with pytest.raises(ConnectionResetError):
            last.recv(1)
        assert list(bench.engine.flows()) == []
        last.close()
    assert bench.engine.counters()["flows_splice_tcp"] == 0
    bench.end()


@WAYS
@in_own_namespace
def test_refused_connection_resets_the_client(address: str, inward: bool) -> None:
    bench = SpliceBench()
    with bench.server(TCP, address, inside=inward) as server:
        target = Target(packed(address), server.getsockname()[1])
    port = bench.forward_to(TCP, target, inward=inward)
    with bench.connect(port, address, inward=inward) as client:
        bench.turns()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert bench.engine.counters()["splice_connect_failures"] == 1
    assert list(bench.engine.flows()) == []
    bench.end()


@in_own_namespace
def test_unreachable_target_resets_the_client() -> None:
    bench = SpliceBench()
    port = bench.forward_to(TCP, Target(packed("192.0.2.1"), 9), inward=True)  # no route in there
    with bench.connect(port, "127.0.0.1", inward=True) as client:
        bench.turns()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert bench.engine.counters()["splice_connect_failures"] == 1
    bench.end()


@in_own_namespace
def test_flow_that_the_policy_refuses_is_reset() -> None:
    bench = SpliceBench()
    bench.policy.refuses = True
    for inward in (True, False):
        port = bench.forward_to(TCP, Target(packed("127.0.0.1"), 9), inward=inward)
        with bench.connect(port, "127.0.0.1", inward=inward) as client:
            bench.turns()
            with pytest.raises(ConnectionResetError):
                client.recv(1)
    assert bench.engine.counters()["drop_refused"] == 2
    (inward_question,) = bench.policy.asked_inbound
    (outward_question,) = bench.policy.asked_namespace
    assert inward_question[2] == outward_question[2] == packed("127.0.0.1")
    bench.end()


@in_own_namespace
def test_source_is_as_the_policy_says() -> None:
    bench = SpliceBench()
    with bench.server(TCP, "127.0.0.1", inside=False) as server:
        target = Target(packed("127.0.0.1"), server.getsockname()[1], source=packed("127.0.0.7"))
        port = bench.forward_to(TCP, target, inward=False)
        with bench.connect(port, "127.0.0.1", inward=False):
            bench.turns()
            accepted, peer = server.accept()
            accepted.close()
            assert peer[0] == "127.0.0.7"
    target = target._replace(source=packed("192.0.2.77"))  # nobody's
    port = bench.forward_to(TCP, target, inward=False)
    with bench.connect(port, "127.0.0.1", inward=False) as client:
        bench.turns()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert bench.engine.counters()["drop_socket"] == 1
    bench.end()


@WAYS
@in_own_namespace
def test_slow_reader_holds_the_sender_up(address: str, inward: bool) -> None:
    bench = SpliceBench()
    client, server = bench.pair(address, inward=inward)
    client.setblocking(False)
    sent = 0
    data = os.urandom(64 << 20)
    stalled = 0
    while stalled < 5:
        try:
            sent += client.send(data[sent : sent + (1 << 16)])
            stalled = 0
        except BlockingIOError:
            stalled += 1
            bench.turns()
    # Everything is full, the loop sleeps, and one pipe is in use.
    wakeups = bench.engine.counters()["wakeups"]
    bench.engine.call_later(0.2, bench.engine.stop)
    bench.engine.run()
    assert bench.engine.counters()["wakeups"] - wakeups < 100  # spinning would be some ten thousand
    assert 1 <= bench.n_pipes() <= 16
    assert bench.receive(server, sent) == data[:sent]
    client.settimeout(5)
    client.sendall(b"and on")
    assert bench.receive(server, 6) == b"and on"
    bench.end()


@in_own_namespace
def test_hung_up_peer_does_not_keep_the_loop_awake() -> None:
    bench = SpliceBench()
    client, server = bench.pair("127.0.0.1", inward=True)
    client.shutdown(socket.SHUT_WR)
    assert bench.receive(server, 1) == b""
    wakeups = bench.engine.counters()["wakeups"]
    bench.engine.call_later(0.2, bench.engine.stop)
    bench.engine.run()
    assert bench.engine.counters()["wakeups"] - wakeups < 100  # spinning would be some ten thousand
    assert len(list(bench.engine.flows())) == 1
    server.sendall(b"late answer")
    assert bench.receive(client, 11) == b"late answer"
    bench.end()


@in_own_namespace
def test_idle_connections_hold_no_pipe() -> None:
    bench = SpliceBench()
    pairs = []
    for _ in range(20):
        client, server = bench.pair("127.0.0.1", inward=True)
        client.sendall(b"question")
        assert bench.receive(server, 8) == b"question"
        server.sendall(b"answer")
        assert bench.receive(client, 6) == b"answer"
        pairs.append((client, server))
    assert len(list(bench.engine.flows())) == 20
    assert bench.n_pipes() == 0
    bench.end()


@in_own_namespace
def test_full_table_resets_the_client() -> None:
    bench = SpliceBench()  # 32 flows
    pairs = [bench.pair("127.0.0.1", inward=True) for _ in range(32)]
    with bench.server(TCP, "127.0.0.1", inside=True) as server:
        port = bench.forward(TCP, server, inward=True)
        with bench.connect(port, "127.0.0.1", inward=True) as client:
            bench.turns()
            with pytest.raises(ConnectionResetError):
                client.recv(1)
    assert bench.engine.counters()["drop_flows_full"] == 1
    pairs[0][0].close()
    pairs[0][1].close()
    bench.turns()
    bench.pair("127.0.0.1", inward=True)
    bench.end()


def at_descriptor_limit(n_free: int, step: Callable[[], None]) -> None:
    """Do *step* with *n_free* descriptors left, then give them back."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    holes = []
    while (number := os.dup(0)) < highest:
        holes.append(number)
    os.close(number)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number + n_free, hard))
    try:
        step()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in holes:
            os.close(number)


@in_own_namespace
def test_bulk_is_copied_when_no_pipe_can_be_had() -> None:
    bench = SpliceBench()
    client, server = bench.pair("127.0.0.1", inward=True)
    data = os.urandom(3_000_000)

    def transfer() -> None:
        assert send_all(bench, client, server, data) == data

    at_descriptor_limit(0, transfer)
    assert bench.n_pipes() == 0
    assert bench.engine.counters()["splice_copies"] > 0
    assert send_all(bench, client, server, data) == data
    assert bench.n_pipes() > 0
    bench.end()


@in_own_namespace
def test_out_of_descriptors_outward_is_a_counted_reset() -> None:
    bench = SpliceBench()
    with bench.server(TCP, "127.0.0.1", inside=False) as server:
        port = bench.forward(TCP, server, inward=False)
        client = bench.connect(port, "127.0.0.1", inward=False)
        at_descriptor_limit(1, lambda: bench.turns(8))  # for what is accepted, but not for its other half
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert bench.engine.counters()["drop_no_fd"] >= 1
    assert list(bench.engine.flows()) == []
    bench.end()


def hanging(bench: SpliceBench, hogs: list[socket.socket]) -> tuple[socket.socket, socket.socket]:
    """Make a client whose connection hangs: its service, returned too, accepts no more. Fills *hogs*."""
    service = bench.open(TCP, "127.0.0.1", inside=False)
    service.bind(("127.0.0.1", 0))
    service.listen(0)
    client = bench.connect(bench.forward(TCP, service, inward=False), "127.0.0.1", inward=False)
    hog = bench.open(TCP, "127.0.0.1", inside=False)
    hog.connect(service.getsockname())
    hogs.append(hog)
    bench.turns(8)
    (flow,) = bench.engine.flows()
    assert flow.state == "CONNECTING"
    return client, service


@in_own_namespace
def test_connection_that_is_being_opened_makes_room_in_a_full_table() -> None:
    bench = SpliceBench()  # 32 flows
    hogs: list[socket.socket] = []
    client, _service = hanging(bench, hogs)
    pairs = [bench.pair("127.0.0.1", inward=False) for _ in range(31)]
    pairs.append(bench.pair("127.0.0.1", inward=True))
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert {flow.state for flow in bench.engine.flows()} == {"SPLICED"}
    assert bench.engine.counters()["flows_evicted"] == 1
    with bench.server(TCP, "127.0.0.1", inside=True) as server:
        port = bench.forward(TCP, server, inward=True)
        with bench.connect(port, "127.0.0.1", inward=True) as late:
            bench.turns()
            with pytest.raises(ConnectionResetError):
                late.recv(1)
    pairs[0][0].sendall(b"unharmed")
    assert bench.receive(pairs[0][1], 8) == b"unharmed"
    bench.end()


@pytest.mark.parametrize("proto", [TCP, UDP])
@in_own_namespace
def test_connection_that_is_being_opened_gives_its_descriptors_up(proto: int) -> None:
    bench = SpliceBench()
    hogs: list[socket.socket] = []
    hung, _service = hanging(bench, hogs)
    with bench.server(proto, "127.0.0.1", inside=False) as server:
        client = bench.open(proto, "127.0.0.1", inside=True)
        client.connect(("127.0.0.1", bench.forward(proto, server, inward=False)))
        client.send(b"through")
        at_descriptor_limit(0, lambda: bench.turns(8))
        accepted = server.accept()[0] if proto == TCP else server
        assert accepted.recv(100) == b"through"
    with pytest.raises(ConnectionResetError):
        hung.recv(1)
    assert bench.engine.counters()["flows_evicted"] == 1
    assert bench.engine.counters()["drop_no_fd"] == 0
    bench.end()


@in_own_namespace
def test_reserve_is_used_up_and_filled_again() -> None:
    bench = SpliceBench()
    with bench.server(TCP, "127.0.0.1", inside=True) as server:
        port = bench.forward(TCP, server, inward=True)
        for _ in range(200):
            client = bench.connect(port, "127.0.0.1", inward=True)
            bench.turns(2)
            accepted, _ = server.accept()
            accepted.close()
            client.close()
            bench.turns(2)
    assert list(bench.engine.flows()) == []
    bench.end()


@in_own_namespace
def test_connections_outlive_their_listener() -> None:
    bench = SpliceBench()
    with bench.server(TCP, "127.0.0.1", inside=False) as server:
        target = Target(packed("127.0.0.1"), server.getsockname()[1])
        bench.policy.on_host = target
        (fd,) = bench.inside.open_listener(TCP, 0, ip4=True, ip6=True)
        with socket.socket(fileno=os.dup(fd)) as view:
            port = view.getsockname()[1]
        bench.engine.add_listener(fd, TCP, "rule", namespace=True)
        client = bench.connect(port, "127.0.0.1", inward=False)
        bench.turns()
        accepted, _ = server.accept()
    bench.engine.remove_listener(fd)
    client.sendall(b"still there")
    assert bench.receive(accepted, 11) == b"still there"
    bench.end()


@in_own_namespace
def test_close_resets_connections_and_closes_all() -> None:
    before = len(os.listdir("/proc/self/fd"))
    bench = SpliceBench()
    client, server = bench.pair("127.0.0.1", inward=True)
    send_all(bench, client, server, bytes(1_000_000))
    bench.end()
    for sock in (client, server):
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
        sock.close()
    del bench
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def connect_once(bench: SpliceBench, server: socket.socket, address: str, port: int, *, inward: bool) -> None:
    """Make one connection through the engine and end it."""
    client = bench.connect(port, address, inward=inward)
    client.sendall(b"?")
    bench.turns()
    accepted, _ = server.accept()
    assert accepted.recv(10) == b"?"
    client.close()
    accepted.close()
    bench.turns()


@WAYS
@in_own_namespace
def test_lasting_answer_is_asked_for_once(address: str, inward: bool) -> None:
    bench = SpliceBench()
    asked = bench.policy.asked_inbound if inward else bench.policy.asked_namespace
    with bench.server(TCP, address, inside=inward) as server:
        target = Target(packed(address), server.getsockname()[1], lasting=True)
        port = bench.forward_to(TCP, target, inward=inward)
        for _ in range(3):
            connect_once(bench, server, address, port, inward=inward)
        assert len(asked) == 1
        if address == "127.0.0.1":  # another destination is another question
            connect_once(bench, server, "127.0.0.2", port, inward=inward)
            assert len(asked) == 2
        other = bench.forward_to(TCP, target, inward=inward)
        connect_once(bench, server, address, other, inward=inward)
        assert asked[-1][5] == other
    bench.end()


@in_own_namespace
def test_answer_is_forgotten_with_the_guest_s_address_and_its_listener_or_rule() -> None:
    bench = SpliceBench()
    asked = bench.policy.asked_inbound
    with bench.server(TCP, "127.0.0.1", inside=True) as server:
        target = Target(packed("127.0.0.1"), server.getsockname()[1], lasting=True)
        port = bench.forward_to(TCP, target, inward=True)
        connect_once(bench, server, "127.0.0.1", port, inward=True)
        bench.turns()
        connect_once(bench, server, "127.0.0.1", port, inward=True)
        assert len(asked) == 1
        bench.give(udp("192.0.2.77", 40000, "198.51.100.1", 9, b"x"))
        connect_once(bench, server, "127.0.0.1", port, inward=True)
        assert len(asked) == 2
        bench.engine.remove_listener(bench.listener)
        port = bench.forward_to(TCP, target, inward=True)  # takes the same index
        connect_once(bench, server, "127.0.0.1", port, inward=True)
        assert [question[5] for question in asked][-1] == port
        bench.engine.change_rule(bench.listener, "another")
        connect_once(bench, server, "127.0.0.1", port, inward=True)
        assert [question[1] for question in asked][-1] == "another"
    bench.end()


def count_sockets() -> int:
    """Number of sockets that this process has open."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except FileNotFoundError:
            continue
    return found


@in_own_namespace
def test_sockets_of_the_host_are_kept_ready_and_closed_at_the_end() -> None:
    before = count_sockets()
    bench = SpliceBench()
    assert bench.engine.counters()["sockets_ready"] == 0
    with bench.server(TCP, "127.0.0.1", inside=False) as server:
        port = bench.forward(TCP, server, inward=False)
        for _ in range(6):
            connect_once(bench, server, "127.0.0.1", port, inward=False)
        # The loop opens one whenever it would sleep, and has four at last.
        bench.engine.call_later(0.05, bench.engine.stop)
        bench.turns(20)
        assert bench.engine.counters()["sockets_ready"] == 4
    bench.end()
    assert count_sockets() == before + 1, "the engine keeps its spare descriptor"
