"""The filter of system calls, as the last step of a start; tools/seccomp_policy.py says what is allowed.

Theory of operation. The programs for the kernel are made when the policy changes (tools/gen_seccomp.py),
so nothing but the kernel is needed here. Each thread has its own: that of the namespace loads its program
itself, before the main thread does. A filter is inherited by all children and by the programs that they
execute, and the command must not have ours: PID 1 of the command is forked before. After the main thread has
loaded its filter it forks no more, which the filter sees to.

Calls that the policy does not name get ENOSYS, and the loop logs each of them once: `CallFilter.watch`. What
only an intruder would ask for kills the process; the kernel's audit log has the number of the call then.
"""

from __future__ import annotations

import errno
import os
from binascii import a2b_base64
from struct import pack

from passt import log
from passt.errors import HostError
from passt.host import seccomp
from passt.process.seccomp_filters import FILTERS, NAMES, PID_MARK

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Loop(Protocol):
        """The part of `dataplane.engine.Engine` that is used."""

        def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
            """Call *callback* whenever *fd* is readable."""


_SHOWN_BELOW = 1 << 32  # larger arguments are addresses


class CallFilter:
    """The filters of one run of a *form* of the program: one of `process.stages.FORMS`.

    Make it when the process will not fork again, as the programs bear our number. From then on refused calls
    return ENOSYS. On a machine for which there are no filters it warns, and does nothing. *machine* is as
    uname(2) says. Raises HostError.
    """

    def __init__(self, form: str, machine: str = "") -> None:
        machine = machine or os.uname().machine
        programs = FILTERS.get(machine)
        self.thread_program = b""
        self._main_program = b""
        self._told: set[int] = set()
        self._fd = -1
        self._names: list[str] = []
        if programs is None:
            log.warning(f"there is no filter of system calls for this machine ({machine}): goes on without "
                        "one")
            return
        self._main_program = _program(programs[form], os.getpid())
        self.thread_program = _program(programs["thread"], os.getpid())
        self._names = NAMES[machine].split()
        try:
            self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            seccomp.handle_refusals(self._fd)
        except OSError as error:
            raise HostError(f"cannot watch for refused system calls: {error.strerror}") from None

    def install(self) -> None:
        """Put the calling thread, the main one, under its filter for good. Raises HostError."""
        if not self._main_program:
            return
        try:
            seccomp.load(self._main_program)
        except OSError as error:
            raise HostError(explain_load(error)) from None

    def watch(self, loop: Loop) -> None:
        """Have *loop* log refused calls."""
        if self._fd >= 0:
            loop.add_reader(self._fd, self._on_refusal)

    def _on_refusal(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            pass                  # told already, with the one before
        for number, args in seccomp.refusals().items():
            if number not in self._told:
                self._told.add(number)
                log.warning(f"the kernel was asked for {self._describe(number, args)}, which the sandbox "
                            "does not know: refused with ENOSYS; please report")

    def _describe(self, number: int, args: tuple[int, ...]) -> str:
        """Describe a call: its name and number and, as far as they are no addresses, its first arguments."""
        if number >= seccomp.MAX_CALL:
            return f"a system call above {seccomp.MAX_CALL}"
        name = self._names[number] if number < len(self._names) else "-"
        shown = ", ".join(f"{arg:#x}" if arg < _SHOWN_BELOW else "..." for arg in args)
        return f"system call {number}({shown})" if name == "-" else f"{name}({shown}), number {number}"


def explain_load(error: OSError) -> str:
    """Say why a filter could not be loaded, and what would help."""
    if error.errno in (errno.EINVAL, errno.ENOSYS):
        return "cannot filter system calls: the kernel was built without CONFIG_SECCOMP_FILTER"
    return f"cannot filter system calls: {error.strerror}"


def program_of(form: str, pid: int) -> bytes:
    """Return the filter of *form* for process *pid*, struct sock_filter[]; empty if this machine has none."""
    programs = FILTERS.get(os.uname().machine)
    return b"" if programs is None else _program(programs[form], pid)


def _program(text: str, pid: int) -> bytes:
    """Decode a program and put the number of its process in."""
    # tools/gen_seccomp.py has made sure that these four bytes are nothing else anywhere.
    return a2b_base64(text).replace(pack("=I", PID_MARK), pack("=I", pid))
