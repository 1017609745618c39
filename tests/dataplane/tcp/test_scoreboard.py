"""Selective acknowledgements of the guest's: what is lost is repeated, and nothing else (RFC 6675)."""

from __future__ import annotations

import pytest

from tests.dataplane.tcp.script import CASES, Case, Script

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
either_peek = pytest.mark.parametrize("peek_off", [True, False])
MSS = 1460


def edge(n: int) -> int:
    """Number of the first byte of segment *n*, counted from 0."""
    return 1 + n * MSS


def sack(*runs: tuple[int, int], ack: int = 0, more: str = "") -> str:
    """Write an acknowledgement of the segments before *ack* that reports *runs* of segments."""
    edges = ",".join(str(edge(n)) for run in runs for n in run)
    return f"A seq=1 ack={edge(ack)}{f' sack={edges}' if runs else ''}{more}"


def start(s: Script, n: int = 20) -> None:
    """Send the guest *n* segments."""
    s.connect(sack=True)
    s.sock.deliver(s.bytes_from_host(n * MSS))
    assert s.received() == n * MSS


def resent(s: Script) -> list[tuple[float, float]]:
    """Take what came: first segment and how many, for each frame."""
    return [((segment.seq - 1) / MSS, len(segment.payload) / MSS) for segment in s.take_all()]


@either_peek
@every_case
def test_hole_repeated_when_more_than_two_segments_behind_it_arrived(case: Case, peek_off: bool) -> None:
    with Script(**case, peek_off=peek_off) as s:
        start(s)
        s.guest(sack((1, 2)))
        s.guest(sack((1, 3)))
        assert resent(s) == []
        s.guest(sack((1, 4)))
        assert resent(s) == [(0, 1)]
        s.guest(sack((1, 5)), sack((1, 6)), sack((1, 7)))
        assert resent(s) == []                       # once
        s.guest(sack(ack=7))
        assert resent(s) == []
        assert s.count("tcp_retransmits") == 1
        s.guest(sack(ack=20))
        assert s.sock.consumed == 20 * MSS
        assert s.bench.pool_left == s.pool
        s.advance(5000)
        s.nothing()


@every_case
def test_only_holes_repeated_lowest_first(case: Case) -> None:
    with Script(**case) as s:
        start(s)
        s.guest(sack((12, 20), (6, 10), (2, 4)))
        assert resent(s) == [(0, 2), (4, 2), (10, 2)]
        s.guest(sack(ack=20))
        assert s.count("tcp_retransmits") == 3
        assert s.count("tcp_timeouts") == 0


def test_new_data_goes_on_behind_what_was_repeated() -> None:
    with Script() as s:
        start(s)
        s.guest(sack((1, 4)))
        assert resent(s) == [(0, 1)]
        s.sock.deliver(s.bytes_from_host(MSS, 20 * MSS))
        assert resent(s) == [(20, 1)]


def test_three_short_segments_are_enough() -> None:
    # Less than two segments' bytes, one run: the third duplicate tells.
    with Script() as s:
        s.connect(sack=True)
        for i in range(6):
            s.sock.deliver(s.bytes_from_host(100, 100 * i))
            s.take()
        s.guest("A seq=1 ack=1 sack=101,201", "A seq=1 ack=1 sack=101,301")
        s.nothing()
        s.guest("A seq=1 ack=1 sack=101,401")
        s.host("PA seq=1 ack=1 len=100")


def test_three_runs_are_enough() -> None:
    with Script() as s:
        s.connect(sack=True)
        for i in range(9):
            s.sock.deliver(s.bytes_from_host(100, 100 * i))
            s.take()
        s.guest("A seq=1 ack=1 sack=501,601,301,401,101,201")
        s.host("PA seq=1 ack=1 len=100")


def test_all_that_followed_has_arrived_nothing_more_to_wait_for() -> None:
    with Script() as s:
        start(s, 2)
        s.guest(sack((1, 2)))
        assert resent(s) == [(0, 1)]


def test_as_much_repeated_as_is_reported_and_a_segment() -> None:
    with Script() as s:
        start(s, 40)
        s.guest(sack((30, 34)))
        assert resent(s) == [(0, 5)]
        s.guest(sack((30, 34), ack=5))
        assert resent(s) == [(5, 6)]
        s.guest(sack((30, 40), ack=11))
        assert resent(s) == [(11, 13)]
        s.guest(sack((30, 40), ack=24))
        assert resent(s) == [(24, 6)]
        s.guest(sack(ack=40))
        s.sock.deliver(s.bytes_from_host(MSS, 40 * MSS))
        assert resent(s) == [(40, 1)]
        assert s.bench.pool_left == s.pool


def test_new_data_follows_what_was_repeated_in_part() -> None:
    with Script() as s:
        start(s, 40)
        s.guest(sack((30, 34)))
        s.sock.deliver(s.bytes_from_host(MSS, 40 * MSS))
        assert resent(s) == [(0, 5), (40, 1)]


@every_case
def test_repetition_lost_new_data_tells(case: Case) -> None:
    with Script(**case) as s:
        start(s)
        s.guest(sack((1, 20)))
        assert resent(s) == [(0, 1)]
        s.sock.deliver(s.bytes_from_host(6 * MSS, 20 * MSS))
        s.take_all()
        s.guest(sack((1, 22)))
        assert resent(s) == []
        s.guest(sack((1, 23)))
        assert resent(s) == [(0, 1)]
        s.guest(sack((1, 24)))
        assert resent(s) == []
        assert s.count("tcp_timeouts") == 0


@every_case
def test_repetition_lost_later_repetition_tells(case: Case) -> None:
    with Script(**case) as s:
        start(s)
        s.guest(sack((9, 20), (5, 8), (1, 4)))
        assert resent(s) == [(0, 1), (4, 1), (8, 1)]
        s.guest(sack((1, 8), (9, 20)))               # the second arrived, the first did not
        assert resent(s) == [(0, 1)]
        s.guest(sack((1, 20)))                       # the third was sent before the first went again
        assert resent(s) == []
        s.guest(sack(ack=20))


def test_repetition_of_a_part_of_a_hole_arrives_the_rest_is_lost_again() -> None:
    with Script() as s:
        start(s)
        s.guest(sack((6, 20)))
        assert resent(s) == [(0, 6)]
        s.guest(sack((3, 6), (6, 20)))
        assert resent(s) == [(0, 3)]


@either_peek
@every_case
def test_timeout_steps_over_what_guest_has(case: Case, peek_off: bool) -> None:
    with Script(**case, peek_off=peek_off) as s:
        start(s, 10)
        s.guest(sack((1, 2), (3, 4)))
        assert resent(s) == []
        s.advance(1000)
        assert resent(s) == [(0, 1), (2, 1)]                   # starts slowly
        assert s.count("tcp_timeouts") == 1
        s.guest(sack(ack=4))
        assert resent(s)[0] == (4, 6)
        s.guest(sack(ack=10))
        assert s.sock.consumed == 10 * MSS


def test_timeout_after_repetition_was_lost() -> None:
    with Script() as s:
        start(s, 10)
        s.guest(sack((1, 9)))
        assert resent(s) == [(0, 1)]
        s.advance(1000)
        assert resent(s) == [(0, 1), (9, 1)]
        s.guest(sack(ack=10))
        assert s.count("tcp_retransmits") == 3


def test_second_timeout_in_a_row_repeats_all() -> None:
    # RFC 2018 8: the guest may have dropped what it reported.
    with Script() as s:
        start(s, 10)
        s.guest(sack((1, 2)))
        s.advance(1000)
        assert resent(s) == [(0, 1), (2, 1)]
        s.advance(2000)
        assert resent(s) == [(0, 2)]
        assert s.bench.pool_left == s.pool


@pytest.mark.parametrize("ack", [3, 4, 5])
def test_reneging_guest_found_out_by_its_acknowledgement(ack: int) -> None:
    with Script() as s:
        start(s, 10)
        s.guest(sack((3, 6)))
        assert resent(s) == [(0, 3)]
        s.guest(sack(ack=ack))
        assert s.count("tcp_reneged") == 1
        assert s.bench.pool_left == s.pool
        s.advance(1000)
        assert resent(s)[0][0] == ack
        s.guest(sack(ack=10))


@every_case
def test_fin_outstanding(case: Case) -> None:
    with Script(**case) as s:
        sock = s.connect(sack=True)
        sock.deliver(s.bytes_from_host(5 * MSS))
        sock.end()
        assert s.received() == 5 * MSS
        fin = edge(5)
        s.guest(f"A seq=1 ack=1 sack={edge(1)},{fin + 1}")
        s.host(f"PA seq=1 ack=1 len={MSS}")
        s.guest(f"A seq=1 ack={fin + 1}")
        assert s.state == "FIN_WAIT_2"


def test_timeout_with_fin_reported_repeats_data_only() -> None:
    with Script() as s:
        sock = s.connect(sack=True)
        sock.deliver(s.bytes_from_host(100))
        sock.end()
        s.host("PA seq=1 ack=1 len=100", "FA seq=101 ack=1")
        s.bench.link.refuse_next = 1
        s.guest("A seq=1 ack=1 sack=101,102")
        s.advance(1000)
        s.host("A seq=1 ack=1 len=100")
        s.guest("A seq=1 ack=102")
        assert s.state == "FIN_WAIT_2"


# What a guest may not do.


@pytest.mark.parametrize(
    "option",
    [
        "sack=7301,5841",                # ends before it starts
        "sack=5841,5841",                # empty
        "sack=29201,29202",              # never sent
        "sack=4381,40000",               # partly never sent
        "sack=1,4381",                   # from what it asks for on
        "sack=4294967000,4381",
        "sack=2147483649,2147487000",
        "sack=1073770000,3221253647",    # starts beyond all that was sent, ends before what is acknowledged
        "sack=29202,2147483648",
        "sack=29201,1",
        "sack=5841",                     # half a block
        "sack=5841,7301,1",
        "ts=1,2",
    ],
)
def test_senseless_blocks_ignored(option: str) -> None:
    with Script() as s:
        start(s)
        s.guest(*[f"A seq=1 ack=1 {option}"] * 2)
        assert resent(s) == []
        assert s.bench.pool_left == s.pool


def test_blocks_without_permission_ignored() -> None:
    with Script() as s:
        s.connect()
        s.sock.deliver(s.bytes_from_host(20 * MSS))
        s.take_all()
        s.guest(sack((1, 10)))
        assert resent(s) == []


def test_blocks_of_what_is_acknowledged_ignored() -> None:
    # RFC 2883 4: the first block tells of bytes that came twice.
    with Script() as s:
        start(s)
        s.guest(sack((1, 3), ack=5))
        s.guest(sack((1, 3), (9, 10), ack=5))
        assert resent(s) == []
        s.guest(sack((9, 12), ack=5))
        assert resent(s) == [(5, 3)]


def test_old_acknowledgement_with_blocks_of_today() -> None:
    with Script() as s:
        start(s)
        s.guest(sack(ack=5), sack((1, 3), (6, 9), ack=0))
        assert resent(s) == [(5, 1)]


def test_runs_are_bounded() -> None:
    with Script(offloads=False) as s:
        s.connect(sack=True, mss=100)
        s.sock.deliver(s.bytes_from_host(60_000))
        assert s.received() == 60_000
        for i in range(290, 0, -1):
            first = 1 + 200 * i
            s.guest(f"A seq=1 ack=1 sack={first},{first + 100}")
        taken = s.take_all()
        assert s.pool - s.bench.pool_left == s.conn.memory < 4096
        assert taken[0].seq == 1
        s.guest("A seq=1 ack=60001")
        assert s.sock.consumed == 60_000
        assert s.bench.pool_left == s.pool


def test_no_memory_for_the_board_repeats_as_without() -> None:
    with Script() as s:
        start(s)
        s.bench.pool_left = 0
        s.guest(sack((1, 2)), sack((1, 3)))
        assert resent(s) == []
        s.guest(sack((1, 4)))
        assert resent(s) == [(0, 1)]
        s.bench.pool_left = s.pool
        s.guest(sack(ack=20))


def test_link_that_does_not_drain_repeats_later() -> None:
    with Script() as s:
        start(s)
        s.bench.link.room = 0
        s.bench.link.keep_most = 0
        s.sock.deliver(s.bytes_from_host(MSS, 20 * MSS))
        s.run()
        s.guest(sack((1, 10)))
        s.nothing()
        s.open_link()
        s.take_all()
        s.guest(sack((1, 11)))
        assert resent(s) == [(0, 1)]


@pytest.mark.parametrize("how", ["guest", "remote", "close"])
def test_every_end_frees_the_board(how: str) -> None:
    with Script() as s:
        start(s)
        s.guest(sack((1, 2)))
        assert s.bench.pool_left < s.pool
        if how == "guest":
            s.guest("R seq=1")
        elif how == "remote":
            s.sock.fail(104)
            s.run()
            s.take_all()
        else:
            s.bench.close()
        s.ended()


def test_gathered_data_is_stored_before_a_repetition_acknowledges_it() -> None:
    with Script() as s:
        start(s)
        s.is_honest = False
        s.sock.limits = [0]
        s.bench.pool_left = 4096
        s.guest("A seq=1 ack=1 len=4000", sack((1, 4)).replace("seq=1", "seq=4001", 1))
        for segment in s.take_all():
            assert segment.ack == 1
        s.bench.pool_left = s.pool - s.conn.memory
        s.guest("A seq=1 ack=29201 len=4000")
        s.host("A seq=29201 ack=4001")


def test_without_loss_permission_costs_no_call() -> None:
    calls = []
    for permitted in (False, True):
        with Script() as s:
            sock = s.connect(sack=permitted)
            sock.calls.clear()
            for i in range(20):
                sock.deliver(s.bytes_from_host(100_000, 100_000 * i))
                s.guest(f"A seq={1 + 1000 * i} ack={1 + s.received() + 100_000 * i} len=1000")
                s.take_all()
            assert "rewind" not in sock.calls
            calls.append(dict(sock.calls))
    assert calls[0] == calls[1]
