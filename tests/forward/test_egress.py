"""Which rule of egress decides on a flow: order, words, ports, what an address hides; cost of a look-up."""

from __future__ import annotations

import timeit
from ipaddress import ip_address, ip_network
from socket import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passt.config.egress_grammar import parse_egress_rule
from passt.facts.contracts import FORWARDER
from passt.facts.egress import EgressRule, EgressRules, RefusedName, Why
from passt.forward.egress import Egress, Refused

TCP, UDP, ICMP, ICMP6 = IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP, IPPROTO_ICMPV6
HOST = frozenset((ip_address("203.0.113.9").packed, ip_address("2001:db8:9::9").packed))
RESOLVERS = (ip_address("192.168.1.1").packed,)


def packed(text: str) -> bytes:
    return ip_address(text).packed


def rules_of(*texts: str, allows_rest: bool | None = None) -> EgressRules:
    """Make rules of `allow X` and `deny X`; the rest is denied if one allows."""
    rules = tuple(parse_egress_rule(text.partition(" ")[2], allows=text.startswith("allow"))
                  for text in texts)
    if allows_rest is None:
        allows_rest = not any(rule.allows for rule in rules)
    return EgressRules(rules, allows_rest)


def egress(*texts: str) -> Egress:
    return Egress(rules_of(*texts), HOST, RESOLVERS)


def decide(decider: Egress, proto: int, address: str, port: int = 443, asked: str | None = None) -> bool:
    return decider.decide(proto, port, packed(address), packed(asked or address))[0]


def test_without_an_allowing_rule_the_rest_is_allowed_else_denied() -> None:
    assert decide(egress(), TCP, "192.0.2.1")
    assert decide(egress("deny 10.0.0.0/8"), TCP, "192.0.2.1")
    assert not decide(egress("deny 10.0.0.0/8"), TCP, "10.1.2.3")
    assert not decide(egress("allow 10.0.0.0/8"), TCP, "192.0.2.1")
    assert decide(egress("allow 10.0.0.0/8"), TCP, "10.1.2.3")


def test_first_rule_that_fits_decides() -> None:
    narrow_first = egress("deny 192.0.2.5", "allow 192.0.2.0/24", "deny 0.0.0.0/0")
    assert narrow_first.decide(TCP, 1, packed("192.0.2.5"), packed("192.0.2.5")) == (False, 0)
    assert narrow_first.decide(TCP, 1, packed("192.0.2.6"), packed("192.0.2.6")) == (True, 1)
    assert narrow_first.decide(TCP, 1, packed("198.51.100.1"), packed("198.51.100.1")) == (False, 2)
    assert narrow_first.decide(TCP, 1, packed("2001:db8::1"), packed("2001:db8::1")) == (False, 3)
    assert decide(egress("allow 192.0.2.0/24", "deny 192.0.2.5"), TCP, "192.0.2.5")


@pytest.mark.parametrize(("rule", "fits"), [
    ("192.0.2.5", {(TCP, 443), (UDP, 443), (ICMP, 443), (TCP, 80)}),
    ("192.0.2.5:443", {(TCP, 443), (UDP, 443)}),
    ("tcp:192.0.2.5", {(TCP, 443), (TCP, 80)}),
    ("udp:192.0.2.5:80-442", set()),
    ("tcp:192.0.2.5:80-442", {(TCP, 80)}),
    ("icmp:192.0.2.5", {(ICMP, 443)}),
])
def test_rule_is_about_its_protocol_and_ports(rule: str, fits: set[tuple[int, int]]) -> None:
    decider = egress(f"allow {rule}")
    asked = [(TCP, 443), (UDP, 443), (ICMP, 443), (TCP, 80)]
    assert {each for each in asked if decide(decider, each[0], "192.0.2.5", each[1])} == fits


@pytest.mark.parametrize(("word", "inside", "outside"), [
    ("private", ["10.1.1.1", "172.31.0.1", "192.168.0.1", "100.64.0.1", "fd00::1", "fc00::1"],
     ["172.32.0.1", "100.128.0.1", "192.0.2.1", "fe80::1", "2001:db8::1"]),
    ("link-local", ["169.254.1.1", "fe80::1", "febf::1"], ["169.255.0.1", "fec0::1"]),
    ("metadata", ["169.254.169.254", "169.254.170.2", "fd00:ec2::254", "168.63.129.16"],
     ["169.254.169.253", "fd00:ec2::253"]),
    ("multicast", ["224.0.0.251", "239.1.1.1", "255.255.255.255", "ff02::fb"], ["223.1.1.1", "fe00::1"]),
    ("host", ["127.0.0.1", "127.9.9.9", "::1", "203.0.113.9", "2001:db8:9::9"],
     ["203.0.113.8", "2001:db8:9::8"]),
])
def test_word_means_these_addresses(word: str, inside: list[str], outside: list[str]) -> None:
    decider = egress(f"deny {word}")
    assert [address for address in inside if decide(decider, UDP, address)] == []
    assert [address for address in outside if not decide(decider, UDP, address)] == []


def test_word_dns_is_the_forwarder_and_the_resolvers_by_the_ports_of_dns() -> None:
    decider = egress("allow dns")
    for proto, port, wanted in ((UDP, 53, True), (TCP, 853, True), (TCP, 443, False), (ICMP, 53, False)):
        assert decide(decider, proto, "192.168.1.1", port) == wanted, (proto, port)
        assert decider.decide(proto, port, FORWARDER, packed("198.51.100.53"))[0] == wanted, (proto, port)
    assert not decide(decider, UDP, "192.168.1.2", 53)


def test_forwarder_is_no_address() -> None:
    """A rule about the address at which the guest asks, or about the host, is none about names."""
    decider = egress("deny private", "deny host", "deny 0.0.0.0/0")
    assert decider.decide(UDP, 53, FORWARDER, packed("10.0.0.1")) == (True, 3)
    decider = egress("allow 198.51.100.53", "allow 0.0.0.0/0")
    assert not decider.decide(UDP, 53, FORWARDER, packed("198.51.100.53"))[0]


def test_address_that_means_the_host_is_allowed_as_the_host_only() -> None:
    """The gateway, 10.0.0.1, means the host's loopback to the guest."""
    assert not decide(egress("allow 10.0.0.0/8"), TCP, "127.0.0.1", asked="10.0.0.1")
    assert decide(egress("allow host"), TCP, "127.0.0.1", asked="10.0.0.1")
    # Denied is either.
    assert not decide(egress("deny host"), TCP, "127.0.0.1", asked="10.0.0.1")
    assert not decide(egress("deny 10.0.0.0/8"), TCP, "127.0.0.1", asked="10.0.0.1")
    assert not decide(egress("deny 10.0.0.0/8", "allow host"), TCP, "127.0.0.1", asked="10.0.0.1")


@pytest.mark.parametrize("address", [
    "64:ff9b::169.254.169.254", "64:ff9b:1::169.254.169.254", "64:ff9b:1:a9fe:a9:fe00::", "2002:a9fe:a9fe::1",
    "2001:0:a9fe:a9fe::1", "2001::5601:5601", "fe80::5efe:169.254.169.254", "2001:db8::200:5efe:a9fe:a9fe",
    "::169.254.169.254", "::ffff:169.254.169.254",
])
def test_denied_address_is_denied_within_an_ipv6_address_too(address: str) -> None:
    assert not decide(egress("deny metadata"), TCP, address)
    assert not decide(egress("deny 169.254.0.0/16", "allow ::/0"), TCP, address)
    assert not decide(egress("deny icmp:169.254.0.0/16"), ICMP6, address)
    assert decide(egress("deny 169.254.0.0/16:80"), TCP, address)
    # What is allowed is the address itself.
    assert not decide(egress("allow 169.254.0.0/16"), TCP, address)


def test_prefix_of_the_network_s_own_nat64_is_known_if_it_is_given() -> None:
    prefix = (packed("2001:db8:64::"), 96)
    rules = EgressRules((parse_egress_rule("metadata", allows=False),), True)
    inside = packed("2001:db8:64::169.254.169.254")
    assert Egress(rules).decide(TCP, 80, inside, inside)[0]
    assert not Egress(rules, nat64=(prefix,)).decide(TCP, 80, inside, inside)[0]
    named = EgressRules((parse_egress_rule("www.example", allows=True),), False)
    assert not Egress(named).is_inner(inside)
    assert Egress(named, nat64=(prefix,)).is_inner(inside)
    # Servers of DNS over HTTPS, too, are closed by it, if a rule is about a name.
    doh = packed("2001:db8:64::8.8.8.8")
    wide = EgressRules((*named.rules, parse_egress_rule("::/0", allows=True)), False)
    assert Egress(wide).decide(TCP, 443, doh, doh)[0]
    assert not Egress(wide, nat64=(prefix,)).decide(TCP, 443, doh, doh)[0]



def test_rules_of_one_family_do_not_open_the_other() -> None:
    assert not decide(egress("allow 0.0.0.0/0"), TCP, "2001:db8::1")
    assert not decide(egress("allow ::/0"), TCP, "192.0.2.1")


def test_host_that_moves_is_another_host() -> None:
    decider = egress("deny host", "deny dns")
    decider.refused[0] = 7
    decider.renew(frozenset({packed("198.51.100.1")}), (packed("198.51.100.53"),))
    assert not decide(decider, TCP, "198.51.100.1")
    assert decide(decider, TCP, "203.0.113.9")
    assert not decide(decider, UDP, "198.51.100.53", 53)
    assert decide(decider, UDP, "192.168.1.1", 53)
    assert decider.refused == [7, 0, 0]


def test_rule_is_named() -> None:
    decider = egress("deny private")
    assert decider.describe(0) == "rule 'deny private'"
    assert decider.describe(1) == "no rule fits"


NETWORKS = st.tuples(st.sampled_from(["10.0.0.0", "10.128.0.0", "10.1.0.0", "10.1.1.0"]),
                     st.sampled_from([0, 8, 9, 16, 24]))
PORTS = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 4)), max_size=3)
RULES = st.lists(st.tuples(st.booleans(), NETWORKS, st.sampled_from(["", "tcp", "udp", "icmp"]), PORTS),
                 max_size=8)


def fits(rule: EgressRule, proto: int, port: int, address: bytes) -> bool:
    """Tell by the plainest means whether *rule* fits."""
    names = {TCP: "tcp", UDP: "udp", ICMP: "icmp"}
    if rule.protocol not in {"", names[proto]} or (rule.ports and proto == ICMP):
        return False
    if rule.ports and not any(first <= port <= last for first, last in rule.ports):
        return False
    return any(ip_address(address) in ip_network(network) for network in rule.networks)


@given(RULES, st.sampled_from([TCP, UDP, ICMP]), st.integers(1, 18),
       st.sampled_from(["10.0.0.1", "10.1.0.1", "10.1.1.1", "10.200.0.1", "192.0.2.1"]), st.booleans())
def test_tables_say_what_reading_the_rules_one_by_one_says(
        drawn: list[tuple[bool, tuple[str, int], str, list[tuple[int, int]]]], proto: int, port: int,
        address: str, allows_rest: bool) -> None:
    rules = []
    for allows, (start, length), protocol, ports in drawn:
        network = ip_network((start, length), strict=False)
        ranges = () if protocol == "icmp" else tuple((first, first + more) for first, more in ports)
        rules.append(EgressRule(allows, ((network.network_address.packed, length),), "", protocol, ranges))
    place = next((place for place, rule in enumerate(rules) if fits(rule, proto, port, packed(address))),
                 len(rules))
    wanted = (rules[place].allows if place < len(rules) else allows_rest, place)
    decider = Egress(EgressRules(tuple(rules), allows_rest))
    assert decider.decide(proto, port, packed(address), packed(address)) == wanted


def test_thousand_rules_cost_a_look_up_hardly_more_than_one() -> None:
    """A new flow costs some 100 us of a processor: a look-up may take a few of these, not a scan."""
    many = egress(*(f"allow {1 + place % 200}.{place * 7 % 256}.{place * 13 % 256}.0/24:{1 + place * 61}"
                    for place in range(1000)))
    same = egress(*(f"allow 192.0.2.0/24:{port}" for port in range(1, 2001, 2)))
    few = egress("allow 192.0.2.0/24:443")
    address = packed("203.0.113.7")

    def cost(decider: Egress) -> float:
        return min(timeit.repeat(lambda: decider.decide(TCP, 443, address, address), number=500, repeat=20))

    # A scan would take hundreds of times as long.
    one = cost(few)
    assert cost(many) < 5 * one
    assert cost(same) < 5 * one


def test_last_refusal_has_its_rule() -> None:
    decider = egress("deny 192.0.2.1:80")
    assert decider.why(TCP, 80, packed("192.0.2.1")) is None
    decider.refuse(TCP, 80, packed("192.0.2.1"), 0)
    assert decider.why(TCP, 80, packed("192.0.2.1")) == Refused(
        TCP, packed("192.0.2.1"), 80, "rule 'deny 192.0.2.1:80'", "deny 192.0.2.1:80")
    assert decider.why(UDP, 80, packed("192.0.2.1")) is None
    decider.refuse(TCP, 1, packed("192.0.2.2"), 1)
    assert decider.why(TCP, 80, packed("192.0.2.1")) is None
    assert decider.why(TCP, 1, packed("192.0.2.2")) == Refused(TCP, packed("192.0.2.2"), 1, "no rule fits")


def test_names_that_the_forwarder_has_refused_are_counted_and_told() -> None:
    told: list[tuple[str, str]] = []
    watched: list[tuple[str, str | None, str]] = []
    rules = (parse_egress_rule("ads.example", allows=False), parse_egress_rule("*.example", allows=True))
    decider = Egress(EgressRules(rules, False), tell_name=lambda *each: told.append(each))
    names = [RefusedName(0, Why.QUESTION, "ads.example"), RefusedName(2, Why.QUESTION, "x.test"),
             RefusedName(2, Why.DOH, "dns.google"), RefusedName(0, Why.ALIAS, "www.example"),
             RefusedName(1, Why.NOT_PINNED, "in.example"), RefusedName(2, Why.TOO_MANY, "many.test"),
             RefusedName(3, Why.QUESTION, "of.no.rule")]
    decider.refuse_names([(0, 5), (2, 7), (3, 9), (0xFFFF, 9)], names[:1])
    decider.watch_name = lambda *each: watched.append(each)
    decider.refuse_names([(0, 1)], names[1:])
    assert decider.names_refused == [6, 0, 7]
    assert told == [
        ("ads.example", "rule 'deny ads.example'"),
        ("x.test", "no rule allows it"),
        ("dns.google", "a server of DNS over HTTPS takes a rule with exactly its name"),
        ("www.example", "rule 'deny ads.example': it is about an alias of the name"),
        ("in.example", "rule 'allow *.example': the addresses of the answer were not taken"),
        ("many.test", "the answer has too many addresses")]
    assert [(name, why) for name, _, why in watched] == told[1:]
    assert [rule for _, rule, _ in watched] == [None, None, "deny ads.example", "allow *.example", None]


def test_what_was_refused_is_listed_and_stays_with_its_rule() -> None:
    decider = egress("deny 192.0.2.1", "deny ads.example", "allow 198.51.100.1")
    assert decider.refusals() == {None: (0, 0)}
    decider.refuse(TCP, 80, packed("192.0.2.1"), 0)
    decider.refuse(TCP, 80, packed("192.0.2.9"), 3)
    decider.refuse_names([(1, 4), (3, 2)], ())
    decider.renew(None, ())
    found = {"deny 192.0.2.1": (1, 0), "deny ads.example": (0, 4), None: (1, 2)}
    assert decider.refusals() == found
    decider.replace(EgressRules((*decider.rules.rules[1::-1],), False))
    assert decider.refusals() == found
    assert decider.names_refused == [4, 0, 2]
    decider.replace(EgressRules((), False))
    assert decider.refusals() == {None: (1, 2)}


def test_rule_that_is_there_twice_is_listed_once() -> None:
    decider = egress("deny 192.0.2.1", "deny 192.0.2.1")
    decider.refuse_names([(0, 2), (1, 3)], ())
    assert decider.refusals() == {"deny 192.0.2.1": (0, 5), None: (0, 0)}
    decider.replace(decider.rules)
    assert decider.refusals() == {"deny 192.0.2.1": (0, 5), None: (0, 0)}
