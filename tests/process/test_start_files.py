"""The files of a start that does not succeed are removed, whatever ends it; nothing but them is."""

from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING, NoReturn

from passt.process.start_files import StartFiles
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def make(files: StartFiles, path: Path) -> None:
    """Make a file as a start does."""
    files.watch()
    path.write_bytes(b"ours")
    files.add(str(path))


def test_files_are_gone_when_a_failing_start_goes_on(tmp_path: Path) -> None:
    files = StartFiles()
    make(files, tmp_path / "one")
    make(files, tmp_path / "two")
    files.remove()
    assert list(tmp_path.iterdir()) == []
    files.remove()  # a second time, as parent and child of a start may both do, is no error


def test_files_stay_once_the_start_has_succeeded(tmp_path: Path) -> None:
    files = StartFiles()
    make(files, tmp_path / "one")
    n_before = len(os.listdir("/proc/self/fd"))
    files.keep()
    assert len(os.listdir("/proc/self/fd")) == n_before - 2  # pipes: of orders, of the number
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
    child_has_looked(files, tmp_path)
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
    child_has_looked(files, home)
    home.rename(tmp_path / "away")
    home.symlink_to(other)
    files.remove()
    assert (other / "pid").read_bytes() == b"root's"
    assert list((tmp_path / "away").iterdir()) == []


def child_has_looked(files: StartFiles, directory: Path) -> None:
    """Wait until the keeper holds *directory*: it is the only other process that does."""
    def is_held() -> bool:
        for pid in filter(str.isdecimal, os.listdir("/proc")):
            try:
                names = os.listdir(f"/proc/{pid}/fd")
                if any(os.readlink(f"/proc/{pid}/fd/{name}") == str(directory) for name in names):
                    return True
            except OSError:
                continue
        return False

    assert files._orders >= 0
    wait_until(is_held, "the keeper has looked")


def test_without_a_keeper_the_files_are_removed_all_the_same(tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", fail)
    n_before = len(os.listdir("/proc/self/fd"))
    files = StartFiles()
    make(files, tmp_path / "one")
    assert len(os.listdir("/proc/self/fd")) == n_before
    files.remove()
    assert list(tmp_path.iterdir()) == []
