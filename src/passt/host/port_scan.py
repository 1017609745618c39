"""Which ports are bound in a network namespace: what `auto` port options follow.

Theory of operation. A scanner asks for TCP sockets that listen and UDP sockets that are bound and not
connected; only their ports count. It has one of two sources, both opened in the namespace to be
watched, which they belong to for good, and usable from anywhere afterwards:

* a sock_diag(7) socket: one dump per protocol and family, filtered by state in the kernel, so that
  connections cost nothing. No privilege is needed. Two binary fields are read per socket.
* the files tcp, tcp6, udp, udp6 of /proc/self/net (proc_pid_net(5)), where the kernel lacks the
  modules tcp_diag or udp_diag: read from their start each time, connections and all.

Sockets of our own that look like services, as those of UDP flows do, are told apart by their inodes:
another socket may have the same port at another address.
"""

from __future__ import annotations

import os
import socket
import struct

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
_TCP_CLOSE = 7                    # of a UDP socket: bound and not connected
_TCP_LISTEN = 10
_STATES = {TCP: _TCP_LISTEN, UDP: _TCP_CLOSE}
_HEADER = struct.Struct("=IHHII")
# inet_diag_req_v2: family, protocol, ext, pad, states, and an inet_diag_sockid that matches all
_REQUEST = struct.Struct("=BBBBI48x")
_STATUS = struct.Struct("=i")
# Where the source port lies in a reply: behind the header and four bytes of inet_diag_msg.
_PORT_OFFSET = _HEADER.size + 4
# And the inode: the last of the message's fields, after 48 bytes of socket addresses and 16 of counts.
_INODE = struct.Struct("=I")
_INODE_OFFSET = _PORT_OFFSET + 48 + 16
_BUFFER_LEN = 1 << 16             # a dump datagram has 32 KiB at most


class PortScanner:
    """Reads the ports that are bound; *fds* as given by `open_sources`, which it owns.

    *own_udp* gives the descriptors of UDP sockets that are not to count.
    """

    def __init__(self, fds: Sequence[int], own_udp: Callable[[], Iterable[int]] | None = None) -> None:
        self._own_udp = own_udp
        self._socket = None if len(fds) == len(FILES) else socket.socket(fileno=fds[0])
        self._files = list(fds) if self._socket is None else []
        if self._socket is not None:
            self._socket.setblocking(False)

    def close(self) -> None:
        """Close the sources."""
        if self._socket is not None:
            self._socket.close()
        for fd in self._files:
            os.close(fd)
        self._files = []

    def scan(self, protos: Iterable[int]) -> dict[int, set[int]]:
        """Read the ports bound now, for each of *protos*. Raises OSError if the kernel refuses."""
        found = {}
        for proto in protos:
            own: AbstractSet[int] = frozenset()
            if proto == UDP and self._own_udp is not None:
                own = {os.fstat(fd).st_ino for fd in self._own_udp()}
            if self._socket is None:
                found[proto] = self._scan_files(proto, own)
            else:
                found[proto] = _dump(self._socket, proto, own)
        return found

    def _scan_files(self, proto: int, own: AbstractSet[int]) -> set[int]:
        ports: set[int] = set()
        for fd, (kind, _) in zip(self._files, FILES, strict=True):
            if kind == proto:
                ports |= parse_table(_read_all(fd), _STATES[proto], own)
        return ports


def open_sources(*, use_diag: bool = True, root: str = "/proc/self/net") -> list[int]:
    """Open what a scanner of the current network namespace needs: one socket, or one file per table.

    Close-on-exec. *use_diag* False does without sock_diag. Raises OSError.
    """
    if use_diag:
        try:
            return [_open_diag()]
        except OSError:
            pass
    fds: list[int] = []
    for _, name in FILES:
        try:
            fds.append(os.open(f"{root}/{name}", os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            # IPv6 is compiled out or switched off: an empty table.
            fds.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    return fds


def _open_diag() -> int:
    """Open a sock_diag socket that has proved to answer for both protocols."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
    try:
        for proto in (TCP, UDP):
            _dump(sock, proto, families=(socket.AF_INET,))
    except BaseException:
        sock.close()
        raise
    return sock.detach()


def _dump(sock: socket.socket, proto: int, own: AbstractSet[int] = frozenset(),
          families: Iterable[int] = (socket.AF_INET, socket.AF_INET6)) -> set[int]:
    ports: set[int] = set()
    for family in families:
        request = _REQUEST.pack(family, proto, 0, 0, 1 << _STATES[proto])
        sock.send(_HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 0, 0)
                  + request)
        while _take_ports(sock.recv(_BUFFER_LEN), ports, own):
            continue
    return ports


def _take_ports(data: bytes, ports: set[int], own: AbstractSet[int]) -> bool:
    """Add the ports of one dump datagram, but for sockets with the inodes *own*; False if it was the last.

    Raises OSError if it is a refusal.
    """
    offset = 0
    unpack = _HEADER.unpack_from
    while offset < len(data):
        length, kind, _, _, _ = unpack(data, offset)
        if kind == _SOCK_DIAG_BY_FAMILY:
            place = offset + _PORT_OFFSET
            if not own or _INODE.unpack_from(data, offset + _INODE_OFFSET)[0] not in own:
                ports.add(data[place] << 8 | data[place + 1])
        elif kind in {_NLMSG_DONE, _NLMSG_ERROR}:
            code = -_STATUS.unpack_from(data, offset + _HEADER.size)[0]
            if code:
                raise OSError(code, f"sock_diag: {os.strerror(code)}")
            return False
        offset += (length + 3) & ~3
    return True


def parse_table(text: bytes, state: int, own: AbstractSet[int] = frozenset()) -> set[int]:
    """Read the local ports of the sockets in *state* out of a table of /proc/net (title line first).

    Sockets with the inodes *own* are left out.
    """
    wanted = b"%02X" % state
    ports = set()
    for line in text.splitlines()[1:]:
        fields = line.split(None, 10)
        if len(fields) < 5 or fields[3] != wanted or (own and len(fields) > 9 and int(fields[9]) in own):
            continue
        ports.add(int(fields[1].rpartition(b":")[2], 16))
    return ports


def _read_all(fd: int) -> bytes:
    os.lseek(fd, 0, os.SEEK_SET)
    pieces = []
    while piece := os.read(fd, _BUFFER_LEN):
        pieces.append(piece)
    return b"".join(pieces)
