"""What a release needs: one version everywhere, a source archive that is the same each time."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from passt import __version__

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

TREE = Path(__file__).parents[1]
RELEASE = runpy.run_path(str(TREE / "tools/release.py"), run_name="release")
CHANGELOG = "# Changes\n\n## 1.2.3 (2026-12-01)\n\n### Fixed\n\n## 1.2.2 (2026-11-01)\n"


@pytest.fixture(scope="module")
def setup_py() -> dict[str, Any]:
    """Give what setup.py defines, without running it."""
    before = Path.cwd()
    os.chdir(TREE)
    try:
        return runpy.run_path("setup.py", run_name="setup")
    finally:
        os.chdir(before)


def wrong(check: str, root: Path) -> list[str]:
    """List what the named check of tools/release.py finds below *root*."""
    return list(RELEASE[check](root))


def make_tree(root: Path, version: str = "1.2.3", changelog: str = CHANGELOG) -> Path:
    """Make a tree with the places that name the version."""
    for name, text in (("src/passt/__init__.py", f'__version__ = "{version}"\n__commit__ = ""\n'),
                       ("CHANGELOG.md", changelog),
                       ("packaging/rpm/passt-py.spec", f"Name: passt-py\nVersion:        {version}\n"),
                       ("packaging/arch/PKGBUILD", f"pkgname=passt-py\npkgver={version}\n"),
                       ("packaging/alpine/APKBUILD", f"pkgver={version}\n"),
                       ("packaging/nix/package.nix", f'{{\n  version = "{version}";\n}}\n'),
                       ("README.md", f"`pip install passt-{version}-cp311-cp311-linux_x86_64.whl`\n"),
                       *((f"docs/{page}.1", f'.TH X 1 2026-11-22 "passt {version}" "User Commands"\n')
                         for page in ("pasta", "passt", "qrap", "pesto", "passtctl"))):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_this_tree_names_one_version() -> None:
    assert wrong("check_version", TREE) == wrong("check_places", TREE) == wrong("check_pythons", TREE) == []
    assert RELEASE["read_version"](TREE) == __version__
    # Between releases the newest section has no date yet; all else holds.
    assert [line for line in wrong("check_changelog", TREE) if f"{__version__} has no date" not in line] == []


def test_a_tree_that_agrees_passes(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    assert [wrong(check, tree) for check in ("check_version", "check_changelog", "check_places")] == [[]] * 3


@pytest.mark.parametrize(("version", "changelog", "message"), [
    ("1.2.3", CHANGELOG.replace("2026-12-01", "unreleased"), "1.2.3 has no date, but 'unreleased'"),
    ("1.2.4", CHANGELOG, "the newest section is not that of 1.2.4"),
    ("1.2.3", "# Changes\n", "the newest section is not that of 1.2.3"),
    ("1.2.3", CHANGELOG.replace("2026-11-01", "2027-01-01").replace("1.2.2", "1.10.0"), "not in order"),
])
def test_a_changelog_that_is_not_ready_is_found(
        tmp_path: Path, version: str, changelog: str, message: str) -> None:
    found = wrong("check_changelog", make_tree(tmp_path, version, changelog))
    assert len(found) == 1
    assert message in found[0]


@pytest.mark.parametrize("version", ["1.2", "1.2.3-dev", "01.2.3", "", "1.2.3.4"])
def test_a_version_that_is_not_semantic_is_found(tmp_path: Path, version: str) -> None:
    assert wrong("check_version", make_tree(tmp_path, version)) == [
        f"src/passt/__init__.py: '{version}' is not MAJOR.MINOR.PATCH"]


@pytest.mark.parametrize("name", [name for name, _ in RELEASE["PLACES"]])
def test_each_place_with_another_version_is_found(tmp_path: Path, name: str) -> None:
    path = make_tree(tmp_path) / name
    path.write_text(path.read_text(encoding="utf-8").replace("1.2.3", "1.2.2"), encoding="utf-8")
    assert wrong("check_places", tmp_path) == [f"{name}: says 1.2.2, not 1.2.3"]


def test_a_page_that_names_an_older_file_is_found(tmp_path: Path) -> None:
    path = make_tree(tmp_path) / "docs/install.md"
    path.write_text("apt install ./passt-py_1.2.2_amd64.deb\n", encoding="utf-8")
    assert wrong("check_places", tmp_path) == ["docs/install.md: names a file of 1.2.2, not 1.2.3"]


def test_what_is_not_committed_and_a_tag_are_found(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-c", "user.name=T", "-c", "user.email=t@example.com", "-C", str(tmp_path),
                        *arguments], check=True, capture_output=True)

    make_tree(tmp_path)
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "All")
    assert wrong("check_git", tmp_path) == []
    (tmp_path / "README.md").write_text("changed\n", encoding="utf-8")
    git("tag", "v1.2.3")
    found = wrong("check_git", tmp_path)
    assert found[0] == "not committed: README.md"
    assert re.fullmatch("the tag v1.2.3 exists: [0-9a-f]+ All", found[1])
    assert len(found) == 2


def test_archive_does_not_tell_who_packed_it_and_when(tmp_path: Path, setup_py: dict[str, Any]) -> None:
    write: Callable[[Path, Path, int], None] = setup_py["write_archive"]
    for name, order, mode in (("one", ("b", "a", "d/c"), 0o600), ("two", ("d/c", "a", "b"), 0o664)):
        for number, file in enumerate(order):
            path = tmp_path / name / "passt-1" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file, encoding="utf-8")
            path.chmod(mode)
            os.utime(path, (number, number))
        (tmp_path / name / "passt-1/a").chmod(mode | 0o100)
        write(tmp_path / name / "passt-1", tmp_path / f"{name}.tar.gz", 1234567890)
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()
    with tarfile.open(tmp_path / "one.tar.gz") as tar:
        entries = [(entry.name, entry.mode, entry.mtime, entry.uid) for entry in tar]
    assert entries == [("passt-1", 0o755, 1234567890, 0), ("passt-1/a", 0o755, 1234567890, 0),
                       ("passt-1/b", 0o644, 1234567890, 0), ("passt-1/d", 0o755, 1234567890, 0),
                       ("passt-1/d/c", 0o644, 1234567890, 0)]


@pytest.mark.slow
def test_source_archive_has_all_sources_and_names_the_commit(tmp_path: Path) -> None:
    # A copy: other tests look at this tree, in which the archive would be put together.
    tree = tmp_path / "tree"
    ignored = shutil.ignore_patterns("*.so", "*.pyc", "__pycache__", "*.egg-info", ".*")
    for name in ("bench", "demo", "docs", "packaging", "share", "src", "tests", "tools"):
        shutil.copytree(TREE / name, tree / name, ignore=ignored)
    for name in ("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "MANIFEST.in", "Makefile", "README.md",
                 "pyproject.toml", "setup.py"):  # fmt: skip
        shutil.copy(TREE / name, tree)
    built = ("src/passt/x.so", "src/passt/host/x.c", "tests/dataplane/x.c", "bench/bin/x", "tools/x.pyc")
    for name in built:
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_bytes(b"built")
    variables = {"PASST_COMMIT": "0123456789ab", "SOURCE_DATE_EPOCH": "1234567890"}
    subprocess.run([sys.executable, "setup.py", "-q", "sdist"], cwd=tree, check=True, capture_output=True,
                   env={**os.environ, **variables})
    top = f"passt-{__version__}"
    with tarfile.open(tree / "dist" / f"{top}.tar.gz") as tar:
        names = {name.removeprefix(f"{top}/") for name in tar.getnames()}
        module = tar.extractfile(f"{top}/src/passt/__init__.py")
        assert module is not None
        assert b'\n__commit__ = "0123456789ab"\n' in module.read()
    files = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()}
    made = {name for name in files
            if re.match(r"dist/|bench/bin/|src/passt/process/passt-|(src/passt|tests)/.*\.c$", name)}
    made = made - {"tests/fuzz/edges.c"} | set(built)
    assert files - made - names == set()
    assert names.intersection(made) == set()
    # The tree's own file was not written to by way of a link.
    assert '\n__commit__ = ""\n' in (tree / "src/passt/__init__.py").read_text(encoding="utf-8")
