"""Captures: what is recorded, when it is in the file, and what happens when it cannot be."""

import errno
import os
import resource
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from passt.run import pcap_file
from tests.dataplane.engine_bench import Bench
from tests.support.frames import ethernet, ip, pseudo_header, rfc1071, udp
from tests.support.isolated import in_child
from tests.support.tshark import tshark

G4, R4 = "192.0.2.2", "198.51.100.7"
ARP = ethernet(bytes(28), kind=0x0806)
REPLY = b"\x11" * 60
NEEDS_CSUM = 1
GSO_TCP4 = 1


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.end()


def start(bench: Bench, path: Path) -> list[int]:
    """Capture to a new file; returns the list that will hold the errno of its end."""
    ends: list[int] = []
    bench.engine.start_capture(pcap_file.create(str(path))[0], ends.append)
    return ends


def records(data: bytes) -> list[tuple[float, bytes]]:
    """Time and content of each frame; the file must be whole."""
    assert data[:24] == pcap_file.header()
    at, found = 24, []
    while at < len(data):
        seconds, microseconds, n, length = struct.unpack_from("=IIII", data, at)
        assert n == length
        assert microseconds < 1000000
        assert at + 16 + n <= len(data), "a record is cut"
        found.append((seconds + microseconds / 1e6, data[at + 16 : at + 16 + n]))
        at += 16 + n
    return found


def test_both_directions_are_in_the_file_before_the_loop_sleeps(bench: Bench, tmp_path: Path) -> None:
    start(bench, tmp_path / "capture")
    bench.responder.replies = [REPLY]
    before = time.time()
    bench.give(ARP)
    bench.turn()
    found = records((tmp_path / "capture").read_bytes())
    assert [frame for _, frame in found] == [ARP, REPLY]
    assert before - 1e-6 <= found[0][0] <= found[1][0] <= time.time()
    assert bench.engine.end_capture() == (2, 0)
    bench.give(ARP)
    bench.turn()
    assert len(records((tmp_path / "capture").read_bytes())) == 2
    assert bench.engine.end_capture() is None


def test_dropped_and_control_frames_are_there_too(bench: Bench, tmp_path: Path) -> None:
    start(bench, tmp_path / "capture")
    odd = ethernet(bytes(46), kind=0x88CC)
    bench.give(odd, ARP)
    bench.turn()
    assert [frame for _, frame in records((tmp_path / "capture").read_bytes())] == [odd, ARP]


@pytest.mark.parametrize("n", [0, 1, 18, 1000, 1001])
def test_unfinished_checksum_is_filled_in(bench: Bench, tmp_path: Path, n: int) -> None:
    start(bench, tmp_path / "capture")
    frame = bytearray(udp(G4, 4000, R4, 5000, (b"not any protocol " * 100)[:n]))
    whole = bytes(frame)
    pseudo = 0xFFFF - rfc1071(pseudo_header(G4, R4, 17, 8 + n))
    frame[40:42] = pseudo.to_bytes(2, "big")
    bench.kernel.send(struct.pack("=BBHHHH", NEEDS_CSUM, 0, 42, 0, 34, 6) + frame)
    bench.turn()
    ((_, seen),) = records((tmp_path / "capture").read_bytes())
    assert seen == whole
    assert tshark(tmp_path / "capture", "-T", "fields", "-e", "udp.checksum.status") == ["1"]


@pytest.mark.parametrize(("at", "offset"), [(1, 65535), (65535, 6), (40, 16), (14, 0)])
def test_checksum_beyond_the_frame_does_no_harm(bench: Bench, tmp_path: Path, at: int, offset: int) -> None:
    start(bench, tmp_path / "capture")
    frame = ethernet(ip(G4, R4, 132, bytes(20)))
    bench.kernel.send(struct.pack("=BBHHHH", NEEDS_CSUM, 0, 0, 0, at, offset) + frame)
    bench.turn()
    ((_, seen),) = records((tmp_path / "capture").read_bytes())
    assert len(seen) == len(frame)


def test_segmented_frame_stays_whole(bench: Bench, tmp_path: Path) -> None:
    start(bench, tmp_path / "capture")
    segment = struct.pack("!HHIIBBHHH", 4000, 80, 1, 1, 0x50, 16, 1000, 0, 0) + b"not any protocol    " * 3000
    frame = bytearray(ethernet(ip(G4, R4, 6, segment)))
    frame[50:52] = (0xFFFF - rfc1071(pseudo_header(G4, R4, 6, len(segment)))).to_bytes(2, "big")
    bench.kernel.send(struct.pack("=BBHHHH", NEEDS_CSUM, GSO_TCP4, 54, 1448, 34, 16) + frame)
    bench.turn()
    first = records((tmp_path / "capture").read_bytes())[0][1]
    assert len(first) == len(frame)
    fields = tshark(tmp_path / "capture", "-o", "tcp.check_checksum:TRUE", "-T", "fields",
                    "-e", "frame.len", "-e", "tcp.len", "-e", "tcp.checksum.status", "-c", "1")
    assert fields == [f"{len(frame)}\t60000\t1"]


def test_more_than_the_buffer_holds_is_complete(bench: Bench, tmp_path: Path) -> None:
    start(bench, tmp_path / "capture")
    sent = []
    for number in range(40):
        sent.append(ethernet(number.to_bytes(2, "big") * 15000, kind=0x88CC))
        bench.give(sent[-1])
        if number % 4 == 3:
            bench.until(lambda: bench.engine.counters()["frames_from_guest"] == len(sent))
    assert [frame for _, frame in records((tmp_path / "capture").read_bytes())] == sent
    assert bench.engine.end_capture() == (40, 0)


@in_child
def test_full_disk_ends_the_capture_with_a_whole_record(tmp_path: Path) -> None:
    bench = Bench()
    path = tmp_path / "capture"
    ends = start(bench, path)
    # As on a full disk the last write is a short one, which leaves half a record.
    resource.setrlimit(resource.RLIMIT_FSIZE, (24 + 3 * (16 + 1042) + 500, resource.RLIM_INFINITY))
    frame = ethernet(bytes(1028), kind=0x88CC)
    for _ in range(3):
        bench.give(frame, frame)
        bench.turn()
    assert ends == [errno.EFBIG]
    assert [seen for _, seen in records(path.read_bytes())] == [frame] * 3
    assert bench.engine.counters()["frames_from_guest"] == 6
    bench.engine.start_capture(os.open(os.devnull, os.O_WRONLY), ends.append)
    assert bench.engine.end_capture() == (0, 0)
    bench.end()


def test_count_of_a_capture_that_ended_is_that_of_the_file(bench: Bench, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    ends: list[int] = []
    bench.engine.start_capture(writer, ends.append)
    bench.give(ARP)
    bench.turn()
    os.close(reader)
    bench.give(ARP)
    bench.turn()
    assert ends == [errno.EPIPE]
    assert bench.engine.end_capture() == (1, 0)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(writer)
    assert not list(tmp_path.iterdir())


def test_slow_reader_of_a_pipe_loses_whole_records_and_holds_nobody_up(bench: Bench) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    os.write(writer, pcap_file.header())
    ends: list[int] = []
    bench.engine.start_capture(writer, ends.append)
    frame = ethernet(bytes(60000), kind=0x88CC)  # to which there is no answer
    for _ in range(30):
        bench.give(frame)
        bench.turn()
    data = b""
    os.set_blocking(reader, False)
    with suppress(BlockingIOError):
        while True:
            data += os.read(reader, 1 << 20)
            bench.turn()
    counts = bench.engine.end_capture()
    while more := os.read(reader, 1 << 20):
        data += more
    os.close(reader)
    assert counts is not None
    n_frames, n_lost = counts
    assert n_lost >= 15
    assert ends == []
    seen = records(data)
    assert len(seen) == n_frames
    assert {found for _, found in seen} == {frame}
    assert bench.engine.counters()["frames_from_guest"] >= 30


def test_descriptor_goes_with_the_engine(tmp_path: Path) -> None:
    bench = Bench()
    fd = pcap_file.create(str(tmp_path / "capture"))[0]
    bench.engine.start_capture(fd, lambda _: None)
    bench.give(ARP)
    bench.end()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)
    assert [frame for _, frame in records((tmp_path / "capture").read_bytes())] == [ARP]
