"""What checks ask of the machine, and that no file of it can do harm."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from passt.passtctl.doctor.finding import set_sysctl
from passt.passtctl.doctor.machine import MAX_LEN, NOBODY, Machine, parse_number, parse_version
from tests.support.made_machine import make, says, sysctls, write

if TYPE_CHECKING:
    from pathlib import Path


def test_sysctl_is_one_line(tmp_path: Path) -> None:
    machine = make(
        tmp_path, {"/proc/sys/net/ipv6/conf/eth0.7/mtu": "1280\n", **sysctls({"a.range": "1\t \t0"})}
    )
    assert (machine.sysctl("a.range"), machine.sysctl("a.none")) == ("1 0", None)
    assert machine.number("net.ipv6.conf.eth0/7.mtu") == 1280
    assert machine.number("a.range") is None


def test_odd_files_are_read_as_far_as_it_is_safe(tmp_path: Path) -> None:
    machine = make(tmp_path, {"/big": "x" * (MAX_LEN + 5), "/d/file": ""})
    write(tmp_path, "/odd", "").write_bytes(b"\xff\0\x1b[2J")
    os.mkfifo(tmp_path / "fifo")
    assert len(machine.read("/big") or "") == MAX_LEN
    assert machine.read("/odd") == "\ufffd\0\x1b[2J"
    assert machine.read("/fifo") == ""
    assert (machine.read("/d"), machine.read("/none"), machine.read("/d/file/x")) == (None, None, None)
    assert (machine.names("/d"), machine.names("/none")) == (["file"], [])


@pytest.mark.parametrize(
    ("text", "number"),
    [("5\n", 5), (" -1 ", -1), ("9" * 19, 10**19 - 1), ("9" * 20, None), ("", None), (None, None),
     ("1 0", None),
     ("0x10", None), ("\u0665", None), ("max", None), ("--1", None)],
)  # fmt: skip
def test_numbers(text: str | None, number: int | None) -> None:
    assert parse_number(text) == number


@pytest.mark.parametrize(
    ("text", "version"),
    [("podman version 4.3.1", (4, 3, 1)), ("libvirtd (libvirt) 11.3.0", (11, 3, 0)), ("10.0.0\n", (10, 0, 0)),
     ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)", (7, 2, 22)),
     ("podman version 5.4.2-dev", (5, 4, 2)),
     ("nothing", None), ("", None), ("a.b", None), (".", None)],
)  # fmt: skip
def test_versions(text: str, version: tuple[int, ...] | None) -> None:
    assert parse_version(text) == version


def test_group_of_nobody(tmp_path: Path) -> None:
    machine = make(tmp_path)
    assert machine.group_of_nobody() == NOBODY
    write(tmp_path, "/etc/passwd", "root:x:0:0::/root:/bin/sh\nnobody:x:99:98::/:/none\n")
    assert machine.group_of_nobody() == 98
    for line in ("nobody", "nobody:x:99", "nobody:x:99:many:"):
        write(tmp_path, "/etc/passwd", f"{line}\n")
        assert machine.group_of_nobody() == NOBODY


def test_programs_in_the_order_of_path(tmp_path: Path) -> None:
    machine = make(tmp_path, programs={"/a/x": says("first"), "/b/x": says("second"), "/c/y": says("")})
    (tmp_path / "c" / "x").symlink_to(tmp_path / "a" / "x")
    assert machine.find_programs("x") == [f"{tmp_path}/a/x", f"{tmp_path}/b/x"]
    (tmp_path / "a" / "x").chmod(stat.S_IRUSR)
    assert machine.find_programs("z") == []
    relative = make(tmp_path, environ={"PATH": f"a:.::{tmp_path}/b"})
    assert relative.find_programs("x") == [f"{tmp_path}/b/x"]


def test_program_that_fails_or_hangs_says_nothing(tmp_path: Path) -> None:
    machine = make(
        tmp_path,
        programs={
            "/a/good": says("5.1"),
            "/a/bad": says("5.1", 1),
            "/a/text": "no program",
            "/a/slow": "#!/bin/sh\nexec /bin/sleep 100\n",
            "/a/endless": "#!/bin/sh\nexec /usr/bin/head -c 3000000 /dev/zero\n",
        },
    )
    assert machine.run([f"{tmp_path}/a/good"]) == "5.1\n"
    assert machine.run([f"{tmp_path}/a/bad"]) is None
    assert Machine(limit_s=0.05).run([f"{tmp_path}/a/slow"]) is None
    assert machine.run([f"{tmp_path}/a/endless"]) is None
    assert machine.run([f"{tmp_path}/a/text"]) is None
    assert machine.run([f"{tmp_path}/a/none"]) is None
    assert machine.run([f"{tmp_path}/\0"]) is None


def test_commands_are_quoted() -> None:
    assert set_sysctl("a.b", 1) == "sysctl -w a.b=1"
    assert set_sysctl("a.b", "0 5") == "sysctl -w 'a.b=0 5'"
    assert set_sysctl("net.$(reboot).x", 1) == "sysctl -w 'net.$(reboot).x=1'"
