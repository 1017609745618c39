"""The probes are built before the tests run; where they are not, every test module here says so.

Test modules import them by their full name (`from tests.dataplane.probes import probe`).
"""

import importlib.machinery
from pathlib import Path

import pytest

from passt.dataplane import PLANE

HERE = Path(__file__).parent
PACKAGE = HERE.parent.parent / "src" / "passt" / "dataplane"
BUILD_PACKAGE = "python setup.py build_ext --inplace"
BUILD_PROBES = "python tests/build_probes.py"


class Unbuilt(pytest.Module):
    """A test module that cannot be run: its collection is an error with one clear line."""

    def collect(self) -> list[pytest.Item | pytest.Collector]:
        """Raise the error."""
        raise self.CollectError(what_is_missing())


def built(source: Path) -> Path:
    """Name the extension that is built in place from *source*."""
    return source.with_suffix(importlib.machinery.EXTENSION_SUFFIXES[0])


def is_stale(extension: Path, source: Path, others: list[Path]) -> bool:
    """Tell whether *extension* is missing or older than *source* or one of *others*."""
    if not extension.exists():
        return True
    age = extension.stat().st_mtime
    return any(path.stat().st_mtime > age for path in (source, *others) if path.exists())


def what_is_missing() -> str | None:
    """Say what has to be built, and how; None if all is up to date."""
    for source in sorted(PACKAGE.rglob("*.pyx")):
        if is_stale(Path(PLANE), source, [source.with_suffix(".pxd")]):
            return f"{source.name} of the data plane is not built or changed since: run '{BUILD_PACKAGE}'"
    probes = HERE / "probes"
    for source in sorted(probes.glob("*.pyx")):
        if is_stale(built(source), source, sorted([*PACKAGE.rglob("*.pxd"), *probes.glob("*.pxd")])):
            return f"the probe {source.name} is not built or older than its sources: run '{BUILD_PROBES}'"
    return None


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Put `Unbuilt` in place of each test module while something has to be built."""
    if what_is_missing() is None:
        return None
    return Unbuilt.from_parent(parent, path=module_path)
