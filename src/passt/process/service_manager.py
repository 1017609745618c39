"""Readiness as a service manager wants to hear it: sd_notify(3), for units of Type=notify.

Theory of operation. The manager names a datagram socket in NOTIFY_SOCKET: a path, or with an "@" in front a
name of the abstract kind. It is connected with the caller's rights, as no path can be opened later and
Landlock keeps us from abstract sockets; the one message goes out when all is ready. The command does not
learn of it: the manager would not listen to that, and takes its messages for ours otherwise.

A manager that cannot be told lets its unit fail by a limit of time, so an error is a warning that says so.
"""

from __future__ import annotations

import os
import socket

from passt import log

VARIABLE = "NOTIFY_SOCKET"
_READY = b"READY=1"


class ServiceManager:
    """The manager behind the socket *address*, connected from now on until `tell_ready`."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._socket: socket.socket | None = None
        name = f"\0{address[1:]}" if address.startswith("@") else address
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            sock.connect(name)
            # The manager may be slow to read, and a start must not hang by it.
            sock.setblocking(False)
        except (OSError, ValueError) as error:
            sock.close()
            self._warn(error)
            return
        self._socket = sock

    @classmethod
    def from_environment(cls) -> ServiceManager | None:
        """Return who waits for this process, and take the variable out; None if there is nobody."""
        address = os.environ.pop(VARIABLE, "")
        return cls(address) if address.startswith(("/", "@")) else None

    def tell_ready(self) -> None:
        """Tell that the start is complete."""
        if self._socket is None:
            return
        try:
            self._socket.send(_READY)
        except OSError as error:
            self._warn(error)
        self._socket.close()
        self._socket = None

    def _warn(self, error: Exception) -> None:
        why = (error.strerror if isinstance(error, OSError) else None) or error
        log.warning(f"{VARIABLE}={self._address}: the service manager cannot be told that the start is"
                    f" complete: {why}")
