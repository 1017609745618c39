"""Acknowledgements that follow the remote's: when they begin, what they tell, when they end."""

import errno

import pytest

from passt.facts.contracts import Target
from tests.dataplane.tcp.kernel import Sock
from tests.dataplane.tcp.script import CASES, Case, Script

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
ways = pytest.mark.parametrize("inbound", [False, True], ids=["connected", "accepted"])

FAR = (20_000, 21_000, 2000, 50_000)          # min_rtt, rtt, rttvar in us, bytes per second
FIRST = 8
LAG_MS = 150


def type_in(s: Script, n: int, start: int, length: int = 10) -> int:
    """Have the guest write *n* times; the remote acknowledges each; returns the next number."""
    for _ in range(n):
        s.guest(f"PA seq={start} ack=1 win=512 len={length}")
        start += length
        s.sock.drain()
        s.advance(25)
        s.take_all()
    return start


def far(s: Script, *, inbound: bool = False, sack: bool = False) -> tuple[Sock, int]:
    """Make a connection that is followed; returns its socket and the guest's next number."""
    s.kernel.path = FAR
    sock = s.peer.accept(win=512, sack=sack) if inbound else s.connect(win=512, sack=sack)
    seq = type_in(s, FIRST, 1)
    assert s.conn.follows
    assert s.count("tcp_acks_followed") == 1
    return sock, seq


@ways
@every_case
def test_write_acknowledged_when_remote_has_acknowledged(case: Case, inbound: bool) -> None:
    with Script(**case) as s:
        sock, seq = far(s, inbound=inbound)
        for _ in range(5):
            s.guest(f"PA seq={seq} ack=1 win=512 len=10")
            s.advance(20)
            s.nothing()
            sock.drain()
            s.host(f"A seq=1 ack={seq + 10}")
            seq += 10
        s.guest(f"PA seq={seq} ack=1 win=512 len=10", f"PA seq={seq + 10} ack=1 win=512 len=10")
        s.guest(f"PA seq={seq + 20} ack=1 win=512 len=10")
        sock.drain(20)
        s.host(f"A seq=1 ack={seq + 20}")
        s.nothing()
        sock.drain()
        s.host(f"A seq=1 ack={seq + 30}")
        assert s.conn.follows


def test_half_a_write_is_told_with_what_follows() -> None:
    with Script() as s:
        sock, seq = far(s)
        s.guest(f"PA seq={seq} ack=1 win=512 len=10")
        sock.drain(4)
        s.nothing()                                    # only ends of writes cause an event
        sock.drain()
        s.host(f"A seq=1 ack={seq + 10}")


def test_answer_and_acknowledgement_come_in_one_segment() -> None:
    with Script() as s:
        sock, seq = far(s)
        s.guest(f"PA seq={seq} ack=1 win=512 len=10")
        sock.drain()
        sock.deliver(s.bytes_from_host(10))
        s.host(f"PA seq=1 ack={seq + 10} len=10")
        s.guest(f"A seq={seq + 10} ack=11 win=512")
        s.nothing()


def test_data_to_guest_carries_the_same_number_and_right_edge() -> None:
    with Script() as s:
        sock, seq = far(s)
        edge = s.peer.host_edge
        s.guest(f"PA seq={seq} ack=1 win=512 len=1000")
        sock.deliver(s.bytes_from_host(10))
        segment = s.host(f"PA seq=1 ack={seq} len=10")
        assert edge is not None
        assert abs(segment.ack + (segment.win << 8) - edge) < 256
        s.guest(f"A seq={seq + 1000} ack=11 win=512")
        sock.drain()
        segment = s.host(f"A seq=11 ack={seq + 1000}")
        assert edge - 256 < segment.ack + (segment.win << 8)


# Who is followed.


@pytest.mark.parametrize(
    "path",
    [(1999, 21_000, 2000, 50_000), (20_000, 120_000, 8000, 50_000), (20_000, 60_000, 30_000, 50_000),
     (20_000, 21_000, 2000, 50_000_000)],
    ids=["near", "too far", "too unsteady", "bulk"],
)
def test_other_paths_acknowledged_at_once(path: tuple[int, int, int, int]) -> None:
    with Script(capacity=20_000) as s:
        s.kernel.path = path
        sock = s.connect(win=512)
        seq = type_in(s, FIRST * 2, 1, 1400)
        assert not s.conn.follows
        s.guest(f"PA seq={seq} ack=1 win=512 len=1400")
        s.host(f"A seq=1 ack={seq + 1400}")
        assert sock.calls["follow_acks"] == 0


def test_small_segments_are_not_taken_for_bulk() -> None:
    # By the kernel's count ten bytes are a full segment.
    with Script(capacity=20_000) as s:
        s.kernel.path = (20_000, 21_000, 2000, 50_000_000)
        s.connect(win=512)
        type_in(s, FIRST, 1)
        assert s.conn.follows


def test_near_connection_looked_at_once() -> None:
    with Script() as s:
        sock = s.connect(win=512)
        type_in(s, 1000, 1)
        assert sock.calls["path_info"] == 1
        assert sock.calls["follow_acks"] + sock.calls["drain_errors"] == 0


def test_unfit_connection_looked_at_ever_more_seldom() -> None:
    with Script() as s:
        s.kernel.path = (20_000, 120_000, 30_000, 50_000)
        sock = s.connect(win=512)
        type_in(s, 8 + 16 + 32 + 64, 1)
        assert sock.calls["path_info"] == 4


@pytest.mark.parametrize("family", [4, 6])
def test_loopback_never_looked_at(family: int) -> None:
    here = bytes([127, 0, 0, 1]) if family == 4 else bytes(15) + b"\1"
    with Script(family=family) as s:
        s.policy.outbound = lambda *asked: Target(here, asked[-1])  # type: ignore[method-assign]
        s.kernel.path = FAR
        sock = s.connect(win=512)
        type_in(s, 100, 1)
        assert sock.calls["path_info"] + sock.calls["follow_acks"] == 0


def test_bulk_never_looked_at() -> None:
    with Script() as s:
        s.kernel.path = FAR
        sock = s.connect(win=512)
        type_in(s, 100, 1, 10_000)
        assert sock.calls["path_info"] + sock.calls["follow_acks"] == 0


def test_kernel_without_the_fields_never_asked() -> None:
    with Script(bytes_acked=False) as s:
        s.kernel.path = FAR
        sock = s.connect(win=512)
        type_in(s, 100, 1)
        assert sock.calls["path_info"] + sock.calls["follow_acks"] == 0


# When it ends.


def test_much_unacknowledged_ends_it() -> None:
    with Script() as s:
        sock, seq = far(s)
        for _ in range(5):
            s.guest(f"PA seq={seq} ack=1 win=512 len=1600")
            seq += 1600
        s.nothing()
        s.guest(f"PA seq={seq} ack=1 win=512 len=1600")
        s.host(f"A seq=1 ack={seq + 1600}")
        assert not sock.is_stamped
        sock.drain()
        s.nothing()
        assert s.count("tcp_acks_unfollowed") == 1


def test_silent_remote_ends_it_before_guest_repeats() -> None:
    with Script() as s:
        _, seq = far(s)
        s.guest(f"PA seq={seq} ack=1 win=512 len=10")
        s.advance(LAG_MS - 1)
        s.nothing()
        s.advance(2)
        s.host(f"A seq=1 ack={seq + 10}")
        assert not s.conn.follows


def test_lost_event_found_by_timer() -> None:
    with Script() as s:
        sock, seq = far(s)
        sock.is_deaf = True
        s.guest(f"PA seq={seq} ack=1 win=512 len=10")
        sock.drain()
        s.nothing()
        s.advance(LAG_MS + 1)
        s.host(f"A seq=1 ack={seq + 10}")
        assert s.conn.follows


def test_progress_restarts_the_wait() -> None:
    with Script() as s:
        sock, seq = far(s)
        s.guest(f"PA seq={seq} ack=1 win=512 len=10")
        s.advance(100)
        s.guest(f"PA seq={seq + 10} ack=1 win=512 len=10")
        sock.drain(10)
        s.host(f"A seq=1 ack={seq + 10}")
        s.advance(100)
        s.nothing()
        assert s.conn.follows
        sock.drain()
        s.host(f"A seq=1 ack={seq + 20}")


@pytest.mark.parametrize("length", [10, 5, 30], ids=["same", "part", "with more"])
def test_guest_that_repeats_is_answered_at_once(length: int) -> None:
    with Script() as s:
        sock, seq = far(s, sack=True)
        s.guest(f"PA seq={seq} ack=1 win=512 len=10")
        s.nothing()
        s.guest(f"PA seq={seq} ack=1 win=512 len={length}")
        answer = s.host(f"A seq=1 ack={seq + max(length, 10)}")
        blocks = answer.options.get("sack", ())
        assert all(edge <= answer.ack for edge in blocks)
        assert not s.conn.follows
        # And looked at again after twice as many writes, not before.
        sock.drain()
        after = type_in(s, 2 * FIRST - 2, answer.ack)
        assert not s.conn.follows
        type_in(s, 2, after)
        assert s.conn.follows


def test_hole_ends_it_without_a_second_one() -> None:
    with Script() as s:
        _, seq = far(s, sack=True)
        s.guest(f"PA seq={seq} ack=1 win=512 len=10")
        s.guest(f"PA seq={seq + 20} ack=1 win=512 len=10")
        while s.peer.inbox:
            answer = s.take()
            assert answer.ack == seq + 10
        assert not s.conn.follows


def test_short_write_ends_it_and_what_is_kept_is_ours() -> None:
    with Script() as s:
        sock, seq = far(s)
        sock.limits.append(4)
        s.guest(f"PA seq={seq} ack=1 win=512 len=10")
        s.host(f"A seq=1 ack={seq + 10}")
        assert not s.conn.follows


@pytest.mark.parametrize("end", ["guest", "host"])
def test_fin_ends_it(end: str) -> None:
    with Script() as s:
        sock, seq = far(s)
        s.guest(f"PA seq={seq} ack=1 win=512 len=10")
        s.nothing()
        if end == "guest":
            s.guest(f"FA seq={seq + 10} ack=1 win=512")
            s.host(f"A seq=1 ack={seq + 11}")
        else:
            sock.end()
            s.host(f"FA seq=1 ack={seq + 10}")
            s.guest(f"A seq={seq + 10} ack=2 win=512")
        sock.drain()                                   # its event comes late and changes nothing
        s.take_all()
        assert not s.conn.follows
        assert not sock.is_stamped
        assert s.state in {"CLOSE_WAIT", "FIN_WAIT_2"}


def test_slow_network_ends_it() -> None:
    with Script() as s:
        sock, seq = far(s)
        s.guest(f"PA seq={seq} ack=1 win=512 len=10")
        sock.rtt = 140_000
        sock.rttvar = 20_000
        sock.drain()
        s.host(f"A seq=1 ack={seq + 10}")
        assert not s.conn.follows


# What else arrives.


@pytest.mark.parametrize("told", [0, 10], ids=["as told", "as sent"])
def test_reset_exact_by_what_guest_was_told_or_sent(told: int) -> None:
    with Script() as s:
        sock, seq = far(s)
        s.guest(f"PA seq={seq} ack=1 win=512 len=10")
        s.guest(f"R seq={seq + told}")
        assert s.state == "CLOSED"
        assert sock.status == "aborted"


def test_other_reset_does_not_count() -> None:
    with Script() as s:
        _, seq = far(s)
        s.guest(f"PA seq={seq} ack=1 win=512 len=10")
        s.guest(f"R seq={seq + 5}")
        s.take_all()
        assert s.state == "ESTABLISHED"


def test_soft_error_is_no_reset() -> None:
    with Script() as s:
        sock, seq = far(s)
        s.guest(f"PA seq={seq} ack=1 win=512 len=10")
        sock.soft_error = errno.EHOSTUNREACH
        sock.drain()
        s.host(f"A seq=1 ack={seq + 10}")
        assert s.state == "ESTABLISHED"


def test_real_error_is_a_reset() -> None:
    with Script() as s:
        sock, seq = far(s)
        s.guest(f"PA seq={seq} ack=1 win=512 len=10")
        sock.fail(errno.ECONNRESET)
        assert s.take().letters == "RA"
        assert s.state == "CLOSED"


def test_blocked_link_loses_no_acknowledgement() -> None:
    with Script() as s:
        sock, seq = far(s)
        s.guest(f"PA seq={seq} ack=1 win=512 len=10")
        s.bench.link.room = 0
        s.bench.link.keep_most = 0
        sock.drain()
        s.nothing()
        s.open_link()
        s.host(f"A seq=1 ack={seq + 10}")


def test_followed_connection_costs_two_calls_and_a_look_for_the_answer() -> None:
    with Script() as s:
        sock, seq = far(s)
        before = sock.calls.copy()
        turns = s.turns
        s.guest(f"PA seq={seq} ack=1 win=512 len=10")
        sock.drain()
        s.host(f"A seq=1 ack={seq + 10}")
        spent = sock.calls - before
        assert spent == {"send": 1, "drain_errors": 1, "path_info": 1, "peek": 1}
        assert s.turns - turns <= 3
