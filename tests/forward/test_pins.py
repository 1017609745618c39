"""Addresses of names: how long they are pinned, how many, and which of them may be."""

from __future__ import annotations

from ipaddress import ip_address
from socket import IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP

import pytest

from passt.config.egress_grammar import parse_egress_rule
from passt.facts.contracts import FORWARDER
from passt.facts.egress import EgressRules
from passt.forward import pins as module
from passt.forward.egress import Egress
from passt.forward.pins import FLOOR_S, GRACE_S, MAX_OF_RULE, MAX_TTL_S, Pins

TCP, UDP, ICMP = IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP


def packed(text: str) -> bytes:
    return ip_address(text).packed


def nth(number: int) -> bytes:
    return (0xC6336400 + number).to_bytes(4, "big")


class Bench:
    """Rules with pins, on virtual time."""

    def __init__(self, *texts: str, allows_rest: bool | None = None,
                 own: tuple[tuple[str, str], ...] = ()) -> None:
        self.now = 1000.0
        rules = tuple(parse_egress_rule(text.partition(" ")[2], allows=text.startswith("allow"))
                      for text in texts)
        if allows_rest is None:
            allows_rest = not any(rule.allows for rule in rules)
        self.pins = Pins(lambda: self.now, [(name, packed(text)) for name, text in own])
        self.egress = Egress(EgressRules(rules, allows_rest), frozenset({packed("203.0.113.9")}),
                             (packed("192.168.1.1"),), pins=self.pins,
                             networks=[(packed("203.0.113.9"), 28), (packed("2001:db8:9::9"), 64)])

    def may(self, address: str, port: int = 443, proto: int = TCP) -> bool:
        return self.egress.decide(proto, port, packed(address), packed(address))[0]


def test_address_of_a_name_may_be_reached_as_long_as_it_is_pinned() -> None:
    bench = Bench("allow www.example")
    assert not bench.may("198.51.100.1")
    assert bench.egress.pin(0, packed("198.51.100.1"), 1000)
    assert bench.may("198.51.100.1")
    assert not bench.may("198.51.100.2")
    bench.now += 1000 + GRACE_S - 1
    assert bench.may("198.51.100.1")
    bench.now += 1
    assert not bench.may("198.51.100.1")


@pytest.mark.parametrize(("ttl", "lasts"), [(0, FLOOR_S), (FLOOR_S + 1, FLOOR_S + 1),
                                            (0xFFFFFFFF, MAX_TTL_S)])
def test_time_has_a_floor_and_a_ceiling(ttl: int, lasts: int) -> None:
    bench = Bench("allow www.example")
    bench.egress.pin(0, packed("198.51.100.1"), ttl)
    bench.now += lasts + GRACE_S - 1
    assert bench.may("198.51.100.1")
    bench.now += 1
    assert not bench.may("198.51.100.1")


def test_second_answer_lengthens_and_never_shortens() -> None:
    bench = Bench("allow www.example")
    bench.egress.pin(0, packed("198.51.100.1"), 10_000)
    bench.egress.pin(0, packed("198.51.100.1"), 0)
    bench.now += 10_000
    assert bench.may("198.51.100.1")
    bench.egress.pin(0, packed("198.51.100.1"), 0)
    bench.now += FLOOR_S
    assert bench.may("198.51.100.1")
    assert len(bench.pins) == 1


def test_pin_is_worth_what_its_rule_says() -> None:
    bench = Bench("allow tcp:a.example:443", "deny 198.51.100.0/24:80", "allow b.example")
    bench.egress.pin(0, packed("198.51.100.1"), 0)
    assert [bench.may("198.51.100.1", *asked) for asked in ((443,), (80,), (443, UDP), (1, ICMP))] == [
        True, False, False, False]
    # Another name at the same address.
    bench.egress.pin(2, packed("198.51.100.1"), 0)
    for asked in ((443,), (81,), (443, UDP), (1, ICMP)):
        assert bench.may("198.51.100.1", *asked), asked
    # The rule that denies comes first.
    assert not bench.may("198.51.100.1", 80)


def test_other_servers_of_names_are_closed_unless_a_rule_names_the_port() -> None:
    bench = Bench("allow www.example", "allow 192.0.2.0/24", "allow 192.0.2.53:53", "allow dns")
    bench.egress.pin(0, packed("198.51.100.1"), 0)
    for port in (53, 853):
        for address in ("198.51.100.1", "192.0.2.1", "192.168.1.1", "203.0.113.77"):
            assert not bench.may(address, port), (address, port)
    assert bench.may("192.0.2.53", 53)
    assert bench.may("192.0.2.1", 80)
    assert bench.egress.decide(UDP, 53, FORWARDER, packed("192.0.2.99"))[0]
    # Also where the rest is allowed.
    rest = Bench("deny evil.example")
    assert not rest.may("192.0.2.1", 53, UDP)
    assert not rest.may("192.0.2.1", 853)
    assert rest.may("192.0.2.1", 443)
    assert rest.egress.decide(UDP, 53, FORWARDER, packed("192.0.2.99"))[0]


@pytest.mark.parametrize("address", ["8.8.8.8", "1.0.0.1", "2620:fe::fe", "64:ff9b::8.8.8.8"])
def test_servers_of_dns_over_https_need_a_rule_with_exactly_their_address_or_name(address: str) -> None:
    wide = ("allow 0.0.0.0/0", "allow ::/0", "allow www.example", "allow dns.google", "allow *.example")
    bench = Bench(*wide)
    for place in (2, 4):
        bench.egress.pin(place, packed(address), 60)
    for proto in (TCP, UDP):
        assert not bench.may(address, 443, proto)
    assert bench.may(address, 80)
    assert bench.may("8.8.8.9")
    exact = Bench(*wide, f"allow {address}")
    assert exact.may(address)
    assert bench.egress.pin(3, packed(address), 60)
    assert bench.may(address)
    # Also where the rest is allowed; not where no rule is by name.
    assert not Bench("deny evil.example").may(address)
    assert Bench("deny 192.0.2.1").may(address)


REBINDING = ["127.0.0.1", "127.9.9.9", "::1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "fe80::1",
             "fd00::1", "203.0.113.9", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255",
             "::ffff:127.0.0.1", "203.0.113.1", "203.0.113.15", "2001:db8:9::1", "64:ff9b::10.0.0.1",
             "2002:a00:1::1"]


@pytest.mark.parametrize("address", REBINDING)
def test_no_name_leads_to_this_host_or_its_networks(address: str) -> None:
    bench = Bench("allow www.example")
    assert not bench.egress.pin(0, packed(address), 60)
    assert not bench.may(address)


@pytest.mark.parametrize("own", [False, True])
def test_no_name_leads_to_what_becomes_the_host_s(*, own: bool) -> None:
    taken = ["198.51.100.1", "2001:db8:1::1", "64:ff9b::198.51.100.1", "2001:db8:7::77", "198.51.101.77"]
    bench = Bench("allow www.example", "allow *.org", own=tuple(("www.example", one) for one in taken if own))
    kept = ["198.51.100.2", "2001:db8:1::2", "64:ff9b::198.51.100.2", "2001:db8:8::77", "198.51.102.77"]
    for address in taken + kept:
        assert bench.egress.pin(0, packed(address), 1000)
        assert bench.egress.pin(1, packed(address), 1000)
    n_pins = len(bench.pins)
    bench.egress.renew(frozenset(map(packed, taken[:2])), (), [(packed("203.0.113.9"), 28)])
    bench.egress.renew(None, (), [(packed("203.0.113.9"), 28), (packed("2001:db8:7::1"), 64),
                                  (packed("198.51.101.9"), 24)])
    assert [bench.may(address) for address in taken] == [own] * 5
    assert all(bench.may(address) for address in kept)
    assert len(bench.pins) == n_pins - (5 if own else 10), "the second rule is about another name"
    assert not bench.egress.pin(1, packed(taken[0]), 1000), "nor does it when it is asked for again"


def test_name_may_have_an_address_there_that_a_rule_allows_but_opens_no_port_of_it() -> None:
    """Else who serves the name could open all ports of this host, where the user opened one."""
    bench = Bench("allow www.example", "allow 10.0.0.0/8:1", "allow tcp:host:8080")
    for address, port in (("10.1.2.3", 1), ("127.0.0.1", 8080), ("203.0.113.9", 8080)):
        assert bench.egress.pin(0, packed(address), 60)
        assert bench.may(address, port)
        assert not bench.may(address, 22)
        assert not bench.may(address, port + 1)
    assert len(bench.pins) == 0


def test_user_may_name_an_address_there() -> None:
    bench = Bench("allow own.example:443", "allow evil.example:22", "allow *.example:80",
                  "allow *.own.example:22", own=(("Own.Example", "192.168.7.7"),))
    for place in (0, 2):
        assert bench.egress.pin(place, packed("192.168.7.7"), 60)
    assert bench.may("192.168.7.7", 443)
    assert bench.may("192.168.7.7", 80)
    assert not bench.egress.pin(0, packed("192.168.7.8"), 60)
    # Who serves another name has not been asked by the user.
    for place in (1, 3):
        assert not bench.egress.pin(place, packed("192.168.7.7"), 60)
    assert not bench.may("192.168.7.7", 22)


def test_address_that_the_user_has_named_is_open_to_no_other_name() -> None:
    """Else who serves one of these could lead there with the ports of his rule."""
    bench = Bench("allow *.evil.example", "allow db.inner:5432", "allow *.inner:1", "allow *.db.inner",
                  own=(("db.inner", "192.168.7.7"),))
    assert [bench.egress.pin(place, packed("192.168.7.7"), 60) for place in range(4)] == [
        False, True, True, False]
    assert bench.may("192.168.7.7", 5432)
    assert not bench.may("192.168.7.7", 22)


@pytest.mark.parametrize(("place", "address"), [
    (-1, nth(0)), (4, nth(0)), (0xFFFF, nth(0)), (1, nth(0)), (2, nth(0)), (0, b""), (0, b"12345")])
def test_nonsense_is_not_pinned(place: int, address: bytes) -> None:
    """Of a forwarder in the hands of a server: no such rule, none by name, one that denies, no address."""
    bench = Bench("allow www.example", "deny evil.example", "allow 192.0.2.0/24", "allow *.www.example")
    assert not bench.egress.pin(place, address, 60)
    assert len(bench.pins) == 0


def test_one_rule_does_not_take_the_place_of_another() -> None:
    bench = Bench("allow *.evil.example", "allow good.example")
    bench.egress.pin(1, packed("192.0.2.1"), 0)
    for number in range(MAX_OF_RULE + 10):
        assert bench.egress.pin(0, nth(number), 0)
    assert len(bench.pins) == MAX_OF_RULE + 1
    assert bench.may("192.0.2.1")
    assert not bench.egress.decide(TCP, 1, nth(9), nth(9))[0]
    assert bench.egress.decide(TCP, 1, nth(10), nth(10))[0]
    # The one that was answered again stays.
    bench.egress.pin(0, nth(10), 0)
    bench.egress.pin(0, nth(1000), 0)
    assert bench.egress.decide(TCP, 1, nth(10), nth(10))[0]


def test_all_pins_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PINS", 3)
    monkeypatch.setattr(module, "MAX_RULES_OF_ADDRESS", 2)
    pins = Pins(lambda: 0.0)
    assert [pins.add(place, nth(0), 0) for place in (1, 2, 3)] == [True, True, False]
    assert pins.add(3, nth(1), 0)
    assert not pins.add(4, nth(2), 0)
    assert len(pins) == 3


def test_pins_that_are_over_make_room_and_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PINS", 3)
    bench = Bench()
    for number in range(3):
        assert bench.pins.add(number, nth(number), 1000 * number)
    assert not bench.pins.add(3, nth(3), 0)
    bench.now += 1000 + GRACE_S
    assert bench.pins.add(3, nth(3), 0)
    assert bench.pins.add(3, nth(4), 0)
    assert not bench.pins.add(3, nth(5), 0)
    assert list(bench.pins.find(nth(2))) == [2]


def test_address_of_too_many_rules_takes_no_place_from_its_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RULES_OF_ADDRESS", 1)
    monkeypatch.setattr(module, "MAX_OF_RULE", 1)
    pins = Pins(lambda: 0.0)
    assert pins.add(0, nth(0), 0)
    assert pins.add(1, nth(1), 0)
    assert not pins.add(1, nth(0), 0)
    assert list(pins.find(nth(1))) == [1]


def test_answer_that_leads_inside_is_told_with_its_rule() -> None:
    told: list[tuple[bytes, str]] = []
    rules = tuple(parse_egress_rule(text, allows=True) for text in ("*.example", "192.168.7.8:80"))
    egress = Egress(EgressRules(rules, False), pins=Pins(lambda: 0.0),
                    tell_answer=lambda address, why: told.append((address, why)))
    assert egress.pin(0, packed("192.168.7.8"), 300)
    assert egress.pin(0, packed("198.51.100.1"), 300)
    assert told == []
    assert not egress.pin(0, packed("192.168.7.9"), 300)
    why = ("rule 'allow *.example' is about a name, which may not lead to the host or an inner network; allow"
           " the address itself, too")
    assert told == [(packed("192.168.7.9"), why)]


def test_answer_with_more_than_is_kept_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PINS", 1)
    told: list[tuple[bytes, str]] = []
    rules = (parse_egress_rule("www.example", allows=True),)
    egress = Egress(EgressRules(rules, False), pins=Pins(lambda: 0.0),
                    tell_answer=lambda address, why: told.append((address, why)))
    assert egress.pin(0, nth(0), 300)
    assert not egress.pin(0, nth(1), 300)
    assert told == [(nth(1), "rule 'allow www.example': too many addresses of names are kept")]
