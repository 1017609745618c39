"""An engine whose machine sends any bytes, and what it must make of them, said in Python."""

from __future__ import annotations

import socket
import struct

from passt.dataplane.engine import Engine

SHORTEST, LONGEST = 14, 65589
VHOST_REQUESTS = (1 << 24, 3 << 24)  # numbers of a front end's first requests, as a length
HEAD_LEN = 256
GONE = "it closed the connection"


class Nobody:
    """Decides and answers: nothing goes anywhere."""

    def outbound(self, *_: object) -> None:
        """Refuse."""

    judge_opening = inbound = outbound_bypass = guest_visible_source = outbound
    on_guest_address = on_guest_mac = on_guest_silent = on_ping_forbidden = outbound

    def leads_to(self, *_: object) -> bool:
        """Lead nowhere."""
        return False

    def respond(self, _: bytes) -> list[bytes]:
        """Say nothing."""
        return []


class Machine:
    """Any number of clients, one after the other, on one engine."""

    def __init__(self) -> None:
        self.engine = Engine(Nobody(), Nobody(), Nobody(), our_mac=bytes(5) + b"\1", mtu=1500, max_flows=64)
        self.engine.set_trace(None, self.note)
        self.seen: list[tuple[bytes, int]] = []
        self.ends: list[str] = []

    def note(self, head: bytes, n: int, to_guest: bool, *_: int) -> None:
        """Keep what the engine took for a frame of the guest's."""
        if not to_guest:
            self.seen.append((head, n))

    def turn(self) -> None:
        """Run the loop once."""
        self.engine.call_later(0, self.engine.stop)
        self.engine.run()

    def feed(self, parts: list[bytes]) -> tuple[list[tuple[bytes, int]], str]:
        """Send *parts*, a turn after each; returns the frames seen and how it ended."""
        self.seen, self.ends = [], []
        guest, ours = socket.socketpair()
        self.engine.attach_stream(ours.detach(), self.ends.append)
        with guest:
            for part in parts:
                if not self.ends:
                    guest.sendall(part)
                    self.turn()
            guest.shutdown(socket.SHUT_WR)
            while not self.ends:
                self.turn()
        return self.seen, self.ends[0]


def split(data: bytes) -> tuple[list[tuple[bytes, int]], str]:
    """Say which frames a stream of *data* has, and how it ends."""
    frames: list[tuple[bytes, int]] = []
    at = 0
    while at + 4 <= len(data):
        (n,) = struct.unpack_from("!I", data, at)
        if not SHORTEST <= n <= LONGEST:
            if n in VHOST_REQUESTS:
                return frames, "it speaks vhost-user, which this passt does with the option --vhost-user"
            return frames, f"it sent a frame of {n} bytes, where {SHORTEST} to {LONGEST} are possible"
        if at + 4 + n > len(data):
            break
        frames.append((data[at + 4 : at + 4 + min(n, HEAD_LEN)], n))
        at += 4 + n
    return frames, GONE
