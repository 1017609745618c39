"""A front end of vhost-user, and the driver in its guest: memory, rings and frames, for tests.

    front_end = FrontEnd(size=64, features=Feature.MRG_RXBUF | Feature.VERSION_1)
    front_end.start(device)                  a `VhostDevice`, or a `Client` that speaks to one over a socket
    front_end.offer(2048, 16)                buffers to receive in
    front_end.send(frame, header, cuts=[5])  a frame of the guest, its header split over descriptors
    front_end.received()                     what came

Nothing happens by itself: a test that calls a device directly runs the engine's turns in between, one over a
socket waits (`SplitRing.await_call`).
"""

from __future__ import annotations

import os
import struct
from enum import IntFlag
from typing import TYPE_CHECKING, NamedTuple, Protocol

from tests.support.guest_memory import Buffer, GuestMemory
from tests.support.split_ring import Chain, SplitRing, Used, cut

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from passt.facts.contracts import MemoryRegion


class Feature(IntFlag):
    """Feature bits: virtio 1.2, 5.1.3 and 6; LOG_ALL and PROTOCOL_FEATURES are those of vhost-user."""

    CSUM = 1 << 0
    GUEST_CSUM = 1 << 1
    CTRL_GUEST_OFFLOADS = 1 << 2
    MTU = 1 << 3
    MAC = 1 << 5
    GUEST_TSO4 = 1 << 7
    GUEST_TSO6 = 1 << 8
    GUEST_ECN = 1 << 9
    GUEST_UFO = 1 << 10
    HOST_TSO4 = 1 << 11
    HOST_TSO6 = 1 << 12
    HOST_ECN = 1 << 13
    HOST_UFO = 1 << 14
    MRG_RXBUF = 1 << 15
    STATUS = 1 << 16
    CTRL_VQ = 1 << 17
    GUEST_ANNOUNCE = 1 << 21
    MQ = 1 << 22
    NOTIFY_ON_EMPTY = 1 << 24
    LOG_ALL = 1 << 26
    ANY_LAYOUT = 1 << 27
    INDIRECT_DESC = 1 << 28
    EVENT_IDX = 1 << 29
    PROTOCOL_FEATURES = 1 << 30
    VERSION_1 = 1 << 32
    RING_PACKED = 1 << 34
    IN_ORDER = 1 << 35
    GUEST_USO4 = 1 << 54
    GUEST_USO6 = 1 << 55
    HOST_USO = 1 << 56


PLAIN = Feature.VERSION_1 | Feature.PROTOCOL_FEATURES
USUAL = PLAIN | Feature.MRG_RXBUF | Feature.INDIRECT_DESC | Feature.EVENT_IDX
OFFLOADS = (Feature.CSUM | Feature.GUEST_CSUM | Feature.GUEST_TSO4 | Feature.GUEST_TSO6 | Feature.GUEST_ECN
            | Feature.HOST_TSO4 | Feature.HOST_TSO6 | Feature.HOST_ECN
            | Feature.GUEST_USO4 | Feature.GUEST_USO6 | Feature.HOST_USO)

NEEDS_CSUM, DATA_VALID = 1, 2    # flags of a header
GSO_NONE, GSO_TCPV4, GSO_UDP, GSO_TCPV6, GSO_UDP_L4, GSO_ECN = 0, 1, 3, 4, 5, 0x80


class Header(NamedTuple):
    """A virtio-net header (virtio 1.2, 5.1.6). *num_buffers* is there with VERSION_1 or MRG_RXBUF only."""

    flags: int = 0
    gso_type: int = 0
    hdr_len: int = 0
    gso_size: int = 0
    csum_start: int = 0
    csum_offset: int = 0
    num_buffers: int = 0

    def build(self, length: int = 12) -> bytes:
        """Give its 12 bytes, or the first 10."""
        return struct.pack("<BBHHHHH", *self)[:length]

    @classmethod
    def parse(cls, data: bytes) -> Header:
        """Read 12 bytes, or 10."""
        return cls(*struct.unpack("<BBHHHHH", data.ljust(12, b"\0")))


class Received(NamedTuple):
    """A frame to the guest, joined from *chains*."""

    header: Header
    frame: bytes
    chains: tuple[Chain, ...]


class Device(Protocol):
    """What `FrontEnd.start` and `FrontEnd.stop` need of a back end; kicks and calls are its own then."""

    def set_features(self, features: int) -> None: ...
    def set_memory(self, regions: Sequence[MemoryRegion]) -> None: ...
    def set_ring_size(self, ring: int, size: int) -> None: ...
    def set_ring_base(self, ring: int, base: int) -> None: ...
    def set_ring_addresses(self, ring: int, descriptors: int, used: int, available: int,
                           log: int | None) -> None: ...
    def set_kick(self, ring: int, fd: int) -> None: ...
    def set_call(self, ring: int, fd: int) -> None: ...
    def enable_ring(self, ring: int, enabled: bool) -> None: ...
    def stop_ring(self, ring: int) -> int: ...


class FrontEnd:
    """*pairs* of rings with *size* entries each, and what a driver does with them.

    Ring 2k is the guest's receive queue of pair k, ring 2k + 1 its transmit queue.
    """

    def __init__(self, *, pairs: int = 1, size: int = 256, features: int = USUAL,
                 memory: GuestMemory | None = None, base: int = 0) -> None:
        self.memory = memory or GuestMemory()
        self.features = features
        event_index = bool(features & Feature.EVENT_IDX)
        self.rings = [SplitRing(self.memory, size, event_index=event_index, base=base)
                      for _ in range(2 * pairs)]
        # Of each pair: the first buffers of a frame whose others are not there yet.
        self._kept: list[list[Used]] = [[] for _ in range(pairs)]

    def close(self) -> None:
        """Give back descriptors and memory."""
        for ring in self.rings:
            ring.close()
        self.memory.close()

    @property
    def header_len(self) -> int:
        """Bytes of the virtio-net header before each frame."""
        return 12 if self.features & (Feature.VERSION_1 | Feature.MRG_RXBUF) else 10

    def receive_ring(self, pair: int = 0) -> SplitRing:
        """Give the ring from which the guest receives."""
        return self.rings[2 * pair]

    def transmit_ring(self, pair: int = 0) -> SplitRing:
        """Give the ring by which the guest sends."""
        return self.rings[2 * pair + 1]

    # Set-up, in QEMU's order

    def start(self, device: Device) -> None:
        """Tell the back end of features, memory and rings; start and enable all rings."""
        device.set_features(self.features)
        device.set_memory(self.memory.told())
        for number in range(len(self.rings)):
            self.start_ring(device, number)
        if self.features & Feature.PROTOCOL_FEATURES:
            for number in range(len(self.rings)):
                device.enable_ring(number, True)

    def start_ring(self, device: Device, number: int, *, base: int | None = None,
                   log: int | None = None) -> None:
        """Set up one ring with new eventfds, from where it stands, or from *base* on.

        *log* is the guest address by which writes to the used ring are logged.
        """
        ring = self.rings[number]
        kick, call = ring.open_events()
        device.set_ring_size(number, ring.size)
        device.set_ring_base(number, ring.taken if base is None else base)
        device.set_ring_addresses(number, *ring.user_addresses(), log)
        device.set_kick(number, os.dup(kick))
        device.set_call(number, os.dup(call))

    def stop(self, device: Device) -> list[int]:
        """Disable and stop all rings; returns the next available index of each."""
        if self.features & Feature.PROTOCOL_FEATURES:
            for number in range(len(self.rings)):
                device.enable_ring(number, False)
        return [device.stop_ring(number) for number in range(len(self.rings))]

    # The guest sends

    def send(self, frame: bytes, header: Header | bytes = Header(), *, cuts: Iterable[int] = (),  # noqa: B008
             indirect: bool = False, across: bool = False, pair: int = 0, post: bool = True) -> Chain:
        """Send a frame in a chain whose first descriptors have lengths *cuts*, the last one all that is left.

        A header of any bytes is taken as it is. With *across* header and frame lie half in one region, half
        in the next. Without *post* the chain is not made available.
        """
        if isinstance(header, Header):
            header = header.build(self.header_len)
        data = header + frame
        ring = self.transmit_ring(pair)
        lent = [] if across else [Buffer(self.memory.take(len(data)), len(data))]
        address = self.memory.across(len(data)) if across else lent[0].address
        self.memory.write(address, data)
        chain = ring.add(cut(address, len(data), cuts), lent=lent, indirect=indirect)
        if post:
            ring.post(chain)
        return chain

    def sent(self, pair: int = 0) -> list[Used]:
        """Collect what the back end is done with; each has to have the length 0."""
        found = self.transmit_ring(pair).take()
        assert not any(used.length for used in found), found
        return found

    # The guest receives

    def offer(self, length: int, count: int = 1, *, cuts: Iterable[int] = (), indirect: bool = False,
              across: bool = False, pair: int = 0) -> list[Chain]:
        """Make *count* chains of *length* bytes available to receive in, cut as those of `send`."""
        ring = self.receive_ring(pair)
        sizes = list(cuts)
        chains = []
        for _ in range(count):
            lent = [] if across else [Buffer(self.memory.take(length), length)]
            address = self.memory.across(length) if across else lent[0].address
            chains.append(ring.add((), cut(address, length, sizes), lent=lent, indirect=indirect))
        ring.post(*chains)
        return chains

    def received(self, pair: int = 0) -> list[Received]:
        """Collect the frames that came whole; num_buffers of the header says how many chains one has."""
        kept = self._kept[pair]
        kept += self.receive_ring(pair).take()
        frames = []
        while kept:
            header = Header.parse(kept[0].data[: self.header_len])
            n = header.num_buffers if self.header_len == 12 else 1
            assert n == 1 or (n > 1 and self.features & Feature.MRG_RXBUF), header
            if len(kept) < n:
                break
            parts, kept[:n] = kept[:n], []
            # Only the last buffer of a frame may have room left (virtio 1.2, 5.1.6.4).
            for part in parts[:-1]:
                assert part.length == sum(buffer.length for buffer in part.chain.writable), part
            data = b"".join(part.data for part in parts)
            frames.append(Received(header, data[self.header_len :], tuple(part.chain for part in parts)))
        return frames

    def forget(self, pair: int = 0) -> None:
        """Forget the buffers of a frame that is not whole."""
        self._kept[pair].clear()
