"""User namespaces, the child's start and end, and the explanations of refusals."""

from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING

import pytest

from passt.errors import ConfigError, HostError
from passt.host import syscalls
from passt.namespace import create
from passt.namespace.child import _run_child, start_child
from passt.namespace.child_channel import Channel, Kind
from passt.namespace.explain import explain_refusal
from passt.process.identity import Identity
from tests.support.isolated import isolated

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def sysctls(root: Path, **values: str) -> str:
    for name, value in values.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{value}\n")
    return str(root)


@pytest.mark.parametrize(("number", "values", "expected"), [
    (errno.ENOSPC, {"user__max_user_namespaces": "0"}, "user.max_user_namespaces is 0: raise it"),
    (errno.ENOSPC, {"user__max_net_namespaces": "0", "user__max_pid_namespaces": "0"},
     "user.max_pid_namespaces is 0 and user.max_net_namespaces is 0"),
    (errno.ENOSPC, {"user__max_user_namespaces": "9"},
     "limit is reached .*user.max_user_namespaces.*32 deep"),
    (errno.EUSERS, {}, "limit is reached"),
    (errno.EPERM, {"kernel__unprivileged_userns_clone": "0"},
     "kernel.unprivileged_userns_clone is 0: set it to 1"),
    (errno.EPERM, {"kernel__unprivileged_userns_clone": "1"}, "seccomp .*chroot"),
    (errno.EPERM, {"kernel__apparmor_restrict_unprivileged_userns": "1"},
     "kernel.apparmor_restrict_unprivileged_userns is 1: set it to 0 .*AppArmor profile"),
    (errno.EACCES, {"kernel__apparmor_restrict_unprivileged_userns": "1"}, "apparmor_restrict"),
    (errno.EPERM, {"kernel__apparmor_restrict_unprivileged_userns": "0"}, "seccomp"),
    (errno.EPERM, {}, "seccomp"),
    (errno.EINVAL, {}, "CONFIG_USER_NS"),
    (errno.ENOMEM, {}, "$"),
])
def test_refusal_names_the_setting(tmp_path: Path, number: int, values: dict[str, str],
                                   expected: str) -> None:
    error = OSError(number, os.strerror(number))
    text = explain_refusal("a user namespace", error, sysctls(tmp_path, **values))
    with pytest.raises(HostError, match=f"^cannot get a user namespace: {os.strerror(number)}.*{expected}"):
        raise HostError(text)
    assert "\n" not in text


def entered() -> tuple[int, int, str, str, str, bool]:
    create.enter_new_user_namespace()
    maps = []
    for name in ("uid_map", "gid_map", "setgroups"):
        with open(f"/proc/self/{name}", encoding="ascii") as file:
            maps.append(" ".join(file.read().split()))
    uid_map, gid_map, setgroups = maps
    return os.getuid(), os.getgid(), uid_map, gid_map, setgroups, bool(syscalls.capget()[0] >> 21 & 1)


@pytest.mark.needs_root
@pytest.mark.parametrize("uid", [0, 54321])
def test_caller_becomes_root_of_a_new_user_namespace(uid: int) -> None:
    def as_user() -> tuple[int, int, str, str, str, bool]:
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
        return entered()

    assert isolated(as_user, flags=0) == (0, 0, f"0 {uid} 1", f"0 {uid} 1", "deny", True)


@pytest.mark.needs_root
def test_forbidden_by_limit_is_one_line_with_the_setting() -> None:
    def attempt() -> str:
        create.enter_new_user_namespace()
        with open("/proc/sys/user/max_user_namespaces", "w", encoding="ascii") as file:
            file.write("0")
        try:
            create.enter_new_user_namespace()
        except HostError as error:
            return str(error)
        return ""

    assert isolated(attempt, flags=0) == ("cannot get a user namespace: No space left on device; "
                                          "user.max_user_namespaces is 0: raise it with sysctl")


@pytest.mark.needs_root
@pytest.mark.parametrize("error", [OSError(errno.EACCES, "no"), RuntimeError("a mistake of ours")])
def test_maps_that_were_not_written_are_never_taken_for_written(error: Exception) -> None:
    def attempt() -> str:
        def fail(_path: str, _text: str, _directory: int | None = None) -> None:
            raise error

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(create, "_write", fail)
            writer = create._MapWriter(["0 0 1\n", "0 0 1\n"])
        try:
            writer.write()
        except OSError as failure:
            return errno.errorcode[failure.errno or 0]
        return ""

    assert isolated(attempt, flags=0) == ("EACCES" if isinstance(error, OSError) else "EIO")


@pytest.mark.needs_root
def test_process_that_maps_users_and_cannot_start_is_named() -> None:
    def attempt() -> str:
        def fail(_flags: int, _end_signal: int) -> tuple[int, int]:
            raise OSError(errno.EAGAIN, "no more processes")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(syscalls, "clone", fail)
            try:
                create.enter_new_user_namespace(Identity(65534, 65534))
            except HostError as error:
                return str(error)
        return ""

    assert isolated(attempt, flags=0) == ("cannot start the process that maps users into a new user "
                                          "namespace: no more processes")


@pytest.mark.needs_root
def test_forbidden_network_namespaces_are_told() -> None:
    def attempt() -> str:
        create.enter_new_user_namespace()
        with open("/proc/sys/user/max_net_namespaces", "w", encoding="ascii") as file:
            file.write("0")
        try:
            start_child(create.COMMAND_NAMESPACES, lambda _: None)
        except HostError as error:
            return str(error)
        return ""

    assert "the namespaces of the command: No space left on device; user.max_net_namespaces is 0" in isolated(
        attempt, flags=0)


def fail_with_config(_channel: Channel) -> None:
    raise ConfigError("no such thing")


def fail_by_mistake(_channel: Channel) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    raise ZeroDivisionError


def die(_channel: Channel) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(("main", "text"), [
    (fail_with_config, "^no such thing$"),
    (fail_by_mistake, "ended too early"),
    (die, "ended by signal 9"),
    (lambda channel: channel.send(Kind.CONTINUED), "ended too early"),
])
def test_failure_of_the_child_is_our_error(main: Callable[[Channel], object], text: str) -> None:
    child = start_child(0, main)
    with pytest.raises(HostError, match=text):
        child.receive_tap()
    child.end()


def test_child_is_ended_and_collected() -> None:
    child = start_child(0, lambda channel: channel.receive(Kind.START, wait=True))
    child.end()
    with pytest.raises(ChildProcessError):
        os.waitpid(child.pid, 0)


def test_child_of_a_dead_parent_does_nothing(tmp_path: Path) -> None:
    """The parent's end of the channel is closed before the child looks: it must not start its work."""
    ours, theirs = Channel.pair()
    ours.close()
    pid = os.fork()
    if pid == 0:
        _run_child(theirs, lambda _: (tmp_path / "ran").touch())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    theirs.close()
    assert not (tmp_path / "ran").exists()


def test_death_of_the_parent_ends_the_child() -> None:
    """Whatever the child does: here it sleeps with all signals blocked."""
    reader, writer = os.pipe()
    parent = os.fork()
    if parent == 0:
        os.close(reader)
        child = start_child(0, lambda _: signal.pause())
        os.write(writer, str(child.pid).encode())
        signal.pause()
    os.close(writer)
    pid = int(os.read(reader, 20))
    pidfd = os.pidfd_open(pid)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    # The child holds the pipe's other end: its end is the end of file.
    assert os.read(reader, 1) == b""
    os.close(reader)
    os.close(pidfd)
