"""Versions: ours, Python, the kernel, h11, and every pasta and passt in PATH; others take the first one."""

from __future__ import annotations

import os
import shlex
import sys

from passt import __version__
from passt.passtctl.doctor.finding import NOTE, OK, WARNING, Finding
from passt.process.interpreter import find_packages

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.passtctl.doctor.machine import Machine

SUBJECT = "versions"
PROGRAMS = ("pasta", "passt")


def find_h11() -> str | None:
    """Return the version of the package h11; None if it cannot be had.

    It is looked for where --control does (`control.door`): our launcher starts Python without its places for
    packages.
    """
    try:
        import h11
    except ImportError:
        find_packages()
        try:
            import h11
        except ImportError:
            return None
    return str(getattr(h11, "__version__", "of an unknown version"))


def check(machine: Machine, h11: Callable[[], str | None] = find_h11, called: str = "") -> list[Finding]:
    """Tell all versions, and which program of a name is the first in PATH.

    *called* is the path by which passtctl was called; pasta and passt lie beside it.
    """
    python = ".".join(map(str, sys.version_info[:3]))
    found = [Finding(OK, SUBJECT, f"passt {__version__}, Python {python}, Linux {os.uname().release}")]
    version = h11()
    if version is None:
        found.append(Finding(WARNING, SUBJECT, "the package h11 is missing, which --control takes",
                             ("apt-get install python3-h11",), as_root=True))
    else:
        found.append(Finding(OK, SUBJECT, f"h11 {version}"))
    for name in PROGRAMS:
        found += _programs(machine, name, os.path.dirname(os.path.abspath(called)) if "/" in called else "")
    return found


def _programs(machine: Machine, name: str, beside: str) -> list[Finding]:
    """Tell of all programs of that name; ours prints the version that we are, or lies in *beside*."""
    paths = machine.find_programs(name)
    has_own = bool(beside) and os.access(f"{beside}/{name}", os.X_OK)
    if not paths:
        return [Finding(NOTE, SUBJECT, f"there is no {name} in PATH, where Podman, rootlesskit, libvirt look",
                        (_prepend(beside) if has_own else "make install PREFIX=$HOME/.local",))]
    told = {path: (machine.run([path, "--version"]) or "an unknown version").partition("\n")[0]
            for path in paths}
    ours = [path for path in paths if told[path] == f"{name} {__version__}"]
    listed = ", then ".join(f"{path} ({told[path]})" for path in paths)
    if paths[0] in ours or not (ours or has_own):
        return [Finding(OK, SUBJECT, f"{name} in PATH is {listed}")]
    return [Finding(NOTE, SUBJECT, f"{name} in PATH is {listed}: others take the first, which is not ours",
                    (_prepend(os.path.dirname(ours[0]) if ours else beside),))]


def _prepend(directory: str) -> str:
    return f"export PATH={shlex.quote(directory)}:$PATH"
