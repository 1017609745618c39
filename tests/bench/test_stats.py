"""Medians, ratios and verdicts of the benchmark."""

import pytest

from bench.stats import Relation, Spread, Verdict, judge, keeps, ratios, spread


def test_spread_skips_absent_samples() -> None:
    assert spread([3.0, None, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0, 3)


def test_spread_of_even_count_takes_the_middle() -> None:
    assert spread([1.0, 2.0, 4.0, 8.0]) == Spread(3.0, 1.0, 8.0, 4)


@pytest.mark.parametrize("samples", [[], [None], [None, None]])
def test_spread_of_nothing_is_none(samples: list[float | None]) -> None:
    assert spread(samples) is None


def test_ratios_pair_figures_of_the_same_round() -> None:
    assert ratios([10.0, None, 30.0, 5.0], [20.0, 1.0, 10.0, None]) == [0.5, None, 3.0, None]


def test_ratio_to_zero_is_absent_not_an_error() -> None:
    assert ratios([1.0, 0.0], [0.0, 2.0]) == [None, 0.0]


def test_ratios_of_a_missing_row_are_empty() -> None:
    assert ratios([1.0, 2.0], []) == []


@pytest.mark.parametrize(
    ("relation", "below", "at", "above"),
    [
        (Relation.AT_LEAST, False, True, True),
        (Relation.AT_MOST, True, True, False),
        (Relation.BELOW, True, False, False),
    ],
)
def test_keeps_at_and_around_the_limit(relation: Relation, below: bool, at: bool, above: bool) -> None:
    assert [keeps(value, relation, 2.0) for value in (1.9, 2.0, 2.1)] == [below, at, above]


@pytest.mark.parametrize(
    ("figures", "relation", "verdict"),
    [
        (Spread(0.5, 0.1, 0.9, 5), Relation.AT_LEAST, Verdict.MET),
        (Spread(0.2, 0.1, 0.3, 5), Relation.AT_LEAST, Verdict.NEAR),
        (Spread(0.2, 0.1, 0.29, 5), Relation.AT_LEAST, Verdict.MISSED),
        (Spread(0.2, 0.1, 0.9, 5), Relation.AT_MOST, Verdict.MET),
        (Spread(0.5, 0.3, 0.9, 5), Relation.AT_MOST, Verdict.NEAR),
        (Spread(0.5, 0.3, 0.9, 5), Relation.BELOW, Verdict.MISSED),
        (Spread(0.2, 0.2, 0.2, 1), Relation.AT_LEAST, Verdict.UNSURE),
        (Spread(0.3, 0.3, 0.3, 1), Relation.AT_LEAST, Verdict.MET),
        (None, Relation.AT_LEAST, Verdict.OPEN),
    ],
)
def test_missed_only_when_the_whole_spread_lies_outside(
    figures: Spread | None, relation: Relation, verdict: Verdict
) -> None:
    assert judge(figures, relation, 0.3) is verdict
