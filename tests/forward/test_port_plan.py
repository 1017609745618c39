"""What becomes of listeners when rules change."""

from __future__ import annotations

from ipaddress import IPv4Address

from hypothesis import given, strategies

from passt.facts.port_rule import PortRule
from passt.forward.port_plan import Move, Plan, Port, plan_change
from passt.forward.rules import OverlapError, RuleTable
from passt.light.values import replace

A, B = IPv4Address("127.0.0.1"), IPv4Address("192.0.2.1")


def tcp(first: int, last: int | None = None, **more: object) -> PortRule:
    rule = PortRule(6, first, last or first, first)
    return replace(rule, **more)


def plan(old: dict[PortRule, list[int]], *new: PortRule) -> Plan:
    return plan_change(old, new)


def test_rule_of_both_tables_is_left_alone_whatever_option_made_it() -> None:
    old = tcp(80, 82, spec="-t 80-82")
    found = plan({old: [80, 81, 82]}, tcp(80, 82))
    assert found == Plan((old,), (), (), (), (), ())


def test_new_rule_opens_and_old_rule_closes_its_ports() -> None:
    found = plan({tcp(80): [80]}, tcp(90, 91))
    assert found.opened == (Port(tcp(90, 91), 90), Port(tcp(90, 91), 91))
    assert found.closed == (Port(tcp(80), 80),)
    assert (found.late, found.clashing, found.moved, found.kept) == ((), (), (), ())


def test_same_place_keeps_its_listener_with_another_target() -> None:
    new = replace(tcp(80, 81), target=8080)
    found = plan({tcp(80): [80]}, new)
    assert found.moved == (Move(tcp(80), new, 80),)
    assert found.opened == (Port(new, 81),)
    assert found.closed == ()


def test_listener_in_the_way_goes_first() -> None:
    found = plan({tcp(80, 81): [80, 81]}, tcp(80, address=A), tcp(82))
    assert found.opened == (Port(tcp(80, address=A), 80), Port(tcp(82), 82))
    assert found.late == (Port(tcp(80, address=A), 80),)
    assert found.clashing == (Port(tcp(80, 81), 80),)
    assert set(found.closed) == {Port(tcp(80, 81), 80), Port(tcp(80, 81), 81)}


def test_other_address_protocol_or_interface_is_not_in_the_way() -> None:
    found = plan({tcp(80, address=A): [80], tcp(81, ifname="a"): [81], replace(tcp(82), proto=17): [82]},
                 tcp(80, address=B), tcp(81, ifname="b"), tcp(82))
    assert found.late == ()
    assert len(found.opened) == len(found.closed) == 3


def test_port_that_was_never_had_is_opened_when_its_rule_changes() -> None:
    old, new = tcp(80, 82, optional=True), tcp(80, 82)
    found = plan({old: [80, 82]}, new)
    assert {move.port for move in found.moved} == {80, 82}
    assert found.opened == (Port(new, 81),)


def test_auto_rule_takes_over_listeners_of_another_and_opens_none() -> None:
    old, new = tcp(1, 65535, auto=True), tcp(1, 32767, auto=True)
    found = plan({old: [80, 40000]}, new)
    assert found.moved == (Move(old, new, 80),)
    assert found.closed == (Port(old, 40000),)
    assert found.opened == ()


def test_fixed_rule_takes_over_a_listener_of_an_auto_rule_but_not_the_other_way() -> None:
    old, new = tcp(1, 100, auto=True), tcp(80, 81)
    assert plan({old: [80]}, new).moved == (Move(old, new, 80),)
    assert plan({new: [80, 81]}, old).closed == (Port(new, 80), Port(new, 81))


RULES = strategies.builds(
    lambda first, n, target, address, ifname, proto: PortRule(
        proto, first, first + n, target, address, ifname),
    strategies.integers(1, 8), strategies.integers(0, 4), strategies.integers(1, 3),
    strategies.sampled_from((None, A, B, IPv4Address(0))), strategies.sampled_from((None, "a", "b")),
    strategies.sampled_from((6, 17)))


def table(rules: list[PortRule]) -> list[PortRule]:
    """Those of *rules* that one table can have."""
    made = RuleTable()
    for rule in rules:
        try:
            made.add([rule])
        except OverlapError:
            continue
    return list(made)


@given(strategies.lists(RULES, max_size=6), strategies.lists(RULES, max_size=6))
def test_plan_makes_the_new_table_of_the_old_one(old: list[PortRule], new: list[PortRule]) -> None:
    before, after = table(old), table(new)
    listening = {rule: list(range(rule.first, rule.last + 1)) for rule in before}
    found = plan_change(listening, after)
    ports = {Port(rule, port) for rule, numbers in listening.items() for port in numbers}
    assert set(found.closed) <= ports
    assert set(found.clashing) <= set(found.closed)
    assert set(found.late) <= set(found.opened)
    ports -= set(found.closed)
    ports -= {Port(move.old, move.port) for move in found.moved}
    ports |= {Port(move.new, move.port) for move in found.moved}
    assert not ports & set(found.opened)
    ports |= set(found.opened)
    assert ports == {Port(rule, port) for rule in after for port in range(rule.first, rule.last + 1)}
    # Nothing that is opened early is in the way of what still listens.
    early = RuleTable()
    early.add([replace(rule, first=port, last=port, target=1) for rule, port in
               {Port(rule, port) for rule, numbers in listening.items() for port in numbers}])
    early.add([replace(rule, first=port, last=port, target=1) for rule, port in found.opened
               if Port(rule, port) not in found.late])
