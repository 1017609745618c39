"""The main process's side of the program that changes addresses and routes in the namespace while we run.

With --follow and --config-net, the child that makes the tap (`namespace.child`) opens a netlink socket in
the network namespace and hands it over; the main process starts the program (`src/helpers/configurer.c`)
with it, as long as it has capabilities over that namespace. The program keeps CAP_NET_ADMIN alone; the main
process keeps none, so it could not use the socket itself: the kernel looks at who opened it and at who
sends.

Messages on the channel, in any number::

    { u16 type | u16 flags (NLM_F_*) | u32 length | payload of a rtnetlink message }

From the program: "e" and an errno, i32, for each order that the kernel refused, and "d" when a message has
been carried out. So the main process knows when the kernel has what it ordered. It waits for that, but not
for long, and not again before the program has answered: one that was stopped holds up nothing.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from struct import Struct

from passt import log
from passt.errors import HostError
from passt.host.rtnetlink.socket import RtnlSocket
from passt.process.small_program import SmallProgram

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol

    from passt.host.rtnetlink.socket import Request

    class Loop(Protocol):
        """The part of `dataplane.engine.Engine` that is used."""

        def add_reader(self, fd: int, callback: Callable[[], None], readable: bool = ...,
                       writable: bool = ...) -> None:
            """Call *callback* whenever *fd* is readable or writable."""

        def remove_reader(self, fd: int) -> None:
            """Stop watching *fd*."""

        def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
            """Call *callback* once, after *delay_s* seconds."""


FORM = "configurer"                # of the filter
CAP_NET_ADMIN = 12                 # linux/capability.h
MAX_MESSAGE = 16 * 1024            # bytes of a message of ours; a route takes some 60
MAX_QUEUED_LEN = 4 << 20           # bytes that wait for a program that was stopped: some 50,000 routes
_END_S = 2.0                       # in which we end if the command has ended
PATIENCE_S = 1.0                   # for what was ordered to be carried out
_HEADER = Struct("=HHI")
_INDEX = Struct("=I")
_DONE, _REFUSED = b"d", Struct("=ci")


class Configurer:
    """Make it before the child is started. Raises HostError.

    If it ends while it is needed, that is told at *level*.
    """

    def __init__(self, level: int = log.WARNING) -> None:
        self._level = level
        self._program = SmallProgram("configurer")
        try:
            self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            self._program.leave()
            raise HostError(f"cannot prepare to configure the namespace: {error.strerror}") from None
        self._queue: deque[bytes] = deque()
        self._queued_len = 0
        self._loop: Loop | None = None
        self._is_waiting = False
        self._n_ordered = 0        # messages, sent or queued
        self._n_done = 0
        self._is_stalled = False   # it was waited for, and in vain
        # What waits for the message of that number to be carried out, in order.
        self._awaited: deque[tuple[int, Callable[[], None]]] = deque()
        self.ifindex = 0           # of the interface, as soon as it is known

    def hand_over(self, ifname: str) -> None:
        """Hand a netlink socket of the network namespace that we are in over to the main process.

        The child calls it. Raises HostError.
        """
        try:
            with RtnlSocket() as rtnetlink:
                index = _INDEX.pack(rtnetlink.get_link(ifname).ifindex)
                socket.send_fds(self._theirs, [index], [rtnetlink.fileno()])
        except OSError as error:
            raise HostError(f"cannot hand over a netlink socket: {error.strerror}") from None
        finally:
            self._theirs.close()       # the main process waits for a message, or this

    def close_inner_end(self) -> None:
        """Close what is the child's; call when that was started."""
        self._theirs.close()

    def close(self) -> None:
        """Do without, before the child is started."""
        self._ours.close()
        self._theirs.close()
        self._program.leave()

    def start_program(self) -> None:
        """Start the program with what the child has handed over, before any capability is given up.

        Call when the child has made the tap, with one thread. Raises HostError.
        """
        try:
            # The child has said that the tap is there after it has sent this, or has not been able to. Others
            # may have its end open: who waits for us to be ready in the background, say.
            self._ours.setblocking(False)
            message, fds, _, _ = socket.recv_fds(self._ours, _INDEX.size, 1)
        except OSError:
            message, fds = b"", []
        self._ours.close()
        if len(message) != _INDEX.size or not fds:
            self._program.leave()
            raise HostError("the child has handed over no netlink socket: too many open files?")
        [self.ifindex] = _INDEX.unpack(message)
        try:
            self._ours = self._program.start(FORM, (str(self.ifindex),), fds,
                                             capabilities=1 << CAP_NET_ADMIN)
        except HostError:
            self.ifindex = 0
            raise
        finally:
            os.close(fds[0])

    def start(self, loop: Loop) -> None:
        """Take messages of the configurer in *loop*, if it was started."""
        if not self.ifindex:
            return
        self._ours.setblocking(False)
        self._loop = loop
        loop.add_reader(self._ours.fileno(), self._on_event)

    def carry_out(self, requests: Sequence[Request], on_done: Callable[[], None] | None = None) -> None:
        """Have *requests* carried out in their order, without waiting for it.

        Call it after `start`. *on_done* is called once, maybe at once: when they and all before them are
        carried out, when the configurer has gone, and after PATIENCE_S in any case.
        """
        if self._loop is None:
            if on_done is not None:
                on_done()
            return
        orders = build_orders(requests)
        self._queue.extend(orders)
        self._queued_len += sum(map(len, orders))
        self._n_ordered += len(orders)
        if on_done is not None:
            number = self._n_ordered
            self._awaited.append((number, on_done))
            if self._n_done < number and not self._is_stalled:
                self._loop.call_later(PATIENCE_S, lambda: self._lose_patience(number))
        self._flush()
        self._release(self._n_ordered if self._is_stalled else self._n_done)

    def _lose_patience(self, number: int) -> None:
        if self._awaited and self._awaited[0][0] <= number:
            text = "the process that configures the namespace does not answer, and is not waited for"
            log.limited(log.WARNING, "configurer", text)
            self._is_stalled = True
            self._release(number)

    def _release(self, number: int) -> None:
        """Call what waits for messages up to *number*."""
        while self._awaited and self._awaited[0][0] <= number:
            self._awaited.popleft()[1]()

    def _on_event(self) -> None:
        try:
            message = self._ours.recv(MAX_MESSAGE)
        except BlockingIOError:
            self._flush()
            return
        except OSError:
            message = b""
        if len(message) == _REFUSED.size:
            log.limited(log.WARNING, "configurer", "cannot follow the host in the namespace: "
                                                   f"{os.strerror(_REFUSED.unpack(message)[1])}")
        elif message == _DONE:
            # What was not sent is not carried out, whatever it says.
            self._n_done = min(self._n_done + 1, self._n_ordered - len(self._queue))
            self._is_stalled = False
            self._release(self._n_done)
        else:
            self._end()

    def _flush(self) -> None:
        while self._queue and self._loop is not None:
            try:
                self._ours.send(self._queue[0], socket.MSG_NOSIGNAL)
            except BlockingIOError:
                break
            except OSError:
                self._end()
                return
            self._queued_len -= len(self._queue.popleft())
        if self._queued_len > MAX_QUEUED_LEN:
            self._end()
        elif self._loop is not None and self._is_waiting != bool(self._queue):
            self._is_waiting = bool(self._queue)
            self._loop.add_reader(self._ours.fileno(), self._on_event, readable=True,
                                  writable=self._is_waiting)

    def _end(self) -> None:
        """Go on without it; it ends with a command too, and then so do we."""
        if self._loop is None:
            return
        self._loop.remove_reader(self._ours.fileno())
        self._loop.call_later(_END_S, lambda: log.once(
            self._level, "configurer has ended", "the process that configures the namespace has ended: its"
                                                 " addresses and routes stay as they are"))
        self._loop = None
        self._ours.close()
        self._program.leave()
        self._queue.clear()
        self._queued_len = 0
        self.ifindex = 0
        self._n_done = self._n_ordered
        self._release(self._n_done)


def build_orders(requests: Sequence[Request]) -> list[bytes]:
    """Pack *requests* into messages."""
    found, message = [], b""
    for request in requests:
        order = _HEADER.pack(request.type, request.flags, len(request.payload)) + request.payload
        if message and len(message) + len(order) > MAX_MESSAGE:
            found.append(message)
            message = b""
        message += order
    return [*found, message] if message else found

