"""Steps of what surrounds a fuzzed engine: its sockets, its listeners, Python, time."""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING

from tests.dataplane.probes.model_host import OPERATIONS, ModelSocket
from tests.fuzz.engine_world import control_item, socket_address
from tests.fuzz.packets import PATTERN, REMOTES

if TYPE_CHECKING:
    from tests.fuzz.engine_world import World
    from tests.fuzz.guest_steps import Step
    from tests.fuzz.source import Source

EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLLRDHUP = 1, 4, 8, 16, 0x2000
TIMES_NS = tuple(int(s * 1e9) for s in (
    1e-6, 1e-3, 0.01, 0.05, 0.2, 0.5, 1, 3, 10, 30, 60, 130, 300, 700, 7300, 0))
SIZES = (0, 1, 100, 536, 1448, 4096, 16384, 65536, 200000, 1 << 20)
ERRNOS = tuple(getattr(errno, name) for name in (
    "EAGAIN", "ECONNREFUSED", "ECONNRESET", "EPIPE", "EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EMSGSIZE",
    "ENETUNREACH", "EHOSTUNREACH", "EACCES", "EPERM", "EADDRINUSE", "EADDRNOTAVAIL", "EINVAL", "ETIMEDOUT",
    "ENODEV", "EIO", "EAFNOSUPPORT", "ENOPROTOOPT", "ENONET", "EHOSTDOWN", "EINPROGRESS"))
EVENTS = (EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLLIN | EPOLLRDHUP, EPOLLIN | EPOLLOUT,
          EPOLLHUP | EPOLLERR, EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)
ERROR_SHAPES = (  # origin (ICMP 2, ICMPv6 3, local 1), type, code, info
    (2, 3, 3, 0), (2, 3, 4, 1400), (2, 11, 0, 0), (3, 1, 4, 0), (3, 2, 0, 1280), (1, 0, 0, 1400),
    (2, 5, 0, 0), (3, 3, 0, 0), (2, 3, 4, 0), (0, 0, 0, 0))
PEERS = tuple((address, 80) for family in (4, 6) for address in REMOTES[family][:4])
MAX_WAITING = 8


def stream_socket(world: World, source: Source) -> ModelSocket | None:
    """Choose a stream that the engine has open."""
    return world.pick_socket(source.byte(),
                             lambda sock: sock.kind == socket.SOCK_STREAM and not sock.is_listener)


def datagram_socket(world: World, source: Source) -> ModelSocket | None:
    """Choose a datagram socket, a listener perhaps."""
    return world.pick_socket(source.byte(), lambda sock: sock.kind == socket.SOCK_DGRAM)


def arrive(world: World, source: Source) -> None:
    """Have data come to a stream."""
    sock = stream_socket(world, source)
    if sock is not None and len(sock.incoming) < 1 << 20:
        sock.incoming += PATTERN[: SIZES[source.byte() % 9]]
        world.sockets.ready(sock, EPOLLIN)


def connected(world: World, source: Source) -> None:
    """Have a connection be made, or fail."""
    sock = world.pick_socket(source.byte(), lambda sock: sock.connecting)
    if sock is not None:
        sock.connecting = False
        if source.byte() & 3 == 3:
            sock.error = source.pick(ERRNOS)
            sock.hung_up = True
        world.sockets.ready(sock, EPOLLOUT)


def finish(world: World, source: Source) -> None:
    """Have the remote end a stream: in order, or by a reset."""
    sock = stream_socket(world, source)
    if sock is not None:
        choice = source.byte()
        if choice & 1:
            sock.error = source.pick(ERRNOS)
            sock.hung_up = True
        sock.eof = True
        if choice & 2:
            sock.incoming += PATTERN[:100]
        world.sockets.ready(sock, EPOLLIN | EPOLLRDHUP)


def make_room(world: World, source: Source) -> None:
    """Have the remote take what was written, and more; or have room for little."""
    sock = stream_socket(world, source)
    if sock is not None:
        size = source.byte()
        if size & 0x80:
            sock.room = SIZES[size % len(SIZES)]
        else:
            sock.room += SIZES[size % len(SIZES)]
        sock.acked = sock.written
        sock.errors.append((b"", b"", b""))
        world.sockets.ready(sock, EPOLLOUT | EPOLLERR)
        if size & 0x40:
            sock.errors.clear()


def event(world: World, source: Source) -> None:
    """Have an event come to a socket though nothing may be there."""
    sock = world.pick_socket(source.byte(), lambda sock: sock.is_watched)
    if sock is not None:
        world.sockets.tell(sock, source.pick(EVENTS))


def fail(world: World, source: Source) -> None:
    """Have the next call of an operation fail."""
    world.sockets.fail_next(source.byte() % len(OPERATIONS), source.pick(ERRNOS))


def limits(world: World, source: Source) -> None:
    """Say how many sockets there may be, whether ports are taken, how far the remotes are."""
    choice = source.byte()
    world.sockets.limit = (64, len(world.sockets.by_fd), len(world.sockets.by_fd) + 1, 300)[choice & 3]
    world.sockets.bind_taken = (0, errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL)[choice >> 2 & 3]
    world.sockets.rtt_us = (5000, 100, 40000, 10**6)[choice >> 4 & 3]
    world.sockets.connects_at_once = choice & 0x40 != 0


def sender_of(sock: ModelSocket, source: Source) -> bytes:
    """Choose who sends to a datagram socket: somebody who was sent to, or a stranger."""
    choice = source.byte()
    if sock.peers and not choice & 0x80:
        peer: bytes = sock.peers[choice % len(sock.peers)]
        return peer
    address, port = PEERS[choice % len(PEERS)]
    if sock.family == socket.AF_INET6 and len(address) == 4:
        address = bytes(10) + b"\xff\xff" + address
    elif sock.family == socket.AF_INET:
        address = address[-4:]
    return socket_address(address, port + (choice >> 3 & 3))


def marks(sock: ModelSocket, source: Source) -> bytes:
    """Give the control data of a datagram."""
    choice = source.byte()
    data = b""
    if sock.family == socket.AF_INET:
        if choice & 1:
            data += control_item(0, 8, struct.pack("=i4s4s", 1, b"\x7f\0\0\1", b"\xc0\0\2\1"))
        if choice & 2:
            data += control_item(0, 1, bytes((choice,)))
        if choice & 4:
            data += control_item(0, 2, struct.pack("=i", choice))
    else:
        if choice & 1:
            data += control_item(41, 50, REMOTES[6][choice >> 5] + struct.pack("=I", 2))
        if choice & 2:
            data += control_item(41, 67, struct.pack("=i", choice))
        if choice & 4:
            data += control_item(41, 52, struct.pack("=i", choice))
    return data


def joined(source: Source) -> tuple[int, bytes]:
    """Say how long a payload may be, and give control data if it is of datagrams that the kernel joined."""
    choice = source.byte()
    if not choice & 1:
        return 1 << 16, b""
    size = (1, 100, 1448, 65535)[choice >> 1 & 3]
    # The kernel joins 64 at most (net/ipv4/udp_offload.c, UDP_GRO_CNT_MAX).
    return size * 64, control_item(17, 104, struct.pack("=i", size))


def datagrams(world: World, source: Source) -> None:
    """Have datagrams come to a socket or a listener, as many as bits 4 to 7 of a byte say."""
    sock = datagram_socket(world, source)
    if sock is None:
        return
    shape = source.byte()
    sizes = (0, 1, 100, 1000, 1448, 9000, 40000, 65507, 65535, 4, 8, 28, 60, 500, 1472, 2000)
    name, control = sender_of(sock, source), marks(sock, source)
    longest, more = joined(source)
    if sock.protocol in (socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6):
        payload = bytes((0 if sock.family == socket.AF_INET else 129, 0, 0, 0, 0, shape >> 4, 0, 1)) + PATTERN
        payload = payload[: sizes[shape & 15]]
    else:
        payload = PATTERN[: min(sizes[shape & 15], longest)]
        control += more
    for _ in range((shape >> 4) + 1):
        sock.datagrams.append((payload, name, control))
    world.sockets.ready(sock, EPOLLIN)


def socket_error(world: World, source: Source) -> None:
    """Have an error come to a datagram socket, about what was sent to a peer."""
    sock = datagram_socket(world, source)
    if sock is None or len(sock.errors) > MAX_WAITING:
        return
    origin, kind, code, info = source.pick(ERROR_SHAPES)
    choice = source.byte()
    offender = PEERS[choice % len(PEERS)][0]
    if choice & 8:
        offender = PEERS[0 if sock.family == socket.AF_INET else 4][0]
    what = struct.pack("=IBBBBII", ERRNOS[choice % len(ERRNOS)], origin, kind, code, 0, info, 0)
    if choice & 0x40:
        what += socket_address(offender, 0)
    level, number = (0, 11) if sock.family == socket.AF_INET else (41, 25)
    control = control_item(level, number, what) + marks(sock, source)
    quoted = PATTERN[: (0, 1, 7, 8, 28, 100, 548, 1280)[choice & 7]]
    for _ in range((choice >> 4 & 3) + 1):
        sock.errors.append((quoted, sender_of(sock, source), control))
    sock.error = ERRNOS[choice % len(ERRNOS)] if choice & 0x80 else 0
    world.sockets.ready(sock, EPOLLERR)


def client(world: World, source: Source) -> None:
    """Have clients come to a listener."""
    listener = world.pick_socket(source.byte(), lambda sock: sock.is_listener)
    if listener is None or len(listener.backlog) > MAX_WAITING:
        return
    choice = source.byte()
    far, near = ((b"\x7f\0\0\1", b"\x7f\0\0\1"), (b"\xc6\x33\x64\x07", b"\xc0\0\2\x05"))[choice & 1]
    if listener.family == socket.AF_INET6:
        far, near = bytes(10) + b"\xff\xff" + far, bytes(10) + b"\xff\xff" + near
        if choice & 2:
            far, near = REMOTES[6][choice >> 2 & 3], REMOTES[6][3]
    for number in range((choice >> 6) + 1):
        port = 50000 + (choice >> 4 & 3) + number
        listener.backlog.append((socket_address(far, port), socket_address(near, 80)))


def listen(world: World, source: Source) -> None:
    """Add a listener, or remove one."""
    choice = source.byte()
    if choice & 0x80:
        world.unlisten(choice)
    elif len(world.listening) < MAX_WAITING:
        world.listen(choice)


def wait(world: World, source: Source) -> None:
    """Let time pass, step by step perhaps."""
    choice = source.byte()
    for _ in range((choice >> 4 & 7) + 1):
        world.wait(TIMES_NS[choice & 15])


def until_deadline(world: World, source: Source) -> None:
    """Let time pass until a timer is due, some times."""
    for _ in range((source.byte() & 7) + 1):
        deadline = world.reactor.next_deadline
        if deadline < 1 << 62:
            world.reactor.now = max(world.reactor.now, deadline)
        world.turn()


def change_mood(world: World, source: Source) -> None:
    """Have the policy answer otherwise from now on."""
    world.whims.mood = source.byte()


def boom(world: World, source: Source) -> None:
    """Have callbacks raise."""
    world.whims.booms = source.byte() & 3


def python(world: World, source: Source) -> None:
    """Do what Python may do at any time."""
    choice = source.byte()
    match choice & 7:
        case 0:
            world.look()
        case 1:
            world.engine.switch(ip4=choice & 8 == 0, ip6=choice & 16 == 0, tcp=choice & 32 == 0,
                                udp=choice & 64 == 0, icmp=choice & 128 == 0)
        case 2:
            world.engine.set_trace(note, note)
        case 3:
            world.engine.set_trace(None)
        case 4:
            world.engine.start_capture(os.open("/dev/null", os.O_WRONLY), note)
        case 5:
            world.engine.end_capture()
        case 6:
            world.engine.send_frame(PATTERN[: (0, 14, 60, 1514, 65589, 65590)[choice >> 3 & 3]])
        case _:
            world.engine.call_later((choice >> 3) / 4, note)


def neighbours(world: World, source: Source) -> None:
    """Replace the table of hosts on our link: remotes among them, of any MAC address, the guest's too."""
    macs = (PATTERN[:6], b"\x02\0\0\0\0\1", bytes(6), b"\xff" * 6)
    world.engine.set_neighbours({address: macs[source.byte() & 3] for family in (4, 6)
                                 for address in REMOTES[family] if source.byte() & 1})


def note(*_: object) -> None:
    """Take what the engine tells."""


STEPS: tuple[Step, ...] = (
    arrive, connected, finish, make_room, event, fail, limits, datagrams, socket_error, client, listen, wait,
    until_deadline, change_mood, boom, python, neighbours,
)
