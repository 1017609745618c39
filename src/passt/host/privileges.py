"""What the process takes over from its caller, and what it gives up before it meets a guest."""

from __future__ import annotations

import errno
import fcntl
import os
import resource

from passt.host import syscalls

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable

    from passt.host.signals import CallerSignals

FIRST_OWN_FD = 3
_MAX_FD = 0xFFFF_FFFF
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2  # linux/capability.h
_MAX_CAPABILITIES = 64  # the kernel's sets have 64 bits


class Caller:
    """What the caller gave us and the command is to have: file limits (soft, hard), and *signals*."""

    __slots__ = ("file_limits", "signals")

    def __init__(self, file_limits: tuple[int, int], signals: CallerSignals) -> None:
        self.file_limits = file_limits
        self.signals = signals


def tidy_descriptors(keep: Iterable[int] = ()) -> None:
    """Make sure that 0, 1 and 2 are open, and close all others but *keep*.

    Without the first a socket of ours could become standard output; without the second we would hold
    open, for our whole life, the far end of some pipe of the caller's.
    """
    for fd in range(FIRST_OWN_FD):
        try:
            os.fstat(fd)
        except OSError:
            # The lowest free number is fd itself, as all below it are open.
            os.set_inheritable(open_null(), True)
    first = FIRST_OWN_FD
    for fd in sorted(set(keep)):
        if fd > first:
            close_descriptors(first, fd - 1)
        first = max(first, fd + 1)
    close_descriptors(first, _MAX_FD)


def open_null() -> int:
    """Open /dev/null, or what is as empty where a container has none; close-on-exec."""
    try:
        return os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        null = os.memfd_create("null", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        # Reads find its end, and writes are refused: nobody can fill the memory.
        fcntl.fcntl(null, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return null


def close_descriptors(first: int, last: int, *, use_close_range: bool = True) -> None:
    """Close the descriptors *first* to *last*; close_range(2) came with Linux 5.9, /proc serves before."""
    if use_close_range:
        try:
            syscalls.close_range(first, last, 0)
        except OSError as error:
            # EPERM is what some container filters answer to system calls that they do not know.
            if error.errno not in (errno.ENOSYS, errno.EPERM):
                raise
        else:
            return
    for name in os.listdir("/proc/self/fd"):
        if first <= int(name) <= last:
            try:
                os.close(int(name))
            except OSError:
                continue


def leave_stdio() -> None:
    """Exchange standard input and output for /dev/null, once the command has them.

    Else whoever reads what the command writes would not see the end when the command closes it, and
    whoever writes to it would not see that it stopped reading.
    """
    null = open_null()
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)


def raise_file_limit() -> tuple[int, int]:
    """Raise the soft limit of open files to the hard one; return (soft, hard) as they were."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft, hard


def file_limit() -> int:
    """Return how many files may be open at once; a large number if there is no limit."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MAX_FD if soft == resource.RLIM_INFINITY else soft


def restore_file_limit(limits: tuple[int, int]) -> None:
    """Set the limits of open files back to what `raise_file_limit` returned."""
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def may_read_all() -> bool:
    """Tell whether a capability opens files to us that our user may not read.

    A change of user may take it away, and so does entering another user namespace, for the files of users who
    have no number in there: user_namespaces(7).
    """
    return bool(syscalls.capget()[0] & (1 << _CAP_DAC_OVERRIDE | 1 << _CAP_DAC_READ_SEARCH))


def close_to_others() -> None:
    """Keep other processes of our user out of this one: its memory, its descriptors, its control.

    A command's processes and those of an attached namespace can be of our user and in our user namespace.
    PR_SET_DUMPABLE(2const) closes ptrace(2), /proc/PID/mem and pidfd_getfd(2) to them, whatever capabilities
    they have in there, since it takes some in the user namespace that our program was started in. A change of
    credentials may set it back, so whoever makes one calls this again. Children inherit it, until execve(2).
    """
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)


def drop_privileges() -> None:
    """Give up every capability for good: bounding, ambient and all other sets; no program gains any.

    After this the process can do what its user can do to files and processes, and nothing else, in
    any user namespace. The bounding set takes CAP_SETPCAP to change; without it (attached to a
    namespace that gave us nothing) there is no other set to draw from it, and no_new_privs
    (Documentation/userspace-api/no_new_privs.rst) closes that way in any case.
    """
    for capability in range(_MAX_CAPABILITIES):
        try:
            syscalls.prctl(syscalls.PR_CAPBSET_DROP, capability)
        except OSError:
            break
    syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
    syscalls.capset(0, 0, 0)
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    close_to_others()
