"""The clients of passt's socket: one virtual machine at a time; others are refused."""

from __future__ import annotations

import os
import select

from passt import log
from passt.errors import HostError

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from passt.facts.contracts import WaitLimit
    from passt.host.unix_socket import Connection, ListeningSocket

    class Loop(Protocol):
        """The part of the engine that `Clients` uses; see engine.pyi."""

        def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
            """Call *callback* whenever *fd* is readable."""

        def remove_reader(self, fd: int) -> None:
            """Stop watching *fd*."""

        def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
            """Call *callback* once, after *delay_s* seconds."""

        def stop(self) -> None:
            """Leave the loop."""

        def wait_limit(self) -> WaitLimit:
            """Give what bounds waits for a client's descriptors."""

    # Takes ownership of a connected socket and serves the client; the function is called with the reason when
    # it is gone. Raises OSError if that is impossible, and leaves the socket to the caller.
    Attach = Callable[[int, Callable[[str], None]], object]

RETRY_S = 1.0  # until accept(2) is tried again after it found no free descriptor
# Between questions to a guest that has sent nothing yet: it may still boot, or get its addresses late.
ASK_FIRST_S, ASK_LAST_S = 1.0, 64.0


class Clients:
    """The connected client: one at a time, accepted from *listener* or handed over to `start`.

    *attach* serves it: `Engine.attach_stream`, or a `vhost_user.session.Session`.
    While a client is connected, another one is accepted and closed at once, so that it sees the refusal. If
    the connected client has hung up and the engine has not noticed yet, the new one waits in the queue of the
    socket: it may be the same emulator, reconnecting. *ask* asks a new client for its guest's hardware
    address; it is called again, less and less often, until *is_guest_known*. With *one_off* the run ends with
    the first client.
    """

    def __init__(self, engine: Loop, listener: ListeningSocket | None, attach: Attach,
                 ask: Callable[[], None], is_guest_known: Callable[[], bool], *, one_off: bool) -> None:
        self._engine = engine
        self._listener = listener
        self._serve = attach
        self._ask_guest = ask
        self._is_guest_known = is_guest_known
        self._one_off = one_off
        self._is_watching = False
        self._n_clients = 0
        self._fd = -1  # of the client; who serves it owns it, and it is open until `_on_end`

    def start(self, connection: Connection | None) -> None:
        """Take *connection*, and clients from the listening socket if there is one."""
        if connection is not None:
            self._attach(connection)
        self._watch()

    def _watch(self) -> None:
        if self._listener is not None and not self._is_watching:
            self._engine.add_reader(self._listener.fd, self._on_client)
            self._is_watching = True

    def _pause(self) -> None:
        if self._listener is not None and self._is_watching:
            self._engine.remove_reader(self._listener.fd)
            self._is_watching = False

    def _on_client(self) -> None:
        assert self._listener is not None  # noqa: S101 - its descriptor is the one watched
        if self._fd >= 0 and _has_hung_up(self._fd):
            self._pause()
            return
        try:
            connection = self._listener.accept()
        except OSError as error:
            log.limited(log.WARNING, "accept", f"cannot accept a client yet: {error.strerror}")
            self._pause()
            self._engine.call_later(RETRY_S, self._watch)
            return
        if connection is None:
            return
        if self._fd < 0:
            self._attach(connection)
            return
        log.limited(log.INFO, "refused", f"refused client{connection.peer_name()}: there is one already")
        with self._engine.wait_limit():  # it may have sent a descriptor that closes slowly
            connection.close()

    def _attach(self, connection: Connection) -> None:
        peer, fd = connection.peer_name(), connection.detach()
        try:
            self._serve(fd, self._on_end)
        except OSError as error:
            os.close(fd)
            if self._listener is None:
                raise HostError(f"cannot take the client that --fd hands over: {error.strerror}") from None
            log.limited(log.WARNING, "accept", f"refused client{peer}: {error.strerror}")
            return
        log.limited(log.INFO, "accepted", f"accepted client{peer}")
        self._fd = fd
        self._n_clients += 1
        self._ask(self._n_clients, ASK_FIRST_S)

    def _ask(self, number: int, delay_s: float) -> None:
        """Ask client *number*; ask again after *delay_s* if it is still connected and its guest unknown."""
        self._ask_guest()

        def ask_again() -> None:
            if self._fd >= 0 and self._n_clients == number and not self._is_guest_known():
                self._ask(number, min(2 * delay_s, ASK_LAST_S))

        if not self._is_guest_known():
            self._engine.call_later(delay_s, ask_again)

    def _on_end(self, reason: str) -> None:
        self._fd = -1
        if self._one_off:
            log.info(f"client gone: {reason}; exiting")
            self._pause()
            self._engine.stop()
            return
        log.limited(log.INFO, "gone", f"client gone: {reason}; waiting for another one")
        self._watch()


def _has_hung_up(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP)
    return bool(poll.poll(0))
