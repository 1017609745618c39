"""What all tests share: an orderly end, property tests without a clock, in CI no skipped system test."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Generator

SYSTEM_MARKERS = ("needs_root", "needs_userns")


def pytest_configure() -> None:
    """Take a request to end as a reason to clean up, as Ctrl-C is; how busy the machine is fails no test."""
    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")
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
