"""The compiled plane: event loop, links, flows, TCP, UDP and ping translation.

Theory of operation. All modules below this package are linked into one shared object, which setup.py names
PLANE: 59 objects would each be found, mapped and relocated, which cost a start 6 ms and 1.2 MB.
Python has no import of several modules from one file, so `PlaneFinder` answers for all that is no room,
before Python looks for files. PEP 489 names the function that makes a module after the last part of the
module's name; there are two `from_guest`, so setup.py names these functions after all that follows
`passt.dataplane`: PyInit_tcp_from_guest, PyInit_udp_from_guest.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

PLANE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "plane" + EXTENSION_SUFFIXES[0])
PREFIX = __name__ + "."
# Files have a dot in their names, rooms have none.
ROOMS = frozenset(name for name in os.listdir(os.path.dirname(PLANE)) if "." not in name)


class PlaneLoader(ExtensionFileLoader):
    """Loads one module from PLANE."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Make the module *spec*, not yet executed. Raises ImportError."""
        symbol = spec.name.removeprefix(PREFIX).replace(".", "_")
        module = super().create_module(ModuleSpec(f"{spec.parent}.{symbol}", self, origin=PLANE))
        module.__name__ = spec.name
        return module


class PlaneFinder:
    """Says that a module of the compiled plane is in PLANE; packages are found by their files."""

    @staticmethod
    def find_spec(name: str, _path: Sequence[str] | None = None,
                  _target: ModuleType | None = None) -> ModuleSpec | None:
        """Give the place of module *name*; None if it is not one of ours."""
        if not name.startswith(PREFIX):
            return None
        room, _, module = name.removeprefix(PREFIX).partition(".")
        if room in ROOMS and not module:
            return None
        spec = ModuleSpec(name, PlaneLoader(name, PLANE), origin=PLANE)
        spec.has_location = True
        return spec


sys.meta_path.insert(0, PlaneFinder)
