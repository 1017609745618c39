"""A run of pesto, from its arguments to its exit status."""

from __future__ import annotations

import os

from passt import log
from passt.errors import HostError
from passt.facts.contracts import MAX_RULES
from passt.forward.rules import describe_rule
from passt.host.listeners import leave_out_ephemeral
from passt.pesto.connection import Connection
from passt.steer.draft import Draft
from passt.steer.messages import Answer

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable

    from passt.facts.port_rule import PortRule
    from passt.pesto.command import Command
    from passt.steer.messages import Hello


def run(command: Command) -> int:
    """Show or change the tables as *command* says; return the exit status. Raises PasstError."""
    log.configure(debug=command.debug, quiet=False)
    with Connection(command.path) as connection:
        hello = connection.read_hello()
        if not command.steps:
            _show(f"passt/pasta configuration ({command.path})", _as_received(hello))
            return 0
        draft = Draft(hello.tables, leave_out_ephemeral)
        for step in command.steps:
            draft.apply(step)
        _check_size(command.path, draft)
        reports = all(table.reports for table in hello.tables)
        report = connection.send_answer(Answer(draft.tables(), wants_report=reports))
    if report is not None:
        for line in report.lines:
            log.warning(line)
        if report.has_lost:
            raise HostError("the change failed, and ports that were forwarded are lost")
        if report.is_refused:
            raise HostError("nothing was changed")
    else:
        _check(command.path, draft)
    if command.show:
        _show(f"Previous configuration ({command.path})", _as_received(hello))
        _show(f"Updated configuration ({command.path})", draft.shown())
    return 0


def _check_size(path: str, draft: Draft) -> None:
    """Refuse to answer with tables of another program that are longer than an answer's. Raises HostError."""
    for name, rules in draft.shown():
        if len(rules) > MAX_RULES:
            raise HostError(f"{path}: the table {name} has {len(rules)} rules, and this program can write"
                            f" {MAX_RULES}: clear it, or use the pesto that came with the other program")


def _check(path: str, draft: Draft) -> None:
    """Look whether a program that tells nothing has taken the new tables. Raises HostError."""
    with Connection(path) as connection:
        if not draft.is_done_in(connection.read_hello().tables):
            raise HostError(f"{path}: the program has not taken the new rules; its log may say why")


def _as_received(hello: Hello) -> list[tuple[str, list[PortRule]]]:
    return [(table.name, list(table.rules)) for table in hello.tables]


def _show(title: str, tables: Iterable[tuple[str, list[PortRule]]]) -> None:
    """Print tables on standard output, in what a terminal may see. Raises HostError."""
    lines = [title]
    for name, rules in tables:
        lines += [f"  {name}", *(f"    {describe_rule(rule)}" for rule in rules)]
    data = "".join(f"{log.escape(line)}\n" for line in lines).encode()
    try:
        while data:
            data = data[os.write(1, data):]
    except OSError as error:
        raise HostError(f"cannot write to standard output: {error.strerror}") from None
