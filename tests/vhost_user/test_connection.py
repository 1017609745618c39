"""The control socket: messages in pieces, with any number of descriptors, and cut short anywhere."""

from __future__ import annotations

import gc
import os
import resource
import socket
from typing import TYPE_CHECKING

import pytest

from passt.errors import WireError
from passt.vhost_user.connection import Connection, EndOfSessionError, Message
from passt.vhost_user.messages import HEADER_LEN, Header, build_table, build_u64
from tests.support.isolated import isolated
from tests.vhost_user.front_end import REGION

if TYPE_CHECKING:
    from collections.abc import Iterator

TABLE = build_table([REGION] * 8)
WHOLE = Header(5, 1, len(TABLE)).build() + TABLE


class Pair:
    """A connection and its other end."""

    def __init__(self) -> None:
        self.far, near = socket.socketpair()
        self.connection = Connection(near.detach())
        self.event = os.eventfd(0)

    def send(self, data: bytes, n_fds: int = 0) -> None:
        """Send *data* with copies of one descriptor."""
        sent = socket.send_fds(self.far, [data], [self.event] * n_fds)
        assert sent == len(data)

    def refusal(self) -> str:
        """Return why the connection is at its end."""
        try:
            while self.connection.receive() is not None:
                continue
        except EndOfSessionError as error:
            return str(error)
        return ""

    def close(self) -> None:
        os.close(self.event)
        self.far.close()
        self.connection.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    gc.collect()  # what earlier tests left does not end while this one counts
    before = len(os.listdir("/proc/self/fd"))
    one = Pair()
    yield one
    one.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_nothing_is_there(pair: Pair) -> None:
    assert pair.connection.receive() is None


def test_message_comes_with_its_descriptors(pair: Pair) -> None:
    pair.send(WHOLE, 8)
    message = pair.connection.receive()
    assert message is not None
    assert (message.header, message.payload, len(message.fds)) == (Header(5, 1, len(TABLE)), TABLE, 8)
    assert not any(os.get_inheritable(fd) for fd in message.fds)
    message.close()
    assert message.fds == []
    assert pair.connection.receive() is None


def test_message_may_come_byte_by_byte(pair: Pair) -> None:
    for place in range(len(WHOLE)):
        assert pair.connection.receive() is None
        pair.send(WHOLE[place:place + 1], 1 if place in {0, 5, HEADER_LEN, len(WHOLE) - 1} else 0)
    message = pair.connection.receive()
    assert message is not None
    assert (message.payload, len(message.fds)) == (TABLE, 4)
    message.close()


def test_messages_in_one_piece_keep_their_own_descriptors(pair: Pair) -> None:
    """A front end need not wait for us; the descriptors of the second are not those of the first."""
    pair.send(WHOLE)
    pair.send(Header(12, 1, 8).build() + build_u64(1), 1)
    pair.send(WHOLE)
    counts = []
    for _ in range(3):
        message = pair.connection.receive()
        assert message is not None
        counts.append((message.header.request, len(message.fds)))
        message.close()
    assert counts == [(5, 0), (12, 1), (5, 0)]


@pytest.mark.parametrize("length", range(1, len(WHOLE), 5))
def test_end_in_a_message_is_no_message(pair: Pair, length: int) -> None:
    pair.send(WHOLE[:length], 3)
    assert pair.connection.receive() is None
    pair.far.close()
    assert pair.refusal() == "it closed the connection in the middle of a message"


def test_end_between_messages(pair: Pair) -> None:
    pair.send(WHOLE)
    pair.far.close()
    assert pair.refusal() == "it closed the connection"


def test_reset_is_an_end(pair: Pair) -> None:
    pair.connection.reply(1, b"")  # unread data make the kernel reset it
    pair.far.close()
    assert pair.refusal() == "it broke the connection: Connection reset by peer"


@pytest.mark.parametrize("n_fds", [9, 16, 253])
def test_too_many_descriptors_at_once(pair: Pair, n_fds: int) -> None:
    pair.send(WHOLE, n_fds)
    assert pair.refusal() == "it sent more than 8 descriptors with one message"


def test_too_many_descriptors_in_pieces(pair: Pair) -> None:
    pair.send(WHOLE[:4], 8)
    assert pair.connection.receive() is None
    pair.send(WHOLE[4:], 1)
    assert pair.refusal() == "it sent more than 8 descriptors with one message"


def test_no_room_for_descriptors() -> None:

    def run() -> str:
        pair = Pair()
        pair.send(WHOLE, 4)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (pair.event + 3, limits[1]))
        return pair.refusal()

    assert isolated(run, flags=0) == "this process has no room for the descriptors that it sent"


@pytest.mark.parametrize(("header", "reason"), [
    (Header(5, 2, 0), "SET_MEM_TABLE: version 2 of the protocol; 1 would be right"),
    (Header(1, 5, 8), "GET_FEATURES: it is marked as a reply, which nobody asked for"),
    (Header(77, 1, 1 << 31), "request 77: a payload of 2147483648 bytes; no request has more than 512"),
])
def test_header_of_no_request_is_an_end(pair: Pair, header: Header, reason: str) -> None:
    pair.send(header.build(), 2)
    assert pair.refusal() == reason


def test_reply_that_is_not_taken_is_an_end(pair: Pair) -> None:

    def fill() -> None:
        for _ in range(100_000):
            pair.connection.reply(1, build_u64(1))

    with pytest.raises(EndOfSessionError, match="takes no reply to GET_FEATURES: Resource temporarily unav"):
        fill()


def test_reply_to_somebody_who_left_is_an_end(pair: Pair) -> None:
    pair.far.close()
    with pytest.raises(EndOfSessionError, match="it takes no reply to GET_QUEUE_NUM: Broken pipe"):
        pair.connection.reply(17, build_u64(1))


def test_just_one_descriptor_can_be_taken(pair: Pair) -> None:
    message = Message(Header(12, 1, 8), build_u64(0), [os.dup(pair.event)])
    fd = message.take_fd()
    message.close()
    os.fstat(fd)
    os.close(fd)
    for fds in ([], [os.dup(pair.event), os.dup(pair.event)]):
        message = Message(Header(12, 1, 8), build_u64(0), fds)
        with pytest.raises(WireError, match=f"^{len(fds)} descriptors; 1 would be right$"):
            message.take_fd()
        message.close()
