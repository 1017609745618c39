"""Landlock: no path can be opened, open files go on working, the network is left alone."""

from __future__ import annotations

import os
import socket
import subprocess
from errno import EACCES, EOPNOTSUPP, EPERM
from typing import TYPE_CHECKING

import pytest

from passt.host import syscalls
from passt.process import landlock
from tests.support.isolated import errno_of, isolated

if TYPE_CHECKING:
    from pathlib import Path


def version() -> int:
    try:
        return syscalls.landlock_version()
    except OSError:
        return 0


pytestmark = pytest.mark.skipif(version() == 0, reason="this kernel has no Landlock")


def test_paths_are_closed_and_open_files_are_not(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"before")

    def body() -> tuple[set[int], bytes, int]:
        kept = os.open(tmp_path / "kept", os.O_RDWR)
        landlock.restrict(signals=True)
        refused = {errno_of(os.open, path, os.O_RDONLY)
                   for path in ("/etc/passwd", "/proc/self/status", "/dev/null")}
        refused |= {errno_of(os.listdir, "/"), errno_of(os.open, tmp_path / "new", os.O_CREAT | os.O_WRONLY),
                    errno_of(os.unlink, tmp_path / "kept"), errno_of(os.execv, "/bin/true", ["true"])}
        os.ftruncate(kept, 3)
        return refused, os.pread(kept, 10, 0), os.pwrite(kept, b"a", 0)

    assert isolated(body, flags=0) == ({EACCES}, b"bef", 1)


def test_network_is_left_alone() -> None:
    def body() -> bytes:
        landlock.restrict(signals=True)
        with socket.socket() as server, socket.socket() as one:
            server.bind(("127.0.0.1", 0))
            server.listen()
            one.connect(server.getsockname())
            other, _ = server.accept()
            with other:
                one.sendall(b"through")
                return other.recv(10)

    assert isolated(body, flags=0) == b"through"


@pytest.mark.skipif(version() < 6, reason="Landlock of this kernel has no scopes")
@pytest.mark.parametrize("signals", [False, True])
def test_signals_and_abstract_sockets_of_others(signals: bool) -> None:
    name = f"\0passt-test-{os.getpid()}"
    with subprocess.Popen(["sleep", "100"]) as other, socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()

        def body() -> tuple[int, int, int]:
            with socket.socket(socket.AF_UNIX) as client:
                landlock.restrict(signals=signals)
                return (errno_of(client.connect, name), errno_of(os.kill, other.pid, 0),
                        errno_of(os.kill, os.getpid(), 0))

        try:
            assert isolated(body, flags=0) == (EPERM, EPERM if signals else 0, 0)
        finally:
            other.kill()


@pytest.mark.parametrize(("found", "access", "scoped", "size"), [
    (1, 0x1FFF, 0, 8), (2, 0x3FFF, 0, 8), (3, 0x7FFF, 0, 8), (4, 0x7FFF, 0, 8), (5, 0xFFFF, 0, 8),
    (6, 0xFFFF, 3, 24), (9, 0xFFFF, 3, 24),
])
def test_old_kernels_are_asked_for_what_they_know(monkeypatch: pytest.MonkeyPatch, found: int, access: int,
                                                  scoped: int, size: int) -> None:
    asked: list[object] = []

    def create(*arguments: int) -> int:
        asked.append(arguments)
        return os.dup(0)

    monkeypatch.setattr(syscalls, "landlock_version", lambda: found)
    monkeypatch.setattr(syscalls, "landlock_create_ruleset", create)
    monkeypatch.setattr(syscalls, "landlock_restrict_self", lambda _fd: None)
    monkeypatch.setattr(syscalls, "prctl", lambda *_: 0)
    assert landlock.restrict(signals=True) == found
    assert asked == [(access, scoped, size)]


def test_kernel_without_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise OSError(EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(syscalls, "landlock_version", refuse)
    with pytest.raises(OSError, match="not supported"):
        landlock.restrict(signals=True)


def test_with_reading_files_are_read_and_nothing_else_is_done(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"before")

    def body() -> tuple[bytes, list[str], set[int]]:
        landlock.restrict(signals=True, reading=True)
        refused = {errno_of(os.open, tmp_path / "new", os.O_CREAT | os.O_WRONLY),
                   errno_of(os.open, tmp_path / "kept", os.O_WRONLY), errno_of(os.unlink, tmp_path / "kept"),
                   errno_of(os.execv, "/bin/true", ["true"])}
        return (tmp_path / "kept").read_bytes(), os.listdir(tmp_path), refused

    assert isolated(body, flags=0) == (b"before", ["kept"], {EACCES})
