"""Files that the user names for us to write, opened so that no other user can redirect the writes.

Theory of operation. In a directory like /tmp any user may place a symbolic link to a file of ours, a hard
link, or a named pipe where we will write, and a user may do the same to root in a directory of his own. Linux
refuses some of that if sysctls say so (proc_sys_fs(5), protected_symlinks and others). We always refuse it:

* A symbolic link in the place of the file is followed if it is ours or root's. Another user's link is
  followed only if we are not root, and only in a directory in which not all users may create files, or if its
  owner owns the directory.
* A file or pipe of another user is not written to in a sticky directory in which all users may create files,
  unless its owner owns the directory. Root does not write to another user's file with several hard links.
* open(2) never blocks, for the reader of a pipe or anything else. Nothing is truncated here.

Links of /proc to open files, to which /dev/stdout leads, are followed by the kernel.
"""

from __future__ import annotations

import errno
import os
import stat
import time

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Sequence

MODE = 0o600
MAX_LINKS = 40                    # the kernel's limit, path_resolution(7)
_FLAGS = os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
_PAUSE_S = 0.01


def open_output(path: str, flags: int, patience_s: float = 0) -> tuple[int, str | None]:
    """Open *path* for writing, close-on-exec, non-blocking; return (descriptor, path of the file if created).

    The path of a created file is where the symbolic links lead: a start that fails removes the file there.
    *flags* are os.O_WRONLY or os.O_RDWR, maybe with os.O_APPEND. A pipe without a reader is tried again for
    *patience_s* seconds. Raises OSError, or ValueError if *path* cannot be a path.
    """
    end = time.monotonic() + patience_s
    while True:
        try:
            return _open(path, flags | _FLAGS)
        except OSError as error:
            if error.errno != errno.ENXIO or time.monotonic() >= end:
                raise
        time.sleep(_PAUSE_S)


def _open(path: str, flags: int) -> tuple[int, str | None]:
    for _ in range(MAX_LINKS):
        try:
            return os.open(path, flags | os.O_CREAT | os.O_EXCL, MODE), path
        except FileExistsError:
            pass
        try:
            fd = os.open(path, flags | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue              # the file was removed meanwhile
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
        else:
            return _checked(fd, path), None
        target = _target(path)
        if target is None:
            return os.open(path, flags), None
        path = target
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _checked(fd: int, path: str) -> int:
    """Return *fd*, open on *path*, if the rules above permit to write it. Raises PermissionError."""
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
    """Return where the symbolic link *path* leads; None if the kernel has to follow it. Raises OSError."""
    link = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(link)
        if not stat.S_ISLNK(status.st_mode):
            return path           # no symbolic link any more
        if _is_on_proc(status.st_dev):
            return None
        us = os.geteuid()
        if status.st_uid not in (us, 0) and (us == 0 or _is_shared(path, status.st_uid)):
            raise PermissionError(errno.EPERM, "it is another user's symbolic link")
        return os.path.join(os.path.dirname(path), os.readlink("", dir_fd=link))
    finally:
        os.close(link)


def _is_shared(path: str, owner: int) -> bool:
    """Tell whether *path* is in a sticky directory, not *owner*'s, in which all may create files."""
    directory = os.stat(os.path.dirname(path) or ".")
    mask = stat.S_ISVTX | stat.S_IWOTH
    return directory.st_mode & mask == mask and directory.st_uid != owner


def find_shared(paths: Sequence[str]) -> tuple[int, int] | None:
    """Return the indices of the first two of *paths* that are one file; None if there are none.

    Devices such as /dev/null may be shared. A path that cannot be looked up is none.
    """
    seen: dict[tuple[int, int, str], int] = {}
    for i, path in enumerate(paths):
        identity = _identify(path) if path else None
        if identity is not None and seen.setdefault(identity, i) != i:
            return seen[identity], i
    return None


def _identify(path: str) -> tuple[int, int, str] | None:
    """Return device and inode of a file, of a file to be made those of its directory, and its name there."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        directory, name = os.path.split(os.path.realpath(path))
    except (OSError, ValueError):
        return None
    else:
        is_device = stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)
        return None if is_device else (status.st_dev, status.st_ino, "")
    try:
        status = os.stat(directory)
    except OSError:
        return None
    return status.st_dev, status.st_ino, name


def _is_on_proc(device: int) -> bool:
    try:
        return os.stat("/proc/self").st_dev == device
    except OSError:
        return False
