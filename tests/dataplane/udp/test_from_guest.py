"""UDP from the guest: what leaves joined, what leaves apart, and that none is lost, doubled or overtaken."""

import errno
import random
import socket
import struct

import pytest

from passt.facts.contracts import Target
from tests.dataplane.udp.bench import (
    GSO_UDP_L4,
    GUEST,
    PORT,
    REMOTE,
    Bench,
    both_families,
    query,
    segment_control,
)
from tests.support.frames import packed, udp

MAX_SEGMENTS, MESSAGES = 64, 64


def peer(family: int = 4, port: int = PORT) -> tuple[bytes, int]:
    return packed(REMOTE[family]), port


@both_families
def test_datagrams_of_one_flow_and_size_leave_as_one_message(family: int) -> None:
    bench = Bench()
    bench.gather(*[query(family, bytes([n]) * 100) for n in range(5)])
    data = b"".join(bytes([n]) * 100 for n in range(5))
    assert bench.sent_messages() == [(bench.only_fd(), data, peer(family), segment_control(100))]
    assert bench.drops() == {}


def test_shorter_one_ends_a_message_and_a_longer_one_starts_another() -> None:
    bench = Bench()
    bench.gather(*[query(4, data) for data in (b"aa", b"bb", b"c", b"d", b"ee", b"", b"ff")])
    fd = bench.only_fd()
    assert bench.sent_messages() == [
        (fd, b"aabbc", peer(), segment_control(2)),
        (fd, b"d", peer(), b""),
        (fd, b"ee", peer(), b""),
        (fd, b"", peer(), b""),
        (fd, b"ff", peer(), b""),
    ]


@both_families
def test_message_keeps_to_what_one_may_have(family: int) -> None:
    bench = Bench()
    most = 65507 if family == 4 else 65527
    bench.gather(*[query(family, bytes(1)) for _ in range(MAX_SEGMENTS + 1)])
    assert [len(data) for data in bench.payloads()] == [MAX_SEGMENTS, 1]
    bench.gather(*[query(family, bytes(20000)) for _ in range(4)])
    assert [len(data) for data in bench.payloads()] == [60000, 20000]
    bench.gather(query(family, bytes(most - 30000)), query(family, bytes(30000)), query(family, bytes(1)))
    assert [len(data) for data in bench.payloads()] == [most, 1]


def test_flows_do_not_mix_and_each_keeps_its_order() -> None:
    bench = Bench()
    frames = [query(4, b"one"), query(4, b"two"), query(4, b"six", dport=9), query(4, b"ten")]
    frames += [query(4, b"far", sport=1001), query(4, b"end")]
    bench.gather(*frames)
    first, second = sorted({flow.fd for flow in bench.flows()})
    assert bench.sent_messages() == [
        (first, b"onetwo", peer(), segment_control(3)),
        (first, b"six", peer(port=9), b""),
        (first, b"ten", peer(), b""),
        (second, b"far", peer(), b""),
        (first, b"end", peer(), b""),
    ]


def test_time_to_live_and_type_of_service_of_a_message_are_equal() -> None:
    bench = Bench()
    bench.gather(
        udp(GUEST[4], 1000, REMOTE[4], PORT, b"aa"),
        udp(GUEST[4], 1000, REMOTE[4], PORT, b"bb", ttl=1),
        udp(GUEST[4], 1000, REMOTE[4], PORT, b"cc", ttl=1),
        udp(GUEST[4], 1000, REMOTE[4], PORT, b"dd", ttl=1, tos=3),
    )
    assert bench.payloads() == [b"aa", b"bbcc", b"dd"]


@pytest.mark.parametrize("error", [errno.EINVAL, errno.EIO, errno.EMSGSIZE])
def test_route_that_cannot_segment_gets_the_datagrams_one_by_one(error: int) -> None:
    bench = Bench()
    bench.script("send_message", -error)
    bench.gather(query(4, b"aa"), query(4, b"bb"), query(4, b"c"))
    fd = bench.only_fd()
    apart = [(fd, b"aa", peer(), b""), (fd, b"bb", peer(), b""), (fd, b"c", peer(), b"")]
    assert bench.sent_messages() == [(fd, b"aabbc", peer(), segment_control(2)), *apart]
    assert bench.drops() == {}
    # The flow remembers; smaller ones are tried again unless the route cannot at all.
    bench.gather(query(4, b"aa"), query(4, b"bb"), query(4, b"c"))
    assert bench.sent_messages() == apart
    bench.gather(query(4, b"e"), query(4, b"f"))
    assert len(bench.sent_messages()) == (2 if error == errno.EIO else 1)


@pytest.mark.parametrize("error", [errno.EINVAL, errno.EIO, errno.EMSGSIZE])
def test_joined_frame_of_the_guest_that_the_route_cannot_segment(error: int) -> None:
    bench = Bench()
    bench.script("send_message", -error)
    for _ in range(2):
        bench.inject(query(4, b"aabbc"), gso_type=GSO_UDP_L4, gso_size=2)
    assert bench.payloads() == [b"aabbc", *[b"aa", b"bb", b"c"] * 2]
    assert bench.drops() == {}


def test_joined_frames_of_the_guest_join_others() -> None:
    bench = Bench()
    frame, single = query(4, b"aabb"), query(4, b"cc")
    bench.gather(single, (frame, 2), single, (query(4, b"ddeef"), 2), single)
    assert bench.payloads() == [b"ccaabbccddeef", b"cc"]


def test_joined_frame_with_more_datagrams_than_a_message_may_have() -> None:
    bench = Bench()
    bench.inject(query(4, bytes(3 * MAX_SEGMENTS - 1)), gso_type=GSO_UDP_L4, gso_size=2)
    assert [len(data) for data in bench.payloads()] == [128, 63]


def test_failure_costs_the_failing_message_only() -> None:
    bench = Bench()
    frames = [query(4, b"aa"), query(4, b"bb"), query(4, b"cc", dport=9), query(4, b"dd")]
    bench.script("send_message", -errno.ENETUNREACH)
    bench.gather(*frames)
    assert bench.payloads() == [b"aabb", b"cc", b"dd"]
    assert bench.drops() == {"drop_socket": 2}  # datagrams, not messages


def test_error_of_an_earlier_datagram_costs_none() -> None:
    bench = Bench()
    bench.script("send_message", 2, -errno.ECONNREFUSED)
    bench.gather(query(4, b"aa"), query(4, b"cc", dport=9), query(4, b"dd"))
    assert bench.payloads() == [b"aa", b"cc", b"cc", b"dd"]
    assert bench.drops() == {}


def test_full_send_buffer_is_a_counted_drop() -> None:
    bench = Bench()
    bench.script("send_message", -errno.EAGAIN)
    bench.gather(query(4, b"aa"), query(4, b"cc", dport=9))
    assert bench.payloads() == [b"aa", b"cc"]
    assert bench.drops() == {"drop_socket": 1}


@pytest.mark.parametrize("size", [5, 6, 65535])
def test_segment_size_beyond_the_payload_is_none(size: int) -> None:
    bench = Bench()
    bench.inject(query(4, b"aabbc"), gso_type=GSO_UDP_L4, gso_size=size)
    assert bench.sent_messages() == [(bench.only_fd(), b"aabbc", peer(), b"")]


def test_flow_that_ends_lets_its_datagrams_leave_first() -> None:
    bench = Bench(max_flows=8)  # two datagram flows
    bench.gather(*[query(4, bytes([port]), sport=port) for port in (1, 2, 3)])
    assert bench.payloads() == [b"\1", b"\2", b"\3"]
    assert bench.counters()["flows_evicted"] == 1


def test_any_mixture_arrives_once_and_in_order() -> None:
    dice = random.Random(7)  # noqa: S311 - it has to be the same each time
    for _ in range(50):
        bench = Bench()
        bench.gather(query(4, sport=1), query(4, sport=2))
        fds = dict(zip((1, 2), sorted(flow.fd for flow in bench.flows()), strict=True))
        bench.sockets.log.clear()
        expected: dict[tuple[int, int], list[bytes]] = {}
        frames: list[bytes | tuple[bytes, int]] = []
        for number in range(dice.randrange(1, 3 * MESSAGES)):
            sport, dport = dice.choice((1, 2)), dice.choice((7, 7, 8))
            data = number.to_bytes(2, "big") * dice.choice((1, 50, 50, 50, 700))
            size = dice.choice((0, 0, 0, 30))
            frame = query(4, data, sport=sport, dport=dport)
            frames.append((frame, size) if size else frame)
            parts = [data[at : at + size] for at in range(0, len(data), size)] if size else [data]
            expected.setdefault((fds[sport], dport), []).extend(parts)
        bench.sockets.refuse_segments = dice.choice((0, 0, errno.EINVAL, errno.EIO, errno.EMSGSIZE))
        bench.gather(*frames)
        assert arrived(bench) == expected
        assert bench.drops() == {}


def arrived(bench: Bench) -> dict[tuple[int, int], list[bytes]]:
    """Give the datagrams by (descriptor, remote's port), cut as the kernel does it."""
    found: dict[tuple[int, int], list[bytes]] = {}
    for entry in bench.sockets.log:
        match entry:
            case ("send_message", int(fd), bytes(data), (bytes(), int(port)), bytes(control)):
                size = struct.unpack("16xH6x", control)[0] if control else max(len(data), 1)
                parts = [data[at : at + size] for at in range(0, max(len(data), 1), size)]
                found.setdefault((fd, port), []).extend(parts)
    return found


# Sockets


def test_socket_is_opened_bound_and_watched() -> None:
    bench = Bench()
    bench.policy.target = Target(packed("203.0.113.9"), 5300, source=packed("203.0.113.1"), ifname=b"eth0")
    bench.inject(query(4))
    fd = bench.only_fd()
    names = [entry[0] for entry in bench.sockets.log]
    assert names == ["open", "bind_device", "bind_source", "prepare_datagrams", "watch", "send_message"]
    assert bench.sockets.log[0] == ("open", socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_UDP)
    assert ("bind_device", fd, b"eth0") in bench.sockets.log
    assert ("bind_source", fd, packed("203.0.113.1"), 1000) in bench.sockets.log
    assert bench.sent_messages() == [(fd, b"query", (packed("203.0.113.9"), 5300), b"")]


@pytest.mark.parametrize("operation", ["bind_device", "watch"])
def test_failure_on_the_way_closes_the_socket(operation: str) -> None:
    bench = Bench()
    bench.policy.target = Target(packed(REMOTE[6]), PORT, ifname=b"eth0")
    bench.script(operation, -errno.ENETUNREACH)
    bench.inject(query(6))
    assert bench.flows() == []
    assert bench.sockets.open_fds == set()
    assert bench.drops() == {"drop_socket": 1}
    bench.inject(query(6))
    assert len(bench.flows()) == 1
