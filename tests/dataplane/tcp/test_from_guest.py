"""Data from the guest to the socket: the window, short writes, acknowledgements."""

import errno

import pytest

from tests.dataplane.tcp.script import CASES, Case, Script

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
capacities = pytest.mark.parametrize("capacity", [4096, 16_384, 87_040, 300_000, 1 << 20, 4 << 20])


def send_until_closed(s: Script, sent: int = 0, step: int = 1460) -> int:
    """Have the guest send as much as its window lets it; returns what it has sent in all."""
    while True:
        edge = s.peer.host_edge or 0
        n = min(step, edge - 1 - sent, 60_000)
        if n <= 0:
            return sent
        s.guest(f"A seq={1 + sent} ack=1 len={n}")
        sent += n
        s.advance(1)
        s.take_all()


# The window never promises what cannot be stored (the bench checks every segment).


@capacities
@every_case
def test_window_filled_to_last_byte_without_short_write(case: Case, capacity: int) -> None:
    with Script(**case, capacity=capacity) as s:
        sock = s.connect()
        sent = send_until_closed(s, step=max(1460, capacity // 50))
        assert sent >= capacity * 9 // 10 - 1024
        assert s.count("tcp_short_writes") == 0
        assert sock.taken == s.bytes_from_guest(sent)


@capacities
def test_window_opens_by_event_without_timer(capacity: int) -> None:
    with Script(capacity=capacity) as s:
        sock = s.connect()
        sent = send_until_closed(s, step=max(1460, capacity // 50))
        s.advance(3_600_000)
        s.take_all()
        assert s.sleep_s > 60                                      # the next poll is far away
        sock.drain()
        update = s.take()
        assert (update.letters, update.ack) == ("A", 1 + sent)
        assert update.win << 8 >= min(capacity // 2, 65535)
        s.nothing()


@capacities
def test_closed_window_polled_ever_more_seldom(capacity: int) -> None:
    with Script(capacity=capacity) as s:
        s.connect()
        send_until_closed(s, step=max(1460, capacity // 50))
        before = s.turns
        s.advance(1_000_000)
        assert s.turns - before <= 25
        s.advance(3_600_000)
        s.take_all()
        assert s.turns - before <= 30


@capacities
@pytest.mark.parametrize("tenths", range(1, 10))
def test_partly_filled_buffer_lets_loop_sleep(capacity: int, tenths: int) -> None:
    # EPOLLOUT is level at the moment of asking: asking for what is there already would spin.
    with Script(capacity=capacity) as s:
        s.connect()
        sent = 0
        while sent < capacity * tenths // 10 - 256:
            n = min(1460, (s.peer.host_edge or 0) - 1 - sent)
            if n <= 0:
                break
            s.guest(f"A seq={1 + sent} ack=1 len={n}")
            sent += n
        s.take_all()
        before = s.turns
        s.advance(60_000)
        s.take_all()
        assert s.turns - before <= 18
        assert s.sleep_s > 5


def test_guest_without_window_scale_lets_loop_sleep() -> None:
    with Script() as s:
        s.connect(ws=None)
        before = s.turns
        s.advance(60_000)
        assert s.turns - before <= 2
        sent = send_until_closed(s, step=10_000)
        assert sent > 65535
        assert max((s.peer.host_edge or 0) - 1 - sent, 0) <= 65535


def test_window_reaches_sixteen_mebibytes() -> None:
    with Script(capacity=64 << 20) as s:
        s.connect()
        s.guest("A seq=1 ack=1 len=100")
        assert s.host("A seq=1 ack=101").win >= 65534


def test_small_buffer_polled_when_a_third_is_less_than_a_segment() -> None:
    # No event comes before a third is free; the guest may need more, or less would do.
    with Script(capacity=20_000) as s:
        sock = s.connect()
        sent = send_until_closed(s)
        sock.drain(5000)                                           # a quarter: not writable yet
        s.advance(1000)
        update = s.take_all()
        assert update, "no window update"
        assert update[-1].ack == 1 + sent
        assert update[-1].win > 0


def test_guest_never_left_with_less_than_a_segment_when_one_fits() -> None:
    # Linux sends nothing into a window smaller than its segment, but after a probe time-out.
    with Script(capacity=300_000) as s:
        sock = s.connect(mss=65480)
        sent = 0
        for _ in range(60):
            n = min(7000, (s.peer.host_edge or 0) - 1 - sent)
            s.guest(f"A seq={1 + sent} ack=1 len={n}")
            sent += n
            s.advance(2)
            s.take_all()
            sock.drain(6000 if sent < 250_000 else 7000)
            room = sock.capacity - sock.queued
            window = (s.peer.host_edge or 0) - 1 - sent
            assert window >= 65480 - 256 or room * 15 // 16 < 65480 + 7000, (window, room)


def test_segment_that_fits_is_offered_in_small_step() -> None:
    with Script(capacity=200_000) as s:
        s.connect(mss=65480)
        s.guest(*[f"A seq={1 + 25_500 * i} ack=1 len=25500" for i in range(5)])
        # 60,000 of the old promise are left and 67,968 are free now: 7968 more make a segment.
        assert s.host("A seq=1 ack=127501").win << 8 >= 65480


def test_what_is_held_is_no_room() -> None:
    with Script() as s:
        sock = s.connect()
        sock.no_memory = True
        for i in range(4):
            s.guest(f"A seq={1 + 60_000 * i} ack=1 len=60000")
        assert s.conn.overflow == 240_000
        free = sock.capacity - s.conn.overflow
        assert free * 7 // 8 < s.take_all()[-1].win << 8 <= free


def test_window_probe_of_guest_answered_with_fresh_window() -> None:
    # The safety net under all events: whoever asks is told what is so now.
    with Script(capacity=20_000) as s:
        sock = s.connect()
        sent = send_until_closed(s)
        s.advance(1000)
        s.take_all()
        sock.queued = 0                                            # no event tells of it
        s.guest(f"A seq={sent} ack=1")                             # Linux probes with an old number
        assert s.take().win > 0
        sent = send_until_closed(s, sent)
        s.advance(1000)
        s.take_all()
        sock.queued = 0
        s.guest(f"A seq={1 + sent} ack=1 len=1")                   # others with a byte
        s.advance(1)
        assert s.take_all()[-1].win > 0


@pytest.mark.parametrize("family", [4, 6])
def test_duplicates_in_batch_that_fills_window_do_not_lose_wakeup(family: int) -> None:
    # A retransmission acknowledges too; the window still has to be looked at in that turn.
    with Script(family=family, capacity=20_000) as s:
        sock = s.connect()
        sock.deliver(s.bytes_from_host(3000))
        s.take_all()
        edge = s.peer.host_edge or 0
        sent = edge - 1
        s.guest(f"A seq=1 ack=1 len={sent}", *[f"A seq={1 + sent} ack=1"] * 4)
        s.advance(300)
        s.take_all()
        s.guest(f"A seq={1 + sent} ack=3001")
        s.advance(1000)
        s.take_all()
        sock.drain()
        s.run()
        assert [segment.win for segment in s.take_all()][-1] > 0


# Short writes: what was promised is kept.


@every_case
def test_short_write_rest_kept_and_delivered_in_order(case: Case) -> None:
    with Script(**case) as s:
        s.is_honest = False
        sock = s.connect()
        sock.capacity = 5000
        s.guest(*[f"A seq={1 + 1460 * i} ack=1 len=1460" for i in range(10)])
        s.host("A seq=1 ack=14601")
        assert sock.taken == s.bytes_from_guest(5000)
        assert s.conn.overflow == 9600
        assert s.count("tcp_short_writes") == 1
        s.guest("A seq=14601 ack=1 len=1460")
        s.host("A seq=1 ack=16061")
        assert s.conn.overflow == 11_060
        while len(sock.taken) < 16_060:
            sock.drain()
            s.run()
        s.take_all()
        assert sock.taken == s.bytes_from_guest(16_060)
        assert s.conn.overflow == 0
        assert s.bench.pool_left == s.pool


@every_case
def test_nothing_written_everything_kept(case: Case) -> None:
    with Script(**case) as s:
        s.is_honest = False
        sock = s.connect()
        sock.send_errors = [errno.EAGAIN]
        s.guest("PA seq=1 ack=1 len=3000")
        s.advance(1)
        s.host("A seq=1 ack=3001")
        s.run()
        assert sock.taken == s.bytes_from_guest(3000)


@every_case
def test_fin_passed_on_after_kept_data(case: Case) -> None:
    with Script(**case) as s:
        s.is_honest = False
        sock = s.connect()
        sock.capacity = 1000
        s.guest("FPA seq=1 ack=1 len=2500")
        s.host("A seq=1 ack=2502")
        assert not sock.shut
        sock.drain()
        s.run()
        assert not sock.shut
        sock.drain()
        s.run()
        assert sock.taken == s.bytes_from_guest(2500)
        assert sock.shut
        assert s.bench.pool_left == s.pool


def test_both_ended_data_still_held_connection_kept_for_it() -> None:
    with Script() as s:
        s.is_honest = False
        sock = s.connect()
        sock.capacity = 1000
        s.guest("FPA seq=1 ack=1 len=2500")
        s.host("A seq=1 ack=2502")
        sock.end()
        s.host("FA seq=1 ack=2502")
        s.guest("A seq=2502 ack=2")
        assert s.state == "TIME_WAIT"
        s.advance(5000)
        before = s.turns
        s.advance(3_600_000)  # it waits for an event, not by the clock
        assert s.turns == before
        assert s.state == "TIME_WAIT"
        sock.drain()
        s.advance(100)
        sock.drain()
        s.advance(5000)
        assert sock.taken == s.bytes_from_guest(2500)
        assert sock.shut
        assert sock.status == "closed"
        s.ended()


def test_held_data_lost_by_reset_of_guest_remote_sees_abort() -> None:
    with Script() as s:
        s.is_honest = False
        sock = s.connect()
        sock.capacity = 1000
        s.guest("PA seq=1 ack=1 len=2500")
        s.advance(1)
        s.take_all()
        s.guest("R seq=2501")
        s.ended()
        assert sock.status == "aborted"


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN])
def test_no_memory_for_socket_retried_without_spinning(number: int) -> None:
    # The socket polls writable all the time.
    with Script() as s:
        s.is_honest = False
        sock = s.connect()
        sock.send_errors = [number] * 3
        sock.no_memory = True
        s.guest("PA seq=1 ack=1 len=2500")
        before = s.turns
        s.advance(2000)
        s.take_all()
        assert s.turns - before < 50
        sock.no_memory = False
        s.advance(1000)
        assert sock.taken == s.bytes_from_guest(2500)
        s.advance(10_000)
        assert s.sleep_s > 3600


@pytest.mark.parametrize("why", ["budget", "malloc"])
@every_case
def test_pool_exhausted_not_acknowledged_repetition_completes(case: Case, why: str) -> None:
    with Script(**case) as s:
        s.is_honest = False
        sock = s.connect()
        if why == "budget":
            s.bench.pool_left = 0
        else:
            s.bench.has_no_memory = True
        sock.limits = [1000, 0]
        s.guest("A seq=1 ack=1 len=1460", "A seq=1461 ack=1 len=1460", "FA seq=2921 ack=1")
        s.host("A seq=1 ack=1001")
        assert s.state == "ESTABLISHED"
        assert s.count("drop_tcp_memory") == 1
        assert s.bench.pool_refusals
        s.bench.pool_left = s.pool
        s.bench.has_no_memory = False
        s.guest("A seq=1001 ack=1 len=1460", "FA seq=2461 ack=1 len=460")
        s.host("A seq=1 ack=2922")
        assert sock.taken == s.bytes_from_guest(2920)
        assert s.state == "CLOSE_WAIT"


@every_case
def test_pool_exhausted_retransmission_does_not_acknowledge_what_is_lost(case: Case) -> None:
    # The batch has data and three duplicates: the retransmission must not carry a number of gathered data.
    with Script(**case) as s:
        s.is_honest = False
        sock = s.connect()
        sock.deliver(s.bytes_from_host(3000))
        s.take_all()
        s.bench.pool_left = 0
        sock.limits = [0]
        s.guest("A seq=1 ack=1 len=1460", *["A seq=1461 ack=1"] * 4)
        for segment in s.take_all():
            assert segment.ack == 1
        s.bench.pool_left = s.pool
        s.guest("A seq=1 ack=3001 len=1460")
        s.host("A seq=3001 ack=1461")


def memory_of_short_write(s: Script) -> int:
    """Tell what 2000 bytes left over take from the pool."""
    peer = s.add_peer(41_999, 80)
    peer.connect().capacity = 1000
    peer.guest("PA seq=1 ack=1 len=3000")
    peer.host("A seq=1 ack=3001")
    taken = s.pool - s.bench.pool_left
    peer.guest("R seq=3001")
    return taken


def test_pool_shared_by_connections_each_gets_its_memory_back() -> None:
    with Script() as s:
        s.is_honest = False
        peers = [s.add_peer(41_000 + i, 80) for i in range(4)]
        socks = [peer.connect() for peer in peers]
        one = memory_of_short_write(s)
        s.bench.pool_left = 3 * one
        for peer, sock in zip(peers, socks, strict=True):
            sock.capacity = 1000
            peer.guest("PA seq=1 ack=1 len=3000")
        s.advance(1)
        assert [peer.take_all()[-1].ack for peer in peers] == [3001, 3001, 3001, 1001]
        assert s.bench.pool_left == 0
        peers[0].guest("R seq=3001")
        assert s.bench.pool_left == one
        for _ in range(5):
            for sock in socks[1:]:
                sock.drain()
            s.run()
        assert s.bench.pool_left == 3 * one
        s.bench.pool_left = s.pool
        for peer in peers:
            peer.take_all()


def test_overflow_grows_and_keeps_order() -> None:
    with Script() as s:
        s.is_honest = False
        sock = s.connect()
        sock.capacity = 3000
        sent = 0
        for _ in range(30):
            s.guest(f"A seq={1 + sent} ack=1 len=10000")
            sent += 10_000
            sock.drain(1000)
            s.run()
        assert s.conn.overflow > 4 * 65536 - 65536
        while s.conn.overflow:
            sock.drain()
            s.run()
        sock.drain()
        assert sock.taken == s.bytes_from_guest(sent)
        assert s.bench.pool_left == s.pool
        s.take_all()


# Acknowledgements.


def ask_and_answer(s: Script, rounds: int) -> tuple[int, int]:
    """Exchange 100 bytes for 50, *rounds* times; return what each side has sent."""
    asked = answered = 0
    for _ in range(rounds):
        s.guest(f"PA seq={1 + asked} ack={1 + answered} len=100")
        asked += 100
        s.sock.deliver(s.bytes_from_host(50, answered))
        answered += 50
        s.take_all()
    s.guest(f"A seq={1 + asked} ack={1 + answered}")
    return asked, answered


@every_case
def test_first_questions_acknowledged_at_once(case: Case) -> None:
    with Script(**case) as s:
        s.connect()
        for i in range(3):
            s.guest(f"PA seq={1 + 100 * i} ack={1 + 50 * i} len=100")
            s.host(f"A seq={1 + 50 * i} ack={101 + 100 * i}")
            s.sock.deliver(s.bytes_from_host(50, 50 * i))
            s.host(f"PA seq={1 + 50 * i} ack={101 + 100 * i} len=50")


@every_case
def test_answer_carries_the_acknowledgement(case: Case) -> None:
    with Script(**case) as s:
        s.connect()
        asked, answered = ask_and_answer(s, 3)
        s.guest(f"PA seq={1 + asked} ack={1 + answered} len=100")
        s.nothing()
        s.sock.deliver(s.bytes_from_host(50, answered))
        s.host(f"PA seq={1 + answered} ack={101 + asked} len=50")
        s.guest(f"A seq={101 + asked} ack={51 + answered}")
        s.advance(1000)
        s.nothing()


@every_case
def test_acknowledgement_waits_in_vain_once(case: Case) -> None:
    with Script(**case) as s:
        s.connect()
        asked, answered = ask_and_answer(s, 3)
        s.guest(f"PA seq={1 + asked} ack={1 + answered} len=100")
        s.advance(39.9)
        s.nothing()
        s.advance(0.1)
        s.host(f"A seq={1 + answered} ack={101 + asked}")
        s.guest(f"PA seq={101 + asked} ack={1 + answered} len=100")
        s.host(f"A seq={1 + answered} ack={201 + asked}")
        s.advance(1000)
        s.nothing()


def test_second_part_of_a_question_does_not_wait() -> None:
    # What Nagle's algorithm in the guest would otherwise pay for with each write.
    with Script() as s:
        s.connect()
        asked, answered = ask_and_answer(s, 3)
        s.guest(f"PA seq={1 + asked} ack={1 + answered} len=100")
        s.nothing()
        s.guest(f"PA seq={101 + asked} ack={1 + answered} len=100")
        s.host(f"A seq={1 + answered} ack={201 + asked}")


@pytest.mark.parametrize("text", ["A seq=1 ack=1 len=100", "PA seq=1 ack=1 len=8192"])
def test_other_data_acknowledged_at_once(text: str) -> None:
    with Script() as s:
        s.connect()
        s.guest(text)
        s.host(f"A seq=1 ack={1 + int(text.rsplit('=', maxsplit=1)[-1])}")


def test_at_most_one_query_of_buffer_per_turn_with_new_data() -> None:
    with Script() as s:
        sock = s.connect()
        queries = sock.calls["free_space"]
        for i in range(10):
            s.guest(*[f"A seq={1 + 14_600 * i + 1460 * j} ack=1 len=1460" for j in range(10)])
        assert sock.calls["free_space"] <= queries + 10
        queries = sock.calls["free_space"]
        sock.deliver(s.bytes_from_host(10_000))
        s.take_all()
        s.guest("A seq=146001 ack=10001")
        assert sock.calls["free_space"] == queries


def test_buffer_not_asked_while_most_of_the_window_is_open() -> None:
    with Script(capacity=4 << 20) as s:
        sock = s.connect()
        s.guest("PA seq=1 ack=1 len=100")
        queries = sock.calls["free_space"]
        for i in range(20):
            s.guest(f"PA seq={101 + 100 * i} ack=1 len=100")
        s.take_all()
        assert sock.calls["free_space"] == queries
