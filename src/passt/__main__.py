"""Where the program begins, in one of two forms.

`python -IS .../passt/__main__.py NAME [ARG]...` is how the launcher that pip installs starts it
(src/launcher), in an interpreter of its own: -I keeps the caller's variables and directories out; -S leaves
out the module `site`, which start-up can do without, so the place of the package is added here. NAME is what
the caller called, the first of sys.argv from then on.

With `python -m passt pasta|passt|qrap|pesto [ARG]...` the interpreter is the caller's: it obeys the caller's
PYTHON variables, and looks for modules in the working directory first. Where there are such variables another
one takes over, in the first form; else it is enough to take the directory away again.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "PYTHON"


def is_touched() -> bool:
    """Tell whether variables of the caller's can have changed this interpreter."""
    return not sys.flags.ignore_environment and any(name.startswith(PREFIX) for name in os.environ)


def callers_environment() -> Mapping[bytes, bytes]:
    """Give the environment as it came: in the C locale Python has put an LC_CTYPE there (PEP 538)."""
    try:
        with open("/proc/self/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:
        return os.environb
    return dict(entry.split(b"=", 1) for entry in entries if b"=" in entry)


def isolate() -> None:
    """Leave the caller's variables and directories out of what follows."""
    if is_touched() and sys.executable:
        argv = [sys.executable, "-IS", os.path.abspath(__file__), *sys.argv]
        os.execve(sys.executable, argv, callers_environment())  # noqa: S606 - ourselves
    if not sys.flags.safe_path:
        sys.path.pop(0)
    add_place()


def add_place() -> None:
    """Have our package found where this file is."""
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


if __name__ == "__main__":
    if __spec__ is None:
        add_place()
    else:
        isolate()
    if sys.flags.isolated and len(sys.argv) > 1:
        del sys.argv[0]

    from passt.cli import main

    sys.exit(main())
