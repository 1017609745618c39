"""Real datagram programs: a name server and iperf3, both ways."""

from __future__ import annotations

import json
import time

import pytest

from tests.support.lab import FAR4, FAR6, OUTSIDE4, OUTSIDE6, Lab

pytestmark = pytest.mark.needs_root

NET = ("--config-net",)
FAR = pytest.mark.parametrize("address", [FAR4, FAR6])


@FAR
@pytest.mark.parametrize("option", ["+notcp", "+tcp"])
def test_dig_asks_a_name_server(lab: Lab, user: bool, address: str, option: str) -> None:
    argv = ["dig", f"@{address}", "+short", "+tries=1", "+time=30", option, "www.lab.example", "A"]
    assert lab.run(NET, argv, user=user).stdout == b"192.0.2.80\n"


# A wildcard UDP server answers from the address that its routes choose, which is not a far one.
@pytest.mark.parametrize("address", [OUTSIDE4, OUTSIDE6])
@pytest.mark.parametrize("direction", ["out", "in"])
@pytest.mark.parametrize(
    ("size", "rate"), [("16", "200K"), ("1200", "20M"), ("8000", "20M"), ("60000", "20M")]
)
def test_iperf3_sends_datagrams(
    lab: Lab, user: bool, address: str, direction: str, size: str, rate: str
) -> None:
    argv = [
        "iperf3",
        "--json",
        "-u",
        "-c",
        address,
        "-t",
        "1",
        "-b",
        rate,
        "-l",
        size,
    ]
    argv += ["--connect-timeout", "20000", *(["--reverse"] if direction == "in" else [])]
    # iperf3's receivers have room for some 0.1 s of datagrams: who is not scheduled for longer loses some, so
    # on a busy machine the best of a few runs tells.
    totals: list[dict[str, int]] = []
    for _ in range(60):
        report = json.loads(lab.run(NET, argv, user=user, check=False).stdout)
        if "busy" in report.get("error", ""):
            time.sleep(0.3)  # the server has not ended the test before
            continue
        assert "error" not in report, report["error"]
        totals.append(report["end"]["sum"])
        if is_whole(totals[-1]) or len(totals) == 20:
            break
    assert totals
    assert is_whole(totals[-1]), totals


def is_whole(total: dict[str, int]) -> bool:
    """Whether nearly all of a run's datagrams arrived."""
    return total["packets"] > 30 and total["lost_packets"] <= total["packets"] // 20
