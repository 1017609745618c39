"""Namespaces that exist already, of a process or of paths: opened, joined, and watched for their end.

What ends us. A process is watched by a pidfd. A path is a name in a directory, watched by inotify(7), and the
directory is closed before the loop runs: a broken process could reach files from there. procfs changes
without inotify events, so for a process of another PID namespace a file of its directory is read twice a
second, which fails with ESRCH when it has ended and its parent has waited for it. Where inotify is not to be
had, as in a directory that may not be read or, with a warning, beyond fs.inotify.max_user_instances, the
directory stays open and the name is looked up twice a second.
Only its owner may read /proc/PID/ns: "permission denied" means that the name still exists.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct

from passt import log
from passt.errors import HostError
from passt.host import syscalls
from passt.process.privileges import close_to_others

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Loop(Protocol):
        """The part of `dataplane.engine.Engine` that is used."""

        def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
            """Call *callback* whenever *fd* is readable."""

        def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
            """Call *callback* once after *delay_s* seconds."""

NETNS_DIRECTORY = "/run/netns"
POLL_S = 0.5                      # between two look-ups of a path: its end is noticed within a second
_NS_GET_NSTYPE = 0xb703           # linux/nsfs.h, ioctl_ns(2)
_NAMES = {syscalls.CLONE_NEWNET: "network", syscalls.CLONE_NEWUSER: "user"}
_PROC_SUPER_MAGIC = 0x9fa0        # linux/magic.h
_EVENT = struct.Struct("=iIII")   # inotify(7): wd, mask, cookie, len; then the name


class TargetNamespaces:
    """A network namespace, and the user namespace to join with it if there is one, held open."""

    def __init__(self, net: int, user: int, label: str) -> None:
        self._net = net
        self._user = user
        self._label = label

    @classmethod
    def of_process(cls, pid: int, userns: str | None = None, *, netns_only: bool = False) -> TargetNamespaces:
        """Open those of process *pid*, or its network namespace and the path *userns*. Raises HostError."""
        if not has_own_procfs():
            raise HostError(f"/proc is that of another PID namespace, where {pid} is another process: mount "
                            "our own (mount -t proc proc /proc), or give the path of the network namespace")
        net = _open_of_process(pid, "net")
        if userns is not None:
            user = _open_path("--userns", userns, syscalls.CLONE_NEWUSER)
        else:
            user = -1 if netns_only else _open_of_process(pid, "user")
        return cls(net, user, f"of process {pid}")

    @classmethod
    def of_paths(cls, netns: str | None, userns: str | None) -> TargetNamespaces:
        """Open those of the paths *netns* and *userns*, each if given. Raises HostError."""
        net = -1 if netns is None else _open_path("--netns", netns, syscalls.CLONE_NEWNET)
        user = -1 if userns is None else _open_path("--userns", userns, syscalls.CLONE_NEWUSER)
        return cls(net, user, netns or userns or "")

    def join_user_namespace(self) -> None:
        """Enter the user namespace, if there is one and it is not ours already. One thread only."""
        if self._user < 0:
            return
        own = os.stat("/proc/self/ns/user")
        theirs = os.fstat(self._user)
        if (own.st_dev, own.st_ino) != (theirs.st_dev, theirs.st_ino):
            # A process in there may have our user and every capability: close ourselves before we join.
            close_to_others()
            self._join(self._user, syscalls.CLONE_NEWUSER)
            close_to_others()
        os.close(self._user)
        self._user = -1

    def join_network_namespace(self) -> None:
        """Enter the network namespace; only a helper calls this, as there is no way back."""
        self._join(self._net, syscalls.CLONE_NEWNET)

    def close(self) -> None:
        """Close the descriptors, which keep the namespaces alive."""
        for fd in (self._net, self._user):
            if fd >= 0:
                os.close(fd)
        self._net = self._user = -1

    def _join(self, fd: int, kind: int) -> None:
        try:
            syscalls.setns(fd, kind)
        except OSError as error:
            what = f"the {_NAMES[kind]} namespace {self._label}"
            if error.errno == errno.EPERM:
                raise HostError(f"{what} may not be joined: this user has no CAP_SYS_ADMIN in the user "
                                f"namespace that owns it{self._advise()}") from None
            raise HostError(f"cannot join {what}: {error.strerror}") from None

    def _advise(self) -> str:
        if self._label.startswith("/"):
            return "; name that one with --userns, or start pasta as root or in there"
        return ""


def _open_of_process(pid: int, kind: str) -> int:
    try:
        return os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise HostError(f"process {pid} has ended, or /proc hides it (hidepid)") from None
    except PermissionError:
        raise HostError(f"the {kind} namespace of process {pid} is closed to this user: pasta has "
                        "to be started by the user who owns the process, or by root") from None
    except OSError as error:
        raise HostError(f"cannot open /proc/{pid}/ns/{kind}: {error.strerror}") from None


def _open_path(option: str, path: str, kind: int) -> int:
    """Open a namespace of the *kind* CLONE_NEWNET or CLONE_NEWUSER."""
    label = f"option '{option}' {path}"
    try:
        # Without O_NONBLOCK we would wait for the other end of a named pipe.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        hint = "; a name is one of 'ip netns list'" if os.path.dirname(path) == NETNS_DIRECTORY else ""
        raise HostError(f"{label}: there is no such file{hint}") from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a path"
        raise HostError(f"{label}: cannot open it: {why}") from None
    try:
        found = fcntl.ioctl(fd, _NS_GET_NSTYPE)
    except OSError:
        found = 0
    if found != kind:
        os.close(fd)
        raise HostError(f"{label}: this is not a {_NAMES[kind]} namespace")
    return fd


class ProcessWatch:
    """Tells when process *pid* ends. Raises HostError if there is none."""

    def __init__(self, pid: int) -> None:
        try:
            self._pidfd = os.pidfd_open(pid)
        except (OSError, OverflowError):
            raise HostError(f"there is no process {pid} whose namespaces could be joined") from None

    def has_ended(self) -> bool:
        """Tell whether it has ended; its PID may belong to another process then."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def start(self, loop: Loop, on_end: Callable[[], None]) -> None:
        """Have *loop* call *on_end* at the process's end."""
        loop.add_reader(self._pidfd, on_end)


class ProcfsWatch:
    """Tells when the process ends whose `ns` or other *directory* of procfs is given. Raises HostError."""

    def __init__(self, directory: int) -> None:
        try:
            self._stat = os.open("../stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
        except OSError as error:
            raise HostError(f"cannot watch the process by /proc: {error.strerror}") from None
        finally:
            os.close(directory)

    def has_ended(self) -> bool:
        """Tell whether the process has ended."""
        try:
            os.pread(self._stat, 1, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False

    def start(self, loop: Loop, on_end: Callable[[], None]) -> None:
        """Have *loop* call *on_end* at the process's end."""
        if self.has_ended():
            on_end()
        else:
            loop.call_later(POLL_S, lambda: self.start(loop, on_end))


class PathWatch:
    """Tells when *name* is removed from *directory*, a descriptor that it owns."""

    def __init__(self, directory: int, name: str) -> None:
        self._directory, self._name = directory, name
        self._inotify = -1
        try:
            self._inotify = syscalls.inotify_init()
            syscalls.inotify_add_watch(
                self._inotify, f"/proc/self/fd/{directory}".encode(),
                syscalls.IN_DELETE | syscalls.IN_MOVED_FROM | syscalls.IN_DELETE_SELF
                | syscalls.IN_MOVE_SELF | syscalls.IN_ONLYDIR)
        except OSError as error:
            _tell_no_inotify(name, error)
            if self._inotify >= 0:
                os.close(self._inotify)
                self._inotify = -1

    def has_ended(self) -> bool:
        """Tell whether the path is gone; only the answer that there is no such name says so."""
        try:
            # It takes no descriptor: connections may hold all that there are.
            os.stat(self._name, dir_fd=self._directory, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
            return True
        except OSError:
            return False
        return False

    def start(self, loop: Loop, on_end: Callable[[], None]) -> None:
        """Have *loop* call *on_end* when the path is gone."""
        if self._inotify >= 0:
            if self.has_ended():
                on_end()
                return
            os.close(self._directory)
            self._directory = -1
            loop.add_reader(self._inotify, lambda: self._on_events(on_end))
        else:
            self._look_again(loop, on_end)

    def _on_events(self, on_end: Callable[[], None]) -> None:
        """Read all events, then look whether the name still exists."""
        data = os.read(self._inotify, 1 << 16)
        offset = 0
        while offset < len(data):
            _, mask, _, length = _EVENT.unpack_from(data, offset)
            offset += _EVENT.size
            name = data[offset:offset + length].rstrip(b"\0")
            offset += length
            gone = mask & (syscalls.IN_DELETE_SELF | syscalls.IN_MOVE_SELF | syscalls.IN_IGNORED)
            if gone or name == os.fsencode(self._name):
                on_end()
                return
            if mask & syscalls.IN_Q_OVERFLOW:
                log.once(log.WARNING, "inotify",
                         f"too many files came and went beside {self._name}: its end may go unnoticed")

    def _look_again(self, loop: Loop, on_end: Callable[[], None]) -> None:
        if self.has_ended():
            on_end()
        else:
            loop.call_later(POLL_S, lambda: self._look_again(loop, on_end))


def _tell_no_inotify(name: str, error: OSError) -> None:
    """Say that we look *name* up; a directory that may not be read is no fault, a limit can be raised."""
    what = f"the kernel does not tell when {name} is removed: {error.strerror}; pasta looks twice a second"
    if error.errno in (errno.EMFILE, errno.ENOSPC):
        log.warning(f"{what}; raise fs.inotify.max_user_instances or max_user_watches")
    else:
        log.debug(what)


def has_own_procfs() -> bool:
    """Tell whether /proc is that of our PID namespace, so that a number there is the process we mean."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False


def watch_path(path: str) -> ProcessWatch | ProcfsWatch | PathWatch:
    """Watch *path*, or the process that it belongs to. Raises HostError."""
    pid = path.removeprefix("/proc/").removesuffix("/ns/net")
    if (pid.isascii() and pid.isdecimal() and path == f"/proc/{pid}/ns/net"
            and has_own_procfs()):
        return ProcessWatch(int(pid))
    parent, name = os.path.split(path)
    try:
        directory = os.open(parent or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"cannot watch {parent}: {error.strerror}") from None
    if syscalls.file_system_type(directory) == _PROC_SUPER_MAGIC:
        return ProcfsWatch(directory)
    return PathWatch(directory, name)
