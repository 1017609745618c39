"""Which servers are asked, in which order, and how long each is waited for. Pure: time is an argument.

As glibc's resolver (resolv.conf(5), resolv/res_send.c): in the order of the file, or with the option rotate
from the next one on. The first is given the seconds of the option timeout, the one at place n of N those
doubled n times and divided by N; all of them as often as the option attempts says.

Unlike a resolver that lives as long as a program, we remember who was silent: for DEAD_S seconds such a
server comes after all others. Then one question goes to it as well as to the next, at the same time; its
answer brings it back, and its silence costs nobody anything.
"""

from __future__ import annotations

from passt.light.values import NamedTuple

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Sequence

    from passt.facts.address import IPAddress
    from passt.facts.guest import NameService

DEAD_S = 30.0
MAX_PATIENCE_S = 60.0              # for one question in all; who asked has given up long before


class Try(NamedTuple):
    """Ask *server*, and go on after *timeout_s* seconds; 0: at once."""

    server: IPAddress
    timeout_s: float


class Upstreams:
    """The servers that *service* names, and those of routes, with what is known of them."""

    def __init__(self, service: NameService) -> None:
        self._service = service
        self._turn = 0
        self._silent: dict[IPAddress, float] = {}   # server -> when it is tried again

    def renew(self, service: NameService) -> None:
        """Ask by *service* from now on; another network may reach those that were silent."""
        self._service = service
        self._silent.clear()

    def plan(self, now: float, servers: Sequence[IPAddress] | None = None) -> tuple[Try, ...]:
        """Lay out whom to ask: *servers*, else those of the host."""
        service = self._service
        order = list(service.servers if servers is None else servers)
        if service.rotate and order and servers is None:
            self._turn = (self._turn + 1) % len(order)
            order = order[self._turn:] + order[:self._turn]
        silent = [server for server in order if server in self._silent]
        probes = []
        if len(silent) < len(order):
            probes = [server for server in silent if self._silent[server] <= now]
            order = [server for server in order if server not in self._silent] + silent
        for server in probes:
            self._silent[server] = now + DEAD_S
        tries = [Try(server, 0.0) for server in probes]
        patience = MAX_PATIENCE_S
        for _ in range(service.attempts):
            for place, server in enumerate(order):
                timeout_s = min(_timeout(service.timeout_s, place, len(order)), patience)
                if timeout_s > 0:
                    tries.append(Try(server, timeout_s))
                patience -= timeout_s
        return tuple(tries)

    def note_silent(self, server: IPAddress, now: float) -> bool:
        """Note that *server* did not answer; True if it did before."""
        is_new = server not in self._silent
        self._silent[server] = now + DEAD_S
        return is_new

    def note_answer(self, server: IPAddress) -> None:
        """Note that *server* has answered."""
        self._silent.pop(server, None)


def _timeout(first_s: int, place: int, n_servers: int) -> float:
    seconds = first_s << place
    return float(max(seconds // n_servers if place else seconds, 1))
