"""What all tests share: golden frames, an orderly end, property tests without a clock, no skips in CI."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.support import switches
from tests.support.workers import pytest_addoption, pytest_runtestloop

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

__all__ = ["pytest_addoption", "pytest_runtestloop"]

SYSTEM_MARKERS = ("needs_root", "needs_userns")
VECTORS = Path(__file__).parent / "vectors"


@pytest.fixture(autouse=True, scope="module")
def _descriptors_end_with_their_module() -> Iterator[None]:
    """Collect what a module left in cycles: by itself the collector comes too seldom for descriptors."""
    yield
    gc.enable()
    gc.collect()
    gc.collect()              # what the first one released may have kept more


def pytest_configure() -> None:
    """Check the switches; take a request to end as a reason to clean up, as Ctrl-C is.

    How busy the machine is fails no property test.
    """
    try:
        switches.check(os.environ)
    except switches.SwitchError as error:
        raise pytest.UsageError(str(error)) from None
    settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("untimed")
    # A shell ignores these for what it starts in the background, and programs under test would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, lambda number, _frame: pytest.exit(f"ended by signal {number}", 128 + number))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip of a system test into a failure when CI is set: CI machines have what it needs."""
    report = yield
    wanted = any(item.get_closest_marker(name) for name in SYSTEM_MARKERS)
    if report.skipped and wanted and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {call.excinfo.value if call.excinfo else ''}"
    return report


@pytest.fixture(scope="session")
def vector() -> Callable[[str], bytes]:
    """Give a reader of tests/vectors/NAME.hex: hex digits, blanks, comments from # to the line's end."""

    def read(name: str) -> bytes:
        lines = (VECTORS / f"{name}.hex").read_text(encoding="ascii").splitlines()
        return bytes.fromhex("".join(line.partition("#")[0] for line in lines))

    return read
