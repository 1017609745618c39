"""What becomes of each listener when the rules of a table change. Pure.

Theory of operation. A rule that is in the old table and in the new one, word for word, is left alone with its
listeners. Of the others each port is looked at. What the kernel tells listeners apart by is their place:
protocol, address, interface and port. At a place that both tables have, the listener stays and serves the new
rule. A place that only the new table has is opened, one that only the old table has is closed.

New listeners are opened before old ones are closed, so that a change that fails has changed nothing. That
cannot be done where a listener that will be closed is in the way of a new one, as that of any address is in
the way of one of a single address (ip(7)): there the old one has to go first, and comes back if the change
fails. `Plan.clashing` has these.

Listeners of `auto` rules come and go by themselves. Those of an `auto` rule that goes are given to a new
rule as any others; a new `auto` rule opens none, but takes over what is there.
"""

from __future__ import annotations

from passt.forward.rules import find_overlap
from passt.light.values import NamedTuple

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from passt.facts.port_rule import PortRule

    Place = tuple[int, object, str | None, int]


class Port(NamedTuple):
    """One port of a rule."""

    rule: PortRule
    port: int


class Move(NamedTuple):
    """The listener that *old* has at *port* serves *new*."""

    old: PortRule
    new: PortRule
    port: int


class Plan(NamedTuple):
    """What to do with the listeners of one table.

    *kept* are the rules that are not touched, as they were in the old table. *opened* are all new listeners;
    those in *late* have to wait until *clashing*, some of the *closed*, are gone.
    """

    kept: tuple[PortRule, ...]
    opened: tuple[Port, ...]
    late: tuple[Port, ...]
    moved: tuple[Move, ...]
    closed: tuple[Port, ...]
    clashing: tuple[Port, ...]


def plan_change(old: Mapping[PortRule, Sequence[int]], new: Iterable[PortRule]) -> Plan:
    """Compare tables: *old* has its rules with the ports on which they listen, *new* does not overlap."""
    rules = list(new)
    wanted = {rule.bare() for rule in rules}
    kept = tuple([rule for rule in old if rule.bare() in wanted])
    untouched = {rule.bare() for rule in kept}
    left = {_place(rule, port): Port(rule, port)
            for rule, ports in old.items() if rule.bare() not in untouched for port in ports}
    opened: list[Port] = []
    moved: list[Move] = []
    for rule in rules:
        if rule.bare() in untouched:
            continue
        if rule.auto:
            moved += _take_over(rule, left)
            continue
        for port in range(rule.first, rule.last + 1):
            before = left.pop(_place(rule, port), None)
            if before is None:
                opened.append(Port(rule, port))
            else:
                moved.append(Move(before.rule, rule, port))
    late, clashing = _find_clashes(opened, left.values())
    return Plan(kept, tuple(opened), late, tuple(moved), tuple(left.values()), clashing)


def _place(rule: PortRule, port: int) -> Place:
    return rule.proto, rule.address, rule.ifname, port


def _take_over(rule: PortRule, left: dict[Place, Port]) -> list[Move]:
    """Move what is *left* of other `auto` rules at places of *rule*: it closes by itself what it needs not.

    A listener of a fixed rule is closed: nobody knows whether there is a service behind it.
    """
    moves = [Move(before.rule, rule, before.port) for place, before in left.items()
             if before.rule.auto and rule.first <= before.port <= rule.last
             and place == _place(rule, before.port)]
    for move in moves:
        del left[_place(rule, move.port)]
    return moves


def _find_clashes(opened: Sequence[Port], closed: Iterable[Port]
                  ) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Return those of *opened* that one of *closed* is in the way of, and these."""
    going: dict[tuple[int, int], list[Port]] = {}
    for each in closed:
        going.setdefault((each.rule.proto, each.port), []).append(each)
    late: list[Port] = []
    clashing: dict[Port, None] = {}
    for one in opened:
        ways = [each for each in going.get((one.rule.proto, one.port), ())
                if find_overlap(one.rule, each.rule) is not None]
        if ways:
            late.append(one)
            clashing.update(dict.fromkeys(ways))
    return tuple(late), tuple(clashing)
