"""Modules that wait in memory: found without a file, executed once, and true to their source."""

from __future__ import annotations

import os
import py_compile
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from passt.light.kept_modules import KeptModules, keep_modules

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = "import sys\nVALUE = {}\nsys.kept_marks.append(__name__)\n"
MODE = py_compile.PycInvalidationMode


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make a package that is loaded, and lists of modules and finders that are put back."""
    package = ModuleType("keptroom")
    package.__path__ = [str(tmp_path)]
    modules, finders = dict(sys.modules), list(sys.meta_path)
    monkeypatch.setitem(sys.modules, "keptroom", package)
    monkeypatch.setattr(sys, "kept_marks", [], raising=False)
    (tmp_path / "one.py").write_text(SOURCE.format(1), encoding="ascii")
    yield tmp_path
    sys.meta_path[:] = finders
    for name in set(sys.modules) - set(modules):
        del sys.modules[name]


def value(name: str = "keptroom.one") -> object:
    __import__(name)
    return sys.modules[name].VALUE


def forget_files(room: Path) -> None:
    """Take the files away, and the finders that could look for them."""
    for path in (*room.glob("__pycache__/*"), *room.glob("*.py")):
        path.unlink()
    sys.meta_path[:] = [finder for finder in sys.meta_path if isinstance(finder, KeptModules)]


@pytest.mark.parametrize("mode", [None, *MODE])
def test_module_is_executed_when_it_is_imported_and_no_file_is_needed(room: Path, mode: MODE | None) -> None:
    if mode is not None:
        py_compile.compile(str(room / "one.py"), invalidation_mode=mode)
    keep_modules(["keptroom.one"])
    assert sys.kept_marks == []  # type: ignore[attr-defined]  # made by the fixture
    forget_files(room)
    assert value() == 1
    assert value() == 1
    assert sys.kept_marks == ["keptroom.one"]  # type: ignore[attr-defined]


def test_compiled_file_of_another_source_is_not_taken(room: Path) -> None:
    for text, times in ((SOURCE.format(22), None), (SOURCE.format(2), (1, 1))):
        py_compile.compile(str(room / "one.py"), invalidation_mode=MODE.TIMESTAMP)
        (room / "one.py").write_text(text, encoding="ascii")
        if times is not None:
            os.utime(room / "one.py", times)
        finder = KeptModules()
        finder.keep(["keptroom.one"])
        module = ModuleType("keptroom.one")
        finder.exec_module(module)
        assert f"VALUE = {module.VALUE}\n" in text


def test_module_without_its_source_is_kept(room: Path) -> None:
    # As distributions for small machines have it.
    py_compile.compile(str(room / "one.py"), cfile=str(room / "one.pyc"))
    (room / "one.py").unlink()
    keep_modules(["keptroom.one"])
    (room / "one.pyc").unlink()
    forget_files(room)
    assert value() == 1


@pytest.mark.parametrize("damage", [b"", b"\0" * 16, b"\0" * 400])
def test_compiled_file_that_is_damaged_is_not_taken(room: Path, damage: bytes) -> None:
    compiled = py_compile.compile(str(room / "one.py"))
    assert compiled
    Path(compiled).write_bytes(damage)
    keep_modules(["keptroom.one"])
    assert value() == 1


def test_module_that_is_loaded_is_not_kept_and_one_that_is_not_there_is_told(room: Path) -> None:
    keep_modules(["keptroom.one"])
    assert value() == 1
    keep_modules(["keptroom.one"])
    (finder,) = [each for each in sys.meta_path if isinstance(each, KeptModules)]
    assert finder.find_spec("keptroom.one") is None
    with pytest.raises(ImportError, match=r"no module keptroom\.none"):
        keep_modules(["keptroom.none"])
    assert room.exists()
