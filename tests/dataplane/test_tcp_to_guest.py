"""Data from the socket to the guest: windows, probes, loss, frames, a link that does not drain."""

import errno

import pytest

from tests.dataplane.tcp_script import CASES, Case, Script

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def received(s: Script) -> int:
    """Take all segments; returns how many bytes of payload they carried."""
    return sum(len(segment.payload) for segment in s.take_all())


# Frames.


@every_case
def test_large_write_leaves_in_frames_of_whole_segments(case: Case) -> None:
    with Script(**case) as s:
        s.connect(mss=1460)
        s.sock.deliver(s.bytes_from_host(150_000))
        segments = s.take_all()
        mss = 1460
        assert [len(segment.payload) % mss for segment in segments[:-1]] == [0] * (len(segments) - 1)
        assert len(segments) == 3
        assert all(segment.gso_size == mss for segment in segments)
        assert [segment.letters for segment in segments] == ["A", "A", "PA"]


@pytest.mark.parametrize("family", [4, 6])
def test_guest_mss_above_ours_cut(family: int) -> None:
    with Script(family=family, mtu=1500) as s:
        s.connect(mss=9000)
        s.sock.deliver(s.bytes_from_host(20_000))
        assert s.take().gso_size == (1460 if family == 4 else 1440)
        s.take_all()


@pytest.mark.parametrize("family", [4, 6])
def test_largest_mss_one_segment_per_frame(family: int) -> None:
    with Script(family=family) as s:
        s.connect(mss=65480 if family == 4 else 65460)
        s.sock.deliver(s.bytes_from_host(200_000))
        segments = s.take_all()
        assert not any(segment.gso_size for segment in segments)
        assert len(segments[0].payload) == (65480 if family == 4 else 65460)


@pytest.mark.parametrize("family", [4, 6])
def test_no_mtu_assigned_largest_packets(family: int) -> None:
    with Script(family=family, mtu=0) as s:
        s.connect(mss=65535)
        s.sock.deliver(s.bytes_from_host(200_000))
        assert len(s.take().payload) == (65495 if family == 4 else 65475)
        s.take_all()


@every_case
def test_link_without_offloads_gets_complete_segments(case: Case) -> None:
    with Script(**case, offloads=False) as s:
        s.connect(mss=1460)
        s.sock.deliver(s.bytes_from_host(10_000))
        segments = s.take_all()
        assert [len(segment.payload) for segment in segments] == [1460] * 6 + [1240]
        assert [segment.letters for segment in segments] == ["A"] * 6 + ["PA"]
        assert [segment.seq for segment in segments] == [1 + 1460 * i for i in range(7)]


def test_much_data_shares_turns() -> None:
    with Script(capacity=1 << 20) as s:
        sock = s.connect(win=65535, ws=14)
        sock.deliver(s.bytes_from_host(5 << 20))
        before = s.turns
        assert received(s) > 4 << 19
        assert s.turns - before >= 4
        s.peer.inbox.clear()


# Windows.


@every_case
def test_window_of_guest_filled_and_not_exceeded(case: Case) -> None:
    with Script(**case) as s:
        s.connect(win=100)                                          # 12800 bytes
        s.sock.deliver(s.bytes_from_host(100_000))
        sent = received(s)
        assert 12_800 - 1460 < sent <= 12_800
        s.guest("A seq=1 ack=1461 win=100")
        sent += received(s)
        assert 12_800 < sent <= 14_260
        for _ in range(200):
            s.guest(f"A seq=1 ack={1 + sent} win=100")
            sent += received(s)
        assert sent == 100_000
        assert s.sock.consumed == 100_000


def test_window_smaller_than_segment_used_up() -> None:
    with Script() as s:
        s.connect(win=5)                                            # 640 bytes
        s.sock.deliver(s.bytes_from_host(1000))
        s.host("A seq=1 ack=1 len=640")
        s.guest("A seq=1 ack=641 win=5")
        s.host("PA seq=641 ack=1 len=360")


def test_silly_segments_avoided() -> None:
    with Script() as s:
        s.connect(win=100)
        s.sock.deliver(s.bytes_from_host(50_000))
        sent = received(s)
        assert sent == 12_800 - 12_800 % 1460
        for more in (1, 2):
            s.guest(f"A seq=1 ack=1 win={100 + more}")              # 128 bytes: not worth a segment
        assert received(s) == 0
        s.guest(f"A seq=1 ack=1 win={100 + 12}")
        assert received(s) >= 1460


def test_half_the_window_is_worth_a_segment() -> None:
    # RFC 9293 3.8.6.2.1: with the largest segments a window holds one or two; do not wait for the rest.
    with Script() as s:
        s.connect(win=512, mss=65480)                               # 65536 bytes
        s.sock.deliver(s.bytes_from_host(20_000))
        s.host("PA seq=1 ack=1 len=20000")
        s.sock.deliver(s.bytes_from_host(20_000, 20_000))
        s.host("PA seq=20001 ack=1 len=20000")


@every_case
def test_zero_window_probed_without_end_while_answered(case: Case) -> None:
    with Script(**case) as s:
        s.connect()
        s.guest("A seq=1 ack=1 win=0")
        s.sock.deliver(s.bytes_from_host(5000))
        s.nothing()
        waits = []
        for _ in range(40):
            before = s.bench.now
            while not s.peer.inbox:
                s.advance(100)
            s.host("A seq=1 ack=1 len=1")
            waits.append((s.bench.now - before) / 1e9)
            s.guest("A seq=1 ack=1 win=0")
        assert waits == sorted(waits)
        assert waits[0] <= 1
        assert max(waits) <= 60.1
        s.guest("A seq=1 ack=1 win=512")
        # At once, from the first byte on: the probe's byte fell beside the window.
        assert s.host("PA seq=1 ack=1 len=5000")
        s.guest("A seq=1 ack=5001")
        s.advance(100_000)
        s.nothing()


@every_case
def test_probe_byte_taken_goes_on_behind_it(case: Case) -> None:
    with Script(**case) as s:
        s.connect()
        s.guest("A seq=1 ack=1 win=0")
        s.sock.deliver(s.bytes_from_host(5000))
        s.advance(1000)
        s.host("A seq=1 ack=1 len=1")
        s.guest("A seq=1 ack=2 win=512")
        s.host("PA seq=2 ack=1 len=4999")


def test_after_long_probing_loss_repaired_quickly() -> None:
    with Script() as s:
        s.connect()
        s.guest("A seq=1 ack=1 win=0")
        s.sock.deliver(s.bytes_from_host(5000))
        for _ in range(12):
            s.advance(61_000)
            s.guest("A seq=1 ack=1 win=0")
        s.take_all()
        s.guest("A seq=1 ack=1 win=512")
        s.host("PA seq=1 ack=1 len=5000")                           # and is lost
        s.advance(1000)
        assert received(s) > 0


def test_zero_window_never_answered_gives_up() -> None:
    with Script() as s:
        s.connect()
        s.guest("A seq=1 ack=1 win=0")
        s.sock.deliver(s.bytes_from_host(5000))
        s.advance(3_600_000)
        segments = s.take_all()
        assert [segment.letters for segment in segments] == ["A"] * 15 + ["RA"]
        s.ended()


def test_window_closed_while_guest_sends_acknowledgements_acceptable() -> None:
    # With a probe outstanding SND.NXT is behind the guest's window: an acknowledgement there is dropped.
    with Script() as s:
        s.connect()
        s.guest("A seq=1 ack=1 win=0")
        s.sock.deliver(s.bytes_from_host(5000))
        s.advance(1000)
        s.host("A seq=1 ack=1 len=1")
        s.guest("A seq=1 ack=1 win=0 len=1460")
        s.host("A seq=1 ack=1461")


def test_probing_does_not_shrink_congestion_window() -> None:
    with Script() as s:
        s.connect()
        s.guest("A seq=1 ack=1 win=0")
        s.sock.deliver(s.bytes_from_host(50_000))
        s.advance(1000)
        s.take_all()
        s.guest("A seq=1 ack=1 win=512")
        assert received(s) == 50_000


def test_window_of_repeated_segment_with_new_acknowledgement_taken() -> None:
    with Script() as s:
        s.connect(win=40)                                           # 5120 bytes
        s.guest("PA seq=1 ack=1 len=100 win=40", "PA seq=101 ack=1 len=100 win=40", "A seq=201 ack=1 win=40")
        s.sock.deliver(s.bytes_from_host(20_000))
        sent = received(s)
        s.guest(f"PA seq=101 ack={1 + sent} len=100 win=0")         # repeated, but its acknowledgement is new
        assert received(s) == 0
        assert s.conn.snd_wnd == 0


# Loss.


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
            assert received(s) == 100
            waits.append(round((s.bench.now - before) / 1e9))
        assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
        s.guest("A seq=1 ack=101")
        assert s.sock.consumed == 100
        s.advance(1000)
        assert s.bench.next_deadline is None


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
        assert received(s) == 20_000
        s.advance(1000)
        first = s.take_all()
        assert first[0].seq == 1
        assert sum(len(segment.payload) for segment in first) <= 2 * 1460   # starts slowly, RFC 5681 3.1
        acked = sum(len(segment.payload) for segment in first)
        while acked < 20_000:
            s.guest(f"A seq=1 ack={1 + acked}")
            acked += received(s)
        s.guest("A seq=1 ack=20001")
        assert s.sock.consumed == 20_000
        assert s.count("tcp_timeouts") == 1


@every_case
def test_acknowledgement_beyond_what_was_repeated_jumps_ahead(case: Case) -> None:
    with Script(**case) as s:
        s.connect()
        s.sock.deliver(s.bytes_from_host(20_000))
        assert received(s) == 20_000
        s.advance(1000)
        assert received(s) > 0
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
        assert received(s) == 14_600
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
        assert received(s) == 14_600
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
        received(s)
        s.guest(*texts)
        assert received(s) == 0
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
        received(s)
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
        assert received(s) == 5000
        s.guest("A seq=1 ack=5001")
        assert sock.consumed == 5000


@every_case
def test_socket_gives_less_than_was_acknowledged_rest_dropped_later(case: Case) -> None:
    # As at an urgent mark of the remote's (tcp(7)): recv stops there.
    with Script(**case) as s:
        sock = s.connect()
        sock.deliver(s.bytes_from_host(20_000))
        received(s)
        s.advance(1000)
        received(s)
        sock.consume_limits = [1000, 1000]
        s.guest("A seq=1 ack=15001")
        received(s)
        s.guest("A seq=1 ack=20001")
        sock.deliver(s.bytes_from_host(100, 20_000))
        s.host("PA seq=20001 ack=1 len=100")
        s.guest("A seq=1 ack=20101")
        assert sock.consumed == 20_100


# Links.


@every_case
def test_blocked_link_loses_nothing_and_resumes(case: Case) -> None:
    with Script(**case) as s:
        s.connect()
        s.bench.link.room = 1
        s.sock.deliver(s.bytes_from_host(500_000))
        sent = received(s)
        assert sent < 70_000
        before = s.turns
        s.run()
        assert s.turns == before
        for _ in range(20):
            s.open_link(1)
            sent += received(s)
        s.open_link()
        sent += received(s)
        assert sent == 500_000
        assert s.count("drop_link_full") == 0
        assert s.count("tcp_retransmits") == 0


def test_blocked_link_costs_no_wakeups_and_no_retries() -> None:
    # A guest that is paused reads nothing; that is no sign that it is gone.
    with Script() as s:
        s.connect()
        s.bench.link.room = 0
        s.sock.deliver(s.bytes_from_host(500_000))
        before = s.turns
        s.advance(24 * 3_600_000)
        assert s.state == "ESTABLISHED"
        assert s.turns - before < 5
        s.open_link()
        assert received(s) >= 500_000
        s.guest("A seq=1 ack=500001")
        assert s.sock.consumed == 500_000


def test_blocked_link_many_connections_all_resume() -> None:
    with Script() as s:
        peers = [s.add_peer(41_000 + i, 80) for i in range(8)]
        socks = [peer.connect() for peer in peers]
        s.bench.link.room = 0
        for sock in socks:
            sock.deliver(s.bytes_from_host(100_000))
        s.run()
        s.open_link()
        for peer in peers:
            assert sum(len(segment.payload) for segment in peer.take_all()) == 100_000


def test_connection_ends_while_it_waits_for_link() -> None:
    with Script() as s:
        sock = s.connect()
        s.bench.link.room = 0
        sock.deliver(s.bytes_from_host(500_000))
        s.run()
        sock.fail(errno.ECONNRESET)
        s.run()
        assert s.bench.n_active == 0
        s.open_link()
        s.take_all()
        s.ended()
        s.peer.renew(9000)
        s.connect()                                                 # the record can be used again


def test_acknowledgement_for_blocked_link_sent_later() -> None:
    with Script() as s:
        s.connect()
        s.bench.link.room = 0
        s.bench.link.keep_most = 0
        s.guest("A seq=1 ack=1 len=100")
        s.nothing()
        s.open_link()
        s.host("A seq=1 ack=101")


@every_case
def test_refused_frame_sent_again_from_same_place(case: Case) -> None:
    with Script(**case) as s:
        s.connect()
        s.bench.link.refuse_next = 1
        s.sock.deliver(s.bytes_from_host(100_000))
        s.nothing()
        s.advance(1000)
        sent = received(s)
        assert sent > 0
        s.guest(f"A seq=1 ack={1 + sent}")
        while sent < 100_000:
            sent += received(s)
            s.guest(f"A seq=1 ack={1 + sent}")
        assert s.sock.consumed == 100_000


def test_refused_fin_repeated() -> None:
    with Script() as s:
        sock = s.connect()
        s.bench.link.refuse_next = 1
        sock.end()
        s.nothing()
        s.advance(1000)
        s.host("FA seq=1 ack=1")


def test_blocked_link_does_not_count_against_handshake() -> None:
    with Script() as s:
        s.bench.link.room = 0
        s.bench.link.keep_most = 0
        other = s.add_peer(41_000, 80)
        other.guest("A seq=1 ack=1")                                # its answer blocks the link
        s.peer.knock()
        s.advance(3_600_000)
        assert s.state == "SYN_SENT"
        s.open_link()
        s.advance(1000)
        s.host("S seq=0")
        other.take_all()


@pytest.mark.parametrize("letters", ["S", "SA"])
def test_refused_syn_repeated(letters: str) -> None:
    with Script() as s:
        s.bench.link.refuse_next = 1
        if letters == "S":
            s.peer.knock()
        else:
            s.guest("S seq=0 win=65535 mss=1460 ws=7")
            s.sock.connected()
        s.nothing()
        s.advance(1000)
        assert s.take().letters == letters


# Without SO_PEEK_OFF.


@every_case
def test_no_peek_offset_same_dialogue(case: Case) -> None:
    with Script(**case, peek_off=False) as s:
        sock = s.connect()
        s.bench.link.refuse_next = 1
        sock.deliver(s.bytes_from_host(30_000))
        s.advance(1000)
        sent = received(s)
        s.advance(1000)
        received(s)
        while sock.consumed < 30_000:
            s.guest(f"A seq=1 ack={1 + sent}")
            sent = max(sent, s.conn.snd_max - s.conn.iss - 1 & 0xFFFFFFFF)
            s.take_all()
        sock.end()
        s.host("FA seq=30001 ack=1")


# Timers.


@every_case
def test_idle_connection_has_no_timer(case: Case) -> None:
    with Script(**case) as s:
        s.connect()
        s.sock.deliver(s.bytes_from_host(100))
        s.host("PA seq=1 ack=1 len=100")
        s.guest("PA seq=1 ack=101 len=100")
        s.advance(2000)
        s.take_all()
        assert s.bench.next_deadline is None
        before = s.turns
        s.advance(24 * 3_600_000)
        assert s.turns == before
        assert s.state == "ESTABLISHED"


def test_acknowledged_data_costs_no_timer_operation_each() -> None:
    with Script() as s:
        s.connect()
        sent = 0
        before = s.turns
        for _ in range(100):
            s.sock.deliver(s.bytes_from_host(100, sent))
            s.take()
            sent += 100
            s.guest(f"A seq=1 ack={1 + sent}")
            s.advance(1)
        # One turn for the data and one for its acknowledgement; the timer's entry moves now and then only.
        assert s.turns - before <= 200 + 3
