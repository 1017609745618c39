"""The screen of every size: exactly that size, and nothing in it but characters that stand there."""

from __future__ import annotations

import pytest

from passt.passtctl.top import columns
from passt.passtctl.top.cells import CHOSEN, sparkline
from passt.passtctl.top.rates import Model
from passt.passtctl.top.sample import Flows
from passt.passtctl.top.view import HELP, State, View, n_rows
from tests.passtctl.top.test_rates import flow, totals

EVIL = "\x1b[2J\x9b\u202e\u6f22\udc80\n"


def a_model(n_flows: int = 5) -> Model:
    model = Model()
    for i in range(30):
        model.add_totals(totals(float(i), i * 1000, i * i * 500, crowd=i // 10))
    for at_s in (1.0, 2.0):
        flows = [flow(f"{i}.0", sent=int(at_s) * i * 100) for i in range(n_flows)]
        model.add_flows(Flows(at_s, 0, "", flows))
    return model


def screen(
    model: Model, width: int, height: int, state: State | None = None, *, is_utf8: bool = True
) -> list[str]:
    lines = View(model, is_utf8=is_utf8).draw(state or State(), width, height)
    assert len(lines) == height
    assert all(len(line.text) == len(line.styles) == width for line in lines)
    assert all(line.text.isprintable() for line in lines)
    return [line.text.rstrip() for line in lines]


@pytest.mark.parametrize("state", [
    State(), State(is_help=True), State(chosen=2), State(prompt="filter: ", typed="x" * 300),
    State(message="m" * 300), State(filter_text="tcp :443", is_waiting=True, is_capturing=True),
])  # fmt: skip
def test_every_size_is_filled_exactly(state: State) -> None:
    for model in (Model(), a_model(0), a_model(5), a_model(300)):
        for height in (1, 2, 3, 4, 5, 6, 9, 10, 11, 15, 16, 17, 24, 60):
            for width in (1, 5, 20, 40, 79, 80, 120, 200, 210):
                screen(model, width, height, state)


def test_usual_terminal_shows_ends_and_rates_of_the_fastest_flows() -> None:
    shown = screen(a_model(300), 80, 24)
    assert shown[0].startswith("pasta 1 ")
    assert shown[1].startswith("OUT     1.0KB/s ")
    assert shown[3] == "DROPS      0/s   2 in all: crowd 2"
    assert "flows 1/65.5K" in shown[4]
    assert shown[6].split() == ["ID", "PROTO", "STATE", "DIR", "GUEST", "REMOTE", "OUT/s", "IN/s"]
    assert shown[7].split() == ["299.0", "tcp", "ESTAB", "out", "192.0.2.2:40000", "198.51.100.1:443",
                                "29.9K", "0"]  # fmt: skip
    assert len([line for line in shown if " tcp " in line]) == n_rows(80, 24) == 16


def test_wide_terminal_shows_all_columns() -> None:
    shown = screen(a_model(), 200, 60)
    assert shown[6].split() == [column.name for column in columns.COLUMNS]


def test_columns_fill_every_width_and_never_more() -> None:
    for width in range(1, 400):
        chosen = columns.layout(width)
        assert sum(w for _, w in chosen) + max(len(chosen) - 1, 0) <= width
        assert len(columns.heading(chosen)) <= width
    # An IPv6 address and a port.
    assert [width for column, width in columns.layout(400) if column.name == "GUEST"] == [47]


def test_long_texts_lose_what_differs_least() -> None:
    model = a_model(0)
    long = flow(remote="[2001:db8:1:2:3:4:5:6]:65535", rule="-t 8000-9000/" * 9)
    model.add_flows(Flows(9.0, 0, "", [long]))
    row = screen(model, 200, 24)[7]
    assert "…" in row
    assert row.endswith("…")
    assert " -t 8000-9000/" in row
    assert "…1:2:3:4:5:6]:65535" in screen(model, 80, 24)[7]


def test_text_of_a_hostile_instance_only_stands_there() -> None:
    model = a_model(0)
    model.add_totals(totals(99.0)._replace(title=EVIL, drops={EVIL: 7}, limits={EVIL: (1, 2)}))
    evil = flow(state=EVIL, protocol=EVIL, guest=EVIL, remote=EVIL, rule=EVIL, path=EVIL)
    model.add_flows(Flows(9.0, 0, "", [evil]))
    states = (State(chosen=0), State(message=EVIL), State(prompt=EVIL, typed=EVIL), State(filter_text=EVIL))
    for is_utf8 in (True, False):
        for state in states:
            for width in (80, 200):
                text = "\n".join(screen(model, width, 24, state, is_utf8=is_utf8))
                assert not {"\x1b", "\x9b", "\u202e", "\u6f22", "\udc80"} & set(text)
                assert is_utf8 or text.isascii()


def test_without_utf8_all_is_ascii() -> None:
    for width in (40, 80, 200):
        assert "\n".join(screen(a_model(50), width, 24, is_utf8=False)).isascii()


def test_chosen_flow_is_marked_and_told_in_full() -> None:
    view = View(a_model(), is_utf8=True)
    lines = view.draw(State(chosen=1), 80, 24)
    assert lines[8].styles == CHOSEN * 80
    assert lines[23].text.startswith("3.0  192.0.2.2:40000 -> 198.51.100.1:443  link  sent 600")


def test_help_fits_the_usual_terminal() -> None:
    shown = "\n".join(screen(a_model(), 80, 24, State(is_help=True)))
    assert all(text in shown for text in HELP)


def test_a_limit_that_is_nearly_reached_stands_first_and_stands_out() -> None:
    model = a_model()
    model.add_totals(totals(99.0)._replace(limits={"flows": (1, 100), "pipes": (99, 100), "nothing": (0, 0)}))
    line = View(model, is_utf8=True).draw(State(), 80, 24)[4]
    assert line.text.split()[:3] == ["LIMITS", "pipes", "99/100"]
    assert "r" in line.styles


def test_plain_text_has_head_and_all_flows() -> None:
    lines = View(a_model(300), is_utf8=False).plain(200, 300)
    assert len(lines) == 5 + 1 + 300
    assert lines[0].startswith("pasta 1")


def test_sparkline_shows_the_least_traffic_and_has_its_peak_at_the_top() -> None:
    assert sparkline([0, 1, 1000, 500], 10, is_utf8=True) == " ▁█▄"
    assert sparkline([0, 1, 1000, 500], 10, is_utf8=False) == " .@="
    assert sparkline([9, 2, 3], 2, is_utf8=False) == sparkline([2, 3], 2, is_utf8=False)
    assert sparkline([], 5, is_utf8=True) == sparkline([1], 0, is_utf8=True) == ""
