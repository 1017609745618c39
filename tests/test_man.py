"""Manual pages against the option table."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from passt.config.help import options_of

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("program", ["pasta", "passt", "pesto"])
def test_page_lists_exactly_the_options_of_its_program(program: str) -> None:
    page = (ROOT / "docs" / f"{program}.1").read_text(encoding="utf-8").replace("\\-", "-")
    section = page[page.index(".SH OPTIONS"):page.index('.\\" END OPTIONS')]
    now, _, later = section.partition(".SS Not available yet")
    for text, available in ((now, True), (later, False)):
        headings = [line for line in text.splitlines() if line.startswith("\\fB-")]
        names = [name for line in headings for name in re.findall(r"\\fB(--?[a-z0-9A-Z-]+)\\fR", line)]
        expected = [option for option in options_of(program) if option.available is available]
        assert sorted(names) == sorted(
            [f"-{option.short}" for option in expected if option.short]
            + [f"--{name}" for option in expected for name in option.names])


def test_pages_are_up_to_date_with_the_table() -> None:
    check = subprocess.run([sys.executable, str(ROOT / "tools" / "gen_man.py"), "--check"],
                           capture_output=True, text=True, check=False)
    assert (check.returncode, check.stderr) == (0, "")


@pytest.mark.parametrize("program", ["pasta", "passt", "qrap", "pesto"])
def test_page_is_clean_for_mandoc_and_man(program: str) -> None:
    path = str(ROOT / "docs" / f"{program}.1")
    for command in (["mandoc", "-T", "lint", "-W", "warning"], ["man", "--warnings", "-l"]):
        if shutil.which(command[0]) is None:
            pytest.skip(f"{command[0]} is missing: 'make test' installs it")
        result = subprocess.run([*command, path], capture_output=True, text=True, check=False,
                                env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "MANPAGER": "cat"})
        assert (result.returncode, result.stderr) == (0, "")
        assert command[0] == "man" or not result.stdout


@pytest.mark.parametrize("program", ["pasta", "passt"])
def test_page_has_all_sections(program: str) -> None:
    page = (ROOT / "docs" / f"{program}.1").read_text(encoding="utf-8")
    sections = [line[4:] for line in page.splitlines() if line.startswith(".SH ")]
    assert set(sections) == {"NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXAMPLES", "NOTES", "FILES",
                             "SIGNALS", "EXIT STATUS", "SEE ALSO", "BUGS"}
