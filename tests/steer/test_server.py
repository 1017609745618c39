"""The server's end of the configuration socket, with a loop that the test turns."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from passt import log
from passt.facts.contracts import PortChange
from passt.facts.port_rule import PortRule
from passt.light.values import replace
from passt.steer import messages, server
from passt.steer.messages import PATIENCE_S, Answer, Hello, NewTable, Report
from passt.steer.server import RETRY_S, PortServer, peer_uid
from passt.steer.tables import ClientTables
from tests.support.processes import is_readable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

BOTH = messages.IP4 | messages.IP6
COMMON = messages.TCP | messages.UDP | messages.INTERFACES
WEB = PortRule(6, 80, 80, 8080, spec="-t 80:8080")
INSIDE = PortRule(6, 90, 90, 90, spec="-T 90")
FOLLOWED = PortRule(17, 1, 65535, 1, optional=True, auto=True, spec="-U auto")


class Limit:
    """Notes in the loop that waits are bounded."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop

    def __enter__(self) -> None:
        self.loop.is_limited = True

    def __exit__(self, *_: object) -> None:
        self.loop.is_limited = False

    def has_passed(self) -> bool:
        return False

    def tell(self, fd: int) -> bool:
        raise AssertionError(fd)


class Loop:
    """Calls back whoever is readable, and whose time has come."""

    def __init__(self) -> None:
        self.readers: dict[int, Callable[[], None]] = {}
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.now = 100.0
        self.is_limited = False

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        assert fd not in self.readers
        self.readers[fd] = callback

    def remove_reader(self, fd: int) -> None:
        del self.readers[fd]

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self.timers.append((delay_s, callback))

    def wait_limit(self) -> Limit:
        return Limit(self)

    def turn(self) -> None:
        """Serve all that is readable, until nothing is."""
        while ready := [fd for fd in self.readers if is_readable(fd)]:
            self.readers[ready[0]]()

    def pass_time(self) -> None:
        """Let all timers of now be due."""
        timers, self.timers = self.timers, []
        self.now += max(delay for delay, _ in timers)
        for _, callback in timers:
            callback()


class Door:
    """A listening socket; raises `refusal` instead of accepting if that is set."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.sock.bind(path)
        self.sock.listen(8)
        self.refusal: OSError | None = None

    @property
    def fd(self) -> int:
        return self.sock.fileno()

    def accept(self) -> socket.socket | None:
        if self.refusal is not None:
            raise self.refusal
        sock, _ = self.sock.accept()
        sock.setblocking(False)
        return sock


class Tables:
    """Tables that take what they are given, or have faults."""

    def __init__(self) -> None:
        self.tables: dict[str, tuple[PortRule, ...]] = {"HOST": (WEB,), "SPLICE": (INSIDE, FOLLOWED)}
        self.outcome = PortChange(notes=("port 7: taken",))
        self.asked: list[dict[str, Sequence[PortRule]]] = []

    def names(self) -> tuple[str, ...]:
        return tuple(self.tables)

    def rules(self, name: str) -> tuple[PortRule, ...]:
        return self.tables[name]

    def can_follow(self, name: str) -> bool:
        return name in self.tables

    def count_open(self, name: str) -> dict[PortRule, int]:
        return dict.fromkeys(self.tables[name], 0)

    def explain_closed(self, name: str, proto: int, port: int) -> list[tuple[PortRule, str]]:
        raise AssertionError((name, proto, port))

    def replace(self, tables: Mapping[str, Sequence[PortRule]]) -> PortChange:
        self.asked.append(dict(tables))
        return self.outcome


class World:
    """A server behind a socket."""

    def __init__(self, path: str, abilities: int = BOTH) -> None:
        self.path = path
        self.loop, self.door, self.tables = Loop(), Door(path), Tables()
        self.is_ours: bool | None = True
        self.shown = ClientTables(self.tables, {"HOST": abilities | COMMON,
                                                "SPLICE": abilities | COMMON | messages.FOLLOWS})
        served = PortServer(self.loop, self.door, self.shown, lambda _: self.is_ours,
                            lambda: self.loop.now)
        served.start()

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.connect(self.path)
        client.setblocking(False)
        return client

    def greeted(self) -> tuple[socket.socket, Hello]:
        client = self.connect()
        self.loop.turn()
        return client, Hello.parse(client.recv(1 << 16))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(str(tmp_path / "s"))
    yield made
    made.loop.turn()               # what tests have closed is let go
    made.door.sock.close()


def answered(world: World, *tables: NewTable, report: bool = True) -> bytes:
    """What a client gets that answers with *tables*, after its hello."""
    client, _ = world.greeted()
    with client:
        client.send(Answer(tables, wants_report=report).build())
        world.loop.turn()
        return client.recv(1 << 17)


def test_tables_are_shown_as_clients_know_them(world: World) -> None:
    client, hello = world.greeted()
    client.close()
    host, inside = hello.tables
    assert (host.id, host.name, host.reports, host.abilities) == (1, "HOST", True, BOTH | COMMON)
    assert host.rules == (WEB.bare(),)
    assert (inside.id, inside.name) == (3, "SPLICE")
    assert inside.rules == (replace(INSIDE.bare(), ifname="lo"),
                            replace(FOLLOWED.bare(), ifname="lo"))


@pytest.mark.parametrize(("abilities", "address"), [
    (messages.IP4, IPv4Address(0)), (messages.IP6, IPv6Address(0))])
def test_with_one_family_any_address_is_that_of_the_family(
        tmp_path: Path, abilities: int, address: IPv4Address | IPv6Address) -> None:
    world = World(str(tmp_path / "s"), abilities)
    client, hello = world.greeted()
    assert all(rule.address == address for table in hello.tables for rule in table.rules)
    client.send(Answer((NewTable(1, (PortRule(6, 1, 1, 1, address), PortRule(6, 2, 2, 2))),)).build())
    world.loop.turn()
    wanted = [PortRule(6, 1, 1, 1, spec="-t 1"), PortRule(6, 2, 2, 2, spec="-t 2")]
    assert world.tables.asked == [{"HOST": wanted}]
    client.close()
    world.door.sock.close()


def test_rules_that_come_back_are_the_same_ones(world: World) -> None:
    client, hello = world.greeted()
    client.send(Answer(tuple([NewTable(table.id, table.rules) for table in hello.tables])).build())
    world.loop.turn()
    assert world.tables.asked == [{"HOST": [WEB], "SPLICE": [INSIDE, FOLLOWED]}]
    assert client.recv(1) == b""
    client.close()


def test_new_rules_are_read(world: World) -> None:
    new = PortRule(6, 7, 7, 7, ifname="lo", optional=True, auto=True)
    report = Report.parse(answered(world, NewTable(3, (new,)), NewTable(1)))
    assert world.tables.asked == [{"SPLICE": [PortRule(6, 7, 7, 7, optional=True, auto=True)], "HOST": []}]
    assert report == Report(is_refused=False, lines=("port 7: taken",))


def test_faults_are_reported_and_only_to_who_asks(world: World) -> None:
    world.tables.outcome = PortChange(faults=("port 22: no", "port 23: no"))
    assert Report.parse(answered(world, NewTable(1))) == Report(
        is_refused=True, lines=("port 22: no", "port 23: no"))
    assert answered(world, NewTable(1), report=False) == b""
    world.tables.outcome = PortChange(faults=("port 22: no",), n_lost=1)
    assert Report.parse(answered(world, NewTable(1))).has_lost


def test_answer_to_tables_that_were_changed_meanwhile_is_refused(world: World) -> None:
    """What it leaves out would be deleted, although it never saw it."""
    client, _ = world.greeted()
    world.shown.change([NewTable(1, (WEB, PortRule(6, 9, 9, 9)))])       # by --control
    client.send(Answer((NewTable(1),), wants_report=True).build())
    world.loop.turn()
    report = Report.parse(client.recv(1 << 16))
    client.close()
    assert (report.is_refused, "changed" in report.lines[0]) == (True, True)
    assert len(world.tables.asked) == 1
    # The next one sees them as they are.
    assert not Report.parse(answered(world, NewTable(1))).is_refused
    world.tables.outcome = PortChange(faults=("port 22: no",))
    client, _ = world.greeted()
    world.shown.change([NewTable(1)])                                    # that was refused, too
    world.tables.outcome = PortChange()
    client.send(Answer((NewTable(1),), wants_report=True).build())
    world.loop.turn()
    assert not Report.parse(client.recv(1 << 16)).is_refused
    client.close()


def test_unknown_table_changes_nothing(world: World) -> None:
    assert Report.parse(answered(world, NewTable(1), NewTable(2))).is_refused
    assert world.tables.asked == []


def test_client_that_hangs_up_changes_nothing(world: World) -> None:
    data = Answer((NewTable(1),)).build()
    for length in range(len(data)):
        client, _ = world.greeted()
        client.send(data[:length])
        client.close()
        world.loop.turn()
    assert world.tables.asked == []
    assert list(world.loop.readers) == [world.door.fd]


def test_answer_may_come_a_byte_at_a_time(world: World) -> None:
    client, _ = world.greeted()
    for byte in Answer((NewTable(1, (WEB.bare(),)),), wants_report=True).build():
        client.send(bytes([byte]))
        world.loop.turn()
    assert not Report.parse(client.recv(1000)).is_refused
    assert len(world.tables.asked) == 1
    client.close()


@pytest.mark.parametrize("data", [
    b"\x01\xff\xff\xff\xff", b"GET / HTTP/1.1\r\n" * 600_000, b"\0\0", Answer((NewTable(1),)).build() + b"x"])
def test_nonsense_is_refused_and_not_kept(
        world: World, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []           # of a second the log itself takes five lines, those of other tests too
    monkeypatch.setattr(log, "limited", lambda _level, _key, text: said.append(text))
    client, _ = world.greeted()
    try:
        while data:
            data = data[client.send(data[:100_000]):]
            world.loop.turn()
    except (BrokenPipeError, ConnectionResetError):
        pass
    world.loop.turn()
    assert world.tables.asked == []
    assert list(world.loop.readers) == [world.door.fd]
    assert "nonsense" in said[0]
    client.close()


def test_second_client_waits_and_sees_what_the_first_did(world: World) -> None:
    first, _ = world.greeted()
    second = world.connect()
    world.loop.turn()
    with pytest.raises(BlockingIOError):
        second.recv(1)
    world.tables.tables["HOST"] = ()
    first.close()
    world.loop.turn()
    assert Hello.parse(second.recv(1 << 16)).tables[0].rules == ()
    second.close()


def test_silent_client_is_let_go_in_time(world: World) -> None:
    first, _ = world.greeted()
    second = world.connect()
    assert [delay for delay, _ in world.loop.timers] == [PATIENCE_S]
    world.loop.pass_time()
    assert first.recv(1) == b""
    world.loop.turn()
    assert second.recv(1 << 16)
    first.close()
    second.close()


def test_patience_with_a_client_that_has_gone_does_not_end_the_next(world: World) -> None:
    first, _ = world.greeted()
    first.close()
    world.loop.turn()
    world.loop.now += 2.0
    second, _ = world.greeted()
    world.loop.now -= 2.0
    world.loop.pass_time()
    with pytest.raises(BlockingIOError):
        second.recv(1)
    assert [delay for delay, _ in world.loop.timers] == [2.0]
    world.loop.pass_time()
    assert second.recv(1) == b""
    second.close()


def test_clients_in_a_row_leave_one_timer(world: World) -> None:
    for _ in range(100):
        client, _ = world.greeted()
        client.close()
        world.loop.turn()
    assert len(world.loop.timers) == 1
    world.loop.pass_time()
    assert world.loop.timers == []
    client, _ = world.greeted()
    assert len(world.loop.timers) == 1
    client.close()


def test_client_of_another_user_is_refused(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    world.is_ours = False
    client = world.connect()
    world.loop.turn()
    assert client.recv(1) == b""
    assert "another user" in capfd.readouterr().err
    assert list(world.loop.readers) == [world.door.fd]
    client.close()


def test_client_of_nobody_knows_whom_is_refused_as_such(
        world: World, capfd: pytest.CaptureFixture[str]) -> None:
    world.is_ours = None
    client = world.connect()
    world.loop.turn()
    assert client.recv(1) == b""
    assert "whose it is cannot be told" in capfd.readouterr().err
    client.close()


def test_client_that_takes_nothing_is_let_go(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "send", lambda *_: 10)
    client = world.connect()
    world.loop.turn()
    assert list(world.loop.readers) == [world.door.fd]
    client.close()


def test_what_closes_a_client_s_descriptors_waits_no_longer_than_the_limit(
        world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket with SO_LINGER that a client sends along is closed by who reads, or closes the connection."""
    done: list[tuple[str, bool]] = []

    class Watched(socket.socket):
        def recv(self, *arguments: int) -> bytes:
            done.append(("recv", world.loop.is_limited))
            return super().recv(*arguments)

        def close(self) -> None:
            done.append(("close", world.loop.is_limited))
            super().close()

    monkeypatch.setattr(server, "socket", SimpleNamespace(socket=Watched, MSG_NOSIGNAL=socket.MSG_NOSIGNAL))
    client = world.connect()
    world.loop.turn()
    client.send(b"\1")
    world.loop.turn()
    client.close()
    world.loop.turn()
    world.is_ours = False
    world.connect().close()
    world.loop.turn()
    assert done == [("recv", True), ("recv", True), ("close", True), ("close", True)]


def test_door_without_a_descriptor_is_tried_again(world: World) -> None:
    world.door.refusal = OSError(24, "Too many open files")
    client = world.connect()
    world.loop.turn()
    assert world.loop.readers == {}
    assert [delay for delay, _ in world.loop.timers] == [RETRY_S]
    world.door.refusal = None
    world.loop.pass_time()
    world.loop.turn()
    assert client.recv(1 << 16)
    client.close()


def test_user_of_the_other_end_is_known() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert peer_uid(one) == 0
