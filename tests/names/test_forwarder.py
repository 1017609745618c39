"""From a query to its answer: what is refused, joined, remembered, bounded."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import pytest

from passt.config.egress_grammar import parse_egress_rule
from passt.facts.egress import EgressRules
from passt.facts.guest import NameService
from passt.names.answer_cache import AnswerCache
from passt.names.forwarder import MAX_WAITING
from passt.names.judge import Judge
from passt.names.name_rules import NameRules
from passt.names.orders import Pin
from passt.wire.dns.message import DnsView, Rcode
from tests.support.name_server import (
    AAAA,
    RESPONSE,
    SERVFAIL,
    NamesBench,
    address,
    header,
    opt,
    query,
    reply,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

GOOD = address("192.0.2.80", 60)
ASKED = query("www.example")


class Guarded(Judge):
    """Lets answers through as long as it is open."""

    is_open = False

    def admit(self, _query: DnsView) -> bool:
        return self.is_open


def serve(bench: NamesBench, *records: bytes) -> bytes:
    """Answer the next query, and return what the client gets."""
    asked, tell = bench.servers[0].take()
    tell(reply(asked, *records))
    return bench.next_answer()


@pytest.mark.parametrize("message", [b"", ASKED[:11], reply(ASKED, GOOD)], ids=["empty", "short", "answer"])
def test_what_is_no_query_is_dropped(message: bytes) -> None:
    bench = NamesBench()
    assert not bench.ask(message)
    assert (bench.answers, bench.forwarder.n_exchanges) == ([], 0)
    bench.close()


@pytest.mark.parametrize("length", range(12, len(ASKED)))
def test_truncated_query_is_malformed(length: int) -> None:
    bench = NamesBench()
    assert bench.ask(ASKED[:length])
    assert bench.answers == [header(0x1234, RESPONSE | 1, (0, 0, 0, 0))]
    bench.close()


def test_same_questions_wait_for_one_exchange() -> None:
    bench = NamesBench()
    assert bench.ask(ASKED)
    assert bench.ask(query("www.example", number=7), who="other")
    assert not bench.ask(ASKED)                     # once more, as nothing came
    asked, tell = bench.servers[0].take()
    assert not bench.servers[0].is_asked()
    tell(reply(asked, GOOD))
    first = bench.next_answer()
    assert (first, bench.answers) == (reply(ASKED, GOOD), [reply(query("www.example", number=7), GOOD)])
    bench.close()


def test_each_gets_what_it_has_room_for() -> None:
    """A question by TCP and one by UDP are two exchanges, as only one of them may need TCP."""
    bench = NamesBench()
    bench.ask(ASKED)
    bench.ask(ASKED, who="stream", is_stream=True)
    assert bench.forwarder.n_exchanges == 2
    for _ in range(2):
        asked, tell = bench.servers[0].take()
        tell(reply(asked, *[GOOD] * 40))
    bench.turn_until(lambda: len(bench.answers) == 2, "both are answered")
    assert sorted(int.from_bytes(answer[6:8], "big") for answer in bench.answers) == [0, 40]
    bench.close()


def test_clients_of_an_exchange_are_bounded() -> None:
    bench = NamesBench()
    for number in range(MAX_WAITING):
        bench.ask(query("www.example", number=number))
    assert bench.answers == []
    bench.ask(query("www.example", number=9999))
    assert bench.answers.pop()[3] & 15 == SERVFAIL
    bench.close()


def test_exchanges_are_bounded() -> None:
    bench = NamesBench(max_exchanges=3)
    for text in "abc":
        bench.ask(query(text))
    assert bench.answers == []
    bench.ask(query("d", number=4))
    assert bench.answers.pop() == header(4, RESPONSE | SERVFAIL, (1, 0, 0, 0)) + query("d")[12:]
    asked, tell = bench.servers[0].take()
    tell(reply(asked, GOOD))
    bench.next_answer()
    bench.ask(query("d"))
    assert (bench.answers, bench.forwarder.n_exchanges) == ([], 3)
    bench.close()


def test_cache_answers_without_a_server() -> None:
    bench = NamesBench(cache=lambda clock: AnswerCache(10, clock))
    bench.ask(ASKED)
    assert serve(bench, GOOD) == reply(ASKED, GOOD)
    bench.advance(20)
    for edns in (b"", opt(4096)):
        again = query("wWw.example", number=5, edns=edns)
        bench.ask(again)
        assert bench.next_answer() == reply(again, address("192.0.2.80", 40), extra=edns)
    assert not bench.servers[0].is_asked()
    bench.advance(40)
    bench.ask(ASKED)
    assert serve(bench, GOOD) == reply(ASKED, GOOD)
    bench.close()


def test_cache_is_not_for_another_network() -> None:
    bench = NamesBench(cache=lambda clock: AnswerCache(10, clock))
    bench.ask(ASKED)
    serve(bench, GOOD)
    bench.forwarder.renew(NameService(bench.addresses()))
    bench.ask(ASKED)
    assert serve(bench, address("192.0.2.81")) == reply(ASKED, address("192.0.2.81"))
    bench.close()


def test_other_servers_are_asked_after_a_change() -> None:
    bench = NamesBench(2)
    bench.forwarder.renew(NameService((bench.servers[1].address,)))
    bench.ask(ASKED)
    bench.servers[1].take()
    assert not bench.servers[0].is_asked()
    bench.close()


def test_judge_is_asked_about_each_answer_before_anybody_gets_it() -> None:
    judge = Guarded((), (), has_ip6=True)
    bench = NamesBench(judge=judge, cache=lambda clock: AnswerCache(10, clock))
    for records in ([GOOD], [GOOD, address("192.0.2.66")]):
        bench.ask(ASKED)
        assert serve(bench, *records)[3] & 15 == SERVFAIL    # and it was not kept
    judge.is_open = True
    bench.ask(ASKED)
    assert serve(bench, GOOD) == reply(ASKED, GOOD)
    bench.close()


def test_route_leads_to_its_own_server() -> None:
    probe = NamesBench(2)
    judge = Judge((), [("corp", probe.servers[1].address)], has_ip6=True)
    probe.forwarder._judge = judge
    probe.ask(query("www.corp"))
    probe.servers[1].take()
    assert not probe.servers[0].is_asked()
    probe.close()


class HeldPins:
    """Stands in for a pinboard: keeps what is to be pinned until somebody says what came of it."""

    def __init__(self) -> None:
        self.held: list[tuple[Sequence[Pin], Callable[[bool], None]]] = []

    def pin(self, pins: Sequence[Pin], then: Callable[[bool], None]) -> None:
        self.held.append((pins, then))


def pinned_bench() -> tuple[NamesBench, HeldPins]:
    """Serve the rule `allow www.example`, with `own.www.example` of our own, and a memory."""
    pins = HeldPins()
    rules = NameRules(EgressRules((parse_egress_rule("www.example", allows=True),
                                   parse_egress_rule("*.www.example", allows=True)), False))
    judge = Judge([("own.www.example", IPv4Address("10.0.0.7"))], (), has_ip6=True, rules=rules)
    board: Any = pins
    return NamesBench(judge=judge, cache=lambda clock: AnswerCache(10, clock), pinboard=board), pins


def test_answer_is_passed_on_when_its_addresses_are_pinned_and_not_before() -> None:
    bench, pins = pinned_bench()
    for is_kept in (False, True):
        bench.ask(ASKED)
        if not is_kept:
            asked, tell = bench.servers[0].take()
            tell(reply(asked, GOOD))
        bench.turn_until(lambda: bool(pins.held), "the answer is to be pinned")
        ((wanted, then),) = pins.held
        assert list(wanted) == [Pin(0, bytes((192, 0, 2, 80)), 60)]
        assert bench.answers == []
        then(True)
        assert bench.next_answer()[6:8] == b"\0\1"
        pins.held.clear()
    bench.close()


def test_answer_that_cannot_be_pinned_is_refused() -> None:
    bench, pins = pinned_bench()
    bench.ask(ASKED)
    asked, tell = bench.servers[0].take()
    tell(reply(asked, address("127.0.0.1")))
    bench.turn_until(lambda: bool(pins.held), "the answer is to be pinned")
    pins.held.pop()[1](False)
    view = DnsView(bench.next_answer())
    assert (view.rcode, view.n_answers) == (Rcode.REFUSED, 0)
    bench.close()


def test_names_of_our_own_are_pinned_too() -> None:
    bench, pins = pinned_bench()
    bench.ask(query("own.www.example"))
    ((wanted, then),) = pins.held
    assert [pin.address for pin in wanted] == [bytes((10, 0, 0, 7))]
    assert bench.answers == []
    then(True)
    assert DnsView(bench.answers.pop()).n_answers == 1
    bench.close()


def test_answer_without_addresses_waits_for_nothing() -> None:
    bench, pins = pinned_bench()
    bench.ask(ASKED)
    assert serve(bench)[3] & 15 == 0
    bench.ask(query("own.www.example", AAAA))
    assert DnsView(bench.answers.pop()).n_answers == 0
    assert pins.held == []
    bench.close()


def test_name_that_no_rule_allows_goes_nowhere() -> None:
    bench, pins = pinned_bench()
    for text in ("evil.example", "xwww.example", "c2VjcmV0.tunnel.example"):
        bench.ask(query(text))
        assert DnsView(bench.answers.pop()).rcode == Rcode.REFUSED
    bench.loop.turn(0)
    assert not bench.servers[0].is_asked()
    assert pins.held == []
    bench.close()
