"""Steps of a hostile front end and a hostile guest: requests of all kinds, rings with any contents."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import TYPE_CHECKING

from passt.vhost_user.backend import PROTOCOL_FEATURES
from tests.fuzz.packets import PATTERN
from tests.fuzz.vhost_guest import BUFFERS
from tests.support.front_end import OFFLOADS, PLAIN, USUAL, Feature
from tests.support.guest_memory import ABOVE_HOLE, FIRST_USER, MIB, PAGE, Region
from tests.support.split_ring import INDIRECT, NEXT, WRITE
from tests.support.vhost_client import (
    HEADER,
    NEED_REPLY,
    NO_FD,
    REPLY,
    VERSION,
    ProtocolFeature,
    Request,
    build,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from passt.facts.contracts import MemoryRegion
    from tests.fuzz.source import Source
    from tests.fuzz.vhost_guest import VhostGuest
    from tests.fuzz.vhost_world import VhostWorld
    from tests.support.split_ring import SplitRing

    Step = Callable[[VhostWorld, Source], None]
    Payload = Callable[[VhostGuest, Source], bytes]

U32, U64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF
FEATURES: tuple[int, ...] = (
    USUAL | OFFLOADS, USUAL, PLAIN, PLAIN | OFFLOADS, (USUAL | OFFLOADS) & ~Feature.PROTOCOL_FEATURES,
    USUAL | OFFLOADS | Feature.LOG_ALL, (USUAL | OFFLOADS) & ~Feature.EVENT_IDX,
    (USUAL | OFFLOADS) & ~Feature.MRG_RXBUF)
SIZES = (64, 16, 256, 4, 1, 2, 1024, 8)
BASES = (0, 65530, 1, 65535)
PROTOCOLS = (PROTOCOL_FEATURES, 0, int(ProtocolFeature.REPLY_ACK),
             PROTOCOL_FEATURES & ~int(ProtocolFeature.LOG_SHMFD))
FLAGS = (VERSION, VERSION | NEED_REPLY, VERSION, VERSION, 0, 2, VERSION | REPLY, U32)
LIES = (0, 0, 0, 0, 0, 0, -1, 1, -8, 8, 32, 512, 513, 1 << 16, U32, 4)  # of a size, beside the truth
NUMBERS = (0, 1, 2, 3, 15, 16, 255, 256, 4, 64, 1024, 32768, 65535, 65536, U32, 1 << 31)
LONG_NUMBERS = (0, 1, U64, 1 << 63, U64 - 4095, 4096, 1 << 32, 0x7FFFFFFFFFFFFFFF)
LENGTHS = (0, 1, 11, 12, 13, 26, 60, 1514, 4096, 65547, 65601, 65602, 70000, 0x7FFFFFFF, 1 << 31, U32)
HOLE = 1 << 31                    # a guest address where nothing is
DESCRIPTOR_FLAGS = (0, NEXT, WRITE, NEXT | WRITE, INDIRECT, INDIRECT | NEXT, INDIRECT | WRITE, 0xFFFF)


def ring_of(world: VhostWorld, source: Source) -> SplitRing:
    """Choose a ring, of which nothing is expected from now on."""
    guest = world.vhost_guest
    guest.is_honest = False
    return guest.front.rings[source.byte() % len(guest.front.rings)]


def address(guest: VhostGuest, source: Source) -> int:
    """Choose a guest address: of a buffer, a ring, a border, or nowhere."""
    choice = source.byte()
    ring = guest.front.rings[choice >> 4 & 1]
    border = 2 * MIB
    places = (0x20000, border - 1, border, 3 * MIB - 1, ABOVE_HOLE, ABOVE_HOLE + MIB - 7, HOLE, U64,
              ring.descriptors, ring.available, ring.used, border - 40, 3 * MIB, ABOVE_HOLE - 1, 0, U64 - 11)
    return places[choice & 15] + (source.byte() if choice & 0x80 else 0) & U64


# The front end


def set_up(world: VhostWorld, source: Source) -> None:
    """Begin a session that works: features, pairs of rings, their size, the index that they begin at."""
    choice, shape = source.byte(), source.byte()
    features = FEATURES[choice & 7]
    pairs = 2 if choice & 8 else 1
    if pairs > 1:
        features |= Feature.MQ
    world.set_up(features, pairs, SIZES[choice >> 4 & 7], BASES[shape & 3], PROTOCOLS[shape >> 2 & 3])


def end_session(world: VhostWorld, source: Source) -> None:
    """Close the connection, or one half of it; or begin another one."""
    guest = world.vhost_guest
    choice = source.byte()
    guest.is_running = False
    if guest.sender is not None and choice & 1:
        guest.sender.sock.shutdown(socket.SHUT_WR)
    elif choice & 2:
        guest.disconnect()
    world.attach()


def restart_ring(world: VhostWorld, source: Source) -> None:
    """Stop a ring, and start it again where it stands or elsewhere."""
    guest, choice = world.vhost_guest, source.byte()
    if guest.sender is None:
        return
    number = choice % len(guest.front.rings)
    if choice & 0x10:
        guest.is_honest = False
    if not choice & 0x20:         # what the back end has not used stays available
        guest.sender.stop_ring(number)
    guest.is_running = guest.is_running and not choice & 0x40
    if not choice & 0x40:
        guest.front.start_ring(guest.sender, number, base=source.word() if choice & 0x10 else None,
                               log=address(guest, source) if choice & 0x80 else None)


def enable_ring(world: VhostWorld, source: Source) -> None:
    """Enable or disable a ring, perhaps one that is not there."""
    choice = source.byte()
    if world.vhost_guest.sender is not None:
        world.vhost_guest.sender.enable_ring(choice & 15, bool(choice & 16))


def request(world: VhostWorld, source: Source) -> None:
    """Send a request: its number, payload, descriptors, flags and size are as they should be, or not."""
    guest = world.vhost_guest
    if guest.sender is None:
        return
    guest.is_honest = False
    number = source.byte()
    shape, extra = source.byte(), source.byte()
    make = PAYLOADS.get(number) if not shape & 0x80 else ANY_PAYLOAD[extra % len(ANY_PAYLOAD)]
    payload = make(guest, source) if make else b""
    usual = FDS.get(number, 0)
    if number == Request.SET_MEM_TABLE and len(payload) >= 4:
        usual = min(payload[0], 9)
    count = usual if not shape & 0x40 else (0, 1, 2, 8, 9, 3, 5, 253)[extra >> 4 & 7]
    size = len(payload) + LIES[shape & 15] & U32
    data = build(number, payload, FLAGS[shape >> 4 & 3 if not shape & 8 else extra & 7], size)
    if extra & 0x80:
        data = data[: source.byte() % (len(data) + 1)]
    with files(guest, source, count) as fds:
        guest.sender.send(data, fds)


def open_file(guest: VhostGuest, choice: int) -> int:
    """Open what may be sent for a descriptor."""
    kind, detail = choice & 15, choice >> 4 & 3
    if kind < len(OTHER_FILES):
        return OTHER_FILES[kind]()
    if kind < len(OTHER_FILES) + 3:
        fd = os.memfd_create("any")
        os.ftruncate(fd, (MIB, PAGE, 1, 0)[detail])
        return fd
    if kind < len(OTHER_FILES) + 5:
        return os.dup(guest.front.memory.regions[detail % 3].fd)
    if kind == 15 and guest.sender and guest.sender.inflight >= 0:
        return os.dup(guest.sender.inflight)
    return os.eventfd(0 if detail else (1 << 32) - 1, os.EFD_NONBLOCK)


OTHER_FILES: tuple[Callable[[], int], ...] = (
    lambda: os.open("/dev/null", os.O_RDWR),
    lambda: os.open("/", os.O_PATH),
    lambda: os.open("/proc/self/stat", os.O_RDONLY),
    lambda: socket.socket(socket.AF_UNIX).detach(),
    lambda: os.dup(0),
    lambda: os.eventfd(0),
)


@contextlib.contextmanager
def files(guest: VhostGuest, source: Source, count: int) -> Iterator[list[int]]:
    """Open descriptors of chosen kinds, and close them."""
    opened = [open_file(guest, source.byte()) for _ in range(count)]
    try:
        yield opened
    finally:
        for fd in opened:
            os.close(fd)


def number_payload(_: VhostGuest, source: Source) -> bytes:
    """Give a number of 64 bits, such as features."""
    choice = source.byte()
    if choice & 0x80:
        return struct.pack("=Q", FEATURES[choice & 7] ^ (1 << (source.byte() & 63) if choice & 0x40 else 0))
    return struct.pack("=Q", LONG_NUMBERS[choice & 7] ^ choice >> 3)


def event_payload(guest: VhostGuest, source: Source) -> bytes:
    """Give the number of a ring for a descriptor."""
    choice = source.byte()
    ring = choice % len(guest.front.rings) if not choice & 0x80 else NUMBERS[choice & 15]
    return struct.pack("=Q", ring | (NO_FD if choice & 0x40 else 0))


def state_payload(guest: VhostGuest, source: Source) -> bytes:
    """Give a ring and a number."""
    choice = source.byte()
    ring = choice % len(guest.front.rings) if not choice & 0x80 else NUMBERS[source.byte() & 15]
    return struct.pack("=II", ring, NUMBERS[choice >> 3 & 15])


def addresses_payload(guest: VhostGuest, source: Source) -> bytes:
    """Give where a ring is: right, a little beside it, in another region, nowhere."""
    choice = source.byte()
    ring = guest.front.rings[choice % len(guest.front.rings)]
    parts = list(ring.user_addresses())
    for _ in range(choice >> 5 & 3):
        which, bend = source.byte(), source.byte()
        value = parts[which % 3] + (1, 2, 4, 8, 16, -16, PAGE, MIB)[bend & 7]
        if bend & 8:
            value = FIRST_USER + address(guest, source)
        parts[which % 3] = value & U64
    log = address(guest, source) if choice & 0x80 else 0
    return struct.pack("=IIQQQQ", choice % len(guest.front.rings), choice >> 7, *parts, log)


def region_row(guest: VhostGuest, source: Source) -> bytes:
    """Give a region: one of ours, moved, larger, smaller."""
    choice = source.byte()
    ours = guest.front.memory.regions
    region: MemoryRegion = ours[choice % len(ours)].told
    guest_address, size, user, offset, _ = region
    if choice & 4:
        guest_address = address(guest, source)
    if choice & 8:
        size = (PAGE, 1, 0, 2 * size, size - 1, U64, 1 << 62, size // 2)[source.byte() & 7]
    if choice & 16:
        user = FIRST_USER + address(guest, source) & U64
    if choice & 32:
        offset = (0, 1, PAGE, U64, MIB, 1 << 62, 16, 3)[source.byte() & 7]
    return struct.pack("=QQQQ", guest_address, size & U64, user, offset)


def table_payload(guest: VhostGuest, source: Source) -> bytes:
    """Give a table of regions."""
    choice = source.byte()
    if choice & 0x80:
        rows = [struct.pack("=QQQQ", *region.told[:4]) for region in guest.front.memory.regions]
    else:
        rows = [region_row(guest, source) for _ in range(choice % 9)]
    return struct.pack("=II", len(rows) if not choice & 0x40 else NUMBERS[choice & 15], 0) + b"".join(rows)


def one_region_payload(guest: VhostGuest, source: Source) -> bytes:
    """Give one region."""
    return bytes(8) + region_row(guest, source)


def log_payload(_: VhostGuest, source: Source) -> bytes:
    """Give size and offset of a log."""
    choice = source.byte()
    sizes = (PAGE, 128, 1, 0, MIB, U64, 1 << 40, (ABOVE_HOLE + MIB) // PAGE // 8)
    return struct.pack("=QQ", sizes[choice & 7], (0, 0, 1, 100, PAGE, U64, MIB, 1 << 62)[choice >> 3 & 7])


def inflight_payload(_: VhostGuest, source: Source) -> bytes:
    """Give size, offset, number and size of rings."""
    choice, numbers = source.byte(), source.byte()
    data = struct.pack("=QQHH", LONG_NUMBERS[choice & 7] if choice & 8 else 1 << 14, 0,
                       NUMBERS[numbers & 15] & 0xFFFF, NUMBERS[numbers >> 4] & 0xFFFF)
    return data + bytes(4) * (choice >> 7)


def config_payload(_: VhostGuest, source: Source) -> bytes:
    """Give a part of the configuration."""
    choice, size = source.byte(), source.byte()
    return struct.pack("=III", NUMBERS[choice & 15], size, choice >> 7) + PATTERN[: size - (choice >> 6 & 1)]


def any_payload(_: VhostGuest, source: Source) -> bytes:
    """Give any bytes."""
    return source.take(source.byte())


PAYLOADS: dict[int, Payload] = {
    Request.SET_FEATURES: number_payload, Request.SET_PROTOCOL_FEATURES: number_payload,
    Request.SET_MEM_TABLE: table_payload, Request.SET_LOG_BASE: log_payload,
    Request.SET_VRING_NUM: state_payload, Request.SET_VRING_ADDR: addresses_payload,
    Request.SET_VRING_BASE: state_payload, Request.GET_VRING_BASE: state_payload,
    Request.SET_VRING_KICK: event_payload, Request.SET_VRING_CALL: event_payload,
    Request.SET_VRING_ERR: event_payload, Request.SET_VRING_ENABLE: state_payload,
    Request.SEND_RARP: number_payload, Request.NET_SET_MTU: number_payload,
    Request.GET_CONFIG: config_payload, Request.SET_CONFIG: config_payload,
    Request.GET_INFLIGHT_FD: inflight_payload, Request.SET_INFLIGHT_FD: inflight_payload,
    Request.ADD_MEM_REG: one_region_payload, Request.REM_MEM_REG: one_region_payload,
}
ANY_PAYLOAD = (any_payload, number_payload, state_payload, table_payload)
FDS: dict[int, int] = {
    Request.SET_LOG_BASE: 1, Request.SET_LOG_FD: 1, Request.SET_VRING_KICK: 1, Request.SET_VRING_CALL: 1,
    Request.SET_VRING_ERR: 1, Request.SET_INFLIGHT_FD: 1, Request.ADD_MEM_REG: 1}


def broken_request(world: VhostWorld, source: Source) -> None:
    """Send a message in two parts, or only one of them."""
    sender = world.vhost_guest.sender
    if sender is None:
        return
    choice = source.byte()
    data = build(NUMBERS[choice & 7], PATTERN[: LENGTHS[choice >> 4 & 7] & 511])
    at = source.byte() % (HEADER.size + 8)
    sender.send(data[:at])
    if not choice & 8:
        world.turn()
        sender.send(data[at:])
    else:
        world.vhost_guest.is_honest = False


def move_memory(world: VhostWorld, source: Source) -> None:
    """Replace all memory by the same, or take regions away and give them back."""
    guest, choice = world.vhost_guest, source.byte()
    if guest.sender is None:
        return
    regions = guest.front.memory.told()
    match choice & 3:
        case 0:
            guest.sender.set_memory(regions)
        case 1:
            guest.sender.set_memory(regions[:: -1])
        case 2:
            guest.is_honest = False
            guest.sender.remove_region(regions[choice >> 2 & 1])
        case _:
            guest.is_honest = False
            guest.sender.add_region(regions[choice >> 2 & 1])


def cut_file(world: VhostWorld, source: Source) -> None:
    """Cut the file of a region off, or make it as long as it was."""
    guest, choice = world.vhost_guest, source.byte()
    guest.is_honest = False
    region: Region = guest.front.memory.regions[choice % 3]
    sizes = (0, PAGE, 0x21000, region.mmap_offset + region.size - PAGE, region.mmap_offset + region.size)
    region.truncate(sizes[(choice >> 2) % len(sizes)])


def log_pages(world: VhostWorld, source: Source) -> None:
    """Have written pages logged in a file that is large enough, or not."""
    guest, choice = world.vhost_guest, source.byte()
    sender = guest.sender
    if sender is None:
        return
    size = ((ABOVE_HOLE + MIB) // PAGE // 8, 16, 1, PAGE)[choice & 3]
    fd = os.memfd_create("log")
    os.ftruncate(fd, size)
    sender.set_log(fd, size, 0)
    if choice & 4:
        world.turn()
        os.ftruncate(fd, 0)
        guest.is_honest = False
    os.close(fd)
    if choice & 8:
        sender.tell(Request.SET_FEATURES, struct.pack("=Q", guest.front.features | Feature.LOG_ALL))


# The guest


def choose_shape(world: VhostWorld, source: Source) -> None:
    """Choose how the chains of the next frames look, and the buffers that are offered."""
    world.vhost_guest.shape, choice = source.byte(), source.byte()
    world.vhost_guest.buffers = choice % len(BUFFERS)
    if BUFFERS[choice % len(BUFFERS)][0] < 1526:
        world.vhost_guest.is_honest = False  # virtio 1.2, 5.1.6.3.1 wants more
    world.vhost_guest.offered = (16, 0, 1, 64)[choice >> 6]


def write_ring(world: VhostWorld, source: Source) -> None:
    """Write any value into an index or flags of a ring, near to what is there or not."""
    ring = ring_of(world, source)
    choice = source.byte()
    value = source.word() if choice & 0x80 else (0, 1, -1, 2, ring.size, ring.size + 1, -ring.size, 0x8000)[
        choice >> 4 & 7]
    near = 0 if choice & 0x80 else ring.available_index()
    match choice & 7:
        case 0 | 1:
            ring.set_available_index(near + value)
        case 2:
            ring.set_available_flags(value & 0xFFFF)
        case 3:
            ring.set_used_event(near + value)
        case 4:
            ring.set_used_index(near + value)
        case 5:
            ring.set_used_flags(value & 0xFFFF)
        case 6:
            ring.set_avail_event(near + value)
        case _:
            ring.set_available_entry(source.byte(), value & 0xFFFF)


def raw_descriptor(guest: VhostGuest, source: Source, size: int) -> tuple[int, int, int, int]:
    """Give a descriptor of any contents."""
    choice = source.byte()
    where = address(guest, source)
    length = LENGTHS[choice & 15]
    flags = DESCRIPTOR_FLAGS[choice >> 4 & 7]
    following = source.byte() % (size + 1) if not choice & 0x80 else source.word()
    return where, length, flags, following


def write_descriptor(world: VhostWorld, source: Source) -> None:
    """Write descriptors, and make the first one available."""
    ring = ring_of(world, source)
    choice = source.byte()
    at = choice % ring.size
    for number in range(1 + (choice >> 6)):
        ring.set_descriptor((at + number) % ring.size,
                            *raw_descriptor(world.vhost_guest, source, ring.size))
    ring.publish(at)
    ring.kick()


def write_table(world: VhostWorld, source: Source) -> None:
    """Write an indirect table with any entries, and make it available."""
    ring = ring_of(world, source)
    guest = world.vhost_guest
    choice = source.byte()
    place = address(guest, source)
    n = choice & 7
    for number in range(n):
        with contextlib.suppress(KeyError):
            guest.front.memory.put(place + 16 * number, "QIHH", *raw_descriptor(guest, source, n))
    length = 16 * n + (0, 0, 0, 1, -1, 16, 1 << 20, -16)[choice >> 3 & 7]
    ring.set_descriptor(0, place, length & U32, DESCRIPTOR_FLAGS[4 + (choice >> 6)], 1)
    ring.publish(0)
    ring.kick()


def chain_of_many(world: VhostWorld, source: Source) -> None:
    """Make a chain of the whole table, a line or a loop; its buffers are small, empty, or at one place."""
    ring = ring_of(world, source)
    choice = source.byte()
    length = (1, 0, 16, 60000)[choice & 3]
    step = length if choice & 4 else 0
    flags = NEXT | (WRITE if choice & 8 else 0)
    n = ring.size
    for index in range(n):
        is_last = index + 1 == n and not choice & 16
        ring.set_descriptor(index, 0x20000 + step * index, length, flags & ~NEXT if is_last else flags,
                            (index + 1) % n)
    ring.publish(0)
    ring.kick()


def publish_heads(world: VhostWorld, source: Source) -> None:
    """Make the same or any heads available, several of them."""
    ring = ring_of(world, source)
    choice = source.byte()
    heads = [source.byte() if choice & 0x80 else choice >> 4 for _ in range(choice & 15)]
    ring.publish(*heads)
    if not choice & 0x40:
        ring.kick()


def kick(world: VhostWorld, source: Source) -> None:
    """Kick a ring for nothing, or so often that its eventfd is full; or fill the one of calls."""
    choice = source.byte()
    rings = world.vhost_guest.front.rings
    ring = rings[choice % len(rings)]
    fd = ring.call_fd if choice & 0x20 else ring.kick_fd
    if fd >= 0:
        with contextlib.suppress(OSError):
            os.eventfd_write(fd, U64 - 1 if choice & 0x10 else 1)


def meanwhile(world: VhostWorld, source: Source) -> None:
    """Change memory when the engine next asks Python something, which is in the middle of a batch."""
    guest = world.vhost_guest
    guest.is_honest = False
    choice = source.byte()
    ring = guest.front.rings[choice % len(guest.front.rings)]

    def scribble() -> None:
        ring.memory.write(ring.descriptors, PATTERN[: 16 * ring.size])

    def jump() -> None:
        ring.set_available_index(ring.available_index() + 1000)

    def cut() -> None:
        guest.front.memory.regions[0].truncate(PAGE)

    def rewrite() -> None:
        guest.front.memory.write(0x20000, PATTERN[:4096])

    world.whims.pranks.append((scribble, jump, cut, rewrite)[choice >> 4 & 3])


def write_memory(world: VhostWorld, source: Source) -> None:
    """Write bytes anywhere in memory."""
    guest = world.vhost_guest
    guest.is_honest = False
    where = address(guest, source)
    with contextlib.suppress(KeyError):
        guest.front.memory.write(where, source.take(source.byte() & 31))


def wrap(world: VhostWorld, source: Source) -> None:
    """Send many frames: the indices go round."""
    choice = source.byte()
    for _ in range(choice & 31):
        for _ in range(8):
            world.guest.send(PATTERN[:60])
        world.turn()


# In the order of their numbers: new ones go to the end, else the corpus would mean something else.
STEPS: tuple[Step, ...] = (
    set_up, end_session, restart_ring, enable_ring, request, broken_request, move_memory, cut_file, log_pages,
    choose_shape, write_ring, write_descriptor, write_table, chain_of_many, publish_heads, kick, meanwhile,
    write_memory, wrap,
)
