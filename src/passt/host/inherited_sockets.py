"""Sockets that a service manager has opened and bound for us: sd_listen_fds(3).

Theory of operation. The manager passes descriptors from 3 on, and tells by variables for which process they
are (LISTEN_PID), how many (LISTEN_FDS), and what they are called (LISTEN_FDNAMES, separated by colons; one
name may stand for several). So a port that only root may bind is had without a right to bind it, and it stays
bound while we are started anew.

A socket is only taken for the name and the protocol that a port rule asks for. One that does not listen, or
is connected, is refused: no traffic of it would ever be ours.
"""

from __future__ import annotations

import os
import socket

from passt.errors import ConfigError

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Mapping

    from passt.facts.port_rule import PortRule

FIRST_FD = 3                      # SD_LISTEN_FDS_START
MAX_FDS = 1024
UNNAMED = "unknown"               # sd_listen_fds_with_names(3)
VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
_KINDS = {socket.IPPROTO_TCP: socket.SOCK_STREAM, socket.IPPROTO_UDP: socket.SOCK_DGRAM}


def list_handed_over(environment: Mapping[str, str] = os.environ, pid: int | None = None) -> dict[int, str]:
    """Return the descriptors that are for the process *pid*, by default this one, with their names."""
    number = environment.get("LISTEN_FDS", "")
    if environment.get("LISTEN_PID") != str(os.getpid() if pid is None else pid):
        return {}
    if not (number.isascii() and number.isdecimal()) or int(number) > MAX_FDS:
        return {}
    names = environment["LISTEN_FDNAMES"].split(":") if "LISTEN_FDNAMES" in environment else []
    names += [UNNAMED] * (int(number) - len(names))
    return {FIRST_FD + i: names[i] for i in range(int(number))}


def adopt(rule: PortRule, handed_over: Mapping[int, str]) -> list[socket.socket]:
    """Copy the sockets that *rule* names: non-blocking, close-on-exec. Raises ConfigError."""
    kind = _KINDS[rule.proto]
    what = "TCP" if kind == socket.SOCK_STREAM else "UDP"
    found: list[socket.socket] = []
    try:
        for fd, name in handed_over.items():
            if name != rule.inherited:
                continue
            sock = _copy(fd)
            if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != kind:
                sock.close()
                continue
            found.append(sock)
            _check(rule, sock)
            sock.setblocking(False)
    except OSError as error:
        _close(found)
        raise ConfigError(f"{rule.spec}: descriptor {fd} is no socket that can be taken: {error.strerror}"
                          ) from None
    except ConfigError:
        _close(found)
        raise
    if not found:
        raise ConfigError(f"{rule.spec}: no {what} socket of this name is handed over; {_list(handed_over)}")
    return found


def _copy(fd: int) -> socket.socket:
    """Make a socket of a copy of *fd*. Raises OSError."""
    copy = os.dup(fd)
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise


def forget(handed_over: Mapping[int, str]) -> None:
    """Close what was handed over, and let the command know nothing of it: it is not there for that."""
    for fd in handed_over:
        os.close(fd)
    for name in VARIABLES:
        os.environ.pop(name, None)


def _check(rule: PortRule, sock: socket.socket) -> None:
    if sock.type == socket.SOCK_STREAM:
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ConfigError(f"{rule.spec}: this socket does not listen; its unit needs ListenStream= and"
                              " Accept=no")
        return
    try:
        sock.getpeername()
    except OSError:
        if sock.getsockname()[1]:
            return
        raise ConfigError(f"{rule.spec}: this socket has no port") from None
    raise ConfigError(f"{rule.spec}: this socket is connected, and cannot receive from others")


def _list(handed_over: Mapping[int, str]) -> str:
    """Say what there is instead."""
    if not handed_over:
        return "no sockets are handed over to this process at all (LISTEN_FDS)"
    return f"those that are: {', '.join(sorted(set(handed_over.values())))}"


def _close(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()
