"""What keys and answers do: the state of the view, and acts that others carry out.

Theory of operation. A flow that was chosen stays so wherever it moves to in the table, by its id. Closing one
asks back, and closes the flow that the question named, not the one that is at its place by then.
"""

from __future__ import annotations

import os
import shlex
from ipaddress import ip_address

from passt.errors import ConfigError
from passt.light.values import NamedTuple, Protocol
from passt.passtctl.command import parse_filters
from passt.passtctl.top import view
from passt.passtctl.top.rates import SORTS
from passt.passtctl.top.view import State

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.passtctl.top.rates import Model
    from passt.passtctl.top.sample import FlowLine, Flows, Totals

MAX_TYPED = 4096       # characters of a file's name, or of a filter
_PROTOCOLS = frozenset(("tcp", "udp", "icmp", "icmp6"))
_MOVES = {"up": -1, "k": -1, "down": 1, "j": 1}


class Question(NamedTuple):
    """What is asked at the bottom: *act* gets what was typed. *is_yes_no*: one key is the answer."""

    text: str
    act: Callable[[str], None]
    is_yes_no: bool = False


class Acts(Protocol):
    """What the view can ask for."""

    def choose(self, query: str) -> None:
        """Ask for flows that *query* chooses from now on, and at once."""

    def look(self) -> None:
        """Ask for everything at once."""

    def close(self, name: str) -> None:
        """Close the flow of that name."""

    def capture(self, path: str, words: list[str]) -> str | None:
        """Begin to capture to a file what *words* choose; return why that is not possible, or None."""

    def end_capture(self) -> None:
        """End the capture."""


class App:
    """The view of one instance, at first of the flows that *query* chooses; *filter_text* says so in words.

    *has_capture* says whether this version can capture.
    """

    def __init__(self, model: Model, acts: Acts, query: str = "", filter_text: str = "", *,
                 has_capture: bool) -> None:
        self._model = model
        self._acts = acts
        self._has_capture = has_capture
        self._chosen_name: str | None = None
        self._chosen: int | None = None
        self._first = 0
        self._filter_text = filter_text
        self._query = query
        self._question: Question | None = None
        self._typed = ""
        self._is_help = False
        self._size = (80, 24)
        self.message = ""
        self.is_over = False
        self.is_waiting = False
        self.is_capturing = False
        self.wants_redraw = False

    def state(self) -> State:
        """Return what the view shows besides the model."""
        question = self._question
        return State(self._chosen, self._first, self._filter_text, question.text if question else "",
                     self._typed, self.message, self._is_help, self.is_waiting, self.is_capturing)

    def resize(self, width: int, height: int) -> None:
        """Take the size of the terminal."""
        self._size = (width, height)
        self._follow()

    def on_totals(self, totals: Totals) -> None:
        """Take counters."""
        self.is_waiting = False
        self._model.add_totals(totals)

    def on_flows(self, flows: Flows) -> None:
        """Take flows; those of a filter that is not wanted any more are left."""
        self.is_waiting = False
        if flows.query == self._query:
            self._model.add_flows(flows)
            self._follow()

    def on_key(self, key: str) -> None:
        """Do what a key asks for."""
        if key == "redraw":
            self.wants_redraw = True
        elif self._question is not None:
            self._on_answer(self._question, key)
        else:
            self.message = ""
            self._on_command(key)

    def _on_command(self, key: str) -> None:
        commands: dict[str, Callable[[], None]] = {
            "q": self._quit, "h": self._help, "?": self._help, "escape": self._escape, "/": self._ask_filter,
            "x": self._ask_close, "c": self._capture, " ": self._acts.look, "s": lambda: self._sort(1),
            "S": lambda: self._sort(-1), "r": self._reverse}  # fmt: skip
        command = commands.get(key)
        if command is not None:
            command()
        else:
            self._move(key)

    def _quit(self) -> None:
        self.is_over = True

    def _help(self) -> None:
        self._is_help = not self._is_help

    def _escape(self) -> None:
        self._is_help = False
        self._chosen = self._chosen_name = None

    def _sort(self, step: int) -> None:
        names = list(SORTS)
        self._model.sort_by(names[(names.index(self._model.sort) + step) % len(names)])
        self._follow()

    def _reverse(self) -> None:
        self._model.sort_by(self._model.sort, is_reversed=not self._model.is_reversed)
        self._follow()

    def _move(self, key: str) -> None:
        """Choose another row."""
        rows, page = self._model.rows, max(view.n_rows(*self._size), 1)
        steps = _MOVES | {"page-up": -page, "page-down": page, "home": -len(rows), "end": len(rows)}
        step = steps.get(key)
        if step is None or not rows:
            return
        start = -1 if self._chosen is None and step > 0 else self._chosen or 0
        self._chosen = min(max(start + step, 0), len(rows) - 1)
        self._chosen_name = rows[self._chosen].flow.name
        self._scroll()

    def _follow(self) -> None:
        """Find the chosen flow at its new place; if it has gone, none is chosen."""
        if self._chosen_name is not None:
            names = (i for i, row in enumerate(self._model.rows) if row.flow.name == self._chosen_name)
            self._chosen = next(names, None)
            if self._chosen is None:
                self._chosen_name = None
        self._scroll()

    def _scroll(self) -> None:
        page = view.n_rows(*self._size)
        if self._chosen is not None:
            self._first = min(max(self._first, self._chosen - page + 1), self._chosen)
        self._first = max(min(self._first, len(self._model.rows) - page), 0)

    def _on_answer(self, question: Question, key: str) -> None:
        if question.is_yes_no:
            self._question = None
            if key in {"y", "Y"}:
                question.act(key)
            else:
                self.message = "left as it is"
        elif key == "enter":
            self._question, typed, self._typed = None, self._typed, ""
            question.act(typed)
        elif key == "escape":
            self._question, self._typed = None, ""
        elif key == "backspace":
            self._typed = self._typed[:-1]
        elif key == "erase-line":
            self._typed = ""
        elif key == "erase-word":
            self._typed = "".join(self._typed.rstrip().rpartition(" ")[:2])
        elif len(key) == 1 and len(self._typed) < MAX_TYPED:
            self._typed += key

    def _ask_filter(self) -> None:
        self._question, self._typed = Question("filter: ", self._filter), self._filter_text

    def _filter(self, typed: str) -> None:
        try:
            query = parse_filters(shlex.split(typed))
        except ConfigError as error:
            self.message = str(error)
            return
        except ValueError as error:
            self.message = f"'{typed}' is no filter: {error}"
            return
        self._filter_text, self._query = typed.strip(), query
        self._chosen = self._chosen_name = None
        self._first = 0
        self._acts.choose(query)

    def _chosen_flow(self) -> FlowLine | None:
        if self._chosen is None:
            self.message = "choose a flow first: up, down"
            return None
        return self._model.rows[self._chosen].flow

    def _ask_close(self) -> None:
        flow = self._chosen_flow()
        if flow is None:
            return
        name = flow.name
        arrow = "<-" if flow.inbound else "->"
        self._question = Question(f"close {flow.protocol} {flow.guest} {arrow} {flow.remote}? (y/n) ",
                                  lambda _: self._acts.close(name), is_yes_no=True)

    def _capture(self) -> None:
        if self.is_capturing:
            self._acts.end_capture()
            return
        if not self._has_capture:
            self.message = "this version cannot capture while a program runs; start it with --pcap FILE"
            return
        flow = self._chosen_flow()
        if flow is None:
            return
        words = capture_words(flow)
        self._question = Question(f"capture {' '.join(words)} to file: ",
                                  lambda path: self._begin(path, words))

    def _begin(self, path: str, words: list[str]) -> None:
        if not path:
            self.message = "no file, no capture"
            return
        refusal = self._acts.capture(os.path.expanduser(path), words)
        self.is_capturing = refusal is None
        self.message = refusal or f"to {path}; c ends it"


def capture_words(flow: FlowLine) -> list[str]:
    """Write the filter of `passtctl capture` for the packets of one flow.

    They become arguments of a program: nothing that an instance makes up gets among them.
    """
    words = [flow.protocol] if flow.protocol in _PROTOCOLS else []
    if is_address(flow.remote_address):
        words += ["host", flow.remote_address]
    if words and 0 < flow.remote_port < 65536 and flow.protocol in {"tcp", "udp"}:
        words += ["port", str(flow.remote_port)]
    return words


def is_address(text: str) -> bool:
    """Tell whether *text* is an IP address."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
