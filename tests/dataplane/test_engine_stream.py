"""The engine with a stream for a link: clients that come, go, talk nonsense or do not read."""

import os
import resource
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from passt.facts.contracts import InboundTarget, Target
from tests.dataplane.engine_bench import Bench
from tests.dataplane.link.test_stream import framed, unframed
from tests.support.frames import ACK, GUEST_MAC, OUR_MAC, PSH, RST, ethernet, packed, tcp, udp

G4, R4 = "192.0.2.2", "198.51.100.7"
ARP = ethernet(bytes(28), kind=0x0806)
TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP


class StreamBench(Bench):
    """An engine whose link is a stream; `guest` is the other end, `ends` holds the reasons of all ends."""

    def __init__(self) -> None:
        self.ends: list[str] = []
        super().__init__()

    def attach(self, offloads: int) -> None:
        del offloads
        self.connect()

    def connect(self) -> None:
        """Have a client come."""
        self.kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.kernel.setblocking(False)
        self.tap = ours.detach()
        self.engine.attach_stream(self.tap, self.ends.append)

    def give(self, *frames: bytes) -> None:
        self.kernel.send(framed(*frames))

    def frames(self) -> list[bytes]:
        try:
            return unframed(self.kernel.recv(1 << 20))
        except BlockingIOError:
            return []

    def await_frames(self) -> list[bytes]:
        """Run turns until there are frames for the guest."""
        found: list[bytes] = []

        def has_come() -> bool:
            found.extend(self.frames())
            return bool(found)

        self.until(has_come)
        return found


@pytest.fixture
def bench() -> Iterator[StreamBench]:
    made = StreamBench()
    yield made
    made.end()


def shake_hands(bench: StreamBench, remote: socket.socket) -> tuple[socket.socket, int]:
    """Have the guest open a connection to *remote*; returns the remote's end and our sequence number."""
    bench.policy.target = Target(packed("127.0.0.1"), remote.getsockname()[1])
    bench.give(tcp(G4, 40000, R4, 80, seq=999))
    bench.until(lambda: bool(bench.engine.counters()["frames_to_guest"]))
    (answer,) = bench.frames()
    (seq,) = struct.unpack_from("!I", answer, 38)
    bench.give(tcp(G4, 40000, R4, 80, flags=ACK, seq=1000, ack=seq + 1))
    bench.turn()
    accepted, _ = remote.accept()
    return accepted, seq + 1


@pytest.fixture
def remote() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_control_frame_and_answer(bench: StreamBench) -> None:
    bench.responder.replies = [b"\x11" * 60]
    bench.give(ARP, ARP)
    bench.turn()
    assert bench.responder.frames == [ARP, ARP]
    assert bench.frames() == [b"\x11" * 60] * 2


def test_frame_of_python_leaves_before_the_loop_runs(bench: StreamBench) -> None:
    assert bench.engine.send_frame(b"\x11" * 14)
    assert bench.frames() == [b"\x11" * 14 + bytes(46)]


def test_all_frames_of_one_read_in_one_turn(bench: StreamBench) -> None:
    bench.give(*[ARP] * 200)
    bench.turn()
    assert len(bench.responder.frames) == 200


@pytest.mark.parametrize("closes", [False, True])
def test_what_comes_during_much_is_taken_before_the_answers_leave(
        bench: StreamBench, remote: socket.socket, monkeypatch: pytest.MonkeyPatch, *, closes: bool) -> None:
    accepted, seq = shake_hands(bench, remote)
    accepted.close()
    late = [ARP, tcp(G4, 40000, R4, 80, flags=ACK, seq=1000, ack=seq), ARP]
    seen: list[bytes] = []

    def respond(frame: bytes) -> list[bytes]:
        seen.append(frame)
        if len(seen) == 1:
            bench.give(*late)
            if closes:
                bench.kernel.shutdown(socket.SHUT_WR)
        return [frame]

    monkeypatch.setattr(bench.responder, "respond", respond)
    filler = tcp(G4, 40000, R4, 80, flags=ACK, seq=1000, ack=seq)
    bench.kernel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    bench.give(*[filler] * 1200, ARP)
    bench.turn()
    assert len(seen) == 1
    with socket.socket(fileno=os.dup(bench.tap)) as ours:
        if not closes:
            with pytest.raises(BlockingIOError):
                ours.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        else:
            assert not ours.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    bench.turn()
    assert len(seen) == 3
    bench.turn()
    assert bench.ends == (["it closed the connection"] if closes else [])


def test_second_client_is_refused_while_there_is_one(bench: StreamBench) -> None:
    ours, other = socket.socketpair()
    with ours, other:
        with pytest.raises(ValueError, match="a link already"):
            bench.engine.attach_stream(ours.fileno(), print)
        other.send(b"x")
        assert ours.recv(1) == b"x"


def test_descriptor_that_cannot_be_watched_stays_the_callers(bench: StreamBench) -> None:
    bench.kernel.close()
    bench.until(lambda: bool(bench.ends))
    fd = os.open(os.devnull, os.O_RDONLY)
    with pytest.raises(OSError, match="descriptor"):
        bench.engine.attach_stream(fd, print)
    os.close(fd)
    bench.connect()
    bench.give(ARP)
    bench.turn()
    assert bench.responder.frames == [ARP]


def test_client_that_goes_is_told_once_and_its_last_frames_count(bench: StreamBench) -> None:
    bench.give(ARP)
    bench.kernel.close()
    bench.turn()
    bench.turn()
    bench.turn()
    assert bench.responder.frames == [ARP]
    assert bench.ends == ["it closed the connection"]
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(bench.tap)
    assert not bench.engine.send_frame(ARP)
    assert bench.engine.counters()["drop_link_down"] == 1


@pytest.mark.parametrize("length", [0, 13, 65590, 2**32 - 1])
def test_impossible_length_ends_the_client(bench: StreamBench, length: int) -> None:
    bench.kernel.send(framed(ARP) + struct.pack("!I", length) + framed(ARP))
    bench.turn()
    assert bench.responder.frames == [ARP]
    assert bench.ends == [f"it sent a frame of {length} bytes, where 14 to 65589 are possible"]
    assert bench.kernel.recv(1) == b""


@pytest.mark.parametrize("request_number", [1, 3])
def test_front_end_of_vhost_user_is_told_of_the_option(bench: StreamBench, request_number: int) -> None:
    bench.kernel.send(struct.pack("<III", request_number, 1, 0))
    bench.turn()
    assert bench.ends == ["it speaks vhost-user, which this passt does with the option --vhost-user"]


def test_client_that_cannot_be_written_to(bench: StreamBench) -> None:
    bench.kernel.shutdown(socket.SHUT_RD)
    bench.give(ARP)
    bench.engine.send_frame(ARP)
    bench.turn()
    assert bench.responder.frames == [ARP]
    assert bench.ends == ["Broken pipe"]


def test_client_that_goes_before_it_is_answered_has_closed_the_connection(
        bench: StreamBench, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []

    def respond(frame: bytes) -> list[bytes]:
        seen.append(frame)
        if len(seen) == 1:
            bench.give(ARP)
            bench.kernel.close()
        return [frame]

    monkeypatch.setattr(bench.responder, "respond", respond)
    bench.give(ARP)
    bench.turn()
    assert seen == [ARP, ARP]
    assert bench.ends == ["it closed the connection"]


def test_exception_of_the_callback_leaves_run() -> None:
    bench = StreamBench()
    bench.kernel.close()

    def fail(reason: str) -> None:
        raise RuntimeError(reason)

    bench.until(lambda: bool(bench.ends))
    guest, ours = socket.socketpair()
    bench.engine.attach_stream(ours.detach(), fail)
    guest.close()
    with pytest.raises(RuntimeError, match="it closed the connection"):
        bench.turn()
    bench.end()


def test_next_client_may_be_attached_from_the_callback() -> None:
    bench = StreamBench()
    guests: list[socket.socket] = []

    def again(_: str) -> None:
        guest, ours = socket.socketpair()
        guests.append(guest)
        bench.engine.attach_stream(ours.detach(), again)

    bench.kernel.close()
    bench.until(lambda: bool(bench.ends))
    again("")
    for n in range(5):
        guests[-1].close()
        bench.turn()
        assert len(guests) == n + 2
    guests[-1].send(framed(ARP))
    bench.turn()
    assert bench.responder.frames == [ARP]
    guests[-1].close()
    bench.end()


def test_nothing_spins_while_nobody_is_there(bench: StreamBench) -> None:
    """Neither sockets with data for the guest nor listeners wake the loop."""
    with socket.socket(type=socket.SOCK_DGRAM) as listener, socket.socket(type=socket.SOCK_DGRAM) as client:
        listener.bind(("127.0.0.1", 0))
        bench.policy.seen = InboundTarget(packed(R4), 9, packed(G4), 53)
        bench.engine.add_listener(os.dup(listener.fileno()), UDP, "rule")
        bench.kernel.close()
        bench.until(lambda: bool(bench.ends))
        client.sendto(b"early", listener.getsockname())
        for _ in range(3):
            bench.turn()
        before = bench.engine.counters()["wakeups"]
        bench.engine.call_later(0.3, bench.engine.stop)
        started = time.process_time()
        bench.engine.run()
        assert bench.engine.counters()["wakeups"] - before <= 3
        assert time.process_time() - started < 0.1
        bench.connect()
        bench.until(lambda: bool(bench.engine.counters()["frames_to_guest"]))
        (frame,) = bench.frames()
        assert frame.startswith(b"\xff" * 6 + OUR_MAC)
        assert frame[42:47] == b"early"


def test_connection_goes_on_with_the_next_client(bench: StreamBench, remote: socket.socket) -> None:
    accepted, seq = shake_hands(bench, remote)
    with accepted:
        bench.kernel.close()
        bench.until(lambda: bool(bench.ends))
        accepted.send(b"while you were away")
        bench.turn()
        assert [flow.state for flow in bench.engine.flows()] == ["ESTABLISHED"]
        bench.connect()
        found = bench.await_frames()
        assert found[0][54:] == b"while you were away"
        bench.give(tcp(G4, 40000, R4, 80, flags=ACK | PSH, seq=1000, ack=seq + 19, payload=b"thanks"))
        bench.turn()
        accepted.settimeout(60)
        assert accepted.recv(100) == b"thanks"


def test_what_the_last_client_did_not_get_is_sent_again(bench: StreamBench, remote: socket.socket) -> None:
    accepted, _ = shake_hands(bench, remote)
    with accepted:
        accepted.send(b"lost on the way")
        bench.until(lambda: bench.engine.counters()["frames_to_guest"] >= 2)
        bench.kernel.close()
        bench.until(lambda: bool(bench.ends))
        bench.connect()
        found = bench.await_frames()
        assert found[0][54:] == b"lost on the way"


def test_new_guest_that_knows_nothing_of_a_connection_ends_it(
    bench: StreamBench, remote: socket.socket
) -> None:
    accepted, seq = shake_hands(bench, remote)
    with accepted:
        bench.kernel.close()
        bench.until(lambda: bool(bench.ends))
        bench.connect()
        accepted.send(b"hello")
        bench.await_frames()
        bench.give(tcp(G4, 40000, R4, 80, flags=RST, seq=1000))
        bench.until(lambda: not list(bench.engine.flows()))
        accepted.settimeout(60)
        with pytest.raises(ConnectionResetError):
            accepted.recv(1)
    assert seq


def test_guest_that_does_not_read_costs_no_memory_and_no_time(
    bench: StreamBench, remote: socket.socket
) -> None:
    accepted, seq = shake_hands(bench, remote)
    with accepted:
        bench.give(tcp(G4, 40000, R4, 80, flags=ACK, seq=1000, ack=seq, window=65535))
        accepted.setblocking(False)
        for _ in range(200):
            try:
                accepted.send(bytes(1 << 16))
            except BlockingIOError:
                break
            bench.turn()
        for _ in range(2000):  # it only writes
            try:
                bench.give(*[udp(G4, 7, "198.51.100.9", 7)] * 10, ARP)
            except BlockingIOError:
                pass
            bench.responder.replies = [bytes(1000)]
            bench.turn()
        counters = bench.engine.counters()
        assert counters["drop_link_full"]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        wakeups = counters["wakeups"]
        bench.engine.call_later(0.3, bench.engine.stop)
        started = time.process_time()
        bench.engine.run()
        assert bench.engine.counters()["wakeups"] - wakeups < 10
        assert time.process_time() - started < 0.1
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1000


def test_frames_with_wrong_checksums_are_dropped(bench: StreamBench) -> None:
    good = udp(G4, 40001, R4, 53, b"query")
    for at in (24, 40, 45):  # of the IP header, of the datagram, its payload
        bad = bytearray(good)
        bad[at] ^= 1
        bench.give(bytes(bad))
    bench.turn()
    assert bench.engine.counters()["drop_bad_checksum"] == 3
    assert list(bench.engine.flows()) == []
    bench.give(good)
    bench.turn()
    assert bench.engine.counters()["flows_udp"] == 1


def test_close_says_farewell(bench: StreamBench, remote: socket.socket) -> None:
    accepted, _ = shake_hands(bench, remote)
    with accepted:
        bench.engine.close()
        (frame,) = unframed(bench.kernel.recv(1000))
        assert frame[47] == RST | ACK
        assert bench.kernel.recv(1) == b""
        assert bench.ends == []


def test_ipv4_mac_of_the_guest_is_learnt(bench: StreamBench) -> None:
    bench.give(udp(G4, 40001, R4, 53, b"query"))
    bench.turn()
    assert bench.events.macs == [GUEST_MAC]


def test_next_client_may_have_another_guest(bench: StreamBench) -> None:
    other = bytes.fromhex("020000000002")
    assert not bench.engine.is_guest_known()
    bench.give(udp(G4, 40001, R4, 53, b"query"))
    bench.turn()
    assert bench.engine.is_guest_known()
    bench.kernel.close()
    bench.until(lambda: bool(bench.ends))
    bench.connect()
    assert not bench.engine.is_guest_known()
    query = udp(G4, 40001, R4, 53, b"query")
    bench.give(query[:6] + other + query[12:])
    bench.turn()
    assert bench.events.macs == [GUEST_MAC, other]


def test_whoever_looks_on_sees_what_the_guest_gets(bench: StreamBench, remote: socket.socket) -> None:
    accepted, _ = shake_hands(bench, remote)
    seen: list[tuple[bytes, int, bool, int]] = []

    def note(head: bytes, n: int, to_guest: bool, gso_type: int, _: int, __: int) -> None:
        seen.append((head, n, to_guest, gso_type))

    with accepted:
        bench.engine.set_trace(None, note)
        accepted.send(bytes(5000))
        frames: list[bytes] = []
        while sum(len(frame) - 54 for frame in frames) < 5000:
            frames += bench.await_frames()
        assert len(frames) > 5
        assert seen == [(frame[:256], len(frame), True, 0) for frame in frames]
