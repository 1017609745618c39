"""Each row of the bypass: where local flows go, and that all others are the other policy's."""

from ipaddress import IPv4Address, IPv6Address, ip_address
from socket import IPPROTO_TCP, IPPROTO_UDP

import pytest

from passt.config.egress_grammar import parse_egress_rule
from passt.facts.contracts import FlowPolicy, InboundTarget, Target
from passt.facts.egress import EgressRules
from passt.facts.guest import GuestFamily, GuestNet
from passt.facts.port_rule import PortRule
from passt.forward.bypass import NO_NAME, Bypass
from passt.forward.egress import Egress, Ingress
from passt.forward.learning import Learning
from passt.forward.openings import Openings
from passt.forward.pins import Pins
from passt.forward.policy import Policy
from passt.light.values import replace

RULE = PortRule(IPPROTO_TCP, 8000, 8009, 80)
IP4 = GuestFamily(IPv4Address("192.0.2.5"), 24, IPv4Address("192.0.2.1"), IPv4Address("192.0.2.1"))
IP6 = GuestFamily(IPv6Address("2001:db8::5"), 64, IPv6Address("fe80::1"), IPv6Address("fe80::1"))
NET = GuestNet(IP4, IP6, "eth0")


def packed(text: str) -> bytes:
    return ip_address(text).packed


def bypass(net: GuestNet = NET, *, splice: bool = True, keep_loopback: bool = False, alone: bool = False
           ) -> Bypass:
    policy = Policy(net)
    made = Bypass(policy, policy.observed, splice=splice, keep_loopback=keep_loopback, alone=alone)
    made.scope_id = 7
    return made


def inbound(policy: Bypass, peer: str, local: str) -> InboundTarget | Target | None:
    return policy.inbound(IPPROTO_TCP, RULE, packed(peer), 50000, packed(local), 8001)


def outbound(peer: str, local: str) -> Target | None:
    return bypass().outbound_bypass(IPPROTO_UDP, RULE, packed(peer), 50000, packed(local), 8001)


def lasting(address: str, scope_id: int = 0, source: bytes | None = None) -> Target:
    """Make an answer that need not be asked for again."""
    return Target(packed(address), 81, scope_id, source, lasting=True)


def test_is_a_policy() -> None:
    policy: FlowPolicy = bypass()
    assert policy.outbound(IPPROTO_TCP, packed("192.0.2.5"), 1, packed("198.51.100.1"), 2) == Target(
        packed("198.51.100.1"), 2
    )


@pytest.mark.parametrize(
    ("peer", "local", "keep", "expected"),
    [
        ("127.0.0.1", "127.0.0.1", False, "192.0.2.5"),
        ("127.0.0.2", "203.0.113.1", False, "192.0.2.5"),
        ("::1", "::1", False, "2001:db8::5"),
        ("127.0.0.1", "127.0.0.1", True, "127.0.0.1"),
        ("127.0.0.1", "127.0.0.9", True, "127.0.0.9"),
        ("127.0.0.1", "203.0.113.1", True, "192.0.2.5"),
        ("::1", "::1", True, "::1"),
        ("::1", "2001:db8:1::1", True, "2001:db8::5"),
    ],
)
def test_loopback_client_of_the_host(peer: str, local: str, keep: bool, expected: str) -> None:
    assert inbound(bypass(keep_loopback=keep), peer, local) == lasting(expected)


@pytest.mark.parametrize(("peer", "seen_as", "behind"), [
    ("127.0.0.1", "192.0.2.1", "192.0.2.77"), ("::1", "fe80::1", "2001:db8:77::1")])
def test_rule_with_a_target_address_never_bypasses_the_link(peer: str, seen_as: str, behind: str) -> None:
    rule = replace(RULE, target_address=ip_address(behind))
    policy = bypass(keep_loopback=True)
    assert policy.inbound(IPPROTO_TCP, rule, packed(peer), 50000, packed(peer), 8001) == InboundTarget(
        packed(seen_as), 50000, packed(behind), 81)
    assert policy.leads_to(IPPROTO_UDP, replace(rule, target=8000), packed(behind), 8001)
    assert not policy.leads_to(IPPROTO_UDP, replace(rule, target=8000), packed("192.0.2.5"), 8001)
    assert not policy.leads_to(IPPROTO_UDP, rule, packed(behind), 8001)


def test_guest_that_moved_is_followed() -> None:
    policy = bypass()
    policy._observed.on_guest_address(packed("192.0.2.99"))
    assert inbound(policy, "127.0.0.1", "127.0.0.1") == lasting("192.0.2.99")


def test_link_local_guest_has_a_scope() -> None:
    net = GuestNet(None, GuestFamily(None, 64, None, IPv6Address("fe80::1")), "tap0")
    policy = bypass(net)
    assert inbound(policy, "::1", "::1") is None
    policy._observed.on_guest_address(packed("fe80::5"))
    assert inbound(policy, "::1", "::1") == lasting("fe80::5", 7)
    assert inbound(policy, "127.0.0.1", "127.0.0.1") is None  # no such family


def test_loopback_is_reached_whatever_the_guest_has() -> None:
    net = GuestNet(None, None, "tap0")
    kept = inbound(bypass(net, keep_loopback=True), "127.0.0.1", "127.0.0.1")
    assert kept == lasting("127.0.0.1")
    assert inbound(bypass(net), "127.0.0.1", "127.0.0.1") is None


@pytest.mark.parametrize("peer", ["198.51.100.1", "192.0.2.5", "2001:db8:1::1"])
def test_other_client_of_the_host_takes_the_link(peer: str) -> None:
    assert isinstance(inbound(bypass(), peer, "203.0.113.1"), InboundTarget)


@pytest.mark.parametrize(("peer", "local"), [
    ("198.51.100.1", "203.0.113.1"), ("192.0.2.5", "127.0.0.1"), ("2001:db8:1::1", "2001:db8:1::2"),
    ("127.0.0.1", "203.0.113.1"), ("::1", "2001:db8:1::1"),
])
def test_other_client_is_refused_where_there_is_no_link(peer: str, local: str) -> None:
    alone = bypass(keep_loopback=True, alone=True)
    assert inbound(alone, peer, local) is None
    behind = replace(RULE, target_address=ip_address("192.0.2.77"))
    assert alone.inbound(IPPROTO_TCP, behind, packed("127.0.0.1"), 50000, packed("127.0.0.1"), 8001) is None
    assert inbound(alone, "127.0.0.2", "127.0.0.9") == lasting("127.0.0.9")


def test_loopback_client_takes_the_link_without_splice() -> None:
    answer = inbound(bypass(splice=False), "127.0.0.1", "127.0.0.1")
    assert answer == Policy(NET).inbound(
        IPPROTO_TCP, RULE, packed("127.0.0.1"), 50000, packed("127.0.0.1"), 8001
    )
    assert not isinstance(answer, Target)


@pytest.mark.parametrize(
    ("peer", "local", "source"),
    [
        ("127.0.0.1", "127.0.0.1", None),
        ("127.0.0.1", "127.0.0.9", None),
        ("127.0.0.2", "127.0.0.9", "127.0.0.2"),
        ("::1", "::1", None),
    ],
)
def test_loopback_client_of_the_namespace(peer: str, local: str, source: str | None) -> None:
    assert outbound(peer, local) == lasting(local, source=packed(source) if source else None)


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        ("192.0.2.5", "192.0.2.5"),
        ("192.0.2.5", "127.0.0.1"),
        ("127.0.0.1", "192.0.2.5"),
        ("2001:db8::5", "2001:db8::5"),
        ("2001:db8::5", "::1"),
        ("::1", "2001:db8::5"),
    ],
)
def test_other_client_of_the_namespace_is_refused(peer: str, local: str) -> None:
    assert outbound(peer, local) is None


def test_plain_policy_has_nothing_to_do_with_the_namespace() -> None:
    answer = Policy(NET).outbound_bypass(
        IPPROTO_TCP, RULE, packed("127.0.0.1"), 1, packed("127.0.0.1"), 8001
    )
    assert answer is None


def test_explanations() -> None:
    lines: list[str] = []
    policy = Policy(NET)
    made = Bypass(policy, policy.observed, explain=lines.append)
    # Not lasting: every flow is to be explained.
    assert inbound(made, "127.0.0.1", "127.0.0.1") == Target(packed("192.0.2.5"), 81)
    made.outbound_bypass(IPPROTO_TCP, RULE, packed("::1"), 50000, packed("::1"), 8001)
    made.outbound_bypass(IPPROTO_TCP, RULE, packed("192.0.2.5"), 50000, packed("127.0.0.1"), 8001)
    assert lines == [
        "bypass to the namespace, TCP 127.0.0.1:50000 -> 127.0.0.1:8001: to 192.0.2.5:81",
        "bypass to the host, TCP [::1]:50000 -> [::1]:8001: to [::1]:81",
        "bypass to the host, TCP 192.0.2.5:50000 -> 127.0.0.1:8001: refused, not from loopback to loopback",
    ]


# Rules of egress


def test_rules_hold_for_the_bypass() -> None:
    """Neither -T nor -U lead past them."""
    for text, allows, reaches in (("host", False, False), ("host", True, True), ("192.0.2.0/24", True, False),
                                  ("tcp:127.0.0.1:81", True, True), ("udp:127.0.0.1:81", True, False),
                                  ("127.0.0.1:80", True, False)):
        rule = parse_egress_rule(text, allows=allows)
        policy = Policy(NET, egress=Egress(EgressRules((rule,), not allows)))
        made = Bypass(policy, policy.observed)
        loopback = packed("127.0.0.1")
        target = made.outbound_bypass(IPPROTO_TCP, RULE, loopback, 50000, loopback, 8001)
        assert (target is not None) == reaches, text
        found = made.explain_outbound_bypass(IPPROTO_TCP, RULE, loopback, 50000, loopback, 8001)
        assert (found.target is not None) == reaches, text
        assert policy.egress is not None
        assert sum(policy.egress.refused) == (not reaches)
        # What was refused is known by what the client said, as the event has it.
        refused = policy.egress.why(IPPROTO_TCP, 8001, loopback)
        assert (refused is not None) == (not reaches), text


def test_what_a_name_opens_is_asked_for_each_time() -> None:
    """The data plane keeps answers that last; the address of a name is over some time."""
    loopback = packed("127.0.0.1")
    now = [0.0]
    for text, lasts in (("host", True), ("www.example", False)):
        rule = parse_egress_rule(text, allows=True)
        egress = Egress(EgressRules((rule,), False), pins=Pins(lambda: now[0], [("www.example", loopback)]))
        egress.pin(0, loopback, 60)
        policy = Policy(NET, egress=egress)
        made = Bypass(policy, policy.observed)
        target = made.outbound_bypass(IPPROTO_TCP, RULE, loopback, 50000, loopback, 8001)
        assert target is not None
        assert target.lasting == lasts


def test_what_a_name_alone_opens_does_not_bypass_the_link_unread() -> None:
    loopback = packed("127.0.0.1")
    for texts, reaches in ((("www.example",), False), (("www.example", "host"), True)):
        rules = tuple(parse_egress_rule(text, allows=True) for text in texts)
        egress = Egress(EgressRules(rules, False, verifies=True),
                        pins=Pins(lambda: 0.0, [("www.example", loopback)]))
        egress.pin(0, loopback, 60)
        policy = Policy(NET, egress=egress, openings=Openings(egress))
        made = Bypass(policy, policy.observed)
        target = made.outbound_bypass(IPPROTO_TCP, RULE, loopback, 50000, loopback, 8001)
        assert (target is not None) == reaches
        found = made.explain_outbound_bypass(IPPROTO_TCP, RULE, loopback, 50000, loopback, 8001)
        assert (found.target is not None) == reaches
        if not reaches:
            assert egress.last is not None
            assert found.why == egress.last.why == NO_NAME
            assert egress.why(IPPROTO_TCP, 8001, loopback) is egress.last      # as the namespace calls it


def test_clients_on_loopback_may_have_to_be_allowed() -> None:
    for text, may in (("127.0.0.0", True), ("198.51.100.0", False)):
        policy = Policy(NET, ingress=Ingress(((packed(text), 8),)))
        made = Bypass(policy, policy.observed)
        assert (inbound(made, "127.0.0.1", "127.0.0.1") is not None) == may


def test_flows_that_bypass_the_link_are_learned() -> None:
    policy = Policy(NET, learning=Learning(lambda _address: False))
    made = Bypass(policy, policy.observed)
    loopback = packed("127.0.0.1")
    made.explain_outbound_bypass(IPPROTO_TCP, RULE, loopback, 50000, loopback, 8001)
    assert policy.learning is not None
    assert '"allow' not in policy.learning.text(lambda _text: True)
    assert made.outbound_bypass(IPPROTO_TCP, RULE, loopback, 50000, loopback, 8001) is not None
    assert '"allow tcp:127.0.0.1:81"' in policy.learning.text(lambda _text: True)
