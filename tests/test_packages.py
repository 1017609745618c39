"""The recipes in packaging/: they are what their tools read, and agree with what is installed."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

TREE = Path(__file__).parents[1]
PACKAGING = TREE / "packaging"
PROJECT = tomllib.loads((TREE / "pyproject.toml").read_text(encoding="utf-8"))
PROGRAMS = ("pasta", "passt", "qrap", "pesto", "passtctl")
SCRIPTS = ("postinst", "prerm", "postrm")


def read(name: str) -> str:
    return (PACKAGING / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(("shell", "name"), [
    *(("sh", f"debian/{name}") for name in SCRIPTS), ("bash", "arch/PKGBUILD"), ("sh", "alpine/APKBUILD"),
])
def test_shell_reads_it(shell: str, name: str) -> None:
    done = subprocess.run([shell, "-n", str(PACKAGING / name)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["arch/PKGBUILD", "alpine/APKBUILD", "nix/package.nix", "rpm/passt-py.spec"])
def test_each_program_is_asked_for_its_version(name: str) -> None:
    """A package of which a program does not start is not made."""
    text = read(name).replace("%{programs}", " ".join(PROGRAMS))
    [programs] = re.findall(r"for program in (.*?);? do", text)
    assert tuple(programs.split()) == PROGRAMS


def test_rpm_has_all_that_the_wheel_has() -> None:
    files = read("rpm/passt-py.spec").partition("\n%files\n")[2]
    for program in PROGRAMS:
        assert f"\n%{{_bindir}}/{program}\n" in files
    for place in PROJECT["tool"]["setuptools"]["data-files"]:
        path = place.replace("share/man", "%{_mandir}").replace("share/", "%{_datadir}/")
        assert f"\n{path}/" in files, place


def test_dependencies_are_those_of_the_project() -> None:
    assert [line.partition(">")[0] for line in PROJECT["project"]["dependencies"]] == ["h11"]
    for name in ("debian/control", "rpm/passt-py.spec", "arch/PKGBUILD", "alpine/APKBUILD",
                 "nix/package.nix"):  # fmt: skip
        assert re.search(r"(python3?|py3)-h11|python3Packages\.h11", read(name)), name


@pytest.mark.parametrize("name", ["debian/control", "rpm/passt-py.spec", "arch/PKGBUILD", "alpine/APKBUILD"])
def test_package_takes_the_place_of_the_c_programs(name: str) -> None:
    text = read(name).lower()
    assert re.search(r"provides[:=]\W*passt\b", text)
    assert re.search(r"conflicts[:=]\W*passt\b|depends=.*!passt\b", text)


def test_debian_scripts_name_the_profiles_that_are_installed() -> None:
    profiles = {path.name for path in (TREE / "share/apparmor/apparmor.d").iterdir() if path.is_file()}
    # tools/deb gives passt's the name of the C program's, which it replaces.
    assert 'mv "$etc/passt-python" "$etc/usr.bin.passt"' in (TREE / "tools/deb").read_text(encoding="utf-8")
    installed = {"usr.bin.passt" if name == "passt-python" else name for name in profiles}
    for name in SCRIPTS:
        [named] = re.findall(r"for profile in (.*); do", read(f"debian/{name}"))
        assert set(named.split()) == installed


def test_debian_control_is_filled_by_its_tool() -> None:
    marks = set(re.findall(r"@(\w+)@", read("debian/control")))
    tool = (TREE / "tools/deb").read_text(encoding="utf-8")
    assert marks == set(re.findall(r"s\|@(\w+)@\|", tool))


@pytest.mark.parametrize("variable", ["PASST_DEBUG", "PASST_SANITIZE"])
def test_no_package_is_made_of_a_build_for_tests(variable: str) -> None:
    """It would be slow, and need a C library that is newer than the pages say."""
    script = "source tools/common.sh; VENV=/nonexistent; build_wheel"
    done = subprocess.run(["bash", "-c", script], cwd=TREE, env={**os.environ, variable: "1"},
                          capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "unset them" in done.stderr
    assert done.stderr.count("\n") == 1
