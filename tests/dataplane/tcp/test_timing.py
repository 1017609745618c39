"""The timestamps option and protection against wrapped sequence numbers (RFC 7323 3 to 5)."""

from __future__ import annotations

import errno

import pytest

from tests.dataplane.tcp.script import CASES, NS_PER_MS, Case, Script
from tests.dataplane.tcp.segment import MASK, Segment

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
either_way = pytest.mark.parametrize("inbound", [False, True], ids=["from-guest", "from-host"])
SYN = "S seq=0 win=65535 mss=1460 ws=7 sack_ok"
DAY_MS = 24 * 3600 * 1000


def ts(segment: Segment) -> tuple[int, ...]:
    """Give value and echo."""
    return segment.options["ts"]


def open_timed(s: Script, *, inbound: bool = False, stamp: int = 100, mss: int = 1460) -> int:
    """Establish a connection with timestamps, the guest's clock at *stamp*; returns our clock."""
    options = f"win=65535 mss={mss} ws=7 sack_ok ts={stamp},"
    if inbound:
        s.peer.knock()
        clock = ts(s.host("S seq=0"))[0]
        s.guest(f"SA seq=0 ack=1 {options}{clock}")
        assert ts(s.host("A seq=1 ack=1"))[1] == stamp
    else:
        s.guest(f"S seq=0 {options}0")
        s.sock.connected()
        clock, echo = ts(s.host("SA seq=0 ack=1"))
        assert echo == stamp
        s.guest(f"A seq=1 ack=1 ts={stamp},{clock}")
        s.nothing()
    assert s.state == "ESTABLISHED"
    return clock


# Negotiation (3.2).


@every_case
def test_option_of_syn_answered(case: Case) -> None:
    with Script(**case) as s:
        s.guest(f"{SYN} ts=4000000000,0")
        s.sock.connected()
        assert ts(s.host("SA seq=0 ack=1"))[1] == 4000000000


@every_case
def test_guest_without_timestamps_sees_none(case: Case) -> None:
    with Script(**case) as s:
        s.guest(SYN)
        s.sock.connected()
        assert "ts" not in s.host("SA seq=0 ack=1").options
        s.guest("A seq=1 ack=1", "PA seq=1 ack=1 len=10")
        s.sock.deliver(s.bytes_from_host(1460))
        found = s.take_all()
        assert found
        assert not any(segment.options for segment in found)
        # One that comes nevertheless says nothing.
        s.guest("PA seq=11 ack=1461 len=10 ts=5,5", "PA seq=21 ack=1461 len=10 ts=4,5")
        assert s.take_all()[-1].options == {}
        assert s.sock.taken == s.bytes_from_guest(30)


@every_case
def test_offered_to_guest_and_dropped_where_not_answered(case: Case) -> None:
    with Script(**case) as s:
        s.peer.knock()
        assert ts(s.host("S seq=0"))[1] == 0
        s.guest("SA seq=0 ack=1 win=65535 mss=1460 ws=7")
        assert "ts" not in s.host("A seq=1 ack=1").options
        s.guest("PA seq=1 ack=1 len=10")
        assert "ts" not in s.host("A seq=1 ack=11").options


@either_way
@every_case
def test_each_segment_has_it_once_negotiated(case: Case, inbound: bool) -> None:
    with Script(**case) as s:
        clock = open_timed(s, inbound=inbound)
        s.sock.deliver(s.bytes_from_host(100))
        assert ts(s.host("PA seq=1 ack=1 len=100")) == (clock, 100)
        s.guest(f"PA seq=1 ack=101 len=10 ts=101,{clock}")
        assert ts(s.host("A seq=101 ack=11")) == (clock, 101)
        s.sock.end()
        assert ts(s.host("FA seq=101 ack=11")) == (clock, 101)
        s.guest(f"A seq=11 ack=102 ts=102,{clock}")
        s.sock.fail(errno.ECONNRESET)
        assert ts(s.host("RA seq=102 ack=11")) == (clock, 102)


def test_malformed_option_of_syn_is_none() -> None:
    with Script() as s:
        # Written as a frame: the kind that the tests build is always whole.
        frame = bytearray(s.peer.frame(f"{SYN} ts=100,0"))
        at = bytes(frame).index(b"\x08\x0a")
        frame[at + 1] = 9
        s.run(("frames", [bytes(frame)]))
        s.sock.connected()
        assert "ts" not in s.host("SA seq=0 ack=1").options


@pytest.mark.parametrize("text", ["PA seq=1 ack=1 len=10", "A seq=1 ack=1", "FA seq=1 ack=1"])
@every_case
def test_segment_without_it_dropped_without_answer(case: Case, text: str) -> None:
    with Script(**case) as s:
        open_timed(s)
        s.guest(text)
        s.nothing()
        assert s.count("drop_tcp_timestamp") == 1
        assert s.sock.taken == b""
        assert s.state == "ESTABLISHED"
        s.guest("PA seq=1 ack=1 len=10 ts=100,0")
        s.host("A seq=1 ack=11")


# Segment sizes (RFC 6691) and what else is in the header.


@either_way
def test_segments_are_shorter_by_the_option_our_mss_is_not(inbound: bool) -> None:
    with Script(mtu=1500, offloads=False) as s:
        open_timed(s, inbound=inbound)
        s.sock.deliver(s.bytes_from_host(3000))
        assert [len(segment.payload) for segment in s.take_all()] == [1448, 1448, 104]
    with Script(mtu=1500) as s:
        s.guest(f"{SYN} ts=1,0")
        s.sock.connected()
        s.host("SA seq=0 ack=1 mss=1460")


@every_case
def test_frames_to_cut_name_the_shorter_size(case: Case) -> None:
    with Script(**case) as s:
        clock = open_timed(s)
        s.sock.deliver(s.bytes_from_host(14480))
        found = s.take()
        assert (found.gso_size, len(found.payload), ts(found)) == (1448, 14480, (clock, 100))


def test_smallest_mss() -> None:
    with Script(offloads=False) as s:
        open_timed(s, mss=1)
        s.sock.deliver(s.bytes_from_host(72))
        assert [len(segment.payload) for segment in s.take_all()] == [36, 36]


@every_case
def test_three_blocks_beside_it_the_newest(case: Case) -> None:
    with Script(**case) as s:
        clock = open_timed(s)
        for number in range(1, 6):
            s.guest(f"A seq={1 + 200 * number} ack=1 len=100 ts=101,{clock}")
        last = s.take_all()[-1]
        assert ts(last) == (clock, 100)
        assert last.options["sack"] == (1001, 1101, 801, 901, 601, 701)


# The clock (5.4).


def test_clock_ticks_in_milliseconds() -> None:
    with Script() as s:
        clock = open_timed(s)
        for passed in (1, 999, 5000):
            s.advance(passed)
            clock += passed
            s.guest(f"A seq=0 ack=1 ts=101,{clock & MASK}")
            assert ts(s.host("A seq=1 ack=1"))[0] == clock & MASK


def test_clock_of_each_connection_begins_elsewhere() -> None:
    with Script() as s:
        clocks = set()
        for port in range(41000, 41016):
            s.add_peer(port, 80).guest(f"{SYN} ts=1,0")
            peer = s.peers[port, 80]
            peer.sock.connected()
            clocks.add(ts(peer.host("SA seq=0 ack=1"))[0])
        numbers = sorted(clocks)
        assert len(numbers) == 16
        assert numbers[-1] - numbers[0] > 1 << 28


def test_repeated_syn_goes_on_with_the_clock() -> None:
    with Script() as s:
        s.peer.knock()
        clock = ts(s.host("S seq=0"))[0]
        s.advance(1000)
        assert ts(s.host("S seq=0"))[0] == clock + 1000 & MASK


@every_case
def test_our_clock_wraps(case: Case) -> None:
    with Script(**case) as s:
        s.guest(f"{SYN} ts=1,0")
        s.sock.connected()
        ahead = MASK - ts(s.host("SA seq=0 ack=1"))[0]
        s.guest("R seq=1")
    with Script(**case) as s:
        s.bench.now += ahead * NS_PER_MS
        s.peer.host_isn = None
        clock = open_timed(s)
        assert clock == MASK
        s.sock.deliver(s.bytes_from_host(100))
        s.host("PA seq=1 ack=1 len=100")
        s.advance(30)
        s.guest(f"PA seq=1 ack=101 len=10 ts=130,{MASK}")
        assert ts(s.host("A seq=101 ack=11")) == (29, 130)
        assert s.conn.srtt == 30 * NS_PER_MS


# The echo (4.3).


def test_echo_follows_segments_in_order() -> None:
    with Script() as s:
        open_timed(s)
        s.guest("PA seq=1 ack=1 len=10 ts=110,0")
        assert ts(s.host("A seq=1 ack=11"))[1] == 110
        s.guest("A seq=11 ack=1 ts=120,0")
        s.guest("PA seq=11 ack=1 len=10 ts=130,0")
        assert ts(s.host("A seq=1 ack=21"))[1] == 130


def test_echo_is_of_earliest_segment_not_acknowledged() -> None:
    with Script() as s:
        open_timed(s)
        s.guest("A seq=1 ack=1 len=10 ts=110,0", "PA seq=11 ack=1 len=10 ts=120,0")
        assert ts(s.host("A seq=1 ack=21"))[1] == 110


def test_segment_before_its_turn_is_not_echoed_the_one_that_fills_the_hole_is() -> None:
    with Script() as s:
        open_timed(s)
        s.guest("A seq=11 ack=1 len=10 ts=110,0")
        assert ts(s.host("A seq=1 ack=1 sack=11,21"))[1] == 100
        s.guest("A seq=1 ack=1 len=10 ts=150,0")
        assert ts(s.host("A seq=1 ack=21"))[1] == 150


def test_segment_outside_window_is_not_echoed() -> None:
    with Script() as s:
        open_timed(s)
        s.guest("A seq=3000000000 ack=1 len=10 ts=150,0")
        assert ts(s.host("A seq=1 ack=1"))[1] == 100
        assert s.count("drop_tcp_sequence") == 1


def test_repeated_syn_echoed_by_its_answer() -> None:
    with Script() as s:
        s.guest(f"{SYN} ts=100,0")
        s.advance(1000)
        s.guest(f"{SYN} ts=1100,0")
        s.sock.connected()
        assert ts(s.host("SA seq=0 ack=1"))[1] == 1100
        s.guest(f"{SYN} ts=1500,0")
        assert ts(s.host("SA seq=0 ack=1"))[1] == 1500
        s.guest(f"{SYN} ts=1100,0", SYN)                 # late, and malformed
        assert [ts(segment)[1] for segment in s.take_all()] == [1500, 1500]


# PAWS (5.3).


@pytest.mark.parametrize("stamp", [100, 0x7FFFFFFF, 0xFFFFFFFF, 5])
@every_case
def test_older_segment_dropped_and_answered(case: Case, stamp: int) -> None:
    with Script(**case) as s:
        open_timed(s, stamp=stamp)
        for number, age in enumerate((1, 1000, (1 << 31) - 1), 1):
            s.guest(f"PA seq=1 ack=1 len=10 ts={stamp - age & MASK},0")
            assert ts(s.host("A seq=1 ack=1"))[1] == stamp
            assert s.count("drop_tcp_timestamp") == number
        assert s.sock.taken == b""
        s.guest(f"PA seq=1 ack=1 len=10 ts={stamp},0")
        s.host("A seq=1 ack=11")


@every_case
def test_guests_clock_wraps(case: Case) -> None:
    with Script(**case) as s:
        open_timed(s, stamp=MASK - 1)
        for number, stamp in enumerate((MASK, 0, 1, 0x7FFFFFFF, 0xFFFFFFF0, 3)):
            s.guest(f"PA seq={1 + 10 * number} ack=1 len=10 ts={stamp},0")
            assert ts(s.host(f"A seq=1 ack={11 + 10 * number}"))[1] == stamp
        assert s.count("drop_tcp_timestamp") == 0


def test_old_fin_and_acknowledgement_say_nothing() -> None:
    with Script() as s:
        open_timed(s)
        s.sock.deliver(s.bytes_from_host(100))
        s.host("PA seq=1 ack=1 len=100")
        s.guest("FA seq=1 ack=101 ts=99,0")
        s.host("A seq=101 ack=1")
        assert s.state == "ESTABLISHED"
        assert s.sock.consumed == 0


def test_answers_to_old_segments_without_data_are_limited() -> None:
    with Script() as s:
        open_timed(s)
        for _ in range(50):
            s.guest("A seq=1 ack=1 ts=99,0")
        assert len(s.take_all()) == 10
        assert s.count("tcp_acks_withheld") == 40
        assert s.count("drop_tcp_timestamp") == 50


@pytest.mark.parametrize("option", ["", " ts=1,0", " ts=200,0"])
def test_reset_counts_whatever_its_stamp(option: str) -> None:
    with Script() as s:
        open_timed(s)
        s.guest(f"R seq=1{option}")
        s.ended()
        assert s.kernel.socks[100].status == "aborted"


@pytest.mark.parametrize("option", ["", " ts=1,0", " ts=200,0"])
def test_syn_of_guest_that_forgot_is_challenged_whatever_its_stamp(option: str) -> None:
    with Script() as s:
        open_timed(s)
        s.guest(f"S seq=1 mss=1460{option}")
        assert ts(s.host("A seq=1 ack=1"))[1] == 100
        assert s.count("tcp_challenge_acks") == 1
        s.guest("R seq=1")
        s.ended()


def test_stamp_of_reset_is_not_echoed() -> None:
    with Script() as s:
        open_timed(s)
        s.guest("R seq=2 ts=500,0")                     # in the window: challenged
        assert ts(s.host("A seq=1 ack=1"))[1] == 100


@pytest.mark.parametrize(("days", "is_taken"), [(23.9, False), (24.1, True)])
def test_after_24_days_any_stamp_is_news(days: float, is_taken: bool) -> None:
    with Script() as s:
        open_timed(s)
        s.bench.now = s.start + int(days * DAY_MS) * NS_PER_MS
        s.guest("PA seq=1 ack=1 len=10 ts=99,0")
        assert bool(s.sock.taken) is is_taken
        assert ts(s.take_all()[-1])[1] == (99 if is_taken else 100)


# The round trip (4.1).


def test_round_trip_from_the_echo_of_repeated_data_as_well() -> None:
    with Script() as s:
        clock = open_timed(s)
        s.sock.deliver(s.bytes_from_host(100))
        s.host("PA seq=1 ack=1 len=100")
        s.advance(1000)
        again = ts(s.host("PA seq=1 ack=1 len=100"))[0]
        assert again == clock + 1000 & MASK
        s.advance(40)
        s.guest(f"A seq=1 ack=101 ts=101,{again}")
        assert s.conn.srtt == 40 * NS_PER_MS


def test_one_sample_per_window() -> None:
    with Script() as s:
        clock = open_timed(s)
        s.sock.deliver(s.bytes_from_host(1448 * 4))
        assert s.received() == 1448 * 4
        s.advance(20)
        s.guest(f"A seq=1 ack=1449 ts=101,{clock}")
        assert s.conn.srtt == 20 * NS_PER_MS
        s.advance(100)
        s.guest(f"A seq=1 ack=2897 ts=102,{clock}")
        assert s.conn.srtt == 20 * NS_PER_MS
        s.guest(f"A seq=1 ack=5793 ts=103,{clock}")
        assert s.conn.srtt == 32.5 * NS_PER_MS


@pytest.mark.parametrize("age", [-1, 60_001, 1 << 31])
def test_what_is_no_echo_is_no_sample(age: int) -> None:
    with Script() as s:
        clock = open_timed(s)
        s.sock.deliver(s.bytes_from_host(100))
        s.host("PA seq=1 ack=1 len=100")
        s.guest(f"A seq=1 ack=101 ts=101,{clock - age & MASK}")
        assert s.conn.srtt == 0
