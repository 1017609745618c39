"""Port rules that change while the engine runs: a change is carried out as a whole, or not at all.

Theory of operation. `forward.port_plan` says what becomes of each listener. All new listeners that nothing
old is in the way of are opened first; if one cannot be had they are closed again, and nothing has happened.
Then old listeners that are in the way go, the rest is opened, and what stays is told its new rule; at last
the remaining old ones are closed. Should a listener fail that had to wait for an old one, the old ones are
opened again. Another program may have taken their port by then, which is the one way in which a change can
fail and leave something behind; it is told.

A port of a rule that is not optional fails the change; of an optional specification, such as `all`, one port
has to be had. Optional rules leave the descriptors that connections need alone.

The loop stands still meanwhile: for 0.1 ms with one port, a second with all of them. No path is opened and no
system call made that the sandbox forbids, so that what would take one (which program has a port) is not told.
"""

from __future__ import annotations

import errno

from passt import log
from passt.facts.contracts import HOST_TABLE, MAX_LISTENERS, MAX_RULES, NAMESPACE_TABLE, PortChange
from passt.forward.port_plan import Port, plan_change
from passt.forward.rules import PROTOCOLS, describe_rule, find_loop, find_overlap
from passt.light.values import replace

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from passt.facts.contracts import ListenerSide
    from passt.facts.port_rule import PortRule
    from passt.forward.auto import Direction
    from passt.forward.port_plan import Plan

    Handles = dict[PortRule, dict[int, object]]

MAX_LINES = 64                    # of faults or notes of one change, for the caller
MAX_PLANNED = 1 << 18             # ports of one change; "all" of both protocols and families are 150,000
_NEVER_OPEN = ("the port could not be had when the rule came: another program had it, or the limit of open"
               " files left no room")
_NO_DESCRIPTOR = frozenset((errno.EMFILE, errno.ENFILE))


class LiveTable:
    """One table: its *rules* in order, the *side* that opens its listeners, what is *open* of fixed rules.

    *direction* follows bound ports for the `auto` rules, None if they cannot be seen. *refuse* says why a
    rule cannot be had on this side, with an empty text if it can.
    """

    __slots__ = ("direction", "name", "open", "refuse", "rules", "side")

    def __init__(self, name: str, rules: Sequence[PortRule], side: ListenerSide, handles: Handles,
                 direction: Direction | None, refuse: Callable[[PortRule], str]) -> None:
        self.name = name
        self.rules = tuple(rules)
        self.side = side
        self.open = handles
        self.direction = direction
        self.refuse = refuse

    def handles(self) -> Handles:
        """Return the handles of all listeners, by rule and port; each rule is there."""
        found = {rule: self.open.get(rule, {}) for rule in self.rules}
        if self.direction is not None:
            found.update(self.direction.held())
        return found

    def name_rule(self, rule: PortRule) -> str:
        """Write *rule* as clients see it: the namespace listens on loopback alone."""
        return describe_rule(replace(rule, ifname="lo") if self.name == NAMESPACE_TABLE else rule)


class LivePorts:
    """The tables of a run; a `contracts.PortTables`.

    *spare* tells how many descriptors listeners of optional rules may still take. *low_ports* is the first
    port that needs no right, where it is known. *on_change* is called after each change. With
    *loopback_to_loopback* (--host-lo-to-ns-lo) the rules of both tables may not lead to each other.
    """

    def __init__(self, tables: Sequence[LiveTable], spare: Callable[[], int], low_ports: int | None = None,
                 on_change: Callable[[], None] | None = None, *, loopback_to_loopback: bool = False) -> None:
        self._tables = {table.name: table for table in tables}
        self._spare = spare
        self._low_ports = low_ports
        self._on_change = on_change
        self._can_loop = loopback_to_loopback

    def names(self) -> tuple[str, ...]:
        """List the tables."""
        return tuple(self._tables)

    def rules(self, name: str) -> tuple[PortRule, ...]:
        """Return the rules of a table in their order."""
        return self._tables[name].rules

    def can_follow(self, name: str) -> bool:
        """Tell whether rules of the table may be `auto`."""
        return self._tables[name].direction is not None

    def count_open(self, name: str) -> dict[PortRule, int]:
        """Return on how many ports each rule of a table listens now."""
        return {rule: len(ports) for rule, ports in self._tables[name].handles().items()}

    def explain_closed(self, name: str, proto: int, port: int) -> list[tuple[PortRule, str]]:
        """Return the rules of a table that have *port* but do not listen on it now, and why not."""
        table = self._tables[name]
        found = []
        for rule, handles in table.handles().items():
            if rule.proto != proto or not rule.first <= port <= rule.last or port in handles:
                continue
            if rule.auto and table.direction is not None:
                found.append((rule, table.direction.explain_closed(rule, port)))
            else:
                found.append((rule, _NEVER_OPEN))
        return found

    def replace(self, tables: Mapping[str, Sequence[PortRule]]) -> PortChange:
        """Make the rules of the tables that are named those given: all of it, or nothing."""
        faults = [fault for name, rules in tables.items() for fault in self._find_faults(name, rules)]
        if not faults:
            faults = self._count(tables) or self._find_loops(tables)
        if faults:
            return PortChange(faults=tuple(faults[:MAX_LINES]))
        change = _Change([_TableChange(self._tables[name], rules) for name, rules in tables.items()],
                         self._spare, self._low_ports)
        outcome = change.carry_out()
        _tell(outcome)
        if self._on_change is not None and not outcome.faults:
            self._on_change()
        return outcome

    def _count(self, tables: Mapping[str, Sequence[PortRule]]) -> list[str]:
        """Refuse what is too much, before each port is looked at."""
        fixed = [rule for name in self._tables for rule in tables.get(name, self._tables[name].rules)
                 if not rule.auto]
        needed = [rule for rule in fixed if not rule.optional]
        for rules, limit, what in ((needed, MAX_LISTENERS, "forwarded"),
                                   (fixed, MAX_PLANNED, "tried at once")):
            n_ports = sum(rule.last - rule.first + 1 for rule in rules)
            if n_ports > limit:
                return [f"{n_ports} ports are more than the {limit} that can be {what}"]
        return []

    def _find_loops(self, tables: Mapping[str, Sequence[PortRule]]) -> list[str]:
        """Refuse new rules that lead to one of the other table which leads back, as a start does."""
        if not self._can_loop or NAMESPACE_TABLE not in self._tables:
            return []
        inward, outward = [tables.get(name, self._tables[name].rules)
                           for name in (HOST_TABLE, NAMESPACE_TABLE)]
        here = {rule.bare() for table in self._tables.values() for rule in table.rules}
        faults = []
        for rule in inward:
            is_new = rule.bare() not in here
            for back in outward:
                # The rules of the start were looked at then. `auto` ones leave out where the others listen.
                if rule.auto or back.auto or not (is_new or back.bare() not in here):
                    continue
                port = find_loop(rule, back)
                if port is not None:
                    faults.append(f"{describe_rule(rule)}: with --host-lo-to-ns-lo it and"
                                  f" {self._tables[NAMESPACE_TABLE].name_rule(back)} lead port {port} to each"
                                  " other for ever")
        return faults

    def _find_faults(self, name: str, rules: Sequence[PortRule]) -> list[str]:
        """Look at the rules of one table as far as nothing has to be opened for it."""
        table = self._tables.get(name)
        if table is None:
            return [f"there is no table {name} here; those that there are: {', '.join(self._tables)}"]
        if len(rules) > MAX_RULES:
            return [f"{name}: {len(rules)} rules; {MAX_RULES} is the limit"]
        # Rules of one start may overlap: UDP ports that go with those of -t, and all that are followed.
        here = {rule.bare() for rule in table.rules}
        seen = {rule for rule in (rule.bare() for rule in rules) if rule in here}
        faults = []
        for rule in rules:
            if rule.bare() in here:
                here.remove(rule.bare())       # a second time it is a new one
                continue
            why = table.refuse(rule)
            if rule.auto and table.direction is None:
                why = "bound ports can be followed by pasta only, and this is passt"
            if why:
                faults.append(f"{table.name_rule(rule)}: {why}")
                continue
            for other in seen:
                if find_overlap(rule, other) is not None:
                    faults.append(f"{table.name_rule(rule)}: conflicts with {table.name_rule(other)}")
                    break
            seen.add(rule.bare())
        return faults


class _TableChange:
    """The change of one table: its plan, and what was opened so far."""

    __slots__ = ("closed", "failed", "handles", "late", "opened", "plan", "rules", "table")

    def __init__(self, table: LiveTable, rules: Sequence[PortRule]) -> None:
        self.table = table
        self.handles = table.handles()
        self.plan: Plan = plan_change({rule: list(ports) for rule, ports in self.handles.items()}, rules)
        kept = {rule.bare(): rule for rule in self.plan.kept}
        self.rules = [kept.get(rule.bare(), rule) for rule in rules]
        self.late = frozenset(self.plan.late)
        self.opened: dict[Port, object] = {}
        self.closed: list[Port] = []           # those that were in the way
        self.failed: dict[PortRule, str] = {}  # new optional rules -> the last port that could not be had


class _Change:
    """One change of some tables."""

    def __init__(self, changes: Sequence[_TableChange], spare: Callable[[], int],
                 low_ports: int | None) -> None:
        self._changes = changes
        self._spare = spare
        self._low_ports = low_ports
        self._faults: list[str] = []
        self._notes: list[str] = []
        self._no_room: list[str] = []                  # a line for each rule that there was no room for

    def carry_out(self) -> PortChange:
        """Open, and if that works close; else undo. Logs nothing."""
        for change in self._changes:
            self._open(change, [port for port in change.plan.opened if port not in change.late])
        if not self._faults:
            for change in self._changes:
                self._close_clashing(change)
                self._open(change, change.plan.late)
        self._check_optional()
        if self._faults:
            n_lost = sum([self._undo(change) for change in self._changes])
            return PortChange(faults=_shorten(self._faults), n_lost=n_lost)
        n_opened = sum(len(change.opened) for change in self._changes)
        n_closed = sum(len(change.plan.closed) for change in self._changes)
        for change in self._changes:
            _finish(change)
        return PortChange(notes=_shorten(self._notes), n_opened=n_opened, n_closed=n_closed)

    def _open(self, change: _TableChange, ports: Sequence[Port]) -> None:
        n_cut: dict[PortRule, int] = {}
        is_full = False
        for each in ports:
            rule, port = each
            # Asked each time: only the side knows how many descriptors its listeners take.
            if rule.optional and (is_full or self._spare() <= 0):
                n_cut[rule] = n_cut.get(rule, 0) + 1
                continue
            try:
                change.opened[each] = change.table.side.open_listener(rule, port)
            except OSError as error:
                is_full = is_full or error.errno in _NO_DESCRIPTOR
                line = self._explain(change.table, each, error)
                if not rule.optional:
                    self._faults.append(line)
                    if is_full:
                        return
                elif is_full:
                    n_cut[rule] = n_cut.get(rule, 0) + 1
                else:
                    change.failed[rule] = line
                    self._notes.append(line)
        for rule, n in n_cut.items():
            line = (f"{change.table.name_rule(rule)}: {n} ports are not forwarded, as the limit of open"
                    " files leaves no room for them")
            self._no_room.append(line)
            self._notes.append(line)

    def _explain(self, table: LiveTable, failed: Port, error: OSError) -> str:
        rule, port = failed
        place = f"{table.name}: {PROTOCOLS[rule.proto]} port {port}"
        if rule.address is not None:
            place += f" of {rule.address}"
        if rule.ifname is not None:
            place += f" on {rule.ifname}"
        text = f"{place}: cannot listen: {error.strerror or error}"
        if error.errno == errno.EACCES and self._low_ports is not None and port < self._low_ports:
            text += (f"; ports below {self._low_ports} are closed to users"
                     " (net.ipv4.ip_unprivileged_port_start)")
        elif error.errno in _NO_DESCRIPTOR:
            text += "; the limit of open files is reached"
        return text

    def _close_clashing(self, change: _TableChange) -> None:
        for each in change.plan.clashing:
            change.table.side.close_listener(change.handles[each.rule].pop(each.port))
            change.closed.append(each)

    def _check_optional(self) -> None:
        """Fail if no port of a new optional rule could be had, or there was no room for any at all."""
        rules = [rule for change in self._changes for rule in (*(port.rule for port in change.opened),
                                                               *(move.new for move in change.plan.moved))]
        if self._no_room and not any(rule.optional for rule in rules):
            self._faults += self._no_room
        for change in self._changes:
            served = {port.rule for port in change.opened} | {move.new for move in change.plan.moved}
            for rule, last in change.failed.items():
                if rule not in served:
                    self._faults.append(f"{change.table.name_rule(rule)}: none of its ports could be had; the"
                                        f" last one: {last}")

    def _undo(self, change: _TableChange) -> int:
        """Put back what was there; return how many ports could not be had again."""
        n_lost = 0
        for handle in change.opened.values():
            change.table.side.close_listener(handle)
        for each in change.closed:
            try:
                change.handles[each.rule][each.port] = change.table.side.open_listener(each.rule, each.port)
            except OSError as error:
                n_lost += 1
                # In front: lines that are too many are left out at the end.
                self._faults.insert(0, f"{self._explain(change.table, each, error)}; it was forwarded before,"
                                    " and is not any more")
        if change.closed:
            _settle(change.table, change.table.rules, change.handles)
        return n_lost


def _finish(change: _TableChange) -> None:
    """Give what stays its new rules and close what goes; nothing fails from here on."""
    side = change.table.side
    handles: Handles = {rule: change.handles.get(rule, {}) for rule in change.rules}
    for move in change.plan.moved:
        handle = change.handles[move.old].pop(move.port)
        side.change_rule(handle, move.new)
        handles[move.new][move.port] = handle
    for port, handle in change.opened.items():
        handles[port.rule][port.port] = handle
    for each in change.plan.closed:
        if each not in change.closed:
            side.close_listener(change.handles[each.rule].pop(each.port))
    _settle(change.table, change.rules, handles)


def _settle(table: LiveTable, rules: Sequence[PortRule], handles: Handles) -> None:
    """Note what a table has now."""
    table.rules = tuple(rules)
    table.open = {rule: ports for rule, ports in handles.items() if not rule.auto}
    if table.direction is not None:
        table.direction.change_rules(rules, {rule: ports for rule, ports in handles.items() if rule.auto})


def _shorten(lines: Sequence[str]) -> tuple[str, ...]:
    if len(lines) <= MAX_LINES:
        return tuple(lines)
    return (*lines[:MAX_LINES - 1], f"and {len(lines) - MAX_LINES + 1} more")


def _tell(outcome: PortChange) -> None:
    """Log what came of a change."""
    for line in (*outcome.faults, *outcome.notes):
        log.limited(log.WARNING, "ports", line)
    if not outcome.faults:
        log.limited(log.INFO, "ports-done", f"port rules changed: {outcome.n_opened} ports opened,"
                    f" {outcome.n_closed} closed")


def refuse_disabled(versions: AbstractSet[int], protocols: AbstractSet[int]) -> Callable[[PortRule], str]:
    """Return what refuses rules of other IP *versions* or *protocols*, for `LiveTable`."""
    def refuse(rule: PortRule) -> str:
        if rule.proto not in protocols:
            return f"{PROTOCOLS[rule.proto]} is off"
        if rule.address is not None and rule.address.version not in versions:
            return f"IPv{rule.address.version} is off, or has no address here"
        return ""

    return refuse


def refuse_inside(refuse: Callable[[PortRule], str]) -> Callable[[PortRule], str]:
    """Return what refuses what *refuse* does, and rules that the namespace's loopback cannot serve."""
    def refuse_more(rule: PortRule) -> str:
        if rule.ifname is not None:
            return "the namespace listens on its loopback device only"
        if rule.address is not None and not (rule.address.is_unspecified or rule.address.is_loopback):
            return "the namespace listens on loopback addresses only"
        if rule.target_address is not None:
            return "ports of the namespace lead to the host's loopback only"
        return refuse(rule)

    return refuse_more
