"""A rtnetlink socket: requests to the kernel and dumps of its tables.

Theory of operation. The socket belongs to the network namespace in which it was opened. The kernel handles a
request within send(2), so all replies wait in the socket when send returns. `RtnlSocket` reads up to the
reply that ends the request; its only state is the sequence number.

* A dump is a sequence of datagrams with many messages each. NLMSG_DONE ends it and may carry an error
  (ENOENT: no such table). The kernel makes the next datagram when we read one, so a table of any size needs
  one buffer only. If entries change between two datagrams, the kernel sets NLM_F_DUMP_INTR in a message; then
  the dump is inconsistent and must be repeated.
* A dump is taken, and what it brought is looked at, by generators that yield where they may be interrupted:
  thousands of routes take so long that other work has to have its turn in between (`follow.turns`). They
  yield much more often than that, as only who runs one knows the time; `finish` does all of it at once.
* A request for a change ends with NLMSG_ERROR; errno 0 is the acknowledgement, sent only for NLM_F_ACK. Many
  requests may share a datagram; those without NLM_F_ACK are answered only if they fail.
* A process with CAP_NET_ADMIN in the namespace may send to any netlink socket there. Our socket is connected
  to the kernel, so the kernel rejects such messages and no process can fill our buffer; `RtnlSocket` drops
  those that arrived before connect(2), by their sender.
* NETLINK_GET_STRICT_CHK (Linux 4.20) makes the kernel filter dumps by interface and table; older kernels
  return more, so callers filter as well. NETLINK_EXT_ACK (4.12) adds the kernel's explanation to errors,
  NETLINK_CAP_ACK (4.3) leaves the quoted request out of them. Everything works without these three.
"""

from __future__ import annotations

import os
import socket
from errno import ENODEV, ENOENT

from passt.errors import HostError
from passt.host.interface_index import interface_index
from passt.host.rtnetlink import messages
from passt.host.rtnetlink.messages import MessageFlag, MessageType
from passt.light.values import Value

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from types import TracebackType
    from typing import Self, TypeVar

    _Result = TypeVar("_Result")
    _Item = TypeVar("_Item")

# linux/netlink.h; the socket module has none of them.
_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NETLINK_GET_STRICT_CHK = 12

# A datagram of a dump has 32 KiB at most, and a single message far less.
_BUFFER_LEN = 64 * 1024
# All errors of one batch wait in the receive buffer, each taking about 1 KiB; the default of 212,992 bytes
# has room for them.
_BATCH = 64
_BATCH_LEN = 32 * 1024
_DUMP_ATTEMPTS = 16
STEP = 64                          # entries of a table between two yields of a generator


class KernelRefusalError(HostError):
    """The kernel answered a request with *errno*; *reason* is its text."""

    def __init__(self, what: str, outcome: messages.Outcome) -> None:
        self.errno = outcome.errno
        self.reason = reason(outcome)
        super().__init__(f"{what}: {self.reason}")


class Request(Value):
    """A request for a change: RTM_NEW* type, NLM_F_* flags except REQUEST and ACK, payload."""

    type: int
    flags: int
    payload: bytes


def reason(outcome: messages.Outcome) -> str:
    """Return the text of an error: that of errno and, in brackets, the kernel's explanation."""
    text = os.strerror(outcome.errno)
    return f"{text} ({outcome.text})" if outcome.text else text


class RtnlSocket:
    """A rtnetlink socket of the current network namespace; a context manager.

    *strict* False requests no filtered dumps, as on kernels before 4.20.
    """

    def __init__(self, *, strict: bool = True) -> None:
        self._sequence = 0
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC,
                                         socket.NETLINK_ROUTE)
            self._socket.connect((0, 0))
        except OSError as error:
            raise HostError(f"cannot open a rtnetlink socket: {error.strerror}") from error
        options = [_NETLINK_CAP_ACK, _NETLINK_EXT_ACK]
        if strict:
            options.append(_NETLINK_GET_STRICT_CHK)
        for option in options:
            try:
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
            except OSError:
                continue

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; no other method may be called afterwards."""
        self._socket.close()

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._socket.fileno()

    def dump(self, what: str, message_type: int, payload: bytes) -> list[bytes]:
        """Read a table; return the payloads of the address family in *payload*, all of them if that is 0.

        A kernel without that family answers with entries of other families, which `dump` removes. A table
        that does not exist counts as empty. Raises HostError that names *what* was being read.
        """
        return finish(self.dump_in_pieces(what, message_type, payload))

    def dump_in_pieces(self, what: str, message_type: int, payload: bytes
                       ) -> Generator[None, None, list[bytes]]:
        """Do the work of `dump`; nobody else may use the socket meanwhile."""
        family = messages.family_of(payload)
        for _ in range(_DUMP_ATTEMPTS):
            found = yield from self._dump_once(what, message_type, payload)
            if found is not None:
                return (yield from filter_in_pieces(
                    lambda entry: not family or messages.family_of(entry) == family, found))
        raise HostError(f"cannot read {what}: it changed during each of {_DUMP_ATTEMPTS} attempts")

    def _dump_once(self, what: str, message_type: int, payload: bytes
                   ) -> Generator[None, None, list[bytes] | None]:
        """Take a dump; return None if a change interrupted it."""
        doing = f"cannot read {what}"
        self._send(doing, [Request(message_type, MessageFlag.DUMP, payload)])
        found: list[bytes] = []
        is_interrupted, end = False, None
        while end is None:
            end, has_mark = messages.parse_replies(self._receive(doing), self._sequence, found)
            is_interrupted = is_interrupted or has_mark
            yield
        outcome = messages.Outcome.parse(end)
        if outcome.errno == ENOENT:
            return []
        if outcome.errno:
            raise KernelRefusalError(doing, outcome)
        return None if is_interrupted else found

    def get_link(self, ifname: str) -> messages.LinkMessage:
        """Read the interface with the name, or alternative name, *ifname*."""
        try:
            ifindex = interface_index(ifname)
        except OSError as error:
            if error.errno != ENODEV:
                raise HostError(f"cannot look for interface {ifname}: {error.strerror}") from error
            raise HostError(f"there is no interface {ifname} in this network namespace") from error
        return self._read_link(f"cannot read interface {ifname}", ifindex)

    def get_link_at(self, ifindex: int) -> messages.LinkMessage:
        """Read the interface with an index; raises KernelRefusalError, with ENODEV if there is none."""
        return self._read_link(f"cannot read interface {ifindex}", ifindex)

    def _read_link(self, what: str, ifindex: int) -> messages.LinkMessage:
        payload = self.ask(what, MessageType.GETLINK, messages.build_link_query(ifindex))
        return messages.LinkMessage.parse(payload)

    def get_addresses(self, family: int, ifindex: int) -> list[tuple[messages.AddressMessage, bytes]]:
        """Read the addresses of one interface and their payloads, in the kernel's order."""
        found = self.dump("addresses", MessageType.GETADDR, messages.build_addresses_query(family, ifindex))
        parsed = [(messages.AddressMessage.parse(payload), payload) for payload in found]
        return [entry for entry in parsed if entry[0].ifindex == ifindex]

    def ask(self, what: str, message_type: int, payload: bytes) -> bytes:
        """Send a request with a single reply and return the payload of that; raises KernelRefusalError."""
        self._send(what, [Request(message_type, 0, payload)])
        for reply in self._replies(what, self._sequence, self._sequence):
            if reply.type == MessageType.ERROR:
                raise KernelRefusalError(what, messages.Outcome.parse(reply))
            return reply.payload
        raise AssertionError(what)  # _replies is endless

    def request(self, what: str, message_type: int, payload: bytes, flags: int = 0) -> None:
        """Make one change; raises KernelRefusalError that begins with *what* ("cannot ...")."""
        outcome = self.request_all(what, [Request(message_type, flags, payload)]).get(0)
        if outcome is not None:
            raise KernelRefusalError(what, outcome)

    def request_all(self, what: str, requests: Sequence[Request]) -> dict[int, messages.Outcome]:
        """Make many changes in order; each is tried even if others fail.

        Returns the outcomes of the failed ones, by index in *requests*.
        """
        refused: dict[int, messages.Outcome] = {}
        n_done = 0
        for batch in _batches(requests):
            self._request_batch(what, batch, n_done, refused)
            n_done += len(batch)
        return refused

    def _request_batch(self, what: str, batch: list[Request], n_done: int,
                       refused: dict[int, messages.Outcome]) -> None:
        first = self._sequence + 1
        last = batch[-1]
        batch[-1] = Request(last.type, last.flags | MessageFlag.ACK, last.payload)
        self._send(what, batch)
        for reply in self._replies(what, first, self._sequence):
            if reply.type != MessageType.ERROR:
                raise HostError(f"{what}: unexpected answer of type {reply.type}")
            outcome = messages.Outcome.parse(reply)
            if outcome.errno:
                refused[n_done + reply.sequence - first] = outcome
            if reply.sequence == self._sequence:
                break

    def _send(self, what: str, requests: list[Request]) -> None:
        parts = []
        for request in requests:
            self._sequence += 1
            parts.append(messages.build_message(request.type, request.flags | MessageFlag.REQUEST,
                                                self._sequence, request.payload))
        try:
            self._socket.send(b"".join(parts))
        except OSError as error:
            raise HostError(f"{what}: {error.strerror}") from error

    def _receive(self, what: str) -> bytes:
        """Read one datagram from the kernel, dropping those of other senders."""
        while True:
            try:
                datagram, _, flags, sender = self._socket.recvmsg(_BUFFER_LEN)
            except OSError as error:
                raise HostError(f"{what}: {error.strerror}") from error
            if sender[0] != 0:
                continue
            if flags & socket.MSG_TRUNC:
                raise HostError(f"{what}: the kernel sent a message of more than {_BUFFER_LEN} bytes")
            return datagram

    def _replies(self, what: str, first: int, last: int) -> Iterator[messages.Message]:
        """Yield replies without end: the caller knows which one is the last."""
        while True:
            for reply in messages.parse_messages(self._receive(what)):
                if first <= reply.sequence <= last and reply.type != MessageType.NOOP:
                    yield reply


def _batches(requests: Sequence[Request]) -> Iterator[list[Request]]:
    """Split requests into batches that fit in a datagram and whose errors fit in the receive buffer."""
    batch: list[Request] = []
    length = 0
    for request in requests:
        if batch and (len(batch) == _BATCH or length + len(request.payload) > _BATCH_LEN):
            yield batch
            batch, length = [], 0
        batch.append(request)
        length += len(request.payload)
    if batch:
        yield batch


def finish(work: Generator[None, None, _Result]) -> _Result:
    """Do all of *work* now; return its result."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: _Result = end.value
            return result


def map_in_pieces(change: Callable[[_Item], _Result], items: Iterable[_Item]
                  ) -> Generator[None, None, list[_Result]]:
    """Work that returns what *change* makes of each of *items*."""
    found = []
    for number, item in enumerate(items, 1):
        found.append(change(item))
        if not number % STEP:
            yield
    return found


def filter_in_pieces(is_wanted: Callable[[_Item], object], items: Iterable[_Item]
                     ) -> Generator[None, None, list[_Item]]:
    """Work that returns those of *items* that *is_wanted*."""
    found = []
    for number, item in enumerate(items, 1):
        if is_wanted(item):
            found.append(item)
        if not number % STEP:
            yield
    return found
