"""What connections say first that pass by a name alone: which names may, by which rule, what others see."""

from __future__ import annotations

from ipaddress import ip_address
from socket import IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP

import pytest

from passt.config.egress_grammar import parse_rule_line
from passt.facts.contracts import PROHIBITED, Target
from passt.facts.egress import EgressRules
from passt.facts.guest import GuestNet
from passt.forward.egress import Egress, Refused
from passt.forward.openings import Openings
from passt.forward.pins import Pins
from passt.forward.policy import Policy
from tests.forward.test_policy import IP4, IP6
from tests.support.client_hello import by_openssl, named

TCP, UDP, ICMP = IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP
NET = GuestNet(IP4, IP6, "eth0")
WHERE, WHERE6 = "198.51.100.1", "2001:db8:99::1"
DOH = "8.8.8.8"                    # dns.google


def packed(text: str) -> bytes:
    return ip_address(text).packed


class Bench:
    """A policy with rules, some of which addresses are pinned for, and what was told of refusals."""

    def __init__(self, *lines: str, pins: dict[int, str] | None = None, verifies: bool = True) -> None:
        rules = tuple(map(parse_rule_line, lines))
        self.told: list[Refused] = []
        allows_rest = not any(rule.allows for rule in rules)
        self.egress = Egress(EgressRules(rules, allows_rest, verifies=verifies), tell=self.told.append,
                             pins=Pins(lambda: 1000.0))
        for place, address in ({0: WHERE} if pins is None else pins).items():
            assert self.egress.pin(place, packed(address), 60)
        self.policy = Policy(NET, egress=self.egress, openings=Openings(self.egress))

    def open(self, address: str = WHERE, port: int = 443, proto: int = TCP) -> Target | None:
        source = packed("192.0.2.5" if "." in address else "2001:db8::5")
        return self.policy.outbound(proto, source, 40000, packed(address), port)

    def judge(self, data: bytes, address: str = WHERE, port: int = 443, end: str = "") -> bool | None:
        source = packed("192.0.2.5" if "." in address else "2001:db8::5")
        return self.policy.judge_opening(source, 40000, packed(address), port, data, end)

    def may_say(self, name: str, address: str = WHERE, port: int = 443) -> bool | None:
        return self.judge(named(name.encode()), address, port)

    def why(self) -> str:
        return self.told[-1].why


def test_flow_is_held_where_nothing_but_a_name_lets_it_pass() -> None:
    for lines, is_held in (
            (("allow www.example",), True), (("allow www.example", f"allow {WHERE}"), False),
            (("allow www.example", f"allow {WHERE}:443"), False),
            (("allow www.example", f"allow {WHERE}:80"), True),
            (("allow www.example", f"deny {WHERE}", f"allow {WHERE}"), True),
            (("allow *.example", "deny private"), True)):
        target = Bench(*lines).open()
        assert target is not None, lines
        assert target is not PROHIBITED, lines
        assert target.held == is_held, lines


def test_flow_is_not_held_without_the_option_or_by_address() -> None:
    assert Bench("allow www.example", verifies=False).open() == Target(packed(WHERE), 443)
    by_address = Bench("allow www.example", "allow 203.0.113.0/24").open("203.0.113.99")
    assert by_address == Target(packed("203.0.113.99"), 443)
    # Without a rule that allows all is open, whoever denies names.
    assert Bench("deny www.example", pins={}).open() == Target(packed(WHERE), 443)


@pytest.mark.parametrize("address", [WHERE, WHERE6])
def test_name_of_the_rule_may_be_said_and_no_other(address: str) -> None:
    bench = Bench("allow www.example", pins={0: address})
    assert bench.may_say("www.example", address)
    assert bench.may_say("WWW.example.", address)
    assert bench.told == []
    for name in ("evil.test", "example", "x.www.example", "wwwxexample"):
        assert bench.may_say(name, address) is False
        assert bench.why() == f"--verify-names: the guest says the name {name}: no rule fits"
        assert bench.told[-1][:3] == (TCP, packed(address), 443)
    assert bench.egress.refused == [0, 4]
    assert bench.egress.why(TCP, 443, packed(address)) == bench.told[-1]


def test_suffix_is_of_names_below_it() -> None:
    bench = Bench("allow *.cdn.example")
    assert bench.may_say("a.cdn.example")
    assert bench.may_say("a.b.cdn.example")
    assert bench.may_say("cdn.example") is False
    assert bench.may_say("acdn.example") is False


def test_other_name_may_be_said_if_its_rule_has_the_address_too() -> None:
    lines = ("allow a.example", "allow b.example", "allow c.example:80")
    bench = Bench(*lines, pins={0: WHERE, 1: WHERE, 2: WHERE})
    assert bench.may_say("b.example")
    assert bench.may_say("c.example", port=80)
    assert bench.may_say("c.example") is False
    assert Bench(*lines, pins={0: WHERE, 1: "198.51.100.2"}).may_say("b.example") is False


def test_rules_that_deny_go_first() -> None:
    bench = Bench("deny evil.cdn.example", "allow *.cdn.example", pins={1: WHERE})
    assert bench.may_say("good.cdn.example")
    assert bench.may_say("evil.cdn.example") is False
    assert bench.why().endswith("evil.cdn.example: rule 'deny evil.cdn.example'")
    assert bench.egress.refused == [1, 0, 0]
    # One about the address bars the rules behind it.
    bench = Bench("allow a.example", f"deny {WHERE}", "allow b.example", pins={0: WHERE, 2: WHERE})
    assert bench.may_say("a.example")
    assert bench.may_say("b.example") is False
    assert bench.why().endswith(f"b.example: rule 'deny {WHERE}'")


def test_known_server_of_doh_is_for_who_has_its_very_name() -> None:
    assert Bench("allow *.google", pins={0: WHERE}).may_say("dns.google") is False
    assert Bench("allow dns.google", pins={0: WHERE}).may_say("dns.google")
    bench = Bench("allow dns.google", pins={0: DOH})
    assert bench.open(DOH) == Target(packed(DOH), 443, held=True)
    assert bench.may_say("dns.google", DOH)


def test_more_is_waited_for_and_then_judged() -> None:
    bench = Bench("allow www.example")
    data = by_openssl("www.example")
    assert bench.judge(data[:1]) is None
    assert bench.judge(data[:-1]) is None
    assert bench.judge(data)
    assert bench.told == []


@pytest.mark.parametrize(("data", "end", "said"), [
    (b"SSH-2.0-OpenSSH\r\n", "", "neither TLS nor HTTP"),
    (named(b"192.0.2.1"), "", "SNI '192.0.2.1' is no name"),
    (named(b"www.example\0.evil"), "", r"SNI 'www.example\x00.evil' is no name"),
    (b"", "too late", "too late"),
    (named(), "too late", "too late"),
])
def test_who_says_no_name_is_refused(data: bytes, end: str, said: str) -> None:
    bench = Bench("allow www.example")
    assert bench.judge(data, end=end) is False
    assert bench.why() == f"--verify-names: {said}"
    assert bench.egress.refused == [0, 1]


def test_rules_of_now_decide() -> None:
    """They may change while a connection is held."""
    bench = Bench("allow www.example")
    hello = named()
    bench.egress.replace(EgressRules((parse_rule_line("allow other.example"),), False, verifies=True))
    assert bench.judge(hello) is False
    bench.egress.replace(EgressRules((parse_rule_line(f"allow {WHERE}"),), False, verifies=True))
    assert bench.judge(hello)
    assert bench.judge(b"SSH-2.0-x\r\n")
    assert bench.judge(b"", end="too late") is False
    bench.egress.replace(EgressRules((parse_rule_line("allow www.example"),), False, verifies=True))
    bench.egress.pin(0, packed(WHERE), 60)
    assert bench.judge(hello)


def test_who_is_held_when_the_option_goes_says_what_it_likes() -> None:
    bench = Bench("allow www.example")
    assert bench.judge(b"GET") is None
    bench.egress.replace(EgressRules(bench.egress.rules.rules, allows_rest=False, verifies=False))
    assert bench.judge(b"SSH-2.0-x\r\n")
    assert bench.judge(b"SSH-2.0-x\r\n", "198.51.100.2") is False
    assert bench.judge(b"", end="the time is over") is False


def test_names_open_nothing_for_datagrams_but_pings() -> None:
    bench = Bench("allow www.example", "allow udp:x.example")
    assert bench.open(proto=UDP) is PROHIBITED
    assert bench.why() == "no rule fits; UDP says no name that --verify-names could read"
    assert bench.open("198.51.100.2", proto=UDP) is PROHIBITED
    assert bench.why() == "no rule fits"
    assert bench.open(proto=ICMP) == Target(packed(WHERE), 443)
    assert Bench("allow www.example", f"allow udp:{WHERE}").open(proto=UDP) == Target(packed(WHERE), 443)
    assert Bench("allow www.example", verifies=False).open(proto=UDP) == Target(packed(WHERE), 443)


def test_explanation_says_that_a_name_is_wanted() -> None:
    bench = Bench("allow www.example")
    found = bench.policy.explain_outbound(TCP, packed("192.0.2.5"), 40000, packed(WHERE), 443)
    assert found.target == Target(packed(WHERE), 443)
    assert found.steps[-1] == "its first bytes have to say a name that a rule allows there (--verify-names)"
    assert bench.told == []


def test_flow_without_a_way_is_refused() -> None:
    bench = Bench("allow www.example")
    bench.policy.renew(GuestNet(None, IP6, "eth0"))
    assert bench.judge(named()) is False
