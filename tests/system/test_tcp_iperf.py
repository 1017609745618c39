"""iperf3 with many streams and both ways at once: all get on, none starves, nothing fails."""

from __future__ import annotations

import pytest

from tests.support.lab import FAR4, FAR6, Lab
from tests.support.switches import LONG
from tests.system.iperf import read_result, run_report

pytestmark = [pytest.mark.needs_root, pytest.mark.alone]

NET = ("--config-net",)
WAYS = {"out": [], "in": ["--reverse"], "both": ["--bidir"]}
# Fairness shows within five seconds; that streams get on at all, earlier.
CASES = [
    (FAR4, 8, "out", 5),
    (FAR4, 8, "in", 2),
    (FAR6, 8, "both", 5),
    (FAR4, 64, "both", 2),
    (FAR6, 64, "in", 1),
    (FAR6, 64, "out", 1),
    (FAR6, 1, "both", 1),
]
LONG_CASES = [
    (address, streams, way, 10) for address in (FAR4, FAR6) for streams in (1, 8, 64) for way in WAYS
]
# Of an equal share. Both ways at once, what goes out has a few percent of the machine, and wavers with it.
LEAST = {1: 1.0, 8: 0.25, 64: 0.0}
LEAST_OF_BOTH = {1: 1.0, 8: 0.05, 64: 0.0}


@pytest.mark.parametrize(("address", "streams", "way", "seconds"), LONG_CASES if LONG else CASES)
def test_streams_share(lab: Lab, plain: bool, address: str, streams: int, way: str, seconds: int) -> None:
    argv = ["--client", address, "--time", str(seconds), "--parallel", str(streams), *WAYS[way]]
    result = read_result(run_report(lab, NET, argv, user=plain, timeout=seconds + 40))
    print(way, address, streams, result)  # noqa: T201 - shown with a failure, or by pytest -s
    for name, shares in (("out", result.outwards), ("in", result.inwards)):
        assert len(shares) == (streams if way in (name, "both") else 0)
        if shares:
            assert min(shares) > 0
            least = (LEAST_OF_BOTH if way == "both" else LEAST)[streams]
            assert min(shares) >= least * sum(shares) / streams
