"""`passtctl ports`: the port rules of an instance, shown and changed."""

from __future__ import annotations

from passt.errors import HostError
from passt.passtctl.instances import RefusedError
from passt.passtctl.output import print_json, print_lines
from passt.passtctl.table import layout

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from passt.passtctl.command import Command
    from passt.passtctl.instances import Instance

_HOST = frozenset(("-t", "-u"))
STDERR = 2
LOST = "ports that were forwarded are lost"  # as the instance says it


def ports(instance: Instance, command: Command) -> int:
    """Show or change the rules; return the exit status. Raises HostError."""
    action = command.words[0] if command.words else "list"
    if action == "list":
        found = instance.ask("/v1/ports")
        if command.json:
            return print_json(found)
        print_lines([*rule_lines(found["rules"]), "", *port_lines(found["ports"])])
        return 0
    method, body = ("PUT", tables_of(command.specs)) if action == "set" else (
        "PATCH", {"add" if action == "add" else "delete": list(command.specs)})
    try:
        done = instance.ask("/v1/ports", method, body)
    except RefusedError as error:
        if not error.errors:
            raise
        print_lines(error.errors, STDERR)
        is_lost = LOST in str(error)
        raise HostError(f"the change failed, and {LOST}" if is_lost else "nothing was changed") from None
    if command.json:
        return print_json(done)
    print_lines(done["notes"], STDERR)
    return 0


def tables_of(specs: Iterable[str]) -> dict[str, list[str]]:
    """Sort specifications, with their options in front, by the table that they are for."""
    tables: dict[str, list[str]] = {}
    for spec in specs:
        tables.setdefault("HOST" if spec[:2] in _HOST else "SPLICE", []).append(spec)
    return tables


def rule_lines(rules: Iterable[dict[str, Any]]) -> list[str]:
    """Write rules, as pesto does, and how many of their ports are open."""
    rows = [(rule["table"], rule["text"], str(rule["open"]), rule["option"]) for rule in rules]
    return layout(("TABLE", "RULE", "OPEN", "OPTION"), rows, frozenset((2,)))


def _order(port: dict[str, Any]) -> tuple[Any, ...]:
    return (port["side"], port["protocol"], port["port"], port["address"] or "", port["interface"] or "")


def port_lines(found: Iterable[dict[str, Any]]) -> list[str]:
    """Write open ports, in their order; the instance has them in that in which they were opened."""
    rows = []
    for port in sorted(found, key=_order):
        leads_to = str(port["leads_to"] or "-")
        if port["target_address"] is not None:
            address = port["target_address"]
            leads_to = f"[{address}]:{leads_to}" if ":" in address else f"{address}:{leads_to}"
        rows.append((port["side"], port["protocol"], port["address"] or "*", port["interface"] or "-",
                     str(port["port"]), leads_to, port["rule"] or "-"))
    return layout(("SIDE", "PROTO", "ADDRESS", "INTERFACE", "PORT", "LEADS-TO", "RULE"), rows,
                  frozenset((4, 5)))
