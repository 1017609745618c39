"""The two sockets of a bypassed connection, scripted: what comes in pieces, and how much each write takes."""

from __future__ import annotations

import errno
import os
from collections import deque

from tests.dataplane.probes.splice_probe import Relay

FDS = (1000, 1001)


class RelayKernel:
    """*incoming* has by descriptor what its reads give, *taken* what was written to it.

    *room* says by descriptor how much the next writes take, nothing once that is used up. *ends* tells how a
    descriptor was closed.
    """

    def __init__(self) -> None:
        self.incoming: dict[int, deque[bytes]] = {fd: deque() for fd in FDS}
        self.room: dict[int, deque[int]] = {fd: deque() for fd in FDS}
        self.taken = {fd: bytearray() for fd in FDS}
        self.ends: dict[int, str] = {}

    def receive(self, fd: int, n: int) -> bytes | int:
        if not self.incoming[fd]:
            return -errno.EAGAIN
        data = self.incoming[fd].popleft()
        if len(data) > n:
            self.incoming[fd].appendleft(data[n:])
        return data[:n]

    def send(self, fd: int, data: bytes) -> int:
        if not self.room[fd]:
            return -errno.EAGAIN
        n = min(self.room[fd].popleft(), len(data))
        self.taken[fd] += data[:n]
        return n

    def move(self, from_fd: int, to_fd: int, n: int) -> int:
        if from_fd in FDS:
            if not self.incoming[from_fd]:
                return -errno.EAGAIN
            return os.write(to_fd, self.incoming[from_fd].popleft())
        if not self.room[to_fd]:
            return -errno.EAGAIN
        data = os.read(from_fd, min(self.room[to_fd].popleft(), n))
        self.taken[to_fd] += data
        return len(data)

    def shut_write(self, fd: int) -> int:
        self.ends[fd] = "shut"
        return 0

    def close(self, fd: int) -> int:
        self.ends[fd] = "closed"
        return 0

    def abort(self, fd: int) -> int:
        self.ends[fd] = "reset"
        return 0

    @staticmethod
    def watch(_fd: int, _op: int, _events: int, _tag: int) -> int:
        return 0

    @staticmethod
    def take_error(_fd: int) -> int:
        return 0

    @staticmethod
    def prepare_bulk(_fd: int) -> int:
        return 0


class ScriptedRelay(Relay):
    """A relay with such sockets, called by the side that they are on."""

    def __init__(self) -> None:
        self.sockets = RelayKernel()
        super().__init__(self.sockets)

    def give(self, side: int, *pieces: bytes) -> None:
        """Have the socket of *side* receive *pieces*, one for each read of it."""
        self.sockets.incoming[FDS[side]].extend(pieces)

    def let(self, side: int, *sizes: int) -> None:
        """Have the socket of *side* take as much with each of the next writes, then none."""
        self.sockets.room[FDS[side]].extend(sizes)

    def taken(self, side: int) -> bytes:
        """What was written to the socket of *side*."""
        return bytes(self.sockets.taken[FDS[side]])
