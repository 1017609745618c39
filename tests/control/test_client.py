"""One client of the control socket: HTTP in pieces, nonsense, time; the clock stands still."""

from __future__ import annotations

import contextlib
import json
import random
import socket
from typing import TYPE_CHECKING

import pytest

from passt.control.client import IDLE_S, MAX_HEAD, READ_SIZE, REQUEST_S, SEND_S, Client
from passt.control.http import MAX_BODY, RefusalError, Request, Response, answer
from tests.support.control import PollLoop
from tests.support.fakes import Clock

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

GET = b"GET /v1/info HTTP/1.1\r\nhost: passt\r\n\r\n"


class Pair:
    """A client of the server, and the far end of its socket."""

    def __init__(self) -> None:
        self.loop, self.clock = PollLoop(), Clock(1000.0)
        ours, self.far = socket.socketpair()
        ours.setblocking(False)
        self.far.setblocking(False)
        self.requests: list[Request] = []
        self.bodies: list[Iterable[bytes | None]] = []
        self.ended = 0
        self.never_ends = False
        self.client = Client(self.loop, ours, self.serve, self.on_end, self.clock)

    def serve(self, request: Request, _client: Client) -> Response:
        self.requests.append(request)
        if request.path == "/refused":
            raise RefusalError(409, "not now")
        if self.bodies:
            return Response(200, "text/plain", self.bodies.pop(0), is_whole=False, never_ends=self.never_ends)
        return answer({"path": request.path})

    def on_end(self, _client: Client) -> None:
        self.ended += 1

    def say(self, data: bytes) -> None:
        self.far.sendall(data)
        self.loop.run()

    def hear(self) -> bytes:
        found = b""
        while True:
            try:
                data = self.far.recv(1 << 20)
            except BlockingIOError:
                return found
            except ConnectionResetError:
                return found
            if not data:
                return found
            found += data
            self.loop.run()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.client.close()
    made.far.close()


def body_of(response: bytes) -> bytes:
    return response.partition(b"\r\n\r\n")[2]


def test_a_request_is_answered_and_the_connection_lives_on(pair: Pair) -> None:
    for _ in range(3):
        pair.say(GET)
        response = pair.hear()
        assert response.startswith(b"HTTP/1.1 200 \r\n")
        assert json.loads(body_of(response)) == {"path": "/v1/info"}
    assert pair.ended == 0


def test_a_request_in_single_bytes_is_the_same_request(pair: Pair) -> None:
    request = b"PUT /v1/log?a=%20b HTTP/1.1\r\nHost: x\r\nAccept: t/x\r\nContent-Length: 4\r\n\r\nabcd"
    for i in range(len(request)):
        pair.say(request[i : i + 1])
    assert pair.requests == [Request("PUT", "/v1/log", {"a": " b"}, b"abcd", "t/x")]
    assert pair.hear().startswith(b"HTTP/1.1 200 ")


def test_every_truncation_waits_for_more_and_ends_in_time() -> None:
    for n in range(len(GET)):
        one = Pair()
        one.say(GET[:n])
        assert (one.hear(), one.requests, one.ended) == (b"", [], 0)
        one.clock.now_s += REQUEST_S + 1
        assert one.client.is_late()
        one.client.close()
        one.far.close()


def test_requests_that_come_together_are_answered_in_order(pair: Pair) -> None:
    pair.say(GET.replace(b"info", b"one") + GET.replace(b"info", b"two") + GET.replace(b"info", b"three"))
    heard = pair.hear()
    assert [request.path for request in pair.requests] == ["/v1/one", "/v1/two", "/v1/three"]
    assert heard.index(b"/v1/one") < heard.index(b"/v1/two") < heard.index(b"/v1/three")


def test_requests_that_are_sent_ahead_are_read_when_their_turn_has_come(pair: Pair) -> None:
    sent = 0
    for _ in range(400):
        with contextlib.suppress(BlockingIOError):
            sent += pair.far.send(GET * 1000)
        pair.loop.turn()
        with contextlib.suppress(BlockingIOError):
            pair.far.recv(1 << 20)
    assert 50 < len(pair.requests) <= 400
    assert len(pair.client._http.trailing_data[0]) <= READ_SIZE
    assert sent < 1 << 20          # all else waits in the socket


def test_requests_before_the_end_of_the_stream_are_all_answered(pair: Pair) -> None:
    pair.far.sendall(GET * 5)
    pair.far.shutdown(socket.SHUT_WR)
    pair.loop.run()
    assert pair.hear().count(b"HTTP/1.1 200 ") == 5
    assert pair.ended == 1


def test_a_client_that_ends_its_stream_gets_its_answer(pair: Pair) -> None:
    pair.far.sendall(GET)
    pair.far.shutdown(socket.SHUT_WR)
    pair.loop.run()
    assert pair.hear().startswith(b"HTTP/1.1 200 ")
    assert pair.ended == 1


def test_head_gets_no_body_and_connection_close_closes(pair: Pair) -> None:
    pair.say(GET.replace(b"GET", b"HEAD"))
    assert body_of(pair.hear()) == b""
    pair.say(GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
    assert body_of(pair.hear()) == b'{"path":"/v1/info"}\n'
    assert pair.ended == 1


@pytest.mark.parametrize(
    "nonsense",
    [b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/x\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n",
     b"GET /%ff HTTP/1.1\r\nhost: x\r\n\r\n", b"GET /?a=1&a=2 HTTP/1.1\r\nhost: x\r\n\r\n",
     b"GET /?a HTTP/1.1\r\nhost: x\r\n\r\n", b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: -4\r\n\r\n",
     b"PUT / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"],
)  # fmt: skip
def test_nonsense_gets_a_clear_status(pair: Pair, nonsense: bytes) -> None:
    pair.say(nonsense)
    heard = pair.hear()
    assert heard.startswith(b"HTTP/1.1 400 ")
    problem = json.loads(body_of(heard))
    assert problem["status"] == 400
    assert problem["detail"]
    assert pair.requests == []


def test_a_refusal_is_a_problem_and_the_connection_lives_on(pair: Pair) -> None:
    pair.say(b"GET /refused HTTP/1.1\r\nhost: x\r\n\r\n")
    heard = pair.hear()
    assert heard.startswith(b"HTTP/1.1 409 ")
    assert b"application/problem+json" in heard
    pair.say(GET)
    assert pair.hear().startswith(b"HTTP/1.1 200 ")


def test_a_long_line_and_a_large_body_are_refused_in_bounded_memory(pair: Pair) -> None:
    pair.far.setblocking(True)
    pair.far.settimeout(0.1)
    sent = 0
    try:
        while sent < 10 << 20:
            sent += pair.far.send(b"x" * 65536)
            pair.loop.run()
    except OSError:
        pass
    assert sent < 16 * MAX_HEAD + (1 << 20)
    pair.far.setblocking(False)
    assert pair.hear().startswith(b"HTTP/1.1 413 ")
    assert pair.ended == 1
    other = Pair()
    other.say(b"PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 999999\r\n\r\n")
    other.say(b"y" * (MAX_BODY + 1))
    assert other.hear().startswith(b"HTTP/1.1 413 ")
    other.client.close()
    other.far.close()


def test_expect_continue_is_answered(pair: Pair) -> None:
    pair.say(b"PUT /x HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
    assert pair.hear().startswith(b"HTTP/1.1 100 ")
    pair.say(b"{}")
    assert pair.hear().startswith(b"HTTP/1.1 200 ")


def test_a_body_is_made_as_fast_as_it_is_read_and_no_faster(pair: Pair) -> None:
    made: list[int] = []

    def pieces() -> Iterator[bytes | None]:
        for i in range(100):
            made.append(i)
            yield b"z" * 65536

    pair.bodies.append(pieces())
    pair.say(GET)
    assert len(made) < 20          # what the socket's buffer takes
    n_calls = pair.loop.n_calls
    pair.loop.run()
    assert pair.loop.n_calls == n_calls    # nothing spins while the client does not read
    heard = pair.hear()
    assert len(made) == 100
    assert heard.count(b"z") == 65536 * 100


def test_one_piece_is_made_in_a_turn(pair: Pair) -> None:
    made: list[int] = []

    def pieces() -> Iterator[bytes | None]:
        for i in range(5):
            made.append(i)
            yield b""

    pair.bodies.append(pieces())
    pair.far.sendall(GET)
    for n in range(1, 6):
        pair.loop.turn()
        assert len(made) <= n
    pair.loop.run()
    assert pair.hear().endswith(b"0\r\n\r\n")


def test_a_body_that_waits_is_woken(pair: Pair) -> None:
    said: list[bytes] = []

    def pieces() -> Iterator[bytes | None]:
        while True:
            yield said.pop(0) if said else None

    pair.bodies.append(pieces())
    pair.say(GET)
    pair.hear()
    pair.clock.now_s += 1e6
    assert not pair.client.is_late()       # it has nothing to say, which is not the client's fault
    said.append(b"news")
    pair.client.wake()
    pair.loop.run()
    assert b"news" in pair.hear()
    pair.far.close()
    pair.loop.run()
    assert pair.ended == 1


def test_slow_and_silent_clients_are_late(pair: Pair) -> None:
    pair.clock.now_s += REQUEST_S + 1
    assert pair.client.is_late()           # it never said a word
    other = Pair()
    other.say(GET)
    other.hear()
    other.clock.now_s += IDLE_S - 1
    assert not other.client.is_late()
    other.clock.now_s += 2
    assert other.client.is_late()
    third = Pair()
    third.bodies.append(b"z" * 65536 for _ in range(100))
    third.say(GET)
    third.clock.now_s += SEND_S + 1
    assert third.client.is_late()          # it reads nothing
    for each in (other, third):
        each.client.close()
        each.far.close()


def test_a_reader_of_what_never_ends_may_take_its_time(pair: Pair) -> None:
    pair.bodies.append(b"z" * 65536 for _ in range(100))
    pair.never_ends = True
    pair.say(GET)
    pair.clock.now_s += 100 * SEND_S
    assert not pair.client.is_late()


def test_random_bytes_never_raise() -> None:
    dice = random.Random(17)  # noqa: S311 - the same bytes each time
    for _ in range(300):
        one = Pair()
        data = bytearray(GET * 2 + b"PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc")
        for _ in range(dice.randrange(1, 8)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        try:
            one.say(bytes(data))
            one.far.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        one.loop.run()
        one.hear()
        one.loop.run()
        assert one.ended == 1
        one.far.close()
