"""Benches of the links."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.dataplane.link.vhost_bench import VhostBench
from tests.support.front_end import FrontEnd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def make() -> Iterator[Callable[..., VhostBench]]:
    """Make benches with front ends of any kind, started."""
    made: list[VhostBench] = []

    def start(**arguments: object) -> VhostBench:
        made.append(VhostBench(FrontEnd(**arguments)))  # type: ignore[arg-type]
        return made[-1].start()

    yield start
    for bench in made:
        bench.end()


@pytest.fixture
def bench(make: Callable[..., VhostBench]) -> VhostBench:
    return make()
