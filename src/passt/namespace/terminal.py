"""The controlling terminal and job control, as the main process sees them.

The command should behave as if we were not there. A shell with job control starts us in a process group; the
terminal signals its foreground group when the user types (Ctrl-C: SIGINT).

* If others are in our group (a pipeline, a script), the command stays in it with them, and the
  kernel signals everybody as it would without us. We block these signals, so only the command decides.
* If we lead a group and are alone in it, the command leads a group of its own, which becomes the foreground
  group instead of ours. Then its group has a number in its PID namespace, which interactive shells need, and
  programs that lead a group when started from a prompt (timeout(1)) still do. The shell's fg gives the
  terminal to our group, and we give it to the command's group.

When the command stops, we stop by the same signal, so that the shell which waits for us regains
control. While we are stopped, a message from PID 1 (the command continues, or was killed) must wake us: the
channel raises SIGCONT (fcntl(2), F_SETSIG), which continues a process even if it is blocked.
"""

from __future__ import annotations

import fcntl
import os
import signal
import stat

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from passt.namespace.child_channel import Channel



class Terminal:
    """The controlling terminal, if there is one."""

    def __init__(self) -> None:
        self.fd = open_terminal()

    def close(self) -> None:
        """Close our descriptor of the terminal."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def is_ours(self) -> bool:
        """Tell whether our process group is the foreground group."""
        try:
            return self.fd >= 0 and os.tcgetpgrp(self.fd) == os.getpgrp()
        except OSError:  # the terminal hung up
            return False

    def reclaim(self) -> None:
        """Take the terminal back if its foreground group, one of the command's, has no process left.

        A shell with job control does this itself; a script that goes on after us does not.
        Needs SIGTTOU blocked.
        """
        try:
            group = os.tcgetpgrp(self.fd) if self.fd >= 0 else 0
        except OSError:
            return
        if group > 0 and group != os.getpgrp() and _is_dead_group(group):
            give_terminal(self.fd, os.getpgrp())


def open_terminal() -> int:
    """Open the controlling terminal; -1 if there is none."""
    try:
        return os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return -1


def give_terminal(fd: int, group: int) -> None:
    """Make *group* the foreground group of the terminal *fd*, if both are still there."""
    try:
        os.tcsetpgrp(fd, group)
    except OSError:
        return


def leads_alone() -> bool:
    """Tell whether we lead a process group and are alone in it.

    The first program of a pipeline leads its group, so the group has others only if our output is a pipe.
    """
    return os.getpgrp() == os.getpid() and not any(_is_pipe(fd) for fd in (1, 2))


def stop_like(signum: int, channel: Channel) -> None:
    """Stop this process by *signum*, as the command was; return when continued, or when a message arrives."""
    flags = fcntl.fcntl(channel, fcntl.F_GETFL)
    fcntl.fcntl(channel, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(channel, fcntl.F_SETSIG, signal.SIGCONT)
    fcntl.fcntl(channel, fcntl.F_SETFL, flags | os.O_ASYNC)
    if not channel.has_news():
        _raise_unblocked(signum)
    fcntl.fcntl(channel, fcntl.F_SETFL, flags)


def _raise_unblocked(signum: int) -> None:
    if signum == signal.SIGSTOP:
        os.kill(os.getpid(), signum)
        return
    # Raise the signal while it is blocked, so that it acts when it is unblocked.
    os.kill(os.getpid(), signum)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signum])
    signal.pthread_sigmask(signal.SIG_BLOCK, [signum])


def _is_pipe(fd: int) -> bool:
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _is_dead_group(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
