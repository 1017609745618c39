"""Out of descriptors, flows, epoll entries: new connections are refused, no other suffers, nothing spins."""

import errno

import pytest

from tests.dataplane.tcp.kernel import Sock
from tests.dataplane.tcp.script import LISTENER, Peer, Script

SYN = "S seq=0 win=65535 mss=1460 ws=7"


def test_no_descriptor_for_guest_connection_reset() -> None:
    with Script() as s:
        s.kernel.open_errors.append(errno.EMFILE)
        s.guest(SYN)
        assert s.take().letters == "RA"
        s.ended()
        assert s.count("drop_no_fd") == 1


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM])
def test_no_memory_for_socket_reset(number: int) -> None:
    with Script() as s:
        s.kernel.open_errors.append(number)
        s.guest(SYN)
        assert s.take().letters == "RA"
        s.ended()
        assert s.count("drop_socket") == 1


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.ENOBUFS])
def test_accept_without_memory_goes_on_with_next_client(number: int) -> None:
    with Script() as s:
        s.kernel.accept_errors = [number]
        s.peer.knock()
        s.host("S seq=0")
        assert s.count("drop_socket") == 1


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_no_descriptor_for_client_refused_with_spare_listener_not_busy(number: int) -> None:
    with Script() as s:
        s.kernel.accept_errors = [number]
        sock = s.peer.knock()
        s.run()
        assert sock.status == "aborted"
        assert s.count("drop_no_fd") == 1
        assert not s.kernel.events()
        s.peer.sock_fd = None
        s.peer.knock()
        s.host("S seq=0")


def half_open(peer: Peer, state: str) -> Sock:
    """Begin a connection and leave it in *state*."""
    if state == "SYN_SENT":
        sock = peer.knock()
    else:
        peer.guest(SYN)
        sock = peer.sock
    if state == "SYN_RECEIVED":
        sock.connected()
    assert peer.state == state
    peer.take_all()
    return sock


def told(peer: Peer, state: str) -> None:
    """Take the reset of a connection that made room; a guest that was not answered yet may try again."""
    if state == "CONNECTING":
        peer.nothing()
    else:
        assert peer.take().letters == ("R" if state == "SYN_SENT" else "RA")


def use(peer: Peer) -> Sock:
    """Open a connection and send 100 bytes on it: it need not make room any more."""
    sock = peer.connect()
    peer.guest("PA seq=1 ack=1 len=100")
    peer.host("A seq=1 ack=101")
    return sock


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
@pytest.mark.parametrize("state", ["CONNECTING", "SYN_RECEIVED", "SYN_SENT"])
@pytest.mark.parametrize("newcomer", ["client", "guest"])
def test_half_open_connection_gives_its_descriptor_up(newcomer: str, state: str, number: int) -> None:
    with Script() as s:
        kept, old, later, new = (s.add_peer(41_000 + i, 80) for i in range(4))
        established = kept.connect()
        oldest, other = half_open(old, state), half_open(later, state)
        s.advance(300)
        if newcomer == "guest":
            s.kernel.open_errors = [number]
            new.connect()
        else:
            s.kernel.accept_errors = [number]
            new.accept()
        assert oldest.status == "aborted"
        told(old, state)
        assert later.state == state
        assert other.is_open
        assert (s.count("flows_evicted"), s.count("drop_no_fd")) == (1, 0)
        kept.guest("A seq=1 ack=1 len=1000")
        kept.host("A seq=1 ack=1001")
        assert established.status == "connected"


def test_each_of_many_clients_takes_one_descriptor() -> None:
    with Script() as s:
        peers = [s.add_peer(41_000 + i, 80) for i in range(6)]
        socks = [half_open(peer, "CONNECTING") for peer in peers[:3]]
        s.kernel.accept_errors = [errno.EMFILE]
        clients = [peer.knock() for peer in peers[3:]]
        s.run()
        assert [sock.status for sock in socks] == ["aborted", "connecting", "connecting"]
        assert all(client.is_open for client in clients)
        for peer in peers:
            peer.take_all()


def test_no_descriptor_in_spite_of_half_open_connection_that_went_refused() -> None:
    with Script() as s:
        old, new = s.add_peer(41_000, 80), s.add_peer(41_001, 80)
        half_open(old, "CONNECTING")
        s.advance(300)
        s.kernel.open_errors = [errno.ENFILE, errno.ENFILE]
        new.guest(SYN)
        assert new.take().letters == "RA"
        old.nothing()
        assert (s.count("flows_evicted"), s.count("drop_no_fd")) == (1, 1)
        half_open(old, "CONNECTING")
        s.kernel.accept_errors = [errno.ENFILE, errno.ENFILE]
        client = new.knock()
        s.run()
        assert client.status == "aborted"
        old.nothing()
        assert (s.count("flows_evicted"), s.count("drop_no_fd")) == (2, 2)


def test_half_open_connection_that_has_hardly_begun_gives_its_descriptor_to_who_asks_twice() -> None:
    with Script() as s:
        old, new = s.add_peer(41_000, 80), s.add_peer(41_001, 80)
        half_open(old, "CONNECTING")
        s.kernel.open_errors = [errno.EMFILE]
        new.guest(SYN)
        new.nothing()
        assert (old.state, s.count("drop_no_fd"), s.count("flows_evicted")) == ("CONNECTING", 1, 0)
        s.advance(100)
        s.kernel.open_errors = [errno.EMFILE]
        new.guest(SYN)
        assert (old.state, new.state) == ("CLOSED", "CONNECTING")


def test_no_other_failure_ends_a_half_open_connection() -> None:
    with Script() as s:
        old, new = s.add_peer(41_000, 80), s.add_peer(41_001, 80)
        half_open(old, "CONNECTING")
        s.kernel.open_errors = [errno.ENOMEM]
        new.guest(SYN)
        assert new.take().letters == "RA"
        s.kernel.accept_errors = [errno.ENOMEM]
        new.renew()
        new.knock()
        new.host("S seq=0")
        assert old.state == "CONNECTING"
        assert s.count("flows_evicted") == 0


def test_established_and_ended_connections_keep_their_descriptors() -> None:
    with Script() as s:
        over, kept, new = (s.add_peer(41_000 + i, 80) for i in range(3))
        use(kept)
        sock = over.connect()
        sock.end()
        over.host("FA seq=1 ack=1")
        over.guest("FA seq=1 ack=2")
        over.host("A seq=2 ack=2")
        assert over.state == "TIME_WAIT"  # and has no descriptor to give
        s.kernel.open_errors = [errno.EMFILE]
        new.guest(SYN)
        assert new.take().letters == "RA"
        assert (over.state, kept.state) == ("TIME_WAIT", "ESTABLISHED")
        assert (s.count("flows_evicted"), s.count("drop_no_fd")) == (0, 1)


def test_client_gone_before_accept_ignored() -> None:
    with Script() as s:
        s.kernel.accept_errors = [errno.ECONNABORTED]
        s.peer.knock()
        s.host("S seq=0")
        assert s.count("drop_socket") == 1


def test_table_full_new_connections_refused_others_go_on() -> None:
    with Script(max_flows=2) as s:
        peers = [s.add_peer(41_000 + i, 80) for i in range(3)]
        for peer in peers[:2]:
            use(peer)
        peers[2].guest(SYN)
        assert peers[2].take().letters == "RA"
        assert s.count("drop_flows_full") == 1
        peers[0].guest("A seq=101 ack=1 len=1000")
        peers[0].host("A seq=1 ack=1101")
        client = peers[2].knock()
        s.run()
        assert client.status == "aborted"
        assert s.count("drop_flows_full") == 2
        assert s.count("flows_evicted") == 0
        assert not s.kernel.events()
        peers[0].guest("R seq=1101")
        peers[2].renew()
        peers[2].connect()


# A full table: what is half open goes first, then what was never used, the oldest of it; what is used never.


@pytest.mark.parametrize("inbound", [True, False])
@pytest.mark.parametrize("by", ["guest", "remote"])
def test_connection_never_used_makes_room(by: str, *, inbound: bool) -> None:
    with Script(max_flows=2) as s:
        first, second, third = (s.add_peer(41_000 + i, 80) for i in range(3))
        sock, idle = (peer.accept() if inbound else peer.connect() for peer in (first, second))
        if by == "guest":
            first.guest("PA seq=1 ack=1 len=100")
            first.host("A seq=1 ack=101")
        else:
            sock.deliver(s.bytes_from_host(100))
            first.host("PA seq=1 ack=1 len=100")
        third.connect()
        assert (idle.status, second.take().letters, second.state) == ("aborted", "RA", "CLOSED")
        assert (first.state, s.count("flows_evicted")) == ("ESTABLISHED", 1)


def test_connection_never_used_gives_its_descriptor_up_after_half_open_ones() -> None:
    with Script() as s:
        used, idle, begun, third, fourth, fifth = (s.add_peer(41_000 + i, 80) for i in range(6))
        use(used)
        idle.connect()
        half_open(begun, "CONNECTING")
        s.advance(300)
        for new in (third, fourth):
            s.kernel.open_errors = [errno.EMFILE]
            use(new)
        begun.nothing()
        assert (begun.state, idle.take().letters, idle.state) == ("CLOSED", "RA", "CLOSED")
        s.kernel.open_errors = [errno.EMFILE]
        fifth.guest(SYN)
        assert fifth.take().letters == "RA"
        assert (used.state, s.count("flows_evicted"), s.count("drop_no_fd")) == ("ESTABLISHED", 2, 1)


def test_half_open_flood_makes_room_oldest_first() -> None:
    with Script(max_flows=4) as s:
        peers = [s.add_peer(41_000 + i, 80) for i in range(7)]
        kept = peers[0].connect()
        flood = peers[1:4]
        for peer in flood:
            peer.guest(SYN)
            s.advance(1)
        socks = [peer.sock for peer in flood]
        for i, peer in enumerate(peers[4:]):
            peer.guest(SYN)
            flood[i].nothing()
            assert [sock.status for sock in socks] == ["aborted"] * (i + 1) + ["connecting"] * (2 - i)
            assert peer.state == "CONNECTING"
        assert s.count("flows_evicted") == 3
        assert s.count("drop_flows_full") == 0
        assert kept.status == "connected"
        peers[0].guest("A seq=1 ack=1 len=1000")
        peers[0].host("A seq=1 ack=1001")


@pytest.mark.parametrize("flooding", ["guest", "clients"])
def test_half_open_flood_one_way_does_not_push_out_the_other(flooding: str) -> None:
    states = ("SYN_SENT", "CONNECTING") if flooding == "guest" else ("CONNECTING", "SYN_SENT")
    with Script(max_flows=4) as s:
        peers = [s.add_peer(41_000 + i, 80) for i in range(7)]
        quiet = half_open(peers[0], states[0])
        flood = [half_open(peer, states[1]) for peer in peers[1:]]
        assert quiet.is_open
        assert peers[0].state == states[0]
        assert [sock.is_open for sock in flood] == [False] * 3 + [True] * 3
        for peer in peers:
            peer.take_all()


@pytest.mark.parametrize("state", ["CONNECTING", "SYN_RECEIVED", "SYN_SENT"])
def test_half_open_connection_makes_room_for_client_and_guest(state: str) -> None:
    for newcomer in ("client", "guest"):
        with Script(max_flows=1) as s:
            old, new = s.add_peer(41_000, 80), s.add_peer(41_001, 80)
            sock = half_open(old, state)
            if newcomer == "guest":
                new.connect()
            else:
                new.accept()
            assert sock.status == "aborted"
            told(old, state)


def test_connection_that_became_established_is_no_longer_evicted() -> None:
    with Script(max_flows=2) as s:
        first, second, third = (s.add_peer(41_000 + i, 80) for i in range(3))
        first.connect()  # was half open before the second
        second.guest(SYN)
        third.guest(SYN)
        assert first.state == "ESTABLISHED"
        assert second.state == "CLOSED"
        assert third.state == "CONNECTING"
        second.nothing()


def test_time_wait_makes_room_before_anything_half_open() -> None:
    with Script(max_flows=2) as s:
        over, waiting, new = (s.add_peer(41_000 + i, 80) for i in range(3))
        waiting.guest(SYN)
        sock = over.connect()
        sock.end()
        over.host("FA seq=1 ack=1")
        over.guest("FA seq=1 ack=2")
        over.host("A seq=2 ack=2")
        assert over.state == "TIME_WAIT"
        new.guest(SYN)
        assert over.state == "CLOSED"
        over.nothing()
        assert waiting.state == "CONNECTING"
        assert s.count("flows_evicted") == 1


def test_time_wait_that_still_holds_data_not_evicted() -> None:
    with Script(max_flows=1) as s:
        over, new = s.add_peer(41_000, 80), s.add_peer(41_001, 80)
        s.is_honest = False
        sock = over.connect()
        sock.no_memory = True
        over.guest("PA seq=1 ack=1 len=100")
        sock.end()
        over.take_all()
        over.guest("FA seq=101 ack=2")
        over.take_all()
        assert over.state == "TIME_WAIT"
        new.guest(SYN)
        new.host("RA seq=0 ack=1")
        sock.no_memory = False
        s.advance(10_000)
        assert sock.taken == s.bytes_from_guest(100)
        assert sock.status == "closed"


def test_time_wait_that_still_holds_data_does_not_keep_others_from_making_room() -> None:
    with Script(max_flows=2) as s:
        holding, over, new, last = (s.add_peer(41_000 + i, 80) for i in range(4))
        s.is_honest = False
        sock = holding.connect()
        sock.no_memory = True
        holding.guest("PA seq=1 ack=1 len=100")
        sock.end()
        holding.take_all()
        holding.guest("FA seq=101 ack=2")
        holding.take_all()
        over.connect().end()
        over.host("FA seq=1 ack=1")
        over.guest("FA seq=1 ack=2")
        over.host("A seq=2 ack=2")
        assert (holding.state, over.state) == ("TIME_WAIT", "TIME_WAIT")
        new.connect()
        assert (holding.state, over.state) == ("TIME_WAIT", "CLOSED")
        sock.no_memory = False
        s.advance(200)
        assert (sock.status, holding.state) == ("closed", "TIME_WAIT")
        last.connect()  # what has nothing left to write makes room
        assert (holding.state, s.count("flows_evicted")) == ("CLOSED", 2)


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.ENOSPC])
def test_epoll_refuses_guest_connection_reset(number: int) -> None:
    with Script() as s:
        s.kernel.watch_errors = [number]
        s.guest(SYN)
        assert s.take().letters == "RA"
        s.ended()
        s.kernel.connect_results = [0]
        s.kernel.watch_errors = [errno.ENOMEM]
        s.guest(SYN)
        assert s.take().letters == "RA"
        s.ended()


def test_epoll_refuses_client_reset() -> None:
    with Script() as s:
        s.kernel.watch_errors = [errno.ENOSPC]
        sock = s.peer.knock()
        s.nothing()
        assert sock.status == "aborted"
        s.ended()


def test_client_cannot_be_prepared_reset() -> None:
    with Script() as s:
        s.kernel.prepare_errors = [errno.EOPNOTSUPP]
        sock = s.peer.knock()
        s.ended()
        assert sock.status == "aborted"


def test_many_clients_at_once_all_taken() -> None:
    with Script(max_flows=200) as s:
        peers = [s.add_peer(41_000, 1000 + i) for i in range(150)]
        first = peers[0]
        first.knock()
        queue = s.kernel.listeners[LISTENER]
        for peer in peers[1:]:
            peer.sock_fd = s.kernel.knock(LISTENER, (peer.remote_address, peer.remote_port),
                                          (peer.remote_address, 41_000)).fd
        assert len(queue) == 150
        for peer in peers:
            peer.host("S seq=0")
        assert s.bench.n_active == 150


def test_records_used_again_and_again() -> None:
    with Script(max_flows=4) as s:
        for round_ in range(50):
            s.peer.renew(1000 + 100_000 * round_)
            sock = s.connect()
            s.guest("FPA seq=1 ack=1 len=100")
            s.host("A seq=1 ack=102")
            sock.deliver(s.bytes_from_host(100))
            sock.end()
            s.host("PA seq=1 ack=102 len=100", "FA seq=101 ack=102")
            s.guest("A seq=102 ack=102")
            s.ended()
        assert s.count("flows_opened") == 50


def test_event_of_ended_connection_ignored() -> None:
    with Script() as s:
        sock = s.connect()
        s.guest("R seq=1")
        tag = sock.tag
        s.peer.renew(9000)
        s.connect()
        s.run(("socket", tag, 0x2019))
        assert s.state == "ESTABLISHED"


@pytest.mark.parametrize("count", [2, 40])
def test_turn_costs_the_same_with_many_idle_connections(count: int) -> None:
    with Script() as s:
        peers = [s.add_peer(41_000 + i, 80) for i in range(count)]
        socks = [peer.connect() for peer in peers]
        for sock in socks:
            sock.calls.clear()
        peers[0].guest("A seq=1 ack=1 len=1000")
        peers[0].host("A seq=1 ack=1001")
        assert sum(socks[0].calls.values()) > 0
        assert not any(sock.calls for sock in socks[1:])
