"""The file of a packet capture: created here at the start, written by `dataplane.observe.capture`.

The layout is pcap-savefile(5) in host byte order, so that it can be written without conversions; readers
tell the order from the magic number.
"""

from __future__ import annotations

import errno
import os
import stat
import struct

from passt.errors import HostError
from passt.log.output_file import open_output

MAGIC = 0xA1B2C3D4       # time stamps in microseconds
VERSION = (2, 4)
LINKTYPE_ETHERNET = 1
# The longest record that readers have to expect: frames that travel in one piece are longer than 64 KiB by
# their Ethernet header. It is what tcpdump(1) writes.
SNAP_LEN = 262144
READER_S = 2.0           # how long a pipe waits for its reader, which may be about to start


def header() -> bytes:
    """Give the file header."""
    return struct.pack("=IHHiIII", MAGIC, *VERSION, 0, 0, SNAP_LEN, LINKTYPE_ETHERNET)


def create(path: str) -> tuple[int, str | None]:
    """Open *path* for a capture, write the file header; return (descriptor, path of the file if created).

    *path* may be a named pipe for a live capture; its reader has to open it within two seconds.
    Raises HostError.
    """
    try:
        fd, made = open_output(path, os.O_WRONLY, READER_S)
    except (OSError, ValueError) as error:
        raise HostError(explain(path, error)) from None
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            os.ftruncate(fd, 0)
            os.set_blocking(fd, True)
        n = os.write(fd, header())
        failure = None if n == len(header()) else OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        failure = error
    if failure is None:
        return fd, made
    os.close(fd)
    if made is not None:
        os.unlink(made)
    raise HostError(explain(path, failure))


def explain(path: str, error: OSError | ValueError) -> str:
    """Word in one line why the capture file cannot be made, and what helps."""
    number = error.errno if isinstance(error, OSError) else None
    why = error.strerror if isinstance(error, OSError) else "not a path"
    hint = "leave --pcap out, or name another file"
    if number == errno.ENXIO:
        hint = "no process reads this pipe: start its reader first"
    if number in (errno.ENOSPC, errno.EDQUOT):
        hint = "make room there, or name a file on another file system"
    return f"option '--pcap': cannot write '{path}': {why}; {hint}"


def explain_end(path: str, number: int) -> str:
    """Word that the capture ends because of the errno *number*."""
    return f"the packet capture to '{path}' ends here: {os.strerror(number)}; the network goes on without it"
