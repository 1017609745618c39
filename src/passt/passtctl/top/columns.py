"""The columns of the table of flows: which ones fit a width, and what stands in them."""

from __future__ import annotations

from passt.light.values import NamedTuple
from passt.passtctl.printable import one_column
from passt.passtctl.table import amount, duration
from passt.passtctl.top.cells import shorten

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.passtctl.top.rates import Row

_GAP = 1
_ENDS = frozenset(("ID", "GUEST", "REMOTE", "PEER"))
_STATES = {"ESTABLISHED": "ESTAB", "SYN_RECEIVED": "SYN_RECV"}  # as ss(8) has them


class Column(NamedTuple):
    """*width* is the least; those with a *most* share what is left. A low *rank* is in first."""

    name: str
    width: int
    rank: int
    is_right: bool
    text: Callable[[Row], str]
    most: int = 0


COLUMNS = (
    Column("ID", 7, 1, False, lambda row: row.flow.name, 12),
    Column("PROTO", 5, 0, False, lambda row: row.flow.protocol),
    Column("STATE", 10, 2, False, lambda row: _STATES.get(row.flow.state, row.flow.state)),
    Column("DIR", 3, 1, False, lambda row: "in" if row.flow.inbound else "out"),
    Column("PATH", 6, 6, False, lambda row: row.flow.path),
    Column("GUEST", 14, 0, False, lambda row: row.flow.guest, 47),
    Column("REMOTE", 18, 0, False, lambda row: row.flow.remote, 47),
    Column("PEER", 21, 9, False, lambda row: row.flow.peer, 47),
    Column("OUT/s", 6, 0, True, lambda row: amount(row.sends)),
    Column("IN/s", 6, 0, True, lambda row: amount(row.receives)),
    Column("SENT", 6, 4, True, lambda row: amount(row.flow.sent)),
    Column("RECEIVED", 8, 4, True, lambda row: amount(row.flow.received)),
    Column("AGE", 5, 3, True, lambda row: duration(row.flow.age_ms)),
    Column("IDLE", 5, 5, True, lambda row: duration(row.flow.idle_ms)),
    Column("RTT-G", 7, 8, True, lambda row: _milliseconds(row.flow.rtt_guest_us)),
    Column("RTT-H", 7, 7, True, lambda row: _milliseconds(row.flow.rtt_host_us)),
    Column("AGAIN", 5, 8, True, lambda row: amount(row.flow.retransmits)),
    Column("RULE", 12, 10, False, lambda row: row.flow.rule or "-", 30),
)


def _milliseconds(microseconds: int | None) -> str:
    if microseconds is None:
        return "-"
    value = microseconds / 1000
    return f"{value:.1f}ms" if value < 100 else f"{value / 1000:.1f}s"


def layout(width: int) -> list[tuple[Column, int]]:
    """Return the columns that fit *width*, in their order, and how wide each is."""
    left = width
    chosen: set[str] = set()
    for column in sorted(COLUMNS, key=lambda column: column.rank):
        need = column.width + (_GAP if chosen else 0)
        if need <= left:
            chosen.add(column.name)
            left -= need
    widths = {column.name: column.width for column in COLUMNS if column.name in chosen}
    elastic = [column for column in COLUMNS if column.name in chosen and column.most]
    while left > 0 and (growing := [each for each in elastic if widths[each.name] < each.most]):
        for column in growing[:left]:
            widths[column.name] += 1
        left -= min(left, len(growing))
    return [(column, widths[column.name]) for column in COLUMNS if column.name in chosen]


def heading(columns: list[tuple[Column, int]]) -> str:
    """Write the names of the columns."""
    return " ".join(_align(column, column.name[:width], width) for column, width in columns)


def write(row: Row, columns: list[tuple[Column, int]], *, is_utf8: bool) -> str:
    """Write one flow; what is too long loses its end, or its beginning where that differs least."""
    mark = "…" if is_utf8 else "~"
    cells = []
    for column, width in columns:
        text = one_column(column.text(row), is_utf8=is_utf8)
        if len(text) > width:
            text = shorten(text, width, mark) if column.name in _ENDS else text[:width - 1] + mark
        cells.append(_align(column, text, width))
    return " ".join(cells)


def _align(column: Column, text: str, width: int) -> str:
    return text.rjust(width) if column.is_right else text.ljust(width)
