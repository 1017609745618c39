"""The child process that works in a network namespace: it makes the tap there and sends it to its parent.

For a command the child is PID 1 of the new namespaces and goes on with `pid1.run_command`; for a namespace
that exists it is a helper, which ends when the tap is sent.

The child cannot outlive the main process: from the child's first instruction on, the kernel kills it when the
main process ends, and the child then checks whether that end came earlier (`Channel.is_abandoned`). If the
main process has become a user who may not signal the child, PID 1 sees the end of the channel instead.
"""

from __future__ import annotations

import errno
import os
import signal

from passt import errors, log
from passt.errors import HostError, PasstError
from passt.host import syscalls, tap
from passt.host.bound_ports import open_sources
from passt.host.descriptors import open_null
from passt.namespace.child_channel import Channel, Kind, Message, Tap, read_ready
from passt.namespace.explain import explain_refusal
from passt.process import signals
from passt.process.privileges import close_to_others

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv6Address
    from typing import NoReturn, Protocol

    class TapFacts(Protocol):
        """What the set-up of the tap returns about it."""

        @property
        def mac(self) -> bytes:
            """Hardware address, 6 bytes."""

        @property
        def link_local(self) -> IPv6Address | None:
            """Link-local address, if there is one."""


class NoTap:
    """Stands for facts about a tap where none is made."""

    mac = bytes(6)
    link_local = None


class Child:
    """A child process as its parent holds it."""

    __slots__ = ("channel", "pid", "pidfd")

    def __init__(self, pid: int, pidfd: int, channel: Channel) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.channel = channel

    def receive_tap(self) -> Tap:
        """Wait for the tap. Raises HostError with the child's explanation if the child could not make it."""
        message = self.channel.receive(Kind.READY, Kind.FAILED, wait=True)
        if message is not None and message.kind is Kind.READY:
            return read_ready(message)
        if self.channel.has_lost_descriptors:
            raise HostError("cannot take over the interface of the namespace: too many open files; raise the "
                            "limit (ulimit -n)")
        raise HostError(self._explain_failure(message))

    def _explain_failure(self, message: Message | None) -> str:
        status = self.wait()
        if message is not None and message.kind is Kind.FAILED:
            return message.payload.decode(errors="replace")
        how = f"by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "too early"
        return f"the process that sets up the namespace ended {how}"

    def wait(self) -> int:
        """Wait for the end of the child and return its wait status; PID 1 takes its namespace with it."""
        return os.waitpid(self.pid, 0)[1]

    def end(self) -> None:
        """End the child by SIGKILL, wait for it, close our descriptors; no error if it has ended already.

        A child that we may not signal any more ends because we close the channel.
        """
        self.channel.close()
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        try:
            self.wait()
        except ChildProcessError:
            pass
        os.close(self.pidfd)


def start_child(flags: int, main: Callable[[Channel], object], *, privileged: bool = False) -> Child:
    """Fork a child into new namespaces (CLONE_NEW* *flags*, or 0); it runs *main* and ends with status 0.

    *privileged* says that no user namespace was entered, so the caller's privileges have to do. A PasstError
    of *main* becomes the HostError of `Child.receive_tap`. Raises HostError.
    """
    ours, theirs = Channel.pair()
    try:
        pid, pidfd = syscalls.clone(flags, signal.SIGKILL)
    except OSError as error:
        if privileged and error.errno == errno.EPERM:
            raise HostError("cannot get the namespaces of the command: this takes root or CAP_SYS_ADMIN with "
                            "--netns-only; leave that out to have a user namespace") from None
        raise HostError(explain_refusal("the namespaces of the command", error)) from None
    if pid == 0:
        ours.close()
        _run_child(theirs, main)
    theirs.close()
    return Child(pid, pidfd, ours)


def _run_child(channel: Channel, main: Callable[[Channel], object]) -> NoReturn:
    status = 1
    try:
        # Ctrl-C reaches us and the main process; we end with the main process.
        signals.block_all()
        close_to_others()
        if not channel.is_abandoned():
            main(channel)
            status = 0
    except PasstError as error:
        channel.send_failed(str(error))
    except OSError as error:
        channel.send_failed(errors.explain_refusal(error))
    except BaseException as error:  # noqa: BLE001 - a bug; the child must not run on as a copy of its parent
        log.failure("pasta", error)
    finally:
        os._exit(status)


def make_tap(channel: Channel, ifname: str | None, configure: Callable[[], TapFacts], *,
             allow: int = tap.ALL_OFFLOADS, watch_ports: bool = False) -> None:
    """Make the tap *ifname* in our network namespace, *configure* it, send it. Raises PasstError.

    Without a name there is no tap; a null device is sent in its place, as the message has no other form.
    *allow* limits the offloads asked for, TUN_F_* bits. With *watch_ports* the sources of
    `bound_ports.open_sources` are sent too.
    """
    fd, offloads = (open_null(), 0) if ifname is None else tap.open_tap(ifname, allow=allow)
    namespace = -1
    sources: list[int] = []
    try:
        facts = configure()
        namespace = _open_own_namespace()
        if watch_ports:
            try:
                sources = open_sources()
            except OSError as error:
                raise HostError("cannot see which ports are bound in the namespace: "
                                f"{error.strerror}") from None
        if not channel.send_ready(Tap(fd, namespace, offloads, facts.mac, facts.link_local, sources)):
            raise HostError("cannot hand the interface over to the main process")
    finally:
        for each in (fd, namespace, *sources):
            if each >= 0:
                os.close(each)


def _open_own_namespace() -> int:
    """Open our network namespace; `close_to_others` denies the main process to open it by /proc."""
    try:
        return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"cannot open the network namespace: /proc/self/ns/net: {error.strerror}") from None
