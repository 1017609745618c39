"""What connect(2) of a real guest kernel says when the host cannot reach the remote."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.lab import Lab

pytestmark = pytest.mark.needs_root

# Prints the errno and the seconds of each connect: arguments are addresses.
CONNECT = """
import errno, json, socket, sys, time

def attempt(host):
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.settimeout(5)
    try:
        sock.connect((host, 9))
    except OSError as error:
        return errno.errorcode.get(error.errno, "timeout")
    try:
        sock.getpeername()
    except OSError:
        return ""      # Python asks SO_ERROR, which may say 0 of a socket that is not connected
    return "connected"

found = []
for host in sys.argv[1:]:
    start = time.monotonic()
    name = attempt(host) or attempt(host)
    found.append((name, time.monotonic() - start))
print(json.dumps(found))
"""
PROMPT_S = 3.0


class Way(NamedTuple):
    """A place that cannot be reached: its route on the host, the outside's reject, the guest's errno."""

    address: str
    route: str
    reject: str
    errno: str


# Linux' reading of the codes: net/ipv4/icmp.c, icmp_err_convert; net/ipv6/icmp.c, tab_unreach.
WAYS = [
    Way("192.0.2.1", "unreachable", "", "EHOSTUNREACH"),
    Way("192.0.2.2", "prohibit", "", "EHOSTUNREACH"),
    Way("192.0.2.3", "", "icmp net-unreachable", "ENETUNREACH"),
    Way("192.0.2.4", "", "icmp host-unreachable", "EHOSTUNREACH"),
    Way("192.0.2.5", "", "icmp admin-prohibited", "EHOSTUNREACH"),
    Way("192.0.2.6", "", "icmp port-unreachable", "ECONNREFUSED"),
    Way("192.0.2.7", "", "tcp reset", "ECONNREFUSED"),
    Way("192.0.2.8", "throw", "", "ENETUNREACH"),
    Way("2001:db8:99::1", "unreachable", "", "EHOSTUNREACH"),
    Way("2001:db8:99::2", "prohibit", "", "EACCES"),
    Way("2001:db8:99::3", "", "icmpv6 no-route", "ENETUNREACH"),
    Way("2001:db8:99::4", "", "icmpv6 addr-unreachable", "EHOSTUNREACH"),
    Way("2001:db8:99::5", "", "icmpv6 admin-prohibited", "EACCES"),
    Way("2001:db8:99::6", "", "icmpv6 port-unreachable", "ECONNREFUSED"),
    Way("2001:db8:99::7", "", "tcp reset", "ECONNREFUSED"),
]


@pytest.fixture
def ways(lab: Lab) -> Iterator[Lab]:
    """Make the routes and the rules, and take them away."""
    lines = ["table inet refuse {", "chain input {", "type filter hook prerouting priority -300;"]
    routes = []
    for way in WAYS:
        if way.route:
            routes.append((way.route, way.address))
        else:
            family = "ip6" if ":" in way.address else "ip"
            lines.append(f"{family} daddr {way.address} meta l4proto tcp reject with {way.reject}")
    lines += ["}", "}"]
    lab.outside.run(["nft", "-f", "-"], user=False, feed="\n".join(lines).encode())
    try:
        for kind, address in routes:
            lab.host.run(["ip", "route", "add", kind, address], user=False)
        yield lab
    finally:
        for kind, address in routes:
            lab.host.run(["ip", "route", "del", kind, address], user=False)
        lab.outside.run(["nft", "delete", "table", "inet", "refuse"], user=False)


def test_guest_sees_the_error_that_the_host_saw(ways: Lab, user: bool) -> None:
    argv = ["python3", "-c", CONNECT, *(way.address for way in WAYS)]
    result = ways.run(("--config-net", "--trace"), argv, user=user, timeout=90)
    found = json.loads(result.stdout)
    names = {way.address: name for way, (name, _) in zip(WAYS, found, strict=True)}
    assert names == {way.address: way.errno for way in WAYS}, (found, result.stderr.decode())
    assert max(seconds for _, seconds in found) < PROMPT_S
