"""The system log: datagrams to its socket, as syslog(3) sends them.

A message is `<PRI>Mmm dd hh:mm:ss PROGRAM[PID]: TEXT` (RFC 3164 4.1, without the host name, as usual on a
local socket), facility "daemon". The log daemon may be absent, restarted or slow: we wait at most PATIENCE_MS
for it. Messages that it does not take are lost, and a message with their number precedes the next one that it
takes. We connect again as long as the path of its socket can be reached, which the sandbox takes away: from
then on a daemon that makes a new socket hears nothing any more. journald keeps its own over a restart.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import time

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

DEV_LOG = "/dev/log"
FACILITY = 3 << 3        # LOG_DAEMON
PATIENCE_MS = 20         # longest wait for a daemon that was fast enough before
RETRY_S = 1.0            # between attempts to connect
_WARNING = 4
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Syslog:
    """The log daemon behind the socket *path*, for messages of *program*; *clock* never goes back."""

    def __init__(self, program: str, path: str = DEV_LOG,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.pid = os.getpid()
        self._program = program
        self._path = path
        self._clock = clock
        self._fd = -1
        self._is_stream = False
        self._is_slow = False
        self._n_lost = 0
        self._next_try_s = 0.0
        self._connect()

    def fileno(self) -> int:
        """Return the descriptor of the connection; -1 if there is none."""
        return self._fd

    def leave_paths(self) -> None:
        """Try to connect no more: the path of the socket is out of reach from now on."""
        self._path = ""

    def send(self, level: int, text: str) -> None:
        """Send *text*, one line without its newline."""
        if self._n_lost and self._deliver(_WARNING, f"{self._n_lost} messages before this one were lost"):
            self._n_lost = 0
        if self._n_lost or not self._deliver(level, text):
            self._n_lost += 1

    def _deliver(self, level: int, text: str) -> bool:
        """Send one message; the second attempt connects to a restarted daemon. False: it is lost."""
        now = time.localtime()
        stamp = (f"{_MONTHS[now.tm_mon - 1]} {now.tm_mday:2d} "
                 f"{now.tm_hour:02d}:{now.tm_min:02d}:{now.tm_sec:02d}")
        data = f"<{FACILITY | level}>{stamp} {self._program}[{self.pid}]: {text}".encode()
        if self._fd < 0 and (self._clock() < self._next_try_s or not self._connect()):
            return False
        return self._put(data) or (self._fd < 0 and self._connect() and self._put(data))

    def _put(self, data: bytes) -> bool:
        """Send without blocking; close a connection that fails."""
        if self._is_stream:
            data += b"\0"
        try:
            try:
                n = os.write(self._fd, data)
            except BlockingIOError:
                if not self._waited():
                    return False
                n = os.write(self._fd, data)
            if n == len(data):
                self._is_slow = False
                return True
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.ENOBUFS, errno.EMSGSIZE):
                return False
        os.close(self._fd)
        self._fd = -1
        return False

    def _waited(self) -> bool:
        """Wait PATIENCE_MS for room in the queue, which may hold only 10 messages; once for a slow daemon."""
        if self._is_slow:
            return False
        self._is_slow = True
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(PATIENCE_MS))

    def _connect(self) -> bool:
        self._next_try_s = self._clock() + RETRY_S
        if not self._path:
            return False
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            try:
                connection = socket.socket(socket.AF_UNIX, kind)
            except OSError:
                return False      # no descriptor is left, or the filter of system calls is in force
            if connection.fileno() <= 2:
                moved = fcntl.fcntl(connection.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)
                connection.close()
                connection = socket.socket(fileno=moved)
            try:
                # A stream listener with a full backlog must not block us.
                connection.setblocking(False)
                connection.connect(self._path)
            except OSError as error:
                connection.close()
                if error.errno != errno.EPROTOTYPE:
                    return False
                continue
            self._fd, self._is_stream = connection.detach(), kind == socket.SOCK_STREAM
            return True
        return False
