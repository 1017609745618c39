"""Ending connections: half-close, simultaneous close, TIME-WAIT, resets."""

import errno

import pytest

from tests.dataplane.tcp.script import CASES, Case, Script

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@every_case
def test_guest_ends_first_remote_goes_on(case: Case) -> None:
    with Script(**case) as s:
        sock = s.connect()
        s.guest("FPA seq=1 ack=1 len=10")
        s.host("A seq=1 ack=12")
        assert s.state == "CLOSE_WAIT"
        assert sock.taken == s.bytes_from_guest(10)
        assert sock.shut
        sent = 0
        for _ in range(20):
            # Far more than one window: acknowledgements go on being applied to the socket.
            sock.deliver(s.bytes_from_host(60_000, sent))
            for segment in s.take_all():
                sent += len(segment.payload)
            s.guest(f"A seq=12 ack={1 + sent} win=512")
        assert sent == 1_200_000
        assert sock.consumed == sent
        s.advance(3_600_000)
        s.nothing()
        sock.end()
        s.host(f"FA seq={1 + sent} ack=12")
        assert s.state == "LAST_ACK"
        s.guest(f"A seq=12 ack={2 + sent}")
        s.ended()
        assert sock.status == "closed"


@every_case
def test_remote_ends_first_guest_goes_on(case: Case) -> None:
    with Script(**case) as s:
        sock = s.connect()
        sock.deliver(s.bytes_from_host(10))
        sock.end()
        s.host("PA seq=1 ack=1 len=10", "FA seq=11 ack=1")
        assert s.state == "FIN_WAIT_1"
        s.guest("A seq=1 ack=12")
        assert s.state == "FIN_WAIT_2"
        sent = 0
        for _ in range(40):
            s.guest(f"A seq={1 + sent} ack=12 len=60000")
            sent += 60_000
            s.host(f"A seq=12 ack={1 + sent}")
            sock.drain()
        assert sock.taken == s.bytes_from_guest(sent)
        s.advance(3_600_000)
        s.nothing()
        s.guest(f"FA seq={1 + sent} ack=12")
        s.host(f"A seq=12 ack={2 + sent}")
        assert s.state == "TIME_WAIT"
        assert sock.shut
        assert sock.status == "closed"
        s.advance(2000)
        s.ended()


@every_case
def test_both_end_at_once(case: Case) -> None:
    with Script(**case) as s:
        sock = s.connect()
        sock.end()
        s.host("FA seq=1 ack=1")
        s.guest("FA seq=1 ack=1")                                  # has not seen ours
        s.host("A seq=2 ack=2")
        assert s.state == "CLOSING"
        assert sock.shut
        s.guest("A seq=2 ack=2")
        assert s.state == "TIME_WAIT"
        assert sock.status == "closed"
        s.advance(2000)
        s.ended()


def test_fin_that_acknowledges_fin_time_wait() -> None:
    with Script() as s:
        sock = s.connect()
        sock.end()
        s.host("FA seq=1 ack=1")
        s.guest("FA seq=1 ack=2")
        s.host("A seq=2 ack=2")
        assert s.state == "TIME_WAIT"
        s.guest("FA seq=1 ack=2")                                  # our acknowledgement was lost
        s.host("A seq=2 ack=2")
        s.advance(2000)
        s.ended()


def test_late_segment_after_end_reset() -> None:
    with Script() as s:
        s.connect()
        s.guest("FA seq=1 ack=1")
        s.host("A seq=1 ack=2")
        s.sock.end()
        s.host("FA seq=1 ack=2")
        s.guest("A seq=2 ack=2")
        s.ended()
        s.guest("A seq=2 ack=2")
        s.host("R seq=2")


@every_case
def test_fin_to_guest_repeated_until_acknowledged(case: Case) -> None:
    with Script(**case) as s:
        sock = s.connect()
        sock.deliver(s.bytes_from_host(10))
        s.host("PA seq=1 ack=1 len=10")
        s.guest("A seq=1 ack=11")
        sock.end()
        s.host("FA seq=11 ack=1")
        waits = []
        for _ in range(4):
            before = s.bench.now
            while not s.peer.inbox:
                s.advance(50)
            s.host("FA seq=11 ack=1")
            waits.append(round((s.bench.now - before) / 1e6))
        assert waits == [200, 400, 800, 1600]
        s.guest("A seq=1 ack=12")
        assert s.state == "FIN_WAIT_2"
        s.advance(100_000)
        s.nothing()


def test_fin_lost_with_data_both_repeated() -> None:
    with Script() as s:
        sock = s.connect()
        sock.deliver(s.bytes_from_host(1000))
        sock.end()
        s.host("PA seq=1 ack=1 len=1000", "FA seq=1001 ack=1")
        s.advance(1000)
        s.host("A seq=1 ack=1 len=1000", "FA seq=1001 ack=1")
        s.guest("A seq=1 ack=1001")
        assert s.state == "FIN_WAIT_1"
        s.advance(1000)
        s.host("FA seq=1001 ack=1")
        s.guest("A seq=1 ack=1002")
        assert s.state == "FIN_WAIT_2"


def test_fin_comes_after_all_data_even_through_closed_window() -> None:
    with Script() as s:
        sock = s.connect(win=10)
        sock.deliver(s.bytes_from_host(3000))
        sock.end()
        s.host("A seq=1 ack=1 len=1280")
        s.guest("A seq=1 ack=1281 win=0")
        s.advance(10)
        s.nothing()
        s.guest("A seq=1 ack=1281 win=100")
        s.host("PA seq=1281 ack=1 len=1720", "FA seq=3001 ack=1")


@every_case
def test_guest_resets_remote_sees_abort(case: Case) -> None:
    with Script(**case) as s:
        sock = s.connect()
        sock.deliver(s.bytes_from_host(1000))
        s.take_all()
        s.guest("R seq=1")
        s.ended()
        assert sock.status == "aborted"


@every_case
def test_remote_resets_guest_sees_reset(case: Case) -> None:
    with Script(**case) as s:
        sock = s.connect()
        s.guest("PA seq=1 ack=1 len=10")
        s.advance(1)
        s.take_all()
        sock.fail(errno.ECONNRESET)
        s.host("RA seq=1 ack=11")
        s.ended()
        assert sock.status == "aborted"


@pytest.mark.parametrize("state", ["FIN_WAIT_2", "CLOSE_WAIT"])
def test_remote_resets_half_closed_connection(state: str) -> None:
    with Script() as s:
        sock = s.connect()
        if state == "FIN_WAIT_2":
            sock.end()
            s.host("FA seq=1 ack=1")
            s.guest("A seq=1 ack=2")
        else:
            s.guest("FA seq=1 ack=1")
            s.host("A seq=1 ack=2")
        assert s.state == state
        sock.fail(errno.ECONNRESET)
        assert s.take().letters == "RA"
        s.ended()


@pytest.mark.parametrize(
    "state", ["FIN_WAIT_1", "FIN_WAIT_2", "CLOSE_WAIT", "CLOSING", "LAST_ACK", "TIME_WAIT"]
)
def test_guest_resets_in_every_closing_state(state: str) -> None:
    with Script() as s:
        sock = s.connect()
        reach(s, state)
        seq = 2 if state in {"CLOSE_WAIT", "CLOSING", "LAST_ACK", "TIME_WAIT"} else 1
        s.guest(f"R seq={seq}")
        s.ended()
        assert sock.status == ("closed" if state == "TIME_WAIT" else "aborted")


def reach(s: Script, state: str) -> None:
    """Go from ESTABLISHED to *state*, no data sent."""
    if state in {"CLOSE_WAIT", "LAST_ACK"}:
        s.guest("FA seq=1 ack=1")
    if state != "CLOSE_WAIT":
        s.sock.end()
        s.run()
    if state in {"FIN_WAIT_2", "TIME_WAIT"}:
        s.guest("A seq=1 ack=2")
    if state == "CLOSING":
        s.guest("FA seq=1 ack=1")
    if state == "TIME_WAIT":
        s.guest("FA seq=1 ack=2")
    s.take_all()
    assert s.state == state


def test_reset_numbers_exact_after_retransmission_moved_back() -> None:
    # The guest takes a reset only at exactly what it expects next (RFC 5961 3.2).
    with Script() as s:
        sock = s.connect()
        sock.deliver(s.bytes_from_host(100_000))
        total = sum(len(segment.payload) for segment in s.take_all())
        assert total == 100_000
        s.advance(201)                                             # goes back and sends two segments again
        s.take_all()
        sock.fail(errno.ECONNRESET)
        assert s.take().seq == 1 + total
        s.ended()


def test_remote_gone_found_by_write_guest_reset() -> None:
    with Script() as s:
        sock = s.connect()
        sock.send_errors.append(errno.EPIPE)
        s.guest("PA seq=1 ack=1 len=10")
        s.host("RA seq=1 ack=1")
        s.ended()
        assert sock.status == "aborted"


def test_remote_gone_found_by_read_guest_reset() -> None:
    with Script() as s:
        sock = s.connect()
        sock.error = errno.ETIMEDOUT
        sock.wake(1)
        sock.queue += b"x"
        s.host("RA seq=1 ack=1")
        s.ended()


# TIME-WAIT.


def to_time_wait(s: Script) -> None:
    """Go from nothing to TIME-WAIT with our FIN first."""
    s.connect()
    s.sock.end()
    s.host("FA seq=1 ack=1")
    s.guest("FA seq=1 ack=2")
    s.host("A seq=2 ack=2")
    assert s.state == "TIME_WAIT"


@every_case
def test_new_syn_in_time_wait_opens_tuple_anew(case: Case) -> None:
    with Script(**case) as s:
        to_time_wait(s)
        first = s.peer.sock_fd
        s.peer.renew(isn=case["guest_isn"] + 2)
        sock = s.connect()
        assert sock.fd != first
        s.guest("PA seq=1 ack=1 len=10")
        s.advance(1)
        s.host("A seq=1 ack=11")
        s.advance(10_000)
        assert s.state == "ESTABLISHED"


@pytest.mark.parametrize("seq", [1, 0, -1000])
def test_old_syn_in_time_wait_answered_by_acknowledgement(seq: int) -> None:
    with Script() as s:
        to_time_wait(s)
        s.guest(f"S seq={seq} win=65535 mss=1460 ws=7")
        s.host("A seq=2 ack=2")
        assert s.state == "TIME_WAIT"


def test_host_client_reuses_tuple_in_time_wait() -> None:
    with Script() as s:
        to_time_wait(s)
        s.peer.renew()
        sock = s.peer.knock()
        s.host("S seq=0")
        assert s.state == "SYN_SENT"
        assert sock.is_open


def test_time_wait_holds_no_descriptor_and_ends() -> None:
    with Script() as s:
        to_time_wait(s)
        assert not [sock for sock in s.kernel.socks.values() if sock.is_open]
        s.advance(1999)
        assert s.state == "TIME_WAIT"
        s.advance(1)
        s.ended()


def test_fin_repeated_in_time_wait_starts_it_anew() -> None:
    # RFC 9293 3.10.7.4, eighth.
    with Script() as s:
        to_time_wait(s)
        s.advance(1500)
        s.guest("FA seq=1 ack=2")
        s.host("A seq=2 ack=2")
        s.advance(1500)
        assert s.state == "TIME_WAIT"
        s.advance(500)
        s.ended()


# The process ends.


def test_engine_closed_what_is_held_leads_to_reset() -> None:
    with Script() as s:
        sock = s.connect()
        sock.no_memory = True
        s.guest("PA seq=1 ack=1 len=100")
        assert s.conn.overflow == 100
        s.bench.close()
        assert sock.status == "aborted"
        s.take_all()
        s.ended()


def test_engine_closed_unfinished_stream_reset_both_ways() -> None:
    # All of it is in the kernel's hands, but a FIN would tell the remote that this was all.
    with Script() as s:
        sock = s.connect()
        s.guest("PA seq=1 ack=1 len=100")
        s.take_all()
        s.close_engine()
        assert sock.status == "aborted"
        s.host("RA seq=1 ack=101")
        s.ended()


def test_engine_closed_finished_stream_left_to_kernel() -> None:
    with Script() as s:
        sock = s.connect()
        s.guest("FPA seq=1 ack=1 len=100")
        s.take_all()
        s.close_engine()
        assert sock.status == "closed"
        assert sock.shut
        s.host("RA seq=1 ack=102")
        s.ended()


@pytest.mark.parametrize(("opening", "letters"), [("guest", "RA"), ("host", "R"), ("half", "RA")])
def test_engine_closed_half_open_connection_reset(opening: str, letters: str) -> None:
    with Script() as s:
        if opening == "host":
            sock = s.peer.knock()
        else:
            s.guest("S seq=0 win=65535 mss=1460")
            sock = s.sock
            if opening == "half":
                sock.connected()
        s.take_all()
        s.close_engine()
        assert sock.status == "aborted"
        assert s.take().letters == letters
        s.ended()


def test_engine_closed_while_link_is_full_does_not_wait() -> None:
    with Script() as s:
        sock = s.connect()
        s.bench.link.room = 0
        sock.deliver(s.bytes_from_host(500_000))
        s.run()
        s.close_engine()
        assert sock.status == "aborted"
        s.nothing()
        s.ended()


def test_last_acknowledgement_data_dropped_from_socket_before_it_is_closed() -> None:
    # close(2) with unread data resets, and what the remote has not read yet of the guest's would be lost.
    with Script() as s:
        sock = s.connect()
        s.guest("FPA seq=1 ack=1 len=100")
        s.take_all()
        sock.deliver(s.bytes_from_host(7))
        sock.end()
        s.take_all()
        assert s.state == "LAST_ACK"
        s.guest("A seq=102 ack=9")
        assert sock.status == "closed"
        assert sock.consumed == 7
        s.ended()
