"""The ports bound in a network namespace, which `auto` port options follow.

Theory of operation. A scanner asks for the ports of listening TCP sockets and of UDP sockets that are bound
and not connected. It has one of two sources. Both are opened in the namespace to be watched, belong to it for
good, and can be read from any namespace afterwards:

* a sock_diag(7) socket: one dump per protocol and family, filtered by state in the kernel, so that
  connections cost nothing. It takes no privilege. The kernel's answer, or its first part, is there when
  send(2) returns, so a scan never waits.
* the files tcp, tcp6, udp, udp6 of /proc/self/net (proc_pid_net(5)), if the kernel lacks the modules
  tcp_diag or udp_diag: each scan reads them from their start, connections included.

A process with CAP_NET_ADMIN in the namespace may send to any netlink socket there (netlink(7)). So the
sock_diag socket is connected to the kernel, which makes the kernel refuse datagrams of other senders; those
that came before are dropped by their sender's address. Each request has a number of its own; answers to an
older request, which failed half-way, are dropped as well.

Our own sockets that look like services, as those of UDP flows do, are left out by their inode numbers:
another socket may have the same port at another address.
"""

from __future__ import annotations

import os
import socket
import struct
from errno import EBADMSG, EPROTO

from passt.host.descriptors import open_null

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from collections.abc import Set as AbstractSet

TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
FILES = ((TCP, "tcp"), (TCP, "tcp6"), (UDP, "udp"), (UDP, "udp6"))

# linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h, linux/tcp_states.h
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST_DUMP = 0x001 | 0x300
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_TCP_CLOSE = 7                    # of a UDP socket: bound, not connected
_TCP_LISTEN = 10
_STATES = {TCP: _TCP_LISTEN, UDP: _TCP_CLOSE}
_HEADER = struct.Struct("=IHHII")
# inet_diag_req_v2: family, protocol, ext, pad, states, and an inet_diag_sockid that matches all
_REQUEST = struct.Struct("=BBBBI48x")
_STATUS = struct.Struct("=i")
# Offset of the source port in a reply: behind the header and four bytes of inet_diag_msg.
_PORT_OFFSET = _HEADER.size + 4
# Offset of the inode: the last field, after 48 bytes of socket addresses and 16 of counts.
_INODE = struct.Struct("=I")
_INODE_OFFSET = _PORT_OFFSET + 48 + 16
_ENTRY_LEN = _INODE_OFFSET + _INODE.size
_BUFFER_LEN = 1 << 16             # a dump datagram has 32 KiB at most
# Datagrams read for one dump, enough for two million sockets; dropped ones count too.
_MAX_DATAGRAMS = 1 << 13


class PortScanner:
    """Reads the bound ports; owns *fds*, the descriptors of `open_sources`.

    *own_udp* returns the descriptors of UDP sockets to leave out; *own* are those of others of ours.
    """

    def __init__(self, fds: Sequence[int], own_udp: Callable[[], Iterable[int]] | None = None,
                 own: Iterable[int] = ()) -> None:
        self._own_udp = own_udp
        self._own = frozenset(os.fstat(fd).st_ino for fd in own)
        self._diag = None if len(fds) == len(FILES) else DiagSocket(socket.socket(fileno=fds[0]))
        self._files = list(fds) if self._diag is None else []

    def close(self) -> None:
        """Close the sources."""
        if self._diag is not None:
            self._diag.socket.close()
        for fd in self._files:
            os.close(fd)
        self._files = []

    def scan(self, protos: Iterable[int]) -> dict[int, set[int]]:
        """Read the ports bound now, for each of *protos*.

        Raises OSError if the kernel refuses, or its answers are lost (ENOBUFS) or invalid; try again later.
        """
        found = {}
        for proto in protos:
            own: AbstractSet[int] = self._own
            if proto == UDP and self._own_udp is not None:
                own = own | {os.fstat(fd).st_ino for fd in self._own_udp()}
            if self._diag is None:
                found[proto] = self._scan_files(proto, own)
            else:
                found[proto] = self._diag.dump(proto, own)
        return found

    def _scan_files(self, proto: int, own: AbstractSet[int]) -> set[int]:
        ports: set[int] = set()
        for fd, (kind, _) in zip(self._files, FILES, strict=True):
            if kind == proto:
                ports |= parse_table(_read_all(fd), _STATES[proto], own)
        return ports


def open_sources(*, use_diag: bool = True, root: str = "/proc/self/net") -> list[int]:
    """Open the sources of a scanner of the current network namespace: one socket, or one file per table.

    Close-on-exec. With *use_diag* False, files are opened. Raises OSError.
    """
    if use_diag:
        try:
            return [_open_diag()]
        except OSError:
            pass
    fds: list[int] = []
    try:
        for _, name in FILES:
            try:
                fds.append(os.open(f"{root}/{name}", os.O_RDONLY | os.O_CLOEXEC))
            except FileNotFoundError:
                # IPv6 is compiled out or switched off: an empty table.
                fds.append(open_null())
    except OSError:
        for fd in fds:
            os.close(fd)
        raise
    return fds


def _open_diag() -> int:
    """Open a sock_diag socket, and check that it answers for both protocols."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
    try:
        sock.connect((0, 0))
        for proto in (TCP, UDP):
            DiagSocket(sock).dump(proto, families=(socket.AF_INET,))
    except BaseException:
        sock.close()
        raise
    return sock.detach()


class DiagSocket:
    """Sends requests to *sock*, a sock_diag socket connected to the kernel, and makes it non-blocking."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        # The child has used the socket before: with a start at random no answer to it has a number of ours.
        self._sequence = int.from_bytes(os.urandom(4), "big")

    def dump(self, proto: int, own: AbstractSet[int] = frozenset(),
             families: Iterable[int] = (socket.AF_INET, socket.AF_INET6)) -> set[int]:
        """Read the ports of *proto* without those of sockets with the inodes *own*. Raises OSError."""
        ports: set[int] = set()
        for family in families:
            request = _REQUEST.pack(family, proto, 0, 0, 1 << _STATES[proto])
            self._sequence = (self._sequence + 1) & 0xFFFF_FFFF
            header = _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP,
                                  self._sequence, 0)
            self._drop_old()
            self.socket.send(header + request)
            self._receive_dump(ports, own)
        return ports

    def _drop_old(self) -> None:
        """Read the rest of a failed dump, before which the kernel refuses another dump (EBUSY)."""
        for _ in range(_MAX_DATAGRAMS):
            try:
                self.socket.recvfrom(_BUFFER_LEN)
            except BlockingIOError:
                return
            except OSError:
                continue          # an overrun of the old dump, reported once

    def _receive_dump(self, ports: set[int], own: AbstractSet[int]) -> None:
        for _ in range(_MAX_DATAGRAMS):
            data, sender = self.socket.recvfrom(_BUFFER_LEN)
            if sender[0] == 0 and not take_ports(data, self._sequence, ports, own):
                return
        raise OSError(EPROTO, "sock_diag: the answer has no end")


def take_ports(data: bytes, sequence: int, ports: set[int], own: AbstractSet[int]) -> bool:
    """Add the ports of one datagram that answers request *sequence*, without sockets with the inodes *own*.

    Returns False for the last datagram, True for others, those of other requests included. Raises OSError if
    it is a refusal, or no message of the kernel.
    """
    offset, end = 0, len(data)
    unpack = _HEADER.unpack_from
    while offset < end:
        if end - offset < _HEADER.size:
            raise _malformed(f"{end - offset} bytes where a message header takes {_HEADER.size}")
        length, kind, _, number, _ = unpack(data, offset)
        if not _HEADER.size <= length <= end - offset:
            raise _malformed(f"message of length {length} in {end - offset} bytes")
        if number == sequence:
            if kind == _SOCK_DIAG_BY_FAMILY:
                if length < _ENTRY_LEN:
                    raise _malformed(f"socket of {length} bytes, need {_ENTRY_LEN}")
                place = offset + _PORT_OFFSET
                if not own or _INODE.unpack_from(data, offset + _INODE_OFFSET)[0] not in own:
                    ports.add(data[place] << 8 | data[place + 1])
            elif kind in {_NLMSG_DONE, _NLMSG_ERROR}:
                _check_status(data[offset + _HEADER.size:offset + length])
                return False
        offset += (length + 3) & ~3
    return True


def _check_status(payload: bytes) -> None:
    """Raise OSError if the message that ends a dump has an errno, or is too short for one."""
    if len(payload) < _STATUS.size:
        raise _malformed(f"status of {len(payload)} bytes, need {_STATUS.size}")
    code = -_STATUS.unpack_from(payload)[0]
    if code > 0:
        raise OSError(code, f"sock_diag: {os.strerror(code)}")


def _malformed(what: str) -> OSError:
    return OSError(EBADMSG, f"sock_diag: {what}")


def parse_table(text: bytes, state: int, own: AbstractSet[int] = frozenset()) -> set[int]:
    """Return the local ports of the sockets in *state* in a table of /proc/net (title line first).

    Sockets with the inodes *own* are left out.
    """
    wanted = b"%02X" % state
    ports = set()
    for line in text.splitlines()[1:]:
        fields = line.split(None, 10)
        if len(fields) < 5 or fields[3] != wanted:
            continue
        try:
            if not (own and len(fields) > 9 and int(fields[9]) in own):
                ports.add(int(fields[1].rpartition(b":")[2], 16) & 0xFFFF)
        except ValueError:
            continue
    return ports


def _read_all(fd: int) -> bytes:
    os.lseek(fd, 0, os.SEEK_SET)
    pieces = []
    while piece := os.read(fd, _BUFFER_LEN):
        pieces.append(piece)
    return b"".join(pieces)
