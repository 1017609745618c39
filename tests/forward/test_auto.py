"""Listeners follow the ports bound at the far side, with fake sides and scans."""

from __future__ import annotations

import errno
import os
from socket import IPPROTO_TCP as T
from socket import IPPROTO_UDP as U
from typing import TYPE_CHECKING, cast

import pytest

from passt.facts.port_rule import PortRule
from passt.forward.auto import RETRIES, AutoForwarder, Direction

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ALL_T, ALL_U = PortRule(T, 1, 65535, 1, auto=True), PortRule(U, 1, 65535, 1, auto=True)


class Place:
    """A host or namespace: *services* bound by others, and our listeners."""

    def __init__(self) -> None:
        self.services: set[tuple[int, int]] = set()
        self.ours: set[tuple[int, int]] = set()
        self.attempts = 0
        self.n_scans = 0
        self.scanned: set[int] = set()
        self.failure: int = 0
        self.hidden_once: set[tuple[int, int]] = set()

    def scan(self, protos: Iterable[int]) -> dict[int, set[int]]:
        self.n_scans += 1
        self.scanned = set(protos)
        if self.failure:
            raise OSError(self.failure, os.strerror(self.failure))
        seen = (self.services | self.ours) - self.hidden_once
        self.hidden_once = set()
        return {proto: {port for kind, port in seen if kind == proto} for proto in self.scanned}

    def open_listener(self, rule: object, port: int) -> object:
        self.attempts += 1
        key = (cast("PortRule", rule).proto, port)
        if key in self.services | self.ours:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        self.ours.add(key)
        return key

    def change_rule(self, handle: object, rule: object) -> None:
        assert (handle in self.ours, cast("PortRule", rule).auto) == (True, True)

    def close_listener(self, handle: object) -> None:
        self.ours.remove(cast("tuple[int, int]", handle))


class World:
    """Host and namespace with a forwarder between them."""

    def __init__(self, inbound: Sequence[PortRule] = (ALL_T, ALL_U), outbound: Sequence[PortRule] = (),
                 max_open: int = 1000) -> None:
        self.host, self.namespace = Place(), Place()
        self.lines: list[str] = []
        self.warnings: list[str] = []
        for place, rules in ((self.host, inbound), (self.namespace, outbound)):
            place.ours |= {(rule.proto, port) for rule in rules if not rule.auto
                           for port in range(rule.first, rule.last + 1)}
        self.forwarder = AutoForwarder(
            Direction("host", inbound, self.namespace.scan, self.host, max_open),
            Direction("namespace", outbound, self.host.scan, self.namespace, max_open),
            explain=self.lines.append, warn=self.warnings.append)
        self.tick = self.forwarder.tick


def test_port_is_followed_and_released() -> None:
    world = World()
    world.tick()
    assert world.host.ours == set()
    world.namespace.services = {(T, 80), (U, 53)}
    world.tick()
    assert world.host.ours == {(T, 80), (U, 80), (U, 53)}
    world.namespace.services = {(U, 53)}
    world.tick()
    assert world.host.ours == {(U, 53)}
    assert world.lines == [
        "auto: host TCP port 80: opened", "auto: host UDP port 53: opened", "auto: host UDP port 80: opened",
        "auto: host TCP port 80: closed", "auto: host UDP port 80: closed"]


def test_udp_follows_tcp_only_where_tcp_is_followed() -> None:
    world = World(inbound=[ALL_U])
    world.namespace.services = {(T, 80), (U, 53)}
    world.tick()
    assert world.host.ours == {(U, 53)}
    assert world.namespace.scanned == {U}


def test_all_four_directions_without_echo() -> None:
    world = World(outbound=[ALL_T, ALL_U])
    world.namespace.services = {(T, 80), (U, 53)}
    world.host.services = {(T, 22), (U, 123)}
    for _ in range(5):
        world.tick()
        assert world.host.ours == {(T, 80), (U, 80), (U, 53)}
        assert world.namespace.ours == {(T, 22), (U, 22), (U, 123)}
    world.namespace.services = set()
    for _ in range(5):
        world.tick()
        assert world.host.ours == set()
        assert world.namespace.ours == {(T, 22), (U, 22), (U, 123)}
    world.host.services = set()
    for _ in range(5):
        world.tick()
        assert world.namespace.ours == set()


def test_fixed_listeners_are_no_services_and_are_not_opened_twice() -> None:
    fixed = PortRule(T, 8080, 8080, 80)
    world = World(inbound=[fixed, PortRule(U, 8080, 8080, 8080, optional=True), ALL_U],
                  outbound=[ALL_T, ALL_U])
    world.namespace.services = {(U, 8080)}
    world.tick()
    assert world.namespace.ours == set()
    assert world.host.ours == {(T, 8080), (U, 8080)}
    assert world.host.attempts == 0


def test_port_bound_at_both_sides_stays_as_it_is_and_follows_when_free() -> None:
    world = World(outbound=[ALL_T])
    world.namespace.services = world.host.services = {(T, 80)}
    world.tick()
    world.tick()
    # The UDP twin is free.
    assert (world.host.ours, world.namespace.ours) == ({(U, 80)}, set())
    assert world.lines.count("auto: host TCP port 80: Address already in use") == 1
    world.host.services = set()
    world.tick()
    assert world.host.ours == {(T, 80), (U, 80)}


def test_twin_of_a_port_bound_at_both_sides_is_held_at_one_side_only() -> None:
    # Held at both, each would lead to the other, to and fro.
    world = World(outbound=[ALL_T, ALL_U])
    world.namespace.services = world.host.services = {(T, 80)}
    for _ in range(3):
        world.tick()
        assert (world.host.ours, world.namespace.ours) == ({(U, 80)}, set())


def test_mapped_range_follows_the_target() -> None:
    world = World(inbound=[PortRule(T, 8000, 8010, 80, auto=True)])
    world.namespace.services = {(T, 79), (T, 80), (T, 90), (T, 91), (T, 8000)}
    world.tick()
    assert world.host.ours == {(T, 8000), (T, 8010)}


def test_port_that_a_dump_has_missed_stays_open() -> None:
    world = World()
    world.namespace.services = {(T, 80)}
    world.tick()
    world.namespace.hidden_once = {(T, 80)}
    world.tick()
    assert "auto: host TCP port 80: closed" not in world.lines


def test_failed_scan_changes_nothing() -> None:
    world = World()
    world.namespace.services = {(U, 53)}
    world.tick()
    world.namespace.failure = errno.ENOBUFS
    for _ in range(3):
        world.tick()
        assert world.host.ours == {(U, 53)}
    text = ("cannot see which ports of the namespace are bound, will try again: "
            f"{os.strerror(errno.ENOBUFS)}")
    # Warned of once, until it works again.
    assert world.warnings == [text]
    assert world.lines[-2:] == [f"auto: {text}"] * 2
    world.namespace.failure = 0
    world.namespace.services = set()
    world.tick()
    assert world.host.ours == set()
    world.namespace.failure = errno.ENOBUFS
    world.tick()
    assert world.warnings == [text] * 2


def test_number_of_listeners_is_bounded_and_told_once() -> None:
    world = World(inbound=[ALL_U], max_open=10)
    world.namespace.services = {(U, port) for port in range(1, 101)}
    for _ in range(3):
        world.tick()
        assert world.host.ours == {(U, port) for port in range(1, 11)}
    assert world.lines.count("auto: host UDP port 50: the limit of 10 listeners is reached") == 1
    world.namespace.services = {(U, port) for port in range(6, 101)}
    world.tick()
    assert len(world.host.ours) == 10


def test_nothing_is_opened_where_descriptors_are_few_and_tried_again_later() -> None:
    world = World(inbound=[ALL_T])
    [direction] = [each for each, _ in world.forwarder._pairs if each.name == "host"]
    direction.has_room = lambda: len(world.host.ours) < 2
    world.namespace.services = {(T, 80), (T, 81), (T, 82)}
    world.tick()
    assert world.host.ours == {(T, 80), (T, 81)}
    assert direction.explain_closed(ALL_T, 82).endswith("the limit of open files leaves no room for it")
    world.namespace.services = {(T, 81), (T, 82)}
    world.tick()
    assert world.host.ours == {(T, 81), (T, 82)}


def test_retries_are_bounded_and_reach_every_port() -> None:
    world = World(inbound=[ALL_U])
    taken = {(U, port) for port in range(1, 3 * RETRIES + 1)}
    world.namespace.services, world.host.services = set(taken), set(taken)
    world.tick()
    world.host.attempts = 0
    world.host.services = set()
    for n_ticks in range(1, 4):
        world.tick()
        assert len(world.host.ours) == n_ticks * RETRIES == world.host.attempts


@pytest.mark.parametrize("rules", [[], [PortRule(T, 80, 80, 80)]])
def test_nothing_to_follow_scans_nothing(rules: list[PortRule]) -> None:
    world = World(inbound=rules)
    assert not world.forwarder.is_needed
    world.tick()
    assert (world.host.n_scans, world.namespace.n_scans) == (0, 0)


@pytest.mark.parametrize(("max_open", "why"), [(1000, "Address already in use"),
                                              (0, "the limit of 0 listeners is reached")])
def test_why_a_port_is_not_listened_on_is_told(max_open: int, why: str) -> None:
    fixed = PortRule(T, 90, 90, 90)
    world = World(inbound=[ALL_T, fixed], max_open=max_open)
    [direction] = [each for each, _ in world.forwarder._pairs if each.name == "host"]
    world.namespace.services = world.host.services = {(T, 80)}
    world.tick()
    assert direction.explain_closed(ALL_T, 80) == f"its target is bound, but the port cannot be had: {why}"
    assert direction.explain_closed(ALL_T, 90) == "another rule has the port"
    nothing = "it follows bound ports, and port 83 was not bound when last looked"
    assert direction.explain_closed(ALL_T, 83) == nothing
    world.namespace.failure = errno.ENOBUFS
    world.tick()
    assert direction.explain_closed(ALL_T, 83) == "which ports are bound cannot be seen"
