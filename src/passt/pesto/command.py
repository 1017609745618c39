"""The command line of pesto: which socket, and what to do with the tables, step by step."""

from __future__ import annotations

from passt.config.getopt import RUN, Scanner, UsageError
from passt.config.pesto_options import PESTO_OPTIONS
from passt.config.port_options import PORT_OPTIONS
from passt.light.values import NamedTuple
from passt.steer.draft import ADD, CLEAR, DELETE, REPLACE, Step

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Sequence

_ACTIONS = frozenset(("help", "version"))


class Command(NamedTuple):
    """What is asked for; *action* is RUN, or "help" or "version" and nothing else."""

    action: str
    path: str = ""
    steps: tuple[Step, ...] = ()
    show: bool = False
    debug: bool = False


def parse(arguments: Sequence[str]) -> Command:
    """Read *arguments*, without the program's name; options may stand behind the path. Raises UsageError."""
    steps: list[Step] = []
    flags = {"show": False, "debug": False}
    operands: list[str] = []
    what, left = REPLACE, list(arguments)
    while left and len(operands) < 2:
        scanner = Scanner(left, PESTO_OPTIONS)
        for occurrence in scanner:
            name = occurrence.option.name
            if name in _ACTIONS:
                return Command(name)
            if name in flags:
                flags[name] = True
            elif name in {ADD, DELETE}:
                what = name
            elif name == CLEAR:
                steps.append(Step(CLEAR, name, occurrence.value, occurrence.label))
            else:
                steps.append(Step(what, name, occurrence.value, occurrence.label))
        operands += scanner.operands[:1]
        left = scanner.operands[1:]
    if what != REPLACE and all(step.option not in PORT_OPTIONS for step in steps):
        raise UsageError(f"option '--{what}' takes port options behind it: -t, -u, -T or -U")
    if len(operands) != 1:
        raise UsageError("say the path of the socket, the argument of --conf-path, and only that")
    return Command(RUN, operands[0], tuple(steps), flags["show"], flags["debug"])
