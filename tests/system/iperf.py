"""iperf3 in a namespace of the program, against the servers of the lab."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.lab import Lab

BUSY_TRIES = 30
BUSY_S = 0.3


@dataclass(frozen=True)
class Result:
    """Bytes that each stream's receiver got, by direction, and segments that the guest sent again."""

    outwards: list[int]
    inwards: list[int]
    retransmits: int


def run_report(
    lab: Lab, options: Sequence[str], argv: Sequence[str], *, user: bool, timeout: float = 60
) -> dict[str, Any]:
    """Run `iperf3 --json ARGV` in a new namespace; its report. The server serves one test at a time."""
    report: dict[str, Any] = {}
    for _ in range(BUSY_TRIES):
        result = lab.run(
            options,
            ["iperf3", "--json", "--connect-timeout", "30000", *argv],
            user=user,
            check=False,
            timeout=timeout,
        )
        report = json.loads(result.stdout)
        if "busy" not in report.get("error", ""):
            break
        time.sleep(BUSY_S)  # the server has not ended the test before
    assert "error" not in report, report["error"]
    return report


def read_result(report: dict[str, Any]) -> Result:
    """Take out of a report what the tests look at."""
    outwards, inwards, retransmits = [], [], 0
    for stream in report["end"]["streams"]:
        if stream["receiver"]["sender"]:
            outwards.append(stream["receiver"]["bytes"])
            retransmits += stream["sender"]["retransmits"]
        else:
            inwards.append(stream["receiver"]["bytes"])
    return Result(outwards, inwards, retransmits)
