"""The units in share/: systemd reads them without a word, and the programs have the options in them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from passt.config.getopt import scan
from passt.config.settings import build_settings

UNITS = sorted((Path(__file__).parents[1] / "share" / "systemd" / "user").iterdir())


def read_start(unit: Path) -> list[str]:
    """Return the words of ExecStart=."""
    found = re.search(r"^ExecStart=(.*)$", unit.read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None
    return found[1].split()


def test_each_program_that_serves_has_a_unit() -> None:
    assert [unit.name for unit in UNITS] == ["passt@.service", "pasta@.service"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_finds_nothing_wrong(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is missing: 'make test' installs it")
    copy = tmp_path / unit.name
    # It looks for the programs, which need not be installed here.
    text = re.sub(r"(?m)^(ExecStart=)\w+", r"\1/bin/true", unit.read_text(encoding="ascii"))
    copy.write_text(text, encoding="ascii")
    variables = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(["systemd-analyze", "--user", "--man=no", "verify", str(copy)], check=False,
                          capture_output=True, text=True, env=variables)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_the_program_takes_the_options_and_tells_when_it_is_ready(unit: Path) -> None:
    program, *arguments = read_start(unit)
    assert program == unit.name.partition("@")[0]
    assert arguments.pop() == f"${program.upper()}_OPTIONS"
    settings, warnings = build_settings(program, scan(program, arguments))
    assert (settings.process.foreground, warnings) == (True, [])
    assert "\nType=notify\n" in unit.read_text(encoding="ascii")
