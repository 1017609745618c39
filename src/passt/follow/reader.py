"""The process that reads resolv.conf for the main process, which has no path any more.

It is forked while paths are there, and keeps its sight of them, but nobody can speak to it: it has one end
of a channel, into which it writes, and the descriptors of inotify(7). It has the user that the main process
will have, no capability, Landlock as far as it is to be had, under which it may read but not write, and a
filter of its own (tools/seccomp_policy.py). It copies the file, and does not look at what is in it. It ends
with the main process.

Messages on the channel: "c" and the content of the file, at the start and after each change.
"""

from __future__ import annotations

import os
import select
import socket

from passt import log
from passt.errors import HostError
from passt.host.resolver_watch import MAX_CONTENT, POLL_S, ResolverWatch
from passt.process import helper

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn, Protocol

    from passt.process.identity import Identity

    class Loop(Protocol):
        """The part of `dataplane.engine.Engine` that is used."""

        def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
            """Call *callback* whenever *fd* is readable."""

        def remove_reader(self, fd: int) -> None:
            """Stop watching *fd*."""


FORM = "reader"                    # of the filter
_CONTENT = b"c"
_MAX_MESSAGE = len(_CONTENT) + MAX_CONTENT


class Reader:
    """The reader of the file at *path*, with the rights of *user*; forked at once. Raises HostError.

    Call with one thread, before any right is given up.
    """

    def __init__(self, path: str, user: Identity | None) -> None:
        self._path = path
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            pid = os.fork()
        except OSError as error:
            raise HostError(f"cannot start the process that reads {path}: {error.strerror}") from None
        if pid == 0:
            _run(theirs, path, user)
        theirs.close()
        ours.setblocking(False)
        self._channel = ours

    def start(self, loop: Loop, on_content: Callable[[bytes], None]) -> None:
        """Have *loop* call *on_content* with the content of the file, now and after each change."""
        loop.add_reader(self._channel.fileno(), lambda: self._on_message(loop, on_content))

    def _on_message(self, loop: Loop, on_content: Callable[[bytes], None]) -> None:
        try:
            message = self._channel.recv(_MAX_MESSAGE)
        except BlockingIOError:
            return
        except ConnectionResetError:
            message = b""
        if message.startswith(_CONTENT):
            on_content(message[len(_CONTENT):])
            return
        loop.remove_reader(self._channel.fileno())
        self._channel.close()
        log.warning(f"the process that reads {self._path} has ended: changes of name servers and search"
                    " domains are not followed any more")


def _run(channel: socket.socket, path: str, user: Identity | None) -> NoReturn:
    """Be the reader until the main process has gone."""
    try:
        watch = ResolverWatch(os.path.abspath(path))
        watched = watch.fileno()
        helper.detach("passt-reader", (channel.fileno(), *([watched] if watched >= 0 else [])))
        helper.confine(FORM, user, reads=True)
        while send_change(channel, watch) and wait(channel, watch):
            pass
    finally:
        os._exit(0)


def send_change(channel: socket.socket, watch: ResolverWatch) -> bool:
    """Send the content if it is another one than before; False when the main process is gone."""
    content = watch.look()
    if content is None:
        return True
    try:
        channel.send(_CONTENT + content)
    except OSError:
        return False
    return True


def wait(channel: socket.socket, watch: ResolverWatch) -> bool:
    """Wait for a change, or the time to look again; False when the main process is gone."""
    poll = select.poll()
    poll.register(channel.fileno(), 0)
    timeout_ms: float | None = None
    if watch.fileno() >= 0:
        poll.register(watch.fileno(), select.POLLIN)
    else:
        timeout_ms = POLL_S * 1000
    return not any(fd == channel.fileno() for fd, _ in poll.poll(timeout_ms))
