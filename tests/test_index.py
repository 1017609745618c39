"""The index of the tests, and where the tests of each module are."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
TOOL = TESTS.parent / "tools" / "gen_test_index.py"
PACKAGE = TESTS.parent / "src" / "passt"
ROW = re.compile(r"^\| `([\w/]+)` \| (.*) \|$", re.MULTILINE)


def modules(package: Path) -> set[str]:
    """Path below the package, without ending, of each module that is not only a package's doc."""
    return {
        str(path.relative_to(package).with_suffix(""))
        for path in package.rglob("*")
        if path.suffix in {".py", ".pyx", ".pxd"} and path.name != "__init__.py"
    }


def rows() -> dict[str, str]:
    """Modules of the table in README.md, with the cell of their tests."""
    _, _, table = (TESTS / "README.md").read_text(encoding="utf-8").partition("## Modules without")
    found = ROW.findall(table)
    assert len(dict(found)) == len(found) > 0
    return dict(found)


def own_file(module: str) -> Path:
    folder, _, name = module.rpartition("/")
    return TESTS / folder / f"test_{name}.py"


def test_every_module_has_a_test_file_of_its_name_or_a_row() -> None:
    nameless = {module for module in modules(PACKAGE) if not own_file(module).exists()}
    assert nameless == set(rows())


def test_rows_name_test_files_that_exist() -> None:
    for module, cell in rows().items():
        if not cell.startswith("none: "):
            files = re.fullmatch(r"`([\w/.]+)`(?:, `([\w/.]+)`)*", cell)
            assert files, module
            for name in re.findall(r"`([\w/.]+)`", cell):
                assert (TESTS / name).name.startswith("test_"), name
                assert (TESTS / name).is_file(), name


def test_index_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, str(TOOL), "--check"], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["tests/dataplane/tcp/test_scoreboard.py", "tests/test_index.py"])
def test_index_has_a_line_for(name: str) -> None:
    path = Path(name).relative_to("tests")
    assert f"- [{path.name}]({path}): " in (TESTS / "INDEX.md").read_text(encoding="utf-8")
