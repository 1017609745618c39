"""User namespaces: each sysctl spoiled alone, each errno, and the programs that AppArmor permits."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from passt.passtctl.doctor import userns
from passt.passtctl.doctor.finding import ERROR, NOTE, OK, WARNING
from passt.passtctl.doctor.userns import DEBIAN, PROFILES, UBUNTU, check
from tests.support.made_machine import make, says, sysctls, write
from tests.support.processes import children

if TYPE_CHECKING:
    from pathlib import Path

KINDS = ("user", "net", "pid", "mnt", "ipc", "uts")
GOOD = {f"user.max_{kind}_namespaces": 63000 for kind in KINDS} | {DEBIAN: 1, UBUNTU: 0}


def refusal(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def test_all_is_well(tmp_path: Path) -> None:
    assert [finding.level for finding in check(make(tmp_path, sysctls(GOOD)), None)] == [OK]
    assert [finding.level for finding in check(make(tmp_path / "none"), None)] == [OK]


@pytest.mark.parametrize("kind", KINDS)
def test_limit_of_none(tmp_path: Path, kind: str) -> None:
    name = f"user.max_{kind}_namespaces"
    is_needed = kind in {"user", "net", "pid"}
    machine = make(tmp_path, sysctls(GOOD | {name: 0}))
    [found] = check(machine, refusal(errno.ENOSPC)) if is_needed else check(machine, None)[1:]
    assert found.level == (ERROR if is_needed else WARNING)
    assert (found.commands, found.as_root) == ((f"sysctl -w {name}=15000",), True)
    assert [one.level for one in check(machine, refusal(errno.EPERM))].count(ERROR) == 1


def test_debian_forbids_plain_users(tmp_path: Path) -> None:
    machine = make(tmp_path, sysctls(GOOD | {DEBIAN: 0}))
    [found] = check(machine, refusal(errno.EPERM))
    assert (found.level, found.commands) == (ERROR, (f"sysctl -w {DEBIAN}=1",))
    good, other = check(machine, None)  # for root
    assert (good.level, other.level) == (OK, NOTE)


def test_ubuntu_forbids_programs_without_a_profile(tmp_path: Path) -> None:
    machine = make(tmp_path, sysctls(GOOD | {UBUNTU: 1}))
    [found] = check(machine, refusal(errno.EPERM), lambda _: False)
    assert (found.level, found.commands) == (ERROR, (f"sysctl -w {UBUNTU}=0",))
    write(tmp_path, PROFILES[0], "profile")
    [found] = check(machine, refusal(errno.EPERM), lambda _: False)
    assert found.commands == (f"apparmor_parser -r {PROFILES[0]}",)
    [found] = check(machine, refusal(errno.EPERM), lambda _: True)
    assert (found.level, found.commands) == (OK, ())
    assert [finding.level for finding in check(machine, None, lambda _: False)] == [OK, NOTE]


def test_pasta_itself_is_asked(tmp_path: Path) -> None:
    assert not userns.runs_pasta(make(tmp_path))
    good = make(
        tmp_path,
        programs={"/a/pasta": '#!/bin/sh\n[ "$*" = "--quiet -t none -u none -T none -U none -- true" ]\n'},
    )
    assert userns.runs_pasta(good)
    assert not userns.runs_pasta(make(tmp_path, programs={"/b/pasta": says("", 1)}))


@pytest.mark.parametrize(
    ("number", "files", "text", "commands"),
    [(errno.ENOSPC, {}, "as many as may be",
      ("sysctl -w user.max_user_namespaces=126000", "sysctl -w user.max_net_namespaces=126000")),
     (errno.EUSERS, {}, "outer user namespace",
      ("sysctl -w user.max_user_namespaces=126000", "sysctl -w user.max_net_namespaces=126000")),
     (errno.EINVAL, {}, "CONFIG_USER_NS", ()), (errno.ENOSYS, {}, "CONFIG_USER_NS", ()),
     (errno.EPERM, {}, "chroot", ()), (errno.ENOMEM, {}, "Cannot allocate", ()),
     (errno.EPERM, {"/run/.containerenv": ""}, "the container's",
      ("podman run --security-opt seccomp=unconfined --security-opt label=disable IMAGE",))],
)  # fmt: skip
def test_refusals_that_no_sysctl_explains(
    tmp_path: Path, number: int, files: dict[str, str], text: str, commands: tuple[str, ...]
) -> None:
    [found] = check(make(tmp_path, sysctls(GOOD) | files), refusal(number))
    assert found.level == ERROR
    assert text in found.text
    assert found.commands == commands


def test_odd_values_count_for_nothing(tmp_path: Path) -> None:
    odd = dict.fromkeys(GOOD, "\x1b[31mmany many")
    assert [finding.level for finding in check(make(tmp_path, sysctls(odd | {UBUNTU: 0})), None)] == [OK]


def test_attempt_leaves_no_child() -> None:
    before = set(children(os.getpid()))
    outcome = userns.attempt()
    assert outcome is None or isinstance(outcome, OSError)
    assert set(children(os.getpid())) <= before
