"""From lines to what a terminal has to be sent: only the characters that changed.

Theory of operation. The painter knows what the terminal shows. Of each line it finds the runs that differ,
moves the cursor to each (ECMA-48 8.3.21) and writes it; runs with a few equal characters between them are
one, as a move costs about as much. A line that ends in nothing is cut off (8.3.41). So a refresh costs no
more than the screen has characters, and nothing if nothing changed.
"""

from __future__ import annotations

from passt.passtctl.top.cells import NORMAL, blank

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from passt.passtctl.top.cells import Line
    from passt.passtctl.top.theme import Theme

CLEAR = "\x1b[0m\x1b[H\x1b[2J"
_ERASE = "\x1b[K"
MAX_GAP = 6            # equal characters that are written rather than leapt over
MIN_ERASED = 4         # characters that it pays to cut off


class Painter:
    """Paints lines, all of the same width, with the looks of *theme*."""

    def __init__(self, theme: Theme) -> None:
        self._theme = theme
        self._shown: list[Line] | None = None

    def forget(self) -> None:
        """Take it that nobody knows what the terminal shows."""
        self._shown = None

    def paint(self, lines: Sequence[Line]) -> str:
        """Return what makes the terminal show *lines*, from its top left corner on."""
        width = len(lines[0].text) if lines else 0
        out = []
        shown = self._shown
        if shown is None or len(shown) != len(lines) or (lines and len(shown[0].text) != width):
            out.append(CLEAR)
            shown = [blank(width)] * len(lines)
        for row, (old, new) in enumerate(zip(shown, lines, strict=True), 1):
            if old != new:
                for start, end in changes(old, new):
                    out.append(f"\x1b[{row};{start + 1}H")
                    out.append(self._write(new, start, end))
        self._shown = list(lines)
        return "".join(out)

    def _write(self, line: Line, start: int, end: int) -> str:
        # Behind these nothing is to be seen in the whole line.
        kept = start + max(len(line.text[start:].rstrip(" ")), len(line.styles[start:].rstrip(NORMAL)))
        erases = end - kept >= MIN_ERASED
        end = kept if erases else end
        text = "".join(self._theme.paint(line.text[a:b], line.styles[a]) for a, b in runs(line, start, end))
        return text + _ERASE if erases else text


def changes(old: Line, new: Line) -> Iterator[tuple[int, int]]:
    """Give the places where two lines differ, as start and end, with small gaps filled."""
    start = end = -1
    for i in range(len(new.text)):
        if old.text[i] == new.text[i] and old.styles[i] == new.styles[i]:
            continue
        if start >= 0 and i - end > MAX_GAP:
            yield start, end
            start = i
        elif start < 0:
            start = i
        end = i + 1
    if start >= 0:
        yield start, end


def runs(line: Line, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Give the parts between *start* and *end* that look the same."""
    a = start
    for i in range(start + 1, end + 1):
        if i == end or line.styles[i] != line.styles[a]:
            if i > a:
                yield a, i
            a = i
