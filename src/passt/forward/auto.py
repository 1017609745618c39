"""Automatic forwarding: listeners come and go with the sockets that are bound at the service side.

Theory of operation. There are two directions: inbound (-t, -u) listens on the host for services in the
namespace, outbound (-T, -U) listens in the namespace for services on the host. Each `tick`, once a second or
more often, scans the service side of each direction that has an `auto` rule, and opens and closes listeners
to match.

* Our own listeners are no services: the ports on which the opposite direction listens are left out of a
  scan, or one service would be forwarded to and fro for ever.
* UDP ports follow TCP ports as well if the direction has `auto` rules of both: programs such as iperf3 use
  both.
* A dump of the kernel's sockets is not one instant, so a port that seems to be gone is looked for once more
  before its listener is closed.
* Ports that cannot be had, because another socket has them at the listen side, are tried again, a few in
  each tick.
"""

from __future__ import annotations

from socket import IPPROTO_TCP, IPPROTO_UDP

from passt.forward.rules import auto_rules, fixed_ports

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from passt.facts.contracts import ListenerSide
    from passt.facts.port_rule import PortRule

    Scan = Callable[[Iterable[int]], dict[int, set[int]]]

RETRIES = 32                      # ports that failed before, tried again in one tick
_NAMES = {IPPROTO_TCP: "TCP", IPPROTO_UDP: "UDP"}


class _Follower:
    """One `auto` rule and the listeners that it has now."""

    __slots__ = ("failed", "held", "rule")

    def __init__(self, rule: PortRule) -> None:
        self.rule = rule
        self.held: dict[int, object] = {}      # port of the listen side -> handle
        self.failed: dict[int, str] = {}       # ports that could not be had and why, longest ago first

    def wanted(self, targets: set[int]) -> set[int]:
        """Return the ports of the listen side that lead to *targets*."""
        rule = self.rule
        return {port for target in targets if (port := rule.listen_port(target)) is not None}


class Direction:
    """One direction: its *rules*, a *scan* of its service side, and its listen *side*, *name* in messages.

    At most *max_open* listeners are opened, since programs that bind ports at the service side are not
    trusted, and none where *has_room* says that descriptors are few: other rules may have taken them since.
    """

    def __init__(self, name: str, rules: Sequence[PortRule], scan: Scan, side: ListenerSide,
                 max_open: int, has_room: Callable[[], bool] = lambda: True) -> None:
        self.name = name
        self.side = side
        self.max_open = max_open
        self.has_room = has_room
        self._scan = scan
        self.followers: list[_Follower] = []
        self.has_failed = False                # whether the last scan failed
        self.change_rules(rules)

    def change_rules(self, rules: Sequence[PortRule],
                     given: Mapping[PortRule, Mapping[int, object]] | None = None) -> None:
        """Follow other *rules* from now on; the `auto` rules that were there keep their listeners.

        The caller closes those of `auto` rules that go, or gives them to new ones: *given* has the handles of
        all listeners of a rule by port, where they are others than before.
        """
        before = {follower.rule: follower for follower in self.followers}
        self.followers = [before.get(rule) or _Follower(rule) for rule in auto_rules(rules)]
        for follower in self.followers:
            if given is not None and follower.rule in given:
                follower.held = dict(given[follower.rule])
        self.n_open = sum(len(follower.held) for follower in self.followers)
        self._protos = {follower.rule.proto for follower in self.followers}
        self._fixed = {proto: fixed_ports(rules, proto) for proto in _NAMES}

    def held(self) -> dict[PortRule, dict[int, object]]:
        """Return the handles of the listeners of each `auto` rule, by port."""
        return {follower.rule: dict(follower.held) for follower in self.followers}

    def listen_ports(self) -> dict[int, set[int]]:
        """Return the ports on which this direction listens, by protocol."""
        ports = {proto: set(fixed) for proto, fixed in self._fixed.items()}
        for follower in self.followers:
            ports[follower.rule.proto].update(follower.held)
        return ports

    def targets(self, ours: dict[int, set[int]]) -> dict[int, set[int]]:
        """Scan the service side; ports in *ours* are not services. Raises OSError."""
        scanned = self._scan(self._protos)
        found = {proto: ports - ours[proto] for proto, ports in scanned.items()}
        if IPPROTO_TCP in found and IPPROTO_UDP in found:
            found[IPPROTO_UDP] |= found[IPPROTO_TCP] - ours[IPPROTO_UDP]
        return found

    def has_lost(self, targets: dict[int, set[int]]) -> bool:
        """Tell whether *targets* lacks the port that an open listener leads to."""
        return any(follower.held.keys() - follower.wanted(targets[follower.rule.proto])
                   for follower in self.followers)

    def explain_closed(self, rule: PortRule, port: int) -> str:
        """Say why the `auto` *rule*, which has *port*, does not listen on it now."""
        for follower in self.followers:
            if follower.rule == rule and port in follower.failed:
                return f"its target is bound, but the port cannot be had: {follower.failed[port]}"
        if port in self._fixed[rule.proto]:
            return "another rule has the port"
        if self.has_failed:
            return "which ports are bound cannot be seen"
        return f"it follows bound ports, and port {rule.service_port(port)} was not bound when last looked"

    def fixed(self, proto: int) -> set[int]:
        """Return the ports on which rules that are not `auto` listen."""
        return self._fixed[proto]


class AutoForwarder:
    """Follows the service sides of both directions.

    *explain* gets a line for each listener opened, closed or refused, if given. *warn* gets one when a scan
    fails that did not fail the time before.
    """

    def __init__(self, inbound: Direction, outbound: Direction, *,
                 explain: Callable[[str], None] | None = None,
                 warn: Callable[[str], None] | None = None) -> None:
        self._pairs = ((inbound, outbound), (outbound, inbound))
        self._explain = explain
        self._warn = warn

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to follow."""
        return any(direction.followers for direction, _ in self._pairs)

    def tick(self) -> None:
        """Scan both service sides once and adapt the listeners. A scan that fails changes nothing."""
        for direction, opposite in self._pairs:
            if not direction.followers:
                continue
            ours = opposite.listen_ports()
            try:
                targets = direction.targets(ours)
                if direction.has_lost(targets):
                    for proto, ports in direction.targets(ours).items():
                        targets[proto] |= ports
            except OSError as error:
                self._on_failure(direction, opposite, error)
                continue
            direction.has_failed = False
            for follower in direction.followers:
                self._follow(direction, follower, targets[follower.rule.proto])

    def _on_failure(self, direction: Direction, opposite: Direction, error: OSError) -> None:
        """Log that the scan of a service side failed; the next tick tries again."""
        why = error.strerror or error
        text = f"cannot see which ports of the {opposite.name} are bound, will try again: {why}"
        if self._warn is not None and not direction.has_failed:
            self._warn(text)
        else:
            self._log(f"auto: {text}")
        direction.has_failed = True

    def _follow(self, direction: Direction, follower: _Follower, targets: set[int]) -> None:
        proto = follower.rule.proto
        wanted = follower.wanted(targets) - direction.fixed(proto)
        for port in follower.held.keys() - wanted:
            direction.side.close_listener(follower.held.pop(port))
            direction.n_open -= 1
            self._log(f"auto: {direction.name} {_NAMES[proto]} port {port}: closed")
        for port in follower.failed.keys() - wanted:
            del follower.failed[port]
        missing = wanted - follower.held.keys()
        for port in sorted(missing - follower.failed.keys()):
            self._open(direction, follower, port)
        for port in list(follower.failed)[:RETRIES]:
            if port in missing:
                self._open(direction, follower, port)

    def _open(self, direction: Direction, follower: _Follower, port: int) -> None:
        is_new = port not in follower.failed
        follower.failed.pop(port, None)
        what = f"auto: {direction.name} {_NAMES[follower.rule.proto]} port {port}"
        if direction.n_open >= direction.max_open or not direction.has_room():
            follower.failed[port] = (f"the limit of {direction.max_open} listeners is reached"
                                     if direction.n_open >= direction.max_open else
                                     "the limit of open files leaves no room for it")
            if is_new:
                self._log(f"{what}: {follower.failed[port]}")
            return
        try:
            follower.held[port] = direction.side.open_listener(follower.rule, port)
        except OSError as error:
            follower.failed[port] = str(error.strerror or error)
            if is_new:
                self._log(f"{what}: {follower.failed[port]}")
            return
        direction.n_open += 1
        self._log(f"{what}: opened")

    def _log(self, text: str) -> None:
        if self._explain is not None:
            self._explain(text)
