"""The screen as lines: a head with throughput, drops and limits, and the table of flows.

Each line is one of a fixed place, so that only what changed is painted. The head gives way to the table where
the terminal is low.
"""

from __future__ import annotations

from passt.light.values import NamedTuple
from passt.passtctl.printable import one_column
from passt.passtctl.table import amount, duration
from passt.passtctl.top import cells, columns
from passt.passtctl.top.cells import (
    BAD,
    BOLD,
    CHOSEN,
    FAINT,
    HEADING,
    IN,
    NORMAL,
    OUT,
    WARNING,
    line,
    sparkline,
)

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from passt.passtctl.top.cells import Line
    from passt.passtctl.top.rates import Model

    Spans = list[tuple[str, str]]

HELP = (
    "up down j k   choose a flow; also page-up page-down home end",
    "s S           sort by the next, the last of: rate out in bytes age idle rtt",
    "              retransmits; r turns the order round",
    "/             filter: tcp udp icmp link bypass inbound outbound ADDRESS :PORT",
    "              KEY=VALUE; an empty one shows all",
    "x             close the chosen flow: its ends see a reset",
    "c             capture the packets of the chosen flow to a file, or end that",
    "space         look at once            ctrl-L  draw everything anew",
    "h ?           this help               q ctrl-C  quit",
    "",
    "OUT is what the guest sends, IN what it receives, in bytes a second: of frames",
    "and bypassed connections in the two curves, of payload in the table.",
)
_FULL, _NEARLY = 0.95, 0.8     # of a limit
_KEYS = "q quit  h help  s sort  / filter  x close  c capture"


class State(NamedTuple):
    """What the user chose: *chosen* is the index of a row or None, *first* the first row that is shown.

    *prompt* is what stands at the bottom with *typed* behind it; "" for none. *message* tells of the last
    act.
    """

    chosen: int | None = None
    first: int = 0
    filter_text: str = ""
    prompt: str = ""
    typed: str = ""
    message: str = ""
    is_help: bool = False
    is_waiting: bool = False
    is_capturing: bool = False


def n_rows(width: int, height: int) -> int:
    """Return how many flows a screen of that size shows."""
    return max(height - len(_head_places(height)) - 2 - _n_feet(width, height), 0)


def _head_places(height: int) -> tuple[str, ...]:
    """Name the lines of the head that a screen of that height has."""
    if height >= 16:
        return ("title", "out", "in", "drops", "limits")
    if height >= 10:
        return ("title", "out", "in")
    return ("title",) if height >= 5 else ()


def _n_feet(width: int, height: int) -> int:
    """Return 1 if there is a line for what the table has no room for."""
    return int(height >= 16 and width < 200)


class View:
    """Draws *model* for a terminal; without *is_utf8* in ASCII alone."""

    def __init__(self, model: Model, *, is_utf8: bool) -> None:
        self._model = model
        self._is_utf8 = is_utf8

    def draw(self, state: State, width: int, height: int) -> list[Line]:
        """Return *height* lines of *width* characters."""
        makers = {"title": self._title, "out": self._out, "in": self._in, "drops": self._drops,
                  "limits": self._limits}  # fmt: skip
        made = [line(makers[place](width), width) for place in _head_places(height)]
        made.append(line(self._status(state), width))
        count = n_rows(width, height)
        if state.is_help:
            made += [line([(text, NORMAL)], width) for text in HELP[:count + 1]]
            made += [cells.blank(width)] * max(count + 1 - len(HELP), 0)
        else:
            made += self._table(state, width, count)
        if _n_feet(width, height):
            made.append(line(self._detail(state), width))
        made = made[:height]
        if state.prompt and made:
            made[-1] = self._prompt(state, width)
        return made

    def plain(self, width: int, most: int) -> list[str]:
        """Return the head and up to *most* flows as text, for what is no terminal."""
        made = [line(spans, width) for spans in (self._title(width), self._out(width), self._in(width),
                                                 self._drops(width), self._limits(width))]
        made += self._table(State(), width, min(most, len(self._model.rows)))
        return [each.text.rstrip() for each in made]

    def _clean(self, text: str) -> str:
        return one_column(text, is_utf8=self._is_utf8)

    def _title(self, width: int) -> Spans:
        totals = self._model.totals
        if totals is None:
            return [("waiting for an answer", FAINT)]
        there = totals.limits.get("flows", (len(self._model.rows), 0))[0]
        end = f"  up {duration(int(totals.uptime_s * 1000))}  {there} flow{'' if there == 1 else 's'}"
        title = self._clean(totals.title)
        room = max(width - len(end), 0)
        return [(title[:room].ljust(room), BOLD), (end, NORMAL)]

    def _out(self, width: int) -> Spans:
        return self._curve("OUT", list(self._model.out), OUT, width)

    def _in(self, width: int) -> Spans:
        return self._curve("IN", list(self._model.into), IN, width)

    def _curve(self, name: str, values: list[float], style: str, width: int) -> Spans:
        now = amount(values[-1]) if values else "-"
        room = max(width - 27, 0)
        shown = values[-room:] if room else []
        peak = amount(max(shown)) if shown else "-"
        curve = sparkline(shown, room, is_utf8=self._is_utf8).rjust(room)
        return [(f"{name:<6}", BOLD), (f"{now:>6}B/s ", NORMAL), (curve, style), (f" peak {peak:>5}", FAINT)]

    def _drops(self, _width: int) -> Spans:
        totals = self._model.totals
        if totals is None:
            return []
        rate = self._model.drops_per_s
        reasons = sorted(((n, name) for name, n in totals.drops.items() if n), reverse=True)
        spans: Spans = [("DROPS ", BOLD), (f"{amount(rate):>6}/s   ", BAD if rate else NORMAL)]
        if not reasons:
            return [*spans, ("none so far", FAINT)]
        spans.append((f"{amount(sum(n for n, _ in reasons))} in all: ", NORMAL))
        spans.append((", ".join(f"{self._clean(name)} {amount(n)}" for n, name in reasons), NORMAL))
        return spans

    def _limits(self, width: int) -> Spans:
        totals = self._model.totals
        if totals is None:
            return []
        spans: Spans = [("LIMITS", BOLD)]
        used = len(spans[0][0])
        fullest = sorted(totals.limits.items(), key=lambda item: -_share(*item[1]))
        for name, (now, most) in fullest:
            share = _share(now, most)
            style = BAD if share >= _FULL else WARNING if share >= _NEARLY else NORMAL
            text = f" {self._clean(name)} {amount(now)}/{amount(most)}"
            used += len(text) + 1
            if used > width:
                break
            spans += [(text, style), (" ", NORMAL)]
        return spans

    def _status(self, state: State) -> Spans:
        spans: Spans = []
        if state.is_capturing:
            spans.append(("capturing  ", WARNING))
        if state.is_waiting:
            spans.append(("no answer yet  ", WARNING))
        if state.message:
            return [*spans, (self._clean(state.message), WARNING)]
        sort = self._model.sort + (" reversed" if self._model.is_reversed else "")
        spans.append((f"by {sort}", NORMAL))
        if state.filter_text:
            spans.append((f"  filter: {self._clean(state.filter_text)} ({len(self._model.rows)})", NORMAL))
        return [*spans, (f"  {_KEYS}", FAINT)]

    def _table(self, state: State, width: int, count: int) -> list[Line]:
        chosen = columns.layout(width)
        made = [line([(columns.heading(chosen), HEADING)], width, HEADING)]
        rows = self._model.rows[state.first:state.first + count]
        for i, row in enumerate(rows, state.first):
            style = CHOSEN if i == state.chosen else NORMAL
            made.append(line([(columns.write(row, chosen, is_utf8=self._is_utf8), style)], width, style))
        if not rows and count and self._model.flows_at_s is not None:
            text = "no flow fits the filter" if state.filter_text else "no flows"
            made.append(line([(text, FAINT)], width))
        return made + [cells.blank(width)] * (count + 1 - len(made))

    def _detail(self, state: State) -> Spans:
        """Tell of the chosen flow what a narrow table leaves out."""
        if state.chosen is None or state.chosen >= len(self._model.rows):
            return []
        flow = self._model.rows[state.chosen].flow
        parts = [flow.name, f"{flow.guest} {'<-' if flow.inbound else '->'} {flow.remote}"]
        if flow.peer != flow.remote:
            parts.append(f"peer {flow.peer}")
        parts += [flow.path, f"sent {amount(flow.sent)}", f"received {amount(flow.received)}",
                  f"age {duration(flow.age_ms)}", f"rule {flow.rule or '-'}"]
        return [(self._clean("  ".join(parts)), FAINT)]

    def _prompt(self, state: State, width: int) -> Line:
        typed = self._clean(state.typed)
        room = max(width - len(state.prompt) - 1, 0)
        shown = cells.shorten(typed, room, "…" if self._is_utf8 else "~")
        return line([(self._clean(state.prompt), BOLD), (shown, NORMAL), (" ", CHOSEN)], width)


def _share(now: int, most: int) -> float:
    return now / most if most > 0 else 0.0
