"""Our program's end of the configuration socket: shows the port rules to a client, and changes them.

Theory of operation. The first client that connects gets the rules of all tables. The door is shut then, so
that what a client saw is what its answer changes; others wait in the queue of the socket. An answer that
comes after a change by --control is refused. A client is let go when its answer is carried out, when it hangs
up, sends nonsense, or has not come to an end in PATIENCE_S. So who is silent or slow keeps the others waiting
no longer than that, and nobody else at all: what it sends is kept up to the length of the longest answer,
what is sent to it fits into a socket's buffer, or it is let go.

Who may. The file of the socket is the caller's alone, so the kernel lets in the caller, and root. If the
caller opens the file to others, they get no further: the client's user has to be the one who started us.
"""

from __future__ import annotations

import socket
import struct
import time

from passt import log
from passt.errors import WireError
from passt.facts.contracts import PortChange
from passt.steer import messages
from passt.steer.messages import PATIENCE_S, Answer, Hello, Report

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from passt.facts.contracts import WaitLimit
    from passt.steer.tables import ClientTables

    class Loop(Protocol):
        """The part of the engine that is used; see engine.pyi."""

        def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
            """Call *callback* whenever *fd* is readable."""

        def remove_reader(self, fd: int) -> None:
            """Stop watching *fd*."""

        def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
            """Call *callback* once, after *delay_s* seconds."""

        def wait_limit(self) -> WaitLimit:
            """Give what bounds waits for a client's descriptors."""

    class Accepted(Protocol):
        """A connection, from `host.unix_socket`."""

        def detach(self) -> int:
            """Hand the descriptor over."""

    class Door(Protocol):
        """The listening socket, from `host.unix_socket`."""

        @property
        def fd(self) -> int:
            """Descriptor."""

        def accept(self) -> Accepted | None:
            """Take the next client; None if there is none. Raises OSError."""

RETRY_S = 1.0                      # until accept(2) is tried again after it found no free descriptor
_READ_LEN = 1 << 16
_CHANGED = "the rules were changed by --control meanwhile; ask again"
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


def peer_uid(sock: socket.socket) -> int:
    """Return the user of a connected UNIX socket's other end, as our user namespace numbers it (unix(7)).

    The kernel noted it when the connection was made. Users that have no number here are all the same one.
    """
    uid: int = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED,
                                                   _CREDENTIALS.size))[1]
    return uid


class PortServer:
    """Serves *tables* at *door*; *is_ours* tells whether a client's socket is that of who started us.

    It tells None where it cannot tell. *clock* counts seconds.
    """

    def __init__(self, loop: Loop, door: Door, tables: ClientTables,
                 is_ours: Callable[[socket.socket], bool | None],
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._loop = loop
        self._door = door
        self._tables = tables
        self._is_ours = is_ours
        self._client: socket.socket | None = None
        self._data = b""
        self._clock = clock
        self._until = 0.0          # the client is let go then
        self._is_timed = False     # one timer waits for the clients of all times
        self._n_seen = 0           # changes of the tables before the client saw them

    def start(self) -> None:
        """Take clients from now on."""
        self._loop.add_reader(self._door.fd, self._on_client)

    def _on_client(self) -> None:
        try:
            accepted = self._door.accept()
        except OSError as error:
            log.limited(log.WARNING, "steer-accept", f"cannot accept a client of --conf-path yet:"
                        f" {error.strerror}")
            self._loop.remove_reader(self._door.fd)
            self._loop.call_later(RETRY_S, self.start)
            return
        if accepted is None:
            return
        client = socket.socket(fileno=accepted.detach())
        is_ours = self._is_ours(client)
        if not is_ours:
            why = "whose it is cannot be told" if is_ours is None else "it is another user's"
            log.limited(log.WARNING, "steer-user", f"refused a client of --conf-path: {why}")
            with self._loop.wait_limit():  # it may have sent a descriptor that closes slowly
                client.close()
            return
        self._loop.remove_reader(self._door.fd)
        self._client, self._data = client, b""
        self._loop.add_reader(client.fileno(), self._on_readable)
        self._until = self._clock() + PATIENCE_S
        if not self._is_timed:
            self._is_timed = True
            self._loop.call_later(PATIENCE_S, self._on_time)
        self._n_seen = self._tables.n_changes
        self._send(Hello(self._tables.shown()).build())

    def _send(self, data: bytes) -> None:
        """Send all of *data*, or let the client go: it takes nothing, and we keep nothing for it."""
        client = self._client
        if client is None:
            return
        try:
            if client.send(data, socket.MSG_NOSIGNAL) == len(data):
                return
        except OSError:
            pass                   # it has hung up, or its socket has no room
        self._let_go()

    def _on_readable(self) -> None:
        client = self._client
        if client is None:
            return
        try:
            with self._loop.wait_limit():  # a descriptor that comes along is closed here
                data = client.recv(_READ_LEN)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._let_go()
            return
        self._data += data
        try:
            length = messages.answer_len(self._data)
            if length is None:
                return
            answer = Answer.parse(self._data)
        except WireError as error:
            log.limited(log.WARNING, "steer-wire", f"a client of --conf-path sent nonsense, nothing was"
                        f" changed: {error}")
            self._let_go()
            return
        self._carry_out(answer)
        self._let_go()

    def _on_time(self) -> None:
        """Let the client go if its time is over; of a later one wait for the rest."""
        left = self._until - self._clock()
        self._is_timed = self._client is not None and left > 0
        if self._is_timed:
            self._loop.call_later(left, self._on_time)
        elif self._client is not None:
            log.limited(log.WARNING, "steer-late", f"a client of --conf-path was silent for {PATIENCE_S:g} s:"
                        " let go, nothing was changed")
            self._let_go()

    def _let_go(self) -> None:
        if self._client is None:
            return
        self._loop.remove_reader(self._client.fileno())
        with self._loop.wait_limit():
            self._client.close()
        self._client, self._data = None, b""
        self.start()

    def _carry_out(self, answer: Answer) -> None:
        """Change what the *answer* asks for, and report."""
        if self._n_seen == self._tables.n_changes:
            outcome = self._tables.change(answer.tables)
        else:
            outcome = PortChange(faults=(_CHANGED,))
            log.limited(log.WARNING, "steer-changed", f"a client of --conf-path: {_CHANGED}")
        if answer.wants_report:
            self._send(Report(bool(outcome.faults), outcome.faults or outcome.notes,
                              has_lost=outcome.n_lost > 0).build())
