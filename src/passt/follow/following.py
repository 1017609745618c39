"""Follows the host while the program runs: --follow, --wait-online.

A start makes a `Following` first, with the caller's rights: it opens all that is needed to watch and to ask,
and reads the facts of which the guest's network is made. From `start` on the loop calls. Each hint of a
change leads to a reading, and each reading that finds another network to `Network.renew`.

Facts are read within one turn of the loop: the tables of a usual host in less than a millisecond, 10,000
routes in 20.
"""

from __future__ import annotations

import select
import time

from passt import log
from passt.errors import HostError
from passt.facts.host import ResolverFacts
from passt.follow.gatherer import Gatherer
from passt.follow.neighbours import Neighbourhood
from passt.follow.reader import Reader
from passt.follow.renewal import is_same, renew
from passt.follow.sweep import Sweep, moved_addresses
from passt.host import resolvconf
from passt.host.host_facts import HostReader
from passt.host.rtnetlink.watch import NetworkWatch
from passt.namespace.renumbering import plan

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Protocol

    from passt.facts.guest import GuestNet
    from passt.facts.host import HostChange, HostFacts
    from passt.facts.settings import Settings
    from passt.follow.renewal import Renewal
    from passt.follow.sweep import Source
    from passt.namespace.configurer import Configurer
    from passt.process.identity import Identity

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

        def take_host(self, addresses: frozenset[bytes]) -> None:
            """Take it that these are the host's addresses now."""

        def set_neighbours(self, entries: dict[bytes, bytes]) -> None:
            """Show the guest hosts on our link by these MAC addresses from now on, and others by ours."""

        def listened_interfaces(self) -> Iterable[str]:
            """Name the interfaces that port rules name."""

        def listen_anew(self, indices: Mapping[str, int]) -> None:
            """Bind the listeners again whose interface is another one now; *indices* are those of all."""


RESOLV_CONF = "/etc/resolv.conf"


class Following:
    """Watches the host from now on. Raises PasstError, as `host_facts.read_host` does.

    *configurer* changes the namespace, where --config-net has set it up.
    *facts* are those of the last reading that made a network. *on_changed*, when set, gets the guest's new
    network and what people may want to know of the change.
    """

    def __init__(self, settings: Settings, configurer: Configurer | None = None) -> None:
        self._settings = settings
        # Watched first: what changes during the reading is read again.
        self._watch = NetworkWatch()
        self._host = open_reader(settings)
        self._resolvers = resolvconf.read(RESOLV_CONF)
        self.facts = self._host.read(self._resolvers)
        self._addresses = self._host.addresses()
        self._neighbours = Neighbourhood(self._host.rtnetlink)
        self._resolver_reader: Reader | None = None
        self._configurer = configurer
        self._network: Followed | None = None
        self._guest: GuestNet | None = None
        self._gatherer: Gatherer | None = None
        self._is_changing = False  # the namespace is on its way to what was read last
        self._has_missed = False   # a hint has come meanwhile
        self.on_changed: Callable[[GuestNet, Iterable[HostChange]], None] | None = None

    def start_reader(self, user: Identity | None) -> None:
        """Start the process that reads resolv.conf, as *user*; with one thread and the caller's rights."""
        self._resolver_reader = Reader(RESOLV_CONF, user)

    def start(self, network: Followed, guest: GuestNet) -> None:
        """Have *network*, which serves *guest*, follow from the next turn of its loop on."""
        self._network, self._guest = network, guest
        engine = network.engine
        self._gatherer = Gatherer(self._read_again, engine.call_later, time.monotonic)
        engine.add_reader(self._watch.fileno(), self._on_news)
        if self._resolver_reader is not None:
            self._resolver_reader.start(engine, self._on_resolv_conf)
        if self._configurer is not None:
            self._configurer.start(engine)
        self._neighbours.start(engine, guest, network.set_neighbours)
        # Between the first reading and now there was no ear for hints of resolv.conf, nor time for others.
        self._gatherer.hint()

    def _on_news(self) -> None:
        if self._watch.has_news() and self._gatherer is not None:
            self._gatherer.hint()

    def _on_resolv_conf(self, content: bytes) -> None:
        try:
            self._resolvers = resolvconf.parse(content, self._host.index_of)
        except OSError as error:
            log.limited(log.WARNING, "follow", f"cannot look for an interface that {RESOLV_CONF} names:"
                                               f" {error.strerror}")
            return
        if self._gatherer is not None:
            self._gatherer.hint()

    def _read_again(self) -> bool:
        """Read the host, and have what changed followed; False if it could not be read."""
        if self._network is None or self._guest is None:
            return True
        if self._is_changing:
            # One change after the other: else what the first one takes away may be what the second one added.
            self._has_missed = True
            return True
        try:
            found = self._host.read(self._resolvers)
            addresses = self._host.addresses()
            interfaces = self._indices(self._network.listened_interfaces())
        except HostError as error:
            # An interface may go while it is read about; more hints come then.
            log.limited(log.INFO, "follow", f"cannot follow the host yet: {error}")
            return False
        if addresses != self._addresses:
            self._network.take_host(addresses)
        gone, self._addresses = self._addresses - addresses, addresses
        self._follow(self._network, self._guest, found, gone)
        self._network.listen_anew(interfaces)
        return True

    def _follow(self, network: Followed, guest: GuestNet, found: HostFacts, gone: frozenset[bytes]) -> None:
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
        inside = plan(guest, renewal.guest, configurer.ifindex)
        if not (gone or moved or any(inside)):
            return

        def reset() -> None:
            if inside.added and configurer.ifindex:
                network.assign(renewal.guest)
            Sweep(network.engine, gone, moved, inside.left, leave)

        def leave() -> None:
            configurer.carry_out(inside.removed)
            self._on_changed_inside()

        # A client that is reset connects anew at once, and has to find the new address. And the resets have
        # to arrive while the guest still has its old addresses.
        self._is_changing = True
        configurer.carry_out(inside.added, reset)

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


def open_reader(settings: Settings) -> HostReader:
    """Open what reads the facts that *settings* ask for. Raises PasstError."""
    asked, namespace = settings.addresses, settings.namespace
    return HostReader(interface=asked.interface, outbound_if4=asked.outbound_if4,
                      outbound_if6=asked.outbound_if6, want4=settings.protocols.ip4,
                      want6=settings.protocols.ip6,
                      want_routes=namespace.config_net and namespace.copy_routes, may_come=True)


def wait_online(settings: Settings, limit_s: float, clock: Callable[[], float] = time.monotonic) -> bool:
    """Wait until the host has a network, in any of the families that are wanted; False: not in time.

    A *limit_s* of 0 is none. Signals end the program meanwhile. Raises PasstError.
    """
    deadline = clock() + limit_s if limit_s else None
    with NetworkWatch() as watch, open_reader(settings) as host:
        poll = select.poll()
        poll.register(watch.fileno(), select.POLLIN)
        while True:
            watch.has_news()
            facts = host.read(ResolverFacts())
            if any(family is not None and family.address is not None for family in (facts.ip4, facts.ip6)):
                return True
            left_s = None if deadline is None else deadline - clock()
            if left_s is not None and left_s <= 0:
                return False
            poll.poll(None if left_s is None else left_s * 1000)
