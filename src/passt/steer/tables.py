"""The port rules of a run as clients know them, and what a client's change makes of them.

A client sees the interface on which the namespace listens, and with one family off the unspecified address of
the other where a rule has none: that is how the protocol of --conf-path writes them.
"""

from __future__ import annotations

from passt.facts.contracts import HOST_TABLE, NAMESPACE_TABLE, PortChange
from passt.forward.rules import write_option
from passt.light.values import replace
from passt.steer import messages
from passt.steer.messages import Table

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from passt.facts.address import IPAddress
    from passt.facts.contracts import PortTables
    from passt.facts.port_rule import PortRule
    from passt.steer.messages import NewTable

IDS = {HOST_TABLE: messages.HOST_ID, NAMESPACE_TABLE: messages.NAMESPACE_ID}
LOOPBACK_DEVICE = "lo"             # what the namespace's listeners are bound to


class ClientTables:
    """Shows *tables* to clients and changes them: for each table *abilities* has the bits of `messages`.

    *n_changes* grows with each change, so that who saw the tables earlier can tell that they are others now.
    """

    def __init__(self, tables: PortTables, abilities: Mapping[str, int]) -> None:
        self.live = tables
        self.abilities = abilities
        self.n_changes = 0

    def shown(self) -> tuple[Table, ...]:
        """Return all tables with their rules."""
        return tuple([Table(IDS[name], name, self.abilities[name],
                            tuple([self.to_client(name, rule) for rule in self.live.rules(name)]),
                            reports=True) for name in self.live.names()])

    def change(self, tables: Iterable[NewTable]) -> PortChange:
        """Give each of *tables* its rules: all of it, or nothing."""
        names = {number: name for name, number in IDS.items() if name in self.live.names()}
        wanted: dict[str, list[PortRule]] = {}
        faults = []
        for number, rules in tables:
            if number not in names:
                faults.append(f"there is no table {number} here")
                continue
            name = names[number]
            known = {self.to_client(name, rule): rule for rule in self.live.rules(name)}
            wanted[name] = [known.get(rule) or self._from_client(name, rule) for rule in rules]
        outcome = PortChange(faults=tuple(faults)) if faults else self.live.replace(wanted)
        self.n_changes += not outcome.faults
        return outcome

    def to_client(self, name: str, rule: PortRule) -> PortRule:
        """Write *rule* of the table *name* as clients know it."""
        ifname = LOOPBACK_DEVICE if name == NAMESPACE_TABLE else rule.ifname
        address = self._any_address(name) if rule.address is None else rule.address
        return replace(rule, spec="", ifname=ifname, address=address)

    def _from_client(self, name: str, rule: PortRule) -> PortRule:
        """Read what a client wrote."""
        if name == NAMESPACE_TABLE and rule.ifname == LOOPBACK_DEVICE:
            rule = replace(rule, ifname=None)
        if rule.address is not None and rule.address == self._any_address(name):
            rule = replace(rule, address=None)
        if rule.auto or rule.optional:
            return rule                # its ports may be a part only of those that an option would name
        return replace(rule, spec=write_option(rule, is_host=name == HOST_TABLE))

    def _any_address(self, name: str) -> IPAddress | None:
        """Return the unspecified address of the one family that is on; None if both are."""
        return messages.any_address(self.abilities[name])
