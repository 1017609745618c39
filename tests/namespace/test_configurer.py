"""The process that configures a namespace: what it does, what it refuses, what it has, and that it ends."""

from __future__ import annotations

import os
import signal
import socket
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest

from passt import log
from passt.facts.guest import GuestFamily, GuestNet
from passt.host.rtnetlink import messages, routes
from passt.host.rtnetlink.messages import AF_INET, MessageFlag, MessageType
from passt.host.rtnetlink.socket import Request, RtnlSocket
from passt.light.values import replace
from passt.namespace.configurer import MAX_MESSAGE, MAX_QUEUED_LEN, PATIENCE_S, Configurer, build_orders
from passt.namespace.renumbering import Deletion, plan
from passt.process import privileges
from passt.process.identity import Identity
from tests.support.control import PollLoop
from tests.support.isolated import ip, isolated_as_root, make_host
from tests.support.processes import (
    LIMIT_S,
    all_children,
    is_readable,
    process_state,
    status_field,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable

IP4 = GuestFamily(IPv4Address("192.0.2.2"), 24, IPv4Address("192.0.2.1"), IPv4Address("192.0.2.1"))
BEFORE = GuestNet(IP4, None, "h0")
AFTER = replace(BEFORE, ip4=replace(IP4, address=IPv4Address("198.51.100.7"),
                                    gateway=IPv4Address("198.51.100.1")))
ADDRESS = messages.build_address(7, bytes([192, 0, 2, 1]), 24)
ROUTE = routes.build_route(7, family=AF_INET, gateway=bytes([192, 0, 2, 9]))
GOOD = [Request(MessageType.NEWADDR, MessageFlag.CREATE | MessageFlag.REPLACE, ADDRESS),
        Request(MessageType.NEWROUTE, MessageFlag.CREATE | MessageFlag.APPEND, ROUTE),
        Request(Deletion.ROUTE, 0, ROUTE), Request(Deletion.ADDRESS, 0, ADDRESS)]


def test_orders_fill_messages_up_to_their_length() -> None:
    assert build_orders([]) == []
    (one,) = build_orders(GOOD)
    many = build_orders(GOOD * 1000)
    assert max(map(len, many)) <= MAX_MESSAGE
    assert b"".join(many) == one * 1000


class Bench:
    """The main process's side, in a namespace with the interface h0."""

    def __init__(self, *, lab: bool = True) -> None:
        if lab:
            make_host("addr add 192.0.2.2/24 dev h0\nroute add default via 192.0.2.1\n")
        self.configurer = Configurer()
        self.configurer.hand_over("h0")
        before = set(all_children(os.getpid()))
        self.configurer.start_program()
        (self.pid,) = set(all_children(os.getpid())) - before
        # Whatever a test does to it, it is set up.
        wait_until(lambda: status_field(self.pid, "Seccomp") == "2", "it has its filter")
        self.loop = PollLoop()
        self.configurer.start(self.loop)

    def until(self, done: Callable[[], bool]) -> None:
        def turned() -> bool:
            self.loop.turn()
            return done()

        wait_until(turned, "it is carried out")


@pytest.mark.needs_root
def test_interface_is_configured_by_a_process_without_another_right() -> None:
    isolated_as_root(configure)


def configure() -> None:
    """Run in a namespace of its own."""
    bench = Bench()
    with RtnlSocket() as rtnetlink:
        assert bench.configurer.ifindex == rtnetlink.get_link("h0").ifindex
    privileges.drop_privileges()  # the main process has none
    made = plan(BEFORE, AFTER, bench.configurer.ifindex)
    bench.configurer.carry_out(made.added)
    bench.until(lambda: "198.51.100.7/24" in ip("addr", "show", "dev", "h0"))
    bench.configurer.carry_out(made.removed)
    bench.until(lambda: "192.0.2.2/24" not in ip("addr", "show", "dev", "h0"))
    bench.until(lambda: "default via 198.51.100.1" in ip("route", "show"))
    only = f"{1 << 12:016x}"
    found = {name: status_field(bench.pid, name) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb",
                                                              "NoNewPrivs", "Seccomp")}
    assert found == {"CapEff": only, "CapPrm": only, "CapBnd": only, "CapAmb": "0" * 16, "NoNewPrivs": "1",
                     "Seccomp": "2"}


@pytest.mark.needs_root
def test_flood_of_orders_waits_and_arrives() -> None:
    isolated_as_root(flood)


def flood() -> None:
    """Run in a namespace of its own."""
    bench = Bench()
    index = bench.configurer.ifindex
    made = [Request(MessageType.NEWROUTE, MessageFlag.CREATE, routes.build_route(
        index, family=AF_INET, destination=bytes([10, n >> 16, n >> 8 & 255, n & 255]), scope=253))
        for n in range(20_000)]
    bench.configurer.carry_out(made)
    bench.until(lambda: not bench.configurer._queue)
    bench.until(lambda: "10.0.78.31 " in ip("route", "show", "10.0.78.31/32"))


@pytest.mark.needs_root
def test_what_was_ordered_is_told_when_the_kernel_has_it_and_in_order() -> None:
    isolated_as_root(tell)


def tell() -> None:
    """Run in a namespace of its own."""
    bench = Bench()
    made = plan(BEFORE, AFTER, bench.configurer.ifindex)
    seen: list[str] = []

    def look() -> None:
        seen.append(ip("addr", "show", "dev", "h0"))
        bench.configurer.carry_out(made.removed, lambda: seen.append(ip("addr", "show", "dev", "h0")))

    bench.configurer.carry_out(made.added, look)
    assert seen == [], "it is not waited for"
    bench.until(lambda: len(seen) == 2)
    assert "198.51.100.7/24" in seen[0]
    assert "192.0.2.2/24" in seen[0]
    assert "198.51.100.7/24" in seen[1]
    assert "192.0.2.2/24" not in seen[1]
    bench.configurer.carry_out([], lambda: seen.append("nothing to do"))
    assert seen[2:] == ["nothing to do"]
    bench.loop.fire()
    assert len(seen) == 3, "patience is for those that wait"


def test_acknowledgements_of_what_was_not_ordered_count_for_nothing() -> None:
    configurer, loop = Configurer(), PollLoop()
    configurer.ifindex = 7             # as after `start_program`
    configurer.start(loop)
    inner = configurer._theirs
    for _ in range(3):
        inner.send(b"d")
    loop.run()
    done: list[int] = []
    configurer.carry_out(GOOD, lambda: done.append(1))
    assert done == []
    inner.send(b"d")
    loop.run()
    assert done == [1]
    configurer.close_inner_end()
    loop.run()
    configurer.carry_out(GOOD, lambda: done.append(2))
    assert (done, list(configurer._queue)) == ([1, 2], []), "it has ended"


@pytest.mark.needs_root
@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_configurer_that_does_not_answer_holds_up_nothing(how: str) -> None:
    def wait() -> list[str]:
        """Run in a namespace of its own."""
        log.limited = lambda _level, _about, text: lines.append(text)  # type: ignore[assignment]  # in a child
        lines: list[str] = []
        bench = Bench()
        os.kill(bench.pid, signal.SIGSTOP)
        done: list[int] = []
        good = [Request(MessageType.NEWADDR, MessageFlag.CREATE | MessageFlag.REPLACE,
                        messages.build_address(bench.configurer.ifindex, bytes([192, 0, 2, 1]), 24))]
        for number in range(3):
            bench.configurer.carry_out(good, lambda number=number: done.append(number))  # type: ignore[misc]
        if how == "killed":
            os.kill(bench.pid, signal.SIGKILL)
            bench.until(lambda: bool(done))
        else:
            assert done == []
            assert {delay_s for delay_s, _ in bench.loop.timers} == {PATIENCE_S}
            bench.loop.fire()
            bench.configurer.carry_out(good, lambda: done.append(3))
            assert done.pop() == 3, "it is not waited for again"
            os.kill(bench.pid, signal.SIGCONT)
            bench.until(lambda: bench.configurer._n_done == 4)
            os.kill(bench.pid, signal.SIGSTOP)
            bench.configurer.carry_out(good, lambda: done.append(3))
            assert done == [0, 1, 2], "it has answered meanwhile"
            os.kill(bench.pid, signal.SIGKILL)     # it would stay stopped
        assert done == [0, 1, 2]
        return lines

    lines = isolated_as_root(wait)
    assert ("is not waited for" in "".join(lines)) == (how == "stopped")


@pytest.mark.needs_root
def test_configurer_ends_with_the_main_process() -> None:
    isolated_as_root(leave)


def leave() -> None:
    """Run in a namespace of its own."""
    bench = Bench()
    bench.configurer._ours.close()
    assert os.waitpid(bench.pid, 0)[1] == 0


@pytest.mark.needs_root
@pytest.mark.parametrize("how", ["killed", "misled"])
def test_end_of_the_configurer_is_told_and_ends_nothing(how: str) -> None:
    def lose() -> list[str]:
        lines: list[str] = []
        log.once = lambda level, key, text: lines.append(text)  # noqa: ARG005 - in a child
        bench = Bench()
        if how == "killed":
            os.kill(bench.pid, 9)
        else:
            bench.configurer.carry_out([Request(MessageType.NEWLINK, 0, messages.build_link_change(1))])
        bench.until(lambda: not bench.loop.watched)
        bench.configurer.carry_out(GOOD)
        assert bench.configurer.ifindex == 0
        assert lines == [], "a command takes it along, and then we end too"
        bench.loop.fire()
        return lines

    (line,) = isolated_as_root(lose)
    assert "has ended" in line


WRONG = [
    Request(MessageType.NEWADDR, 0, messages.build_address(1, bytes([192, 0, 2, 1]), 24)),
    Request(MessageType.NEWROUTE, 0, routes.build_route(8000, family=AF_INET)),
    Request(MessageType.NEWROUTE, 0, ROUTE[:12]),
    Request(MessageType.NEWLINK, 0, messages.build_link_change(7)),
    Request(MessageType.GETROUTE, 0, ROUTE),
    Request(17, 0, messages.build_link_change(7)),
    Request(32, 0, bytes(12)),
    Request(36, 0, bytes(20)),     # RTM_NEWQDISC
]


@pytest.mark.needs_root
@pytest.mark.parametrize("number", range(len(WRONG)))
def test_orders_about_anything_else_end_the_program(number: int) -> None:
    isolated_as_root(lambda: refuse(build_orders([WRONG[number]])[0]))


@pytest.mark.needs_root
@pytest.mark.parametrize("kind", [MessageType.NEWADDR, MessageType.NEWROUTE])
def test_flags_that_ask_for_more_and_truncated_orders_end_the_program(kind: int) -> None:
    def run() -> None:
        index = refuse(b"x")
        payload = (messages.build_address(index, bytes([192, 0, 2, 9]), 24) if kind == MessageType.NEWADDR
                   else routes.build_route(index, family=AF_INET, gateway=bytes([192, 0, 2, 9])))
        for flags in (MessageFlag.DUMP, MessageFlag.EXCL, 0x8000):
            refuse(build_orders([Request(kind, flags, payload)])[0], lab=False)
        (whole,) = build_orders([Request(kind, MessageFlag.CREATE, payload)])
        for length in range(1, len(whole)):
            refuse(whole[:length], lab=False)

    isolated_as_root(run)


def network() -> list[list[str]]:
    """Give IPv4 addresses and routes: those of IPv6, and the state of links, change by themselves."""
    addresses = ip("-4", "-o", "addr", "show").splitlines()
    routes_shown = ip("-4", "route", "show").splitlines()
    return [line.split()[1:4] for line in addresses] + [
        [word for word in line.split() if word != "linkdown"] for line in routes_shown]


def refuse(message: bytes, *, lab: bool = True) -> int:
    """See a program end by *message*, with nothing changed; return the index of the interface."""
    bench = Bench(lab=lab)
    seen = network()
    bench.configurer._ours.send(message)
    assert os.waitstatus_to_exitcode(os.waitpid(bench.pid, 0)[1]) == 1
    assert network() == seen
    return bench.configurer.ifindex


@pytest.mark.needs_root
def test_program_that_was_stopped_binds_little_memory() -> None:
    def run() -> None:
        log.warning = lambda _: None  # type: ignore[assignment]  # in a child
        bench = Bench()
        os.kill(bench.pid, signal.SIGSTOP)
        for _ in range(100_000):
            bench.configurer.carry_out(GOOD * 100)
            if not bench.loop.watched:
                break
            assert sum(map(len, bench.configurer._queue)) <= MAX_QUEUED_LEN
        assert bench.loop.watched == {}, "it is done without"
        assert not bench.configurer._queue
        os.kill(bench.pid, signal.SIGKILL)

    isolated_as_root(run)


@pytest.mark.needs_root
def test_stopped_program_ends_with_a_main_process_that_is_killed() -> None:
    isolated_as_root(kill_main)


def kill_main() -> None:
    """Run in a namespace of its own."""
    ours, theirs = socket.socketpair()
    main = os.fork()
    if main == 0:
        try:
            bench = Bench()
            os.kill(bench.pid, signal.SIGSTOP)
            wait_until(lambda: process_state(bench.pid) == "T", "it is stopped")
            # It is root, whom nobody else may signal.
            Identity(65534, 65534).assume()
            privileges.drop_privileges()
            theirs.send(str(bench.pid).encode())
            signal.pause()
        finally:
            os._exit(1)
    theirs.close()
    with ours:
        pidfd = os.pidfd_open(int(ours.recv(16)))
    os.kill(main, signal.SIGKILL)
    os.waitpid(main, 0)
    assert is_readable(pidfd, LIMIT_S)
