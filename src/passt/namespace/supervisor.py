"""The main process's side of the command's life: it passes signals on, and learns of stops and the end.

`watch` registers three descriptors with the loop: a signalfd, the channel to PID 1, and the pidfd of PID 1,
whose end is the end of all processes in its namespace. Job control is explained in `namespace.terminal`.
"""

from __future__ import annotations

import os
import signal

from passt import log
from passt.namespace import pid1
from passt.namespace.child_channel import Kind, read_status
from passt.namespace.terminal import Terminal, leads_alone, stop_like
from passt.process.signals import ASKING, FORWARDED, RELOADING, TERMINAL_STOPS, SignalReader

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from passt.namespace.child import Child
    from passt.namespace.child_channel import Message

    class Loop(Protocol):
        """The part of `dataplane.engine.Engine` that is used."""

        def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
            """Call *callback* whenever *fd* is readable."""

        def remove_reader(self, fd: int) -> None:
            """Stop watching *fd*."""

        def stop(self) -> None:
            """Leave the loop."""


MAX_LAST_MESSAGES = 64            # read after the end of PID 1; its own last message is among the first few


class Supervisor:
    """Supervises the command below *child*, on *terminal*. From now on signals are passed on to it."""

    def __init__(self, child: Child, terminal: Terminal) -> None:
        self._child = child
        self._loop: Loop | None = None
        self._terminal = terminal
        self._reader = SignalReader(FORWARDED)
        signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL_STOPS)
        self._own_group = leads_alone()
        self._leads_session = os.getsid(0) == os.getpid()
        self._saw_interrupt = False
        self._wait_status: int | None = None
        self.on_reload: Callable[[], None] | None = None   # called instead of passing on RELOADING

    def watch(self, loop: Loop) -> None:
        """Register with *loop*, and stop it at the end of the command and of its whole PID namespace."""
        self._loop = loop
        loop.add_reader(self._reader.fd, self._on_signals)
        loop.add_reader(self._child.channel.fileno(), self._on_message)
        loop.add_reader(self._child.pidfd, loop.stop)

    def start_command(self) -> None:
        """Tell PID 1 to start the command."""
        foreground = self._terminal.is_ours()
        # The command's group becomes the foreground group, so the terminal interrupts that group only.
        self._saw_interrupt = foreground and self._own_group
        flags = pid1.START_OWN_GROUP if self._own_group else 0
        flags |= pid1.START_FOREGROUND if foreground else 0
        self._child.channel.send(Kind.START, bytes((flags,)))

    def ask_command(self) -> None:
        """Pass SIGUSR1 on after we have answered it; PID 1 leaves out a command without a handler."""
        self._child.channel.send(Kind.SIGNAL, bytes((ASKING, False)))

    def finish(self) -> int:
        """Clean up after the loop, and return the exit status to end with."""
        # Bounded: a process outside may have got a copy of the child's end, and still write to it.
        for _ in range(MAX_LAST_MESSAGES):
            message = self._receive()
            if message is None:
                break
            self._handle(message)
        own_status = self._child.wait()
        self._terminal.reclaim()
        self._terminal.close()
        self._reader.close()
        # PID 1 sent no message, so it was killed from outside: take its own status.
        return pid1.exit_status(own_status if self._wait_status is None else self._wait_status)

    def was_interrupted(self) -> bool:
        """Tell whether the user ended the command by Ctrl-C, so that we should end in the same way."""
        status = self._wait_status
        return (status is not None and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGINT
                and self._saw_interrupt)

    def _on_signals(self) -> None:
        for received in self._reader.read():
            if received.number == signal.SIGCONT:
                if received.is_from_user:
                    self._resume()
                continue
            if received.number == RELOADING and received.is_from_user and self.on_reload is not None:
                self.on_reload()
                continue
            if received.number == signal.SIGINT and received.is_from_kernel:
                self._saw_interrupt = True
            to_group = received.is_from_kernel
            if received.number == signal.SIGHUP and self._leads_session:
                # The terminal hung up: the kernel signals only the session leader (tty_ioctl(2)).
                to_group = False
            self._child.channel.send(Kind.SIGNAL, bytes((received.number, to_group)))

    def _on_message(self) -> None:
        message = self._receive()
        if message is not None:
            self._handle(message)
        elif self._child.channel.has_ended and self._loop is not None:
            # The end of file comes before the end of PID 1: the kernel ends its other processes in between.
            self._loop.remove_reader(self._child.channel.fileno())
            if self._child.channel.is_broken:
                log.warning("the command sent messages that are not its to send, and is ended")

    def _receive(self) -> Message | None:
        return self._child.channel.receive(Kind.STOPPED, Kind.CONTINUED, Kind.ENDED, wait=False)

    def _handle(self, message: Message) -> None:
        if message.kind is Kind.ENDED:
            self._wait_status = read_status(message)
        elif message.kind is Kind.STOPPED:
            self._mirror_stop(message.payload[0])

    def _mirror_stop(self, signum: int) -> None:
        if signum in TERMINAL_STOPS and self._terminal.is_ours():
            # The shell's fg gave the terminal to our group while the command ran on in the background.
            self._resume()
            return
        stop_like(signum, self._child.channel)
        if not self._child.channel.has_news():
            self._resume()

    def _resume(self) -> None:
        self._child.channel.send(Kind.RESUME, bytes((self._terminal.is_ours(),)))
