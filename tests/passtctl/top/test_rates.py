"""Two samples make rates; time passes when a test says so."""

from __future__ import annotations

from typing import Any

import pytest

from passt.passtctl.top.rates import HISTORY, SORTS, Model
from passt.passtctl.top.sample import FlowLine, Flows, Totals


def flow(name: str = "1.0", **changes: Any) -> FlowLine:
    made = FlowLine(name, "tcp", "ESTABLISHED", False, "link", "192.0.2.2:40000", "198.51.100.1:443",
                    "198.51.100.1:443", None, 0, 0, 60_000, 7, 50, 12_000, 0, "198.51.100.1", 443)
    return made._replace(**changes)


def totals(at_s: float, sent: int = 0, received: int = 0, **drops: int) -> Totals:
    return Totals(at_s, sent, received, drops, {"flows": (1, 65536)}, at_s, "pasta 1")


def rates(model: Model) -> dict[str, tuple[float | None, float | None]]:
    return {row.flow.name: (row.sends, row.receives) for row in model.rows}


def test_rate_is_what_passed_over_the_time_between() -> None:
    model = Model()
    model.add_flows(Flows(10.0, 0, "", [flow(sent=1000, received=0)]))
    assert rates(model) == {"1.0": (None, None)}        # one sample says nothing of a rate
    model.add_flows(Flows(14.0, 0, "", [flow(sent=5000, received=2)]))
    assert rates(model) == {"1.0": (1000.0, 0.5)}


def test_a_flow_that_began_since_carried_all_its_bytes_since() -> None:
    model = Model()
    model.add_flows(Flows(10.0, 0, "", []))
    young, old = flow("2.0", sent=100, age_ms=700), flow("3.0", sent=100, age_ms=9000)
    model.add_flows(Flows(12.0, 0, "", [young, old]))
    # The second one is older than the sample before: a filter hid it.
    assert rates(model) == {"2.0": (50.0, 0.0), "3.0": (None, None)}


def test_a_flow_with_the_place_of_another_is_another() -> None:
    model = Model()
    model.add_flows(Flows(10.0, 0, "", [flow("1.0", sent=10**9)]))
    model.add_flows(Flows(11.0, 0, "", [flow("1.1", sent=5, age_ms=10)]))
    assert rates(model) == {"1.1": (5.0, 0.0)}


def test_what_is_not_known_or_runs_backwards_is_no_rate() -> None:
    model = Model()
    model.add_flows(Flows(10.0, 0, "", [flow(sent=None, received=100)]))
    model.add_flows(Flows(11.0, 0, "", [flow(sent=5, received=50)]))
    assert rates(model) == {"1.0": (None, 0.0)}
    model.add_flows(Flows(11.0, 0, "", [flow(sent=50, received=500)]))     # no time has passed
    assert rates(model) == {"1.0": (None, None)}


def test_throughput_and_drops() -> None:
    model = Model()
    model.add_totals(totals(5.0, 100, 1000, crowd=1))
    assert (list(model.out), list(model.into), model.drops_per_s) == ([], [], None)
    model.add_totals(totals(7.0, 300, 1000, crowd=4, no_fd=1))
    assert (list(model.out), list(model.into), model.drops_per_s) == ([100.0], [0.0], 2.0)
    model.add_totals(totals(8.0, 0, 0))                  # a program that started anew
    assert (model.out[-1], model.into[-1], model.drops_per_s) == (0.0, 0.0, 0.0)
    model.add_totals(totals(8.0, 50, 50))
    assert len(model.out) == 2


def test_history_has_a_limit() -> None:
    model = Model()
    for i in range(HISTORY + 50):
        model.add_totals(totals(float(i), i * i))
    assert len(model.out) == HISTORY
    assert model.out[-1] > model.out[0]


@pytest.mark.parametrize("name", list(SORTS))
def test_sorting_is_stable_and_can_be_turned_round(name: str) -> None:
    fields = {"bytes": "sent", "age": "age_ms", "idle": "idle_ms", "rtt": "rtt_host_us",
              "retransmits": "retransmits", "in": "received"}  # fmt: skip
    field = fields.get(name, "sent")

    def grow(line: FlowLine, value: int) -> FlowLine:
        changes: dict[str, Any] = {field: value}
        return line._replace(**changes)

    model = Model()
    base = [flow(f"{i}.0", sent=0, received=0, age_ms=0, idle_ms=0, rtt_host_us=0) for i in range(4)]
    model.add_flows(Flows(1.0, 0, "", base))
    grown = [base[0], grow(base[1], 900), base[2], grow(base[3], 800)]
    model.sort_by(name)
    model.add_flows(Flows(2.0, 0, "", grown))
    assert [row.flow.name for row in model.rows] == ["1.0", "3.0", "0.0", "2.0"]
    model.sort_by(name, is_reversed=True)
    assert [row.flow.name for row in model.rows] == ["0.0", "2.0", "3.0", "1.0"]


def test_unknown_values_are_sorted_as_nothing() -> None:
    model = Model()
    unknown = flow("0.0", idle_ms=None, rtt_host_us=None, sent=None, retransmits=None)
    known = flow("1.0", idle_ms=1, rtt_host_us=1, sent=1, retransmits=1)
    model.add_flows(Flows(1.0, 0, "", [unknown, known]))
    for name in ("idle", "rtt", "bytes", "retransmits"):
        model.sort_by(name)
        assert [row.flow.name for row in model.rows] == ["1.0", "0.0"]
