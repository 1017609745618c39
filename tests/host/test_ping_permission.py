"""The one warning about ping sockets: the group as others know it, the setting, and what would help."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from passt.host.ping_permission import OVERFLOW_GID, PingRefusal, outer_group, read_range

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "group", "outer"),
    [
        ("0 1000 1\n", 0, 1000),
        ("0 1000 1\n1 100000 65536\n", 5, 100004),
        ("1000 1000 1\n", 7, 7),  # not mapped
        ("", 7, 7),
        ("nonsense here now\n", 7, 7),
    ],
)
def test_group_outside(tmp_path: Path, text: str, group: int, outer: int) -> None:
    (tmp_path / "map").write_text(text, encoding="ascii")
    assert outer_group(group, str(tmp_path / "map")) == outer
    assert outer_group(group, str(tmp_path / "none")) == group


def test_warning_names_the_setting_and_the_group(tmp_path: Path) -> None:
    (tmp_path / "map").write_text(f"{os.getegid()} 1234 1\n", encoding="ascii")
    (tmp_path / "range").write_text("1\t0\n", encoding="ascii")
    refusal = PingRefusal(str(tmp_path / "range"), str(tmp_path / "map"))
    refusal.read()
    for path in tmp_path.iterdir():
        path.unlink()             # an empty root directory has neither
    text = refusal.explain()
    assert "group 1234 " in text
    assert 'net.ipv4.ping_group_range = "1 0"' in text
    assert 'sysctl -w "net.ipv4.ping_group_range=0 1234"' in text
    refusal.read()
    assert "ping_group_range has to include it" in refusal.explain()


def test_refusal_is_foretold_only_where_it_is_sure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getegid", lambda: 5)
    monkeypatch.setattr("os.getgroups", lambda: [7, 9])
    (tmp_path / "map").write_text("0 1000 100\n", encoding="ascii")
    refusal = PingRefusal(str(tmp_path / "range"), str(tmp_path / "map"))
    for allowed in ("0 2147483647", "1005 1005", "1009 1200", "", "x y", "1", f"{OVERFLOW_GID} 0",
                    f"0 {OVERFLOW_GID}"):  # fmt: skip
        assert refusal.forecast(allowed) == ""
    for allowed in ("1 0", "0 1004", "1006 1006", "1010 2000"):
        assert f'group 1005 may not open ping sockets (net.ipv4.ping_group_range = "{allowed}")' in (
            refusal.forecast(allowed))


def test_range_is_read_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "range").write_text("0\t2147483647\n", encoding="ascii")
    assert read_range(str(tmp_path / "range")) == "0 2147483647"
    assert read_range(str(tmp_path / "none")) == ""
