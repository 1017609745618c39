"""Files that a start has made: the pid file, the capture, the socket. They go if the start does not succeed.

Theory of operation. A start may end at any instruction, by a signal that nobody can handle, with a user who
may no longer remove what root has made, and with an empty root directory. So another process, the guard,
holds the directories of these files open, and waits at the end of a pipe. Each file is told to it when it is
made. If the pipe ends without the word that the start has succeeded, the start has failed, and the guard
removes the files. It is asked to do so by a start that fails by itself, so that they are gone
before the caller sees the exit.

The guard is a child of the process that the caller started. It has a session of its own, so that a signal to
the group of the caller leaves it alone, and of all capabilities the one that lets root write to another
user's directory. It reads nothing but paths of ours, and is gone before any hostile party is heard. If there
is none, as when there may be no more processes, or if it cannot open a file, the files are removed as well as
we can.

A process under its filter may not wait for children. From `signals.read_ending` on it ignores SIGCHLD, and
the kernel reaps the guard.
"""

from __future__ import annotations

import os
import select
import signal

from passt.host import descriptors, syscalls
from passt.process import privileges, signals

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from typing import NoReturn

_END = b"\0"                      # of a path, and of an order
_KEEP, _REMOVE = b"k", b"r"       # orders; a path follows _ADD
_ADD = b"+"
_CHUNK = 1 << 12
# Lets root remove files from another user's directory; and another user root's files from /tmp.
_REMOVING = 1 << privileges.CAP_DAC_OVERRIDE
_REMOVING_ROOTS = 1 << privileges.CAP_FOWNER


class StartFiles:
    """The files of one start; `watch` before the first is made."""

    def __init__(self) -> None:
        self._paths: list[str] = []
        self._orders = -1         # pipe to the guard
        self._guard = -1          # its pidfd, in its parent
        self._pid = 0
        self._is_ours = True      # our parent removes the files, not we

    def watch(self) -> None:
        """Start the guard, if it is not there; call with one thread."""
        if self._orders >= 0:
            return
        try:
            orders, self._orders = os.pipe()  # close-on-exec: Python's default
        except OSError:
            return
        try:
            self._pid, self._guard = syscalls.clone(0, 0)
        except OSError:
            os.close(self._orders)
            self._orders = -1
        else:
            if self._pid == 0:
                _run_guard(orders)
        os.close(orders)

    def leave_to_parent(self) -> None:
        """Be a child of the process that keeps or removes the files; do nothing from now on."""
        self._is_ours = False
        for fd in (self._orders, self._guard):
            if fd >= 0:
                os.close(fd)
        self._orders = self._guard = -1

    def give_up_rights(self) -> None:
        """Give up all capabilities, but what `remove` needs if there is no guard. Raises OSError."""
        removes = self._paths and self._orders < 0
        privileges.keep_only(_REMOVING | _REMOVING_ROOTS if removes else 0)

    def add(self, path: str) -> None:
        """Remember *path*, which the start has made. Raises OSError, and removes it at once."""
        try:
            self._tell(_ADD + os.fsencode(path))
        except OSError:
            os.unlink(path)
            raise
        self._paths.append(path)

    def keep(self) -> None:
        """Leave the files to the caller: the start has succeeded."""
        self.dismiss_guard()
        self._paths.clear()

    def dismiss_guard(self) -> None:
        """Have the guard end without a change; `remove` can still remove the files, as well as we can."""
        self._tell(_KEEP)
        self._wait()

    def remove(self) -> None:
        """Remove the files, unless `keep` has been called; they are gone when this returns."""
        if not self._is_ours:
            return
        self._tell(_REMOVE)
        if not self._wait():
            for path in self._paths:
                try:
                    os.unlink(path)
                except OSError:
                    continue      # removed already, or out of reach
        self._paths.clear()

    def _tell(self, order: bytes) -> None:
        """Send an order to the guard, if there is one."""
        try:
            if self._orders >= 0:
                os.write(self._orders, order + _END)
        except BrokenPipeError:
            return                # it has ended

    def _wait(self) -> bool:
        """Hang up, and wait for the guard's end; return whether there was one that did its work."""
        if self._orders >= 0:
            os.close(self._orders)
            self._orders = -1
        if self._guard < 0:
            return False
        poll = select.poll()
        poll.register(self._guard, select.POLLIN)
        poll.poll()
        os.close(self._guard)
        self._guard = -1
        if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
            return True           # nobody knows better
        return os.waitpid(self._pid, 0)[1] == 0


def _run_guard(orders: int) -> NoReturn:
    """Be the guard; nothing may run on as a copy of the start."""
    status = 1
    try:
        signals.block_all()
        os.setsid()
        privileges.keep_only(_REMOVING)
        # Standard ones too: the caller may wait for their end.
        descriptors.close_descriptors(0, orders - 1)
        descriptors.close_descriptors(orders + 1, descriptors.MAX_FD)
        status = 0 if _serve(orders) else 1
    finally:
        os._exit(status)


def _serve(orders: int) -> bool:
    """Take orders from a pipe until its end or the last of them; tell whether no file is left."""
    files: list[_File] = []
    rest = b""
    while True:
        chunk = os.read(orders, _CHUNK)
        *whole, rest = (rest + chunk).split(_END)
        for order in whole:
            if order == _KEEP:
                return True
            if order != _REMOVE:
                files.append(_File(os.fsdecode(order[len(_ADD):])))
        if not chunk or _REMOVE in whole:
            for file in files:
                file.remove()
            return not any(file.is_out_of_reach for file in files)


class _File:
    """A file, held open with its directory: whoever moves names about makes us remove no other one."""

    def __init__(self, path: str) -> None:
        directory, self._name = os.path.split(path)
        self._directory = self._file = -1
        self.is_out_of_reach = False
        flags = os.O_PATH | os.O_CLOEXEC
        try:
            self._directory = os.open(directory or ".", flags | os.O_DIRECTORY)
            self._file = os.open(self._name, flags | os.O_NOFOLLOW, dir_fd=self._directory)
        except FileNotFoundError:
            return                # gone already
        except OSError:
            self.is_out_of_reach = True

    def remove(self) -> None:
        """Remove it, if it is still there."""
        try:
            if self._file >= 0 and os.path.samestat(os.fstat(self._file), self._look()):
                os.unlink(self._name, dir_fd=self._directory)
        except OSError:
            return                # removed already

    def _look(self) -> os.stat_result:
        return os.stat(self._name, dir_fd=self._directory, follow_symlinks=False)
