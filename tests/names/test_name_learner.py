"""All names may be asked for; what they have is told, with the name that was asked."""

from __future__ import annotations

from ipaddress import ip_address
from struct import pack

from passt.names.judge import Judge
from passt.names.name_learner import NameLearner
from passt.names.name_rules import MAX_ADDRESSES, Pin
from passt.wire.dns.message import DnsView, Rcode
from tests.support.name_server import AAAA, CNAME, TXT, A, address, name, query, record, reply

HTTPS = 65
FAR = ip_address("192.0.2.1").packed


def judge() -> Judge:
    return Judge((), (), has_ip6=True, rules=NameLearner())


def pins(asked: bytes, *records: bytes) -> list[Pin] | None:
    return judge().pins(DnsView(asked), DnsView(reply(asked, *records)))


def test_any_name_may_be_asked_for() -> None:
    for text, kind in (("www.example", A), ("dns.google", AAAA), ("c2Vj.tunnel.example", TXT)):
        assert judge().judge(DnsView(query(text, kind))).reply is None


def test_hints_are_answered_empty_as_with_rules() -> None:
    ruling = judge().judge(DnsView(query("www.example", HTTPS)))
    assert ruling.reply is not None
    assert DnsView(ruling.reply).rcode == Rcode.NOERROR


def test_addresses_are_told_with_the_name_that_was_asked() -> None:
    asked = query("WWW.example")
    target = name("cdn.test")
    alias = record(b"\xc0\x0c", CNAME, 60, target)
    assert pins(asked, alias, record(target, A, 60, FAR)) == [Pin(0, FAR, 0, b"www.example")]
    assert pins(asked, record(name("other.test"), A, 60, FAR)) == [Pin(0, b"", 0, b"www.example")]
    assert pins(asked) == [Pin(0, b"", 0, b"www.example")]


def test_many_addresses_are_told_up_to_a_limit() -> None:
    asked = query("www.example")
    many = [address(f"192.0.2.{i}") for i in range(MAX_ADDRESSES + 5)]
    found = pins(asked, *many)
    assert found is not None
    assert len(found) == MAX_ADDRESSES


def test_bytes_that_are_no_letters_are_shown_as_what_no_rule_has() -> None:
    odd = bytes((4,)) + b'a".\n' + b"\0"
    asked = pack("!6H", 1, 0x100, 1, 0, 0, 0) + odd + pack("!HH", A, 1)
    found = judge().pins(DnsView(asked), DnsView(reply(asked)))
    assert found == [Pin(0, b"", 0, b'a"\\046\\010')]
