"""Connections that idle for days, guests and remotes that vanish."""

from __future__ import annotations

import pytest

from tests.dataplane.tcp.script import CASES, Case, Script

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
HOUR_MS = 3_600_000
IDLE_MS, INTERVAL_MS, PROBES = 7_200_000, 75_000, 9


@every_case
def test_idle_guest_that_answers_is_never_dropped(case: Case) -> None:
    with Script(**case) as s:
        s.connect()
        s.guest("PA seq=1 ack=1 len=100")
        s.take_all()
        before = s.turns
        for _ in range(12 * 30):
            s.advance(IDLE_MS)
            s.host("A seq=0 ack=101")  # one less than the guest expects (RFC 1122 4.2.3.6)
            s.guest("A seq=101 ack=1")
            s.nothing()
        assert s.state == "ESTABLISHED"
        assert s.turns - before <= 3 * 12 * 30  # the probe, its answer, an early look
        assert s.count("tcp_keep_alives") == 12 * 30


@every_case
def test_guest_that_vanished_is_found(case: Case) -> None:
    with Script(**case) as s:
        sock = s.connect()
        s.advance(IDLE_MS - 1)
        s.nothing()
        s.advance(1)
        for _ in range(PROBES):
            s.host("A seq=0 ack=1")
            assert s.state == "ESTABLISHED"
            s.advance(INTERVAL_MS)
        s.host("RA seq=1 ack=1")
        assert sock.status == "aborted"
        s.ended()


def test_guest_that_answers_the_last_probe_stays() -> None:
    with Script() as s:
        s.connect()
        s.advance(IDLE_MS + (PROBES - 1) * INTERVAL_MS)
        assert len(s.take_all()) == PROBES
        s.guest("A seq=1 ack=1")
        s.advance(IDLE_MS - 1)
        s.nothing()
        s.advance(1)
        s.host("A seq=0 ack=1")


def test_guest_that_forgot_the_connection_ends_it() -> None:
    with Script() as s:
        sock = s.connect()
        s.advance(IDLE_MS)
        s.host("A seq=0 ack=1")
        s.guest("R seq=1")  # RFC 9293 3.10.7.1: the number is our acknowledgement
        assert sock.status == "aborted"
        s.ended()


@pytest.mark.parametrize("who", ["guest", "remote"])
def test_half_closed_connection_watched_too(who: str) -> None:
    with Script() as s:
        sock = s.connect()
        if who == "guest":
            s.guest("FA seq=1 ack=1")
        else:
            sock.end()
            s.take_all()
            s.guest("A seq=1 ack=2")
        s.take_all()
        s.advance(IDLE_MS)
        s.host("A seq=0 ack=2" if who == "guest" else "A seq=1 ack=1")
        s.advance(PROBES * INTERVAL_MS)
        s.take_all()
        assert sock.status == "aborted"
        s.ended()


def test_paused_guest_is_not_given_up() -> None:
    # Its link is full: it reads nothing, and no probe could reach it.
    with Script() as s:
        sock = s.connect()
        s.guest("PA seq=1 ack=1 len=10")
        s.take_all()
        s.bench.link.room = 0
        s.guest("R seq=500")  # something for the link to refuse
        s.guest("R seq=500")
        s.advance(100 * HOUR_MS)
        assert s.state == "ESTABLISHED"
        s.open_link()
        s.take_all()
        assert s.count("tcp_keep_alives") == 0
        assert sock.status == "connected"


def test_interface_of_guest_down_found_by_refused_probes() -> None:
    with Script() as s:
        sock = s.connect()
        s.bench.link.refuse_next = 1000
        s.advance(IDLE_MS + PROBES * INTERVAL_MS)
        assert sock.status == "aborted"
        s.nothing()
        s.ended()


def test_traffic_needs_no_probe_and_few_looks() -> None:
    with Script() as s:
        s.connect()
        for i in range(100):
            s.advance(HOUR_MS)
            s.guest(f"PA seq={1 + i} ack=1 len=1")
            s.host(f"A seq=1 ack={2 + i}")
        assert s.count("tcp_keep_alives") == 0


def test_unanswered_data_left_to_retransmission() -> None:
    with Script() as s:
        s.connect(win=0)
        s.sock.deliver(s.bytes_from_host(10))
        for _ in range(400):
            s.advance(60_000)
            s.take_all()
            s.guest("A seq=1 ack=1 win=0")  # window probes are answered for hours
            s.take_all()
        assert s.state == "ESTABLISHED"
        assert s.count("tcp_keep_alives") == 0


# The remote's end: the host's kernel probes where the guest does.


@pytest.mark.parametrize("text", ["A seq=0 ack=1", "A seq=0 ack=1 len=1"])
@pytest.mark.parametrize(("idle_ms", "idle_s"), [(60_000, 60), (1_500, 1), (7_199_999, 7199)])
def test_probe_of_guest_has_remote_probed_at_its_pace(text: str, idle_ms: int, idle_s: int) -> None:
    with Script() as s:
        sock = s.connect()
        s.advance(idle_ms)
        s.guest(text)
        s.host("A seq=1 ack=1")
        assert sock.keep_idle == idle_s
        s.advance(idle_ms)
        s.guest(text)
        s.take_all()
        assert sock.calls["keep_alive"] == 1


def test_remote_found_dead_by_kernel_resets_guest() -> None:
    with Script() as s:
        sock = s.connect()
        s.advance(60_000)
        s.guest("A seq=0 ack=1")
        s.host("A seq=1 ack=1")
        sock.fail(110)
        s.host("RA seq=1 ack=1")
        s.ended()


def test_what_is_no_probe_leaves_socket_alone() -> None:
    with Script(capacity=20_000) as s:
        sock = s.connect()
        s.guest("A seq=0 ack=1")  # at once: a late duplicate
        s.take_all()
        s.guest("PA seq=1 ack=1 len=100")
        s.advance(5000)
        s.guest("A seq=1 ack=1")  # older than a probe
        s.guest("PA seq=1 ack=1 len=100")  # data again
        s.take_all()
        sent = 100
        while (window := (s.peer.host_edge or 0) - 1 - sent) > 0:
            n = min(window, 1460)
            s.guest(f"A seq={1 + sent} ack=1 len={n}")
            sent += n
            s.take_all()
        s.advance(5000)
        s.guest(f"A seq={sent} ack=1")  # it asks for window
        s.take_all()
        assert sock.keep_idle is None
