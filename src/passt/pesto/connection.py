"""One connection of pesto to a program's socket: what that has, what it shall have, and what came of it."""

from __future__ import annotations

import errno
import os
import time

from passt import log
from passt.errors import HostError, WireError
from passt.host import unix_socket
from passt.steer import messages
from passt.steer.messages import PATIENCE_S, Hello, Report

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from passt.steer.messages import Answer

WAIT_S = 60.0                      # for the clients before us; again for a change of all ports
_READ_LEN = 1 << 16
_MAX_HELLO_LEN = 1 << 24


class Connection:
    """A connection to the socket *path*, to be used in a `with` statement. Raises HostError."""

    def __init__(self, path: str, wait_s: float = WAIT_S) -> None:
        self._path = path
        self._wait_s = wait_s
        self._end_s = 0.0
        try:
            self._sock = unix_socket.connect(path, wait_s)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else error
            more = unix_socket.explain_failure(path, error)
            raise HostError(f"Failed to connect to {path}: {why}{more}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self._sock.close()

    def read_hello(self) -> Hello:
        """Wait for what the program has. Raises HostError."""
        data = b""
        self._begin()
        while True:
            received = self._receive()
            if not received:
                why = " in the middle of its tables" if data else (
                    ": did another user start it, or is this the socket of --control?")
                raise HostError(f"{self._path}: the program closed the connection{why}")
            data += received
            try:
                length = messages.hello_len(data)
                if length is not None:
                    log.debug(f"received {length} bytes of tables")
                    return Hello.parse(data)
            except WireError as error:
                raise HostError(f"{self._path}: {error}") from None
            if len(data) > _MAX_HELLO_LEN:
                raise HostError(f"{self._path}: the tables have no end")

    def send_answer(self, answer: Answer) -> Report | None:
        """Send the new tables and wait until they are carried out; None if the program does not report."""
        data = answer.build()
        self._begin()
        self._send(data)
        log.debug(f"sent {len(data)} bytes of tables")
        received = b""
        while True:
            try:
                more = self._try(lambda: self._sock.recv(_READ_LEN))
            except ConnectionResetError:
                if answer.wants_report:
                    raise self._let_go() from None
                break              # of who reports nothing it is looked at what there is now
            if not more:
                break
            received += more
            if len(received) > messages.MAX_REPORT_LEN * 2:
                raise HostError(f"{self._path}: the report has no end")
        if not received and not answer.wants_report:
            return None
        try:
            return Report.parse(received)
        except WireError as error:
            raise HostError(f"{self._path}: {error}; the ports may have been changed, or not") from None

    def _send(self, data: bytes) -> None:
        try:
            self._try(lambda: self._sock.sendall(data))
        except (BrokenPipeError, ConnectionResetError):
            raise self._let_go() from None

    def _let_go(self) -> HostError:
        """Make the error for a connection that was closed before the answer was read to its end."""
        return HostError(f"{self._path}: the program let us go, as it waits for an answer {PATIENCE_S:g} s,"
                         " or it has ended; nothing was changed")

    def _receive(self) -> bytes:
        try:
            return self._try(lambda: self._sock.recv(_READ_LEN))
        except ConnectionResetError:
            return b""            # closed with bytes of ours unread

    def _begin(self) -> None:
        """Begin something that has its time, in however many parts it comes."""
        self._end_s = time.monotonic() + self._wait_s

    def _try(self, call: Callable[[], bytes | None]) -> bytes:
        left_s = self._end_s - time.monotonic()
        try:
            if left_s <= 0:
                raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))  # noqa: TRY301 - as a call's
            self._sock.settimeout(left_s)
            return call() or b""
        except TimeoutError:
            raise HostError(f"{self._path}: the program does not answer, or others keep it busy") from None
        except (BrokenPipeError, ConnectionResetError):
            raise
        except OSError as error:
            raise HostError(f"{self._path}: {error.strerror}") from None
