"""What a bypassed connection holds when its receiver takes no more, and memory or pipes are short."""

from __future__ import annotations

import os

from tests.dataplane.bypass.relay_kernel import ScriptedRelay as Relay

EPOLLIN, EPOLLOUT = 1, 4
COPY = 16384
PAGE = os.sysconf("SC_PAGE_SIZE")


def holding_an_empty_pipe(relay: Relay) -> bytes:
    """Let much come, then little that finds the receiver full; the pipe of before is still at hand."""
    relay.open()
    data = os.urandom(COPY), os.urandom(100), os.urandom(5000)
    relay.give(0, *data)
    relay.let(1, COPY, 100, 2000)
    relay.event(0, EPOLLIN)
    return b"".join(data)


def test_half_with_a_pipe_takes_no_second_one_when_memory_is_used_up() -> None:
    relay = Relay()
    relay.use_up_pool()
    for _ in range(20):
        data = holding_an_empty_pipe(relay)
        assert relay.held == [(3000, True), (0, False)]
        assert relay.counters()["pipes_open"] == 1
        relay.let(1, 3000)
        relay.event(1, EPOLLOUT)
        assert relay.held == [(0, False), (0, False)]
        assert relay.taken(1)[-len(data) :] == data
        relay.give(0, b"")
        relay.give(1, b"")
        relay.event(0, EPOLLIN)
        relay.event(1, EPOLLIN)
        assert relay.sockets.ends == {1000: "closed", 1001: "closed"}
        assert relay.counters()["pipes_open"] == relay.n_idle_pipes == 1


def test_half_that_holds_memory_gives_its_pipe_back() -> None:
    relay = Relay()
    data = holding_an_empty_pipe(relay)
    assert relay.held == [(3000, False), (0, False)]
    assert relay.n_idle_pipes == 1
    relay.let(1, 3000)
    relay.event(1, EPOLLOUT)
    assert relay.taken(1) == data


def test_pipe_that_takes_a_part_is_not_given_to_another_connection() -> None:
    relay = Relay()
    relay.use_up_pool()
    relay.shrink_pipes(PAGE)
    relay.open()
    data = os.urandom(COPY - 1)
    relay.give(0, data)
    relay.event(0, EPOLLIN)  # the rest finds no place: the connection cannot be whole any more
    assert set(relay.sockets.ends.values()) == {"reset"}
    assert relay.counters()["pipes_open"] == relay.n_idle_pipes == 0
    relay.open()
    other = os.urandom(COPY), os.urandom(100)
    relay.give(0, *other)
    relay.let(1, COPY, 100)
    relay.event(0, EPOLLIN)
    assert relay.taken(1) == b"".join(other)
