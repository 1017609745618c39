"""Links: the virtio-net header, software in place of offloads, and a device that does not drain.

A pair of datagram sockets stands for the tap device here: it keeps frames apart and can be full.
"""

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from tests.dataplane.probes.hostside import FEATURES, PlainLink, Tap
from tests.support.frames import ACK, ethernet, pseudo_header, rfc1071, tcp, udp

CSUM, TSO4, TSO6, TSO_ECN, USO4, USO6 = 1, 2, 4, 8, 0x20, 0x40
ALL = CSUM | TSO4 | TSO6 | TSO_ECN | USO4 | USO6
GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, GSO_ECN = 0, 1, 4, 5, 0x80
NEEDS_CSUM = 1
VNET = struct.Struct("BBHHHH")
SMALL = bytes(range(60))


class Header(NamedTuple):
    """struct virtio_net_hdr (linux/virtio_net.h), the short one."""

    flags: int
    gso_type: int
    hdr_len: int
    gso_size: int
    csum_start: int
    csum_offset: int


class Device:
    """The kernel's end of the pretended tap, and the link at the other."""

    def __init__(self, offloads: int) -> None:
        self.kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.kernel.setblocking(False)
        ours.setblocking(False)
        self.link = Tap(ours.detach(), offloads)

    def take(self) -> tuple[Header, bytes]:
        data = self.kernel.recv(70000)
        return Header(*VNET.unpack_from(data)), data[VNET.size :]

    def take_all(self) -> list[tuple[Header, bytes]]:
        found = []
        while True:
            try:
                found.append(self.take())
            except BlockingIOError:
                return found

    def give(self, frame: bytes, *, gso_type: int = 0, gso_size: int = 0) -> None:
        self.kernel.send(VNET.pack(0, gso_type, 0, gso_size, 0, 0) + frame)


@pytest.fixture
def make_device() -> Iterator[Callable[[int], Device]]:
    """Give a maker of devices, which closes them in the end."""
    made: list[Device] = []

    def make(offloads: int) -> Device:
        made.append(Device(offloads))
        return made[-1]

    yield make
    for device in made:
        device.kernel.close()


@pytest.fixture
def device(make_device: Callable[[int], Device]) -> Device:
    return make_device(ALL)


# The base class


def test_base_link_has_nothing_and_takes_nothing() -> None:
    link = PlainLink()
    assert link.read() == []
    assert not link.send(SMALL)
    assert (link.features, link.error, link.blocked) == (0, 0, False)
    assert not any(link.counters().values())


def test_base_link_segments_of_which_none_is_taken() -> None:
    link = PlainLink()
    assert not link.send(
        tcp("192.0.2.1", 1, "192.0.2.2", 2, payload=bytes(500)),
        gso_type=GSO_TCPV4,
        gso_size=100,
        csum_start=34,
        csum_offset=16,
        hdr_len=54,
    )


# Features


@pytest.mark.parametrize(
    ("offloads", "expected"),
    [
        (0, set()),
        (CSUM, {"CSUM"}),
        (CSUM | TSO4, {"CSUM", "TSO4"}),
        (CSUM | TSO6 | TSO_ECN, {"CSUM", "TSO6"}),
        (CSUM | USO4, {"CSUM"}),
        (CSUM | USO6, {"CSUM"}),
        (CSUM | USO4 | USO6, {"CSUM", "USO4", "USO6"}),
        (ALL, set(FEATURES)),
        (0xFFFFFF80, set()),
    ],
)
def test_features_follow_the_offloads_granted(offloads: int, expected: set[str]) -> None:
    link = Tap(os.open("/dev/null", os.O_RDWR), offloads)
    assert link.features == sum(FEATURES[name] for name in expected)


def test_link_owns_its_descriptor() -> None:
    fd = os.open("/dev/null", os.O_RDWR)
    link = Tap(fd, 0)
    del link
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


# Towards the guest


def test_plain_frame_goes_out_as_it_is(device: Device) -> None:
    assert device.link.send(SMALL)
    assert device.take() == (Header(0, 0, 0, 0, 0, 0), SMALL)
    counters = device.link.counters()
    assert (counters["frames_to_guest"], counters["bytes_to_guest"]) == (1, 60)


def test_checksum_to_be_completed_is_asked_of_the_device(device: Device) -> None:
    assert device.link.send(SMALL, csum_start=34, csum_offset=6, hdr_len=42)
    assert device.take() == (Header(NEEDS_CSUM, 0, 42, 0, 34, 6), SMALL)


@pytest.mark.parametrize("gso_type", [GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4])
def test_segmentation_is_asked_of_the_device(device: Device, gso_type: int) -> None:
    frame = bytes(i & 0xFF for i in range(60000))
    assert device.link.send(
        frame, gso_type=gso_type, gso_size=1448, csum_start=34, csum_offset=16, hdr_len=54
    )
    assert device.take() == (Header(NEEDS_CSUM, gso_type, 54, 1448, 34, 16), frame)
    assert device.link.counters()["frames_to_guest"] == 1


def partial(frame: bytes, protocol: int, at: int) -> bytes:
    """*frame* with the pseudo-header's sum in its checksum field."""
    six = frame[12:14] == b"\x86\xdd"
    start = 54 if six else 34
    family, octets = (socket.AF_INET6, 16) if six else (socket.AF_INET, 4)
    begin = 22 if six else 26
    source, destination = (
        socket.inet_ntop(family, frame[at : at + octets]) for at in (begin, begin + octets)
    )
    value = ~rfc1071(pseudo_header(source, destination, protocol, len(frame) - start)) & 0xFFFF
    return frame[: start + at] + value.to_bytes(2, "big") + frame[start + at + 2 :]


@pytest.mark.parametrize(
    ("source", "destination"), [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")]
)
def test_checksum_is_completed_for_a_device_that_does_not(
    make_device: Callable[[int], Device], source: str, destination: str
) -> None:
    device = make_device(0)
    frame = udp(source, 53, destination, 4000, b"answer")
    start = 54 if ":" in source else 34
    assert device.link.send(partial(frame, 17, 6), csum_start=start, csum_offset=6, hdr_len=start + 8)
    assert device.take() == (Header(0, 0, start + 8, 0, 0, 0), frame)


@pytest.mark.parametrize(
    ("offloads", "six"), [(CSUM | TSO6, False), (CSUM | TSO4, True), (CSUM, False), (0, True)]
)
def test_segments_are_cut_for_a_device_that_does_not(
    make_device: Callable[[int], Device], offloads: int, six: bool
) -> None:
    device = make_device(offloads)
    source, destination = ("2001:db8::1", "2001:db8::2") if six else ("192.0.2.1", "192.0.2.2")
    start = 54 if six else 34
    payload = bytes(range(250))
    frame = partial(tcp(source, 80, destination, 4000, flags=ACK, payload=payload), 6, 16)
    assert device.link.send(
        frame,
        gso_type=GSO_TCPV6 if six else GSO_TCPV4,
        gso_size=100,
        csum_start=start,
        csum_offset=16,
        hdr_len=start + 20,
    )
    expected = []
    for offset in (0, 100, 200):
        segment = tcp(
            source, 80, destination, 4000, flags=ACK, seq=1000 + offset, payload=payload[offset:][:100]
        )
        expected.append((Header(0, 0, start + 20, 0, 0, 0), segment))
    assert device.take_all() == expected
    assert device.link.counters()["frames_to_guest"] == 3


def test_datagrams_are_cut_unless_the_device_does_both_families(make_device: Callable[[int], Device]) -> None:
    device = make_device(CSUM | TSO4 | TSO6 | USO4)
    frame = partial(udp("192.0.2.1", 53, "192.0.2.2", 4000, bytes(250)), 17, 6)
    assert device.link.send(
        frame, gso_type=GSO_UDP_L4, gso_size=100, csum_start=34, csum_offset=6, hdr_len=42
    )
    assert [len(data) for _, data in device.take_all()] == [142, 142, 92]


# A device that does not drain


def fill(device: Device) -> list[bytes]:
    """Send until the link stalls; returns what was sent."""
    sent: list[bytes] = []
    while not device.link.blocked:
        frame = len(sent).to_bytes(4, "big") + bytes(56)
        assert device.link.send(frame)
        sent.append(frame)
    return sent


def test_frames_are_kept_in_order_while_the_device_is_full(device: Device) -> None:
    sent = fill(device)
    assert device.link.counters()["link_stalls"] == 1
    assert device.link.counters()["frames_to_guest"] == len(sent) - 1
    for number in range(5):
        sent.append(b"kept" + bytes([number]) + bytes(55))
        assert device.link.send(sent[-1])
    arrived = [data for _, data in device.take_all()]
    device.link.on_writable()
    arrived += [data for _, data in device.take_all()]
    assert arrived == sent
    assert not device.link.blocked
    counters = device.link.counters()
    assert counters["frames_to_guest"] == len(sent)
    assert counters["bytes_to_guest"] == 60 * len(sent)
    assert counters["link_stalls"] == 1


@pytest.mark.parametrize("offloads", [0, ALL])
def test_pieces_go_out_as_one_frame_and_are_kept_like_one(
    make_device: Callable[[int], Device], offloads: int
) -> None:
    device = make_device(offloads)
    frame = bytes(range(250)) * 4
    assert device.link.send(frame, hdr_len=42, piece=100)
    header, data = device.take()
    assert (data, header.hdr_len, header.gso_type) == (frame, 42, 0)
    assert device.link.counters()["bytes_to_guest"] == len(frame)
    sent = fill(device)
    sent.append(frame)
    assert device.link.send(frame, hdr_len=42, piece=100)
    arrived = [data for _, data in device.take_all()]
    device.link.on_writable()
    arrived += [data for _, data in device.take_all()]
    assert arrived == sent


def test_pieces_that_meet_a_full_device_are_kept(device: Device) -> None:
    sent: list[bytes] = []
    while not device.link.blocked:
        sent.append(len(sent).to_bytes(4, "big") + bytes(56))
        assert device.link.send(sent[-1], hdr_len=42, piece=7)
    assert device.link.counters()["link_stalls"] == 1
    arrived = [data for _, data in device.take_all()]
    device.link.on_writable()
    assert arrived + [data for _, data in device.take_all()] == sent
    device.kernel.close()
    assert not device.link.send(SMALL, hdr_len=14, piece=7)
    assert device.link.counters()["drop_link_full"] == 1


def test_device_that_drains_a_little_stalls_again(device: Device) -> None:
    sent = fill(device)
    for number in range(40):
        sent.append(b"more" + bytes([number]) + bytes(55))
        assert device.link.send(sent[-1])
    arrived = []
    rounds = 0
    while device.link.blocked:
        arrived += [device.take()[1] for _ in range(3)]
        device.link.on_writable()
        rounds += 1
        assert rounds < 1000
    arrived += [data for _, data in device.take_all()]
    assert arrived == sent
    assert rounds > 2


def test_frames_kept_are_bounded(device: Device) -> None:
    fill(device)
    large = bytes(65589)
    taken = 0
    while device.link.send(large):
        taken += 1
        assert taken < 10
    assert taken >= 2
    assert device.link.counters()["drop_link_full"] == 1
    assert device.link.send(SMALL)  # a small one still fits
    arrived = 0
    while device.link.blocked:
        arrived += len(device.take_all())
        device.link.on_writable()
    arrived += len(device.take_all())
    assert arrived == device.link.counters()["frames_to_guest"]
    assert device.link.send(large)


def test_refused_write_is_a_counted_drop(device: Device) -> None:
    device.kernel.close()
    assert not device.link.send(SMALL)
    assert device.link.counters()["drop_link_full"] == 1
    assert device.link.counters()["frames_to_guest"] == 0
    assert not device.link.blocked


# From the guest


def test_frames_are_read_in_batches(device: Device) -> None:
    frames = [bytes([number]) * (60 + number) for number in range(5)]
    for frame in frames:
        device.give(frame)
    assert [found.frame for found in device.link.read(3)] == frames[:3]
    assert [found.frame for found in device.link.read()] == frames[3:]
    assert device.link.read() == []
    assert device.link.error == 0


def test_large_frames_come_in_several_batches_without_loss(device: Device) -> None:
    frames = [bytes([number]) * 65589 for number in range(2)]
    for frame in frames:
        device.give(frame)
    found = device.link.read()
    found += device.link.read()
    assert [item.frame for item in found] == frames


@pytest.mark.parametrize("gso_type", [GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4])
def test_segmentation_of_the_guest_is_told_without_its_ecn_bit(device: Device, gso_type: int) -> None:
    device.give(SMALL, gso_type=gso_type, gso_size=1448)
    device.give(SMALL, gso_type=gso_type | GSO_ECN, gso_size=1448)
    assert [(found.gso_type, found.gso_size) for found in device.link.read()] == [(gso_type, 1448)] * 2


def test_frames_of_impossible_length_are_counted_drops(device: Device) -> None:
    device.kernel.send(b"")
    device.kernel.send(bytes(9))
    device.give(bytes(13))
    device.give(ethernet(b"", kind=0x0800))
    device.give(bytes(65589))
    device.kernel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 200000)
    device.give(bytes(65590))
    assert [len(found.frame) for found in device.link.read() + device.link.read()] == [14, 65589]
    counters = device.link.counters()
    assert (counters["drop_short"], counters["drop_oversize"]) == (3, 1)


def test_device_that_is_gone_is_an_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    link = Tap(writer, ALL)  # a descriptor that cannot be read
    assert link.read() == []
    assert link.error == errno.EBADF
