"""The control socket of a real engine, between fakes, that another thread turns."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

from passt.control.api import Api, Known
from passt.control.server import Server
from passt.facts.guest import GuestFamily, GuestNet
from passt.facts.settings import Settings
from passt.forward.guest_addresses import Observed
from tests.dataplane.engine_bench import Bench
from tests.support.control import UnixConnection

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GUEST = GuestNet(
    ip4=GuestFamily(
        address=IPv4Address("192.0.2.2"), prefix_len=24, gateway=IPv4Address("192.0.2.1"),
        our_address=IPv4Address("192.0.2.1"), map_host_loopback=None),
    ip6=None, ifname="tap0")  # fmt: skip


class LiveControl:
    """An engine that serves the socket *path*/1.sock; its loop turns within `turning`."""

    def __init__(self, path: Path) -> None:
        self.path = str(path / "1.sock")
        self.bench = Bench()
        self.bench.policy.refuses = True
        known = Known(Settings("pasta"), GUEST, Observed(GUEST), [], time.time(), lambda: 7.0)
        self.api = Api(self.bench.engine, known, dict)
        door = socket.socket(socket.AF_UNIX)
        door.bind(self.path)
        door.listen(100)
        door.setblocking(False)
        self.server = Server(self.bench.engine, door.detach(), self.api.serve)
        self.server.is_ours = lambda _client: True
        self.server.start()
        self.connections: list[UnixConnection] = []

    def connect(self) -> UnixConnection:
        connection = UnixConnection(self.path)
        self.connections.append(connection)
        return connection

    @contextlib.contextmanager
    def turning(self) -> Iterator[None]:
        """Turn the loop until the block ends."""
        done = threading.Event()

        def turn() -> None:
            while not done.is_set():
                self.bench.turn()
                done.wait(0.001)

        thread = threading.Thread(target=turn)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def ask(self, method: str, target: str, body: object = None) -> tuple[int, Any]:
        """Ask while the loop turns already."""
        return self.connect().ask(method, target, body)

    def close(self) -> None:
        for connection in self.connections:
            connection.close()
        for client in list(self.server._clients):
            client.close()
        self.server._close_parting()
        self.server._sock.close()
        self.bench.end()
