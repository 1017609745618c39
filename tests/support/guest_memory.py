"""The memory of a virtual machine that is none: regions in files without a name, mapped here and shared.

Addresses that front end and back end exchange are of two kinds, and no number is one of both here: guest
addresses count from 0, user addresses (virtual ones of the front end) from `FIRST_USER`. Both are only names:
the bytes lie wherever the kernel mapped the file.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import TYPE_CHECKING, NamedTuple

from passt.facts.contracts import MemoryRegion

if TYPE_CHECKING:
    from collections.abc import Sequence

MIB = 1 << 20
PAGE = 4096
SEAM = 1 << 16                   # at both ends of each region: kept for what crosses a border
FIRST_USER = 0x7F00_0000_0000
ABOVE_HOLE = 1 << 32             # where a machine has the memory that does not fit below its devices


class Region:
    """*size* bytes at *guest_address*: those from *mmap_offset* on of a file that is mapped here whole."""

    def __init__(self, guest_address: int, size: int, *, mmap_offset: int = 0,
                 user_address: int | None = None, fd: int = -1) -> None:
        self.guest_address, self.size, self.mmap_offset = guest_address, size, mmap_offset
        self.user_address = FIRST_USER + guest_address if user_address is None else user_address
        if fd < 0:
            fd = os.memfd_create("guest")
            os.ftruncate(fd, mmap_offset + size)
        self.fd = fd
        self.map = mmap.mmap(fd, mmap_offset + size)

    def __contains__(self, guest_address: int) -> bool:
        return self.guest_address <= guest_address < self.guest_address + self.size

    @property
    def told(self) -> MemoryRegion:
        """What the back end is told; the descriptor stays ours."""
        return MemoryRegion(self.guest_address, self.size, self.user_address, self.mmap_offset, self.fd)

    def truncate(self, size: int) -> None:
        """Cut the file to *size* bytes: whoever touches a page behind them gets SIGBUS, this process too."""
        os.ftruncate(self.fd, size)

    def close(self) -> None:
        """Unmap and close."""
        self.map.close()
        os.close(self.fd)


class Buffer(NamedTuple):
    """What one descriptor points to."""

    address: int
    length: int


class GuestMemory:
    """All regions, read and written by guest addresses, and a place to take buffers from.

    The default has two regions that touch each other, in files of their own, the second one not at the start
    of its file and with user addresses that do not follow on; and a third one above 4 GiB.
    """

    def __init__(self, *regions: Region) -> None:
        self.regions = list(regions or (
            Region(0, 16 * MIB),
            Region(16 * MIB, 16 * MIB, mmap_offset=3 * PAGE, user_address=FIRST_USER + 256 * MIB),
            Region(ABOVE_HOLE, 16 * MIB),
        ))
        self._next = {region.guest_address: region.guest_address + SEAM for region in self.regions}
        self._free: dict[tuple[int, int], list[int]] = {}

    def close(self) -> None:
        """Give back all."""
        for region in self.regions:
            region.close()
        self.regions.clear()

    def told(self) -> list[MemoryRegion]:
        """What the back end is told of all regions."""
        return [region.told for region in self.regions]

    # Bytes

    def find(self, guest_address: int) -> Region:
        """Give the region of an address. Raises KeyError."""
        for region in self.regions:
            if guest_address in region:
                return region
        raise KeyError(f"no region has {guest_address:#x}")

    def place(self, guest_address: int) -> tuple[mmap.mmap, int]:
        """Give the mapping in which an address lies, and the offset there."""
        region = self.find(guest_address)
        return region.map, region.mmap_offset + guest_address - region.guest_address

    def user_address(self, guest_address: int) -> int:
        """Translate to the kind of address by which rings are named."""
        region = self.find(guest_address)
        return region.user_address + guest_address - region.guest_address

    def _parts(self, guest_address: int, length: int) -> Sequence[tuple[Region, int, int]]:
        """Cut a range at the borders of regions: region, offset in its mapping, length."""
        parts = []
        while length:
            region = self.find(guest_address)
            n = min(length, region.guest_address + region.size - guest_address)
            parts.append((region, region.mmap_offset + guest_address - region.guest_address, n))
            guest_address, length = guest_address + n, length - n
        return parts

    def read(self, guest_address: int, length: int) -> bytes:
        """Read *length* bytes, from several regions if need be."""
        return b"".join(region.map[at : at + n] for region, at, n in self._parts(guest_address, length))

    def write(self, guest_address: int, data: bytes) -> None:
        """Write *data*, to several regions if need be."""
        done = 0
        for region, at, n in self._parts(guest_address, len(data)):
            region.map[at : at + n] = data[done : done + n]
            done += n

    def put(self, guest_address: int, form: str, *values: int) -> None:
        """Write numbers as struct(3) has them. One of 2 bytes is written at once, as a driver writes it."""
        # Only native forms (@) are: others go byte by byte.
        struct.pack_into("@" + form, *self.place(guest_address), *values)

    def get(self, guest_address: int, form: str) -> tuple[int, ...]:
        """Read numbers as struct(3) has them."""
        return struct.unpack_from("@" + form, *self.place(guest_address))

    # Buffers

    def take(self, length: int, *, alignment: int = 16, region: int = 0) -> int:
        """Take *length* bytes of the region of that number; returns the address. Raises MemoryError."""
        free = self._free.get((region, length))
        if free and not free[-1] % alignment:
            return free.pop()
        lent = self.regions[region]
        address = self._next[lent.guest_address] + -self._next[lent.guest_address] % alignment
        if address + length > lent.guest_address + lent.size - SEAM:
            raise MemoryError(f"region {region} has no {length} bytes left")
        self._next[lent.guest_address] = address + length
        return address

    def give_back(self, address: int, length: int) -> None:
        """Return what `take` gave: the next one who wants as much there gets it."""
        for number, region in enumerate(self.regions):
            if address in region and address + length <= region.guest_address + region.size:
                self._free.setdefault((number, length), []).append(address)

    def across(self, length: int) -> int:
        """Give the address of 2 to 2 * SEAM bytes, half of them in region 0, half in region 1.

        It is the same place each time: one buffer at a time can cross the border.
        """
        first, second = self.regions[:2]
        assert first.guest_address + first.size == second.guest_address
        return second.guest_address - length // 2
