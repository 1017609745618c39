"""Medians, spreads, ratios and verdicts: pure functions over samples.

A sample is one figure of one round, or None where that round gave none. Ratios are made round by
round, each from two figures measured seconds apart, and only then summed up: on a shared machine
figures of different rounds do not compare.
"""

import statistics
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

Samples = Sequence[float | None]


class Spread(NamedTuple):
    """Median, smallest and largest of *n* samples."""

    median: float
    low: float
    high: float
    n: int


class Relation(StrEnum):
    """How a figure is held against its limit."""

    AT_LEAST = ">="
    AT_MOST = "<="
    BELOW = "<"


class Verdict(StrEnum):
    """What a target came to."""

    MET = "met"  # the median keeps the limit
    NEAR = "near"  # the median does not, but some round did
    MISSED = "missed"  # no round kept the limit
    UNSURE = "not in the one round"  # a single round has no spread that could lie outside
    OPEN = "not measured"


def spread(samples: Samples) -> Spread | None:
    """Sum up the samples that exist; None if there is none."""
    present = [sample for sample in samples if sample is not None]
    if not present:
        return None
    return Spread(statistics.median(present), min(present), max(present), len(present))


def ratios(samples: Samples, base: Samples) -> list[float | None]:
    """Divide round by round; None where either figure is absent or the base is zero."""
    return [
        None if sample is None or not other else sample / other
        for sample, other in zip(samples, base, strict=False)
    ]


def keeps(value: float, relation: Relation, limit: float) -> bool:
    """Say whether one value keeps the limit."""
    match relation:
        case Relation.AT_LEAST:
            return value >= limit
        case Relation.AT_MOST:
            return value <= limit
        case Relation.BELOW:
            return value < limit


def judge(figures: Spread | None, relation: Relation, limit: float) -> Verdict:
    """Hold a spread against a limit; it is missed only when the spread lies wholly outside.

    A single round is never enough to call a limit missed.
    """
    if figures is None:
        return Verdict.OPEN
    if keeps(figures.median, relation, limit):
        return Verdict.MET
    if keeps(figures.low, relation, limit) or keeps(figures.high, relation, limit):
        return Verdict.NEAR
    return Verdict.MISSED if figures.n > 1 else Verdict.UNSURE
