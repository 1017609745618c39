"""A line of the screen: its text, and for each character of it a letter that says how it looks."""

from __future__ import annotations

from passt.light.values import NamedTuple

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NORMAL, BOLD, FAINT, HEADING, CHOSEN = " ", "b", "f", "h", "c"
GOOD, WARNING, BAD, OUT, IN = "g", "w", "r", "o", "i"
STYLES = NORMAL + BOLD + FAINT + HEADING + CHOSEN + GOOD + WARNING + BAD + OUT + IN

_BLOCKS = " ▁▂▃▄▅▆▇█"
_ASCII_BLOCKS = " .:-=+*#@"


class Line(NamedTuple):
    """*text* and *styles* have the same length."""

    text: str
    styles: str


def blank(width: int) -> Line:
    """Return an empty line."""
    return Line(" " * width, NORMAL * width)


def line(spans: Iterable[tuple[str, str]], width: int, fill: str = NORMAL) -> Line:
    """Join *spans*, text and style, to a line of exactly *width* characters; the rest looks like *fill*."""
    text, styles = "", ""
    for part, style in spans:
        text += part
        styles += style * len(part)
    return Line(text[:width].ljust(width), styles[:width].ljust(width, fill))


def shorten(text: str, width: int, mark: str) -> str:
    """Cut *text* on its left, where ends of flows differ least, to *width* characters."""
    if len(text) <= width:
        return text
    return (mark + text[len(text) - width + 1:])[:width] if width > 0 else ""


def sparkline(values: Sequence[float], width: int, *, is_utf8: bool) -> str:
    """Draw the last *width* values as columns; the highest has the full height, and any but 0 is seen."""
    shown = list(values)[-width:] if width > 0 else []
    blocks = _BLOCKS if is_utf8 else _ASCII_BLOCKS
    top, highest = len(blocks) - 1, max(shown, default=0)
    if highest <= 0:
        return blocks[0] * len(shown)
    return "".join(blocks[max(round(value / highest * top), 1 if value > 0 else 0)] for value in shown)
