"""The process that reads resolv.conf: what it sends, what it has, and that it ends."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from passt import log
from passt.follow.reader import Reader, send_change, wait
from passt.host.resolver_watch import ResolverWatch
from passt.process.identity import Identity
from tests.support.control import PollLoop
from tests.support.isolated import isolated
from tests.support.processes import children, is_readable, status_field, wait_until

if TYPE_CHECKING:
    from pathlib import Path

ONE, TWO = b"nameserver 192.0.2.1\n", b"nameserver 192.0.2.2\n"


class Bench:
    """The main process's side."""

    def __init__(self, path: Path, user: Identity | None = None) -> None:
        before = set(children(os.getpid()))
        self.reader = Reader(str(path), user)
        (self.pid,) = set(children(os.getpid())) - before
        self.loop = PollLoop()
        self.contents: list[bytes] = []
        self.reader.start(self.loop, self.contents.append)

    def turn_until(self, n_contents: int) -> None:
        """Run the loop until so many contents have come."""
        def has_come() -> bool:
            for fd, (callback, _) in list(self.loop.watched.items()):
                if is_readable(fd):
                    callback()
            return len(self.contents) >= n_contents

        wait_until(has_come, f"{n_contents} contents")


def test_content_comes_at_the_start_and_after_each_change(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_bytes(ONE)

    def follow() -> list[bytes]:
        bench = Bench(path)
        bench.turn_until(1)
        for number, content in enumerate((TWO, b"", ONE), 2):
            (tmp_path / "new").write_bytes(content)
            (tmp_path / "new").rename(path)
            bench.turn_until(number)
        return bench.contents

    assert isolated(follow, flags=0) == [ONE, TWO, b"", ONE]


@pytest.mark.needs_root
def test_reader_has_no_right_but_to_read(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for directory in tmp_path.parents:
        if directory.stat().st_uid == os.geteuid() and directory.name.startswith("pytest"):
            directory.chmod(0o755)
    (tmp_path / "resolv.conf").write_bytes(ONE)

    def look() -> dict[str, str]:
        bench = Bench(tmp_path / "resolv.conf", Identity(65534, 65534))
        bench.turn_until(1)
        assert bench.contents == [ONE]
        # It sends before it waits, and is under its filter before it sends.
        found = {name: status_field(bench.pid, name)
                 for name in ("Uid", "CapEff", "CapPrm", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")}
        found["fds"] = str(len(os.listdir(f"/proc/{bench.pid}/fd")))
        return found

    found = isolated(look, flags=0)
    assert set(found.pop("Uid").split()) == {"65534"}
    # The standard ones, the channel, inotify's, the filter's eventfd, the log's place for standard error.
    assert int(found.pop("fds")) <= 7
    assert found == {"CapEff": "0" * 16, "CapPrm": "0" * 16, "CapBnd": "0" * 16, "CapAmb": "0" * 16,
                     "NoNewPrivs": "1", "Seccomp": "2"}


def test_reader_ends_with_the_main_process(tmp_path: Path) -> None:
    def leave() -> bool:
        bench = Bench(tmp_path / "resolv.conf")
        bench.turn_until(1)
        bench.reader._channel.close()
        _, status = os.waitpid(bench.pid, 0)
        return status == 0

    assert isolated(leave, flags=0)


def test_end_of_the_reader_is_told_and_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(log, "warning", lines.append)

    def lose() -> list[str]:
        bench = Bench(tmp_path / "resolv.conf")
        bench.turn_until(1)
        os.kill(bench.pid, 9)
        fd = next(iter(bench.loop.watched))
        assert is_readable(fd, 60)
        bench.loop.watched[fd][0]()
        assert bench.loop.watched == {}
        return lines

    (line,) = isolated(lose, flags=0)
    assert "has ended" in line
    assert "are not followed any more" in line


def test_loop_of_the_reader_sends_changes_only(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_bytes(ONE)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    watch = ResolverWatch(str(path))
    assert send_change(theirs, watch)
    assert ours.recv(100) == b"c" + ONE
    assert send_change(theirs, watch)
    assert not is_readable(ours)
    path.write_bytes(TWO)
    assert wait(theirs, watch)
    ours.close()
    assert not wait(theirs, watch)
    theirs.close()
