"""What connections say first that pass by a name alone: is it a name that may (--verify-names)? Pure.

Several names may be at one address, and a pin is for the address. So where nothing but a pin allows a
connection, its opening has to say a name, and the first rule about that name decides: one that denies refuses
it, one that allows lets it pass if the address is pinned for that rule and the port is one of its own. Which
name the pin came from is not asked: each that a rule with a pin to this address allows is as good.

An opening is judged by the rules of now, not by those of the connection's start: they may have changed
meanwhile. `wire.first_bytes` reads the names.
"""

from __future__ import annotations

from socket import IPPROTO_TCP

from passt.errors import WireError
from passt.facts.doh_servers import DOH_NAMES
from passt.forward.egress import fits
from passt.wire.first_bytes.said_name import parse_said_name

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from passt.facts.egress import EgressRules
    from passt.forward.egress import Egress


class Openings:
    """Judges what guests say first, by the rules of *egress*."""

    def __init__(self, egress: Egress) -> None:
        self._egress = egress
        self._rules: EgressRules | None = None     # those that the tables are made of
        self._exact: dict[str, list[int]] = {}
        self._below: dict[str, list[int]] = {}

    def is_wanted(self, port: int, address: bytes, asked: bytes) -> bool:
        """Tell whether a connection that is allowed has to say a name; arguments as of `Egress.decide`."""
        egress = self._egress
        return (egress.rules.verifies and bool(address)
                and not egress.decide(IPPROTO_TCP, port, address, asked, by_address=True)[0])

    def judge(self, port: int, address: bytes, asked: bytes, data: bytes, end: str) -> bool | None:
        """Tell whether a connection may go on that begins with *data*; None: not yet known.

        With *end*, which says why, it may not. Who may not is counted and told of.
        """
        egress = self._egress
        is_allowed, place = egress.decide(IPPROTO_TCP, port, address, asked, by_address=egress.rules.verifies)
        if is_allowed:             # rules have changed
            if not end:
                return True
            place = len(egress.rules.rules)
        name: str | None = None
        why = end
        if not why:
            try:
                name = parse_said_name(data)
            except WireError as error:
                why = str(error)
        if name is not None:
            is_allowed, place = self._find(name, port, address, place)
            if is_allowed:
                return True
            why = f"the guest says the name {name}: {egress.describe(place)}"
        elif not why:
            return None
        egress.refuse(IPPROTO_TCP, port, asked, place, f"--verify-names: {why}")
        return False

    def _find(self, name: str, port: int, address: bytes, bar: int) -> tuple[bool, int]:
        """Tell whether *name* may be reached there, and the place of the rule that says so.

        *bar* is the place of the first rule that denies the address, or that behind all rules. Known servers
        of DNS over HTTPS are open to rules with exactly their name.
        """
        rules = self._egress.rules.rules
        pinned = self._egress.pinned(address)
        for place in self._places(name):
            rule = rules[place]
            if place > bar:
                break
            if not rule.allows:
                return False, place
            if (place in pinned and fits(rule, IPPROTO_TCP, port)
                    and not (rule.is_suffix and name in DOH_NAMES)):
                return True, place
        return False, bar

    def _places(self, name: str) -> list[int]:
        """Return the places of all rules about *name*, in order."""
        if self._rules is not self._egress.rules:
            self._index(self._egress.rules)
        found = list(self._exact.get(name, ()))
        at = name.find(".")
        while self._below and at >= 0:
            found += self._below.get(name[at + 1:], ())
            at = name.find(".", at + 1)
        return sorted(found)

    def _index(self, rules: EgressRules) -> None:
        self._exact, self._below = {}, {}
        for place, rule in enumerate(rules.rules):
            if rule.name:
                (self._below if rule.is_suffix else self._exact).setdefault(rule.name, []).append(place)
        self._rules = rules
