"""Messages between the main process and its child."""

from __future__ import annotations

import os
import resource
import socket
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

import pytest

from passt.namespace.child_channel import MAX_MESSAGE, Channel, Kind, Tap, read_ready, read_status
from tests.support.isolated import isolated

if TYPE_CHECKING:
    from collections.abc import Iterator

MAC = bytes.fromhex("02aabbccddee")


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    one, other = Channel.pair()
    yield one, other
    one.close()
    other.close()


@pytest.mark.parametrize("link_local", [None, IPv6Address("fe80::aa:bbff:fecc:ddee")])
def test_ready_carries_the_tap(ends: tuple[Channel, Channel], link_local: IPv6Address | None) -> None:
    sent = [os.open(os.devnull, os.O_RDONLY), os.open("/", os.O_RDONLY), os.open("/proc", os.O_RDONLY)]
    assert ends[0].send_ready(Tap(sent[0], sent[1], 0x6F, MAC, link_local, sent[2:]))
    message = ends[1].receive(Kind.READY, Kind.FAILED, wait=True)
    assert message is not None
    tap = read_ready(message)
    assert (tap.offloads, tap.mac, tap.link_local) == (0x6F, MAC, link_local)
    received = [tap.fd, tap.namespace, *tap.port_sources]
    assert len(received) == 3
    for ours, theirs in zip(received, sent, strict=True):
        assert ours != theirs
        assert os.path.sameopenfile(ours, theirs)
        assert not os.get_inheritable(ours)
        os.close(ours)
        os.close(theirs)


def test_ready_has_these_bytes(ends: tuple[Channel, Channel]) -> None:
    ends[0].send_ready(Tap(0, 1, 0x6F, MAC, IPv6Address("fe80::1")))
    message = ends[1].receive(Kind.READY, wait=True)
    assert message is not None
    assert message.payload == bytes.fromhex("0000006f02aabbccddeefe800000000000000000000000000001")
    assert len(message.fds) == 2
    for fd in message.fds:
        os.close(fd)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


FROM_CHILD = (Kind.READY, Kind.FAILED, Kind.STOPPED, Kind.CONTINUED, Kind.ENDED)
TO_CHILD = (Kind.START, Kind.SIGNAL, Kind.RESUME)
# Good ones are b"\x01" + 26 bytes with two to six descriptors, and so on; each of these has one fault.
MALFORMED = [
    (b"\x00", 0), (b"\x06", 0), (b"\xff", 0), (b"\xff" * 100, 0),
    (b"\x01", 2), (b"\x01" + bytes(25), 2), (b"\x01" + bytes(27), 2), (b"\x01" + bytes(26), 0),
    (b"\x01" + bytes(26), 1), (b"\x01" + bytes(26), 7), (b"\x01" + bytes(26), 200),
    (b"\x02text", 1),
    (b"\x03", 0), (b"\x03\x13\x13", 0), (b"\x03\x13", 1), (b"\x03\x09", 0), (b"\x03\x00", 0),
    (b"\x03\x0f", 0), (b"\x03\x11", 0), (b"\x03\xff", 0),
    (b"\x04\x00", 0), (b"\x04", 1), (b"\x04", 6),
    (b"\x05", 0), (b"\x05" + bytes(3), 0), (b"\x05" + bytes(5), 0), (b"\x05" + bytes(4), 1),
    (b"\x05\xff\xff\xff\xff", 0), (b"\x05\x00\x01\x00\x00", 0), (b"\x05\x00\x00\x13\x7f", 0),
    (b"\x05\x00\x00\xff\xff", 0),
    (b"\x02" + bytes(MAX_MESSAGE), 0),
    (b"\x10\x00", 0), (b"\x11\x0f\x00", 0), (b"\x12\x00", 0),  # of the other direction
]
MALFORMED_TO_CHILD = [
    (b"\x00", 0), (b"\x10", 0), (b"\x10\x00\x00", 0), (b"\x10\x00", 1), (b"\x11", 0), (b"\x11\x0f", 0),
    (b"\x11\x0f\x00\x00", 0), (b"\x11\x00\x00", 0), (b"\x11\x09\x00", 0), (b"\x11\x41\x00", 0),
    (b"\x11\xff\x00", 0), (b"\x12", 0), (b"\x12\x00\x00", 0), (b"\x13", 0),
    (b"\x05" + bytes(4), 0), (b"\x04", 0),
]


@pytest.mark.parametrize(("kinds", "data", "n_fds"), [
    *[(FROM_CHILD, data, n_fds) for data, n_fds in MALFORMED],
    *[(TO_CHILD, data, n_fds) for data, n_fds in MALFORMED_TO_CHILD],
    ((Kind.STOPPED, Kind.CONTINUED, Kind.ENDED), b"\x01" + bytes(26), 2),  # a kind whose time is over
])
def test_malformed_message_is_the_end_of_file_and_leaves_no_descriptor(
        ends: tuple[Channel, Channel], kinds: tuple[Kind, ...], data: bytes, n_fds: int) -> None:
    before = open_descriptors()
    with socket.socket(fileno=os.dup(ends[0].fileno())) as forger:
        socket.send_fds(forger, [data], [0] * n_fds)
        forger.send(b"\x04")
    for wait in (True, False):
        assert ends[1].receive(*kinds, wait=wait) is None
    assert (ends[1].has_ended, ends[1].is_broken) == (True, True)
    assert open_descriptors() == before
    # The other side sees it as well.
    assert ends[0].receive(*kinds, wait=True) is None
    assert (ends[0].has_ended, ends[0].is_broken) == (True, False)
    assert ends[0].send(Kind.CONTINUED) is False


@pytest.mark.parametrize(("kind", "payload"), [
    (Kind.FAILED, b""), (Kind.FAILED, b"\xff"), (Kind.STOPPED, b"\x13"), (Kind.STOPPED, b"\x14"),
    (Kind.STOPPED, b"\x15"), (Kind.STOPPED, b"\x16"), (Kind.CONTINUED, b""), (Kind.ENDED, b"\0\0\x07\0"),
    (Kind.ENDED, b"\0\0\0\x8b"), (Kind.START, b"\3"), (Kind.SIGNAL, b"\x0f\1"), (Kind.SIGNAL, b"\x0a\0"),
    (Kind.RESUME, b"\1"),
])
def test_well_formed_message_arrives(ends: tuple[Channel, Channel], kind: Kind, payload: bytes) -> None:
    assert ends[0].send(kind, payload)
    message = ends[1].receive(*FROM_CHILD, *TO_CHILD, wait=True)
    assert message is not None
    assert (message.kind, message.payload, message.fds) == (kind, payload, [])
    assert not ends[1].has_ended


def test_descriptors_without_room_are_told(ends: tuple[Channel, Channel]) -> None:
    def receive() -> tuple[bool, bool, int]:
        ends[0].send_ready(Tap(0, 1, 0, MAC, None))
        before = open_descriptors()
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (os.dup(0) + 1, hard))
        message = ends[1].receive(Kind.READY, wait=True)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return message is None, ends[1].has_lost_descriptors, open_descriptors() - before

    # One was the test's own.
    assert isolated(receive, flags=0) == (True, True, 1)


@pytest.mark.parametrize("status", [0, 7 << 8, 9, 0xFF00, 0x8B])
def test_status_is_kept(ends: tuple[Channel, Channel], status: int) -> None:
    ends[0].send_ended(status)
    message = ends[1].receive(Kind.ENDED, wait=True)
    assert message is not None
    assert (message.kind, read_status(message), message.fds) == (Kind.ENDED, status, [])


def test_long_text_loses_its_end(ends: tuple[Channel, Channel]) -> None:
    ends[0].send_failed("é" * MAX_MESSAGE)
    message = ends[1].receive(Kind.FAILED, wait=True)
    assert message is not None
    assert len(message.payload) == MAX_MESSAGE - 1


def test_nothing_to_receive_is_none(ends: tuple[Channel, Channel]) -> None:
    assert not ends[0].has_news()
    assert ends[0].receive(Kind.CONTINUED, wait=False) is None
    assert not ends[0].has_ended


def test_end_of_the_other_side_is_seen(ends: tuple[Channel, Channel]) -> None:
    ends[1].send(Kind.CONTINUED)
    assert not ends[0].is_abandoned()
    ends[1].close()
    assert ends[0].is_abandoned()
    assert ends[0].has_news()
    message = ends[0].receive(Kind.CONTINUED, wait=True)
    assert message is not None
    assert message.kind is Kind.CONTINUED
    assert ends[0].receive(Kind.CONTINUED, wait=True) is None
    assert (ends[0].has_ended, ends[0].is_broken) == (True, False)
    assert ends[0].send(Kind.START) is False


def test_full_channel_loses_messages_but_does_not_block(ends: tuple[Channel, Channel]) -> None:
    while ends[0].send(Kind.SIGNAL, b"\x0f\x00"):
        pass
    assert ends[1].receive(Kind.SIGNAL, wait=True) is not None
