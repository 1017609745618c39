"""Hosts beside us: what the guest is shown of them, in virtual time, and from a hostile network."""

from __future__ import annotations

import errno
import socket
import struct
from heapq import heappop, heappush
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest

from passt.errors import HostError
from passt.facts.guest import GuestFamily, GuestNet
from passt.facts.host import InterfaceAddress
from passt.follow.gatherer import QUIET_S, REST_SHARE
from passt.follow.neighbours import MAX_NEIGHBOURS, Neighbourhood
from passt.host.rtnetlink.messages import AF_INET, AF_INET6, build_attribute
from passt.host.rtnetlink.neighbours import NeighbourAttribute, NeighbourType
from passt.host.rtnetlink.socket import RtnlSocket
from passt.host.rtnetlink.watch import NEIGHBOURS, GroupSocket
from passt.light.values import replace
from tests.support.control import PollLoop
from tests.support.isolated import PLAIN, ip_batch, isolated_as_root, make_host
from tests.support.kernel import ScriptedSocket, datagram
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

ONE, TWO = bytes.fromhex("0200000000aa"), bytes.fromhex("0200000000bb")
REACHABLE, STALE, FAILED, INCOMPLETE, NOARP, PERMANENT = 0x02, 0x04, 0x20, 0x01, 0x40, 0x80
PROXY = 0x08


def family(text: str, **changes: Any) -> GuestFamily:
    """A family of a guest; *changes* of fields."""
    prefix = "2001:db8::" if ":" in text else "192.0.2."
    found = GuestFamily(
        ip_address(text), 64 if ":" in text else 24, ip_address(f"{prefix}1"), ip_address(f"{prefix}2"),
        map_host_loopback=ip_address(f"{prefix}3"), map_guest=ip_address(f"{prefix}4"),
        dns_match=ip_address(f"{prefix}5"), template_ifname="h0", template_ifindex=4,
        copied_addresses=(InterfaceAddress(ip_address(f"{prefix}6"), 64, 0, 0, b""),))  # fmt: skip
    return replace(found, **changes)


IP4 = family("192.0.2.99")
GUEST = GuestNet(IP4, family("2001:db8::99"), "h0")


def packed(text: str) -> bytes:
    return ip_address(text).packed


def entry(text: str, mac: bytes | None = ONE, *, state: int = REACHABLE, flags: int = 0,
          ifindex: int = 4) -> bytes:
    """Give the payload of an entry."""
    address = packed(text)
    number = AF_INET if len(address) == 4 else AF_INET6
    fixed = struct.pack("=BxxxiHBB", number, ifindex, state, flags, 1)
    return (fixed + build_attribute(NeighbourAttribute.DST, address)
            + (b"" if mac is None else build_attribute(NeighbourAttribute.LLADDR, mac)))


class Rtnetlink:
    """The kernel's table; *fails* times it cannot be read."""

    def __init__(self) -> None:
        self.table: list[bytes] = []
        self.fails = 0
        self.n_dumps = 0

    def dump(self, _what: str, _kind: int, query: bytes) -> list[bytes]:
        """Give the entries of a family."""
        self.n_dumps += 1
        if self.fails:
            self.fails -= 1
            raise HostError("cannot read neighbours")
        return [payload for payload in self.table if payload[0] == query[0]]


class Bench:
    """A neighbourhood in virtual time, in a network that a test scripts."""

    def __init__(self, *table: bytes, guest: GuestNet = GUEST) -> None:
        self.now = 100.0
        self.rtnetlink = Rtnetlink()
        self.rtnetlink.table = list(table)
        self.given: list[dict[bytes, bytes]] = []
        self.reader: Callable[[], None] | None = None
        self.cost_s = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        group_socket = GroupSocket("the neighbours", NEIGHBOURS)
        group_socket.close()
        self.kernel = ScriptedSocket([])
        group_socket._socket = self.kernel  # type: ignore[assignment]  # scripted
        self.hood = Neighbourhood(group_socket, self.rtnetlink, self._clock,  # type: ignore[arg-type]
                                  self._clock)
        self.hood.start(self, guest, self.given.append)
        self.run(10)

    def _clock(self) -> float:
        self.now += self.cost_s
        return self.now

    def add_reader(self, _fd: int, callback: Callable[[], None]) -> None:
        """Do as the engine."""
        assert self.reader is None
        self.reader = callback

    def remove_reader(self, _fd: int) -> None:
        """Do as the engine."""
        assert self.reader is not None
        self.reader = None

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Do as the engine."""
        self._number += 1
        heappush(self._due, (self.now + delay_s, self._number, callback))

    def run(self, seconds: float) -> None:
        """Let time pass; the kernel's messages come as soon as somebody reads."""
        end = self.now + seconds
        while True:
            if self.reader is not None and self.kernel.script:
                self.reader()
            elif self._due and self._due[0][0] <= end:
                at, _, callback = heappop(self._due)
                self.now = max(self.now, at)
                callback()
            else:
                break
        self.now = max(self.now, end)

    def tell(self, *payloads: bytes, kind: int = NeighbourType.NEW) -> None:
        """Have the kernel tell of entries, a datagram each, and time pass."""
        self.kernel.script += [datagram((kind, payload)) for payload in payloads]
        self.run(10)

    @property
    def shown(self) -> dict[bytes, bytes]:
        """What the guest is shown now."""
        return self.given[-1] if self.given else {}


def test_table_that_is_there_at_the_start_is_shown_at_once_and_once() -> None:
    bench = Bench(entry("192.0.2.7"), entry("2001:db8::7", TWO), entry("fe80::7", TWO))
    assert bench.given == [{packed("192.0.2.7"): ONE, packed("2001:db8::7"): TWO, packed("fe80::7"): TWO}]
    assert bench.rtnetlink.n_dumps == 2


def test_network_without_neighbours_is_no_news() -> None:
    assert Bench().given == []


def test_entry_that_comes_changes_and_goes() -> None:
    bench = Bench()
    bench.tell(entry("192.0.2.7"))
    bench.tell(entry("192.0.2.7", TWO))
    bench.tell(entry("192.0.2.7", TWO), kind=NeighbourType.DEL)
    assert bench.given == [{packed("192.0.2.7"): ONE}, {packed("192.0.2.7"): TWO}, {}]
    assert bench.rtnetlink.n_dumps == 2, "the table is not read again for what a message says"


def test_state_that_tells_nothing_new_is_no_news() -> None:
    bench = Bench(entry("192.0.2.7"))
    bench.tell(*(entry("192.0.2.7", state=state) for state in (STALE, REACHABLE, STALE, PERMANENT)))
    assert len(bench.given) == 1


@pytest.mark.parametrize("payload", [
    entry("192.0.2.7", None, state=INCOMPLETE), entry("192.0.2.7", state=FAILED),
    entry("192.0.2.7", state=NOARP), entry("192.0.2.7", flags=PROXY), entry("192.0.2.7", b"\1\0\x5e\0\0\1"),
    entry("192.0.2.7", b"\xff" * 6), entry("192.0.2.7", bytes(6)), entry("192.0.2.7", b"abcd"),
    entry("192.0.2.7", bytes(20)), entry("192.0.2.7", b""), entry("224.0.0.1"), entry("127.0.0.2"),
    entry("0.0.0.0"), entry("ff02::1"), entry("::1"), entry("192.0.2.7", ifindex=5),
], ids=["incomplete", "failed", "noarp", "proxy", "group MAC", "broadcast MAC", "no MAC", "tunnel",
        "InfiniBand", "empty", "group", "loopback", "any", "group6", "loopback6", "another interface"])
def test_what_is_no_host_with_a_mac_address_is_not_shown(payload: bytes) -> None:
    assert Bench(payload).given == []
    bench = Bench()
    bench.tell(payload)
    assert bench.given == []


def test_what_the_host_answers_for_says_nothing_of_a_neighbour() -> None:
    bench = Bench(entry("192.0.2.7"))
    for kind in (NeighbourType.NEW, NeighbourType.DEL):
        bench.tell(entry("192.0.2.7", None, flags=PROXY), kind=kind)
    assert bench.given == [{packed("192.0.2.7"): ONE}]


def test_host_that_does_not_answer_any_more_is_not_shown() -> None:
    bench = Bench(entry("192.0.2.7"))
    bench.tell(entry("192.0.2.7", None, state=FAILED))
    assert bench.shown == {}


@pytest.mark.parametrize("last", ["1", "2", "3", "4", "5", "6", "99"],
                         ids=["gateway", "ours", "host", "map guest", "DNS", "copied", "guest"])
@pytest.mark.parametrize("prefix", ["192.0.2.", "2001:db8::"])
def test_address_that_means_us_or_the_host_is_no_neighbour(prefix: str, last: str) -> None:
    bench = Bench(entry(prefix + last))
    assert bench.given == []
    bench.tell(entry(prefix + last, TWO))
    assert bench.given == []


def test_another_network_has_other_neighbours_and_other_addresses_of_ours() -> None:
    bench = Bench(entry("192.0.2.7"), entry("192.0.2.1"))
    assert bench.shown == {packed("192.0.2.7"): ONE}
    moved = replace(IP4, gateway=ip_address("192.0.2.7"), our_address=ip_address("192.0.2.7"))
    bench.hood.renew(replace(GUEST, ip4=moved))
    bench.run(10)
    assert bench.shown == {packed("192.0.2.1"): ONE}
    bench.rtnetlink.table = [entry("192.0.2.8", TWO, ifindex=9)]
    bench.hood.renew(replace(GUEST, ip4=replace(moved, template_ifindex=9)))
    bench.run(10)
    assert bench.shown == {packed("192.0.2.8"): TWO}


def test_guest_without_a_template_has_no_neighbours() -> None:
    alone = replace(GUEST, ip4=replace(IP4, template_ifindex=0), ip6=None)
    bench = Bench(entry("192.0.2.7", ifindex=0), entry("2001:db8::7"), guest=alone)
    bench.tell(entry("192.0.2.7", ifindex=0), entry("2001:db8::7"))
    assert bench.given == []


LOST = OSError(errno.ENOBUFS, "No buffer space available")


@pytest.mark.parametrize("step", [LOST, datagram((NeighbourType.NEW, entry("192.0.2.7")))[:-3]],
                         ids=["overflow", "malformed"])
def test_table_is_read_again_when_messages_were_lost(step: OSError | bytes) -> None:
    bench = Bench(entry("192.0.2.7"))
    bench.rtnetlink.table = [entry("192.0.2.8", TWO)]
    bench.kernel.script.append(step)
    bench.run(10)
    assert bench.shown == {packed("192.0.2.8"): TWO}
    assert bench.rtnetlink.n_dumps == 4


def test_reading_that_fails_is_tried_again() -> None:
    bench = Bench()
    bench.rtnetlink.fails = 2
    bench.rtnetlink.table = [entry("192.0.2.7")]
    bench.kernel.script.append(LOST)
    bench.run(30)
    assert bench.shown == {packed("192.0.2.7"): ONE}


def flood(n: int, start: int = 0) -> list[bytes]:
    return [entry(f"10.{number >> 8}.{number & 255}.7", TWO) for number in range(start, start + n)]


def test_flood_takes_no_place_of_those_that_are_known() -> None:
    bench = Bench(entry("192.0.2.7"), *flood(100))
    bench.tell(*flood(2000))
    assert len(bench.shown) == MAX_NEIGHBOURS
    assert bench.shown[packed("192.0.2.7")] == ONE
    bench.tell(*flood(2000, 5000))
    assert bench.shown[packed("192.0.2.7")] == ONE
    bench.rtnetlink.table = [*flood(3000, 10000), entry("192.0.2.7"), *flood(50)]
    bench.kernel.script.append(LOST)
    bench.run(10)
    assert len(bench.shown) == MAX_NEIGHBOURS
    assert {packed("192.0.2.7"), packed("10.0.49.7")} <= set(bench.shown)


def test_place_that_becomes_free_goes_to_who_was_refused() -> None:
    bench = Bench(*flood(MAX_NEIGHBOURS))
    bench.tell(entry("192.0.2.7"))
    assert packed("192.0.2.7") not in bench.shown
    bench.rtnetlink.table = [*flood(MAX_NEIGHBOURS - 1, 1), entry("192.0.2.7")]
    bench.tell(flood(1)[0], kind=NeighbourType.DEL)
    assert len(bench.shown) == MAX_NEIGHBOURS
    assert bench.shown[packed("192.0.2.7")] == ONE


def test_flapping_host_is_followed_some_times_a_second() -> None:
    bench = Bench()
    began = bench.now
    for n in range(1000):
        bench.kernel.script.append(datagram((NeighbourType.NEW, entry("192.0.2.7", (ONE, TWO)[n & 1]))))
        bench.run(0.01)
    assert len(bench.given) <= (bench.now - began) / QUIET_S
    bench.run(10)
    assert bench.shown == {packed("192.0.2.7"): TWO}


def test_reading_takes_a_bounded_share_of_the_time() -> None:
    bench = Bench()
    bench.cost_s = 0.001                                      # for each look at the clock
    n = 20_000
    bench.kernel.script += [datagram((NeighbourType.NEW, entry("192.0.2.7")))] * n
    before = bench.now
    bench.run(1.0)
    n_read = n - len(bench.kernel.script)
    assert 0 < n_read < n
    assert (n_read // 64 - 1) * 0.001 * REST_SHARE <= bench.now - before


@pytest.mark.needs_root
def test_kernel_s_table_is_followed() -> None:
    isolated_as_root(follow)


def follow() -> None:
    """Run in a namespace of its own."""
    make_host(PLAIN + "neigh add 192.0.2.7 lladdr 02:00:00:00:00:aa dev h0\n"
              "neigh add 192.0.2.1 lladdr 02:00:00:00:00:cc dev h0\n")
    ifindex = socket.if_nametoindex("h0")
    guest = GuestNet(family("192.0.2.2", template_ifindex=ifindex),
                     family("2001:db8::2", template_ifindex=ifindex), "h0")
    loop = PollLoop()
    given: list[dict[bytes, bytes]] = []
    Neighbourhood(GroupSocket("the neighbours", NEIGHBOURS), RtnlSocket()).start(loop, guest, given.append)

    def until(wanted: dict[bytes, bytes]) -> None:
        def is_given() -> bool:
            loop.turn()
            loop.fire()
            return bool(given) and given[-1] == wanted

        wait_until(is_given, f"{wanted} is given")

    until({packed("192.0.2.7"): ONE})
    ip_batch("neigh replace 192.0.2.7 lladdr 02:00:00:00:00:bb dev h0\n"
             "neigh add 2001:db8::7 lladdr 02:00:00:00:00:aa dev h0\n")
    until({packed("192.0.2.7"): TWO, packed("2001:db8::7"): ONE})
    ip_batch("".join(f"neigh add 192.0.2.{n} lladdr 02:00:00:00:00:aa dev h0\n" for n in range(100, 250)))
    until({packed("192.0.2.7"): TWO, packed("2001:db8::7"): ONE,
           **{packed(f"192.0.2.{n}"): ONE for n in range(100, 250)}})
    ip_batch("link set h0 down\n")
    until({})
