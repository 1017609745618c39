"""Port rules at work: listeners handed to the engine, and the scan of bound ports for `auto` rules.

`host.listeners` binds the host ports of fixed rules before anything else. This module opens the ports of the
namespace, once the namespace exists, and the ports of `auto` rules, which come and go.
"""

from __future__ import annotations

import os

from passt import log
from passt.errors import ConfigError, HostError
from passt.forward.auto import AutoForwarder, Direction
from passt.host.bound_ports import PortScanner, open_sources
from passt.host.listeners import count_spare_descriptors, optional_groups
from passt.light.values import cast

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Sequence

    from passt.dataplane.engine import Engine
    from passt.facts.contracts import ListenerSide, NamespaceSockets
    from passt.facts.port_rule import PortRule
    from passt.host.listeners import HostBinder, HostPorts

INTERVAL_S = 0.75                 # between scans, so that a listener follows its service within a second


class HostSide:
    """Listeners on the host; a `contracts.ListenerSide`."""

    def __init__(self, engine: Engine, binder: HostBinder) -> None:
        self._engine = engine
        self._binder = binder

    def open_listener(self, rule: object, port: int) -> object:
        """Listen on the host's *port*. Raises OSError; nothing stays open then."""
        port_rule = cast("PortRule", rule)
        fd = self._binder.open(port_rule, port)
        try:
            self._engine.add_listener(fd, port_rule.proto, rule)
        except OSError:
            os.close(fd)
            raise
        return fd

    def close_listener(self, handle: object) -> None:
        """Close what `open_listener` returned."""
        self._engine.remove_listener(cast("int", handle))


class NamespaceSide:
    """Listeners on the namespace's loopback, opened by *sockets*; a `contracts.ListenerSide`."""

    def __init__(self, engine: Engine, sockets: NamespaceSockets, *, ip4: bool, ip6: bool) -> None:
        self._engine = engine
        self._sockets = sockets
        self._ip4 = ip4
        self._ip6 = ip6

    def open_listener(self, rule: object, port: int) -> object:
        """Listen on the namespace's *port*, on loopback. Raises OSError; nothing stays open then."""
        proto = cast("PortRule", rule).proto
        fds = self._sockets.open_listener(proto, port, ip4=self._ip4, ip6=self._ip6)
        for i, fd in enumerate(fds):
            try:
                self._engine.add_listener(fd, proto, rule, namespace=True)
            except OSError:
                for added in fds[:i]:
                    self._engine.remove_listener(added)
                for left in fds[i:]:
                    os.close(left)
                raise
        return fds

    def close_listener(self, handle: object) -> None:
        """Close what `open_listener` returned."""
        for fd in cast("list[int]", handle):
            self._engine.remove_listener(fd)


def open_fixed(rules: Sequence[PortRule], side: ListenerSide, spare: int) -> int:
    """Open the ports of fixed *rules* on *side*: all ports of rules that are not optional, *spare* others.

    Returns how many are open. The optional specifications share *spare* equally. Raises ConfigError if a port
    of a rule that is not optional cannot be had, or no port of an optional specification.
    """
    n_fixed = 0
    for rule in rules:
        if rule.auto or rule.optional:
            continue
        for port in range(rule.first, rule.last + 1):
            try:
                side.open_listener(rule, port)
                n_fixed += 1
            except OSError as error:
                raise ConfigError(f"{rule.spec}: cannot listen on port {port} in the namespace:"
                                  f" {error.strerror}") from None
    n_open: dict[str, int] = {}
    groups = optional_groups(rules)
    for (spec, _), group in groups.items():
        n_open[spec] = n_open.get(spec, 0) + _open_some(group, side, spare // len(groups))
    for spec, number in n_open.items():
        if spec and not number:
            raise ConfigError(f"{spec}: none of its ports could be had in the namespace")
    return n_fixed + sum(n_open.values())


def _open_some(rules: Sequence[PortRule], side: ListenerSide, limit: int) -> int:
    """Open ports of one specification, skip those that fail, stop at *limit*; return how many are open."""
    n_open = n_cut = 0
    for rule in rules:
        for port in range(rule.first, rule.last + 1):
            if n_open >= limit:
                n_cut += rule.last + 1 - port
                break
            try:
                side.open_listener(rule, port)
                n_open += 1
            except OSError:
                continue
    if n_cut:
        log.warning(f"{rules[0].spec or 'UDP ports that go with those of -T'}: {n_cut} ports of the namespace"
                    " are not forwarded, as the limit of open files leaves no room for them; raise it"
                    " (ulimit -H -n) or forward fewer ports")
    return n_open


class PortForwarding:
    """The port rules of a run: fixed listeners, and listeners that follow bound ports.

    The engine gets the listeners that are open already; `start` opens the others, without a path. With
    *has_auto* the host's bound ports can be followed from then on. Raises HostError.
    """

    def __init__(self, engine: Engine, ports: HostPorts, *, has_auto: bool = False) -> None:
        self._engine = engine
        self._ports = ports
        for listener in ports.listeners:
            engine.add_listener(listener.fd, listener.proto, listener.rule)
        self._host_sources: list[int] = []
        if has_auto:
            try:
                self._host_sources = open_sources()
            except OSError as error:
                raise HostError(f"cannot see which ports are bound on the host: {error.strerror}") from None
        # Counted by /proc, which `start` does not see.
        self._spare = count_spare_descriptors()

    def start(self, namespace_sources: Sequence[int], namespace_side: ListenerSide | None = None) -> None:
        """Open the namespace's ports, and begin to follow bound ports as soon as the engine runs.

        *namespace_sources* are from `bound_ports.open_sources` in the namespace, empty if no rule is
        `auto`; *namespace_side* is None if no rule is of the namespace's ports. Raises ConfigError.
        """
        outbound, spare = self._ports.outbound, self._spare
        if namespace_side is not None:
            # One port may take two sockets, one for each family.
            spare -= 2 * open_fixed(outbound, namespace_side, spare // 2)
        if not namespace_sources:
            return
        host_side = HostSide(self._engine, self._ports.binder)
        forwarder = AutoForwarder(
            Direction("host", self._ports.inbound, PortScanner(namespace_sources).scan, host_side,
                      spare // 2),
            # A listener of the namespace takes two descriptors, one for each family.
            # The sockets of outbound UDP flows are bound as services are, but are none: leave them out.
            Direction("namespace", outbound, PortScanner(self._host_sources, self._engine.udp_sockets).scan,
                      namespace_side or host_side, spare // 4),
            explain=log.debug if log.is_debug() else None,
            warn=lambda text: log.limited(log.WARNING, "scan", text))
        if forwarder.is_needed:
            self._engine.call_later(0.0, lambda: self._watch(forwarder))

    def _watch(self, forwarder: AutoForwarder) -> None:
        self._engine.call_later(INTERVAL_S, lambda: self._watch(forwarder))
        forwarder.tick()
