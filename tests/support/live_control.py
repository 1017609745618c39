"""The control socket of a real engine, between fakes, that another thread turns."""

from __future__ import annotations

import time
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

from passt.control.api import Api, Known
from passt.control.server import Server
from passt.facts.guest import GuestFamily, GuestNet
from passt.facts.settings import Settings
from passt.forward.guest_addresses import Observed
from tests.dataplane.engine_bench import Bench
from tests.support.control import Served

if TYPE_CHECKING:
    from pathlib import Path

GUEST = GuestNet(
    ip4=GuestFamily(
        address=IPv4Address("192.0.2.2"), prefix_len=24, gateway=IPv4Address("192.0.2.1"),
        our_address=IPv4Address("192.0.2.1"), map_host_loopback=None),
    ip6=None, ifname="tap0")  # fmt: skip


class LiveControl(Served):
    """An engine that serves the socket *path*/1.sock; its loop turns within `turning`."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path / "1.sock"))
        self.bench = Bench()
        self.bench.policy.refuses = True
        known = Known(Settings("pasta"), GUEST, Observed(GUEST), [], time.time(), lambda: 7.0)
        self.api = Api(self.bench.engine, known, dict)
        self.server = Server(self.bench.engine, self.open_door(100), self.api.serve)
        self.server.is_ours = lambda _client: True
        self.server.start()

    def turn(self) -> bool:
        self.bench.turn()
        return False

    def ask(self, method: str, target: str, body: object = None) -> tuple[int, Any]:
        """Ask while the loop turns already."""
        return self.connect().ask(method, target, body)

    def close(self) -> None:
        self.close_connections()
        self.close_server()
        self.bench.end()
