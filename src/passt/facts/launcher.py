"""What the launcher of an installed program (src/launcher) saw of its caller before Python started.

Python ignores INTERPRETERS before any code of ours can look. So the launcher looks, and names those that the
caller ignores by an option of the interpreter: -X passt_ignored=13,25. Started otherwise we know of none.
"""

from __future__ import annotations

import signal
import sys

OPTION = "passt_ignored"
INTERPRETERS = (signal.SIGPIPE, signal.SIGXFSZ)


def ignored_signals() -> frozenset[int]:
    """Return those of INTERPRETERS that the launcher's caller ignores."""
    words = str(sys._xoptions.get(OPTION, "")).split(",")  # noqa: SLF001 - its documented name
    return frozenset(number for number in INTERPRETERS if str(int(number)) in words)
