"""`passtctl flows --watch` on a terminal: as many lines as it has, of which only what changed is written."""

from __future__ import annotations

import os
import time

from passt.passtctl.printable import one_column
from passt.passtctl.top import theme
from passt.passtctl.top.cells import HEADING, NORMAL, line
from passt.passtctl.top.painter import Painter

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from passt.passtctl.top.cells import Line


def watch(table: Callable[[], Sequence[str]], interval_s: float) -> None:
    """Show the lines of *table*, a heading and rows, again and again until a signal comes."""
    painter, is_utf8 = Painter(theme.PlainTheme()), theme.is_utf8(os.environ)
    while True:
        try:
            size = os.get_terminal_size(1)
        except OSError:
            size = os.terminal_size((80, 24))
        lines = fit(table(), size.columns or 80, (size.lines or 24) - 1, is_utf8=is_utf8)
        data = (painter.paint(lines) + f"\x1b[{len(lines) + 1};1H").encode()
        while data:
            data = data[os.write(1, data):]
        time.sleep(interval_s)


def fit(rows: Sequence[str], width: int, height: int, *, is_utf8: bool) -> list[Line]:
    """Cut a table to a screen; the last line says how many rows it had no room for."""
    height = max(height, 2)
    shown = list(rows[:height])
    if len(rows) > height:
        shown[-1] = f"and {len(rows) - height + 1} more"
    shown += [""] * (height - len(shown))
    return [line([(one_column(text, is_utf8=is_utf8), HEADING if i == 0 else NORMAL)], width)
            for i, text in enumerate(shown)]
