"""All checks at once, within a bound of time, and their findings as text or JSON.

Each check runs on a thread of its own, as some wait: for name servers, for programs, for an instance. A check
that has not ended after `LIMIT_S` seconds is told of and left behind: its thread ends with the process.
"""

from __future__ import annotations

import os
import queue
import shlex
import sys
import threading
import time
from functools import partial

from passt.log import escape
from passt.passtctl import instances
from passt.passtctl.doctor import (
    instance,
    libvirt,
    limits,
    ping,
    podman,
    ports,
    resolvers,
    routes,
    sandbox,
    tun,
    userns,
    versions,
)
from passt.passtctl.doctor.finding import ERROR, LEVELS, OK, WARNING, Finding
from passt.passtctl.doctor.machine import Machine

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    Check = tuple[str, Callable[[], list[Finding]]]

LIMIT_S = 2.0
RUN_S = 1.8             # that programs have who are asked; less, so that none is left behind


def look(machine: Machine | None = None, *, pid: int | None = None, path: str | None = None,
         name: str | None = None, port: str | None = None) -> list[Finding]:
    """Make all checks; return their findings in the order of the table.

    *pid*, *path* or *name* choose an instance to be asked, *port* a port to be looked for, as
    `ports.parse_port` reads it. For a process of one thread. Raises ConfigError.
    """
    machine = machine or Machine(limit_s=RUN_S)
    # These two before the threads: the one forks, the other is the user's mistake.
    asked = None if port is None else ports.parse_port(port)
    namespaces = userns.attempt()
    checks = table(machine, namespaces)
    if asked is not None:
        checks.append((f"port {port}", partial(ports.check_one, machine, *asked)))
    if (pid, path, name) != (None, None, None):
        option = None if path is None else f"-s {shlex.quote(path)}"
        choose = partial(instances.choose, pid, path, name)
        checks.append((instance.SUBJECT, partial(instance.check, choose, option)))
    return run_all(checks)


def table(machine: Machine, namespaces: OSError | None) -> list[Check]:
    """List the checks of a machine; *namespaces* is what `userns.attempt` returned."""
    return [
        (userns.SUBJECT, partial(userns.check, machine, namespaces)),
        (tun.SUBJECT, partial(tun.check, machine)),
        (sandbox.SUBJECT, partial(sandbox.check, machine)),
        (ping.SUBJECT, partial(ping.check, machine)),
        (ports.SUBJECT, partial(ports.check_low, machine)),
        ("open files", partial(limits.check_files, machine, limits.open_files_limit(), os.getppid())),
        ("pipes", partial(limits.check_pipes, machine)),
        ("inotify", lambda: limits.check_inotify(machine, limits.try_inotify())),
        ("network", partial(routes.check, machine)),
        (resolvers.SUBJECT, partial(resolvers.check, machine)),
        (versions.SUBJECT, partial(versions.check, machine, called=sys.argv[0])),
        (podman.SUBJECT, partial(podman.check, machine)),
        ("libvirt", partial(libvirt.check, machine)),
    ]


def run_all(checks: list[Check], limit_s: float = LIMIT_S) -> list[Finding]:
    """Run the checks at once; return their findings in order. Raises what a check raises but OSError."""
    answers: queue.SimpleQueue[tuple[int, list[Finding] | Exception]] = queue.SimpleQueue()

    def run(number: int, subject: str, check: Callable[[], list[Finding]]) -> None:
        try:
            answers.put((number, check()))
        except OSError as error:
            answers.put((number, [Finding(WARNING, subject, f"cannot be looked at: {error}")]))
        except Exception as error:  # noqa: BLE001 - raised again below, in the thread that is listened to
            answers.put((number, error))

    for number, (subject, check) in enumerate(checks):
        try:
            threading.Thread(target=run, args=(number, subject, check), daemon=True).start()
        except RuntimeError:      # a limit of processes is reached
            run(number, subject, check)
    found: dict[int, list[Finding]] = {}
    end = time.monotonic() + limit_s
    while len(found) < len(checks):
        try:
            number, answer = answers.get(timeout=max(end - time.monotonic(), 0))
        except queue.Empty:
            break
        if isinstance(answer, Exception):
            raise answer
        found[number] = answer
    return [finding for number, (subject, _) in enumerate(checks)
            for finding in (found[number] if number in found else [_late(subject, limit_s)])]


def _late(subject: str, limit_s: float) -> Finding:
    level = ERROR if subject == instance.SUBJECT else WARNING
    return Finding(level, subject, f"no answer within {limit_s:g} s")


def status(findings: Iterable[Finding]) -> int:
    """Return the exit status: 1 if there is an error."""
    return int(any(finding.level == ERROR for finding in findings))


def to_json(findings: list[Finding]) -> dict[str, Any]:
    """Return what --json prints."""
    worst = max((LEVELS.index(finding.level) for finding in findings), default=0)
    return {"worst": LEVELS[worst], "findings": [
        {"level": finding.level, "subject": finding.subject, "text": finding.text,
         "commands": list(finding.commands), "as_root": finding.as_root} for finding in findings]}


def to_lines(findings: list[Finding], *, is_root: bool) -> list[str]:
    """Write the findings, each with its commands below it, and a last line that sums up."""
    width = max((len(finding.subject) for finding in findings), default=0)
    indent = " " * (max(map(len, LEVELS)) + 2 + width + 2)
    lines = []
    for finding in findings:
        level = finding.level if finding.level == OK else finding.level.upper()
        lines.append(escape(f"{level:7}  {finding.subject:{width}}  {finding.text}"))
        who = "as root: " if finding.as_root and not is_root else "try: "
        lines += [f"{indent}{who}{escape(command)}" for command in finding.commands]
    counts = {level: sum(finding.level == level for finding in findings) for level in LEVELS[:0:-1]}
    told = ", ".join(f"{n} {level}{'' if n == 1 else 's'}" for level, n in counts.items() if n)
    return [*lines, "", told or "all is well"]
