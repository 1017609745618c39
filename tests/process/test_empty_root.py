"""An empty root directory: what was opened stays, and no path leads anywhere."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from passt.host import syscalls
from passt.process import empty_root
from tests.support.isolated import errno_of, isolated

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

IN_USER_NAMESPACE = syscalls.CLONE_NEWUSER
MS_REC, MS_PRIVATE, MS_SHARED = 1 << 14, 1 << 18, 1 << 20


def test_no_path_leads_anywhere(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"before")

    def body() -> dict[str, object]:
        kept = os.open(tmp_path / "kept", os.O_RDWR)
        os.chdir(tmp_path)
        empty_root.enter_namespaces()
        empty_root.enter()
        return {
            "root": os.listdir("/"), "cwd": os.getcwd(), "up": os.listdir("/.."),
            "errors": {errno_of(os.stat, path)
                       for path in ("/proc", "/etc/passwd", tmp_path, "kept", "../etc")},
            "new": {errno_of(os.open, "/new", os.O_CREAT | os.O_RDWR), errno_of(os.mkdir, "new"),
                    errno_of(os.symlink, "/", "new"), errno_of(os.mkfifo, "/new")},
            "mode": os.stat("/").st_mode & 0o777,
            "kept": os.pread(kept, 10, 0), "wrote": os.pwrite(kept, b"a", 0),
        }

    found = isolated(body, flags=IN_USER_NAMESPACE)
    assert found == {"root": [], "cwd": "/", "up": [], "errors": {2}, "new": {30}, "mode": 0o555,
                     "kept": b"before", "wrote": 1}


def test_threads_lose_the_old_root_too() -> None:
    def body() -> tuple[int, int]:
        enter, left = threading.Event(), threading.Event()
        seen: list[int] = []

        def look() -> None:
            seen.append(errno_of(os.stat, "/proc"))
            enter.set()
            left.wait()
            seen.append(errno_of(os.stat, "/proc"))

        empty_root.enter_namespaces()
        thread = threading.Thread(target=look)
        thread.start()
        enter.wait()
        empty_root.enter()
        left.set()
        thread.join()
        return seen[0], seen[1]

    assert isolated(body, flags=IN_USER_NAMESPACE) == (0, 2)


def test_callers_mounts_are_left_alone() -> None:
    def body() -> None:
        empty_root.enter_namespaces()
        empty_root.enter()

    def mounts() -> str:
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            return file.read()

    def caller() -> tuple[str, str]:
        # A table of mounts that other tests do not change; what is mounted below us would come here.
        syscalls.mount(b"none", b"/", b"none", MS_REC | MS_PRIVATE)
        syscalls.mount(b"none", b"/", b"none", MS_REC | MS_SHARED)
        before = mounts()
        isolated(body, flags=0)
        return before, mounts()

    before, after = isolated(caller, flags=IN_USER_NAMESPACE | syscalls.CLONE_NEWNS)
    assert "shared:" in before
    assert after == before


def test_without_the_right_nothing_changes() -> None:
    def body() -> tuple[int, bool]:
        syscalls.capset(0, 0, 0)
        return errno_of(empty_root.enter_namespaces), os.path.isdir("/proc/self")

    assert isolated(body, flags=IN_USER_NAMESPACE) == (1, True)


def test_missing_directories_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def body() -> list[str]:
        empty_root.enter_namespaces()
        empty_root.enter()
        return os.listdir("/")

    monkeypatch.setattr(empty_root, "PLACES", (b"/no-such", b"/etc/passwd", b"/usr"))
    assert isolated(body, flags=IN_USER_NAMESPACE) == []


def test_without_any_of_the_directories_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    def body() -> tuple[int, bool]:
        empty_root.enter_namespaces()
        return errno_of(empty_root.enter), os.path.isdir("/proc/self")

    monkeypatch.setattr(empty_root, "PLACES", (b"/no-such", b"/etc/passwd"))
    assert isolated(body, flags=IN_USER_NAMESPACE) == (2, True)


def test_failure_leaves_root_and_working_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: bytes) -> None:
        raise PermissionError(1, "Operation not permitted")

    def body() -> tuple[int, bool, str]:
        empty_root.enter_namespaces()
        monkeypatch.setattr(syscalls, "pivot_root", refuse)
        return errno_of(empty_root.enter), os.path.isdir("/proc/self"), os.getcwd()

    assert isolated(body, flags=IN_USER_NAMESPACE) == (1, True, "/")
