"""libvirt and QEMU: what each version can do, and AppArmor's profile of libvirtd."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from passt.passtctl.doctor.finding import NOTE, OK, WARNING, Finding
from passt.passtctl.doctor.libvirt import LOCAL_PROFILE, PROFILE, check
from tests.support.made_machine import make, says, write

if TYPE_CHECKING:
    from pathlib import Path


def look(
    tmp_path: Path, subject: str, programs: dict[str, str], files: dict[str, str] | None = None
) -> list[Finding]:
    return [
        finding for finding in check(make(tmp_path, files, programs=programs)) if finding.subject == subject
    ]


def test_machine_without_either(tmp_path: Path) -> None:
    assert [finding.level for finding in check(make(tmp_path))] == [OK, OK]


@pytest.mark.parametrize(
    ("text", "level"),
    [("QEMU emulator version 7.2.22 (Debian 1:7.2)", OK), ("QEMU emulator version 7.1.0", NOTE),
     ("QEMU emulator version 10.0.2", OK), ("odd", NOTE)],
)  # fmt: skip
@pytest.mark.parametrize("name", ["qemu-system-x86_64", "qemu-system-aarch64", "qemu-kvm"])
def test_qemu(tmp_path: Path, text: str, level: str, name: str) -> None:
    [found] = look(tmp_path, "QEMU", {f"/a/{name}": says(text)})
    assert found.level == level
    assert ("qrap" in found.text) == ("7.1" in text)


@pytest.mark.parametrize(
    ("text", "level", "words"),
    [("libvirtd (libvirt) 8.9.0", NOTE, "does not know passt"), ("libvirtd (libvirt) 9.0.0", OK, "take 11.1"),
     ("libvirtd (libvirt) 11.3.0", OK, "/a/passt"), ("odd", NOTE, "does not tell")],
)  # fmt: skip
@pytest.mark.parametrize("name", ["libvirtd", "virtqemud", "virsh"])
def test_libvirt(tmp_path: Path, text: str, level: str, words: str, name: str) -> None:
    [found] = look(tmp_path, "libvirt", {f"/a/{name}": says(text), "/a/passt": says("")})
    assert found.level == level
    assert words in found.text


def test_libvirt_without_passt(tmp_path: Path) -> None:
    [found] = look(tmp_path, "libvirt", {"/a/virsh": says("11.3.0")})
    assert found.level == WARNING


def test_profile_of_libvirtd(tmp_path: Path) -> None:
    programs = {"/a/virsh": says("11.3.0"), "/a/passt": says("")}
    assert [finding.level for finding in look(tmp_path, "libvirt", programs, {PROFILE: "x"})] == [OK, WARNING]
    found = look(tmp_path, "libvirt", programs)[1]
    assert found.as_root
    first, second = found.commands
    assert second == f"apparmor_parser -r {PROFILE}"
    local = tmp_path / "local"
    subprocess.run(["sh", "-c", first.replace(LOCAL_PROFILE, str(local))], check=True)
    assert local.read_text(encoding="utf-8").splitlines() == [
        f'"{tmp_path}/a/passt" PUx,', 'signal (send) set=("kill", "term") peer=passt-python,']
    write(tmp_path, LOCAL_PROFILE, "  /usr/local/lib/passt/bin/passt PUx,\n")
    assert [finding.level for finding in look(tmp_path, "libvirt", programs)] == [OK]
