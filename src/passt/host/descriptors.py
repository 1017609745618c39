"""Descriptors of this process: which are open, where 0, 1 and 2 lead, and the limit of open files."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal

from passt.host import syscalls

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable

FIRST_OWN_FD = 3
MAX_FD = 0xFFFF_FFFF


def tidy_descriptors(keep: Iterable[int] = ()) -> None:
    """Open those of 0, 1 and 2 that are closed, and close all other descriptors except *keep*.

    Otherwise a socket of ours could become standard output, and a pipe of the caller whose other end we
    inherit would stay open for our whole life.
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
    close_descriptors(first, MAX_FD)


def open_null() -> int:
    """Open /dev/null, close-on-exec; if a container has none, an empty memory file sealed against writes."""
    try:
        return os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        null = os.memfd_create("null", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        # Reads see the end of file, and writes fail, so no memory fills up.
        fcntl.fcntl(null, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return null


def close_descriptors(first: int, last: int, *, use_close_range: bool = True) -> None:
    """Close the descriptors *first* to *last* by close_range(2), before Linux 5.9 by the list in /proc."""
    if use_close_range:
        try:
            syscalls.close_range(first, last, 0)
        except OSError as error:
            # Some container filters answer EPERM to system calls that they do not know.
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


def leave_stdio(null: int) -> None:
    """Replace standard input and output by *null*, of `open_null`, once the command has them; close *null*.

    Otherwise a reader of the command's output would see no end of file when the command closes it, and a
    writer to its input would not see that the command closed that.
    """
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)


def raise_file_limit() -> tuple[int, int]:
    """Raise the soft limit of open files to the hard one; return the old limits (soft, hard)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft, hard


def end_with(reader: int) -> None:
    """Have the kernel end this process, even a stopped one, when nobody has the write end of a pipe any more.

    *reader* is the only read end. The kernel sends a signal then by which input is told, and we choose
    SIGKILL (fcntl(2), F_SETSIG). Raises OSError if the write end has gone already.
    """
    fcntl.fcntl(reader, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(reader, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(reader, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
    try:
        gone = os.read(reader, 1) == b""
    except BlockingIOError:
        return
    raise OSError(errno.EPIPE if gone else errno.EIO, "the main process has ended")


def file_limit() -> int:
    """Return how many files may be open at once; a large number if there is no limit."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_FD if soft == resource.RLIM_INFINITY else soft


def restore_file_limit(limits: tuple[int, int]) -> None:
    """Set the limits of open files back to what `raise_file_limit` returned."""
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
