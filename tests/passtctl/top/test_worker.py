"""When the instance is asked for what; time passes when a test says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from passt.errors import HostError
from passt.passtctl.instances import GoneError, Instance
from passt.passtctl.top.sample import Flows, Totals
from passt.passtctl.top.worker import AGAIN_S, INTERVAL_S, REST, Failed, Told, Worker
from tests.passtctl.top.test_sample import COUNTERS, INFO, a_flow
from tests.support.fakes import Clock

if TYPE_CHECKING:
    from collections.abc import Iterator


class Fake(Instance):
    """Answers, after a time."""

    def __init__(self, clock: Clock) -> None:
        super().__init__("/nowhere")
        self.clock = clock
        self.cost_s = 0.0
        self.fault: HostError | None = None
        self.asked: list[tuple[float, str]] = []

    def ask(self, target: str, method: str = "GET", body: object = None) -> Any:
        del body
        self.asked.append((self.clock.now_s, f"{method} {target}"))
        if self.fault is not None:
            raise self.fault
        return {"/v1/info": INFO, "/v1/counters": COUNTERS}.get(target, {})

    def flows(self, query: str) -> Iterator[dict[str, Any]]:
        self.asked.append((self.clock.now_s, f"flows {query}"))
        self.clock.now_s += self.cost_s
        yield a_flow()

    def times(self, what: str) -> list[float]:
        return [round(at_s, 6) for at_s, asked in self.asked if asked.endswith(what)]


class Case:
    def __init__(self) -> None:
        self.clock = Clock(100.0)
        self.fake = Fake(self.clock)
        self.n_wakes = 0
        self.worker = Worker(self.fake, "protocol=tcp", self.wake, self.clock)

    def wake(self) -> None:
        self.n_wakes += 1

    def go_on(self, until_s: float) -> None:
        """Let everything that is due until then happen."""
        while self.worker.due_s <= until_s:
            self.clock.now_s = max(self.clock.now_s, self.worker.due_s)
            self.worker.turn(0)


def test_everything_is_asked_for_once_a_second() -> None:
    case = Case()
    case.go_on(103.5)
    assert case.fake.times("info") == case.fake.times("protocol=tcp") == [100.0, 101.0, 102.0, 103.0]
    results = case.worker.results()
    assert [type(each) for each in results] == [Totals, Flows] * 4
    assert case.n_wakes == 8
    assert case.worker.results() == []


def test_long_lists_are_asked_for_less_often_and_counters_are_not() -> None:
    case = Case()
    case.fake.cost_s = 0.5
    case.go_on(119.0)
    every_s = 0.5 + REST * 0.5
    assert case.fake.times("tcp") == [100.0, 100.0 + every_s, 100.0 + 2 * every_s, 100.0 + 3 * every_s]
    assert len(case.fake.times("info")) >= 18
    flows = [each for each in case.worker.results() if isinstance(each, Flows)]
    assert (flows[0].cost_s, flows[0].query) == (0.5, "protocol=tcp")


def test_a_new_filter_and_a_hurry_are_asked_for_at_once() -> None:
    case = Case()
    case.go_on(100.5)
    case.clock.now_s = 100.5
    case.worker.choose("port=80")
    case.worker.turn(0)
    case.go_on(100.6)
    assert case.fake.times("flows port=80") == [100.5]
    case.worker.look()
    case.worker.turn(0)
    case.go_on(100.7)
    assert case.fake.times("info") == [100.0, 100.5]


def test_a_flow_is_closed_and_told_and_the_list_is_asked_for_anew() -> None:
    case = Case()
    case.go_on(100.5)
    case.worker.results()
    case.clock.now_s = 100.5
    case.worker.close("17.3")
    case.worker.turn(0)
    case.go_on(100.5)
    assert "DELETE /v1/flows/17.3" in [asked for _, asked in case.fake.asked]
    assert [type(each) for each in case.worker.results()] == [Told, Flows]


def test_failures_are_told_and_tried_again_without_haste() -> None:
    case = Case()
    case.fake.fault = HostError("busy")
    case.go_on(100.9)
    failures = case.worker.results()
    assert failures == [Failed("busy", is_gone=False)] * 4
    assert case.fake.times("info") == [100.0, 100.0 + AGAIN_S, 100.0 + 2 * AGAIN_S, 100.0 + 3 * AGAIN_S]
    case.fake.fault = None
    case.go_on(101.0)
    assert [type(each) for each in case.worker.results()] == [Totals, Flows]
    case.fake.fault = GoneError("away")
    case.go_on(101.0 + INTERVAL_S)
    assert case.worker.results()[0] == Failed("away", is_gone=True)


def test_it_is_known_since_when_there_is_no_answer() -> None:
    case = Case()
    seen: list[float | None] = []
    case.fake.cost_s = 3.0
    case.worker._wake = lambda: seen.append(case.worker.busy_since_s)
    case.go_on(100.0)
    assert seen == [100.0, 100.0]
    assert case.worker.busy_since_s is None


def test_a_mistake_of_ours_reaches_who_takes_the_results() -> None:
    case = Case()
    case.fake.ask = None  # type: ignore[assignment, method-assign]
    case.worker._run()
    assert [type(each) for each in case.worker.results()] == [TypeError]
