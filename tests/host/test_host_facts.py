"""The choices that read_host() makes, on routes and addresses written down here."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from passt.errors import ConfigError
from passt.host import host_facts
from passt.host.host_facts import (
    choose_address,
    is_assignable,
    preferred_hop,
    read_host,
    sort_defaults,
    template_ifindexes,
)
from passt.host.rtnetlink.messages import AF_INET, AF_INET6, AddressFlag, AddressMessage
from passt.host.rtnetlink.routes import NextHop, RouteMessage
from passt.light.values import replace

if TYPE_CHECKING:
    from pathlib import Path


def route(prefix: str, *hops: tuple[int, int], priority: int = 0, tos: int = 0) -> RouteMessage:
    """Make a route of (ifindex, weight) hops."""
    text, _, prefix_len = prefix.partition("/")
    destination = ip_address(text)
    return RouteMessage(
        family=AF_INET if destination.version == 4 else AF_INET6,
        prefix_len=int(prefix_len),
        tos=tos,
        table=254,
        protocol=3,
        scope=0,
        type=1,
        flags=0,
        destination=destination.packed,
        priority=priority,
        source=None,
        hops=tuple(NextHop(ifindex, weight, None) for ifindex, weight in hops),
    )


def address(text: str, prefix_len: int, *, flags: int = 0, scope: int = 0) -> AddressMessage:
    packed = ip_address(text).packed
    family = AF_INET if len(packed) == 4 else AF_INET6
    return AddressMessage(family, prefix_len, flags, scope, 3, packed, packed, 0)


@pytest.mark.parametrize(("routes", "expected"), [
    ([], []),
    ([route("0.0.0.0/0")], []),
    ([route("0.0.0.0/0", (3, 1))], [3]),
    ([route("0.0.0.0/0", (3, 1)), route("0.0.0.0/0", (4, 1)), route("0.0.0.0/0", (3, 1))], [3, 4]),
    ([route("10.0.0.0/8", (4, 1)), route("10.0.0.0/9", (3, 1))], [4, 3]),
    ([route("0.0.0.0/0", (1, 1)), route("10.0.0.0/8", (4, 1))], [4]),
    ([route("169.254.0.0/16", (3, 1))], []),
    ([route("169.254.9.0/24", (3, 1))], []),
    ([route("169.0.0.0/8", (3, 1))], [3]),
    ([route("169.253.0.0/16", (3, 1))], [3]),
    ([route("fe80::/64", (3, 1)), route("2001:db8::/64", (3, 1))], [3]),
    ([route("fe80::/64", (3, 1))], []),
    ([route("febf::/16", (3, 1))], []),
    ([route("fec0::/16", (3, 1))], [3]),
    ([route("fe80::/9", (3, 1))], [3]),
    ([route("0.0.0.0/0", (3, 1), (4, 2), (5, 2))], [4]),
])
def test_template_candidates(routes: list[RouteMessage], expected: list[int]) -> None:
    assert list(template_ifindexes(routes)) == expected


def test_default_routes_are_sorted_as_the_kernel_prefers_them() -> None:
    some = route("0.0.0.0/0", (3, 1), tos=16)
    high, low, low_too = (route("0.0.0.0/0", (4 + index, 1), priority=priority)
                          for index, priority in enumerate((9, 2, 2)))
    assert sort_defaults([some, high, low, low_too]) == [low, low_too, high, some]


def test_preferred_hop_is_first_of_highest_weight() -> None:
    many = route("0.0.0.0/0", (3, 1), (4, 9), (5, 9), (3, 2))
    assert preferred_hop(many) == NextHop(4, 9, None)
    assert preferred_hop(many, 3) == NextHop(3, 2, None)
    assert preferred_hop(many, 7) is None


def test_dead_hop_is_not_preferred() -> None:
    alive, dead = NextHop(3, 1, None), NextHop(4, 9, None, is_dead=True)
    assert preferred_hop(replace(route("0.0.0.0/0"), hops=(dead, alive))) == alive
    assert preferred_hop(replace(route("0.0.0.0/0"), hops=(dead,))) is None


@pytest.mark.parametrize(("addresses", "expected"), [
    ([], None),
    ([address("192.0.2.1", 24), address("192.0.2.2", 24)], 0),
    ([address("192.0.2.1", 16), address("192.0.2.2", 24)], 1),
    ([address("192.0.2.1", 24, flags=AddressFlag.DEPRECATED), address("192.0.2.2", 8)], 1),
    ([address("169.254.1.1", 16, scope=253)], 0),
    ([address("fe80::1", 64, scope=253)], None),
    ([address("fe80::1", 64, scope=253), address("2001:db8::1", 48)], 1),
    ([address("fec0::1", 64, scope=200)], 0),
    ([address("2001:db8::1", 64, flags=AddressFlag.DADFAILED)], None),
    ([address("2001:db8::1", 64, flags=AddressFlag.TENTATIVE)], 0),
    ([address("2001:db8::1", 64, flags=AddressFlag.TENTATIVE), address("2001:db8::2", 48)], 1),
    ([address("127.0.0.1", 8, scope=254)], None),
    ([address("127.0.0.1", 8, scope=254), address("192.0.2.2", 8)], 1),
])
def test_address_choice(addresses: list[AddressMessage], expected: int | None) -> None:
    assert choose_address(addresses) == (None if expected is None else addresses[expected])


@pytest.mark.parametrize(("text", "prefix_len"), [
    ("0.1.2.3", 8), ("127.9.9.9", 32), ("224.0.0.1", 32), ("239.1.2.3", 32), ("255.255.255.255", 32),
    ("192.0.2.255", 24), ("192.0.2.7", 29), ("192.0.2.3", 30), ("10.255.255.255", 8),
    ("::", 64), ("::1", 128), ("ff02::1", 128), ("ff0e::1", 64), ("::ffff:192.0.2.1", 128),
])
def test_address_that_nobody_can_have_is_no_candidate(text: str, prefix_len: int) -> None:
    assert not is_assignable(address(text, prefix_len))


@pytest.mark.parametrize(("text", "prefix_len"), [
    ("192.0.2.255", 32), ("192.0.2.255", 31), ("192.0.2.254", 31), ("192.0.2.255", 23 - 1), ("192.0.2.0", 24),
    ("169.254.1.1", 16), ("240.0.0.1", 24), ("100.64.0.1", 10), ("fe80::1", 64), ("2001:db8::ffff", 112),
])
def test_address_of_a_host_is_a_candidate(text: str, prefix_len: int) -> None:
    assert is_assignable(address(text, prefix_len))


def test_prefix_of_a_peer_says_nothing_of_the_own_address() -> None:
    own = address("192.0.2.255", 24)
    assert is_assignable(replace(own, network=ip_address("198.51.100.1").packed))


@pytest.fixture
def no_ip6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_facts, "kernel_has_ip6", lambda: False)


@pytest.mark.usefixtures("no_ip6")
def test_kernel_without_ip6_has_no_ip6_facts(tmp_path: Path) -> None:
    assert read_host(resolv_conf=str(tmp_path / "none")).ip6 is None


@pytest.mark.usefixtures("no_ip6")
def test_kernel_without_ip6_is_an_error_if_ip6_alone_is_wanted() -> None:
    with pytest.raises(ConfigError, match=r"^--ipv6-only: the kernel has no IPv6 "):
        read_host(want4=False)


def test_unwanted_families_are_not_probed(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_bytes(b"nameserver 192.0.2.9\n")
    facts = read_host(want4=False, want6=False, resolv_conf=str(path))
    assert (facts.ip4, facts.ip6) == (None, None)
    assert facts.resolvers.servers == (ip_address("192.0.2.9"),)
