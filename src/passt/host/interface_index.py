"""The index of a network interface by its name, with the reason where there is none.

if_nametoindex(3) opens a socket, and socket.if_nametoindex() says "no interface with this name" when that
fails too, so that a process without free descriptors would name the wrong cause.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct

_SIOCGIFINDEX = 0x8933            # linux/sockios.h
_SO_BINDTOIFINDEX = 62            # asm-generic/socket.h, from Linux 5.1 on
_IFREQ = struct.Struct("16si20x")  # netdevice(7), struct ifreq: name, index


def interface_index(name: str) -> int:
    """Return the index of interface *name* in this network namespace; raises OSError as `index_seen_by`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        return index_seen_by(sock.fileno(), name)


def bound_index(fd: int) -> int:
    """Return the index of the interface that socket *fd* is bound to; 0: to none, or it cannot be told.

    A socket is bound by SO_BINDTODEVICE, or by the scope of the link-local address that it is bound to.
    """
    sock = socket.socket(fileno=fd)
    try:
        return sock.getsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX)
    except OSError:
        return 0
    finally:
        sock.detach()


def index_seen_by(fd: int, name: str) -> int:
    """Return the index of interface *name* in the network namespace of socket *fd*.

    Raises OSError: with ENODEV if there is no such interface, otherwise for what hindered us to look.
    """
    encoded = os.fsencode(name)
    if not encoded or len(encoded) > 15 or b"\0" in encoded:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
    index: int = _IFREQ.unpack(fcntl.ioctl(fd, _SIOCGIFINDEX, _IFREQ.pack(encoded, 0)))[1]
    return index
