"""Netlink sockets on which the kernel tells of changes: `NetworkWatch` of links, addresses, routes and rules.

Theory of operation. The kernel sends each change to all sockets that are bound to its group (netlink(7)).
A message is no more than a hint: who wants to know how things are asks for a fresh dump (`host_facts`). So
nothing depends on what a message says: it may be of a newer kernel, cut off or nonsense, and then counts as a
hint as well. Messages that can change nothing for us are left out: routes of other tables than the main one,
and types that we do not know. When more come than the socket holds, the kernel drops some and read(2)
fails once with ENOBUFS; that is a hint, too.

Binding to these groups takes no right. Only the kernel and processes with CAP_NET_ADMIN over the namespace
can send here; messages of others than the kernel are left out.
"""

from __future__ import annotations

import errno
import socket

from passt.errors import HostError
from passt.host.rtnetlink.messages import parse_messages
from passt.host.rtnetlink.routes import is_configured
from passt.light.values import IntEnum

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from passt.host.rtnetlink.messages import Message

MAX_DATAGRAMS = 64  # of one call of `has_news`: the rest waits for the next turn of the loop
_BUFFER_LEN = 64 * 1024
# RTNLGRP_* of linux/rtnetlink.h, as bits of nl_groups: LINK, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR,
# IPV6_ROUTE, IPV6_RULE, NEXTHOP.
_GROUPS = sum(1 << group - 1 for group in (1, 5, 7, 8, 9, 11, 19, 32))
NEIGHBOURS = 1 << 3 - 1  # RTNLGRP_NEIGH: a table of its own, and many messages (`host.rtnetlink.neighbours`)
_IGNORED_ERRORS = frozenset({errno.EINTR, errno.ENOMEM})


class Change(IntEnum):
    """Types of the messages that tell of a change (RTM_NEW*, RTM_DEL*)."""

    NEWLINK = 16
    DELLINK = 17
    NEWADDR = 20
    DELADDR = 21
    NEWROUTE = 24
    DELROUTE = 25
    NEWRULE = 32
    DELRULE = 33
    NEWNEXTHOP = 104
    DELNEXTHOP = 105


_ROUTES = frozenset({int(Change.NEWROUTE), int(Change.DELROUTE)})
_KNOWN = frozenset(int(change) for change in Change)


class GroupSocket:
    """A socket bound to *groups*, bits of nl_groups; a context manager. Raises HostError that names *what*.

    *n_overflows* counts how often the kernel dropped messages, *n_malformed* the datagrams that made no
    sense.
    """

    def __init__(self, what: str, groups: int) -> None:
        self.n_overflows = 0
        self.n_malformed = 0
        try:
            self._socket = socket.socket(socket.AF_NETLINK,
                                         socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
                                         socket.NETLINK_ROUTE)
            self._socket.bind((0, groups))
        except OSError as error:
            raise HostError(f"cannot watch {what} of the host: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self.close()

    def fileno(self) -> int:
        """Return the descriptor, for polling."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def receive(self) -> tuple[list[bytes], bool]:
        """Read what the kernel has sent, at most MAX_DATAGRAMS; return it, and False if any was lost."""
        found: list[bytes] = []
        is_whole = True
        for _ in range(MAX_DATAGRAMS):
            try:
                datagram, _, flags, sender = self._socket.recvmsg(_BUFFER_LEN)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    self.n_overflows += 1
                elif error.errno not in _IGNORED_ERRORS:
                    raise
                is_whole = False
                continue
            if sender[0] != 0:
                continue
            if flags & socket.MSG_TRUNC:
                is_whole = False
            else:
                found.append(datagram)
        return found, is_whole


class NetworkWatch(GroupSocket):
    """Tells when the network of this namespace may have changed."""

    def __init__(self) -> None:
        super().__init__("the network", _GROUPS)

    def has_news(self) -> bool:
        """Read what has come, at most MAX_DATAGRAMS; tell whether something may have changed."""
        datagrams, is_whole = self.receive()
        found = not is_whole
        for datagram in datagrams:
            found = self._is_hint(datagram) or found
        return found

    def _is_hint(self, datagram: bytes) -> bool:
        try:
            return any(map(may_matter, parse_messages(datagram)))
        except HostError:
            self.n_malformed += 1
            return True


def may_matter(message: Message) -> bool:
    """Tell whether a change may concern the guest. Raises HostError for a route without a header."""
    if message.type not in _KNOWN:
        return False
    return message.type not in _ROUTES or is_configured(message.payload)
