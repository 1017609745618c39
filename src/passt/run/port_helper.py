"""The helper process of a program that is started with the right to bind low ports, and may be asked for one.

The main process gives this right up before it serves anybody (`process.stages`), and enters a user namespace,
out of which it could not use it. Port rules that come later (--conf-path, --control) shall have the ports
that those of the start could have, so the right stays with a process that does nothing else: it binds
listening sockets to ports of the host, and passes them to the main process. Root's user namespace goes with
it: it can also tell which user of the host is at the other end of a connection.

It has CAP_NET_BIND_SERVICE and no other capability, the user that the main process will have, an empty root
directory and Landlock as far as they are to be had, and a filter of its own
(tools/seccomp_policy.py). There is one channel, to the main process; the helper ends with that.
Without the right there is no helper: then the low ports of the start could not be had either.

Messages on the channel, a request and a reply at a time; numbers in network order::

    "b" | rule, as `steer.messages` writes it | port 2 | scope of link-local addresses 4
                                                              open a listening socket
    "u" and the descriptor of a connection                    who is at its other end?
    errno 4 | user 4, and the descriptor of a socket          reply; errno 0: done

First of all the helper says "ready", when it has given up what it does not need, or why it cannot. A reply
that comes too late would be taken for that to the next request: who has waited in vain asks nothing more
until it has come and is thrown away, so a helper that was stopped holds the loop up once.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

from passt import log
from passt.errors import HostError, PasstError, WireError
from passt.process import helper, privileges
from passt.steer.messages import RULE_LEN, build_rule, parse_rule
from passt.steer.server import peer_uid

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from typing import NoReturn

    from passt.facts.port_rule import PortRule
    from passt.host.listeners import HostBinder
    from passt.process.identity import Identity

FORM = "helper"                    # of the filter
TIMEOUT_S = 2.0                    # for a reply, with the loop standing still: a socket is bound at once
START_S = 20.0                     # until the helper is ready
_READY = b"ready"
_BIND, _USER = b"b", b"u"
_PLACE = struct.Struct("!HI")
_REPLY = struct.Struct("!II")
_FD = struct.Struct("=i")
_MAX_REQUEST = 256
_GONE = "the process that binds low ports has ended"


def start_helper(binder: HostBinder, user: Identity | None) -> PortHelper | None:
    """Fork the helper, if this process may bind low ports, and have it become *user*. Raises HostError.

    Call before any right is given up, while there is one thread.
    """
    if not privileges.may_bind_low_ports():
        return None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    life: list[int] = []
    try:
        life += os.pipe()
        pid = os.fork()
    except OSError as error:
        _close(life)
        raise HostError(f"cannot start the process that binds low ports: {error.strerror}") from None
    reader, writer = life
    if pid == 0:
        _run(theirs, (reader, writer), binder, user)
    theirs.close()
    os.close(reader)               # nothing comes through it: the end of our end ends the helper
    try:
        _await(ours)
    except HostError:
        os.close(writer)           # the start may go on without it
        raise
    return PortHelper(ours)


def _await(channel: socket.socket) -> None:
    """Wait until the helper is ready. Raises HostError."""
    channel.settimeout(START_S)
    try:
        said = channel.recv(_MAX_REQUEST)
    except OSError:
        said = b"it does not begin"
    if said != _READY:
        channel.close()
        why = said.decode(errors="replace") or "it has ended"
        raise HostError(f"cannot start the process that binds low ports: {why}")


class PortHelper:
    """The main process's side of the helper behind *channel*."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._channel.settimeout(TIMEOUT_S)
        self._is_reply_due = False

    def open(self, rule: PortRule, port: int, ifindex6: int = 0) -> int:
        """Open the socket for one port of *rule*, as a `HostBinder` with *ifindex6* does. Raises OSError."""
        _, fds = self._ask(_BIND + build_rule(rule.bare()) + _PLACE.pack(port, ifindex6), [])
        if len(fds) != 1:
            _close(fds)
            raise OSError(errno.EIO, "the process that binds low ports has sent no socket")
        os.set_blocking(fds[0], False)
        return fds[0]

    def user_of(self, client: socket.socket) -> int | None:
        """Return the user of the host at the other end of *client*; None if that cannot be told."""
        try:
            user, fds = self._ask(_USER, [client.fileno()])
        except OSError as error:
            log.limited(log.WARNING, "helper", f"cannot tell whose client this is: {error.strerror or error}")
            return None
        _close(fds)
        return user

    def _ask(self, request: bytes, fds: list[int]) -> tuple[int, list[int]]:
        """Return the user and descriptors of the reply to *request* with *fds*. Raises OSError."""
        try:
            if self._is_reply_due:
                self._throw_away_late_reply()
            _send(self._channel, request, fds)
            self._is_reply_due = True
            data, received = _receive(self._channel, _REPLY.size)
            self._is_reply_due = False
        except (TimeoutError, BlockingIOError):
            raise OSError(errno.EAGAIN, "the process that binds low ports does not answer") from None
        except ConnectionError:
            raise OSError(errno.EPIPE, _GONE) from None
        number, user = _REPLY.unpack(data) if len(data) == _REPLY.size else (errno.EPIPE, 0)
        if number:
            _close(received)
            raise OSError(number, os.strerror(number) if len(data) == _REPLY.size else _GONE)
        return user, received

    def _throw_away_late_reply(self) -> None:
        """Raise BlockingIOError if it has not come yet."""
        self._channel.settimeout(0)
        try:
            _, fds = _receive(self._channel, _REPLY.size)
        finally:
            self._channel.settimeout(TIMEOUT_S)
        _close(fds)
        self._is_reply_due = False


def _send(channel: socket.socket, data: bytes, fds: list[int]) -> None:
    """Send a message with at most one descriptor. Raises OSError."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _FD.pack(fd)) for fd in fds]
    channel.sendmsg([data], ancillary)


def _receive(channel: socket.socket, size: int) -> tuple[bytes, list[int]]:
    """Receive a message and its descriptor, close-on-exec; no bytes: the other end is gone. Raises OSError.

    In Python 3.11 socket.recv_fds() ignores its flags.
    """
    data, ancillary, _, _ = channel.recvmsg(size, socket.CMSG_SPACE(_FD.size), socket.MSG_CMSG_CLOEXEC)
    return data, [fd for level, kind, payload in ancillary
                  if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
                  for (fd,) in _FD.iter_unpack(payload[:len(payload) // _FD.size * _FD.size])]


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _run(channel: socket.socket, life: tuple[int, int], binder: HostBinder, user: Identity | None
         ) -> NoReturn:
    """Be the helper until the main process has gone."""
    try:
        said = _READY
        try:
            helper.detach("passt-ports", (channel.fileno(),), life)
            helper.confine(FORM, user, right=privileges.CAP_NET_BIND_SERVICE, enters_empty_root=True)
        except (OSError, PasstError) as error:
            said = (str(error) or type(error).__name__).encode(errors="replace")[:_MAX_REQUEST]
        _send(channel, said, [])
        while said == _READY and _serve_one(channel, binder):
            pass
    finally:
        os._exit(0)


def _serve_one(channel: socket.socket, binder: HostBinder) -> bool:
    """Carry out one request; False when there are no more."""
    data, fds = _receive(channel, _MAX_REQUEST)
    if not data:
        return False
    number = user = 0
    try:
        if data[:1] == _BIND:
            fds.append(_bind(data[1:], binder))
        else:
            client = socket.socket(fileno=fds.pop())
            with client:
                user = peer_uid(client)
    except OSError as error:
        number = error.errno or errno.EIO
    except (WireError, IndexError, struct.error):
        number = errno.EINVAL
    _send(channel, _REPLY.pack(number, user), fds)
    _close(fds)
    return True


def _bind(request: bytes, binder: HostBinder) -> int:
    rule = parse_rule(request[:RULE_LEN])
    # The interface may be another one than at the start.
    port, binder.ifindex6 = _PLACE.unpack(request[RULE_LEN:])
    return binder.open(rule, port)
