"""What the process takes over from its caller, and what it gives up before it meets a guest."""

from __future__ import annotations

from passt.host import syscalls

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from passt.process.signals import CallerSignals

_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2  # linux/capability.h
_MAX_CAPABILITIES = 64  # the kernel's sets have 64 bits


class Caller:
    """What the caller gave us and the command is to have: file limits (soft, hard), and *signals*."""

    __slots__ = ("file_limits", "signals")

    def __init__(self, file_limits: tuple[int, int], signals: CallerSignals) -> None:
        self.file_limits = file_limits
        self.signals = signals


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
