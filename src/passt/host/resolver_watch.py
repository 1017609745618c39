"""resolv.conf as it changes: written anew, replaced by rename(2), or behind symbolic links that change.

Theory of operation. systemd-resolved and NetworkManager make a new file and rename it over the old one, or
point /etc/resolv.conf to a file of theirs; dhclient writes the file in place; a container engine writes it
through another mount. inotify(7) tells of a name in its directory, and of writes to a file by the file
itself, whatever its mount. So the directory of each symbolic link on the way is watched, that of the file,
and the file; where a directory is not there yet, the nearest one above it.

An event is a hint: all watches are set anew, and the file is read afterwards, so no change falls between.
Where the kernel gives no watch (fs.inotify.max_user_watches), the file is read every few seconds.
"""

from __future__ import annotations

import os
import select
import struct

from passt.host import resolvconf, syscalls

MAX_CONTENT = 64 * 1024            # bytes that are looked at; a resolver reads a few hundred
POLL_S = 2.0                       # between two readings where nothing tells of changes
_MAX_LINKS = 40                    # path_resolution(7)
_EVENT = struct.Struct("=iIII")    # inotify(7): watch, mask, cookie, length of the name
# linux/inotify.h
_IN_ATTRIB, _IN_CLOSE_WRITE, _IN_MOVED_TO, _IN_CREATE, _IN_MODIFY = 0x4, 0x8, 0x80, 0x100, 0x2
_IN_DIRECTORY = (syscalls.IN_DELETE | syscalls.IN_MOVED_FROM | syscalls.IN_DELETE_SELF | syscalls.IN_MOVE_SELF
                 | _IN_CREATE | _IN_MOVED_TO | _IN_CLOSE_WRITE | _IN_ATTRIB | syscalls.IN_ONLYDIR)
_IN_FILE = _IN_CLOSE_WRITE | _IN_MODIFY | _IN_ATTRIB | syscalls.IN_DELETE_SELF | syscalls.IN_MOVE_SELF
_EVENTS_LEN = 1 << 16


class ResolverWatch:
    """Watches the file at *path*; it need not exist."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._names: frozenset[bytes] = frozenset()
        self._last: bytes | None = None
        self._fd = -1
        self._set_watches()

    def fileno(self) -> int:
        """Return a descriptor that is readable after a change; -1: look every POLL_S seconds."""
        return self._fd

    def close(self) -> None:
        """Close the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def look(self) -> bytes | None:
        """Return the file's content if it is another one than the last time; None if it is not.

        A file that is not there or that may not be read is empty.
        """
        if self._fd >= 0 and not self._take_events():
            return None
        self._set_watches()
        content = _read(self._path)
        if content == self._last:
            return None
        self._last = content
        return content

    def _take_events(self) -> bool:
        """Read the events that wait; tell whether the file must be looked at: always the first time."""
        found = self._last is None
        while is_waiting(self._fd):
            found = _names_any(os.read(self._fd, _EVENTS_LEN), self._names) or found
        return found

    def _set_watches(self) -> None:
        """Watch all that the path leads through now, by a new descriptor."""
        self.close()
        places = follow_links(self._path)
        try:
            self._fd = syscalls.inotify_init()
            for directory in dict.fromkeys(directory for directory, _ in places):
                _watch_directory(self._fd, directory)
        except OSError:
            self.close()
            return
        try:
            syscalls.inotify_add_watch(self._fd, os.fsencode(self._path), _IN_FILE)
        except OSError:
            pass                   # it is not there, or not ours to read
        self._names = frozenset(os.fsencode(part) for directory, name in places
                                for part in (name, *directory.split("/")) if part)


def follow_links(path: str) -> list[tuple[str, str]]:
    """List directory and name of *path*, of the symbolic link's target there, and so on to the last one."""
    places = []
    for _ in range(_MAX_LINKS):
        directory, name = os.path.split(path)
        places.append((directory or ".", name))
        try:
            target = os.readlink(path)
        except (OSError, ValueError):
            break
        path = os.path.join(directory, target)
    return places


def is_waiting(fd: int) -> bool:
    """Tell whether *fd* can be read."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _watch_directory(fd: int, directory: str) -> None:
    """Watch *directory*, or the nearest above it that there is. Raises OSError if there is no room."""
    while True:
        try:
            syscalls.inotify_add_watch(fd, os.fsencode(directory), _IN_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            above = os.path.dirname(directory.rstrip("/"))
            if above in {"", directory}:
                return
            directory = above
        else:
            return


def _names_any(events: bytes, names: frozenset[bytes]) -> bool:
    """Tell whether an event is of one of *names*, or of a watched thing itself, or tells of lost ones."""
    offset = 0
    while offset < len(events):
        *_, length = _EVENT.unpack_from(events, offset)
        offset += _EVENT.size
        name = events[offset:offset + length].rstrip(b"\0")
        offset += length
        if not name or name in names:
            return True
    return False


def _read(path: str) -> bytes:
    try:
        # A named pipe must not block us.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return b""
    try:
        return resolvconf.whole_lines(os.read(fd, MAX_CONTENT), MAX_CONTENT)
    except OSError:
        return b""
    finally:
        os.close(fd)
