"""The search for a free passt.

A passt serves one client at a time; it accepts another one and closes it at once. So a connection alone does
not show that a passt is free. We send a question that every passt answers, an ARP request for IPv4 and a
neighbour solicitation for IPv6, and wait for the first byte of an answer. The answer stays in the socket:
QEMU reads it as a whole frame, which its guest ignores.

If a passt closes the connection, we try again, because the virtual machine that it serves may be about to
end, as in a restart. The default paths are tried in order, and a free passt on a later path is not preferred
to a busy one: a user who counts on the order would get the forwarded ports of another virtual machine.

A path on which another user listens, the user who called listen(2), is left out unless that user is root.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from passt import log
from passt.errors import HostError
from passt.wire.arp import ArpOp, ArpPacket
from passt.wire.ethernet import EthernetFrame, EtherType
from passt.wire.icmp6 import Icmp6Message, Icmp6Type
from passt.wire.ip4 import IpProtocol
from passt.wire.ip6 import Ip6Packet

if TYPE_CHECKING:
    from collections.abc import Sequence

ANSWER_S = 0.5
PAUSE_S = 0.05
MAX_RETRIES = 50
PATHS = tuple(f"/tmp/passt_{number}.socket" for number in range(1, 100))  # noqa: S108 - passt's default paths

_PEER_CREDENTIALS = struct.Struct("3i")  # struct ucred, unix(7): pid, uid, gid
_BROADCAST = b"\xff" * 6
_NO_MAC = bytes(6)
# Locally administered; passt takes it for the guest's address until the guest sends a frame.
_OUR_MAC = bytes.fromhex("020000000001")
_OUR_LINK_LOCAL = IPv6Address("fe80::ff:fe00:1")
_TARGET = IPv6Address("fe80::1")
_TARGET_GROUP = IPv6Address("ff02::1:ff00:1")


def questions() -> bytes:
    """Make the ARP request (42 bytes) and the neighbour solicitation (78), each behind its length."""
    nowhere = IPv4Address(0)
    request = ArpPacket(ArpOp.REQUEST, _NO_MAC, nowhere, _NO_MAC, nowhere).build()
    # RFC 4861 4.3: four reserved bytes and the target; no option, so that passt learns nothing of us.
    icmp = Icmp6Message(Icmp6Type.NEIGHBOUR_SOLICITATION, 0, bytes(4) + _TARGET.packed)
    packet = Ip6Packet(_OUR_LINK_LOCAL, _TARGET_GROUP, IpProtocol.ICMP6,
                       icmp.build(_OUR_LINK_LOCAL, _TARGET_GROUP)).build()
    frames = (EthernetFrame(_BROADCAST, _OUR_MAC, EtherType.ARP, request).build(),
              EthernetFrame(_BROADCAST, _OUR_MAC, EtherType.IP6, packet).build())
    return b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames)


def connect(paths: Sequence[str] = PATHS, *, answer_s: float = ANSWER_S,
            pause_s: float = PAUSE_S) -> socket.socket:
    """Return a blocking socket that is connected to the first passt of *paths* that answers.

    Each passt has *answer_s* seconds to answer; one that closes is tried again up to 50 times, *pause_s*
    seconds apart. Logs why a path with a socket is left out. Raises HostError if no passt answers.
    """
    for path in paths:
        try:
            found = _connect_when_free(path, answer_s, pause_s)
        except FileNotFoundError:
            continue
        except OSError as error:
            log.warning(f"qrap: {path}: {_reason(error, answer_s)}")
            continue
        log.info(f"Connected to {path}")
        return found
    raise HostError(f"no passt is free on any socket from {paths[0]} to {paths[-1]}; start one first")


def _reason(error: OSError, answer_s: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {answer_s:g} s; this is no passt, or it is stuck"
    if isinstance(error, ConnectionRefusedError):
        return "no process listens there any more"
    if _is_busy(error):
        return "passt is busy with another client"
    return error.strerror or str(error)


def _is_busy(error: OSError) -> bool:
    """Tell whether passt has closed the connection, or its queue of connections is full (EAGAIN)."""
    return isinstance(error, (ConnectionResetError, BrokenPipeError, BlockingIOError))


def _connect_when_free(path: str, answer_s: float, pause_s: float) -> socket.socket:
    for _ in range(MAX_RETRIES):
        try:
            return _connect(path, answer_s)
        except OSError as error:
            if not _is_busy(error):
                raise
        time.sleep(pause_s)
    return _connect(path, answer_s)


def _connect(path: str, answer_s: float) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(answer_s)
        sock.connect(path)
        _check_owner(sock)
        _ask(sock)
        sock.setblocking(True)
    except BaseException:
        sock.close()
        raise
    return sock


def _check_owner(sock: socket.socket) -> None:
    """Refuse a listener of another user, except root: in /tmp any user may take a path."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    uid = _PEER_CREDENTIALS.unpack(raw)[1]
    if uid not in (os.geteuid(), 0):
        raise PermissionError(errno.EPERM, f"another user (UID {uid}) listens there, who could see and change"
                              " all traffic")


def _ask(sock: socket.socket) -> None:
    sock.sendall(questions())
    if not sock.recv(1, socket.MSG_PEEK):
        raise ConnectionResetError
