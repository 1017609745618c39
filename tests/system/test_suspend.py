"""--follow over a time in which nothing of ours runs, as in a suspended machine, while the host changes.

The clocks of the machine are not ours to set. That they jump in that time is tested in virtual time
(`tests/follow/test_gatherer.py`).
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.lab import FAR4, FAR6, HOST4, Lab, Place
from tests.support.processes import wait_until
from tests.system.test_following import (
    ECHO,
    FORWARD,
    HOST_MOVES,
    MAPPED,
    NEW4,
    NEW6,
    OUTSIDE_MOVES,
    Guest,
    ask_far_resolver,
    batch,
    fetch,
    host_and_outside,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs_root


@pytest.fixture
def places(lab: Lab) -> Iterator[tuple[Place, Place]]:
    """Make a host and an outside that are connected, with servers; the host has the outside's name server."""
    with host_and_outside(lab, connected=True) as made:
        ask_far_resolver(lab, *made)
        yield made


def test_host_that_was_renumbered_while_all_slept(lab: Lab, places: tuple[Place, Place], plain: bool) -> None:
    host, outside = places
    before = host.pids()
    options = ["--config-net", "--map-guest-addr", MAPPED, "--dns-forward", FORWARD, "-t", "9000"]
    guest = Guest(lab, host, *options, user=plain)
    assert guest.ask("serve 9000") == "ok"
    for name, address in (("old4", FAR4), ("old6", FAR6), ("host", MAPPED)):
        assert guest.ask(f"open {name} {address} {ECHO}") == "ok"
        assert guest.ask(f"echo {name}") == "hello"
    assert guest.ask(f"ask {FORWARD} 53 10") == "one"
    sleepers = host.pids() - before
    for number in sleepers:
        os.kill(number, signal.SIGSTOP)
    batch(outside, OUTSIDE_MOVES)
    batch(host, HOST_MOVES)
    for number in sleepers:
        os.kill(number, signal.SIGCONT)
    for name in ("old4", "old6", "host"):
        assert guest.ask(f"wait {name}") == "ECONNRESET"
    for name, address in (("new4", FAR4), ("new6", FAR6), ("again", MAPPED)):
        assert guest.until(f"open {name} {address} {ECHO}", "ok")
        assert guest.ask(f"echo {name}") == "hello"
    guest.until(f"ask {FORWARD} 53 1", "one")
    wait_until(lambda: f"{HOST4}/" not in guest.ask("ip -o addr show dev h0"), "the old address goes")
    for address in (NEW4, NEW6):
        assert fetch(outside, address, 9000) == "inside"
