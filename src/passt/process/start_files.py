"""Files that a start has made: the pid file, the socket. They are removed if the start does not succeed.

Theory of operation. A start may end at any instruction, by a signal that nobody can handle, with a user who
may no longer remove what root has made, and with an empty root directory. So another process, the keeper,
holds on to the rights and the working directory of the caller, and waits at the end of a pipe. Each file is
told to it when it is made. If the pipe ends without the word that the start has succeeded, every process of
the start is gone, and the keeper removes the files. It is asked to do so by a start that fails by itself, so
that they are gone before the caller sees the exit.

The keeper is no child of the start, which could not wait for it any more under its filter of system calls. It
reads nothing but paths of ours, before any hostile party is heard. Without a keeper, as when there may be no
more processes, the files are removed as well as we can.
"""

from __future__ import annotations

import os
import select
import struct

from passt.host import descriptors
from passt.process import signals

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from typing import NoReturn

_END = b"\0"                      # of a path, and of an order
_KEEP, _REMOVE = b"k", b"r"       # orders; a path follows _ADD
_ADD = b"+"
_CHUNK = 1 << 12
_PID = struct.Struct("=i")


class StartFiles:
    """The files of one start; `watch` before the first is made."""

    def __init__(self) -> None:
        self._paths: list[str] = []
        self._orders = -1         # to the keeper
        self._number = -1         # a pipe with the keeper's PID, until `settle`
        self._keeper = -1         # its pidfd, from then on
        self._between = 0         # our child, whose child the keeper is

    def watch(self) -> None:
        """Start the keeper, if it is not there; call with one thread."""
        if self._orders >= 0:
            return
        opened: list[int] = []
        try:
            opened += os.pipe()   # close-on-exec: Python's default
            opened += os.pipe()
            self._between = os.fork()
        except OSError:
            for fd in opened:
                os.close(fd)
            return
        orders, self._orders, self._number, number = opened
        if self._between == 0:
            _fork_keeper(orders, number)
        os.close(orders)
        os.close(number)

    def settle(self) -> None:
        """Take over what `watch` has started; call before a fork, and before a filter of system calls."""
        if self._number < 0:
            return
        os.waitpid(self._between, 0)
        number = os.read(self._number, _PID.size)
        os.close(self._number)
        self._number = -1
        try:
            self._keeper = os.pidfd_open(*_PID.unpack(number))
        except (OSError, struct.error):
            pass                  # it could not be started, or has been killed

    def add(self, path: str) -> None:
        """Remember *path*, which the start has made."""
        self._paths.append(path)
        self._tell(_ADD + os.fsencode(path))

    def keep(self) -> None:
        """Leave the files to the caller: the start has succeeded."""
        self._paths.clear()
        self._tell(_KEEP)
        self._wait()

    def remove(self) -> None:
        """Remove the files, unless `keep` has been called; they are gone when this returns."""
        if self._orders >= 0:
            self._tell(_REMOVE)   # refused if parent or child of the start has told it already
            self._wait()
        else:
            for path in self._paths:
                try:
                    os.unlink(path)
                except OSError:
                    continue      # removed already, or out of reach
        self._paths.clear()

    def _tell(self, order: bytes) -> None:
        """Send an order to the keeper, if there is one."""
        try:
            if self._orders >= 0:
                os.write(self._orders, order + _END)
        except BrokenPipeError:
            return                # it has ended

    def _wait(self) -> None:
        """Wait for the end of the keeper."""
        self.settle()
        if self._keeper >= 0:
            poll = select.poll()
            poll.register(self._keeper, select.POLLIN)
            poll.poll()
            os.close(self._keeper)
        if self._orders >= 0:
            os.close(self._orders)
        self._orders = self._keeper = -1


def _fork_keeper(orders: int, number: int) -> NoReturn:
    """Fork the keeper, tell its *number*, and end; nothing may run on as a copy of the start."""
    try:
        signals.block_all()
        keeper = os.fork()
        if keeper:
            os.write(number, _PID.pack(keeper))
        else:
            descriptors.tidy_descriptors((orders,))
            for fd in range(descriptors.FIRST_OWN_FD):
                os.close(fd)      # the caller may wait for their end
            _serve(orders)
    finally:
        os._exit(0)


def _serve(orders: int) -> None:
    """Take orders from a pipe until its end or the last of them."""
    files: list[_File] = []
    rest = b""
    while True:
        chunk = os.read(orders, _CHUNK)
        *whole, rest = (rest + chunk).split(_END)
        for order in whole:
            if order == _KEEP:
                return
            if order != _REMOVE:
                files.append(_File(os.fsdecode(order[len(_ADD):])))
        if not chunk or _REMOVE in whole:
            for file in files:
                file.remove()
            return


class _File:
    """A file by its directory and its inode: whoever moves directories about makes us remove no other one."""

    def __init__(self, path: str) -> None:
        directory, self._name = os.path.split(path)
        self._directory = self._inode = -1
        try:
            self._directory = os.open(directory or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self._inode = self._look()
        except OSError:
            return                # gone already

    def _look(self) -> int:
        return os.stat(self._name, dir_fd=self._directory, follow_symlinks=False).st_ino

    def remove(self) -> None:
        """Remove it, if it is still there."""
        try:
            if self._inode >= 0 and self._look() == self._inode:
                os.unlink(self._name, dir_fd=self._directory)
        except OSError:
            return                # removed already
