"""A stand-in for passt at the end of its socket: answers, closes, or says nothing."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

ANSWER = (42).to_bytes(4, "big") + bytes(42)


class FakePasst:
    """Listens on *path*; the first *n_refused* clients are closed at once, then one is served.

    What the served client sends first is in *received*; it is answered unless *mute*. *client* is its
    connection.
    """

    def __init__(self, path: Path, *, n_refused: int = 0, mute: bool = False) -> None:
        self.received = b""
        self.n_clients = 0
        self.client: socket.socket | None = None
        self._n_refused = n_refused
        self._mute = mute
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(60)
        self._listener.close()
        if self.client:
            self.client.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.n_clients += 1
            if self.n_clients <= self._n_refused:
                client.close()
                continue
            self.client = client
            client.settimeout(60)
            while len(self.received) < 128 and (data := client.recv(128 - len(self.received))):
                self.received += data
            if not self._mute:
                client.sendall(ANSWER)
            return
