"""What a run needed, as rules: names and addresses of its flows, and nothing else that a guest writes."""

from __future__ import annotations

from ipaddress import ip_address
from socket import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP

import pytest

from passt.config.egress_grammar import parse_egress_rule
from passt.config.policy_file import MAX_LEN, parse_policy
from passt.errors import ConfigError
from passt.facts.contracts import FORWARDER
from passt.facts.egress import MAX_EGRESS_RULES, EgressRules
from passt.forward import learning as module
from passt.forward.egress import Egress
from passt.forward.learning import UNFINISHED, Learning

FAR, OTHER, INNER, FAR6 = (ip_address(text).packed
                           for text in ("192.0.2.1", "192.0.2.2", "10.0.0.1", "2001:db8::1"))


def is_rule(text: str) -> bool:
    try:
        parse_egress_rule(text, allows=True)
    except ConfigError:
        return False
    return True


class Run:
    """A run that is learned, and the file that comes of it."""

    def __init__(self) -> None:
        self.learning = Learning(lambda address: address == INNER)

    def flow(self, address: bytes, port: int = 443, proto: int = IPPROTO_TCP,
             asked: bytes | None = None) -> Run:
        self.learning.note(proto, port, address, address if asked is None else asked)
        return self

    def name(self, name: str, address: bytes = FAR) -> Run:
        self.learning.note_name(name, address)
        return self

    def text(self) -> str:
        return self.learning.text(is_rule)

    def parsed(self) -> EgressRules:
        """Read the file as --policy does."""
        return parse_policy(self.text().encode())

    def rules(self) -> list[str]:
        rules = self.parsed()
        assert not rules.allows_rest
        return [rule.text for rule in rules.rules]


def test_run_without_flows_allows_nothing() -> None:
    assert Run().rules() == []
    assert "NOT ALL" not in Run().text()


def test_address_without_a_name_gets_a_rule() -> None:
    run = Run().flow(FAR).flow(FAR, 22).flow(FAR, 53, IPPROTO_UDP).flow(FAR, 9, IPPROTO_ICMP).flow(FAR6)
    run.flow(FAR6, 7, IPPROTO_ICMPV6)
    assert run.rules() == [
        "allow icmp:192.0.2.1", "allow tcp:192.0.2.1:22,443", "allow udp:192.0.2.1:53",
        "allow icmp:2001:db8::1", "allow tcp:[2001:db8::1]:443"]


def test_ports_that_follow_each_other_are_a_range() -> None:
    run = Run()
    for port in (80, 8000, 8001, 8002, 65535, 1):
        run.flow(FAR, port)
    assert run.rules() == ["allow tcp:192.0.2.1:1,80,8000-8002,65535"]


def test_name_of_the_address_gets_the_rule_in_its_place() -> None:
    """Asked for before or after; all names of it, as nobody knows which was meant."""
    run = Run().name("WWW.example").flow(FAR).name("late.example").flow(OTHER, 80)
    assert run.rules() == ["allow tcp:late.example:443", "allow tcp:www.example:443",
                           "allow tcp:192.0.2.2:80"]


def test_name_of_one_label_is_written_as_one() -> None:
    assert Run().name("intranet").flow(FAR).rules() == ["allow tcp:intranet.:443"]


def test_name_without_a_flow_stands_in_a_comment() -> None:
    run = Run().name("www.example").flow(FAR).name("idle.example", OTHER).name("_http._tcp.example", b"")
    assert run.rules() == ["allow tcp:www.example:443"]
    assert run.text().splitlines()[-2:] == ["#   _http._tcp.example", "#   idle.example"]


def test_forwarder_alone_needs_its_word() -> None:
    run = Run().flow(FORWARDER, 53, IPPROTO_UDP, asked=FAR).name("idle.example", OTHER)
    assert run.rules() == ["allow dns"]
    run.name("www.example").flow(FAR)
    assert run.rules() == ["allow tcp:www.example:443"]


def test_inner_address_of_a_name_needs_a_rule_of_its_own() -> None:
    """The name could not lead there by itself; one that has two addresses is answered with both."""
    assert Run().name("nas.example", INNER).flow(INNER).rules() == [
        "allow tcp:nas.example:443", "allow tcp:10.0.0.1:443"]
    assert Run().name("nas.example", INNER).name("nas.example").flow(FAR).rules() == [
        "allow tcp:nas.example:443", "allow tcp:10.0.0.1:443"]
    assert Run().name("nas.example", INNER).flow(FAR).rules() == ["allow tcp:192.0.2.1:443"]


def test_address_that_means_another_one_needs_both() -> None:
    """The gateway's, for one, means the host's loopback."""
    loopback = bytes((127, 0, 0, 1))
    run = Run().name("gateway.example").flow(loopback, asked=FAR)
    assert run.rules() == ["allow tcp:gateway.example:443", "allow tcp:127.0.0.1:443"]


@pytest.mark.parametrize("name", ['x", "allow 0.0.0.0/0', "a\nb.example", "*.example", "10.0.0.1", "a.1",
                                  "\\046", "ä.example", "x y.example"])
def test_name_that_is_none_is_not_written(name: str) -> None:
    run = Run().name(name).flow(FAR)
    assert run.rules() == ["allow tcp:192.0.2.1:443"]
    assert "NOT ALL IS HERE: 1 flows and names" in run.text()
    assert name not in run.text().replace("192.0.2.1", "")


@pytest.mark.parametrize("name", [".", "", "a..example", "-", "x" * 64 + ".example"])
def test_name_that_makes_no_rule_is_not_one(name: str) -> None:
    rules = Run().name(name).flow(FAR).rules()
    assert all(is_rule(rule.removeprefix("allow ")) for rule in rules)


def test_memory_and_file_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FLOWS", 2)
    monkeypatch.setattr(module, "MAX_NAMES", 2)
    run = Run()
    for i in range(5):
        run.flow(bytes((192, 0, 2, i))).name(f"n{i}.example", bytes((192, 0, 2, i)))
        run.flow(bytes((192, 0, 2, 0)))
    assert run.rules() == ["allow tcp:n0.example:443", "allow tcp:n1.example:443"]
    assert "NOT ALL IS HERE: 6 flows and names" in run.text()


@pytest.mark.parametrize("step", [1, 2])
def test_file_can_always_be_read(step: int) -> None:
    """As many addresses, and as many ranges of ports, as a run can have."""
    run = Run()
    for i in range(module.MAX_FLOWS):
        if step == 1:
            run.flow((1 << 24 | i).to_bytes(4, "big"))
            run.name("x" * 60 + f".{'y' * 60}.{'z' * 60}.n{i}", (1 << 24 | i).to_bytes(4, "big"))
        else:
            run.flow(FAR, 1 + step * i)
    text = run.text().encode()
    assert len(text) < MAX_LEN
    rules = parse_policy(text)
    assert 0 < len(rules.rules) < MAX_EGRESS_RULES
    assert ("NOT ALL" in text.decode()) == (step == 1)


def test_rules_allow_what_was_noted() -> None:
    run = Run().flow(FAR, 22).flow(FAR6, 53, IPPROTO_UDP).flow(OTHER, 0, IPPROTO_ICMP)
    egress = Egress(run.parsed())
    for proto, port, address in ((IPPROTO_TCP, 22, FAR), (IPPROTO_UDP, 53, FAR6), (IPPROTO_ICMP, 3, OTHER)):
        assert egress.decide(proto, port, address, address)[0]
    for proto, port, address in ((IPPROTO_TCP, 23, FAR), (IPPROTO_TCP, 53, FAR6), (IPPROTO_UDP, 22, FAR),
                                 (IPPROTO_TCP, 22, OTHER)):
        assert not egress.decide(proto, port, address, address)[0]


def test_unfinished_file_opens_nothing() -> None:
    assert parse_policy(UNFINISHED) == EgressRules((), allows_rest=False)
