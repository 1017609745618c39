"""/dev/net/tun: missing, another device, closed, without a driver, and what would mend each."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from passt.passtctl.doctor.finding import ERROR, NOTE, OK, Finding
from passt.passtctl.doctor.tun import NUMBER, check, try_open
from tests.support.made_machine import make, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LOADED = {"/proc/misc": "228 hpet\n200 tun\n"}
MODULE = {"/proc/misc": "228 hpet\n", "/lib/modules/6.1/modules.dep": "kernel/drivers/net/tun.ko.xz:\n"}
NODE = "mkdir -p /dev/net && mknod -m 0666 /dev/net/tun c 10 200"


def device(
    mode: int = 0o666, kind: int = stat.S_IFCHR, number: int = NUMBER
) -> Callable[[str], os.stat_result]:
    """Give a stat(2) that finds such a device."""

    def status(_path: str) -> os.stat_result:
        return os.stat_result((kind | mode, *[0] * 9), {"st_rdev": number})

    return status


def fails(number: int) -> Callable[[str], OSError]:
    return lambda _path: OSError(number, os.strerror(number))


def raising(number: int) -> Callable[[str], os.stat_result]:
    def status(_path: str) -> os.stat_result:
        raise OSError(number, os.strerror(number))

    return status


def one(
    tmp_path: Path,
    files: dict[str, str],
    status: Callable[[str], os.stat_result],
    opening: Callable[[str], OSError | None] = lambda _: None,
    uid: int = 1000,
) -> Finding:
    [found] = check(make(tmp_path, files, uid=uid), status, opening, "6.1")
    return found


def test_device_that_opens(tmp_path: Path) -> None:
    assert one(tmp_path, LOADED, device()).level == OK
    assert one(tmp_path, LOADED, device(0o660)).level == OK  # by a group of this user
    assert one(tmp_path / "no-proc", {}, device()).level == OK


def test_root_is_told_of_others(tmp_path: Path) -> None:
    good, other = check(make(tmp_path, LOADED, uid=0), device(0o600), lambda _: None, "6.1")
    assert (good.level, other.level, other.commands) == (OK, NOTE, ("chmod 0666 /dev/net/tun",))


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o664, 0o000])
def test_mode_forbids(tmp_path: Path, mode: int) -> None:
    found = one(tmp_path, LOADED, device(mode), fails(errno.EACCES))
    assert (found.level, found.commands, found.as_root) == (ERROR, ("chmod 0666 /dev/net/tun",), True)
    assert f"{mode:04o}" in found.text


def test_policy_forbids(tmp_path: Path) -> None:
    found = one(tmp_path, LOADED, device(), fails(errno.EPERM))
    assert (found.level, found.commands) == (ERROR, ())
    assert "policy" in found.text
    found = one(tmp_path, LOADED | {"/.dockerenv": ""}, device(), fails(errno.EPERM))
    assert found.commands == ("podman run --device /dev/net/tun IMAGE",)


@pytest.mark.parametrize(
    ("files", "commands"),
    [(LOADED, (NODE,)), (MODULE, ("modprobe tun", f"test -e /dev/net/tun || ({NODE})")),
     ({"/proc/misc": ""}, ("modprobe tun", f"test -e /dev/net/tun || ({NODE})")),
     ({"/proc/misc": "", "/lib/modules/6.1/modules.dep": "kernel/drivers/net/veth.ko:\n"}, ()),
     (LOADED | {"/run/.containerenv": ""}, ("podman run --device /dev/net/tun IMAGE",))],
)  # fmt: skip
def test_missing(tmp_path: Path, files: dict[str, str], commands: tuple[str, ...]) -> None:
    found = one(tmp_path, files, raising(errno.ENOENT))
    assert (found.level, found.commands) == (ERROR, commands)


def test_other_files_of_that_name(tmp_path: Path) -> None:
    for status in (device(kind=stat.S_IFREG), device(kind=stat.S_IFDIR), device(number=os.makedev(1, 3)),
                   device(kind=stat.S_IFBLK)):  # fmt: skip
        found = one(tmp_path, LOADED, status)
        assert (found.level, found.commands) == (ERROR, ("mv /dev/net/tun /dev/net/tun.old", NODE))
    assert one(tmp_path, LOADED, raising(errno.EACCES)).commands == ("chmod 0755 /dev/net",)


def test_device_is_not_opened_while_its_driver_is_not_loaded(tmp_path: Path) -> None:
    def opening(_path: str) -> None:
        pytest.fail("opened")

    assert one(tmp_path, MODULE, device(), opening).level == OK
    found = one(tmp_path / "other", {"/proc/misc": ""}, device(), opening)
    assert (found.level, found.commands) == (ERROR, ("modprobe tun",))


def test_driver_that_went(tmp_path: Path) -> None:
    assert one(tmp_path, LOADED, device(), fails(errno.ENODEV)).commands == ("modprobe tun",)
    assert one(tmp_path, LOADED, device(), fails(errno.EIO)).level == ERROR


def test_files_are_really_opened(tmp_path: Path) -> None:
    assert try_open(str(write(tmp_path, "/file", ""))) is None
    refusal = try_open(str(tmp_path / "none"))
    assert refusal is not None
    assert refusal.errno == errno.ENOENT
