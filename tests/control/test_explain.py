"""Explanations by HTTP: every way that a flow can go or not go, by a real policy and real tables."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passt.config.egress_grammar import parse_rule_line
from passt.control.explain import Explainer, explain_name
from passt.facts.contracts import ListenerInfo
from passt.facts.egress import EgressRules
from passt.facts.guest import GuestFamily, GuestNet
from passt.facts.port_rule import PortRule
from passt.forward.bypass import Bypass
from passt.forward.egress import Egress
from passt.forward.policy import Policy
from passt.light.values import replace
from passt.names.name_rules import NameRules
from passt.steer import messages
from passt.steer.tables import ClientTables
from passt.wire.dns.message import encode_name
from tests.control.test_api import OPENAPI, Bench
from tests.run.test_port_tables import World, opened, tcp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IP4 = GuestFamily(
    address=IPv4Address("192.0.2.5"), prefix_len=24, gateway=IPv4Address("192.0.2.1"),
    our_address=IPv4Address("192.0.2.1"), map_host_loopback=IPv4Address("192.0.2.1"),
    dns_match=IPv4Address("192.0.2.4"), dns_host=IPv4Address("198.51.100.53"))  # fmt: skip
IP6 = GuestFamily(
    address=IPv6Address("2001:db8:1::5"), prefix_len=64, gateway=IPv6Address("fe80::1"),
    our_address=IPv6Address("fe80::1"), map_host_loopback=IPv6Address("fe80::1"), template_ifindex=7,
    outbound_address=IPv6Address("2001:db8:9::9"), outbound_ifname="eth8")  # fmt: skip
GUEST = GuestNet(IP4, IP6, "eth0")
WEB = replace(tcp(8080), target=80, spec="-t 8080:80")
ONE = replace(tcp(8081), address=IPv4Address("203.0.113.7"), spec="-t 203.0.113.7/8081")
FEW = replace(tcp(7000, 7001), spec="-t 7000-7005,~7002-7005")
AUTO = replace(tcp(3000, 3999), auto=True, spec="-t 3000-3999,auto")
MANY = replace(PortRule(17, 1, 6, 1), optional=True, spec="-u all,~7,~8")
BACK = replace(tcp(5432), spec="-T 5432")


class Flows:
    """A program with a policy and tables, asked what it would do."""

    def __init__(self, path: Path, guest: GuestNet = GUEST, abilities: int = 63, ping: str = "") -> None:
        self.bench = Bench(path)
        self.world = World(WEB, ONE, FEW, AUTO, MANY, inside=[BACK])
        policy = Policy(guest)
        self.link_policy = policy
        self.policy = Bypass(policy, policy.observed)
        shown = ClientTables(self.world.ports, {"HOST": abilities, "SPLICE": abilities})
        self.bench.api.explainer = Explainer(self.policy, policy.observed, guest,
                                             self.bench.source.listeners_at, shown, ping)
        self.bench.source.ports = [
            ListenerInfo(rule.proto, port, rule, namespace=name == "SPLICE")
            for name in ("HOST", "SPLICE") for rule, found in opened(self.world.ports, name).items()
            for port in found]  # fmt: skip

    def ask(self, query: str) -> tuple[int, Any]:
        return self.bench.ask("GET", f"/v1/explain?{query}")

    def flows(self, query: str) -> list[dict[str, Any]]:
        status, found = self.ask(query)
        assert status == 200, found
        flows: list[dict[str, Any]] = found["flows"]
        return flows


@pytest.fixture
def flows(tmp_path: Path) -> Iterator[Flows]:
    made = Flows(tmp_path)
    yield made
    made.bench.close()


def end(address: str | None, port: int) -> dict[str, Any]:
    return {"address": address, "port": port}


def test_outbound_flow_by_a_mapping(flows: Flows) -> None:
    [flow] = flows.flows("protocol=udp&address=192.0.2.4&port=53")
    assert flow == {
        "direction": "outbound", "protocol": "udp", "source": end("192.0.2.5", 50000),
        "destination": end("192.0.2.4", 53), "verdict": "forwarded", "why": "DNS", "path": "link",
        "rule": None,
        "guest": {"source": end("192.0.2.5", 50000), "destination": end("192.0.2.4", 53)},
        "host": {"source": None, "destination": end("198.51.100.53", 53), "interface": None, "scope": None},
        "steps": ["DNS: 192.0.2.4 with port 53 or 853 of TCP or UDP means 198.51.100.53: applies",
                  "host loopback: 192.0.2.1 means 127.0.0.1: does not apply"]}  # fmt: skip
    [flow] = flows.flows("address=2001:db8:2::1&port=443")
    assert (flow["protocol"], flow["why"]) == ("tcp", "unchanged")
    assert flow["host"] == {"source": end("2001:db8:9::9", 0), "destination": end("2001:db8:2::1", 443),
                            "interface": "eth8", "scope": None}  # fmt: skip


@pytest.mark.parametrize(("query", "why"), [
    ("address=0.0.0.0&port=80", "destination not allowed"),
    ("address=224.0.0.1&port=80", "destination not allowed"),
    ("address=198.51.100.1&port=80&source=127.0.0.1", "bad source address"),
])  # fmt: skip
def test_refused_outbound_flow(flows: Flows, query: str, why: str) -> None:
    [flow] = flows.flows(query)
    assert (flow["verdict"], flow["why"], flow["host"]) == ("refused", why, None)


def test_ping_and_what_the_host_refuses(flows: Flows, tmp_path: Path) -> None:
    [flow] = flows.flows("address=198.51.100.1")
    assert (flow["protocol"], flow["verdict"]) == ("icmp", "forwarded")
    [flow] = flows.flows("protocol=icmp&address=2001:db8:2::1")
    assert (flow["protocol"], flow["verdict"]) == ("icmp6", "forwarded")
    (tmp_path / "other").mkdir()
    other = Flows(tmp_path / "other", ping="ping does not work: group 5 may not open ping sockets")
    [flow] = other.flows("address=198.51.100.1")
    assert (flow["verdict"], flow["why"][:19]) == ("refused", "ping does not work:")
    other.bench.close()


def test_family_that_is_off(tmp_path: Path) -> None:
    flows = Flows(tmp_path, GuestNet(IP4, None, "eth0"))
    [flow] = flows.flows("address=2001:db8:2::1&port=443")
    assert (flow["verdict"], flow["why"]) == ("refused", "family or protocol disabled")
    assert flow["steps"][-1] == "IPv6 is off, or the host has no address of it"
    clients = [flow["source"]["address"] for flow in flows.flows("inbound=8080&protocol=tcp")]
    assert clients == ["127.0.0.1", "203.0.113.1"]
    flows.bench.close()


def test_guest_that_is_not_known_yet(tmp_path: Path) -> None:
    local = GuestFamily(None, 64, None, IPv6Address("fe80::1"))
    flows = Flows(tmp_path, GuestNet(None, local, "tap0"))
    [flow] = flows.flows("address=2001:db8:2::1&port=443")
    assert (flow["verdict"], flow["source"]) == ("refused", None)
    assert flow["steps"][0] == "no address of the guest is known yet in this family"
    [flow] = flows.flows("inbound=8080&protocol=tcp&source=2001:db8::1&address=2001:db8:3::1")
    assert (flow["verdict"], flow["why"]) == ("refused", "no guest address known yet")
    flows.bench.close()


def test_loopback_of_the_namespace_leads_out_by_its_own_rules(flows: Flows) -> None:
    [flow] = flows.flows("address=127.0.0.1&port=5432")
    assert (flow["verdict"], flow["path"], flow["rule"]) == ("forwarded", "bypass", "-T 5432")
    assert flow["host"]["destination"] == end("127.0.0.1", 5432)
    [flow] = flows.flows("address=::1&port=5433")
    assert (flow["verdict"], flow["why"]) == (
        "not forwarded", "no rule of the table SPLICE has TCP port 5433")
    [flow] = flows.flows("address=127.0.0.1")
    assert flow["verdict"] == "not forwarded"


def test_inbound_flow_by_link_and_bypass(flows: Flows) -> None:
    local4, local6, far4, far6 = flows.flows("inbound=8080&protocol=tcp")
    assert [each["path"] for each in (local4, local6, far4, far6)] == ["bypass", "bypass", "link", "link"]
    assert {each["rule"] for each in (local4, local6, far4, far6)} == {"-t 8080:80"}
    assert local4["source"] == end("127.0.0.1", 50000)
    assert local4["guest"] == {"source": None, "destination": end("192.0.2.5", 80)}
    assert far4["guest"] == {"source": end("203.0.113.1", 50000), "destination": end("192.0.2.5", 80)}
    assert far6["guest"]["destination"] == end("2001:db8:1::5", 80)
    assert far4["destination"] == end("192.0.2.5", 8080)
    assert far4["steps"][0] == "203.0.113.1 stands for any client elsewhere"
    # A client with the host's own address: the guest has it too, and sees another.
    [flow] = flows.flows("inbound=8080&protocol=tcp&source=192.0.2.5&address=192.0.2.5")
    assert (flow["guest"]["source"], flow["why"]) == (end("192.0.2.1", 50000), "our address")


def test_rule_for_one_address(flows: Flows) -> None:
    found = flows.flows("inbound=8081&protocol=tcp")
    assert [(flow["destination"]["address"], flow["verdict"]) for flow in found] == [
        ("127.0.0.1", "not forwarded"), ("::1", "not forwarded"), ("203.0.113.7", "forwarded"),
        ("2001:db8:1::5", "not forwarded")]  # fmt: skip
    assert found[0]["why"] == "no rule has this address"
    both = [ListenerInfo(6, 8081, ONE, namespace=False), ListenerInfo(6, 8081, tcp(8081), namespace=False)]
    for flows.bench.source.ports in (both, both[::-1]):
        [flow] = flows.flows("inbound=8081&protocol=tcp&address=203.0.113.7&source=203.0.113.9")
        assert flow["rule"] == "-t 203.0.113.7/8081"


@pytest.mark.parametrize(("query", "rule", "why"), [
    ("inbound=9999&protocol=tcp", None, "no rule of the table HOST has TCP port 9999"),
    ("inbound=7003&protocol=tcp", "-t 7000-7005,~7002-7005", "port 7003 is excluded"),
    ("inbound=8&protocol=udp", "-u all,~7,~8", "port 8 is excluded"),
    ("inbound=40000&protocol=udp", "-u all,~7,~8",
     "it leaves out the ports that the kernel gives to clients, such as 40000"),
    ("inbound=3003&protocol=tcp", "-t 3000-3999,auto",
     "it follows bound ports, and port 3003 was not bound when last looked"),
])  # fmt: skip
def test_port_that_is_not_open(flows: Flows, query: str, rule: str | None, why: str) -> None:
    [flow] = flows.flows(query)
    assert (flow["verdict"], flow["rule"], flow["why"]) == ("not forwarded", rule, why)
    assert flow["source"] is None


def test_port_whose_service_is_there_but_that_cannot_be_had(flows: Flows) -> None:
    [follower] = flows.world.direction.followers
    follower.failed[3003] = "Address already in use"
    [flow] = flows.flows("inbound=3003&protocol=tcp")
    assert flow["why"] == "its target is bound, but the port cannot be had: Address already in use"
    flows.world.direction.has_failed = True
    [flow] = flows.flows("inbound=3004&protocol=tcp")
    assert flow["why"] == "which ports are bound cannot be seen"


def test_optional_port_that_could_not_be_had(flows: Flows) -> None:
    table = flows.world.ports._tables["HOST"]
    flows.world.side.close_listener(table.open[MANY].pop(5))
    flows.bench.source.ports = []
    [flow] = flows.flows("inbound=5&protocol=udp")
    assert (flow["rule"], flow["why"][:27]) == ("-u all,~7,~8", "the port could not be had w")


def test_protocol_that_is_off(tmp_path: Path) -> None:
    flows = Flows(tmp_path, abilities=messages.TCP)
    [tcp_flow, udp_flow] = flows.flows("inbound=9999")
    assert tcp_flow["why"] == "no rule of the table HOST has TCP port 9999"
    assert udp_flow["why"] == "UDP is off"
    flows.bench.close()


@pytest.mark.parametrize("query", [
    "address=x", "address=10.0.0.1&port=0", "address=10.0.0.1&port=65536", "inbound=0", "inbound=x",
    "protocol=sctp&address=10.0.0.1", "protocol=icmp&address=10.0.0.1&port=1", "port=80",
    "protocol=tcp&address=10.0.0.1",
    "inbound=80&protocol=icmp", "inbound=80&port=8", "inbound=8080&source=::1&address=127.0.0.1",
    "inbound=8080&source=x", "address=10.0.0.1&colour=red", "protocol=tcp",
])  # fmt: skip
def test_question_that_makes_no_sense(flows: Flows, query: str) -> None:
    assert flows.ask(query)[0] == 400
    assert flows.bench.ask("GET", "/v1/explain")[0] == 400


def test_explanations_follow_the_host(flows: Flows) -> None:
    ip4 = replace(IP4, address=IPv4Address("198.51.100.5"), host_address=IPv4Address("198.51.100.9"),
                  our_address=IPv4Address("198.51.100.1"), map_host_loopback=IPv4Address("198.51.100.1"),
                  map_guest=IPv4Address("198.51.100.3"))
    moved = GuestNet(ip4, IP6, "eth0")
    flows.link_policy.renew(moved)
    flows.bench.api.on_host_changed(moved, [])
    [mapped] = flows.flows("address=198.51.100.3&port=80")
    assert (mapped["why"], mapped["host"]["destination"]) == ("guest map", end("198.51.100.9", 80))
    assert mapped["source"] == end("198.51.100.5", 50000)
    [_, stranger] = [flow for flow in flows.flows("inbound=8080&protocol=tcp")
                     if ":" not in flow["source"]["address"]]
    assert stranger["destination"] == end("198.51.100.9", 8080), "what the host has, not the guest"
    assert stranger["guest"]["destination"] == end("198.51.100.5", 80)


def test_answers_are_what_openapi_says(flows: Flows) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="pip install jsonschema")
    document = json.loads(OPENAPI.read_text(encoding="utf-8"))
    described = document["paths"]["/v1/explain"]["get"]["responses"]["200"]["content"]["application/json"]
    validator = jsonschema.Draft202012Validator(described["schema"] | {"components": document["components"]})
    for query in ("inbound=8080", "inbound=8081", "inbound=9999", "inbound=3003", "address=192.0.2.4&port=53",
                  "address=fe80::9&port=1", "address=0.0.0.0&port=1", "address=127.0.0.1&port=5432",
                  "address=198.51.100.1", "name=x.test"):  # fmt: skip
        validator.validate(flows.ask(query)[1])


RULES = ("deny ads.example", "allow *.example:443", "allow 192.0.2.0/24", "allow *.google",
         "allow dns.quad9.net")


CLOSES_NONE = "that closes no address: one that it has is open where other rules allow it"


def told_of(name: str, *rules: str, allows_rest: bool = False) -> dict[str, Any]:
    return explain_name({"name": name}, Egress(EgressRules(tuple(map(parse_rule_line, rules)), allows_rest)))


@pytest.mark.parametrize(("name", "verdict", "why", "rule"), [
    ("ads.example", "refused", "rule 'deny ads.example'", "deny ads.example"),
    ("ADS.example.", "refused", "rule 'deny ads.example'", "deny ads.example"),
    ("www.example", "allowed", "rule 'allow *.example:443'", "allow *.example:443"),
    ("example", "refused", "no rule allows it", None),
    ("dns.google", "refused", "a server of DNS over HTTPS takes a rule with exactly its name", None),
    ("dns.quad9.net", "allowed", "rule 'allow dns.quad9.net'", "allow dns.quad9.net"),
])
def test_name_is_judged_as_the_forwarder_does(name: str, verdict: str, why: str, rule: str | None) -> None:
    found = told_of(name, *RULES)
    assert [found[each] for each in ("verdict", "why", "rule")] == [verdict, why, rule]


def test_name_that_is_denied_closes_no_address() -> None:
    found = told_of("ads.example", "deny ads.example", allows_rest=True)
    assert found["steps"] == [
        "queries for it are refused and go nowhere, and answers that lead to it by an alias are refused, too",
        CLOSES_NONE + ", or the default, which allows"]
    assert told_of("x.test", *RULES)["steps"] == [
        "queries for it are refused and go nowhere",
        CLOSES_NONE]


def test_name_that_no_rule_is_about() -> None:
    found = told_of("x.test", "deny ads.example", allows_rest=True)
    assert (found["verdict"], found["why"]) == ("allowed", "no rule is about it")
    assert found["steps"][0].endswith("and the default, which allows")
    found = told_of("x.test", "allow 192.0.2.1")
    assert (found["verdict"], found["why"]) == ("allowed", "no rule is about a name")
    assert found["steps"][0].endswith("and the default, which denies")
    assert explain_name({"name": "x.test"}, None)["why"] == "there are no rules of egress"


NAMES = st.sampled_from(["dns.google", "google", "a.google", "ads.example", "www.example", "x.www.example",
                         "b.test"])


@given(st.lists(st.builds(lambda verb, star, name: f"{verb} {star}{name}", st.sampled_from(["allow", "deny"]),
                          st.sampled_from(["", "*."]), NAMES.filter(lambda name: "." in name)), max_size=5),
       st.booleans(), NAMES)
def test_name_is_told_of_as_the_forwarder_judges_it(lines: list[str], allows_rest: bool, name: str) -> None:
    rules = EgressRules(tuple(map(parse_rule_line, lines)), allows_rest)
    is_allowed, place, _ = Egress(rules).decide_name(name)
    bar = NameRules(rules).find_bar(encode_name(name)) if rules.has_names else None
    assert is_allowed == (bar is None)
    if bar is not None:
        assert place == bar.place


@pytest.mark.parametrize("query", ["name=", "name=a..b", "name=x.test&port=80", "name=x.test&protocol=tcp",
                                   f"name={'x.' * 128}"])
def test_name_that_makes_no_sense(flows: Flows, query: str) -> None:
    assert flows.ask(query)[0] == 400


def test_name_is_asked_for_by_http(flows: Flows) -> None:
    status, found = flows.ask("name=x.test")
    assert (status, found["flows"], found["name"]["name"]) == (200, [], "x.test")
