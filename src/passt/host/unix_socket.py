"""The UNIX socket on which an emulator connects to passt, and a connection that a caller hands over.

Life of the socket. Its file outlives us, as emulators and their managers expect, so a start may find the file
of an earlier passt. A file that no process serves any more is replaced; a file that is served is left alone,
and so is a file that is no socket.

To ask whether a file is served, we must not connect a stream socket: passt would take that for its client,
and with -1 end after it. A datagram socket that connects to the file gets ECONNREFUSED if no socket is behind
it, and EPROTOTYPE if a stream socket is (connect(2), unix(7)).

Several passts that start at once may find the same stale file. They ask and remove under a lock on the
directory, so that none removes a socket that another one has just bound.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import struct
import time

from passt.errors import ConfigError, HostError
from passt.host.descriptors import FIRST_OWN_FD, open_null

DEFAULT_PATH = "/tmp/passt_{}.socket"  # noqa: S108 - passt(1), --socket: where launchers look for it
N_DEFAULT_PATHS = 64
BACKLOG = 8  # few clients wait: all but the first are accepted and closed at once
MAX_TRIES = 8  # to bind a path that other processes bind too
LOCK_TRIES = 100
LOCK_PAUSE_S = 0.005

_TIMEVAL = struct.Struct("ll")              # struct timeval
_PEER_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid

# Errors of bind(2) for a path -> what to say.
_PATH_FAULTS = {
    errno.ENOENT: "the directory does not exist",
    errno.ENOTDIR: "a part of the path is not a directory",
    errno.EACCES: "this user may not write to the directory",
    errno.EPERM: "the file system of the directory cannot hold sockets",
    errno.EROFS: "the file system is read-only",
    errno.ELOOP: "there are too many symbolic links in the path",
}
_TOO_LONG = "the path is too long; that of a socket has 107 bytes at most"  # unix(7)


class PathInUseError(HostError):
    """The path is taken by a file that we must not remove."""


class ListeningSocket:
    """A listening socket, non-blocking, bound to *path*; *fd* is its descriptor."""

    __slots__ = ("_sock", "path")

    def __init__(self, sock: socket.socket, path: str) -> None:
        self._sock = sock
        self.path = path

    @property
    def fd(self) -> int:
        """Descriptor, for polling."""
        return self._sock.fileno()

    def accept(self) -> Connection | None:
        """Take the next client; None if there is none. Raises OSError if no descriptor is left for it."""
        try:
            sock, _ = self._sock.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None
        sock.setblocking(False)
        return Connection(sock)

    def detach(self) -> int:
        """Hand the descriptor over; only the path can be asked for afterwards."""
        return self._sock.detach()

    def close(self) -> None:
        """Stop listening; the file stays."""
        self._sock.close()


class Connection:
    """A connected stream socket."""

    __slots__ = ("_sock",)

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def peer_name(self) -> str:
        """Name the process at the other end, as in " (PID 42)"; empty if it is unknown."""
        if self._sock.family != socket.AF_UNIX:
            return ""
        try:
            raw = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
        except OSError:
            return ""
        pid = _PEER_CREDENTIALS.unpack(raw)[0]
        return f" (PID {pid})" if pid > 0 else ""  # 0: it lives in another PID namespace

    def detach(self) -> int:
        """Hand the descriptor over; do not use this object afterwards."""
        return self._sock.detach()

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()


def listen(path: str | None) -> ListeningSocket:
    """Listen on *path*, or on the first default path that is free.

    Raises ConfigError if a path that was asked for cannot be had, HostError if no default one can.
    """
    if path is not None:
        try:
            return _listen_on(path)
        except HostError as error:
            raise ConfigError(f"option '--socket' {path}: {error}") from None
    for number in range(1, N_DEFAULT_PATHS + 1):
        try:
            return _listen_on(DEFAULT_PATH.format(number))
        except PathInUseError:
            continue
        except HostError as error:
            raise HostError(f"cannot make the socket {DEFAULT_PATH.format(number)}: {error};"
                            " give another path with --socket") from None
    raise HostError(f"all of {DEFAULT_PATH.format(1)} to {DEFAULT_PATH.format(N_DEFAULT_PATHS)} are in use;"
                    " give another path with --socket")


def listen_alone(path: str, option: str) -> ListeningSocket:
    """Listen on *path*, the argument of *option*, with a file that only this user may use (mode 0600).

    Call while there is one thread: the mode comes from the umask, so that the file is never open to others.
    Raises ConfigError.
    """
    mask = os.umask(0o177)
    try:
        return _listen_on(path)
    except HostError as error:
        raise ConfigError(f"option '{option}' {path}: {error}") from None
    finally:
        os.umask(mask)


def connect(path: str, wait_s: float) -> socket.socket:
    """Connect to the stream socket *path*; *wait_s* is the limit for that, and for each call afterwards.

    Raises OSError, which is TimeoutError where others are first for that long, or ValueError. The socket is
    blocking meanwhile: connect(2) of a UNIX socket that is not fails at once if the queue is full (unix(7),
    EAGAIN), and a timeout of Python's makes it such a one.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    seconds = int(wait_s)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO,
                        _TIMEVAL.pack(seconds, round((wait_s - seconds) * 1e6)))
        sock.connect(path)
    except BlockingIOError:
        sock.close()
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None
    except BaseException:
        sock.close()
        raise
    sock.settimeout(wait_s)
    return sock


def explain_failure(path: str, error: Exception) -> str:
    """Say what is known of why `connect` failed, to stand behind the words of the kernel; else nothing."""
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.ECONNREFUSED:
        return "; the program that made this socket has ended" if _is_socket(path) else "; this is no socket"
    if number == errno.EACCES:
        return "; it belongs to another user"
    if isinstance(error, TimeoutError):
        return "; others keep the program busy"
    return ""


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return True                # it has gone meanwhile


def remove_if_stale(path: str) -> None:
    """Remove the socket *path* if no process serves it; leave anything else alone."""
    try:
        _clear(path)
    except PathInUseError:
        return


def _listen_on(path: str) -> ListeningSocket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        _bind(sock, path)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return ListeningSocket(sock, path)


def _bind(sock: socket.socket, path: str) -> None:
    for _ in range(MAX_TRIES):
        try:
            sock.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                # Python itself refuses what is too long, without an errno.
                raise HostError(_PATH_FAULTS.get(error.errno or 0, error.strerror or _TOO_LONG)) from None
        else:
            return
        _clear(path)
    raise PathInUseError("others keep taking it")


def _clear(path: str) -> None:
    """Remove the stale socket *path*. Raises PathInUseError if it is anything else, or stays."""
    lock = _lock(os.path.dirname(path) or ".")
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise PathInUseError("there is something that is not a socket; remove it or give another path")
        if _is_served(path):
            raise PathInUseError("another process uses it; end that or give another path")
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise PathInUseError(f"a socket that no process serves is there and cannot be removed:"
                             f" {error.strerror}") from None
    finally:
        if lock is not None:
            os.close(lock)


def _lock(directory: str) -> int | None:
    """Lock *directory* against another passt that would remove a file which it has found to be stale.

    Returns None if the directory cannot be locked, or another process keeps the lock: one user of /tmp must
    not be able to stop all others.
    """
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_PAUSE_S)
        except OSError:
            break
        else:
            return fd
    os.close(fd)
    return None


def _is_served(path: str) -> bool:
    """Tell whether a process serves the socket *path*; that process does not notice."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        error = sock.connect_ex(path)
    if error == errno.EACCES:
        raise PathInUseError("it belongs to another user; give another path")
    return error not in {errno.ECONNREFUSED, errno.ENOENT}


def adopt(fd: int, *, passes_descriptors: bool = False) -> Connection:
    """Take over the connected stream socket *fd* that the caller left open, and make it non-blocking.

    With *passes_descriptors* it has to be a UNIX domain socket, as no other carries descriptors.
    A socket on descriptor 0, 1 or 2 moves to another number, and /dev/null takes its place. Raises
    ConfigError.
    """
    label = f"option '--fd' {fd}:"
    try:
        is_socket = stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        raise ConfigError(f"{label} there is no such open descriptor; hand over a connected stream"
                          " socket") from None
    if not is_socket:
        raise ConfigError(f"{label} that descriptor is not a socket; hand over a connected stream socket")
    sock = socket.socket(fileno=_move_up(fd) if fd < FIRST_OWN_FD else fd)
    try:
        _check_connected(sock, label)
        if passes_descriptors:
            _check_passes_descriptors(sock, label)
    except BaseException:
        sock.close()
        raise
    sock.setblocking(False)
    sock.set_inheritable(False)
    return Connection(sock)


def _move_up(fd: int) -> int:
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_OWN_FD)
    null = open_null()
    os.dup2(null, fd)
    os.close(null)
    return moved


def _check_connected(sock: socket.socket, label: str) -> None:
    if sock.type != socket.SOCK_STREAM:
        raise ConfigError(f"{label} that is not a stream socket; frames cannot be told apart on another")
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ConfigError(f"{label} that socket is listening; hand over a connected one, or give its path"
                          " with --socket")
    try:
        sock.getpeername()
    except OSError:
        raise ConfigError(f"{label} that socket is not connected") from None


def _check_passes_descriptors(sock: socket.socket, label: str) -> None:
    if sock.family != socket.AF_UNIX:
        raise ConfigError(f"{label} that is not a UNIX domain socket, by which alone a machine can share its"
                          " memory (--vhost-user)")
