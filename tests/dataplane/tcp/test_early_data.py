"""Payload and FINs before their turn: kept, reported selectively, delivered once in order."""

from __future__ import annotations

import errno

import pytest

from tests.dataplane.tcp.script import CASES, Case, Script

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
SYN = "S seq=0 win=65535 mss=1460 ws=7"


# What is negotiated (RFC 2018 2).


@every_case
def test_answer_permits_sack_only_where_guest_did(case: Case) -> None:
    for option in ("", " sack_ok"):
        with Script(**case) as s:
            s.guest(SYN + option)
            s.sock.connected()
            answer = s.host("SA seq=0 ack=1 win=65535 ws=8")
            assert ("sack_ok" in answer.options) == bool(option)


def test_answer_without_scale_permits_sack() -> None:
    with Script() as s:
        s.guest("S seq=0 win=65535 mss=1460 sack_ok")
        s.sock.connected()
        answer = s.host("SA seq=0 ack=1")
        assert set(answer.options) == {"mss", "sack_ok"}


@every_case
def test_our_syn_permits_sack_also_repeated(case: Case) -> None:
    with Script(**case) as s:
        s.peer.knock()
        assert "sack_ok" in s.host("S seq=0").options
        s.advance(1000)
        assert "sack_ok" in s.host("S seq=0").options


@pytest.mark.parametrize("option", ["", " sack_ok"])
def test_guest_permits_in_its_answer(option: str) -> None:
    with Script() as s:
        s.peer.knock()
        s.host("S seq=0")
        s.guest("SA seq=0 ack=1 win=65535 mss=1460 ws=7" + option)
        s.host("A seq=1 ack=1")
        s.guest("A seq=101 ack=1 len=100")
        assert s.host("A seq=1 ack=1").options == ({"sack": (101, 201)} if option else {})


@pytest.mark.parametrize("flags", ["SE", "SC", "SEC"])
@pytest.mark.parametrize("option", ["", " sack_ok"])
def test_congestion_signals_not_invented(flags: str, option: str) -> None:
    # RFC 3168 6.1.1: an ECN-setup SYN that is answered without ECE leaves the connection without it.
    with Script() as s:
        s.guest(f"{flags} seq=0 win=65535 mss=1460 ws=7{option}")
        s.sock.connected()
        s.host("SA seq=0 ack=1")
        s.guest("A seq=1 ack=1", "EA seq=1 ack=1 len=100", "CPA seq=101 ack=1 len=100")
        assert {segment.letters for segment in s.take_all()} == {"A"}
        s.sock.deliver(s.bytes_from_host(3000))
        assert {segment.letters for segment in s.take_all()} == {"PA"}


def connect(s: Script, **arguments: int) -> None:
    """Take a connection whose guest permits selective acknowledgements to ESTABLISHED."""
    s.connect(sack=True, **arguments)


def blocks(s: Script, text: str) -> tuple[int, ...]:
    """Take an acknowledgement; give its blocks."""
    return s.host(text).options.get("sack", ())


# What is kept and how it is reported.


@every_case
def test_one_acknowledgement_with_newest_block_first_per_early_segment(case: Case) -> None:
    with Script(**case) as s:
        connect(s)
        s.guest(*[f"A seq={seq} ack=1 len=100" for seq in (1001, 1101, 2001, 1201, 3001, 4001, 5001)])
        seen = [blocks(s, "A seq=1 ack=1") for _ in range(7)]
        assert seen == [
            (1001, 1101),
            (1001, 1201),
            (2001, 2101, 1001, 1201),
            (1001, 1301, 2001, 2101),
            (3001, 3101, 1001, 1301, 2001, 2101),
            (4001, 4101, 3001, 3101, 1001, 1301, 2001, 2101),
            (5001, 5101, 4001, 4101, 3001, 3101, 1001, 1301),         # four blocks at most
        ]
        assert s.count("tcp_out_of_order") == 7
        assert s.sock.taken == b""


@every_case
def test_hole_closes_all_delivered_and_acknowledged(case: Case) -> None:
    with Script(**case) as s:
        connect(s)
        s.guest(*[f"A seq={1461 + 1460 * i} ack=1 len=1460" for i in range(20)])
        assert len(s.take_all()) == 20
        s.guest("A seq=1 ack=1 len=1460")
        assert blocks(s, f"A seq=1 ack={1 + 21 * 1460}") == ()
        assert s.sock.taken == s.bytes_from_guest(21 * 1460)
        assert s.bench.pool_left == s.pool
        assert s.count("drop_tcp_sequence") == 0


@every_case
def test_holes_close_one_by_one(case: Case) -> None:
    with Script(**case) as s:
        connect(s)
        s.guest(*[f"A seq={seq} ack=1 len=100" for seq in (101, 301, 501)])
        s.take_all()
        s.guest("A seq=1 ack=1 len=100")
        assert blocks(s, "A seq=1 ack=201") == (501, 601, 301, 401)
        s.guest("A seq=201 ack=1 len=100")
        assert blocks(s, "A seq=1 ack=401") == (501, 601)
        s.guest("A seq=401 ack=1 len=100")
        assert blocks(s, "A seq=1 ack=601") == ()
        assert s.sock.taken == s.bytes_from_guest(600)
        assert s.bench.pool_left == s.pool


def test_hole_closes_within_batch_written_in_order() -> None:
    with Script() as s:
        connect(s)
        s.guest("A seq=101 ack=1 len=100", "A seq=1 ack=1 len=100", "A seq=201 ack=1 len=100")
        s.host("A seq=1 ack=1", "A seq=1 ack=301")
        assert s.sock.taken == s.bytes_from_guest(300)


OVERLAPS = {
    "same": (1001, 1101),
    "head": (951, 1001 + 20),
    "tail": (1090, 1150),
    "touches before": (901, 1001),
    "touches behind": (1101, 1201),
    "within": (1010, 1020),
    "around": (951, 1151),
    "spans both": (1050, 2050),
    "spans all": (501, 3001),
    "between, touching": (1101, 2001),
    "from the left edge": (1, 1050),
    "old and new": (-49, 1050),
}


@pytest.mark.parametrize("sack", [False, True])
@pytest.mark.parametrize(("start", "end"), OVERLAPS.values(), ids=OVERLAPS)
@every_case
def test_overlaps_of_every_form(case: Case, start: int, end: int, sack: bool) -> None:
    with Script(**case) as s:
        s.connect(sack=sack)
        s.guest("A seq=1 ack=1 len=50", "A seq=51 ack=1 len=50")
        s.guest("A seq=1101 ack=1 len=100", "A seq=2101 ack=1 len=100")
        s.take_all()
        s.guest(f"A seq={start + 100} ack=1 len={end - start}")
        s.take_all()
        s.guest("A seq=101 ack=1 len=3000")
        s.host("A seq=1 ack=3101")
        assert s.sock.taken == s.bytes_from_guest(3100)
        assert s.bench.pool_left == s.pool


@every_case
def test_what_was_kept_survives_overlap_with_what_fills_hole(case: Case) -> None:
    with Script(**case) as s:
        connect(s)
        s.guest("A seq=1001 ack=1 len=1000")
        s.take_all()
        s.guest("A seq=1 ack=1 len=1500")
        s.host("A seq=1 ack=2001")
        assert s.sock.taken == s.bytes_from_guest(2000)


@every_case
def test_repeated_segments_reported_as_such(case: Case) -> None:
    # RFC 2883 4: the first block tells what came twice, the second one the run that it lies in.
    with Script(**case) as s:
        connect(s)
        s.guest("A seq=1 ack=1 len=100")
        s.take()
        s.guest("A seq=1 ack=1 len=100")
        assert blocks(s, "A seq=1 ack=101") == (1, 101)
        s.guest("A seq=101 ack=1 len=100")
        assert blocks(s, "A seq=1 ack=201") == ()
        s.guest("A seq=51 ack=1 len=60")
        assert blocks(s, "A seq=1 ack=201") == (51, 111)
        s.guest("A seq=1001 ack=1 len=500", "A seq=2001 ack=1 len=500")
        s.take_all()
        s.guest("A seq=1101 ack=1 len=100")
        assert blocks(s, "A seq=1 ack=201") == (1101, 1201, 1001, 1501, 2001, 2501)


def test_part_of_a_hole_acknowledged_at_once() -> None:
    # RFC 5681 4.2: also where an answer of the remote could carry the acknowledgement.
    with Script() as s:
        connect(s)
        for i in range(4):
            s.guest(f"PA seq={1 + 100 * i} ack={1 + 50 * i} len=100")
            s.sock.deliver(s.bytes_from_host(50, 50 * i))
            s.take_all()
        s.guest("PA seq=401 ack=201 len=100")
        s.nothing()
        s.sock.deliver(s.bytes_from_host(50, 200))
        s.take_all()
        s.guest("PA seq=701 ack=251 len=100")
        assert blocks(s, "A seq=251 ack=501") == (701, 801)
        s.guest("PA seq=501 ack=251 len=100")
        assert blocks(s, "A seq=251 ack=601") == (701, 801)


def test_what_is_given_back_for_want_of_memory_not_reported_as_come_twice() -> None:
    with Script() as s:
        connect(s)
        s.is_honest = False
        s.sock.limits = [0]
        s.bench.pool_left = 0
        s.guest("A seq=1 ack=1 len=100", "A seq=1 ack=1 len=100")
        assert blocks(s, "A seq=1 ack=1") == ()
        s.bench.pool_left = s.pool


def test_data_to_the_guest_reports_nothing_the_acknowledgements_do() -> None:
    with Script() as s:
        connect(s)
        s.guest("A seq=101 ack=1 len=100")
        assert blocks(s, "A seq=1 ack=1") == (101, 201)
        s.sock.deliver(s.bytes_from_host(100))
        assert s.host("PA seq=1 ack=1 len=100").options == {}


def test_guest_without_sack_gets_plain_duplicates() -> None:
    with Script() as s:
        s.connect()
        s.guest(*[f"A seq={101 + 100 * i} ack=1 len=100" for i in range(5)])
        for _ in range(5):
            assert s.host("A seq=1 ack=1").options == {}
        s.guest("A seq=1 ack=1 len=100")
        s.host("A seq=1 ack=601")


# Bounds.


@every_case
def test_nothing_kept_beyond_the_window(case: Case) -> None:
    with Script(**case, capacity=4096) as s:
        connect(s)
        edge = s.conn.rcv_adv - case["guest_isn"] & 0xFFFFFFFF
        s.guest(f"A seq={edge - 100} ack=1 len=1460")
        assert blocks(s, "A seq=1 ack=1") == (edge - 100, edge)
        s.guest(f"A seq={edge} ack=1 len=100")
        assert blocks(s, "A seq=1 ack=1") == (edge - 100, edge)
        assert s.count("drop_tcp_sequence") == 1
        s.guest(f"A seq=1 ack=1 len={edge - 101}")
        assert s.take_all()[-1].ack == edge
        assert s.sock.taken == s.bytes_from_guest(edge - 1)


def test_many_holes_bounded_and_counted() -> None:
    with Script() as s:
        connect(s)
        s.guest(*[f"A seq={11 + 10 * i} ack=1 len=5" for i in range(200)])
        assert len(s.take_all()) == 200
        assert s.count("drop_tcp_memory") == 200 - 128
        assert s.count("tcp_out_of_order") == 128
        s.guest("A seq=1 ack=1 len=1460", "A seq=1461 ack=1 len=1460")
        assert s.take_all()[-1].ack == 2921
        assert s.sock.taken == s.bytes_from_guest(2920)
        assert s.bench.pool_left == s.pool


@pytest.mark.slow
def test_tiny_segments_in_reverse_cost_no_more_than_the_bound() -> None:
    with Script() as s:
        connect(s)
        for start in range(60_000, 2, -500):
            s.guest(*[f"A seq={start - i} ack=1 len=1" for i in range(min(500, start - 2))])
        s.take_all()
        assert s.pool - s.bench.pool_left <= 8 << 20
        assert s.count("drop_tcp_memory") > 0
        s.guest("R seq=1")
        s.ended()


def test_early_data_leaves_half_of_the_pool() -> None:
    with Script(capacity=8 << 20) as s:
        peers = [s.add_peer(41_000 + i, 80) for i in range(5)]
        for peer in peers:
            peer.connect(sack=True)
            for start in range(101, 7_000_000, 640_000):
                peer.guest(*[f"A seq={start + 64_000 * i} ack=1 len=64000" for i in range(10)])
            peer.take_all()
        assert s.pool // 2 <= s.bench.pool_left < s.pool // 2 + 64_000 + 5000
        # What was promised a place finds it.
        s.is_honest = False
        peers[0].sock.limits = [0]
        peers[0].guest("A seq=1 ack=1 len=100")
        assert peers[0].take_all()[-1].ack > 6_000_000
        for peer in peers:
            peer.guest("R seq=1" if peer is not peers[0] else "R seq=0")
            peer.take_all()


def test_no_memory_early_data_not_reported() -> None:
    with Script() as s:
        connect(s)
        s.bench.pool_left = 0
        s.guest("A seq=101 ack=1 len=100")
        assert blocks(s, "A seq=1 ack=1") == ()
        assert s.count("drop_tcp_memory") == 1
        s.bench.pool_left = s.pool
        s.guest("A seq=101 ack=1 len=100")
        assert blocks(s, "A seq=1 ack=1") == (101, 201)


# With short writes.


@every_case
def test_hole_closes_while_socket_is_full(case: Case) -> None:
    with Script(**case) as s:
        connect(s)
        s.guest("A seq=1001 ack=1 len=1000", "A seq=3001 ack=1 len=1000")
        s.take_all()
        s.is_honest = False
        s.sock.capacity = 300
        s.guest("A seq=1 ack=1 len=1000")
        assert blocks(s, "A seq=1 ack=2001") == (3001, 4001)
        assert s.conn.overflow == 1700
        s.guest("A seq=2001 ack=1 len=1000")
        assert s.take_all()[-1].ack == 4001
        s.sock.capacity = 1 << 20
        s.sock.drain()
        s.take_all()
        assert s.sock.taken == s.bytes_from_guest(4000)
        assert s.bench.pool_left == s.pool


@every_case
def test_socket_takes_part_of_what_was_early(case: Case) -> None:
    with Script(**case) as s:
        connect(s)
        s.guest("A seq=1001 ack=1 len=1000")
        s.take_all()
        s.sock.limits = [1000, 10]
        s.guest("A seq=1 ack=1 len=1000")
        s.host("A seq=1 ack=2001")
        s.run()
        s.sock.drain()
        s.run()
        assert s.sock.taken == s.bytes_from_guest(2000)
        s.take_all()


def test_short_write_of_what_overlaps_early_data() -> None:
    with Script() as s:
        connect(s)
        s.guest("A seq=501 ack=1 len=1000")
        s.take_all()
        s.is_honest = False
        s.sock.capacity = 200
        s.guest("A seq=1 ack=1 len=1200")
        s.host("A seq=1 ack=1501")
        assert s.conn.overflow == 1300
        s.sock.capacity = 1 << 20
        s.sock.drain()
        s.run()
        assert s.sock.taken == s.bytes_from_guest(1500)
        s.take_all()


def test_write_fails_when_hole_closes_reset_and_freed() -> None:
    with Script() as s:
        connect(s)
        s.guest("A seq=1001 ack=1 len=1000")
        s.take_all()
        s.sock.error = errno.EPIPE
        s.guest("A seq=1 ack=1 len=1000")
        assert "R" in s.take().letters
        s.ended()


@pytest.mark.parametrize("how", ["guest", "remote", "close"])
def test_every_end_frees_what_is_kept(how: str) -> None:
    with Script() as s:
        connect(s)
        s.guest("A seq=1001 ack=1 len=1000", "A seq=3001 ack=1 len=1000")
        s.take_all()
        assert s.bench.pool_left < s.pool
        if how == "guest":
            s.guest("R seq=1")
        elif how == "remote":
            s.sock.fail(errno.ECONNRESET)
            s.run()
            s.take_all()
        else:
            s.bench.close()
        s.ended()


# The FIN.


@every_case
def test_early_fin_with_data_taken_when_hole_closes(case: Case) -> None:
    with Script(**case) as s:
        connect(s)
        s.guest("FPA seq=1461 ack=1 len=10")
        assert blocks(s, "A seq=1 ack=1") == (1461, 1472)
        s.nothing()
        assert s.state == "ESTABLISHED"
        assert not s.sock.shut
        s.guest("A seq=1 ack=1 len=1460")
        s.host("A seq=1 ack=1472")
        assert s.state == "CLOSE_WAIT"
        assert s.sock.shut
        assert s.sock.taken == s.bytes_from_guest(1470)


@every_case
def test_early_fin_alone_reported_and_taken(case: Case) -> None:
    with Script(**case) as s:
        connect(s)
        s.guest("FA seq=101 ack=1")
        assert blocks(s, "A seq=1 ack=1") == (101, 102)
        s.nothing()
        s.guest("A seq=41 ack=1 len=20")
        assert blocks(s, "A seq=1 ack=1") == (41, 61, 101, 102)
        s.guest("A seq=1 ack=1 len=100")
        s.host("A seq=1 ack=102")
        assert s.state == "CLOSE_WAIT"
        assert s.sock.taken == s.bytes_from_guest(100)
        assert s.sock.shut


def test_early_fin_while_socket_is_full_shut_when_all_is_written() -> None:
    with Script() as s:
        connect(s)
        s.guest("FA seq=2001 ack=1", "A seq=1001 ack=1 len=1000")
        s.take_all()
        s.is_honest = False
        s.sock.capacity = 10
        s.guest("A seq=1 ack=1 len=1000")
        s.host("A seq=1 ack=2002")
        assert s.state == "CLOSE_WAIT"
        assert not s.sock.shut
        s.sock.capacity = 1 << 20
        s.sock.drain()
        s.run()
        assert s.sock.shut
        assert s.sock.taken == s.bytes_from_guest(2000)


def test_data_behind_early_fin_dropped() -> None:
    with Script() as s:
        connect(s)
        s.guest("FA seq=101 ack=1", "A seq=51 ack=1 len=100", "A seq=151 ack=1 len=100")
        s.take_all()
        s.guest("A seq=1 ack=1 len=300")
        s.host("A seq=1 ack=102")
        assert s.sock.taken == s.bytes_from_guest(100)


def test_fin_before_data_that_came_is_nonsense() -> None:
    with Script() as s:
        connect(s)
        s.guest("A seq=201 ack=1 len=100", "FA seq=101 ack=1", "FA seq=1 ack=1")
        s.take_all()
        assert s.count("drop_tcp_flags") == 2
        s.guest("A seq=1 ack=1 len=200")
        s.host("A seq=1 ack=301")
        assert s.state == "ESTABLISHED"


def test_second_early_fin_elsewhere_is_nonsense() -> None:
    with Script() as s:
        connect(s)
        s.guest("FA seq=101 ack=1", "FA seq=201 ack=1", "FA seq=101 ack=1")
        assert len(s.take_all()) == 3
        assert s.count("drop_tcp_flags") == 1
        s.guest("A seq=1 ack=1 len=100")
        s.host("A seq=1 ack=102")


def test_early_fin_beyond_window_forgotten() -> None:
    with Script(capacity=4096) as s:
        connect(s)
        edge = s.conn.rcv_adv - s.guest_isn & 0xFFFFFFFF
        s.guest(f"FA seq={edge - 10} ack=1 len=20")
        assert blocks(s, "A seq=1 ack=1") == (edge - 10, edge)
        s.guest(f"A seq=1 ack=1 len={edge - 11}")
        assert s.take_all()[-1].ack == edge
        assert s.state == "ESTABLISHED"


@pytest.mark.parametrize("first", ["host", "guest"])
def test_early_fin_ends_connection_in_every_order(first: str) -> None:
    with Script() as s:
        connect(s)
        if first == "host":
            s.sock.end()
            s.host("FA seq=1 ack=1")
            s.guest("A seq=1 ack=2")
            assert s.state == "FIN_WAIT_2"
        s.guest("FA seq=101 ack=2" if first == "host" else "FA seq=101 ack=1")
        s.take()
        s.guest("A seq=1 ack=2 len=100" if first == "host" else "A seq=1 ack=1 len=100")
        s.take()
        if first == "guest":
            s.sock.end()
            s.host("FA seq=1 ack=102")
            s.guest("A seq=102 ack=2")
        s.advance(2000)
        s.ended()


# The end of the guest's stream, accepted while a batch is taken.


@every_case
def test_data_behind_an_early_fin_that_the_same_batch_reaches_is_not_kept(case: Case) -> None:
    with Script(**case) as s:
        connect(s)
        s.guest("FA seq=301 ack=1")
        s.take_all()
        s.guest("A seq=1 ack=1 len=300", "A seq=402 ack=1 len=100")
        s.host("A seq=1 ack=302")
        assert s.state == "CLOSE_WAIT"
        assert s.sock.shut
        assert s.sock.taken == s.bytes_from_guest(300)
        assert s.bench.pool_left == s.pool
        assert s.count("drop_tcp_flags") == 1


@every_case
def test_data_across_an_early_fin_that_the_same_batch_reaches_is_not_written(case: Case) -> None:
    with Script(**case) as s:
        connect(s)
        s.guest("FA seq=257 ack=1")
        s.take_all()
        # As many pieces as are gathered at once, so the next one finds the FIN accepted.
        s.guest(*[f"A seq={1 + i} ack=1 len=1" for i in range(256)], "A seq=250 ack=1 len=100")
        assert {segment.letters for segment in s.take_all()} == {"A"}
        assert s.state == "CLOSE_WAIT"
        assert s.sock.shut
        assert s.sock.taken == s.bytes_from_guest(256)
        s.sock.end()
        s.host("FA seq=1 ack=258")
        s.guest("A seq=258 ack=2")
        s.ended()
