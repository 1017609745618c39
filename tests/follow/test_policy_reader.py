"""The process that reads the file of --policy again: what it sends, what it has, and that it ends."""

from __future__ import annotations

import os
from struct import unpack
from typing import TYPE_CHECKING

import pytest

from passt import log
from passt.config.policy_file import MAX_LEN
from passt.follow.policy_reader import PolicyReader, build_answer
from passt.process.identity import Identity
from tests.support.control import PollLoop
from tests.support.isolated import isolated
from tests.support.processes import children, is_readable, status_field, wait_until

if TYPE_CHECKING:
    from pathlib import Path


class Bench:
    """The main process's side."""

    def __init__(self, path: Path, user: Identity | None = None) -> None:
        before = set(children(os.getpid()))
        self.reader = PolicyReader(str(path), user)
        (self.pid,) = set(children(os.getpid())) - before
        self.loop = PollLoop()
        self.contents: list[bytes] = []
        self.told: list[str] = []
        log.warning = self.told.append  # type: ignore[assignment]
        self.reader.start(self.loop, self.contents.append)

    def turn_until(self, n: int) -> None:
        """Run the loop until so many contents and messages have come."""
        def has_come() -> bool:
            for fd, (callback, _) in list(self.loop.watched.items()):
                if is_readable(fd):
                    callback()
            return len(self.contents) + len(self.told) >= n

        wait_until(has_come, f"{n} answers")


def test_file_is_read_when_it_is_asked_for_and_at_no_other_time(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"

    def ask() -> tuple[list[bytes], list[str]]:
        bench = Bench(path)
        for number, content in enumerate((b"one", b"", b"x" * MAX_LEN), 1):
            path.write_bytes(b"another")
            path.write_bytes(content)
            bench.reader.ask()
            bench.turn_until(number)
        path.unlink()
        bench.reader.ask()
        bench.turn_until(4)
        path.write_bytes(b"back")
        bench.reader.ask()
        bench.turn_until(5)
        return bench.contents, bench.told

    contents, told = isolated(ask, flags=0)
    assert contents == [b"one", b"", b"x" * MAX_LEN, b"back"]
    [text] = told
    assert text.startswith(f"option '--policy' {path}: No such file or directory; the rules of egress stay")


def test_no_more_is_read_than_shows_that_a_file_is_too_long(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_bytes(b"x" * (3 * MAX_LEN))
    answer = build_answer(str(path))
    assert unpack("!?I", answer[:5]) == (True, MAX_LEN + 1)
    assert len(answer) == 5 + MAX_LEN + 1


@pytest.mark.needs_root
def test_reader_has_no_right_but_to_read(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for directory in tmp_path.parents:
        if directory.stat().st_uid == os.geteuid() and directory.name.startswith("pytest"):
            directory.chmod(0o755)
    (tmp_path / "policy.toml").write_bytes(b"rules")

    def look() -> dict[str, str]:
        bench = Bench(tmp_path / "policy.toml", Identity(65534, 65534))
        bench.reader.ask()
        bench.turn_until(1)
        assert bench.contents == [b"rules"]
        return {name: status_field(bench.pid, name) for name in ("Uid", "CapEff", "CapPrm", "NoNewPrivs",
                                                                 "Seccomp")}

    found = isolated(look, flags=0)
    assert set(found.pop("Uid").split()) == {"65534"}
    assert found == {"CapEff": "0" * 16, "CapPrm": "0" * 16, "NoNewPrivs": "1", "Seccomp": "2"}


def test_end_of_the_reader_is_told_and_rules_stay(tmp_path: Path) -> None:
    def end() -> list[str]:
        bench = Bench(tmp_path / "policy.toml")
        os.kill(bench.pid, 9)
        bench.turn_until(1)
        assert not bench.loop.watched
        bench.reader.ask()
        return bench.told

    [text] = isolated(end, flags=0)
    assert text.endswith("has ended: the rules of egress stay as they are")


def test_reader_ends_with_the_main_process(tmp_path: Path) -> None:
    def leave() -> bool:
        bench = Bench(tmp_path / "policy.toml")
        bench.reader._channel.close()
        pid, status = os.waitpid(bench.pid, 0)
        return (pid, status) == (bench.pid, 0)

    assert isolated(leave, flags=0)
