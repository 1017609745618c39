"""Why the kernel refuses a namespace: the sysctl, the limit or the security profile that is the cause."""

from __future__ import annotations

import errno

SYSCTL_ROOT = "/proc/sys"
_COUNTED = ("user", "pid", "net", "ipc", "uts", "mnt")  # user.max_*_namespaces, namespaces(7)


def explain_refusal(what: str, error: OSError, root: str = SYSCTL_ROOT) -> str:
    """Say which sysctl below *root* is the cause of *error*, met when asking for *what*."""
    sysctls = _find_sysctls(error, root)
    if sysctls:
        return f"cannot get {what}: {error.strerror}; {sysctls}"
    if error.errno in (errno.EPERM, errno.EACCES):
        return (f"cannot get {what}: {error.strerror}; a container's seccomp or security profile, a security "
                "module, or a chroot forbids it")
    if error.errno == errno.EINVAL:
        return f"cannot get {what}: {error.strerror}; the kernel is built without it (CONFIG_USER_NS)"
    return f"cannot get {what}: {error.strerror}"


def _find_sysctls(error: OSError, root: str) -> str:
    """Name the sysctls that cause *error*, and values that would not cause it; empty if none does."""
    if error.errno in (errno.ENOSPC, errno.EUSERS):
        named = [f"user.max_{kind}_namespaces" for kind in _COUNTED]
        zero = [name for name in named if _read_sysctl(root, name) == "0"]
        if zero:
            return " and ".join(f"{name} is 0" for name in zero) + ": raise it with sysctl"
        return (f"a limit is reached ({', '.join(named)}), here or in an outer user namespace, or user "
                "namespaces are nested more than 32 deep")
    if error.errno in (errno.EPERM, errno.EACCES):
        if _read_sysctl(root, "kernel.unprivileged_userns_clone") == "0":
            return "kernel.unprivileged_userns_clone is 0: set it to 1 with sysctl"
        if _read_sysctl(root, "kernel.apparmor_restrict_unprivileged_userns") == "1":
            return ("kernel.apparmor_restrict_unprivileged_userns is 1: set it to 0 with sysctl, or give "
                    "pasta an AppArmor profile that permits 'userns', as that of share/apparmor in its "
                    "sources")
    return ""


def _read_sysctl(root: str, name: str) -> str:
    """Return the value of a sysctl; empty if it does not exist or cannot be read."""
    try:
        with open(f"{root}/{name.replace('.', '/')}", encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""
