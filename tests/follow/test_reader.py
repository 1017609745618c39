"""The program that reads resolv.conf: what it follows, what it sends, what it has, and that it ends."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
import termios
from typing import TYPE_CHECKING

import pytest

from passt import log
from passt.errors import HostError
from passt.follow.reader import MAX_CONTENT, Reader
from passt.host import syscalls
from passt.process import landlock, small_program
from passt.process.identity import Identity
from tests.support.isolated import isolated
from tests.support.processes import (
    LIMIT_S,
    is_readable,
    process_state,
    status_field,
    wait_until,
)
from tests.support.reader_bench import ReaderBench

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ONE, TWO = b"nameserver 192.0.2.1\n", b"nameserver 192.0.2.2\n"


class Bench(ReaderBench[Reader]):
    """The main process's side."""

    def __init__(self, path: Path, user: Identity | None = None) -> None:
        super().__init__(lambda: Reader(str(path), user))


def followed(test: Callable[[Path, Callable[[Path], Bench]], None]) -> Callable[[Path], None]:
    """Run a test in a child, with a directory like /, and end the program after it."""
    def wrapper(tmp_path: Path) -> None:
        def run() -> None:
            benches: list[Bench] = []

            def watch(path: Path) -> Bench:
                benches.append(Bench(path))
                return benches[-1]

            (tmp_path / "etc").mkdir()
            (tmp_path / "run" / "resolve").mkdir(parents=True)
            try:
                test(tmp_path / "etc" / "resolv.conf", watch)
            finally:
                for bench in benches:
                    bench.end()

        isolated(run, flags=0)

    wrapper.__name__ = test.__name__
    wrapper.__doc__ = test.__doc__
    return wrapper


def replaced(path: Path, content: bytes) -> None:
    """Do as systemd-resolved and NetworkManager do."""
    other = path.with_suffix(".new")
    other.write_bytes(content)
    other.rename(path)


def unread_len(fd: int) -> int:
    """Return how many bytes wait in all messages of a channel."""
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)


@followed
def test_content_comes_at_the_start_and_after_each_rename(path: Path, watch: Callable[[Path], Bench]) -> None:
    path.write_bytes(ONE)
    bench = watch(path)
    bench.until(ONE)
    for content in (TWO, b"", ONE):
        replaced(path, content)
        bench.until(content)
    assert bench.contents == [ONE, TWO, b"", ONE]


@followed
def test_of_what_has_come_the_newest_is_taken_and_then_nothing_for_a_while(
        path: Path, watch: Callable[[Path], Bench]) -> None:
    path.write_bytes(ONE)
    bench = watch(path)
    ticks = iter(range(100))
    bench.reader._work_clock = lambda: next(ticks) / 1000
    (fd, (callback, _)), = bench.loop.watched.items()
    assert is_readable(fd, LIMIT_S)
    callback()
    assert bench.contents == [ONE]
    assert bench.loop.watched == {}, "however often it changes"
    [(delay_s, _)] = bench.loop.timers
    assert delay_s == pytest.approx(20 / 1000)
    for content, n_waiting in ((TWO, 22), (b"", 23), (ONE, 45), (TWO, 67)):
        replaced(path, content)
        wait_until(lambda n=n_waiting: unread_len(fd) == n, "it is sent")  # type: ignore[misc]
    bench.until(TWO)
    assert bench.contents == [ONE, TWO]


@followed
def test_file_written_in_place(path: Path, watch: Callable[[Path], Bench]) -> None:
    path.write_bytes(ONE)
    bench = watch(path)
    bench.until(ONE)
    with path.open("r+b") as file:
        file.write(TWO)
    bench.until(TWO)


@followed
def test_file_behind_links_and_links_that_change(path: Path, watch: Callable[[Path], Bench]) -> None:
    stub, full = path.parents[1] / "run/resolve/stub", path.parents[1] / "run/resolve/full"
    stub.write_bytes(ONE)
    full.write_bytes(TWO)
    path.symlink_to("../run/resolve/stub")
    bench = watch(path)
    bench.until(ONE)
    replaced(stub, b"# new stub\n")
    bench.until(b"# new stub\n")
    other = path.parent / "link"
    other.symlink_to(full)
    other.rename(path)
    bench.until(TWO)
    replaced(full, ONE)
    bench.until(ONE)


@followed
def test_file_that_comes_goes_and_comes_back(path: Path, watch: Callable[[Path], Bench]) -> None:
    bench = watch(path)
    bench.until(b"")
    path.write_bytes(ONE)
    bench.until(ONE)
    path.unlink()
    bench.until(b"")
    replaced(path, TWO)
    bench.until(TWO)


@followed
def test_directory_that_is_not_there_yet(path: Path, watch: Callable[[Path], Bench]) -> None:
    path.symlink_to("../run/later/deep/file")
    bench = watch(path)
    bench.until(b"")
    (path.parents[1] / "run/later/deep").mkdir(parents=True)
    replaced(path.parents[1] / "run/later/deep/file", ONE)
    bench.until(ONE)


@followed
def test_content_is_bounded_and_odd_files_are_empty(path: Path, watch: Callable[[Path], Bench]) -> None:
    most = b"#" * (MAX_CONTENT - 1) + b"\n"
    path.write_bytes(most + b"#" * 10)
    bench = watch(path)
    bench.until(most)
    # What is left of its last line names another server.
    replaced(path, b"\n" * (MAX_CONTENT - 20) + b"nameserver 192.0.2.53\n")
    bench.until(b"\n" * (MAX_CONTENT - 20))
    replaced(path, b"#" * (MAX_CONTENT + 10))
    bench.until(b"")
    for make in (os.mkfifo, os.mkdir, lambda odd: os.symlink("resolv.conf", odd)):
        replaced(path, ONE)
        bench.until(ONE)
        path.unlink()
        make(path)
        bench.until(b"")
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.needs_root
def test_file_written_through_another_mount(tmp_path: Path) -> None:
    """Container engines mount a file of theirs over the container's."""
    path, engine = tmp_path / "resolv.conf", tmp_path / "engine"
    path.write_bytes(b"")
    engine.write_bytes(ONE)

    def look() -> None:
        syscalls.mount(b"none", b"/", b"", syscalls.MS_REC | syscalls.MS_PRIVATE)
        syscalls.mount(os.fsencode(engine), os.fsencode(path), b"", syscalls.MS_BIND)
        bench = Bench(path)
        bench.until(ONE)
        engine.write_bytes(TWO)
        bench.until(TWO)
        bench.end()

    isolated(look, flags=syscalls.CLONE_NEWNS)


@pytest.mark.needs_root
def test_reader_has_no_right_but_to_read(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for directory in tmp_path.parents:
        if directory.stat().st_uid == os.geteuid() and directory.name.startswith("pytest"):
            directory.chmod(0o755)
    (tmp_path / "resolv.conf").write_bytes(ONE)

    def look() -> dict[str, str]:
        bench = Bench(tmp_path / "resolv.conf", Identity(65534, 65534))
        bench.until(ONE)
        # It sends before it waits, and is under its filter before it sends.
        found = {name: status_field(bench.pid, name)
                 for name in ("Uid", "CapEff", "CapPrm", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")}
        found["fds"] = str(len(os.listdir(f"/proc/{bench.pid}/fd")))
        return found

    found = isolated(look, flags=0)
    assert set(found.pop("Uid").split()) == {"65534"}
    # The standard ones, the channel, the pipe, inotify's.
    assert int(found.pop("fds")) == 6
    assert found == {"CapEff": "0" * 16, "CapPrm": "0" * 16, "CapBnd": "0" * 16, "CapAmb": "0" * 16,
                     "NoNewPrivs": "1", "Seccomp": "2"}


def test_reader_ends_with_the_main_process(tmp_path: Path) -> None:
    def leave() -> bool:
        bench = Bench(tmp_path / "resolv.conf")
        bench.until(b"")
        bench.reader._channel.close()
        _, status = os.waitpid(bench.pid, 0)
        return status == 0

    assert isolated(leave, flags=0)


def test_end_of_the_reader_is_told_and_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(log, "once", lambda _level, _key, text: lines.append(text))

    def lose() -> list[str]:
        bench = Bench(tmp_path / "resolv.conf")
        bench.until(b"")
        os.kill(bench.pid, 9)
        bench.loop.fire()
        fd = next(iter(bench.loop.watched))
        assert is_readable(fd, 60)
        bench.loop.watched[fd][0]()
        assert bench.loop.watched == {}
        return lines

    (line,) = isolated(lose, flags=0)
    assert "has ended" in line
    assert "are not followed any more" in line


@pytest.mark.needs_root
@pytest.mark.parametrize("scoped", [False, True])
def test_stopped_reader_ends_with_a_main_process_that_is_killed(tmp_path: Path, scoped: bool) -> None:
    """Also where that has another user than the reader, or may signal nobody."""
    ours, theirs = socket.socketpair()
    main = os.fork()
    if main == 0:
        try:
            bench = Bench(tmp_path / "resolv.conf", Identity(65534, 65534))
            bench.until(b"")
            os.kill(bench.pid, signal.SIGSTOP)
            wait_until(lambda: process_state(bench.pid) == "T", "it is stopped")
            if scoped:
                landlock.restrict(signals=True)
            else:
                Identity(65533, 65533).assume()
            theirs.send(str(bench.pid).encode())
            signal.pause()
        finally:
            os._exit(1)
    theirs.close()
    with ours:
        pidfd = os.pidfd_open(int(ours.recv(16)))
    os.kill(main, signal.SIGKILL)
    os.waitpid(main, 0)
    assert is_readable(pidfd, LIMIT_S)
    os.close(pidfd)


def test_reader_of_a_main_process_that_is_gone_already_ends(tmp_path: Path) -> None:
    def run() -> int:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        life, write_end = os.pipe()
        os.close(write_end)
        for fd in (theirs.fileno(), life):
            os.set_inheritable(fd, True)
        path = os.path.join(small_program._DIRECTORY, "passt-reader")
        pid = os.posix_spawn(path, [path, str(tmp_path / "resolv.conf"), "-1", "-1", str(theirs.fileno()),
                                    str(life)], {})
        # It never gets a filter, for which it would wait.
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        ours.close()
        return status

    assert isolated(run, flags=0) == 1


def test_program_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_program, "_DIRECTORY", str(tmp_path))
    with pytest.raises(HostError, match=f"{tmp_path}/passt-reader: No such file"):
        Reader("/etc/resolv.conf", None)
