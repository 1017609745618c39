"""rtnetlink messages of neighbours, and a socket on which the kernel tells of them.

Source: rtnetlink(7), arp(7), linux/neighbour.h.

    payload = ndmsg(12: u8 family, 3 bytes padding, i32 interface, u16 state, u8 flags, u8 type) { attribute }

The kernel tells of each change of an entry, that of its state too, so a busy network makes several messages
for each neighbour and minute. A message says all of an entry, so the table need not be read again for it; but
when messages were lost, it has to be.
"""

from __future__ import annotations

from struct import Struct

from passt.errors import HostError
from passt.host.rtnetlink.messages import (
    ADDRESS_LEN,
    build_attribute,
    expect_address,
    expect_header,
    family_of,
    parse_attributes,
    parse_messages,
)
from passt.light.values import IntEnum, Value

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from typing import Self

    from passt.host.rtnetlink.socket import RtnlSocket
    from passt.host.rtnetlink.watch import GroupSocket

_NEIGHBOUR = Struct("=BxxxiHBB")
_U32 = Struct("=I")


class NeighbourType(IntEnum):
    """Values of nlmsg_type (RTM_*NEIGH)."""

    NEW = 28
    DEL = 29
    GET = 30


class NeighbourAttribute(IntEnum):
    """NDA_*."""

    DST = 1
    LLADDR = 2
    IFINDEX = 8


class NeighbourState(IntEnum):
    """NUD_*."""

    INCOMPLETE = 0x01
    REACHABLE = 0x02
    STALE = 0x04
    DELAY = 0x08
    PROBE = 0x10
    FAILED = 0x20
    NOARP = 0x40
    PERMANENT = 0x80


_PROXY = 0x08  # NTF_PROXY
# In the others the kernel knows of no address, or made one up (NOARP: of groups and broadcasts).
_KNOWN = (NeighbourState.REACHABLE | NeighbourState.STALE | NeighbourState.DELAY | NeighbourState.PROBE
          | NeighbourState.PERMANENT)


class NeighbourMessage(Value):
    """RTM_NEWNEIGH or RTM_DELNEIGH; *mac* has the length that the link's addresses have, 0: none is known."""

    family: int
    ifindex: int
    state: int
    flags: int
    address: bytes
    mac: bytes

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """Read a payload of IPv4 or IPv6. Raises HostError."""
        expect_header(payload, _NEIGHBOUR, "neighbour")
        family, ifindex, state, flags, _ = _NEIGHBOUR.unpack_from(payload)
        found = parse_attributes(payload, _NEIGHBOUR.size)
        return cls(family, ifindex, state, flags,
                   expect_address(found.get(NeighbourAttribute.DST, b""), family, "neighbour"),
                   found.get(NeighbourAttribute.LLADDR, b""))

    @property
    def is_known(self) -> bool:
        """Whether a neighbour has *mac*, as far as the kernel knows."""
        return bool(self.state & _KNOWN) and not self.is_proxy

    @property
    def is_proxy(self) -> bool:
        """Whether it is no neighbour, but an address for which the host answers; neighbours are apart."""
        return bool(self.flags & _PROXY)


def build_neighbours_query(family: int, ifindex: int) -> bytes:
    """Build the payload of an RTM_GETNEIGH dump of one interface; old kernels ignore that it is one."""
    return _NEIGHBOUR.pack(family, 0, 0, 0, 0) + build_attribute(NeighbourAttribute.IFINDEX,
                                                                 _U32.pack(ifindex))


def read_neighbours(rtnetlink: RtnlSocket, family: int, ifindex: int) -> list[NeighbourMessage]:
    """Read the neighbours on one interface, those too of which no address is known. Raises HostError."""
    found = rtnetlink.dump("neighbours", NeighbourType.GET, build_neighbours_query(family, ifindex))
    return [entry for entry in map(NeighbourMessage.parse, found) if entry.ifindex == ifindex]


class NeighbourWatch:
    """Hears of all neighbours of a namespace by *group_socket*, which is bound to their group.

    *n_malformed* counts the datagrams that made no sense.
    """

    def __init__(self, group_socket: GroupSocket) -> None:
        self._socket = group_socket
        self.n_malformed = 0

    def fileno(self) -> int:
        """Return the descriptor, for polling."""
        return self._socket.fileno()

    def read(self) -> tuple[list[tuple[NeighbourMessage, bool]], bool]:
        """Read some of what has come, as `GroupSocket.receive` does.

        Returns each neighbour with whether its entry is there now, and False if anything was lost.
        """
        datagrams, is_whole = self._socket.receive()
        changes: list[tuple[NeighbourMessage, bool]] = []
        for datagram in datagrams:
            try:
                # Bridges tell of their tables here too, as another family.
                changes += [(NeighbourMessage.parse(message.payload), message.type == NeighbourType.NEW)
                            for message in parse_messages(datagram)
                            if message.type in {NeighbourType.NEW, NeighbourType.DEL}
                            and family_of(message.payload) in ADDRESS_LEN]
            except HostError:
                self.n_malformed += 1
                is_whole = False
        return changes, is_whole
