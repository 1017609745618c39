"""Packets as pcapng in bounded memory: blocks to the byte, filters, readers that are slow or gone."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from typing import TYPE_CHECKING

import pytest

from passt.dataplane.base import wait_limit
from passt.facts.contracts import (
    MAX_FILTER_PARTS,
    ON_BYPASS,
    ON_LINK,
    SEEN_ARP,
    SEEN_ICMP,
    SEEN_ICMP6,
    SEEN_IP4,
    SEEN_IP6,
    SEEN_TCP,
    SEEN_UDP,
    PacketFilter,
    Target,
)
from tests.dataplane.engine_bench import Bench
from tests.support import pcapng
from tests.support.frames import ethernet, ip, packed, pseudo_header, rfc1071, udp
from tests.support.isolated import in_child

if TYPE_CHECKING:
    from collections.abc import Iterator

    from passt.facts.contracts import Recorder

G4, R4, G6, R6 = "192.0.2.2", "198.51.100.7", "2001:db8::2", "2001:db8:9::7"
ARP = ethernet(struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, 1, bytes(6), packed(G4), bytes(6), packed(R4)),
               kind=0x0806)  # fmt: skip
HEADER = struct.pack("=II12xI", pcapng.SECTION, 24, 24)
REPLY = b"\x11" * 60
ROOM = 1 << 18
ALL = PacketFilter()
EVERYTHING = 1 << 60
F_SETPIPE_SZ = 1031


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    made.policy.refuses = True   # no frame leads to a socket of the machine
    yield made
    made.end()


def start(bench: Bench, wanted: PacketFilter = ALL, *, room: int = ROOM, snap_len: int = 262144,
          keeps_newest: bool = False) -> Recorder:
    return bench.engine.start_recorder(wanted, b"", room, snap_len=snap_len, keeps_newest=keeps_newest)


def give(bench: Bench, *frames: bytes) -> None:
    """Have the guest send *frames*, and take what it gets, as its queue is short."""
    for frame in frames:
        bench.give(frame)
        bench.turn()
        bench.frames()


def taken(recorder: Recorder) -> list[pcapng.Packet]:
    """Read all that is there, and make room."""
    place, data = recorder.read(0, EVERYTHING, EVERYTHING)
    recorder.forget(place)
    return pcapng.packets(data)


def segment(source_port: int = 4000, port: int = 80, payload: bytes = b"") -> bytes:
    return struct.pack("!HHIIBBHHH", source_port, port, 1, 1, 0x50, 16, 1000, 0, 0) + payload


def test_block_is_right_to_the_byte(bench: Bench) -> None:
    recorder = start(bench)
    frame = ethernet(bytes(47), kind=0x88CC)     # 61 bytes
    before = time.time_ns()
    bench.give(frame)
    bench.turn()
    _, data = recorder.read(0, EVERYTHING, EVERYTHING)
    high, low = struct.unpack_from("=II", data, 12)
    assert before <= high << 32 | low <= time.time_ns()
    assert data == (
        struct.pack("=IIIIIII", 6, 108, 0, high, low, 61, 61) + frame + bytes(3)
        + struct.pack("=HHI", 2, 4, 2) + struct.pack("=HH", 0, 0) + struct.pack("=I", 108))  # fmt: skip
    assert recorder.counts() == ((1, 0, 0), (0, 0, 0))


def test_both_directions_are_told_apart_and_the_flow_is_named(bench: Bench) -> None:
    recorder = start(bench)
    bench.responder.replies = [REPLY]
    bench.give(ARP)
    bench.turn()
    first, second = taken(recorder)
    assert (first.data, first.direction) == (ARP, pcapng.OUTBOUND)
    assert (second.data, second.direction) == (REPLY, pcapng.INBOUND)
    bench.policy.refuses, bench.policy.target = False, Target(packed("127.0.0.1"), 9)
    question = udp(G4, 4000, R4, 5000, b"x")
    for _ in range(2):
        bench.give(question)
        bench.turn()
    (flow,) = [flow for flow in bench.engine.detail_page()[0] if flow.proto == 17]
    before, after = (each for each in taken(recorder) if each.direction == pcapng.OUTBOUND)
    assert before.comment == ""                    # there is no flow yet
    assert after.comment == f"flow {flow.number}.{flow.generation}"


@pytest.mark.parametrize("snap_len", [1, 41, 42, 100, 142, 143])
def test_long_frames_are_cut_and_their_checksums_are_of_the_whole(bench: Bench, snap_len: int) -> None:
    recorder = start(bench, snap_len=snap_len)
    frame = bytearray(udp(G4, 4000, R4, 5000, os.urandom(100)))
    whole = bytes(frame)
    frame[40:42] = (0xFFFF - rfc1071(pseudo_header(G4, R4, 17, 108))).to_bytes(2, "big")
    bench.kernel.send(struct.pack("=BBHHHH", 1, 0, 42, 0, 34, 6) + frame)
    bench.turn()
    (seen,) = taken(recorder)
    expected = bytes(frame[:snap_len]) if snap_len < 42 else whole[:snap_len]
    assert (seen.data, seen.length) == (expected, 142)


FRAMES = {
    "arp": ARP,
    "other": ethernet(bytes(46), kind=0x88CC),
    "tcp4": ethernet(ip(G4, R4, 6, segment())),
    "tcp6": ethernet(ip(G6, R6, 6, segment(port=8080))),
    "udp4": udp(G4, 4000, R4, 53, b"question"),
    "udp6": udp(G6, 4000, R6, 53, b"question"),
    "icmp4": ethernet(ip(G4, R4, 1, struct.pack("!BBHHH", 8, 0, 0, 80, 1))),
    "icmp6": ethernet(ip(G6, R6, 58, struct.pack("!BBHHH", 128, 0, 0, 80, 1))),
    "fragment": ethernet(ip(G4, R4, 17, bytes.fromhex("0fa00035") + bytes(20)).replace(
        bytes.fromhex("4000"), bytes.fromhex("2000"), 1)),
    "sctp": ethernet(ip(G4, R4, 132, bytes(20))),
    "damaged": ethernet(b"\x45" + bytes(45), kind=0x0800),
}  # fmt: skip


@pytest.mark.parametrize(("wanted", "expected"), [
    (PacketFilter(), set(FRAMES)),
    (PacketFilter(protocols=SEEN_TCP), {"tcp4", "tcp6"}),
    (PacketFilter(protocols=SEEN_UDP), {"udp4", "udp6", "fragment"}),
    (PacketFilter(protocols=SEEN_ICMP | SEEN_ICMP6), {"icmp4", "icmp6"}),
    (PacketFilter(protocols=SEEN_ARP), {"arp"}),
    (PacketFilter(families=SEEN_IP6), {"tcp6", "udp6", "icmp6"}),
    (PacketFilter(families=SEEN_IP4), {"tcp4", "udp4", "icmp4", "fragment", "sctp", "damaged"}),
    (PacketFilter(protocols=SEEN_TCP, families=SEEN_IP4), {"tcp4"}),
    (PacketFilter(ports=((80, 80),)), {"tcp4"}),
    (PacketFilter(ports=((50, 60), (8080, 8080))), {"udp4", "udp6", "tcp6"}),
    (PacketFilter(ports=((4000, 4000),), protocols=SEEN_UDP), {"udp4", "udp6"}),
    (PacketFilter(ports=((1, 52), (54, 79), (81, 3999), (4001, 8079), (8081, 65535))), set()),
    (PacketFilter(networks=((packed(G4), 32),)), {"arp", "tcp4", "udp4", "icmp4", "fragment", "sctp"}),
    (PacketFilter(networks=((packed("198.51.100.4"), 30),)),
     {"arp", "tcp4", "udp4", "icmp4", "fragment", "sctp"}),
    (PacketFilter(networks=((packed("198.51.100.4"), 31),)), set()),
    (PacketFilter(networks=((packed("::"), 0),)), {"tcp6", "udp6", "icmp6"}),
    (PacketFilter(networks=((packed("2001:db8:8::"), 47), (packed("10.0.0.0"), 8))),
     {"tcp6", "udp6", "icmp6"}),
    (PacketFilter(networks=((packed("2001:db8:8::"), 48),)), set()),
    (PacketFilter(interfaces=ON_LINK), set(FRAMES)),
    (PacketFilter(interfaces=ON_BYPASS), set()),
])  # fmt: skip
def test_filter_takes_what_fits_all_its_parts(bench: Bench, wanted: PacketFilter, expected: set[str]) -> None:
    recorder = start(bench, wanted)
    give(bench, *FRAMES.values())
    seen = [each.data for each in taken(recorder) if each.direction == pcapng.OUTBOUND]
    assert {name for name, frame in FRAMES.items() if frame in seen} == expected
    assert len(seen) == len(expected)


@pytest.mark.parametrize("name", [name for name in FRAMES if name != "other"])
def test_every_truncation_of_a_frame_is_taken_and_does_no_harm(bench: Bench, name: str) -> None:
    recorders = [start(bench), start(bench, PacketFilter(ports=((53, 53),), networks=((packed(G4), 31),)))]
    frame = FRAMES[name]
    for n in range(14, len(frame)):
        give(bench, frame[:n])
    assert [each.data for each in taken(recorders[0]) if each.direction == pcapng.OUTBOUND] == [
        frame[:n] for n in range(14, len(frame))]


@pytest.mark.parametrize("wanted", [
    PacketFilter(ports=((1, 2),) * (MAX_FILTER_PARTS + 1)),
    PacketFilter(networks=((bytes(4), 8),) * (MAX_FILTER_PARTS + 1)),
    PacketFilter(networks=((bytes(5), 8),)), PacketFilter(networks=((bytes(4), 33),)),
])  # fmt: skip
def test_filter_that_makes_no_sense_is_refused(bench: Bench, wanted: PacketFilter) -> None:
    with pytest.raises(ValueError, match=r"address|filter"):
        start(bench, wanted)
    with pytest.raises(ValueError, match="room"):
        start(bench, room=4096)


def test_packets_without_room_are_lost_and_counted_where_they_lack(bench: Bench) -> None:
    recorder = start(bench, room=1 << 17)
    frame = ethernet(bytes(40000), kind=0x88CC)
    for _ in range(5):
        bench.give(frame)
        bench.turn()
    assert recorder.counts()[0] == (3, 2, 0)
    assert [each.drops for each in taken(recorder)] == [0, 0, 0]
    bench.give(frame, frame)
    bench.turn()
    assert [each.drops for each in taken(recorder)] == [2, 0]
    # What stands at the end always has room.
    for _ in range(5):
        bench.give(frame)
        bench.turn()
    assert recorder.put(bytes(256))


def test_ring_forgets_the_oldest(bench: Bench) -> None:
    recorder = start(bench, room=1 << 17, keeps_newest=True)
    frames = [ethernet(i.to_bytes(2, "big") + bytes(1000 + i), kind=0x88CC) for i in range(500)]
    give(bench, *frames)
    place, data = recorder.read(0, EVERYTHING, EVERYTHING)
    kept = [each.data for each in pcapng.packets(data)]
    assert 70 < len(kept) < 130
    assert kept == frames[-len(kept) :]
    assert recorder.counts()[0] == (500, 0, 500 - len(kept))
    assert place == recorder.end
    # A reader that was there before finds what is left.
    start_place, first = recorder.read(recorder.start, EVERYTHING, 1)
    assert pcapng.packets(first)[0].data == kept[0]
    give(bench, *frames[:20])
    _, rest = recorder.read(start_place, place, EVERYTHING)
    found = [each.data for each in pcapng.packets(rest)]
    assert 0 < len(found) < len(kept)
    assert found == kept[-len(found) :]


def test_pieces_are_whole_blocks_of_at_most_the_size_that_is_asked_for(bench: Bench) -> None:
    recorder = start(bench)
    frames = [ethernet(bytes(n), kind=0x88CC) for n in range(46, 146)]
    give(bench, *frames)
    found: list[bytes] = []
    place = recorder.start
    while place < recorder.end:
        place, data = recorder.read(place, EVERYTHING, 500)
        assert 0 < len(data) <= 500
        found += [each.data for each in pcapng.packets(data)]
    assert found == frames


def test_reader_is_told_once_that_there_is_something(bench: Bench) -> None:
    told: list[int] = []
    recorder = bench.engine.start_recorder(ALL, HEADER, ROOM, snap_len=100, on_change=lambda: told.append(1))
    bench.turn()
    assert told == []
    recorder.ask()
    bench.turn()
    assert told == [1]                             # of the header
    recorder.forget(recorder.end)
    recorder.ask()
    bench.turn()
    assert told == [1]
    for _ in range(2):
        bench.give(ARP)
        bench.turn()
        assert told == [1, 1]


def test_stopped_recorder_gets_nothing_and_others_go_on(bench: Bench) -> None:
    recorders = [start(bench) for _ in range(3)]
    for n in (3, 2, 1, 0):
        bench.give(ARP)
        bench.turn()
        if n:
            bench.engine.stop_recorder(recorders[(n + 1) % 3])
    assert sorted(len(taken(each)) for each in recorders) == [1, 2, 3]


class Pipe:
    """A pipe to which a recorder writes."""

    def __init__(self, bench: Bench, room: int = ROOM) -> None:
        self.reader, writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(writer, False)
        self.changes: list[tuple[bool, int]] = []
        self.shared = os.dup(writer)
        self.recorder = bench.engine.start_recorder(
            ALL, HEADER, room, snap_len=262144, fd=writer,
            on_change=lambda: self.changes.append((self.recorder.is_full, self.recorder.error)))

    def read(self) -> bytes:
        try:
            return os.read(self.reader, 1 << 20)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        for fd in (self.reader, self.shared):
            if fd >= 0:
                os.close(fd)


def test_pipe_has_everything_before_the_loop_sleeps(bench: Bench) -> None:
    pipe = Pipe(bench)
    bench.give(ARP)
    bench.turn()
    data = pipe.read()
    assert data[: len(HEADER)] == HEADER
    assert [each.data for each in pcapng.packets(data[len(HEADER) :])] == [ARP]
    assert pipe.changes == []
    pipe.close()


def test_full_pipe_loses_whole_packets_only(bench: Bench) -> None:
    pipe = Pipe(bench)
    fcntl.fcntl(pipe.shared, F_SETPIPE_SZ, 4096)
    frames = [ethernet(i.to_bytes(2, "big") + bytes(3000), kind=0x88CC) for i in range(200)]
    give(bench, *frames)
    assert pipe.changes == [(True, 0)]
    taken_so_far, lost, _ = pipe.recorder.counts()[0]
    assert taken_so_far + lost == 200
    assert lost > 50
    data = b""
    while piece := pipe.read():
        data += piece
        pipe.recorder.flush()
    assert not pipe.recorder.is_full
    found = [each.data for each in pcapng.packets(data[len(HEADER) :])]
    assert found == frames[:taken_so_far]
    bench.give(ARP)
    bench.turn()
    (last,) = pcapng.packets(pipe.read())
    assert (last.data, last.drops) == (ARP, lost)
    pipe.close()


@in_child
def test_gone_reader_is_told_and_the_traffic_goes_on() -> None:
    bench = Bench()
    pipe = Pipe(bench)
    os.close(pipe.reader)
    pipe.reader = -1
    bench.responder.replies = [REPLY]
    for _ in range(3):
        bench.give(ARP)
        bench.turn()
    assert pipe.changes == [(False, errno.EPIPE)]
    assert bench.frames() == [REPLY] * 3
    bench.engine.stop_recorder(pipe.recorder)
    fd = pipe.recorder.fd
    pipe.recorder.close()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)
    bench.end()


@in_child
def test_pipe_that_is_made_to_wait_ends_the_capture() -> None:
    wait_limit.prepare()
    bench = Bench()
    pipe = Pipe(bench)
    fcntl.fcntl(pipe.shared, F_SETPIPE_SZ, 4096)
    bench.turn()
    assert pipe.read() == HEADER
    os.write(pipe.shared, bytes(4096))
    os.set_blocking(pipe.shared, True)             # all holders share that
    bench.give(ARP)
    bench.turn()
    assert pipe.changes == [(False, errno.EINTR)]
    bench.end()


def test_exception_of_the_callback_ends_the_run(bench: Bench) -> None:
    def broken() -> None:
        raise RuntimeError("a mistake of ours")

    recorder = bench.engine.start_recorder(ALL, HEADER, ROOM, snap_len=100, on_change=broken)
    recorder.ask()
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        bench.turn()


def test_end_of_the_engine_writes_what_the_pipe_takes() -> None:
    bench = Bench()
    pipe = Pipe(bench)
    bench.end()
    assert pipe.read() == HEADER
    pipe.close()
