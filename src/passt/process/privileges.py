"""The state taken over from the caller, and the privileges given up before a guest is served."""

from __future__ import annotations

import fcntl
import os

from passt.host import syscalls

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from types import TracebackType

    from passt.process.signals import CallerSignals

CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH, CAP_FOWNER = 1, 2, 3  # linux/capability.h
CAP_SETGID, CAP_SETUID, CAP_SETPCAP = 6, 7, 8
CAP_NET_BIND_SERVICE = 10
_PR_CAP_AMBIENT_RAISE = 2  # linux/prctl.h
_NS_GET_USERNS = 0xB701  # linux/nsfs.h
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
    return bool(syscalls.capget()[0] & (1 << CAP_DAC_OVERRIDE | 1 << _CAP_DAC_READ_SEARCH))


def may_bind_low_ports() -> bool:
    """Tell whether a capability lets us bind any port in our network namespace.

    Root of a container that uses the host's network has the capability, but not over that network: the owner
    of that is out of its sight (ioctl_nsfs(2)).
    """
    if not syscalls.capget()[0] & 1 << CAP_NET_BIND_SERVICE:
        return False
    try:
        network = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.close(fcntl.ioctl(network, _NS_GET_USERNS))
    except OSError:
        return False
    finally:
        os.close(network)
    return True


def close_to_others() -> None:
    """Deny other processes of our user access to our memory and descriptors.

    Processes of a command or of an attached namespace can have our user and our user namespace. After
    PR_SET_DUMPABLE(2const), ptrace(2), /proc/PID/mem and pidfd_getfd(2) take CAP_SYS_PTRACE in the user
    namespace in which our program was started, which those processes do not have. A change of credentials
    may reset it, so call this again after each. Children inherit it until execve(2).
    """
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)


def keep_only(capabilities: int) -> None:
    """Give up all capabilities that we have but those in the mask *capabilities*, of 1 << CAP_*.

    A program that we executed would have none (no_new_privs). Raises OSError.
    """
    kept = syscalls.capget()[1] & capabilities
    syscalls.capset(kept, kept, 0)
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)


def drop_privileges() -> None:
    """Give up every capability for good: the bounding, the ambient and all other sets.

    After this the process has the rights of its user and no others, in any user namespace. To drop from the
    bounding set takes CAP_SETPCAP. Without it, as when attached to a namespace that gave us no capability,
    the bounding set stays, but a capability could only come from it by execve(2), which no_new_privs
    (Documentation/userspace-api/no_new_privs.rst) prevents.
    """
    _keep(0)


class Lent:
    """While it is entered, programs that we start keep what we have of *capabilities*, a mask of 1 << CAP_*.

    These are made ambient (capabilities(7)): without this execve(2) takes all from a user who is not root.
    """

    def __init__(self, capabilities: int) -> None:
        self._before = syscalls.capget()
        self._lent = capabilities & self._before[1]

    def __enter__(self) -> None:
        if self._lent:
            effective, permitted, inheritable = self._before
            syscalls.capset(effective, permitted, inheritable | self._lent)
            for capability in range(_MAX_CAPABILITIES):
                if self._lent >> capability & 1:
                    syscalls.prctl(syscalls.PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        if self._lent:
            syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
            syscalls.capset(*self._before)


def keep_one(capability: int) -> None:
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
