"""The listening side of the control socket: who may come in, how many at once, and for how long.

The socket's file has mode 0600, so that only its owner and root can connect; the kernel tells besides who did
(unix(7), SO_PEERCRED), and whoever did not start the program is refused. A client that comes when there are
MAX_CLIENTS gets a response that says so. Slow and silent ones are closed when their time is over (`client`).

A piece of a long list takes as long as `PIECE_S` and little more, whatever the items of the list cost. When
thirty clients ask for lists, the loop would make thirty pieces in each of its turns, and traffic would wait
for all of them. So whoever wants a piece made stands in a queue (`Pace`), and after a piece that took some
time nobody else's is made for as long. As one turn of the loop hears each client once, traffic has its turn
in between. A client alone never waits.

Who is refused gets the response at once, and the end of our stream; the connection is closed a moment later.
A client that finds both ends closed before it has sent its request, as curl may, would take it for a failure.
"""

from __future__ import annotations

import socket
import time
from collections import deque

from passt import log
from passt.control.client import Client
from passt.control.http import RefusalError

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from passt.control.http import Request, Response
    from passt.control.source import Loop

MAX_CLIENTS = 32
MAX_ACCEPTED = 16         # in one turn of the loop
RETRY_S = 1.0             # until accept(2) is tried again after it found no free descriptor
SWEEP_S = 1.0             # between two looks for clients whose time is over; that who is refused has
PIECE_S = 0.0002          # after which a piece of a long list gets nothing more
MAX_PARTING = 16          # clients that were refused and are not closed yet


class Server:
    """Serves clients of the listening socket *fd*, which it owns, by *serve*."""

    def __init__(self, loop: Loop, fd: int, serve: Callable[[Request, Client], Response], *,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._loop = loop
        self._sock = socket.socket(fileno=fd)
        self._serve = serve
        self._clock = clock
        self._clients: set[Client] = set()
        self._is_sweeping = False
        self._parting: deque[socket.socket] = deque()
        # Tells whether a client is of the user who started us; set before the first one comes
        # (`run.steering`, which has the same door for pesto).
        self.is_ours: Callable[[socket.socket], bool | None] = lambda _client: False
        # Made now: no response takes anything that could be lacking later.
        self._full = _plain(RefusalError(503, f"there are {MAX_CLIENTS} clients already"))
        self._stranger = _plain(RefusalError(403, "this socket is for the user who started the program"))

    def start(self) -> None:
        """Take clients from now on."""
        self._loop.add_reader(self._sock.fileno(), self._on_client)

    def count(self) -> int:
        """Return how many clients there are."""
        return len(self._clients)

    def _on_client(self) -> None:
        for _ in range(MAX_ACCEPTED):
            try:
                sock, _ = self._sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                log.limited(log.WARNING, "control", f"--control: cannot accept a client: {error.strerror}")
                self._loop.remove_reader(self._sock.fileno())
                self._loop.call_later(RETRY_S, self.start)
                return
            self._take(sock)

    def _take(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        refusal = None if self.is_ours(sock) else self._stranger
        if refusal is None and len(self._clients) >= MAX_CLIENTS:
            refusal = self._full
        if refusal is not None:
            self._part_from(sock, refusal)
            return
        try:
            self._clients.add(Client(self._loop, sock, self._serve, self._clients.discard, self._clock))
        except OSError:
            self._close(sock)
            return
        if not self._is_sweeping:
            self._is_sweeping = True
            self._loop.call_later(SWEEP_S, self._sweep)

    def _part_from(self, sock: socket.socket, refusal: bytes) -> None:
        """Send *refusal*, and close *sock* soon."""
        try:
            sock.send(refusal)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._close(sock)
            return
        if not self._parting:
            self._loop.call_later(SWEEP_S, self._close_parting)
        self._parting.append(sock)
        if len(self._parting) > MAX_PARTING:
            self._close(self._parting.popleft())

    def _close_parting(self) -> None:
        while self._parting:
            self._close(self._parting.popleft())

    def _close(self, sock: socket.socket) -> None:
        """Close *sock*; what is unread then would reset the connection, and lose our response.

        A descriptor that was sent along is closed with it, which may take its time.
        """
        with self._loop.wait_limit():
            try:
                sock.recv(65536)
            except OSError:
                pass
            sock.close()

    def _sweep(self) -> None:
        """Close clients whose time is over, as long as there are clients."""
        for client in [client for client in self._clients if client.is_late()]:
            client.close()
        self._is_sweeping = bool(self._clients)
        if self._is_sweeping:
            self._loop.call_later(SWEEP_S, self._sweep)


class Asker:
    """A response that is made piece by piece; *asked* numbers the last time that one was asked for."""

    def __init__(self) -> None:
        self.asked = 0


class Pace:
    """Whose turn it is to have a long response made; one for all clients. *clock* gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._queue: deque[Asker] = deque()
        self._n_asked = 0
        self._last: Asker | None = None           # who had the last piece made
        self._next_s = 0.0
        self._end_s = 0.0                         # of the piece that is being made

    def has_time(self) -> bool:
        """Tell whether the piece that is being made may grow."""
        return self._clock() < self._end_s

    def join(self, items: Iterable[bytes]) -> Iterator[bytes]:
        """Put commas between *items*, and give as many at once as there is time for; empty ones are none."""
        before, texts = b"", []
        for item in items:
            if item:
                texts.append(item)
            if not self.has_time():
                yield before + b",".join(texts) if texts else b""
                before, texts = (b"," if before or texts else b""), []
        yield before + b",".join(texts) if texts else b""

    def share(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """Give *pieces*, with an empty one whenever it is another's turn."""
        me = Asker()
        try:
            while True:
                while not self._is_turn_of(me):
                    yield b""
                start_s = self._clock()
                self._end_s = start_s + PIECE_S
                piece = next(pieces, None)
                now_s = self._clock()
                self._last, self._next_s = me, now_s + (now_s - start_s)
                if piece is None:
                    return
                yield piece
        finally:
            if me in self._queue:
                self._queue.remove(me)            # the client has gone before its response was made

    def _is_turn_of(self, me: Asker) -> bool:
        """Tell whether *me*, who asks, is next; it stands in the queue otherwise.

        Who asks is asked in each turn of the loop. Who does not, as its client has not read what it was sent,
        loses its place to those behind it.
        """
        before = me.asked if me in self._queue else 0
        self._n_asked += 1
        me.asked = self._n_asked
        if not before:
            self._queue.append(me)
        while self._queue[0].asked < before:
            self._queue.popleft()
        if self._queue[0] is not me or (self._last is not me and self._clock() < self._next_s):
            return False
        self._queue.popleft()
        return True


def _plain(refusal: RefusalError) -> bytes:
    """Write a refusal as the bytes of a response, for a client with whom we do not talk."""
    response = refusal.response()
    body = b"".join(piece or b"" for piece in response.body)
    head = (f"HTTP/1.1 {response.status} \r\ncontent-type: {response.kind}\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n")
    return head.encode() + body
