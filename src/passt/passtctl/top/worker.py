"""Asks the instance, in a thread of its own, so that keys are heard while an answer takes long.

Theory of operation. Counters are asked for each second. A list of flows costs the instance time that its
traffic could use, the more the more flows there are; so at least nine times as long as one list took passes
until the next, and watching takes no more than a tenth of a processor from it. Between pages traffic goes on.

Answers and failures wait in a queue; *wake* is called for each.
"""

from __future__ import annotations

import queue
import threading

from passt.errors import HostError
from passt.light.values import NamedTuple
from passt.passtctl.instances import GoneError
from passt.passtctl.top.sample import Flows, Totals, take_flows, take_totals

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from passt.passtctl.instances import Instance

    Result: TypeAlias = "Totals | Flows | Told | Failed | Exception"

INTERVAL_S = 1.0
REST = 9               # times as long as a list of flows took is none asked for
AGAIN_S = 0.25         # after a failure


class Told(NamedTuple):
    """What came of an act, for the user."""

    text: str


class Failed(NamedTuple):
    """The instance gave no answer; *is_gone*: nobody is there any more."""

    text: str
    is_gone: bool


class Worker:
    """Asks *instance* for totals, and for the flows that *query* chooses, until the program ends."""

    def __init__(self, instance: Instance, query: str, wake: Callable[[], None],
                 clock: Callable[[], float]) -> None:
        self._instance = instance
        self._query = query
        self._wake = wake
        self._clock = clock
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Result] = queue.SimpleQueue()
        self._totals_at_s = self._flows_at_s = clock()
        self.busy_since_s: float | None = None

    def start(self) -> None:
        """Begin; the thread ends with the program."""
        threading.Thread(target=self._run, daemon=True).start()

    def results(self) -> list[Result]:
        """Take what has come."""
        found = []
        while not self._results.empty():
            found.append(self._results.get())
        return found

    def choose(self, query: str) -> None:
        """Ask for flows that *query* chooses from now on."""
        def change() -> None:
            self._query = query
            self._flows_at_s = self._clock()

        self._jobs.put(change)

    def look(self) -> None:
        """Ask for everything at once."""
        def hurry() -> None:
            self._totals_at_s = self._flows_at_s = self._clock()

        self._jobs.put(hurry)

    def close(self, name: str) -> None:
        """Close the flow of that name."""
        def ask() -> None:
            self._instance.ask(f"/v1/flows/{name}", "DELETE")
            self._tell(Told(f"closed {name}"))
            self._flows_at_s = self._clock()

        self._jobs.put(ask)

    @property
    def due_s(self) -> float:
        """When something is to be asked for next."""
        return min(self._totals_at_s, self._flows_at_s)

    def _run(self) -> None:
        try:
            while True:
                self.turn(max(self.due_s - self._clock(), 0))
        except Exception as error:  # noqa: BLE001 - a mistake of ours, for who takes the results to raise
            self._tell(error)

    def turn(self, wait_s: float) -> None:
        """Wait *wait_s* for something to do; then do it, or ask for what is due."""
        try:
            job = self._jobs.get(timeout=wait_s) if wait_s else self._jobs.get_nowait()
        except queue.Empty:
            job = self._look
        self.busy_since_s = self._clock()
        try:
            job()
        except HostError as error:
            self._tell(Failed(str(error), isinstance(error, GoneError)))
            self._totals_at_s = max(self._totals_at_s, self._clock() + AGAIN_S)
            self._flows_at_s = max(self._flows_at_s, self._clock() + AGAIN_S)
        self.busy_since_s = None

    def _look(self) -> None:
        """Ask for what is due."""
        start_s = self._clock()
        if start_s >= self._totals_at_s:
            totals = take_totals(self._instance, start_s)
            self._totals_at_s = start_s + INTERVAL_S
            self._tell(totals)
        start_s = self._clock()
        if start_s >= self._flows_at_s:
            query = self._query
            lines = take_flows(self._instance, query)
            cost_s = self._clock() - start_s
            self._flows_at_s = start_s + cost_s + max(INTERVAL_S - cost_s, REST * cost_s)
            self._tell(Flows(start_s, cost_s, query, lines))

    def _tell(self, result: Result) -> None:
        self._results.put(result)
        self._wake()
