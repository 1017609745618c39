"""Descriptors of this process: which are open, where the standard ones lead, how many there may be."""

from __future__ import annotations

import errno
import fcntl
import os
import resource

from passt.host import syscalls

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable

FIRST_OWN_FD = 3
_MAX_FD = 0xFFFF_FFFF


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
