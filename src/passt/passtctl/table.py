"""Numbers and tables for eyes."""

from __future__ import annotations

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_MOST = 1e30           # what is told may be longer than a float
_UNITS = ("", "K", "M", "G", "T", "P")


def amount(number: float | None) -> str:
    """Write a number with three digits or so: 12.3K; a dash for none."""
    if number is None:
        return "-"
    value, unit = float(min(number, _MOST)), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    if not unit:
        return str(int(value))
    return f"{value:.{0 if value >= 99.95 else 1}f}{_UNITS[unit]}"


def duration(milliseconds: int | None) -> str:
    """Write a time in its largest unit: 7ms, 12s, 3m, 5h, 2d."""
    if milliseconds is None:
        return "-"
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if milliseconds >= size:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"


def endpoint(end: dict[str, Any] | None) -> str:
    """Write one end of a flow."""
    if end is None:
        return "-"
    address = f"[{end['address']}]" if ":" in end["address"] else end["address"]
    return f"{address}:{end['port']}"


def layout(heading: Sequence[str], rows: Sequence[Sequence[str]], right: frozenset[int]) -> list[str]:
    """Align columns; those whose number is in *right* to the right."""
    widths = [max(len(row[i]) for row in (heading, *rows)) for i in range(len(heading))]
    lines = []
    for row in (heading, *rows):
        cells = [cell.rjust(width) if i in right else cell.ljust(width)
                 for i, (cell, width) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return lines
