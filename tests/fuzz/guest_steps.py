"""Steps of a fuzzed guest: frames of all kinds, on connections that live and beside them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from tests.fuzz import packets
from tests.fuzz.guest import ACK, FIN, RST, SYN, VNET_HLEN, Connection
from tests.fuzz.harness import seeds
from tests.fuzz.packets import (
    ETH_HLEN,
    GUESTS,
    ICMP,
    ICMP6,
    IP4_HLEN,
    IP6_HLEN,
    MACS,
    PATTERN,
    REMOTES,
    TCP,
    UDP,
)
from tests.support.frames import OUR_MAC

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fuzz.engine_world import World
    from tests.fuzz.source import Source

    Step = Callable[[World, Source], None]

NEEDS_CSUM, GSO_TCP4, GSO_TCP6, GSO_UDP = 1, 1, 4, 5
GSO_TYPES = (0, GSO_TCP4, GSO_TCP6, GSO_UDP, GSO_TCP4 | 0x80, 3, 255)
LENGTHS = (0, 1, 2, 7, 100, 536, 1000, 1400, 1448, 4000, 16384, 32000, 65000, 3, 8, 60)
DISTANCES = (0, 0, 0, 1, -1, 2, 100, -100, 536, 1448, -1448, 2896, 65535, -65536, 1 << 20, 1 << 31)
WINDOWS = (65535, 0, 1, 100, 1448, 8192, 32768, 500)
FLAGS = (ACK, ACK | 8, ACK | FIN, RST, RST | ACK, SYN, SYN | ACK, 0, FIN, ACK | 32, ACK | 64, ACK | 8 | FIN)
PORTS = (80, 1000, 1001, 1002, 53, 5353, 547, 67, 0, 65535, 22)
TTLS = (64, 1, 0, 255)
ERRORS = {  # type and code of ICMP and ICMPv6 errors
    4: ((3, 4), (3, 1), (11, 0), (3, 3), (12, 0), (5, 0)),
    6: ((2, 0), (1, 0), (3, 0), (1, 4), (4, 1), (137, 0)),
}
MTUS = (1400, 1280, 600, 68, 0, 65535, 1, 1500)
CONTROL_FRAMES = tuple(seeds("responder"))
MSS_OPTION, SACK_PERMITTED = b"\2\4\5\xb4", b"\4\2"
SYN_OPTIONS = (
    b"", MSS_OPTION, b"\2\4\xff\xff\1\3\3\7", MSS_OPTION + b"\1\3\3\0" + SACK_PERMITTED, b"\2\4\0\1",
    MSS_OPTION + SACK_PERMITTED + b"\1\3\3\xff", b"\3\0", b"\2\4\0\x40\4\2\1\3\3\x0e")


def endpoints(source: Source) -> tuple[bytes, bytes]:
    """Choose addresses of one family: the guest's and a remote's."""
    choice = source.byte()
    family = 6 if choice & 1 else 4
    return GUESTS[family][choice >> 1 & 3 if choice & 0x80 else 0], REMOTES[family][choice >> 4 & 7]


def port(world: World, source: Source) -> int:
    """Choose a port, a listener's perhaps."""
    choice = source.byte()
    return world.listener_port(choice) if choice & 0x80 else PORTS[choice % len(PORTS)]


def send(world: World, message: bytes, near: bytes, far: bytes, protocol: int, *, gso: int = 0, size: int = 0,
         ttl: int = 64, tos: int = 0, fragment: int = 0x4000) -> None:
    """Send a message as one packet, with the virtio-net header that belongs to it."""
    start = ETH_HLEN + (IP4_HLEN if len(near) == 4 else IP6_HLEN)
    header = struct.pack("=BBHHHH", NEEDS_CSUM, gso, start + 20, size, start, 16 if protocol == TCP else 6)
    packet = packets.ip(near, far, protocol, message, ttl=ttl, tos=tos, fragment=fragment)
    world.guest.send(packets.ethernet(packet, MACS[0]),
                     header=header if protocol in (TCP, UDP) else bytes(VNET_HLEN))


def send_segment(world: World, conn: Connection, message: bytes, size: int = 0) -> None:
    """Send a segment of a connection; the device is to cut it into such of *size* bytes, 0: it is one."""
    near, _, far, _ = conn.key
    gso = GSO_TCP4 if len(near) == 4 else GSO_TCP6
    send(world, message, near, far, TCP, gso=gso if size else 0, size=size)


def stamp_option(conn: Connection, source: Source, choice: int) -> bytes:
    """Give the timestamp of a segment of a connection that has them; some are old, or missing."""
    if not conn.stamps or choice & 0x40:
        return b""
    if choice & 0x80:
        conn.stamp = conn.stamp + source.pick((1, -1, 1000, -1000, 1 << 31, 0)) & 0xFFFFFFFF
    return b"\1\1\x08\x0a" + struct.pack("!II", conn.stamp, conn.echoed)


def syn(world: World, source: Source) -> None:
    """Open a connection, or repeat the SYN of one."""
    near, far = endpoints(source)
    choice = source.byte()
    sport, dport = 40000 + (choice & 15), PORTS[choice >> 4 & 3]
    options = source.pick(SYN_OPTIONS)
    key = (near, sport, far, dport)
    conn = world.guest.by_key.get(key) or world.guest.add(key)
    extra = source.byte()
    conn.stamps = extra & 1 != 0
    if conn.stamps:
        options += b"\x08\x0a" + struct.pack("!II", conn.stamp, 0)
    early = PATTERN[: LENGTHS[extra >> 4]] if extra & 2 else b""
    isn = conn.nxt + (DISTANCES[extra >> 4] if extra & 4 else 0)
    message = packets.tcp(*key, flags=SYN, seq=isn, ack=0, window=WINDOWS[extra & 7], options=options,
                          payload=early)
    conn.nxt = isn + 1 & 0xFFFFFFFF
    send(world, message, near, far, TCP)


def segment(world: World, source: Source) -> None:
    """Send a segment on a connection, near where it is."""
    known = world.guest.connections
    if not known:
        return syn(world, source)
    conn = known[source.byte() % len(known)]
    flags, shape, places = source.pick(FLAGS), source.byte(), source.byte()
    payload = PATTERN[: LENGTHS[shape & 15]]
    seq = (conn.una if shape & 0x20 else conn.nxt) + DISTANCES[places & 15]
    ack = (conn.seen if shape & 0x10 else conn.rcv) + DISTANCES[places >> 4]
    options = stamp_option(conn, source, shape)
    if places == 0xFF or shape & 0x80:
        options += sack_option(conn, source)
    message = packets.tcp(*conn.key, flags=flags, seq=seq, ack=ack, window=source.pick(WINDOWS),
                          options=options[:40], payload=payload, urgent=places if flags & 32 else 0)
    end = seq + len(payload) + bool(flags & SYN) + bool(flags & FIN)
    if (end - conn.nxt) & 0xFFFFFFFF < 1 << 31:
        conn.nxt = end & 0xFFFFFFFF
    send_segment(world, conn, message, 1448 if len(payload) > 1448 else 0)
    return None


def sack_option(conn: Connection, source: Source) -> bytes:
    """Give blocks of what came behind a hole, or of nonsense."""
    n = source.byte() % 4
    option = bytes((5, 2 + 8 * n))
    for _ in range(n):
        start = conn.rcv + DISTANCES[source.byte() & 15] + source.byte()
        option += struct.pack("!II", start & 0xFFFFFFFF, start + LENGTHS[source.byte() & 15] & 0xFFFFFFFF)
    return option


def acknowledge(world: World, source: Source) -> None:
    """Acknowledge all that came, on each connection: a guest that behaves."""
    for conn in list(world.guest.connections):
        conn.rcv = conn.seen
        message = packets.tcp(*conn.key, flags=ACK, seq=conn.nxt, ack=conn.seen, window=65535,
                              options=stamp_option(conn, source, 0), payload=b"")
        send_segment(world, conn, message)


def accept(world: World, source: Source) -> None:
    """Answer the SYN of a connection from outside."""
    known = world.guest.connections
    if known:
        conn = known[source.byte() % len(known)]
        conn.rcv = conn.seen
        message = packets.tcp(*conn.key, flags=SYN | ACK, seq=conn.nxt, ack=conn.seen, window=65535,
                              options=source.pick(SYN_OPTIONS), payload=b"")
        conn.nxt = conn.nxt + 1 & 0xFFFFFFFF
        send_segment(world, conn, message)


def datagram(world: World, source: Source) -> None:
    """Send a datagram, or several in one frame that is to be cut."""
    near, far = endpoints(source)
    sport, dport = port(world, source) or 1024, port(world, source)
    shape, marks = source.byte(), source.byte()
    payload = PATTERN[: LENGTHS[shape & 15]]
    size = (0, 100, 1400, 1)[shape >> 4 & 3]
    message = packets.udp(near, sport, far, dport, payload)
    send(world, message, near, far, UDP, gso=GSO_UDP if size else 0, size=size, ttl=TTLS[marks & 3],
         tos=marks >> 2, fragment=0x4000 if shape & 0x40 else 0)


def ping(world: World, source: Source) -> None:
    """Send an echo request, or another ICMP message."""
    near, far = endpoints(source)
    shape = source.byte()
    kinds = (8, 0, 13, 17) if len(near) == 4 else (128, 129, 130, 143)
    protocol, message = packets.icmp(near, far, kinds[shape >> 6], 0, (shape & 7) << 16 | 1,
                                     PATTERN[: LENGTHS[shape >> 2 & 15]])
    send(world, message, near, far, protocol, ttl=TTLS[source.byte() & 3],
         fragment=0x4000 if shape & 1 else 0)


def fragment(world: World, source: Source) -> None:
    """Send a fragment; those of one number belong together."""
    near, far = endpoints(source)
    shape, place = source.byte(), source.byte()
    n = LENGTHS[shape & 15]
    protocol = (UDP, TCP, ICMP6 if len(near) == 16 else ICMP, 0)[shape >> 4 & 3]
    payload = PATTERN[:n]
    if place & 31 == 0:
        start = struct.pack("!HHHH", 1000, 80, (8, 100, 2000, 0xFFFF)[place >> 6], 0)
        payload = (start + payload)[: max(n, 8)]
    offset = (0, 1, 2, 13, 67, 125, 175, 181, 362, 500, 2048, 4000, 8125, 8191, 8, 7)[place & 15]
    packet = packets.fragment(near, far, protocol, payload, offset=offset, more=shape & 0x40 != 0,
                              ident=place >> 5)
    world.guest.send(packets.ethernet(packet, MACS[0]))


def fragments(world: World, source: Source) -> None:
    """Send all fragments of a datagram, of one size, but for one that may be lost or come twice."""
    near, far = endpoints(source)
    shape, fault = source.byte(), source.byte()
    message = packets.udp(near, 1000, far, PORTS[shape & 3], PATTERN[: LENGTHS[shape >> 4] + 20])
    size = (8, 512, 1400, 1480)[shape >> 2 & 3] & ~7
    places = list(range(0, len(message), size))[:64]
    if fault & 1:
        places.reverse()
    if fault & 2:
        places.append(places[(fault >> 4) % len(places)])
    if fault & 4:
        places.pop(0)
    for at in places:
        packet = packets.fragment(near, far, UDP, message[at : at + size], offset=at // 8,
                                  more=at + size < len(message), ident=fault | 0x100)
        world.guest.send(packets.ethernet(packet, MACS[0]))


def icmp_error(world: World, source: Source) -> None:
    """Send an error about the last packet to the guest, cut or bent perhaps."""
    quoted = bytearray(world.guest.last[ETH_HLEN:][:548])
    if len(quoted) < IP4_HLEN:
        return
    family = quoted[0] >> 4
    if family not in ERRORS:
        return
    far = bytes(quoted[8:24] if family == 6 else quoted[12:16])
    near = bytes(quoted[24:40] if family == 6 else quoted[16:20])
    shape, bend = source.byte(), source.byte()
    kind, code = ERRORS[family][shape % 6]
    if bend & 1:
        del quoted[bend >> 1 :]
    elif bend:
        quoted[bend % len(quoted)] ^= source.byte()
    protocol, message = packets.icmp(near, far, kind, code, MTUS[shape >> 5], bytes(quoted))
    send(world, message, near, far, protocol)


def raw(world: World, source: Source) -> None:
    """Send a frame of any bytes, padded perhaps."""
    data = source.take(source.byte())
    pad = source.byte()
    head = b"" if pad & 0x80 else OUR_MAC + MACS[0]
    world.guest.send((head + data + bytes(LENGTHS[pad & 15] if pad & 0x40 else 0)).ljust(14, b"\0"))


def bent(world: World, source: Source) -> None:
    """Send back the last frame to the guest, addresses turned round and some bytes bent."""
    frame = bytearray(world.guest.last)
    if len(frame) < 60:
        return
    frame[:12] = OUR_MAC + MACS[0]
    if frame[12:14] == b"\x08\x00":
        frame[26:34] = frame[30:34] + frame[26:30]
    else:
        frame[22:54] = frame[38:54] + frame[22:38]
    for _ in range(source.byte() & 3):
        frame[source.byte() % min(len(frame), 80)] = source.byte()
    del frame[60 + source.byte() :]
    world.guest.send(bytes(frame))


def control(world: World, source: Source) -> None:
    """Send a frame for the responders."""
    frame = bytearray(source.pick(CONTROL_FRAMES))
    if source.byte() & 1:
        frame[source.byte() % len(frame)] ^= source.byte()
    world.guest.send(bytes(frame))


def header(world: World, source: Source) -> None:
    """Give the next frame a virtio-net header that may be wrong."""
    flags, gso = source.byte(), source.pick(GSO_TYPES)
    sizes = (0, 1, 14, 34, 54, 100, 1448, 0xFFFF)
    places = source.word()
    world.guest.header = struct.pack("=BBHHHH", flags, gso, sizes[places & 7], sizes[places >> 3 & 7],
                                     sizes[places >> 6 & 7], sizes[places >> 9 & 7])


def link_bytes(world: World, source: Source) -> None:
    """Write to the link what is no frame: a short one, a huge one, a length that lies, a part."""
    shape = source.byte()
    length = (0, 13, 14, 60, 65589, 65590, 0xFFFFFFFF, 1514)[shape & 7]
    data = PATTERN[: LENGTHS[shape >> 4]]
    if world.stream:
        world.guest.send_raw(length.to_bytes(4, "big") + data, keep=source.byte() if shape & 8 else 0)
    else:
        world.guest.send_raw(PATTERN[: (0, 9, 10, 23, 24, 65599, 65600, 70000)[shape & 7]])


def silent_parts(world: World, source: Source) -> None:
    """Keep back the end of what was sent, or send what was kept."""
    world.guest.send_raw(b"", keep=source.byte())


def reading(world: World, source: Source) -> None:
    """Read from now on or not, or read a little."""
    choice = source.byte()
    if choice & 2:
        world.guest.read(1 + (choice >> 2 & 7))
    else:
        world.guest_reads = choice & 1 == 0
        if world.guest_reads:
            world.guest.read()


def end_link(world: World, source: Source) -> None:
    """Close the connection of a machine, or one half of it; connect it anew."""
    choice = source.byte()
    if world.stream and choice & 1:
        world.guest.shut()
    elif world.stream and choice & 2:
        world.guest.disconnect()
    world.attach()


def bulk(world: World, source: Source) -> None:
    """Send many segments in order, on one connection."""
    known = world.guest.connections
    if not known:
        return
    conn = known[source.byte() % len(known)]
    shape = source.byte()
    for number in range((shape & 7) + 1):
        payload = PATTERN[: LENGTHS[shape >> 3 & 15]]
        if not (shape & 0x80 and number == 1):           # one is lost
            message = packets.tcp(*conn.key, flags=ACK | 8, seq=conn.nxt, ack=conn.seen, window=65535,
                                  options=stamp_option(conn, source, 0), payload=payload)
            send_segment(world, conn, message, 1448 if len(payload) > 1448 else 0)
        conn.nxt = conn.nxt + len(payload) & 0xFFFFFFFF


def flood(world: World, source: Source) -> None:
    """Send many first packets, each of another flow."""
    choice = source.byte()
    near, far = GUESTS[6 if choice & 1 else 4][0], REMOTES[6 if choice & 1 else 4][0]
    for number in range(4 + (choice >> 3)):
        if choice & 2:
            send(world, packets.udp(near, 2000 + number, far, 80, b"x"), near, far, UDP)
        elif choice & 4:
            protocol, message = packets.icmp(near, far, 128 if choice & 1 else 8, 0, number, b"")
            send(world, message, near, far, protocol)
        else:
            message = packets.tcp(near, 2000 + number, far, 80, flags=SYN, seq=1, ack=0, window=100,
                                  options=b"", payload=b"")
            send(world, message, near, far, TCP)


# In the order of their numbers: new ones go to the end, else the corpus would mean something else.
STEPS: tuple[Step, ...] = (
    syn, segment, acknowledge, accept, datagram, ping, fragment, fragments, icmp_error, raw, bent, control,
    header, link_bytes, silent_parts, reading, end_link, bulk, flood,
)
