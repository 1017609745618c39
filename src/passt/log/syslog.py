"""The system log: datagrams to its socket, as syslog(3) sends them.

A message is `<PRI>Mmm dd hh:mm:ss PROGRAM[PID]: TEXT` (RFC 3164, 4.1, without the host name, as is usual on
a local socket), facility "daemon". The log daemon may not be there yet, go away, come back, or be slow: none
of that ever makes us wait for more than a moment. What it does not take is lost; the next message that it
takes is preceded by one that tells how many were. The socket is found again as long as its path can be
reached.
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
PATIENCE_MS = 20         # for a daemon that has been fast enough so far
RETRY_S = 1.0            # between attempts to find the log daemon
_WARNING = 4
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Syslog:
    """The log daemon behind the socket *path*, for messages of *program*; *clock* never goes back."""

    def __init__(self, program: str, path: str = DEV_LOG,
                 clock: Callable[[], float] = time.monotonic) -> None:
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
        """Descriptor of the connection, -1 while there is none."""
        return self._fd

    def send(self, level: int, text: str) -> None:
        """Send *text*, one line without its end."""
        if self._n_lost and self._deliver(_WARNING, f"{self._n_lost} messages before this one were lost"):
            self._n_lost = 0
        if self._n_lost or not self._deliver(level, text):
            self._n_lost += 1

    def _deliver(self, level: int, text: str) -> bool:
        """Hand one message over; a daemon that was restarted is found on the second attempt."""
        now = time.localtime()
        stamp = (f"{_MONTHS[now.tm_mon - 1]} {now.tm_mday:2d} "
                 f"{now.tm_hour:02d}:{now.tm_min:02d}:{now.tm_sec:02d}")
        data = f"<{FACILITY | level}>{stamp} {self._program}[{os.getpid()}]: {text}".encode()
        if self._fd < 0 and (self._clock() < self._next_try_s or not self._connect()):
            return False
        return self._put(data) or (self._fd < 0 and self._connect() and self._put(data))

    def _put(self, data: bytes) -> bool:
        """Send without waiting; a connection that is no good any more is closed."""
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
        """Give the daemon a moment: its queue may hold but 10 messages. A slow one gets no other."""
        if self._is_slow:
            return False
        self._is_slow = True
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(PATIENCE_MS))

    def _connect(self) -> bool:
        self._next_try_s = self._clock() + RETRY_S
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            connection = socket.socket(socket.AF_UNIX, kind)
            if connection.fileno() <= 2:
                moved = fcntl.fcntl(connection.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)
                connection.close()
                connection = socket.socket(fileno=moved)
            try:
                # A stream's listener with a full backlog must not hold us up.
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
