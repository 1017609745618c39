"""The Python side of scripted sockets (`probes/scripted.pyx`): notes each call, answers as it is told."""

from __future__ import annotations

import errno
import struct
from collections import deque
from typing import TypeAlias

Endpoint: TypeAlias = tuple[bytes, int]
# What is received: payload, the sender's `struct sockaddr`, control data, flags; or a negative errno.
Received: TypeAlias = tuple[bytes, bytes, bytes, int] | int
QueuedError: TypeAlias = tuple[bytes, bytes, bytes]

NOWHERE = (bytes(4), 0)
SOL_UDP, UDP_SEGMENT = 17, 103
# Level and type of an item of control data that says UDP_SEGMENT.
SEGMENT_ITEM = struct.pack("ii", SOL_UDP, UDP_SEGMENT)
BUFFER = 1 << 20                 # bytes that a send buffer has, half of them free


class Answers:
    """Sockets that are numbers: each call is noted, results come from the script or are successes.

    *results* holds per operation the results to come, first in first out. *inbox* holds per descriptor what
    can be received, *errors* what its error queue holds. *options* is what was set by `set_option`. With a
    *limit* the numbers are those that a kernel with so many descriptors would give, from 0 on. *clients* are
    those that wait to be accepted.
    """

    def __init__(self) -> None:
        self.log: list[tuple[object, ...]] = []
        self.open_fds: set[int] = set()
        self.results: dict[str, deque[int]] = {}
        self.inbox: dict[int, deque[Received]] = {}
        self.errors: dict[int, deque[QueuedError]] = {}
        self.options: list[tuple[int, int, int, int]] = []
        self.clients: deque[Endpoint] = deque()
        self.limit = 0  # descriptors, 0: any number
        self.refuse_segments = 0  # errno of each message that is to be cut, 0: they go
        self._next_fd = 1000

    def _answer(self, operation: str, default: int) -> int:
        queue = self.results.get(operation)
        return queue.popleft() if queue else default

    def _note(self, operation: str, *arguments: object, default: int = 0) -> int:
        self.log.append((operation, *arguments))
        return self._answer(operation, default)

    def _take_number(self) -> int:
        """Give the number of a new descriptor, or a negative errno."""
        if not self.limit:
            self._next_fd += 1
            return self._next_fd - 1
        return next((fd for fd in range(self.limit) if fd not in self.open_fds), -errno.EMFILE)

    def open(self, family: int, kind: int, protocol: int) -> int:
        fd = self._note("open", family, kind, protocol) or self._take_number()
        if fd >= 0:
            self.open_fds.add(fd)
        return fd

    def move_down(self, fd: int) -> int:
        lower = self._take_number() if self.limit else fd
        if not 0 <= lower < fd:
            return fd
        self.open_fds.remove(fd)
        self.open_fds.add(lower)
        return lower

    def close(self, fd: int) -> int:
        self.open_fds.remove(fd)
        return self._note("close", fd)

    def abort(self, fd: int) -> int:
        self.open_fds.remove(fd)
        return self._note("abort", fd)

    def bind_source(self, fd: int, source: Endpoint) -> int:
        return self._note("bind_source", fd, *source)

    def bind_device(self, fd: int, name: bytes) -> int:
        return self._note("bind_device", fd, name)

    def connect(self, fd: int, peer: Endpoint) -> int:
        return self._note("connect", fd, *peer)

    def accept(self, fd: int) -> tuple[int, Endpoint, Endpoint]:
        if not self.clients:
            return self._note("accept", fd, default=-errno.EAGAIN), NOWHERE, NOWHERE
        new = self._take_number()
        if new < 0:
            return new, NOWHERE, NOWHERE
        self.open_fds.add(new)
        peer = self.clients.popleft()
        return new, peer, peer

    def refuse(self, fd: int, spare: int) -> int:
        return self._note("refuse", fd, spare, default=spare)

    def prepare_stream(self, fd: int) -> int:
        return self._note("prepare_stream", fd)

    def prepare_datagrams(self, fd: int) -> int:
        return self._note("prepare_datagrams", fd)

    def send(self, fd: int, data: bytes) -> int:
        return self._note("send", fd, data, default=len(data))

    def peek(self, fd: int, skip: int, n: int) -> int:
        return self._note("peek", fd, skip, n, default=-errno.EAGAIN)

    def at_end(self, fd: int) -> int:
        return self._note("at_end", fd)

    def rewind(self, fd: int, offset: int) -> int:
        return self._note("rewind", fd, offset)

    def consume(self, fd: int, n: int) -> int:
        return self._note("consume", fd, n, default=n)

    def free_space(self, fd: int) -> tuple[int, int]:
        return self._note("free_space", fd, default=BUFFER // 2), BUFFER

    def shut_write(self, fd: int) -> int:
        return self._note("shut_write", fd)

    def take_error(self, fd: int) -> int:
        return self._note("take_error", fd)

    def keep_alive(self, fd: int, idle_s: int) -> int:
        return self._note("keep_alive", fd, idle_s)

    def watch(self, fd: int, op: int, events: int, tag: int) -> int:
        return self._note("watch", fd, op, events, tag)

    def send_messages(self, fd: int, messages: list[tuple[bytes, Endpoint | None, bytes]]) -> int | list[int]:
        """As the kernel does it: what fails is an error if it is the first, else left for the next call."""
        sent: list[int] = []
        for message in messages:
            queue = self.results.get("send_message")
            if sent and queue and queue[0] < 0:
                break
            n = self._send(fd, *message)
            if n < 0:
                return sent or n
            sent.append(n)
        return sent

    def _send(self, fd: int, data: bytes, peer: Endpoint | None, control: bytes) -> int:
        if self.refuse_segments and control[-16:-8] == SEGMENT_ITEM:
            return -self.refuse_segments
        return self._note("send_message", fd, data, peer, control, default=len(data))

    def receive_messages(self, fd: int, n: int) -> int | list[Received]:
        queue = self.inbox.get(fd)
        if not queue:
            return -errno.EAGAIN
        found: list[Received] = []
        while queue and len(found) < n:
            item = queue.popleft()
            if isinstance(item, int):
                if not found:
                    return item
                queue.appendleft(item)
                break
            found.append(item)
        return found

    def receive_error(self, fd: int) -> int | QueuedError:
        queue = self.errors.get(fd)
        return queue.popleft() if queue else -errno.EAGAIN

    def set_option(self, fd: int, level: int, name: int, value: int) -> int:
        self.options.append((fd, level, name, value))
        return self._answer("set_option", 0)

    def is_own(self, fd: int, peer: Endpoint) -> int:
        return self._note("is_own", fd, peer)

    def index_of(self, fd: int, ifname: bytes) -> int:
        return self._note("index_of", fd, ifname, default=7)

    def set_interface(self, fd: int, family: int, ifindex: int) -> int:
        return self._note("set_interface", fd, family, ifindex)
