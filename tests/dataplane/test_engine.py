"""The engine as Python sees it: loop, timers, readers, hooks, exceptions, and its end.

A pair of datagram sockets stands for the tap device; `turn` runs the loop once.
"""

import errno
import gc
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from passt.dataplane.engine import Engine
from passt.errors import HostError
from passt.facts.contracts import Target
from passt.host.tap import open_tap
from tests.dataplane.engine_bench import Bench
from tests.support.fakes import Events, Policy, Responder
from tests.support.frames import ACK, GUEST_MAC, OUR_MAC, RST, SYN, ethernet, packed, tcp, udp
from tests.support.isolated import in_own_namespace, set_up

G4, R4 = "192.0.2.2", "198.51.100.7"
ARP = ethernet(bytes(28), kind=0x0806)
TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
IP_PKTINFO = 8

COUNTERS = {
    "frames_from_guest",
    "bytes_from_guest",
    "frames_to_guest",
    "bytes_to_guest",
    "control_frames",
    "control_repeats",
    "flows_tcp",
    "flows_udp",
    "flows_ping",
    "flows_splice_tcp",
    "flows_splice_udp",
    "splice_bytes_to_guest",
    "splice_bytes_to_host",
    "splice_datagrams_to_guest",
    "splice_datagrams_to_host",
    "splice_connect_failures",
    "splice_copies",
    "pipes_open",
    "sockets_ready",
    "neighbours",
    "flows_opened",
    "flows_refused",
    "tcp_retransmits",
    "tcp_timeouts",
    "tcp_duplicate_acks",
    "tcp_out_of_order",
    "tcp_reneged",
    "tcp_challenge_acks",
    "tcp_acks_withheld",
    "tcp_acks_followed",
    "tcp_acks_unfollowed",
    "tcp_keep_alives",
    "flows_evicted",
    "tcp_short_writes",
    "tcp_resets_sent",
    "icmp_errors_to_guest",
    "reassembled",
    "fragments_to_guest",
    "paths_narrowed",
    "link_stalls",
    "wakeups",
    "drop_short",
    "drop_bad_length",
    "drop_bad_version",
    "drop_oversize",
    "drop_fragment",
    "drop_bad_address",
    "drop_bad_port",
    "drop_ethertype",
    "drop_protocol",
    "drop_extension_header",
    "drop_disabled",
    "drop_refused",
    "drop_flows_full",
    "drop_no_fd",
    "drop_crowd",
    "drop_socket",
    "drop_link_full",
    "drop_link_down",
    "drop_truncated",
    "drop_tcp_sequence",
    "drop_tcp_ack",
    "drop_tcp_flags",
    "drop_tcp_timestamp",
    "drop_tcp_memory",
    "drop_unknown_flow",
    "drop_control_rate",
    "drop_gso",
    "drop_fragment_overlap",
    "drop_fragment_time",
    "drop_fragment_memory",
    "drop_bad_checksum",
    "drop_too_big",
    "drop_own_echo",
}


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.end()


def descriptors() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


# Making and ending


def test_engine_goes_without_a_link_and_drops_frames(bench: Bench) -> None:
    with pytest.raises(ValueError, match="there is a link already"):
        bench.engine.go_without_link()
    alone = Engine(bench.policy, bench.responder, bench.events, our_mac=OUR_MAC, mtu=1500, max_flows=32)
    alone.go_without_link()
    assert not alone.send_frame(bytes(64))
    alone.call_later(0, alone.stop)
    alone.run()
    alone.close()


@pytest.mark.parametrize(("mac_len", "secret_len"), [(5, 16), (7, 16), (6, 15), (6, 17)])
def test_arguments_of_wrong_length(mac_len: int, secret_len: int) -> None:
    with pytest.raises(ValueError, match="6 bytes"):
        Engine(Policy(), Responder(), Events(), our_mac=bytes(mac_len), secret=bytes(secret_len), mtu=1500)


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


def test_renewal_forgets_answers_and_moves_the_dhcp_server(bench: Bench) -> None:
    asked = bytes.fromhex("0001080006040001") + GUEST_MAC + packed(G4) + bytes(6) + packed("192.0.2.1")
    question = ethernet(asked, kind=0x0806)
    bench.responder.replies = [b"\x11" * 60]
    bench.give(question, question)
    bench.turn()
    assert len(bench.responder.frames) == 1, "the second one is known"
    bench.engine.renew(packed("198.51.100.1"))
    bench.give(question, question)
    bench.turn()
    assert len(bench.responder.frames) == 2, "the answer may be another one now"
    bench.give(udp(G4, 68, "198.51.100.1", 67, b"renewal"))
    bench.turn()
    assert len(bench.responder.frames) == 3
    # A client renews where its lease came from, though that has another address now; not for ever.
    former = udp(G4, 68, "198.51.100.1", 67, b"renewal")
    for number in range(8):
        bench.engine.renew(packed(f"198.51.100.{2 + number}"))
        bench.engine.renew(packed(f"198.51.100.{2 + number}"))
        bench.give(former)
        bench.turn()
        assert len(bench.responder.frames) == 4 + number
    bench.engine.renew(packed("198.51.100.99"))
    bench.give(former)
    bench.turn()
    assert len(bench.responder.frames) == 11, "it is an address like any other again"
    # A network that comes and goes pushes out nobody.
    for _ in range(8):
        bench.engine.renew(packed("198.51.100.98"))
        bench.engine.renew(packed("198.51.100.99"))
    bench.give(udp(G4, 68, "198.51.100.9", 67, b"renewal"), udp(G4, 68, "0.0.0.0", 67, b"none at the start"))
    bench.turn()
    assert len(bench.responder.frames) == 12
    for wrong in (b"", bytes(3), bytes(16)):
        with pytest.raises(ValueError, match="4 bytes"):
            bench.engine.renew(wrong)


def test_frame_of_python_is_sent_padded(bench: Bench) -> None:
    assert bench.engine.send_frame(b"\x11" * 14)
    assert not bench.engine.send_frame(b"\x11" * 13)
    assert not bench.engine.send_frame(bytes(65590))
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
        assert flow == (
            UDP,
            "ACTIVE",
            packed(G4),
            40001,
            packed(R4),
            53,
            packed("127.0.0.1"),
            remote.getsockname()[1],
            False,
        )
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
        remote.settimeout(60)
        bench.give(tcp(G4, 4000, R4, 80, flags=ACK, seq=100, ack=seq + 1, payload=b"hello"))
        bench.turn()
        assert remote.recv(10) == b"hello"
        (flow,) = bench.engine.flows()
        assert (flow.proto, flow.state, flow.inbound) == (TCP, "ESTABLISHED", False)
        assert lines == ["flow 0: CONNECTING", "flow 0: SYN_RECEIVED", "flow 0: ESTABLISHED"]
        bench.engine.set_trace(None)
        bench.engine.close()
        assert len(lines) == 3
        with pytest.raises(ConnectionResetError):  # the guest's stream had not ended
            remote.recv(10)
        remote.close()
        assert bench.frames()[-1][47] == RST | ACK


def test_trace_of_frames_and_its_end(bench: Bench) -> None:
    seen: list[tuple[bytes, int, bool, int, int, int]] = []
    bench.engine.set_trace(None, lambda *frame: seen.append(frame))
    bench.responder.replies = [b"\x11" * 60]
    bench.give(ARP)
    bench.turn()
    bench.engine.set_trace(None)
    bench.give(ARP)
    bench.turn()
    assert seen == [(ARP, len(ARP), False, 0, 0, -1), (b"\x11" * 60, 60, True, 0, 0, -1)]


def test_stalled_link_goes_on_when_it_drains(bench: Bench) -> None:
    n = 0
    while bench.engine.counters()["link_stalls"] == 0:
        assert bench.engine.send_frame(n.to_bytes(60, "big"))
        n += 1
    bench.turn()
    wakeups = bench.engine.counters()["wakeups"]
    bench.engine.call_later(0.02, bench.engine.stop)
    bench.engine.run()
    assert bench.engine.counters()["wakeups"] - wakeups < 5  # a full link makes nothing spin
    arrived: list[bytes] = []

    def all_here() -> bool:
        arrived.extend(bench.frames())
        return len(arrived) == n

    bench.until(all_here)
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

    def delete() -> None:
        subprocess.run(["ip", "link", "delete", "dpt0"], check=True)

    engine.call_later(0, delete)
    with pytest.raises(HostError, match=r"^the guest's interface is gone: File descriptor in bad state$"):
        engine.run()
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
    os.close(reader)  # it was left open
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

    def note(name: str) -> None:
        fired.append((name, time.monotonic() - started))

    for name, delay in (("c", 0.03), ("a", 0.01), ("b", 0.02), ("a2", 0.01)):
        bench.engine.call_later(delay, partial(note, name))
    bench.engine.call_later(0.04, bench.engine.stop)
    bench.engine.run()
    assert [name for name, _ in fired] == ["a", "a2", "b", "c"]
    assert all(when >= delay for (_, when), delay in zip(fired, (0.01, 0.01, 0.02, 0.03), strict=True))


def test_timers_made_by_timers(bench: Bench) -> None:
    fired: list[str] = []

    def first() -> None:
        fired.append("first")
        bench.engine.call_later(0, second)

    def second() -> None:
        fired.append("second")
        bench.engine.call_later(0.005, bench.engine.stop)

    bench.engine.call_later(0.001, first)
    bench.engine.run()
    assert fired == ["first", "second"]


def test_timer_is_not_late_by_the_time_before_the_run(bench: Bench) -> None:
    delays = []
    for _ in range(10):  # one of them without a moment in which the machine is busy
        time.sleep(0.3)  # set-up that takes long
        bench.engine.call_later(0.001, bench.engine.stop)
        started = time.monotonic()
        bench.engine.run()
        delays.append(time.monotonic() - started)
        if delays[-1] < 0.2:
            return
    pytest.fail(f"late by {delays} s")


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
    bench.engine.run()  # returns by the second timer


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
    bench.policy.error = error()  # type: ignore[assignment]
    bench.give(udp(G4, 1000, R4, 53))
    with pytest.raises(error):
        bench.engine.run()


def test_answer_of_the_responder_that_is_no_frame_leaves_run(bench: Bench) -> None:
    bench.responder.replies = ["text"]  # type: ignore[list-item]
    bench.give(ARP)
    with pytest.raises(TypeError):
        bench.engine.run()


def test_tracing_flows_or_not_leaves_the_tracer_of_frames(bench: Bench) -> None:
    seen: list[object] = []
    bench.engine.set_trace(None, lambda *frame: seen.append(frame))
    bench.engine.trace_flows(seen.append)
    bench.engine.trace_flows(None)
    bench.give(ARP)
    bench.turn()
    assert len(seen) == 1
    bench.engine.set_trace(None)


def test_exceptions_of_the_hooks_leave_run(bench: Bench) -> None:
    def frames(*_: object) -> None:
        raise ValueError("hook")

    def trace(_line: str) -> None:
        raise ValueError("hook")

    bench.engine.set_trace(None, frames)
    bench.give(ARP)
    with pytest.raises(ValueError, match="hook"):
        bench.engine.run()
    bench.engine.set_trace(trace)
    bench.policy.target = Target(packed("127.0.0.1"), 1)
    bench.give(tcp(G4, 1000, R4, 53))
    with pytest.raises(ValueError, match="hook"):
        bench.engine.run()
    bench.engine.set_trace(None)


# Bounds


def test_memory_of_flows_has_a_ceiling() -> None:
    def ceiling(max_flows: int) -> int:
        engine = Engine(Policy(), Responder(), Events(), our_mac=OUR_MAC, mtu=1500, max_flows=max_flows)
        return engine.memory_ceiling()

    small, usual = ceiling(16), ceiling(65536)
    assert 32 << 20 < small < 33 << 20         # the pool, and next to nothing
    assert small < usual <= 72 << 20


def test_turns_are_measured_while_somebody_wants_it() -> None:
    bench = Bench()
    assert bench.engine.measure_turns(False) == (0, 0, 0, 0)
    bench.turn()
    assert bench.engine.measure_turns(True) == (0, 0, 0, 0)

    def work() -> None:
        until = time.thread_time_ns() + 3_000_000
        while time.thread_time_ns() < until:
            pass

    bench.engine.call_later(0, work)
    bench.turn()
    bench.turn()
    found = bench.engine.measure_turns(True)
    assert found.n >= 2
    assert found.most_cpu_ns >= 3_000_000
    assert found.cpu_in_longest_ns <= found.most_cpu_ns
    assert found.longest_ns >= 3_000_000
    reader, writer = os.pipe()
    bench.engine.add_reader(reader, lambda: time.sleep(0.005))      # a turn that waits, and has no processor
    os.write(writer, b"x")
    bench.turn()
    waited = bench.engine.measure_turns(False)
    assert waited.longest_ns >= 5_000_000 > waited.cpu_in_longest_ns
    bench.turn()
    assert bench.engine.measure_turns(False) == (0, 0, 0, 0)
    bench.engine.remove_reader(reader)
    os.close(reader)
    os.close(writer)
    bench.end()
