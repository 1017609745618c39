"""The interpreter's own ways to the file system, which a program closes before it goes into a sandbox.

The interpreter opens files without being told to: it searches for modules that are not loaded, prints
source lines with a traceback or a warning, and the C library reads the time zone anew for each local time.
Behind an empty root that fails; the filter of system calls even kills the process that opens a path. After
`close_paths` none of it asks for a file: a missing module is an ImportError, a mistake of ours is told
without its source lines.
"""

from __future__ import annotations

import os
import sys
import time

from passt import log
from passt.light.kept_modules import KeptModules

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from types import TracebackType

_COMPILED_IN = ("BuiltinImporter", "FrozenImporter")  # finders of modules that need no file
_ZONE = ":/etc/localtime"  # tzset(3)


def find_packages() -> None:
    """Let imports find installed packages: a start with -S, as most runs need none, does not look there."""
    import site

    site.addsitepackages(site.venv(set(sys.path)) or set())


def close_paths() -> None:
    """Stop the interpreter from opening files; call when everything is loaded."""
    sys.meta_path[:] = [finder for finder in sys.meta_path
                        if isinstance(finder, KeptModules) or getattr(finder, "__name__", "") in _COMPILED_IN]
    sys.path_hooks.clear()
    sys.path_importer_cache.clear()
    sys.excepthook = _on_uncaught
    _silence_warnings()
    _keep_zone()


def _keep_zone() -> None:
    """Have the time zone read now, and not again: the C library looks anew only while TZ is not set."""
    os.environ.setdefault("TZ", _ZONE)
    time.tzset()


def _silence_warnings() -> None:
    """Keep warnings of Python from being printed, as they come with their source line."""
    import _warnings

    _warnings.filters.insert(0, ("ignore", None, Warning, None, 0))
    # Without the module warnings nothing else can add filters; the C side remembers decisions by version.
    if "warnings" in sys.modules:
        sys.modules["warnings"].simplefilter("ignore")


def _on_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Log what nobody caught (sys.excepthook)."""
    log.failure(kind.__name__, error.with_traceback(trace))
