"""What the program's sandbox finds in this kernel: the filter of system calls, Landlock.

Without one of them the program works, and says so with -d; docs/security.md has what is left then.
"""

from __future__ import annotations

import errno
import os

from passt.host import syscalls
from passt.passtctl.doctor.finding import ERROR, NOTE, OK, Finding
from passt.process.seccomp_filters import FILTERS

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.passtctl.doctor.machine import Machine

SUBJECT = "sandbox"
ACTIONS = "kernel.seccomp.actions_avail"
NEEDED = frozenset({"allow", "trap", "kill_process"})


def check(machine: Machine, landlock: Callable[[], int] = syscalls.landlock_version,
          architecture: str = "") -> list[Finding]:
    """Look at both, for the processor *architecture*, as `uname -m` prints it."""
    return [*_filter(machine, architecture or os.uname().machine), *_landlock(landlock)]


def _filter(machine: Machine, architecture: str) -> list[Finding]:
    """Look at seccomp (seccomp(2), /proc interfaces)."""
    text = machine.sysctl(ACTIONS)
    if text is None:
        if machine.sysctl("kernel.ostype") is None:
            return []             # no /proc to be asked
        return [Finding(ERROR, SUBJECT, "the kernel has no filters of system calls: one with"
                        " CONFIG_SECCOMP_FILTER is needed")]
    if missing := sorted(NEEDED - set(text.split())):
        return [Finding(ERROR, SUBJECT, f"the kernel's filters of system calls lack {', '.join(missing)}")]
    if architecture not in FILTERS:
        return [Finding(NOTE, SUBJECT, f"there is no filter of system calls for this processor"
                        f" ({architecture}): the program goes on without")]
    return [Finding(OK, SUBJECT, "system calls are filtered")]


def _landlock(version: Callable[[], int]) -> list[Finding]:
    try:
        return [Finding(OK, SUBJECT, f"Landlock has version {version()}")]
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return [Finding(NOTE, SUBJECT, "Landlock is switched off: the boot parameter lsm= has to name it;"
                            " an empty root directory closes paths meanwhile")]
        why = "the kernel has no Landlock" if error.errno == errno.ENOSYS else (
            f"Landlock cannot be had ({error.strerror})")
        return [Finding(NOTE, SUBJECT, f"{why}: an empty root directory closes paths meanwhile")]
