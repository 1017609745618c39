"""The host, watched from the first reading on: what --follow and --wait-online do before a start goes on.

It is small, as the start of each container waits for it. What the program does when something changes is
executed later (`follow.lookout`).
"""

from __future__ import annotations

import select
import time

from passt import log
from passt.facts.host import ResolverFacts
from passt.host import resolvconf
from passt.host.host_facts import HostReader
from passt.host.rtnetlink.socket import RtnlSocket
from passt.host.rtnetlink.watch import NEIGHBOURS, GroupSocket, NetworkWatch

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from passt.facts.settings import Settings
    from passt.follow.reader import Reader
    from passt.namespace.configurer import Configurer
    from passt.process.identity import Identity

    class Closable(Protocol):
        """What holds descriptors."""

        def close(self) -> None:
            """Close them."""


RESOLV_CONF = "/etc/resolv.conf"


class WatchedHost:
    """Opens all that is needed to watch and to ask, and reads *facts*.

    *configurer* is for a namespace that we set up; *level* is that of messages about what cannot be followed.
    Raises PasstError, as `host_facts.read_host` does.
    """

    def __init__(self, settings: Settings) -> None:
        self.level = log.WARNING if settings.addresses.must_follow else log.INFO
        self.resolver_reader: Reader | None = None
        self.configurer: Configurer | None = None
        opened: list[Closable] = []
        try:
            if settings.namespace.config_net:
                from passt.namespace.configurer import Configurer

                self.configurer = Configurer(self.level)
                opened.append(self.configurer)
            # Before the reading: what changes meanwhile is read again.
            self.watch = NetworkWatch()
            opened.append(self.watch)
            # Of neighbours, others on the link can cause very many messages: they have sockets of their own.
            self.neighbour_watch = GroupSocket("the neighbours", NEIGHBOURS)
            opened.append(self.neighbour_watch)
            self.question_socket = RtnlSocket()
            opened.append(self.question_socket)
            self.reader = open_reader(settings, may_come=settings.addresses.must_follow)
            opened.append(self.reader)
            self.resolvers = resolvconf.read(RESOLV_CONF)
            self.facts = self.reader.read(self.resolvers)
            self.addresses = self.reader.addresses()
        except BaseException:
            for each in opened:
                each.close()
            raise

    def start_reader(self, user: Identity | None) -> None:
        """Start the program that reads resolv.conf, as *user*; with one thread and the caller's rights.

        Raises HostError.
        """
        from passt.follow.reader import Reader

        self.resolver_reader = Reader(RESOLV_CONF, user, self.level)


def open_reader(settings: Settings, *, may_come: bool) -> HostReader:
    """Open what reads the facts that *settings* ask for; *may_come* is as for it. Raises PasstError."""
    asked, namespace = settings.addresses, settings.namespace
    return HostReader(interface=asked.interface, outbound_if4=asked.outbound_if4,
                      outbound_if6=asked.outbound_if6, want4=settings.protocols.ip4,
                      want6=settings.protocols.ip6,
                      want_routes=namespace.config_net and namespace.copy_routes,
                      may_come=may_come)


def wait_online(settings: Settings, limit_s: float, clock: Callable[[], float] = time.monotonic) -> bool:
    """Wait until the host has a network, in any of the families that are wanted; False: not in time.

    A *limit_s* of 0 is none. Signals end the program meanwhile. Raises PasstError.
    """
    deadline = clock() + limit_s if limit_s else None
    with NetworkWatch() as watch, open_reader(settings, may_come=True) as host:
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
