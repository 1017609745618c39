"""Who may have records and descriptors when a flood wants all of them: the flood gets no more than its share.

Descriptors are few, and numbered as the kernel does it.
"""

import errno
import socket

import pytest

from passt.facts.contracts import InboundTarget
from tests.dataplane.probes.world import socket_address
from tests.dataplane.udp.bench import EPOLLIN, GUEST, Bench
from tests.dataplane.udp.test_flows import establish, operations
from tests.support.frames import ACK, RST, echo, packed, tcp, udp

FLOODED, OTHER = "198.51.100.7", "203.0.113.8"
LIMIT = 100
FLOW_TCP, FLOW_UDP = 2, 3
SERVICE = 80
STEP_NS = 50_000_000
MS = 1_000_000


def world(limit: int = LIMIT, *, max_flows: int = 4096) -> Bench:
    """Give a world in which flows go where the guest wants."""
    bench = Bench(max_flows=max_flows)
    bench.limit_descriptors(limit)
    bench.policy.target = None
    return bench


def syn(sport: int, remote: str = FLOODED, port: int = SERVICE) -> bytes:
    return tcp(GUEST[4], sport, remote, port)


def begin(bench: Bench, sport: int, remote: str = FLOODED, port: int = SERVICE) -> None:
    """Have the guest open a connection that nobody answers, some time after the last one."""
    bench.now += STEP_NS
    begin_now(bench, sport, remote, port)


def begin_now(bench: Bench, sport: int, remote: str = FLOODED, port: int = SERVICE) -> bool:
    """Have the guest open one at the same instant; tell whether it was taken."""
    opened = bench.counters()["flows_opened"]
    bench.sockets.results.pop("connect", None)
    bench.script("connect", -errno.EINPROGRESS)
    bench.inject(syn(sport, remote, port))
    bench.turn()
    return bench.counters()["flows_opened"] == opened + 1


def connect(
    bench: Bench, sport: int, remote: str = FLOODED, port: int = SERVICE, payload: bytes = b"used"
) -> bool:
    """Have the guest open a connection that is answered, and send *payload*; tell whether it could."""
    opened = bench.counters()["flows_opened"]
    bench.now += STEP_NS
    bench.sockets.results.pop("connect", None)
    bench.take_sent()
    bench.inject(syn(sport, remote, port))
    # Others may have been reset to make room.
    (answer,) = [sent.frame for sent in bench.take_sent() if sent.frame[36:38] == sport.to_bytes(2, "big")]
    if answer[47] & RST:
        return False
    seq = int.from_bytes(answer[38:42], "big")
    bench.inject(tcp(GUEST[4], sport, remote, port, flags=ACK, seq=1001, ack=seq + 1))
    if payload:
        bench.inject(tcp(GUEST[4], sport, remote, port, flags=ACK, seq=1001, ack=seq + 1, payload=payload))
    bench.turn()
    return bench.counters()["flows_opened"] == opened + 1


def is_there(bench: Bench, sport: int, remote: str, port: int = SERVICE, seq: int = 1001) -> bool:
    """Tell whether a connection that the guest began is there still; a reset of the guest ends it."""
    before = bench.counters()["flows_tcp"]
    bench.inject(tcp(GUEST[4], sport, remote, port, flags=RST, seq=seq))
    bench.turn()
    return bench.counters()["flows_tcp"] == before - 1


def fds(bench: Bench, kind: int) -> list[int]:
    return [flow.fd for flow in bench.flows() if flow.kind == kind]


def test_flood_of_half_open_connections_pushes_out_only_itself() -> None:
    bench = world()
    begin(bench, 1, OTHER)
    for sport in range(1000, 3000):
        begin(bench, sport)
    assert len(bench.sockets.open_fds) <= 1 + LIMIT * 4 // 5
    assert bench.counters()["flows_evicted"] >= 2000 - LIMIT * 4 // 5
    assert bench.drops() == {}
    assert is_there(bench, 1, OTHER)
    assert connect(bench, 2, OTHER)
    assert connect(bench, 3000, FLOODED)  # whoever shares the flooded remote is let in too


def test_half_open_connection_that_makes_way_is_not_reset() -> None:
    bench = world(10)
    for sport in range(1000, 1020):
        begin(bench, sport)
    assert bench.counters()["flows_evicted"] > 5
    assert bench.take_sent() == []


def test_flood_too_fast_for_answers_is_passed_over_but_for_who_repeats_himself() -> None:
    bench = world()
    taken = [begin_now(bench, sport) for sport in range(1000, 1200)]
    most = LIMIT * 4 // 5
    assert taken == [True] * most + [False] * (200 - most)
    assert bench.drops() == {"drop_crowd": 200 - most}
    assert bench.counters()["flows_evicted"] == 0
    assert len(bench.policy.asked_outbound) == most + 1  # then it is known that there is no room
    bench.now += 200 * MS
    assert not begin_now(bench, 2000)
    assert begin_now(bench, 1199)
    assert bench.counters()["flows_evicted"] == 1
    assert not is_there(bench, 1000, FLOODED)
    assert begin_now(bench, 3000, OTHER)
    assert bench.take_sent() == []
    bench.now += 50 * MS  # now the others had their time
    assert begin_now(bench, 4000)


def test_flood_too_fast_for_answers_at_many_remotes() -> None:
    bench = world(20)
    remotes = [f"198.51.100.{number}" for number in range(1, 101)]
    assert sum(begin_now(bench, 1000, remote) for remote in remotes) == 20
    assert bench.drops() == {"drop_no_fd": 80}
    assert bench.counters()["flows_evicted"] == 0
    bench.now += 200 * MS
    assert not begin_now(bench, 1001, remotes[99])
    assert begin_now(bench, 1000, remotes[99])
    assert bench.take_sent() == []
    assert bench.counters()["flows_evicted"] == 1


def test_syn_passed_over_is_forgotten_after_four_seconds() -> None:
    for seconds, known in ((1, True), (1.9, True), (4, False)):
        bench = world()
        for sport in range(1000, 1100):
            begin_now(bench, sport)
        bench.now += int(seconds * 1000) * MS
        for sport in range(2000, 2100):
            begin_now(bench, sport)
        assert begin_now(bench, 1099) == known


def test_crowd_of_established_connections_leaves_a_fifth_of_the_descriptors() -> None:
    bench = world()
    opened = sum(connect(bench, sport, FLOODED) for sport in range(1000, 1000 + 2 * LIMIT))
    assert opened == LIMIT * 4 // 5
    assert bench.drops() == {"drop_crowd": 2 * LIMIT - opened}
    assert bench.counters()["flows_evicted"] == 0
    # Another remote, and another service of the same one.
    assert connect(bench, 1, OTHER)
    assert connect(bench, 2, FLOODED, SERVICE + 1)
    assert len(fds(bench, FLOW_TCP)) == len(bench.sockets.open_fds) == opened + 2


def test_crowd_of_connections_never_used_makes_way_for_others() -> None:
    bench = world()
    assert connect(bench, 1)
    for sport in range(1000, 1000 + 2 * LIMIT):
        assert connect(bench, sport, payload=b"")
    assert len(bench.sockets.open_fds) == LIMIT * 4 // 5
    assert bench.drops() == {}
    bench.take_sent()
    bench.inject(syn(5000))
    assert sorted(sent.frame[47] & RST for sent in bench.take_sent()) == [0, RST]  # who made way is told
    assert is_there(bench, 1, FLOODED, seq=1005)


def test_connections_never_used_to_many_remotes_make_way_for_others() -> None:
    bench = world()
    for number in range(3 * LIMIT):
        assert connect(bench, 1000 + number, f"198.51.{number // 250}.{number % 250 + 1}", payload=b"")
    assert len(bench.sockets.open_fds) == LIMIT
    assert connect(bench, 1, OTHER)
    assert bench.drops() == {}


def test_flood_to_many_remotes_pushes_out_the_oldest_of_all() -> None:
    bench = world(200)
    for sport in range(1, 4):  # of one remote; its crowd is none
        begin(bench, sport, OTHER)
    for number in range(190):
        begin(bench, 1000 + number, f"198.51.100.{number + 1}")
    assert bench.counters()["flows_evicted"] == 0
    for number in range(10):
        begin(bench, 2000 + number, f"198.51.101.{number + 1}")
    assert bench.counters()["flows_evicted"] == 3
    assert [is_there(bench, 1000, "198.51.100.1"), is_there(bench, 1, OTHER)] == [True, False]


def test_crowds_at_many_remotes_leave_room_for_another() -> None:
    bench = world(200)
    for sport in range(1000, 1000 + 400):
        connect(bench, sport, FLOODED, SERVICE + sport % 8)
    assert bench.drops()["drop_crowd"] > 100
    free = 200 - len(bench.sockets.open_fds)
    assert free >= 200 // (4 * 8 + 1)
    assert connect(bench, 1, OTHER)
    assert bench.counters()["flows_evicted"] == 0


def test_ended_connections_of_a_crowd_do_not_count() -> None:
    bench = world(20)
    for sport in range(1000, 1100):
        assert connect(bench, sport, FLOODED)
        bench.inject(tcp(GUEST[4], sport, FLOODED, SERVICE, flags=RST, seq=1005))
        bench.turn()
    assert bench.sockets.open_fds == set()


def test_crowd_that_loses_low_descriptors_gets_no_more_than_before() -> None:
    bench = world(50)
    others = [sport for sport in range(10) if connect(bench, sport + 1, OTHER)]
    for sport in range(1000, 1060):
        begin(bench, sport)
    most = len(bench.sockets.open_fds)
    for sport in others:
        bench.inject(tcp(GUEST[4], sport + 1, OTHER, SERVICE, flags=RST, seq=1005))
        bench.turn()
    for sport in range(2000, 2200):
        begin(bench, sport)
    assert len(bench.sockets.open_fds) <= max(most, 40)
    assert connect(bench, 1, OTHER)


def knock(bench: Bench, index: int, address: str, port: int) -> None:
    """Have a client come to the listener and be offered to the guest, which does not answer."""
    bench.policy.seen = InboundTarget(packed(address), port, packed(GUEST[4]), SERVICE)
    bench.sockets.clients.append((packed(address), port))
    bench.listener_event(index)
    bench.turn()


def test_neighbour_takes_no_more_than_its_share() -> None:
    bench = world()
    index = bench.add_listener(500, socket.IPPROTO_TCP, "rule", SERVICE)
    knock(bench, index, OTHER, 5000)
    quiet = [flow for flow in bench.flows() if flow.kind == FLOW_TCP]
    for port in range(2000, 2000 + 3 * LIMIT):  # whose ports are its own to choose
        knock(bench, index, FLOODED, port)
    assert set(quiet) <= set(bench.flows())  # with its timer, which tells it from a later one
    assert len(bench.sockets.open_fds) <= 1 + LIMIT * 4 // 5
    assert connect(bench, 1, FLOODED)  # that the guest opens connections to it is another matter
    assert connect(bench, 1, OTHER)


def ask(bench: Bench, sport: int, remote: str = FLOODED, port: int = 53) -> None:
    bench.inject(udp(GUEST[4], sport, remote, port, b"question"))


def test_flood_of_datagrams_pushes_out_only_itself() -> None:
    bench = world()
    ask(bench, 1, OTHER)
    for sport in range(1000, 3000):
        ask(bench, sport)
    assert len(bench.sockets.open_fds) == LIMIT // 2
    assert bench.drops() == {}
    opened = bench.counters()["flows_opened"]
    ask(bench, 1, OTHER)
    assert bench.counters()["flows_opened"] == opened


@pytest.mark.parametrize("port", [53, 7], ids=["dns", "other"])
def test_flow_that_waits_for_its_answer_outlives_those_that_have_theirs(port: int) -> None:
    bench = world(20)  # ten sockets
    sender = socket_address(packed(FLOODED), port)
    ask(bench, 1, port=port)
    for sport in range(1000, 1100):
        bench.sockets.log.clear()
        ask(bench, sport, port=port)
        ((fd, _, _, tag),) = operations(bench, "watch")
        assert isinstance(fd, int)
        assert isinstance(tag, int)
        bench.deliver(fd, (b"answer", sender, b"", 0))
        bench.tagged_event(tag, EPOLLIN)
    assert bench.counters()["flows_evicted"] > 80
    opened = bench.counters()["flows_opened"]
    ask(bench, 1, port=port)
    assert bench.counters()["flows_opened"] == opened


def test_flood_of_pings_pushes_out_only_itself() -> None:
    bench = world()
    bench.inject(echo(GUEST[4], OTHER, 1, 1))
    ask(bench, 1, OTHER)
    for ident in range(1000, 3000):
        bench.inject(echo(GUEST[4], FLOODED, ident, 1))
    assert len(bench.sockets.open_fds) == LIMIT // 2
    opened = bench.counters()["flows_opened"]
    bench.inject(echo(GUEST[4], OTHER, 1, 2))
    ask(bench, 1, OTHER)
    assert bench.counters()["flows_opened"] == opened


def test_remotes_of_one_port_need_no_descriptors() -> None:
    bench = world(20)
    for number in range(500):
        ask(bench, 1000, f"198.51.{number // 250}.{number % 250 + 1}")
    assert bench.counters()["flows_evicted"] == 0
    assert len(fds(bench, FLOW_UDP)) == 500
    assert len(bench.sockets.open_fds) == 1


@pytest.mark.parametrize("established", [True, False])
def test_datagrams_keep_an_eighth_of_the_descriptors(*, established: bool) -> None:
    bench = world()
    for number in range(300):
        remote = f"198.51.{number // 250}.{number % 250 + 1}"
        if not established:
            begin(bench, 1000 + number, remote)
        elif number < LIMIT * 3 // 4:
            connect(bench, 1000 + number, remote)
    for sport in range(LIMIT // 8):
        ask(bench, 5000 + sport, OTHER, sport + 1)
    assert len(fds(bench, FLOW_UDP)) == LIMIT // 8
    assert bench.counters()["flows_udp"] == LIMIT // 8


def test_connection_takes_a_descriptor_of_datagrams_beyond_their_eighth() -> None:
    bench = world(40)
    for sport in range(20):
        ask(bench, 1000 + sport)
    for number in range(20):
        assert connect(bench, 2000 + number, f"198.51.101.{number + 1}")
    assert len(bench.sockets.open_fds) == 40
    for number in range(15):
        assert connect(bench, 3000 + number, f"198.51.102.{number + 1}")
    assert len(fds(bench, FLOW_UDP)) == 5
    before = bench.counters()["flows_tcp"]
    bench.inject(syn(4000, "198.51.103.1"))
    assert bench.counters()["flows_tcp"] == before
    assert bench.drops() == {"drop_no_fd": 1}


def test_full_table_of_half_open_connections_is_taken_from_the_largest_crowd() -> None:
    bench = Bench(max_flows=32)
    bench.policy.target = None
    for number in range(8):
        begin(bench, 1 + number, OTHER, 1000 + number)
    for sport in range(1000, 1200):
        begin(bench, sport)
    assert bench.drops() == {}
    establish(bench, 4, 9)
    assert bench.counters()["flows_tcp"] == 32
    assert is_there(bench, 1, OTHER, 1000)  # the first of all
