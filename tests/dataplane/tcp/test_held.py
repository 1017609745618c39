"""Connections whose first bytes are judged before the remote gets any: held, let go, refused, bounded."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from passt.facts.contracts import Target
from tests.dataplane.tcp.script import CASES, Case, Script
from tests.dataplane.tcp.segment import stream

if TYPE_CHECKING:
    from tests.dataplane.tcp.kernel import Sock

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
MAX_HELD = 16384
HELD_MS = 30_000


def opening(n: int) -> bytes:
    """Give the guest's first *n* bytes."""
    return stream("guest", 0, n)


def held(s: Script, *, wanted: int = 10**9, passes: bool = True, sack: bool = False) -> Sock:
    """Take a connection to HELD; the policy wants *wanted* bytes, and says then whether it *passes*."""
    s.policy.target = Target(b"", 0, held=True)
    s.policy.judge = lambda data, end: False if end else None if len(data) < wanted else passes
    s.guest(f"S seq=0 win=65535 mss=1460 ws=7{' sack_ok' if sack else ''}")
    s.sock.connected()
    s.host("SA seq=0 ack=1")
    s.guest("A seq=1 ack=1")
    s.nothing()
    assert s.state == "HELD"
    return s.sock


def is_reset(s: Script, sock: Sock) -> bool:
    """Tell whether both sides saw a reset, and the remote nothing else."""
    assert s.take().letters == "RA"
    assert s.state == "CLOSED"
    return sock.status == "aborted" and not sock.taken


@every_case
def test_nothing_leaves_before_the_verdict_and_all_after_it(case: Case) -> None:
    with Script(**case) as s:
        sock = held(s, wanted=500)
        s.guest("PA seq=1 ack=1 len=200")
        s.host("A seq=1 ack=201")
        s.guest("PA seq=201 ack=1 len=299")
        s.host("A seq=1 ack=500")
        assert not sock.taken
        assert not sock.calls["send"]
        s.guest("PA seq=500 ack=1 len=100")
        s.host("A seq=1 ack=600")
        assert sock.taken == opening(599)
        assert s.state == "ESTABLISHED"
        assert [len(data) for data, _ in s.policy.openings] == [200, 499, 599]
        assert s.policy.openings[-1][0] == opening(599)
        # From now on it is a connection like any other: nobody is asked.
        s.guest("PA seq=600 ack=1 len=1000")
        s.host("A seq=1 ack=1600")
        assert sock.taken == opening(1599)
        assert len(s.policy.openings) == 3
        sock.deliver(s.bytes_from_host(100))
        s.host("PA seq=1 ack=1600 len=100")


@every_case
def test_refused_opening_resets_both_sides(case: Case) -> None:
    with Script(**case) as s:
        sock = held(s, wanted=1, passes=False)
        s.guest("PA seq=1 ack=1 len=200")
        assert is_reset(s, sock)
        assert s.count("flows_refused") == 1
        assert s.bench.pool_left == s.pool


def test_connection_of_others_is_asked_nothing() -> None:
    with Script() as s:
        sock = s.connect()
        s.guest("PA seq=1 ack=1 len=200")
        s.host("A seq=1 ack=201")
        assert sock.taken == opening(200)
        assert s.policy.openings == []


def test_bytes_in_the_syn_are_not_taken() -> None:
    """RFC 7413: a server need not take them, and then the guest repeats them."""
    with Script() as s:
        s.policy.target = Target(b"", 0, held=True)
        s.policy.judge = lambda _data, end: False if end else None
        syn = s.peer.segment("S seq=0 win=65535 mss=1460 ws=7")
        s.guest(replace(syn, payload=b"first"))
        s.sock.connected()
        s.host("SA seq=0 ack=1")
        assert s.policy.openings == []
        s.guest("A seq=1 ack=1")
        assert s.state == "HELD"


def test_bytes_with_the_last_of_the_handshake_are_held() -> None:
    with Script() as s:
        s.policy.target = Target(b"", 0, held=True)
        s.policy.judge = lambda _data, end: False if end else None
        s.guest("S seq=0 win=65535 mss=1460 ws=7")
        s.sock.connected()
        s.host("SA seq=0 ack=1")
        s.guest("PA seq=1 ack=1 len=100")
        s.host("A seq=1 ack=101")
        assert s.state == "HELD"
        assert not s.sock.taken
        assert s.policy.openings == [(opening(100), "")]


def test_bytes_are_judged_in_order_only() -> None:
    with Script() as s:
        sock = held(s, wanted=300, sack=True)
        s.guest("PA seq=201 ack=1 len=100")
        s.host("A seq=1 ack=1")
        assert s.policy.openings == []
        s.guest("PA seq=1 ack=1 len=100")
        s.host("A seq=1 ack=101")
        assert s.policy.openings == [(opening(100), "")]
        s.guest("PA seq=101 ack=1 len=100")
        s.host("A seq=1 ack=301")
        assert s.policy.openings[-1] == (opening(300), "")
        assert sock.taken == opening(300)


@pytest.mark.parametrize("early", [True, False])
def test_what_is_judged_is_what_is_sent(early: bool) -> None:
    """A guest that repeats bytes with others in their place: those that were kept first count, for both."""
    with Script() as s:
        sock = held(s, wanted=300)
        if early:
            lie = replace(s.peer.segment("PA seq=101 ack=1 len=200"), payload=b"x" * 200)
            s.guest(lie)
            s.host("A seq=1 ack=1")
            s.guest("PA seq=1 ack=1 len=300")
            expected = opening(100) + b"x" * 200
        else:
            s.guest("PA seq=1 ack=1 len=200")
            s.host("A seq=1 ack=201")
            s.guest(replace(s.peer.segment("PA seq=101 ack=1 len=300"), payload=b"x" * 300))
            expected = opening(200) + b"x" * 200
        s.take()
        assert s.policy.openings[-1][0] == expected
        assert sock.taken == expected


def test_no_more_is_held_than_is_judged() -> None:
    """The window ends with what may be held, however large the buffer is."""
    with Script(mtu=65520) as s:
        s.policy.target = Target(b"", 0, held=True)
        s.policy.judge = lambda data, end: False if end or len(data) >= MAX_HELD else None
        s.guest("S seq=0 win=65535 mss=65480 ws=7")
        s.sock.connected()
        answer = s.host("SA seq=0 ack=1")
        assert MAX_HELD <= answer.win < MAX_HELD + 256
        s.guest("A seq=1 ack=1")
        sock = s.sock
        sent = 0
        for _ in range(13):
            if s.state != "HELD":
                break
            n = min(1460, MAX_HELD + 1000 - sent)
            s.guest(f"PA seq={1 + sent} ack=1 len={n}")
            sent += n
            last = s.take_all()[-1]
        assert last.letters == "RA"
        assert MAX_HELD <= len(s.policy.openings[-1][0]) < MAX_HELD + 256
        assert not sock.taken
        assert s.bench.pool_left == s.pool


def test_window_opens_with_the_verdict() -> None:
    with Script() as s:
        held(s, wanted=500)
        s.guest("PA seq=1 ack=1 len=499")
        assert s.take().win << 8 < MAX_HELD + 256
        s.guest("PA seq=500 ack=1 len=1")
        assert s.take().win << 8 > 4 * MAX_HELD


def test_guest_that_says_nothing_in_time_is_refused() -> None:
    with Script() as s:
        sock = held(s)
        s.guest("PA seq=1 ack=1 len=10")
        s.host("A seq=1 ack=11")
        s.advance(HELD_MS - 1000)
        assert s.state == "HELD"
        # Each byte late: the time is for all of them.
        s.guest("PA seq=11 ack=1 len=1")
        s.host("A seq=1 ack=12")
        s.advance(1001)
        assert is_reset(s, sock)
        assert s.policy.openings[-1] == (opening(11), "the guest has not told a name in time")
        assert s.bench.pool_left == s.pool


def test_guest_that_says_nothing_at_all_is_no_refusal() -> None:
    with Script() as s:
        sock = held(s)
        s.advance(HELD_MS)
        assert is_reset(s, sock)
        assert s.policy.openings == []
        assert s.count("flows_refused") == 0


def test_fin_before_the_verdict() -> None:
    with Script() as s:
        sock = held(s, wanted=100)
        s.guest("PFA seq=1 ack=1 len=50")
        assert is_reset(s, sock)
        assert [end for _, end in s.policy.openings] == [
            "", "the guest ended its stream before it had told a name"]


def test_fin_alone() -> None:
    with Script() as s:
        sock = held(s)
        s.guest("FA seq=1 ack=1")
        assert is_reset(s, sock)
        assert s.policy.openings == []


def test_fin_with_the_verdict_is_passed_on_behind_it() -> None:
    with Script() as s:
        sock = held(s, wanted=50)
        s.guest("PFA seq=1 ack=1 len=50")
        s.host("A seq=1 ack=52")
        assert sock.taken == opening(50)
        assert sock.shut
        assert s.state == "CLOSE_WAIT"


def test_fin_that_came_early() -> None:
    with Script() as s:
        sock = held(s, wanted=50)
        s.guest("FA seq=51 ack=1")
        s.host("A seq=1 ack=1")
        s.guest("PA seq=1 ack=1 len=50")
        s.host("A seq=1 ack=52")
        assert sock.taken == opening(50)
        assert sock.shut


@pytest.mark.parametrize("peek_off", [True, False])
def test_remote_that_speaks_first(peek_off: bool) -> None:
    with Script(peek_off=peek_off) as s:
        sock = held(s)
        sock.deliver(s.bytes_from_host(20))
        assert is_reset(s, sock)
        assert s.policy.openings == [
            (b"", "the remote speaks first, as with no protocol that tells a name")]
        assert s.count("flows_refused") == 1


def test_end_of_the_remote_waits_for_the_verdict() -> None:
    with Script() as s:
        sock = held(s, wanted=100)
        sock.end()
        s.nothing()
        assert s.state == "HELD"
        s.guest("PA seq=1 ack=1 len=100")
        s.host("FA seq=1 ack=101")
        assert sock.taken == opening(100)


def test_reset_of_the_remote_or_the_guest() -> None:
    with Script() as s:
        sock = held(s)
        s.guest("PA seq=1 ack=1 len=100")
        s.host("A seq=1 ack=101")
        sock.fail(104)
        assert s.take().letters == "RA"
        assert s.bench.pool_left == s.pool
    with Script() as s:
        sock = held(s)
        s.guest("PA seq=1 ack=1 len=100")
        s.host("A seq=1 ack=101")
        s.guest("R seq=101")
        assert s.state == "CLOSED"
        assert not sock.taken
        assert s.bench.pool_left == s.pool


def test_room_in_the_socket_lets_nothing_out() -> None:
    """EPOLLOUT comes for many reasons; none of them is a verdict."""
    with Script(capacity=4096) as s:
        sock = held(s)
        s.guest("PA seq=1 ack=1 len=1400", "PA seq=1401 ack=1 len=1400")
        s.take_all()
        sock.wake(4)
        s.advance(1000)
        s.take_all()
        assert not sock.taken
        assert s.state == "HELD"


def test_full_socket_takes_the_rest_later() -> None:
    with Script() as s:
        sock = held(s, wanted=1000)
        sock.limits = [300]
        s.guest("PA seq=1 ack=1 len=1000")
        s.take_all()
        assert s.state == "ESTABLISHED"
        s.advance(200)
        s.take_all()
        assert sock.taken == opening(1000)


def test_no_memory_holds_nothing_and_lets_nothing_out() -> None:
    with Script() as s:
        sock = held(s, wanted=100)
        s.bench.has_no_memory = True
        s.guest("PA seq=1 ack=1 len=100")
        s.host("A seq=1 ack=1")
        assert not sock.taken
        s.bench.has_no_memory = False
        s.guest("PA seq=1 ack=1 len=100")
        s.host("A seq=1 ack=101")
        assert sock.taken == opening(100)


def test_connections_that_are_held_leave_memory_to_others() -> None:
    """All of them together have what early data may have: the first half of the pool."""
    with Script(max_flows=1500, mtu=65520) as s:
        other = s.add_peer(39999, 80)
        sock = other.connect(mss=65480)
        s.policy.target = Target(b"", 0, held=True)
        s.policy.judge = lambda _data, end: False if end else None
        n = 0
        while not s.count("drop_tcp_memory") and n < 1400:
            peer = s.add_peer(40001 + n, 80)
            peer.guest("S seq=0 win=65535 mss=65480 ws=7")
            peer.sock.connected()
            peer.take_all()
            peer.guest("A seq=1 ack=1", "PA seq=1 ack=1 len=16000")
            peer.take_all()
            n += 1
        assert 600 < n < 1400
        assert s.bench.pool_left > s.pool // 3
        # A connection that is open has its promise kept.
        sock.limits = [0]
        other.guest("PA seq=1 ack=1 len=10000")
        other.take_all()
        s.advance(200)
        other.take_all()
        assert sock.taken == opening(10000)
        # All have their end.
        s.advance(HELD_MS)
        for peer in s.peers.values():
            peer.take_all()
        assert s.count("flows_refused") == n - 1


def test_mistake_of_the_policy_ends_the_run_and_lets_nothing_out() -> None:
    with Script() as s:
        sock = held(s, wanted=1)
        s.policy.error = ValueError("a mistake")
        with pytest.raises(ValueError, match="a mistake"):
            s.guest("PA seq=1 ack=1 len=100")
        assert not sock.taken
