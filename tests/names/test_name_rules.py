"""Which names may be asked for, and what answers lead to."""

from __future__ import annotations

from ipaddress import ip_address
from struct import pack

import pytest

from passt.config.egress_grammar import parse_egress_rule
from passt.facts.egress import EgressRules
from passt.names.judge import MAX_TOLD, Judge
from passt.names.name_rules import MAX_ADDRESSES, NameRules, Pin
from passt.wire.dns.message import DnsView, Rcode, encode_name
from tests.support.name_server import AAAA, CNAME, TXT, A, query, record, reply


def rules_of(*texts: str, allows_rest: bool | None = None) -> EgressRules:
    rules = tuple(parse_egress_rule(text.partition(" ")[2], allows=text.startswith("allow"))
                  for text in texts)
    rest = not any(rule.allows for rule in rules) if allows_rest is None else allows_rest
    return EgressRules(rules, rest)


def may(name: str, *texts: str) -> bool:
    return NameRules(rules_of(*texts)).may_ask(encode_name(name) if name else b"\0")


@pytest.mark.parametrize(("rules", "opened", "closed"), [
    (("allow pypi.org",), ["pypi.org", "PyPI.ORG"],
     ["www.pypi.org", "org", "xpypi.org", "pypi.org.evil", ""]),
    (("allow *.pypi.org",), ["www.pypi.org", "a.b.pypi.org"], ["pypi.org", "wwwpypi.org", "org"]),
    (("deny bad.pypi.org", "allow *.pypi.org"), ["www.pypi.org", "x.bad.pypi.org"], ["bad.pypi.org"]),
    (("allow bad.pypi.org", "deny *.pypi.org"), ["bad.pypi.org"], ["www.pypi.org", "example"]),
    (("deny *.evil.example",), ["example", "evil.example"], ["secret.evil.example"]),
    (("allow 192.0.2.1", "deny *.evil.example"), [], ["example", "a.evil.example"]),
])
def test_first_rule_by_name_decides(rules: tuple[str, ...], opened: list[str], closed: list[str]) -> None:
    assert [name for name in opened if not may(name, *rules)] == []
    assert [name for name in closed if may(name, *rules)] == []


def test_servers_of_dns_over_https_need_a_rule_of_their_own() -> None:
    assert not may("dns.google", "deny evil.example")
    assert not may("dns.google", "allow *.google")
    assert may("dns.google", "allow dns.google")
    assert not may("mozilla.cloudflare-dns.com", "allow *.cloudflare-dns.com")


def test_refused_name_may_be_answered_as_if_it_were_none() -> None:
    judge = Judge((), (), has_ip6=True, rules=NameRules(rules_of("allow www.example")),
                  refusal=Rcode.NXDOMAIN)
    ruling = judge.judge(DnsView(query("evil.example", A)))
    assert ruling.reply is not None
    assert DnsView(ruling.reply).rcode == Rcode.NXDOMAIN


def test_answer_is_judged_by_the_rules_that_there_are_when_it_comes() -> None:
    judge = Judge((), (), has_ip6=True, rules=NameRules(rules_of("allow www.example")))
    asked = DnsView(query("www.example", A))
    assert judge.judge(asked).reply is None
    assert judge.admit(asked)
    judge.renew(NameRules(rules_of("allow other.example")))
    assert not judge.admit(asked)
    judge.renew(None)
    assert judge.admit(asked)


def test_refused_name_is_answered_at_once_and_asked_of_nobody() -> None:
    told: list[str] = []
    judge = Judge([("own.lan", ip_address("192.0.2.1"))], (), has_ip6=True,
                  rules=NameRules(rules_of("allow www.example")), tell=told.append)
    for name in ("secret.evil.example", "own.lan"):
        for kind in (A, AAAA, TXT):
            ruling = judge.judge(DnsView(query(name, kind)))
            assert ruling.reply is not None
            view = DnsView(ruling.reply)
            assert (view.rcode, view.n_answers) == (Rcode.REFUSED, 0)
    assert told[0] == "refused: the name secret.evil.example: no rule allows it"
    assert judge.judge(DnsView(query("www.example", A))).reply is None


def test_refused_name_is_told_once_a_second() -> None:
    told: list[str] = []
    now = 0.0
    judge = Judge((), (), has_ip6=True, rules=NameRules(rules_of("allow www.example")), tell=told.append,
                  clock=lambda: now)

    def ask(*names: str) -> int:
        told.clear()
        for name in names:
            judge.judge(DnsView(query(name, A)))
        return len(told)

    assert ask(*["a.example", "A.example", "b.example"] * 3) == 2
    now = 0.9
    assert ask("a.example", "c.example") == 1
    now = 1.1
    assert ask("a.example", "b.example", "c.example") == 2
    # What is remembered is bounded, and the oldest goes first.
    assert ask(*(f"n{number}.example" for number in range(MAX_TOLD))) == MAX_TOLD
    assert ask("a.example", f"n{MAX_TOLD - 1}.example") == 1


@pytest.mark.parametrize("kind", [64, 65])
def test_hints_and_keys_of_connections_are_answered_empty(kind: int) -> None:
    judge = Judge((), (), has_ip6=True, rules=NameRules(rules_of("allow www.example")))
    ruling = judge.judge(DnsView(query("www.example", kind)))
    assert ruling.reply is not None
    view = DnsView(ruling.reply)
    assert (view.rcode, view.n_answers) == (Rcode.NOERROR, 0)


def pins(rules: tuple[str, ...], name: str, *records: bytes) -> list[tuple[int, str, int]] | None:
    """Return place, address and TTL of what an answer leads to."""
    asked = query(name)
    found = NameRules(rules_of(*rules)).pins(encode_name(name), DnsView(reply(asked, *records)))
    return None if found is None else [(pin.place, str(ip_address(pin.address)), pin.ttl) for pin in found]


def a(name: str, address: str, ttl: int = 60) -> bytes:
    packed = ip_address(address).packed
    return record(encode_name(name), A if len(packed) == 4 else AAAA, ttl, packed)


def alias(name: str, target: str, ttl: int = 60) -> bytes:
    return record(encode_name(name), CNAME, ttl, encode_name(target))


def test_addresses_of_the_name_that_was_asked_are_pinned() -> None:
    rules = ("allow www.example", "allow 192.0.2.0/24", "allow *.example")
    assert pins(rules, "www.example", a("www.example", "192.0.2.1", 7), a("www.example", "2001:db8::1", 9),
                a("other.example", "192.0.2.66")) == [
        (0, "192.0.2.1", 7), (2, "192.0.2.1", 7), (0, "2001:db8::1", 9), (2, "2001:db8::1", 9)]
    assert pins(rules, "x.example", a("x.example", "192.0.2.1")) == [(2, "192.0.2.1", 60)]


def test_aliases_lead_from_the_name_that_was_asked() -> None:
    chain = [alias("www.example", "cdn.net", 30), alias("cdn.net", "edge.cdn.net"),
             a("edge.cdn.net", "192.0.2.1"), a("stray.net", "192.0.2.66")]
    wanted = [(0, "192.0.2.1", 30)]
    assert pins(("allow www.example",), "www.example", *chain) == wanted
    # In whatever order they come.
    assert pins(("allow www.example",), "www.example", *reversed(chain)) == wanted


def test_alias_to_a_denied_name_is_not_passed_on() -> None:
    chain = [alias("www.example", "evil.net"), a("evil.net", "192.0.2.1")]
    assert pins(("deny evil.net", "allow www.example"), "www.example", *chain) is None


def test_aliases_that_go_round_end() -> None:
    chain = [alias("www.example", "a.net"), alias("a.net", "www.example"), a("a.net", "192.0.2.1")]
    assert pins(("allow www.example",), "www.example", *chain) == [(0, "192.0.2.1", 60)]


def test_answer_with_too_many_addresses_is_not_passed_on() -> None:
    addresses = [a("www.example", f"192.0.2.{number}") for number in range(MAX_ADDRESSES + 1)]
    assert pins(("allow www.example",), "www.example", *addresses) is None
    assert len(pins(("allow www.example",), "www.example", *addresses[1:]) or ()) == MAX_ADDRESSES


def test_pin_has_a_name_only_if_it_is_learned() -> None:
    assert Pin(1, pack("!I", 2), 3) == (1, b"\0\0\0\2", 3, b"")
