"""One rule of port forwarding, as an option gave it."""

from __future__ import annotations

from passt.light.values import Value, replace

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable

    from passt.facts.address import IPAddress


class PortRule(Value):
    """Ports *first*..*last* on the near side go to ports from *target* on at the far side.

    Near is the host for -t and -u, the namespace for -T and -U. *proto* is IPPROTO_TCP or IPPROTO_UDP;
    *address* None means any address, both families; *ifname* limits the rule to an interface.
    *optional* says that a port that cannot be bound is skipped. *skips_ephemeral* leaves out the ports
    that the kernel gives to clients. *auto* binds a port only while its target is bound at the far side.
    *spec* is the option and its argument as given; empty for a rule that nobody wrote.
    """

    proto: int
    first: int
    last: int
    target: int
    address: IPAddress | None = None
    ifname: str | None = None
    optional: bool = False
    skips_ephemeral: bool = False
    auto: bool = False
    spec: str = ""

    def target_port(self, port: int) -> int:
        """Far-side port for the near-side port *port*."""
        return self.target + port - self.first

    def near_port(self, target: int) -> int | None:
        """Near-side port whose target is *target*; None if there is none."""
        port = self.first + target - self.target
        return port if self.first <= port <= self.last else None

    def without(self, ranges: Iterable[tuple[int, int]]) -> list[PortRule]:
        """Cut the near-side ports of *ranges*, which are inclusive, out of the rule."""
        left: list[PortRule] = []
        first = self.first
        for low, high in sorted(ranges):
            if high < first or low > self.last:
                continue
            if low > first:
                left.append(replace(self, first=first, last=low - 1, target=self.target_port(first)))
            first = high + 1
        if first <= self.last:
            left.append(replace(self, first=first, target=self.target_port(first)))
        return left
