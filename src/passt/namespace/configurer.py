"""The process that changes addresses and routes in the namespace while the program runs.

With --follow and --config-net, the child that makes the tap (`namespace.child`) leaves it behind in the
network namespace. It keeps one right, CAP_NET_ADMIN over that namespace, and one way to use it, a netlink
socket that was opened there. It has Landlock as far as it is to be had, and a filter of its own
(tools/seccomp_policy.py) in which there is no socket(2) and no open(2). Its orders come from the main process
alone, and are checked: addresses and routes of the one interface. It ends with the main process.

A command's one is a process of the command's PID namespace, which may end it: then nothing changes any more.

Messages on the channel. From the configurer, at first: index of the interface, u32. To it, in any number::

    { u16 type | u16 flags (NLM_F_*) | u32 length | payload of a rtnetlink message }

From it, when such a message has been carried out: one byte. So the main process knows when the kernel has
what it ordered. It waits for that, but not for long: a configurer that was stopped holds up nothing.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from errno import EADDRNOTAVAIL, EEXIST, ESRCH
from struct import Struct

from passt import log
from passt.errors import HostError
from passt.host.rtnetlink import messages, routes
from passt.host.rtnetlink.messages import MessageFlag, MessageType
from passt.host.rtnetlink.socket import Request, RtnlSocket, reason
from passt.namespace.renumbering import Deletion
from passt.process import helper

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn, Protocol

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
MAX_QUEUED = 4096                  # messages that wait for a configurer that was stopped
_END_S = 2.0                       # in which we end if the command has ended
PATIENCE_S = 1.0                   # for what was ordered to be carried out
_HEADER = Struct("=HHI")
_INDEX = Struct("=I")
_DONE = b"d"
# It is so already: as wanted.
_AS_WANTED = frozenset({EEXIST, ESRCH, EADDRNOTAVAIL})
_FLAGS = MessageFlag.CREATE | MessageFlag.REPLACE | MessageFlag.APPEND


class Configurer:
    """The main process's side. Make it before the child is started; `run_inside` is for that child."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._queue: deque[bytes] = deque()
        self._loop: Loop | None = None
        self._is_waiting = False
        self._n_ordered = 0        # messages, sent or queued
        self._n_done = 0
        # What waits for the message of that number to be carried out, in order.
        self._awaited: deque[tuple[int, Callable[[], None]]] = deque()
        self.ifindex = 0           # of the interface, as soon as it is known

    def run_inside(self, ifname: str) -> None:
        """Fork the configurer in the network namespace that we are in. Raises HostError."""
        rtnetlink = RtnlSocket()
        ifindex = rtnetlink.get_link(ifname).ifindex
        try:
            pid = os.fork()
        except OSError as error:
            raise HostError(f"cannot start the process that configures {ifname}: {error.strerror}") from None
        if pid == 0:
            self._ours.close()
            _run(self._theirs, rtnetlink, ifindex)
        rtnetlink.close()

    def close_inner_end(self) -> None:
        """Close what is the child's; call when that was started."""
        self._theirs.close()

    def start(self, loop: Loop) -> None:
        """Take messages of the configurer in *loop*."""
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
        self._n_ordered += len(orders)
        if on_done is not None:
            number = self._n_ordered
            self._awaited.append((number, on_done))
            if self._n_done < number:
                self._loop.call_later(PATIENCE_S, lambda: self._lose_patience(number))
        self._flush()
        self._release(self._n_done)

    def _lose_patience(self, number: int) -> None:
        if self._awaited and self._awaited[0][0] <= number:
            text = "the process that configures the namespace does not answer, and is not waited for"
            log.limited(log.WARNING, "configurer", text)
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
        if len(message) == _INDEX.size:
            self.ifindex = _INDEX.unpack(message)[0]
        elif message == _DONE:
            # What was not sent is not carried out, whatever it says.
            self._n_done = min(self._n_done + 1, self._n_ordered - len(self._queue))
            self._release(self._n_done)
        else:
            self._end()

    def _flush(self) -> None:
        while self._queue and self._loop is not None:
            try:
                self._ours.send(self._queue[0])
            except BlockingIOError:
                break
            except OSError:
                self._end()
                return
            self._queue.popleft()
        if len(self._queue) > MAX_QUEUED:
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
        self._loop.call_later(_END_S, lambda: log.warning(
            "the process that configures the namespace has ended: its addresses and routes stay as they are"))
        self._loop = None
        self._ours.close()
        self._queue.clear()
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


def parse_orders(message: bytes, ifindex: int) -> list[Request]:
    """Take a message apart. Raises HostError for what is not an address or a route of interface *ifindex*."""
    found = []
    offset = 0
    while offset < len(message):
        if len(message) - offset < _HEADER.size:
            raise HostError("an order is cut off")
        kind, flags, length = _HEADER.unpack_from(message, offset)
        offset += _HEADER.size
        payload = message[offset:offset + length]
        offset += length
        if len(payload) != length or flags & ~_FLAGS:
            raise HostError("an order is malformed")
        _check(kind, payload, ifindex)
        found.append(Request(kind, flags, payload))
    return found


def _check(kind: int, payload: bytes, ifindex: int) -> None:
    if kind in {MessageType.NEWADDR, Deletion.ADDRESS}:
        is_ours = messages.AddressMessage.parse(payload).ifindex == ifindex
    elif kind in {MessageType.NEWROUTE, Deletion.ROUTE}:
        hops = routes.RouteMessage.parse(payload).hops
        is_ours = bool(hops) and all(hop.ifindex == ifindex for hop in hops)
    else:
        is_ours = False
    if not is_ours:
        raise HostError("an order is not about the interface of the namespace")


def _run(channel: socket.socket, rtnetlink: RtnlSocket, ifindex: int) -> NoReturn:
    """Be the configurer until the main process has gone."""
    try:
        helper.detach("passt-configure", (channel.fileno(), rtnetlink.fileno()))
        helper.confine(FORM, right=CAP_NET_ADMIN)
        channel.send(_INDEX.pack(ifindex))
        while message := channel.recv(MAX_MESSAGE + 1):
            apply_orders(message, rtnetlink, ifindex)
            channel.send(_DONE)
    finally:
        os._exit(0)


def apply_orders(message: bytes, rtnetlink: RtnlSocket, ifindex: int) -> None:
    """Carry out a message; what the kernel refuses is told. Raises HostError for one that makes no sense."""
    requests = parse_orders(message, ifindex)
    refused = rtnetlink.request_all("cannot configure the namespace", requests)
    for outcome in refused.values():
        if outcome.errno not in _AS_WANTED:
            log.limited(log.WARNING, "configurer",
                        f"cannot follow the host in the namespace: {reason(outcome)}")
