"""One question on its way to servers that are dead, slow, lying, truncating, oversized or flooding."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, cast

import pytest

from passt.facts.guest import NameService
from passt.names.exchange import MAX_WRONG, Exchange
from passt.names.upstreams import DEAD_S
from passt.wire.dns.message import DnsView
from tests.support.name_server import (
    REFUSED,
    RESPONSE,
    SERVFAIL,
    TRUNCATED,
    NamesBench,
    address,
    header,
    opt,
    query,
    reply,
)
from tests.support.processes import is_readable

if TYPE_CHECKING:
    from collections.abc import Callable

GOOD = address("192.0.2.80")
ASKED = query("www.example")
ANSWER = reply(ASKED, GOOD)


def test_answer_comes_back_under_the_client_s_id(make: Callable[..., NamesBench]) -> None:
    bench = make()
    bench.ask(ASKED)
    asked, tell = bench.servers[0].take()
    assert asked[2:] == ASKED[2:]
    tell(reply(asked, GOOD))
    assert bench.next_answer() == ANSWER
    assert (bench.forwarder.n_exchanges, bench.loop._callbacks) == (0, {})


def test_ids_and_ports_are_drawn_anew(make: Callable[..., NamesBench]) -> None:
    bench = make(max_exchanges=64)
    seen = set()
    for i in range(40):
        bench.ask(query(f"{i}.example"))
        data, client = bench.servers[0].udp.recvfrom(4096)
        seen.add((data[:2], client[1]))
    assert len({number for number, _ in seen}) > 35
    assert len({port for _, port in seen}) == 40


def test_refusing_server_is_passed_over_at_once(make: Callable[..., NamesBench]) -> None:
    bench = make(2)
    bench.servers[0].close()
    bench.ask(ASKED)
    bench.turn_until(bench.servers[1].is_asked, "the second server is asked")
    asked, tell = bench.servers[1].take()
    tell(reply(asked, GOOD))
    assert bench.next_answer() == ANSWER


def test_silent_server_is_passed_over_after_its_time_and_then_comes_last(
        make: Callable[..., NamesBench]) -> None:
    bench = make(2)
    first, second = bench.servers
    bench.ask(ASKED)
    first.take()
    bench.advance(4.9)
    assert not second.is_asked()
    bench.advance(0.2)
    asked, tell = second.take()
    tell(reply(asked, GOOD))
    assert bench.next_answer() == ANSWER
    for text in ("a", "b"):
        bench.ask(query(text))
        asked, tell = second.take()
        tell(reply(asked, GOOD))
        bench.next_answer()
    assert not first.is_asked()
    # Once in a while it is asked beside the other, and its answer brings it back.
    bench.advance(DEAD_S)
    bench.ask(query("c"))
    asked, tell = first.take()
    second.take()
    tell(reply(asked, GOOD))
    bench.next_answer()
    bench.ask(query("d"))
    asked, _ = first.take()
    assert not second.is_asked()


def test_late_answer_counts(make: Callable[..., NamesBench]) -> None:
    bench = make(2)
    bench.ask(ASKED)
    asked, tell = bench.servers[0].take()
    bench.advance(5.1)
    bench.servers[1].take()
    tell(reply(asked, GOOD))
    assert bench.next_answer() == ANSWER


def test_all_silent_is_a_failure_in_the_end(make: Callable[..., NamesBench]) -> None:
    bench = make(2)
    bench.ask(ASKED)
    for _ in range(4):
        assert not bench.answers
        bench.advance(5.1)
    assert bench.answers == [header(0x1234, RESPONSE | SERVFAIL, (1, 0, 0, 0)) + ASKED[12:]]
    assert bench.loop._callbacks == {}


@pytest.mark.parametrize("code", [SERVFAIL, REFUSED, 4])
def test_failing_server_is_passed_over(make: Callable[..., NamesBench], code: int) -> None:
    bench = make(2)
    bench.ask(ASKED)
    asked, tell = bench.servers[0].take()
    tell(reply(asked, flags=RESPONSE | code))
    bench.turn_until(bench.servers[1].is_asked, "the second server is asked")
    asked, tell = bench.servers[1].take()
    tell(reply(asked, GOOD))
    assert bench.next_answer() == ANSWER


def test_failure_of_all_is_passed_on(make: Callable[..., NamesBench]) -> None:
    bench = make(2)
    bench.ask(ASKED)
    for server, code in zip(bench.servers, (SERVFAIL, REFUSED), strict=True):
        bench.turn_until(server.is_asked, "the server is asked")
        asked, tell = server.take()
        tell(reply(asked, flags=RESPONSE | code))
    assert bench.next_answer() == reply(ASKED, flags=RESPONSE | REFUSED)


def test_error_without_the_question_counts(make: Callable[..., NamesBench]) -> None:
    bench = make()
    bench.ask(ASKED)
    asked, tell = bench.servers[0].take()
    tell(header(int.from_bytes(asked[:2], "big"), RESPONSE | 1, (0, 0, 0, 0)))
    assert bench.next_answer()[2:4] == (RESPONSE | 1).to_bytes(2, "big")


def lies(asked: bytes) -> list[bytes]:
    other = bytes((asked[0] ^ 1, asked[1]))
    good = reply(asked, address("192.0.2.66"))
    return [
        b"", b"x", good[:20], good[:-1], other + good[2:], asked,
        asked[:2] + reply(query("other.example"), GOOD)[2:],
        good.replace(b"\3www", b"\3wwx"), header(int.from_bytes(asked[:2], "big"), RESPONSE, (0, 0, 0, 0)),
        good[:4] + b"\0\2" + good[6:],
    ]  # fmt: skip


def test_lies_are_not_passed_on(make: Callable[..., NamesBench]) -> None:
    bench = make()
    bench.ask(ASKED)
    asked, tell = bench.servers[0].take()
    for lie in lies(asked):
        tell(lie)
    tell(reply(asked, GOOD))
    assert bench.next_answer() == ANSWER
    assert bench.answers == []


def test_others_are_not_heard(make: Callable[..., NamesBench]) -> None:
    bench = make(2)
    bench.ask(ASKED)
    asked, client = bench.servers[0].udp.recvfrom(4096)
    bench.servers[1].udp.sendto(reply(asked, address("192.0.2.66")), client)
    bench.loop.turn(0)
    bench.servers[0].udp.sendto(reply(asked, GOOD), client)
    assert bench.next_answer() == ANSWER


def test_flood_of_lies_ends_the_trust(make: Callable[..., NamesBench]) -> None:
    bench = make(2)
    bench.ask(ASKED)
    asked, tell = bench.servers[0].take()
    for _ in range(MAX_WRONG + 5):
        tell(asked)
    bench.turn_until(bench.servers[1].is_asked, "the second server is asked")
    tell(reply(asked, address("192.0.2.66")))       # nobody listens any more
    asked, tell = bench.servers[1].take()
    tell(reply(asked, GOOD))
    assert bench.next_answer() == ANSWER


@pytest.mark.parametrize(("edns", "room"), [(b"", 512), (opt(1232), 1232), (opt(65535), 4096)])
def test_oversized_answer_is_cut_to_what_the_client_takes(make: Callable[..., NamesBench], edns: bytes,
                                                          room: int) -> None:
    bench = make()
    for n_records in (room // 16 - 3, room // 16 + 9):
        asked_by_client = query("www.example", edns=edns)
        bench.ask(asked_by_client)
        asked, tell = bench.servers[0].take()
        tell(reply(asked, *[GOOD] * n_records))
        answer = bench.next_answer()
        assert len(answer) <= room
        is_cut = bool(int.from_bytes(answer[2:4], "big") & TRUNCATED)
        assert is_cut == (n_records > room // 16)
        assert int.from_bytes(answer[6:8], "big") == (0 if is_cut else n_records)


def test_truncated_answer_is_passed_on_to_who_came_by_udp(make: Callable[..., NamesBench]) -> None:
    bench = make()
    bench.ask(ASKED)
    asked, tell = bench.servers[0].take()
    tell(reply(asked, flags=RESPONSE | TRUNCATED))
    assert bench.next_answer() == reply(ASKED, flags=RESPONSE | TRUNCATED)


def test_truncated_answer_is_fetched_by_tcp_for_who_came_by_tcp(make: Callable[..., NamesBench]) -> None:
    bench = make()
    bench.ask(ASKED, is_stream=True)
    asked, tell = bench.servers[0].take()
    tell(reply(asked, flags=RESPONSE | TRUNCATED))
    bench.turn_until(lambda: is_readable(bench.servers[0].tcp.fileno()), "a connection comes")
    with bench.servers[0].take_connection() as connection:
        bench.turn_until(lambda: is_readable(connection.fileno()), "the query comes by TCP")
        data = connection.recv(4096)
        asked = data[2:]
        assert data[:2] == len(asked).to_bytes(2, "big")
        answer = reply(asked, *[GOOD] * 3000)
        message = len(answer).to_bytes(2, "big") + answer
        for at in range(0, len(message), 9999):          # in pieces
            connection.sendall(message[at:at + 9999])
            bench.loop.turn(0)
        assert bench.next_answer() == reply(ASKED, *[GOOD] * 3000)
    assert bench.loop._callbacks == {}


class NotYet:
    """A socket that is not connected yet."""

    def send(self, _data: bytes) -> int:
        raise BlockingIOError


def test_event_of_a_descriptor_that_was_another_s_is_no_failure(make: Callable[..., NamesBench]) -> None:
    bench = make()
    server = bench.servers[0].address
    done: list[object] = []
    exchange = Exchange(bench.loop, bench.outlet, bench.upstreams, DnsView(ASKED), (), done.append,
                        counts=bench.counts, wants_whole=True)
    assert exchange._ask(server, socket.SOCK_STREAM)
    sent = exchange._sent[server]
    kept, sent.sock = sent.sock, cast("socket.socket", NotYet())
    exchange._on_writable(sent)
    sent.sock = kept
    assert (exchange._sent, done) == ({server: sent}, [])
    exchange.abandon()


@pytest.mark.parametrize("how", ["refused", "closed", "lies", "silent"])
def test_server_without_good_tcp_is_passed_over(make: Callable[..., NamesBench], how: str) -> None:
    bench = make(2)
    first, second = bench.servers
    bench.ask(ASKED, is_stream=True)
    asked, tell = first.take()
    if how == "refused":
        first.tcp.close()
    tell(reply(asked, flags=RESPONSE | TRUNCATED))
    if how != "refused":
        bench.turn_until(lambda: is_readable(first.tcp.fileno()), "a connection comes")
        connection = first.take_connection()
        bench.turn_until(lambda: is_readable(connection.fileno()), "the query comes by TCP")
        if how == "lies":
            connection.sendall(b"\0\x0c" + bytes(12))
        elif how == "silent":
            bench.advance(5.1)
        if how != "silent":
            connection.close()
    bench.turn_until(second.is_asked, "the second server is asked")
    asked, tell = second.take()
    tell(reply(asked, GOOD))
    assert bench.next_answer() == ANSWER
    if how == "silent":
        connection.close()


def test_second_attempt_follows_the_first(make: Callable[..., NamesBench]) -> None:
    bench = make()
    bench.ask(ASKED)
    lost, tell_lost = bench.servers[0].take()
    bench.advance(5.1)
    asked, tell = bench.servers[0].take()
    assert asked[2:] == lost[2:]
    tell_lost(reply(lost, address("192.0.2.66")))   # to a socket that is gone
    tell(reply(asked, GOOD))
    assert bench.next_answer() == ANSWER


def test_no_server_at_all_is_a_failure(make: Callable[..., NamesBench]) -> None:
    bench = make(service=NameService(()))
    bench.ask(ASKED)
    assert bench.answers.pop()[3] & 15 == SERVFAIL


def test_lack_of_descriptors_is_not_the_server_s_fault(make: Callable[..., NamesBench],
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make()
    with monkeypatch.context() as patch:
        def lack(*_: object) -> None:
            raise OSError(24, "too many")

        patch.setattr(bench.forwarder._outlet, "open", lack)
        bench.ask(ASKED)
    assert bench.answers.pop()[3] & 15 == SERVFAIL
    assert bench.upstreams._silent == {}


