"""The log of pages that a back end wrote, for a migration (QEMU's Vhost-user Protocol, Migration)."""

from __future__ import annotations

import os

PAGE = 4096


class DirtyLog:
    """A bit for each page of guest memory below *end*, from *offset* on of a file that is shared."""

    def __init__(self, end: int, *, offset: int = 0) -> None:
        self.size, self.offset = -(-end // PAGE // 8), offset
        self.fd = os.memfd_create("log")
        os.ftruncate(self.fd, offset + self.size)

    def close(self) -> None:
        """Close the file."""
        os.close(self.fd)

    def take(self) -> set[int]:
        """Give the numbers of the pages that are dirty, and make them clean."""
        bits = os.pread(self.fd, self.size, self.offset)
        os.pwrite(self.fd, bytes(self.size), self.offset)
        return {8 * at + bit for at, byte in enumerate(bits) for bit in range(8) if byte >> bit & 1}


def pages(address: int, length: int) -> set[int]:
    """Give the numbers of the pages that a range touches."""
    return set(range(address // PAGE, (address + length - 1) // PAGE + 1)) if length else set()
