"""Sockets to name servers: bound as the guest's flows are, each with a port that the kernel draws."""

from __future__ import annotations

import socket
from ipaddress import IPv6Address

from passt.light.values import NamedTuple
from passt.wire.dns.message import PORT_DNS

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Mapping

    from passt.facts.address import IPAddress

_ANY_PORT = 0


class Way(NamedTuple):
    """How sockets of one family leave the host: options --outbound, --outbound-if4 and -if6."""

    source: str | None
    ifname: str | None


class Outlet:
    """Opens sockets to *port* of a server; *ways* are those of the families, by IP version."""

    def __init__(self, ways: Mapping[int, Way], port: int = PORT_DNS) -> None:
        self._ways = ways
        self._port = port
        self.ifindex = 0               # of the link of a link-local server that names none

    def open(self, server: IPAddress, kind: int) -> socket.socket:
        """Open a socket of *kind* that is connected to *server*, or, a stream, about to be. Raises OSError.

        A connected socket gets what comes from that address and port only (udp(7)).
        """
        is_ip6 = isinstance(server, IPv6Address)
        sock = socket.socket(socket.AF_INET6 if is_ip6 else socket.AF_INET, kind | socket.SOCK_NONBLOCK)
        try:
            scope_id = self._bind(sock, server)
            literal = str(server).partition("%")[0]
            address = (literal, self._port, 0, scope_id) if is_ip6 else (literal, self._port)
            try:
                sock.connect(address)
            except BlockingIOError:
                pass               # a stream: it will be writable
        except BaseException:
            sock.close()
            raise
        return sock

    def _bind(self, sock: socket.socket, server: IPAddress) -> int:
        """Bind *sock* as the way to *server* asks for; return the index of the server's link.

        As for flows (`forward.policy`): a socket bound to an interface or to another address does not reach
        the loopback address, nor a link-local one on another link.
        """
        way = self._ways.get(server.version)
        given = int(server.scope_id or 0) if isinstance(server, IPv6Address) else 0
        if server.is_loopback or way is None:
            return given
        own = 0 if way.ifname else self.ifindex
        if given and given != own:
            return given
        if way.ifname is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, way.ifname.encode() + b"\0")
        if way.source is not None:
            sock.bind((way.source, _ANY_PORT, 0, own) if server.version == 6 else (way.source, _ANY_PORT))
        return own if server.is_link_local and server.version == 6 else 0
