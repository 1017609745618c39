"""DHCPv6 Reconfigure with a real client: it comes at once when the host has got another address."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.lab import HOST6, Lab, Place, connect
from tests.support.processes import LIMIT_S, is_readable
from tests.system.guest import PREPARE, events, need
from tests.system.test_following import HOST_MOVES, NEW6, OUTSIDE_MOVES, batch

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs_root

# Of the clients that Debian has, only dhcpcd takes Reconfigure messages, and only if it is told to.
SCRIPT = f"""
ifname=h0
{PREPARE}
echo option dhcp6_reconfigure_accept >conf
dhcpcd -6 -B -d -f $PWD/conf -c $PWD/script $ifname >log 2>&1 &
until has_event BOUND6; do sleep 0.1; done
echo bound
until has_event RENEW6; do sleep 0.1; done
cat notes
echo event=log
cat log
kill $!
"""


@pytest.fixture
def places(lab: Lab) -> Iterator[tuple[Place, Place]]:
    """Make a host and an outside that are connected."""
    host, outside = lab.bare_place(), lab.bare_place()
    connect(host, outside)
    yield host, outside
    for place in (host, outside):
        lab.extra.remove(place)
        place.close()


def test_dhcpcd_comes_at_once_when_it_is_called(lab: Lab, places: tuple[Place, Place], plain: bool) -> None:
    need("dhcpcd")
    host, outside = places
    options = ["-d", "--follow", "-t", "none", "-u", "none"]
    running = lab.start(options, ["sh", "-c", SCRIPT], user=plain, place=host)
    output = running.popen.stdout
    assert output is not None
    assert is_readable(output, 3 * LIMIT_S)
    assert output.readline() == b"bound\n", running.popen.communicate()
    batch(outside, OUTSIDE_MOVES)
    batch(host, HOST_MOVES)
    told, errors = running.popen.communicate(timeout=3 * LIMIT_S)
    noted = events(told.decode())
    bound = [event["new_dhcp6_ia_na1_ia_addr1"] for event in noted if event["event"] == "BOUND6"]
    renewed = [event["new_dhcp6_ia_na1_ia_addr1"] for event in noted if event["event"] == "RENEW6"]
    assert (bound, renewed[:1]) == ([HOST6], [NEW6]), (told, errors)
    assert b"accepted reconfigure key" in told
    assert b"RECONFIGURE6" in told
    assert b": RECONFIGURE\n" in errors
