"""The file of a command's configuration socket is removed, and no other."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from passt.namespace.socket_file import SocketFile

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_file_is_removed_by_a_descriptor_that_was_there_before(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    path.touch()
    made = SocketFile(str(path))
    (fd,) = made.descriptors()
    assert os.readlink(f"/proc/self/fd/{fd}") == str(tmp_path)
    made.remove()
    assert not path.exists()
    made.remove()                  # gone already: no error
    os.close(fd)


def test_another_file_of_that_name_stays(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    path.touch()
    made = SocketFile(str(path))
    (tmp_path / "other").touch()
    (tmp_path / "other").rename(path)
    made.remove()
    assert path.exists()
    os.close(made.descriptors()[0])


def test_relative_path_is_that_of_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "socket").touch()
    made = SocketFile("socket")
    monkeypatch.chdir("/")
    made.remove()
    assert not (tmp_path / "socket").exists()
    os.close(made.descriptors()[0])


def test_what_cannot_be_looked_at_stays(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    missing = SocketFile(str(tmp_path / "none" / "socket"), str(tmp_path / "socket"))
    assert missing.descriptors() == ()
    assert os.listdir("/proc/self/fd") == before
    (tmp_path / "socket").touch()
    missing.remove()
    assert (tmp_path / "socket").exists()
