"""What the forwarder counts: each counter by what makes it grow, one alone; and who reads it."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from passt.names.answer_cache import AnswerCache
from passt.names.clients import MAX_CLIENTS, MAX_UNSENT, DatagramDoor, StreamClient, StreamDoor
from passt.names.counts import DROPS_FROM, NAMES, Counts
from passt.names.exchange import MAX_WRONG
from passt.names.forwarder import MAX_WAITING
from tests.support.name_server import (
    AXFR,
    REFUSED,
    RESPONSE,
    SERVFAIL,
    NamesBench,
    address,
    header,
    query,
    reply,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GOOD = address("192.0.2.80", 60)
ASKED = query("www.example")


def test_names_are_those_of_drops_and_of_others() -> None:
    assert all(name.startswith("names_") for name in NAMES[:DROPS_FROM])
    assert all(name.startswith("drop_names_") for name in NAMES[DROPS_FROM:])
    assert len(set(NAMES)) == len(NAMES)


def test_all_are_0_and_each_is_its_own() -> None:
    counts = Counts()
    assert list(counts.read().items()) == [(name, 0) for name in NAMES]
    for place, name in enumerate(NAMES):
        for _ in range(place):
            counts.add(place)
        assert counts.read()[name] == place
    assert list(counts.read().values()) == list(range(len(NAMES)))


def test_another_process_counts_and_this_one_reads() -> None:
    counts = Counts()
    pid = os.fork()
    if pid == 0:
        counts.add(len(NAMES) - 1)
        os._exit(0)
    os.waitpid(pid, 0)
    assert counts.read()[NAMES[-1]] == 1


def test_question_that_is_answered(make: Callable[..., NamesBench]) -> None:
    bench = make(cache=lambda clock: AnswerCache(10, clock))
    bench.ask(ASKED)
    asked, tell = bench.servers[0].take()
    tell(reply(asked, GOOD))
    bench.next_answer()
    assert bench.counted() == {"queries": 1, "asked": 1}
    bench.ask(ASKED)
    assert bench.counted() == {"queries": 2, "asked": 1, "from_cache": 1}


@pytest.mark.parametrize(("message", "counted"), [
    (b"", {"drop_no_query": 1}),
    (ASKED[:11], {"drop_no_query": 1}),
    (reply(ASKED, GOOD), {"drop_no_query": 1}),
    (ASKED[:20], {"queries": 1, "drop_malformed": 1}),
    (header(1, 0, (0, 0, 0, 0)), {"queries": 1, "drop_malformed": 1}),       # no question
    (query("a", AXFR), {"queries": 1, "drop_refused": 1}),
    (query("a", flags=5 << 11), {"queries": 1, "drop_refused": 1}),           # an update
])  # fmt: skip
def test_what_goes_to_no_server(make: Callable[..., NamesBench], message: bytes,
                                counted: dict[str, int]) -> None:
    bench = make()
    bench.ask(message)
    assert bench.counted() == counted


def test_same_question_again_and_again(make: Callable[..., NamesBench]) -> None:
    bench = make()
    for _ in range(3):
        bench.ask(ASKED)
    assert bench.counted() == {"queries": 3, "asked": 1, "drop_repeated": 2}


def test_more_questions_than_there_may_be(make: Callable[..., NamesBench]) -> None:
    bench = make(max_exchanges=1)
    for number in range(MAX_WAITING + 1):
        bench.ask(query("www.example", number=number))
    bench.ask(query("other.example"))
    assert bench.counted() == {"queries": MAX_WAITING + 2, "asked": 1, "drop_full": 2}


@pytest.mark.parametrize("code", [SERVFAIL, REFUSED])
def test_server_that_says_it_cannot(make: Callable[..., NamesBench], code: int) -> None:
    bench = make()
    bench.ask(ASKED)
    asked, tell = bench.servers[0].take()
    tell(reply(asked, flags=RESPONSE | code))
    bench.next_answer()
    # Its answer is the answer, for want of a better one.
    assert bench.counted()["server_failures"] >= 1
    assert "drop_no_answer" not in bench.counted()


def test_servers_that_are_not_there(make: Callable[..., NamesBench]) -> None:
    bench = make(2)
    for server in bench.servers:
        server.close()
    bench.ask(ASKED)
    bench.ask(query("www.example", number=7))
    bench.turn_until(lambda: len(bench.answers) == 2, "both are answered")
    counted = bench.counted()
    assert counted.pop("server_failures") >= 2
    assert counted == {"queries": 2, "asked": 1, "drop_no_answer": 2}


def test_server_that_lies(make: Callable[..., NamesBench]) -> None:
    bench = make()
    bench.ask(ASKED)
    asked, tell = bench.servers[0].take()
    for i in range(MAX_WRONG - 1):
        tell(b"junk" if i % 2 else reply(query("other.example", number=int.from_bytes(asked[:2], "big"))))
    tell(reply(asked, GOOD))
    bench.next_answer()
    assert bench.counted() == {"queries": 1, "asked": 1, "drop_wrong_answer": MAX_WRONG - 1}


class Taken:
    """A UDP socket with one datagram, which cannot answer it."""

    def __init__(self, data: bytes) -> None:
        self._data = [data]

    def fileno(self) -> int:
        return 0

    def setblocking(self, _value: bool) -> None:
        pass

    def recvfrom(self, _limit: int) -> tuple[bytes, tuple[str, int]]:
        if not self._data:
            raise BlockingIOError
        return self._data.pop(), ("127.0.0.1", 9)

    def sendto(self, _data: bytes, _address: tuple[str, int]) -> int:
        raise PermissionError


class Idle:
    """A loop in which nothing happens."""

    def watch(self, *_arguments: object) -> None:
        pass


def test_answer_that_cannot_be_sent(make: Callable[..., NamesBench]) -> None:
    bench = make()
    door = DatagramDoor(Idle(), Taken(query("a", AXFR)), bench.forwarder)  # type: ignore[arg-type]
    door._on_readable()
    assert bench.counted() == {"queries": 1, "drop_refused": 1, "drop_unsent": 1}


@pytest.fixture
def served(make: Callable[..., NamesBench]) -> Iterator[tuple[NamesBench, socket.socket, StreamClient]]:
    """Lend a connection, and what serves it."""
    bench = make()
    ours, theirs = socket.socketpair()
    others: set[StreamClient] = set()
    client = StreamClient(bench.loop, ours, bench.forwarder, others)
    others.add(client)
    yield bench, theirs, client
    client._close()
    theirs.close()


def test_connection_with_a_query_that_is_too_long(
        served: tuple[NamesBench, socket.socket, StreamClient]) -> None:
    bench, theirs, client = served
    theirs.sendall(b"\xff\xff")
    bench.turn_until(lambda: not client._is_open, "it is closed")
    assert bench.counted() == {"drop_oversize": 1}


def test_connection_that_reads_no_answers(served: tuple[NamesBench, socket.socket, StreamClient]) -> None:
    bench, _, client = served
    while client._is_open:
        client._n_asked += 1
        client._send(bytes(MAX_UNSENT // 8))
    assert bench.counted() == {"drop_unread": 1}
    client._send(b"late")
    assert bench.counted() == {"drop_unread": 1, "drop_unsent": 1}


def test_more_connections_than_there_may_be(make: Callable[..., NamesBench]) -> None:
    bench = make()
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        door = StreamDoor(bench.loop, listener, bench.forwarder)
        clients = [socket.create_connection(listener.getsockname()) for _ in range(MAX_CLIENTS + 2)]
        try:
            bench.turn_until(lambda: bench.counted() == {"drop_connections": 2}, "two are turned away")
        finally:
            for client in clients:
                client.close()
            bench.turn_until(lambda: not door.clients, "all are forgotten")
            bench.loop.unwatch(listener.fileno())

