"""The doors: clients that send datagrams, or connections that are slow, hasty, rude or many."""

from __future__ import annotations

import inspect
import socket
import sys
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest

from passt.names.clients import IDLE_S, MAX_ASKED, MAX_CLIENTS, DatagramDoor, StreamDoor
from passt.names.judge import Judge
from tests.support.name_server import NamesBench, address, query, reply
from tests.support.processes import is_readable

if TYPE_CHECKING:
    from collections.abc import Iterator

OWN = IPv4Address("192.0.2.9")
GOOD = address("192.0.2.80")
ASKED = query("own.lan")
ANSWER = reply(ASKED, address("192.0.2.9", 60))


class Doors(NamesBench):
    """A bench with a door of each kind; own.lan is answered at once."""

    def __init__(self) -> None:
        super().__init__(judge=Judge([("own.lan", OWN)], (), has_ip6=True), max_exchanges=64)
        udp, self.listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()
        udp.bind(("127.0.0.1", 0))
        self.udp_address = udp.getsockname()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(128)
        self.datagrams = DatagramDoor(self.loop, udp, self.forwarder)
        self.streams = StreamDoor(self.loop, self.listener, self.forwarder)
        self.opened: list[socket.socket] = [udp, self.listener]

    def connect(self) -> socket.socket:
        client = socket.create_connection(self.listener.getsockname())
        client.settimeout(60)
        self.opened.append(client)
        n_before = len(self.streams.clients)
        self.turn_until(lambda: len(self.streams.clients) > n_before, "the connection is taken")
        return client

    def receive(self, client: socket.socket, length: int) -> bytes:
        """Receive so many bytes; fewer at the end of the connection."""
        data = b""
        while len(data) < length:
            self.turn_until(lambda: is_readable(client.fileno()), "data comes")
            more = client.recv(length - len(data))
            if not more:
                break
            data += more
        return data

    def close(self) -> None:
        for one in [*self.streams.clients]:
            one._close()
        for sock in self.opened:
            sock.close()
        super().close()


@pytest.fixture
def doors() -> Iterator[Doors]:
    made = Doors()
    yield made
    made.close()


def framed(*messages: bytes) -> bytes:
    return b"".join(len(message).to_bytes(2, "big") + message for message in messages)


def test_datagrams_are_answered(doors: Doors) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(doors.udp_address)
        for junk in (b"", b"x", ASKED):
            client.send(junk)
        doors.turn_until(lambda: is_readable(client.fileno()), "an answer comes")
        assert client.recv(4096) == ANSWER


def test_client_of_a_datagram_may_be_gone(doors: Doors) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(doors.udp_address)
        client.send(query("www.example"))
        doors.turn_until(doors.servers[0].is_asked, "the server is asked")
    asked, tell = doors.servers[0].take()
    tell(reply(asked, GOOD))
    doors.turn_until(lambda: doors.forwarder.n_exchanges == 0, "the answer was sent")
    test_datagrams_are_answered(doors)


def test_message_may_come_byte_by_byte(doors: Doors) -> None:
    client = doors.connect()
    for byte in framed(ASKED):
        client.send(bytes((byte,)))
        doors.loop.turn(0)
    assert doors.receive(client, len(framed(ANSWER))) == framed(ANSWER)


def test_many_messages_may_come_at_once(doors: Doors) -> None:
    """A few hundred in one segment, all answered at once: none calls another."""
    client = doors.connect()
    tiny = bytes.fromhex("00010100000000000000 0000")       # no question: malformed
    client.sendall(framed(*[tiny] * 290))
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 100)
    try:
        answers = doors.receive(client, 290 * 14)
    finally:
        sys.setrecursionlimit(limit)
    assert answers == framed(bytes.fromhex("00018181000000000000 0000")) * 290


def test_answers_come_as_they_are_there(doors: Doors) -> None:
    client = doors.connect()
    client.sendall(framed(query("www.example"), ASKED))
    assert doors.receive(client, len(framed(ANSWER))) == framed(ANSWER)
    asked, tell = doors.servers[0].take()
    tell(reply(asked, GOOD))
    wanted = framed(reply(query("www.example"), GOOD))
    assert doors.receive(client, len(wanted)) == wanted


def test_client_with_enough_under_way_is_not_read(doors: Doors) -> None:
    client = doors.connect()
    asked = [query(f"{i}.example", number=i) for i in range(MAX_ASKED + 5)]
    client.sendall(framed(*asked))
    doors.turn_until(lambda: doors.forwarder.n_exchanges == MAX_ASKED, "as many are under way")
    doors.loop.turn(0)
    assert doors.forwarder.n_exchanges == MAX_ASKED
    for _ in asked:
        doors.turn_until(doors.servers[0].is_asked, "the server is asked")
        got, tell = doors.servers[0].take()
        tell(reply(got, GOOD))
    wanted = sum(len(framed(reply(one, GOOD))) for one in asked)
    assert len(doors.receive(client, wanted)) == wanted


def test_half_closed_client_gets_its_answers_and_the_end(doors: Doors) -> None:
    client = doors.connect()
    client.sendall(framed(query("www.example")))
    client.shutdown(socket.SHUT_WR)
    doors.turn_until(doors.servers[0].is_asked, "the server is asked")
    asked, tell = doors.servers[0].take()
    tell(reply(asked, GOOD))
    wanted = framed(reply(query("www.example"), GOOD))
    assert doors.receive(client, len(wanted) + 1) == wanted
    assert not doors.streams.clients


def test_reset_client_is_forgotten(doors: Doors) -> None:
    client = doors.connect()
    client.sendall(framed(query("www.example")))
    doors.turn_until(doors.servers[0].is_asked, "the server is asked")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    asked, tell = doors.servers[0].take()
    tell(reply(asked, GOOD))
    doors.turn_until(lambda: not doors.streams.clients, "the connection is forgotten")
    test_datagrams_are_answered(doors)


def test_too_long_message_ends_the_connection(doors: Doors) -> None:
    client = doors.connect()
    client.sendall(b"\xff\xff")
    assert doors.receive(client, 1) == b""


def test_what_is_never_answered_does_not_count(doors: Doors) -> None:
    client = doors.connect()
    client.sendall(framed(*[ANSWER] * (MAX_ASKED + 1), ASKED))
    assert doors.receive(client, len(framed(ANSWER))) == framed(ANSWER)


def test_idle_connection_is_closed(doors: Doors) -> None:
    client = doors.connect()
    doors.advance(IDLE_S - 1)
    client.sendall(framed(ASKED))
    doors.receive(client, len(framed(ANSWER)))
    doors.advance(IDLE_S - 1)
    assert len(doors.streams.clients) == 1
    doors.advance(2)
    assert not doors.streams.clients
    assert client.recv(1) == b""


def test_connections_are_bounded(doors: Doors) -> None:
    for _ in range(MAX_CLIENTS):
        doors.connect()
    with socket.create_connection(doors.listener.getsockname()) as one_more:
        one_more.settimeout(60)
        doors.turn_until(lambda: is_readable(one_more.fileno()), "it is closed")
        assert one_more.recv(1) == b""
    assert len(doors.streams.clients) == MAX_CLIENTS


def test_who_does_not_read_is_closed(doors: Doors) -> None:
    client = doors.connect()
    client.sendall(framed(ASKED))
    doors.receive(client, len(framed(ANSWER)))
    (served,) = doors.streams.clients
    for _ in range(400):
        served._n_asked += 1
        served._send(bytes(60000))
        if not doors.streams.clients:
            break
    assert not doors.streams.clients
