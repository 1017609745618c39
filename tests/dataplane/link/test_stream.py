"""The stream link: frames with a length in front, split and joined anywhere, full and broken sockets."""

import errno
import itertools
import os
import random
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataplane.link.test_link import GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, partial
from tests.dataplane.probes.hostside import FEATURES, Stream
from tests.support.frames import ACK, FIN, PSH, ethernet, tcp, udp

SMALL = bytes(range(60))
SHORTEST, LONGEST = 14, 65589
STREAM_CLOSED, STREAM_BAD_LENGTH = -1, -2
CWR = 0x80


def framed(*frames: bytes) -> bytes:
    return b"".join(struct.pack("!I", len(frame)) + frame for frame in frames)


def unframed(data: bytes) -> list[bytes]:
    """Take a stream apart that holds whole frames only."""
    found = []
    at = 0
    while at < len(data):
        (n,) = struct.unpack_from("!I", data, at)
        found.append(data[at + 4 : at + 4 + n])
        at += 4 + n
    assert at == len(data)
    return found


class Wire:
    """A link and the guest's end of its socket."""

    def __init__(self, family: int = socket.AF_UNIX) -> None:
        self.link = Stream()
        self.guest = socket.socket()
        self.connect(family)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.guest.close()

    def connect(self, family: int = socket.AF_UNIX) -> None:
        """Give the link a socket, and keep the other end."""
        self.guest.close()
        if family == socket.AF_UNIX:
            self.guest, ours = socket.socketpair(family, socket.SOCK_STREAM)
        else:
            with socket.create_server(("127.0.0.1", 0)) as server:
                ours = socket.create_connection(server.getsockname())
                self.guest, _ = server.accept()
        self.guest.setblocking(False)
        self.link.attach(ours.detach())

    def take(self) -> bytes:
        """Read what the guest has been sent."""
        parts = []
        while True:
            try:
                parts.append(self.guest.recv(1 << 20))
            except BlockingIOError:
                return b"".join(parts)
            if not parts[-1]:
                return b"".join(parts)

    def drain(self) -> bytes:
        """Read all, as often as the link has more."""
        parts = [self.take()]
        while self.link.blocked:
            self.link.on_writable()
            parts.append(self.take())
        return b"".join(parts)

    def read_all(self) -> list[bytes]:
        """Read frames until there is nothing for the time being."""
        found: list[bytes] = []
        while True:
            batch = self.link.read()
            if not batch:
                return found
            found += [received.frame for received in batch]


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as made:
        yield made


# Nobody is connected


def test_link_without_a_client_is_blocked_and_drops() -> None:
    link = Stream()
    assert link.blocked
    assert not link.send(SMALL)
    assert not link.send(bytes(60000))
    assert link.read() == []
    link.flush()
    link.on_writable()
    assert link.blocked
    assert link.error == 0
    assert link.counters()["drop_link_down"] == 2


def test_link_asks_for_all_work(wire: Wire) -> None:
    assert wire.link.features == sum(FEATURES.values())


def test_link_owns_its_socket() -> None:
    fd = os.open("/dev/null", os.O_RDWR)
    link = Stream()
    link.attach(fd)
    del link
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


# From the guest


def test_golden_bytes_of_a_frame(wire: Wire) -> None:
    wire.guest.send(bytes.fromhex("0000000e 9a559a559a55 020000000001 0806"))
    assert wire.read_all() == [bytes.fromhex("9a559a559a55 020000000001 0806")]


def test_nothing_is_nothing(wire: Wire) -> None:
    assert wire.link.read() == []
    assert (wire.link.error, wire.link.more) == (0, False)


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET])
def test_frames_of_all_sizes_in_order(family: int) -> None:
    with Wire(family) as wire:
        dice = random.Random(1)  # noqa: S311 - it has to be the same each time
        sizes = (SHORTEST, 15, 60, 61, 1514, 9014, 65534, 65535, LONGEST, SHORTEST, 1514)
        sent = [dice.randbytes(n) for n in sizes]
        data = framed(*sent)
        found: list[bytes] = []
        wire.guest.setblocking(False)
        while data or len(found) < len(sent):
            if data:
                try:
                    data = data[wire.guest.send(data) :]
                except BlockingIOError:
                    pass
            found += wire.read_all()
        assert found == sent


def test_stream_cut_at_every_place() -> None:
    sent = [bytes(range(SHORTEST)), SMALL, bytes([7] * 33)]
    data = framed(*sent)
    for at in range(len(data) + 1):
        with Wire() as wire:
            wire.guest.send(data[:at])
            found = wire.read_all()
            whole = sum(len(framed(*sent[: n + 1])) <= at for n in range(len(sent)))
            assert found == sent[:whole], at
            wire.guest.send(data[at:] or b"")
            found += wire.read_all()
            assert found == sent, at


def test_stream_cut_at_every_two_places() -> None:
    sent = [bytes(range(SHORTEST)), bytes([7] * 15)]
    data = framed(*sent)
    with Wire() as wire:
        for first, second in itertools.combinations(range(len(data) + 1), 2):
            found = []
            for part in (data[:first], data[first:second], data[second:]):
                wire.guest.send(part)
                found += wire.read_all()
            assert found == sent, (first, second)


def test_octet_after_octet(wire: Wire) -> None:
    sent = [SMALL, bytes(SHORTEST), bytes(range(200))]
    found = []
    for octet in framed(*sent):
        wire.guest.send(bytes([octet]))
        found += wire.read_all()
    assert found == sent


def test_more_frames_than_a_batch_may_have(wire: Wire) -> None:
    sent = [n.to_bytes(2, "big") * 7 for n in range(200)]
    wire.guest.send(framed(*sent) + b"\0\0")
    assert [received.frame for received in wire.link.read(64)] == sent[:64]
    assert wire.link.more
    wire.guest.send(b"\0\x0e")
    assert [received.frame for received in wire.link.read(64)] == sent[64:128]
    assert [received.frame for received in wire.link.read(64)] == sent[128:192]
    assert wire.link.more
    assert [received.frame for received in wire.link.read(64)] == sent[192:]
    assert not wire.link.more
    assert wire.link.read(64) == []
    wire.guest.send(bytes(SHORTEST))
    assert wire.read_all() == [bytes(SHORTEST)]


def test_batch_that_ends_with_the_last_whole_frame_has_no_more(wire: Wire) -> None:
    wire.guest.send(framed(*[SMALL] * 64) + framed(SMALL)[:-1])
    assert len(wire.link.read(64)) == 64
    assert not wire.link.more


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(SHORTEST, 3000), max_size=40),
    st.lists(
        st.tuples(st.integers(1, 9000), st.lists(st.integers(1, 64), max_size=3)), min_size=1, max_size=9
    ),
)
def test_any_cuts_lose_and_reorder_nothing(lengths: list[int], steps: list[tuple[int, list[int]]]) -> None:
    with Wire() as wire:
        sent = [bytes([n & 0xFF]) * length for n, length in enumerate(lengths)]
        stream = framed(*sent)
        found: list[bytes] = []
        for n, rooms in itertools.cycle(steps):
            if not stream:
                break
            try:
                stream = stream[wire.guest.send(stream[:n]) :]
            except BlockingIOError:
                found += wire.read_all()
            for room in rooms:
                found += [received.frame for received in wire.link.read(room)]
        assert found + wire.read_all() == sent


def test_lengths_that_are_possible(wire: Wire) -> None:
    for n in (SHORTEST, LONGEST):
        wire.guest.send(framed(bytes(n))[:10])
        assert wire.read_all() == []
        assert wire.link.error == 0
        wire.guest.send(framed(bytes(n))[10:])
        assert wire.read_all() == [bytes(n)]


@pytest.mark.parametrize("length", [0, 1, 13, LONGEST + 1, 65536 * 256, 2**31 - 1, 2**31, 2**32 - 1])
@pytest.mark.parametrize("before", [[], [SMALL], [SMALL] * 70])
def test_impossible_length_ends_the_stream_behind_what_came_before(length: int, before: list[bytes]) -> None:
    with Wire() as wire:
        wire.guest.send(framed(*before) + struct.pack("!I", length) + framed(SMALL))
        assert wire.read_all() == before
        assert wire.link.error == STREAM_BAD_LENGTH
        assert wire.link.bad_length == length
        assert not wire.link.more
        assert wire.link.read() == []


@pytest.mark.parametrize("octet", range(4))
@pytest.mark.parametrize("bit", range(8))
def test_every_bit_of_a_length(octet: int, bit: int) -> None:
    with Wire() as wire:
        data = bytearray(framed(SMALL))
        data[octet] ^= 1 << bit
        length = int.from_bytes(data[:4], "big")
        wire.guest.send(data)
        if not SHORTEST <= length <= LONGEST:
            assert wire.read_all() == []
            assert (wire.link.error, wire.link.bad_length) == (STREAM_BAD_LENGTH, length)
        elif length <= len(SMALL):
            assert wire.link.read()[0].frame == SMALL[:length]
        else:
            assert wire.read_all() == []
            assert wire.link.error == 0


def test_end_of_the_stream_comes_after_the_last_frame(wire: Wire) -> None:
    wire.guest.send(framed(SMALL, SMALL) + b"\0\0\0")
    wire.guest.close()
    assert [received.frame for received in wire.link.read()] == [SMALL, SMALL]
    assert wire.link.error == 0
    assert wire.link.read() == []
    assert wire.link.error == STREAM_CLOSED


def test_reset_is_an_error() -> None:
    with Wire(socket.AF_INET) as wire:
        wire.guest.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wire.guest.close()
        while not wire.link.error:
            assert wire.link.read() == []
        assert wire.link.error == errno.ECONNRESET


# To the guest


def test_frame_leaves_with_its_length_at_the_end_of_the_turn(wire: Wire) -> None:
    assert wire.link.send(SMALL)
    assert wire.link.send(SMALL[:14])
    assert wire.take() == b""
    assert wire.link.counters()["frames_to_guest"] == 0
    wire.link.flush()
    assert wire.take() == framed(SMALL, SMALL[:14])
    counters = wire.link.counters()
    assert (counters["frames_to_guest"], counters["bytes_to_guest"]) == (2, 74)


@pytest.mark.parametrize("seed", range(8))
def test_frames_of_all_kinds_keep_their_order(wire: Wire, seed: int) -> None:
    """Large ones are built where they are written from, and the others copied there."""
    dice = random.Random(seed)  # noqa: S311
    sent: list[bytes] = []
    found = b""
    for _ in range(200):
        size = dice.choice((60, 1514, 16383, 16384, 40000, 65535))
        if dice.random() < 0.3:
            whole = udp("192.0.2.1", 53, "192.0.2.2", 4000, dice.randbytes(min(size, 60000) - 42))
            gso_size = dice.choice((700, 1400, 9000))
            parts = [whole[42:][start : start + gso_size] for start in range(0, len(whole) - 42, gso_size)]
            assert wire.link.send(partial(whole, 17, 6), gso_type=GSO_UDP_L4, gso_size=gso_size,
                                  csum_start=34, csum_offset=6, hdr_len=42)
            sent += [udp("192.0.2.1", 53, "192.0.2.2", 4000, part).ljust(60, b"\0") for part in parts]
        else:
            sent.append(dice.randbytes(size))
            assert wire.link.send(sent[-1])
        if dice.random() < 0.3:
            wire.link.flush()
        found += wire.drain()
    wire.link.flush()
    assert unframed(found + wire.drain()) == sent
    counters = wire.link.counters()
    assert (counters["frames_to_guest"], counters["bytes_to_guest"]) == (len(sent), sum(map(len, sent)))


def test_much_leaves_before_the_end_of_the_turn(wire: Wire) -> None:
    n = 0
    while not (data := wire.take()):
        assert wire.link.send(bytes(1514))
        n += 1
        assert n < 1000
    assert data == framed(*[bytes(1514)] * n)


@pytest.mark.parametrize(
    ("source", "destination"), [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")]
)
@pytest.mark.parametrize("n", [0, 1, 6, 1400, 60000])
def test_checksum_is_completed(wire: Wire, source: str, destination: str, n: int) -> None:
    frame = udp(source, 53, destination, 4000, bytes(i * 7 & 0xFF for i in range(n)))
    start = 54 if ":" in source else 34
    assert wire.link.send(partial(frame, 17, 6), csum_start=start, csum_offset=6, hdr_len=start + 8)
    wire.link.flush()
    assert wire.take() == framed(frame)


@pytest.mark.parametrize("six", [False, True])
@pytest.mark.parametrize("piece", [0, 1000, 37, 100, 250])
def test_tcp_is_cut_to_segments(wire: Wire, *, six: bool, piece: int) -> None:
    source, destination = ("2001:db8::1", "2001:db8::2") if six else ("192.0.2.1", "192.0.2.2")
    start = 54 if six else 34
    payload = bytes(i * 3 & 0xFF for i in range(1950))
    flags = ACK | PSH | FIN | CWR
    frame = partial(tcp(source, 80, destination, 4000, flags=flags, payload=payload), 6, 16)
    assert wire.link.send(
        frame,
        gso_type=GSO_TCPV6 if six else GSO_TCPV4,
        gso_size=100,
        csum_start=start,
        csum_offset=16,
        hdr_len=start + 20,
        piece=piece,
    )
    wire.link.flush()
    expected = []
    for offset in range(0, 1950, 100):
        say = ACK | (CWR if offset == 0 else 0) | (FIN | PSH if offset == 1900 else 0)
        expected.append(
            tcp(
                source,
                80,
                destination,
                4000,
                flags=say,
                seq=1000 + offset,
                payload=payload[offset : offset + 100],
            )
        )
    assert unframed(wire.take()) == expected
    assert wire.link.counters()["frames_to_guest"] == 20


@pytest.mark.parametrize("six", [False, True])
@pytest.mark.parametrize("piece", [0, 1400, 97])
def test_udp_is_cut_to_datagrams(wire: Wire, *, six: bool, piece: int) -> None:
    source, destination = ("2001:db8::1", "2001:db8::2") if six else ("192.0.2.1", "192.0.2.2")
    start = 54 if six else 34
    payload = random.Random(2).randbytes(5000)  # noqa: S311
    assert wire.link.send(
        partial(udp(source, 53, destination, 4000, payload), 17, 6),
        gso_type=GSO_UDP_L4,
        gso_size=1400,
        csum_start=start,
        csum_offset=6,
        hdr_len=start + 8,
        piece=piece,
    )
    wire.link.flush()
    assert unframed(wire.take()) == [
        udp(source, 53, destination, 4000, payload[at : at + 1400]) for at in range(0, 5000, 1400)
    ]


def test_short_segments_are_padded(wire: Wire) -> None:
    frame = partial(udp("192.0.2.1", 53, "192.0.2.2", 4000, b"abc"), 17, 6)
    assert wire.link.send(
        frame, gso_type=GSO_UDP_L4, gso_size=2, csum_start=34, csum_offset=6, hdr_len=42
    )
    wire.link.flush()
    assert unframed(wire.take()) == [
        udp("192.0.2.1", 53, "192.0.2.2", 4000, part).ljust(60, b"\0") for part in (b"ab", b"c")
    ]


def test_segments_without_df_have_identifications_of_their_own(wire: Wire) -> None:
    frame = bytearray(partial(tcp("192.0.2.1", 1, "192.0.2.2", 2, flags=ACK, payload=bytes(250)), 6, 16))
    frame[18:22] = b"\xff\xff\0\0"
    assert wire.link.send(
        bytes(frame), gso_type=GSO_TCPV4, gso_size=100, csum_start=34, csum_offset=16, hdr_len=54
    )
    wire.link.flush()
    assert [data[18:20] for data in unframed(wire.take())] == [b"\xff\xff", b"\0\0", b"\0\1"]


# A guest that does not read


def stuff(wire: Wire, make: Callable[[int], bytes]) -> list[bytes]:
    """Send until the link stalls; returns what was sent."""
    sent: list[bytes] = []
    while not wire.link.blocked:
        sent.append(make(len(sent)))
        assert wire.link.send(sent[-1])
        wire.link.flush()
        assert len(sent) < 100000
    return sent


@pytest.mark.parametrize("n", [60, 1514, 9014, 20000, 65534])
def test_nothing_is_lost_or_reordered_where_the_socket_is_full(wire: Wire, n: int) -> None:
    sent = stuff(wire, lambda number: number.to_bytes(4, "big") + bytes(n - 4))
    assert wire.link.counters()["link_stalls"] == 1
    assert wire.link.counters()["frames_to_guest"] < len(sent)
    for number in range(3):
        sent.append(bytes([number]) * 60)
        assert wire.link.send(sent[-1])
    wire.link.flush()
    assert unframed(wire.drain()) == sent
    counters = wire.link.counters()
    assert counters["frames_to_guest"] == len(sent)
    assert counters["bytes_to_guest"] == sum(map(len, sent))
    assert not any(count for name, count in counters.items() if name.startswith("drop_"))


def test_guest_that_reads_a_little_now_and_then(wire: Wire) -> None:
    dice = random.Random(3)  # noqa: S311
    sent: list[bytes] = []
    found = bytearray()
    for _ in range(2000):
        frame = dice.randbytes(dice.choice((60, 1514, 30000, 65534)))
        if not wire.link.blocked and wire.link.send(frame):
            sent.append(frame)
        wire.link.flush()
        if dice.random() < 0.3:
            try:
                found += wire.guest.recv(dice.randrange(1, 100000))
            except BlockingIOError:
                pass
        if dice.random() < 0.3:
            wire.link.on_writable()
    assert unframed(bytes(found) + wire.drain()) == sent
    assert wire.link.counters()["link_stalls"] > 3


def test_queue_is_bounded_and_what_it_took_arrives(wire: Wire) -> None:
    sent = stuff(wire, lambda _: bytes(1514))
    taken = 0
    while wire.link.send(SMALL):
        taken += 1
        assert taken < 100000
    assert wire.link.counters()["drop_link_full"] == 1
    assert not wire.link.send(
        partial(udp("192.0.2.1", 53, "192.0.2.2", 4000, bytes(250)), 17, 6),
        gso_type=GSO_UDP_L4,
        gso_size=100,
        csum_start=34,
        csum_offset=6,
        hdr_len=42,
    )
    assert wire.link.counters()["drop_link_full"] == 2
    assert unframed(wire.drain()) == sent + [SMALL] * taken
    assert wire.link.send(SMALL)


def test_segments_of_the_least_size_fit_while_the_link_is_not_blocked(wire: Wire) -> None:
    n = 0
    payload = bytes(65000)
    frame = partial(tcp("192.0.2.1", 80, "192.0.2.2", 4000, flags=ACK, payload=payload), 6, 16)
    while not wire.link.blocked:
        assert wire.link.send(
            frame, gso_type=GSO_TCPV4, gso_size=48, csum_start=34, csum_offset=16, hdr_len=54
        )
        n += 1
    segments = unframed(wire.drain())
    assert b"".join(data[54:102] for data in segments).rstrip(b"\0") == b""
    assert sum(len(data) - 54 for data in segments) == n * 65000 - n * (65000 % 48) + n * (65000 % 48)


def test_socket_that_is_shut_can_be_read_still(wire: Wire) -> None:
    wire.guest.send(framed(SMALL))
    wire.guest.shutdown(socket.SHUT_RD)
    assert wire.link.send(SMALL)
    wire.link.flush()
    assert wire.link.broken == errno.EPIPE
    assert wire.link.blocked
    assert wire.link.error == 0
    assert not wire.link.send(SMALL)
    assert not wire.link.send(bytes(60000))
    assert wire.read_all() == [SMALL]
    assert wire.link.error == errno.EPIPE


@pytest.mark.parametrize("n", [60, 60000])
def test_peer_that_is_gone(wire: Wire, n: int) -> None:
    wire.guest.close()
    wire.link.send(bytes(n))
    wire.link.flush()
    assert wire.link.broken == errno.EPIPE
    assert wire.link.read() == []
    assert wire.link.error == STREAM_CLOSED
    wire.link.detach()
    assert wire.link.counters()["drop_link_down"] == 1
    assert wire.link.counters()["frames_to_guest"] == 0


# One client after the other


@pytest.mark.parametrize("n", [60, 1514, 65534])
def test_next_client_gets_nothing_of_what_the_last_one_left(wire: Wire, n: int) -> None:
    wire.guest.send(framed(SMALL) + b"\0\0\0")
    assert wire.read_all() == [SMALL]
    sent = stuff(wire, lambda _: bytes(n))
    assert wire.link.send(SMALL)
    counters = wire.link.counters()
    wire.link.detach()
    assert wire.link.blocked
    assert not wire.link.send(SMALL)
    left = len(sent) + 1 - counters["frames_to_guest"]
    assert wire.link.counters()["drop_link_down"] == left + 1
    wire.connect()
    assert not wire.link.blocked
    assert wire.link.send(SMALL)
    wire.link.flush()
    assert wire.take() == framed(SMALL)
    wire.guest.send(framed(SMALL))
    assert wire.read_all() == [SMALL]


def test_stream_goes_on_after_one_that_made_no_sense(wire: Wire) -> None:
    wire.guest.send(bytes(8))
    assert wire.read_all() == []
    wire.link.detach()
    wire.connect()
    assert wire.link.error == 0
    wire.guest.send(framed(ethernet(bytes(28), kind=0x0806)))
    assert len(wire.read_all()) == 1
