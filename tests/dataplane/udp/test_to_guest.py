"""UDP to the guest: batches, joined frames, bounds of a turn."""

import errno
import socket
import struct

import pytest

from tests.dataplane.probes.world import Sent, socket_address
from tests.dataplane.udp.bench import (
    EPOLLIN,
    GSO_UDP_L4,
    MSG_TRUNC,
    PORT,
    RECEIVE_BUDGET,
    REMOTE,
    SOL_UDP,
    UDP_GRO,
    Bench,
    answer,
    both_families,
    from_client,
    inbound_world,
    query,
)
from tests.support.frames import identification, packed, unnumbered

LINK_CSUM, LINK_USO = 1, 8 | 16
MAX_SEGMENTS = 64


def joining(family: int = 4, mtu: int = 65535) -> Bench:
    """Give a bench with a flow, whose link cuts joined datagrams."""
    bench = Bench(features=LINK_CSUM | LINK_USO, mtu=mtu)
    bench.inject(query(family))
    return bench


def receive(bench: Bench, *payloads: bytes, family: int = 4) -> list[tuple[int, int]]:
    """Have the remote send; give (payload size, segment size) of each frame."""
    bench.replies(*payloads, family=family)
    bench.event(0, EPOLLIN)
    headers = 42 if family == 4 else 62
    return [(len(sent.frame) - headers, sent.gso_size) for sent in bench.take_sent()]


@both_families
def test_datagrams_of_one_size_become_one_frame(family: int) -> None:
    bench = joining(family)
    payloads = [bytes([n]) * 100 for n in range(5)] + [b"x" * 30]
    bench.replies(*payloads, family=family)
    bench.event(0, EPOLLIN)
    (sent,) = bench.take_sent()
    assert sent.gso_type == GSO_UDP_L4
    assert sent.gso_size == 100
    offset = 34 if family == 4 else 54
    assert (sent.csum_start, sent.csum_offset, sent.hdr_len) == (offset, 6, offset + 8)
    assert sent.frame[offset + 8 :] == b"".join(payloads)
    # Lengths are those of the whole (linux/virtio_net.h); the checksum is the pseudo-header's sum.
    whole = answer(family, b"".join(payloads))
    assert unnumbered(sent.frame)[: offset + 6] == whole[: offset + 6]
    assert bench.counters()["frames_to_guest"] == 1


@both_families
def test_link_without_segmentation_gets_one_frame_each(family: int) -> None:
    bench = Bench()
    bench.inject(query(family))
    payloads = [bytes([n]) * 100 for n in range(5)]
    bench.replies(*payloads, family=family)
    bench.event(0, EPOLLIN)
    assert bench.frames() == [answer(family, payload) for payload in payloads]


def test_sizes_that_differ_part_the_frames() -> None:
    bench = joining()
    sizes = (200, 200, 100, 100, 200, 0, 0, 100, 200)
    frames = receive(bench, *[bytes(size) for size in sizes])
    assert frames == [(500, 200), (100, 0), (200, 0), (18, 0), (18, 0), (100, 0), (200, 0)]  # 18: padding


@both_families
def test_frame_keeps_to_what_one_may_have(family: int) -> None:
    bench = joining(family)
    most = 65507 if family == 4 else 65527
    assert receive(bench, *[bytes(100)] * MAX_SEGMENTS, family=family) == [(6400, 100)]
    assert receive(bench, *[bytes(20000)] * 4, family=family) == [(60000, 20000), (20000, 0)]
    assert receive(bench, bytes(most - 30000), bytes(30000), family=family) == [(most, most - 30000)]
    bench = joining(family, 1500)
    fits = 1472 if family == 4 else 1452
    assert receive(bench, bytes(fits), bytes(fits), family=family) == [(2 * fits, fits)]
    bench.replies(bytes(fits + 1), bytes(fits + 1), family=family)
    bench.event(0, EPOLLIN)
    frames = bench.take_sent()  # in fragments, see test_fragments
    assert len(frames) == 4
    assert all(len(sent.frame) <= 1514 and not sent.gso_size for sent in frames)


def test_each_datagram_has_an_identification_and_may_be_cut() -> None:
    """RFC 6864 4.3; of a joined frame each datagram gets the next one where it is cut (see offload)."""
    bench = joining()
    bench.replies(b"one", b"three", *[bytes(100)] * 5, b"last")
    bench.event(0, EPOLLIN)
    bench.replies(b"more")
    bench.event(0, EPOLLIN)
    sent = bench.take_sent()
    assert [(one.frame[20:22], one.gso_size) for one in sent] == [(b"\0\0", size) for size in (0, 0, 100, 0)]
    first = identification(sent[0].frame)
    assert first
    assert [identification(one.frame) - first for one in sent] == [0, 1, 2, 8]


def test_identifications_go_round() -> None:
    bench = joining()
    bench.identification = 0x1FFFD
    bench.replies(b"one", b"three", bytes(100), bytes(100), b"x")
    bench.event(0, EPOLLIN)
    assert [identification(one.frame) for one in bench.take_sent()] == [0xFFFE, 0xFFFF, 0]
    bench.replies(b"more")
    bench.event(0, EPOLLIN)
    assert [identification(one.frame) for one in bench.take_sent()] == [3]


def gro(size: int) -> bytes:
    """Control data that says that datagrams of *size* octets were joined (udp(7))."""
    return struct.pack("Qiii4x", 20, SOL_UDP, UDP_GRO, size)


@pytest.mark.parametrize("features", [0, LINK_CSUM | LINK_USO])
def test_datagrams_that_the_kernel_joined(features: int) -> None:
    bench = Bench(features=features)
    bench.inject(query(4))
    sender = socket_address(packed(REMOTE[4]), PORT)
    whole = bytes(range(250))
    bench.deliver(bench.only_fd(), (whole, sender, gro(100), 0), (b"tail", sender, b"", 0))
    bench.event(0, EPOLLIN)
    sent = bench.take_sent()
    if features:
        assert [(len(one.frame) - 42, one.gso_size) for one in sent] == [(250, 100), (18, 0)]
    else:
        parts = [whole[:100], whole[100:200], whole[200:], b"tail"]
        assert [unnumbered(one.frame) for one in sent] == [answer(4, part) for part in parts]


@pytest.mark.parametrize("control", [gro(0), gro(-1), gro(65535), gro(100)[:12], b"\xff" * 24])
def test_control_data_without_sense_joins_nothing(control: bytes) -> None:
    bench = joining()
    sender = socket_address(packed(REMOTE[4]), PORT)
    bench.deliver(bench.only_fd(), (bytes(250), sender, control, 0))
    bench.event(0, EPOLLIN)
    (sent,) = bench.take_sent()
    assert (len(sent.frame), sent.gso_size) == (292, 0)


def test_remotes_of_one_socket_are_told_apart() -> None:
    bench = joining()
    bench.inject(query(4, dport=8))
    fd = {flow.fd for flow in bench.flows()}
    assert len(fd) == 1
    senders = {port: socket_address(packed(REMOTE[4]), port) for port in (PORT, 8, 9)}
    for port in (PORT, PORT, 8, 9, PORT):
        bench.deliver(min(fd), (bytes(100), senders[port], b"", 0))
    bench.event(0, EPOLLIN)
    sent = bench.take_sent()
    assert [(source_port(one), len(one.frame) - 42) for one in sent] == [(PORT, 200), (8, 100), (PORT, 100)]
    assert bench.drops() == {"drop_unknown_flow": 1}


def source_port(sent: Sent) -> int:
    return int.from_bytes(sent.frame[34:36], "big")


def test_link_that_is_blocked_reads_nothing() -> None:
    bench = joining()
    bench.replies(b"one", b"two!")
    bench.blocked = True
    bench.event(0, EPOLLIN)
    bench.turn()
    assert bench.frames() == []
    bench.open_link()
    bench.turn()
    assert len(bench.frames()) == 2


def test_one_socket_takes_no_more_than_its_share_of_a_turn() -> None:
    bench = Bench()
    bench.inject(query(4))
    bench.replies(*[bytes([n]) for n in range(2 * RECEIVE_BUDGET + 3)])
    bench.event(0, EPOLLIN)
    assert len(bench.frames()) == 2 * RECEIVE_BUDGET  # at its event, and on the work list
    bench.turn()  # it is on the work list: no event comes again
    assert len(bench.frames()) == 3


def test_large_datagrams_make_the_share_smaller() -> None:
    bench = joining()
    assert len(receive(bench, *[bytes(60000)] * 3)) == 3
    assert len(receive(bench, *[bytes(60000)] * 12)) == 2 * 4
    bench.turn()
    assert len(bench.take_sent()) == 4


@both_families
def test_datagram_beyond_the_links_frames_is_a_counted_drop(family: int) -> None:
    bench = Bench()
    bench.inject(query(family))
    bench.replies(bytes((65507 if family == 4 else 65527) + 1), b"fits", family=family)
    bench.event(0, EPOLLIN)
    assert bench.frames() == [answer(family, b"fits")]
    assert bench.drops() == {"drop_truncated": 1}


@both_families
def test_error_between_datagrams_is_counted_and_passed_over(family: int) -> None:
    bench = Bench()
    bench.inject(query(family))
    bench.deliver(bench.only_fd(), -errno.EHOSTUNREACH)
    bench.replies(b"fits", family=family)
    bench.event(0, EPOLLIN)
    assert bench.frames() == [answer(family, b"fits")]
    assert bench.drops() == {"drop_socket": 1}


def test_errors_without_end_do_not_hold_the_turn() -> None:
    bench = Bench()
    bench.inject(query(4))
    bench.deliver(bench.only_fd(), *[-errno.ENETDOWN] * 30)
    bench.event(0, EPOLLIN)
    assert bench.drops() == {"drop_socket": 2 * 8}
    bench.turn()
    assert bench.drops() == {"drop_socket": 3 * 8}


def test_zero_checksum_is_not_sent() -> None:
    # RFC 768: all ones stand for a computed zero. The payload is chosen so that the sum is zero.
    bench = Bench()
    bench.inject(query(4))
    plain = answer(4, b"\0\0")
    bench.replies(plain[40:42])
    bench.event(0, EPOLLIN)
    (frame,) = bench.frames()
    assert frame[40:42] == b"\xff\xff"


# Listeners


def test_listener_joins_the_datagrams_of_one_client() -> None:
    bench = inbound_world(features=LINK_CSUM | LINK_USO)
    bench.deliver(500, *[from_client(4000, bytes(100)) for _ in range(3)])
    bench.listener_event(0)
    (sent,) = bench.take_sent()
    assert (len(sent.frame), sent.gso_size) == (342, 100)


def test_listener_errors_and_oversize_are_counted() -> None:
    bench = inbound_world()
    cut = (b"cut", socket_address(packed("203.0.113.5"), 4000), b"", MSG_TRUNC)
    bench.deliver(500, -errno.ECONNREFUSED, cut, from_client(4000))
    bench.listener_event(0)
    assert bench.drops() == {"drop_socket": 1, "drop_truncated": 1}
    assert bench.frames() == [answer(4, b"hi", 7000, 53)]


def test_blocked_link_pauses_a_listener() -> None:
    bench = inbound_world()
    bench.deliver(500, from_client(4000))
    bench.blocked = True
    bench.listener_event(0)
    assert bench.flows() == []
    assert [entry[:3] for entry in bench.sockets.log] == [("watch", 500, 2)]  # EPOLL_CTL_DEL
    bench.open_link()
    assert bench.sockets.log[-1][:4] == ("watch", 500, 1, EPOLLIN)  # EPOLL_CTL_ADD
    bench.listener_event(0)
    assert bench.frames() == [answer(4, b"hi", 7000, 53)]
    assert bench.drops() == {}


def test_listener_gets_the_protocol_that_it_is_for() -> None:
    bench = inbound_world()
    assert bench.add_listener(501, socket.IPPROTO_UDP, "other", 5354) == 1
    bench.deliver(501, from_client(4000))
    bench.listener_event(1)
    assert bench.policy.asked_inbound[0][1] == "other"
