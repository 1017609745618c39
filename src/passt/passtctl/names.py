"""Names of instances: what each one serves, by which people know it.

An instance serves a command, a namespace that exists, or the machine at a socket. It has that as its name,
and shorter ones: of a command its first word, of a path its last part, of a socket that without its ending.
Its PID is a name too. The beginning of a name does, where no other instance has a name that begins so;
numbers are given whole. Several that fit are an error, never a choice. What is a command of passtctl's is
taken for one.
"""

from __future__ import annotations

import os

from passt.errors import ConfigError
from passt.passtctl.command import COMMANDS
from passt.passtctl.printable import escape_controls

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    Info = Mapping[str, Any]       # the answer of /v1/info

MAX_SHOWN = 8            # instances in one line


def served(info: Info) -> str:
    """Return what an instance serves: command, namespace or socket; "-" for a machine that needs none."""
    return " ".join(_words(info)) or str(info.get("namespace") or info.get("socket") or "-")


def _words(info: Info) -> list[str]:
    command = info.get("command")
    return [str(word) for word in command] if isinstance(command, list) else []


def names_of(info: Info) -> list[str]:
    """Return all names of an instance, its PID first."""
    whole = served(info)
    path, *arguments = _words(info) or [whole]
    last = os.path.basename(path)
    stem = os.path.splitext(last)[0] if path == info.get("socket") else last
    names = dict.fromkeys((str(info.get("pid")), whole, path, " ".join((last, *arguments)), last, stem))
    return [name for name in names if name not in {"", "-"}]


def short_name(info: Info) -> str:
    """Return the shortest name that is not a command; the PID if there is no other."""
    pid, *names = names_of(info)
    return min((name for name in names if name not in COMMANDS), key=len, default=pid)


def find(name: str, found: Sequence[Info]) -> int:
    """Return the place of the one instance of *found* that *name* means. Raises ConfigError."""
    fits = [i for i, info in enumerate(found) if name in names_of(info)]
    fits = fits or [i for i, info in enumerate(found) if _begins(name, info)]
    if len(fits) == 1:
        return fits[0]
    shown = escape_controls(name)
    if fits:
        several = list_all([found[i] for i in fits])
        raise ConfigError(f"'{shown}' may be any of {several}: give more of the name, or -p PID")
    there = f"there are {list_all(found)}" if found else "there is none with --control auto"
    raise ConfigError(f"'{shown}' is neither a command of passtctl nor the name of an instance: {there}")


def _begins(name: str, info: Info) -> bool:
    return any(each.startswith(name) and not each.isdecimal() for each in names_of(info))


def list_all(found: Sequence[Info]) -> str:
    """Name instances in one line, each by its PID and what it serves."""
    texts = [escape_controls(f"{info.get('pid')} ({served(info)})") for info in found[:MAX_SHOWN]]
    more = len(found) - len(texts)
    return ", ".join(texts) + (f" and {more} more" if more else "")
