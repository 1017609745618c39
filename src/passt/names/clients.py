"""The doors at which the guest's queries come in: a UDP socket and a listening TCP socket for each family.

Over TCP a client may send queries without waiting for answers, and gets these in the order in which they come
(RFC 7766 6.2.1.1 and 7).
"""

from __future__ import annotations

from passt.names import counts as counted
from passt.names.forwarder import MAX_QUERY_LEN, Client
from passt.names.loop import READABLE, WRITABLE

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from passt.names.forwarder import Forwarder
    from passt.names.loop import Loop, Timer

MAX_CLIENTS = 64                   # connections at a time
MAX_ASKED = 16                     # queries of a connection that wait for answers
IDLE_S = 30.0                      # without a query or an answer, until a connection is closed
MAX_UNSENT = 256 * 1024            # bytes of answers that a client does not read
_BATCH = 32                        # datagrams in a turn
_LENGTH_LEN = 2                    # in front of each message (RFC 1035 4.2.2)


class DatagramDoor:
    """Takes queries from the bound UDP socket *sock*."""

    def __init__(self, loop: Loop, sock: socket.socket, forwarder: Forwarder) -> None:
        self._sock = sock
        self._forwarder = forwarder
        sock.setblocking(False)
        loop.watch(sock.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        for _ in range(_BATCH):
            try:
                data, address = self._sock.recvfrom(MAX_QUERY_LEN)
            except OSError:
                return             # nothing more; or the error of an answer sent before
            self._forwarder.ask(data, Client(address, self._sender_to(address), is_stream=False))

    def _sender_to(self, address: tuple[str, int]) -> Callable[[bytes], None]:
        return lambda answer: self._send(answer, address)

    def _send(self, answer: bytes, address: tuple[str, int]) -> None:
        try:
            self._sock.sendto(answer, address)
        except OSError:
            # As if it were lost on the way.
            self._forwarder.counts.add(counted.UNSENT)


class StreamDoor:
    """Takes connections from the listening TCP socket *sock*."""

    def __init__(self, loop: Loop, sock: socket.socket, forwarder: Forwarder) -> None:
        self._loop = loop
        self._sock = sock
        self._forwarder = forwarder
        self.clients: set[StreamClient] = set()
        sock.setblocking(False)
        loop.watch(sock.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        try:
            connection, _ = self._sock.accept()
        except OSError:
            return                 # it is gone again
        if len(self.clients) >= MAX_CLIENTS:
            self._forwarder.counts.add(counted.CONNECTIONS)
            connection.close()
            return
        self.clients.add(StreamClient(self._loop, connection, self._forwarder, self.clients))


class StreamClient:
    """One *connection*; it leaves *others* when it ends."""

    def __init__(self, loop: Loop, connection: socket.socket, forwarder: Forwarder,
                 others: set[StreamClient]) -> None:
        self._loop = loop
        self._connection = connection
        self._forwarder = forwarder
        self._client = Client(self, self._send, is_stream=True)
        self._others = others
        self._unread = bytearray()
        self._unsent = bytearray()
        self._n_asked = 0
        self._is_open = True
        self._is_taking = False
        self._has_ended = False        # the client will ask nothing more
        connection.setblocking(False)
        self._timer = self._start_timer()
        self._watch()

    def _start_timer(self) -> Timer:
        return self._loop.call_later(IDLE_S, self._close)

    def _touch(self) -> None:
        self._loop.cancel(self._timer)
        self._timer = self._start_timer()

    def _watch(self) -> None:
        """Wait for what is of use now: no more queries from who has enough under way."""
        events = READABLE if self._n_asked < MAX_ASKED and not self._has_ended else 0
        if self._unsent:
            events |= WRITABLE
        self._loop.watch(self._connection.fileno(), self._on_event, events)

    def _on_event(self) -> None:
        if self._unsent:
            self._flush()
        if self._is_open and self._n_asked < MAX_ASKED and not self._has_ended:
            self._read()
        if self._is_open:
            self._settle()

    def _read(self) -> None:
        try:
            data = self._connection.recv(_LENGTH_LEN + MAX_QUERY_LEN)
        except BlockingIOError:
            return
        except OSError:
            self._close()
            return
        if not data:
            self._has_ended = True
            return
        self._touch()
        self._unread += data
        self._take()

    def _take(self) -> None:
        """Ask what has come whole."""
        # An answer that comes at once would have us called by ourselves.
        self._is_taking = True
        while self._is_open and self._n_asked < MAX_ASKED and len(self._unread) >= _LENGTH_LEN:
            length = int.from_bytes(self._unread[:_LENGTH_LEN], "big")
            if length > MAX_QUERY_LEN:
                self._forwarder.counts.add(counted.OVERSIZE)
                self._close()
                break
            end = _LENGTH_LEN + length
            if len(self._unread) < end:
                break
            message = bytes(self._unread[_LENGTH_LEN:end])
            del self._unread[:end]
            self._n_asked += 1
            if not self._forwarder.ask(message, self._client):
                self._n_asked -= 1
        self._is_taking = False

    def _send(self, answer: bytes) -> None:
        if not self._is_open:
            self._forwarder.counts.add(counted.UNSENT)
            return
        self._n_asked -= 1
        self._unsent += len(answer).to_bytes(_LENGTH_LEN, "big") + answer
        self._touch()
        self._flush()
        if self._is_taking:
            return
        if self._is_open:
            self._take()
        if self._is_open:
            self._settle()

    def _flush(self) -> None:
        try:
            while self._unsent:
                del self._unsent[:self._connection.send(self._unsent)]
        except BlockingIOError:
            if len(self._unsent) > MAX_UNSENT:
                self._forwarder.counts.add(counted.UNREAD)
                self._close()
        except OSError:
            self._close()

    def _settle(self) -> None:
        """Close what is done, else wait for more."""
        if self._has_ended and not self._unsent and self._n_asked <= 0:
            self._close()
        else:
            self._watch()

    def _close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self._loop.cancel(self._timer)
        self._loop.unwatch(self._connection.fileno())
        self._connection.close()
        self._others.discard(self)
