"""One client of the control socket: HTTP/1.1 by h11, in pieces as the loop has time.

Theory of operation. The socket is non-blocking and watched by the engine's loop; each event is handled by
one read, one request and one piece of a response at most, so no client can hold the traffic up. A response is
made while it is sent: its next piece is asked for when the piece before it has left, so a client that does
not read costs one piece of memory, and nothing is read of it meanwhile. Nor is anything as long as requests
that came together wait for their turn: what is kept of a client is one read and one head or body at most.
What it has to do in which time is checked by `Client.is_late`.

h11 keeps the state of both sides; nonsense of a client raises an exception there, which ends the connection
after a response that says what was wrong.

A client may send a descriptor along with the bytes of a request (unix(7), SCM_RIGHTS). There is room for one
in each read, so the kernel closes what exceeds that; who answers the request may take it, and it is closed
otherwise. Where descriptors can be closed, seen or unseen, a signal ends waits (`WaitLimit`).
"""

from __future__ import annotations

import os
import socket
import struct

import h11

from passt.control.http import MAX_BODY, RefusalError, Request, Response, parse_target

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from passt.control.source import Loop

READ_SIZE = 16384
MAX_HEAD = 16384     # bytes of a request's head that h11 keeps
REQUEST_S = 10.0     # from the first byte of a request, or the connection's begin, to the request's end
IDLE_S = 120.0       # between two requests
SEND_S = 30.0        # without the client taking anything of a response that has an end
_FD = struct.Struct("i")
_ONE_FD = socket.CMSG_LEN(_FD.size)


class Client:
    """Serves the connected socket *sock*: *serve* answers requests, *on_end* is told that it is closed."""

    def __init__(self, loop: Loop, sock: socket.socket, serve: Callable[[Request, Client], Response],
                 on_end: Callable[[Client], None], clock: Callable[[], float]) -> None:
        self._loop = loop
        self._sock = sock
        self._serve = serve
        self._on_end = on_end
        self._clock = clock
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._head: h11.Request | None = None
        self._content = bytearray()
        self._out = b""
        self._body: Iterator[bytes | None] | None = None
        self._is_waiting = False    # for `wake`, with nothing to send
        self._may_pause = False     # the response never ends, and its reader may take its time
        self._has_end = False       # the client sends no more
        self._has_more = False      # the next request, or its beginning, has come already
        self._watched = (True, False)  # for what is to be read, for room to write
        self._is_last = False       # the connection ends when all is sent
        self._deadline = clock() + REQUEST_S
        self._descriptor: int | None = None  # that came with the request which is being read
        self.when_closed: Callable[[], None] | None = None
        loop.add_reader(sock.fileno(), self._on_event, True, False)

    def is_late(self) -> bool:
        """Tell whether the client has had its time."""
        return not (self._is_waiting or self._may_pause) and self._clock() > self._deadline

    def wake(self) -> None:
        """Go on with a response that had nothing to say."""
        if self._is_waiting:
            self._is_waiting = False
            self._deadline = self._clock() + SEND_S
            self._watch(readable=False, writable=True)

    def take_descriptor(self) -> int | None:
        """Hand over the descriptor that came with the request, if one did; the caller owns it then."""
        taken, self._descriptor = self._descriptor, None
        return taken

    def close_descriptor(self, fd: int | None) -> None:
        """Close a descriptor that a client has sent, if there is one."""
        if fd is not None:
            with self._loop.wait_limit():
                os.close(fd)

    def close(self) -> None:
        """Close the connection; nothing if it is closed."""
        if self._sock.fileno() < 0:
            return
        self._loop.remove_reader(self._sock.fileno())
        with self._loop.wait_limit():  # descriptors may lie unread in its queue
            self._sock.close()
        self.close_descriptor(self.take_descriptor())
        self._body = None
        if self.when_closed is not None:
            self.when_closed()
        self._on_end(self)

    def _watch(self, *, readable: bool, writable: bool) -> None:
        if (readable, writable) != self._watched and self._sock.fileno() >= 0:
            self._watched = (readable, writable)
            self._loop.add_reader(self._sock.fileno(), self._on_event, readable, writable)

    def _on_event(self) -> None:
        """Take what the client sent, and go on with what it is sent."""
        if self._sock.fileno() < 0:
            return                 # an event of this turn, that came before we closed
        try:
            if self._watched[0] and not self._read():
                self.close()
                return
            self._take_request()
            self._write()
        except OSError:
            self.close()
        except h11.LocalProtocolError:
            self.close()           # it sent what no answer is possible to any more

    def _read(self) -> bool:
        """Read once; False if the client is gone, and not only done with its requests."""
        try:
            with self._loop.wait_limit():
                data, ancillary, _, _ = self._sock.recvmsg(READ_SIZE, _ONE_FD, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return True
        self._keep_descriptors(ancillary)
        if not data:
            self._has_end = True
            if self._is_waiting or self._http.their_state is h11.IDLE:
                return False
        elif self._is_waiting:
            return False           # another request behind one that never ends
        elif self._http.their_state is h11.IDLE and not self._http.trailing_data[0]:
            self._deadline = self._clock() + REQUEST_S
        self._http.receive_data(data)
        return True

    def _keep_descriptors(self, ancillary: Iterable[tuple[int, int, bytes]]) -> None:
        """Keep the first descriptor that comes with a request, and close others."""
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                for (fd,) in _FD.iter_unpack(data[:len(data) - len(data) % _FD.size]):
                    if self._descriptor is None and not self._is_waiting:
                        self._descriptor = fd
                    else:
                        self.close_descriptor(fd)

    def _take_request(self) -> None:
        """Look whether a request is complete, and begin to answer it."""
        if self._body is not None or self._is_last:
            return
        self._has_more = False
        try:
            event = self._http.next_event()
            while isinstance(event, h11.Request | h11.Data):
                self._keep(event)
                event = self._http.next_event()
        except h11.RemoteProtocolError as error:
            status = 413 if error.error_status_hint in {413, 414, 431} else 400
            self._refuse(RefusalError(status, f"that is not a request of HTTP/1.1: {error}"))
            return
        except RefusalError as refusal:
            self._refuse(refusal)
            return
        if isinstance(event, h11.EndOfMessage):
            self._begin(self._answer())
            self.close_descriptor(self.take_descriptor())
        elif isinstance(event, h11.ConnectionClosed):
            self._is_last = True
        elif self._http.they_are_waiting_for_100_continue:
            self._send(h11.InformationalResponse(status_code=100, headers=[]))

    def _keep(self, event: h11.Request | h11.Data) -> None:
        """Keep a part of a request. Raises RefusalError."""
        if isinstance(event, h11.Request):
            self._head = event
            return
        self._content += event.data
        if len(self._content) > MAX_BODY:
            raise RefusalError(413, f"the body has more than {MAX_BODY} bytes")

    def _refuse(self, refusal: RefusalError) -> None:
        self._is_last = True
        if self._http.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            self._begin(refusal.response())

    def _answer(self) -> Response:
        head = self._head
        assert head is not None  # noqa: S101 - h11 gives no end without a head
        try:
            path, query = parse_target(head.target)
            accept = b", ".join(value for name, value in head.headers if name == b"accept")
            return self._serve(Request(head.method.decode("ascii"), path, query, bytes(self._content),
                                       accept.decode("latin-1")), self)
        except RefusalError as refusal:
            return refusal.response()

    def _begin(self, response: Response) -> None:
        """Send the head of *response*; its body follows, piece by piece."""
        headers = [("content-type", response.kind), ("cache-control", "no-store"), *response.headers]
        body: Iterator[bytes | None] = iter(response.body)
        if response.is_whole:
            whole = b"".join(piece or b"" for piece in response.body)
            headers.append(("content-length", str(len(whole))))
            body = iter((whole,))
        if self._is_last:
            headers.append(("connection", "close"))
        self._send(h11.Response(status_code=response.status, headers=headers))
        self._body = iter(()) if self._head is not None and self._head.method == b"HEAD" else body
        self._may_pause = response.never_ends
        self._deadline = self._clock() + SEND_S

    def _send(self, event: h11.Event) -> None:
        self._out += self._http.send(event) or b""

    def _write(self) -> None:
        """Ask for one more piece if all before it has left, and send what the socket takes."""
        if not self._out and self._body is not None:
            self._next_piece()
        if self._out:
            try:
                sent = self._sock.send(self._out)
            except BlockingIOError:
                sent = 0
            if sent:
                self._out = self._out[sent:]
                self._deadline = self._clock() + SEND_S
        if not self._out and self._is_last and self._body is None:
            self.close()
            return
        is_busy = bool(self._out) or (self._body is not None and not self._is_waiting)
        # What is read already makes no event; room for output does.
        wants = not is_busy and not self._has_more and not self._has_end
        self._watch(readable=wants, writable=is_busy or self._has_more)

    def _next_piece(self) -> None:
        assert self._body is not None  # noqa: S101 - the caller has looked
        for piece in self._body:
            self._is_waiting = piece is None
            if piece:
                self._send(h11.Data(data=piece))
            return
        self._body = None
        self._may_pause = False
        self._send(h11.EndOfMessage())
        self._is_waiting = False
        self._head = None
        self._content.clear()
        if self._http.our_state is h11.MUST_CLOSE or self._http.their_state is not h11.DONE:
            self._is_last = True
        else:
            self._http.start_next_cycle()
            self._has_more = bool(self._http.trailing_data[0]) or self._has_end
            self._deadline = self._clock() + IDLE_S
