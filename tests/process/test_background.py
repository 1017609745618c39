"""The pid file of a start that fails; a start that succeeds is in tests/run/test_start.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from passt.errors import ConfigError
from passt.process.background import Background

if TYPE_CHECKING:
    from pathlib import Path


def test_failed_start_removes_what_it_made(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    background = Background(str(path))
    assert path.exists()
    background.fail()
    assert not path.exists()


def test_failed_start_leaves_the_callers_file(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_bytes(b"77")
    Background(str(path)).fail()
    assert path.read_bytes() == b""


def test_failed_start_through_a_dangling_link_leaves_the_link_alone(tmp_path: Path) -> None:
    link, target = tmp_path / "pid", tmp_path / "target"
    link.symlink_to(target)
    background = Background(str(link))
    assert target.exists()
    background.fail()
    assert not target.exists()
    assert link.is_symlink()


@pytest.mark.parametrize("name", ["", "none/pid"])
def test_background_without_a_file_to_write_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"^option '--pid' "):
        Background(f"{tmp_path}/{name}" if name else "")
