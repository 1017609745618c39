"""Which servers are asked, in which order, and how long each is waited for."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from passt.facts.guest import NameService
from passt.names.upstreams import DEAD_S, MAX_PATIENCE_S, Upstreams

ONE, TWO, THREE = IPv4Address("192.0.2.1"), IPv6Address("2001:db8::2"), IPv4Address("192.0.2.3")


@pytest.mark.parametrize(("servers", "timeouts"), [
    ((ONE,), [5, 5]), ((ONE, TWO), [5, 5, 5, 5]), ((ONE, TWO, THREE), [5, 3, 6, 5, 3, 6]),
])  # fmt: skip
def test_order_and_times_are_glibc_s(servers: tuple[IPv4Address, ...], timeouts: list[int]) -> None:
    plan = Upstreams(NameService(servers)).plan(0.0)
    assert [one.server for one in plan] == [*servers, *servers]
    assert [one.timeout_s for one in plan] == timeouts


def test_options_of_resolv_conf() -> None:
    upstreams = Upstreams(NameService((ONE, TWO), timeout_s=1, attempts=3))
    assert [one.timeout_s for one in upstreams.plan(0.0)] == [1, 1] * 3


def test_rotate_begins_with_the_next_one() -> None:
    upstreams = Upstreams(NameService((ONE, TWO, THREE), attempts=1, rotate=True))
    firsts = [upstreams.plan(0.0)[0].server for _ in range(4)]
    assert firsts == [TWO, THREE, ONE, TWO]
    assert [one.server for one in upstreams.plan(0.0, (ONE, TWO))] == [ONE, TWO]


def test_patience_has_an_end() -> None:
    plan = Upstreams(NameService((ONE, TWO, THREE), timeout_s=30, attempts=5)).plan(0.0)
    assert sum(one.timeout_s for one in plan) == MAX_PATIENCE_S


def test_silent_server_comes_last_for_a_while() -> None:
    upstreams = Upstreams(NameService((ONE, TWO), attempts=1))
    assert upstreams.note_silent(ONE, 100.0)
    assert not upstreams.note_silent(ONE, 100.0)
    assert [one.server for one in upstreams.plan(100.0 + DEAD_S - 1)] == [TWO, ONE]


def test_silent_server_is_probed_beside_the_next_once_in_a_while() -> None:
    upstreams = Upstreams(NameService((ONE, TWO), attempts=1))
    upstreams.note_silent(ONE, 100.0)
    probing = upstreams.plan(100.0 + DEAD_S)
    assert [(one.server, one.timeout_s) for one in probing] == [(ONE, 0), (TWO, 5), (ONE, 5)]
    assert [one.server for one in upstreams.plan(101.0 + DEAD_S)] == [TWO, ONE]
    upstreams.note_answer(ONE)
    assert [one.server for one in upstreams.plan(101.0 + DEAD_S)] == [ONE, TWO]


def test_all_silent_are_asked_in_order() -> None:
    upstreams = Upstreams(NameService((ONE, TWO), attempts=1))
    for server in (TWO, ONE):
        upstreams.note_silent(server, 100.0)
    assert [one.server for one in upstreams.plan(200.0)] == [ONE, TWO]


def test_another_network_begins_anew() -> None:
    upstreams = Upstreams(NameService((ONE, TWO), attempts=1))
    upstreams.note_silent(ONE, 100.0)
    upstreams.renew(NameService((ONE, THREE), attempts=1))
    assert [one.server for one in upstreams.plan(100.0)] == [ONE, THREE]
