"""Files that the user names for us to write: opened so that no other user turns them into a trap.

Theory of operation. In a directory like /tmp anybody may put a symbolic link to a file of ours, a hard link,
or a named pipe where we are about to write, and in a directory of his own a user may do so to root. Linux
refuses some of that (proc_sys_fs(5), protected_symlinks and its like), where it is told to. We do always:

* A symbolic link in the place of the file is followed if it is ours or root's. One of somebody else is
  followed only if we are not root, and only where not everybody may make one, or its owner owns the
  directory.
* A file or pipe that is there already and is somebody else's is not written to in a sticky directory to
  which all may write, unless its owner owns the directory. Root does not write to one that has further names.
* The open never waits, for the reader of a pipe or anything else. Nothing is truncated here.

Links to what a process has open (/dev/stdout leads to one) are the kernel's, which follows them.
"""

from __future__ import annotations

import errno
import os
import stat
import time

MODE = 0o600
MAX_LINKS = 40                    # as the kernel has it, path_resolution(7)
_FLAGS = os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
_PAUSE_S = 0.01


def open_output(path: str, flags: int, patience_s: float = 0) -> tuple[int, bool]:
    """Open *path* for writing, close-on-exec, non-blocking; return the descriptor, and whether it was made.

    *flags* are os.O_WRONLY or os.O_RDWR, maybe with os.O_APPEND. A pipe without a reader is tried again for
    *patience_s* seconds. Raises OSError, or ValueError for what is no path.
    """
    end = time.monotonic() + patience_s
    while True:
        try:
            return _open(path, flags | _FLAGS)
        except OSError as error:
            if error.errno != errno.ENXIO or time.monotonic() >= end:
                raise
        time.sleep(_PAUSE_S)


def _open(path: str, flags: int) -> tuple[int, bool]:
    for _ in range(MAX_LINKS):
        try:
            return os.open(path, flags | os.O_CREAT | os.O_EXCL, MODE), True
        except FileExistsError:
            pass
        try:
            fd = os.open(path, flags | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue              # it went away meanwhile
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
        else:
            return _checked(fd, path), False
        target = _target(path)
        if target is None:
            return os.open(path, flags), False
        path = target
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _checked(fd: int, path: str) -> int:
    """Return *fd*, open on *path*, if that is not somebody else's trap. Raises PermissionError."""
    try:
        status = os.fstat(fd)
        kind = stat.S_IFMT(status.st_mode)
        if kind in (stat.S_IFREG, stat.S_IFIFO) and status.st_uid != os.geteuid():
            if _is_shared(path, status.st_uid):
                raise PermissionError(errno.EPERM, "it is another user's, in a directory open to all")
            if kind == stat.S_IFREG and status.st_nlink > 1 and os.geteuid() == 0:
                raise PermissionError(errno.EPERM, "it is another user's, and a further name of some file")
    except OSError:
        os.close(fd)
        raise
    return fd


def _target(path: str) -> str | None:
    """Return where the symbolic link *path* leads, None if the kernel has to follow it. Raises OSError."""
    link = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(link)
        if not stat.S_ISLNK(status.st_mode):
            return path           # it is none any more
        if _is_on_proc(status.st_dev):
            return None
        us = os.geteuid()
        if status.st_uid not in (us, 0) and (us == 0 or _is_shared(path, status.st_uid)):
            raise PermissionError(errno.EPERM, "it is another user's symbolic link")
        return os.path.join(os.path.dirname(path), os.readlink("", dir_fd=link))
    finally:
        os.close(link)


def _is_shared(path: str, owner: int) -> bool:
    """Tell whether all may write to the sticky directory of *path*, which is not *owner*'s."""
    directory = os.stat(os.path.dirname(path) or ".")
    mask = stat.S_ISVTX | stat.S_IWOTH
    return directory.st_mode & mask == mask and directory.st_uid != owner


def _is_on_proc(device: int) -> bool:
    try:
        return os.stat("/proc/self").st_dev == device
    except OSError:
        return False
