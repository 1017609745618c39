"""Numbers and tables for eyes."""

from __future__ import annotations

import pytest

from passt.passtctl.table import amount, duration, endpoint, layout


@pytest.mark.parametrize(
    ("number", "text"),
    [(None, "-"), (0, "0"), (999, "999"), (1000, "1.0K"), (99_900, "99.9K"), (99_960, "100K"),
     (999_499, "999K"), (999_600, "1.0M"), (20_000_000_000, "20.0G"), (10**18, "1000P"),
     (10**400, "1000000000000000P")],
)  # fmt: skip
def test_amounts(number: int | None, text: str) -> None:
    assert amount(number) == text


def test_durations() -> None:
    assert [duration(n) for n in (None, 7, 999, 1000, 59_999, 60_000, 7_200_000, 172_800_000)] == [
        "-", "7ms", "999ms", "1s", "59s", "1m", "2h", "2d"]  # fmt: skip


def test_endpoints() -> None:
    assert endpoint({"address": "::1", "port": 5}) == "[::1]:5"
    assert (endpoint({"address": "1.2.3.4", "port": 5}), endpoint(None)) == ("1.2.3.4:5", "-")


def test_columns_are_aligned() -> None:
    assert layout(("A", "N"), [("xyz", "1"), ("x", "100")], frozenset((1,))) == [
        "A      N", "xyz    1", "x    100"]  # fmt: skip
