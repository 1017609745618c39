"""Landlock: no path can be opened, or none to write, whatever the root directory is (landlock(7)).

Theory of operation. A ruleset that handles every access and has no rule forbids all of them; it needs no
privilege, so it serves where no mount namespace is to be had. Descriptors that are open already keep their
rights. Threads and children that are started later inherit it. Network access is left alone: we connect and
bind for the guest. From version 6 on the ruleset can forbid signals to processes outside and the abstract
UNIX sockets of others.
"""

from __future__ import annotations

import os

from passt.host import syscalls

# linux/landlock.h: versions that brought rights for files, with all rights known then.
_ACCESS_FS = ((5, (1 << 16) - 1), (3, (1 << 15) - 1), (2, (1 << 14) - 1), (1, (1 << 13) - 1))
_READING = 1 << 2 | 1 << 3  # LANDLOCK_ACCESS_FS_READ_FILE, _READ_DIR
_SCOPE_VERSION = 6
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 1, 2
# Bytes of struct landlock_ruleset_attr: up to handled_access_fs, up to scoped.
_LEN_FS, _LEN_SCOPED = 8, 24


def restrict(*, signals: bool, reading: bool = False) -> int:
    """Forbid every path, and with *signals* to signal others; return the version of Landlock.

    With *reading* files may be read, and nothing else.
    It sets no_new_privs, which the kernel asks for. Raises OSError: ENOSYS or EOPNOTSUPP without Landlock.
    """
    version = syscalls.landlock_version()
    access = next(rights for since, rights in _ACCESS_FS if version >= since)
    if reading:
        access &= ~_READING        # what a ruleset does not handle is permitted
    scoped = 0
    if version >= _SCOPE_VERSION:
        scoped = _SCOPE_ABSTRACT_SOCKETS | (_SCOPE_SIGNALS if signals else 0)
    ruleset = syscalls.landlock_create_ruleset(access, scoped, _LEN_SCOPED if scoped else _LEN_FS)
    try:
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        syscalls.landlock_restrict_self(ruleset)
    finally:
        os.close(ruleset)
    return version
