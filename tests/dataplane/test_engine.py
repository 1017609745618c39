"""The engine as Python sees it: loop, timers, readers, listeners, hooks, exceptions, and its end.

A pair of datagram sockets stands for the tap device; `turn` runs the loop once.
"""

import errno
import gc
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from passt.contracts import InboundTarget, Target
from passt.dataplane.engine import Engine
from passt.host.tun import ALL_OFFLOADS, open_tap
from tests.dataplane.fakes import Events, Policy, Responder
from tests.dataplane.frames import ACK, GUEST_MAC, OUR_MAC, RST, SYN, ethernet, packed, tcp, udp
from tests.dataplane.netns import in_own_namespace, set_up

G4, R4 = "192.0.2.2", "198.51.100.7"
ARP = ethernet(bytes(28), kind=0x0806)
VNET_HLEN = 10
TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
IP_PKTINFO = 8

COUNTERS = {
    "frames_from_guest", "bytes_from_guest", "frames_to_guest", "bytes_to_guest", "control_frames",
    "flows_tcp", "flows_udp", "flows_ping", "flows_opened", "flows_refused", "tcp_retransmits", "tcp_timeouts",
    "tcp_duplicate_acks", "tcp_challenge_acks", "tcp_short_writes", "tcp_resets_sent", "link_stalls", "wakeups",
    "drop_short", "drop_bad_length", "drop_bad_version", "drop_oversize", "drop_fragment", "drop_bad_address",
    "drop_bad_port", "drop_ethertype", "drop_protocol", "drop_extension_header", "drop_refused",
    "drop_flows_full", "drop_no_fd", "drop_socket", "drop_link_full", "drop_link_down", "drop_truncated",
    "drop_tcp_sequence", "drop_tcp_ack", "drop_tcp_flags", "drop_tcp_memory", "drop_unknown_flow", "drop_gso",
}


class Bench:
    """An engine with fakes around it and the kernel's end of its pretended tap."""

    def __init__(self, *, offloads: int = 0) -> None:
        self.policy, self.responder, self.events = Policy(), Responder(), Events()
        self.engine = Engine(self.policy, self.responder, self.events, our_mac=OUR_MAC, mtu=1500, max_flows=32)
        self.kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.kernel.setblocking(False)
        ours.setblocking(False)
        self.tap = ours.detach()
        self.engine.attach_tap(self.tap, GUEST_MAC, offloads)

    def end(self) -> None:
        self.engine.close()
        self.kernel.close()

    def turn(self) -> None:
        """Run the loop for one turn: what is ready is handled before the timer that stops it."""
        self.engine.call_later(0, self.engine.stop)
        self.engine.run()

    def give(self, *frames: bytes) -> None:
        for frame in frames:
            self.kernel.send(bytes(VNET_HLEN) + frame)

    def frames(self) -> list[bytes]:
        found = []
        while True:
            try:
                found.append(self.kernel.recv(70000)[VNET_HLEN:])
            except BlockingIOError:
                return found

    def until(self, done: Callable[[], bool]) -> None:
        """Run turns until *done*."""
        deadline = time.monotonic() + 5
        while not done():
            assert time.monotonic() < deadline
            self.turn()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.end()


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


# Making and ending


@pytest.mark.parametrize("arguments", [
    {"our_mac": bytes(5)}, {"our_mac": bytes(7)}, {"secret": bytes(15)}, {"secret": bytes(17)}])
def test_arguments_of_wrong_length(arguments: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match="6 bytes"):
        Engine(Policy(), Responder(), Events(), mtu=1500, **({"our_mac": OUR_MAC} | arguments))


def test_hardware_address_of_wrong_length(bench: Bench) -> None:
    with pytest.raises(ValueError, match="6 bytes"):
        bench.engine.attach_tap(0, bytes(5), 0)


def test_descriptor_that_cannot_be_watched() -> None:
    engine = Engine(Policy(), Responder(), Events(), our_mac=OUR_MAC, mtu=1500, max_flows=1)
    with pytest.raises(OSError, match="descriptor") as caught:
        engine.add_reader(os.open(os.devnull, os.O_RDONLY), lambda: None)
    assert caught.value.errno == errno.EPERM


def test_all_descriptors_go_with_close_and_the_object() -> None:
    before = descriptors()
    bench = Bench()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(type=socket.SOCK_DGRAM) as remote:
        remote.bind(("127.0.0.1", 0))
        bench.engine.add_listener(os.dup(listener.fileno()), TCP, "rule")
        bench.policy.target = Target(packed("127.0.0.1"), remote.getsockname()[1])
        bench.give(udp(G4, 40001, R4, 53), udp(G4, 40002, R4, 53))
        bench.turn()
        assert len(list(bench.engine.flows())) == 2
        tap = bench.tap
        bench.engine.close()
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(tap)
        assert list(bench.engine.flows()) == []
        bench.engine.close()
        assert not bench.engine.send_frame(ARP)
    bench.kernel.close()
    del bench
    assert descriptors() == before


def test_counters_have_their_names_and_start_at_zero(bench: Bench) -> None:
    counters = bench.engine.counters()
    assert set(counters) == COUNTERS
    assert set(counters.values()) == {0}
    bench.turn()
    assert bench.engine.counters()["wakeups"] == 1


# Frames


def test_control_frame_and_answer(bench: Bench) -> None:
    bench.responder.replies = [b"\x11" * 60]
    bench.give(ARP, ARP)
    bench.turn()
    assert bench.responder.frames == [ARP, ARP]
    assert bench.frames() == [b"\x11" * 60] * 2


def test_frame_of_python_is_sent_padded(bench: Bench) -> None:
    assert bench.engine.send_frame(b"\x11" * 14)
    assert not bench.engine.send_frame(b"\x11" * 13)
    assert not bench.engine.send_frame(bytes(65550))
    assert bench.frames() == [b"\x11" * 14 + bytes(46)]
    assert bench.engine.counters()["drop_oversize"] == 2


def test_engine_without_a_link_sends_nothing() -> None:
    engine = Engine(Policy(), Responder(), Events(), our_mac=OUR_MAC, mtu=1500, max_flows=1)
    assert not engine.send_frame(ARP)


@in_own_namespace
def test_datagram_there_and_back() -> None:
    bench = Bench()
    with socket.socket(type=socket.SOCK_DGRAM) as remote:
        remote.bind(("127.0.0.1", 0))
        bench.policy.target = Target(packed("127.0.0.1"), remote.getsockname()[1])
        bench.give(udp(G4, 40001, R4, 53, b"query"))
        bench.turn()
        data, peer = remote.recvfrom(100)
        assert (data, peer) == (b"query", ("127.0.0.1", 40001))
        (flow,) = bench.engine.flows()
        assert flow == (UDP, "ACTIVE", packed(G4), 40001, packed(R4), 53, packed("127.0.0.1"),
                        remote.getsockname()[1], False)
        remote.sendto(b"answer", peer)
        bench.turn()
        (frame,) = bench.frames()
        assert frame[42:48] == b"answer"
    assert bench.events.addresses == [packed(G4)]


@in_own_namespace
def test_connection_of_the_guest() -> None:
    bench = Bench()
    lines: list[str] = []
    bench.engine.set_trace(lines.append)
    with socket.create_server(("127.0.0.1", 0)) as server:
        bench.policy.target = Target(packed("127.0.0.1"), server.getsockname()[1])
        bench.give(tcp(G4, 4000, R4, 80, seq=99))
        bench.until(lambda: bench.engine.counters()["frames_to_guest"] > 0)
        (answer,) = bench.frames()
        assert answer[47] == SYN | ACK
        seq = int.from_bytes(answer[38:42], "big")
        remote, _ = server.accept()
        remote.settimeout(5)
        bench.give(tcp(G4, 4000, R4, 80, flags=ACK, seq=100, ack=seq + 1, payload=b"hello"))
        bench.turn()
        assert remote.recv(10) == b"hello"
        (flow,) = bench.engine.flows()
        assert (flow.proto, flow.state, flow.inbound) == (TCP, "ESTABLISHED", False)
        assert lines == ["flow 0: CONNECTING", "flow 0: SYN_RECEIVED", "flow 0: ESTABLISHED"]
        bench.engine.set_trace(None)
        bench.engine.close()
        assert len(lines) == 3
        assert remote.recv(10) == b""
        remote.close()


def test_capture_and_its_end(bench: Bench) -> None:
    seen: list[tuple[bytes, bool]] = []
    bench.engine.set_capture(lambda frame, to_guest: seen.append((frame, to_guest)))
    bench.responder.replies = [b"\x11" * 60]
    bench.give(ARP)
    bench.turn()
    bench.engine.set_capture(None)
    bench.give(ARP)
    bench.turn()
    assert seen == [(ARP, False), (b"\x11" * 60, True)]


def test_stalled_link_goes_on_when_it_drains(bench: Bench) -> None:
    n = 0
    while bench.engine.counters()["link_stalls"] == 0:
        assert bench.engine.send_frame(n.to_bytes(60, "big"))
        n += 1
    bench.turn()
    wakeups = bench.engine.counters()["wakeups"]
    bench.engine.call_later(0.02, bench.engine.stop)
    bench.engine.run()
    assert bench.engine.counters()["wakeups"] - wakeups < 5     # a full link makes nothing spin
    arrived = bench.frames()
    bench.until(lambda: arrived.extend(bench.frames()) or len(arrived) == n)
    assert arrived == [number.to_bytes(60, "big") for number in range(n)]
    assert bench.engine.counters()["frames_to_guest"] == n


def test_close_while_the_link_is_stalled(bench: Bench) -> None:
    while bench.engine.counters()["link_stalls"] == 0:
        bench.engine.send_frame(bytes(60))
    bench.turn()
    bench.engine.call_later(0, bench.engine.close)
    bench.turn()


@in_own_namespace
def test_device_that_goes_away_ends_the_run() -> None:
    fd, granted = open_tap("dpt0")
    set_up("dpt0")
    engine = Engine(Policy(), Responder(), Events(), our_mac=OUR_MAC, mtu=1500, max_flows=1)
    engine.attach_tap(fd, GUEST_MAC, granted)
    engine.call_later(0, lambda: subprocess.run(["ip", "link", "delete", "dpt0"], check=True) and None)
    with pytest.raises(OSError, match="the tap device") as caught:
        engine.run()
    assert caught.value.errno == errno.EBADFD
    engine.close()


# Readers


def test_reader_is_called_as_long_as_there_is_something(bench: Bench) -> None:
    reader, writer = os.pipe()
    calls: list[str] = []
    bench.engine.add_reader(reader, lambda: calls.append("first"))
    bench.turn()
    assert calls == []
    os.write(writer, b"x")
    bench.turn()
    bench.turn()
    assert calls == ["first", "first"]
    bench.engine.add_reader(reader, lambda: calls.append(os.read(reader, 1).decode()))
    bench.turn()
    bench.turn()
    assert calls == ["first", "first", "x"]
    os.write(writer, b"y")
    bench.engine.remove_reader(reader)
    bench.turn()
    assert len(calls) == 3
    with pytest.raises(KeyError):
        bench.engine.remove_reader(reader)
    os.close(reader)                    # it was left open
    os.close(writer)


def test_reader_removed_by_another_in_the_same_turn_is_not_called(bench: Bench) -> None:
    calls: list[int] = []
    pipes = [os.pipe() for _ in range(2)]
    readers = [reader for reader, _ in pipes]

    def callback(own: int, other: int) -> Callable[[], None]:
        def call() -> None:
            calls.append(own)
            bench.engine.remove_reader(other)

        return call

    bench.engine.add_reader(readers[0], callback(*readers))
    bench.engine.add_reader(readers[1], callback(*reversed(readers)))
    for _, writer in pipes:
        os.write(writer, b"x")
    bench.turn()
    assert len(calls) == 1
    bench.engine.remove_reader(calls[0])
    for pair in pipes:
        for fd in pair:
            os.close(fd)


# Timers


def test_timers_fire_in_order_and_not_early(bench: Bench) -> None:
    fired: list[tuple[str, float]] = []
    started = time.monotonic()
    for name, delay in (("c", 0.03), ("a", 0.01), ("b", 0.02), ("a2", 0.01)):
        bench.engine.call_later(delay, lambda name=name: fired.append((name, time.monotonic() - started)))
    bench.engine.call_later(0.04, bench.engine.stop)
    bench.engine.run()
    assert [name for name, _ in fired] == ["a", "a2", "b", "c"]
    assert all(when >= delay for (_, when), delay in zip(fired, (0.01, 0.01, 0.02, 0.03), strict=True))


def test_cancelled_timer_does_not_fire(bench: Bench) -> None:
    fired: list[int] = []
    ids = [bench.engine.call_later(0.001 * n, lambda n=n: fired.append(n)) for n in range(5)]
    assert len(set(ids)) == 5
    for cancelled in (ids[0], ids[3], ids[3], 12345):
        bench.engine.cancel_timer(cancelled)
    bench.engine.call_later(0.01, bench.engine.stop)
    bench.engine.run()
    assert fired == [1, 2, 4]
    bench.engine.cancel_timer(ids[1])           # has fired: no error


def test_timers_made_and_cancelled_by_timers(bench: Bench) -> None:
    fired: list[str] = []
    late = bench.engine.call_later(0.002, lambda: fired.append("never"))

    def first() -> None:
        fired.append("first")
        bench.engine.cancel_timer(late)
        bench.engine.call_later(0, second)

    def second() -> None:
        fired.append("second")
        bench.engine.call_later(0.005, bench.engine.stop)

    bench.engine.call_later(0.001, first)
    bench.engine.run()
    assert fired == ["first", "second"]


def test_timer_is_not_late_by_the_time_before_the_run(bench: Bench) -> None:
    time.sleep(0.3)                     # set-up that takes long
    bench.engine.call_later(0.001, bench.engine.stop)
    started = time.monotonic()
    bench.engine.run()
    assert time.monotonic() - started < 0.2


def test_stop_lets_the_turn_end(bench: Bench) -> None:
    fired: list[str] = []

    def stop() -> None:
        bench.engine.stop()
        fired.append("stop")

    for callback in (stop, lambda: fired.append("same turn")):
        bench.engine.call_later(0, callback)
    bench.engine.call_later(60, lambda: fired.append("never"))
    time.sleep(0.001)
    bench.engine.run()
    assert fired == ["stop", "same turn"]


# Exceptions


def failing(text: str) -> Callable[[], None]:
    def fail() -> None:
        raise ValueError(text)

    return fail


def test_exception_of_a_timer_leaves_run_and_other_timers_stay(bench: Bench) -> None:
    bench.engine.call_later(0, failing("timer"))
    bench.engine.call_later(0.002, bench.engine.stop)
    with pytest.raises(ValueError, match="timer"):
        bench.engine.run()
    bench.engine.run()                  # returns by the second timer


def test_exception_of_a_reader_leaves_run(bench: Bench) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"x")
    bench.engine.add_reader(reader, failing("reader"))
    with pytest.raises(ValueError, match="reader"):
        bench.engine.run()
    bench.engine.remove_reader(reader)
    bench.turn()
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("where", ["policy", "responder", "events"])
def test_exception_of_a_decider_leaves_run_unchanged(bench: Bench, where: str) -> None:
    error = ValueError("ours")
    getattr(bench, where).error = error
    bench.give(ARP, udp(G4, 1000, R4, 53))
    with pytest.raises(ValueError, match="ours") as caught:
        bench.engine.run()
    assert caught.value is error
    getattr(bench, where).error = None
    bench.turn()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interrupt_in_a_decider_leaves_run_too(bench: Bench, error: type[BaseException]) -> None:
    bench.policy.error = error()        # type: ignore[assignment]
    bench.give(udp(G4, 1000, R4, 53))
    with pytest.raises(error):
        bench.engine.run()


def test_answer_of_the_responder_that_is_no_frame_leaves_run(bench: Bench) -> None:
    bench.responder.replies = ["text"]  # type: ignore[list-item]
    bench.give(ARP)
    with pytest.raises(TypeError):
        bench.engine.run()


def test_exceptions_of_the_hooks_leave_run(bench: Bench) -> None:
    def capture(_frame: bytes, _to_guest: bool) -> None:
        raise ValueError("hook")

    def trace(_line: str) -> None:
        raise ValueError("hook")

    bench.engine.set_capture(capture)
    bench.give(ARP)
    with pytest.raises(ValueError, match="hook"):
        bench.engine.run()
    bench.engine.set_capture(None)
    bench.engine.set_trace(trace)
    bench.policy.target = Target(packed("127.0.0.1"), 1)
    bench.give(tcp(G4, 1000, R4, 53))
    with pytest.raises(ValueError, match="hook"):
        bench.engine.run()
    bench.engine.set_trace(None)


# Listeners


def open_listener(proto: int = TCP) -> tuple[int, int]:
    """A listening socket on loopback and its port; the engine will own it."""
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
            (TCP, "rule", packed("127.0.0.1"), client.getsockname()[1], packed("127.0.0.1"), port)]
        (flow,) = bench.engine.flows()
        assert (flow.state, flow.inbound, flow.remote_port) == ("SYN_SENT", True, 7000)
        bench.engine.remove_listener(fd)
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(fd)
        assert len(list(bench.engine.flows())) == 1             # accepted is accepted
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        bench.give(tcp(G4, 80, R4, 7000, flags=RST | ACK, seq=0, ack=int.from_bytes(syn[38:42], "big") + 1))
        bench.turn()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
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


def test_unknown_listener_cannot_be_removed(bench: Bench) -> None:
    with pytest.raises(KeyError):
        bench.engine.remove_listener(99)


def test_listener_that_is_no_socket_is_refused(bench: Bench) -> None:
    with open(os.devnull, "rb") as file, pytest.raises(OSError, match="socket"):
        bench.engine.add_listener(file.fileno(), TCP, "rule")
    with pytest.raises(KeyError):
        bench.engine.remove_listener(file.fileno() if not file.closed else 99)
