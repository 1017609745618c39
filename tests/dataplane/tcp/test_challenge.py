"""How many acknowledgements senseless segments can draw (RFC 5961 5.2, 7)."""

from __future__ import annotations

import pytest

from tests.dataplane.tcp.script import CASES, Case, Script

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())

# Challenges of RFC 5961 and answers to what lies outside the window; none has data.
SENSELESS = [
    "R seq=100",
    "S seq=1",
    "S seq=777777",
    "A seq=1 ack=500",
    "A seq=-5000 ack=1",
    "A seq=9999999 ack=1",
]


@pytest.mark.parametrize("text", SENSELESS)
@every_case
def test_senseless_segments_answered_ten_times_in_five_seconds(case: Case, text: str) -> None:
    with Script(**case) as s:
        s.connect()
        for _ in range(30):
            s.guest(text)
            s.advance(100)
        assert len(s.take_all()) == 10
        assert s.count("tcp_acks_withheld") == 20
        s.advance(2001)
        s.guest(text)
        s.host("A seq=1 ack=1")


def test_limit_is_each_connection_s_own() -> None:
    with Script() as s:
        s.connect()
        for _ in range(20):
            s.guest("R seq=100")
        assert len(s.take_all()) == 10
        other = s.add_peer(41_000, 80)
        other.connect()
        other.guest("R seq=100")
        other.host("A seq=1 ack=1")


@every_case
def test_repeated_data_always_answered(case: Case) -> None:
    with Script(**case) as s:
        s.connect()
        s.guest("PA seq=1 ack=1 len=100")
        s.take_all()
        for _ in range(20):
            s.guest("R seq=200")
        s.take_all()
        for _ in range(30):
            s.guest("PA seq=1 ack=1 len=99")
            s.host("A seq=1 ack=101")
        s.guest("FA seq=5000000 ack=1")
        s.host("A seq=1 ack=101")


@every_case
def test_holes_answered_by_one_duplicate_each_beyond_limit(case: Case) -> None:
    with Script(**case) as s:
        s.connect()
        for i in range(50):
            s.guest(f"A seq={1001 + 1000 * i} ack=1 len=1000")
            s.host("A seq=1 ack=1")


@every_case
def test_two_ends_that_disagree_do_not_answer_for_ever(case: Case) -> None:
    # The guest believes to be elsewhere, and answers each acknowledgement of ours by one of its own.
    with Script(**case) as s:
        s.connect()
        s.guest("A seq=-70000 ack=1")
        answers = 0
        while found := s.take_all():
            answers += len(found)
            assert answers <= 10
            s.guest("A seq=-70000 ack=1")


@every_case
def test_acknowledgement_older_than_largest_window_refused(case: Case) -> None:
    with Script(**case) as s:
        s.connect(win=100, ws=0)  # at most 65535 ever, in the SYN
        s.sock.deliver(s.bytes_from_host(100))
        s.host("A seq=1 ack=1 len=100")
        s.guest("A seq=1 ack=101 win=100")
        s.guest("PA seq=1 ack=-65434 win=100 len=10")
        assert s.sock.taken == s.bytes_from_guest(10)
        s.advance(40)
        s.take_all()
        s.guest("PA seq=11 ack=-65435 win=100 len=10")
        s.host("A seq=101 ack=11")
        assert s.count("drop_tcp_ack") == 1
        assert s.sock.taken == s.bytes_from_guest(10)


@every_case
def test_larger_window_widens_what_is_acceptable(case: Case) -> None:
    with Script(**case) as s:
        s.connect(win=1024, ws=7)  # 131072
        s.guest("PA seq=1 ack=-131071 win=1 len=10")
        assert s.sock.taken == s.bytes_from_guest(10)
        s.guest("PA seq=11 ack=-131072 win=1 len=10")
        assert s.sock.taken == s.bytes_from_guest(10)
        assert s.count("drop_tcp_ack") == 1
        s.take_all()
