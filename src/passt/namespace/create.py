"""New user and network namespaces for a command, and the child that works in any network namespace.

One path for a command and for namespaces that exist already (`namespace.existing`):

1. The main process enters the *user* namespace itself: a new one (`enter_new_user_namespace`) or the
   target's (`Target.join_user_namespace`). That gives it every capability over the namespaces which that
   user namespace owns, and takes away those over the host. It stays in the host's network namespace.
   With --netns-only there is no such step, and the caller's own capabilities have to do.
2. It starts one child (`start_child`). For a command this is PID 1 of new PID, network, IPC, UTS and
   mount namespaces; else a helper that joins the target's network namespace. A process that entered a
   network namespace could not come back without privileges, hence a child.
3. The child makes and configures the tap in there (`make_tap`, the same for both) and sends it over, with a
   descriptor of the network namespace. The helper is done then; PID 1 goes on (`namespace.pid1`).

All of them are closed to other processes (`privileges.close_to_others`): who is in the namespaces is not
trusted.

The child cannot outlive the main process: it gets SIGKILL with the main process's end from its first
instruction on, and looks then whether that end came before (`Channel.is_abandoned`). Where the main
process has become somebody who may not signal the child, PID 1 sees the end of the channel instead.
Namespaces go away with their last process and descriptor, the tap with its descriptors.

Identity. The caller becomes user and group 0 inside (`0 UID 1`), and no other is mapped, so
setgroups(2) is denied (user_namespaces(7)). With --runas the caller has become that user before. A real
root without --runas keeps the command to itself: it is root towards files, as that user always is, but
has capabilities over its own namespaces only. The main process, which meets the network, becomes
"nobody", so that user is mapped as well. As root alone may open /dev/net/tun on many machines, the child
does that first.
"""

from __future__ import annotations

import errno
import os
import signal
import socket

from passt import errors, log
from passt.errors import HostError, PasstError
from passt.host import syscalls, tap
from passt.host.bound_ports import open_sources
from passt.namespace.child_channel import Channel, Kind, Message, Tap, read_ready
from passt.process import signals
from passt.process.identity import NOBODY_ID
from passt.process.privileges import close_to_others

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from ipaddress import IPv6Address
    from typing import NoReturn, Protocol

    from passt.process.identity import Identity

    class TapFacts(Protocol):
        """What configuring the interface tells about it."""

        @property
        def mac(self) -> bytes:
            """Hardware address, 6 bytes."""

        @property
        def link_local(self) -> IPv6Address | None:
            """Link-local address, if there is one."""

SYSCTL_ROOT = "/proc/sys"
COMMAND_NAMESPACES = (syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNET | syscalls.CLONE_NEWIPC
                      | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWNS)
_COUNTED = ("user", "pid", "net", "ipc", "uts", "mnt")  # user.max_*_namespaces, namespaces(7)


def enter_new_user_namespace(nobody: Identity | None = None) -> None:
    """Enter a new user namespace as user and group 0 in it. Raises HostError. One thread only.

    With *nobody*, which root alone can have, that user is there too, as user `identity.NOBODY_ID`, and
    supplementary groups are given up.
    """
    maps = [f"0 {os.geteuid()} 1\n", f"0 {os.getegid()} 1\n"]
    writer = None
    if nobody is not None:
        maps = [maps[0] + f"{NOBODY_ID} {nobody.uid} 1\n", maps[1] + f"{NOBODY_ID} {nobody.gid} 1\n"]
        try:
            os.setgroups([])
            writer = _MapWriter(maps)
        except OSError as error:
            raise HostError(f"cannot give up the groups of root: {error.strerror}") from None
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER)
    except OSError as error:
        raise HostError(explain_refusal("a user namespace", error)) from None
    try:
        # Its own maps a process may write only while it is open to others; there is nobody in there yet.
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
        # gid_map takes a privileged writer as long as setgroups is allowed: user_namespaces(7).
        _write("/proc/self/setgroups", "deny")
        if writer is not None:
            writer.write()
        else:
            _write_maps("self", maps)
    except OSError as error:
        what = f"the mapping of user {os.geteuid()} and group {os.getegid()} into a new user namespace"
        hint = explain_refusal(what, error)
        if error.errno == errno.EPERM:
            hint += "; mapping user 0 needs CAP_SETFCAP"
        raise HostError(hint) from None
    finally:
        close_to_others()


class _MapWriter:
    """A process that stays in the outer user namespace, to write the maps of *maps* from there.

    Who entered the new one may map no other user than itself.
    """

    def __init__(self, maps: Sequence[str]) -> None:
        ours, theirs = socket.socketpair()
        target = os.getpid()
        self._socket = ours
        self._pid, pidfd = syscalls.clone(0, signal.SIGKILL)
        if self._pid == 0:
            ours.close()
            failure = 0
            try:
                if not theirs.recv(1):
                    os._exit(1)
                _write_maps(str(target), maps)
            except OSError as error:
                failure = error.errno or errno.EIO
            finally:
                theirs.send(bytes((failure,)))
                os._exit(0)
        theirs.close()
        os.close(pidfd)

    def write(self) -> None:
        """Have the maps written. Raises OSError."""
        self._socket.send(b"\0")
        answer = self._socket.recv(1)
        self._socket.close()
        os.waitpid(self._pid, 0)
        failure = answer[0] if answer else errno.EIO
        if failure:
            raise OSError(failure, os.strerror(failure))


def _write_maps(pid: str, maps: Sequence[str]) -> None:
    for kind, text in zip(("uid", "gid"), maps, strict=True):
        _write(f"/proc/{pid}/{kind}_map", text)


def become_root_inside() -> None:
    """Become user and group 0 of the user namespace that we joined, if it has them.

    To be called by a child right after it was started: to change the user cancels its wish to end with
    the parent, so that is set again.
    """
    for change in (os.setresgid, os.setresuid):
        try:
            change(0, 0, 0)
        except OSError:
            continue              # it has no such user; we stay who we are, as seen from there
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    close_to_others()


class Child:
    """A child process as its parent holds it."""

    __slots__ = ("channel", "pid", "pidfd")

    def __init__(self, pid: int, pidfd: int, channel: Channel) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.channel = channel

    def receive_tap(self) -> Tap:
        """Wait for the tap. Raises HostError, with what the child says of it, if there will be none."""
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
        """Wait for the child's end and return its wait status; for PID 1 nothing in there lives on then."""
        return os.waitpid(self.pid, 0)[1]

    def end(self) -> None:
        """End the child by SIGKILL, wait for it, close our descriptors; no error if it has ended already.

        One that is another user's by now ends because the channel does.
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

    *privileged* says that no user namespace was entered, which takes privileges of the caller's.

    A PasstError of *main* becomes the HostError of `Child.receive_tap`. Raises HostError.
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
        # Ctrl-C reaches us as well as the main process, whose end ends us.
        signals.block_all()
        close_to_others()
        if not channel.is_abandoned():
            main(channel)
            status = 0
    except PasstError as error:
        channel.send_failed(str(error))
    except OSError as error:
        channel.send_failed(errors.explain_refusal(error))
    except BaseException as error:  # noqa: BLE001 - a mistake of ours; it must not run on as the parent's copy
        log.failure("pasta", error)
    finally:
        os._exit(status)


def make_tap(channel: Channel, ifname: str, configure: Callable[[], TapFacts], *,
             allow: int = tap.ALL_OFFLOADS, watch_ports: bool = False) -> None:
    """Make the tap *ifname* in our network namespace, *configure* it, send it. Raises PasstError.

    *allow* limits the offloads asked for, TUN_F_* bits. With *watch_ports* goes what the ports that are
    bound here can be read from.
    """
    fd, offloads = tap.open_tap(ifname, allow=allow)
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
    """Open our network namespace: the main process could not, as we are closed to it as well."""
    try:
        return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"cannot open the network namespace: /proc/self/ns/net: {error.strerror}") from None


def explain_refusal(what: str, error: OSError, root: str = SYSCTL_ROOT) -> str:
    """Say which setting below *root* is the cause of *error*, met when asking for *what*."""
    settings = _find_settings(error, root)
    if settings:
        return f"cannot get {what}: {error.strerror}; {settings}"
    if error.errno in (errno.EPERM, errno.EACCES):
        return (f"cannot get {what}: {error.strerror}; a container's seccomp or security profile, a security "
                "module, or a chroot forbids it")
    if error.errno == errno.EINVAL:
        return f"cannot get {what}: {error.strerror}; the kernel is built without it (CONFIG_USER_NS)"
    return f"cannot get {what}: {error.strerror}"


def _find_settings(error: OSError, root: str) -> str:
    """Name the settings that explain *error*, with the values that would not; empty if none does."""
    if error.errno in (errno.ENOSPC, errno.EUSERS):
        named = [f"user.max_{kind}_namespaces" for kind in _COUNTED]
        zero = [name for name in named if _read_setting(root, name) == "0"]
        if zero:
            return " and ".join(f"{name} is 0" for name in zero) + ": raise it with sysctl"
        return (f"a limit is reached ({', '.join(named)}), here or in an outer user namespace, or user "
                "namespaces are nested more than 32 deep")
    if error.errno in (errno.EPERM, errno.EACCES):
        if _read_setting(root, "kernel.unprivileged_userns_clone") == "0":
            return "kernel.unprivileged_userns_clone is 0: set it to 1 with sysctl"
        if _read_setting(root, "kernel.apparmor_restrict_unprivileged_userns") == "1":
            return ("kernel.apparmor_restrict_unprivileged_userns is 1: set it to 0 with sysctl, or give "
                    "pasta an AppArmor profile that permits 'userns'")
    return ""


def _read_setting(root: str, name: str) -> str:
    """Return the value of a sysctl; empty if it does not exist or cannot be read."""
    try:
        with open(f"{root}/{name.replace('.', '/')}", encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    """Write *text* in one write(2), as the files of /proc want it."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
