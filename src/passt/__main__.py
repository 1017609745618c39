"""`python -m passt pasta|passt|qrap [ARG]...`.

The interpreter is the caller's: it obeys the caller's PYTHON variables, and looks for modules in the working
directory first. Where there are such variables another one takes over, which is isolated; else it is enough
to take the directory away again.
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
    place = os.path.dirname(os.path.abspath(__file__))
    if is_touched() and sys.executable:
        start = os.path.join(place, "start.py")
        argv = [sys.executable, "-IS", start, *sys.argv]
        os.execve(sys.executable, argv, callers_environment())  # noqa: S606 - ourselves
    if not sys.flags.safe_path:
        sys.path.pop(0)
    sys.path.append(os.path.dirname(place))


if __name__ == "__main__":
    isolate()

    from passt.cli import main

    sys.exit(main())
