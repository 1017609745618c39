"""The dashboard for Grafana against the metrics that there are: names, labels, and where its panels stand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from passt.control.metrics import families, render
from passt.dataplane.engine import Engine
from passt.facts.guest import GuestNet
from passt.forward.policy import Policy
from passt.responders.dispatch import Dispatcher

BOARD = Path(__file__).parents[2] / "share" / "grafana" / "passt.json"
METRIC = re.compile(r"\b(passt_\w+)(?:\{([^}]*)\})?")
GROUPED = re.compile(r"by \(([^)]*)\)")
LABEL = re.compile(r"(\w+)=~?\"")
SHOWN = re.compile(r"\{\{(\w+)\}\}")
TARGET_LABELS = {"instance", "job"}    # Prometheus adds these


def exposition() -> bytes:
    """What a real engine and real responders give."""
    net = GuestNet(None, None, "eth0")
    policy, dispatcher = Policy(net), Dispatcher(net)
    engine = Engine(policy, dispatcher, policy.observed, our_mac=bytes(6), mtu=0)
    found = families(engine.counters() | dispatcher.counters(), engine.usage(), version="1", mode="pasta",
                     started_s=0, n_clients=0)  # fmt: skip
    engine.close()
    return render(found, is_open=False)


def metrics() -> dict[str, set[str]]:
    """Labels of each sample."""
    samples: dict[str, set[str]] = {}
    for line in exposition().decode().splitlines():
        if not line.startswith("#"):
            name, _, labels = line.rpartition(" ")[0].partition("{")
            samples.setdefault(name, set()).update(LABEL.findall(labels))
    return samples


def board() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(BOARD.read_text(encoding="utf-8"))
    return loaded


def targets() -> list[tuple[str, str]]:
    return [(target["expr"], target["legendFormat"])
            for panel in board()["panels"] for target in panel.get("targets", ())]  # fmt: skip


def errors(expression: str, legend: str, known: dict[str, set[str]]) -> list[str]:
    """Lines that say what an expression names and there is not."""
    found = []
    labels: set[str] = set(TARGET_LABELS)
    for name, selector in METRIC.findall(expression):
        if name not in known:
            found.append(f"no metric {name}")
        labels |= known.get(name, set())
        found += [f"no label {each} of {name}" for each in LABEL.findall(selector)
                  if each not in known.get(name, set()) | TARGET_LABELS]
        if name.endswith("_total") != (f"rate({name}" in expression):
            found.append(f"a counter wants rate(), a gauge none: {name}")
    for group in GROUPED.findall(expression):
        found += [f"no label {each}" for each in re.findall(r"\w+", group) if each not in labels]
        labels &= set(re.findall(r"\w+", group))
    return found + [f"no label {each} is left for {legend}" for each in SHOWN.findall(legend)
                    if each not in labels]


def test_every_panel_asks_for_metrics_that_there_are() -> None:
    known = metrics()
    assert len(targets()) > 20
    assert [error for expression, legend in targets() for error in errors(expression, legend, known)] == []


@pytest.mark.parametrize(("expression", "legend"), [
    ("sum(passt_nothing)", ""), ('rate(passt_bytes{a="b"}[5m])', ""), ("passt_bytes_total", ""),
    ("sum by (reason) (passt_flows)", ""), ("sum by (path) (passt_flows)", "{{protocol}}"),
    ('passt_flows{colour=~"x"}', ""), ("rate(passt_flows[5m])", ""),
])  # fmt: skip
def test_mistakes_are_noticed(expression: str, legend: str) -> None:
    assert errors(expression, legend, metrics()) != []


def test_list_of_instances_comes_from_a_metric() -> None:
    lists = [each["definition"] for each in board()["templating"]["list"] if each["type"] == "query"]
    assert lists == ["label_values(passt_build_info, instance)"]
    assert "passt_build_info" in metrics()


def test_panels_do_not_overlap_and_have_ids_of_their_own() -> None:
    panels = board()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
