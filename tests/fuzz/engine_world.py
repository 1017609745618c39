"""A real engine between a hostile guest, hosts of a model and whims of Python; what is left when it is over.

The link is real too: a pair of datagram sockets stands for the tap device, a pair of stream sockets for the
connection of a machine. Sockets, clock and events of flows are of `model_host`. `World.close` raises
AssertionError for whatever the engine did not give back.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import struct
import sys
from typing import TYPE_CHECKING

from passt.dataplane.engine import Engine
from passt.facts.contracts import InboundTarget, Target
from tests.dataplane.probes.model_host import ModelNamespace, ModelReactor, ModelSocket, ModelSockets
from tests.fuzz.guest import Guest
from tests.fuzz.harness import RESPONDER
from tests.fuzz.packets import GUESTS, MACS, REMOTES
from tests.support.frames import OUR_MAC

if TYPE_CHECKING:
    from collections.abc import Callable

OFFLOADS = (0, 1, 1 | 2 | 4, 1 | 2 | 4 | 0x20 | 0x40)  # TUN_F_CSUM, _TSO4, _TSO6, _USO4, _USO6
ALL_TURN_OFFLOADS = 3
LISTEN = (  # family, kind, address, in the namespace
    (socket.AF_INET, socket.SOCK_STREAM, "", False),
    (socket.AF_INET6, socket.SOCK_STREAM, "", False),
    (socket.AF_INET, socket.SOCK_DGRAM, "", False),
    (socket.AF_INET6, socket.SOCK_DGRAM, "", False),
    (socket.AF_INET, socket.SOCK_DGRAM, "127.0.0.1", False),
    (socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1", True),
    (socket.AF_INET, socket.SOCK_DGRAM, "127.0.0.1", True),
)
GAUGES = ("flows_tcp", "flows_udp", "flows_ping", "flows_splice_tcp", "flows_splice_udp", "sockets_ready")
# Timers that are no flow's: Python's, fragments', and that of listeners which lack descriptors.
ENGINE_TIMERS = 3
MAX_REPLIES = 4
LOOPBACK4, LOOPBACK6 = b"\x7f\0\0\1", bytes(15) + b"\1"


def make_listeners() -> list[tuple[socket.socket, bool]]:
    """Bind one socket of each sort, for all engines of this process: each takes a copy of the descriptor."""
    made = []
    for family, kind, address, inside in LISTEN:
        protocol = socket.IPPROTO_TCP if kind == socket.SOCK_STREAM else socket.IPPROTO_UDP
        sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
        sock.bind((address, 0))
        made.append((sock, inside))
        atexit.register(sock.close)
    return made


class Boom(Exception):  # noqa: N818 - that it is thrown on purpose is its meaning
    """What a callback raises when a step says so."""


class Whims:
    """Policy, responder and events in one; steps set what it answers."""

    def __init__(self) -> None:
        self.mood = 0
        self.booms = 0
        self.pranks: list[Callable[[], None]] = []

    def check(self) -> None:
        """Do what a step wants to happen in the middle of a turn; raise if it wants that."""
        if self.pranks:
            self.pranks.pop(0)()
        if self.booms:
            self.booms -= 1
            raise Boom

    def outbound(self, proto: int, source: bytes, source_port: int, destination: bytes,  # noqa: ARG002
                 destination_port: int) -> Target | None:
        """Send a flow where the guest wants, or elsewhere."""
        self.check()
        same, other = (LOOPBACK4, LOOPBACK6) if len(destination) == 4 else (LOOPBACK6, LOOPBACK4)
        return (
            Target(destination, destination_port),
            None,
            Target(same, destination_port),
            Target(other, destination_port),
            Target(destination, destination_port, 7, same),
            Target(destination, destination_port, 0, None, b"eth0"),
            Target(REMOTES[4 if len(destination) == 4 else 6][1], 80),
            Target(destination, 80, held=True),
        )[self.mood & 7]

    def judge_opening(self, _source: bytes, _source_port: int, _destination: bytes, _destination_port: int,
                      data: bytes, end: str) -> bool | None:
        """Let pass, refuse or want more, by how many bytes there are."""
        self.check()
        return False if end else (None, True, False)[len(data) % 3]

    def inbound(self, proto: int, rule: object, peer: bytes, peer_port: int,  # noqa: ARG002
                local: bytes, local_port: int) -> InboundTarget | Target | None:
        """Show a flow to the guest, or have it bypass the link."""
        self.check()
        match self.mood >> 3 & 7:
            case 1:
                return None
            case 2 | 3:
                return Target(local, local_port, lasting=self.mood >> 3 & 1 != 0)
            case 4:
                return Target(LOOPBACK6, local_port, 0, LOOPBACK6)
            case 5:
                return InboundTarget(GUESTS[6][1], peer_port, GUESTS[6][0], local_port)
        family = 6 if len(peer) == 16 else 4
        if peer in {LOOPBACK4, LOOPBACK6} and not self.mood & 0x40:
            peer = REMOTES[family][2]
        return InboundTarget(peer or bytes(4), peer_port, GUESTS[family][0], local_port)

    def leads_to(self, *_: object) -> bool:
        """Tell whether the listener has the guest's port, as the mood is."""
        self.check()
        return self.mood & 0x40 == 0

    def outbound_bypass(self, proto: int, rule: object, peer: bytes, peer_port: int,  # noqa: ARG002
                        local: bytes, local_port: int) -> Target | None:
        """Connect a client in the namespace to the host."""
        self.check()
        if self.mood & 7 == 1:
            return None
        return Target(local or bytes(4), local_port, lasting=self.mood & 1 == 0)

    def guest_visible_source(self, address: bytes) -> bytes | None:
        """Show the address as it is, or none."""
        self.check()
        return None if self.mood & 0x80 else address

    def respond(self, frame: bytes) -> list[bytes]:
        """Answer as the program does."""
        self.check()
        return RESPONDER.respond(frame)[:MAX_REPLIES]

    def on_guest_address(self, _: bytes) -> None:
        """Take the news."""
        self.check()

    def on_guest_mac(self, _: bytes) -> None:
        """Take the news."""
        self.check()

    def on_guest_silent(self) -> None:
        """Take the news."""
        self.check()

    def on_ping_forbidden(self) -> None:
        """Take the news."""
        self.check()


class World:
    """One engine from its start to its end."""

    listeners: list[tuple[socket.socket, bool]] | None = None

    def __init__(self, *, stream: bool, mtu: int, max_flows: int, offloads: int, peek_off: bool,
                 bytes_acked: bool) -> None:
        cls = type(self)
        if cls.listeners is None:
            cls.listeners = make_listeners()
        self.fds_before = set(os.listdir("/proc/self/fd"))
        self.unraisable: list[object] = []
        self.old_hook, sys.unraisablehook = sys.unraisablehook, self.unraisable.append
        self.whims = self.make_whims()
        self.reactor = ModelReactor(max_flows + 3)
        self.sockets = ModelSockets(self.reactor)
        self.sockets.configure(peek_off=peek_off, bytes_acked=bytes_acked)
        self.engine = Engine(self.whims, self.whims, self.whims, our_mac=OUR_MAC, mtu=mtu,
                             max_flows=max_flows, secret=bytes(range(16)), our_ip4=b"\xc0\0\2\1",
                             sockets=self.sockets)
        self.engine.attach_namespace(ModelNamespace(self.sockets))
        self.listening: list[int] = []
        self.stream = stream
        self.offloads = OFFLOADS[offloads]
        self.has_link = False
        self.guest_reads = True
        self.guest = self.make_guest()
        self.attach()

    def make_whims(self) -> Whims:
        """Make what decides."""
        return Whims()

    def make_guest(self) -> Guest:
        """Make the other end of the link."""
        return Guest(stream=self.stream)

    def attach(self) -> None:
        """Connect the guest, unless it is."""
        if self.has_link:
            return
        kind = socket.SOCK_STREAM if self.stream else socket.SOCK_DGRAM
        guest, ours = socket.socketpair(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK)
        self.guest.connect(guest)
        self.has_link = True
        if self.stream:
            self.engine.attach_stream(ours.detach(), self.on_end)
        else:
            self.engine.attach_tap(ours.detach(), MACS[0], self.offloads)

    def on_end(self, _: str) -> None:
        """The link has ended."""
        self.has_link = False
        self.guest.disconnect()

    def turn(self) -> None:
        """Run the loop once, and have the guest read if it does."""
        self.engine.call_later(0, self.engine.stop)
        with contextlib.suppress(Boom):
            self.engine.run()
        if self.guest_reads:
            self.guest.read()

    def wait(self, duration_ns: int) -> None:
        """Let time pass."""
        self.reactor.now += duration_ns
        self.turn()

    def listen(self, which: int) -> None:
        """Add a listener."""
        assert self.listeners is not None
        sock, inside = self.listeners[which % len(self.listeners)]
        fd = os.dup(sock.fileno())
        self.sockets.adopt(fd, sock.family, sock.type & 15, sock.proto)
        try:
            self.engine.add_listener(fd, sock.proto, which, inside)
        except OSError:           # it could not be watched, and is ours still
            self.sockets.drop(fd)
            os.close(fd)
            return
        self.listening.append(fd)

    def listener_port(self, which: int) -> int:
        """The port of a listener, whether it was added or not."""
        assert self.listeners is not None
        port: int = self.listeners[which % len(self.listeners)][0].getsockname()[1]
        return port

    def unlisten(self, which: int) -> None:
        """Remove a listener, if there is one."""
        if self.listening:
            fd = self.listening.pop(which % len(self.listening))
            self.engine.remove_listener(fd)

    def pick_socket(self, which: int, wanted: Callable[[ModelSocket], bool]) -> ModelSocket | None:
        """Choose one of the open sockets that are *wanted*; None if there is none."""
        found = [sock for sock in self.sockets.by_fd.values() if wanted(sock)]
        return found[which % len(found)] if found else None

    def look(self) -> None:
        """Ask all that Python may ask of the engine."""
        counters = self.engine.counters()
        assert all(value >= 0 for value in counters.values())
        flows = list(self.engine.flows())
        assert len(flows) <= sum(counters[name] for name in GAUGES[:5])
        self.engine.udp_sockets()
        self.engine.is_guest_known()

    def close(self) -> None:
        """End the engine and see that nothing is left: flows, sockets, timers, descriptors, errors."""
        self.engine.close()
        counters = self.engine.counters()
        left = {name: counters[name] for name in GAUGES if counters[name]}
        assert not left, left
        assert self.reactor.n_timers <= ENGINE_TIMERS, self.reactor.n_timers
        for fd in self.listening:
            self.sockets.drop(fd)
        assert not self.sockets.by_fd, f"sockets left: {list(self.sockets.by_fd)}"
        assert not self.sockets.mistakes, self.sockets.mistakes
        self.reactor.forget()
        self.guest.disconnect()
        del self.engine, self.sockets, self.reactor
        sys.unraisablehook = self.old_hook
        assert not self.unraisable, self.unraisable
        # No cycle holds the engine: all is given back without a garbage collection.
        fds = set(os.listdir("/proc/self/fd"))
        assert len(fds) <= len(self.fds_before), [describe(fd) for fd in fds - self.fds_before]


def describe(fd: str) -> str:
    """Say what a descriptor is."""
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/self/fd/{fd}")
    return fd


def socket_address(address: bytes, port: int) -> bytes:
    """Give a `struct sockaddr_in` or `sockaddr_in6`."""
    if len(address) == 4:
        return struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", port, address)
    return struct.pack("=H", socket.AF_INET6) + struct.pack("!HI16s4x", port, 0, address)


def control_item(level: int, kind: int, data: bytes) -> bytes:
    """Give an item of control data, cmsg(3)."""
    return struct.pack("@Nii", 16 + len(data), level, kind) + data + bytes(-len(data) % 8)
