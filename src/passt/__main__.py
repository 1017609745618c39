"""`python -m passt pasta|passt|qrap [ARG]...`.

The interpreter is the caller's: it obeys the caller's PYTHON variables, and looks for modules in the working
directory first. Where there are such variables another one takes over, which is isolated; else it is enough
to take the directory away again.
"""

import os
import sys

PREFIX = "PYTHON"


def is_touched() -> bool:
    """Tell whether variables of the caller's can have changed this interpreter."""
    return not sys.flags.ignore_environment and any(name.startswith(PREFIX) for name in os.environ)


def isolate() -> None:
    """Leave the caller's variables and directories out of what follows."""
    place = os.path.dirname(os.path.abspath(__file__))
    if is_touched() and sys.executable:
        start = os.path.join(place, "start.py")
        os.execv(sys.executable, [sys.executable, "-IS", start, *sys.argv])  # noqa: S606 - ourselves
    if not sys.flags.safe_path:
        sys.path.pop(0)
    sys.path.append(os.path.dirname(place))


if __name__ == "__main__":
    isolate()

    from passt.cli import main

    sys.exit(main())
