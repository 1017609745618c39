"""A session from its beginning to its end: many messages at once, every way out, and nothing left behind."""

from __future__ import annotations

import errno
import os
import random
import socket

import pytest

from passt.vhost_user import messages
from passt.vhost_user.messages import Header, Request, build_u64
from passt.vhost_user.session import MAX_PER_TURN, Session
from tests.vhost_user.front_end import BACKEND, REGION, FrontEnd, Loop

TABLE = messages.build_table([REGION] * 4)
WHOLE = Header(Request.SET_MEM_TABLE, 1, len(TABLE)).build() + TABLE
QUESTION = Header(Request.GET_FEATURES, 1, 0).build()


@pytest.mark.parametrize("length", range(1, len(WHOLE), 3))
def test_message_in_two_pieces(front_end: FrontEnd, file: int, length: int) -> None:
    front_end.send_bytes(WHOLE[:length], [file] * 4)
    assert (front_end.told, front_end.why) == ([], None)
    front_end.send_bytes(WHOLE[length:])
    assert [told[0] for told in front_end.told] == ["memory"]


@pytest.mark.parametrize("length", range(1, len(WHOLE), 3))
def test_end_in_a_message_leaves_nothing(front_end: FrontEnd, file: int, length: int) -> None:
    """The fixture counts descriptors."""
    front_end.send_bytes(WHOLE[:length], [file] * 4)
    front_end.sock.close()
    front_end.loop.turn()
    assert front_end.why == "it closed the connection in the middle of a message"


def test_end_of_the_device_in_a_message_leaves_nothing(front_end: FrontEnd, file: int) -> None:
    front_end.send_bytes(WHOLE[:20], [file] * 4)
    front_end.device.end("the guest's ring is wrong")
    front_end.loop.turn()
    assert front_end.why == "the guest's ring is wrong"
    assert front_end.sock.recv(1) == b""


def test_few_requests_are_carried_out_in_a_turn(front_end: FrontEnd) -> None:
    front_end.sock.sendall(QUESTION * (2 * MAX_PER_TURN + 1))
    for n_replies in (MAX_PER_TURN, MAX_PER_TURN, 1, 0):
        front_end.loop.turn()
        for _ in range(n_replies):
            front_end.sock.recv(12 + 8)
        assert not front_end.has_reply()


def test_front_end_that_takes_no_replies_is_ended(front_end: FrontEnd) -> None:
    front_end.sock.setblocking(False)
    while front_end.why is None:
        try:
            front_end.sock.send(QUESTION)
        except BlockingIOError:
            pass
        front_end.loop.turn()
    assert front_end.why.startswith("it takes no reply to GET_FEATURES: ")


def test_nothing_behind_a_violation_is_carried_out(front_end: FrontEnd) -> None:
    wrong = Header(Request.SET_FEATURES, 1, 8).build() + build_u64(1 << 63)
    right = Header(Request.SET_FEATURES, 1, 8).build() + build_u64(1)
    device = front_end.device
    front_end.send_bytes(right + wrong + right)
    assert device.told == [("features", 1)]
    assert front_end.why == "SET_FEATURES: features 0x8000000000000000 were not offered"


def test_control_socket_is_open_until_the_end_is_told(front_end: FrontEnd) -> None:
    """`run.clients.Clients` looks at it to know a client that comes back."""
    [fd] = front_end.loop.readers
    os.fstat(fd)
    front_end.sock.shutdown(socket.SHUT_RDWR)
    reader = front_end.loop.readers[fd]
    reader()
    assert front_end.loop.readers == {}  # it does not spin
    os.fstat(fd)
    assert front_end.why is None
    front_end.loop.turn()
    assert front_end.why == "it closed the connection"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space"), ValueError("there is a link")])
def test_client_that_cannot_be_served_is_left_to_the_caller(error: Exception) -> None:
    loop = Loop()
    loop.refusal = error
    ours, theirs = socket.socketpair()
    with pytest.raises(type(error)):
        Session(loop, theirs.fileno(), BACKEND, lambda _reason: None)
    assert loop.readers == {}
    theirs.send(b"x")
    assert ours.recv(1) == b"x"
    ours.close()
    theirs.close()


def test_next_session_starts_afresh(front_end: FrontEnd) -> None:
    """What one agreed upon is nothing to the next."""
    front_end.send(Request.SET_PROTOCOL_FEATURES, build_u64(BACKEND.protocol_features))
    front_end.close()
    other = FrontEnd()
    other.send(Request.GET_MAX_MEM_SLOTS)
    assert other.why == ("GET_MAX_MEM_SLOTS: that needs protocol feature CONFIGURE_MEM_SLOTS, which was not"
                         " agreed upon")
    other.close()


class Hostile:
    """Sends requests of any number, with any payload, flags and descriptors, in sessions without end."""

    def __init__(self, seed: int, *fds: int) -> None:
        self.dice = random.Random(seed)  # noqa: S311 - no secret
        self.fds = fds
        self.reasons: list[str] = []
        self.front_end = self.connect()

    def connect(self) -> FrontEnd:
        front_end = FrontEnd()
        front_end.send(Request.SET_PROTOCOL_FEATURES, build_u64(BACKEND.protocol_features))
        return front_end

    def send(self) -> None:
        dice, front_end = self.dice, self.front_end
        request = dice.choice([*Request, dice.getrandbits(32)])
        length = dice.choice([0, 0, 8, 8, 8, 16, 20, 24, 40, 40, dice.randrange(300)])
        payload = bytes(dice.choice([0, 0, 1, 2, dice.getrandbits(8)]) for _ in range(length))
        flags = dice.choice([1, 1, 1, 9, 9, 9, dice.getrandbits(32)])
        fds = [dice.choice(self.fds) for _ in range(dice.choice([0, 0, 0, 1, 1, 2, 8, 9]))]
        front_end.send(request, payload, fds, flags=flags)
        while front_end.has_reply():
            _, answered, _, _ = socket.recv_fds(front_end.sock, 65536, 8)
            for fd in answered:
                os.close(fd)
        if front_end.why is not None:
            self.reasons.append(front_end.why)
            front_end.close()
            self.front_end = self.connect()


@pytest.mark.parametrize("seed", range(20))
def test_nothing_of_a_hostile_front_end_is_an_exception(file: int, event: int, seed: int) -> None:
    """The loop would let an exception out; and no descriptor stays open."""
    n_before = len(os.listdir("/proc/self/fd"))
    hostile = Hostile(seed, file, event)
    for _ in range(300):
        hostile.send()
    hostile.front_end.close()
    assert len(hostile.reasons) > 10
    assert all(reason.isprintable() and len(reason) < 200 for reason in hostile.reasons)
    assert len(os.listdir("/proc/self/fd")) == n_before
