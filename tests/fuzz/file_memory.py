"""Guest memory that is read and written by system calls only: a file that was cut off harms nobody here."""

from __future__ import annotations

import os
import struct

from tests.support.guest_memory import GuestMemory, Region


class FileMemory(GuestMemory):
    """As `GuestMemory`; what lies behind the end of a file reads as zeros, and is not written."""

    def close(self) -> None:
        """Close the files; they are not mapped."""
        for region in self.regions:
            region.close()
        self.regions.clear()

    def _file(self, guest_address: int) -> tuple[Region, int]:
        region = self.find(guest_address)
        return region, region.mmap_offset + guest_address - region.guest_address

    def read(self, guest_address: int, length: int) -> bytes:
        """Read *length* bytes."""
        return b"".join(os.pread(region.fd, n, at).ljust(n, b"\0")
                        for region, at, n in self._parts(guest_address, length))

    def write(self, guest_address: int, data: bytes) -> None:
        """Write *data* as far as the files go."""
        done = 0
        for region, at, n in self._parts(guest_address, len(data)):
            room = max(min(n, os.fstat(region.fd).st_size - at), 0)
            if room:
                os.pwrite(region.fd, data[done : done + room], at)
            done += n

    def put(self, guest_address: int, form: str, *values: int) -> None:
        """Write numbers."""
        self.write(guest_address, struct.pack("@" + form, *values))

    def get(self, guest_address: int, form: str) -> tuple[int, ...]:
        """Read numbers."""
        return struct.unpack("@" + form, self.read(guest_address, struct.calcsize("@" + form)))
