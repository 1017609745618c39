"""The new tables: what the steps of a change make of those that a program has. Pure.

A step names an option and a port specification, as pesto and `passtctl ports` take them, or a rule that is
whole already, as programs write it. Who asks by the socket of --conf-path makes the draft at its own end; for
who asks by --control we make it.
"""

from __future__ import annotations

from passt.config.port_grammar import parse_spec
from passt.config.port_options import PORT_OPTIONS, make_rules
from passt.errors import ConfigError
from passt.facts.contracts import HOST_TABLE, MAX_RULES, NAMESPACE_TABLE
from passt.forward.rules import PROTOCOLS, describe_rule, find_overlap
from passt.light.values import NamedTuple, replace
from passt.steer import messages
from passt.steer.messages import NewTable

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from passt.facts.port_rule import PortRule
    from passt.steer.messages import Table

    # Cuts the ephemeral ports of this host out of rules that leave them out.
    Cut = Callable[[Iterable[PortRule]], list[PortRule]]

ADD, DELETE, REPLACE, CLEAR = "add", "delete", "replace", "clear"
_BITS = {"TCP": messages.TCP, "UDP": messages.UDP}


class Step(NamedTuple):
    """One step: *what* is one of the words above, *option* a key of `PORT_OPTIONS` or "clear".

    *value* is the port specification, or the table to clear; *label* names the option as the user did.
    """

    what: str
    option: str
    value: str
    label: str


class ConflictError(ConfigError):
    """The step makes sense, but not with the rules that there are."""


class Draft:
    """The tables of a program, changed by `apply`; *cut* is `host.listeners.leave_out_ephemeral`."""

    def __init__(self, tables: Iterable[Table], cut: Cut) -> None:
        self._facts = {table.name: table for table in tables}
        self._rules = {table.name: [_normal(rule) for rule in table.rules] for table in tables}
        self._cut = cut
        self._replaced: set[str] = set()

    def apply(self, step: Step) -> None:
        """Carry out one *step*. Raises ConfigError, which names the option and the rule."""
        try:
            self._carry_out(step)
        except ConfigError as error:
            raise type(error)(f"{step.label}: {error}") from None

    def add(self, name: str, rule: PortRule) -> None:
        """Add one *rule* to the table *name*. Raises ConfigError."""
        self._add(name, self._check(self._find(name), rule))

    def delete(self, name: str, rule: PortRule) -> None:
        """Delete one *rule* from the table *name*. Raises ConfigError."""
        self._delete_one(name, self._check(self._find(name), rule))

    def empty(self, name: str) -> None:
        """Delete all rules of the table *name*. Raises ConfigError."""
        self._find(name)
        self._rules[name] = []

    def tables(self) -> tuple[NewTable, ...]:
        """Return all tables, as an answer has them."""
        return tuple([NewTable(table.id, tuple(self._rules[name])) for name, table in self._facts.items()])

    def shown(self) -> list[tuple[str, list[PortRule]]]:
        """Return the names of the tables and their rules."""
        return list(self._rules.items())

    def is_done_in(self, tables: Iterable[Table]) -> bool:
        """Tell whether *tables* have all that this draft adds, and nothing that it deletes.

        What others have changed since does not matter.
        """
        found = {table.name: {_normal(rule) for rule in table.rules} for table in tables}
        for name, table in self._facts.items():
            before, after = {_normal(rule) for rule in table.rules}, set(self._rules[name])
            if name not in found or after - before - found[name] or (before - after) & found[name]:
                return False
        return True

    def _carry_out(self, step: Step) -> None:
        if step.what == CLEAR:
            self.empty(step.value)
            return
        _, proto, is_host = PORT_OPTIONS[step.option]
        name = HOST_TABLE if is_host else NAMESPACE_TABLE
        table = self._find(name)
        self._need(table, proto)
        if step.what == REPLACE and name not in self._replaced:
            self._replaced.add(name)
            self._rules[name] = []
        if step.value == "none":
            self._check_none(name, proto)
        elif step.what == DELETE:
            self._delete(step, table)
        else:
            for rule in self._make(step, table):
                self._add(name, rule)

    def _find(self, name: str) -> Table:
        table = self._facts.get(name)
        if table is None:
            raise ConfigError(f"this program has no table {name}, only {', '.join(self._facts)}")
        return table

    def _need(self, table: Table, proto: int) -> None:
        if not table.abilities & _BITS[PROTOCOLS[proto]]:
            raise ConfigError(f"{PROTOCOLS[proto]} is off in this program")

    def _check(self, table: Table, rule: PortRule) -> PortRule:
        """Write *rule*, which `messages.find_fault` finds no fault with, as *table* knows it."""
        self._need(table, rule.proto)
        if rule.auto and not table.abilities & messages.FOLLOWS:
            raise ConfigError(f"{describe_rule(rule)}: only pasta sees which ports are bound inside")
        return self._fit(rule, table)

    def _check_none(self, name: str, proto: int) -> None:
        for rule in self._rules[name]:
            if rule.proto == proto:
                raise ConflictError(f"'none' contradicts a rule that is there: {describe_rule(rule)}")

    def _make(self, step: Step, table: Table, *, follows_all: bool = False) -> list[PortRule]:
        """Make the rules of a specification as *table* can have them.

        `auto` alone leaves out ephemeral ports, unless *follows_all*.
        """
        letter, proto, is_host = PORT_OPTIONS[step.option]
        spec = parse_spec(step.value, prefix=is_host, at_start=False)
        if spec.is_auto and not table.abilities & messages.FOLLOWS:
            raise ConfigError(f"'{step.value}': only pasta sees which ports are bound inside")
        made = make_rules(spec, proto, letter)
        if not follows_all:
            # Rules without a range of their own are optional.
            made = [replace(rule, skips_ephemeral=True) if rule.auto and rule.optional else rule
                    for rule in made]
        rules = [self._fit(rule, table) for rule in self._cut(made)]
        if not rules:
            raise ConfigError(f"'{step.value}': all of its ports are excluded; exclude fewer")
        return rules

    def _fit(self, rule: PortRule, table: Table) -> PortRule:
        """Write *rule* as *table* knows it. Raises ConfigError for what it does not know."""
        if table.name == NAMESPACE_TABLE and table.abilities & messages.INTERFACES:
            rule = replace(rule, ifname="lo")
        if rule.ifname is not None and not table.abilities & messages.INTERFACES:
            raise ConfigError(f"'{_name(rule)}': this program cannot listen on a single interface")
        if rule.address is None:
            rule = replace(rule, address=messages.any_address(table.abilities))
        elif not table.abilities & (messages.IP4 if rule.address.version == 4 else messages.IP6):
            raise ConfigError(f"'{_name(rule)}': IPv{rule.address.version} is off in this program")
        return _normal(rule)

    def _add(self, name: str, rule: PortRule) -> None:
        have = self._rules[name]
        for other in have:
            if find_overlap(rule, other) is not None:
                raise ConflictError(f"Forwarding configuration conflict: {describe_rule(rule)} versus"
                                    f" {describe_rule(other)}")
        if len(have) >= MAX_RULES:
            raise ConflictError(f"{name}: more than {MAX_RULES} rules")
        have.append(rule)

    def _delete(self, step: Step, table: Table) -> None:
        have = self._rules[table.name]
        rules = self._make(step, table)
        if any(rule not in have for rule in rules):
            # Rules of a start that follow all ports have no gap where the ephemeral ones are.
            everything = self._make(step, table, follows_all=True)
            rules = everything if all(rule in have for rule in everything) else rules
        for rule in rules:
            self._delete_one(table.name, rule)

    def _delete_one(self, name: str, rule: PortRule) -> None:
        have = self._rules[name]
        if rule in have:
            have.remove(rule)
            return
        for other in have:
            if find_overlap(rule, other) is not None:
                raise ConflictError(f"{describe_rule(rule)} conflicts with rule {describe_rule(other)}, but"
                                    " doesn't match it, can't delete")
        raise ConflictError(f"Couldn't find forwarding rule to delete: {describe_rule(rule)}")


def _name(rule: PortRule) -> str:
    return rule.spec or describe_rule(rule)


def _normal(rule: PortRule) -> PortRule:
    """Write a rule such that those which do the same are equal."""
    return replace(rule, spec="", skips_ephemeral=False)
