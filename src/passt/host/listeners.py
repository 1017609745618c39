"""Listening sockets on the host, through which the host reaches services of the guest (-t, -u).

They are opened before any right is given up: a low port takes rights in the host's namespaces, and a mistake
in the options must end pasta before the command starts.

A rule without an address gets one socket for both families (`::` with IPV6_V6ONLY off, RFC 3493 5.3) if both
are wanted and the kernel has IPv6; else a socket of the one family. UDP sockets report the address to which
each datagram was sent (ip(7) IP_PKTINFO, RFC 3542 6.1), so that answers come from there, and ICMP errors
(ip(7) IP_RECVERR). A UDP socket is bound first and shares its port (SO_REUSEADDR) afterwards: so bind(2)
reports a port that is taken, and the sockets of outbound flows may still have the port; these are connected,
so the kernel prefers them.

Rules that must succeed come first, then optional specifications, each with an equal share of the descriptors
that are left when some are set aside for connections.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
from ipaddress import ip_address

from passt import log
from passt.errors import ConfigError
from passt.host.interface_index import index_seen_by
from passt.host.port_owner import find_owner
from passt.light.values import replace

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from passt.facts.guest import GuestNet
    from passt.facts.port_rule import PortRule

LOW_PORTS = "net.ipv4.ip_unprivileged_port_start"
LOW_PORTS_PATH = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
EPHEMERAL = "net.ipv4.ip_local_port_range"
EPHEMERAL_PATH = "/proc/sys/net/ipv4/ip_local_port_range"
DEFAULT_EPHEMERAL = (49152, 65535)  # RFC 6335 6
NOT_YET = -1
BACKLOG = 4096  # the kernel cuts it to net.core.somaxconn, 4096 by default since Linux 5.4
# Descriptors set aside for connections and the rest of the start: one in RESERVE_SHARE, at least
# MIN_RESERVE, at most half of all.
RESERVE_SHARE = 5
MIN_RESERVE = 64

# linux/in.h, linux/in6.h; Python 3.11 lacks these
IP_PKTINFO = 8
IP_RECVERR = 11
IP_FREEBIND = 15
IPV6_RECVERR = 25
IFNAMSIZ = 16  # linux/if.h
IP_RECVTOS = 13
IPV6_FREEBIND = 78

# Errors of socket(2) and bind(2) if a family is compiled out or switched off.
_NO_FAMILY = frozenset((errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT))
_NO_DESCRIPTOR = frozenset((errno.EMFILE, errno.ENFILE))
_OPTIONS = {socket.IPPROTO_TCP: "-t", socket.IPPROTO_UDP: "-u"}
_NAMES = {socket.IPPROTO_TCP: "TCP", socket.IPPROTO_UDP: "UDP"}
_KINDS = {socket.IPPROTO_TCP: socket.SOCK_STREAM, socket.IPPROTO_UDP: socket.SOCK_DGRAM}


class Listener:
    """A bound socket (TCP: listening), to be handed to the engine with its *rule*.

    *fd* is NOT_YET if the rule's interface has to come first.
    """

    __slots__ = ("fd", "port", "proto", "rule")

    def __init__(self, fd: int, port: int, rule: PortRule) -> None:
        self.fd = fd
        self.port = port
        self.proto = rule.proto
        self.rule = rule


class HostBinder:
    """Opens listening sockets on the host.

    *ip4* and *ip6* are the families of rules without an address. *freebind* allows addresses that the host
    does not have; *ifindex6* is the scope of link-local addresses given without an interface.
    """

    __slots__ = ("freebind", "ifindex6", "ip4", "ip6")

    def __init__(self, *, ip4: bool, ip6: bool, freebind: bool = False, ifindex6: int = 0) -> None:
        self.ip4 = ip4
        self.ip6 = ip6
        self.freebind = freebind
        self.ifindex6 = ifindex6

    def open(self, rule: PortRule, port: int) -> int:
        """Open the socket for one port of *rule*: non-blocking, close-on-exec. Raises OSError."""
        if rule.address is not None:
            family = socket.AF_INET if rule.address.version == 4 else socket.AF_INET6
            if not (self.ip4 if family == socket.AF_INET else self.ip6):
                raise OSError(errno.EAFNOSUPPORT, "this address family is off or has no address on this host")
            return self._bind(rule, port, family, str(rule.address), only6=True)
        if not self.ip6:
            return self._bind(rule, port, socket.AF_INET, "0.0.0.0", only6=False)
        try:
            return self._bind(rule, port, socket.AF_INET6, "::", only6=not self.ip4)
        except OSError as error:
            if not self.ip4 or error.errno not in _NO_FAMILY:
                raise
        return self._bind(rule, port, socket.AF_INET, "0.0.0.0", only6=False)

    def _bind(self, rule: PortRule, port: int, family: int, address: str, *, only6: bool) -> int:
        is_tcp = rule.proto == socket.IPPROTO_TCP
        sock = socket.socket(family, _KINDS[rule.proto] | socket.SOCK_NONBLOCK, rule.proto)
        try:
            set_option = sock.setsockopt
            if family == socket.AF_INET6:
                set_option(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only6)
            if rule.ifname is not None:
                set_option(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, os.fsencode(rule.ifname))
            if self.freebind and rule.address is not None:
                if family == socket.AF_INET:
                    set_option(socket.IPPROTO_IP, IP_FREEBIND, 1)
                else:
                    set_option(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
            if is_tcp:
                set_option(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            else:
                _want_details(sock, family)
            sock.bind(self._socket_address(sock.fileno(), rule, port, family, address))
            if is_tcp:
                sock.listen(BACKLOG)
            else:
                set_option(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        except BaseException:
            sock.close()
            raise
        return sock.detach()

    def _socket_address(self, fd: int, rule: PortRule, port: int, family: int, address: str
                        ) -> tuple[str | int, ...]:
        if family == socket.AF_INET or address == "::":
            return address, port
        if rule.ifname is not None:
            # Asked by this very socket: in the loop no other kind may be opened.
            return address, port, 0, index_seen_by(fd, rule.ifname)
        is_link_local = rule.address is not None and rule.address.is_link_local
        return address, port, 0, self.ifindex6 if is_link_local else 0


def open_listeners(rules: Iterable[PortRule], binder: HostBinder, max_listeners: int, *,
                   file_limit: int | None = None, n_later: int = 0, waits: bool = False) -> list[Listener]:
    """Open a socket for each port of each rule that is not `auto`, *max_listeners* at most.

    With *waits* the interface of a rule that is not optional may come later; a warning says so.
    *n_later* shares of the descriptors are left to specifications whose ports are opened later.
    *file_limit* is the limit of open files, by default the process's own. Raises ConfigError, with
    nothing left open, if a port of a rule that is not optional cannot be had, or no port of an optional
    specification. Logs how many ports of an optional specification are open.
    """
    bound = [rule for rule in rules if not rule.auto]
    listeners: list[Listener] = []
    try:
        for rule in bound:
            if not rule.optional:
                _open_all(rule, binder, listeners, max_listeners, waits=waits)
        groups = optional_groups(bound)
        left = min(count_spare_descriptors(file_limit), max_listeners - len(listeners)) if groups else 0
        for n_done, group in enumerate(groups.values()):
            left -= _open_some(group, binder, listeners, left // (len(groups) + n_later - n_done))
    except BaseException:
        _close_all(listeners)
        raise
    return listeners


def _close_all(listeners: Iterable[Listener]) -> None:
    for listener in listeners:
        if listener.fd != NOT_YET:
            os.close(listener.fd)


class HostPorts:
    """The port rules of a run, with the host ports of fixed rules bound already.

    *inbound* and *outbound* are the rules of the host's ports and the namespace's, without the ephemeral
    ports that a rule leaves out, and with the ports of those that named none. *freebind* is for `HostBinder`,
    *waits* for `open_listeners`; *handed_over* are descriptors and names for rules that name sockets;
    *settled* are the rules that named no port, as they are now. Raises ConfigError like `open_listeners`.
    """

    __slots__ = ("binder", "inbound", "listeners", "outbound", "settled")

    def __init__(self, port_rules: Iterable[PortRule], namespace_rules: Iterable[PortRule], guest: GuestNet,
                 max_listeners: int, *, freebind: bool = False, handed_over: Mapping[int, str] | None = None,
                 waits: bool = False) -> None:
        self.binder = HostBinder(ip4=guest.ip4 is not None, ip6=guest.ip6 is not None,
                                 freebind=freebind,
                                 ifindex6=guest.ip6.template_ifindex if guest.ip6 else 0)
        rules = list(port_rules)
        self.inbound = leave_out_ephemeral(rule for rule in rules if rule.first)
        self.outbound = leave_out_ephemeral(namespace_rules)
        # One port of the namespace may take two sockets, one for each family.
        self.listeners = open_listeners(self.inbound, self.binder, max_listeners,
                                        n_later=2 * len(optional_groups(self.outbound)), waits=waits)
        # Last: else the kernel might choose a port that another rule names.
        try:
            found = [listener for rule in rules if not rule.first
                     for listener in open_unnamed(rule, self.binder, handed_over or {})]
        except BaseException:
            _close_all(self.listeners)
            raise
        self.settled = [listener.rule for listener in found]
        self.inbound += self.settled
        self.listeners += found

    def named(self) -> list[tuple[PortRule, int]]:
        """List rule and port of what has to be open: of rules that may not fail."""
        return [(listener.rule, listener.port) for listener in self.listeners
                if not listener.rule.optional and listener.fd != NOT_YET]


def open_unnamed(rule: PortRule, binder: HostBinder, handed_over: Mapping[int, str]) -> list[Listener]:
    """Open what serves a rule that names no port of the host; each listener has a rule that does.

    Raises ConfigError; nothing stays open then.
    """
    if rule.inherited:
        # Only a service manager's child needs this.
        from passt.host import inherited_sockets

        sockets = inherited_sockets.adopt(rule, handed_over)
    else:
        try:
            sockets = [socket.socket(fileno=binder.open(rule, 0))]
        except OSError as error:
            raise ConfigError(explain_failure(rule, 0, error)) from None
    return [_settle(rule, sock) for sock in sockets]


def _settle(rule: PortRule, sock: socket.socket) -> Listener:
    """Make the listener of *sock*, which serves *rule*, with a rule that names its port."""
    literal, port = sock.getsockname()[:2]
    address, ifname = rule.address, rule.ifname
    if rule.inherited:
        is_any = literal == "::" and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        address = None if is_any else ip_address(literal.partition("%")[0])
        if rule.proto == socket.IPPROTO_UDP:
            _want_details(sock, sock.family)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        device = sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, IFNAMSIZ).partition(b"\0")[0]
        ifname = os.fsdecode(device) or None
    return Listener(sock.detach(), port, replace(rule, first=port, last=port, address=address, ifname=ifname,
                                                 inherited=""))


def optional_groups(rules: Iterable[PortRule]) -> dict[tuple[str, int], list[PortRule]]:
    """Group rules that are optional and not `auto` by specification and protocol."""
    groups: dict[tuple[str, int], list[PortRule]] = {}
    for rule in rules:
        if rule.optional and not rule.auto:
            groups.setdefault((rule.spec, rule.proto), []).append(rule)
    return groups


def _open_all(rule: PortRule, binder: HostBinder, listeners: list[Listener], max_listeners: int, *,
              waits: bool) -> None:
    if len(listeners) + rule.last - rule.first >= max_listeners:
        raise ConfigError(f"{rule.spec}: that makes more than {max_listeners} sockets; forward fewer ports")
    for port in range(rule.first, rule.last + 1):
        try:
            listeners.append(Listener(binder.open(rule, port), port, rule))
        except OSError as error:
            if not (waits and rule.ifname is not None and error.errno == errno.ENODEV):
                raise ConfigError(explain_failure(rule, port, error)) from None
            log.once(log.WARNING, f"{rule.spec} waits",
                     f"{rule.spec or f'{_OPTIONS[rule.proto]} {port}'}: there is no interface {rule.ifname}"
                     " yet: its ports are opened when it comes")
            listeners.append(Listener(NOT_YET, port, rule))


def _open_some(rules: Sequence[PortRule], binder: HostBinder, listeners: list[Listener], limit: int) -> int:
    """Open ports of one specification, skip those that fail, stop at *limit*; return how many are open."""
    n_open = n_failed = n_cut = 0
    failure: tuple[PortRule, int, OSError] | None = None
    for rule in rules:
        for port in range(rule.first, rule.last + 1):
            if n_open >= limit:
                n_cut += rule.last + 1 - port
                break
            try:
                listeners.append(Listener(binder.open(rule, port), port, rule))
                n_open += 1
            except OSError as error:
                if error.errno in _NO_DESCRIPTOR:
                    limit = n_open
                    n_cut += rule.last + 1 - port
                    break
                n_failed += 1
                failure = (rule, port, error)
    spec, name = rules[0].spec, _NAMES[rules[0].proto]
    n_all = n_open + n_failed + n_cut
    if spec and not n_open:
        if failure is None:
            raise ConfigError(f"{spec}: the limit of open files leaves no room; raise it (ulimit -H -n)")
        raise ConfigError(f"{spec}: none of {n_all} {name} ports could be bound; the last one:"
                          f" {explain_failure(*failure)}")
    if n_cut:
        log.warning(f"{spec or 'UDP ports that go with those of -t'}: only {n_open} of {n_all} {name} ports"
                    " are forwarded, as the limit of open files leaves no room for more; raise it"
                    " (ulimit -H -n) or forward fewer ports")
    elif spec:
        log.info(f"{spec}: {n_open} of {n_all} {name} ports are forwarded")
    return n_open


def count_spare_descriptors(file_limit: int | None = None) -> int:
    """Count the descriptors that listeners may still take, by *file_limit* or the process's limit."""
    limit = file_limit or resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    reserve = max(limit // RESERVE_SHARE, min(MIN_RESERVE, limit // 2))
    try:
        n_open = len(os.listdir("/proc/self/fd"))
    except OSError:
        n_open = MIN_RESERVE      # no descriptor is left for this list, or there is no /proc
    return max(limit - reserve - n_open, 0)


def leave_out_ephemeral(rules: Iterable[PortRule], path: str = EPHEMERAL_PATH) -> list[PortRule]:
    """Cut the ports that the kernel gives to clients (ip(7)) out of rules with *skips_ephemeral*."""
    rules = list(rules)
    if not any(rule.skips_ephemeral for rule in rules):
        return rules
    return cut_ports(rules, read_ephemeral(path))


def read_ephemeral(path: str = EPHEMERAL_PATH) -> tuple[int, int]:
    """Return the first and last port that the kernel gives to clients; a usual range if that is unknown."""
    try:
        with open(path, encoding="utf-8") as file:
            first, last = map(int, file.read().split())
    except (OSError, ValueError):
        first, last = DEFAULT_EPHEMERAL
        log.warning(f"cannot read {EPHEMERAL}; {first} to {last} are taken for ephemeral")
    return first, last


def cut_ports(rules: Iterable[PortRule], ephemeral: tuple[int, int]) -> list[PortRule]:
    """Cut the *ephemeral* ports, first and last, out of rules with *skips_ephemeral*."""
    return [left for rule in rules
            for left in (replace(rule, skips_ephemeral=False).without([ephemeral]) if rule.skips_ephemeral
                         else [rule])]


def read_low_ports(path: str = LOW_PORTS_PATH) -> int | None:
    """Return the first port that any user may bind; None if that cannot be read."""
    return _read_number(path)


def explain_failure(rule: PortRule, port: int, error: OSError, low_ports_path: str = LOW_PORTS_PATH) -> str:
    """Word which option failed at which port, why, and what would help."""
    place = f"{_NAMES[rule.proto]} port {port}"
    if rule.address is not None:
        place += f" of {rule.address}"
    if rule.ifname is not None:
        place += f" on {rule.ifname}"
    text = f"{rule.spec or f'{_OPTIONS[rule.proto]} {port}'}: cannot bind {place}: {error.strerror}"
    return text + _find_remedy(rule, port, error, low_ports_path)


def _find_remedy(rule: PortRule, port: int, error: OSError, low_ports_path: str) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        start = _read_number(low_ports_path)
        if start is not None and port < start:
            return (f"; ports below {start} are closed to users ({LOW_PORTS} = {start}): lower this sysctl, "
                    "start with CAP_NET_BIND_SERVICE as an ambient capability, or choose another port")
        if rule.ifname is not None:
            return "; binding to an interface takes Linux 5.7 or newer, or CAP_NET_RAW"
    elif error.errno == errno.EADDRINUSE:
        owner = find_owner(rule.proto, port)
        return f"; {f'another program ({owner})' if owner else 'another program'} has it: choose another port"
    elif error.errno == errno.EADDRNOTAVAIL:
        return "; this host does not have the address (--freebind lets it come later)"
    elif error.errno in _NO_DESCRIPTOR:
        return "; raise the limit of open files (ulimit -H -n) or forward fewer ports"
    return ""


def _want_details(sock: socket.socket, family: int) -> None:
    """Ask for destinations, traffic classes and ICMP errors, of IPv4 on a dual-stack socket too."""
    sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    sock.setsockopt(socket.IPPROTO_IP, IP_RECVTOS, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)


def _read_number(path: str) -> int | None:
    try:
        with open(path, encoding="utf-8") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None
