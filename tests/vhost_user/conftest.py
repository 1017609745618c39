"""A session for each test, after which no descriptor may be left."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.vhost_user.front_end import FrontEnd

if TYPE_CHECKING:
    from collections.abc import Iterator


def open_fds() -> set[str]:
    """List the descriptors of this process."""
    return set(os.listdir("/proc/self/fd"))


@pytest.fixture
def front_end() -> Iterator[FrontEnd]:
    before = len(open_fds())
    one = FrontEnd()
    yield one
    one.close()
    assert len(open_fds()) == before


@pytest.fixture
def event() -> Iterator[int]:
    """Lend an eventfd."""
    fd = os.eventfd(0)
    yield fd
    os.close(fd)


@pytest.fixture
def file() -> Iterator[int]:
    """Lend a file in memory."""
    fd = os.memfd_create("memory")
    yield fd
    os.close(fd)
