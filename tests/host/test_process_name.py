"""The name of a process in lists of processes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from passt.host.process_name import take_name
from tests.support.isolated import isolated

if TYPE_CHECKING:
    import pytest


@isolated
def test_process_has_the_name_that_it_takes() -> None:
    take_name("passt-names")
    assert Path("/proc/self/comm").read_text(encoding="ascii") == "passt-names\n"


def test_without_proc_there_is_no_name_to_take(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise FileNotFoundError

    before = Path("/proc/self/comm").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("passt.host.process_name.os.open", refuse)
        take_name("other")
    assert Path("/proc/self/comm").read_bytes() == before
