"""Who is connected to passt: one client at a time, with an engine that only notes what it is told."""

from __future__ import annotations

import errno
import os
import resource
import socket
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

import pytest

from passt import log
from passt.errors import HostError
from passt.facts.guest import GuestFamily, GuestNet
from passt.forward.guest_addresses import Observed
from passt.host.unix_socket import ListeningSocket, adopt, listen
from passt.responders.guest_solicitor import solicit
from passt.run.clients import Clients
from passt.run.passt import tell_use, tell_vhost_use
from tests.support import fakes
from tests.support.isolated import isolated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Loop(fakes.Loop):
    """An engine with a stream for a link: tests call what it would call."""

    def __init__(self) -> None:
        super().__init__()
        self.client = -1
        self.on_end: Callable[[str], None] | None = None
        self.sent: list[bytes] = []
        self.stopped = False
        self.refusal: OSError | None = None

    def attach_stream(self, fd: int, on_end: Callable[[str], None]) -> None:
        assert self.client < 0
        if self.refusal is not None:
            raise self.refusal
        self.client, self.on_end = fd, on_end

    def ask(self) -> None:
        assert self.client >= 0
        self.sent.append(b"question")

    def stop(self) -> None:
        self.stopped = True

    def end(self, reason: str = "it closed the connection") -> None:
        """Find that the client is gone."""
        assert self.on_end is not None
        os.close(self.client)
        self.client = -1
        self.on_end(reason)


class World:
    """The loop, a listening socket, and what is told the user."""

    def __init__(self, listener: ListeningSocket, *, one_off: bool = False) -> None:
        self.loop = Loop()
        self.listener = listener
        self.is_known = True
        self.clients = Clients(self.loop, listener, self.loop.attach_stream, self.loop.ask,
                               lambda: self.is_known, one_off=one_off)
        self.clients.start(None)

    def connect(self) -> socket.socket:
        """Connect a client; the loop has not seen it yet."""
        client = socket.socket(socket.AF_UNIX)
        client.connect(self.listener.path)
        client.settimeout(60)
        return client

    @property
    def is_watching(self) -> bool:
        return self.listener.fd in self.loop.readers

    def turn(self) -> None:
        self.loop.readers[self.listener.fd]()


@pytest.fixture
def listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ListeningSocket]:
    monkeypatch.chdir(tmp_path)
    listener = listen("a.socket")
    yield listener
    listener.close()


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is printed, whatever its level."""
    found: list[str] = []
    for name in ("info", "warning"):
        monkeypatch.setattr(log, name, found.append)
    for name in ("limited", "once"):
        monkeypatch.setattr(log, name, lambda _level, _key, text: found.append(text))
    return found


def test_client_is_attached_and_asked(listener: ListeningSocket, lines: list[str]) -> None:
    world = World(listener)
    assert world.loop.client == -1
    with world.connect() as client:
        world.turn()
        assert world.loop.sent == [b"question"]
        os.write(world.loop.client, b"x")
        assert client.recv(1) == b"x"
        world.loop.end()
    assert world.is_watching
    assert lines == [f"accepted client (PID {os.getpid()})",
                     "client gone: it closed the connection; waiting for another one"]


def test_client_that_cannot_be_watched_is_refused_and_the_next_one_served(
    listener: ListeningSocket, lines: list[str]
) -> None:
    world = World(listener)
    world.loop.refusal = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with world.connect() as client:
        world.turn()
        assert client.recv(1) == b""
    assert lines == [f"refused client (PID {os.getpid()}): No space left on device"]
    assert world.is_watching
    world.loop.refusal = None
    with world.connect():
        world.turn()
        assert world.loop.sent == [b"question"]
        world.loop.end()


def test_silent_guest_is_asked_again_less_and_less_often(listener: ListeningSocket) -> None:
    world = World(listener)
    world.is_known = False
    delays = []
    with world.connect():
        world.turn()
        for _ in range(9):
            [(delay_s, callback)] = world.loop.timers
            delays.append(delay_s)
            world.loop.timers.clear()
            callback()
        assert delays == [1, 2, 4, 8, 16, 32, 64, 64, 64]
        assert len(world.loop.sent) == 10
        world.is_known = True
        world.loop.fire()
        assert (len(world.loop.sent), world.loop.timers) == (10, [])
        world.loop.end()


def test_client_that_left_is_not_asked_again(listener: ListeningSocket) -> None:
    world = World(listener)
    world.is_known = False
    with world.connect():
        world.turn()
        world.loop.end()
    world.loop.fire()
    with world.connect():
        world.turn()
        [(_, of_second)] = world.loop.timers
        world.loop.end()
    world.loop.timers.clear()
    with world.connect():
        world.turn()
        of_second()  # late: it was of a client before
        assert len(world.loop.sent) == 3
        world.loop.end()


def test_second_client_sees_the_end_at_once(listener: ListeningSocket, lines: list[str]) -> None:
    world = World(listener)
    with world.connect(), world.connect() as second:
        world.turn()
        first_fd = world.loop.client
        world.turn()
        assert second.recv(1) == b""
        assert world.loop.client == first_fd
        assert lines[1:] == [f"refused client (PID {os.getpid()}): there is one already"]
        world.turn()  # nobody there
        world.loop.end()
    with world.connect() as third:
        world.turn()
        os.write(world.loop.client, b"x")
        assert third.recv(1) == b"x"
        world.loop.end()
    assert world.loop.sent == [b"question"] * 2


def test_client_that_reconnects_is_not_refused_for_itself(listener: ListeningSocket) -> None:
    world = World(listener)
    first = world.connect()
    world.turn()
    first.close()
    with world.connect() as again:
        world.turn()  # the engine has not seen the end of the first one yet
        assert not world.is_watching  # it does not spin meanwhile
        world.loop.end()
        world.turn()
        os.write(world.loop.client, b"x")
        assert again.recv(1) == b"x"
        world.loop.end()


def test_one_off_ends_with_the_first_client(listener: ListeningSocket, lines: list[str]) -> None:
    world = World(listener, one_off=True)
    with world.connect():
        world.turn()
        assert not world.loop.stopped
        world.loop.end("it sent a length that no frame has")
    assert world.loop.stopped
    assert not world.is_watching
    assert lines[1] == "client gone: it sent a length that no frame has; exiting"


def test_connection_handed_over_is_the_only_one(lines: list[str]) -> None:
    ours, theirs = socket.socketpair()
    loop = Loop()
    clients = Clients(loop, None, loop.attach_stream, lambda: loop.sent.extend([b"a", b"b"]), lambda: True,
                      one_off=True)
    clients.start(adopt(ours.detach()))
    assert loop.sent == [b"a", b"b"]
    assert loop.readers == {}
    loop.end()
    assert loop.stopped
    assert len(lines) == 2
    theirs.close()


def test_connection_handed_over_that_cannot_be_watched_ends_the_start() -> None:
    ours, theirs = socket.socketpair()
    loop = Loop()
    loop.refusal = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    clients = Clients(loop, None, loop.attach_stream, loop.ask, lambda: True, one_off=True)
    with theirs, pytest.raises(HostError, match="--fd hands over: No space left"):
        clients.start(adopt(ours.detach()))


def test_client_waits_while_there_is_no_descriptor(listener: ListeningSocket) -> None:

    def run() -> tuple[list[float], bool, bool, bool]:
        world = World(listener)
        with world.connect():
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
            world.turn()
            spins = world.is_watching
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            [(delay_s, callback)] = world.loop.timers
            callback()
            resumed = world.is_watching
            world.turn()
            return [delay_s], spins, resumed, world.loop.client >= 0

    assert isolated(run, flags=0) == ([1.0], False, True, True)


def test_other_faults_of_accept_are_no_reason_to_end(listener: ListeningSocket,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(listener)

    def fail(_self: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(ListeningSocket, "accept", fail)
    world.turn()
    assert not world.is_watching
    assert len(world.loop.timers) == 1


def test_guest_is_asked_for_each_address_once() -> None:
    ip4 = GuestFamily(IPv4Address("192.0.2.5"), 24, IPv4Address("192.0.2.1"), IPv4Address("192.0.2.1"))
    ip6 = GuestFamily(IPv6Address("2001:db8::5"), 64, IPv6Address("fe80::1"), IPv6Address("fe80::1"))
    net = GuestNet(ip4, ip6, "eth0")
    observed = Observed(net)
    assert [frame[12:14] for frame in solicit(net, observed.addresses())] == [b"\x08\x06", b"\x86\xdd"]
    observed.on_guest_address(IPv6Address("fe80::5").packed)
    assert len(solicit(net, observed.addresses())) == 3
    local = GuestNet(None, GuestFamily(None, 64, IPv6Address("fe80::1"), IPv6Address("fe80::1")), "eth0")
    observed = Observed(local)
    assert solicit(local, observed.addresses()) == []
    observed.on_guest_address(IPv6Address("fe80::5").packed)
    assert len(solicit(local, observed.addresses())) == 1


def test_hints_for_shared_memory_name_the_socket(lines: list[str]) -> None:
    tell_vhost_use("/run/a,b.socket")
    [line] = [line for line in lines if "qemu" in line]
    for part in ("-object memory-backend-memfd,id=m,size=1G,share=on", "-machine memory-backend=m",
                 "-chardev socket,id=c,path=/run/a,,b.socket", "-netdev vhost-user,id=n,chardev=c"):
        assert part in line


def test_hints_name_the_socket(lines: list[str]) -> None:
    tell_use("/run/a,b.socket")
    assert any("-netdev stream,id=s,server=off,addr.type=unix,addr.path=/run/a,,b.socket" in line
               for line in lines)
