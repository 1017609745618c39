"""The file of --learn: opens nothing until the run ends, then has the rules; gone if the start fails."""

from __future__ import annotations

import os
from errno import ENOSPC
from socket import IPPROTO_TCP
from typing import TYPE_CHECKING

import pytest

from passt.config.learned_file import LearnedFile
from passt.config.policy_file import parse_policy
from passt.errors import ConfigError
from passt.forward.learning import UNFINISHED, Learning
from passt.process.background import Background

if TYPE_CHECKING:
    from pathlib import Path

FAR = bytes((192, 0, 2, 1))


def learn() -> Learning:
    learning = Learning(lambda _address: False)
    learning.note(IPPROTO_TCP, 443, FAR, FAR)
    learning.note_name("x" * 64 + ".example", FAR)  # no rule can have it
    return learning


def test_file_opens_nothing_until_the_run_ends(tmp_path: Path) -> None:
    path = tmp_path / "learned.toml"
    path.write_text("# of an earlier run\n" * 100, encoding="ascii")
    background = Background()
    background.expect_file()
    file = LearnedFile(str(path), background.has_made)
    assert path.read_bytes() == UNFINISHED
    file.write(learn())
    assert [rule.text for rule in parse_policy(path.read_bytes()).rules] == []
    assert "NOT ALL" in path.read_text(encoding="ascii")
    background.fail()
    assert path.exists()  # it was there before


def test_rules_are_what_the_grammar_reads(tmp_path: Path) -> None:
    path = tmp_path / "learned.toml"
    file = LearnedFile(str(path), print)
    learning = Learning(lambda _address: False)
    learning.note(IPPROTO_TCP, 443, FAR, FAR)
    file.write(learning)
    assert [rule.text for rule in parse_policy(path.read_bytes()).rules] == ["allow tcp:192.0.2.1:443"]


def test_new_file_is_the_callers_alone_and_goes_with_a_start_that_fails(tmp_path: Path) -> None:
    path = tmp_path / "learned.toml"
    background = Background()
    background.expect_file()
    LearnedFile(str(path), background.has_made)
    assert path.stat().st_mode & 0o777 == 0o600
    background.fail()
    assert not path.exists()


def test_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"^option '--learn' {tmp_path}: cannot write the file: Is a dir"):
        LearnedFile(str(tmp_path), print)


def test_file_that_cannot_be_written_is_a_warning(capfd: pytest.CaptureFixture[str]) -> None:
    """The run itself was good."""
    LearnedFile("/dev/full", print).write(learn())
    assert "option '--learn' /dev/full: cannot write the file: No space" in capfd.readouterr().err


@pytest.mark.parametrize("length", [0, 10, 30, 120, 250, 280])
def test_disk_that_is_full_leaves_nothing_that_allows_all(
        tmp_path: Path, length: int, monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "learned.toml"
    file = LearnedFile(str(path), print)
    room = [length]
    real, number = os.write, path.stat().st_ino

    def write(fd: int, data: bytes) -> int:
        if os.fstat(fd).st_ino != number:
            return real(fd, data)
        if not room[0]:
            raise OSError(ENOSPC, "No space left on device")
        n_written = os.pwrite(fd, data[:room[0]], 0)
        room[0] = 0
        return n_written

    with monkeypatch.context() as patch:
        patch.setattr("passt.config.learned_file.os.write", write)
        file.write(learn())
    assert "do not use it" in capfd.readouterr().err
    try:
        rules = parse_policy(path.read_bytes())
    except ConfigError:
        return
    assert not rules.allows_rest
    assert not rules.rules
