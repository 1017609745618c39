"""Answers that are remembered."""

from __future__ import annotations

import pytest

from passt.names.answer_cache import MAX_NEGATIVE_S, MAX_TTL_S, AnswerCache
from passt.wire.dns.message import DnsView
from tests.support.name_server import (
    AAAA,
    AT_QUESTION,
    CNAME,
    NXDOMAIN,
    RESPONSE,
    SERVFAIL,
    SOA,
    A,
    address,
    name,
    opt,
    query,
    record,
    reply,
)

ASKED = query("www.example")
COOKIE = b"\0\x0a\0\x08abcdefgh"


class Memory:
    """A cache whose time stands still."""

    def __init__(self, limit: int = 10) -> None:
        self.now = 100.0
        self.cache = AnswerCache(limit, lambda: self.now)

    def keep(self, asked: bytes, answer: bytes) -> None:
        self.cache.keep(DnsView(asked), DnsView(answer))

    def ttls(self, asked: bytes) -> list[int] | None:
        found = self.cache.find(DnsView(asked))
        return None if found is None else [one.ttl for one in found.records]


def soa(ttl: int, minimum: int) -> bytes:
    return record(name("example"), SOA, ttl, b"\0\0" + bytes(16) + minimum.to_bytes(4, "big"))


def test_answer_ages_and_ends() -> None:
    memory = Memory()
    memory.keep(ASKED, reply(ASKED, address("192.0.2.1", 60), address("192.0.2.2", 90)))
    for now, ttls in ((100.0, [60, 90]), (130.9, [30, 60]), (159.9, [1, 31]), (160.0, None), (100.0, None)):
        memory.now = now
        assert memory.ttls(ASKED) == ttls


@pytest.mark.parametrize(("asked", "is_same"), [
    (query("WWW.Example", number=9), True), (query("www.example", AAAA), False),
    (query("www.example", flags=0), False), (query("www.example", flags=0x0110), False),
    (query("www.example", edns=opt(1232)), True), (query("www.example", edns=opt(1232, 0x8000)), False),
    (query("www.example", edns=opt(1232, options=COOKIE)), True),
    (query("www.example", edns=opt(1232, options=b"\0\x08\0\x04\0\1\0\0")), False),
    (query("www.example", edns=opt(1232, options=COOKIE * 2)), False),
    (query("www.example", edns=opt(1232, 1 << 16)), False), (query("xww.example"), False),
], ids=["case", "type", "no RD", "CD", "EDNS", "DO", "cookie", "subnet", "cookies", "version",
        "name"])  # fmt: skip
def test_what_an_answer_depends_on(asked: bytes, is_same: bool) -> None:
    memory = Memory()
    plain = query("www.example", edns=opt(512))
    memory.keep(plain, reply(plain, address("192.0.2.1", 60)))
    assert (memory.ttls(asked) is not None) == is_same


@pytest.mark.parametrize(("answer", "seconds"), [
    (reply(ASKED, address("192.0.2.1", 0)), 0),
    (reply(ASKED, address("192.0.2.1", 0x80000000)), 0),
    (reply(ASKED, address("192.0.2.1", 9_999_999)), MAX_TTL_S),
    (reply(ASKED, address("192.0.2.1", 60), flags=RESPONSE | SERVFAIL), 0),
    (reply(ASKED, address("192.0.2.1", 60), flags=RESPONSE | 0x0200), 0),
    (reply(ASKED, address("192.0.2.1", 60), extra=opt(1232, 1 << 24)), 0),
    (reply(ASKED), 0),
    (reply(ASKED, authority=[soa(60, 30)]), 30),
    (reply(ASKED, authority=[soa(60, 90)]), 60),
    (reply(ASKED, authority=[soa(99999, 99999)], flags=RESPONSE | NXDOMAIN), MAX_NEGATIVE_S),
    (reply(ASKED, record(AT_QUESTION, CNAME, 5, name("b")), authority=[soa(60, 30)]), 5),
    (reply(ASKED, record(AT_QUESTION, CNAME, 50, name("b"))), 0),
    (reply(ASKED, record(AT_QUESTION, CNAME, 50, name("b")), record(name("b"), A, 7, bytes(4))), 7),
], ids=["zero", "negative", "long", "failure", "truncated", "extended code", "nothing",
        "SOA minimum", "SOA TTL",

        "no such name", "alias of nothing", "alias alone", "alias"])  # fmt: skip
def test_how_long_an_answer_is_kept(answer: bytes, seconds: int) -> None:
    memory = Memory()
    memory.keep(ASKED, answer)
    for after in (seconds - 1, seconds):
        memory.now = 100.0 + max(after, 0)
        assert (memory.ttls(ASKED) is not None) == (0 <= after < seconds)


def test_opt_of_the_server_is_not_kept() -> None:
    memory = Memory()
    glue = record(name("ns"), A, 60, bytes(4))
    memory.keep(ASKED, reply(ASKED, address("192.0.2.1", 60), extra=opt(1232, options=COOKIE)))
    found = memory.cache.find(DnsView(ASKED))
    assert found is not None
    assert (found.opt, len(found.records), found.end) == (None, 1, len(found.data))
    both = bytearray(reply(ASKED, address("192.0.2.1", 60), extra=glue + opt(1232)))
    both[11] = 2
    memory.keep(ASKED, bytes(both))
    found = memory.cache.find(DnsView(ASKED))
    assert found is not None
    assert [one.section for one in found.records] == [0, 2]


def test_signed_answer_is_not_kept() -> None:
    memory = Memory()
    signed = bytearray(reply(ASKED, address("192.0.2.1", 60), extra=opt(1232) + record(b"\0", 250, 0, b"")))
    signed[11] = 2
    memory.keep(ASKED, bytes(signed))
    assert memory.ttls(ASKED) is None


def test_the_ones_used_last_are_kept() -> None:
    memory = Memory(limit=2)
    for text in ("a", "b"):
        memory.keep(query(text), reply(query(text), address("192.0.2.1")))
    assert memory.ttls(query("a")) is not None
    memory.keep(query("c"), reply(query("c"), address("192.0.2.1")))
    assert [memory.ttls(query(text)) is not None for text in "abc"] == [True, False, True]
    memory.cache.clear()
    assert memory.ttls(query("a")) is None


def test_long_answers_are_not_kept() -> None:
    memory = Memory()
    memory.keep(ASKED, reply(ASKED, *[address("192.0.2.1")] * 300))
    assert memory.ttls(ASKED) is None
