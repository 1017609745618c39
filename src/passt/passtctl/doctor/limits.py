"""Limits of this user and of the machine: descriptors, pipes, inotify."""

from __future__ import annotations

import errno
import os
import resource

from passt.host import syscalls
from passt.host.descriptors import MAX_FD
from passt.passtctl.doctor.finding import ERROR, NOTE, OK, WARNING, Finding, set_sysctl
from passt.passtctl.doctor.machine import parse_number

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from passt.passtctl.doctor.machine import Machine

LEAST_FILES = 64        # with fewer no form of the program starts (tests/system/test_few_descriptors.py)
FEW_FILES = 4096
GOOD_FILES = 1 << 20    # fs.nr_open of a kernel as it comes
# Pipes of connections that bypass the link: as dataplane/sockets/pipe_pool has it; pipe(7) for the limits.
PIPE_SIZE = 1 << 20
SOFT_PAGES, HARD_PAGES = "fs.pipe-user-pages-soft", "fs.pipe-user-pages-hard"
PIPE_MAX_SIZE = "fs.pipe-max-size"
DEFAULT_SOFT_PAGES = 16384
_PERCENT_FULL = 90


def open_files_limit() -> tuple[int, int]:
    """Return the soft and the hard limit of open files; MAX_FD for none."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (MAX_FD if soft == resource.RLIM_INFINITY else soft,
            MAX_FD if hard == resource.RLIM_INFINITY else hard)


def check_files(machine: Machine, limit: tuple[int, int], shell: int) -> list[Finding]:
    """Judge the *limit* of open files, soft and hard; *shell* is the process whose limit is to be raised."""
    soft, hard = limit
    subject = "open files"
    raised = (f"prlimit --pid {shell} --nofile={GOOD_FILES}:{GOOD_FILES}",)
    if hard < LEAST_FILES:
        found = [Finding(ERROR, subject, f"the hard limit is {hard}: pasta needs {LEAST_FILES}", raised,
                         as_root=True)]
    elif hard < FEW_FILES:
        found = [Finding(WARNING, subject, f"the hard limit is {hard}, which is the number of connections at"
                         " once too, and half of it for those that bypass the link", raised, as_root=True)]
    else:
        found = [Finding(OK, subject, f"the soft limit is {soft}, the hard one, which counts, {hard}")]
    return found + _whole_machine(machine, subject)


def _whole_machine(machine: Machine, subject: str) -> list[Finding]:
    """Look whether files run out for all users: fs.file-nr has those in use, unused ones, and the limit."""
    numbers = [parse_number(word) for word in (machine.sysctl("fs.file-nr") or "").split()]
    if len(numbers) != 3 or None in numbers:
        return []
    used, _, most = (number or 0 for number in numbers)
    if most <= 0 or used * 100 < most * _PERCENT_FULL:
        return []
    return [Finding(WARNING, subject, f"the machine has {used} files open of {most}",
                    (set_sysctl("fs.file-max", 2 * most),), as_root=True)]


def check_pipes(machine: Machine) -> list[Finding]:
    """Judge the limits of pipes, through which connections pass that bypass the link."""
    subject, found = "pipes", []
    soft, hard, largest = (machine.number(name) for name in (SOFT_PAGES, HARD_PAGES, PIPE_MAX_SIZE))
    if hard:                      # 0 is none
        found.append(Finding(WARNING, subject, f"{HARD_PAGES} is {hard}: beyond it bypassed connections have"
                             " no pipe, and their data is copied", (set_sysctl(HARD_PAGES, 0),),
                             as_root=True))
    if soft and soft < DEFAULT_SOFT_PAGES:
        found.append(Finding(NOTE, subject, f"{SOFT_PAGES} is {soft}: beyond it the pipes of bypassed"
                             " connections are small", (set_sysctl(SOFT_PAGES, DEFAULT_SOFT_PAGES),),
                             as_root=True))
    if largest is not None and largest < PIPE_SIZE:
        found.append(Finding(NOTE, subject, f"{PIPE_MAX_SIZE} is {largest}: bypassed connections move less at"
                             " once", (set_sysctl(PIPE_MAX_SIZE, PIPE_SIZE),), as_root=True))
    return found or [Finding(OK, subject, f"{SOFT_PAGES} is {soft or 'none'}")]


def try_inotify() -> OSError | None:
    """Ask for an instance of inotify, and for a watch; return what forbids it."""
    try:
        fd = syscalls.inotify_init()
    except OSError as error:
        return error
    try:
        syscalls.inotify_add_watch(fd, b"/", syscalls.IN_DELETE_SELF)
    except OSError as error:
        return error
    finally:
        os.close(fd)
    return None


def check_inotify(machine: Machine, refusal: OSError | None) -> list[Finding]:
    """Judge inotify(7), by which pasta sees that a namespace is removed; *refusal* is of `try_inotify`."""
    subject = "inotify"
    if refusal is None:
        return [Finding(OK, subject, "the end of a namespace is seen at once")]
    name = {errno.EMFILE: "fs.inotify.max_user_instances",
            errno.ENOSPC: "fs.inotify.max_user_watches"}.get(refusal.errno or 0)
    slow = "pasta looks twice a second for the end of a namespace that is named by a path"
    if name is None:
        return [Finding(NOTE, subject, f"it is refused ({refusal.strerror}): {slow}")]
    most = machine.number(name) or 0
    return [Finding(WARNING, subject, f"this user has as many as {name} permits, {most}: {slow}",
                    (set_sysctl(name, max(2 * most, 1024)),), as_root=True)]
