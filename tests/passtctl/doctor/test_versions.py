"""Versions, and which of several programs of one name is the first in PATH."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from passt import __version__
from passt.passtctl.doctor.finding import NOTE, OK, WARNING
from passt.passtctl.doctor.versions import check, find_h11
from tests.support.made_machine import make, says

OURS = {name: says(f"{name} {__version__}\nLicensed") for name in ("pasta", "passt")}
OTHER = says("pasta 0.0~git20230309.7c7625d-1\nCopyright")


def test_ours_alone(tmp_path: Path) -> None:
    found = check(
        make(tmp_path, programs={f"/a/{name}": text for name, text in OURS.items()}), lambda: "0.16.0"
    )
    assert [finding.level for finding in found] == [OK] * 4
    assert __version__ in found[0].text
    assert f"{tmp_path}/a/pasta (pasta {__version__})" in found[2].text


def test_another_one_is_first(tmp_path: Path) -> None:
    machine = make(
        tmp_path, programs={"/b/pasta": OTHER, "/a/pasta": OURS["pasta"], "/a/passt": OURS["passt"]}
    )
    found = check(machine, lambda: "0.16.0")[2]
    assert (found.level, found.commands) == (NOTE, (f"export PATH={tmp_path}/a:$PATH",))
    assert "git20230309" in found.text
    machine = make(
        tmp_path, programs={"/a/pasta": OURS["pasta"], "/b/pasta": OTHER, "/a/passt": OURS["passt"]}
    )
    assert check(machine, lambda: "0.16.0")[2].level == OK


def test_ours_is_where_passtctl_lies(tmp_path: Path) -> None:
    make(tmp_path, programs={"/own/pasta": OURS["pasta"], "/own/passt": OURS["passt"]})
    called, wanted = f"{tmp_path}/own/passtctl", (f"export PATH={tmp_path}/own:$PATH",)
    found = check(make(tmp_path), lambda: "0.16.0", called)
    assert [finding.commands for finding in found[2:]] == [wanted, wanted]
    machine = make(tmp_path, programs={"/b/pasta": OTHER, "/b/passt": OTHER})
    found = check(machine, lambda: "0.16.0", called)
    assert [finding.commands for finding in found[2:]] == [wanted, wanted]
    assert check(machine, lambda: "0.16.0", "passtctl")[2].level == OK


def test_programs_that_are_missing_or_say_nothing(tmp_path: Path) -> None:
    found = check(make(tmp_path, programs={"/a/pasta": says("", 1)}), lambda: "0.16.0")
    assert "an unknown version" in found[2].text
    assert (found[3].level, "no passt in PATH" in found[3].text) == (NOTE, True)


def test_h11(tmp_path: Path) -> None:
    assert check(make(tmp_path), lambda: None)[1].level == WARNING
    assert (find_h11() or "").count(".") == 2


def test_h11_is_found_by_a_start_without_places_of_packages() -> None:
    """The launcher starts Python with -IS; --control finds it all the same."""
    root = Path(__file__).parents[3] / "src"
    script = (f"import sys; sys.path.append({str(root)!r})\n"
              "from passt.passtctl.doctor.versions import find_h11; print(find_h11())")
    done = subprocess.run([sys.executable, "-IS", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == find_h11()
