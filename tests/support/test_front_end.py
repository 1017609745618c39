"""The front end of the tests against a back end of a few lines: shapes of chains, wraps, events, messages."""

from __future__ import annotations

import mmap
import os
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from tests.support.dirty_log import DirtyLog, pages
from tests.support.front_end import PLAIN, USUAL, Feature, FrontEnd, Header
from tests.support.guest_memory import PAGE, Buffer, GuestMemory, Region
from tests.support.split_ring import NO_NOTIFY, SplitRing, cut, needs_event
from tests.support.vhost_client import (
    NEED_REPLY,
    REPLY,
    VERSION,
    Client,
    ProtocolFeature,
    Refused,
    Request,
    build,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from passt.facts.contracts import MemoryRegion

HEADER = Header(flags=1, csum_start=34, csum_offset=16)
FRAME = bytes(range(200)) * 5


class BackEnd:
    """Takes what the guest sends into `taken`, and gives it `frames`; all by maps of its own."""

    def __init__(self) -> None:
        self.log: list[tuple[object, ...]] = []
        self.maps: list[tuple[MemoryRegion, mmap.mmap]] = []
        self.sizes: dict[int, int] = {}
        self.bases: dict[int, int] = {}
        self.addresses: dict[int, tuple[int, int, int]] = {}
        self.calls: dict[int, int] = {}
        self.kicks: dict[int, int] = {}

    def set_features(self, features: int) -> None:
        self.log.append(("features", features))

    def set_memory(self, regions: Sequence[MemoryRegion]) -> None:
        self.maps = [(region, mmap.mmap(region.fd, region.mmap_offset + region.size)) for region in regions]

    def set_ring_size(self, ring: int, size: int) -> None:
        self.sizes[ring] = size

    def set_ring_base(self, ring: int, base: int) -> None:
        self.bases[ring] = base

    def set_ring_addresses(self, ring: int, descriptors: int, used: int, available: int,
                           log: int | None) -> None:
        assert log is None
        self.addresses[ring] = descriptors, used, available

    def set_kick(self, ring: int, fd: int) -> None:
        self.kicks[ring] = fd

    def set_call(self, ring: int, fd: int) -> None:
        self.calls[ring] = fd

    def enable_ring(self, ring: int, enabled: bool) -> None:
        self.log.append(("enable", ring, enabled))

    def stop_ring(self, ring: int) -> int:
        os.close(self.kicks.pop(ring))
        os.close(self.calls.pop(ring))
        return self.bases[ring]

    def place(self, address: int, *, user: bool = False) -> tuple[mmap.mmap, int]:
        for region, mapped in self.maps:
            start = region.user_address if user else region.guest_address
            if start <= address < start + region.size:
                return mapped, region.mmap_offset + address - start
        raise KeyError(address)

    def bytes_of(self, address: int, length: int) -> list[tuple[mmap.mmap, int]]:
        return [self.place(address + at) for at in range(length)]

    def chain(self, ring: int, head: int) -> list[tuple[int, int, int]]:
        """Address, length and flags of each buffer."""
        mapped, at = self.place(self.addresses[ring][0], user=True)
        rows = []
        index = head
        while True:
            address, length, flags, following = struct.unpack_from("<QIHH", mapped, at + 16 * index)
            if flags & 4:
                assert not flags & 1
                mapped, at = self.place(address)
                index, left = 0, length // 16
                assert length == 16 * left
                continue
            rows.append((address, length, flags))
            if not flags & 1:
                return rows
            index = following

    def run(self, ring: int, *frames: bytes) -> list[bytes]:
        """Use what is available: on a receive ring for *frames*, on a transmit ring all; returns that."""
        _, used_at, available_at = self.addresses[ring]
        available, base = self.place(available_at, user=True)
        used, used_base = self.place(used_at, user=True)
        size = self.sizes[ring]
        (end,) = struct.unpack_from("<H", available, base + 2)
        taken = []
        to_give = list(frames)
        while self.bases[ring] != end and (ring % 2 or to_give):
            at = self.bases[ring]
            (head,) = struct.unpack_from("<H", available, base + 4 + 2 * (at % size))
            rows = self.chain(ring, head)
            cells = [cell for address, length, flags in rows for cell in self.bytes_of(address, length)]
            assert {flags & 2 for _, _, flags in rows} == {0 if ring % 2 else 2}
            length = 0
            if ring % 2:
                taken.append(bytes(mapped[place] for mapped, place in cells))
            else:
                data = to_give.pop(0)
                length = min(len(data), len(cells))
                for (mapped, place), value in zip(cells, data[:length], strict=False):
                    mapped[place] = value
                if data[length:]:
                    to_give.insert(0, data[length:])
            struct.pack_into("<II", used, used_base + 4 + 8 * (at % size), head, length)
            self.bases[ring] = (at + 1) % 65536
            struct.pack_into("<H", used, used_base + 2, self.bases[ring])
        os.eventfd_write(self.calls[ring], 1)
        return taken

    def close(self) -> None:
        for ring in list(self.calls):
            self.stop_ring(ring)
        for _, mapped in self.maps:
            mapped.close()


@pytest.fixture(params=[USUAL, PLAIN], ids=["usual", "plain"])
def both(request: pytest.FixtureRequest) -> Iterator[tuple[FrontEnd, BackEnd]]:
    front_end, back_end = FrontEnd(size=16, features=request.param), BackEnd()
    front_end.start(back_end)
    yield front_end, back_end
    back_end.close()
    front_end.close()


def test_start_and_stop(both: tuple[FrontEnd, BackEnd]) -> None:
    front_end, back_end = both
    assert back_end.log == [("features", front_end.features), ("enable", 0, True), ("enable", 1, True)]
    assert back_end.sizes == {0: 16, 1: 16}
    assert front_end.stop(back_end) == [0, 0]
    assert back_end.log[3:] == [("enable", 0, False), ("enable", 1, False)]


@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("cuts", [(), (12,), (5, 7, 14), (10, 2, 1), (1,) * 13])
def test_frame_in_every_shape(both: tuple[FrontEnd, BackEnd], cuts: tuple[int, ...], *, indirect: bool,
                              across: bool) -> None:
    front_end, back_end = both
    for _ in range(40):
        chain = front_end.send(FRAME, HEADER, cuts=cuts, indirect=indirect, across=across)
        assert len(chain.readable) == len(cuts) + 1
        assert back_end.run(1) == [HEADER.build() + FRAME]
        (used,) = front_end.sent()
        assert used.chain is chain
    assert len(front_end.transmit_ring().free) == 16


def test_one_byte_a_descriptor(both: tuple[FrontEnd, BackEnd]) -> None:
    front_end, back_end = both
    for indirect in (True, False):
        frame = FRAME if indirect else FRAME[:4]
        chain = front_end.send(frame, cuts=[1] * 1200, indirect=indirect)
        assert {buffer.length for buffer in chain.readable} == {1}
        assert back_end.run(1) == [bytes(12) + frame]
        front_end.sent()


@pytest.mark.parametrize("across", [False, True])
def test_receiving(both: tuple[FrontEnd, BackEnd], *, across: bool) -> None:
    front_end, back_end = both
    for _ in range(40):
        front_end.offer(2000, cuts=[12, 100], across=across)
        back_end.run(0, HEADER._replace(num_buffers=1).build() + FRAME)
        assert front_end.receive_ring().called()
        (received,) = front_end.received()
        assert (received.frame, received.header) == (FRAME, HEADER._replace(num_buffers=1))


def test_frame_in_several_buffers_is_joined_when_all_are_there() -> None:
    front_end, back_end = FrontEnd(size=16), BackEnd()
    front_end.start(back_end)
    front_end.offer(400, 2)
    data = HEADER._replace(num_buffers=3).build() + FRAME
    back_end.run(0, data[:800])
    assert front_end.received() == []
    front_end.offer(400)
    back_end.run(0, data[800:])
    (received,) = front_end.received()
    assert (received.frame, len(received.chains)) == (FRAME, 3)
    back_end.close()
    front_end.close()


def test_indices_wrap_and_memory_comes_back(both: tuple[FrontEnd, BackEnd]) -> None:
    front_end, back_end = both
    ring = front_end.transmit_ring()
    for number in range(66000 // 16):
        for _ in range(16):
            front_end.send(number.to_bytes(4, "little"), post=False)
        assert not ring.free
        ring.post(*ring.outstanding.values())
        back_end.bases[1], ring_end = ring.published, ring.published
        used, at = back_end.place(back_end.addresses[1][1], user=True)
        for slot, head in enumerate(list(ring.outstanding)):
            struct.pack_into("<II", used, at + 4 + 8 * ((ring_end + slot) % 16), head, 0)
        struct.pack_into("<H", used, at + 2, ring_end)
        assert len(front_end.sent()) == 16
    assert ring.published == 66000 % 65536


def test_kicks_are_as_the_back_end_wants_them() -> None:
    memory = GuestMemory()
    by_index, by_flag = SplitRing(memory, 16, event_index=True, base=65534), SplitRing(memory, 16)
    by_index.set_avail_event(65535)
    wanted = [by_index.publish(by_index.add([Buffer(0, 1)])) for _ in range(4)]
    assert wanted == [False, True, False, False]
    assert by_flag.publish(by_flag.add([Buffer(0, 1)]))
    by_flag.set_used_flags(NO_NOTIFY)
    assert not by_flag.publish(by_flag.add([Buffer(0, 1)]))
    memory.close()


@pytest.mark.parametrize(("event", "new", "old", "wanted"), [
    (0, 1, 0, True), (1, 1, 0, False), (0, 0, 65535, False), (65535, 0, 65535, True), (65535, 5, 0, False)])
def test_event_index(event: int, new: int, old: int, *, wanted: bool) -> None:
    assert needs_event(event, new, old) == wanted


def test_back_end_that_returns_what_it_was_not_given_is_found() -> None:
    memory = GuestMemory()
    ring = SplitRing(memory, 16)
    chain = ring.add((), [Buffer(0, 10)])
    ring.publish(chain)
    for head, length in ((chain.head + 1, 0), (chain.head, 11)):
        memory.put(ring.used + 4, "II", head, length)
        ring.set_used_index(1)
        with pytest.raises(AssertionError):
            ring.take()
        ring.taken, ring.outstanding = 0, {chain.head: chain}
    ring.set_used_index(2)
    with pytest.raises(AssertionError):
        ring.take()
    memory.close()


def test_fields_are_where_the_standard_has_them() -> None:
    memory = GuestMemory(Region(0x1000, 1 << 20, mmap_offset=PAGE, user_address=1 << 40))
    ring = SplitRing(memory, 8)
    ring.set_descriptor(1, 2, 3, 4, 5)
    ring.set_available_flags(6)
    ring.set_available_index(7)
    ring.set_available_entry(9, 8)
    ring.set_used_event(9)
    ring.set_used_flags(10)
    ring.set_used_index(11)
    ring.set_avail_event(12)
    assert memory.read(ring.descriptors + 16, 16) == struct.pack("<QIHH", 2, 3, 4, 5)
    assert memory.read(ring.available, 22) == struct.pack("<11H", 6, 7, 0, 8, 0, 0, 0, 0, 0, 0, 9)
    assert memory.read(ring.used, 4) == struct.pack("<HH", 10, 11)
    assert memory.read(ring.used + 4 + 64, 2) == struct.pack("<H", 12)
    assert ring.user_addresses()[0] == (1 << 40) + ring.descriptors - 0x1000
    assert os.pread(memory.regions[0].fd, 2, PAGE + ring.used + 2 - 0x1000) == b"\x0b\0"
    memory.close()


def test_cuts_end_with_the_range_and_may_be_empty() -> None:
    assert cut(100, 5, [2, 0, 9, 9]) == [Buffer(100, 2), Buffer(102, 0), Buffer(102, 3)]
    assert cut(100, 5, []) == [Buffer(100, 5)]


def test_dirty_pages() -> None:
    log = DirtyLog(1 << 20, offset=100)
    os.pwrite(log.fd, b"\x81", 101)
    assert log.take() == {8, 15} == pages(8 * 4096, 1) | pages(16 * 4096 - 1, 1)
    assert log.take() == set()
    assert pages(4095, 2) == {0, 1}
    assert pages(0, 0) == set()
    log.close()


# Messages


@pytest.fixture
def ends() -> Iterator[tuple[Client, socket.socket]]:
    ours, other = socket.socketpair()
    client = Client(ours)
    with ours, other:
        yield client, other


def test_session_begins(ends: tuple[Client, socket.socket]) -> None:
    client, other = ends
    offered = int(PLAIN | Feature.MRG_RXBUF)
    for number, value in ((Request.GET_FEATURES, offered), (Request.GET_PROTOCOL_FEATURES, 0b1011),
                          (Request.GET_QUEUE_NUM, 4)):
        other.send(build(number, struct.pack("=Q", value), VERSION | REPLY))
    assert client.negotiate(~int(ProtocolFeature.LOG_SHMFD)) == offered
    assert (client.protocol, client.n_pairs) == (0b1001, 4)
    assert other.recv(1000) == (
        build(3) + build(1) + build(15) + build(16, struct.pack("=Q", 0b1001)) + build(17))


def test_front_end_starts_over_a_socket(ends: tuple[Client, socket.socket]) -> None:
    client, other = ends
    front_end = FrontEnd(size=16)
    before = len(os.listdir("/proc/self/fd"))
    front_end.start(client)
    assert len(os.listdir("/proc/self/fd")) == before + 4
    data, fds, _, _ = socket.recv_fds(other, 8 + 12, 8)  # the kernel ends a read where descriptors begin
    assert (data, fds) == (build(Request.SET_FEATURES, struct.pack("=Q", USUAL)), [])
    data, fds, _, _ = socket.recv_fds(other, 12 + 8 + 3 * 32, 8)
    assert data[:20] == struct.pack("=5I", Request.SET_MEM_TABLE, VERSION, 8 + 3 * 32, 3, 0)
    assert len(fds) == 3
    for fd in fds:
        os.close(fd)
    front_end.close()


def test_acknowledged_requests(ends: tuple[Client, socket.socket]) -> None:
    client, other = ends
    client.protocol = ProtocolFeature.REPLY_ACK
    other.send(build(Request.SET_VRING_NUM, bytes(8), VERSION | REPLY))
    client.set_ring_size(1, 256)
    assert other.recv(100) == build(Request.SET_VRING_NUM, struct.pack("=II", 1, 256), VERSION | NEED_REPLY)
    other.send(build(Request.SET_VRING_NUM, struct.pack("=Q", 1), VERSION | REPLY))
    with pytest.raises(Refused, match="SET_VRING_NUM"):
        client.set_ring_size(1, 255)
    other.send(build(Request.GET_VRING_BASE, struct.pack("=II", 1, 77), VERSION | REPLY))
    assert client.stop_ring(1) == 77


def test_answer_to_something_else_or_none_is_found(ends: tuple[Client, socket.socket]) -> None:
    client, other = ends
    other.send(build(Request.GET_QUEUE_NUM, bytes(8), VERSION | REPLY))
    with pytest.raises(AssertionError):
        client.ask(Request.GET_FEATURES)
    other.send(build(Request.GET_FEATURES, bytes(4), VERSION | REPLY, size=8))
    other.close()
    with pytest.raises(ConnectionError):
        client.ask(Request.GET_FEATURES)
    assert len(client.await_end()) < 20
