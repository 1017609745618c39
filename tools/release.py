# ruff: noqa: INP001 - a script, in no package
"""Check that this tree can be released as the version that it names; change nothing, tag nothing.

    python tools/release.py            all checks
    python tools/release.py --version  print the version

Each check is a function that yields what is wrong, a line each.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent
# https://semver.org, without suffixes: Python and each distribution write those in ways of their own.
VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
HEADING = re.compile(r"^## (\S+) \((.*)\)$", re.MULTILINE)
DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
# File, and what in it names the version of this program.
PLACES = (
    ("packaging/rpm/passt-py.spec", r"^Version: +(\S+)$"),
    ("packaging/arch/PKGBUILD", r"^pkgver=(\S+)$"),
    ("packaging/alpine/APKBUILD", r"^pkgver=(\S+)$"),
    ("packaging/nix/package.nix", r'^ *version = "(.*)";$'),
    *((f"docs/{program}.1", r'\A\.TH .* "passt (.*)" ') for program in
      ("pasta", "passt", "qrap", "pesto", "passtctl")),
)
# Files whose names have the version in them, in the pages that name them.
NAMED = re.compile(r"\bpasst(?:-py)?[-_](\d+\.\d+\.\d+)")
PAGES = ("README.md", "CONTRIBUTING.md", "docs/*.md", "packaging/*.md")
SUPPORTED = re.compile(r'"Programming Language :: Python :: (3\.\d+)"')


def read_version(root: Path) -> str:
    """Return the version that the package names."""
    found = re.search(r'^__version__ = "(.*)"$', (root / "src/passt/__init__.py").read_text(), re.MULTILINE)
    return found[1] if found else ""


def check_version(root: Path) -> Iterator[str]:
    """Look whether the version is three numbers."""
    version = read_version(root)
    if not VERSION.fullmatch(version):
        yield f"src/passt/__init__.py: '{version}' is not MAJOR.MINOR.PATCH"


def check_changelog(root: Path) -> Iterator[str]:
    """Look whether the newest section of the CHANGELOG is this version, and each has a date."""
    sections = HEADING.findall((root / "CHANGELOG.md").read_text(encoding="utf-8"))
    if not sections or sections[0][0] != read_version(root):
        yield f"CHANGELOG.md: the newest section is not that of {read_version(root)}"
    for version, date in sections:
        if not DATE.fullmatch(date):
            yield f"CHANGELOG.md: {version} has no date, but '{date}'"
    dated = [([int(number) for number in version.split(".")], date) for version, date in sections
             if VERSION.fullmatch(version) and DATE.fullmatch(date)]
    if dated != sorted(dated, reverse=True):
        yield "CHANGELOG.md: the sections are not in order, the newest first"


def check_places(root: Path) -> Iterator[str]:
    """Look whether manual pages, recipes and names of files say the same version."""
    version = read_version(root)
    for name, pattern in PLACES:
        if not (root / name).exists():
            yield f"{name}: there is no such file"
            continue
        found = re.search(pattern, (root / name).read_text(encoding="utf-8"), re.MULTILINE)
        if found is None or found[1] != version:
            yield f"{name}: says {found[1] if found else 'no version'}, not {version}"
    for path in (path for pattern in PAGES for path in sorted(root.glob(pattern))):
        for other in sorted(set(NAMED.findall(path.read_text(encoding="utf-8"))) - {version}):
            yield f"{path.relative_to(root)}: names a file of {other}, not {version}"


def check_pythons(root: Path) -> Iterator[str]:
    """Look whether the README names the Pythons of pyproject.toml, and pip asks for the oldest."""
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    supported = SUPPORTED.findall(text)
    if f"| Python | {', '.join(supported)} |" not in (root / "README.md").read_text(encoding="utf-8"):
        yield f"README.md: the supported Pythons are {', '.join(supported)} in pyproject.toml"
    asked = tomllib.loads(text)["project"]["requires-python"]
    if asked != f">={supported[0]}":
        yield f"pyproject.toml: requires-python is {asked}, and the oldest classifier says {supported[0]}"


def check_git(root: Path) -> Iterator[str]:
    """Look whether all is committed, and the version has no tag yet."""
    for line in _git(root, "status", "--porcelain").splitlines():
        yield f"not committed: {line[3:]}"
    tag = f"v{read_version(root)}"
    if _git(root, "tag", "--list", tag):
        yield f"the tag {tag} exists: {_git(root, 'log', '-1', '--format=%h %s', tag)}"


def check_archive(root: Path) -> Iterator[str]:
    """Make the source archive from this tree and from a clone of it, and compare."""
    with tempfile.TemporaryDirectory() as directory:
        clone, here, there = (Path(directory, name) for name in ("clone", "here", "there"))
        _git(root, "clone", "--quiet", "--no-local", str(root), str(clone))
        archives = []
        for tree, place, mask in ((root, here, 0o077), (clone, there, 0o022)):
            command = [sys.executable, "setup.py", "-q", "sdist", "--dist-dir", str(place)]
            done = subprocess.run(command, cwd=tree, umask=mask, capture_output=True, text=True, check=False)
            if done.returncode:
                yield f"the source archive cannot be made: {done.stderr}"
                return
            [archive] = place.iterdir()
            archives.append(archive)
        if archives[0].read_bytes() != archives[1].read_bytes():
            yield f"{archives[0].name}: this tree and a clone of it make different archives"
        if archives[0].name != f"passt-{read_version(root)}.tar.gz":
            yield f"the source archive is called {archives[0].name}"


CHECKS: tuple[Callable[[Path], Iterator[str]], ...] = (
    check_version, check_changelog, check_places, check_pythons, check_git, check_archive)


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True,
                          env={**os.environ, "LC_ALL": "C"}).stdout.rstrip()


def main() -> int:
    """Print what is wrong, and how to go on when nothing is."""
    version = read_version(ROOT)
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"{version}\n")
        return 0
    wrong = [line for check in CHECKS for line in check(ROOT)]
    for line in wrong:
        sys.stderr.write(f"{line}\n")
    if wrong:
        return 1
    sys.stdout.write(f"{version} can be released. What is left to do, when all tests pass on this commit:\n"
                     f"    git tag --sign --message 'passt {version}' v{version}\n"
                     "    make sdist wheel deb\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
