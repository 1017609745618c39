"""User namespaces: may this user make one, and what forbids it.

Which sysctls there are depends on the kernel: user.max_*_namespaces are everywhere (namespaces(7)),
kernel.unprivileged_userns_clone is Debian's, kernel.apparmor_restrict_unprivileged_userns Ubuntu's from 23.10
on. The latter is about programs: one with a profile that permits them may make user namespaces while this
one may not, so pasta itself is asked then. It lets others make a user namespace too, in which they may do
nothing; that is why a network namespace is asked for in the same step.
"""

from __future__ import annotations

import errno
import os
import signal

from passt.host import syscalls
from passt.passtctl.doctor.finding import ERROR, NOTE, OK, WARNING, Finding, set_sysctl

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.passtctl.doctor.machine import Machine

SUBJECT = "user namespaces"
DEBIAN = "kernel.unprivileged_userns_clone"
UBUNTU = "kernel.apparmor_restrict_unprivileged_userns"
PROFILES = ("/etc/apparmor.d/pasta-python", "/etc/apparmor.d/passt-python")
ENOUGH = 15000          # what documentation of distributions sets user.max_user_namespaces to
_COUNTED = ("user", "net", "pid", "mnt", "ipc", "uts")
_NEEDED = frozenset({"user", "net", "pid"})     # the sandbox does without the others


def attempt() -> OSError | None:
    """Have a child in user and network namespaces of its own, which ends at once; return what forbids it.

    For a process of one thread.
    """
    try:
        pid, pidfd = syscalls.clone(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNET, signal.SIGKILL)
    except OSError as error:
        return error
    if pid == 0:
        os._exit(0)
    os.close(pidfd)
    os.waitpid(pid, 0)
    return None


def runs_pasta(machine: Machine) -> bool:
    """Tell whether the first pasta in PATH runs a command in a namespace of its own."""
    found = machine.find_programs("pasta")
    closed = [word for option in ("-t", "-u", "-T", "-U") for word in (option, "none")]
    return bool(found) and machine.run([found[0], "--quiet", *closed, "--", "true"]) is not None


def check(machine: Machine, refusal: OSError | None,
          works: Callable[[Machine], bool] = runs_pasta) -> list[Finding]:
    """Say whether user namespaces can be had; *refusal* is what `attempt` returned."""
    found = [*_limits(machine), *_debian(machine, refusal), *_ubuntu(machine, refusal, works)]
    if refusal is None:
        return [Finding(OK, SUBJECT, "this user may make them"), *found]
    if not any(finding.level in {OK, ERROR} for finding in found):
        found.append(_unexplained(machine, refusal))
    return found


def _limits(machine: Machine) -> list[Finding]:
    names = {kind: f"user.max_{kind}_namespaces" for kind in _COUNTED}
    return [Finding(ERROR if kind in _NEEDED else WARNING, SUBJECT, f"{name} is 0, so there can be none",
                    (set_sysctl(name, ENOUGH),), as_root=True)
            for kind, name in names.items() if machine.number(name) == 0]


def _debian(machine: Machine, refusal: OSError | None) -> list[Finding]:
    if machine.sysctl(DEBIAN) != "0":
        return []
    level = NOTE if refusal is None else ERROR
    return [Finding(level, SUBJECT, f"{DEBIAN} is 0: root alone may make them", (set_sysctl(DEBIAN, 1),),
                    as_root=True)]


def _ubuntu(machine: Machine, refusal: OSError | None, works: Callable[[Machine], bool]) -> list[Finding]:
    if machine.sysctl(UBUNTU) in {None, "0"}:
        return []
    text = f"{UBUNTU} is 1: plain users may make them by programs alone whose AppArmor profile permits it"
    if refusal is not None and works(machine):
        return [Finding(OK, SUBJECT, f"{text}, as that of pasta does")]
    files = [name for name in PROFILES if machine.exists(name)]
    if files:
        return [Finding(NOTE if refusal is None else ERROR, SUBJECT,
                        f"{text}; there are profiles of pasta and passt, which may not be loaded, or not be"
                        " for where the programs lie (@{passt_prefix})",
                        (f"apparmor_parser -r {' '.join(files)}",), as_root=True)]
    return [Finding(NOTE if refusal is None else ERROR, SUBJECT,
                    f"{text}: load those of share/apparmor (README), or permit all programs",
                    (set_sysctl(UBUNTU, 0),), as_root=True)]


def _unexplained(machine: Machine, refusal: OSError) -> Finding:
    """Say what a refusal means that no sysctl explains."""
    if refusal.errno in {errno.ENOSPC, errno.EUSERS}:
        limits = {name: machine.number(name) for name in ("user.max_user_namespaces",
                                                          "user.max_net_namespaces")}
        commands = tuple(set_sysctl(name, 2 * most) for name, most in limits.items() if most)
        return Finding(ERROR, SUBJECT, "as many as may be are there, here or in an outer user namespace",
                       commands, as_root=True)
    if refusal.errno in {errno.EINVAL, errno.ENOSYS}:
        return Finding(ERROR, SUBJECT, "the kernel is built without them: one with CONFIG_USER_NS and"
                       " CONFIG_NET_NS is needed")
    if refusal.errno in {errno.EPERM, errno.EACCES} and machine.is_container():
        return Finding(ERROR, SUBJECT, "the container's filter of system calls or security profile forbids"
                       " them: start it with others",
                       ("podman run --security-opt seccomp=unconfined --security-opt label=disable IMAGE",))
    return Finding(ERROR, SUBJECT, f"they are refused ({refusal.strerror}): a filter of system calls, a"
                   " security module, or a chroot forbids them")
