"""Sockets to name servers: from where, by which interface, on which link."""

from __future__ import annotations

import socket
from ipaddress import ip_address

import pytest

from passt.host.syscalls import CLONE_NEWNET
from passt.names.outlet import Outlet, Way
from tests.support.isolated import isolated, make_host, wait_for_source

pytestmark = pytest.mark.needs_root

SET_UP = """
    link set lo up
    addr add 192.0.2.2/24 dev h0
    addr add 192.0.2.3/24 dev h0
    addr add 2001:db8::2/64 dev h0 nodad
    addr add fe80::2/64 dev h0 nodad
    route add default via 192.0.2.1
    route add default via 2001:db8::1
"""
SO_BINDTODEVICE = 25
PLAIN = {4: Way(None, None), 6: Way(None, None)}
BOUND = {4: Way("192.0.2.3", "h0"), 6: Way("2001:db8::2", "h0")}


def opened(ways: dict[int, Way], server: str, *, ifindex: int = 0) -> tuple[str, str, int, str]:
    """Return source, destination, scope and device of a socket to *server*; %h0 means that link.

    The kernel binds a socket with a scope to its link.
    """
    def look() -> tuple[str, str, int, str]:
        make_host(SET_UP)
        wait_for_source("2001:db8::2", "2001:db8:9::1", "h0")
        index = socket.if_nametoindex("h0")
        outlet = Outlet(ways)
        outlet.ifindex = index if ifindex else 0
        with outlet.open(ip_address(server.replace("h0", str(index))), socket.SOCK_DGRAM) as sock:
            peer = sock.getpeername()
            assert peer[1] == 53
            assert not sock.getblocking()
            device = sock.getsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, 16).rstrip(b"\0").decode()
            scope_id = peer[3] if len(peer) > 2 else 0
            return (sock.getsockname()[0].partition("%")[0], peer[0].partition("%")[0],
                    int(scope_id == index), device)

    return isolated(look, flags=CLONE_NEWNET)


@pytest.mark.parametrize(("ways", "server", "expected"), [
    (PLAIN, "198.51.100.1", ("192.0.2.2", "198.51.100.1", 0, "")),
    (PLAIN, "2001:db8:9::1", ("2001:db8::2", "2001:db8:9::1", 0, "")),
    (PLAIN, "fe80::1%h0", ("fe80::2", "fe80::1", 1, "h0")),
    (BOUND, "198.51.100.1", ("192.0.2.3", "198.51.100.1", 0, "h0")),
    (BOUND, "2001:db8:9::1", ("2001:db8::2", "2001:db8:9::1", 0, "h0")),
    # What is bound elsewhere would not reach these.
    (BOUND, "127.0.0.53", ("127.0.0.1", "127.0.0.53", 0, "")),
    (BOUND, "::1", ("::1", "::1", 0, "")),
    (BOUND, "fe80::1%h0", ("fe80::2", "fe80::1", 1, "h0")),
    ({}, "198.51.100.1", ("192.0.2.2", "198.51.100.1", 0, "")),
])  # fmt: skip
def test_way_of_a_socket(ways: dict[int, Way], server: str, expected: tuple[str, str, int, str]) -> None:
    assert opened(ways, server) == expected


def test_link_local_server_without_a_link_is_on_the_template_s() -> None:
    assert opened(PLAIN, "fe80::1", ifindex=1) == ("fe80::2", "fe80::1", 1, "h0")


def test_each_socket_has_a_port_of_its_own() -> None:
    outlet = Outlet(PLAIN)
    sockets = [outlet.open(ip_address("127.0.0.1"), socket.SOCK_DGRAM) for _ in range(20)]
    assert len({sock.getsockname()[1] for sock in sockets}) == 20
    for sock in sockets:
        sock.close()


def test_nothing_stays_open_if_there_is_no_way() -> None:
    with pytest.raises(OSError, match="assign"):
        Outlet({4: Way("192.0.2.77", None)}).open(ip_address("198.51.100.1"), socket.SOCK_DGRAM)
