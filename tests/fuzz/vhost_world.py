"""An engine with a session and link of vhost-user, all real; a hostile front end and a model's hosts."""

from __future__ import annotations

import socket

from passt.dataplane.link import vhost_rings
from passt.facts.contracts import MAX_REGIONS
from passt.vhost_user.backend import PROTOCOL_FEATURES, Backend
from passt.vhost_user.session import Session
from tests.fuzz.engine_world import World
from tests.fuzz.vhost_guest import VhostGuest

MAX_REASON = 300
TURNS_TO_END = 4


class VhostWorld(World):
    """One engine from its start to its end, and any number of sessions on it."""

    def __init__(self, *, mtu: int, max_flows: int, peek_off: bool, bytes_acked: bool,
                 ends_sessions: bool) -> None:
        self.mtu = mtu
        self.ends_sessions = ends_sessions  # else the last one ends with the engine
        self.n_attached = 0
        self.ends: list[str] = []
        super().__init__(stream=False, mtu=mtu, max_flows=max_flows, offloads=0, peek_off=peek_off,
                         bytes_acked=bytes_acked)

    def make_guest(self) -> VhostGuest:
        """Make the guest and its front end."""
        self.vhost_guest = VhostGuest()
        return self.vhost_guest

    def attach(self) -> None:
        """Begin a session, unless there is one."""
        if self.has_link:
            return
        theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.vhost_guest.connect(theirs)
        self.has_link = True
        self.n_attached += 1
        backend = Backend(vhost_rings.OFFERED_FEATURES, vhost_rings.MAX_QUEUE_PAIRS, MAX_REGIONS, self.mtu)
        self.session = Session(self.engine, ours.detach(), backend, self.on_end)

    def on_end(self, reason: str) -> None:
        """The session is over, and has said why."""
        assert reason
        assert len(reason) < MAX_REASON
        assert reason.isprintable(), reason
        self.ends.append(reason)
        super().on_end(reason)

    def set_up(self, features: int, pairs: int, size: int, base: int,
               protocol: int = PROTOCOL_FEATURES) -> None:
        """Have a session with rings that work: a new one, with new memory."""
        guest = self.vhost_guest
        if self.has_link and guest.sender is not None:
            guest.sender.sock.shutdown(socket.SHUT_WR)
            for _ in range(4):
                self.turn()
        self.whims.pranks.clear()     # with the old memory
        guest.renew(features, pairs, size, base)
        self.attach()
        guest.start(protocol)
        for _ in range(2 + pairs):
            self.turn()

    def check_progress(self) -> None:
        """See that all that the guest sent is taken, though nobody kicks but where the standard has it."""
        self.guest_reads = True
        for _ in range(TURNS_TO_END):
            self.turn()
        guest = self.vhost_guest
        if guest.is_running and guest.is_honest:
            left = [len(guest.front.transmit_ring(pair).outstanding) for pair in range(guest.pairs)]
            assert not any(left), f"{left} chains were not taken"

    def close(self) -> None:
        """End all; see that nothing is left, and that each session had one end, but for one that lives on."""
        guest = self.vhost_guest
        self.whims.pranks.clear()
        self.whims.booms = 0
        if guest.is_running and guest.is_honest:
            self.check_progress()
        if self.ends_sessions and guest.sender is not None:
            guest.sender.close()
            for _ in range(TURNS_TO_END):
                self.turn()
            assert not self.has_link
        guest.check_canary()
        assert len(self.ends) == self.n_attached - self.has_link, self.ends
        if self.has_link:
            self.engine.close()
            self.session._stop_watching()
            self.session._connection.close()
            self.session._requests.close()
        del self.session
        guest.disconnect()
        guest.front.close()
        super().close()
