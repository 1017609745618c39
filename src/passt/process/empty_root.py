"""Own namespaces and an empty root directory for the main process.

Theory of operation. In a mount namespace of our own a tmpfs is mounted that holds nothing but its root: one
inode, no block, read-only. pivot_root(2) makes it the root and working directory of all our threads, and the
old tree is detached. From then on a path leads nowhere, whatever a broken process asks the kernel for; what
was opened before goes on working. IPC and UTS namespaces go with it: shared memory, semaphores, message
queues and the host name are the caller's.

It takes CAP_SYS_ADMIN in our user namespace (mount_namespaces(7)). Mounts do not spread: ours are private.
"""

from __future__ import annotations

import errno
import os

from passt.host import syscalls

# Directories to cover for a moment; minimal containers lack some.
PLACES = (b"/tmp", b"/proc", b"/dev", b"/run", b"/etc", b"/usr")
_FLAGS = syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
_OPTIONS = b"size=4k,nr_inodes=1,mode=0555"  # tmpfs(5): one inode is the root; 0 would mean no limit


def enter_namespaces() -> None:
    """Enter new mount, IPC and UTS namespaces, with one thread only. Raises OSError; nothing changed then."""
    syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS)


def enter() -> None:
    """Make the empty root; call `enter_namespaces` before. Raises OSError, and the old root stays then."""
    syscalls.mount(b"none", b"/", b"", syscalls.MS_REC | syscalls.MS_PRIVATE)
    before = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir(_mount())
        try:
            # The old root ends on top of the new one, from where it is detached: pivot_root(2), "NOTES".
            syscalls.pivot_root(b".", b".")
        except OSError:
            os.fchdir(before)
            raise
    finally:
        os.close(before)
    syscalls.umount(b".", syscalls.MNT_DETACH)
    os.chdir("/")


def _mount() -> bytes:
    """Mount the tmpfs on the first of PLACES that there is, and return this. Raises OSError."""
    for place in PLACES:
        try:
            syscalls.mount(b"tmpfs", place, b"tmpfs", _FLAGS, _OPTIONS)
        except (FileNotFoundError, NotADirectoryError):
            continue
        return place
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
