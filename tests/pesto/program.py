"""A program at the other end of pesto's socket: says what it is told to."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

from passt.steer.messages import Answer, answer_len

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path


class Program:
    """Serves one client after the other with *says*; keeps the answers that it got."""

    def __init__(self, path: str, says: Sequence[Callable[[Program, socket.socket], None]]) -> None:
        self.path = path
        self.answers: list[Answer] = []
        self.says = says
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(path)
        self.sock.listen(4)
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self) -> None:
        for say in self.says:
            client, _ = self.sock.accept()
            with client, contextlib.suppress(BrokenPipeError, ConnectionResetError):
                client.settimeout(60)
                say(self, client)

    def read_answer(self, client: socket.socket) -> None:
        data = b""
        while answer_len(data) is None:
            received = client.recv(7)
            if not received:
                return
            data += received
        self.answers.append(Answer.parse(data))


def say(data: bytes, piece: int = 1 << 20, *, reply: bytes | None = None
        ) -> Callable[[Program, socket.socket], None]:
    """Send *data* in pieces, and *reply* to the answer, if there is one."""
    def act(program: Program, client: socket.socket) -> None:
        for start in range(0, len(data), piece):
            client.sendall(data[start:start + piece])
        if reply is not None:
            program.read_answer(client)
            client.sendall(reply)

    return act


@contextlib.contextmanager
def program(directory: Path, *says: Callable[[Program, socket.socket], None]) -> Iterator[Program]:
    """Run a program, which has to be asked as often as it has something to say."""
    made = Program(str(directory / "socket"), says)
    try:
        yield made
    finally:
        made.thread.join(60)
        made.sock.close()
    assert not made.thread.is_alive()
