"""The file of a packet capture: made here, at start, and written by `dataplane.capture`.

The layout is pcap-savefile(5) in host byte order, so that it can be written without conversions; readers
tell the order from the magic number.
"""

from __future__ import annotations

import errno
import os
import stat
import struct

from passt.errors import HostError

MAGIC = 0xA1B2C3D4       # time stamps in microseconds
VERSION = (2, 4)
LINKTYPE_ETHERNET = 1
# The longest record that readers have to expect: frames that travel in one piece are longer than 64 KiB by
# their Ethernet header. It is what tcpdump(1) writes.
SNAP_LEN = 262144
MODE = 0o600             # a capture shows what others are not to see


def header() -> bytes:
    """Give the file header."""
    return struct.pack("=IHHiIII", MAGIC, *VERSION, 0, 0, SNAP_LEN, LINKTYPE_ETHERNET)


def create(path: str) -> int:
    """Open *path* for a capture, empty but for the header; returns the descriptor. Raises HostError.

    It may be a pipe, for a reader of live captures; that never makes us wait once it is open.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOCTTY, MODE)
    except OSError as error:
        raise HostError(explain(path, error.errno or 0)) from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.set_blocking(fd, False)
        n = os.write(fd, header())
    except OSError as error:
        os.close(fd)
        raise HostError(explain(path, error.errno or 0)) from None
    if n != len(header()):
        os.close(fd)
        raise HostError(explain(path, errno.ENOSPC))
    return fd


def explain(path: str, number: int) -> str:
    """Say in one line why the capture cannot be made, and what helps."""
    hint = "leave --pcap out, or name another file"
    if number in (errno.ENOSPC, errno.EDQUOT):
        hint = "make room there, or name a file on another file system"
    return f"option '--pcap': cannot write '{path}': {os.strerror(number)}; {hint}"


def explain_end(path: str, number: int) -> str:
    """Say that a capture that had begun ends by error *number*."""
    return f"the packet capture to '{path}' ends here: {os.strerror(number)}; the network goes on without it"
