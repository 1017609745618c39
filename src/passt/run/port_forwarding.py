"""Port rules at work: listeners handed to the engine, and the scan of bound ports for `auto` rules.

`host.listeners` binds the host ports of fixed rules before anything else. This module opens the ports of the
namespace, once the namespace exists, and the ports of `auto` rules, which come and go.
"""

from __future__ import annotations

import os
from socket import IPPROTO_TCP, IPPROTO_UDP

from passt import log
from passt.errors import ConfigError, HostError
from passt.facts.contracts import HOST_TABLE, NAMESPACE_TABLE
from passt.forward.auto import AutoForwarder, Direction
from passt.host.bound_ports import PortScanner, open_sources
from passt.host.interface_index import bound_index
from passt.host.listeners import (
    DEFAULT_EPHEMERAL,
    NOT_YET,
    count_spare_descriptors,
    cut_ports,
    optional_groups,
    read_ephemeral,
    read_low_ports,
)
from passt.light.values import cast

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from passt.dataplane.engine import Engine
    from passt.facts.contracts import ListenerSide, NamespaceSockets, PortTables
    from passt.facts.guest import GuestNet
    from passt.facts.port_rule import PortRule
    from passt.facts.settings import ProtocolSettings
    from passt.host.listeners import HostBinder, HostPorts, Listener
    from passt.run.port_helper import PortHelper
    from passt.run.port_tables import Handles

HOST, NAMESPACE = 0, 1             # the tables, where they stand side by side
_USUAL_LOW_PORTS = 1024
INTERVAL_S = 0.75                 # between scans, so that a listener follows its service within a second


class OnInterface:
    """A listener that is bound to the interface that its rule names, or to the template's for its address.

    *fd* changes when the interface was made anew, or another one has its name or its place; NOT_YET: the
    interface was never there.
    """

    __slots__ = ("fd", "port", "rule")

    def __init__(self, fd: int, rule: PortRule, port: int) -> None:
        self.fd = fd
        self.rule = rule
        self.port = port


class HostSide:
    """Listeners on the host; a `contracts.ListenerSide`. What *binder* may not bind *helper* may, if any."""

    def __init__(self, engine: Engine, binder: HostBinder, helper: PortHelper | None = None) -> None:
        self._engine = engine
        self._binder = binder
        self._helper = helper
        self.n_open = 0           # descriptors, without those that were open before
        self._on_interfaces: set[OnInterface] = set()
        self._indices: dict[str | None, int] = {}   # by which all of these are bound

    def take(self, listener: Listener) -> object:
        """Have the engine serve a listener of the start; return what `close_listener` takes."""
        if listener.fd != NOT_YET:
            self._engine.add_listener(listener.fd, listener.proto, listener.rule)
        return self._hold(listener.fd, listener.rule, listener.port)

    def open_listener(self, rule: object, port: int) -> object:
        """Listen on the host's *port*. Raises OSError; nothing stays open then."""
        port_rule = cast("PortRule", rule)
        fd = self._serve(port_rule, port)
        self.n_open += 1
        return self._hold(fd, port_rule, port)

    def _hold(self, fd: int, rule: PortRule, port: int) -> object:
        if not _is_on_interface(rule):
            return fd
        held = OnInterface(fd, rule, port)
        self._on_interfaces.add(held)
        return held

    def _serve(self, port_rule: PortRule, port: int) -> int:
        """Open a socket and have the engine serve it. Raises OSError; nothing stays open then."""
        try:
            fd = self._binder.open(port_rule, port)
        except PermissionError:
            if self._helper is None:
                raise
            fd = self._helper.open(port_rule, port, self._binder.ifindex6)
        try:
            self._engine.add_listener(fd, port_rule.proto, port_rule)
        except OSError:
            os.close(fd)
            raise
        return fd

    def change_rule(self, handle: object, rule: object) -> None:
        """Have what `open_listener` returned serve *rule*."""
        if isinstance(handle, OnInterface):
            handle.rule = cast("PortRule", rule)
        if _fd_of(handle) != NOT_YET:
            self._engine.change_rule(_fd_of(handle), rule)

    def close_listener(self, handle: object) -> None:
        """Close what `open_listener` returned."""
        if isinstance(handle, OnInterface):
            self._on_interfaces.discard(handle)
        if _fd_of(handle) != NOT_YET:
            self._engine.remove_listener(_fd_of(handle))
            self.n_open -= 1

    def interfaces(self) -> set[str]:
        """Name the interfaces that rules of open listeners name."""
        return {held.rule.ifname for held in self._on_interfaces if held.rule.ifname is not None}

    def listen_anew(self, indices: Mapping[str, int]) -> None:
        """Open the listeners again that are bound to another interface than the one that has its name now.

        *indices* are those of all interfaces that rules name, 0 for one that is not there: its listeners stay
        as they are. Handles stay, and so do connections. A port that cannot be had, maybe as its address is
        not there yet, is told; it keeps its old socket, and the next call tries again.
        """
        if not self._on_interfaces:
            return
        wanted: dict[str | None, int] = dict(indices.items())
        wanted[None] = self._binder.ifindex6
        if wanted == self._indices:
            return
        self._indices = wanted
        for held in list(self._on_interfaces):
            ifindex = wanted.get(held.rule.ifname, 0)
            # Without an answer of the kernel's there is no reason to close anything.
            is_due = held.fd == NOT_YET or bound_index(held.fd) not in {0, ifindex}
            if ifindex and is_due and not self._open_again(held):
                self._indices = {}

    def _open_again(self, held: OnInterface) -> bool:
        """Open a listener for the interface that there is now; False if it cannot be had."""
        rule, is_new = held.rule, held.fd == NOT_YET
        try:
            fd = self._serve(rule, held.port)
        except OSError as error:
            when = "yet" if is_new else "again, as its interface is another one"
            log.limited(log.WARNING, f"anew {rule.spec}",
                        f"{rule.spec or held.port}: cannot listen on port {held.port} of"
                        f" {rule.ifname or rule.address} {when}: {error.strerror}")
            return False
        if is_new:
            self.n_open += 1
            log.limited(log.INFO, f"came {rule.spec}", f"{rule.spec or held.port}: port {held.port} is open,"
                                                       f" as interface {rule.ifname} has come")
        else:
            self._engine.remove_listener(held.fd)
        held.fd = fd
        return True


class NamespaceSide:
    """Listeners on the namespace's loopback, opened by *sockets*; a `contracts.ListenerSide`."""

    def __init__(self, engine: Engine, sockets: NamespaceSockets, *, ip4: bool, ip6: bool) -> None:
        self._engine = engine
        self._sockets = sockets
        self._ip4 = ip4
        self._ip6 = ip6
        self.n_open = 0           # descriptors

    def open_listener(self, rule: object, port: int) -> object:
        """Listen on the namespace's *port*, on loopback. Raises OSError; nothing stays open then."""
        port_rule = cast("PortRule", rule)
        proto, address = port_rule.proto, port_rule.address
        fds = self._sockets.open_listener(
            proto, port, ip4=self._ip4 and (address is None or address.version == 4),
            ip6=self._ip6 and (address is None or address.version == 6))
        for i, fd in enumerate(fds):
            try:
                self._engine.add_listener(fd, proto, rule, namespace=True)
            except OSError:
                for added in fds[:i]:
                    self._engine.remove_listener(added)
                for left in fds[i:]:
                    os.close(left)
                raise
        self.n_open += len(fds)
        return fds

    def change_rule(self, handle: object, rule: object) -> None:
        """Have what `open_listener` returned serve *rule*."""
        for fd in cast("list[int]", handle):
            self._engine.change_rule(fd, rule)

    def close_listener(self, handle: object) -> None:
        """Close what `open_listener` returned."""
        for fd in cast("list[int]", handle):
            self._engine.remove_listener(fd)
            self.n_open -= 1


def has_low_port_of_interface(rules: Iterable[PortRule]) -> bool:
    """Tell whether listeners of *rules* may be opened again, at a port that takes a right."""
    concerned = [rule for rule in rules if _is_on_interface(rule)]
    return bool(concerned) and min(rule.first for rule in concerned) < (read_low_ports() or _USUAL_LOW_PORTS)


def _is_on_interface(rule: PortRule) -> bool:
    address = rule.address
    return rule.ifname is not None or (address is not None and address.version == 6 and address.is_link_local)


def _fd_of(handle: object) -> int:
    return handle.fd if isinstance(handle, OnInterface) else cast("int", handle)


def open_fixed(rules: Sequence[PortRule], side: ListenerSide, spare: int,
               note: Callable[[PortRule, int, object], None] = lambda _rule, _port, _handle: None) -> int:
    """Open the ports of fixed *rules* on *side*: all ports of rules that are not optional, *spare* others.

    Returns how many are open; *note* is called with the handle of each. The optional specifications share
    *spare* equally. Raises ConfigError if a port of a rule that is not optional cannot be had, or no port of
    an optional specification.
    """
    n_fixed = 0
    for rule in rules:
        if rule.auto or rule.optional:
            continue
        for port in range(rule.first, rule.last + 1):
            try:
                note(rule, port, side.open_listener(rule, port))
                n_fixed += 1
            except OSError as error:
                raise ConfigError(f"{rule.spec}: cannot listen on port {port} in the namespace:"
                                  f" {error.strerror}") from None
    n_open: dict[str, int] = {}
    groups = optional_groups(rules)
    for (spec, _), group in groups.items():
        n_open[spec] = n_open.get(spec, 0) + _open_some(group, side, spare // len(groups), note)
    for spec, number in n_open.items():
        if spec and not number:
            raise ConfigError(f"{spec}: none of its ports could be had in the namespace")
    return n_fixed + sum(n_open.values())


def _open_some(rules: Sequence[PortRule], side: ListenerSide, limit: int,
               note: Callable[[PortRule, int, object], None]) -> int:
    """Open ports of one specification, skip those that fail, stop at *limit*; return how many are open."""
    n_open = n_cut = 0
    for rule in rules:
        for port in range(rule.first, rule.last + 1):
            if n_open >= limit:
                n_cut += rule.last + 1 - port
                break
            try:
                note(rule, port, side.open_listener(rule, port))
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
    *follows* the host's bound ports can be followed from then on. With *changes* the rules can be changed
    when `start` has been called: `live_ports`; *helper* is for `HostSide`. *own_sockets* are bound on the
    host, and are no services. Raises HostError.
    """

    def __init__(self, engine: Engine, ports: HostPorts, *, follows: bool = False,
                 changes: bool = False, helper: PortHelper | None = None,
                 own_sockets: Sequence[int] = ()) -> None:
        self._engine = engine
        self._own_sockets = own_sockets
        self._ports = ports
        self._host_side = HostSide(engine, ports.binder, helper)
        self._namespace_side: NamespaceSide | None = None
        # Handles by rule and port, if they will be needed.
        self._handles: tuple[Handles, Handles] | None = ({}, {}) if changes else None
        for listener in ports.listeners:
            self._note(HOST, listener.rule, listener.port, self._host_side.take(listener))
        self._host_sources: list[int] = []
        if follows:
            try:
                self._host_sources = open_sources()
            except OSError as error:
                raise HostError(f"cannot see which ports are bound on the host: {error.strerror}") from None
        self._low_ports = None
        self._ephemeral = DEFAULT_EPHEMERAL
        if changes:
            import passt.run.port_tables  # noqa: F401 - no file can be read when it is needed

            self._low_ports = read_low_ports()
            self._ephemeral = read_ephemeral()
        self._forwarder: AutoForwarder | None = None
        self._directions: tuple[Direction, Direction] | None = None
        self._is_watching = False
        # Counted by /proc, which `start` does not see.
        self._spare = count_spare_descriptors()

    def _note(self, table: int, rule: PortRule, port: int, handle: object) -> None:
        if self._handles is not None:
            self._handles[table].setdefault(rule, {})[port] = handle

    def start(self, namespace_sources: Sequence[int], namespace_side: NamespaceSide | None = None) -> None:
        """Open the namespace's ports, and begin to follow bound ports as soon as the engine runs.

        *namespace_sources* are from `bound_ports.open_sources` in the namespace, empty if no rule is
        `auto`; *namespace_side* is None if no rule is of the namespace's ports. Raises ConfigError.
        """
        outbound, spare = self._ports.outbound, self._spare
        self._namespace_side = namespace_side
        if namespace_side is not None:
            # One port may take two sockets, one for each family.
            spare -= 2 * open_fixed(outbound, namespace_side, spare // 2,
                                    lambda rule, port, handle: self._note(NAMESPACE, rule, port, handle))
        if not namespace_sources:
            return
        self._directions = (
            Direction("host", self._ports.inbound, PortScanner(namespace_sources).scan, self._host_side,
                      spare // 2, lambda: self._room() >= 1),
            # A listener of the namespace takes two descriptors, one for each family.
            # The sockets of outbound UDP flows are bound as services are, but are none: leave them out.
            Direction("namespace", outbound, PortScanner(
                self._host_sources, self._engine.udp_sockets, self._own_sockets).scan,
                      namespace_side or self._host_side, spare // 4, lambda: self._room() >= 2))
        self._forwarder = AutoForwarder(
            *self._directions,
            explain=log.debug if log.is_debug() or self._handles is not None else None,
            warn=lambda text: log.limited(log.WARNING, "scan", text))
        self._follow()

    def live_ports(self, protocols: ProtocolSettings, *, loopback_to_loopback: bool) -> PortTables:
        """Return the tables of rules, which can be changed: for what *protocols* has switched on.

        *loopback_to_loopback* is as for `LivePorts`.
        """
        from passt.run.port_tables import LivePorts, LiveTable, refuse_disabled, refuse_inside

        assert self._handles is not None  # noqa: S101 - who calls this has said so before
        binder = self._ports.binder
        directions = self._directions or (None, None)
        numbers = {number for number, is_on in ((IPPROTO_TCP, protocols.tcp), (IPPROTO_UDP, protocols.udp))
                   if is_on}
        refuse = refuse_disabled({version for version, is_on in ((4, binder.ip4), (6, binder.ip6)) if is_on},
                                 numbers)
        tables = [LiveTable(HOST_TABLE, self._ports.inbound, self._host_side, self._handles[HOST],
                            directions[HOST], refuse)]
        if self._namespace_side is not None:
            inside = refuse_disabled({version for version, is_on in ((4, protocols.ip4), (6, protocols.ip6))
                                      if is_on}, numbers)
            tables.append(LiveTable(NAMESPACE_TABLE, self._ports.outbound, self._namespace_side,
                                    self._handles[NAMESPACE], directions[NAMESPACE], refuse_inside(inside)))
        return LivePorts(tables, self._room, self._low_ports, self._follow,
                         loopback_to_loopback=loopback_to_loopback)

    def _room(self) -> int:
        """Count the descriptors that listeners of optional and `auto` rules may still take."""
        sides = (self._host_side, self._namespace_side)
        return self._spare - sum(side.n_open for side in sides if side is not None)

    def leave_out_ephemeral(self, rules: Iterable[PortRule]) -> list[PortRule]:
        """Do as `host.listeners.leave_out_ephemeral` with the range of the start, as no file can be read."""
        return cut_ports(rules, self._ephemeral)

    def renew(self, guest: GuestNet) -> None:
        """Take it that *guest* is the guest's network now."""
        if guest.ip6 is not None:
            self._ports.binder.ifindex6 = guest.ip6.template_ifindex

    def listened_interfaces(self) -> set[str]:
        """Name the interfaces of the host that rules of open listeners name."""
        return self._host_side.interfaces()

    def listen_anew(self, indices: Mapping[str, int]) -> None:
        """Open the listeners of interfaces of the host again, as `HostSide.listen_anew`."""
        self._host_side.listen_anew(indices)

    def _follow(self) -> None:
        """Begin to follow bound ports if a rule wants that and it has not begun yet."""
        if self._forwarder is not None and self._forwarder.is_needed and not self._is_watching:
            self._is_watching = True
            self._engine.call_later(0.0, self._watch)

    def _watch(self) -> None:
        if self._forwarder is None or not self._forwarder.is_needed:
            self._is_watching = False
            return
        self._engine.call_later(INTERVAL_S, self._watch)
        self._forwarder.tick()
