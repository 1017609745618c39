"""One session: a front end's requests come in, and are carried out until one side ends it.

Theory of operation. The front end connects, asks for features, shares memory and rings, and from then on
frames pass through the rings without us; its requests come to the control socket when something changes. The
session reads them when the loop says so, a few in each turn. It never waits: a front end that takes no
replies is ended, as one is that sends nonsense, and whatever it sends, no exception leaves this module. What
it sends can keep us waiting when it is closed, or dropped unread with the socket: a `WaitLimit` bounds that.

The end. Whoever notices first tells the device (`VhostDevice.end`), or the device is it that notices. The
link is detached at the end of that turn, and only then `_on_end` closes what is left here: until then the
control socket stays open, as `run.clients.Clients` looks at it to know a client that comes back.
"""

from __future__ import annotations

import os

from passt import log
from passt.errors import WireError
from passt.vhost_user.connection import Connection, EndOfSessionError
from passt.vhost_user.messages import build_u64, request_name
from passt.vhost_user.requests import RefusalError, Requests

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from passt.facts.contracts import VhostDevice, WaitLimit
    from passt.vhost_user.backend import Backend
    from passt.vhost_user.connection import Message

    class Loop(Protocol):
        """The part of the engine that is used; see engine.pyi."""

        def attach_vhost(self, on_end: Callable[[str], None]) -> VhostDevice:
            """Attach a link to a device; *on_end* is called with the reason when it is detached."""

        def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
            """Call *callback* whenever *fd* is readable."""

        def remove_reader(self, fd: int) -> None:
            """Stop watching *fd*."""

        def wait_limit(self) -> WaitLimit:
            """Give what bounds waits for a front end's descriptors."""

MAX_PER_TURN = 32                  # requests, so that a front end cannot hold up the loop
_SUCCESS, _FAILURE = 0, 1


class Session:
    """The session of the front end that is connected to *fd*; *on_end* is called with why it ended.

    Takes ownership of *fd*. Raises OSError if it cannot be watched, and leaves it to the caller.
    """

    def __init__(self, loop: Loop, fd: int, backend: Backend, on_end: Callable[[str], None]) -> None:
        self._loop = loop
        self._limit = loop.wait_limit()
        self._tell_end = on_end
        self._is_watching = False
        self._connection = Connection(fd)
        try:
            loop.add_reader(fd, self._on_readable)
            self._is_watching = True
            self._device = loop.attach_vhost(self._on_end)
        except BaseException:
            self._stop_watching()
            self._connection.detach()
            raise
        self._requests = Requests(self._device, backend)

    def _on_readable(self) -> None:
        """Carry out the requests that are there, a few of them, and no more once one kept us waiting."""
        with self._limit:
            self._carry_out_some()

    def _carry_out_some(self) -> None:
        try:
            for _ in range(MAX_PER_TURN):
                message = self._connection.receive()
                if message is None:
                    return
                try:
                    self._carry_out(message)
                finally:
                    message.close()
                if self._limit.has_passed():
                    return
        except EndOfSessionError as error:
            self._stop_watching()
            self._device.end(str(error))

    def _carry_out(self, message: Message) -> None:
        """Carry out one request and reply to it. Raises EndOfSessionError."""
        name = request_name(message.header.request)
        status = _SUCCESS
        try:
            answer = self._requests.carry_out(message)
        except RefusalError as error:
            answer, status = None, _FAILURE
            log.limited(log.INFO, "vhost-user", f"refused {name}: {error}")
        except OSError as error:
            self._tell_outcome(message, _FAILURE)
            raise EndOfSessionError(f"{name}: {error.strerror or error}") from None
        except (ValueError, WireError) as error:
            self._tell_outcome(message, _FAILURE)
            raise EndOfSessionError(f"{name}: {error}") from None
        if answer is None:
            self._tell_outcome(message, status)
            return
        fds = [answer.fd] if answer.fd >= 0 else []
        try:
            self._connection.reply(message.header.request, answer.payload, fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _tell_outcome(self, message: Message, status: int) -> None:
        if self._requests.is_outcome_wanted(message):
            self._connection.reply(message.header.request, build_u64(status))

    def _on_end(self, reason: str) -> None:
        """Close what is left; the link is detached."""
        with self._limit:
            if self._is_watching:  # the device has found something wrong, not we
                self._requests.signal_errors(self._limit)
            self._stop_watching()
            self._connection.close()
            self._requests.close()
        self._tell_end(reason)

    def _stop_watching(self) -> None:
        if self._is_watching:
            self._is_watching = False
            self._loop.remove_reader(self._connection.fd)
