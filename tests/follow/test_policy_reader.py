"""The reader of the file of --policy: what it sends, what it has, and that it ends."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from passt import log
from passt.config.policy_file import MAX_LEN
from passt.follow.policy_reader import PolicyReader
from passt.follow.reader import MAX_ASKED, MAX_CONTENT
from passt.process.identity import Identity
from tests.support.isolated import isolated
from tests.support.processes import process_name, status_field, wait_until
from tests.support.reader_bench import ReaderBench

if TYPE_CHECKING:
    from pathlib import Path


class Bench(ReaderBench[PolicyReader]):
    """Asks, and hears of what goes wrong."""

    def __init__(self, path: Path, user: Identity | None = None) -> None:
        super().__init__(lambda: PolicyReader(str(path), user))
        self.told: list[str] = []
        log.warning = self.told.append  # type: ignore[assignment]

    def hear(self) -> None:
        """Run the loop until a content comes, or something is told."""
        def has_come() -> bool:
            self.turn()
            return bool(self.contents or self.told)

        wait_until(has_come, "an answer comes")

    def ask(self) -> bytes:
        """Have the file read; return the content, or what was told."""
        self.contents, self.told[:] = [], []
        self.reader.start(self.loop, self.contents.append)
        self.reader.ask()

        self.hear()
        [found] = [*self.contents, *(text.encode() for text in self.told)]
        return found


def test_file_is_read_when_it_is_asked_for_and_at_no_other_time(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"

    def ask() -> None:
        bench = Bench(path)
        for content in (b"one", b"", b"x" * MAX_CONTENT, b"y" * (MAX_CONTENT + 1), b"x" * MAX_LEN):
            path.write_bytes(b"another")
            path.write_bytes(content)
            assert bench.ask() == content
        assert process_name(bench.pid) == "passt-policy"
        path.unlink()
        assert bench.ask().startswith(f"option '--policy' {path}: No such file or directory; the rules of"
                                      " egress stay".encode())
        path.mkdir()
        assert b"Is a directory" in bench.ask()
        path.rmdir()
        path.write_bytes(b"back")
        assert bench.ask() == b"back"
        bench.end()

    isolated(ask, flags=0)


def test_no_more_is_read_than_shows_that_a_file_is_too_long(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_bytes(b"x" * (3 * MAX_LEN))
    assert MAX_ASKED == MAX_LEN + 1
    assert isolated(lambda: len(Bench(path).ask()), flags=0) == MAX_ASKED


def test_named_pipe_in_the_place_of_the_file_blocks_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "policy.toml")
    assert isolated(lambda: Bench(tmp_path / "policy.toml").ask(), flags=0) == b""


@pytest.mark.needs_root
def test_reader_has_no_right_but_to_read(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for directory in tmp_path.parents:
        if directory.stat().st_uid == os.geteuid() and directory.name.startswith("pytest"):
            directory.chmod(0o755)
    (tmp_path / "policy.toml").write_bytes(b"rules")

    def look() -> dict[str, str]:
        bench = Bench(tmp_path / "policy.toml", Identity(65534, 65534))
        assert bench.ask() == b"rules"
        return {name: status_field(bench.pid, name) for name in ("Uid", "CapEff", "CapPrm", "NoNewPrivs",
                                                                 "Seccomp")}

    found = isolated(look, flags=0)
    assert set(found.pop("Uid").split()) == {"65534"}
    assert found == {"CapEff": "0" * 16, "CapPrm": "0" * 16, "NoNewPrivs": "1", "Seccomp": "2"}


def test_end_of_the_reader_is_told_and_rules_stay(tmp_path: Path) -> None:
    def end() -> list[str]:
        bench = Bench(tmp_path / "policy.toml")
        os.kill(bench.pid, 9)
        bench.hear()
        assert not bench.loop.watched
        bench.reader.ask()
        return bench.told

    [text] = isolated(end, flags=0)
    assert text.endswith("has ended: the rules of egress stay as they are")


def test_reader_ends_with_the_main_process(tmp_path: Path) -> None:
    isolated(lambda: Bench(tmp_path / "policy.toml").end(), flags=0)


def test_reader_that_was_stopped_ends_with_the_main_process(tmp_path: Path) -> None:
    def leave() -> int:
        bench = Bench(tmp_path / "policy.toml")
        bench.ask()                    # it is ready
        os.kill(bench.pid, signal.SIGSTOP)
        os.waitpid(bench.pid, os.WUNTRACED)
        bench.reader._program.leave()
        return os.WTERMSIG(os.waitpid(bench.pid, 0)[1])

    assert isolated(leave, flags=0) == signal.SIGKILL
