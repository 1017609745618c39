"""Tables of port rules: which rules overlap, and which lead to each other. Pure.

Two rules of one table overlap if both would bind one port of one address. A socket bound to any address
gets in the way of one bound to a single address, and a socket for any interface in the way of one for a
single interface (ip(7), socket(7)).
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from passt.facts.address import IPAddress
    from passt.facts.port_rule import PortRule

N_PORTS = 1 << 16
PROTOCOLS = {6: "TCP", 17: "UDP"}  # IANA's numbers; the module socket would cost a start time


class OverlapError(ValueError):
    """*rule* cannot be added, as *other* has its ports *first*..*last* already."""

    def __init__(self, rule: PortRule, other: PortRule, first: int, last: int) -> None:
        super().__init__(f"ports {first} to {last} of {rule} are covered by {other}")
        self.rule = rule
        self.other = other
        self.first = first
        self.last = last


class RuleTable:
    """The rules of one listen side, in the order in which they were added; no two of them overlap."""

    __slots__ = ("_rules", "_used")

    def __init__(self) -> None:
        self._rules: list[PortRule] = []
        # By protocol and port: 1 where a rule listens. A new rule without such a port needs no comparison
        # with the other rules, so thousands of rules stay cheap.
        self._used: dict[int, bytearray] = {}

    def __iter__(self) -> Iterator[PortRule]:
        return iter(self._rules)

    def __len__(self) -> int:
        return len(self._rules)

    def add(self, rules: Iterable[PortRule]) -> None:
        """Add *rules*, which do not overlap among themselves, or none of them. Raises OverlapError."""
        added = list(rules)
        for rule in added:
            used = self._used.get(rule.proto)
            if used is not None and used.find(1, rule.first, rule.last + 1) >= 0:
                for other in self._rules:
                    _check_apart(rule, other)
        for rule in added:
            self._mark(rule)
        self._rules += added

    def remove(self, rule: PortRule) -> None:
        """Take *rule* out. Raises ValueError if it is not in the table."""
        self._rules.remove(rule)
        self._used[rule.proto][rule.first:rule.last + 1] = bytes(rule.last + 1 - rule.first)
        for other in self._rules:
            if _shared_ports(rule, other):
                self._mark(other)

    def _mark(self, rule: PortRule) -> None:
        used = self._used.setdefault(rule.proto, bytearray(N_PORTS))
        used[rule.first:rule.last + 1] = b"\1" * (rule.last + 1 - rule.first)


def find_overlap(rule: PortRule, other: PortRule) -> tuple[int, int] | None:
    """Give the first and last port that both rules would bind for one address; None if there is none."""
    if not _share_address(rule.address, other.address):
        return None
    if rule.ifname is not None and other.ifname is not None and rule.ifname != other.ifname:
        return None
    return _shared_ports(rule, other)


def find_loop(rule: PortRule, back: PortRule) -> int | None:
    """Give the first port of *rule* whose flows *back*, a rule of the other side, leads to *rule* again.

    None if there is no such port.
    """
    if rule.proto != back.proto or rule.target_address is not None:
        return None
    # first..last: ports to which *rule* leads and on which *back* listens; low: where *back* leads then.
    first = max(rule.target, back.first)
    last = min(rule.service_port(rule.last), back.last)
    low = max(back.service_port(first), rule.first)
    return low if first <= last and low <= min(back.service_port(last), rule.last) else None


def describe_rule(rule: PortRule) -> str:
    """Write *rule* as the banner and `pesto` show it: protocol, where it listens, where it leads."""
    interface = f"%{rule.ifname}" if rule.ifname else ""
    where = "*" if rule.address is None else str(rule.address)
    notes = " ".join(note for note, is_so in (
        ("(best effort)", rule.optional), ("(without ephemeral ports)", rule.skips_ephemeral),
        ("(auto-scan)", rule.auto)) if is_so)
    listen = _write_ports(rule.first, rule.last)
    service = _write_ports(rule.target, rule.service_port(rule.last))
    if rule.target_address is not None:
        service = f"{_write_address(rule.target_address)}:{service}"
    text = f"{PROTOCOLS[rule.proto]} [{where}]{interface}:{listen}  =>  {service}"
    return f"{text}  {notes}" if notes else text


def write_option(rule: PortRule, *, is_host: bool) -> str:
    """Write *rule*, which names its ports, as an option that makes it: `-t [::1]%eth0/80-81:8080-8081`."""
    letter = PROTOCOLS[rule.proto][0]
    where = f"%{rule.ifname}" if rule.ifname else ""
    if rule.address is not None:
        where = _write_address(rule.address) + where
    text = _write_ports(rule.first, rule.last)
    service = _write_ports(rule.target, rule.service_port(rule.last))
    if rule.target_address is not None:
        text += f":{_write_address(rule.target_address)}/{service}"
    elif service != text:
        text += f":{service}"
    return f"-{letter.lower() if is_host else letter} {where}{'/' if where else ''}{text}"


def _write_address(address: IPAddress) -> str:
    return str(address) if address.version == 4 else f"[{address}]"


def _write_ports(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def auto_rules(rules: Iterable[PortRule]) -> list[PortRule]:
    """Pick the rules that follow bound ports."""
    return [rule for rule in rules if rule.auto]


def fixed_ports(rules: Iterable[PortRule], proto: int) -> set[int]:
    """Give the ports at which rules of *proto* listen that do not follow bound ports."""
    ports: set[int] = set()
    for rule in rules:
        if rule.proto == proto and not rule.auto:
            ports.update(range(rule.first, rule.last + 1))
    return ports


def _check_apart(rule: PortRule, other: PortRule) -> None:
    overlap = find_overlap(rule, other)
    if overlap is not None:
        raise OverlapError(rule, other, *overlap)


def _shared_ports(rule: PortRule, other: PortRule) -> tuple[int, int] | None:
    first, last = max(rule.first, other.first), min(rule.last, other.last)
    return (first, last) if rule.proto == other.proto and first <= last else None


def _share_address(one: IPAddress | None, other: IPAddress | None) -> bool:
    if one is None or other is None:
        return True
    return one.version == other.version and (one == other or one.is_unspecified or other.is_unspecified)
