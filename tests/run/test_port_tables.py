"""Port rules that change: all of a change or nothing, with a side that keeps the kernel's rules."""

from __future__ import annotations

import errno
import os
import re
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, cast

import pytest

from passt import log
from passt.facts.contracts import PortChange
from passt.facts.port_rule import PortRule
from passt.forward.auto import Direction
from passt.forward.rules import find_overlap
from passt.light.values import replace
from passt.run.port_tables import MAX_LINES, LivePorts, LiveTable, refuse_disabled, refuse_inside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

A, B = IPv4Address("127.0.0.1"), IPv4Address("192.0.2.1")
ALL = refuse_disabled({4, 6}, {6, 17})


def tcp(first: int, last: int | None = None, **more: object) -> PortRule:
    return replace(PortRule(6, first, last or first, first), **more)


def opened(ports: LivePorts, name: str = "HOST") -> dict[PortRule, list[int]]:
    """The open ports of each rule; the table counts as many."""
    found = {rule: sorted(handles) for rule, handles in ports._tables[name].handles().items()}
    assert ports.count_open(name) == {rule: len(handles) for rule, handles in found.items()}
    return found


class Side:
    """Listeners by handle; a place is had once, and a listener of any address is in the way of others."""

    def __init__(self) -> None:
        self.cost = 1             # descriptors of a listener
        self.listening: dict[int, tuple[PortRule, int]] = {}
        self.refused: dict[int, int] = {}
        self.log: list[str] = []
        self.on_close: Callable[[int], None] = lambda _port: None
        self.n_made = 0

    def open_listener(self, rule: object, port: int) -> object:
        one = replace(cast("PortRule", rule), first=port, last=port, target=1)
        number = self.refused.get(port, 0)
        if any(at == port and find_overlap(one, replace(other, first=at, last=at, target=1))
               for other, at in self.listening.values()):
            number = errno.EADDRINUSE
        if number:
            raise OSError(number, os.strerror(number))
        self.n_made += 1
        self.listening[self.n_made] = (cast("PortRule", rule), port)
        self.log.append(f"open {port}")
        return self.n_made

    def change_rule(self, handle: object, rule: object) -> None:
        _, port = self.listening[cast("int", handle)]
        self.listening[cast("int", handle)] = (cast("PortRule", rule), port)
        self.log.append(f"change {port}")

    def close_listener(self, handle: object) -> None:
        _, port = self.listening.pop(cast("int", handle))
        self.log.append(f"close {port}")
        self.on_close(port)


class World:
    """The table HOST with *rules* that listen already, and maybe SPLICE."""

    def __init__(self, *rules: PortRule, inside: Sequence[PortRule] | None = None, spare: int = 1000,
                 follows: bool = True, loops: bool = False) -> None:
        self.side, self.inner_side = Side(), Side()
        self.spare = spare
        self.n_changes = 0
        self.services: set[int] = set()
        self.direction = Direction("host", rules, self.scan, self.side, 1000)
        tables = [self.table("HOST", rules, self.side, self.direction if follows else None)]
        if inside is not None:
            tables.append(self.table("SPLICE", inside, self.inner_side, None))
        self.n_first = self.n_taken()
        self.ports = LivePorts(tables, lambda: self.spare - (self.n_taken() - self.n_first), 1024,
                               self.on_change, loopback_to_loopback=loops)

    def n_taken(self) -> int:
        return sum(side.cost * len(side.listening) for side in (self.side, self.inner_side))

    def table(self, name: str, rules: Sequence[PortRule], side: Side, direction: Direction | None
              ) -> LiveTable:
        handles = {rule: {port: side.open_listener(rule, port) for port in range(rule.first, rule.last + 1)}
                   for rule in rules if not rule.auto}
        side.log.clear()
        return LiveTable(name, rules, side, handles, direction, ALL if name == "HOST" else refuse_inside(ALL))

    def scan(self, protos: Iterable[int]) -> dict[int, set[int]]:
        return {proto: set(self.services) for proto in protos}

    def on_change(self) -> None:
        self.n_changes += 1

    def put(self, *rules: PortRule) -> PortChange:
        change = self.ports.replace({"HOST": rules})
        self.check()
        return change

    def listening(self) -> set[tuple[PortRule, int]]:
        return set(self.side.listening.values())

    def check(self) -> None:
        """What the table says is what listens."""
        assert self.listening() == {(rule, port) for rule, ports in opened(self.ports).items()
                                    for port in ports}


def test_rules_come_and_go() -> None:
    world = World(tcp(80))
    assert world.put(tcp(80), tcp(90, 92)) == PortChange(n_opened=3)
    assert world.side.log == ["open 90", "open 91", "open 92"]
    assert world.put(tcp(91)) == PortChange(n_closed=3)
    assert world.listening() == {(tcp(91), 91)}
    assert world.side.log[3:] == ["change 91", "close 80", "close 90", "close 92"]
    assert world.put() == PortChange(n_closed=1)
    assert world.ports.rules("HOST") == ()
    assert world.n_changes == 3


def test_rule_that_stays_keeps_its_listener_and_its_option() -> None:
    world = World(tcp(80, spec="-t 80"))
    (before,) = world.side.listening
    world.put(tcp(90), tcp(80))
    assert before in world.side.listening
    assert world.ports.rules("HOST") == (tcp(90), tcp(80, spec="-t 80"))
    assert "close 80" not in world.side.log


def test_new_listeners_are_opened_before_old_ones_are_closed() -> None:
    world = World(tcp(80, 81))
    world.put(tcp(90, 91))
    assert world.side.log == ["open 90", "open 91", "close 80", "close 81"]


def test_change_that_fails_changes_nothing_and_names_each_port(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []           # of a second the log itself takes five lines, those of other tests too
    monkeypatch.setattr(log, "limited", lambda _level, _key, text: said.append(text))
    world = World(tcp(8000))
    before = dict(world.side.listening)
    world.side.refused = {22: errno.EACCES, 24: errno.EADDRINUSE, 25: errno.EADDRNOTAVAIL}
    found = world.put(tcp(21, 24), replace(tcp(25), address=A, ifname="eth0"))
    assert found.faults == (
        ("HOST: TCP port 22: cannot listen: Permission denied; ports below 1024 are closed to users"
         " (net.ipv4.ip_unprivileged_port_start)"),
        "HOST: TCP port 24: cannot listen: Address already in use",
        "HOST: TCP port 25 of 127.0.0.1 on eth0: cannot listen: Cannot assign requested address")
    assert world.side.listening == before
    assert world.ports.rules("HOST") == (tcp(8000),)
    assert world.n_changes == 0
    assert ["cannot listen" in text for text in said] == [True] * 3


def test_tables_change_together_or_not_at_all() -> None:
    world = World(tcp(80), inside=[tcp(90)])
    world.inner_side.refused = {91: errno.EADDRINUSE}
    change = world.ports.replace({"HOST": [tcp(81)], "SPLICE": [tcp(91)]})
    assert change.faults == ("SPLICE: TCP port 91: cannot listen: Address already in use",)
    assert world.listening() == {(tcp(80), 80)}
    assert set(world.inner_side.listening.values()) == {(tcp(90), 90)}
    assert world.ports.replace({"HOST": [tcp(81)], "SPLICE": [tcp(92)]}) == PortChange(
        n_opened=2, n_closed=2)
    world.check()


def test_listener_in_the_way_gives_its_port_to_another_address() -> None:
    world = World(tcp(80, 81))
    assert world.put(tcp(80, address=A), tcp(90)) == PortChange(n_opened=2, n_closed=2)
    assert world.side.log == ["open 90", "close 80", "open 80", "close 81"]
    assert world.put(tcp(80, 81)) == PortChange(n_opened=2, n_closed=2)


def test_listener_in_the_way_is_left_alone_if_others_fail_already() -> None:
    world = World(tcp(80))
    world.side.refused = {90: errno.EACCES}
    assert world.put(tcp(80, address=A), tcp(90, 91)).faults
    assert world.side.log == ["open 91", "close 91"]


def test_listener_in_the_way_comes_back_if_the_change_fails() -> None:
    world = World(tcp(80, 81))
    opened = world.side.open_listener

    def refuse_bound(rule: object, port: int) -> object:
        if cast("PortRule", rule).address == A and port == 81:
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        return opened(rule, port)

    world.side.open_listener = refuse_bound  # type: ignore[method-assign]
    change = world.put(tcp(80, 81, address=A), tcp(90))
    assert change.faults == (
        "HOST: TCP port 81 of 127.0.0.1: cannot listen: Cannot assign requested address",)
    assert world.listening() == {(tcp(80, 81), 80), (tcp(80, 81), 81)}
    assert world.ports.rules("HOST") == (tcp(80, 81),)


def test_port_that_another_program_takes_in_between_is_told_as_lost() -> None:
    world = World(tcp(80))
    world.side.on_close = lambda port: world.side.refused.update({port: errno.EADDRINUSE})
    change = world.put(tcp(80, address=A))
    assert (len(change.faults), change.n_lost) == (2, 1)
    assert change.faults[0].endswith("it was forwarded before, and is not any more")
    assert world.listening() == set()
    world.side.refused.clear()
    world.side.on_close = lambda _port: None
    assert world.put(tcp(80, address=A)).faults == ()


def test_optional_rule_takes_the_ports_that_it_gets() -> None:
    world = World(tcp(85))
    world.side.refused = {81: errno.EACCES}
    rule = tcp(80, 82, optional=True)
    change = world.put(tcp(85), rule)
    assert (change.faults, change.n_opened) == ((), 2)
    assert len(change.notes) == 1
    assert opened(world.ports)[rule] == [80, 82]


def test_optional_rule_without_any_port_fails() -> None:
    world = World()
    world.side.refused = {80: errno.EACCES, 81: errno.EACCES}
    (fault,) = world.put(tcp(80, 81, optional=True), tcp(90)).faults
    assert fault.startswith("TCP [*]:80-81  =>  80-81  (best effort): none of its ports could be had")
    assert world.listening() == set()


def test_optional_rules_leave_descriptors_and_others_do_not() -> None:
    world = World(spare=3)
    change = world.put(tcp(80, 89, optional=True), tcp(90, 95))
    assert change.n_opened == 9
    assert "7 ports are not forwarded" in change.notes[0]
    world.side.refused = dict.fromkeys(range(200, 300), errno.EMFILE)
    (fault,) = world.put(tcp(200, 299)).faults
    assert fault.endswith("the limit of open files is reached")
    # All of one specification in two rules: room for the first only is no fault, for none is one.
    world = World(spare=5)
    pieces = (tcp(80, 89, optional=True), tcp(180, 189, optional=True))
    assert (world.put(*pieces).faults, world.put().n_closed) == ((), 5)
    world.spare = 0
    assert [fault.partition(", as")[0] for fault in world.put(*pieces).faults] == [
        "TCP [*]:80-89  =>  80-89  (best effort): 10 ports are not forwarded",
        "TCP [*]:180-189  =>  180-189  (best effort): 10 ports are not forwarded"]  # fmt: skip


def test_descriptors_are_counted_as_the_side_takes_them() -> None:
    world = World(inside=[], spare=10)
    world.inner_side.cost = 2
    change = world.ports.replace({"SPLICE": [tcp(1, 20, optional=True)]})
    assert (change.n_opened, change.faults) == (5, ())
    assert "15 ports are not forwarded" in change.notes[0]


def test_optional_port_without_a_descriptor_is_the_cut() -> None:
    world = World()
    world.side.refused = dict.fromkeys(range(85, 200), errno.EMFILE)
    change = world.put(tcp(80, 99, optional=True), tcp(70))
    assert (change.n_opened, change.faults, len(change.notes)) == (6, (), 1)
    assert "15 ports are not forwarded" in change.notes[0]
    (fault,) = world.put(tcp(85, 99, optional=True, address=A)).faults
    assert "15 ports are not forwarded" in fault


def test_same_rule_of_another_table_has_not_failed() -> None:
    """As with -T all, which is there, and -t all, of which one port cannot be had."""
    everything = tcp(20, 29, optional=True)
    world = World(inside=[])
    assert world.ports.replace({"SPLICE": [everything]}).n_opened == 10
    world.side.refused = {22: errno.EADDRINUSE}
    change = world.ports.replace({"HOST": [everything], "SPLICE": [everything]})
    assert (change.faults, change.n_opened) == ((), 9)


def test_optional_rule_that_takes_listeners_over_has_its_ports() -> None:
    world = World(tcp(80, 81, optional=True))
    world.spare = 0
    change = world.put(tcp(80, 85, optional=True))
    assert (change.faults, change.n_opened) == ((), 0)
    assert "4 ports are not forwarded" in change.notes[0]
    assert opened(world.ports) == {tcp(80, 85, optional=True): [80, 81]}


def test_rules_that_lead_to_each_other_are_refused_as_at_the_start() -> None:
    """With --host-lo-to-ns-lo: 80 of the host leads to 90 of the namespace, and that back to 80."""
    there, back = replace(tcp(80), target=90), replace(tcp(90), target=80)
    for world in (World(there, inside=[], loops=True), World(inside=[back], loops=True),
                  World(inside=[], loops=True)):
        before = world.n_taken()
        (fault,) = world.ports.replace({"HOST": [there], "SPLICE": [back]}).faults
        assert fault == ("TCP [*]:80  =>  90: with --host-lo-to-ns-lo it and TCP [*]%lo:90  =>  80 lead port"
                         " 80 to each other for ever")
        assert world.n_taken() == before
        assert not world.ports.replace({"HOST": [there], "SPLICE": [replace(back, target=81)]}).faults
    assert not World(there, inside=[]).ports.replace({"SPLICE": [back]}).faults
    # Rules of the start stay, whatever they are.
    assert not World(there, inside=[back], loops=True).ports.replace({"HOST": [there, tcp(70)]}).faults


@pytest.mark.parametrize(("rules", "text"), [
    ([tcp(80), tcp(80)], r"TCP \[\*\]:80  =>  80: conflicts with TCP \[\*\]:80  =>  80"),
    ([tcp(80), tcp(80, address=A)], "conflicts"),
    ([tcp(number) for number in range(1, 257)], "256 rules; 255 is the limit"),
    ([tcp(1, 65535)], "65535 ports are more than the 65534"),
])
def test_table_that_cannot_be_is_refused_before_anything_is_opened(rules: list[PortRule], text: str) -> None:
    world = World(tcp(8080))
    (fault,) = world.put(*rules).faults
    assert re.search(text, fault), fault
    assert world.side.log == []


def test_rules_of_the_start_may_overlap_and_new_ones_may_not() -> None:
    """As with -t 80 and -u left at its default: UDP 80 goes with it, and all UDP ports are followed."""
    twin, everything = tcp(80, proto=17, optional=True), tcp(1, 65535, proto=17, optional=True, auto=True)
    world = World(tcp(80), twin, everything)
    assert world.put(tcp(80), twin, everything, tcp(90)) == PortChange(n_opened=1)
    assert world.put(tcp(80), twin, everything, tcp(90), tcp(91, proto=17)).faults
    assert world.put(twin, everything, twin).faults
    assert world.put(everything) == PortChange(n_closed=3)
    assert world.put(everything, twin).faults


def test_what_a_table_cannot_have_is_told() -> None:
    world = World(inside=[], follows=False)
    assert world.ports.names() == ("HOST", "SPLICE")
    assert not world.ports.can_follow("HOST")
    refused = world.ports.replace({"NONE": [], "HOST": [tcp(1, auto=True)], "SPLICE": [
        tcp(2, address=B), tcp(3, ifname="eth0"), replace(tcp(4), address=A, target_address=B)]})
    assert len(refused.faults) == 5
    only4 = refuse_disabled({4}, {6})
    assert only4(tcp(1)) == only4(tcp(1, address=A)) == ""
    assert only4(tcp(1, address=IPv6Address("::1"))) == "IPv6 is off, or has no address here"
    assert only4(tcp(1, proto=17)) == "UDP is off"
    assert refuse_inside(ALL)(tcp(1, address=A)) == refuse_inside(ALL)(tcp(1, address=IPv6Address(0))) == ""


def test_optional_ports_without_number_are_refused_before_they_are_looked_at() -> None:
    """Each would be a line of a plan: 255 rules for all ports of an address each would take gigabytes."""
    world = World()
    rules = [tcp(1, 65535, optional=True, address=IPv4Address(f"127.0.0.{i}")) for i in range(1, 6)]
    (fault,) = world.put(*rules).faults
    assert fault == "327675 ports are more than the 262144 that can be tried at once"
    assert world.side.log == []


def test_why_a_port_is_closed_is_told_by_rule() -> None:
    maybe, follows = tcp(80, 89, optional=True), tcp(1000, 1999, auto=True)
    world = World(tcp(70), follows)
    world.side.refused = {85: errno.EADDRINUSE}
    assert not world.put(tcp(70), follows, maybe).faults
    explain = world.ports.explain_closed
    assert explain("HOST", 6, 70) == explain("HOST", 17, 85) == explain("HOST", 6, 90) == []
    [(rule, why)] = explain("HOST", 6, 85)
    assert (rule, why[:27]) == (maybe, "the port could not be had w")
    [(rule, why)] = explain("HOST", 6, 1500)
    assert (rule, why) == (follows, "it follows bound ports, and port 1500 was not bound when last looked")
    world.services = {1500}
    follow(world)
    assert explain("HOST", 6, 1500) == []


def test_faults_are_no_more_than_a_client_can_read() -> None:
    world = World()
    world.side.refused = dict.fromkeys(range(1, 1000), errno.EACCES)
    faults = world.put(tcp(1, 999)).faults
    assert len(faults) == MAX_LINES
    assert faults[-1] == f"and {999 - MAX_LINES + 1} more"


def follow(world: World) -> None:
    """What the timer does: listen where there are services."""
    for follower in world.direction.followers:
        for port in world.services - follower.held.keys():
            if follower.rule.first <= port <= follower.rule.last:
                follower.held[port] = world.side.open_listener(follower.rule, port)
    world.direction.n_open = sum(len(follower.held) for follower in world.direction.followers)


def test_auto_rules_come_change_and_go_with_their_listeners() -> None:
    world = World()
    world.services = {80, 81, 40000}
    everything, few = tcp(1, 65535, auto=True), tcp(1, 100, auto=True)
    assert world.put(everything) == PortChange()
    follow(world)
    assert opened(world.ports) == {everything: [80, 81, 40000]}
    assert world.put(everything, replace(tcp(9), proto=17)) == PortChange(n_opened=1)
    assert opened(world.ports)[everything] == [80, 81, 40000]
    world.side.log.clear()
    assert world.put(few) == PortChange(n_closed=2)
    assert opened(world.ports) == {few: [80, 81]}
    assert sorted(world.side.log) == ["change 80", "change 81", "close 40000", "close 9"]
    assert world.direction.n_open == 2
    assert world.put(tcp(81)) == PortChange(n_closed=1)
    assert world.direction.followers == []
    assert world.listening() == {(tcp(81), 81)}


def test_auto_rule_whose_listener_was_in_the_way_keeps_none_that_is_gone() -> None:
    world = World()
    world.services = {80}
    rule = tcp(1, 100, auto=True)
    world.put(rule)
    follow(world)
    world.side.on_close = lambda port: world.side.refused.update({port: errno.EADDRINUSE})
    assert world.put(tcp(80, address=A)).faults
    assert opened(world.ports) == {rule: []}
    assert world.direction.n_open == 0
