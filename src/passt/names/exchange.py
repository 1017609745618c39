"""One question on its way to the servers, until one has answered it.

Theory of operation. The tries of the plan (`names.upstreams`) follow each other, the next one when the time
of one is over or its server has failed. What was sent before stays valid: a late answer ends the exchange,
too. Each try has a socket of its own, connected to its server, and an ID of its own, so who wants to forge an
answer has to guess a port and an ID (RFC 5452 9.2), and the kernel keeps out what other addresses send. What
does not answer the question is not looked at further, and after MAX_WRONG of such a server has failed.

A server that says SERVFAIL, NOTIMP or REFUSED has failed, as for glibc; if all do, the last such answer is
the answer. Queries go by UDP. An answer that is truncated there is fetched by TCP if the client came by TCP,
else passed on as it is: the client will ask again by TCP.
"""

from __future__ import annotations

import os
import socket
from errno import EMFILE, ENFILE, ENOBUFS, ENOMEM

from passt import log
from passt.errors import WireError
from passt.names import counts as counted
from passt.names.loop import READABLE, WRITABLE
from passt.names.upstreams import DEAD_S
from passt.wire.dns.message import (
    FLAG_RESPONSE,
    FLAG_TRUNCATED,
    MAX_MESSAGE_LEN,
    DnsView,
    Rcode,
    build_query,
)

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from passt.facts.address import IPAddress
    from passt.names.counts import Counts
    from passt.names.loop import Loop, Timer
    from passt.names.outlet import Outlet
    from passt.names.upstreams import Try, Upstreams

MAX_WRONG = 32                     # messages of one server that answer something else, or nothing
_MAX_READS = 8                     # of one socket in a turn: others have their turn as well
_OURS = frozenset({EMFILE, ENFILE, ENOBUFS, ENOMEM})   # failures that tell nothing of a server
_FAILED = frozenset({Rcode.SERVFAIL, Rcode.NOTIMP, Rcode.REFUSED})
_MAY_LACK_QUESTION = _FAILED | {Rcode.FORMERR}
_LENGTH_LEN = 2                    # in front of a message over TCP (RFC 1035 4.2.2)


class _Sent:
    """A query that was sent to *server* with the ID *number*; over TCP with what came so far."""

    __slots__ = ("buffer", "is_stream", "n_wrong", "number", "server", "sock")

    def __init__(self, server: IPAddress, sock: socket.socket, number: int, *, is_stream: bool) -> None:
        self.server = server
        self.sock = sock
        self.number = number
        self.is_stream = is_stream
        self.n_wrong = 0
        self.buffer = bytearray()


class Exchange:
    """Asks *query* by *plan*; calls *on_done* once, with the answer, or None if there is none.

    With *wants_whole* no truncated answer will do.
    """

    def __init__(self, loop: Loop, outlet: Outlet, upstreams: Upstreams, query: DnsView,
                 plan: Sequence[Try], on_done: Callable[[DnsView | None], None], *,
                 counts: Counts, wants_whole: bool) -> None:
        self._loop = loop
        self._outlet = outlet
        self._upstreams = upstreams
        self._query = query
        self._tries = iter(plan)
        self._on_done = on_done
        self._counts = counts
        self._wants_whole = wants_whole
        self._sent: dict[IPAddress, _Sent] = {}
        self._failed: set[IPAddress] = set()     # they have answered, and will not do better
        self._current: IPAddress | None = None   # whose time runs
        self._timeout_s = 0.0
        self._timer: Timer | None = None
        self._last_resort: DnsView | None = None

    def start(self) -> None:
        """Ask the first server; *on_done* may be called already."""
        self._go_on()

    def abandon(self) -> None:
        """End without an answer, and without telling."""
        for sent in list(self._sent.values()):
            self._close(sent)
        if self._timer is not None:
            self._loop.cancel(self._timer)

    def _go_on(self) -> None:
        """Ask the next server; without one the exchange ends."""
        if self._timer is not None:
            self._loop.cancel(self._timer)
            self._timer = None
        for server, timeout_s in self._tries:
            if server in self._failed or not self._ask(server, socket.SOCK_DGRAM):
                continue
            if timeout_s:
                self._current, self._timeout_s = server, timeout_s
                self._timer = self._loop.call_later(timeout_s, self._on_timeout)
                return
        self._finish(self._last_resort)

    def _ask(self, server: IPAddress, kind: int) -> bool:
        """Send the query to *server*; tell whether it has left us."""
        before = self._sent.get(server)
        if before is not None:
            self._close(before)
        number = int.from_bytes(os.urandom(2), "big")
        is_stream = kind == socket.SOCK_STREAM
        try:
            sock = self._outlet.open(server, kind)
        except OSError as error:
            self._note_failure(server, error)
            return False
        sent = _Sent(server, sock, number, is_stream=is_stream)
        self._sent[server] = sent
        if is_stream:
            self._loop.watch(sock.fileno(), lambda: self._on_writable(sent), WRITABLE)
            return True
        self._loop.watch(sock.fileno(), lambda: self._on_datagram(sent))
        try:
            sock.send(build_query(self._query, number))
        except BlockingIOError:
            pass                   # as if it were lost on the way
        except OSError as error:
            self._note_failure(server, error)
            self._close(sent)
            return False
        return True

    def _on_timeout(self) -> None:
        self._timer = None
        if self._current is not None:
            self._note_silent(self._current)
        self._go_on()

    def _on_datagram(self, sent: _Sent) -> None:
        for _ in range(_MAX_READS):
            if self._sent.get(sent.server) is not sent:
                return             # the exchange is over, or goes on by TCP
            try:
                data = sent.sock.recv(MAX_MESSAGE_LEN)
            except BlockingIOError:
                return
            except OSError as error:
                self._note_failure(sent.server, error)
                self._give_up(sent)
                return
            self._on_message(sent, data)

    def _on_writable(self, sent: _Sent) -> None:
        """Send the query by a connection that is there, or has failed."""
        query = build_query(self._query, sent.number)
        message = len(query).to_bytes(_LENGTH_LEN, "big") + query
        try:
            # The buffer of a new socket takes all of it.
            is_sent = sent.sock.send(message) == len(message)
        except BlockingIOError:
            return                 # the event was of a socket that had its number before
        except OSError:
            is_sent = False
        if is_sent:
            self._loop.watch(sent.sock.fileno(), lambda: self._on_stream(sent), READABLE)
        else:
            self._give_up(sent)

    def _on_stream(self, sent: _Sent) -> None:
        try:
            data = sent.sock.recv(MAX_MESSAGE_LEN)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._give_up(sent)
            return
        sent.buffer += data
        if len(sent.buffer) < _LENGTH_LEN:
            return
        end = _LENGTH_LEN + int.from_bytes(sent.buffer[:_LENGTH_LEN], "big")
        if len(sent.buffer) >= end:
            self._on_message(sent, bytes(sent.buffer[_LENGTH_LEN:end]))
            if self._sent.get(sent.server) is sent:
                self._give_up(sent)    # it was no answer, and another one will not come

    def _on_message(self, sent: _Sent, data: bytes) -> None:
        """Take a message of the server."""
        answer = self._check(sent, data)
        if answer is None:
            self._counts.add(counted.WRONG_ANSWER)
            sent.n_wrong += 1
            if sent.n_wrong >= MAX_WRONG:
                self._note_silent(sent.server)
                self._give_up(sent)
            return
        self._upstreams.note_answer(sent.server)
        if answer.rcode in _FAILED or not answer.name:
            self._counts.add(counted.SERVER_FAILURES)
            self._last_resort = answer
            self._failed.add(sent.server)
            self._give_up(sent)
        elif answer.flags & FLAG_TRUNCATED and self._wants_whole and not sent.is_stream:
            self._fetch_whole(sent.server)
        else:
            self._finish(answer)

    def _check(self, sent: _Sent, data: bytes) -> DnsView | None:
        """Return the answer that *data* is, None if it is not one to our query."""
        try:
            answer = DnsView(data)
        except WireError:
            return None
        if answer.id != sent.number:
            return None
        if not answer.name and answer.flags & FLAG_RESPONSE and answer.rcode in _MAY_LACK_QUESTION:
            return answer
        return answer if answer.is_answer_to(self._query) else None

    def _fetch_whole(self, server: IPAddress) -> None:
        """Ask *server* once more, by TCP."""
        is_asked = self._ask(server, socket.SOCK_STREAM)
        if server == self._current and self._timer is not None:
            self._loop.cancel(self._timer)
            self._timer = self._loop.call_later(self._timeout_s, self._on_timeout) if is_asked else None
            if not is_asked:
                self._go_on()

    def _give_up(self, sent: _Sent) -> None:
        """Expect nothing from a server any more; if its time runs, ask the next one."""
        self._close(sent)
        if sent.server == self._current:
            self._current = None
            self._go_on()

    def _close(self, sent: _Sent) -> None:
        del self._sent[sent.server]
        self._loop.unwatch(sent.sock.fileno())
        sent.sock.close()

    def _finish(self, answer: DnsView | None) -> None:
        self.abandon()
        self._on_done(answer)

    def _note_failure(self, server: IPAddress, error: OSError) -> None:
        if error.errno not in _OURS:
            self._note_silent(server)

    def _note_silent(self, server: IPAddress) -> None:
        self._counts.add(counted.SERVER_FAILURES)
        if self._upstreams.note_silent(server, self._loop.clock()):
            log.limited(log.INFO, f"name server {server}", f"name server {server} does not answer: it comes"
                                                           f" last for {DEAD_S:.0f} seconds")
