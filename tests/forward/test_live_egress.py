"""Rules that change while the program runs: all or none, what stays, and which flows end."""

from __future__ import annotations

from ipaddress import ip_address
from socket import IPPROTO_TCP
from typing import TYPE_CHECKING

import pytest

from passt.config.egress_grammar import parse_rule_line
from passt.errors import ConfigError
from passt.facts.egress import EgressRules
from passt.forward.egress import Egress
from passt.forward.live_egress import RECORDS_AT_ONCE, LiveEgress
from passt.forward.pins import Pins
from tests.support.control import Source, make_flow

if TYPE_CHECKING:
    from passt.facts.contracts import FlowDetail

DOOR = (ip_address("127.7.7.7").packed, 40053)


def packed(text: str) -> bytes:
    return ip_address(text).packed


def rules_of(*lines: str) -> EgressRules:
    rules = tuple(map(parse_rule_line, lines))
    return EgressRules(rules, not any(rule.allows for rule in rules))


class Bench:
    """A run with a flow table and a forwarder that are scripted, on virtual time."""

    def __init__(self, *lines: str, doors: tuple[tuple[bytes, int], ...] = (DOOR,)) -> None:
        self.now = 1000.0
        self.source = Source()
        self.doors = list(doors)
        self.takes = True
        self.names: list[EgressRules] = []
        self.told: list[str] = []
        self.n_renewed = 0
        self.egress = Egress(rules_of(*lines), {packed("203.0.113.9")}, pins=Pins(lambda: self.now))
        self.live = LiveEgress(self.egress, self.source, set_names=self.set_names, doors=lambda: self.doors,
                               renew=self.renew, tell=self.told.append)

    def set_names(self, rules: EgressRules) -> bool:
        if self.takes:
            self.names.append(rules)
        return self.takes

    def renew(self) -> None:
        self.n_renewed += 1

    def may(self, address: str, port: int = 443) -> bool:
        return self.egress.decide(IPPROTO_TCP, port, packed(address), packed(address))[0]

    def replace(self, *lines: str, kill: bool = False) -> None:
        self.live.replace(rules_of(*lines), kill=kill)

    def ended(self) -> list[int]:
        """Let time pass until all flows were looked at; return those that were ended."""
        while self.source.timers:
            self.source.fire()
        return [number for number, _ in self.source.closed]


def flow_to(number: int, address: str, port: int = 443, **changes: object) -> FlowDetail:
    return make_flow(number, **{"remote_address": packed(address), "remote_port": port,
                                "peer_address": packed(address), "peer_port": port, **changes})


def test_new_rules_hold_for_new_flows_and_the_data_plane_asks_again() -> None:
    bench = Bench("allow 192.0.2.1")
    bench.replace("allow 192.0.2.2", "allow www.example")
    assert (bench.may("192.0.2.1"), bench.may("192.0.2.2")) == (False, True)
    assert bench.names == [bench.egress.rules]
    assert bench.n_renewed == 1
    assert bench.source.closed == []
    bench.replace("deny 192.0.2.1")
    assert bench.told == ["2 rules of egress in use now, all else is denied",
                          "1 rule of egress in use now, all else is allowed"]


@pytest.mark.parametrize("option", [True, False])
def test_option_to_verify_names_holds_for_all_rules_that_come(option: bool) -> None:
    bench = Bench("allow 192.0.2.1")
    live = LiveEgress(bench.egress, bench.source, set_names=None, doors=lambda: [DOOR], renew=bench.renew,
                      tell=bench.told.append, verifies=option)
    live.replace(rules_of("allow www.example"))
    assert bench.egress.rules.verifies == option


@pytest.mark.parametrize("takes", [True, False])
def test_change_that_cannot_be_made_changes_nothing(takes: bool) -> None:
    bench = Bench("allow 192.0.2.1", doors=() if takes else (DOOR,))
    bench.takes = takes
    before = bench.egress.rules
    with pytest.raises(ConfigError, match="forwarder of names"):
        bench.replace("allow www.example", kill=True)
    assert bench.egress.rules is before
    assert bench.may("192.0.2.1")
    assert (bench.n_renewed, bench.told, bench.ended()) == (0, [], [])


def test_rules_that_stay_keep_counts_and_addresses_of_names() -> None:
    bench = Bench("allow www.example", "deny 192.0.2.1")
    assert bench.egress.pin(0, packed("198.51.100.1"), 60)
    for place in (1, 2, 2):
        bench.egress.refuse(IPPROTO_TCP, 1, packed("192.0.2.1"), place)
    bench.replace("deny 192.0.2.1", "allow *.test", "allow www.example")
    assert bench.egress.refused == [1, 0, 0, 2]
    assert bench.may("198.51.100.1")
    assert not bench.may("198.51.100.2")
    # The rule at the place of before is another one.
    bench.replace("allow other.example", "allow a.example", "allow b.example")
    assert not bench.may("198.51.100.1")


def test_name_that_a_rule_denies_now_keeps_no_address() -> None:
    """A pin does not say for which of the names of a suffix it is."""
    bench = Bench("deny x.example", "allow *.example")
    bench.egress.pin(1, packed("198.51.100.1"), 60)
    bench.replace("allow 192.0.2.1", "deny x.example", "allow *.example")
    assert bench.may("198.51.100.1")
    bench.replace("deny bad.example", "deny x.example", "allow *.example")
    assert not bench.may("198.51.100.1")


def test_name_that_a_rule_denies_now_as_it_comes_first_keeps_no_address() -> None:
    bench = Bench("allow *.example", "allow a.test", "deny x.example")
    bench.egress.pin(0, packed("198.51.100.1"), 60)
    bench.replace("allow *.example", "deny 192.0.2.1", "deny x.example")
    assert bench.may("198.51.100.1")
    bench.replace("deny x.example", "allow *.example")
    assert not bench.may("198.51.100.1")


def test_rule_that_is_there_twice_keeps_its_addresses_in_order() -> None:
    bench = Bench("allow www.example")
    bench.egress.pin(0, packed("198.51.100.1"), 60)
    bench.replace("allow www.example", "allow www.example")
    for place in (0, 1):
        bench.egress.pin(place, packed("198.51.100.2"), 60)
    bench.replace("allow www.example")
    assert bench.may("198.51.100.1")
    bench.now += 1000
    assert bench.egress.pin(0, packed("198.51.100.1"), 60)
    assert bench.egress.pin(0, packed("198.51.100.2"), 60)
    assert bench.may("198.51.100.1")


def test_kill_ends_flows_of_the_guest_that_are_refused_and_no_others() -> None:
    bench = Bench("allow www.example", "deny private")
    bench.egress.pin(0, packed("198.51.100.1"), 60)
    bench.now += 100_000               # what the name has may not be asked for any more
    assert not bench.may("198.51.100.1")
    bench.source.records = [
        flow_to(0, "198.51.100.1"),
        flow_to(1, "198.51.100.2"),
        flow_to(2, "198.51.100.2", inbound=True),
        flow_to(3, "192.0.2.1"),
        # The guest says the gateway, and it is the host; the other way round with the bypass.
        flow_to(4, "192.0.2.1", peer_address=packed("127.0.0.1")),
        flow_to(5, "127.0.0.1", 80, peer_address=packed("127.0.0.1"), peer_port=8080, bypassed=True),
        flow_to(6, "127.0.0.1", 81, peer_address=packed("127.0.0.1"), peer_port=8081, bypassed=True),
        # Queries to the forwarder.
        flow_to(7, "192.0.2.53", 53, peer_address=DOOR[0], peer_port=DOOR[1]),
        flow_to(8, "192.0.2.53", 53),
        *(None for _ in range(3 * RECORDS_AT_ONCE)),
        flow_to(1000, "198.51.100.3")]
    bench.replace("allow www.example", "allow 192.0.2.0/24:443", "allow tcp:host:8080", kill=True)
    assert bench.source.closed
    assert len(bench.source.pages) == 1                # the loop runs in between
    assert bench.ended() == [1, 4, 6, 8, 1000]
    assert bench.told[-1].startswith("5 flows")


def test_newer_change_takes_over_from_an_older_one() -> None:
    bench = Bench("allow 0.0.0.0/0")
    bench.source.records = [flow_to(number, "192.0.2.1") for number in range(3 * RECORDS_AT_ONCE)]
    bench.replace("allow 198.51.100.1", kill=True)
    bench.replace("allow 0.0.0.0/0", kill=True)
    assert len(bench.ended()) == RECORDS_AT_ONCE


def test_rule_that_stood_twice_has_all_pins_of_both() -> None:
    bench = Bench("allow a.example")
    bench.egress.pin(0, packed("198.51.100.1"), 0)
    bench.replace("allow a.example", "allow a.example")
    bench.egress.pin(1, packed("198.51.100.2"), 0)
    bench.replace("allow a.example")
    assert bench.may("198.51.100.1")
    assert bench.may("198.51.100.2")
    bench.now += 1000
    for address in ("198.51.100.1", "198.51.100.2"):
        assert bench.egress.pin(0, packed(address), 0)
        assert bench.may(address)


def test_name_that_a_rule_denies_sooner_now_keeps_no_address() -> None:
    bench = Bench("allow *.example", "deny a.example", "allow b.other")
    bench.egress.pin(0, packed("198.51.100.1"), 3600)
    bench.egress.pin(2, packed("198.51.100.2"), 3600)
    bench.replace("deny a.example", "allow *.example", "allow b.other")
    assert not bench.may("198.51.100.1")
    assert bench.may("198.51.100.2")


def test_rule_that_denies_a_name_behind_another_takes_nothing_from_that() -> None:
    bench = Bench("allow *.example")
    bench.egress.pin(0, packed("198.51.100.1"), 3600)
    bench.replace("allow *.example", "deny a.example")
    assert bench.may("198.51.100.1")
