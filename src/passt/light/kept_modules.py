"""Modules that are read at the start and executed when they are needed, which may be never.

A program in a sandbox opens no file, so what it may need later has to be read before. To unmarshal and to
execute a module is most of what an import costs: most runs of a command end before anything of the host's
network has changed, and do not pay for what follows that.
"""

from __future__ import annotations

import os
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER, PathFinder, cache_from_source
from marshal import loads
from struct import Struct

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable, MutableSequence
    from types import CodeType, ModuleType

_U32 = 0xFFFFFFFF
_HEAD = Struct("<4sIII")           # of a .pyc (PEP 552): magic number, flags, and of the source time and size


class KeptModules:
    """Finds and loads modules whose code is in memory; one of sys.meta_path."""

    def __init__(self) -> None:
        self._codes: dict[str, bytes | CodeType] = {}

    def keep(self, names: Iterable[str]) -> None:
        """Read the modules *names*; their packages are loaded. Raises ImportError or OSError."""
        for name in names:
            if name not in sys.modules:
                package, _, leaf = name.rpartition(".")
                __import__(package)
                self._codes[name] = _read(name, leaf, sys.modules[package].__path__)

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        """Find a module that is kept."""
        return ModuleSpec(name, self) if name in self._codes else None  # type: ignore[arg-type]  # it is one

    def create_module(self, _spec: ModuleSpec) -> None:
        """Leave it to the interpreter to make the module."""

    def exec_module(self, module: ModuleType) -> None:
        """Execute what was kept."""
        code = self._codes.pop(module.__name__)
        exec(loads(code[_HEAD.size:]) if isinstance(code, bytes) else code, module.__dict__)  # noqa: S102, S302


def keep_modules(names: Iterable[str]) -> None:
    """Have the modules *names* imported without a file from now on. Raises ImportError or OSError."""
    finder = next((each for each in sys.meta_path if isinstance(each, KeptModules)), None)
    if finder is None:
        finder = KeptModules()
        sys.meta_path.insert(0, finder)
    finder.keep(names)


def _read(name: str, leaf: str, directories: MutableSequence[str]) -> bytes | CodeType:
    """Read a module's compiled file if it is of the source, else do as the interpreter does.

    That knows what else there is: files that are compiled by another rule, or here without their source.
    """
    path = f"{directories[0]}/{leaf}.py"
    try:
        source = os.stat(path)
        fd = os.open(cache_from_source(path), os.O_RDONLY | os.O_CLOEXEC)
        try:
            compiled = os.read(fd, os.fstat(fd).st_size)
        finally:
            os.close(fd)
        # Flags of 0: the header has the time and size of the source.
        if compiled[:_HEAD.size] == _HEAD.pack(MAGIC_NUMBER, 0, int(source.st_mtime) & _U32,
                                               source.st_size & _U32):
            return compiled
    except OSError:
        pass
    spec = PathFinder.find_spec(name, directories)
    get_code = getattr(spec.loader, "get_code", None) if spec is not None else None
    code: CodeType | None = get_code(name) if get_code is not None else None
    if code is None:
        raise ImportError(f"there is no module {name} that could be kept", name=name)
    return code
