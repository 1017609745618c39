"""The hosts beside us on our own link, by address and MAC, as far as the kernel knows: what the guest sees.

Theory of operation. The kernel's table is read once, and each message about an entry changes ours; it is read
again when messages were lost, when another interface is the template, or when a place has become free. What
comes of it is one table, which takes the place of the one before in the data plane and the responders, as
soon as some quiet has come (`gatherer`).

Whoever is on that link can make the kernel know a neighbour, and as many as he likes: by asking the host for
its address from invented ones, or by claiming another MAC address each millisecond. So

* there are MAX_NEIGHBOURS entries. Those that are there stay, and new ones are refused while there are as
  many: a flood pushes out nobody who is known. (If the one unused for longest had to go, a flood would push
  out all, again and again.) Who is refused has our MAC address, as every host has without --follow, and
  nothing else is different for it;
* reading rests for twenty times as long as it took (`rest_s`), whatever comes: it costs a twentieth of a
  processor;
* nothing that the kernel says of them decides where a frame or a flow goes.

Addresses that mean us or the host to the guest are never anybody else's, nor is its gateway: what comes from
further away comes from us.
"""

from __future__ import annotations

import time

from passt import log
from passt.errors import HostError
from passt.facts.address import MAC_LEN, is_host_unicast
from passt.follow.gatherer import Gatherer, rest_s
from passt.host.rtnetlink.messages import AF_INET, AF_INET6
from passt.host.rtnetlink.neighbours import NeighbourWatch, read_neighbours

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from typing import Protocol

    from passt.facts.guest import GuestFamily, GuestNet
    from passt.host.rtnetlink.neighbours import NeighbourMessage
    from passt.host.rtnetlink.socket import RtnlSocket
    from passt.host.rtnetlink.watch import GroupSocket

    class Loop(Protocol):
        """The part of `dataplane.engine.Engine` that is used."""

        def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
            """Call *callback* whenever *fd* is readable."""

        def remove_reader(self, fd: int) -> None:
            """Stop watching *fd*."""

        def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
            """Call *callback* once."""


MAX_NEIGHBOURS = 512               # as `dataplane.core.neighbour_table` takes


class Neighbourhood:
    """Hears of neighbours by *group_socket*, as a `NeighbourWatch`; *rtnetlink* is asked for their table.

    *clock* and *work_clock* are as for `Gatherer`.
    """

    def __init__(self, group_socket: GroupSocket, rtnetlink: RtnlSocket,
                 clock: Callable[[], float] = time.monotonic,
                 work_clock: Callable[[], float] = time.thread_time) -> None:
        self._watch = NeighbourWatch(group_socket)
        self._rtnetlink = rtnetlink
        self._clock = clock
        self._work_clock = work_clock
        self._interfaces: dict[int, int] = {}     # by address family
        self._withheld: frozenset[bytes] = frozenset()
        self._macs: dict[bytes, bytes] = {}       # by packed address
        self._given: dict[bytes, bytes] = {}
        self._has_refused = False
        self._must_read = False
        self._loop: Loop | None = None
        self._give: Callable[[dict[bytes, bytes]], None] = lambda _: None
        self._gatherer: Gatherer | None = None

    def start(self, loop: Loop, guest: GuestNet, give: Callable[[dict[bytes, bytes]], None]) -> None:
        """Have *loop* call *give* with the whole table, MACs by packed address, after each change."""
        self._loop, self._give = loop, give
        self._gatherer = Gatherer(self._work, loop.call_later, self._clock, self._work_clock)
        self._listen()
        self.renew(guest)

    def renew(self, guest: GuestNet) -> None:
        """Take it that *guest* is the guest's network now."""
        interfaces = {family: facts.template_ifindex for family, facts in ((AF_INET, guest.ip4),
                                                                           (AF_INET6, guest.ip6))
                      if facts is not None and facts.template_ifindex}
        if interfaces != self._interfaces:
            self._interfaces, self._macs, self._must_read = interfaces, {}, True
        self._withheld = frozenset(_withheld(guest.ip4)) | frozenset(_withheld(guest.ip6))
        self._hint()

    def _hint(self) -> None:
        if self._gatherer is not None:
            self._gatherer.hint()

    def _listen(self) -> None:
        if self._loop is not None:
            self._loop.add_reader(self._watch.fileno(), self._on_news)

    def _on_news(self) -> None:
        begun_at = self._work_clock()
        changes, is_whole = self._watch.read()
        if not is_whole:
            self._must_read = True
        has_changed = [self._take(message, is_there=is_there) for message, is_there in changes]
        if any(has_changed) or not is_whole:
            self._hint()
        if self._loop is not None:
            self._loop.remove_reader(self._watch.fileno())
            self._loop.call_later(rest_s(self._work_clock() - begun_at), self._listen)

    def _take(self, message: NeighbourMessage, *, is_there: bool) -> bool:
        """Take what is said of one neighbour; tell whether it changes the table."""
        if self._interfaces.get(message.family) != message.ifindex or message.is_proxy:
            return False
        address = message.address
        if not (is_there and is_usable(message)):
            # Somebody who was refused may have the place.
            self._must_read = self._must_read or (self._has_refused and address in self._macs)
            return self._macs.pop(address, None) is not None
        if address not in self._macs and len(self._macs) == MAX_NEIGHBOURS:
            self._has_refused = True
            return False
        has_changed = self._macs.get(address) != message.mac
        self._macs[address] = message.mac
        return has_changed

    def _work(self) -> Generator[None, None, bool]:
        """Publish in one piece: no message may come between what the table said and what is made of it."""
        yield from ()
        return self._publish()

    def _publish(self) -> bool:
        """Give the table as it is now; False if it could not be read."""
        if self._must_read:
            try:
                self._read_again()
            except HostError as error:
                log.limited(log.INFO, "follow", f"cannot follow the neighbours of the host yet: {error}")
                return False
        given = {address: mac for address, mac in self._macs.items() if address not in self._withheld}
        if given != self._given:
            self._given = given
            self._give(given)
        return True

    def _read_again(self) -> None:
        found = {message.address: message.mac for family, ifindex in self._interfaces.items()
                 for message in read_neighbours(self._rtnetlink, family, ifindex) if is_usable(message)}
        kept = {address: found[address] for address in self._macs if address in found}
        kept |= dict([entry for entry in found.items() if entry[0] not in kept][:MAX_NEIGHBOURS - len(kept)])
        self._macs = kept
        self._has_refused = len(kept) < len(found)
        self._must_read = False


def is_usable(message: NeighbourMessage) -> bool:
    """Tell whether a neighbour is a host whose MAC address may stand in a frame."""
    mac = message.mac
    return (message.is_known and len(mac) == MAC_LEN and not mac[0] & 1 and any(mac)
            and is_host_unicast(message.address))


def _withheld(family: GuestFamily | None) -> Iterable[bytes]:
    """Yield the addresses that are no neighbour's to the guest, whatever the host knows."""
    if family is None:
        return
    for address in (family.address, family.host_address, family.gateway, family.our_address,
                    family.map_host_loopback, family.map_guest, family.dns_match,
                    *(copied.address for copied in family.copied_addresses)):
        if address is not None:
            yield address.packed
