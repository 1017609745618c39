"""Runs of sequence numbers that the guest names: whatever they are, what we note of them makes sense."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.dataplane.tcp.script import CASES, HALF, Script
from tests.dataplane.tcp.segment import MASK

MSS = 1460
SEGMENTS = 40
SENT = SEGMENTS * MSS
CAPACITY = 20_000

common = settings(
    max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
# Edges where they belong, about the ends of what was sent, on the far side of the circle, anywhere.
edges = st.one_of(
    st.builds(MSS.__mul__, st.integers(0, SEGMENTS)),
    st.integers(-3, 3),
    st.integers(SENT - 3, SENT + 3),
    st.integers(HALF - SENT, HALF + SENT),
    st.integers(0, MASK),
)
blocks = st.lists(st.tuples(edges, edges), min_size=1, max_size=4)
# Few of them advance, so that there is something to report.
acknowledgements = st.tuples(st.one_of(st.just(0), st.integers(0, 2 * MSS)), blocks)


def check_runs(runs: tuple[tuple[int, int], ...], floor: int, top: int) -> int:
    """Check that *runs* are sorted, apart, behind *floor* and not beyond *top*; give their sum."""
    at, total = 0, 0
    for start, end in ((start - floor & MASK, end - floor & MASK) for start, end in runs):
        assert at < start < end <= (top - floor & MASK), runs
        at, total = end, total + end - start
    return total


@common
@given(case=st.sampled_from(sorted(CASES)), script=st.lists(acknowledgements, max_size=30))
def test_any_blocks_leave_the_board_sorted_and_inside(
    case: str, script: list[tuple[int, list[tuple[int, int]]]]
) -> None:
    with Script(**CASES[case]) as s:
        s.connect(sack=True)
        s.sock.deliver(s.bytes_from_host(SENT))
        assert s.received() == SENT
        acked = reported = 0
        for more, wanted in script:
            acked = min(acked + more, SENT)
            numbers = ",".join(str(1 + n & MASK) for block in wanted for n in block)
            s.guest(f"A seq=1 ack={1 + acked} sack={numbers}")
            conn = s.conn
            assert conn.snd_una == conn.iss + 1 + acked & MASK
            before, reported = reported, check_runs(conn.reported, conn.snd_una, conn.snd_max)
            repeated = s.take_all()
            assert all(segment.seq >= 1 + acked for segment in repeated)
            # As much as it reports to have arrived, and a segment more.
            total = sum(len(segment.payload) for segment in repeated)
            assert total <= max(reported - before, 0) + 2 * more + MSS
        s.guest(f"A seq=1 ack={1 + SENT}")
        s.take_all()
        assert s.bench.pool_left == s.pool
        assert s.sock.consumed == SENT


def test_runs_that_give_way_to_lower_ones_do_not_count_as_news() -> None:
    with Script(offloads=False) as s:
        s.connect(sack=True, mss=100)
        s.sock.deliver(s.bytes_from_host(60_000))
        assert s.received() == 60_000
        s.guest("A seq=1 ack=1 sack=58001,60001")                # the highest run has 2000 bytes
        for i in range(1, 128):
            first = 1 + 300 * i
            s.guest(f"A seq=1 ack=1 sack={first},{first + 100}")
        s.take_all()
        for i in range(1, 100):                                  # those of 100 make less than it
            first = 201 + 300 * i
            s.guest(f"A seq=1 ack=1 sack={first},{first + 50}")
            assert s.received() <= 200
        s.guest("A seq=1 ack=60001")


def signed(number: int) -> int:
    """Give the distance from 0 on the shorter way, so that the payload is that of the place."""
    return (number + HALF & MASK) - HALF


early = st.tuples(
    st.one_of(
        st.integers(-3, CAPACITY), st.integers(CAPACITY - 300, CAPACITY + 300), st.integers(0, MASK),
        st.integers(HALF - 300, HALF + 300),
    ),
    st.integers(0, 2000),
    st.booleans(),
)


@pytest.mark.slow
@common
@given(case=st.sampled_from(sorted(CASES)), script=st.lists(st.lists(early, max_size=6), max_size=12),
       drained=st.integers(0, 5000))
def test_any_early_segments_leave_the_store_sorted_and_inside(
    case: str, script: list[list[tuple[int, int, bool]]], drained: int
) -> None:
    with Script(**CASES[case], capacity=CAPACITY) as s:
        sock = s.connect(sack=True)
        for batch in script:
            s.guest(*[
                f"{'F' * fin}A seq={signed(1 + at)} ack=1" + (f" len={n}" if n else "")
                for at, n, fin in batch
            ])
            s.take_all()
            sock.drain(drained)
            s.run()
            s.take_all()
            conn = s.peer.conn
            if conn is None:
                break
            held = conn.stored[1:] if conn.overflow else conn.stored
            check_runs(held, conn.rcv_nxt, conn.rcv_adv)
            if conn.overflow:
                assert conn.stored[0][1] == conn.rcv_nxt - (conn.state == "CLOSE_WAIT") & MASK
            assert conn.state != "CLOSE_WAIT" or not held, "there is something behind the end"
        assert sock.taken == s.bytes_from_guest(len(sock.taken))
        s.bench.close()
        s.take_all()
        assert s.bench.pool_left == s.pool
