"""What the sandbox finds in a kernel: filters of system calls, Landlock."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from passt.passtctl.doctor.finding import ERROR, NOTE, OK
from passt.passtctl.doctor.sandbox import ACTIONS, check
from tests.support.made_machine import make, sysctls

if TYPE_CHECKING:
    from pathlib import Path

GOOD = {ACTIONS: "kill_process kill_thread trap errno user_notif trace log allow", "kernel.ostype": "Linux"}


def refused(number: int) -> int:
    raise OSError(number, os.strerror(number))


def test_kernel_with_both(tmp_path: Path) -> None:
    found = check(make(tmp_path, sysctls(GOOD)), lambda: 7, "x86_64")
    assert [finding.level for finding in found] == [OK, OK]


@pytest.mark.parametrize("action", ["kill_process", "trap", "allow"])
def test_actions_that_are_missing(tmp_path: Path, action: str) -> None:
    values = GOOD | {ACTIONS: GOOD[ACTIONS].replace(action, "odd")}
    found = check(make(tmp_path, sysctls(values)), lambda: 7, "x86_64")[0]
    assert (found.level, action in found.text) == (ERROR, True)


def test_kernel_without_filters(tmp_path: Path) -> None:
    found = check(make(tmp_path, sysctls({"kernel.ostype": "Linux"})), lambda: 7, "x86_64")[0]
    assert (found.level, "CONFIG_SECCOMP_FILTER" in found.text) == (ERROR, True)
    assert len(check(make(tmp_path / "no-proc"), lambda: 7, "x86_64")) == 1


def test_processor_without_a_filter(tmp_path: Path) -> None:
    assert check(make(tmp_path, sysctls(GOOD)), lambda: 7, "mips64")[0].level == NOTE


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSYS, "has no Landlock"), (errno.EOPNOTSUPP, "lsm="), (errno.EPERM, "not permitted")],
)
def test_kernel_without_landlock(tmp_path: Path, number: int, words: str) -> None:
    found = check(make(tmp_path, sysctls(GOOD)), lambda: refused(number), "aarch64")[1]
    assert (found.level, words in found.text) == (NOTE, True)
