"""The name under which a process is listed: proc_pid_comm(5), 15 bytes at most."""

from __future__ import annotations

import os


def take_name(name: str) -> None:
    """Be called *name* in lists of processes, and not after the interpreter or the process before a fork."""
    try:
        fd = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return                    # no /proc: nobody can look either
    os.write(fd, name.encode())
    os.close(fd)
