"""A far side with delay, reordering, duplicates and loss, behind a relay of our own."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.lab import FAR4, FAR6, Lab, Place, serve
from tests.support.switches import LONG
from tests.system.servers import stream_sha256

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs_root

SIZE = 300_000_000 if LONG else 30_000_000
NEAR4, NEAR6 = "10.98.0.1", "fd98::1"
GATEWAY4, GATEWAY6 = "10.98.0.2", "fd98::2"
ROUND_TRIP_MS = 20.0
LATE_MS = 300.0


def set_up(place: Place, own: tuple[str, str], peer: tuple[str, str]) -> None:
    """Give the relay's interface in a place its addresses, and make it the default route."""
    for address, prefix in zip(own, ("24", "64"), strict=True):
        place.run(["ip", "addr", "add", f"{address}/{prefix}", "dev", "far0"])
    place.run(["ip", "link", "set", "far0", "up", "txqueuelen", "5000"])
    for address in peer:
        place.run(["ip", "route", "add", "default", "via", address])


@pytest.fixture
def near(lab: Lab) -> Iterator[Place]:
    """Lend a host whose servers are at the far end of the relay."""
    near, far = lab.bare_place(), lab.bare_place()
    relay = subprocess.Popen(
        [
            *("setpriv", "--pdeathsig", "KILL"),
            *("/usr/bin/python3", "-I", str(lab.directory / "relay.py")),
            *(f"/proc/{place.init}/ns/net" for place in (near, far)),
        ],
        stdout=subprocess.PIPE,
    )
    assert relay.stdout is not None
    assert relay.stdout.readline() == b"ready\n"
    set_up(near, (NEAR4, NEAR6), (GATEWAY4, GATEWAY6))
    set_up(far, (GATEWAY4, GATEWAY6), (NEAR4, NEAR6))
    for address in (FAR4, FAR6):
        far.run(["ip", "addr", "add", address, "dev", "lo"])
    serve(far, lab.directory)
    yield near
    relay.kill()
    relay.communicate(timeout=20)


def test_streams_over_an_untidy_network(lab: Lab, plain: bool, near: Place) -> None:
    client = " ".join(lab.tcp_client)
    lines = [f"{client} {way} {address} 8000 {SIZE}" for way in ("fetch", "send") for address in (FAR4, FAR6)]
    lines.append(f"{client} echo {FAR4} 8000 100 1")
    # The two families at once, each way.
    script = f"""
        set -e
        {lines[0]} & first=$!; {lines[1]}; wait $first
        {lines[2]} & first=$!; {lines[3]}; wait $first
        {lines[4]}
    """
    result = lab.run(("--config-net",), ["bash", "-c", script], user=plain, place=near, timeout=200)
    *streams, typing = map(json.loads, result.stdout.decode().splitlines())
    print(streams, typing)  # noqa: T201 - shown with a failure, or by pytest -s
    assert [one["sha256"] for one in streams] == [stream_sha256(SIZE)] * 4
    assert ROUND_TRIP_MS <= typing["p50"] < ROUND_TRIP_MS + LATE_MS
