"""Keys and what they do; nobody is asked and nothing is drawn."""

from __future__ import annotations

from typing import Any

import pytest

from passt.passtctl.top.app import MAX_TYPED, App, capture_words
from passt.passtctl.top.rates import SORTS, Model
from passt.passtctl.top.sample import Flows
from tests.passtctl.top.test_rates import flow


class Acts:
    """Writes down what is asked for."""

    def __init__(self) -> None:
        self.done: list[object] = []
        self.refusal: str | None = None

    def choose(self, query: str) -> None:
        self.done.append(("choose", query))

    def look(self) -> None:
        self.done.append("look")

    def close(self, name: str) -> None:
        self.done.append(("close", name))

    def capture(self, path: str, words: list[str]) -> str | None:
        self.done.append(("capture", path, words))
        return self.refusal

    def end_capture(self) -> None:
        self.done.append("end")


class Case:
    """An app with some flows, the first of them the fastest."""

    def __init__(self, n_flows: int = 50, *, has_capture: bool = True) -> None:
        self.acts, self.model = Acts(), Model()
        self.app = App(self.model, self.acts, has_capture=has_capture)
        self.app.resize(80, 24)
        self.names = [f"{i}.0" for i in range(n_flows)]
        self.sample(1.0, dict.fromkeys(self.names, 0))
        self.sample(2.0, {name: 1000 - i for i, name in enumerate(self.names)})

    def sample(self, at_s: float, sent: dict[str, int]) -> None:
        self.app.on_flows(Flows(at_s, 0, "", [flow(name, sent=n) for name, n in sent.items()]))

    def press(self, *keys: str) -> None:
        for key in keys:
            self.app.on_key(key)

    def type(self, text: str) -> None:
        self.press(*text, "enter")

    def chosen(self) -> str | None:
        index = self.app.state().chosen
        return None if index is None else self.model.rows[index].flow.name


def test_nothing_is_chosen_until_a_key_says_so() -> None:
    case = Case()
    assert case.chosen() is None
    case.press("down")
    assert case.chosen() == "0.0"
    case.press("j", "down", "k")
    assert case.chosen() == "1.0"
    case.press("end")
    assert (case.chosen(), case.app.state().first) == ("49.0", 34)
    case.press("page-up")
    assert (case.chosen(), case.app.state().first) == ("33.0", 33)
    case.press("home", "up")
    assert (case.chosen(), case.app.state().first) == ("0.0", 0)
    case.press("escape")
    assert case.chosen() is None


def test_the_chosen_flow_stays_chosen_wherever_it_goes() -> None:
    case = Case(3)
    case.press("down")
    case.sample(3.0, {"0.0": 1000, "1.0": 5000, "2.0": 9000})
    assert (case.chosen(), case.app.state().chosen) == ("0.0", 2)
    case.sample(4.0, {"1.0": 5000, "2.0": 9000})
    assert case.chosen() is None
    case.press("end", "s", "S", "r")
    assert case.chosen() is not None


def test_closing_asks_back_and_means_the_flow_that_was_named() -> None:
    case = Case(3)
    case.press("x")
    assert case.acts.done == []
    assert "choose a flow" in case.app.message
    case.press("down", "x")
    assert case.app.state().prompt == "close tcp 192.0.2.2:40000 -> 198.51.100.1:443? (y/n) "
    case.sample(3.0, {"1.0": 9000, "2.0": 5000})       # the flow goes, and another one is at its place
    case.press("y")
    assert case.acts.done == [("close", "0.0")]


@pytest.mark.parametrize("key", ["n", "escape", "enter", "q", " ", "x"])
def test_any_other_answer_closes_nothing(key: str) -> None:
    case = Case(3)
    case.press("down", "x", key)
    assert (case.acts.done, case.app.state().prompt, case.app.is_over) == ([], "", False)


def test_filter_is_that_of_flows_and_a_mistake_is_told() -> None:
    case = Case()
    case.press("down", "/")
    case.type("tcp :443")
    assert case.acts.done == [("choose", "protocol=tcp&port=443")]
    assert (case.app.state().filter_text, case.chosen()) == ("tcp :443", None)
    before = case.names[:]
    case.sample(9.0, {"99.0": 1})                      # the answer to what was asked before
    assert [row.flow.name for row in case.model.rows] == before
    case.app.on_flows(Flows(9.0, 0, "protocol=tcp&port=443", [flow("7.0")]))
    assert [row.flow.name for row in case.model.rows] == ["7.0"]
    for wrong in ("colour=red", "'", "10.0.0"):
        case.press("/", *["backspace"] * 20)
        case.type(wrong)
        assert wrong in case.app.message
    assert case.acts.done == [("choose", "protocol=tcp&port=443")]
    case.press("/", *"udp :53", "erase-word")
    assert case.app.state().typed == "tcp :443udp "
    case.press("erase-line")
    case.type("")
    assert case.acts.done[-1] == ("choose", "")


def test_what_is_typed_is_bounded_and_keys_of_commands_are_letters_there() -> None:
    case = Case()
    case.press("/", *"q" * (MAX_TYPED + 50), "up", "page-down")
    assert case.app.state().typed == "q" * MAX_TYPED
    case.press("escape")
    assert (case.app.state().typed, case.app.is_over) == ("", False)


def test_capture_takes_the_chosen_flow_and_ends_by_the_same_key() -> None:
    case = Case(3)
    case.press("c")
    assert "choose a flow" in case.app.message
    case.press("down", "c")
    case.type("/no/x.pcapng")
    assert case.acts.done == [("capture", "/no/x.pcapng", ["tcp", "host", "198.51.100.1", "port", "443"])]
    assert (case.app.state().is_capturing, case.app.message) == (True, "to /no/x.pcapng; c ends it")
    case.press("c")
    assert case.acts.done[-1] == "end"
    case.app.is_capturing = False
    case.acts.refusal = "no"
    case.press("c")
    case.type("/x")
    assert (case.app.message, case.app.state().is_capturing) == ("no", False)
    case.press("c")
    case.type("")
    assert len(case.acts.done) == 3


def test_a_version_without_capture_says_so() -> None:
    case = Case(3, has_capture=False)
    case.press("down", "c")
    assert "cannot capture" in case.app.message
    assert (case.acts.done, case.app.state().prompt) == ([], "")


@pytest.mark.parametrize(("changes", "words"), [
    ({"protocol": "icmp", "remote_port": 7}, ["icmp", "host", "198.51.100.1"]),
    ({"protocol": "udp", "remote_address": "", "remote_port": 0}, ["udp"]),
    ({"protocol": "--socket=/x", "remote_address": "-w"}, []),
    ({"remote_address": "-w", "remote_port": 443}, ["tcp", "port", "443"]),
])  # fmt: skip
def test_words_of_a_capture_are_a_filter_whatever_the_instance_tells(
    changes: dict[str, Any], words: list[str]
) -> None:
    assert capture_words(flow(**changes)) == words


def test_sorts_go_round_and_other_keys() -> None:
    case = Case(3)
    for _ in SORTS:
        case.press("s")
    assert case.model.sort == "rate"
    case.press("S")
    assert case.model.sort == list(SORTS)[-1]
    case.press("r")
    assert case.model.is_reversed
    case.press("h")
    assert case.app.state().is_help
    case.press("?", " ", "redraw", "z")
    assert not case.app.state().is_help
    assert (case.acts.done, case.app.wants_redraw, case.app.is_over) == (["look"], True, False)
    case.press("q")
    assert case.app.is_over


def test_no_flows_at_all() -> None:
    case = Case(0)
    case.press("down", "end", "page-up", "x", "c", "s")
    assert (case.chosen(), case.acts.done) == (None, [])
