"""Messages between the main process and its child."""

from __future__ import annotations

import os
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

import pytest

from passt.host.channel import MAX_MESSAGE, Channel, Kind, Message, Tap, read_ready, read_status

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
    fd = os.open(os.devnull, os.O_RDONLY)
    assert ends[0].send_ready(Tap(fd, 0x6F, MAC, link_local))
    message = ends[1].receive(wait=True)
    assert message is not None
    tap = read_ready(message)
    assert (tap.offloads, tap.mac, tap.link_local) == (0x6F, MAC, link_local)
    assert tap.fd != fd
    assert os.path.sameopenfile(tap.fd, fd)
    assert not os.get_inheritable(tap.fd)
    os.close(tap.fd)
    os.close(fd)


def test_ready_has_these_bytes(ends: tuple[Channel, Channel]) -> None:
    ends[0].send_ready(Tap(0, 0x6F, MAC, IPv6Address("fe80::1")))
    message = ends[1].receive(wait=True)
    assert message is not None
    assert message.payload == bytes.fromhex("0000006f02aabbccddeefe800000000000000000000000000001")
    assert len(message.fds) == 1
    os.close(message.fds[0])


def test_ready_without_descriptor_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="descriptor"):
        read_ready(Message(Kind.READY, bytes(26)))


@pytest.mark.parametrize("status", [0, 7 << 8, 9, 0xFF00, 0x8B])
def test_status_is_kept(ends: tuple[Channel, Channel], status: int) -> None:
    ends[0].send_ended(status)
    message = ends[1].receive(wait=True)
    assert message is not None
    assert (message.kind, read_status(message), message.fds) == (Kind.ENDED, status, [])


def test_long_text_loses_its_end(ends: tuple[Channel, Channel]) -> None:
    ends[0].send_failed("é" * MAX_MESSAGE)
    message = ends[1].receive(wait=True)
    assert message is not None
    assert len(message.payload) == MAX_MESSAGE - 1


def test_nothing_to_receive_is_none(ends: tuple[Channel, Channel]) -> None:
    assert not ends[0].has_news()
    assert ends[0].receive(wait=False) is None


def test_end_of_the_other_side_is_seen(ends: tuple[Channel, Channel]) -> None:
    ends[1].send(Kind.CONTINUED)
    assert not ends[0].is_abandoned()
    ends[1].close()
    assert ends[0].is_abandoned()
    assert ends[0].has_news()
    message = ends[0].receive(wait=True)
    assert message is not None
    assert message.kind is Kind.CONTINUED
    assert ends[0].receive(wait=True) is None
    assert ends[0].send(Kind.START) is False


def test_full_channel_loses_messages_but_does_not_block(ends: tuple[Channel, Channel]) -> None:
    while ends[0].send(Kind.SIGNAL, b"\x0f\x00"):
        pass
    assert ends[1].receive(wait=True) is not None
