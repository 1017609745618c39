"""The link on real tap devices: what it sends is good for the kernel, offloads granted or not.

Each test runs in a network namespace of its own; we are 192.0.2.1 and 2001:db8::1 behind the tap.
"""

import errno
import select
import socket
import struct
from pathlib import Path
from typing import NamedTuple

import pytest

from passt.host.tap import ALL_OFFLOADS, TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, open_tap
from tests.dataplane.probes.hostside import FEATURES, Received, Tap
from tests.support.frames import ACK, GUEST_MAC, OUR_MAC, PSH, SYN, packed, pseudo_header, rfc1071, tcp, udp
from tests.support.isolated import in_own_namespace, ip, set_up, wait_for_local_route

NAME = "dpt0"
GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4 = 1, 4, 5
UDP_SEGMENT = 103


class Side(NamedTuple):
    """One family's addresses: ours behind the tap, the kernel's on it."""

    family: socket.AddressFamily
    ours: str
    kernel: str
    l4_at: int


SIDES = [
    Side(socket.AF_INET, "192.0.2.1", "192.0.2.2", 34),
    Side(socket.AF_INET6, "2001:db8::1", "2001:db8::2", 54),
]

# What the kernel is let grant, and what of it the link knows of: with less, it works in software.
OFFLOADS = {
    "all": (ALL_OFFLOADS, ALL_OFFLOADS),
    "no segments": (ALL_OFFLOADS, TUN_F_CSUM),
    "masked": (ALL_OFFLOADS, 0),
    "no USO granted": (TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6, ALL_OFFLOADS),
    "none granted": (0, ALL_OFFLOADS),
}

families = pytest.mark.parametrize("side", SIDES, ids=["ip4", "ip6"])
offloads = pytest.mark.parametrize("masks", OFFLOADS.values(), ids=OFFLOADS.keys())


def make(masks: tuple[int, int]) -> Tap:
    """Give a tap that is up, with addresses and fixed neighbours."""
    fd, granted = open_tap(NAME, allow=masks[0])
    ip("link", "set", NAME, "address", GUEST_MAC.hex(":"), "addrgenmode", "none")
    set_up(NAME)
    for side, prefix in zip(SIDES, ("24", "64"), strict=True):
        nodad = ["nodad"] if side.family == socket.AF_INET6 else []
        ip("address", "add", f"{side.kernel}/{prefix}", "dev", NAME, *nodad)
        ip("neigh", "replace", side.ours, "lladdr", OUR_MAC.hex(":"), "dev", NAME, "nud", "permanent")
    wait_for_local_route(SIDES[1].kernel)
    return Tap(fd, granted & masks[1])


def to_guest(frame: bytes) -> bytes:
    return GUEST_MAC + OUR_MAC + frame[12:]


def with_pseudo_sum(frame: bytes, side: Side, protocol: int, at: int) -> bytes:
    value = ~rfc1071(pseudo_header(side.ours, side.kernel, protocol, len(frame) - side.l4_at)) & 0xFFFF
    at += side.l4_at
    return frame[:at] + value.to_bytes(2, "big") + frame[at + 2 :]


def next_frame(tap: Tap, fd_poll: select.poll, side: Side, protocol: int) -> Received:
    """Give the next frame of *protocol* from the kernel; others (router solicitations) are passed over."""
    for _ in range(50):
        for found in tap.read(1):
            at = 20 if side.family == socket.AF_INET6 else 23
            kind = b"\x86\xdd" if side.family == socket.AF_INET6 else b"\x08\x00"
            if found.frame[12:14] == kind and found.frame[at] == protocol:
                return found
        assert fd_poll.poll(60_000)
    raise AssertionError("no such frame")


def poll_tap() -> select.poll:
    """Poll the descriptor of the tap, which the link owns: the one open on /dev/net/tun."""
    (number,) = [int(entry.name) for entry in Path("/proc/self/fd").iterdir() if is_tun(entry)]
    poll = select.poll()
    poll.register(number, select.POLLIN)
    return poll


def is_tun(entry: Path) -> bool:
    try:
        return entry.readlink() == Path("/dev/net/tun")
    except OSError:
        return False


@families
@offloads
@in_own_namespace
def test_datagram_arrives(side: Side, masks: tuple[int, int]) -> None:
    tap = make(masks)
    with socket.socket(side.family, socket.SOCK_DGRAM) as receiver:
        receiver.bind((side.kernel, 4000))
        receiver.settimeout(60)
        for payload in (b"", b"odd", bytes(1400)):
            frame = to_guest(with_pseudo_sum(udp(side.ours, 53, side.kernel, 4000, payload), side, 17, 6))
            assert tap.send(frame, csum_start=side.l4_at, csum_offset=6, hdr_len=side.l4_at + 8)
            data, sender = receiver.recvfrom(2000)
            assert (data, sender[:2]) == (payload, (side.ours, 53))
    assert tap.counters()["frames_to_guest"] == 3


@families
@in_own_namespace
def test_kernel_does_look_at_checksums(side: Side) -> None:
    tap = make((0, 0))
    with socket.socket(side.family, socket.SOCK_DGRAM) as receiver:
        receiver.bind((side.kernel, 4000))
        receiver.setblocking(False)
        frame = to_guest(udp(side.ours, 53, side.kernel, 4000, b"payload"))
        assert tap.send(frame[:-1] + b"!")
        with pytest.raises(BlockingIOError):
            receiver.recv(100)
        assert tap.send(frame)
        receiver.settimeout(60)
        assert receiver.recv(100) == b"payload"


@pytest.mark.parametrize("piece", [0, 1000, 700])
@families
@offloads
@in_own_namespace
def test_segmented_datagrams_arrive_one_by_one(side: Side, masks: tuple[int, int], piece: int) -> None:
    tap = make(masks)
    payload = bytes(i * 3 & 0xFF for i in range(3500))
    with socket.socket(side.family, socket.SOCK_DGRAM) as receiver:
        receiver.bind((side.kernel, 4000))
        receiver.settimeout(60)
        frame = to_guest(with_pseudo_sum(udp(side.ours, 53, side.kernel, 4000, payload), side, 17, 6))
        assert tap.send(
            frame,
            gso_type=GSO_UDP_L4,
            gso_size=1000,
            csum_start=side.l4_at,
            csum_offset=6,
            hdr_len=side.l4_at + 8,
            piece=piece,
        )
        assert [receiver.recv(5000) for _ in range(4)] == [
            payload[at : at + 1000] for at in range(0, 3500, 1000)
        ]
    native = tap.features & FEATURES["USO4"]
    assert tap.counters()["frames_to_guest"] == (1 if native else 4)


@families
@offloads
@in_own_namespace
def test_large_tcp_segment_arrives_whole(side: Side, masks: tuple[int, int]) -> None:
    tap = make(masks)
    poll = poll_tap()
    payload = bytes(i * 11 & 0xFF for i in range(30000))
    with socket.create_server((side.kernel, 80), family=side.family) as listener:
        assert tap.send(
            to_guest(tcp(side.ours, 4000, side.kernel, 80, flags=SYN, seq=99, options=b"\2\4\5\xb4"))
        )
        answer = next_frame(tap, poll, side, 6).frame[side.l4_at :]
        seq, ack = struct.unpack_from("!II", answer, 4)
        assert (answer[13], ack) == (SYN | ACK, 100)
        frame = tcp(
            side.ours,
            4000,
            side.kernel,
            80,
            flags=ACK | PSH,
            seq=100,
            ack=seq + 1 & 0xFFFFFFFF,
            payload=payload,
        )
        frame = to_guest(with_pseudo_sum(frame, side, 6, 16))
        assert tap.send(
            frame,
            gso_type=GSO_TCPV6 if side.family == socket.AF_INET6 else GSO_TCPV4,
            gso_size=1440,
            csum_start=side.l4_at,
            csum_offset=16,
            hdr_len=side.l4_at + 20,
        )
        conn, _ = listener.accept()
        with conn:
            conn.settimeout(60)
            assert conn.recv(len(payload), socket.MSG_WAITALL) == payload
    native = tap.features & FEATURES["TSO6" if side.family == socket.AF_INET6 else "TSO4"]
    assert (tap.counters()["frames_to_guest"] == 2) == bool(native)


@families
@in_own_namespace
def test_frames_of_the_kernel_are_read(side: Side) -> None:
    tap = make((0, 0))
    poll = poll_tap()
    with socket.socket(side.family, socket.SOCK_DGRAM) as sender:
        sender.bind((side.kernel, 4000))
        sender.sendto(b"query", (side.ours, 53))
    found = next_frame(tap, poll, side, 17)
    assert (found.gso_type, found.gso_size) == (0, 0)
    assert found.frame[:12] == OUR_MAC + GUEST_MAC
    assert packed(side.kernel) + packed(side.ours) in found.frame
    assert found.frame[side.l4_at : side.l4_at + 4] == struct.pack("!HH", 4000, 53)
    assert found.frame[side.l4_at + 8 : side.l4_at + 13] == b"query"


@families
@in_own_namespace
def test_segmentation_of_the_kernel_is_read(side: Side) -> None:
    tap = make((ALL_OFFLOADS, ALL_OFFLOADS))
    assert tap.features == sum(FEATURES.values()), "this kernel grants no USO: Linux 6.2 and later do"
    poll = poll_tap()
    with socket.socket(side.family, socket.SOCK_DGRAM) as sender:
        sender.bind((side.kernel, 4000))
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
        sender.sendto(bytes(3500), (side.ours, 53))
    found = next_frame(tap, poll, side, 17)
    assert (found.gso_type, found.gso_size) == (GSO_UDP_L4, 1000)
    assert len(found.frame) == side.l4_at + 8 + 3500


@in_own_namespace
def test_interface_that_is_down_is_a_counted_drop() -> None:
    tap = make((ALL_OFFLOADS, ALL_OFFLOADS))
    set_up(NAME, up=False)
    frame = to_guest(udp(SIDES[0].ours, 53, SIDES[0].kernel, 4000))
    assert not tap.send(frame)
    assert tap.counters()["drop_link_down"] == 1
    assert not tap.blocked
    tap.read()  # what the kernel had sent before
    assert tap.error == 0
    set_up(NAME)
    assert tap.send(frame)


@in_own_namespace
def test_interface_that_is_deleted_ends_the_link() -> None:
    tap = make((ALL_OFFLOADS, ALL_OFFLOADS))
    ip("link", "delete", NAME)
    assert tap.read() == []
    assert tap.error == errno.EBADFD
