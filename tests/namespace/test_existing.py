"""Namespaces that exist: opening, joining, and noticing their end; real ones, in children where need be."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from typing import TYPE_CHECKING

import pytest

from passt.errors import HostError
from passt.host import syscalls
from passt.namespace.existing import ProcessWatch, TargetNamespaces, watch_path
from tests.support import fakes
from tests.support.isolated import isolated

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Loop(fakes.Loop):
    """Counts the ends that it is told of; nobody may look for one less often than each second."""

    def __init__(self) -> None:
        super().__init__()
        self.n_ends = 0

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        assert 0 < delay_s < 1
        super().call_later(delay_s, callback)

    def on_end(self) -> None:
        self.n_ends += 1


@pytest.mark.parametrize("pid", [2**22 + 1, 2**31 - 1, 2**40])
def test_missing_process_is_told(pid: int) -> None:
    with pytest.raises(HostError, match=f"no process {pid}"):
        ProcessWatch(pid)


def test_zombie_has_no_namespaces_to_join() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert ProcessWatch(pid).has_ended()
    with pytest.raises(HostError, match=f"process {pid}"):
        TargetNamespaces.of_process(pid)
    os.waitpid(pid, 0)


def test_own_user_namespace_is_not_joined_again() -> None:
    for target in (TargetNamespaces.of_process(os.getpid()),
                   TargetNamespaces.of_paths("/proc/self/ns/net", "/proc/self/ns/user")):
        target.join_user_namespace()
        target.close()


def test_target_without_a_user_namespace_joins_none() -> None:
    for target in (TargetNamespaces.of_process(os.getpid(), netns_only=True),
                   TargetNamespaces.of_paths("/proc/self/ns/net", None)):
        target.join_user_namespace()
        target.close()


@pytest.mark.parametrize(("path", "text"), [
    ("/run/netns/no-such-name", "there is no such file; a name is one of 'ip netns list'"),
    ("/nowhere/net", "there is no such file"),
    ("/etc/passwd", "this is not a network namespace"),
    ("/proc/self/ns/user", "this is not a network namespace"),
    ("/", "this is not a network namespace"),
])
def test_path_that_is_no_namespace_is_told(path: str, text: str) -> None:
    with pytest.raises(HostError) as caught:
        TargetNamespaces.of_paths(path, None)
    assert str(caught.value) == f"option '--netns' {path}: {text}"


def test_user_namespace_that_is_none_is_told() -> None:
    with pytest.raises(HostError, match="'--userns' /proc/self/ns/net: this is not a user namespace"):
        TargetNamespaces.of_paths("/proc/self/ns/net", "/proc/self/ns/net")


def test_named_pipe_does_not_hang_us(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(HostError, match="not a network namespace"):
        TargetNamespaces.of_paths(str(tmp_path / "pipe"), None)


def test_end_of_a_process_is_noticed() -> None:
    loop = Loop()
    with subprocess.Popen(["sleep", "1000"]) as process:
        watch_path(f"/proc/{process.pid}/ns/net").start(loop, loop.on_end)
        assert len(loop.readers) == 1  # no polling
        loop.turn()
        assert loop.n_ends == 0
        process.kill()
        process.wait()
        loop.turn()
        assert loop.n_ends == 1


@pytest.mark.parametrize("change", ["remove", "rename", "remove_directory", "rename_directory"])
def test_end_of_a_path_is_noticed_at_once(tmp_path: Path, change: str) -> None:
    directory = tmp_path / "netns"
    directory.mkdir()
    path, other = directory / "one", directory / "other"
    path.touch()
    loop = Loop()
    watch = watch_path(str(path))
    watch.start(loop, loop.on_end)
    assert loop.timers == []
    # Several events in one read, of which none concerns us, and then one does.
    other.touch()
    other.unlink()
    (directory / "one-more").touch()
    (directory / "one-more").unlink()
    loop.turn()
    assert (loop.n_ends, watch.has_ended()) == (0, False)
    other.touch()
    other.unlink()
    if change == "remove":
        path.unlink()
    elif change == "rename":
        path.rename(tmp_path / "one")
    elif change == "rename_directory":
        directory.rename(tmp_path / "elsewhere")
    else:
        path.unlink()
        directory.rmdir()
    loop.turn()
    assert loop.n_ends == 1


def test_path_on_procfs_is_looked_up_again() -> None:
    loop = Loop()
    with subprocess.Popen(["sleep", "1000"]) as process:
        watch = watch_path(f"/proc/{process.pid}/task/{process.pid}/ns/net")
        watch.start(loop, loop.on_end)
        for _ in range(3):
            loop.turn()
        assert (loop.n_ends, len(loop.timers), loop.readers) == (0, 1, {})
        process.kill()
        process.wait()
        loop.turn()
        assert (loop.n_ends, loop.timers) == (1, [])


@pytest.mark.parametrize(("number", "advice"), [
    (errno.EMFILE, "raise fs.inotify.max_user_instances"), (errno.ENOSPC, "max_user_watches"),
    (errno.EACCES, ""),
])
@pytest.mark.parametrize("name", ["inotify_init", "inotify_add_watch"])
def test_path_without_inotify_is_looked_up_again(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str,
        number: int, advice: str) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(syscalls, name, refuse)
    path = tmp_path / "one"
    path.touch()
    loop = Loop()
    n_before = len(os.listdir("/proc/self/fd"))
    watch = watch_path(str(path))
    assert len(os.listdir("/proc/self/fd")) == n_before + 1  # the directory
    watch.start(loop, loop.on_end)
    said = capfd.readouterr().err
    # A limit is for the user to raise; what may not be read is nobody's fault.
    assert said.count("\n") == (1 if advice else 0)
    assert advice in said
    loop.turn()
    assert (loop.n_ends, len(loop.timers)) == (0, 1)
    path.unlink()
    loop.turn()
    assert (loop.n_ends, loop.timers) == (1, [])


@pytest.mark.needs_root
def test_path_that_we_may_not_look_at_counts_as_alive(tmp_path: Path) -> None:
    (tmp_path / "one").touch()
    directory = tmp_path

    def attempt() -> str:
        watch = watch_path(str(directory / "one"))
        directory.chmod(0)
        os.setresuid(54321, 54321, 54321)
        return str(watch.has_ended())

    assert isolated(attempt, flags=0) == "False"


@pytest.mark.parametrize("path", ["/proc/self/ns/net", "/proc/thread-self/ns/net", "/proc/self/comm"])
def test_path_is_not_gone_where_no_file_can_be_opened(path: str) -> None:
    """Connections of a guest or of remotes may hold all descriptors: that is no end of a namespace."""
    def body() -> str:
        watch = watch_path(path)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        with pytest.raises(OSError, match="Too many open files"):
            os.open("/", os.O_PATH)
        return str(watch.has_ended())

    assert isolated(body) == "False"


@pytest.mark.needs_root
def test_namespaces_of_another_user_are_closed_to_us() -> None:
    def attempt() -> str:
        os.setresgid(54321, 54321, 54321)
        os.setresuid(54321, 54321, 54321)
        try:
            TargetNamespaces.of_process(1)
        except HostError as error:
            return str(error)
        return ""

    assert "of process 1 is closed to this user" in isolated(attempt, flags=0)


@pytest.mark.needs_root
def test_network_namespace_without_rights_over_it_is_told() -> None:
    def attempt() -> str:
        syscalls.capset(0, 0, 0)
        target = TargetNamespaces.of_process(os.getpid())
        target.join_user_namespace()
        try:
            target.join_network_namespace()
        except HostError as error:
            return str(error)
        return ""

    assert "no CAP_SYS_ADMIN in the user namespace that owns it" in isolated(attempt, flags=0)
