"""What is explained is what is decided: the same answer for every network, flow and switch."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passt.facts.contracts import InboundTarget, Target
from passt.facts.guest import GuestFamily, GuestNet
from passt.facts.port_rule import PortRule
from passt.forward.bypass import Bypass
from passt.forward.policy import Policy

if TYPE_CHECKING:
    from passt.facts.contracts import Explained, FlowExplainer

TEXTS = ("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5", "198.51.100.1", "127.0.0.1",
         "127.0.0.9", "0.0.0.0", "224.0.0.251", "255.255.255.255", "169.254.1.1",
         "2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::5", "fe80::1", "fe80::5", "::1", "::",
         "ff02::fb", "::ffff:192.0.2.1")  # fmt: skip
ALL = [ip_address(text) for text in TEXTS]
ANY4 = [address for address in ALL if isinstance(address, IPv4Address)]
ANY6 = [address for address in ALL if isinstance(address, IPv6Address)]


def family(choices: list[Any]) -> st.SearchStrategy[GuestFamily | None]:
    """Families of a guest's network, sensible or not."""
    one = st.sampled_from([address for address in choices
                           if not (address.is_loopback or address.is_multicast or address.is_unspecified)])
    maybe = st.none() | one
    return st.none() | st.builds(
        GuestFamily, address=maybe, prefix_len=st.just(24), gateway=maybe, our_address=maybe,
        map_host_loopback=maybe, map_guest=maybe, dns_match=maybe,
        dns_host=st.none() | st.sampled_from(choices), template_ifindex=st.integers(0, 3),
        outbound_address=maybe, outbound_ifname=st.none() | st.just("eth7"),
        is_fixed=st.booleans())  # fmt: skip


PACKED = st.sampled_from([address.packed for address in ALL])
PROTOS = st.sampled_from((1, 6, 17, 58, 132))
PORTS = st.sampled_from((0, 53, 80, 853, 40000))
RULES = st.builds(
    PortRule, proto=st.sampled_from((6, 17)), first=st.just(1), last=st.just(65535), target=st.just(1),
    target_address=st.none() | st.sampled_from(ANY4[:5] + ANY6[:4]))
NETS = st.builds(GuestNet, ip4=family(ANY4), ip6=family(ANY6), ifname=st.just("eth0"))


class World:
    """A policy as a run has it, and what it logs and warns of."""

    def __init__(self, net: GuestNet, switches: dict[str, bool], seen: list[bytes]) -> None:
        self.said: list[str] = []
        self.policy = Policy(net, tcp=switches["tcp"], udp=switches["udp"], icmp=switches["icmp"],
                             warn=self.said.append)
        self.bypass = None
        if switches["bypassed"]:
            self.bypass = Bypass(self.policy, self.policy.observed, splice=switches["splice"],
                                 keep_loopback=switches["keep"])
            self.bypass.scope_id = 7
        for address in seen:
            self.policy.observed.on_guest_address(address)

    @property
    def explainer(self) -> FlowExplainer:
        return self.bypass or self.policy


def check(explained: Explained, decided: InboundTarget | Target | None) -> None:
    """The same answer, and a reason for it."""
    assert explained.target == decided
    assert type(explained.target) is type(decided)
    assert explained.why


SWITCHES = st.fixed_dictionaries(dict.fromkeys(("tcp", "udp", "icmp", "bypassed", "splice", "keep"),
                                               st.booleans()))


@given(NETS, SWITCHES, st.lists(PACKED, max_size=2), PROTOS, RULES, PACKED, PORTS, PACKED, PORTS)
def test_explanation_and_decision_are_one(
    net: GuestNet, switches: dict[str, bool], seen: list[bytes], proto: int, rule: PortRule, one: bytes,
    one_port: int, other: bytes, other_port: int,
) -> None:  # fmt: skip
    world = World(net, switches, seen)
    explainer = world.explainer
    flow = (one, one_port, other, other_port)
    outbound = explainer.explain_outbound(proto, *flow)
    inbound = explainer.explain_inbound(proto, rule, *flow)
    bypass = explainer.explain_outbound_bypass(proto, rule, *flow)
    assert world.said == []                # who asks is told, nobody else
    policy = world.bypass or world.policy
    check(outbound, policy.outbound(proto, *flow))
    check(inbound, policy.inbound(proto, rule, *flow))
    check(bypass, policy.outbound_bypass(proto, rule, *flow))


IP4 = GuestFamily(
    address=IPv4Address("192.0.2.5"), prefix_len=24, gateway=IPv4Address("192.0.2.1"),
    our_address=IPv4Address("192.0.2.1"), map_host_loopback=IPv4Address("192.0.2.2"),
    map_guest=IPv4Address("192.0.2.3"), dns_match=IPv4Address("192.0.2.4"),
    dns_host=IPv4Address("198.51.100.53"))  # fmt: skip
GUEST, PEER = IPv4Address("192.0.2.5").packed, IPv4Address("198.51.100.1").packed
RULE = PortRule(6, 8000, 8009, 80)


@pytest.mark.parametrize(("destination", "port", "why", "steps"), [
    ("192.0.2.4", 53, "DNS", [
        "DNS: 192.0.2.4 with port 53 or 853 of TCP or UDP means 198.51.100.53: applies",
        "host loopback: 192.0.2.2 means 127.0.0.1: does not apply",
        "guest map: 192.0.2.3 means 192.0.2.5: does not apply"]),
    ("192.0.2.2", 80, "host loopback", [
        "DNS: 192.0.2.4 with port 53 or 853 of TCP or UDP means 198.51.100.53: does not apply",
        "host loopback: 192.0.2.2 means 127.0.0.1: applies",
        "guest map: 192.0.2.3 means 192.0.2.5: does not apply"]),
    ("192.0.2.4", 80, "unchanged", [
        "DNS: 192.0.2.4 with port 53 or 853 of TCP or UDP means 198.51.100.53: does not apply",
        "host loopback: 192.0.2.2 means 127.0.0.1: does not apply",
        "guest map: 192.0.2.3 means 192.0.2.5: does not apply", "192.0.2.4 stands for itself"]),
])  # fmt: skip
def test_rows_are_told_in_their_order(destination: str, port: int, why: str, steps: list[str]) -> None:
    policy = Policy(GuestNet(IP4, None, "eth0"))
    found = policy.explain_outbound(6, GUEST, 40000, IPv4Address(destination).packed, port)
    assert (found.why, list(found.steps)) == (why, steps)


def test_way_of_an_inbound_flow_is_told() -> None:
    policy = Policy(GuestNet(IP4, None, "eth0"))
    bypass = Bypass(policy, policy.observed)
    here = IPv4Address("127.0.0.1").packed
    found = bypass.explain_inbound(6, RULE, PEER, 50000, GUEST, 8001)
    assert list(found.steps) == [
        "it takes the link: the client is not on the host's loopback",
        "the client 198.51.100.1 is shown to the guest as 198.51.100.1 (unchanged)",
        "it goes to 192.0.2.5: the guest's address, last seen or assigned"]
    found = bypass.explain_inbound(6, RULE, here, 50000, here, 8001)
    assert isinstance(found.target, Target)
    assert list(found.steps) == ["it bypasses the link: client and port are of the host's loopback"]
    off = Bypass(policy, policy.observed, splice=False).explain_inbound(6, RULE, here, 50000, here, 8001)
    assert off.steps[0] == "it takes the link: the bypass is off (--no-splice)"


def test_warning_of_loopback_clients_is_not_used_up_by_an_explanation() -> None:
    said: list[str] = []
    net = GuestNet(GuestFamily(IPv4Address("192.0.2.5"), 24, None, None), None, "eth0")
    policy = Policy(net, warn=said.append)
    here = IPv4Address("127.0.0.1").packed
    assert policy.explain_inbound(6, RULE, here, 50000, here, 8001).target is None
    assert said == []
    assert policy.inbound(6, RULE, here, 50000, here, 8001) is None
    assert len(said) == 1
