"""The state taken over from the caller, and the privileges given up before a guest is served."""

from __future__ import annotations

from passt.host import syscalls

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from passt.process.signals import CallerSignals

_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2  # linux/capability.h
_MAX_CAPABILITIES = 64  # the kernel's sets have 64 bits


class Caller:
    """State of the caller that the command gets back: *file_limits* (soft, hard), and *signals*."""

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


def has_capability(capability: int) -> bool:
    """Tell whether *capability* (capabilities(7)) is in effect, in our user namespace."""
    return bool(syscalls.capget()[0] & 1 << capability)


def close_to_others() -> None:
    """Deny other processes of our user access to our memory and descriptors.

    Processes of a command or of an attached namespace can have our user and our user namespace. After
    PR_SET_DUMPABLE(2const), ptrace(2), /proc/PID/mem and pidfd_getfd(2) take CAP_SYS_PTRACE in the user
    namespace in which our program was started, which those processes do not have. A change of credentials
    may reset it, so call this again after each. Children inherit it until execve(2).
    """
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)


def drop_privileges() -> None:
    """Give up every capability for good: the bounding, the ambient and all other sets.

    After this the process has the rights of its user and no others, in any user namespace. To drop from the
    bounding set takes CAP_SETPCAP. Without it, as when attached to a namespace that gave us no capability,
    the bounding set stays, but a capability could only come from it by execve(2), which no_new_privs
    (Documentation/userspace-api/no_new_privs.rst) prevents.
    """
    _keep(0)


def keep_only(capability: int) -> None:
    """Give up every capability but *capability*, for good; otherwise as `drop_privileges`."""
    _keep(1 << capability)


def _keep(kept: int) -> None:
    """Give up all capabilities that are not in the set *kept*."""
    for capability in range(_MAX_CAPABILITIES):
        if kept >> capability & 1:
            continue
        try:
            syscalls.prctl(syscalls.PR_CAPBSET_DROP, capability)
        except OSError:
            break
    syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
    syscalls.capset(kept, kept, 0)
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    close_to_others()
