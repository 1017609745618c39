"""A forwarder of names without a kernel: its client and its servers say what a fuzzer says."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING, cast

from passt.facts.guest import NameService
from passt.names.answer_cache import AnswerCache
from passt.names.counts import Counts
from passt.names.forwarder import Client, Forwarder
from passt.names.judge import Judge
from passt.names.loop import Loop, Timer
from passt.names.outlet import Outlet
from passt.names.upstreams import Upstreams

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from passt.facts.address import IPAddress

SERVER, OTHER = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")
FD = 1000                          # of nothing: no call sees it
MAX_ANSWERS = 64                   # of a server that goes on


class FuzzSocket:
    """Takes a query; gives *answer* under the ID of that, for ever."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.n_given = 0

    def fileno(self) -> int:
        return FD

    def send(self, data: bytes) -> int:
        """Take a query: of a datagram its ID comes first, over TCP its length."""
        self.answer = data[:2] + self.answer[2:]
        return len(data)

    def recv(self, _size: int) -> bytes:
        """Give the answer once more."""
        self.n_given += 1
        return self.answer

    def close(self) -> None:
        """Be gone."""


class FuzzOutlet(Outlet):
    """Opens such sockets."""

    world: NamesWorld

    def open(self, _server: IPAddress, _kind: int) -> socket.socket:
        """Open a way to a server."""
        return cast("socket.socket", FuzzSocket(self.world.answer))


class NamesWorld(Loop):
    """The loop; what is watched is always ready."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ready: Callable[[], None] | None = None
        self.timer: Timer | None = None
        self.answer = b""
        self.clock = lambda: self.now
        outlet = FuzzOutlet({})
        outlet.world = self
        self.forwarder = Forwarder(
            self, Judge([("own", SERVER)], [("corp", OTHER)], has_ip6=True),
            Upstreams(NameService((SERVER, OTHER))), outlet, AnswerCache(16, self.clock), 4,
            counts=Counts())

    def watch(self, _fd: int, callback: Callable[[], None], _events: int = 1) -> None:
        self.ready = callback

    def unwatch(self, _fd: int) -> None:
        self.ready = None

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        self.timer = Timer(self.now + delay_s, callback)
        return self.timer

    def cancel(self, timer: Timer) -> None:
        timer.callback = None

    def ask(self, query: bytes, answer: bytes, *, is_stream: bool) -> list[bytes]:
        """Have *query* answered while each server says *answer*; return what the client gets."""
        answers: list[bytes] = []
        self.answer = answer
        is_taken = self.forwarder.ask(query, Client("fuzz", answers.append, is_stream))
        for _ in range(MAX_ANSWERS):
            if not self.forwarder.n_exchanges:
                break
            if self.ready is not None:
                self.ready()
        while self.forwarder.n_exchanges and self.timer is not None and self.timer.callback is not None:
            self.now = self.timer.due
            callback, self.timer.callback = self.timer.callback, None
            callback()
        assert len(answers) == is_taken
        assert not self.forwarder.n_exchanges
        return answers
