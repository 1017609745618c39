"""The user that serves the guest: the one of --runas, or nobody instead of root.

Root means root of the host. User 0 of another user namespace (a container's, Podman's) is an ordinary user
of the host, and is not changed.
"""

from __future__ import annotations

import os

from passt.errors import ConfigError, HostError
from passt.host import syscalls
from passt.process.privileges import close_to_others

NOBODY = "nobody"
NOBODY_ID = 65534       # the kernel's overflow ID, for users without a mapping in a user namespace
UID_MAP = "/proc/self/uid_map"
_WHOLE_MAP = ["0", "0", "4294967295"]  # user_namespaces(7): the initial user namespace maps all to itself


class Identity:
    """A user and a group, by number."""

    __slots__ = ("gid", "uid")

    def __init__(self, uid: int, gid: int) -> None:
        self.uid = uid
        self.gid = gid

    def is_ours(self) -> bool:
        """Tell whether this process has these real, effective and saved IDs already."""
        return os.getresuid() == (self.uid,) * 3 and os.getresgid() == (self.gid,) * 3

    def assume(self) -> None:
        """Become this user, in this group only, and keep all capabilities. Raises HostError.

        `privileges.drop_privileges` takes them away later.
        """
        if self.is_ours():
            return
        try:
            os.setgroups([])
        except PermissionError:
            pass                  # setgroups(2) is denied in this user namespace, or we lack CAP_SETGID
        syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)
        try:
            os.setresgid(self.gid, self.gid, self.gid)
            os.setresuid(self.uid, self.uid, self.uid)
        except OSError as error:
            raise HostError(f"cannot change to user {self.uid} and group {self.gid}: {error.strerror}; "
                            "--runas takes root, or CAP_SETUID and CAP_SETGID") from None
        finally:
            syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 0)
        _, permitted, _ = syscalls.capget()
        syscalls.capset(permitted, permitted, 0)
        close_to_others()


def is_root(path: str = UID_MAP) -> bool:
    """Tell whether we are root of the host."""
    if os.geteuid() != 0:
        return False
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().split() == _WHOLE_MAP
    except OSError:
        return True


def choose(runas: str | None) -> Identity | None:
    """Return the user to become: that of *runas*, else nobody if we are root, or None. Raises ConfigError."""
    if runas is not None:
        try:
            asked = _look_up(runas)
        except ConfigError as error:
            raise ConfigError(f"option '--runas' {runas}: {error}") from None
        return None if asked.is_ours() else asked
    if not is_root():
        return None
    return find_nobody()


def find_nobody() -> Identity:
    """Look up the user nobody; without one take 65534."""
    import pwd

    try:
        entry = pwd.getpwnam(NOBODY)
    except KeyError:
        return Identity(NOBODY_ID, NOBODY_ID)
    return Identity(entry.pw_uid, entry.pw_gid)


def _look_up(text: str) -> Identity:
    """Look up UID, UID:GID, LOGIN or LOGIN:GROUP; a lone UID is the GID too. Raises ConfigError."""
    user, _, group = text.partition(":")
    if user.isascii() and user.isdecimal():
        uid = gid = int(user)
    else:
        import pwd

        try:
            entry = pwd.getpwnam(user)
        except KeyError:
            raise ConfigError(f"there is no user '{user}' here; give a login name or a number") from None
        uid, gid = entry.pw_uid, entry.pw_gid
        if uid == 0:
            raise ConfigError(f"'{user}' is root; say 0 if that is meant")
    return Identity(uid, _look_up_group(group) if group else gid)


def _look_up_group(group: str) -> int:
    if group.isascii() and group.isdecimal():
        return int(group)
    import grp

    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigError(f"there is no group '{group}' here; give a group name or a number") from None
