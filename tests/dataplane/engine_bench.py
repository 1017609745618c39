"""An engine between fakes and a pair of datagram sockets that stands for the tap device."""

import socket
import time
from collections.abc import Callable

from passt.dataplane.engine import Engine
from tests.support.fakes import Events, Policy, Responder
from tests.support.frames import GUEST_MAC, OUR_MAC

VNET_HLEN = 10


class Bench:
    """An engine with fakes around it and the kernel's end of its pretended tap."""

    def __init__(self, *, offloads: int = 0) -> None:
        self.policy, self.responder, self.events = Policy(), Responder(), Events()
        self.engine = Engine(
            self.policy, self.responder, self.events, our_mac=OUR_MAC, mtu=1500, max_flows=32
        )
        self.attach(offloads)

    def attach(self, offloads: int) -> None:
        """Give the engine its link."""
        self.kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.kernel.setblocking(False)
        ours.setblocking(False)
        self.tap = ours.detach()
        self.engine.attach_tap(self.tap, GUEST_MAC, offloads)

    def end(self) -> None:
        self.engine.close()
        self.kernel.close()

    def turn(self) -> None:
        """Run the loop for one turn: what is ready is handled before the timer that stops it."""
        self.engine.call_later(0, self.engine.stop)
        self.engine.run()

    def give(self, *frames: bytes) -> None:
        for frame in frames:
            self.kernel.send(bytes(VNET_HLEN) + frame)

    def frames(self) -> list[bytes]:
        found = []
        while True:
            try:
                found.append(self.kernel.recv(70000)[VNET_HLEN:])
            except BlockingIOError:
                return found

    def until(self, done: Callable[[], bool]) -> None:
        """Run turns until *done*."""
        deadline = time.monotonic() + 60
        while not done():
            assert time.monotonic() < deadline
            self.turn()
