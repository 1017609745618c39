"""Which segments are accepted, which are answered, which are dropped: RFC 9293 3.10.7, RFC 5961."""

import pytest

from tests.dataplane.tcp.script import CASES, Case, Script

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
SYN = "S seq=0 win=65535 mss=1460 ws=7"


# Segments that belong to no connection (3.10.7.1).


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("A seq=5 ack=9", "R seq=9"),
        ("PA seq=5 ack=9 len=10", "R seq=9"),
        ("FA seq=5 ack=9", "R seq=9"),
        ("SA seq=5 ack=9", "R seq=9"),
        ("F seq=5", "RA seq=0 ack=6"),
        (". seq=5 len=10", "RA seq=0 ack=15"),
        ("SF seq=5", "RA seq=0 ack=7"),
        (". seq=5", "RA seq=0 ack=5"),
    ],
)
@every_case
def test_unknown_flow_answered_by_reset(case: Case, text: str, answer: str) -> None:
    with Script(**case) as s:
        s.peer.host_isn = case["host_isn"]
        segment = s.peer.segment(text)
        s.guest(segment)
        # A number of ours that the guest does not name is 0 on the wire, not relative.
        if "R seq=9" in answer:
            s.host(answer)
        else:
            found = s.take()
            assert (found.letters, found.seq) == ("RA", -case["host_isn"] & 0xFFFFFFFF)
            assert f"ack={found.ack}" in answer
        s.ended()


@pytest.mark.parametrize("text", ["R seq=5", "RA seq=5 ack=9", "RS seq=5", "RF seq=5"])
def test_unknown_flow_reset_not_answered(text: str) -> None:
    with Script() as s:
        s.guest(text)
        s.nothing()
        s.ended()


@pytest.mark.parametrize(("source", "destination"), [(0, 80), (40000, 0)])
def test_port_zero_dropped(source: int, destination: int) -> None:
    with Script() as s:
        s.add_peer(source, destination).guest(SYN)
        assert s.count("drop_bad_port") == 1
        assert not s.kernel.socks


# The window check (first).


@every_case
def test_segment_before_window_acknowledged_and_dropped(case: Case) -> None:
    with Script(**case) as s:
        s.connect()
        s.guest("PA seq=1 ack=1 len=100")
        s.advance(1)
        s.host("A seq=1 ack=101")
        s.guest("PA seq=1 ack=1 len=50")
        s.host("A seq=1 ack=101")
        assert s.sock.taken == s.bytes_from_guest(100)


@every_case
def test_whole_repetition_acknowledged_at_once(case: Case) -> None:
    with Script(**case) as s:
        s.connect()
        s.guest("PA seq=1 ack=1 len=100")
        s.advance(1)
        s.host("A seq=1 ack=101")
        s.guest("PA seq=1 ack=1 len=100")
        s.host("A seq=1 ack=101")
        assert s.sock.taken == s.bytes_from_guest(100)


@every_case
def test_new_part_of_overlapping_segment_taken(case: Case) -> None:
    with Script(**case) as s:
        s.connect()
        s.guest("A seq=1 ack=1 len=1460")
        s.host("A seq=1 ack=1461")
        s.guest("A seq=731 ack=1 len=1460")
        s.host("A seq=1 ack=2191")
        assert s.sock.taken == s.bytes_from_guest(2190)


@every_case
def test_segments_in_one_batch_written_by_one_call(case: Case) -> None:
    with Script(**case) as s:
        s.connect()
        calls = s.sock.calls["send"]
        s.guest(*[f"A seq={1 + 1460 * i} ack=1 len=1460" for i in range(20)])
        s.host("A seq=1 ack=29201")
        assert s.sock.calls["send"] == calls + 1
        assert s.sock.calls["free_space"] <= 2 + 1
        assert s.sock.taken == s.bytes_from_guest(29200)


def test_more_segments_than_one_call_takes_all_written() -> None:
    with Script() as s:
        s.connect()
        s.guest(*[f"A seq={1 + 100 * i} ack=1 len=100" for i in range(200)])
        s.host("A seq=1 ack=20001")
        assert s.sock.taken == s.bytes_from_guest(20000)


@every_case
def test_hole_one_duplicate_acknowledgement_per_segment(case: Case) -> None:
    with Script(**case) as s:
        s.connect()
        s.guest("A seq=1 ack=1 len=1460", *[f"A seq={2921 + 1460 * i} ack=1 len=1460" for i in range(5)])
        s.host(*["A seq=1 ack=1461"] * 5)
        s.nothing()
        s.guest("A seq=1461 ack=1 len=1460")
        s.host("A seq=1 ack=10221")
        assert s.sock.taken == s.bytes_from_guest(10220)


@every_case
def test_segment_at_right_edge_acknowledged_not_stored(case: Case) -> None:
    with Script(**case, capacity=4096) as s:
        s.connect()
        edge = s.conn.rcv_adv - case["guest_isn"] & 0xFFFFFFFF
        s.sock.capacity = edge - 1
        s.guest(f"A seq=1 ack=1 len={edge - 1}")
        s.host(f"A seq=1 ack={edge} win=0")
        s.guest(f"A seq={edge} ack=1 len=1")                       # a window probe
        s.host(f"A seq=1 ack={edge} win=0")
        s.guest(f"A seq={edge} ack=1 len=1460")
        s.host(f"A seq=1 ack={edge} win=0")
        assert len(s.sock.taken) == edge - 1


@every_case
def test_segment_beyond_right_edge_dropped_and_acknowledged(case: Case) -> None:
    with Script(**case, capacity=4096) as s:
        s.connect()
        edge = s.conn.rcv_adv - case["guest_isn"] & 0xFFFFFFFF
        before = s.count("drop_tcp_sequence")
        s.guest(f"A seq={edge + 1} ack=1 len=10")
        s.host("A seq=1 ack=1")
        assert s.count("drop_tcp_sequence") == before + 1


@every_case
def test_segment_over_right_edge_cut(case: Case) -> None:
    with Script(**case, capacity=4096) as s:
        s.connect()
        edge = s.conn.rcv_adv - case["guest_isn"] & 0xFFFFFFFF
        s.guest(f"FA seq=1 ack=1 len={edge + 99}")
        s.host(f"A seq=1 ack={edge}")
        assert s.state == "ESTABLISHED"                            # the FIN was behind the edge
        assert s.sock.taken == s.bytes_from_guest(edge - 1)


@pytest.mark.parametrize("distance", [1 << 24, (1 << 24) + 1, 1 << 30, (1 << 31) - 1])
@pytest.mark.parametrize("sign", [1, -1])
def test_far_sequence_numbers_refused_in_both_directions(distance: int, sign: int) -> None:
    with Script() as s:
        s.connect()
        s.guest(f"A seq={1 + sign * distance} ack=1 len=10")
        s.host("A seq=1 ack=1")
        assert not s.sock.taken


@every_case
def test_keep_alive_probe_answered(case: Case) -> None:
    with Script(**case) as s:
        s.connect()
        s.guest("A seq=0 ack=1")
        s.host("A seq=1 ack=1")
        s.guest("PA seq=1 ack=1 len=10")
        s.advance(1)
        s.host("A seq=1 ack=11")
        s.guest(s.peer.segment("A seq=10 ack=1 len=1"))            # with a byte of garbage, as old stacks do
        s.host("A seq=1 ack=11")
        assert s.sock.taken == s.bytes_from_guest(10)


# RST (second), RFC 5961 3.2.


@every_case
def test_reset_at_next_sequence_number_remote_sees_abort(case: Case) -> None:
    with Script(**case) as s:
        sock = s.connect()
        s.guest("R seq=1")
        s.ended()
        assert sock.status == "aborted"


@every_case
def test_reset_inside_window_challenged(case: Case) -> None:
    with Script(**case) as s:
        s.connect()
        s.guest("R seq=2")
        s.host("A seq=1 ack=1")
        assert s.state == "ESTABLISHED"
        assert s.count("tcp_challenge_acks") == 1


@pytest.mark.parametrize("seq", [0, -1, -(1 << 30), 1 << 25, 1 << 30])
def test_reset_outside_window_ignored(seq: int) -> None:
    with Script() as s:
        s.connect()
        s.guest(f"R seq={seq}")
        s.nothing()
        assert s.state == "ESTABLISHED"
        assert s.count("drop_tcp_sequence") == 1


def test_reset_after_data_in_same_batch_accepted() -> None:
    with Script() as s:
        sock = s.connect()
        s.guest("PA seq=1 ack=1 len=100", "R seq=101")
        s.take_all()
        s.ended()
        assert sock.status == "aborted"


# SYN (fourth), RFC 5961 4.2.


@pytest.mark.parametrize(
    "text", ["S seq=1", "S seq=100", "SA seq=1 ack=1", "S seq=0", "S seq=-70000", "S seq=999999999"]
)
def test_syn_in_connection_challenged(text: str) -> None:
    with Script() as s:
        s.connect()
        s.guest(text)
        s.host("A seq=1 ack=1")
        assert s.state == "ESTABLISHED"
        s.guest("PA seq=1 ack=1 len=10")
        s.advance(1)
        s.host("A seq=1 ack=11")


def test_guest_that_forgot_connection_gets_new_one() -> None:
    # It answers the challenge with a reset (RFC 5961 4.2), then repeats its SYN.
    with Script() as s:
        first = s.connect()
        s.guest("S seq=5000 win=65535 mss=1460")
        challenge = s.host("A seq=1 ack=1")
        s.guest(f"R seq={challenge.ack}")
        assert s.state == "CLOSED"
        assert first.status == "aborted"
        s.peer.renew(isn=6000)
        s.connect()


# ACK (fifth), RFC 5961 5.2.


def test_segment_without_ack_dropped() -> None:
    with Script() as s:
        s.connect()
        s.guest(". seq=1 len=10")
        s.nothing()
        assert not s.sock.taken
        assert s.count("drop_tcp_flags") == 1


@pytest.mark.parametrize("ack", [2, 1000, 1 << 30, (1 << 31) - 1])
@every_case
def test_acknowledgement_of_unsent_data_refused(case: Case, ack: int) -> None:
    with Script(**case) as s:
        s.connect()
        s.guest(f"PA seq=1 ack={ack} len=10")
        s.host("A seq=1 ack=1")
        assert not s.sock.taken
        assert s.count("drop_tcp_ack") == 1
        s.sock.deliver(s.bytes_from_host(10))
        s.host("PA seq=1 ack=1 len=10")
        assert s.sock.consumed == 0


@every_case
def test_old_acknowledgement_harmless(case: Case) -> None:
    with Script(**case) as s:
        s.connect()
        s.sock.deliver(s.bytes_from_host(2000))
        s.take_all()
        s.guest("A seq=1 ack=2001")
        s.guest("A seq=1 ack=1", "A seq=1 ack=1", "A seq=1 ack=1", "A seq=1 ack=1")
        s.nothing()
        assert s.sock.consumed == 2000
        assert s.conn.snd_una == s.conn.snd_nxt


def test_window_of_old_segment_not_taken() -> None:
    # RFC 9293 3.10.7.4: SND.WL1 and SND.WL2 keep old segments from changing the window.
    with Script() as s:
        s.connect(win=100)
        s.guest("A seq=1 ack=1 len=100 win=100", "A seq=101 ack=1 len=100 win=50")
        s.host("A seq=1 ack=201")
        assert s.conn.snd_wnd == 50 << 7
        s.guest("A seq=51 ack=1 len=160 win=7")
        s.host("A seq=1 ack=211")
        assert s.conn.snd_wnd == 50 << 7


# FIN (eighth).


@every_case
def test_fin_repeated_acknowledged_again(case: Case) -> None:
    with Script(**case) as s:
        s.connect()
        for _ in range(3):
            s.guest("FA seq=1 ack=1")
            s.host("A seq=1 ack=2")
        assert s.sock.calls["shut_write"] == 1


def test_data_behind_fin_dropped() -> None:
    with Script() as s:
        s.connect()
        s.guest("FPA seq=1 ack=1 len=10")
        s.host("A seq=1 ack=12")
        s.guest("PA seq=12 ack=1 len=10")
        assert s.sock.taken == s.bytes_from_guest(10)
        assert s.count("drop_tcp_flags") == 1
