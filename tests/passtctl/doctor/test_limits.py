"""Limits of descriptors, pipes and inotify, each spoiled alone."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from passt.passtctl.doctor.finding import ERROR, NOTE, OK, WARNING
from passt.passtctl.doctor.limits import (
    check_files,
    check_inotify,
    check_pipes,
    open_files_limit,
    try_inotify,
)
from tests.support.made_machine import make, sysctls

if TYPE_CHECKING:
    from pathlib import Path

PIPES = {"fs.pipe-user-pages-soft": 16384, "fs.pipe-user-pages-hard": 0, "fs.pipe-max-size": 1048576}


@pytest.mark.parametrize(
    ("hard", "level"),
    [(20, ERROR), (63, ERROR), (64, WARNING), (4095, WARNING), (4096, OK), (0xFFFF_FFFF, OK)],
)
def test_open_files(tmp_path: Path, hard: int, level: str) -> None:
    [found] = check_files(make(tmp_path), (20, hard), 4711)
    assert found.level == level
    if level != OK:
        assert found.commands == ("prlimit --pid 4711 --nofile=1048576:1048576",)
        assert found.as_root


@pytest.mark.parametrize(
    ("text", "levels"),
    [("1000 0 100000", [OK]), ("90000 0 100000", [OK, WARNING]), ("0 0 0", [OK]), ("1 2", [OK]),
     ("x y z", [OK]), ("", [OK])],
)  # fmt: skip
def test_files_of_the_machine(tmp_path: Path, text: str, levels: list[str]) -> None:
    found = check_files(make(tmp_path, sysctls({"fs.file-nr": text})), (1024, 1 << 20), 1)
    assert [finding.level for finding in found] == levels
    if levels[1:]:
        assert found[1].commands == ("sysctl -w fs.file-max=200000",)


@pytest.mark.parametrize(
    ("name", "value", "level", "wanted"),
    [("fs.pipe-user-pages-soft", 1024, NOTE, 16384), ("fs.pipe-user-pages-hard", 4096, WARNING, 0),
     ("fs.pipe-max-size", 65536, NOTE, 1048576)],
)  # fmt: skip
def test_pipes(tmp_path: Path, name: str, value: int, level: str, wanted: int) -> None:
    [found] = check_pipes(make(tmp_path, sysctls(PIPES | {name: value})))
    assert (found.level, found.commands, found.as_root) == (level, (f"sysctl -w {name}={wanted}",), True)


@pytest.mark.parametrize(
    "values", [PIPES, PIPES | {"fs.pipe-user-pages-soft": 0}, {}, dict.fromkeys(PIPES, "odd")]
)
def test_pipes_that_are_well(tmp_path: Path, values: dict[str, object]) -> None:
    assert [finding.level for finding in check_pipes(make(tmp_path, sysctls(values)))] == [OK]


@pytest.mark.parametrize(
    ("number", "level", "commands"),
    [(errno.EMFILE, WARNING, ("sysctl -w fs.inotify.max_user_instances=1024",)),
     (errno.ENOSPC, WARNING, ("sysctl -w fs.inotify.max_user_watches=16000",)), (errno.ENOSYS, NOTE, ())],
)  # fmt: skip
def test_inotify(tmp_path: Path, number: int, level: str, commands: tuple[str, ...]) -> None:
    machine = make(
        tmp_path, sysctls({"fs.inotify.max_user_instances": 128, "fs.inotify.max_user_watches": 8000})
    )
    [found] = check_inotify(machine, OSError(number, os.strerror(number)))
    assert (found.level, found.commands) == (level, commands)
    assert check_inotify(machine, None)[0].level == OK


def test_this_machine_is_asked() -> None:
    soft, hard = open_files_limit()
    assert 0 < soft <= hard
    before = len(os.listdir("/proc/self/fd"))
    outcome = try_inotify()
    assert outcome is None or outcome.errno in {errno.EMFILE, errno.ENOSPC}
    assert len(os.listdir("/proc/self/fd")) == before
