"""Sockets on which the host side reaches services of the guest (-t, -u).

Opened before anything else is given up: a low port needs rights in the host's namespaces, and a
mistake in the options must end pasta before the command starts.

A rule without an address gets one socket for both families (`::` with IPV6_V6ONLY off, RFC 3493,
section 5.3) where both are wanted and the kernel has IPv6; else one of the family that there is.
UDP sockets tell for each datagram to which address it was sent (ip(7) IP_PKTINFO, RFC 3542, section
6.1), so that answers come from there, and report ICMP errors (ip(7) IP_RECVERR).
"""

from __future__ import annotations

import errno
import os
import socket

from passt.errors import ConfigError

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable

    from passt.model import PortRule

LOW_PORTS = "net.ipv4.ip_unprivileged_port_start"
LOW_PORTS_PATH = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
BACKLOG = 4096  # the kernel cuts it to net.core.somaxconn, 4096 by default since Linux 5.4

# linux/in.h, linux/in6.h; Python 3.11 lacks these
IP_PKTINFO = 8
IP_RECVERR = 11
IPV6_RECVERR = 25
IP_RECVTOS = 13

# What socket and bind say where a family is compiled out or switched off.
_NO_FAMILY = frozenset((errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT))
_OPTIONS = {socket.IPPROTO_TCP: "-t", socket.IPPROTO_UDP: "-u"}
_NAMES = {socket.IPPROTO_TCP: "TCP", socket.IPPROTO_UDP: "UDP"}


class Listener:
    """A bound socket (TCP: listening), to be handed to the engine with its *rule*."""

    __slots__ = ("fd", "port", "proto", "rule")

    def __init__(self, fd: int, port: int, rule: PortRule) -> None:
        self.fd = fd
        self.port = port
        self.proto = rule.proto
        self.rule = rule


def open_listeners(rules: Iterable[PortRule], *, ip4: bool, ip6: bool) -> list[Listener]:
    """Open a socket for each port of each rule, for the families wanted.

    Non-blocking and close-on-exec. Raises ConfigError if one cannot be had, unless its rule is
    optional; nothing stays open then.
    """
    listeners: list[Listener] = []
    try:
        for rule in rules:
            for port in range(rule.first, rule.last + 1):
                try:
                    listeners.append(Listener(_open(rule, port, ip4=ip4, ip6=ip6).detach(), port, rule))
                except OSError as error:
                    if not rule.optional:
                        raise ConfigError(explain_failure(rule, port, error)) from None
    except BaseException:
        for listener in listeners:
            os.close(listener.fd)
        raise
    return listeners


def explain_failure(rule: PortRule, port: int, error: OSError, low_ports_path: str = LOW_PORTS_PATH) -> str:
    """Say which option failed at which port and why; for low ports with the setting and its value."""
    place = f"{_NAMES[rule.proto]} port {port}"
    if rule.address is not None:
        place += f" of {rule.address}"
    if rule.ifname is not None:
        place += f" on {rule.ifname}"
    text = f"{_OPTIONS[rule.proto]} {port}: cannot bind {place}: {error.strerror}"
    if error.errno in (errno.EACCES, errno.EPERM):
        start = _read_number(low_ports_path)
        if start is not None and port < start:
            text += (f"; ports below {start} are closed to users ({LOW_PORTS} = {start}): lower this sysctl "
                     "or choose another port")
    elif error.errno == errno.EADDRINUSE:
        text += "; another program has it: choose another port"
    elif error.errno == errno.EMFILE:
        text += "; raise the limit of open files (ulimit -H -n) or forward fewer ports"
    return text


def _open(rule: PortRule, port: int, *, ip4: bool, ip6: bool) -> socket.socket:
    if rule.address is not None:
        family = socket.AF_INET if rule.address.version == 4 else socket.AF_INET6
        if not (ip4 if family == socket.AF_INET else ip6):
            raise OSError(errno.EAFNOSUPPORT, "this address family is switched off by -4 or -6")
        return _bind(rule, port, family, str(rule.address), only6=True)
    if not ip6:
        return _bind(rule, port, socket.AF_INET, "0.0.0.0", only6=False)
    try:
        return _bind(rule, port, socket.AF_INET6, "::", only6=not ip4)
    except OSError as error:
        if not ip4 or error.errno not in _NO_FAMILY:
            raise
    return _bind(rule, port, socket.AF_INET, "0.0.0.0", only6=False)


def _bind(rule: PortRule, port: int, family: int, address: str, *, only6: bool) -> socket.socket:
    is_tcp = rule.proto == socket.IPPROTO_TCP
    sock = socket.socket(family, socket.SOCK_STREAM if is_tcp else socket.SOCK_DGRAM, rule.proto)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only6)
        if rule.ifname is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, rule.ifname.encode())
        if is_tcp:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            _want_details(sock, family)
        sock.bind(_socket_address(rule, port, family, address))
        if is_tcp:
            sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _want_details(sock: socket.socket, family: int) -> None:
    """Ask for destinations, traffic classes and ICMP errors; a dual-stack socket answers for IPv4 too."""
    sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    sock.setsockopt(socket.IPPROTO_IP, IP_RECVTOS, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)


def _socket_address(rule: PortRule, port: int, family: int, address: str) -> tuple[str | int, ...]:
    if family == socket.AF_INET:
        return address, port
    scope_id = socket.if_nametoindex(rule.ifname) if rule.ifname and address != "::" else 0
    return address, port, 0, scope_id


def _read_number(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None
