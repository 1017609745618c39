"""qrap's work: read its own two arguments, connect to passt, become QEMU.

::

    qrap FD PROGRAM [ARG]...    PROGRAM with ARGs as they are, the connection on descriptor FD
    qrap ARG...                 the host's QEMU with ARGs in which the network is replaced
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from passt.config.getopt import UsageError
from passt.errors import ConfigError, HostError
from passt.facts.launcher import INTERPRETERS, ignored_signals
from passt.qrap import find_passt, qemu_command

if TYPE_CHECKING:
    from collections.abc import Sequence

FIRST_FD = 3
DEFAULT_FD = 5
MAX_DIGITS = 9
# Architectures that QEMU and the kernel name differently.
_ARCHITECTURES = {"i486": "i386", "i586": "i386", "i686": "i386", "armv6l": "arm", "armv7l": "arm",
                  "armv8l": "arm", "ppc64le": "ppc64", "mips64": "mips64"}


class Plan(NamedTuple):
    """What to start: the executable *path*, its *argv*, and the descriptor of the connection, if any."""

    path: str
    argv: list[str]
    fd: int | None


def run(arguments: Sequence[str]) -> NoReturn:
    """Connect and become QEMU. Raises ConfigError and HostError."""
    plan = make_plan(arguments)
    if plan.fd is not None:
        connection = find_passt.connect()
        try:
            os.dup2(connection.fileno(), plan.fd)
            os.set_inheritable(plan.fd, True)
        except OSError as error:
            raise ConfigError(f"descriptor {plan.fd}: {error.strerror}; choose one below the limit of"
                              " open files (ulimit -n)") from None
    # Python ignores these signals, and ignored signals stay so in the new program.
    for signum in frozenset(INTERPRETERS) - ignored_signals():
        signal.signal(signum, signal.SIG_DFL)
    try:
        os.execv(plan.path, plan.argv)  # noqa: S606 - our purpose
    except OSError as error:
        raise HostError(f"cannot start {plan.path}: {error.strerror}") from None


def make_plan(arguments: Sequence[str]) -> Plan:
    """Read qrap's own arguments. Raises ConfigError (UsageError) and HostError."""
    if not arguments:
        raise UsageError("arguments are missing: FD PROGRAM [ARG]..., or those of QEMU")
    first, *rest = arguments
    if first.isascii() and first.isdecimal() and not (rest and rest[0].startswith("-")):
        return _explicit_plan(first, rest)
    path = find_qemu()
    argv = [os.path.basename(path)]
    if qemu_command.needs_network(arguments):
        return Plan(path, argv + qemu_command.patch(arguments, DEFAULT_FD), DEFAULT_FD)
    return Plan(path, [*argv, *arguments], None)


def _explicit_plan(first: str, rest: Sequence[str]) -> Plan:
    if not rest:
        raise UsageError(f"which program to start with descriptor {first} is missing")
    if len(first) > MAX_DIGITS:
        raise ConfigError(f"descriptor {first}: no process has so many; choose a smaller one")
    if int(first) < FIRST_FD:
        raise ConfigError(f"descriptor {first}: 0, 1 and 2 are in use; choose {FIRST_FD} or more")
    path = find_program(rest[0])
    if path is None:
        raise ConfigError(f"program '{rest[0]}' is not an executable file, here or in PATH")
    return Plan(path, list(rest), int(first))


def find_qemu() -> str:
    """Return the path of the host's QEMU. Raises HostError."""
    machine = os.uname().machine
    system = f"qemu-system-{_ARCHITECTURES.get(machine, machine)}"
    names = ("kvm", "qemu-kvm", system, "/usr/libexec/qemu-kvm")
    for name in names:
        if path := find_program(name):
            return path
    raise HostError(f"QEMU is not there: none of {', '.join(names)} can be found")


def find_program(name: str) -> str | None:
    """Return the path of an executable file as a shell finds it; None if there is none."""
    if "/" in name:
        return name if _is_executable(name) else None
    for directory in os.environ.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.join(directory or os.curdir, name)
        if _is_executable(path):
            return path
    return None


def _is_executable(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)
