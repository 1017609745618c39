"""From one network of a namespace to the next: what is added and removed, in which order, in the kernel."""

from __future__ import annotations

import os
from errno import EEXIST, ESRCH
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, TypeVar

import pytest

from passt.config.getopt import scan
from passt.config.resolve import resolve
from passt.config.settings import build_settings
from passt.facts.guest import GuestFamily, GuestNet
from passt.host.host_facts import read_host
from passt.host.rtnetlink import messages, routes
from passt.host.rtnetlink.messages import MessageType
from passt.host.rtnetlink.socket import RtnlSocket
from passt.host.syscalls import CLONE_NEWNET, setns, unshare
from passt.light.values import replace
from passt.namespace.interface import configure
from passt.namespace.renumbering import Deletion, Plan, plan
from tests.support.isolated import PLAIN, ip, ip_batch, isolated_as_root, make_host

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
IP4 = GuestFamily(IPv4Address("192.0.2.2"), 24, IPv4Address("192.0.2.1"), IPv4Address("192.0.2.1"))
IP6 = GuestFamily(IPv6Address("2001:db8::2"), 64, IPv6Address("fe80::1"), IPv6Address("fe80::1"))
NET = GuestNet(IP4, IP6, "tap0")
MOVED4 = replace(IP4, address=IPv4Address("198.51.100.7"), gateway=IPv4Address("198.51.100.1"))
MOVED = replace(NET, ip4=MOVED4, ip6=replace(IP6, address=IPv6Address("2001:db8:9::7")))
NAMES: dict[int, str] = {MessageType.NEWADDR: "addr+", MessageType.NEWROUTE: "route+",
                         Deletion.ADDRESS: "addr-", Deletion.ROUTE: "route-"}


def texts(made: Plan) -> tuple[list[str], list[str]]:
    """Write the requests of a plan."""
    def write(kind: int, payload: bytes) -> str:
        name = NAMES[kind]
        if name.startswith("addr"):
            entry = messages.AddressMessage.parse(payload)
            assert entry.ifindex == 7
            return f"{name} {messages.ip_address(entry.address)}/{entry.prefix_len}"
        route = routes.RouteMessage.parse(payload)
        assert {hop.ifindex for hop in route.hops} == {7}
        return f"{name} {route.text}" + (f" from {messages.ip_address(route.source)}" if route.source else "")

    return ([write(request.type, request.payload) for request in made.added],
            [write(request.type, request.payload) for request in made.removed])


def test_nothing_is_done_where_nothing_changes() -> None:
    assert plan(NET, NET, 7) == Plan([], [], frozenset())


def copied(*made: bytes) -> GuestNet:
    return replace(NET, ip4=replace(IP4, template_ifindex=3, copied_routes=made))


def host_route(number: int, after: bytes = b"") -> bytes:
    destination = bytes([10, 1, number >> 8, number & 255])
    return routes.build_route(3, family=messages.AF_INET, destination=destination,
                              gateway=bytes([192, 0, 2, 1])) + after


def test_among_many_routes_only_those_that_differ_are_changed() -> None:
    many = [host_route(number) for number in range(2000)]
    gone = copied(*many[:5], *many[7:])
    for old, new, wanted in ((copied(*many), gone, ["route- 10.1.0.5", "route- 10.1.0.6"]),
                             (copied(*many[1:]), copied(*many), ["route+ 10.1.0.0"])):
        added = texts(plan(old, new, 7))[0]
        assert sorted(line.partition("/")[0] for line in added) == wanted


def test_route_that_goes_stays_where_another_one_of_the_host_is_the_same_in_the_namespace() -> None:
    """The host may have two routes that differ only in what is left out, as their age."""
    twin = host_route(5, messages.build_attribute(12, bytes(32)))  # RTA_CACHEINFO
    others = [host_route(number) for number in range(100)]
    assert texts(plan(copied(*others, twin), copied(*others), 7)) == ([], [])
    assert texts(plan(copied(*others), copied(*others, twin), 7)) == ([], [])


def test_new_addresses_and_routes_come_before_old_ones_go() -> None:
    made = plan(NET, MOVED, 7)
    added, removed = texts(made)
    default = "0.0.0.0/0 via 198.51.100.1"
    assert added == ["addr+ 198.51.100.7/24", f"route+ {default}", "route- 0.0.0.0/0 via 192.0.2.1",
                     f"route+ {default}", f"route+ {default} from 198.51.100.7",
                     "route- 192.0.2.0/24 from 192.0.2.2",
                     "addr+ 2001:db8:9::7/64", "addr+ 2001:db8::2/64"], "the last one is deprecated"
    # What the kernel may have taken away with the old ones is there at the end.
    assert removed == [
        "addr- 192.0.2.2/24", *added[:2], f"route- {default} from 198.51.100.7",
        "addr- 2001:db8::2/64", "addr+ 2001:db8:9::7/64", "route+ ::/0 via fe80::1"]
    assert made.left == {IPv4Address("192.0.2.2").packed, IPv6Address("2001:db8::2").packed}


def test_gateway_beyond_the_prefix_has_a_route_of_its_own() -> None:
    far = replace(NET, ip4=replace(IP4, gateway=IPv4Address("203.0.113.1")))
    added, removed = texts(plan(NET, far, 7))
    fresh = ["route+ 203.0.113.1/32", "route+ 0.0.0.0/0 via 203.0.113.1"]
    assert added == [*fresh, "route- 0.0.0.0/0 via 192.0.2.1", *fresh]
    assert removed == []
    back = texts(plan(far, NET, 7))[0]
    assert back[1:3] == ["route- 0.0.0.0/0 via 203.0.113.1", "route- 203.0.113.1/32"]


def test_successor_in_the_same_subnet_has_its_route_before_the_old_address_goes() -> None:
    added, removed = texts(plan(NET, replace(NET, ip4=replace(IP4, address=IPv4Address("192.0.2.3"))), 7))
    preferred = "0.0.0.0/0 via 192.0.2.1 from 192.0.2.3"
    assert added == ["addr+ 192.0.2.3/24", f"route+ {preferred}", "route+ 192.0.2.0/24 from 192.0.2.3",
                     "route- 192.0.2.0/24 from 192.0.2.2"]
    assert removed == ["addr- 192.0.2.2/24", "addr+ 192.0.2.3/24", "route+ 0.0.0.0/0 via 192.0.2.1",
                       f"route- {preferred}"]


def test_address_that_stays_with_another_length_is_not_left() -> None:
    made = plan(NET, replace(NET, ip4=replace(IP4, prefix_len=16)), 7)
    assert texts(made)[0] == ["addr+ 192.0.2.2/16"]
    assert made.left == frozenset()


class Places:
    """A host with the interface h0, and a guest's namespace with g0, which stands for the tap."""

    def __init__(self) -> None:
        make_host(PLAIN)
        self._host = os.open("/proc/self/ns/net", os.O_RDONLY)
        unshare(CLONE_NEWNET)
        self._guest = os.open("/proc/self/ns/net", os.O_RDONLY)
        self.make_g0()

    def make_g0(self) -> None:
        """Make an interface that is as a new tap."""
        ip_batch("link add g0 type veth peer name q0\nlink set q0 up\n")

    def on_host(self, function: Callable[[], T]) -> T:
        """Call *function* on the host; we are the guest's else."""
        setns(self._host, CLONE_NEWNET)
        try:
            return function()
        finally:
            setns(self._guest, CLONE_NEWNET)


def read(arguments: str = "") -> GuestNet:
    options = ["--follow", "--config-net", "-i", "h0", *arguments.split()]
    settings = build_settings("pasta", scan("pasta", options))[0]
    return replace(resolve(settings, read_host(interface="h0")), ifname="g0")


def carry_out(made: Plan) -> list[str]:
    """Carry a plan out; return what was refused."""
    with RtnlSocket() as rtnetlink:
        refused = rtnetlink.request_all("cannot", [*made.added, *made.removed])
    return [outcome.text or str(outcome.errno) for outcome in refused.values()
            if outcome.errno not in {EEXIST, ESRCH}]


def shown(ifname: str) -> list[str]:
    """Show the global addresses and the routes of an interface."""
    lines = []
    for version in ("-4", "-6"):
        addresses = ip(version, "-o", "addr", "show", "dev", ifname, "scope", "global")
        lines += [line.split()[3] for line in addresses.splitlines()]
        for line in ip(version, "route", "show", "dev", ifname).splitlines():
            words = line.split()
            if not words[0].startswith("fe80") and "linkdown" not in words[:1]:
                lines.append(" ".join(words[:3] if "via" in words else words[:1]))
    return sorted(lines)


@pytest.mark.needs_root
def test_there_is_a_way_out_at_each_step_to_another_address_of_the_subnet() -> None:
    def run() -> None:
        places = Places()
        before = places.on_host(read)
        configure("g0", before, True, lifetimes=True)
        places.on_host(lambda: ip_batch("addr del 192.0.2.2/24 dev h0\naddr add 192.0.2.9/24 dev h0\n"
                                         "route add default via 192.0.2.1\n"))
        after = places.on_host(read)
        with RtnlSocket() as rtnetlink:
            made = plan(before, after, rtnetlink.get_link("g0").ifindex)
            for request in [*made.added, *made.removed]:
                rtnetlink.request_all("cannot", [request])
                assert "dev g0" in ip("-4", "route", "get", "198.51.100.1"), request
        assert "192.0.2.9" in ip("-4", "route", "get", "198.51.100.1")
        assert "192.0.2.2/" not in ip("-4", "addr", "show", "dev", "g0")

    isolated_as_root(run)


@pytest.mark.needs_root
def test_deprecated_address_stays_with_the_lifetime_that_it_has_on_the_host() -> None:
    def run() -> None:
        places = Places()
        places.on_host(lambda: ip_batch("addr add 2001:db8:9::7/64 dev h0 nodad\n"))
        before = places.on_host(read)
        configure("g0", before, True, lifetimes=True)
        with RtnlSocket() as rtnetlink:
            ifindex = rtnetlink.get_link("g0").ifindex

        def change(lifetimes: str) -> GuestNet:
            places.on_host(lambda: ip_batch(f"addr change 2001:db8::2/64 dev h0 {lifetimes}\n"))
            return places.on_host(read)

        def lifetimes() -> list[str]:
            words = ip("-6", "addr", "show", "dev", "g0", "to", "2001:db8::2").replace("sec", "").split()
            return [words[words.index("valid_lft") + 1], words[words.index("preferred_lft") + 1]]

        assert lifetimes() == ["forever", "forever"]
        going = change("preferred_lft 0 valid_lft 1000")
        made = plan(before, going, ifindex)
        assert (made.left, made.removed) == (frozenset(), []), "its connections go on"
        assert carry_out(made) == []
        valid, preferred = lifetimes()
        assert 900 < int(valid) <= 1000
        assert preferred == "0"
        assert not any(plan(going, places.on_host(read), ifindex)), "time passes by itself"
        longer = change("preferred_lft 0 valid_lft 9000")
        assert carry_out(plan(going, longer, ifindex)) == []
        assert int(lifetimes()[0]) > 8900
        ip("link", "del", "g0")
        places.make_g0()
        configure("g0", longer, True, lifetimes=True)
        assert lifetimes()[1] == "0", "as at a start"
        with RtnlSocket() as rtnetlink:
            ifindex = rtnetlink.get_link("g0").ifindex
        usual = change("preferred_lft 500 valid_lft 600")
        assert carry_out(plan(longer, usual, ifindex)) == []
        assert lifetimes() == ["forever", "forever"], "it lasts until the host loses it"
        places.on_host(lambda: ip_batch("addr del 2001:db8::2/64 dev h0\n"))
        assert plan(usual, places.on_host(read), ifindex).left == {IPv6Address("2001:db8::2").packed}
        ip("link", "del", "g0")
        places.make_g0()
        configure("g0", going, True)
        assert ip("-6", "addr", "show", "dev", "g0", "to", "2001:db8::2") == "", "nobody follows it"

    isolated_as_root(run)


@pytest.mark.needs_root
@pytest.mark.parametrize("arguments", ["", "--no-copy-routes", "--no-copy-addrs --no-copy-routes"])
@pytest.mark.parametrize("moves", [
    # The same subnet: with the first address the kernel removes the others.
    ("addr add 192.0.2.3/24 dev h0\naddr add 2001:db8::3/64 dev h0 nodad\n"
     "addr del 192.0.2.2/24 dev h0\naddr del 2001:db8::2/64 dev h0\naddr replace 192.0.2.3/24 dev h0\n"
     "route replace default via 192.0.2.1\n"),
    # Another one.
    ("addr add 198.51.100.7/24 dev h0\naddr add 2001:db8:9::7/64 dev h0 nodad\n"
     "addr del 192.0.2.2/24 dev h0\naddr del 2001:db8::2/64 dev h0\n"
     "route replace default via 198.51.100.1\nroute replace default via 2001:db8:9::1\n"
     "route add 10.0.0.0/8 via 198.51.100.9\n"),
])
def test_namespace_ends_as_one_that_is_set_up_anew(arguments: str, moves: str) -> None:
    def run() -> None:
        places = Places()
        before = places.on_host(lambda: read(arguments))
        configure("g0", before, True)
        ip_batch("addr add 172.16.0.1/24 dev g0\nroute add 172.17.0.0/16 via 172.16.0.2\n")
        places.on_host(lambda: ip_batch(moves))
        after = places.on_host(lambda: read(arguments))
        with RtnlSocket() as rtnetlink:
            ifindex = rtnetlink.get_link("g0").ifindex
        made = plan(before, after, ifindex)
        assert carry_out(made._replace(removed=[])) == []
        old = ip("-6", "-o", "addr", "show", "dev", "g0", "deprecated")
        assert [line.split()[3] for line in old.splitlines()] == ["2001:db8::2/64"], "nobody takes it now"
        for destination in ("203.0.113.9", "192.0.2.77", "198.51.100.77"):
            assert "192.0.2.2" not in ip("route", "get", destination).split(), destination
        assert carry_out(made) == []
        assert ip("-6", "-o", "addr", "show", "dev", "g0", "deprecated") == ""
        found = shown("g0")
        assert {"172.16.0.1/24", "172.17.0.0/16 via 172.16.0.2"} <= set(found), "the user's own stays"
        ip("link", "del", "g0")
        places.make_g0()
        configure("g0", after, True)
        assert [line for line in found if not line.startswith("172.1")] == shown("g0")
        assert carry_out(plan(after, after, ifindex)) == []

    isolated_as_root(run)


@pytest.mark.needs_root
@pytest.mark.parametrize(("first", "moves"), [
    ("addr add 198.51.100.7 peer 10.9.9.1/32 dev h0",
     "addr del 198.51.100.7 peer 10.9.9.1/32 dev h0\naddr add 198.51.100.7 peer 10.9.9.2/32 dev h0"),
    ("addr add 192.0.2.2 peer 10.9.9.1/24 dev h0", "route del default\naddr del 192.0.2.2/24 dev h0"),
    ("addr del 192.0.2.2/24 dev h0\naddr add 192.0.2.2/24 dev h0 noprefixroute",
     "route add 192.0.2.0/24 dev h0 proto kernel scope link src 192.0.2.2\nroute add default via 192.0.2.1"),
    ("addr add 198.51.100.7/24 dev h0", "addr change 198.51.100.7/24 dev h0 metric 7"),
], ids=["another-peer", "the-same-address-twice", "a-route-that-comes", "another-metric"])
def test_address_that_stays_with_another_network_or_route(first: str, moves: str) -> None:
    def look() -> list[str]:
        lines = [line.partition(" valid_lft")[0].split()[2:]
                 for line in ip("-4", "-o", "addr", "show", "dev", "g0").splitlines()]
        return sorted(" ".join(words) for words in [*lines, *map(str.split, ip("route").splitlines())])

    def run() -> None:
        places = Places()
        places.on_host(lambda: ip_batch(first + "\n"))
        before = places.on_host(read)
        configure("g0", before, True)
        places.on_host(lambda: ip_batch(moves + "\n"))
        after = places.on_host(read)
        with RtnlSocket() as rtnetlink:
            assert carry_out(plan(before, after, rtnetlink.get_link("g0").ifindex)) == []
        found = look()
        ip("link", "del", "g0")
        places.make_g0()
        configure("g0", after, True)
        assert found == look()

    isolated_as_root(run)
