"""The vhost-user link: frames both ways, through buffers of any shape, with offloads and without."""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING, NamedTuple

import pytest

from passt.dataplane.link import vhost_rings
from passt.facts.contracts import Target
from tests.support.frames import ACK, PSH, SYN, ethernet, packed, rfc1071, tcp, udp
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
    Header,
    Received,
)
from tests.support.guest_memory import ABOVE_HOLE, MIB, Buffer
from tests.support.split_ring import DESCRIPTOR, INDIRECT, NEXT, NO_INTERRUPT, WRAP, WRITE, SplitRing

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.dataplane.link.vhost_bench import VhostBench

G4, R4 = "192.0.2.2", "198.51.100.7"
ARP = ethernet(bytes(28), kind=0x0806)
UDP_SEGMENT = 103  # linux/udp.h
MAX_FRAME = 14 + 40 + 65535
CSUM_OF_TCP = Header(NEEDS_CSUM, csum_start=34, csum_offset=16)


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


def test_last_frames_are_taken_in_more_than_a_turn(make: Callable[..., VhostBench]) -> None:
    bench = make(size=1024)
    for _ in range(500):
        bench.front.send(ARP + bytes(1400))
    bench.engine.close()
    assert bench.engine.counters()["frames_from_guest"] == 500


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
        remote.settimeout(60)
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
        remote.settimeout(60)
        bench.policy.target = Target(packed("127.0.0.1"), remote.getsockname()[1])
        bench.front.send(frame, Header(NEEDS_CSUM, GSO_UDP_L4, 42, 1000, 34, 6))
        bench.turn()
        assert [remote.recv(2000) for _ in range(3)] == [bytes(1000), bytes([1]) * 1000, bytes([2]) * 500]


def post_empty_chains(bench: VhostBench, ring: SplitRing, count: int, flag: int) -> None:
    """Make *count* chains available, each an indirect table of 32,768 buffers without a byte."""
    n = 32768
    rows = [DESCRIPTOR.pack(0x10000, 0, flag | NEXT, i + 1) for i in range(n - 1)]
    table = bench.front.memory.take(16 * n)
    bench.front.memory.write(table, b"".join(rows) + DESCRIPTOR.pack(0x10000, 0, flag, 0))
    heads = [ring.free.popleft() for _ in range(count)]
    for head in heads:
        ring.set_descriptor(head, table, 16 * n, INDIRECT, 0)
    ring.publish(*heads)
    ring.kick()


def test_chains_of_empty_buffers_do_not_hold_up_a_turn(bench: VhostBench) -> None:
    ring = bench.front.transmit_ring()
    post_empty_chains(bench, ring, 200, 0)
    bench.turn()
    assert ring.used_index() < 20
    bench.until(lambda: ring.used_index() == 200)
    assert bench.drops() == {"drop_short": 200}


def test_empty_buffers_to_receive_in_end_the_session(bench: VhostBench) -> None:
    ring = bench.front.receive_ring()
    ring.post(ring.add((), [Buffer(0x20000, 12)]))
    post_empty_chains(bench, ring, 100, WRITE)
    bench.turn()
    bench.engine.send_frame(ARP)
    assert bench.await_end() == "ring 0 is damaged: its buffers are empty"


def test_second_pair_transmits_too(make: Callable[..., VhostBench]) -> None:
    bench = make(pairs=vhost_rings.MAX_QUEUE_PAIRS)
    for pair in range(vhost_rings.MAX_QUEUE_PAIRS):
        bench.front.send(ARP, pair=pair)
    bench.turn()
    assert bench.responder.frames == [ARP] * vhost_rings.MAX_QUEUE_PAIRS
    assert [len(bench.front.sent(pair)) for pair in range(vhost_rings.MAX_QUEUE_PAIRS)] == [1] * 8


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


def test_frame_that_all_buffers_of_the_ring_do_not_hold_is_a_counted_drop(
        make: Callable[..., VhostBench]) -> None:
    bench = make(size=8)
    bench.front.offer(1000, 8)
    bench.turn()
    assert not bench.engine.send_frame(bytes(9000))
    assert bench.drops() == {"drop_oversize": 1}
    assert bench.engine.send_frame(ARP)
    assert len(bench.front.received()) == 1


def test_frame_that_waits_for_buffers_is_not_for_another_driver(make: Callable[..., VhostBench]) -> None:
    bench = make(features=FULL)
    bench.turn()
    assert bench.engine.send_frame(ARP)
    bench.front.stop(bench.device)
    bench.device.set_features(USUAL)
    bench.front.offer(2048, 4)
    for number in range(2):
        bench.front.start_ring(bench.device, number)
        bench.device.enable_ring(number, True)
    bench.turn()
    assert bench.engine.send_frame(ethernet(b"new", kind=0x0806))
    assert [got.frame[14:17] for got in bench.front.received()] == [b"new"]


def test_frame_that_waits_for_buffers_outlives_a_stop(bench: VhostBench) -> None:
    bench.turn()
    assert bench.engine.send_frame(ARP)
    bench.front.stop(bench.device)
    bench.front.offer(2048, 4)
    bench.device.set_features(USUAL)
    for number in range(2):
        bench.front.start_ring(bench.device, number)
        bench.device.enable_ring(number, True)
    bench.turn()
    assert len(bench.front.received()) == 1


def test_buffers_of_one_byte_hold_a_frame_of_any_length(make: Callable[..., VhostBench]) -> None:
    bench = make(size=1024)
    ring = bench.front.receive_ring()
    for _ in range(700):
        address = bench.front.memory.take(128)
        ring.post(ring.add((), [Buffer(address + 2 * i, 1) for i in range(64)], indirect=True))
    bench.turn()
    frame = os.urandom(40000)
    assert bench.engine.send_frame(frame)
    assert [got.frame for got in bench.front.received()] == [frame]


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
    remote.settimeout(60)
    return Stream(remote, ack, seq + 1)


def data(stream: Stream, payload: bytes) -> bytes:
    """Give a frame of the guest's with data whose checksum is left to us."""
    return tcp(G4, 40000, R4, 80, flags=ACK | PSH, seq=stream.seq, ack=stream.ack, payload=payload)


FULL = USUAL | OFFLOADS


@pytest.mark.parametrize("cuts", [(), (66,), (66, 4096, 4096), (12, 54), (1, 11, 100), [4096] * 9,
                                  [300] * 200])
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


@pytest.mark.parametrize("cuts", [(), (66,), (67, 4097), (12, 55), [301] * 60, [300] * 200])
@pytest.mark.parametrize("place", [None, 200, 39999])
def test_large_segment_is_verified_whatever_its_pieces(make: Callable[..., VhostBench], cuts: tuple[int, ...],
                                                 place: int | None) -> None:
    bench = make(features=PLAIN, size=1024)
    bench.front.offer(2048, 64)
    stream = connect(bench)
    payload = os.urandom(40000)
    frame = bytearray(data(stream, payload))
    if place is not None:
        frame[54 + place] ^= 1
    bench.front.send(bytes(frame), cuts=cuts)
    bench.turn()
    if place is None:
        got = b""
        while len(got) < len(payload):
            got += stream.remote.recv(65536)
        assert got == payload
    assert bench.drops() == ({} if place is None else {"drop_bad_checksum": 1})
    stream.remote.close()


@pytest.mark.parametrize("way", ["out", "in"])
def test_payload_that_is_cut_off_ends_the_session(make: Callable[..., VhostBench], way: str) -> None:
    bench = make(features=FULL, size=1024)
    bench.front.offer(2048, 64 if way == "out" else 2)
    stream = connect(bench)
    ring, place = bench.front.transmit_ring(), ABOVE_HOLE + MIB
    if way == "out":
        whole = Header(NEEDS_CSUM, GSO_TCPV4, 54, 1460, 34, 16).build() + data(stream, bytes(40000))
        start = bench.front.memory.take(66)
        bench.front.memory.write(start, whole[:66])
        ring.post(ring.add([Buffer(start, 66), Buffer(place, len(whole) - 66)]))
    else:
        receive = bench.front.receive_ring()
        receive.post(*[receive.add((), [Buffer(place + i * 65536, 65536)]) for i in range(4)])
        stream.remote.send(bytes(60000))
    bench.front.memory.regions[2].truncate(4096)
    assert bench.await_end() == "it cut off memory that it shares"
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


@pytest.mark.parametrize(("features", "length"), [
    *((features, length) for features in (PLAIN, USUAL, FULL, FULL & ~Feature.EVENT_IDX)
      for length in (1600, 4096, 70000)),
    # A driver without mergeable buffers offers 65562 bytes (virtio 1.2, 5.1.6.3.1).
    (FULL & ~Feature.MRG_RXBUF, 70000),
])
def test_stream_to_the_guest_arrives_whole(make: Callable[..., VhostBench], features: int,
                                           length: int) -> None:
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


def test_ring_that_data_finds_damaged_ends_the_session(make: Callable[..., VhostBench]) -> None:
    bench = make(features=FULL)
    bench.front.offer(2048, 1)
    stream = connect(bench)
    bench.front.offer(70000, 1)
    bench.front.receive_ring().publish(256)
    bench.turn()
    stream.remote.send(bytes(100000))
    assert bench.await_end() == "ring 0 is damaged: a chain begins outside of the ring"
    stream.remote.close()


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


def test_datagram_that_waits_is_read_when_a_request_ends_the_wait_in_the_same_turn(bench: VhostBench) -> None:
    events = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)]

    def fill() -> None:
        os.eventfd_read(events[0])
        assert bench.engine.send_frame(ARP)
        assert bench.engine.send_frame(ARP)

    def go_on() -> None:
        os.eventfd_read(events[1])
        bench.front.offer(2048, 8)
        bench.device.enable_ring(0, True)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as remote:
        remote.bind(("127.0.0.1", 0))
        remote.settimeout(60)
        bench.policy.target = Target(packed("127.0.0.1"), remote.getsockname()[1])
        bench.front.send(udp(G4, 40000, R4, 53, b"question"))
        bench.turn()
        _, peer = remote.recvfrom(2000)
        bench.front.offer(2048, 1)
        bench.turn()
        for event, callback in zip(events, (fill, go_on), strict=True):
            bench.engine.add_reader(event, callback)
        os.eventfd_write(events[0], 1)
        remote.sendto(b"answer", peer)
        os.eventfd_write(events[1], 1)
        got = bench.receive(3)
    assert got[2].frame[42:48] == b"answer"
    for event in events:
        bench.engine.remove_reader(event)
        os.close(event)


@pytest.mark.parametrize("features", [USUAL, FULL])
def test_datagrams_for_the_guest_are_joined_where_it_cuts_them(make: Callable[..., VhostBench],
                                                               features: int) -> None:
    bench = make(features=features, size=1024)
    bench.front.offer(2048, 512)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as remote:
        remote.bind(("127.0.0.1", 0))
        remote.settimeout(60)
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
