"""Begins to follow the host when the loop has run for a moment: what a start does for it is next to nothing.

A start keeps the modules that follow the host in memory, unexecuted (`light.kept_modules`). What happens
meanwhile waits in the sockets of `WatchedHost`: the kernel's messages, the content of resolv.conf. A command
that has ended by then has paid for none of it.
"""

from __future__ import annotations

from passt.light.kept_modules import keep_modules

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from passt.facts.guest import GuestNet
    from passt.facts.host import HostChange
    from passt.facts.settings import Settings
    from passt.follow.following import Followed
    from passt.follow.watched_host import WatchedHost

BEGIN_S = 0.1
# In an order in which each one needs no more than those before it.
PARTS = ("passt.follow.turns", "passt.follow.gatherer", "passt.host.rtnetlink.neighbours",
         "passt.follow.neighbours", "passt.follow.renewal", "passt.follow.sweep",
         "passt.namespace.interface", "passt.namespace.renumbering", "passt.follow.following")


class Lookout:
    """Has a run follow *host*. Make it while files can be read. Raises ImportError or OSError.

    *on_changed*, when set, is that of `Following`.
    """

    def __init__(self, settings: Settings, host: WatchedHost) -> None:
        self._settings = settings
        self._host = host
        self.on_changed: Callable[[GuestNet, Iterable[HostChange]], None] | None = None
        keep_modules(PARTS)

    def start(self, network: Followed, guest: GuestNet) -> None:
        """Have *network*, which serves *guest*, follow soon."""
        engine = network.engine
        left = list(PARTS)

        def load() -> None:
            __import__(left.pop(0))
            engine.call_later(0.0, load if left else lambda: self._begin(network, guest))

        engine.call_later(BEGIN_S, load)

    def _begin(self, network: Followed, guest: GuestNet) -> None:
        from passt.follow.following import Following

        following = Following(self._settings, self._host)
        following.on_changed = self.on_changed
        following.start(network, guest)
