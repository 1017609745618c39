"""Port rules for who asks by HTTP: what there is, and changes by the engine that pesto has, too.

A rule in a request is either a text, as on the command line (-t 8080:80), which may make several rules, or
an object as GET shows it, whose fields that only describe are ignored. A change is drafted first
(`steer.draft`), which finds what makes no sense (status 400) and what does not go with the rules that there
are (409); then it is carried out as a whole or not at all (`contracts.PortTables`), and each port that cannot
be had is an error of its own (409).
"""

from __future__ import annotations

import os
from ipaddress import ip_address

from passt.config.port_options import PORT_OPTIONS
from passt.control.flows import PROTOCOLS, rule_text
from passt.control.http import RefusalError, parse_json
from passt.errors import ConfigError
from passt.facts.contracts import HOST_TABLE, NAMESPACE_TABLE
from passt.facts.port_rule import PortRule
from passt.forward.rules import describe_rule
from passt.steer import messages
from passt.steer.draft import ADD, DELETE, ConflictError, Draft, Step
from passt.steer.tables import LOOPBACK_DEVICE

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from passt.facts.address import IPAddress
    from passt.steer.draft import Cut
    from passt.steer.tables import ClientTables

MAX_RULES = 2 * 255        # in one request; both tables have no more
MAX_SPEC = 4096            # characters of an option: as many rules as a table has, and the time for them
_NUMBERS = {name: number for number, name in PROTOCOLS.items()}
_NONE: tuple[type, ...] = (type(None),)
# Fields of a rule, and what they can be; those of _SHOWN describe it only.
_FIELDS: dict[str, tuple[type, ...]] = {
    "table": (str,), "protocol": (str,), "address": (str, *_NONE), "interface": (str, *_NONE),
    "first": (int,), "last": (int,), "target": (int,), "target_address": (str, *_NONE),
    "optional": (bool,), "auto": (bool,),
}  # fmt: skip
_SHOWN = frozenset(("text", "option", "open"))
_NEEDED = ("table", "protocol", "first")
_SHORT = {letter: name for name, (letter, _, _) in PORT_OPTIONS.items()}


class PortRules:
    """The rules of *tables*; *cut* leaves the ephemeral ports out of rules (`PortForwarding`)."""

    def __init__(self, tables: ClientTables, cut: Cut) -> None:
        self._tables = tables
        self._cut = cut

    def show(self) -> Iterator[dict[str, Any]]:
        """Give all rules that there are now, each as an object that a request may have."""
        live = self._tables.live
        found = [(name, rule, n_open.get(rule, 0)) for name in live.names()
                 for n_open in (live.count_open(name),) for rule in live.rules(name)]
        for name, rule, n_open in found:
            client = self._tables.to_client(name, rule)
            yield _write(name, client) | {
                "text": describe_rule(client), "option": rule_text(rule), "open": n_open}

    def change(self, body: bytes) -> dict[str, Any]:
        """Delete and add rules, as PATCH asks. Raises RefusalError."""
        asked = parse_json(body, {"delete": (list,), "add": (list,)})
        _count(asked)
        draft = Draft(self._tables.shown(), self._cut)
        for what in (DELETE, ADD):
            for rule in asked.get(what, ()):
                _carry_out(draft, what, rule)
        return self._finish(draft)

    def replace(self, body: bytes) -> dict[str, Any]:
        """Give the tables that are named other rules, as PUT asks. Raises RefusalError."""
        asked = parse_json(body, {HOST_TABLE: (list,), NAMESPACE_TABLE: (list,)})
        _count(asked)
        draft = Draft(self._tables.shown(), self._cut)
        for name, rules in asked.items():
            try:
                draft.empty(name)
            except ConfigError as error:
                raise RefusalError(400, str(error)) from None
            for rule in rules:
                _carry_out(draft, ADD, rule, name)
        return self._finish(draft)

    def _finish(self, draft: Draft) -> dict[str, Any]:
        outcome = self._tables.change(draft.tables())
        if outcome.faults:
            more = f"; {len(outcome.faults) - 1} more in errors" if len(outcome.faults) > 1 else ""
            what = "ports that were forwarded are lost" if outcome.n_lost else "nothing was changed"
            raise RefusalError(409, f"{what}: {outcome.faults[0]}{more}", errors=outcome.faults)
        return {"opened": outcome.n_opened, "closed": outcome.n_closed, "notes": list(outcome.notes),
                "rules": list(self.show())}


def _count(asked: Mapping[str, list[Any]]) -> None:
    if not asked:
        raise RefusalError(400, "the body names no rule")
    n = sum(map(len, asked.values()))
    if n > MAX_RULES:
        raise RefusalError(400, f"{n} rules are more than the {MAX_RULES} that there can be")


def _carry_out(draft: Draft, what: str, rule: Any, name: str | None = None) -> None:
    """Carry out one step of a request; *name* is the table that it has to be for. Raises RefusalError."""
    try:
        if isinstance(rule, str):
            step = read_option(what, rule)
            if name is not None and (HOST_TABLE if PORT_OPTIONS[step.option][2] else NAMESPACE_TABLE) != name:
                raise RefusalError(400, f"{step.label} is not for the table {name}")
            draft.apply(step)
            return
        table, made = _read(rule)
        if name is not None and table != name:
            raise RefusalError(400, f"a rule of the table {table[:40]} stands under {name}")
        (draft.add if what == ADD else draft.delete)(table, made)
    except ConflictError as error:
        raise RefusalError(409, f"nothing was changed: {error}", errors=(str(error),)) from None
    except ConfigError as error:
        raise RefusalError(400, str(error)) from None


def read_option(what: str, text: str) -> Step:
    """Read an option with its port specification: `-t 8080:80`, `--tcp-ports=80`. Raises RefusalError."""
    _require_text(text)
    if len(text) > MAX_SPEC:
        raise RefusalError(400, f"'{text[:60]}'... has more than {MAX_SPEC} characters; write ranges")
    word, _, value = (text.replace("=", " ", 1) if text.startswith("--") else text).partition(" ")
    name = word[2:] if word.startswith("--") else _SHORT.get(word, "")
    value = value.strip()
    if name not in PORT_OPTIONS or not value:
        raise RefusalError(400, f"'{text[:60]}' is not an option with a port specification: -t SPEC, -u SPEC,"
                           " -T SPEC or -U SPEC")
    return Step(what, name, value, word)


def _check_fields(given: Any) -> dict[str, Any]:
    """Return a rule that is an object with the fields of one, of the right types. Raises RefusalError."""
    if type(given) is not dict:
        raise RefusalError(400, "a rule is a text like '-t 8080:80', or an object")
    for field, value in given.items():
        if field in _SHOWN:
            continue
        if field not in _FIELDS:
            raise RefusalError(400, f"a rule has no '{field[:40]}'; it has {', '.join(_FIELDS)}")
        if type(value) not in _FIELDS[field]:
            raise RefusalError(400, f"'{field}' of a rule has the wrong type")
    for field in _NEEDED:
        if field not in given:
            raise RefusalError(400, f"a rule needs '{field}'")
    return given


def _read(rule: Any) -> tuple[str, PortRule]:
    """Read a rule that is an object; return its table, and the rule. Raises RefusalError."""
    given = _check_fields(rule)
    if given["protocol"] not in {"tcp", "udp"}:
        raise RefusalError(400, f"protocol '{given['protocol'][:40]}' of a rule is neither tcp nor udp")
    table, first, ifname = given["table"], given["first"], given.get("interface")
    if ifname is not None:
        _require_text(ifname)
    if table == NAMESPACE_TABLE and ifname not in {None, LOOPBACK_DEVICE}:
        raise RefusalError(400, "ports of the namespace are those of its interface lo")
    made = PortRule(
        _NUMBERS[given["protocol"]], first, given.get("last", first), given.get("target", first),
        _read_address(given.get("address")), ifname,
        optional=given.get("optional", False), auto=given.get("auto", False),
        target_address=_read_address(given.get("target_address")))  # fmt: skip
    fault = messages.find_fault(made)
    if fault:
        raise RefusalError(400, fault)
    return table, made


def _require_text(text: str) -> None:
    """Refuse what JSON can write and no interface's name can be. Raises RefusalError."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise RefusalError(400, "a rule has a character that cannot be written") from None


def _read_address(text: str | None) -> IPAddress | None:
    if text is None:
        return None
    try:
        found = ip_address(text)
    except ValueError:
        raise RefusalError(400, f"'{text[:60]}' is not an IP address") from None
    if found.version == 6 and found.scope_id is not None:
        raise RefusalError(400, f"'{text[:60]}': name the interface as 'interface'")
    if found.version == 6 and found.ipv4_mapped is not None:
        raise RefusalError(400, f"'{text[:60]}': write {found.ipv4_mapped}")
    return found


def _write(name: str, rule: PortRule) -> dict[str, Any]:
    """Write a rule as `_read` reads it."""
    ifname = rule.ifname
    return {
        "table": name, "protocol": PROTOCOLS[rule.proto],
        "address": None if rule.address is None else str(rule.address),
        # A name of an interface is bytes to the kernel; JSON has none.
        "interface": None if ifname is None else os.fsencode(ifname).decode(errors="replace"),
        "first": rule.first, "last": rule.last, "target": rule.target,
        "target_address": None if rule.target_address is None else str(rule.target_address),
        "optional": rule.optional, "auto": rule.auto,
    }  # fmt: skip
