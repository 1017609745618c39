"""A guest whose memory is shared, and its front end: frames go by rings, requests by a socket, none waits."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
from collections import Counter, deque
from typing import TYPE_CHECKING

from tests.fuzz.file_memory import FileMemory
from tests.fuzz.guest import VNET_HLEN, Guest
from tests.fuzz.packets import ETH_HLEN, IP4_HLEN, IP6_HLEN, TCP, UDP, checksum
from tests.support.front_end import (
    DATA_VALID,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    NEEDS_CSUM,
    USUAL,
    Feature,
    FrontEnd,
)
from tests.support.guest_memory import ABOVE_HOLE, FIRST_USER, MIB, PAGE, SEAM, Region
from tests.support.vhost_client import HEADER, MAX_FDS, VERSION, Client, Request, build

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.front_end import Received
    from tests.support.split_ring import SplitRing

CUTS: tuple[tuple[int, ...], ...] = (
    (), (12,), (5, 7, 14), (1,) * 60, (12, 14, 20, 20), (0, 12, 0), (4096,) * 15, (10, 2, 0, 1500))
# Buffers to receive in: length, cuts.
BUFFERS: tuple[tuple[int, tuple[int, ...]], ...] = (
    (1536, ()), (4096, ()), (65562, ()), (65562, (12, 4096, 4096)), (60, ()), (12, ()), (2048, (1,) * 14))
CANARY = 3 * PAGE                 # before the second region in its file: no business of the back end
MAX_OFFERED = 64
HEAD_LEN = 256                    # of a frame, in a trace
FULL = 2000                       # chains that would not fit the memory


class Sender(Client):
    """A client that never waits: what cannot be sent is lost, what is answered is looked at later."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        sock.setblocking(False)
        self.inflight = -1        # the descriptor of a reply

    def close(self) -> None:
        super().close()
        if self.inflight >= 0:
            os.close(self.inflight)
            self.inflight = -1

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        with contextlib.suppress(OSError):
            socket.send_fds(self.sock, [data], fds)

    def tell(self, number: int, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        self.send(build(number, payload), fds)

    def stop_ring(self, ring: int) -> int:
        self.send(build(Request.GET_VRING_BASE, struct.pack("=II", ring, 0)))
        return 0

    def set_log(self, fd: int, size: int, offset: int) -> None:
        self.send(build(Request.SET_LOG_BASE, struct.pack("=QQ", size, offset)), [fd])

    def begin(self, protocol: int) -> None:
        """Agree on protocol features, whatever is offered."""
        self.send(build(Request.SET_OWNER) + build(Request.GET_FEATURES)
                  + build(Request.SET_PROTOCOL_FEATURES, struct.pack("=Q", protocol)))

    def drain(self) -> bytes:
        """Read all replies; one descriptor is kept."""
        said = b""
        with contextlib.suppress(OSError):
            while True:
                data, controls, _, _ = self.sock.recvmsg(1 << 16, socket.CMSG_SPACE(MAX_FDS * 4))
                for _, _, rights in controls:
                    for fd in array.array("i", rights[: len(rights) - len(rights) % 4]):
                        if self.inflight >= 0:
                            os.close(self.inflight)
                        self.inflight = fd
                if not data:
                    break
                said += data
        return said


def check_replies(said: bytes) -> None:
    """See that each reply is marked as one, and that all are whole."""
    while said:
        _, flags, size = HEADER.unpack_from(said)
        assert flags == VERSION | 4, flags
        assert len(said) >= HEADER.size + size
        said = said[HEADER.size + size :]


def check_frame(received: Received, features: int) -> None:
    """See that the header says nothing that was not acknowledged, and that checksums are as it says."""
    header, frame = received.header, received.frame
    assert header.flags in {0, NEEDS_CSUM, DATA_VALID}, header
    assert not header.flags or features & Feature.GUEST_CSUM, header
    wanted = {GSO_NONE: 0, GSO_TCPV4: Feature.GUEST_TSO4, GSO_TCPV6: Feature.GUEST_TSO6,
              GSO_UDP_L4: Feature.GUEST_USO4 | Feature.GUEST_USO6}[header.gso_type]
    assert features & wanted == wanted, header
    start, protocol = ETH_HLEN + IP4_HLEN, frame[23]
    if frame[12:14] == b"\x86\xdd":
        start, protocol = ETH_HLEN + IP6_HLEN, frame[20]
        message = frame[start : start + int.from_bytes(frame[18:20], "big")]
        addresses = frame[22:54]
    elif frame[12:14] == b"\x08\x00" and not int.from_bytes(frame[20:22], "big") & 0x3FFF:
        message = frame[start : ETH_HLEN + int.from_bytes(frame[16:18], "big")]
        addresses = frame[26:34]
    else:
        return
    if protocol not in {TCP, UDP} or (protocol == UDP and not any(message[6:8])):
        return
    pseudo = addresses + struct.pack("!II", len(message), protocol)
    if header.flags == NEEDS_CSUM:
        # The field has the sum of the pseudo-header, which takes part in the sum that completes it.
        assert (header.csum_start, header.csum_offset) == (start, 16 if protocol == TCP else 6), header
        at = header.csum_offset
        assert checksum(message[at : at + 2]) == checksum(pseudo), frame[:100]
    else:
        assert checksum(pseudo + message) == 0xFFFF, frame[:100]  # nothing is left


class VhostGuest(Guest):
    """A guest, its rings and the front end's connection.

    *is_honest* as long as it kept to the standard: only then it may expect the same of the back end.
    """

    def __init__(self) -> None:
        super().__init__(stream=False)
        self.sender: Sender | None = None
        self.front = new_front_end(USUAL, 1, 64, 0)
        self.is_honest = True
        self.is_running = False   # all rings are started, as far as we know
        self.shape = 0            # of sent frames: number of cuts, indirect, across, pair
        self.buffers = 0          # those that are offered: number of BUFFERS
        self.offered = 16         # how many at a time
        self.sent: Counter[tuple[bytes, int]] = Counter()  # frames that the back end may still see

    @property
    def pairs(self) -> int:
        """How many pairs of rings there are."""
        return len(self.front.rings) // 2

    def connect(self, sock: socket.socket) -> None:
        """Have a session."""
        self.sender = Sender(sock)

    def disconnect(self) -> None:
        """Have none."""
        self.is_running = False
        if self.sender is not None:
            self.sender.close()
            self.sender = None

    def renew(self, features: int, pairs: int, size: int, base: int) -> None:
        """Have new memory and rings, unknown to the back end."""
        self.front.close()
        self.sent.clear()
        self.front = new_front_end(features, pairs, size, base)
        self.is_honest = True

    def start(self, protocol: int) -> None:
        """Set the session up as it should be."""
        if self.sender is None:
            return
        self.sender.begin(protocol)
        self.front.start(self.sender)
        self.is_running = True
        self.offer()

    # Frames

    def send(self, frame: bytes, *, header: bytes = bytes(VNET_HLEN)) -> None:
        """Send one frame in a chain of the shape that a step has chosen."""
        header = self.header or header
        self.header = None
        self.put(header + bytes(self.front.header_len - VNET_HLEN) + frame)

    def send_raw(self, data: bytes, keep: int = 0) -> None:
        """Send a chain of any bytes, which may be no header and frame."""
        del keep
        if data:
            self.put(data)

    def put(self, data: bytes) -> None:
        """Make bytes available, if there is room for them."""
        cuts = CUTS[self.shape & 7]
        pair = (self.shape >> 5) % self.pairs
        ring = self.front.transmit_ring(pair)
        indirect = self.shape & 8 != 0 and self.front.features & Feature.INDIRECT_DESC != 0
        if len(ring.free) < (1 if indirect else len(cuts) + 1):
            self.collect_sent()
        if len(ring.free) < (1 if indirect else len(cuts) + 1):
            self.dropped += 1
            return
        across = self.shape & 16 != 0 and not self.is_border_used()
        try:
            self.front.send(b"", data, cuts=cuts, indirect=indirect, across=across, pair=pair)
        except MemoryError:
            self.dropped += 1
        else:
            frame = data[self.front.header_len :]
            self.sent[frame[:HEAD_LEN], len(frame)] += 1

    def is_border_used(self) -> bool:
        """Tell whether a chain has the place that crosses the border of two regions."""
        border = self.front.memory.regions[1].guest_address
        return any(border - SEAM <= chain.readable[0].address < border for ring in self.front.rings
                   for chain in ring.outstanding.values() if chain.readable)

    def on_seen(self, head: bytes, n: int, to_guest: bool, *_: int) -> None:
        """Take what the engine took for a frame of ours: it has to be one."""
        if to_guest or not self.is_honest:
            return
        assert self.sent[head, n], f"{n} bytes that were not sent so: {head.hex()}"
        self.sent[head, n] -= 1

    def collect_sent(self) -> None:
        """Take back what was sent."""
        for pair in range(self.pairs):
            try:
                self.front.sent(pair)
            except AssertionError:
                self.forget(self.front.transmit_ring(pair))

    def offer(self) -> None:
        """Offer buffers to receive in, up to as many as a step wants."""
        length, cuts = BUFFERS[self.buffers % len(BUFFERS)]
        for pair in range(self.pairs):
            ring = self.front.receive_ring(pair)
            n = min(self.offered - len(ring.outstanding), len(ring.free) // (len(cuts) + 1), MAX_OFFERED)
            with contextlib.suppress(MemoryError):
                if n > 0:
                    self.front.offer(length, n, cuts=cuts, pair=pair)

    def read(self, limit: int = FULL) -> None:
        """Take frames, learn from them, offer buffers anew; look at replies."""
        del limit
        if self.sender is not None:
            said = self.sender.drain()
            if self.is_honest:
                check_replies(said)
        self.collect_sent()
        for pair in range(self.pairs):
            try:
                frames = self.front.received(pair)
            except AssertionError:
                self.forget(self.front.receive_ring(pair))
                self.front.forget(pair)
                continue
            for received in frames:
                if self.is_honest:
                    check_frame(received, self.front.features)
                if len(received.frame) >= 60 or self.is_honest:
                    self.learn(received.frame)
        self.offer()

    def learn(self, frame: bytes) -> None:
        """Take what a frame to us tells, unless it may be one of our own making."""
        try:
            super().learn(frame)
        except (AssertionError, struct.error):
            if self.is_honest:
                raise

    def forget(self, ring: SplitRing) -> None:
        """Begin anew with a ring in which something is wrong: our fault, or an error."""
        if self.is_honest:
            raise AssertionError(f"ring {self.front.rings.index(ring)}: {ring.used_index()=}, {ring.taken=}, "
                                 f"{ring.used_entry(ring.taken)=}, {ring.outstanding=}")
        ring.outstanding.clear()
        ring.free = deque(range(ring.size))
        ring.taken = ring.used_index()

    def check_canary(self) -> None:
        """See that nothing was written where no region is."""
        for region in self.front.memory.regions:
            if region.mmap_offset:
                assert not any(os.pread(region.fd, region.mmap_offset, 0)), "written outside of a region"


def new_front_end(features: int, pairs: int, size: int, base: int) -> FrontEnd:
    """Make rings in memory of three regions, two of which touch each other."""
    memory = FileMemory(
        Region(0, 2 * MIB), Region(2 * MIB, MIB, mmap_offset=CANARY, user_address=FIRST_USER + 256 * MIB),
        Region(ABOVE_HOLE, MIB))
    return FrontEnd(pairs=pairs, size=size, features=features, memory=memory, base=base)
