"""Which flows end when the host has changed: those that have lost their address, or their meaning."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

import pytest

from passt.facts.guest import GuestFamily, GuestNet
from passt.follow.sweep import Sweep, moved_addresses
from passt.light.values import replace
from tests.support.control import make_flow

if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.facts.contracts import FlowDetail

LOST, KEPT = bytes((203, 0, 113, 9)), bytes((203, 0, 113, 10))
RESOLVER = bytes((192, 0, 2, 53))
IP4 = GuestFamily(IPv4Address("192.0.2.5"), 24, IPv4Address("192.0.2.1"), IPv4Address("192.0.2.1"),
                  map_host_loopback=IPv4Address("192.0.2.1"), map_guest=IPv4Address("192.0.2.3"),
                  dns_match=IPv4Address("192.0.2.53"), dns_host=IPv4Address("198.51.100.53"))
IP6 = GuestFamily(IPv6Address("2001:db8::5"), 64, IPv6Address("fe80::1"), IPv6Address("fe80::1"),
                  map_guest=IPv6Address("2001:db8::3"))
NET = GuestNet(IP4, IP6, "eth0")


class Table:
    """A flow table in pages of two."""

    def __init__(self, *flows: FlowDetail) -> None:
        self.flows = flows
        self.closed: list[tuple[int, int]] = []
        self.waiting: list[Callable[[], None]] = []
        self.pages: list[int] = []

    def detail_page(self, start: int = 0, limit: int = 2) -> tuple[list[FlowDetail], int | None]:
        self.pages.append(start)
        end = start + limit
        return list(self.flows[start:end]), end if end < len(self.flows) else None

    def close_flow(self, index: int, generation: int) -> bool:
        self.closed.append((index, generation))
        return True

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        assert delay_s == 0
        self.waiting.append(callback)

    def run(self) -> None:
        while self.waiting:
            self.waiting.pop(0)()


def swept(*flows: FlowDetail, gone: frozenset[bytes] = frozenset({LOST}),
          moved: frozenset[bytes] = frozenset()) -> list[int]:
    table = Table(*flows)
    sweep = Sweep(table, gone, moved)
    table.run()
    assert sweep.n_ended == len(table.closed)
    return [number for number, _ in table.closed]


def test_flows_that_have_lost_their_address_end_and_no_others() -> None:
    assert swept(make_flow(0, local_address=LOST), make_flow(1, local_address=KEPT),
                 make_flow(2, local_address=LOST, inbound=True), make_flow(3, local_address=b""),
                 make_flow(4, local_address=LOST, proto=17)) == [0, 2, 4]


def test_datagrams_to_what_means_another_host_now_end_and_connections_do_not() -> None:
    moved = frozenset({RESOLVER})
    assert swept(make_flow(0, proto=17, remote_address=RESOLVER), make_flow(1, remote_address=RESOLVER),
                 make_flow(2, proto=17, remote_address=RESOLVER, inbound=True),
                 make_flow(3, proto=17), gone=frozenset(), moved=moved) == [0]


def test_flows_of_an_address_that_the_guest_leaves_end_before_the_rest_is_done() -> None:
    table = Table(make_flow(0), make_flow(1, guest_address=KEPT), make_flow(2), make_flow(3))
    done: list[list[tuple[int, int]]] = []
    Sweep(table, frozenset(), left=frozenset({bytes((192, 0, 2, 2))}),
          on_done=lambda: done.append(list(table.closed)))
    assert done == []
    table.run()
    assert done == [[(0, 3), (2, 3), (3, 3)]]
    Sweep(table, frozenset(), on_done=lambda: done.append([]))
    assert done[1:] == [[]]


def test_one_page_in_a_turn_and_nothing_where_nothing_has_gone() -> None:
    table = Table(*(make_flow(number) for number in range(5)))
    Sweep(table, frozenset({LOST}), frozenset())
    assert (table.pages, len(table.waiting)) == ([0], 1)
    table.run()
    assert table.pages == [0, 2, 4]
    idle = Table(make_flow(0))
    Sweep(idle, frozenset(), frozenset())
    assert (idle.pages, idle.waiting) == ([], [])


@pytest.mark.parametrize(("changes4", "changes6", "moved"), [
    ({}, {}, []),
    ({"gateway": IPv4Address("192.0.2.9")}, {}, []),
    ({"dns_host": IPv4Address("203.0.113.53")}, {}, ["192.0.2.53"]),
    ({"dns_match": None}, {}, ["192.0.2.53"]),
    ({"address": IPv4Address("192.0.2.6")}, {}, ["192.0.2.3"]),
    ({"host_address": IPv4Address("192.0.2.6")}, {}, ["192.0.2.3"]),
    ({}, {"address": IPv6Address("2001:db8::6")}, ["2001:db8::3"]),
    ({"map_host_loopback": IPv4Address("192.0.2.77")}, {}, ["192.0.2.1"]),
])
def test_addresses_that_mean_another_host(changes4: dict[str, object], changes6: dict[str, object],
                                          moved: list[str]) -> None:
    after = replace(NET, ip4=replace(IP4, **changes4), ip6=replace(IP6, **changes6))
    assert moved_addresses(NET, after) == {ip_address(text).packed for text in moved}
    assert moved_addresses(NET, replace(NET, ip4=None, ip6=None)) == frozenset()
