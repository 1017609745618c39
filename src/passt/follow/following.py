"""Follows the host while the program runs: --follow, --wait-online.

A start opens the `WatchedHost` first, with the caller's rights; a moment after the loop has begun, a
`Following` is made of it (`follow.lookout`). From `start` on the loop calls. Each hint of a change leads to
a reading, and each reading that finds another network to `Network.renew`.

Facts are read, and what follows is worked out, in pieces of some milliseconds (`follow.turns`): the tables of
a usual host in one, 10,000 routes in thirty or more.
"""

from __future__ import annotations

import time

from passt import log
from passt.errors import HostError
from passt.follow.gatherer import Gatherer, rest_s
from passt.follow.neighbours import Neighbourhood
from passt.follow.renewal import is_same, renew
from passt.follow.sweep import Sweep, moved_addresses
from passt.follow.watched_host import RESOLV_CONF
from passt.host import resolvconf
from passt.host.host_facts import read_addresses
from passt.namespace.renumbering import plan_in_pieces

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
    from typing import Protocol

    from passt.facts.guest import GuestNet
    from passt.facts.host import HostChange, HostFacts
    from passt.facts.settings import Settings
    from passt.follow.renewal import Renewal
    from passt.follow.sweep import Source
    from passt.follow.watched_host import WatchedHost
    from passt.host.rtnetlink.socket import Request
    from passt.namespace.configurer import Configurer
    from passt.namespace.renumbering import Plan

    class Loop(Source, Protocol):
        """The part of `dataplane.engine.Engine` that is used."""

        def add_reader(self, fd: int, callback: Callable[[], None], readable: bool = ...,
                       writable: bool = ...) -> None:
            """Call *callback* whenever *fd* is readable or writable."""

        def remove_reader(self, fd: int) -> None:
            """Stop watching *fd*."""

    class Followed(Protocol):
        """What follows the host; `run.network.Network`."""

        @property
        def engine(self) -> Loop:
            """What runs it."""

        def renew(self, guest: GuestNet) -> None:
            """Serve *guest* from now on."""

        def assign(self, guest: GuestNet) -> None:
            """Take it that the guest has the addresses of *guest* now."""

        @property
        def judges_host(self) -> bool:
            """Whether it matters which addresses are the host's."""

        def take_host(self, addresses: frozenset[bytes]) -> None:
            """Take it that these are the host's addresses now."""

        def set_neighbours(self, entries: dict[bytes, bytes]) -> None:
            """Show the guest hosts on our link by these MAC addresses from now on, and others by ours."""

        def listened_interfaces(self) -> Iterable[str]:
            """Name the interfaces that port rules name."""

        def listen_anew(self, indices: Mapping[str, int]) -> None:
            """Bind the listeners again whose interface is another one now; *indices* are those of all."""


_N_ORDERS = 128                    # that are packed and sent at once


class Following:
    """Has a run follow *host*.

    *facts* are those of the last reading that made a network. *on_changed*, when set, gets the guest's new
    network and what people may want to know of the change.
    """

    def __init__(self, settings: Settings, host: WatchedHost) -> None:
        self._settings = settings
        self._watch = host.watch
        self._host = host.reader
        self._resolvers = host.resolvers
        self.facts = host.facts
        self._addresses = self._judged = host.addresses
        # For what is read in one piece, maybe between two of a reading.
        self._questions = host.question_socket
        self._neighbours = Neighbourhood(host.neighbour_watch, self._questions)
        self._resolver_reader = host.resolver_reader
        self._configurer = host.configurer
        self._network: Followed | None = None
        self._guest: GuestNet | None = None
        self._gatherer: Gatherer | None = None
        self._is_changing = False  # the namespace is on its way to what was read last
        self._has_missed = False   # a hint has come meanwhile
        self.on_changed: Callable[[GuestNet, Iterable[HostChange]], None] | None = None

    def start(self, network: Followed, guest: GuestNet) -> None:
        """Have *network*, which serves *guest*, follow from the next turn of its loop on."""
        self._network, self._guest = network, guest
        engine = network.engine
        self._gatherer = Gatherer(self._read_again, engine.call_later, time.monotonic, time.thread_time)
        self._listen()
        if self._resolver_reader is not None:
            self._resolver_reader.start(engine, self._on_resolv_conf)
        if self._configurer is not None:
            self._configurer.start(engine)
        self._neighbours.start(engine, guest, network.set_neighbours)
        # Between the first reading and now there was no ear for hints of resolv.conf, nor time for others.
        self._gatherer.hint()

    def _listen(self) -> None:
        if self._network is not None:
            self._network.engine.add_reader(self._watch.fileno(), self._on_news)

    def _on_news(self) -> None:
        """Take hints, and rest: what comes meanwhile, or is lost as too much comes, is one more hint."""
        begun_at = time.thread_time()
        if self._watch.has_news() and self._gatherer is not None:
            self._judge_host()
            self._gatherer.hint()
        if self._network is not None:
            engine = self._network.engine
            engine.remove_reader(self._watch.fileno())
            engine.call_later(rest_s(time.thread_time() - begun_at), self._listen)

    def _judge_host(self) -> None:
        """Have rules about the host hold for a new address at once: a reading has to wait, or may fail."""
        if self._network is None or not self._network.judges_host:
            return
        try:
            self._take_host(self._network, read_addresses(self._questions))
        except HostError as error:
            log.limited(log.WARNING, "follow", f"rules about the host may miss an address of it: {error}")

    def _take_host(self, network: Followed, addresses: frozenset[bytes]) -> None:
        if addresses != self._judged:
            self._judged = addresses
            network.take_host(addresses)

    def _on_resolv_conf(self, content: bytes) -> None:
        try:
            self._resolvers = resolvconf.parse(content, self._host.index_of)
        except OSError as error:
            log.limited(log.WARNING, "follow", f"cannot look for an interface that {RESOLV_CONF} names:"
                                               f" {error.strerror}")
            return
        if self._gatherer is not None:
            self._gatherer.hint()

    def _read_again(self) -> Generator[None, None, bool]:
        """Read the host, and have what changed followed; False if it could not be read."""
        if self._network is None or self._guest is None:
            return True
        if self._is_changing:
            self._has_missed = True
            return True
        try:
            found = yield from self._host.read_in_pieces(self._resolvers)
            addresses = self._host.addresses()
            interfaces = self._indices(self._network.listened_interfaces())
        except HostError as error:
            # An interface may go while it is read about; more hints come then.
            log.limited(log.INFO, "follow", f"cannot follow the host yet: {error}")
            return False
        self._take_host(self._network, addresses)
        gone, self._addresses = self._addresses - addresses, addresses
        yield from self._follow(self._network, self._guest, found, gone)
        self._network.listen_anew(interfaces)
        return True

    def _follow(self, network: Followed, guest: GuestNet, found: HostFacts, gone: frozenset[bytes]
                ) -> Generator[None, None, None]:
        """Have *network* serve what follows from *found*, and end the flows of *gone* addresses."""
        configurer = self._configurer
        can_configure = configurer is not None and configurer.ifindex != 0
        renewal = renew(self._settings, self.facts, found, guest,
                        keeps_inside=self._settings.namespace.config_net and not can_configure)
        if renewal.fault:
            log.limited(log.WARNING, "follow", f"cannot follow the host to its new network: {renewal.fault}")
        self.facts, self._guest = renewal.facts, renewal.guest
        if not is_same(guest, renewal.guest):
            network.renew(renewal.guest)
            self._neighbours.renew(renewal.guest)
            self._tell(renewal)
        moved = moved_addresses(guest, renewal.guest)
        if configurer is None or not can_configure:
            Sweep(network.engine, gone, moved)
            return
        inside = yield from plan_in_pieces(guest, renewal.guest, configurer.ifindex)
        if not (gone or moved or any(inside)):
            return
        # One change after the other: else what the first one takes away may be what the second one added.
        self._is_changing = True
        # A client that is reset connects anew at once, and has to find the new address. And the resets have
        # to arrive while the guest still has its old addresses.
        _order(configurer, network.engine.call_later, inside.added,
               lambda: self._reset(network, configurer, inside, gone, moved))

    def _reset(self, network: Followed, configurer: Configurer, inside: Plan, gone: frozenset[bytes],
               moved: frozenset[bytes]) -> None:
        """Reset what hangs, now that all is there that is new; then take away what is old."""
        if inside.added and configurer.ifindex and self._guest is not None:
            network.assign(self._guest)

        def leave() -> None:
            _order(configurer, network.engine.call_later, inside.removed, self._on_changed_inside)

        Sweep(network.engine, gone, moved, inside.left, leave)

    def _on_changed_inside(self) -> None:
        self._is_changing = False
        if self._has_missed and self._gatherer is not None:
            self._has_missed = False
            self._gatherer.hint()

    def _tell(self, renewal: Renewal) -> None:
        for change in renewal.changes:
            log.limited(log.INFO, f"follow {change.what} {change.version}", change.text)
        if self.on_changed is not None:
            self.on_changed(renewal.guest, renewal.changes)

    def _indices(self, ifnames: Iterable[str]) -> dict[str, int]:
        """Return the indices of interfaces, 0 for one that is not there. Raises HostError."""
        found = {}
        for ifname in ifnames:
            try:
                found[ifname] = self._host.index_of(ifname)
            except OSError:
                found[ifname] = 0
        return found


def _order(configurer: Configurer, call_later: Callable[[float, Callable[[], None]], object],
           requests: Sequence[Request], on_done: Callable[[], None], start: int = 0) -> None:
    """Have *requests* from *start* on carried out, some in a turn of the loop, and call *on_done* then.

    The next ones wait until those before are carried out: there may be more than can be queued.
    """
    end = start + _N_ORDERS

    def go_on() -> None:
        call_later(0.0, lambda: _order(configurer, call_later, requests, on_done, end))

    if end >= len(requests) or not configurer.ifindex:
        configurer.carry_out(requests[start:], on_done)
    else:
        configurer.carry_out(requests[start:end], go_on)
