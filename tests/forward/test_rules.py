"""Which port rules can stand beside each other, and what a table keeps of those that were added."""

from __future__ import annotations

from ipaddress import ip_address
from socket import IPPROTO_TCP as T
from socket import IPPROTO_UDP as U

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passt.config.port_grammar import parse_spec
from passt.config.port_options import make_rules
from passt.facts.port_rule import PortRule
from passt.forward.rules import (
    OverlapError,
    RuleTable,
    auto_rules,
    find_loop,
    find_overlap,
    fixed_ports,
    write_option,
)


def rule(first: int, last: int = 0, *, target: int = 0, proto: int = T, address: str = "", ifname: str = "",
         auto: bool = False) -> PortRule:
    return PortRule(proto, first, last or first, target or first, ip_address(address) if address else None,
                    ifname or None, auto=auto)


@pytest.mark.parametrize(("one", "other", "ports"), [
    (rule(22), rule(22), (22, 22)),
    (rule(22), rule(23), None),
    (rule(10, 20), rule(20, 30), (20, 20)),
    (rule(10, 30), rule(12, 14), (12, 14)),
    (rule(22), rule(22, proto=U), None),
    (rule(22), rule(22, target=2222), (22, 22)),
    (rule(22, address="192.0.2.1"), rule(22, address="192.0.2.2"), None),
    (rule(22, address="192.0.2.1"), rule(22, address="192.0.2.1"), (22, 22)),
    (rule(22, address="192.0.2.1"), rule(22), (22, 22)),
    (rule(22, address="192.0.2.1"), rule(22, address="0.0.0.0"), (22, 22)),
    (rule(22, address="192.0.2.1"), rule(22, address="::"), None),
    (rule(22, address="2001:db8::1"), rule(22, address="::"), (22, 22)),
    (rule(22, ifname="a"), rule(22, ifname="b"), None),
    (rule(22, ifname="a"), rule(22, ifname="a"), (22, 22)),
    (rule(22, ifname="a"), rule(22), (22, 22)),
    (rule(22, ifname="a", address="192.0.2.1"), rule(22, ifname="b", address="192.0.2.1"), None),
])
def test_overlap_is_where_one_socket_would_be_in_the_way_of_the_other(
        one: PortRule, other: PortRule, ports: tuple[int, int] | None) -> None:
    assert find_overlap(one, other) == find_overlap(other, one) == ports


def test_table_keeps_the_order_of_additions() -> None:
    table = RuleTable()
    table.add([rule(80), rule(22)])
    table.add([rule(53, proto=U)])
    assert list(table) == [rule(80), rule(22), rule(53, proto=U)]
    assert len(table) == 3


def test_of_an_addition_that_overlaps_nothing_is_kept() -> None:
    table = RuleTable()
    table.add([rule(20, 30)])
    with pytest.raises(OverlapError) as caught:
        table.add([rule(80), rule(25, 40)])
    error = caught.value
    assert (error.rule, error.other, error.first, error.last) == (rule(25, 40), rule(20, 30), 25, 30)
    table.add([rule(80)])
    assert list(table) == [rule(20, 30), rule(80)]


def test_rule_of_another_address_is_no_overlap_and_keeps_its_ports_after_a_removal() -> None:
    table = RuleTable()
    here, there = rule(22, 30, address="192.0.2.1"), rule(25, address="192.0.2.2")
    table.add([here])
    table.add([there])
    table.remove(here)
    table.add([rule(22, 24), rule(26, 30)])
    with pytest.raises(OverlapError):
        table.add([rule(25)])


def test_ports_of_a_removed_rule_are_free_for_another() -> None:
    table = RuleTable()
    table.add([rule(22, 30), rule(22, proto=U)])
    table.remove(rule(22, 30))
    table.add([rule(25)])
    with pytest.raises(OverlapError):
        table.add([rule(22, proto=U)])
    with pytest.raises(ValueError, match="not in list"):
        table.remove(rule(22, 30))


@given(st.lists(st.tuples(st.sampled_from([T, U]), st.integers(1, 40), st.integers(0, 8),
                          st.sampled_from(["", "192.0.2.1", "0.0.0.0", "::1"]), st.booleans()), max_size=30))
def test_no_two_rules_of_a_table_ever_overlap_and_no_rule_is_refused_without_cause(
        steps: list[tuple[int, int, int, str, bool]]) -> None:
    table, kept = RuleTable(), list[PortRule]()
    for proto, first, extra, address, is_removal in steps:
        if is_removal and kept:
            table.remove(kept.pop(first % len(kept)))
        new = rule(first, first + extra, proto=proto, address=address)
        cause = next((other for other in kept if find_overlap(new, other)), None)
        if cause is None:
            table.add([new])
            kept.append(new)
        else:
            with pytest.raises(OverlapError) as caught:
                table.add([new])
            assert caught.value.other == cause
    assert list(table) == kept


@pytest.mark.parametrize(("there", "back", "port"), [
    (rule(80), rule(80), 80),
    (rule(80, target=8080), rule(8080, target=80), 80),
    (rule(80, target=8080), rule(80, target=8080), None),
    (rule(80, target=8080), rule(8080), None),
    (rule(80), rule(80, proto=U), None),
    (rule(10, 20, target=110), rule(115, 130, target=15), 15),
    (rule(10, 20, target=110), rule(115, 130, target=1), None),
    (rule(10, 20, target=110), rule(110, 120, target=20), 20),
])
def test_loop_is_where_two_rules_lead_to_each_other(
        there: PortRule, back: PortRule, port: int | None) -> None:
    assert find_loop(there, back) == port


def test_rules_are_split_into_those_that_follow_bound_ports_and_fixed_ones() -> None:
    rules = [rule(22, 24), rule(1, 65535, auto=True), rule(53, proto=U), rule(80)]
    assert auto_rules(rules) == [rules[1]]
    assert fixed_ports(rules, T) == {22, 23, 24, 80}
    assert fixed_ports(rules, U) == {53}


@pytest.mark.parametrize("option", [
    "-t 22", "-u 53", "-t 80:8080", "-t 20-22:30-32", "-t %lo/22", "-t 192.0.2.1/22", "-t [::1]%eth0/80:8080",
    "-t 0.0.0.0/80:192.0.2.9/80", "-u [::]/5-6:[2001:db8::9]/15-16", "-T 80:8080"])  # fmt: skip
def test_option_of_a_rule_makes_that_rule(option: str) -> None:
    letter, _, text = option.partition(" ")
    proto, is_host = {"t": T, "u": U}[letter[1].lower()], letter[1].islower()
    (made,) = make_rules(parse_spec(text, prefix=is_host), proto, letter)
    assert write_option(made.bare(), is_host=is_host) == option
