"""A host that changes, and what is made of it: messages of the kernel, in namespaces, and a test's loop."""

from __future__ import annotations

import functools
import socket
import threading
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest

from passt.config.getopt import scan
from passt.config.resolve import resolve
from passt.config.settings import build_settings
from passt.errors import HostError
from passt.follow import gatherer, turns
from passt.follow.following import Following
from passt.follow.watched_host import WatchedHost, wait_online
from passt.host import host_facts
from passt.host.rtnetlink.messages import MessageType
from passt.host.rtnetlink.socket import STEP
from passt.namespace.renumbering import Deletion
from tests.support.control import Source, make_flow
from tests.support.isolated import HOST, PLAIN, ip_batch, isolated_as_root, make_host
from tests.support.processes import LIMIT_S, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from passt.facts.guest import GuestNet
    from passt.facts.settings import Settings
    from passt.host.rtnetlink.socket import Request

pytestmark = pytest.mark.needs_root
NAMES: dict[int, str] = {MessageType.NEWADDR: "address+", MessageType.NEWROUTE: "route+",
                         Deletion.ADDRESS: "address-", Deletion.ROUTE: "route-"}
MOVE = """
    addr del 192.0.2.2/24 dev h0
    addr del 2001:db8::2/64 dev h0
    addr add 198.51.100.7/24 dev h0
    addr add 2001:db8:9::7/64 dev h0 nodad
    route add default via 198.51.100.1
    route replace default via 2001:db8:9::1
"""


def settings_of(arguments: str = "", mode: str = "passt") -> Settings:
    return build_settings(mode, scan(mode, ["--follow", *arguments.split()]))[0]


class Network:
    """What follows: notes what it is told."""

    def __init__(self) -> None:
        self.engine: Any = Source()
        self.guests: list[GuestNet] = []
        self.assigned: list[GuestNet] = []
        self.interfaces: set[str] = set()
        self.anew: list[dict[str, int]] = []
        self.neighbours: list[dict[bytes, bytes]] = []
        self.host_addresses: list[frozenset[bytes]] = []
        self.judges_host = False

    def renew(self, guest: GuestNet) -> None:
        self.guests.append(guest)

    def take_host(self, addresses: frozenset[bytes]) -> None:
        self.host_addresses.append(addresses)

    def set_neighbours(self, entries: dict[bytes, bytes]) -> None:
        self.neighbours.append(entries)

    def assign(self, guest: GuestNet) -> None:
        self.assigned.append(guest)

    def listened_interfaces(self) -> set[str]:
        return self.interfaces

    def listen_anew(self, indices: Mapping[str, int]) -> None:
        if not self.anew or self.anew[-1] != indices:
            self.anew.append(dict(indices))


class Configurer:
    """Has orders carried out when the test says so."""

    ifindex = 7

    def __init__(self) -> None:
        self.orders: list[list[str]] = []
        self._awaited: list[Callable[[], None]] = []

    def start(self, _loop: object) -> None:
        """Nothing is to be watched."""

    def carry_out(self, requests: Sequence[Request], on_done: Callable[[], None] | None = None) -> None:
        self.orders.append([NAMES[request.type] for request in requests])
        if on_done is not None:
            self._awaited.append(on_done)

    def acknowledge(self) -> None:
        self._awaited.pop(0)()


class Bench:
    """A start in the namespace that the test has made, and its loop."""

    def __init__(self, settings: Settings, configurer: Any = None) -> None:
        host = WatchedHost(settings)
        host.configurer = configurer
        self.following = Following(settings, host)
        self.guest = resolve(settings, self.following.facts, may_come=settings.addresses.must_follow)
        self.network = Network()
        self.events: list[str] = []

    def start(self) -> None:
        self.following.on_changed = lambda _, changes: self.events.extend(change.what for change in changes)
        self.following.start(self.network, self.guest)
        self.settle()

    def settle(self) -> None:
        """Turn the loop until nothing is left to do; timers are due at once."""
        def is_idle() -> bool:
            self.network.engine.run()
            self.network.engine.fire()
            return not self.network.engine.timers and not self.network.engine.turn()

        wait_until(is_idle, "the loop is idle")

    def until(self, done: Callable[[], bool]) -> None:
        def turned() -> bool:
            self.network.engine.turn()
            self.network.engine.fire()
            return done()

        wait_until(turned, "it is followed")

    def until_address(self, text: str) -> None:
        """Wait until the guest gets an IPv4 address."""
        self.until(lambda: bool(self.network.guests) and addresses(self.network.guests[-1])[0] == text)


def in_a_host(commands: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Run a test in a namespace of its own after *commands* of ip(8), which may begin with those of HOST."""
    def decorate(test: Callable[[], None]) -> Callable[[], None]:
        @functools.wraps(test)
        def wrapper() -> None:
            def run() -> None:
                if commands.startswith(HOST):
                    make_host(commands.removeprefix(HOST))
                else:
                    ip_batch(commands)
                test()
            isolated_as_root(run)
        return wrapper
    return decorate


def addresses(guest: GuestNet) -> tuple[str, str]:
    return (str(guest.ip4 and guest.ip4.address), str(guest.ip6 and guest.ip6.address))


@in_a_host(HOST + PLAIN)
def test_change_is_followed_once_and_lost_addresses_end_flows() -> None:
    bench = Bench(settings_of())
    bench.network.engine.records = [
        make_flow(0, local_address=bytes((192, 0, 2, 2))), make_flow(1, local_address=bytes((127, 0, 0, 1))),
        make_flow(2, local_address=bytes((198, 51, 100, 7)))]
    bench.start()
    assert bench.network.guests == []
    ip_batch(MOVE)
    bench.settle()
    bench.until(lambda: addresses(bench.network.guests[-1]) == ("198.51.100.7", "2001:db8:9::7"))
    assert bench.network.engine.closed == [(0, 3)]
    assert {"address", "gateway"} <= set(bench.events)
    told = len(bench.network.guests)
    ip_batch("route add 10.0.0.0/8 via 198.51.100.1\n")
    bench.settle()
    assert len(bench.network.guests) == told, "a route that nothing depends on is no change"


@in_a_host(HOST + PLAIN)
def test_flows_are_reset_when_the_namespace_has_the_new_address_and_it_loses_the_old_one_then() -> None:
    configurer = Configurer()
    bench = Bench(settings_of("--config-net", "pasta"), configurer)
    flow = make_flow(0, local_address=bytes((192, 0, 2, 2)), guest_address=bytes((192, 0, 2, 2)))
    bench.network.engine.records = [flow]
    bench.start()
    assert configurer.orders == []
    ip_batch(MOVE)
    bench.until(lambda: bool(configurer.orders))
    bench.settle()
    [added] = configurer.orders
    assert "address+" in added
    assert "address-" not in added
    assert bench.network.engine.closed == [], "the namespace may not have the new address yet"
    assert bench.network.assigned == []
    configurer.acknowledge()
    bench.settle()
    assert bench.network.engine.closed == [(0, 3)]
    assert [addresses(guest) for guest in bench.network.assigned] == [("198.51.100.7", "2001:db8:9::7")]
    assert "address-" in configurer.orders[1]


@in_a_host(HOST + PLAIN)
def test_guest_is_not_taken_to_have_an_address_that_nobody_could_add() -> None:
    configurer = Configurer()
    bench = Bench(settings_of("--config-net", "pasta"), configurer)
    bench.network.engine.records = [make_flow(0, local_address=bytes((192, 0, 2, 2)))]
    bench.start()
    ip_batch(MOVE)
    bench.until(lambda: bool(configurer.orders))
    configurer.ifindex = 0         # it has ended
    configurer.acknowledge()
    bench.settle()
    assert bench.network.assigned == []
    assert bench.network.engine.closed == [(0, 3)]


@in_a_host(HOST + PLAIN)
def test_change_during_a_change_waits_for_its_end() -> None:
    configurer = Configurer()
    bench = Bench(settings_of("--config-net", "pasta"), configurer)
    bench.start()
    ip_batch(MOVE)
    bench.until(lambda: bool(configurer.orders))
    ip_batch("route del default via 2001:db8:9::1\naddr flush dev h0\n" + PLAIN)
    bench.settle()
    assert len(configurer.orders) == 1, "what it is to take away may be what this one brings back"
    told = len(bench.network.guests)
    configurer.acknowledge()
    bench.settle()
    assert len(configurer.orders) == 2, "it has not taken that away yet"
    configurer.acknowledge()
    bench.until(lambda: len(configurer.orders) == 3)
    configurer.acknowledge()
    bench.settle()
    assert ["address-" in orders for orders in configurer.orders] == [False, True, False, True]
    assert [addresses(guest) for guest in bench.network.guests[told:]] == [("192.0.2.2", "2001:db8::2")]


@in_a_host(HOST)
def test_network_that_comes_after_the_start() -> None:
    bench = Bench(settings_of())
    assert addresses(bench.guest) == ("169.254.2.1", "None")
    bench.start()
    ip_batch(PLAIN)
    bench.settle()
    bench.until(lambda: addresses(bench.network.guests[-1]) == ("192.0.2.2", "2001:db8::2"))


@in_a_host("link set lo up\n")
def test_interface_that_an_option_names_and_that_comes_after_the_start() -> None:
    bench = Bench(settings_of("-i h0"))
    assert addresses(bench.guest)[0] == "169.254.2.1"
    bench.start()
    ip_batch(HOST + PLAIN)
    bench.until(lambda: bool(bench.network.guests)
                and addresses(bench.network.guests[-1]) == ("192.0.2.2", "2001:db8::2"))


@in_a_host(HOST + """
    link add c0 type veth peer name d0
    link set d0 up
    link set c0 up
    addr add 192.0.2.2/24 dev h0
    route add default via 192.0.2.1 metric 600
""")
def test_cable_takes_over_by_its_metric_and_gives_back() -> None:
    bench = Bench(settings_of())
    bench.start()
    ip_batch("addr add 198.51.100.7/24 dev c0\nroute add default via 198.51.100.1 metric 100\n")
    bench.until_address("198.51.100.7")
    ip_batch("route del default via 198.51.100.1 metric 100\n")
    bench.until_address("192.0.2.2")
    assert str(bench.network.guests[-1].ip4 and bench.network.guests[-1].ip4.gateway) == "192.0.2.1"


@in_a_host(HOST + PLAIN)
def test_tunnel_takes_over_and_gives_back_and_there_is_always_a_gateway() -> None:
    bench = Bench(settings_of())
    bench.start()
    ip_batch("tuntap add dev t0 mode tun\naddr add 10.8.0.2/24 dev t0\nlink set t0 up\n"
             "route del default via 192.0.2.1\nroute add default dev t0 metric 5\n"
             "route add default via 192.0.2.1 metric 50\n")
    # A tunnel that nobody serves has no carrier; its route is the first one all the same.
    bench.until_address("10.8.0.2")
    assert str(bench.network.guests[-1].ip4 and bench.network.guests[-1].ip4.our_address) == "192.0.2.1"
    ip_batch("link del t0\n")
    bench.until_address("192.0.2.2")


@in_a_host(HOST + PLAIN)
def test_change_between_the_reading_and_the_loop_is_not_lost() -> None:
    bench = Bench(settings_of())
    ip_batch(MOVE)
    bench.start()
    assert addresses(bench.network.guests[-1])[0] == "198.51.100.7"


@in_a_host(HOST + PLAIN)
def test_after_hints_there_is_a_rest_whatever_comes() -> None:
    bench = Bench(settings_of())
    bench.start()
    engine, fd = bench.network.engine, bench.following._watch.fileno()
    assert fd in engine.watched
    ip_batch("".join(f"route add 10.0.{number}.0/24 via 192.0.2.1\n" for number in range(100)))
    bench.following._on_news()
    assert fd not in engine.watched
    assert min(delay_s for delay_s, _ in engine.timers) > 0
    bench.settle()
    assert fd in engine.watched


@in_a_host(HOST + PLAIN)
def test_rules_about_the_host_hold_for_a_new_address_though_nothing_can_be_read_yet() -> None:
    new = bytes((192, 0, 2, 77))
    bench = Bench(settings_of())
    bench.start()
    ip_batch("addr add 192.0.2.77/24 dev h0\n")
    bench.following._on_news()
    assert bench.network.host_addresses == [], "nobody asks"
    bench.settle()
    bench.network.judges_host = True
    bench.following._is_changing = True
    ip_batch("addr del 192.0.2.77/24 dev h0\n")
    bench.settle()
    ip_batch("addr add 192.0.2.78/24 dev h0\n")
    bench.settle()
    before, gone, other = bench.network.host_addresses
    assert before - gone == {new}
    assert other - gone == {bytes((192, 0, 2, 78))}


@in_a_host(HOST + PLAIN)
def test_network_that_goes_and_comes_back_changes_nothing() -> None:
    bench = Bench(settings_of("-i h0"))
    bench.start()
    ip_batch("link set h0 down\naddr flush dev h0\n")
    bench.settle()
    assert bench.network.guests == []
    ip_batch("link set h0 up\n" + PLAIN)
    bench.settle()
    assert [addresses(guest) for guest in bench.network.guests] in ([], [("192.0.2.2", "2001:db8::2")])


@in_a_host(HOST + PLAIN)
def test_interface_that_is_made_anew_has_its_listeners_opened_again() -> None:
    bench = Bench(settings_of("-i h0"))
    bench.network.interfaces = {"h0", "none9"}
    first = socket.if_nametoindex("h0")
    bench.start()
    ip_batch("link del h0\n")
    bench.until(lambda: bench.network.anew == [{"h0": first, "none9": 0}, {"h0": 0, "none9": 0}])
    ip_batch(HOST + PLAIN)
    bench.until(lambda: bench.network.anew[-1] == {"h0": socket.if_nametoindex("h0"), "none9": 0})
    assert bench.network.anew[-1] != bench.network.anew[0]
    guest = bench.network.guests[-1]
    assert guest.ip4 is not None
    assert guest.ip4.template_ifindex == socket.if_nametoindex("h0")


@in_a_host(HOST + PLAIN)
def test_renamed_interface_is_the_same_template() -> None:
    bench = Bench(settings_of())
    bench.start()
    ip_batch("link set h0 down\nlink set h0 name lan0\nlink set lan0 up\n"
             "route replace default via 192.0.2.1\n")
    bench.settle()
    bench.until(lambda: bench.network.guests[-1].ip4 is not None
                and bench.network.guests[-1].ip4.template_ifname == "lan0")


@in_a_host(HOST + PLAIN)
def test_very_many_routes_are_followed_in_many_turns() -> None:
    n_routes = 1000
    listed = [f"10.{n >> 8}.{n & 255}.0/24 via 192.0.2.1" for n in range(n_routes)]
    ip_batch("\n".join(f"route add {route}" for route in listed) + "\n")
    configurer = Configurer()
    bench = Bench(settings_of("--config-net", "pasta"), configurer)
    pieces: list[bool] = []

    def call_later(delay_s: float, callback: Callable[[], None]) -> None:
        pieces.append(delay_s == 0)
        bench.network.engine.timers.append((delay_s, callback))

    bench.network.engine.call_later = call_later
    bench.start()
    pieces.clear()
    turns.PIECE_S = 1e-9  # each piece is a turn

    def has_turned(done: Callable[[], bool]) -> bool:
        for _ in range(500):
            bench.network.engine.turn()
            bench.network.engine.fire()
        return done()

    ip_batch(f"route del {listed[0]}\n")
    wait_until(lambda: has_turned(lambda: configurer.orders == [["route-"]]), "it is followed")
    # The old and the new routes are described, and each is looked for among the others.
    assert pieces.count(True) >= 4 * (n_routes // STEP)
    configurer.acknowledge()
    configurer.acknowledge()       # of what was to be taken away then
    wait_until(lambda: has_turned(lambda: not bench.network.engine.timers), "all is done")
    configurer.orders.clear()
    ip_batch("".join(f"route del {route}\n" for route in listed[1:]))
    for number in range(1, 9):
        wait_until(lambda: has_turned(lambda: bool(configurer.orders)), "some are ordered")
        assert len(configurer.orders) == number, "the next ones wait until these are carried out"
        configurer.acknowledge()
        wait_until(lambda: has_turned(lambda: len(configurer.orders) > number or number == 8), "more are")  # noqa: B023
    assert [len(orders) for orders in configurer.orders] == [128] * 7 + [n_routes - 1 - 7 * 128, 0]


@in_a_host(HOST + PLAIN)
def test_reading_that_fails_is_tried_again_and_ends_nothing() -> None:
    bench = Bench(settings_of())
    bench.start()
    read = bench.following._host.read_in_pieces
    failures = [HostError("cannot read routes"), HostError("interface 7, to which a route leads, went away")]

    def fail(resolvers: Any) -> Any:
        if failures:
            raise failures.pop()
        return read(resolvers)

    gatherer.RETRY_S = 0.01
    bench.following._host.read_in_pieces = fail  # type: ignore[method-assign]  # scripted
    ip_batch(MOVE)
    bench.until(lambda: bool(bench.network.guests))
    assert failures == []


@in_a_host(HOST + PLAIN)
def test_resolv_conf_is_followed_without_a_socket_for_its_interfaces() -> None:
    bench = Bench(settings_of())
    bench.start()
    # In the sandbox no other kind of socket can be opened.
    host_facts.__dict__["interface_index"] = None  # who calls it fails
    bench.following._on_resolv_conf(b"nameserver 203.0.113.53\nnameserver fe80::53%h0\nsearch a.example\n")
    bench.settle()
    guest = bench.network.guests[-1]
    assert guest.ip4 is not None
    assert guest.ip6 is not None
    assert [str(server) for server in guest.ip4.resolvers] == ["203.0.113.53"]
    assert guest.search == ("a.example",)
    assert str(guest.ip6.dns_host) == f"fe80::53%{socket.if_nametoindex('h0')}"


# The kernel forgets its neighbours when the last address goes.
NEIGHBOURS = """
    neigh replace 192.0.2.1 lladdr 02:00:00:00:00:01 dev h0
    neigh replace 192.0.2.7 lladdr 02:00:00:00:00:07 dev h0
    neigh replace 198.51.100.1 lladdr 02:00:00:00:00:11 dev h0
"""


@in_a_host(HOST + PLAIN + NEIGHBOURS)
def test_neighbours_are_those_of_the_network_that_there_is() -> None:
    bench = Bench(settings_of())
    bench.start()
    near, before, after = (ip_address(text).packed for text in ("192.0.2.7", "192.0.2.1", "198.51.100.1"))
    bench.until(lambda: bool(bench.network.neighbours) and set(bench.network.neighbours[-1]) == {near, after})
    ip_batch(MOVE + NEIGHBOURS)
    bench.until(lambda: set(bench.network.neighbours[-1]) == {near, before})


@in_a_host(HOST)
def test_start_waits_for_the_network_and_no_longer_than_it_may() -> None:
    assert not wait_online(settings_of(), 0.01)
    began = threading.Event()

    def come() -> None:
        began.wait(LIMIT_S)
        ip_batch(PLAIN)

    thread = threading.Thread(target=come)
    thread.start()
    began.set()
    assert wait_online(settings_of(), 0)
    thread.join()
    assert wait_online(settings_of(), 0.01)
    assert not wait_online(settings_of("-i none0"), 0.01)
    ip_batch("link set h0 down\nlink set h0 name none0\nlink set none0 up\n")
    assert wait_online(settings_of("-i none0"), 20)
