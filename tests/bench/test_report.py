"""The benchmark's table, targets and JSON."""

import json
from typing import Any

import pytest

from bench import report
from bench.rows import LOOPBACK, OURS, PASTA, PROGRAM_NAMES, ROWS, SLIRP, TARGETS
from bench.stats import Samples, Spread, Verdict

OUT = "bulk_out_65520_cubic"
SAMPLES: dict[str, dict[str, Samples]] = {
    OUT: {LOOPBACK: [40.0, 20.0, 30.0], OURS: [20.0, 12.0, 12.0], PASTA: [None, 2.0, None]},
    "startup": {OURS: [120.0, 110.0, 130.0], PASTA: [60.0, 55.0, 65.0]},
    "memory": {OURS: [30.0, 31.0, 32.0], PASTA: [40.0, 40.0, 40.0]},
    "idle_before_p50": {LOOPBACK: [20.0, 20.0, 20.0], OURS: [40.0, 40.0, 40.0]},
    "idle_rr_p50": {LOOPBACK: [20.0, 20.0, 20.0], OURS: [44.0, 40.0, 60.0]},
}


def result(rounds: int = 3) -> dict[str, Any]:
    programs = [{"name": n, "command": [] if n == LOOPBACK else [n], "version": "1"} for n in PROGRAM_NAMES]
    failure = {"program": SLIRP, "section": "bulk out", "reason": "no answer"}
    return {
        "machine": {"kernel": "6.1"}, "settings": {"rounds": rounds}, "programs": programs,
        "samples": SAMPLES,
        "failures": [{**failure, "round": 1}, {**failure, "round": 3}], "notes": ["bbr: skipped"],
    }  # fmt: skip


def verdict_of(stage: str, row: str) -> tuple[Spread | None, Verdict]:
    found = [(f, v) for t, f, v in report.judged(SAMPLES) if (t.stage, t.row) == (stage, row)]
    return found[0]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1.0, "1"), (145.0, "145"), (0.0188, "0.0188"), (0.1, "0.10"), (9.876, "9.88"),
     (34.72, "34.7"), (152361.4, "152361"), (99.96, "100.0")],
)  # fmt: skip
def test_number_has_three_digits(value: float, text: str) -> None:
    assert report.number(value) == text


def test_cell_shows_median_and_spread_of_ratios() -> None:
    assert report.cell(ROWS[OUT], OURS, SAMPLES) == "12 x0.50 [0.40-0.60]"


def test_cell_of_the_base_has_no_ratio() -> None:
    assert report.cell(ROWS[OUT], LOOPBACK, SAMPLES) == "30 [20-40]"


def test_cell_of_a_single_sample_has_no_spread() -> None:
    assert report.cell(ROWS[OUT], PASTA, SAMPLES) == "2 x0.10"


def test_cell_without_samples_is_a_dash() -> None:
    assert report.cell(ROWS[OUT], SLIRP, SAMPLES) == "-"


def test_idle_row_is_a_ratio_to_the_same_program() -> None:
    ratio = report.row_ratio(ROWS["idle_rr_p50"], OURS, SAMPLES)
    assert ratio == Spread(1.1, 1.0, 1.5, 3)


def test_table_has_only_measured_rows_and_names_the_denominator() -> None:
    lines = report.table(SAMPLES, PROGRAM_NAMES)
    assert len(lines) == 1 + len(SAMPLES)
    assert lines[0].split() == ["unit", *PROGRAM_NAMES, "x", "is", "the", "ratio", "to"]
    assert any(line.startswith("start-up") and line.endswith("Debian's pasta") for line in lines)


def test_targets_are_judged_from_ratios_of_the_same_round() -> None:
    assert verdict_of("skeleton", OUT) == (Spread(0.5, 0.4, 0.6, 3), Verdict.MET)
    assert verdict_of("tcp", OUT)[1] is Verdict.NEAR
    assert verdict_of("skeleton", "startup") == (Spread(2.0, 2.0, 2.0, 3), Verdict.MET)
    assert verdict_of("skeleton", "memory") == (Spread(31.0, 30.0, 32.0, 3), Verdict.MET)
    assert verdict_of("tcp", "idle_rr_p50")[1] is Verdict.NEAR
    assert verdict_of("udp", "udp_out") == (None, Verdict.OPEN)


def test_target_table_leaves_out_what_was_not_measured() -> None:
    lines = report.target_table(SAMPLES)
    assert len(lines) == 1 + sum(figures is not None for _, figures, _ in report.judged(SAMPLES))
    assert report.target_table({}) == report.table({}, PROGRAM_NAMES) == []


def test_failures_of_several_rounds_share_a_line() -> None:
    assert report.failure_lines(result()["failures"]) == ["slirp4netns, bulk out (round 1, 3): no answer"]


def test_text_names_failures_and_notes() -> None:
    text = report.text(result())
    assert "slirp4netns, bulk out (round 1, 3): no answer" in text
    assert "bbr: skipped" in text
    assert "3 rounds" in text
    assert "one round" in report.text(result(rounds=1))


def test_json_keeps_every_sample_and_every_target() -> None:
    value = json.loads(json.dumps(report.to_json(result())))
    row = next(row for row in value["rows"] if row["key"] == OUT)
    assert row["samples"][PASTA] == [None, 2.0, None]
    assert row["ratios"][OURS] == {"median": 0.5, "low": 0.4, "high": 0.6, "n": 3}
    assert row["ratio_of"] == "loopback"
    assert len(value["targets"]) == len(TARGETS)


def test_targets_and_rows_name_rows_that_exist() -> None:
    for target in TARGETS:
        assert target.row in ROWS
        assert target.over is None or target.over[0] in ROWS
    for row in ROWS.values():
        assert not row.base_row or row.base_row in ROWS
        assert row.base in {"", LOOPBACK, PASTA}
