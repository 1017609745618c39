"""What changes port rules while the program runs: the socket of --conf-path, and what --control needs for it.

The socket of --conf-path is made with the caller's rights, served by the loop, and removed with the command.
The file of a program that serves a namespace or a machine outlives it, as the file of passt's own socket
does; the next start replaces it. A command's file is removed when the command ends, by PID 1 of its
namespaces (`namespace.socket_file`): the main process has no path any more.
"""

from __future__ import annotations

import os
import socket

import passt.run.port_tables  # noqa: F401 - later nobody may be able to read it, as root loses its rights
from passt import log
from passt.facts.contracts import HOST_TABLE, NAMESPACE_TABLE
from passt.host import unix_socket
from passt.run.port_helper import start_helper
from passt.steer import messages
from passt.steer.server import PortServer, peer_uid
from passt.steer.tables import ClientTables

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.facts.contracts import PortTables
    from passt.facts.guest import GuestNet
    from passt.facts.settings import ProtocolSettings
    from passt.host.listeners import HostBinder
    from passt.process.background import Background
    from passt.process.identity import Identity
    from passt.steer.server import Loop


class Steering:
    """The socket *path*, if one is asked for, open from now on; `start` serves it. Raises PasstError.

    *helper* binds low ports, with *binder* and as *user*, None if the caller has no right to them.
    """

    def __init__(self, path: str | None, background: Background, binder: HostBinder, user: Identity | None
                 ) -> None:
        self._path = path
        self._door = None
        if path is not None:
            background.expect_file()
            self._door = unix_socket.listen_alone(path, "--conf-path")
            background.has_made(path)
        # A connection of the caller with itself: by its other end we know the caller's number later, in
        # whatever user namespace that will be.
        self._caller = socket.socketpair()
        self._uid = os.geteuid()
        self.helper = start_helper(binder, user)
        # Nobody's before `start`.
        self.is_ours: Callable[[socket.socket], bool | None] = lambda _client: False

    def start(self, loop: Loop, tables: PortTables, protocols: ProtocolSettings, guest: GuestNet
              ) -> ClientTables:
        """Serve *tables* from the next turn of the *loop* on, and return them as clients see them.

        Our user does not change any more.
        """
        owner = peer_uid(self._caller[0])
        for end in self._caller:
            end.close()

        def is_ours(client: socket.socket) -> bool | None:
            # The helper has the caller's numbers of users; to us, root is like any other stranger.
            if self.helper is None:
                return peer_uid(client) == owner
            user = self.user_of(client)
            return None if user is None else user == self._uid

        self.is_ours = is_ours
        shown = ClientTables(tables, _abilities(tables, protocols, guest))
        if self._door is not None:
            PortServer(loop, self._door, shown, is_ours).start()
            log.debug(f"port rules are shown and changed on {self._path}")
        return shown

    def user_of(self, client: socket.socket) -> int | None:
        """Return the user of the host at the other end of *client*; None if that cannot be told."""
        return self.helper.user_of(client) if self.helper is not None else None


def _abilities(tables: PortTables, protocols: ProtocolSettings, guest: GuestNet) -> dict[str, int]:
    """Return what each table can have, as bits of `messages`."""
    host = _families(ip4=guest.ip4 is not None, ip6=guest.ip6 is not None)
    families = {HOST_TABLE: host, NAMESPACE_TABLE: _families(ip4=protocols.ip4, ip6=protocols.ip6)}
    common = ((messages.TCP if protocols.tcp else 0) | (messages.UDP if protocols.udp else 0)
              | messages.INTERFACES)
    return {name: families[name] | common | (messages.FOLLOWS if tables.can_follow(name) else 0)
            for name in tables.names()}


def _families(*, ip4: bool, ip6: bool) -> int:
    return (messages.IP4 if ip4 else 0) | (messages.IP6 if ip6 else 0)
