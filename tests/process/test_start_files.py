"""The files of a start that does not succeed are removed, whatever ends it; nothing but them is."""

from __future__ import annotations

import errno
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import pytest

from passt.host import syscalls
from passt.process import signals
from passt.process.identity import Identity
from passt.process.start_files import StartFiles
from tests.support.isolated import isolated
from tests.support.processes import children, status_field, wait_until


def make(files: StartFiles, path: Path) -> None:
    """Make a file as a start does."""
    files.watch()
    path.write_bytes(b"ours")
    files.add(str(path))


def wait_for_guard(files: StartFiles, path: Path) -> None:
    """Wait until the guard holds *path*."""
    def is_held() -> bool:
        with suppress(FileNotFoundError):     # it is closing what it got from us
            return str(path) in {os.readlink(fd) for fd in Path(f"/proc/{files._pid}/fd").iterdir()}
        return False

    wait_until(is_held, "the guard has looked")


def test_files_are_gone_when_a_failing_start_goes_on(tmp_path: Path) -> None:
    files = StartFiles()
    make(files, tmp_path / "one")
    make(files, tmp_path / "two")
    files.remove()
    assert list(tmp_path.iterdir()) == []
    files.remove()  # a second time, as parent and child of a start may both do, is no error


@pytest.mark.parametrize("refused", [1, 2])
def test_file_that_the_guard_may_not_open_is_removed_too(
        refused: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = StartFiles()
    calls = iter(range(1, 10))
    plain_open = os.open

    def refusing(path: str, flags: int, *, dir_fd: int | None = None) -> int:
        if next(calls) == refused:
            raise OSError(errno.EMFILE, "refused")
        return plain_open(path, flags, dir_fd=dir_fd)

    with monkeypatch.context() as patch:
        patch.setattr("passt.process.start_files.os.open", refusing)
        files.watch()                 # the guard keeps it
    for name in ("one", "two"):
        make(files, tmp_path / name)
    files.remove()
    assert list(tmp_path.iterdir()) == []


def test_files_stay_once_the_start_has_succeeded(tmp_path: Path) -> None:
    files = StartFiles()
    make(files, tmp_path / "one")
    n_before = len(os.listdir("/proc/self/fd"))
    files.keep()
    assert len(os.listdir("/proc/self/fd")) == n_before - 2  # the pipe, and the guard's pidfd
    files.remove()
    assert (tmp_path / "one").read_bytes() == b"ours"


def killed_start(path: Path) -> NoReturn:
    make(StartFiles(), path)
    os.chdir("/")
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_files_of_a_start_that_is_killed_are_removed(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        try:
            killed_start(tmp_path / "one")
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    wait_until(lambda: list(tmp_path.iterdir()) == [], "the file is removed")


def test_path_is_relative_to_the_directory_in_which_the_start_began(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = StartFiles()
    monkeypatch.chdir(tmp_path)
    files.watch()
    (tmp_path / "one").touch()
    files.add("one")
    monkeypatch.chdir("/")
    files.remove()
    assert list(tmp_path.iterdir()) == []


def test_file_that_took_the_place_of_ours_stays(tmp_path: Path) -> None:
    files = StartFiles()
    make(files, tmp_path / "one")
    wait_for_guard(files, tmp_path / "one")
    (tmp_path / "new").write_bytes(b"the user's")
    (tmp_path / "new").replace(tmp_path / "one")
    files.remove()
    assert (tmp_path / "one").read_bytes() == b"the user's"


def test_directory_that_took_the_place_of_the_files_is_left_alone(tmp_path: Path) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    home.mkdir()
    other.mkdir()
    (other / "pid").write_bytes(b"root's")
    files = StartFiles()
    make(files, home / "pid")
    wait_for_guard(files, home / "pid")
    home.rename(tmp_path / "away")
    home.symlink_to(other)
    files.remove()
    assert (other / "pid").read_bytes() == b"root's"
    assert list((tmp_path / "away").iterdir()) == []


def test_without_a_guard_the_files_are_removed_all_the_same(tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: int) -> tuple[int, int]:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(syscalls, "clone", fail)
    n_before = len(os.listdir("/proc/self/fd"))
    files = StartFiles()
    make(files, tmp_path / "one")
    assert len(os.listdir("/proc/self/fd")) == n_before
    files.remove()
    assert list(tmp_path.iterdir()) == []


def test_files_are_removed_when_the_guard_has_been_killed(tmp_path: Path) -> None:
    files = StartFiles()
    make(files, tmp_path / "one")
    wait_for_guard(files, tmp_path / "one")
    os.kill(files._pid, signal.SIGKILL)
    files.remove()
    assert list(tmp_path.iterdir()) == []


def test_parent_removes_the_files_of_a_child_that_fails(tmp_path: Path) -> None:
    files = StartFiles()
    make(files, tmp_path / "one")
    child = os.fork()
    if child == 0:
        files.leave_to_parent()
        files.remove()
        os._exit(0 if (tmp_path / "one").exists() else 1)
    assert os.waitpid(child, 0)[1] == 0
    files.remove()
    assert list(tmp_path.iterdir()) == []


def test_files_are_ours_to_remove_when_the_guard_has_gone(tmp_path: Path) -> None:
    files = StartFiles()
    make(files, tmp_path / "one")
    files.dismiss_guard()
    assert (tmp_path / "one").exists()
    files.remove()
    assert list(tmp_path.iterdir()) == []


def test_killed_parent_takes_the_files_of_its_child_along(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    parent = os.fork()
    if parent == 0:
        files = StartFiles()
        make(files, tmp_path / "one")
        if os.fork() == 0:
            files.leave_to_parent()
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(parent, 0)
    wait_until(lambda: list(tmp_path.iterdir()) == [], "the file is removed, though the child lives")
    os.close(writer)
    os.close(reader)


def test_guard_is_reaped_where_nobody_may_wait(tmp_path: Path) -> None:
    def start() -> tuple[list[str], list[int]]:
        files = StartFiles()
        make(files, tmp_path / "one")
        signals.read_ending(in_background=False)
        files.remove()
        wait_until(lambda: children(os.getpid()) == [], "the kernel has reaped it")
        return [path.name for path in tmp_path.iterdir()], children(os.getpid())

    assert isolated(start, flags=0) == ([], [])


def test_guard_has_a_session_of_its_own_and_one_right(tmp_path: Path) -> None:
    files = StartFiles()
    make(files, tmp_path / "one")
    wait_for_guard(files, tmp_path / "one")
    kept = int(status_field(os.getpid(), "CapPrm"), 16) & 1 << 1  # CAP_DAC_OVERRIDE, if we have it
    assert os.getsid(files._pid) == files._pid
    assert [int(status_field(files._pid, name), 16) for name in ("CapPrm", "CapEff", "CapInh")] == [
        kept, kept, 0]
    files.remove()


@pytest.mark.needs_root
@pytest.mark.parametrize("has_guard", [True, False])
def test_parent_keeps_what_it_needs_to_remove_files_itself(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_guard: bool) -> None:
    def fail(*_: int) -> tuple[int, int]:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    if not has_guard:
        monkeypatch.setattr(syscalls, "clone", fail)
    tmp_path.chmod(0o1755)        # sticky, and root's

    def wait() -> int:
        files = StartFiles()
        make(files, tmp_path / "one")
        Identity(54321, 54321).assume()
        files.give_up_rights()
        kept = syscalls.capget()[1]
        files.remove()
        return kept

    assert isolated(wait, flags=0) == (0 if has_guard else 1 << 1 | 1 << 3)
    assert list(tmp_path.iterdir()) == []
