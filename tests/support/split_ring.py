"""The driver's side of a split ring (virtio 1.2, 2.7), and ways to write nonsense into every field of it.

`SplitRing.add` writes a chain into the descriptor table, `publish` makes it available, `kick` tells the back
end, `take` collects what the back end used and frees the descriptors. `post` publishes and kicks as a driver
does. All fields can be read and written raw; a back end that returns a head that it was not given, or writes
more than it was given, fails an assertion of `take`.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from tests.support.guest_memory import Buffer, GuestMemory
from tests.support.processes import is_readable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NEXT, WRITE, INDIRECT = 1, 2, 4  # flags of a descriptor
NO_INTERRUPT = 1                 # flag of the available ring
NO_NOTIFY = 1                    # flag of the used ring
DESCRIPTOR = struct.Struct("@QIHH")
DESCRIPTOR_LEN, ELEMENT_LEN = 16, 8
MAX_SIZE = 32768
WRAP = 0x10000


class Chain(NamedTuple):
    """A chain in the descriptor table: what it is made of, in the order of the device."""

    head: int
    indices: tuple[int, ...]     # of the table; one if it is indirect
    readable: tuple[Buffer, ...]
    writable: tuple[Buffer, ...]
    lent: tuple[Buffer, ...]     # what the memory gets back when the chain was used


class Used(NamedTuple):
    """What came back: the chain, the length that the back end told, and as much of what it wrote."""

    chain: Chain
    length: int
    data: bytes


def cut(address: int, length: int, sizes: Iterable[int]) -> list[Buffer]:
    """Cut a range into buffers of the *sizes* as far as it goes, and one of what is left, if anything is.

    A size may be 0.
    """
    buffers = []
    for size in sizes:
        if not length:
            break
        n = min(size, length)
        buffers.append(Buffer(address, n))
        address, length = address + n, length - n
    if length:
        buffers.append(Buffer(address, length))
    return buffers


def needs_event(event: int, new: int, old: int) -> bool:
    """Tell whether *event* is one of the indices from *old* on and before *new* (virtio 1.2, 2.7.7.2)."""
    return (new - event - 1) % WRAP < (new - old) % WRAP


class SplitRing:
    """A ring of *size* entries, a power of two, in *region* of a guest's memory; zero everywhere.

    With *event_index* both sides say by an index when they want to hear (VIRTIO_F_EVENT_IDX), else by a flag.
    """

    def __init__(self, memory: GuestMemory, size: int = 256, *, event_index: bool = False,
                 region: int = 0, base: int = 0) -> None:
        assert size & (size - 1) == 0
        assert size <= MAX_SIZE
        self.memory, self.size, self.region = memory, size, region
        self.event_index = event_index
        self.descriptors = memory.take(DESCRIPTOR_LEN * size, region=region)
        self.available = memory.take(6 + 2 * size, alignment=2, region=region)
        self.used = memory.take(6 + ELEMENT_LEN * size, alignment=4, region=region)
        self.kick_fd = self.call_fd = -1
        self.outstanding: dict[int, Chain] = {}
        self.free = deque(range(size))
        self.published = self.taken = base  # the next index of the available ring, and of the used ring
        self.kicks = 0
        for address, length in self.parts():
            memory.write(address, bytes(length))
        if base:
            self.set_available_index(base)
            self.set_used_index(base)

    def parts(self) -> list[Buffer]:
        """Give descriptor table, available ring and used ring."""
        return [Buffer(self.descriptors, DESCRIPTOR_LEN * self.size),
                Buffer(self.available, 6 + 2 * self.size), Buffer(self.used, 6 + ELEMENT_LEN * self.size)]

    def user_addresses(self) -> tuple[int, int, int]:
        """Give the user addresses of descriptor table, used ring and available ring, in that order."""
        translate = self.memory.user_address
        return translate(self.descriptors), translate(self.used), translate(self.available)

    def open_events(self) -> tuple[int, int]:
        """Make new eventfds for kick and call, in place of those that there are; returns both, ours still."""
        self.close()
        self.kick_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.call_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        return self.kick_fd, self.call_fd

    def close(self) -> None:
        """Close both eventfds."""
        for fd in (self.kick_fd, self.call_fd):
            if fd >= 0:
                os.close(fd)
        self.kick_fd = self.call_fd = -1

    # Raw fields

    def descriptor(self, index: int) -> tuple[int, int, int, int]:
        """Read a descriptor: address, length, flags, next."""
        address, length, flags, following = self.memory.get(self.descriptors + DESCRIPTOR_LEN * index, "QIHH")
        return address, length, flags, following

    def set_descriptor(self, index: int, address: int = 0, length: int = 0, flags: int = 0,
                       following: int = 0) -> None:
        """Write a descriptor, any values."""
        place = self.descriptors + DESCRIPTOR_LEN * index
        self.memory.put(place, "QIHH", address, length, flags, following)

    def available_flags(self) -> int:
        """Read them."""
        return self.memory.get(self.available, "H")[0]

    def set_available_flags(self, flags: int) -> None:
        """Write them, such as NO_INTERRUPT."""
        self.memory.put(self.available, "H", flags)

    def available_index(self) -> int:
        """Read it."""
        return self.memory.get(self.available + 2, "H")[0]

    def set_available_index(self, index: int) -> None:
        """Write any value, modulo 2^16; what `publish` counts on does not change."""
        self.memory.put(self.available + 2, "H", index % WRAP)

    def set_available_entry(self, slot: int, head: int) -> None:
        """Write any value into a slot of the available ring, modulo the ring's size."""
        self.memory.put(self.available + 4 + 2 * (slot % self.size), "H", head)

    def used_event(self) -> int:
        """Read the index at which we want a call."""
        return self.memory.get(self.available + 4 + 2 * self.size, "H")[0]

    def set_used_event(self, index: int) -> None:
        """Write the index at which we want a call: when the used index goes beyond it."""
        self.memory.put(self.available + 4 + 2 * self.size, "H", index % WRAP)

    def used_flags(self) -> int:
        """Read them."""
        return self.memory.get(self.used, "H")[0]

    def set_used_flags(self, flags: int) -> None:
        """Write them; they are the back end's."""
        self.memory.put(self.used, "H", flags)

    def used_index(self) -> int:
        """Read it."""
        return self.memory.get(self.used + 2, "H")[0]

    def set_used_index(self, index: int) -> None:
        """Write any value; it is the back end's."""
        self.memory.put(self.used + 2, "H", index % WRAP)

    def used_entry(self, slot: int) -> tuple[int, int]:
        """Read an element of the used ring: head and length."""
        place = self.used + 4 + ELEMENT_LEN * (slot % self.size)
        head, length = self.memory.get(place, "II")
        return head, length

    def avail_event(self) -> int:
        """Read the index at which the back end wants a kick."""
        return self.memory.get(self.used + 4 + ELEMENT_LEN * self.size, "H")[0]

    def set_avail_event(self, index: int) -> None:
        """Write any value; it is the back end's."""
        self.memory.put(self.used + 4 + ELEMENT_LEN * self.size, "H", index % WRAP)

    # Chains

    def add(self, readable: Sequence[Buffer] = (), writable: Sequence[Buffer] = (), *,
            lent: Sequence[Buffer] = (), indirect: bool = False) -> Chain:
        """Write a chain into free descriptors, or with *indirect* into a table of its own.

        *lent* is given back to the memory when the chain has been used.
        """
        buffers = [*readable, *writable]
        flags = [*([0] * len(readable)), *([WRITE] * len(writable))]
        n = 1 if indirect else len(buffers)
        assert 0 < n <= len(self.free), "the descriptor table is full"
        indices = tuple(self.free.popleft() for _ in range(n))
        followers = [*(indices[1:] if not indirect else range(1, len(buffers))), 0]
        flags = [flag | NEXT for flag in flags[:-1]] + flags[-1:]
        rows = [(*buffer, flag, follower)
                for buffer, flag, follower in zip(buffers, flags, followers, strict=True)]
        if indirect:
            table = b"".join(DESCRIPTOR.pack(*row) for row in rows)
            place = Buffer(self.memory.take(len(table), region=self.region), len(table))
            self.memory.write(place.address, table)
            rows = [(*place, INDIRECT, 0)]
            lent = (*lent, place)
        for index, row in zip(indices, rows, strict=True):
            self.set_descriptor(index, *row)
        chain = Chain(indices[0], indices, tuple(readable), tuple(writable), tuple(lent))
        self.outstanding[chain.head] = chain
        return chain

    def publish(self, *heads: int | Chain) -> bool:
        """Make chains available, all at once; returns whether the back end wants a kick for that."""
        before = self.published
        for head in heads:
            self.set_available_entry(self.published, head.head if isinstance(head, Chain) else head)
            self.published = (self.published + 1) % WRAP
        self.set_available_index(self.published)
        if self.event_index:
            return needs_event(self.avail_event(), self.published, before)
        return not self.used_flags() & NO_NOTIFY

    def kick(self) -> None:
        """Tell the back end that there is something, whether it wants to know or not."""
        self.kicks += 1
        if self.kick_fd >= 0:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_write(self.kick_fd, 1)

    def post(self, *chains: Chain) -> None:
        """Make chains available as a driver does: with a kick if one is wanted."""
        if self.publish(*chains):
            self.kick()

    def withdraw(self, chain: Chain) -> None:
        """Take the descriptors of a chain back that the back end has not used, as when a ring is reset."""
        del self.outstanding[chain.head]
        self._release(chain)

    def _release(self, chain: Chain) -> None:
        self.free.extend(chain.indices)
        for buffer in chain.lent:
            self.memory.give_back(*buffer)

    # What comes back

    def called(self) -> bool:
        """Tell whether the back end has called since the last question."""
        try:
            return os.eventfd_read(self.call_fd) > 0
        except BlockingIOError:
            return False

    def await_call(self, timeout_s: float = 60.0) -> None:
        """Sleep until the back end has called."""
        assert is_readable(self.call_fd, timeout_s), f"no call within {timeout_s} s"
        self.called()

    def take(self, limit: int = WRAP) -> list[Used]:
        """Collect what was used, at most *limit* chains, and free it; asks to be called for the next."""
        n_new = (self.used_index() - self.taken) % WRAP
        assert n_new <= len(self.outstanding), f"{n_new} chains used, {len(self.outstanding)} were given"
        found = [self._take_one() for _ in range(min(n_new, limit))]
        if self.event_index:
            self.set_used_event(self.taken)
        return found

    def _take_one(self) -> Used:
        head, length = self.used_entry(self.taken)
        assert head in self.outstanding, f"used {head}, which was not given"
        chain = self.outstanding.pop(head)
        self.taken = (self.taken + 1) % WRAP
        left = length
        assert left <= sum(buffer.length for buffer in chain.writable), f"{length} bytes in {chain}"
        parts = []
        for buffer in chain.writable:
            n = min(left, buffer.length)
            parts.append(self.memory.read(buffer.address, n))
            left -= n
        self._release(chain)
        return Used(chain, length, b"".join(parts))
