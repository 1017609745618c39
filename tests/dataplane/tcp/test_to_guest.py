"""Data from the socket to the guest: frames, windows, probes, a link that does not drain, timers."""

import errno

import pytest

from tests.dataplane.tcp.script import CASES, Case, Script

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


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
        assert s.received() > 4 << 19
        assert s.turns - before >= 4
        s.peer.inbox.clear()


# Windows.


@every_case
def test_window_of_guest_filled_and_not_exceeded(case: Case) -> None:
    with Script(**case) as s:
        s.connect(win=100)                                          # 12800 bytes
        s.sock.deliver(s.bytes_from_host(100_000))
        sent = s.received()
        assert 12_800 - 1460 < sent <= 12_800
        s.guest("A seq=1 ack=1461 win=100")
        sent += s.received()
        assert 12_800 < sent <= 14_260
        for _ in range(200):
            s.guest(f"A seq=1 ack={1 + sent} win=100")
            sent += s.received()
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
        sent = s.received()
        assert sent == 12_800 - 12_800 % 1460
        for more in (1, 2):
            s.guest(f"A seq=1 ack=1 win={100 + more}")              # 128 bytes: not worth a segment
        assert s.received() == 0
        s.guest(f"A seq=1 ack=1 win={100 + 12}")
        assert s.received() >= 1460


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
        assert s.received() > 0


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


def test_window_taken_back_and_given_again_repeats_two_segments() -> None:
    # Whether the guest dropped what was on its way is told by its acknowledgements only.
    with Script() as s:
        s.connect()
        s.sock.deliver(s.bytes_from_host(50_000))
        assert s.received() == 50_000
        for _ in range(3):
            s.guest("A seq=1 ack=1 win=0")
            s.nothing()
            s.guest("A seq=1 ack=1 win=512")
            assert [(segment.seq, len(segment.payload)) for segment in s.take_all()] == [(1, 2920)]
        s.guest("A seq=1 ack=50001 win=512")                        # it had all of it
        s.sock.deliver(s.bytes_from_host(2000, 50_000))
        s.host("PA seq=50001 ack=1 len=2000")
        s.guest("A seq=1 ack=52001 win=512")
        s.advance(100_000)
        s.nothing()


def test_window_taken_back_and_all_dropped_is_repaired_without_a_time_out() -> None:
    with Script() as s:
        s.connect()
        s.sock.deliver(s.bytes_from_host(50_000))
        assert s.received() == 50_000
        s.guest("A seq=1 ack=1 win=0")
        s.guest("A seq=1 ack=1 win=512")
        acked, rounds = 0, 0
        while acked < 50_000:
            segments = s.take_all()
            assert segments[0].seq == 1 + acked
            acked += sum(len(segment.payload) for segment in segments)
            rounds += 1
            s.guest(f"A seq=1 ack={1 + acked} win=512")
        assert rounds <= 6                                          # it doubles with each
        assert s.count("tcp_timeouts") == 0
        assert s.sock.consumed == 50_000


def test_windows_closed_and_opened_in_one_batch_repeat_two_segments() -> None:
    with Script() as s:
        s.connect()
        s.sock.deliver(s.bytes_from_host(50_000))
        assert s.received() == 50_000
        s.guest(*["A seq=1 ack=1 win=0", "A seq=1 ack=1 win=512"] * 100)
        assert s.received() == 2920
        s.guest("A seq=1 ack=50001 win=512")


def test_probing_does_not_shrink_congestion_window() -> None:
    with Script() as s:
        s.connect()
        s.guest("A seq=1 ack=1 win=0")
        s.sock.deliver(s.bytes_from_host(50_000))
        s.advance(1000)
        s.take_all()
        s.guest("A seq=1 ack=1 win=512")
        assert s.received() == 50_000


def test_window_of_repeated_segment_with_new_acknowledgement_taken() -> None:
    with Script() as s:
        s.connect(win=40)                                           # 5120 bytes
        s.guest("PA seq=1 ack=1 len=100 win=40", "PA seq=101 ack=1 len=100 win=40", "A seq=201 ack=1 win=40")
        s.sock.deliver(s.bytes_from_host(20_000))
        sent = s.received()
        s.guest(f"PA seq=101 ack={1 + sent} len=100 win=0")         # repeated, but its acknowledgement is new
        assert s.received() == 0
        assert s.conn.snd_wnd == 0


# Links.


@every_case
def test_blocked_link_loses_nothing_and_resumes(case: Case) -> None:
    with Script(**case) as s:
        s.connect()
        s.bench.link.room = 1
        s.sock.deliver(s.bytes_from_host(500_000))
        sent = s.received()
        assert sent < 70_000
        before = s.turns
        s.run()
        assert s.turns == before
        for _ in range(20):
            s.open_link(1)
            sent += s.received()
        s.open_link()
        sent += s.received()
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
        assert s.turns - before < 5 + 24 // 2  # keep-alive looks in every two hours
        s.open_link()
        assert s.received() >= 500_000
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
        sent = s.received()
        assert sent > 0
        s.guest(f"A seq=1 ack={1 + sent}")
        while sent < 100_000:
            sent += s.received()
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
        sent = s.received()
        s.advance(1000)
        s.received()
        while sock.consumed < 30_000:
            s.guest(f"A seq=1 ack={1 + sent}")
            sent = max(sent, s.conn.snd_max - s.conn.iss - 1 & 0xFFFFFFFF)
            s.take_all()
        sock.end()
        s.host("FA seq=30001 ack=1")


# Timers.


@every_case
def test_idle_connection_sleeps_for_hours(case: Case) -> None:
    with Script(**case) as s:
        s.connect()
        s.sock.deliver(s.bytes_from_host(100))
        s.host("PA seq=1 ack=1 len=100")
        s.guest("PA seq=1 ack=101 len=100")
        s.advance(2000)
        s.take_all()
        assert s.sleep_s > 3600
        before = s.turns
        s.advance(3_600_000)
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
