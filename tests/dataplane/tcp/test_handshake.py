"""Opening connections in both directions, and not opening them."""

import errno

import pytest

from passt.facts.contracts import Target
from tests.dataplane.tcp.kernel import Sock
from tests.dataplane.tcp.script import CASES, GUESTS, Case, Script
from tests.dataplane.tcp.segment import ACK, FIN, RST
from tests.dataplane.tcp.segment import SYN as SYN_FLAG

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
SYN = "S seq=0 win=65535 mss=1460 ws=7"


@every_case
def test_guest_opens_connection_established(case: Case) -> None:
    with Script(**case) as s:
        s.guest(SYN)
        assert s.sock.peer == (s.peer.remote_address, 80)
        assert s.state == "CONNECTING"
        s.nothing()
        s.sock.connected()
        answer = s.host("SA seq=0 ack=1 win=65535 ws=8")
        assert answer.options["mss"] == (65520 - 20 - (20 if case["family"] == 4 else 40),)
        assert s.peer.host_isn == case["host_isn"]
        assert s.state == "SYN_RECEIVED"
        s.guest("A seq=1 ack=1 win=512")
        assert s.state == "ESTABLISHED"


@every_case
def test_host_opens_connection_established(case: Case) -> None:
    with Script(**case) as s:
        sock = s.peer.knock()
        question = s.host("S seq=0 win=65535 ws=8")
        assert question.options["mss"] == (65520 - 20 - (20 if case["family"] == 4 else 40),)
        assert s.peer.host_isn == case["host_isn"]
        assert s.state == "SYN_SENT"
        s.guest("SA seq=0 ack=1 win=65535 mss=1460 ws=7")
        s.host("A seq=1 ack=1")
        assert s.state == "ESTABLISHED"
        assert sock.is_open


def test_connect_that_succeeds_at_once_answered_at_once() -> None:
    with Script() as s:
        s.kernel.connect_results.append(0)
        s.guest(SYN)
        s.host("SA seq=0 ack=1")
        s.guest("A seq=1 ack=1")
        assert s.state == "ESTABLISHED"


def test_syn_without_options_smallest_assumptions() -> None:
    with Script() as s:
        s.guest("S seq=0 win=2000")
        s.sock.connected()
        answer = s.host("SA seq=0 ack=1")
        assert "ws" not in answer.options                       # RFC 7323 2.2
        s.guest("A seq=1 ack=1 win=2000")
        s.sock.deliver(s.bytes_from_host(900))
        assert s.host("PA seq=1 ack=1 len=900").gso_size == 536          # RFC 9293 3.7.1


def test_window_of_syn_not_scaled() -> None:
    with Script() as s:
        s.guest("S seq=0 win=100 mss=1460 ws=7")
        s.sock.connected()
        s.host("SA seq=0 ack=1")
        assert s.conn.snd_wnd == 100
        s.guest("A seq=1 ack=1 win=100")
        assert s.conn.snd_wnd == 12800


@pytest.mark.parametrize("scale", [1, 7, 11, 14])
def test_scale_is_what_the_send_buffer_asks_for(scale: int) -> None:
    with Script(capacity=2_000_000_000) as s:
        s.bench.window_scale = scale
        s.guest(SYN)
        s.sock.connected()
        s.host(f"SA seq=0 ack=1 win=65535 ws={scale}")
        s.guest("A seq=1 ack=1", "A seq=1 ack=1 len=1000")
        assert s.host("A seq=1 ack=1001").win >= 65535 - 1000
        client = s.add_peer(40001, 81)
        client.knock()
        client.host(f"S seq=0 ws={scale}")


def test_absurd_window_scale_cut_to_14() -> None:
    with Script() as s:
        s.guest("S seq=0 win=100 mss=1460 ws=255")
        s.sock.connected()
        s.take()
        s.peer.guest_scale = 14
        s.guest("A seq=1 ack=1 win=2")
        assert s.conn.snd_wnd == 2 << 14                        # RFC 7323 2.3


def test_tiny_mss_raised_to_what_frames_can_be_cut_to() -> None:
    with Script() as s:
        s.connect(mss=1)
        s.sock.deliver(s.bytes_from_host(1000))
        assert s.host("PA seq=1 ack=1 len=1000").gso_size == 48


def check_first_reset(s: Script) -> None:
    """In SYN-SENT a reset counts only if it acknowledges the SYN (RFC 9293 3.10.7.3)."""
    reset = s.take()
    assert reset.letters == "RA"
    assert reset.ack == 1
    assert reset.seq == 0
    assert not reset.payload


def test_socket_cannot_be_prepared_reset_both_ways() -> None:
    with Script() as s:
        s.kernel.prepare_errors.append(errno.EOPNOTSUPP)
        s.guest(SYN)
        s.sock.connected()
        check_first_reset(s)
        s.ended()


def test_refused_by_policy_reset() -> None:
    with Script() as s:
        s.policy.refuses = True
        s.guest(SYN)
        check_first_reset(s)
        s.ended()
        assert s.count("drop_refused") == 1
        assert not s.kernel.socks


def test_source_and_device_of_target_bound() -> None:
    with Script() as s:
        s.policy.target = Target(b"", 0, source=GUESTS[4], ifname=b"eth9")
        s.guest(SYN)
        assert s.sock.source == (GUESTS[4], 0)
        assert s.sock.device == b"eth9"


def test_source_cannot_be_bound_reset() -> None:
    with Script() as s:
        s.policy.target = Target(b"", 0, source=GUESTS[4])
        s.kernel.bind_errors.append(errno.EADDRNOTAVAIL)
        s.guest(SYN)
        check_first_reset(s)
        s.ended()
        assert s.count("drop_socket") == 1


def test_syn_repeated_while_connecting_ignored() -> None:
    with Script() as s:
        s.guest(SYN)
        s.advance(1000)
        s.guest(SYN)
        s.guest(SYN, SYN)
        s.nothing()
        assert len(s.kernel.socks) == 1
        s.sock.connected()
        s.host("SA seq=0 ack=1")
        s.guest("A seq=1 ack=1")
        assert s.state == "ESTABLISHED"


def test_other_segments_while_connecting_ignored() -> None:
    with Script() as s:
        s.guest(SYN)
        s.guest("A seq=1 ack=1", "FA seq=1 ack=1", "S seq=99", "R seq=77")
        s.nothing()
        assert s.state == "CONNECTING"


def test_reset_while_connecting_ends_attempt() -> None:
    with Script() as s:
        s.guest(SYN)
        s.guest("R seq=1")
        s.ended()


def test_event_without_outcome_while_connecting_ignored() -> None:
    with Script() as s:
        s.guest(SYN)
        s.run(("socket", s.sock.tag, 0))
        assert s.state == "CONNECTING"


@every_case
def test_synack_lost_repeated_with_same_numbers(case: Case) -> None:
    with Script(**case) as s:
        s.guest(SYN)
        s.sock.connected()
        s.host("SA seq=0 ack=1")
        s.guest(SYN)
        s.host("SA seq=0 ack=1 ws=8")
        s.advance(999)
        s.nothing()
        s.advance(1)
        s.host("SA seq=0 ack=1 ws=8")
        s.guest("A seq=1 ack=1")
        assert s.state == "ESTABLISHED"
        s.advance(100_000)


def times_of_repeats(s: Script, letters: str) -> list[int]:
    """Milliseconds at which segments come until the flow is given up."""
    times = []
    for passed in range(0, 200_000, 500):
        for segment in s.take_all():
            if segment.letters == letters:
                times.append(passed)
                assert segment.seq == 0
            else:
                s.peer.inbox.append(segment)
                return times
        s.advance(500)
    return times


def test_synack_never_answered_backs_off_and_gives_up() -> None:
    with Script() as s:
        s.guest(SYN)
        s.sock.connected()
        assert times_of_repeats(s, "SA") == [0, 1000, 3000, 7000, 15_000, 31_000, 63_000]
        s.host("RA seq=1 ack=1")
        s.ended()
        assert s.kernel.socks[100].status == "aborted"


@every_case
def test_syn_never_answered_backs_off_and_gives_up(case: Case) -> None:
    with Script(**case) as s:
        sock = s.peer.knock()
        assert times_of_repeats(s, "S") == [0, 1000, 3000, 7000, 15_000, 31_000, 63_000]
        assert s.take().letters == "R"
        s.ended()
        assert sock.status == "aborted"


def test_waiting_for_answer_costs_no_wakeups() -> None:
    with Script() as s:
        s.peer.knock()
        s.take()
        before = s.turns
        s.advance(900)
        assert s.turns - before < 20


def test_data_with_last_acknowledgement_of_handshake_taken() -> None:
    with Script() as s:
        s.guest(SYN)
        s.sock.connected()
        s.host("SA seq=0 ack=1")
        s.guest("PA seq=1 ack=1 len=100")
        s.advance(1)
        s.host("A seq=1 ack=101")
        assert s.sock.taken == s.bytes_from_guest(100)


def test_fin_with_last_acknowledgement_of_handshake_taken() -> None:
    with Script() as s:
        s.guest(SYN)
        s.sock.connected()
        s.host("SA seq=0 ack=1")
        s.guest("FPA seq=1 ack=1 len=100")
        s.host("A seq=1 ack=102")
        assert s.state == "CLOSE_WAIT"
        assert s.sock.taken == s.bytes_from_guest(100)
        assert s.sock.shut


@every_case
def test_remote_data_waits_for_handshake(case: Case) -> None:
    with Script(**case) as s:
        s.guest(SYN)
        s.sock.connected()
        s.sock.deliver(s.bytes_from_host(100))
        s.host("SA seq=0 ack=1")
        s.nothing()
        s.guest("A seq=1 ack=1")
        s.host("PA seq=1 ack=1 len=100")


@every_case
def test_client_that_sends_and_ends_before_answer_delivered(case: Case) -> None:
    with Script(**case) as s:
        sock = s.peer.knock()
        s.host("S seq=0")
        sock.deliver(s.bytes_from_host(100))
        sock.end()
        s.nothing()
        s.guest("SA seq=0 ack=1 mss=1460 ws=7")
        s.host("PA seq=1 ack=1 len=100", "FA seq=101 ack=1")


def test_client_that_resets_before_answer_guest_reset() -> None:
    with Script() as s:
        sock = s.peer.knock()
        s.host("S seq=0")
        sock.fail(errno.ECONNRESET)
        s.host("R seq=1")
        s.ended()


@every_case
def test_guest_refuses_client_reset(case: Case) -> None:
    with Script(**case) as s:
        sock = s.peer.knock()
        s.host("S seq=0")
        s.guest("RA seq=0 ack=1")
        s.ended()
        assert sock.status == "aborted"


@pytest.mark.parametrize("text", ["RA seq=0 ack=2", "RA seq=0 ack=0", "R seq=0", "R seq=1"])
def test_reset_that_does_not_acknowledge_our_syn_ignored(text: str) -> None:
    with Script() as s:
        s.peer.knock()
        s.host("S seq=0")
        s.guest(text)
        s.nothing()
        assert s.state == "SYN_SENT"


@pytest.mark.parametrize("ack", [0, 2, 1 << 31])
def test_synack_with_wrong_acknowledgement_reset_and_ignored(ack: int) -> None:
    with Script() as s:
        s.peer.knock()
        s.host("S seq=0")
        s.guest(f"SA seq=0 ack={ack}")
        s.host(f"R seq={ack}")                                   # RFC 9293 3.10.7.3
        assert s.state == "SYN_SENT"


@pytest.mark.parametrize("text", ["A seq=1 ack=1", "FA seq=0 ack=1", "F seq=0", ". seq=0"])
def test_no_syn_in_answer_ignored(text: str) -> None:
    with Script() as s:
        s.peer.knock()
        s.host("S seq=0")
        s.guest(text)
        s.nothing()
        assert s.state == "SYN_SENT"


def test_simultaneous_open_established() -> None:
    # The guest's own SYN crosses ours; its TCP then answers ours with SYN and ACK (RFC 9293 3.5, figure 7).
    with Script() as s:
        s.peer.knock()
        s.host("S seq=0")
        s.guest("S seq=0 win=65535 mss=1460 ws=7")
        s.take_all()
        s.guest("SA seq=0 ack=1 win=65535 mss=1460 ws=7")
        s.host("A seq=1 ack=1")
        assert s.state == "ESTABLISHED"


def test_synack_repeated_by_guest_acknowledged_again() -> None:
    with Script() as s:
        s.accept()
        s.guest("SA seq=0 ack=1 mss=1460 ws=7")
        s.host("A seq=1 ack=1")
        assert s.state == "ESTABLISHED"


@pytest.mark.parametrize("ack", [0, 2, 1 << 31])
def test_wrong_acknowledgement_of_synack_reset(ack: int) -> None:
    with Script() as s:
        s.guest(SYN)
        s.sock.connected()
        s.host("SA seq=0 ack=1")
        s.guest(f"A seq=1 ack={ack}")
        s.host(f"R seq={ack}")                                   # RFC 9293 3.10.7.4, SYN-RECEIVED
        assert s.state == "SYN_RECEIVED"


def test_guest_resets_half_open_connection() -> None:
    with Script() as s:
        s.guest(SYN)
        sock = s.sock
        sock.connected()
        s.host("SA seq=0 ack=1")
        s.guest("R seq=1")
        s.ended()
        assert sock.status == "aborted"


def test_remote_resets_half_open_connection() -> None:
    with Script() as s:
        s.guest(SYN)
        s.sock.connected()
        s.host("SA seq=0 ack=1")
        s.sock.fail(errno.ECONNRESET)
        s.host("RA seq=1 ack=1")
        s.ended()


def test_client_refused_by_policy_reset() -> None:
    with Script() as s:
        s.policy.refuses = True
        sock = s.peer.knock()
        s.ended()
        assert sock.status == "aborted"


def test_client_whose_tuple_is_in_use_reset() -> None:
    with Script() as s:
        first = s.accept()
        second = s.peer.knock()
        s.run()
        assert second.status == "aborted"
        assert first.is_open
        s.peer.sock_fd = first.fd


def accept_and_let_guest_end(s: Script) -> Sock:
    """Take a client's connection to where the guest has ended its half."""
    first = s.accept()
    s.guest("FA seq=1 ack=1")
    s.host("A seq=1 ack=2")
    assert s.state == "CLOSE_WAIT"
    return first


def test_client_comes_again_before_guest_acknowledges_end() -> None:
    with Script() as s:
        first = accept_and_let_guest_end(s)
        first.end()
        s.host("FA seq=1 ack=2")
        assert s.state == "LAST_ACK"
        s.advance(1)                                             # the clock of initial numbers goes on
        s.peer.renew()
        second = s.peer.knock()
        s.host("S seq=0")
        assert first.status == "closed"
        assert second.is_open
        assert s.state == "SYN_SENT"


@pytest.mark.parametrize("how", ["end", "reset"])
def test_client_comes_again_before_its_end_is_seen(how: str) -> None:
    with Script() as s:
        first = accept_and_let_guest_end(s)
        if how == "end":
            first.end()
        else:
            first.fail(errno.ECONNRESET)
        second = s.peer.knock()
        s.run(("listener", max(s.kernel.indices.values())))      # before the event of the first one's socket
        found = [segment.flags for segment in s.take_all()]
        assert found == [FIN | ACK if how == "end" else RST | ACK, SYN_FLAG]
        assert first.status == ("closed" if how == "end" else "aborted")
        assert second.is_open
        assert s.state == "SYN_SENT"


def test_client_comes_again_while_guest_has_not_read_all_reset() -> None:
    with Script() as s:
        first = accept_and_let_guest_end(s)
        s.guest("A seq=2 ack=1 win=0")
        first.deliver(s.bytes_from_host(10))
        first.end()
        second = s.peer.knock()
        s.run()
        assert second.status == "aborted"
        assert first.is_open
        s.peer.sock_fd = first.fd


def test_guest_that_remembers_tuple_is_reset_and_asked_again() -> None:
    with Script() as s:
        s.peer.knock()
        s.host("S seq=0")
        s.guest("A seq=1 ack=77")
        s.host("R seq=77")
        s.advance(ms=3)
        s.host("S seq=0")
        s.guest("A seq=1 ack=77")                                # the second time it is no hurry
        s.host("R seq=77")
        s.advance(ms=100)
        s.nothing()
        s.guest("SA seq=0 ack=1 win=65535 mss=1460 ws=7")
        s.host("A seq=1 ack=1")
        assert s.state == "ESTABLISHED"
