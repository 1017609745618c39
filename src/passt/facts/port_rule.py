"""One rule of port forwarding, as an option gave it."""

from __future__ import annotations

from passt.light.values import Value, replace

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable

    from passt.facts.address import IPAddress


class PortRule(Value):
    """Ports *first*..*last* of the listen side lead to the ports from *target* on of the service side.

    A host port 0 is one that the kernel will choose: `host.listeners` replaces the rule by one that names it.
    The listen side is the host for -t and -u, the namespace for -T and -U; the service side is the other one.
    """

    proto: int                         # IPPROTO_TCP or IPPROTO_UDP
    first: int
    last: int
    target: int
    address: IPAddress | None = None   # to listen on; None: any address, both families
    ifname: str | None = None          # listen on this interface only
    optional: bool = False             # skip a port that cannot be bound
    skips_ephemeral: bool = False      # leave out the ports that the kernel gives to clients (ip(7))
    auto: bool = False                 # listen on a port only while the port that it leads to is bound
    target_address: IPAddress | None = None  # lead there; None: to the guest's own address, last seen
    inherited: str = ""                # name of a listening socket that is handed over; ports 0 until then
    spec: str = ""                     # option and argument as given; empty for a rule by default

    def bare(self) -> PortRule:
        """Return the rule without its `spec`: rules that do the same are equal then."""
        return replace(self, spec="") if self.spec else self

    def service_port(self, port: int) -> int:
        """Port of the service side to which *port* of the listen side leads."""
        return self.target + port - self.first

    def listen_port(self, target: int) -> int | None:
        """Port of the listen side that leads to *target*; None if there is none."""
        port = self.first + target - self.target
        return port if self.first <= port <= self.last else None

    def without(self, ranges: Iterable[tuple[int, int]]) -> list[PortRule]:
        """Cut the *ranges* of listen-side ports, which are inclusive, out of the rule."""
        left: list[PortRule] = []
        first = self.first
        for low, high in sorted(ranges):
            if high < first or low > self.last:
                continue
            if low > first:
                left.append(replace(self, first=first, last=low - 1, target=self.service_port(first)))
            first = high + 1
        if first <= self.last:
            left.append(replace(self, first=first, target=self.service_port(first)))
        return left
