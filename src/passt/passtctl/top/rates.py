"""From samples to rates: what is shown, without how.

Theory of operation. A rate is the difference of two samples over the time between them. A flow that began
between both has carried all its bytes since the first; of one that is seen for the first time and is older,
nothing is known yet. Flows are sampled less often than counters when there are many, so both have times of
their own. What was a moment ago is kept as two rings of rates, for the sparklines.
"""

from __future__ import annotations

from collections import deque

from passt.light.values import NamedTuple

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.passtctl.top.sample import FlowLine, Flows, Totals

HISTORY = 512          # rates that are kept: more than a terminal is wide


class Row(NamedTuple):
    """A flow, with bytes a second that the guest sends and receives; None: not known yet."""

    flow: FlowLine
    sends: float | None
    receives: float | None


def _both(row: Row) -> float:
    return (row.sends or 0) + (row.receives or 0)


def _all_bytes(row: Row) -> float:
    return (row.flow.sent or 0) + (row.flow.received or 0)


# What flows can be sorted by, the largest first.
SORTS: dict[str, Callable[[Row], float]] = {
    "rate": _both,
    "out": lambda row: row.sends or 0,
    "in": lambda row: row.receives or 0,
    "bytes": _all_bytes,
    "age": lambda row: row.flow.age_ms,
    "idle": lambda row: row.flow.idle_ms or 0,
    "rtt": lambda row: row.flow.rtt_host_us or 0,
    "retransmits": lambda row: row.flow.retransmits or 0,
}


class Model:
    """Takes samples in the order of their times."""

    def __init__(self) -> None:
        self.totals: Totals | None = None
        self.out: deque[float] = deque(maxlen=HISTORY)
        self.into: deque[float] = deque(maxlen=HISTORY)
        self.drops_per_s: float | None = None
        self.rows: list[Row] = []
        self.flows_at_s: float | None = None
        self._flows: Flows | None = None
        self._sort = "rate"
        self._is_reversed = False

    @property
    def sort(self) -> str:
        """What flows are sorted by, one of SORTS."""
        return self._sort

    @property
    def is_reversed(self) -> bool:
        """Whether the smallest come first."""
        return self._is_reversed

    def sort_by(self, name: str, *, is_reversed: bool = False) -> None:
        """Sort by *name*, one of SORTS."""
        self._sort, self._is_reversed = name, is_reversed
        self._arrange()

    def add_totals(self, totals: Totals) -> None:
        """Take counters and limits."""
        before, self.totals = self.totals, totals
        if before is None or totals.at_s <= before.at_s:
            return
        span = totals.at_s - before.at_s
        self.out.append(max(totals.sent - before.sent, 0) / span)
        self.into.append(max(totals.received - before.received, 0) / span)
        self.drops_per_s = max(sum(totals.drops.values()) - sum(before.drops.values()), 0) / span

    def add_flows(self, flows: Flows) -> None:
        """Take all flows. Those of another filter are compared with those that were seen."""
        before = self._flows
        known = {line.name: line for line in before.lines} if before is not None else {}
        span = flows.at_s - before.at_s if before is not None else 0.0
        self.rows = [_rate(line, known.get(line.name), span) for line in flows.lines]
        self._flows, self.flows_at_s = flows, flows.at_s
        self._arrange()

    def _arrange(self) -> None:
        """Sort; flows that are equal stay in the order of their ids, so that none jumps about."""
        self.rows.sort(key=SORTS[self._sort], reverse=not self._is_reversed)


def _rate(line: FlowLine, before: FlowLine | None, span_s: float) -> Row:
    if span_s <= 0:
        return Row(line, None, None)
    if before is None:
        age_s = line.age_ms / 1000
        # An old flow that is seen for the first time was hidden by a filter.
        if age_s > span_s + 1:
            return Row(line, None, None)
        return Row(line, (line.sent or 0) / span_s, (line.received or 0) / span_s)
    return Row(line, _per_second(line.sent, before.sent, span_s),
               _per_second(line.received, before.received, span_s))


def _per_second(now: int | None, before: int | None, span_s: float) -> float | None:
    return None if now is None or before is None else max(now - before, 0) / span_s
