"""Which names may be asked for, and what answers lead to; with --learn all may, and each is told."""

from __future__ import annotations

import re
from ipaddress import ip_address
from struct import pack

import pytest

from passt.config.egress_grammar import parse_egress_rule
from passt.errors import WireError
from passt.facts.egress import EgressRules, Why
from passt.names.judge import Judge
from passt.names.name_rules import MAX_ADDRESSES, NameLearner, NameRules
from passt.names.orders import Bar, Pin
from passt.wire.dns.message import DnsView, Rcode, encode_name
from tests.support.name_server import AAAA, CNAME, TXT, A, address, query, record, reply


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
    judge = Judge([("own.lan", ip_address("192.0.2.1"))], (), has_ip6=True,
                  rules=NameRules(rules_of("allow www.example")))
    for name in ("secret.evil.example", "own.lan"):
        for kind in (A, AAAA, TXT):
            ruling = judge.judge(DnsView(query(name, kind)))
            assert ruling.reply is not None
            view = DnsView(ruling.reply)
            assert (view.rcode, view.n_answers) == (Rcode.REFUSED, 0)
            assert ruling.bar == Bar(1, Why.QUESTION)
    assert judge.judge(DnsView(query("www.example", A))).reply is None


@pytest.mark.parametrize(("rules", "name", "wanted"), [
    (("deny ads.example", "allow *.example"), "ads.example", Bar(0, Why.QUESTION)),
    (("allow *.example", "deny ads.example"), "ads.example", None),
    (("allow www.example", "deny *.test"), "x.y.test", Bar(1, Why.QUESTION)),
    (("allow www.example",), "other.example", Bar(1, Why.QUESTION)),
    (("allow *.google",), "dns.google", Bar(1, Why.DOH)),
    (("allow *.google", "deny dns.google"), "dns.google", Bar(1, Why.QUESTION)),
    (("deny *.google", "allow dns.google"), "dns.google", Bar(0, Why.QUESTION)),
    (("allow dns.google", "deny *.google"), "dns.google", None),
])
def test_what_forbids_a_name_is_told_with_its_rule(rules: tuple[str, ...], name: str, wanted: Bar | None
                                                   ) -> None:
    judged = NameRules(rules_of(*rules))
    assert judged.find_bar(encode_name(name)) == wanted
    assert judged.may_ask(encode_name(name)) == (wanted is None)


@pytest.mark.parametrize("kind", [64, 65])
def test_hints_and_keys_of_connections_are_answered_empty(kind: int) -> None:
    judge = Judge((), (), has_ip6=True, rules=NameRules(rules_of("allow www.example")))
    ruling = judge.judge(DnsView(query("www.example", kind)))
    assert ruling.reply is not None
    view = DnsView(ruling.reply)
    assert (view.rcode, view.n_answers) == (Rcode.NOERROR, 0)


def pins(rules: tuple[str, ...], name: str, *records: bytes) -> list[tuple[int, str, int]] | Bar:
    """Return place, address and TTL of what an answer leads to, or what forbids it."""
    asked = query(name)
    found = NameRules(rules_of(*rules)).pins(encode_name(name), DnsView(reply(asked, *records)))
    if isinstance(found, Bar):
        return found
    return [(pin.place, str(ip_address(pin.address)), pin.ttl) for pin in found]


def a(name: str, address: str, ttl: int = 60) -> bytes:
    packed = ip_address(address).packed
    return record(encode_name(name), A if len(packed) == 4 else AAAA, ttl, packed)


def alias(name: str, target: str, ttl: int = 60) -> bytes:
    return record(encode_name(name), CNAME, ttl, encode_name(target))


def below(name: str, target: str) -> bytes:
    return record(encode_name(name), 39, 60, encode_name(target))


def raw_query(text: str) -> DnsView:
    """Ask for a name in whose text a backslash and three digits are a byte (RFC 1035 5.1)."""
    labels = [re.sub(rb"\\(\d{3})", lambda found: bytes((int(found[1]),)), label.encode())
              for label in text.split(".")]
    name = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    return DnsView(pack("!6H", 1, 0x100, 1, 0, 0, 0) + name + pack("!HH", A, 1))


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
    assert pins(("deny evil.net", "allow www.example"), "www.example", *chain) == Bar(0, Why.ALIAS)


def test_no_alias_in_an_answer_leads_to_a_denied_name() -> None:
    """Two for one name, one for a name that nobody asked for, one for all names below one (RFC 6672)."""
    rules = ("deny evil.net", "deny *.bad.net", "allow *.example")
    good = [alias("www.example", "cdn.net"), a("cdn.net", "192.0.2.1")]
    assert pins(rules, "www.example", *good) == [(2, "192.0.2.1", 60)]
    for more in ([alias("www.example", "evil.net")], [alias("stray.net", "evil.net")],
                 [alias("cdn.net", "x.bad.net")], [below("example", "bad.net")], [below("net", "bad.net")]):
        for answer in ([*good, *more], [*more, *good]):
            assert isinstance(pins(rules, "www.example", *answer), Bar), more
    # What is below the name itself is another one; and one for all below is none for that name.
    for other in (below("www.example", "bad.net"), below("example", "good.net"), below("test", "bad.net")):
        assert pins(rules, "www.example", *good, other) == [(2, "192.0.2.1", 60)]


@pytest.mark.parametrize(("name", "wanted"), [
    ("ADS.Example", 0), ("aDs.eXample", 0), ("x.ads.example", 1), ("XN--BCHER-KVA.example", 2),
    ("b\\252cher.example", None), ("ads\\046example", None), ("x\\046ads.example", None),
    ("ads.example\\000", None), ("ads\\032.example", None),
])
def test_name_is_the_same_in_any_case_and_another_with_any_other_byte(name: str, wanted: int | None) -> None:
    """Bytes are what a name is (RFC 4343 3): upper and lower case are one, a dot in a label is none."""
    asked = raw_query(name)
    rules = ("deny ads.example", "deny *.ads.example", "deny xn--bcher-kva.example")
    bar = NameRules(rules_of(*rules)).find_bar(asked.name)
    assert (bar and bar.place) == wanted
    allowed = tuple(rule.replace("deny", "allow") for rule in rules)
    bar = NameRules(rules_of(*allowed)).find_bar(asked.name)
    assert (bar is None) == (wanted is not None)


def test_longest_names_are_judged_as_others() -> None:
    suffix = ".".join(["s" * 63] * 3)
    whole = f"{'x' * 61}.{suffix}"
    assert len(encode_name(whole)) == 255
    assert may(whole, f"allow {whole}")
    assert may(whole, f"allow *.{suffix}")
    assert not may(whole, f"deny *.{suffix}", "allow 192.0.2.1")
    assert not may(whole, f"allow {suffix}")
    assert not may("y" + whole[1:], f"allow {whole}")
    with pytest.raises(WireError):
        DnsView(query(f"x{whole}"))
    # One of 255 bytes has a place for a pin, and for an alias.
    assert pins((f"allow {whole}",), whole, alias(whole, whole[2:]), a(whole[2:], "192.0.2.1")) == [
        (0, "192.0.2.1", 60)]
    assert pins((f"deny {whole}", "allow www.example"), "www.example", alias("www.example", whole)) == (
        Bar(0, Why.ALIAS))


def test_aliases_that_go_round_end() -> None:
    chain = [alias("www.example", "a.net"), alias("a.net", "www.example"), a("a.net", "192.0.2.1")]
    assert pins(("allow www.example",), "www.example", *chain) == [(0, "192.0.2.1", 60)]


def test_answer_with_too_many_addresses_is_not_passed_on() -> None:
    addresses = [a("www.example", f"192.0.2.{number}") for number in range(MAX_ADDRESSES + 1)]
    assert pins(("allow www.example",), "www.example", *addresses) == Bar(0, Why.TOO_MANY)
    found = pins(("allow www.example",), "www.example", *addresses[1:])
    assert isinstance(found, list)
    assert len(found) == MAX_ADDRESSES


def test_pin_has_a_name_only_if_it_is_learned() -> None:
    assert Pin(1, pack("!I", 2), 3) == (1, b"\0\0\0\2", 3, b"")


# With --learn

HTTPS = 65
FAR = ip_address("192.0.2.1").packed


def learner() -> Judge:
    return Judge((), (), has_ip6=True, rules=NameLearner())


def learned(asked: bytes, *records: bytes) -> list[Pin] | Bar:
    return learner().pins(DnsView(asked), DnsView(reply(asked, *records)))


def test_any_name_may_be_asked_for() -> None:
    for text, kind in (("www.example", A), ("dns.google", AAAA), ("c2Vj.tunnel.example", TXT)):
        assert learner().judge(DnsView(query(text, kind))).reply is None


def test_hints_are_answered_empty_as_with_rules() -> None:
    ruling = learner().judge(DnsView(query("www.example", HTTPS)))
    assert ruling.reply is not None
    assert DnsView(ruling.reply).rcode == Rcode.NOERROR


def test_addresses_are_told_with_the_name_that_was_asked() -> None:
    asked = query("WWW.example")
    target = encode_name("cdn.test")
    alias = record(b"\xc0\x0c", CNAME, 60, target)
    assert learned(asked, alias, record(target, A, 60, FAR)) == [Pin(0, FAR, 0, b"www.example")]
    assert learned(asked, record(encode_name("other.test"), A, 60, FAR)) == [Pin(0, b"", 0, b"www.example")]
    assert learned(asked) == [Pin(0, b"", 0, b"www.example")]


def test_many_addresses_are_told_up_to_a_limit() -> None:
    asked = query("www.example")
    many = [address(f"192.0.2.{i}") for i in range(MAX_ADDRESSES + 5)]
    found = learned(asked, *many)
    assert isinstance(found, list)
    assert len(found) == MAX_ADDRESSES


def test_bytes_that_are_no_letters_are_shown_as_what_no_rule_has() -> None:
    odd = bytes((4,)) + b'a".\n' + b"\0"
    asked = pack("!6H", 1, 0x100, 1, 0, 0, 0) + odd + pack("!HH", A, 1)
    found = learner().pins(DnsView(asked), DnsView(reply(asked)))
    assert found == [Pin(0, b"", 0, b'a"\\046\\010')]
