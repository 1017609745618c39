"""How each style looks on this terminal: in colours by the package rich, or in bold and reverse without it.

rich knows how many colours a terminal has (COLORTERM, TERM, NO_COLOR) and puts others in their place. It is
looked for where a start with -S, which is how the launcher starts us, does not look.
"""

from __future__ import annotations

from passt.light.values import Protocol
from passt.passtctl.top.cells import BAD, BOLD, CHOSEN, FAINT, GOOD, HEADING, IN, NORMAL, OUT, WARNING
from passt.process.interpreter import find_packages

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Mapping

# Select graphic rendition: ECMA-48 8.3.117.
_PLAIN = {BOLD: "1", HEADING: "7", CHOSEN: "7", WARNING: "1", BAD: "1"}
_RICH = {BOLD: "bold", FAINT: "dim", HEADING: "black on cyan", CHOSEN: "reverse", GOOD: "green",
         WARNING: "bold yellow", BAD: "bold red", OUT: "#d78700", IN: "#5fafd7"}  # fmt: skip


class Theme(Protocol):
    """Gives text its looks."""

    def paint(self, text: str, style: str) -> str:
        """Return *text* with what makes it look like *style*, and what ends that."""


class PlainTheme:
    """Bold and reverse, which every terminal has."""

    def paint(self, text: str, style: str) -> str:
        """See `Theme`."""
        code = _PLAIN.get(style)
        return f"\x1b[{code}m{text}\x1b[0m" if code else text


class RichTheme:
    """Colours, as many as *depth* says: "standard", "256" or "truecolor". Raises ImportError."""

    def __init__(self, depth: str) -> None:
        from rich.color import ColorSystem
        from rich.style import Style

        self._system = {"standard": ColorSystem.STANDARD, "256": ColorSystem.EIGHT_BIT}.get(
            depth, ColorSystem.TRUECOLOR)
        self._styles = {letter: Style.parse(text) for letter, text in _RICH.items()}

    def paint(self, text: str, style: str) -> str:
        """See `Theme`."""
        if style == NORMAL:
            return text
        return self._styles[style].render(text, color_system=self._system)


def choose(environment: Mapping[str, str]) -> Theme:
    """Return the theme for the terminal that TERM and its like describe."""
    if environment.get("NO_COLOR"):
        return PlainTheme()
    try:
        _find_rich()
        from rich.console import Console

        depth = Console(force_terminal=True, _environ=environment).color_system
        return RichTheme(depth) if depth is not None else PlainTheme()
    except ImportError:
        return PlainTheme()


def _find_rich() -> None:
    """Look for packages where Python would have without -S."""
    try:
        import rich  # noqa: F401 - is it there?
    except ImportError:
        find_packages()


def is_utf8(environment: Mapping[str, str]) -> bool:
    """Tell whether the caller's locale has UTF-8; Python says yes of the C locale too (PEP 538)."""
    for name in ("LC_ALL", "LC_CTYPE", "LANG"):
        value = environment.get(name)
        if value:
            codeset = value.partition(".")[2].partition("@")[0]
            return codeset.lower().replace("-", "") == "utf8"
    return False
