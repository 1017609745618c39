"""The vhost-user link, driven by a front end in this process: frames both ways, rings, memory, violations."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from passt.dataplane.link import vhost
from passt.facts.contracts import MemoryRegion, Target
from tests.dataplane.engine_bench import Bench
from tests.support.dirty_log import DirtyLog, pages
from tests.support.frames import ACK, GUEST_MAC, PSH, SYN, ethernet, packed, rfc1071, tcp, udp
from tests.support.front_end import (
    DATA_VALID,
    GSO_NONE,
    GSO_TCPV4,
    GSO_UDP_L4,
    NEEDS_CSUM,
    OFFLOADS,
    PLAIN,
    USUAL,
    Feature,
    FrontEnd,
    Header,
    Received,
)
from tests.support.guest_memory import ABOVE_HOLE, MIB, Buffer
from tests.support.split_ring import INDIRECT, NEXT, NO_INTERRUPT, WRITE, WRAP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

G4, R4 = "192.0.2.2", "198.51.100.7"
ARP = ethernet(bytes(28), kind=0x0806)
UDP_SEGMENT = 103  # linux/udp.h
MAX_FRAME = 14 + 40 + 65535
CSUM_OF_TCP = Header(NEEDS_CSUM, csum_start=34, csum_offset=16)


class VhostBench(Bench):
    """An engine whose link shares the memory of `front`; `ends` holds the reasons of its ends."""

    def __init__(self, front: FrontEnd) -> None:
        self.ends: list[str] = []
        self.front = front
        super().__init__()

    def attach(self, offloads: int) -> None:
        del offloads
        self.kernel, self.unused = socket.socketpair()
        self.device = self.engine.attach_vhost(self.ends.append)

    def start(self) -> VhostBench:
        """Have the front end set all up."""
        self.front.start(self.device)
        self.turn()
        return self

    def end(self) -> None:
        self.engine.close()
        self.kernel.close()
        self.unused.close()
        self.front.close()

    def drops(self) -> dict[str, int]:
        """Give the counters of drops that are not zero."""
        return {name: n for name, n in self.engine.counters().items() if name.startswith("drop_") and n}

    def receive(self, count: int = 1) -> list[Received]:
        """Run turns until *count* frames have come to the guest."""
        found: list[Received] = []

        def has_come() -> bool:
            found.extend(self.front.received())
            return len(found) >= count

        self.until(has_come)
        return found

    def await_end(self) -> str:
        """Run turns until the session has ended; returns why."""
        self.until(lambda: bool(self.ends))
        return self.ends.pop()


@pytest.fixture
def make() -> Iterator[Callable[..., VhostBench]]:
    """Make benches with front ends of any kind, started."""
    made: list[VhostBench] = []

    def start(**arguments: object) -> VhostBench:
        made.append(VhostBench(FrontEnd(**arguments)))  # type: ignore[arg-type]
        return made[-1].start()

    yield start
    for bench in made:
        bench.end()


@pytest.fixture
def bench(make: Callable[..., VhostBench]) -> VhostBench:
    return make()


# From the guest


def test_frame_of_the_guest_is_taken_and_given_back(bench: VhostBench) -> None:
    bench.front.send(ARP)
    bench.turn()
    assert bench.responder.frames == [ARP]
    assert len(bench.front.sent()) == 1
    assert bench.ends == []


@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize("cuts", [(), (5,), (12,), (13,), (26,), (0, 12, 0, 14, 0), (11, 1, 1), [1] * 60])
def test_chain_of_any_shape_is_one_frame(bench: VhostBench, cuts: tuple[int, ...], indirect: bool) -> None:
    bench.front.send(ARP, cuts=cuts, indirect=indirect)
    bench.turn()
    assert bench.responder.frames == [ARP]


def test_frame_across_two_regions_is_one_frame(bench: VhostBench) -> None:
    bench.front.send(ARP, across=True)
    bench.turn()
    assert bench.responder.frames == [ARP]


def test_one_byte_a_descriptor_in_a_ring_of_the_largest_size(make: Callable[..., VhostBench]) -> None:
    frame = ethernet(bytes(9000), kind=0x0806)
    bench = make(size=32768)
    bench.front.send(frame, cuts=[1] * 9100)
    bench.turn()
    assert bench.responder.frames == [frame]


@pytest.mark.parametrize("length", range(27))
def test_chain_that_is_shorter_than_a_frame_is_a_counted_drop(bench: VhostBench, length: int) -> None:
    if length:
        bench.front.send(b"", bytes(length))
    else:
        ring = bench.front.transmit_ring()
        ring.post(ring.add([Buffer(bench.front.memory.take(16), 0)]))
    bench.front.send(ARP)
    bench.turn()
    bench.turn()
    assert bench.responder.frames == [ARP]
    if length < 26:
        assert bench.drops() == {"drop_short": 1}
    assert len(bench.front.sent()) == 2


def test_frame_that_is_longer_than_any_is_a_counted_drop(bench: VhostBench) -> None:
    bench.front.send(bytes(MAX_FRAME + 1))
    bench.front.send(ARP)
    bench.turn()
    assert bench.drops() == {"drop_oversize": 1}
    assert bench.responder.frames == [ARP]


def test_many_frames_before_one_kick_are_all_taken(make: Callable[..., VhostBench]) -> None:
    bench = make(size=4096)
    chains = [bench.front.send(ARP, post=False) for _ in range(3000)]
    bench.front.transmit_ring().post(*chains)
    bench.until(lambda: bench.engine.counters()["frames_from_guest"] == 3000)
    assert len(bench.front.sent()) == 3000


@pytest.mark.parametrize("features", [PLAIN, PLAIN | Feature.EVENT_IDX])
def test_index_wraps_many_times(make: Callable[..., VhostBench], features: int) -> None:
    bench = make(size=256, features=features | Feature.MRG_RXBUF, base=WRAP - 5)
    for _ in range(3 * WRAP // 128):
        chains = [bench.front.send(ARP, post=False) for _ in range(128)]
        bench.front.transmit_ring().post(*chains)
        bench.turn()
        assert len(bench.front.sent()) == 128
    assert bench.ends == []


def test_frame_without_a_kick_waits_for_the_next_one(bench: VhostBench) -> None:
    bench.front.transmit_ring().publish(bench.front.send(ARP, post=False))
    bench.turn()
    assert bench.responder.frames == []
    bench.front.transmit_ring().kick()
    bench.turn()
    assert bench.responder.frames == [ARP]


@pytest.mark.parametrize("features", [PLAIN, PLAIN | Feature.EVENT_IDX])
def test_kicks_are_wanted_only_by_who_waits(make: Callable[..., VhostBench], features: int) -> None:
    bench = make(features=features)
    ring = bench.front.transmit_ring()
    assert ring.publish(bench.front.send(ARP, post=False))
    ring.kick()
    bench.turn()
    assert bench.responder.frames == [ARP]
    # It found nothing more and waits again.
    assert ring.publish(bench.front.send(ARP, post=False))


@pytest.mark.parametrize(("header", "whole", "arrives"), [
    (Header(), True, True),
    (Header(), False, False),
    (Header(NEEDS_CSUM, csum_start=34, csum_offset=6), False, True),
])
def test_checksum_is_verified_unless_it_is_left_to_us(bench: VhostBench, header: Header, whole: bool,
                                                      arrives: bool) -> None:
    frame = udp(G4, 40000, R4, 53, b"question")
    if not whole:
        frame = frame[:40] + b"\x12\x34" + frame[42:]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as remote:
        remote.bind(("127.0.0.1", 0))
        remote.settimeout(5)
        bench.policy.target = Target(packed("127.0.0.1"), remote.getsockname()[1])
        bench.front.send(frame, header)
        bench.turn()
        if arrives:
            assert remote.recv(2000) == b"question"
        else:
            assert bench.drops() == {"drop_bad_checksum": 1}


def test_datagrams_joined_by_the_guest_are_cut_for_the_host(bench: VhostBench) -> None:
    frame = udp(G4, 40000, R4, 53, bytes(1000) + bytes([1]) * 1000 + bytes([2]) * 500)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as remote:
        remote.bind(("127.0.0.1", 0))
        remote.settimeout(5)
        bench.policy.target = Target(packed("127.0.0.1"), remote.getsockname()[1])
        bench.front.send(frame, Header(NEEDS_CSUM, GSO_UDP_L4, 42, 1000, 34, 6))
        bench.turn()
        assert [remote.recv(2000) for _ in range(3)] == [bytes(1000), bytes([1]) * 1000, bytes([2]) * 500]


def test_second_pair_transmits_too(make: Callable[..., VhostBench]) -> None:
    bench = make(pairs=vhost.MAX_QUEUE_PAIRS)
    for pair in range(vhost.MAX_QUEUE_PAIRS):
        bench.front.send(ARP, pair=pair)
    bench.turn()
    assert bench.responder.frames == [ARP] * vhost.MAX_QUEUE_PAIRS
    assert [len(bench.front.sent(pair)) for pair in range(vhost.MAX_QUEUE_PAIRS)] == [1] * 8


# To the guest


@pytest.mark.parametrize("features", [PLAIN, USUAL])
def test_reply_reaches_the_guest(make: Callable[..., VhostBench], features: int) -> None:
    bench = make(features=features)
    bench.responder.replies = [ARP]
    bench.front.offer(2048, 4)
    bench.front.send(ARP)
    bench.turn()
    (got,) = bench.front.received()
    assert got.frame == ARP.ljust(60, b"\0")
    assert got.header == Header(num_buffers=1)
    assert bench.front.receive_ring().called()


def test_checksum_is_called_valid_where_the_guest_knows_the_flag(make: Callable[..., VhostBench]) -> None:
    bench = make(features=USUAL | OFFLOADS)
    bench.responder.replies = [ARP]
    bench.front.offer(2048)
    bench.front.send(ARP)
    bench.turn()
    assert bench.front.received()[0].header == Header(DATA_VALID, num_buffers=1)


@pytest.mark.parametrize("shape", [
    {"length": 12}, {"length": 13}, {"length": 30}, {"length": 71}, {"length": 72},
    {"length": 100, "cuts": (1, 1, 1)}, {"length": 72, "cuts": [1] * 72}, {"length": 80, "indirect": True},
    {"length": 100, "cuts": (0, 12, 0)},
])
def test_reply_fills_buffers_of_any_shape(bench: VhostBench, shape: dict[str, object]) -> None:
    bench.responder.replies = [ARP]
    bench.front.offer(count=-(-72 // shape["length"]), **shape)  # type: ignore[arg-type, operator]
    bench.front.send(ARP)
    bench.turn()
    (got,) = bench.front.received()
    assert got.frame == ARP.ljust(60, b"\0")
    assert len(got.chains) == -(-72 // shape["length"])  # type: ignore[operator]


def test_without_mergeable_buffers_a_frame_that_does_not_fit_is_a_counted_drop(
        make: Callable[..., VhostBench]) -> None:
    bench = make(features=PLAIN)
    bench.responder.replies = [ARP]
    bench.front.offer(71, 1)
    bench.front.offer(72, 1)
    bench.front.send(ARP)
    bench.turn()
    assert bench.front.received() == []
    assert bench.drops() == {"drop_oversize": 1}


@pytest.mark.parametrize("features", [PLAIN, USUAL])
def test_reply_waits_for_buffers(make: Callable[..., VhostBench], features: int) -> None:
    bench = make(features=features)
    bench.responder.replies = [ARP]
    for _ in range(3):
        bench.front.send(ARP)
    bench.turn()
    assert bench.front.received() == []
    for _ in range(3):
        bench.front.offer(2048)
        bench.turn()
        assert len(bench.front.received()) == 1
    assert bench.drops() == {}


@pytest.mark.parametrize("features", [USUAL, USUAL & ~Feature.EVENT_IDX])
def test_guest_kicks_when_it_adds_to_too_few_buffers(make: Callable[..., VhostBench], features: int) -> None:
    bench = make(features=features)
    bench.responder.replies = [ARP]
    ring = bench.front.receive_ring()
    ring.post(ring.add((), [Buffer(0x20000, 50)]))
    bench.turn()
    bench.front.send(ARP)
    bench.turn()
    assert bench.front.received() == []
    assert ring.publish(ring.add((), [Buffer(0x20000 + 50, 50)]))
    ring.kick()
    bench.turn()
    assert len(bench.front.received()) == 1


def test_replies_for_a_guest_without_buffers_are_bounded(bench: VhostBench) -> None:
    bench.responder.replies = [ethernet(bytes(9000), kind=0x0806)]
    for _ in range(100):
        bench.front.send(ARP)
        bench.turn()
        bench.front.sent()
    assert bench.drops()["drop_link_full"] > 50
    bench.front.offer(60000, 100)
    bench.turn()
    assert len(bench.front.received()) == 100 - bench.drops()["drop_link_full"]


@pytest.mark.parametrize("features", [PLAIN, PLAIN | Feature.EVENT_IDX])
def test_guest_that_polls_is_not_called(make: Callable[..., VhostBench], features: int) -> None:
    bench = make(features=features)
    bench.responder.replies = [ARP]
    ring = bench.front.receive_ring()
    ring.called()
    ring.set_available_flags(NO_INTERRUPT)
    ring.set_used_event(WRAP - 100)
    bench.front.offer(2048, 4)
    bench.front.send(ARP)
    bench.turn()
    assert not ring.called()
    assert len(bench.front.received()) == 1


def test_event_index_asks_for_one_call(make: Callable[..., VhostBench]) -> None:
    bench = make(features=USUAL)
    bench.responder.replies = [ARP]
    ring = bench.front.receive_ring()
    ring.called()
    ring.set_used_event(2)
    bench.front.offer(2048, 8)
    calls = []
    for _ in range(5):
        bench.front.send(ARP)
        bench.turn()
        calls.append(ring.called())
    assert calls == [False, False, True, False, False]


# A connection, whose data is not copied


class Stream(NamedTuple):
    """A connection of the guest to *remote*; our next numbers."""

    remote: socket.socket
    seq: int
    ack: int


def tcp_header(frame: bytes) -> tuple[int, int, int]:
    """Give sequence number, acknowledgement and flags of an IPv4 frame."""
    return int.from_bytes(frame[38:42], "big"), int.from_bytes(frame[42:46], "big"), frame[47]


def connect(bench: VhostBench, *, options: bytes = b"\2\4\5\xb4\3\3\7\0") -> Stream:
    """Have the guest open a connection to a socket of this process."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        bench.policy.target = Target(packed("127.0.0.1"), server.getsockname()[1])
        bench.front.send(tcp(G4, 40000, R4, 80, flags=SYN, seq=1000, options=options))
        (answer,) = bench.receive()
        seq, ack, _ = tcp_header(answer.frame)
        bench.front.send(tcp(G4, 40000, R4, 80, flags=ACK, seq=ack, ack=seq + 1))
        bench.turn()
        remote, _ = server.accept()
    remote.settimeout(5)
    return Stream(remote, ack, seq + 1)


def data(stream: Stream, payload: bytes) -> bytes:
    """Give a frame of the guest's with data whose checksum is left to us."""
    return tcp(G4, 40000, R4, 80, flags=ACK | PSH, seq=stream.seq, ack=stream.ack, payload=payload)


FULL = USUAL | OFFLOADS


@pytest.mark.parametrize("cuts", [(), (66,), (66, 4096, 4096), (12, 54), (1, 11, 100), [4096] * 9, [300] * 200])
def test_large_segment_goes_to_the_socket_from_where_it_lies(make: Callable[..., VhostBench],
                                                             cuts: tuple[int, ...]) -> None:
    bench = make(features=FULL, size=1024)
    bench.front.offer(2048, 64)
    stream = connect(bench)
    payload = os.urandom(40000)
    bench.front.send(data(stream, payload), Header(NEEDS_CSUM, GSO_TCPV4, 54, 1460, 34, 16), cuts=cuts)
    bench.turn()
    got = b""
    while len(got) < len(payload):
        got += stream.remote.recv(65536)
    assert got == payload
    stream.remote.close()


def test_large_segment_before_its_turn_is_kept(make: Callable[..., VhostBench]) -> None:
    bench = make(features=FULL, size=1024)
    bench.front.offer(2048, 64)
    stream = connect(bench)
    payload = os.urandom(20000)
    header = Header(NEEDS_CSUM, GSO_TCPV4, 54, 1460, 34, 16)
    late = stream._replace(seq=stream.seq + 10000)
    bench.front.send(data(late, payload[10000:]), header, cuts=[66, 3000, 3000])
    bench.turn()
    assert bench.engine.counters()["tcp_out_of_order"] == 1
    bench.front.send(data(stream, payload[:10000]), header, cuts=[66, 3000, 3000])
    bench.turn()
    got = b""
    while len(got) < len(payload):
        got += stream.remote.recv(65536)
    assert got == payload
    stream.remote.close()


@pytest.mark.parametrize("features", [PLAIN, USUAL, FULL, FULL & ~Feature.MRG_RXBUF, FULL & ~Feature.EVENT_IDX])
@pytest.mark.parametrize("length", [1600, 4096, 70000])
def test_stream_to_the_guest_arrives_whole(make: Callable[..., VhostBench], features: int,
                                           length: int) -> None:
    if length < 70000 and not features & Feature.MRG_RXBUF and features & Feature.GUEST_TSO4:
        pytest.skip("a driver without mergeable buffers offers 65562 bytes (virtio 1.2, 5.1.6.3.1)")
    bench = make(features=features, size=1024)
    count = min(1000, 15 * MIB // length)
    bench.front.offer(length, count)
    stream = connect(bench)
    payload = os.urandom(2 * MIB)
    stream.remote.setblocking(False)
    sent, got, largest = 0, b"", 0
    while len(got) < len(payload):
        try:
            sent += stream.remote.send(payload[sent:])
        except BlockingIOError:
            pass
        bench.turn()
        frames = [frame for frame in bench.front.received() if len(frame.frame) > 60]
        if not frames:
            continue
        for frame in frames:
            check(frame, features)
            total = int.from_bytes(frame.frame[16:18], "big")
            seq = (tcp_header(frame.frame)[0] - stream.ack) % (1 << 32)
            body = frame.frame[14:14 + total][40:]
            largest = max(largest, len(body))
            if seq == len(got):
                got += body
            bench.front.offer(length, len(frame.chains))
        bench.front.send(tcp(G4, 40000, R4, 80, flags=ACK, seq=stream.seq, ack=stream.ack + len(got)))
        bench.front.sent()
    assert got == payload
    assert (largest > 1460) == bool(features & Feature.GUEST_TSO4)
    assert bench.ends == []
    stream.remote.close()


def check(got: Received, features: int) -> None:
    """Check what the header of a segment with data promises."""
    body = got.frame[34:14 + int.from_bytes(got.frame[16:18], "big")]
    if features & Feature.GUEST_CSUM:
        assert got.header[:2] == (NEEDS_CSUM, GSO_TCPV4 if len(body) > 1480 else GSO_NONE)
        assert got.header[4:6] == (34, 16)
        if len(body) > 1480:
            assert got.header[2:4] == (54, 1460)
    else:
        assert got.header[:6] == (0, 0, 0, 0, 0, 0)
        pseudo = got.frame[26:34] + b"\0\6" + len(body).to_bytes(2, "big")
        assert rfc1071(pseudo + body) == 0


# Rings and memory that come and go


def test_nothing_is_touched_before_memory_and_rings_are_there() -> None:
    bench = VhostBench(FrontEnd())
    bench.responder.replies = [ARP]
    bench.turn()
    assert not bench.engine.send_frame(ARP)
    assert bench.drops() == {"drop_link_down": 1}
    bench.end()


def test_ring_that_is_not_enabled_throws_away_what_the_guest_transmits(bench: VhostBench) -> None:
    bench.device.enable_ring(1, False)
    bench.front.send(ARP)
    bench.turn()
    assert bench.responder.frames == []
    assert len(bench.front.sent()) == 1
    bench.device.enable_ring(1, True)
    bench.front.send(ARP)
    bench.turn()
    assert bench.responder.frames == [ARP]


def test_ring_that_is_not_enabled_gets_no_frame(bench: VhostBench) -> None:
    bench.responder.replies = [ARP]
    bench.device.enable_ring(0, False)
    bench.front.offer(2048, 4)
    bench.front.send(ARP)
    bench.turn()
    assert bench.front.received() == []
    assert bench.drops() == {"drop_link_down": 1}


def test_ring_goes_on_where_it_was_stopped(bench: VhostBench) -> None:
    bench.front.send(ARP)
    bench.turn()
    assert bench.front.stop(bench.device) == [0, 1]
    bench.front.sent()
    bench.front.transmit_ring().publish(bench.front.send(ARP, post=False))
    bench.turn()
    assert len(bench.responder.frames) == 1
    for number in range(2):
        bench.front.start_ring(bench.device, number)
        bench.device.enable_ring(number, True)
    bench.turn()
    assert len(bench.responder.frames) == 2


def test_chains_that_nobody_gave_back_come_again(bench: VhostBench) -> None:
    # As if a passt before this one had taken three of them and given one back.
    ring = bench.front.transmit_ring()
    bench.front.stop(bench.device)
    chains = [bench.front.send(ARP, post=False) for _ in range(3)]
    ring.publish(*chains)
    bench.front.start_ring(bench.device, 1, base=3)
    bench.device.enable_ring(1, True)
    bench.turn()
    assert len(bench.responder.frames) == 3
    assert len(bench.front.sent()) == 3


def test_new_call_descriptor_is_signalled_at_once(bench: VhostBench) -> None:
    event = os.eventfd(0, os.EFD_NONBLOCK)
    bench.device.set_call(0, os.dup(event))
    assert os.eventfd_read(event) == 1
    bench.device.set_call(0, -1)
    bench.front.offer(2048, 4)
    bench.turn()
    assert bench.engine.send_frame(ARP)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(event)
    os.close(event)
    assert len(bench.front.received()) == 1


def test_kick_of_an_old_descriptor_means_nothing(bench: VhostBench) -> None:
    ring = bench.front.transmit_ring()
    old = os.dup(ring.kick_fd)
    bench.device.set_kick(1, os.dup(ring.open_events()[0]))
    bench.turn()
    ring.publish(bench.front.send(ARP, post=False))
    os.eventfd_write(old, 1)
    bench.turn()
    assert bench.responder.frames == []
    os.close(old)
    ring.kick()
    bench.turn()
    assert bench.responder.frames == [ARP]


def test_memory_is_replaced_under_running_rings(bench: VhostBench) -> None:
    bench.front.send(ARP)
    bench.device.set_memory(bench.front.memory.told())
    bench.turn()
    bench.device.set_memory(list(reversed(bench.front.memory.told())))
    bench.front.send(ARP, across=True)
    bench.turn()
    assert bench.responder.frames == [ARP] * 2


def test_region_comes_and_goes(bench: VhostBench) -> None:
    high = bench.front.memory.told()[2]
    bench.device.remove_region(high._replace(fd=-1))
    with pytest.raises(ValueError, match="there is no memory region"):
        bench.device.remove_region(high._replace(fd=-1))
    bench.device.add_region(high)
    ring = bench.front.transmit_ring()
    address = ABOVE_HOLE + 5000
    bench.front.memory.write(address, Header().build() + ARP)
    ring.post(ring.add([Buffer(address, 12 + len(ARP))]))
    bench.turn()
    assert bench.responder.frames == [ARP]


@pytest.mark.parametrize(("change", "text"), [
    ({"size": 0}, "is none"),
    ({"size": 1 << 63}, "is none"),
    ({"guest_address": (1 << 64) - 4096}, "is none"),
    ({"user_address": (1 << 64) - 4096}, "is none"),
    ({"guest_address": 4096}, "overlap"),
    ({"mmap_offset": 4096}, "to byte"),
    ({"mmap_offset": (1 << 64) - 4096}, "to byte"),
])
def test_region_that_cannot_be_is_refused(bench: VhostBench, change: dict[str, int], text: str) -> None:
    region = bench.front.memory.told()[2]._replace(guest_address=1 << 40, user_address=1 << 40)
    with pytest.raises(ValueError, match=text):
        bench.device.add_region(region._replace(**change))
    bench.device.add_region(region)


def test_memory_in_something_else_than_a_file_is_refused(bench: VhostBench) -> None:
    reader, writer = os.pipe()
    with pytest.raises(ValueError, match="no file"):
        bench.device.add_region(MemoryRegion(1 << 40, 4096, 1 << 40, 0, reader))
    os.close(reader)
    os.close(writer)


def test_more_regions_than_there_is_room_for_are_refused(bench: VhostBench) -> None:
    fd = os.memfd_create("small")
    os.ftruncate(fd, 4096)
    with pytest.raises(ValueError, match="regions already"):
        for i in range(65):
            bench.device.add_region(MemoryRegion((1 << 40) + i * 8192, 4096, (1 << 40) + i * 8192, 0, fd))
    os.close(fd)


def test_written_pages_are_logged(bench: VhostBench) -> None:
    log = DirtyLog(2 * ABOVE_HOLE // 64)
    event = os.eventfd(0, os.EFD_NONBLOCK)
    bench.device.set_log(log.fd, log.size, log.offset)
    bench.device.set_log_call(os.dup(event))
    ring = bench.front.receive_ring()
    bench.device.set_ring_addresses(0, *ring.user_addresses(), ring.used)
    log.take()
    chain = bench.front.offer(2048)[0]
    bench.turn()
    assert bench.engine.send_frame(ARP)
    assert log.take() == pages(chain.writable[0].address, 72) | pages(ring.used, 12)
    assert os.eventfd_read(event) == 1
    os.close(event)
    log.close()


# What a front end or a guest may not do


@pytest.mark.parametrize(("call", "text"), [
    (lambda d: d.set_features(1 << 63 | Feature.VERSION_1), "were not offered"),
    (lambda d: d.set_features(Feature.MRG_RXBUF), "VERSION_1 is missing"),
    (lambda d: d.set_ring_size(16, 256), "there is no ring 16"),
    (lambda d: d.set_ring_size(4, 0), "not possible"),
    (lambda d: d.set_ring_size(4, 3), "not possible"),
    (lambda d: d.set_ring_size(4, 65536), "not possible"),
    (lambda d: d.set_ring_size(1, 128), "while it runs"),
    (lambda d: d.set_ring_base(4, 65536), "cannot begin"),
    (lambda d: d.set_ring_base(1, 0), "while it runs"),
    (lambda d: d.set_ring_addresses(4, 8, 0, 0, None), "not aligned"),
    (lambda d: d.set_ring_addresses(4, 16, 2, 0, None), "not aligned"),
    (lambda d: d.set_ring_addresses(4, 16, 4, 1, None), "not aligned"),
    (lambda d: d.set_ring_addresses(1, 16, 4, 2, None), "does not lie"),
    (lambda d: d.set_kick(1, -1), "no kick"),
])
def test_request_that_is_not_possible_is_refused(bench: VhostBench, call: Callable[[object], None],
                                                 text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call(bench.device)


def test_ring_outside_of_memory_does_not_start(bench: VhostBench) -> None:
    event = os.eventfd(0)
    bench.device.set_ring_size(4, 256)
    bench.device.set_ring_addresses(4, 1 << 60, 1 << 60, 1 << 60, None)
    with pytest.raises(ValueError, match="does not lie in shared memory"):
        bench.device.set_kick(4, event)


def chain_of(bench: VhostBench, rows: list[tuple[int, int, int, int]]) -> None:
    """Write descriptors as they are, and make the first one available."""
    ring = bench.front.transmit_ring()
    for index, row in enumerate(rows):
        ring.set_descriptor(index, *row)
    ring.publish(0)
    ring.kick()


@pytest.mark.parametrize(("rows", "text"), [
    ([(0x10000, 64, NEXT, 1), (0x10000, 64, NEXT, 0)], "has no end"),
    ([(0x10000, 64, NEXT, 0)], "has no end"),
    ([(0x10000, 64, NEXT, 256)], "outside of its table"),
    ([(0x10000, 64, NEXT, 65535)], "outside of its table"),
    ([(0x10000, 64, WRITE, 0)], "wrong direction"),
    ([(1 << 50, 64, 0, 0)], "outside of all memory"),
    ([(ABOVE_HOLE + 16 * MIB - 63, 64, 0, 0)], "outside of all memory"),
    ([((1 << 64) - 1, 64, 0, 0)], "outside of all memory"),
    ([(0, 0x7fffffff, NEXT, 1), (0, 0x7fffffff, 0, 0)], "outside of all memory"),
    ([(0x10000, 64, INDIRECT | NEXT, 1)], "indirect where none may be"),
    ([(0x10000, 15, INDIRECT, 0)], "indirect table"),
    ([(0x10000, 0, INDIRECT, 0)], "indirect table"),
    ([(1 << 50, 64, INDIRECT, 0)], "indirect table"),
    ([(0, 16 * 32769, INDIRECT, 0)], "indirect table"),
])
def test_damaged_chain_ends_the_session(bench: VhostBench, rows: list[tuple[int, int, int, int]],
                                        text: str) -> None:
    chain_of(bench, rows)
    reason = bench.await_end()
    assert reason.startswith("ring 1 is damaged: ")
    assert text in reason
    assert not bench.engine.send_frame(ARP)


def test_chain_of_4_gib_ends_the_session(bench: VhostBench) -> None:
    size = 15 * MIB
    chain_of(bench, [(0, size, NEXT, i + 1) for i in range(200)] + [(0, 64, 0, 0)])
    assert "longer than 2 GiB" in bench.await_end()


def test_indirect_table_in_an_indirect_table_ends_the_session(bench: VhostBench) -> None:
    bench.front.memory.put(0x20000, "QIHH", 0x20000, 64, INDIRECT, 0)
    chain_of(bench, [(0x20000, 64, INDIRECT, 0)])
    assert "indirect where none may be" in bench.await_end()


def test_indirect_table_without_the_feature_ends_the_session(make: Callable[..., VhostBench]) -> None:
    bench = make(features=PLAIN)
    bench.front.memory.put(0x20000, "QIHH", 0x30000, 64, 0, 0)
    chain_of(bench, [(0x20000, 16, INDIRECT, 0)])
    assert "indirect where none may be" in bench.await_end()


@pytest.mark.parametrize("ring", [0, 1])
def test_index_that_jumps_ends_the_session(bench: VhostBench, ring: int) -> None:
    bench.front.rings[ring].set_available_index(300)
    bench.front.rings[ring].kick()
    if ring == 0:
        bench.engine.send_frame(ARP)
    assert bench.await_end() == f"ring {ring} is damaged: the available index jumps"


@pytest.mark.parametrize("ring", [0, 1])
def test_head_outside_of_the_ring_ends_the_session(bench: VhostBench, ring: int) -> None:
    bench.front.rings[ring].publish(256)
    bench.front.rings[ring].kick()
    if ring == 0:
        bench.turn()
        bench.engine.send_frame(ARP)
    assert bench.await_end() == f"ring {ring} is damaged: a chain begins outside of the ring"


@pytest.mark.parametrize("length", [1, 11])
def test_buffer_without_room_for_a_header_ends_the_session(bench: VhostBench, length: int) -> None:
    bench.front.offer(length, 20)
    bench.turn()
    bench.engine.send_frame(ARP)
    assert "too small for a header" in bench.await_end()


def test_readable_buffer_to_receive_in_ends_the_session(bench: VhostBench) -> None:
    ring = bench.front.receive_ring()
    ring.post(ring.add([Buffer(0x10000, 2048)]))
    bench.turn()
    bench.engine.send_frame(ARP)
    assert "wrong direction" in bench.await_end()


@pytest.mark.parametrize("where", ["transmit", "receive", "rings"])
def test_memory_that_is_cut_off_ends_the_session_only(bench: VhostBench, where: str) -> None:
    memory = bench.front.memory
    if where == "rings":
        bench.front.transmit_ring().kick()
        memory.regions[0].map.resize  # noqa: B018 - the mapping here is not touched from now on
        memory.regions[0].truncate(0)
    else:
        address = ABOVE_HOLE + 8 * MIB
        ring = bench.front.transmit_ring() if where == "transmit" else bench.front.receive_ring()
        buffers = [Buffer(address, 2048)]
        ring.post(ring.add(buffers) if where == "transmit" else ring.add((), buffers))
        memory.regions[2].truncate(4096)
    if where == "receive":
        bench.turn()
        bench.engine.send_frame(ARP)
        bench.front.transmit_ring().kick()
    assert bench.await_end() == "it cut off memory that it shares"


def count_maps() -> int:
    """Count the mappings of guest memory, ours and those of the front ends."""
    return Path("/proc/self/maps").read_text(encoding="ascii").count("memfd:guest")


def test_session_that_ended_leaves_room_for_the_next(bench: VhostBench) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    n_maps = count_maps()
    for _ in range(10):
        bench.device.end("it went away")
        assert bench.await_end() == "it went away"
        bench.device = bench.engine.attach_vhost(bench.ends.append)
        bench.front.close()
        bench.front = FrontEnd()
        bench.start()
        bench.front.send(ARP)
        bench.turn()
    assert len(bench.responder.frames) == 10
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert count_maps() == n_maps


def test_reset_stops_rings_and_keeps_memory(bench: VhostBench) -> None:
    bench.device.reset()
    bench.front.transmit_ring().publish(bench.front.send(ARP, post=False))
    bench.front.transmit_ring().kick()
    bench.turn()
    assert bench.responder.frames == []
    bench.device.set_features(USUAL)
    for number in range(2):
        bench.front.start_ring(bench.device, number)
        bench.device.enable_ring(number, True)
    bench.turn()
    assert bench.responder.frames == [ARP]


def test_without_protocol_features_rings_are_enabled_at_once(make: Callable[..., VhostBench]) -> None:
    bench = make(features=Feature.VERSION_1)
    bench.front.send(ARP)
    bench.turn()
    assert bench.responder.frames == [ARP]


def test_idle_guest_costs_no_wake_up(bench: VhostBench) -> None:
    bench.front.send(ARP)
    bench.turn()
    bench.turn()
    before = bench.engine.counters()["wakeups"]
    bench.engine.call_later(0.05, bench.engine.stop)
    bench.engine.run()
    assert bench.engine.counters()["wakeups"] - before <= 2


def test_guest_without_buffers_costs_no_wake_up(make: Callable[..., VhostBench]) -> None:
    bench = make(features=FULL)
    bench.front.offer(2048, 1)
    stream = connect(bench)
    stream.remote.send(bytes(100000))
    for _ in range(5):
        bench.turn()
    before = bench.engine.counters()["wakeups"]
    bench.engine.call_later(0.05, bench.engine.stop)
    bench.engine.run()
    assert bench.engine.counters()["wakeups"] - before <= 3
    stream.remote.close()


@pytest.mark.parametrize("features", [USUAL, FULL])
def test_datagrams_for_the_guest_are_joined_where_it_cuts_them(make: Callable[..., VhostBench],
                                                               features: int) -> None:
    bench = make(features=features, size=1024)
    bench.front.offer(2048, 512)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as remote:
        remote.bind(("127.0.0.1", 0))
        remote.settimeout(5)
        bench.policy.target = Target(packed("127.0.0.1"), remote.getsockname()[1])
        bench.front.send(udp(G4, 40000, R4, 53, b"question"))
        bench.turn()
        _, peer = remote.recvfrom(2000)
        payload = os.urandom(20 * 1400)
        remote.sendmsg([payload], [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("@H", 1400))], 0, peer)
        got = bench.receive(1 if features & Feature.GUEST_USO4 else 20)
    assert b"".join(frame.frame[42:] for frame in got) == payload
    for frame in got:
        if features & Feature.GUEST_USO4:
            assert frame.header[:6] == (NEEDS_CSUM, GSO_UDP_L4, 42, 1400, 34, 6)
        else:
            assert frame.header[:6] == (0, 0, 0, 0, 0, 0)
