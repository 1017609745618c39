"""A new user namespace for the main process; the list of new namespaces that a command gets.

New namespaces for a command and namespaces that exist already (`namespace.existing`) are entered in the same
three steps:

1. The main process enters the *user* namespace itself: a new one (`enter_new_user_namespace`) or the
   target's (`TargetNamespaces.join_user_namespace`). That gives it every capability over the namespaces
   which that user namespace owns, and takes away those over the host. It stays in the host's network
   namespace. With --netns-only this step is left out, and the caller's own capabilities have to do.
2. It starts one child (`child.start_child`). For a command this is PID 1 of new PID, network, IPC, UTS and
   mount namespaces; else a helper that joins the target's network namespace. A process that entered a
   network namespace could not come back without privileges, hence a child.
3. The child makes and configures the tap there (`child.make_tap`, the same for both) and sends it to the
   main process, with a descriptor of the network namespace. Then the helper ends; PID 1 goes on
   (`namespace.pid1`).

All our processes are closed to others (`privileges.close_to_others`), as processes in the namespaces are not
trusted. Namespaces go away with their last process and descriptor, the tap with its descriptors.

Identity. The caller becomes user and group 0 inside (`0 UID 1`), and no other user is mapped, so setgroups(2)
is denied (user_namespaces(7)). With --runas the caller has become that user before. If root of the host gives
no --runas, the command keeps root's rights to files, but has capabilities over its own namespaces only; the
main process, which handles packets, becomes nobody, so that user is mapped too. Many hosts let root alone
open /dev/net/tun, so the child opens it before that change.
"""

from __future__ import annotations

import errno
import os
import signal
import socket

from passt.errors import HostError
from passt.host import syscalls
from passt.namespace.explain import explain_refusal
from passt.process.identity import NOBODY_ID
from passt.process.privileges import close_to_others

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Sequence

    from passt.process.identity import Identity

COMMAND_NAMESPACES = (syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNET | syscalls.CLONE_NEWIPC
                      | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWNS)


def enter_new_user_namespace(nobody: Identity | None = None) -> None:
    """Enter a new user namespace as user and group 0 in it. Raises HostError. One thread only.

    *nobody* is given by root only: that user is mapped too, as user `identity.NOBODY_ID`, and supplementary
    groups are given up.
    """
    maps = [f"0 {os.geteuid()} 1\n", f"0 {os.getegid()} 1\n"]
    writer = None
    if nobody is not None:
        maps = [maps[0] + f"{NOBODY_ID} {nobody.uid} 1\n", maps[1] + f"{NOBODY_ID} {nobody.gid} 1\n"]
        try:
            os.setgroups([])
        except OSError as error:
            raise HostError(f"cannot give up the groups of root: {error.strerror}") from None
        writer = _MapWriter(maps)
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER)
    except OSError as error:
        raise HostError(explain_refusal("a user namespace", error)) from None
    try:
        _map_users(maps, writer)
    except OSError as error:
        what = f"the mapping of user {os.geteuid()} and group {os.getegid()} into a new user namespace"
        hint = explain_refusal(what, error)
        if error.errno == errno.EPERM:
            hint += "; mapping user 0 needs CAP_SETFCAP"
        raise HostError(hint) from None


def enter_private_user_namespace() -> None:
    """Enter a new user namespace that has our user and group only, with their numbers. One thread only.

    For a program that has nothing to do with namespaces: the right to make more of them comes with it.
    Raises OSError; if the kernel refuses only the numbers, we stay in the new namespace without any.
    """
    maps = [f"{number} {number} 1\n" for number in (os.geteuid(), os.getegid())]
    syscalls.unshare(syscalls.CLONE_NEWUSER)
    _map_users(maps, None)


def _map_users(maps: Sequence[str], writer: _MapWriter | None) -> None:
    """Write *maps* of the new user namespace that we are in, by *writer* if there is one. Raises OSError."""
    try:
        # A process may write its own maps only while it is dumpable; the namespace has no other process yet.
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
        # Until setgroups is denied, gid_map takes a privileged writer: user_namespaces(7).
        _write("/proc/self/setgroups", "deny")
        if writer is not None:
            writer.write()
        else:
            _write_maps(maps)
    finally:
        close_to_others()


class _MapWriter:
    """A process that stays in the outer user namespace and writes *maps*, of users and groups, from there.

    A process inside a new user namespace may map only its own user (user_namespaces(7)). Raises HostError.
    """

    def __init__(self, maps: Sequence[str]) -> None:
        # By descriptor: /proc may be that of another PID namespace, in which our number is another process.
        target = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            ours, theirs = socket.socketpair()
            self._pid, pidfd = syscalls.clone(0, signal.SIGKILL)
        except OSError as error:
            raise HostError("cannot start the process that maps users into a new user namespace: "
                            f"{error.strerror}") from None
        self._socket = ours
        if self._pid == 0:
            ours.close()
            failure = errno.EIO
            try:
                if not theirs.recv(1):
                    os._exit(1)
                _write_maps(maps, target)
                failure = 0
            except OSError as error:
                failure = error.errno or errno.EIO
            finally:
                theirs.send(bytes((failure,)))
                os._exit(0)
        theirs.close()
        os.close(pidfd)
        os.close(target)

    def write(self) -> None:
        """Tell the process to write the maps, and wait for it. Raises OSError."""
        self._socket.send(b"\0")
        answer = self._socket.recv(1)
        self._socket.close()
        os.waitpid(self._pid, 0)
        failure = answer[0] if answer else errno.EIO
        if failure:
            raise OSError(failure, os.strerror(failure))


def _write_maps(maps: Sequence[str], directory: int | None = None) -> None:
    """Write the maps of users and groups of the process with this *directory* of procfs; by default ours."""
    base = "/proc/self/" if directory is None else ""
    for kind, text in zip(("uid", "gid"), maps, strict=True):
        _write(f"{base}{kind}_map", text, directory)


def become_root_inside() -> None:
    """Become user and group 0 of the user namespace that we joined, if they are mapped.

    A child calls it first. A change of user clears PR_SET_PDEATHSIG(2const), so that is set again.
    """
    for change in (os.setresgid, os.setresuid):
        try:
            change(0, 0, 0)
        except OSError:
            continue              # not mapped: we keep our user
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    close_to_others()


def _write(path: str, text: str, directory: int | None = None) -> None:
    """Write *text* in one write(2), as the files of /proc want it."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
