"""User and network namespaces: new ones for a command, or those of a running process.

One path for both forms:

1. The main process enters the *user* namespace itself: a new one (`enter_new_user_namespace`) or the
   target's (`Target.join_user_namespace`). That gives it every capability over the namespaces which that
   user namespace owns, and takes away those over the host. It stays in the host's network namespace.
2. It starts one child (`start_child`). For a command this is PID 1 of new PID, network, IPC, UTS and
   mount namespaces; else a helper that joins the target's network namespace. A process that entered a
   network namespace could not come back without privileges, hence a child.
3. The child makes and configures the tap in there (`make_tap`, the same for both) and sends it over.
   The helper is done then; PID 1 goes on (`host.init`).

The child cannot outlive the main process: it gets SIGKILL with the main process's end from its first
instruction on, and looks then whether that end came before (`Channel.is_abandoned`). Namespaces go
away with their last process and descriptor, the tap with its descriptors.

Identity. The caller becomes user and group 0 inside (`0 UID 1`), and no other is mapped, so
setgroups(2) is denied (user_namespaces(7)). This holds for root as well: the command of a real root is
root towards files, as that user always is, but has capabilities over its own namespaces only. In
contrast to other implementations we do not turn into "nobody" then: that user could not open a
/dev/net/tun which is root's alone, nor write the id maps. Privileges towards the host are given up
by entering the namespace, the rest by `privileges.drop_privileges`.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import sys

from passt.errors import HostError, PasstError
from passt.host import signals, syscalls, tun
from passt.host.channel import Channel, Kind, Message, Tap, read_ready

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv6Address
    from typing import NoReturn, Protocol

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


def enter_new_user_namespace() -> None:
    """Enter a new user namespace as user and group 0 in it. Raises HostError. One thread only."""
    uid, gid = os.geteuid(), os.getegid()
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER)
    except OSError as error:
        raise HostError(explain_refusal("a user namespace", error)) from None
    try:
        # gid_map takes a privileged writer as long as setgroups is allowed: user_namespaces(7).
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"0 {uid} 1\n")
        _write("/proc/self/gid_map", f"0 {gid} 1\n")
    except OSError as error:
        what = f"the mapping of user {uid} and group {gid} into a new user namespace"
        hint = explain_refusal(what, error)
        if uid == 0 and error.errno == errno.EPERM:
            hint += "; mapping user 0 needs CAP_SETFCAP"
        raise HostError(hint) from None


class Target:
    """The namespaces of process *pid*, held open. Raises HostError if they cannot be opened.

    *pidfd* becomes readable when the process ends.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self.pidfd = os.pidfd_open(pid)
        except (OSError, OverflowError):
            raise HostError(f"there is no process {pid} whose namespaces could be joined") from None
        self._user = self._open("user")
        self._net = self._open("net")
        if _is_readable(self.pidfd):
            # The number may be another process's by now.
            raise HostError(f"process {pid} ended before its namespaces could be joined")

    def _open(self, kind: str) -> int:
        try:
            return os.open(f"/proc/{self.pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise HostError(f"process {self.pid} has ended, or /proc hides it (hidepid)") from None
        except PermissionError:
            raise HostError(f"the {kind} namespace of process {self.pid} is closed to this user: pasta has "
                            "to be started by the user who owns the process, or by root") from None
        except OSError as error:
            raise HostError(f"cannot open /proc/{self.pid}/ns/{kind}: {error.strerror}") from None

    def join_user_namespace(self) -> None:
        """Enter the user namespace, if it is not ours already (which the kernel refuses). One thread only."""
        own = os.stat("/proc/self/ns/user")
        theirs = os.fstat(self._user)
        if (own.st_dev, own.st_ino) != (theirs.st_dev, theirs.st_ino):
            self._join(self._user, syscalls.CLONE_NEWUSER, "user")
        os.close(self._user)
        self._user = -1

    def join_network_namespace(self) -> None:
        """Enter the network namespace: for a helper process, as there is no way back."""
        self._join(self._net, syscalls.CLONE_NEWNET, "network")

    def close_network_namespace(self) -> None:
        """Close the network namespace's descriptor, so that we do not keep the namespace alive."""
        os.close(self._net)
        self._net = -1

    def _join(self, fd: int, kind: int, name: str) -> None:
        try:
            syscalls.setns(fd, kind)
        except OSError as error:
            if error.errno == errno.EPERM:
                raise HostError(f"the {name} namespace of process {self.pid} may not be joined: this user "
                                "has no CAP_SYS_ADMIN in the user namespace that owns it") from None
            raise HostError(f"cannot join the {name} namespace of process {self.pid}: "
                            f"{error.strerror}") from None


class Child:
    """A child process as its parent holds it."""

    __slots__ = ("channel", "pid", "pidfd")

    def __init__(self, pid: int, pidfd: int, channel: Channel) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.channel = channel

    def receive_tap(self) -> Tap:
        """Wait for the tap. Raises HostError, with what the child says of it, if there will be none."""
        message = self.channel.receive(wait=True)
        if message is not None and message.kind is Kind.READY:
            return read_ready(message)
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
        """End the child by SIGKILL, wait for it, close our descriptors; no error if it has ended already."""
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass
        try:
            self.wait()
        except ChildProcessError:
            pass
        self.channel.close()
        os.close(self.pidfd)


def start_child(flags: int, main: Callable[[Channel], object]) -> Child:
    """Fork a child into new namespaces (CLONE_NEW* *flags*, or 0); it runs *main* and ends with status 0.

    A PasstError of *main* becomes the HostError of `Child.receive_tap`. Raises HostError.
    """
    ours, theirs = Channel.pair()
    try:
        pid, pidfd = syscalls.clone(flags, signal.SIGKILL)
    except OSError as error:
        raise HostError(explain_refusal("the namespaces of the command", error)) from None
    if pid == 0:
        ours.close()
        _run_child(theirs, main)
    theirs.close()
    return Child(pid, pidfd, ours)


def _run_child(channel: Channel, main: Callable[[Channel], object]) -> NoReturn:
    status = 1
    # Ctrl-C reaches us as well as the main process, whose end ends us.
    signals.block_all()
    try:
        if not channel.is_abandoned():
            main(channel)
            status = 0
    except PasstError as error:
        channel.send_failed(str(error))
    except BaseException:  # noqa: BLE001 - a mistake of ours; it must not run on as the parent's copy
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def make_tap(channel: Channel, ifname: str, configure: Callable[[], TapFacts], *,
             allow: int = tun.ALL_OFFLOADS, watch_ports: bool = False) -> None:
    """Make the tap *ifname* in our network namespace, *configure* it, send it. Raises PasstError.

    *allow* limits the offloads asked for, TUN_F_* bits. With *watch_ports* goes what the ports that are
    bound here can be read from.
    """
    fd, offloads = tun.open_tap(ifname, allow=allow)
    sources: list[int] = []
    try:
        facts = configure()
        if watch_ports:
            from passt.host.port_scan import open_sources

            sources = open_sources()
        if not channel.send_ready(Tap(fd, offloads, facts.mac, facts.link_local, sources)):
            raise HostError("the main process has ended")
    finally:
        for each in (fd, *sources):
            os.close(each)


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
        with open(f"{root}/{name.replace('.', '/')}", encoding="ascii") as file:
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


def _is_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
