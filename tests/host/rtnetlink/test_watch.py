"""What the watch takes for a hint: everything that may matter, all that makes no sense, and lost messages."""

from __future__ import annotations

import errno
import socket
import subprocess

import pytest

from passt.host.rtnetlink import messages, routes
from passt.host.rtnetlink.messages import AF_INET
from passt.host.rtnetlink.watch import MAX_DATAGRAMS, Change, NetworkWatch
from tests.support.isolated import HOST, isolated_as_root, make_host
from tests.support.kernel import ScriptedSocket, datagram
from tests.support.processes import is_readable

LINK = messages.build_link_change(2)
ADDRESS = messages.build_address(2, bytes([192, 0, 2, 1]), 24)
MAIN_ROUTE = routes.build_route(2, family=AF_INET)
OTHER_TABLE = MAIN_ROUTE[:4] + b"\x05" + MAIN_ROUTE[5:]
RULE = bytes(12)


def watch_of(kernel: ScriptedSocket) -> NetworkWatch:
    watch = NetworkWatch()
    watch.close()
    watch._socket = kernel  # type: ignore[assignment]  # scripted
    return watch


@pytest.mark.parametrize(("parts", "is_hint"), [
    ([(Change.NEWLINK, LINK)], True),
    ([(Change.DELLINK, LINK)], True),
    ([(Change.NEWADDR, ADDRESS)], True),
    ([(Change.DELADDR, ADDRESS)], True),
    ([(Change.NEWROUTE, MAIN_ROUTE)], True),
    ([(Change.DELROUTE, MAIN_ROUTE)], True),
    ([(Change.NEWRULE, RULE)], True),
    ([(Change.DELNEXTHOP, b"")], True),
    ([(Change.NEWROUTE, OTHER_TABLE)], False),
    ([(Change.NEWROUTE, OTHER_TABLE), (Change.DELROUTE, OTHER_TABLE)], False),
    ([(Change.NEWROUTE, OTHER_TABLE), (Change.NEWADDR, ADDRESS)], True),
    ([(28, bytes(12)), (99, b""), (3, b"")], False),
    ([], False),
])
def test_hint_is_what_may_matter(parts: list[tuple[int, bytes]], is_hint: bool) -> None:
    assert watch_of(ScriptedSocket([datagram(*parts)])).has_news() is is_hint


def test_every_truncation_is_survived_and_no_cut_message_is_passed_over() -> None:
    whole = datagram((Change.NEWROUTE, OTHER_TABLE), (Change.NEWADDR, ADDRESS))
    first = len(datagram((Change.NEWROUTE, OTHER_TABLE)))
    for length in range(len(whole)):
        watch = watch_of(ScriptedSocket([whole[:length]]))
        assert watch.has_news() is (length not in {0, first})
        assert watch.n_malformed == (length not in {0, first})


def test_every_spoiled_byte_is_survived() -> None:
    whole = datagram((Change.NEWROUTE, MAIN_ROUTE), (Change.NEWADDR, ADDRESS), (Change.NEWLINK, LINK))
    for at in range(len(whole)):
        for byte in (0, 1, 0x7F, 0xFF):
            assert isinstance(watch_of(ScriptedSocket(
                [whole[:at] + bytes([byte]) + whole[at + 1:]])).has_news(), bool)


def test_message_that_is_longer_than_the_buffer_is_a_hint() -> None:
    assert watch_of(ScriptedSocket([datagram((28, b""))], flags=socket.MSG_TRUNC)).has_news()


def test_messages_of_others_than_the_kernel_are_left_out() -> None:
    assert not watch_of(ScriptedSocket([datagram((Change.NEWADDR, ADDRESS))], sender=77)).has_news()


def test_lost_messages_are_a_hint() -> None:
    lost = OSError(errno.ENOBUFS, "No buffer space available")
    watch = watch_of(ScriptedSocket([lost, datagram((28, b""))]))
    assert watch.has_news()
    assert watch.n_overflows == 1
    assert not watch.has_news()


def test_one_call_reads_a_bounded_number() -> None:
    kernel = ScriptedSocket([datagram((Change.NEWADDR, ADDRESS))] * (MAX_DATAGRAMS + 3))
    watch = watch_of(kernel)
    assert watch.has_news()
    assert len(kernel.script) == 3
    assert watch.has_news()
    assert not watch.has_news()


def ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True)


@pytest.mark.needs_root
def test_kernel_tells_of_changes() -> None:
    isolated_as_root(hear_changes)


def hear_changes() -> None:
    """Run in a namespace of its own."""
    for line in HOST.strip().splitlines():
        ip(line.strip())
    with NetworkWatch() as watch:
        for command in ("addr add 192.0.2.2/24 dev h0", "route add default via 192.0.2.1",
                        "route add 10.0.0.0/8 via 192.0.2.1", "route del default", "link set h0 mtu 1400",
                        "-6 addr add 2001:db8::2/64 dev h0 nodad", "-6 route add default via 2001:db8::1",
                        "-6 rule add from all table 7", "rule add from all table 7",
                        "addr del 192.0.2.2/24 dev h0", "link set h0 down", "link del h0"):
            while watch.has_news():
                pass
            ip(command)
            assert is_readable(watch, 60), command
            assert watch.has_news(), command


@pytest.mark.needs_root
def test_flood_of_routes_overflows_and_is_a_hint() -> None:
    isolated_as_root(overflow)


def overflow() -> None:
    """Run in a namespace of its own."""
    make_host("addr add 192.0.2.2/24 dev h0\n")
    with NetworkWatch() as watch:
        batch = "".join(f"route add 10.{n >> 8}.{n & 255}.0/24 via 192.0.2.1\n" for n in range(5000))
        subprocess.run(["ip", "-batch", "-"], input=batch.encode(), check=True)
        n_calls = 0
        while watch.has_news():
            n_calls += 1
        assert watch.n_overflows >= 1
        assert n_calls < 5000
        assert not is_readable(watch)
