"""Data to the guest that is lost: time-outs, duplicate acknowledgements, a guest that is gone."""

import pytest

from tests.dataplane.tcp.script import CASES, Case, Script

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@every_case
def test_lost_segment_repeated_after_timeout_with_back_off(case: Case) -> None:
    with Script(**case) as s:
        s.connect()
        s.sock.deliver(s.bytes_from_host(100))
        s.host("PA seq=1 ack=1 len=100")
        waits = []
        for _ in range(9):
            before = s.bench.now
            while not s.peer.inbox:
                s.advance(50)
            assert s.received() == 100
            waits.append(round((s.bench.now - before) / 1e9))
        assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
        s.guest("A seq=1 ack=101")
        assert s.sock.consumed == 100
        s.advance(1000)
        assert s.sleep_s > 3600


def test_timeout_from_measured_round_trip() -> None:
    with Script() as s:
        s.connect()
        sent = 0
        for _ in range(30):
            s.sock.deliver(s.bytes_from_host(100, sent))
            s.take()
            s.advance(50)
            sent += 100
            s.guest(f"A seq=1 ack={1 + sent}")
        assert 200 <= s.conn.rto / 1e6 <= 250                      # RFC 6298, not below 200 ms


def test_acknowledgement_of_new_data_ends_back_off() -> None:
    with Script() as s:
        s.connect()
        s.sock.deliver(s.bytes_from_host(100))
        s.take()
        s.advance(20_000)
        s.take_all()
        s.guest("A seq=1 ack=101")
        s.sock.deliver(s.bytes_from_host(100, 100))
        s.host("PA seq=101 ack=1 len=100")
        s.advance(999)
        s.nothing()
        s.advance(1)
        s.host("PA seq=101 ack=1 len=100")


def test_fast_retransmitted_segment_not_timed() -> None:
    with Script() as s:
        s.connect()
        s.sock.deliver(s.bytes_from_host(10_000))
        s.take()
        s.advance(900)
        s.guest(*["A seq=1 ack=1"] * 3)
        s.host("PA seq=1 ack=1 len=1460")
        s.guest("A seq=1 ack=10001")
        assert s.conn.rto == 1_000_000_000


def test_retransmitted_segment_not_timed() -> None:
    # Karn's algorithm (RFC 6298 3).
    with Script() as s:
        s.connect()
        s.sock.deliver(s.bytes_from_host(100))
        s.take()
        s.advance(5000)
        s.take_all()
        s.guest("A seq=1 ack=101")
        assert s.conn.rto == 1_000_000_000


@every_case
def test_guest_gone_reset_after_fifteen_unanswered(case: Case) -> None:
    with Script(**case) as s:
        sock = s.connect()
        sock.deliver(s.bytes_from_host(100))
        s.take()
        s.advance(3_600_000)
        segments = s.take_all()
        assert [segment.letters for segment in segments] == ["PA"] * 15 + ["RA"]
        s.ended()
        assert sock.status == "aborted"


def test_any_sign_of_life_starts_count_anew() -> None:
    with Script() as s:
        s.connect()
        s.sock.deliver(s.bytes_from_host(100))
        s.take()
        for _ in range(40):
            s.advance(61_000)
            s.guest("A seq=1 ack=1")
        assert s.state == "ESTABLISHED"
        s.take_all()


@every_case
def test_timeout_goes_back_to_first_unacknowledged(case: Case) -> None:
    with Script(**case) as s:
        s.connect()
        s.sock.deliver(s.bytes_from_host(20_000))
        assert s.received() == 20_000
        s.advance(1000)
        first = s.take_all()
        assert first[0].seq == 1
        assert sum(len(segment.payload) for segment in first) <= 2 * 1460   # starts slowly, RFC 5681 3.1
        acked = sum(len(segment.payload) for segment in first)
        while acked < 20_000:
            s.guest(f"A seq=1 ack={1 + acked}")
            acked += s.received()
        s.guest("A seq=1 ack=20001")
        assert s.sock.consumed == 20_000
        assert s.count("tcp_timeouts") == 1


@every_case
def test_acknowledgement_beyond_what_was_repeated_jumps_ahead(case: Case) -> None:
    with Script(**case) as s:
        s.connect()
        s.sock.deliver(s.bytes_from_host(20_000))
        assert s.received() == 20_000
        s.advance(1000)
        assert s.received() > 0
        s.guest("A seq=1 ack=15001")                                # it had them all along
        found = s.take_all()
        assert found[0].seq == 15_001
        s.guest("A seq=1 ack=20001")
        assert s.sock.consumed == 20_000
        s.advance(1000)
        s.nothing()


@every_case
def test_three_duplicates_first_segment_repeated_once(case: Case) -> None:
    with Script(**case, offloads=False) as s:
        s.connect()
        s.sock.deliver(s.bytes_from_host(14_600))
        assert s.received() == 14_600
        s.guest("A seq=1 ack=1", "A seq=1 ack=1")
        s.nothing()
        s.guest("A seq=1 ack=1")
        s.host("PA seq=1 ack=1 len=1460")
        s.guest(*["A seq=1 ack=1"] * 6)
        s.nothing()
        s.guest("A seq=1 ack=14601")
        assert s.sock.consumed == 14_600
        s.sock.deliver(s.bytes_from_host(100, 14_600))
        s.host("PA seq=14601 ack=1 len=100")


@every_case
def test_partial_acknowledgement_repeats_next_hole(case: Case) -> None:
    with Script(**case, offloads=False) as s:
        s.connect()
        s.sock.deliver(s.bytes_from_host(14_600))
        assert s.received() == 14_600
        s.guest(*["A seq=1 ack=1"] * 3)
        s.host("PA seq=1 ack=1 len=1460")
        s.guest("A seq=1 ack=4381")                                 # RFC 6582 3.2
        s.host("PA seq=4381 ack=1 len=1460")
        s.guest("A seq=1 ack=14601")
        s.advance(10_000)
        s.nothing()


@pytest.mark.parametrize(
    "texts",
    [
        ["A seq=1 ack=1 win=100", "A seq=1 ack=1 win=99", "A seq=1 ack=1 win=98", "A seq=1 ack=1 win=97"],
        ["A seq=1 ack=1 len=10", "A seq=11 ack=1 len=10", "A seq=21 ack=1 len=10", "A seq=31 ack=1 len=10"],
    ],
    ids=["window updates", "data"],
)
def test_no_duplicates_where_something_changes(texts: list[str]) -> None:
    # RFC 5681 2: a duplicate carries no data and the same window.
    with Script() as s:
        s.connect()
        s.sock.deliver(s.bytes_from_host(10_000))
        s.received()
        s.guest(*texts)
        assert s.received() == 0
        assert s.count("tcp_retransmits") == 0


def test_fast_retransmission_of_fin_alone() -> None:
    with Script() as s:
        sock = s.connect()
        sock.deliver(s.bytes_from_host(100))
        sock.end()
        s.host("PA seq=1 ack=1 len=100", "FA seq=101 ack=1")
        s.guest(*["A seq=1 ack=101"] * 4)
        s.host("FA seq=101 ack=1")


def test_fast_retransmission_with_fin_outstanding() -> None:
    with Script() as s:
        sock = s.connect()
        sock.deliver(s.bytes_from_host(5000))
        sock.end()
        s.host("PA seq=1 ack=1 len=5000", "FA seq=5001 ack=1")
        s.guest(*["A seq=1 ack=1"] * 3)
        s.host("PA seq=1 ack=1 len=1460")
        s.guest("A seq=1 ack=1461")
        s.host("PA seq=1461 ack=1 len=1460")
        s.guest("A seq=1 ack=5002")
        assert s.state == "FIN_WAIT_2"
        assert sock.consumed == 5000


def test_timeout_ends_fast_recovery() -> None:
    # RFC 6582 3.2, step 4: or each acknowledgement after it repeats what slow start repeats anyway.
    with Script(offloads=False) as s:
        s.connect()
        s.sock.deliver(s.bytes_from_host(14_600))
        s.received()
        s.guest(*["A seq=1 ack=1"] * 3)
        s.host("PA seq=1 ack=1 len=1460")
        s.advance(1500)
        s.host("A seq=1 ack=1 len=1460", "A seq=1461 ack=1 len=1460")
        s.guest("A seq=1 ack=1461")
        seen = [segment.seq for segment in s.take_all()]
        assert seen == [2921, 4381]


@every_case
def test_remote_data_peeked_in_small_pieces(case: Case) -> None:
    with Script(**case) as s:
        sock = s.connect()
        sock.peek_limits = [100, 200, 300]
        sock.deliver(s.bytes_from_host(5000))
        assert s.received() == 5000
        s.guest("A seq=1 ack=5001")
        assert sock.consumed == 5000


@every_case
def test_socket_gives_less_than_was_acknowledged_rest_dropped_later(case: Case) -> None:
    # As at an urgent mark of the remote's (tcp(7)): recv stops there.
    with Script(**case) as s:
        sock = s.connect()
        sock.deliver(s.bytes_from_host(20_000))
        s.received()
        s.advance(1000)
        s.received()
        sock.consume_limits = [1000, 1000]
        s.guest("A seq=1 ack=15001")
        s.received()
        s.guest("A seq=1 ack=20001")
        sock.deliver(s.bytes_from_host(100, 20_000))
        s.host("PA seq=20001 ack=1 len=100")
        s.guest("A seq=1 ack=20101")
        assert sock.consumed == 20_100
