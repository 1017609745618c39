"""A third kind of link needs nothing of the engine but `link.Link`: two descriptors, pieces, its own end."""

import os
import socket
from collections.abc import Iterator

import pytest

from passt.errors import HostError
from passt.facts.contracts import Target
from tests.dataplane.engine_bench import Bench
from tests.dataplane.probes.link_probe import ChainLink
from tests.support.frames import ethernet, packed, udp

G4, R4 = "192.0.2.2", "198.51.100.7"
ARP = ethernet(bytes(28), kind=0x0806)
MAX_FRAME = 14 + 40 + 65535
SO_RCVBUFFORCE = 33  # asm-generic/socket.h


class ChainBench(Bench):
    """An engine whose link gives frames in pieces; `ends` holds the reasons of its ends."""

    def __init__(self) -> None:
        self.ends: list[str] = []
        super().__init__()

    def attach(self, offloads: int) -> None:
        del offloads
        self.kernel, self.unused = socket.socketpair()
        self.link = ChainLink()
        self.engine.attach_link(self.link, self.ends.append)

    def give_pieces(self, *frames: list[bytes]) -> None:
        """Have the guest send frames and kick."""
        self.link.give(*frames)
        os.eventfd_write(self.link.kicks[0], 1)


@pytest.fixture
def bench() -> Iterator[ChainBench]:
    made = ChainBench()
    yield made
    made.unused.close()
    made.end()


def cut(frame: bytes, *sizes: int) -> list[bytes]:
    """Return *frame* in pieces of the given sizes, and the rest."""
    pieces = []
    for size in sizes:
        pieces.append(frame[:size])
        frame = frame[size:]
    return [*pieces, frame]


@pytest.mark.parametrize("sizes", [(), (14,), (1, 13, 6), (14, 20, 8), (41, 1)])
def test_frame_in_pieces_is_one_frame(bench: ChainBench, sizes: tuple[int, ...]) -> None:
    bench.give_pieces(cut(ARP, *sizes))
    bench.turn()
    assert bench.responder.frames == [ARP]


@pytest.mark.parametrize("sizes", [(), (42,), (20, 22, 100), (42, 1, 1, 1)])
def test_payload_in_pieces_reaches_the_host(bench: ChainBench, sizes: tuple[int, ...]) -> None:
    payload = bytes(range(256)) * 4
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as remote:
        remote.bind(("127.0.0.1", 0))
        remote.settimeout(60)
        bench.policy.target = Target(packed("127.0.0.1"), remote.getsockname()[1])
        bench.give_pieces(*[cut(udp(G4, 40000, R4, 53, payload), *sizes)] * 3)
        bench.turn()
        assert [remote.recv(2000) for _ in range(3)] == [payload] * 3


@pytest.mark.needs_root  # SO_RCVBUFFORCE
def test_frames_in_pieces_beyond_the_room_for_them_all_arrive(bench: ChainBench) -> None:
    # 60 frames of 32 kB: eight fit into the memory that joins them. A socket takes fewer than come.
    payload = bytes(32000)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as remote:
        remote.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        remote.bind(("127.0.0.1", 0))
        remote.settimeout(60)
        bench.policy.target = Target(packed("127.0.0.1"), remote.getsockname()[1])
        sent = [number.to_bytes(4, "big") + payload for number in range(60)]
        bench.give_pieces(*[cut(udp(G4, 40000, R4, 53, data), 42, 5000) for data in sent])
        bench.until(lambda: bench.engine.counters()["frames_from_guest"] == 60)
        assert [remote.recv(40000) for _ in range(60)] == sent


@pytest.mark.parametrize(("pieces", "drop"), [
    ([b"\0" * 6, b"\0" * 7], "drop_short"),
    ([b"", b""], "drop_short"),
    ([b"\0" * 40000, b"\0" * (MAX_FRAME - 39999)], "drop_oversize"),
])
def test_pieces_that_are_no_frame_are_a_counted_drop(
        bench: ChainBench, pieces: list[bytes], drop: str) -> None:
    bench.give_pieces(pieces, cut(ARP, 14))
    bench.turn()
    assert bench.engine.counters()[drop] == 1
    assert bench.responder.frames == [ARP]


def test_longest_frame_in_pieces_is_taken(bench: ChainBench) -> None:
    frame = ARP + bytes(MAX_FRAME - len(ARP))
    bench.give_pieces(cut(frame, 40000))
    bench.turn()
    assert bench.responder.frames == [frame]


def test_second_descriptor_ends_the_block(bench: ChainBench) -> None:
    bench.responder.replies = [b"\x11" * 60]
    bench.link.buffers = 1
    bench.give_pieces([ARP], [ARP])
    bench.turn()
    assert len(bench.link.sent) == 1
    assert bench.link.is_blocked
    bench.link.buffers = 2
    os.eventfd_write(bench.link.kicks[1], 1)
    bench.turn()
    assert not bench.link.is_blocked
    assert len(bench.responder.frames) == 2  # this kick is none to read
    bench.give_pieces([ARP])
    bench.turn()
    assert len(bench.link.sent) == 2


def test_link_tells_why_it_ended_after_its_last_frames(bench: ChainBench) -> None:
    bench.link.end("its queues make no sense")
    bench.give_pieces([ARP])
    bench.turn()
    assert bench.ends == []
    bench.give_pieces()
    bench.until(lambda: bool(bench.ends))
    assert bench.ends == ["its queues make no sense"]
    assert bench.responder.frames == [ARP]
    assert bench.link.detached == 1
    # The engine goes on, and takes another link.
    bench.link = ChainLink()
    bench.engine.attach_link(bench.link, bench.ends.append)
    bench.give_pieces([ARP])
    bench.turn()
    assert bench.responder.frames == [ARP] * 2


def test_end_that_nobody_waits_for_leaves_run() -> None:
    chain = ChainBench()
    chain.link.end("the queues are gone")
    chain.give_pieces()
    chain.until(lambda: bool(chain.ends))
    second = ChainLink()
    second.end("the queues are gone")
    chain.engine.attach_link(second, None)
    os.eventfd_write(second.kicks[0], 1)
    with pytest.raises(HostError, match=r"^the queues are gone$"):
        chain.engine.run()
    chain.unused.close()
    chain.end()


def test_one_link_at_a_time(bench: ChainBench) -> None:
    with pytest.raises(ValueError, match="there is a link already"):
        bench.engine.attach_link(ChainLink(), None)
    with pytest.raises(ValueError, match="there is a link already"):
        bench.engine.attach_stream(bench.unused.fileno(), bench.ends.append)


def test_link_that_cannot_be_watched_is_left_to_the_caller() -> None:
    chain = ChainBench()
    chain.link.end("gone")
    chain.give_pieces()
    chain.until(lambda: bool(chain.ends))
    other = ChainLink()
    os.close(other.kicks[1])
    with pytest.raises(OSError, match="watching descriptor"):
        chain.engine.attach_link(other, None)
    assert other.released == 1
    os.close(other.kicks[0])
    chain.unused.close()
    chain.end()
