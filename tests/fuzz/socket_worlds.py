"""The control socket and the configuration socket as a hostile client sees them, without a kernel's listener.

Inputs are what the client sends. `ControlWorld` is a real `Client` with a real `Api` about an engine that a
test scripts; `SteerWorld` a real `PortServer` with tables that note what they are asked. What each may keep
of a client, and how it may answer, is checked after each input.
"""

from __future__ import annotations

import os
import re
import socket
from typing import TYPE_CHECKING

from passt import log
from passt.control.api import Api, Known
from passt.control.client import MAX_HEAD, READ_SIZE, Client
from passt.dataplane.base.wait_limit import WaitLimit
from passt.facts.contracts import ListenerInfo, PortChange
from passt.facts.guest import GuestNet
from passt.facts.port_rule import PortRule
from passt.facts.settings import Settings
from passt.forward.guest_addresses import Observed
from passt.steer import messages
from passt.steer.server import PortServer
from passt.steer.tables import ClientTables
from tests.support.control import Source, make_flow
from tests.support.fakes import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

NET = GuestNet(None, None, "eth0")
STATUSES = {b"100", b"200", b"400", b"404", b"405", b"409", b"413", b"503"}
STATUS = re.compile(rb"HTTP/1\.1 (\d+)")
MAX_SINGLE = 300       # bytes that are sent one by one
MAX_TURNS = 20_000


class ControlWorld:
    """One client after the other of one program."""

    def __init__(self) -> None:
        self.source = Source()
        self.source.records = [make_flow(i, proto=(6, 17)[i % 2]) for i in range(5)]
        rule = PortRule(6, 80, 80, 8080)
        self.source.ports = [ListenerInfo(6, 80, rule, namespace=False)]
        known = Known(Settings("pasta"), NET, Observed(NET), [], 5.0, lambda: 4.0)
        self.api = Api(self.source, known, dict, Clock(9.0))

    def converse(self, data: bytes) -> bytes:
        """Have a client send *data*, and return what it hears; byte 0 says in which way it does both."""
        way, data = data[0], data[1:]
        level = log.level()
        far, near = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        client = Client(self.source, near, self.api.serve, lambda _: None, Clock(7.0))
        heard = b""
        try:
            for part in parts(data, is_single=bool(way & 1)):
                if not send(far, part):
                    break
                self._turn(client)
                heard += b"" if way & 4 else hear(far)
            if way & 2 and client_is_open(client):
                far.shutdown(socket.SHUT_WR)
            self._turn(client)
            heard += hear(far)
        finally:
            far.close()
            self._turn(client)
            client.close()
            log.configure(debug=level == log.DEBUG, quiet=level == log.WARNING)
        assert (self.source.watched, self.api.events.count(), self.source.watcher) == ({}, 0, None)
        return heard

    def _turn(self, client: Client) -> None:
        """Take turns until nothing is left to do; nothing of a client grows meanwhile."""
        for _ in range(MAX_TURNS):
            if not self.source.turn():
                break
            kept = len(client._http.trailing_data[0]) + len(client._content)
            assert kept <= MAX_HEAD + 4 * READ_SIZE + 65536
        else:
            raise AssertionError("the loop spins")
        self.source.timers.clear()


def client_is_open(client: Client) -> bool:
    return client._sock.fileno() >= 0


def parts(data: bytes, *, is_single: bool) -> Iterator[bytes]:
    """Cut *data* into what is sent at once."""
    if is_single:
        yield from (data[i:i + 1] for i in range(min(len(data), MAX_SINGLE)))
        data = data[MAX_SINGLE:]
    if data:
        yield data


def send(sock: socket.socket, data: bytes) -> bool:
    """Send what fits; False if the other end is gone."""
    try:
        sock.send(data)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True


def hear(sock: socket.socket) -> bytes:
    """Read what there is."""
    found = b""
    try:
        while part := sock.recv(1 << 16):
            found += part
    except OSError:
        pass
    return found


class NotingTables:
    """Tables that take what they are given."""

    def __init__(self) -> None:
        self.n_changes = 0

    def names(self) -> tuple[str, ...]:
        return ("HOST", "SPLICE")

    def rules(self, name: str) -> tuple[PortRule, ...]:
        return (PortRule(6, 80, 80, 8080, spec="-t 80:8080"),) if name == "HOST" else ()

    def can_follow(self, name: str) -> bool:
        return name == "SPLICE"

    def count_open(self, name: str) -> dict[PortRule, int]:
        return dict.fromkeys(self.rules(name), 0)

    def explain_closed(self, _name: str, _proto: int, _port: int) -> list[tuple[PortRule, str]]:
        return []

    def replace(self, tables: Mapping[str, Sequence[PortRule]]) -> PortChange:
        self.n_changes += 1
        assert all(isinstance(rule, PortRule) for rules in tables.values() for rule in rules)
        return PortChange(notes=("port 7: taken",))


class PairDoor:
    """A door at which one client waits."""

    def __init__(self) -> None:
        self.fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self.waiting: list[socket.socket] = []

    def accept(self) -> socket.socket | None:
        return self.waiting.pop() if self.waiting else None


class SteerLoop:
    """Calls back who has something to read."""

    def __init__(self) -> None:
        self.readers: dict[int, Callable[[], None]] = {}

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        assert fd not in self.readers
        self.readers[fd] = callback

    def remove_reader(self, fd: int) -> None:
        del self.readers[fd]

    def call_later(self, _delay_s: float, _callback: Callable[[], None]) -> None:
        """Time does not pass."""

    def wait_limit(self) -> WaitLimit:
        return WaitLimit()


class SteerWorld:
    """One client after the other of one program."""

    def __init__(self) -> None:
        abilities = messages.IP4 | messages.IP6 | messages.TCP | messages.UDP | messages.INTERFACES
        self.loop, self.door, self.tables = SteerLoop(), PairDoor(), NotingTables()
        known = {"HOST": abilities, "SPLICE": abilities | messages.FOLLOWS}
        self.server = PortServer(self.loop, self.door, ClientTables(self.tables, known), lambda _: True)
        self.server.start()

    def converse(self, data: bytes) -> tuple[bytes, int]:
        """Have a client send *data*; return what it heard, and how many changes it made."""
        way, data = data[0], data[1:]
        before = self.tables.n_changes
        far, near = socket.socketpair()
        far.setblocking(False)
        near.setblocking(False)
        self.door.waiting.append(near)
        self.loop.readers[self.door.fd]()
        heard = hear(far)
        near_fd = next(fd for fd in self.loop.readers if fd != self.door.fd)
        for part in parts(data, is_single=bool(way & 1)):
            send(far, part)
            while near_fd in self.loop.readers and has_more(near_fd):
                self.loop.readers[near_fd]()
                assert len(self.server._data) <= messages.MAX_ANSWER_LEN + (1 << 16)
        heard += hear(far)
        far.close()
        if near_fd in self.loop.readers:
            self.loop.readers[near_fd]()
        assert list(self.loop.readers) == [self.door.fd]
        return heard, self.tables.n_changes - before


def has_more(fd: int) -> bool:
    """Tell whether something is to be read."""
    with socket.socket(fileno=os.dup(fd)) as sock:
        try:
            sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
    return True
