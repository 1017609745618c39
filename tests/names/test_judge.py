"""What becomes of a question."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from passt.names.judge import Judge
from passt.wire.dns.message import DnsView, Rcode
from tests.support.name_server import AAAA, AXFR, SOA, TXT, A, header, query, record, reply

A4, B4, A6 = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2"), IPv6Address("2001:db8::1")
JUDGE = Judge([("box.lan", A4), ("box.lan", B4), ("box.lan", A6), ("four.lan", A4)],
              [("corp.example", A4), ("deep.corp.example", B4), ("corp.example", A6)], has_ip6=True)


def told(message: bytes, judge: Judge = JUDGE) -> tuple[int, list[bytes]] | None:
    """Return code and addresses of what is answered at once."""
    ruling = judge.judge(DnsView(message))
    if ruling.reply is None:
        return None
    view = DnsView(ruling.reply)
    assert view.is_answer_to(DnsView(message))
    return view.rcode, [view.data[one.start:one.end] for one in view.records if one.section == 0]


@pytest.mark.parametrize(("name", "kind", "addresses"), [
    ("box.lan", A, [A4, B4]), ("BOX.lan", AAAA, [A6]), ("box.lan", TXT, []), ("four.lan", AAAA, []),
])  # fmt: skip
def test_names_of_our_own(name: str, kind: int, addresses: list[IPv4Address]) -> None:
    assert told(query(name, kind)) == (Rcode.NOERROR, [address.packed for address in addresses])


@pytest.mark.parametrize("name", ["lan", "x.box.lan", "box.lan.example"])
def test_other_names_are_not_ours(name: str) -> None:
    assert told(query(name)) is None


@pytest.mark.parametrize(("name", "servers"), [
    ("corp.example", (A4, A6)), ("x.Corp.Example", (A4, A6)), ("a.deep.corp.example", (B4,)),
    ("xcorp.example", None), ("example", None), ("", None),
])  # fmt: skip
def test_longest_suffix_names_the_servers(name: str, servers: tuple[object, ...] | None) -> None:
    assert JUDGE.judge(DnsView(query(name))).servers == servers


def test_root_is_the_suffix_of_all() -> None:
    judge = Judge((), [("", B4), ("a", A4)], has_ip6=True)
    assert [judge.judge(DnsView(query(name))).servers for name in ("", "b", "x.a")] == [(B4,), (B4,), (A4,)]


def test_no_ipv6_address_without_ipv6() -> None:
    judge = Judge([("box.lan", A6)], (), has_ip6=False)
    for name in ("www.example", "box.lan"):
        assert told(query(name, AAAA), judge) == (Rcode.NOERROR, [])
    assert told(query("www.example", A), judge) is None


@pytest.mark.parametrize(("message", "code"), [
    (query("a", AXFR), Rcode.NOTIMP), (query("a", flags=0x2900), Rcode.NOTIMP),
    (header(1, 0x0100, (0, 0, 0, 0)), Rcode.FORMERR),
    (reply(query("a"), record(b"\0", A, 1, A4.packed), flags=0x0100), Rcode.FORMERR),
    (reply(query("a"), flags=0x0100, authority=[record(b"\0", SOA, 1, bytes(22))]), Rcode.FORMERR),
], ids=["transfer", "update", "no question", "with an answer", "with authority"])  # fmt: skip
def test_what_is_no_question_of_a_stub_is_refused(message: bytes, code: int) -> None:
    assert told(message) == (code, [])


def test_class_other_than_in_is_passed_on() -> None:
    message = bytearray(query("box.lan"))
    message[-1] = 3
    assert told(bytes(message)) is None
