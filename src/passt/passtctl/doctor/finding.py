"""What a check found: how bad it is, a sentence, and the commands that mend it."""

from __future__ import annotations

import shlex

from passt.light.values import NamedTuple

OK, NOTE, WARNING, ERROR = LEVELS = ("ok", "note", "warning", "error")


class Finding(NamedTuple):
    """One thing found.

    *level* is one of LEVELS: nothing to do; good to know; something works badly or not at all; pasta or
    passt does not work, or what was asked about cannot be had. *subject* says what was looked at. *commands*
    are for a shell, in this order; with *as_root* root has to give them. A word in capitals in a command is
    for the user to replace.
    """

    level: str
    subject: str
    text: str
    commands: tuple[str, ...] = ()
    as_root: bool = False


def set_sysctl(name: str, value: object) -> str:
    """Write the command that sets a sysctl until the machine is started anew."""
    return f"sysctl -w {shlex.quote(f'{name}={value}')}"
