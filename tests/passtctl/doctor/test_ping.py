"""net.ipv4.ping_group_range: whose group counts, and the range that takes it in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from passt.host.ping_permission import RANGE
from passt.passtctl.doctor.finding import NOTE, OK, WARNING
from passt.passtctl.doctor.ping import check
from tests.support.made_machine import make, sysctls

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "group", "wider"),
    [("0\t2147483647", 1000, None), ("1000 1000", 1000, None), ("1 0", 1000, "0 1000"),
     ("0 999", 1000, "0 1000"), ("1001 2000", 1000, "1000 2000"), ("", 1000, "0 1000"),
     ("5", 1000, "0 1000"), ("a b", 1000, "0 1000"), ("0 1 2", 1000, "0 1000"),
     ("0 99999999999999999999", 1000, "0 1000")],
)  # fmt: skip
def test_range(tmp_path: Path, text: str, group: int, wider: str | None) -> None:
    [found] = check(make(tmp_path, sysctls({RANGE: text}), group=group))
    if wider is None:
        assert (found.level, found.commands) == (OK, ())
    else:
        assert (found.level, found.as_root) == (WARNING, True)
        assert found.commands == (f"sysctl -w '{RANGE}={wider}'",)


def test_pasta_of_root_runs_as_nobody(tmp_path: Path) -> None:
    files = sysctls({RANGE: "0 1000"}) | {"/etc/passwd": "nobody:x:99:99::/:/none\n"}
    assert check(make(tmp_path, files, uid=0, group=0))[0].level == OK
    [found] = check(make(tmp_path / "other", sysctls({RANGE: "0 0"}), uid=0, group=0))
    assert found.commands == (f"sysctl -w '{RANGE}=0 65534'",)


def test_kernel_without(tmp_path: Path) -> None:
    assert check(make(tmp_path))[0].level == NOTE
