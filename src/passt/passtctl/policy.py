"""`passtctl policy`: the rules of egress of an instance, shown and changed."""

from __future__ import annotations

import os

from passt.errors import HostError
from passt.passtctl.output import print_json, print_lines
from passt.passtctl.table import layout

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from typing import Any

    from passt.passtctl.command import Command
    from passt.passtctl.instances import Instance

STDIN = 0
MAX_LEN = 1 << 17                  # bytes of a file: an instance takes no larger request
_PIECE = 1 << 16


def policy(instance: Instance, command: Command) -> int:
    """Show or change the rules; return the exit status. Raises HostError."""
    action = command.words[0] if command.words else "show"
    if action == "show":
        found = instance.ask("/v1/policy")
    else:
        path = command.words[1] if action == "set" else _file_of(instance)
        found = instance.ask("/v1/policy", "PUT", {
            "toml": read_rules(path), "kill": command.kill, "with_options": action == "reload"})
    if command.json:
        return print_json(found)
    if action == "show":
        print_lines(policy_lines(found))
    return 0


def _file_of(instance: Instance) -> str:
    """Return the path of the instance's --policy. Raises HostError."""
    path = instance.ask("/v1/policy")["file"]
    if path is None:
        raise HostError("this instance has no file of --policy; give one: passtctl policy set FILE")
    return str(path)


def read_rules(path: str) -> str:
    """Read a file of --policy; - is standard input. Raises HostError."""
    try:
        fd = STDIN if path == "-" else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        content = b""
        while len(content) <= MAX_LEN and (piece := os.read(fd, _PIECE)):
            content += piece
        if fd != STDIN:
            os.close(fd)
        text = content.decode()
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise HostError(f"{path}: not UTF-8 at byte {error.start}") from None
    if len(content) > MAX_LEN:
        raise HostError(f"{path}: more than {MAX_LEN} bytes, which an instance does not take")
    return text


def policy_lines(found: dict[str, Any]) -> list[str]:
    """Write the rules in the order in which they are tried, and how many flows and names each has refused.

    An instance of before this version does not tell of names.
    """
    rows = [(rule["rule"], str(rule["refused"]), str(rule.get("names_refused", "-")))
            for rule in found["rules"]]
    rows.append((f"{found['default']} all else", str(found["refused_by_default"]),
                 str(found.get("names_refused_by_default", "-"))))
    lines = layout(("RULE", "FLOWS REFUSED", "NAMES REFUSED"), rows, frozenset((1, 2)))
    if found.get("verify_names"):
        lines.append("Connections that rules allow by name have to say it (--verify-names).")
    return lines
