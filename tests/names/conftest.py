"""Benches of the forwarder, whose servers are closed with the test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.name_server import NamesBench

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def make() -> Iterator[Callable[..., NamesBench]]:
    """Make benches that are closed in the end."""
    made: list[NamesBench] = []

    def bench(n_servers: int = 1, **options: object) -> NamesBench:
        made.append(NamesBench(n_servers, **options))  # type: ignore[arg-type]
        return made[-1]

    yield bench
    for one in made:
        one.close()
